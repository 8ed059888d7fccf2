"""Two processes of one thread each beside one of one thread: the same result, how fast, and how they end.

`python -m benchmarks.several_processes WORK FOLDER` is what a process does; torchrun's launcher starts it, or nobody.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
import torch._dynamo  # which the first optimiser imports: once, before processes are forked

from collabkit import (
    NCF,
    NDCG,
    CollabDataLoaders,
    GRURec,
    HitRate,
    NeuMF,
    SASRec,
    TwoTower,
    collab_learner,
    datasets,
    splits,
)  # fmt: skip
from collabkit.data.processes import launched

from .common import NAMES, Y_RANGE, ratings, write

REPEATS = 3
ENDS = 50
SIDES = {"user_features": ["age", "gender", "occupation"]}


def processes_equal() -> None:
    """One process against two on ML-100k, a random fifth held out, seed 0, one epoch of `fit_one_cycle` (two sweeps of least squares) at an odd batch size: largest difference of weights, losses and metrics in fit, by their largest number; whether the two processes' weights are the same bits. Row 0 of tables, of unknown ids, apart: it is found by a descent to where its loss is flat. `one, moved`: how far the weights of one process come from its own where the first weights are moved by a 1e-7th."""  # noqa: E501
    results = {}
    for n, work in ((1, "equal"), (2, "equal"), (1, "moved")):
        with tempfile.TemporaryDirectory() as folder:
            launch(n, work, folder)
            results[n, work] = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(n)]
    rows = []
    for name, one in results[1, "equal"][0].items():
        (moved,), (two, other) = (results[key] for key in ((1, "moved"), (2, "equal")))
        found, own = _differences(one, two[name]), _differences(one, moved[name])["weights"]
        same = all(torch.equal(value, other[name][key]) for key, value in two[name].items())
        shown = {key: f"{value:.1e}" for key, value in found.items()} | {"one, moved": f"{own:.1e}"}
        rows.append({"what": name, **shown, "the same bits on both": same})
    write("processes_equal", rows)


def _differences(one: dict, two: dict) -> dict[str, float]:
    """The largest by what differs."""
    found = {"weights": 0.0, "unknown ids": 0.0, "losses": 0.0, "figures": 0.0}
    for key, value in one.items():
        kind, other = key.split(":")[0], two[key]
        if "tables" in key:
            found["unknown ids"] = max(found["unknown ids"], _difference(value[:1], other[:1]))
            value, other = value[1:], other[1:]
        found[kind] = max(found[kind], _difference(value, other))
    return found


def processes_speed() -> None:
    """Seconds of a training epoch by one process and by two, one thread each, in turn, medians of three; the speed-up is that of neighbours: a network with 128 factors and layers 256-128 (NCF, 4 negatives), and a dot product with 64 factors (BPR, one negative), on half of ML-100k as events."""  # noqa: E501
    with tempfile.TemporaryDirectory() as folder:
        launch(2, "speed", folder)
        seconds = json.loads((Path(folder) / "0.json").read_text())
    rows = []
    for name, (one, two) in seconds.items():
        speed_up = median(a / b for a, b in zip(one, two, strict=True))
        shown = {"one process": round(median(one), 2), "two": round(median(two), 2), "speed-up": round(speed_up, 2)}
        rows.append({"what": name, **shown})
    write("processes_speed", rows)


def processes_end() -> None:
    """Exit statuses of 50 times two processes that look for a learning rate, fit an epoch, evaluate and export; they are forked from one that has torch loaded, and end as Python does."""  # noqa: E501
    codes: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ENDS):
            codes += forked(2, Path(folder))
    rows = [
        {
            "runs": ENDS,
            "processes": 2 * ENDS,
            "ended with 0": codes.count(0),
            "with another status": 2 * ENDS - codes.count(0),
        }
    ]
    write("processes_end", rows)


