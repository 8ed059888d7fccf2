"""CPU time and memory of two checkouts of this library, side by side. Linux only.

Each works in a process of its own that runs this file as a script on one thread; public names alone are used, so the
versions may differ inside. CPU time too varies with what else the machine does. So the two processes share a core and
measure at the same time: the kernel has them take turns every few milliseconds. What still tells them apart is where
their memory happens to lie, hence several pairs of processes.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

import collabkit
from collabkit import CollabDataLoaders, Recommender, collab_learner

if __package__:  # not in the workers
    from .common import ncf_parts, ratings, write

PAIRS = 2  # of processes
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
BIG = 6_000_000, 100_000, 20_000  # rows, users, items of the table for `from_df`


class Case(NamedTuple):
    """What to measure: `make(folder)` returns it; the tables are in the folder."""

    make: Callable[[str], Callable]
    repeats: int  # measurements a pair of processes
    calls: int = 1  # calls a measurement
    memory: bool = False  # the peak too, in bytes a row of `BIG`, of the first call in a fresh process


def versions() -> None:
    """This checkout (new) and that in `COLLABKIT_AGAINST` (old): CPU time a call on one thread, and peak memory.

    Medians over runs; `ratio` is the mean over pairs of processes of the median new / old, `spread` its standard error.
    """
    if "COLLABKIT_AGAINST" not in os.environ:
        print("versions: left out, COLLABKIT_AGAINST does not name another checkout")
        return
    checkouts = [Path(os.environ["COLLABKIT_AGAINST"]).resolve(), Path(__file__).resolve().parents[1]]
    names = os.environ.get("COLLABKIT_CASES", "").replace(",", " ").split() or list(CASES)
    if unknown := sorted(set(names) - set(CASES)):
        raise SystemExit(f"unknown case(s) {unknown}; there are {', '.join(CASES)}")
    figures = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        _write_tables(folder)
        groups = [[name for name in names if not CASES[name].memory], *([n] for n in names if CASES[n].memory)]
        for group in filter(None, PAIRS * groups):
            with _worker(checkouts[0], folder) as old, _worker(checkouts[1], folder) as new:
                for name in group:
                    for unit, measured in _measurements([old, new], name).items():
                        figures[name, unit].append(measured)
    write("versions", [_row(*which, np.array(pairs)) for which, pairs in figures.items()])


def _measurements(pair: list[Callable], name: str) -> dict[str, list]:
    """By unit, old and new of each measurement; both are asked before either has answered."""
    done = defaultdict(list)
    for _ in range(CASES[name].repeats):
        old, new = (reply() for reply in [ask(name) for ask in pair])
        for unit in old:
            done[unit].append((old[unit], new[unit]))
    return done


def _row(name: str, unit: str, pairs: np.ndarray) -> dict:
    old, new = np.median(pairs, axis=(0, 1))
    ratios = np.median(pairs[..., 1] / pairs[..., 0], axis=1)
    figures = {"old": f"{old:.4g}", "new": f"{new:.4g}", "ratio": f"{ratios.mean():.3f}"}
    return {"case": name, **figures, "spread": f"{ratios.std(ddof=1) / len(ratios) ** 0.5:.3f}", "unit": unit}


@contextmanager
def _worker(checkout: Path, folder: str) -> Iterator[Callable[[str], Callable[[], dict]]]:
    """A process of a checkout: a function that sends it a case's name and returns one that waits for the answer."""
    code = f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')"
    environment = {**os.environ, **THREADS, "PYTHONPATH": str(checkout), "PYTHONHASHSEED": "0"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, "-c", code, folder], cwd=checkout, env=environment, **pipes) as process:

        def reply() -> dict[str, float]:
            if line := process.stdout.readline():
                return json.loads(line)
            raise RuntimeError(f"the worker of {checkout} ended; its error stands above")

        def ask(name: str) -> Callable[[], dict]:
            process.stdin.write(f"{name}\n")
            return reply

        yield ask


def _write_tables(folder: str) -> None:
    """Write MovieLens, or random pairs of its size where it is missing."""
    try:
        tables = ratings("100k"), *ncf_parts()[:2]
    except (OSError, SystemExit):
        tables = _random(100_000, 943, 1682), _random(994_169, 6040, 3706), _random(6040, 6040, 3706, seed=1)
    for name, table in zip(("rated", "train", "test"), tables, strict=True):
        table[["user", "item", "rating"] if name == "rated" else ["user", "item"]].to_parquet(
            f"{folder}/{name}.parquet"
        )


def _random(n: int, n_users: int, n_items: int, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed).integers
    return pd.DataFrame({"user": draw(n_users, size=n), "item": draw(n_items, size=n), "rating": draw(2, 11, n) / 2})


