"""What `test_distributed.py` has one process do, and several: `python tests/several.py FOLDER`.

A case trains something small and returns tensors, by name, which must not depend on how many processes there are. The
other scenarios go wrong. All processes are forked from this one, so that torch is imported once.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from functools import cache, partial
from pathlib import Path

import torch
import torch._dynamo  # by the first optimiser, in each process
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.metrics import mae, rmse

from collabkit import (
    NCF,
    NDCG,
    CollabDataLoaders,
    FactorizationMachine,
    GRURec,
    HitRate,
    Implicit,
    NeuMF,
    SASRec,
    TwoTower,
    YouTubeNet,
    cli,
    collab_learner,
    datasets,
    load_learner,
    sampling,
    splits,
)  # fmt: skip
from collabkit.data.processes import launched

NAMES = {"user_name": "user", "item_name": "title"}
CASES: dict = {}


def case(function):
    CASES[function.__name__] = function
    return function


@cache
def source():
    return datasets.synthetic(n_users=40, n_items=30, n_ratings=600, min_events=5, seed=1)


def loaders(feedback="implicit", table=None, **kwargs):
    """Loaders of an odd batch size that leaves a small last batch."""
    table = source().ratings if table is None else table
    return CollabDataLoaders.from_df(table, **{**NAMES, "bs": 67, "seed": 3, "feedback": feedback, **kwargs})


def quiet(learn):
    if hasattr(learn, "progress"):
        learn.remove_cb(learn.progress)
    learn.logger = lambda *_: None
    return learn


def fitted(dls, *fit_args, fit="fit_one_cycle", n_epoch=1, evaluate=False, **options):
    """What a fit leaves: weights, the losses of its steps, the figures of its epochs."""
    fit_options = {key: options.pop(key) for key in ("cbs", "reg", "unobserved_weight") if key in options}
    learn = quiet(collab_learner(dls, **{"n_factors": 6, **options}))
    with learn.distrib_ctx():
        getattr(learn, fit)(n_epoch, *fit_args, **fit_options)
        return found(learn, evaluate)


def found(learn, evaluate=False):
    result = {f"weight {name}": value.clone() for name, value in learn.model.state_dict().items()}
    result["losses"] = torch.stack(
        [torch.as_tensor(loss).float() for loss in learn.recorder.losses] or [torch.zeros(())]
    )
    result["epochs"] = torch.tensor([list(map(float, row)) for row in learn.recorder.values])
    if evaluate:
        table = learn.evaluate(metrics=["HitRate", "NDCG", "AUC", "Coverage"], n_boot=20)
        result["table"] = torch.tensor(table.to_numpy(dtype=float)).nan_to_num()
    return result


@case
def ratings():
    return fitted(loaders("explicit"), y_range=(0, 5.5), metrics=[rmse, mae, HitRate(5)], evaluate=True)


@case
def weighted_ratings():
    return fitted(loaders("explicit", weights="inverse_item"), y_range=(0, 5.5), cbs=[GradientClip(0.1)])


@case
def sum_of_squares():
    loss = torch.nn.MSELoss(reduction="sum")
    return fitted(loaders("explicit"), 1e-3, y_range=(0, 5.5), loss_func=loss)


@case
def network_with_normalisation_and_dropout():
    layers = {"layers": [16, 8], "emb_szs": [6, 5], "ps": 0.2, "embed_p": 0.1}
    return fitted(loaders("explicit"), use_nn=True, y_range=(0, 5.5), bn_final=True, **layers)


@case
def one_row_a_batch():
    table = source().ratings.head(30)
    return fitted(loaders("explicit", table, bs=1), y_range=(0, 5.5))


@case
def one_row_a_batch_sparse():
    table = source().ratings.head(30)
    return fitted(loaders("explicit", table, bs=1), y_range=(0, 5.5), sparse=True)


@case
def normalised_batches_of_three_and_four():
    table = source().ratings.head(26)
    return fitted(loaders("explicit", table, bs=3), use_nn=True, layers=[8], y_range=(0, 5.5))


@case
def bpr():
    return fitted(loaders(n_neg=2), loss_func="bpr", metrics=[HitRate(5), NDCG(5)], evaluate=True)


@case
def sparse_tables():
    return fitted(loaders(n_neg=2), loss_func="bpr", sparse=True)


@case
def sparse_shared():
    return fitted(loaders(negatives="shared", n_neg=20), loss_func="sampled_softmax", sparse=True)


@case
def ncf():
    return fitted(loaders(), model=NCF, layers=[16, 8], ps=0.3)


@case
def neumf():
    return fitted(loaders(negatives="popularity"), model=NeuMF, layers=[16, 8])


@case
def shared_softmax():
    return fitted(loaders(negatives="shared", n_neg=20), loss_func="sampled_softmax")


@case
def in_batch():
    return fitted(loaders(negatives="in_batch"), loss_func="sampled_softmax")


@case
def full_softmax():
    return fitted(loaders(negatives="all"), loss_func="softmax")


@case
def users_at_once():
    return fitted(loaders(negatives="shared", n_neg=20, by_user=True, bs=17), loss_func="sampled_softmax")


@case
def weighted_users_at_once():
    options = {"negatives": partial(sampling.AllItems, mask_seen=True), "weights": "inverse_user"}
    return fitted(loaders(**options, by_user=True, bs=17), loss_func="bce")


@case
def started_at_least_squares():
    return fitted(loaders())


@case
def towers():
    layers = {"layers": [16, 8], "similarity": "cosine", "temperature": 0.1}
    return fitted(loaders(negatives="shared", n_neg=20), model=TwoTower, loss_func="sampled_softmax", **layers)


@case
def features():
    sides = {"items": source().items, "item_features": {"year": "binned", "genres": "multi"}}
    return fitted(loaders("explicit", **sides), y_range=(0, 5.5), id_dropout=0.2)


@case
def features_shared():
    sides = {"items": source().items, "item_features": {"year": "numeric", "genres": "multi"}}
    return fitted(loaders(**sides, negatives="shared", n_neg=20), loss_func="sampled_softmax", id_dropout=0.2)


@case
def context():
    table = source().ratings.assign(hour=lambda df: df["timestamp"] % 24)
    dls = loaders("explicit", table, context_features={"hour": "categorical"})
    return fitted(dls, model=FactorizationMachine, y_range=(0, 5.5))


def in_order(**kwargs):
    return loaders(time_name="timestamp", history=8, splitter=splits.leave_last_out(), **kwargs)


@case
def self_attention():
    return fitted(in_order(), model=SASRec, n_factors=8, length=8, metrics=[HitRate(5)])


@case
def recurrent():
    return fitted(in_order(negatives="all"), model=GRURec, n_factors=8, length=8, dropout=0.2)


@case
def youtube():
    table = source().ratings.assign(hour=lambda df: df["timestamp"] % 24)
    dls = in_order(table=table, context_features={"hour": "categorical"})
    return fitted(dls, model=YouTubeNet, n_factors=8, length=8, layers=[8])


@case
def histories_as_sets():
    return fitted(loaders(negatives="shared", n_neg=20, time_name="timestamp"), model=GRURec, n_factors=8, dropout=0.0)


@case
def least_squares():
    options = {"fit": "fit_als", "n_epoch": 4, "reg": 0.05, "unobserved_weight": 0.1}
    return fitted(loaders(), **options, metrics=[HitRate(5)], evaluate=True)


@case
def least_squares_of_counts():
    table = source().ratings.assign(n=lambda df: df["rating"])
    dls = loaders(Implicit(counts="n"), table)
    return fitted(dls, fit="fit_als", n_epoch=4)


@case
def lr_find():
    learn = quiet(collab_learner(loaders("explicit", bs=31), n_factors=6, y_range=(0, 5.5)))
    with learn.distrib_ctx():
        suggested = learn.lr_find(show_plot=False, end_lr=100)
        steps = torch.tensor(float(len(learn.recorder.losses)))
        learn.fit_one_cycle(1, suggested.valley)
        return found(learn) | {"suggested": torch.tensor(suggested.valley), "steps": steps}


class StopAfter(Callback):
    """An interruption after so many epochs, when the checkpoint is written."""

    order = 3000

    def __init__(self, n):
        self.n = n

    def after_epoch(self):
        if self.epoch + 1 == self.n:
            raise CancelFitException


def resumed_as_straight(fit):
    """What a fit of four epochs leaves that ends after two and is resumed; it must be what it leaves in one go."""
    folder = Path(f"checkpoints-{launched()[1]}").resolve()
    fit(StopAfter(2), checkpoint=folder)
    again, straight = fit(checkpoint=folder, resume=True), fit()
    differs = [name for name in straight if "loss" not in name and not torch.equal(straight[name], again[name])]
    assert not differs, f"a resumed training differs in {differs}"
    return again


@case
def resumed():
    def fit(*cbs, **kwargs):
        learn = quiet(collab_learner(loaders("explicit"), use_nn=True, layers=[8], ps=0.2, y_range=(0, 5.5)))
        with learn.distrib_ctx():
            learn.fit_one_cycle(4, 1e-2, cbs=cbs, **kwargs)
            return found(learn)

    return resumed_as_straight(fit)


@case
def kept_and_exported():
    folder = Path(f"work-{launched()[1]}").resolve()
    learn = quiet(collab_learner(loaders("explicit"), n_factors=6, y_range=(0, 5.5), path=folder))
    with learn.distrib_ctx():
        learn.fit_one_cycle(2, 0.3, cbs=[SaveModelCallback(fname="best")])
        artefact = learn.export("artefact")
        again = load_learner(artefact)
        assert torch.equal(*(part.model.user_side.tables[0].weight for part in (learn, again)))
        assert (folder / "models" / "best.safetensors").is_file()
        return found(learn)


@case
def refitted():
    learn = quiet(collab_learner(loaders("explicit"), n_factors=6, y_range=(0, 5.5)))
    with learn.distrib_ctx():
        learn.fit_one_cycle(1)
        return found(quiet(learn.refit_all()))


def make(**kwargs):
    return quiet(collab_learner(loaders("explicit"), **{"n_factors": 6, "y_range": (0, 5.5), **kwargs}))


class At(Callback):
    """Something that one process does in a batch of an epoch."""

    def __init__(self, epoch, action):
        self.at, self.action = epoch, action

    def before_batch(self):
        if launched()[0] == 1 and self.epoch == self.at and self.training:
            self.action()


def fit(*args, learn=None, timeout=100, cbs=(), **kwargs):
    learn = make() if learn is None else learn
    with learn.distrib_ctx(timeout=timeout):
        learn.fit_one_cycle(*args, cbs=list(cbs), **kwargs)
        return found(learn)


def other_rows():
    table = source().ratings
    dls = loaders("explicit", table if launched()[0] == 0 else table[:-1])
    return fit(1, learn=quiet(collab_learner(dls, n_factors=6, y_range=(0, 5.5))))


def other_ids():
    table = source().ratings
    dls = loaders("explicit", table if launched()[0] == 0 else table.replace({"user": {1: 100_001}}))
    return fit(1, learn=quiet(collab_learner(dls, n_factors=6, y_range=(0, 5.5))))


def other_features():
    items = source().items
    items = items if launched()[0] == 0 else items.assign(year=1990 + items["year"] % 7)
    dls = loaders("explicit", items=items, item_features={"year": "binned"})
    return fit(1, learn=quiet(collab_learner(dls, n_factors=6, y_range=(0, 5.5))))


def no_seed():
    torch.manual_seed(launched()[0])
    return fit(1, learn=make(seed=launched()[0]))


def other_arguments():
    return fit(1 + launched()[0])


def other_rows_to_evaluate():
    learn = make()
    with learn.distrib_ctx():
        learn.evaluate(on=source().ratings[: 50 - launched()[0]])


def counts_its_own_rows():
    return fit(1, cbs=[GradientAccumulation(200)])


def raises():
    def fail():
        raise MemoryError("no room for it")

    return fit(2, cbs=[At(1, fail)])


def killed():
    return fit(4, cbs=[At(2, lambda: os.kill(os.getpid(), signal.SIGKILL))], checkpoint=Path("killed").resolve())


def goes_on():
    again, straight = fit(4, checkpoint=Path("killed").resolve(), resume=True), fit(4)
    assert all(torch.equal(straight[name], again[name]) for name in straight if name != "losses")
    return again


def hangs():
    return fit(2, cbs=[At(1, lambda: time.sleep(60))], timeout=2)


def cannot_write():
    Path("a-file").write_text("")
    learn = make()
    with learn.distrib_ctx():
        learn.fit(1)
        learn.export(Path("a-file").resolve())


def alone():
    return fit(1, timeout=2) if launched()[0] == 0 else None


def command():
    """What the processes do that `collabkit train --nproc 2` starts."""
    source().ratings[["user", "title", "rating"]].to_csv(f"rows-{launched()[0]}.csv", index=False)
    words = f"collabkit train rows-{launched()[0]}.csv --out model --epochs 2 --bs 33 --nproc 2"
    sys.argv = words.split()
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, end.code


def outside():
    learn = make()
    learn.fit_one_cycle(1)
    return found(learn)


def every_case():
    return {name: case() for name, case in CASES.items()}


FEW = ("network_with_normalisation_and_dropout", "one_row_a_batch_sparse", "least_squares")


def few_cases():
    return {name: CASES[name]() for name in FEW}


BAD = [other_rows, other_ids, other_features, no_seed, other_arguments, other_rows_to_evaluate, counts_its_own_rows,
       raises, killed, goes_on, hangs, cannot_write, alone]  # fmt: skip
SCENARIOS = [
    (every_case, 1),
    (every_case, 2),
    (few_cases, 3),
    (outside, 2),
    (command, 2),
    *((scenario, 2) for scenario in BAD),
]


def start(scenario, rank: int, size: int, port: int, folder: Path) -> int:
    """A process of a scenario, forked from this one; its id."""
    if pid := os.fork():
        return pid
    status, name = 1, f"{scenario.__name__}-{size}-{rank}"
    try:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in place.items()})
        log = os.open(folder / f"{name}.log", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1), os.dup2(log, 2)
        torch.save(scenario(), folder / f"{name}.pt")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def play(scenario, size: int, folder: Path) -> dict:
    """Have `size` processes play a scenario; how each ended, and when."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun, left, told = time.monotonic(), {}, {}
    for rank in range(size):
        left[start(scenario, rank, size, port, folder)] = rank
    while left and time.monotonic() < begun + 120:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            rank = left.pop(pid)
            told[rank] = {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - begun}
            if scenario is hangs and rank == 0:
                [os.kill(other, signal.SIGKILL) for other in left]
        else:
            time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return told


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[1])
    os.chdir(where)
    wanted = sys.argv[2:]
    ended = {f"{s.__name__}-{n}": play(s, n, where) for s, n in SCENARIOS if not wanted or s.__name__ in wanted}
    (where / "ended.json").write_text(json.dumps(ended))
