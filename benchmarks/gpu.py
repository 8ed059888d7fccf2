"""What the library does on a GPU: whether it is right there, how fast it is, and how often a training step waits.

`python -m benchmarks gpu`; without a GPU, or with `--small`, the same at small sizes on the CPU, and no table.
"""

from __future__ import annotations

import gc
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pandas as pd
import torch
from fastai.callback.core import Callback, CancelFitException
from torch.utils._python_dispatch import TorchDispatchMode

from collabkit import (
    EASE,
    GMF,
    NCF,
    AveragedHistory,
    CollabDataLoaders,
    FactorizationMachine,
    GRURec,
    Implicit,
    ItemKNN,
    NeuMF,
    NextItem,
    Popularity,
    Recommender,
    SASRec,
    TimeSVD,
    TwoTower,
    YouTubeNet,
    collab_learner,
    datasets,
    splits,
)
from collabkit.train.als import ALSSolver
from collabkit.train.batches import on_device

from .common import write
from .several_processes import quiet

# ML-20M has 138,493 users, 26,744 films and 20,000,263 ratings.
LARGE = {"users": 138_493, "items": 26_744, "events": 20_000_263, "batches": (2**20, 2**16), "steps": 40, "d": 64}
SMALL = {"users": 2_000, "items": 800, "events": 60_000, "batches": (2**14, 2**12), "steps": 4, "d": 16}
N_NEG, LAYERS = 4, [256, 128, 64]
NAMES = {"user_name": "user", "item_name": "item"}


def gpu() -> None:
    """On a GPU, whose name the table has. Right: largest difference from the CPU, of the largest number, of a step's loss and gradients on one batch, of the scores of top-10 lists and of `evaluate`; of least squares after two sweeps of the factors. Fast: generated events in the shape of ML-20M, a sample is a pair of user and item, positives and four negatives each; NCF with 64 factors and layers 256-128-64, by rows of a batch; one sweep of least squares with 64 factors; top 10 of all users. Waits: how often a training step has the CPU wait for the GPU, by CUDA's debug mode (on the CPU, whose ways differ in places: operations that would make it wait); 0 means that steps are queued ahead."""  # noqa: E501
    small = "--small" in sys.argv or not torch.cuda.is_available()
    device = torch.device("cpu" if small else "cuda")
    if not small:  # float32 as the CPU's, to compare with
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    name = "CPU" if small else torch.cuda.get_device_name()
    began, rows = time.perf_counter(), []
    for part in (right, fast, waits):
        for what, value in part(device, SMALL if small else LARGE):
            rows.append({"device": name, "part": part.__name__, "what": what, "value": value})
            print(f"{time.perf_counter() - began:6.1f} s  {what}: {value}", flush=True)
    rows.append({"device": name, "part": "all", "what": "seconds", "value": round(time.perf_counter() - began)})
    if small:
        print("gpu: small sizes on the CPU; nothing is written to results, as this was not run on a GPU")
    else:
        write("gpu", rows)


# --- right


def right(device: torch.device, size: dict) -> Iterator[tuple[str, object]]:
    """Each model, trained for an epoch on the CPU, answers on the device as there."""
    for name, make in _models().items():
        learn = quiet(make())
        learn.fit(1, 5e-3)
        if hasattr(learn.dls.train, "one_batch"):
            yield f"{name}: a step", _shown(_step_difference(learn, device))
        yield from _answers(name, learn.recommender, device)
    dls = _clicks()
    for cls in (Popularity, ItemKNN, EASE):
        yield from _answers(cls.__name__, Recommender(cls().fit(dls), dls.data), device)
    dls = _in_order()
    yield from _answers("NextItem", Recommender(NextItem().fit(dls), dls.data), device)
    solved = []
    for where in ("cpu", device):
        solver = ALSSolver(_clicks().data.train, reg=0.03, unobserved_weight=0.1, device=where)
        tables = [table.to(where) for table in solver.init_tables(8, seed=0)]
        for _ in range(2):
            solver.solve_users(*tables), solver.solve_items(*tables)
        solved.append([table.cpu() for table in tables])
    yield "least squares: factors", _shown(max(map(_difference, *solved)))