def launch(n: int, work: str, folder: str) -> None:
    """Have `n` processes of one thread do the `work`."""
    program = ["-m", "benchmarks.several_processes", work, folder]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"] if n > 1 else []
    subprocess.run([sys.executable, *launcher, *program], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def forked(n: int, folder: Path) -> list[int]:
    """The exit statuses of `n` processes, forked from this one, that do `an_end`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(n):
        pids.append(os.fork())
        if not pids[-1]:
            place = {"RANK": rank, "WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({key: str(value) for key, value in place.items()})
            an_end(folder)
            sys.exit()
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def an_end(folder: Path) -> None:
    torch.set_num_threads(1)
    table = datasets.synthetic(n_users=60, n_items=50, n_ratings=1200, min_events=5, seed=1).ratings
    dls = CollabDataLoaders.from_df(table, user_name="user", item_name="title", rating_name="rating", seed=0, bs=101)
    learn = quiet(collab_learner(dls, n_factors=8, y_range=Y_RANGE, path=folder))
    with learn.distrib_ctx():
        learn.lr_find(show_plot=False)
        learn.fit_one_cycle(1)
        learn.evaluate(n_boot=10)
        learn.export("artefact")


def quiet(learn):
    """Without a bar and a table."""
    if hasattr(learn, "progress"):
        learn.remove_cb(learn.progress)
    learn.logger = lambda *_: None
    return learn


def events(share: float = 1.0, **kwargs) -> CollabDataLoaders:
    table = ratings("100k").sample(frac=share, random_state=0)
    options = {"user_name": "user", "item_name": "item", "feedback": "implicit", "bs": 1001, "seed": 0}
    return CollabDataLoaders.from_df(table, **{**options, **kwargs})


def rated(**kwargs) -> CollabDataLoaders:
    return CollabDataLoaders.from_df(ratings("100k"), **NAMES, bs=1001, seed=0, **kwargs)


def in_order(**kwargs) -> CollabDataLoaders:
    return events(time_name="timestamp", history=50, splitter=splits.leave_last_out(), **kwargs)


def _models() -> dict[str, Callable]:
    """Learners by what they are."""
    figures = {"metrics": [HitRate(10), NDCG(10)]}
    sides = {"users": datasets.movielens("100k", _folder()).users, **SIDES}
    shared = {"negatives": "shared", "n_neg": 500}
    net = {"layers": [64, 32], "n_factors": 16}
    return {
        "CollFilter, ratings": lambda: collab_learner(rated(), y_range=Y_RANGE, **figures),
        "EmbeddingNN, ratings, dropout .1": lambda: collab_learner(
            rated(), use_nn=True, layers=[64, 32], config={"ps": 0.1, "embed_p": 0.1, "use_bn": False},
            y_range=Y_RANGE),
        "EmbeddingNN, ratings, batch norm": lambda: collab_learner(
            rated(), use_nn=True, layers=[64, 32], y_range=Y_RANGE),
        "EmbeddingNN, ratings, both": lambda: collab_learner(
            rated(), use_nn=True, layers=[64, 32], config={"ps": 0.1, "embed_p": 0.1}, y_range=Y_RANGE),
        "CollFilter, weights by item": lambda: collab_learner(rated(weights="inverse_item"), y_range=Y_RANGE),
        "CollFilter, features of users": lambda: collab_learner(rated(**sides), y_range=Y_RANGE),
        "BPR": lambda: collab_learner(events(n_neg=1), loss_func="bpr", **figures),
        "BPR, sparse tables": lambda: collab_learner(events(n_neg=1), loss_func="bpr", sparse=True),
        "NCF": lambda: collab_learner(events(), model=NCF, **net),
        "NeuMF": lambda: collab_learner(events(), model=NeuMF, **net),
        "softmax, shared negatives": lambda: collab_learner(events(**shared), loss_func="sampled_softmax"),
        "softmax, negatives of the batch": lambda: collab_learner(
            events(negatives="in_batch"), loss_func="sampled_softmax"),
        "softmax, all items": lambda: collab_learner(events(negatives="all"), loss_func="softmax"),
        "softmax, whole users": lambda: collab_learner(
            events(**shared, by_user=True, bs=33), loss_func="sampled_softmax"),
        "TwoTower, cosine": lambda: collab_learner(
            events(**shared), model=TwoTower, layers=[32, 16], similarity="cosine", temperature=0.1),
        "from least squares on, softmax": lambda: collab_learner(events()),
        "SASRec, dropout .2": lambda: collab_learner(in_order(), model=SASRec, n_factors=32, length=50, **figures),
        "GRURec, dropout .2": lambda: collab_learner(in_order(), model=GRURec, n_factors=32, length=50),
    }  # fmt: skip


def _folder() -> Path:
    from .common import data_folder

    return data_folder()


def equal(folder: Path, moved: float = 0.0) -> None:
    """Train each model, its first weights `moved` by a share of them at random, and write what came out."""
    found = {}
    generator = torch.Generator().manual_seed(0)
    move = lambda learn: _move(learn.model, moved, generator)  # noqa: E731
    for name, make in _models().items():
        learn = quiet(make())
        move(learn)
        with learn.distrib_ctx():
            learn.fit_one_cycle(1, 5e-3)
        found[name] = _outcome(learn)
    learn = quiet(collab_learner(events(), n_factors=32, metrics=[HitRate(10), NDCG(10)]))
    move(learn)
    with learn.distrib_ctx():
        learn.fit_als(2, reg=0.03, unobserved_weight=0.1)
    found["least squares"] = _outcome(learn)
    learn = quiet(collab_learner(rated(), y_range=Y_RANGE))
    move(learn)
    with learn.distrib_ctx():
        suggested = learn.lr_find(show_plot=False)
        learn.fit_one_cycle(1, suggested.valley)
    found["lr_find, and a fit by it"] = _outcome(learn)
    found["resumed after one of two epochs"] = _resumed(folder, move)
    torch.save(found, folder / f"{launched()[0]}.pt")


def _resumed(folder: Path, move: Callable) -> dict:
    from collabkit.train.refit import _StopAfter

    for resume in (False, True):
        learn = quiet(collab_learner(rated(), use_nn=True, layers=[32], use_bn=False, y_range=Y_RANGE, path=folder))
        cbs = [] if resume else [_StopAfter(1)]
        move(learn)
        with learn.distrib_ctx():
            learn.fit_one_cycle(2, 5e-3, cbs=cbs, checkpoint="checkpoints", resume=resume)
    return _outcome(learn)


def _move(model: torch.nn.Module, share: float, generator: torch.Generator) -> None:
    with torch.no_grad():
        for weight in model.parameters() if share else ():
            weight.mul_(1 + share * torch.randn(weight.shape, generator=generator))


def _outcome(learn) -> dict[str, torch.Tensor]:
    found = {f"weights:{name}": value.clone() for name, value in learn.model.state_dict().items()}
    if len(learn.recorder.losses):
        found["losses:steps"] = torch.stack([loss.float() for loss in learn.recorder.losses])
    found["figures:epochs"] = torch.tensor([list(map(float, row)) for row in learn.recorder.values])
    return found


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    if not one.numel():
        return 0.0
    return float((one.double() - other.double()).abs().max() / max(1.0, float(one.abs().max())))


def speed(folder: Path) -> None:
    """The first of two processes trains an epoch while the other waits, then both do; and so on."""
    found = {}
    learners = {
        "network, 128 factors, layers 256-128, batch 8,192": lambda: collab_learner(
            events(0.5, bs=8192), model=NCF, n_factors=128, layers=[256, 128]),
        "dot product, 64 factors, batch 8,192": lambda: collab_learner(
            events(0.5, bs=8192, n_neg=1), n_factors=64, loss_func="bpr"),
    }  # fmt: skip
    for name, make in learners.items():
        one, both = quiet(make()), quiet(make())
        for learn in (one, both):
            learn._do_epoch_validate = lambda *_: None  # training alone
        seconds: list[tuple[float, float]] = []
        for _ in range(1 + REPEATS):
            alone = epoch(one) if launched()[0] == 0 else 0.0
            with both.distrib_ctx():
                seconds.append((alone, epoch(both)))
        found[name] = list(zip(*seconds[1:], strict=True))
    (folder / f"{launched()[0]}.json").write_text(json.dumps(found))


def epoch(learn) -> float:
    start = time.perf_counter()
    learn.fit(1, 1e-3)
    return time.perf_counter() - start


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"equal": equal, "moved": partial(equal, moved=1e-7), "speed": speed}[sys.argv[1]](Path(sys.argv[2]))