def _work(folder: str) -> None:
    """Answer with a measurement for each line that names a case."""
    if not Path(collabkit.__file__).is_relative_to(Path.cwd()):
        raise SystemExit(f"collabkit came from {collabkit.__file__}, not from {Path.cwd()}")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    replies, sys.stdout = sys.stdout, sys.stderr
    name = function = None
    for line in sys.stdin:
        if name != line.strip():
            name, function = line.strip(), None
            gc.collect()  # the case before
            function = CASES[name].make(folder)
            if not CASES[name].memory:
                function()  # the first call allocates
        print(json.dumps(_measured(CASES[name], function)), file=replies, flush=True)


def _measured(case: Case, function: Callable) -> dict[str, float]:
    gc.collect()
    if case.memory:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = _bytes("VmRSS")
    start = time.process_time()
    for _ in range(case.calls):
        function()
    figures = {"CPU ms": 1000 * (time.process_time() - start) / case.calls}
    return {**figures, "peak bytes a row": (_bytes("VmHWM") - before) / BIG[0]} if case.memory else figures


def _bytes(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


def _fit(learn, method: str, *args, **kwargs) -> None:
    with learn.no_bar(), learn.no_logging():
        getattr(learn, method)(*args, **kwargs)


def _rated(folder: str, bs: int) -> Callable:
    table = pd.read_parquet(f"{folder}/rated.parquet")
    dls = CollabDataLoaders.from_dfs(table[1000:], table[:1000], bs=bs, seed=0)
    return partial(_fit, collab_learner(dls, n_factors=64, y_range=(0, 5.5)), "fit_one_cycle", 1, 5e-3, wd=0.1)


@lru_cache
def _events(folder: str, n_neg: int = 4):
    parts = (pd.read_parquet(f"{folder}/{name}.parquet") for name in ("train", "test"))
    dls = CollabDataLoaders.from_dfs(*parts, feedback="implicit", n_neg=n_neg, bs=16_384, seed=0)
    return collab_learner(dls, n_factors=64, loss_func="bpr")


def _train(folder: str, method: str, *args, n_neg: int = 4) -> Callable:
    return partial(_fit, _events(folder, n_neg), method, *args)


def _after_als(folder: str, method: str) -> Callable:
    _train(folder, "fit_als", 2)()
    return getattr(_events(folder), method)  # of all users, k=10


def _from_df(folder: str) -> Callable:
    CollabDataLoaders.from_df(_random(1000, 100, 100), seed=0)  # imports what a first call needs
    table = _random(*BIG)
    return lambda: CollabDataLoaders.from_df(table, seed=0)


def _load(folder: str) -> Callable:
    """Two tables of 500,000 x 64, written by the version that reads them."""
    ids = np.arange(500_000)
    table = pd.DataFrame({"user": ids, "item": ids[::-1], "rating": ids % 5 + 1.0})
    learn = collab_learner(CollabDataLoaders.from_dfs(table, table[:1000], seed=0), n_factors=64)
    return partial(Recommender.load, learn.export(Path(tempfile.mkdtemp(dir=folder)) / "artefact"))


@lru_cache
def _many_items():
    events = _random(300_000, 30_000, 41_000)[["user", "item"]]
    return collab_learner(CollabDataLoaders.from_dfs(events[1000:], events[:1000], feedback="implicit", seed=0), 64)


CASES = {
    "epoch_bs64": Case(lambda folder: _rated(folder, bs=64), repeats=2),
    "epoch_bs1024": Case(lambda folder: _rated(folder, bs=1024), repeats=8),
    "bpr_neg1": Case(lambda folder: _train(folder, "fit_one_cycle", 1, 5e-3, n_neg=1), repeats=3),
    "bpr_neg4": Case(lambda folder: _train(folder, "fit_one_cycle", 1, 5e-3, n_neg=4), repeats=2),
    "fit_als": Case(lambda folder: _train(folder, "fit_als", 2), repeats=5),
    "recommend_all": Case(lambda folder: _after_als(folder, "recommend"), repeats=10),
    "evaluate": Case(lambda folder: _after_als(folder, "evaluate"), repeats=10),
    "from_df": Case(_from_df, repeats=1, memory=True),
    "load": Case(_load, repeats=1),
    "recommend_one": Case(lambda _: partial(_many_items().recommend, 7), repeats=10, calls=20),
    "similar_items": Case(lambda _: partial(_many_items().similar_items, 7), repeats=10, calls=20),
}

if __name__ == "__main__":
    _work(*sys.argv[1:])