def _answers(name: str, rec: Recommender, device: torch.device) -> Iterator[tuple[str, object]]:
    """How far lists and the table of `evaluate` are from the CPU's."""
    users, found = rec.data.users.ids[:100], []
    for where in ("cpu", device):
        rec.model.to(where)
        scores = torch.tensor(rec.recommend(users, 10)["score"].to_numpy())
        table = rec.evaluate(metrics=["HitRate", "NDCG", "AUC"], n_boot=2)
        found.append((scores, torch.tensor(table.to_numpy(dtype=float)).nan_to_num()))
    (scores, table), (other, another) = found
    yield f"{name}: scores of lists", _shown(_difference(scores, other))
    yield f"{name}: evaluate", _shown(_difference(table, another))
    rec.model.cpu()


def _step_difference(learn, device: torch.device) -> float:
    """Of the loss and the gradients of one batch; without dropout, which devices draw in ways of their own."""
    found, batch, n_inp = [], learn.dls.train.one_batch(), learn.dls.train.n_inp
    for where in ("cpu", device):
        model = learn.model.to(where).eval()
        for part in model.modules():
            if isinstance(part, torch.nn.RNNBase):  # cuDNN has no gradients of one that is not in training
                part.train().dropout = 0.0
        model.zero_grad()
        moved = on_device(batch, where)
        with torch.enable_grad():
            loss = learn.loss_func(model(*moved[:n_inp]), *moved[n_inp:])
            loss.backward()
        gradients = [p.grad.to_dense().cpu() for p in model.parameters() if p.grad is not None]
        found.append([loss.detach().cpu()[None], *gradients])
    learn.model.cpu().zero_grad()
    return max(map(_difference, *found))


def _models() -> dict[str, Callable]:
    rated = {"y_range": (0, 5.5)}
    softmax = {"loss_func": "sampled_softmax", "start": "random"}
    return {
        "CollFilter, ratings": lambda: collab_learner(_rated(), 8, **rated),
        "EmbeddingNN, ratings": lambda: collab_learner(_rated(), use_nn=True, layers=[16], **rated),
        "FactorizationMachine": lambda: collab_learner(_rated(), model=FactorizationMachine, n_factors=8, **rated),
        "TimeSVD": lambda: collab_learner(_rated(time_name="timestamp"), model=TimeSVD, n_factors=8, **rated),
        "CollFilter, BPR": lambda: collab_learner(_clicks(n_neg=2), 8, loss_func="bpr"),
        "CollFilter, sparse": lambda: collab_learner(_clicks(n_neg=2), 8, loss_func="bpr", sparse=True),
        "CollFilter, shared negatives": lambda: collab_learner(_clicks(negatives="shared", n_neg=50), 8, **softmax),
        "NCF": lambda: collab_learner(_clicks(), model=NCF, n_factors=8, layers=[16, 8]),
        "GMF": lambda: collab_learner(_clicks(), model=GMF, n_factors=8),
        "NeuMF": lambda: collab_learner(_clicks(), model=NeuMF, n_factors=8, layers=[16, 8]),
        "TwoTower": lambda: collab_learner(_clicks(), model=TwoTower, n_factors=8, layers=[16]),
        "SASRec": lambda: collab_learner(_in_order(), model=SASRec, n_factors=8, length=10),
        "GRURec": lambda: collab_learner(_in_order(), model=GRURec, n_factors=8, length=10),
        "AveragedHistory": lambda: collab_learner(_in_order(), model=AveragedHistory, n_factors=8, length=10),
        "YouTubeNet": lambda: collab_learner(_in_order(), model=YouTubeNet, n_factors=8, length=10, layers=[16]),
    }


def _table() -> pd.DataFrame:
    return datasets.synthetic(n_users=300, n_items=200, n_ratings=9_000, min_events=5, seed=1).ratings


def _rated(**kwargs) -> CollabDataLoaders:
    return CollabDataLoaders.from_df(_table(), **NAMES, rating_name="rating", seed=0, bs=512, device="cpu", **kwargs)


def _clicks(**kwargs) -> CollabDataLoaders:
    options = {"feedback": "implicit", "seed": 0, "bs": 512, "device": "cpu"}
    return CollabDataLoaders.from_df(_table(), **NAMES, **{**options, **kwargs})


def _in_order() -> CollabDataLoaders:
    return _clicks(time_name="timestamp", history=10, splitter=splits.leave_last_out())


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one.double(), other.double()
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-12)) if one.numel() else 0.0


def _shown(value: float) -> str:
    return f"{value:.1e}"


# --- fast


def fast(device: torch.device, size: dict) -> Iterator[tuple[str, object]]:
    """Samples a second of NCF, a sweep of least squares, and lists of all users."""
    events = _generated(size, device)
    dls = _loaders(events, size["batches"][0], device)
    yield "events", f"{len(dls.data.train):,}"
    for samples in size["batches"]:
        mine = dls if samples == size["batches"][0] else _loaders(events, samples, device, dls)
        for precision in ("float32", "bfloat16") if device.type == "cuda" else ("float32",):
            learn = quiet(_ncf(mine, size["d"]))
            if precision == "bfloat16":
                learn.to_bf16()
            seconds, rows = _seconds(learn, size["steps"])
            yield f"NCF, {samples:,} samples a batch, {precision}: samples/s", f"{rows * (1 + N_NEG) / seconds:,.0f}"
    solver = ALSSolver(dls.data.train, reg=0.03, unobserved_weight=0.1, device=device)
    tables = [table.to(device) for table in solver.init_tables(size["d"], seed=0)]
    seconds = []
    for _ in range(3):
        _wait(device)
        start = time.perf_counter()
        solver.solve_users(*tables), solver.solve_items(*tables)
        _wait(device)
        seconds.append(time.perf_counter() - start)
    yield f"least squares, {size['d']} factors: seconds a sweep", round(sorted(seconds)[1], 3)
    learn = quiet(collab_learner(dls, size["d"], start="random"))
    with torch.no_grad():
        for table, solved in zip(learn.model.factor_tables(), tables, strict=True):
            table.copy_(solved)
    learn.model.trained = True
    start, n = time.perf_counter(), 0
    for part in learn.recommend_batches(k=10):
        n += len(part)
    yield f"top 10 of all users, {n:,} rows: seconds", round(time.perf_counter() - start, 2)


def _generated(size: dict, device: torch.device) -> pd.DataFrame:
    """Events whose users and items are met as often as in a catalogue of films: few often, most seldom."""
    random = torch.Generator(device).manual_seed(0)
    found = torch.zeros(0, dtype=torch.int64, device=device)
    ends = [torch.randn(size["users"], generator=random, device=device).mul(1.1).exp().double().cumsum(0)]
    ends.append((1 / (torch.arange(size["items"], device=device).double() + 20)).cumsum(0))
    while len(found) < size["events"]:
        more = 3 * (size["events"] - len(found)) + 100_000  # as many pairs come up again
        user, item = (
            torch.searchsorted(end, torch.rand(more, generator=random, device=device, dtype=torch.float64) * end[-1])
            for end in ends
        )
        found = torch.cat([found, user * size["items"] + item]).unique()
    kept = found[torch.randperm(len(found), generator=random, device=device)[: size["events"]]].cpu().numpy()
    return pd.DataFrame({"user": kept // size["items"], "item": kept % size["items"]})


def _loaders(events: pd.DataFrame, samples: int, device, like: CollabDataLoaders | None = None) -> CollabDataLoaders:
    bs = samples // (1 + N_NEG)
    if like is not None:
        return CollabDataLoaders.from_dataset(like.data, feedback=Implicit(n_neg=N_NEG), bs=bs, seed=0, device=device)
    options = {"feedback": "implicit", "n_neg": N_NEG, "valid_pct": 0.01, "seed": 0, "device": device}
    return CollabDataLoaders.from_df(events, **NAMES, bs=bs, **options)


def _ncf(dls: CollabDataLoaders, d: int):
    return collab_learner(dls, model=NCF, n_factors=d, layers=LAYERS, sparse=False)


class _Clock(Callback):
    """Ends a fit after so many batches, and has the seconds and rows of those after the first few."""

    order = 10_000

    def __init__(self, steps: int, device: torch.device, warm_up: int = 3):
        self.steps, self.device, self.warm_up, self.done, self.rows = steps, device, warm_up, 0, 0

    def after_batch(self):
        self.done += 1
        if self.done > self.warm_up:
            self.rows += len(self.learn.xb[0])
        if self.done == self.warm_up:
            _wait(self.device)
            self.start = time.perf_counter()
        if self.done == self.warm_up + self.steps:
            _wait(self.device)
            self.seconds = time.perf_counter() - self.start
            raise CancelFitException


def _seconds(learn, steps: int) -> tuple[float, int]:
    """Seconds of so many training steps, and the rows in them."""
    clock = _Clock(steps, learn.model.device)
    learn.fit(100, 1e-3, cbs=[clock])
    gc.collect()
    return clock.seconds, clock.rows


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


# --- waits


def waits(device: torch.device, size: dict) -> Iterator[tuple[str, object]]:
    """How often a step waits, by what is trained."""
    options = {"device": device, "bs": 256}
    learners = {
        "ratings": lambda: collab_learner(_on(_rated, device), 8, y_range=(0, 5.5)),
        "NCF, uniform negatives": lambda: collab_learner(_clicks(**options), model=NCF, n_factors=8, layers=[16]),
        "BPR, popularity": lambda: collab_learner(_clicks(**options, negatives="popularity"), 8, loss_func="bpr"),
        "BPR, sparse tables": lambda: collab_learner(_clicks(**options), 8, loss_func="bpr", sparse=True),
        "softmax, shared negatives": lambda: collab_learner(
            _clicks(**options, negatives="shared", n_neg=50), 8, loss_func="sampled_softmax", start="random"
        ),
    }
    for name, make in learners.items():
        learn = quiet(make())
        counted = _Counted(device)
        learn.fit(1, 1e-3, cbs=[counted])
        most = ", ".join(f"{kind} {n / counted.steps:.2g}" for kind, n in counted.found.most_common(4))
        n = sum(counted.found.values()) / counted.steps
        yield f"{name}: waits a step", f"{n:.2f}" + (f" ({most})" if most else "")


def _on(make: Callable, device: torch.device) -> CollabDataLoaders:
    return make().to(device)


class _Counted(Callback):
    """Counts, of a training epoch, what waits for the device after the first steps, the loader's work among it."""

    order, warm_up = 10_000, 3

    def __init__(self, device: torch.device):
        self.device, self.found, self.steps, self.inside = device, Counter(), 0, None

    def after_batch(self):
        if not self.learn.training:
            return
        if self.iter == self.warm_up:
            self.inside = _waiting(self.device, self.found)
            self.inside.__enter__()
        elif self.inside is not None:
            self.steps += 1
        if self.iter == self.n_iter - 1 and self.inside is not None:
            self.inside.__exit__(None, None, None)
            self.inside = None


@contextmanager
def _waiting(device: torch.device, found: Counter) -> Iterator[None]:
    """Within it what waits is counted by its kind; on the CPU, what would."""
    if device.type != "cuda":
        with _WouldWait(found):
            yield
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found.update(f"{w.filename.split('/')[-1]}:{w.lineno}" for w in said if "synchroniz" in str(w.message))


class _WouldWait(TorchDispatchMode):
    """Counts operations whose result, or its shape, a GPU would have to be waited for to know."""

    kinds = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "is_nonzero", "equal",
             "repeat_interleave", "_coalesce")  # fmt: skip

    def __init__(self, found: Counter):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in self.kinds or masked:
            self.found["boolean mask" if masked else name] += 1
        return func(*args, **(kwargs or {}))
