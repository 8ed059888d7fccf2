"""What one event, one pair, one row and one byte cost, at sizes beyond the processor's caches: for plans on paper.

`python -m benchmarks.unit_costs` is what each of two processes does that exchange; torchrun's launcher starts them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist

from collabkit import Recommender
from collabkit.data.dataset import Dataset
from collabkit.data.interactions import Columns, Interactions
from collabkit.losses import RankingLoss
from collabkit.models import CollFilter
from collabkit.train.als import ALSSolver
from collabkit.train.optim import TableAdamW, undecayed

from .common import write

D, BS, REPEATS = 64, 8192, 5
USERS, ITEMS = 1_000_000, 200_000


def unit_costs() -> None:
    """CPU seconds of one thread, medians of five: d=64, a million users, 200,000 items, ids drawn evenly. A sweep of least squares on four and on eight million events, split into what an event and what a row costs; a BPR sample with sparse tables, one negative; a pair of user and item of exact top 10; a row gathered from a table of 256 MB. And, by the clock, what one process sends the other of two over the loopback, in all-to-all exchanges of 32 MB by gloo."""  # noqa: E501
    torch.set_num_threads(1)
    event, row = _least_squares()
    sent = _exchange()
    rows = [
        {"what": "least squares, an event a sweep", "cost": f"{1e6 * event:.2f} us"},
        {"what": "least squares, a row a sweep", "cost": f"{1e6 * row:.1f} us"},
        {"what": "BPR, a sample", "cost": f"{1e6 * _sample():.1f} us"},
        {"what": "exact top 10, a pair", "cost": f"{1e9 * _pair():.2f} ns"},
        {"what": "a row of 64 numbers gathered", "cost": f"{1e9 * _gathered():.0f} ns"},
        {"what": "all-to-all by gloo, sent a process", "cost": f"{sent / 1e9:.2f} GB/s"},
    ]
    write("unit_costs", rows)


def _cpu_seconds(function: Callable[[], object], repeats: int = REPEATS) -> float:
    function()  # not counted: first calls allocate
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return median(seconds)


def _events(n: int) -> Interactions:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"user": rng.integers(0, USERS, n), "item": rng.integers(0, ITEMS, n)}).drop_duplicates()
    return Interactions.from_df(table, Columns("user", "item"))


def _least_squares() -> tuple[float, float]:
    """Seconds an event, and a row, of one sweep: the two unknowns of two sizes of data."""
    found = []
    for n in (4_000_000, 8_000_000):
        train = _events(n)
        solver = ALSSolver(train, reg=0.03, unobserved_weight=0.1)
        tables = solver.init_tables(D, seed=0)
        sweep = lambda: (solver.solve_users(*tables), solver.solve_items(*tables))  # noqa: B023, E731
        found.append((len(train), train.n_users + train.n_items, _cpu_seconds(sweep, 3)))
    (n, rows, seconds), (more, others, longer) = found
    event, row = np.linalg.solve([[n, rows], [more, others]], [seconds, longer])
    return float(event), float(row)


def _sample() -> float:
    model = CollFilter(USERS, ITEMS, D).set_sparse(True)
    loss, optimiser = RankingLoss("bpr"), TableAdamW(list(model.parameters()), 1e-3, spared=undecayed(model), wd=0.01)
    generator = torch.Generator().manual_seed(0)

    def step():
        users, items = (torch.randint(1, n, (BS,), generator=generator) for n in (USERS, ITEMS))
        negatives = torch.randint(1, ITEMS, (BS, 1), generator=generator)
        optimiser.zero_grad()
        loss(model(users, items, negatives), torch.zeros(BS, 1)).backward()
        optimiser.step()

    return _cpu_seconds(step, 15) / BS


def _pair() -> float:
    train, n = _events(2_000_000), 512
    model = CollFilter(train.n_users, train.n_items, D).name_rows(train.users, train.items)
    model.trained = True
    rec, users = Recommender(model, Dataset(train)), train.users.ids[:n]
    return _cpu_seconds(lambda: rec.recommend(users, 10)) / (n * train.n_items)


def _gathered() -> float:
    table, idx = torch.randn(USERS, D), torch.randint(0, USERS, (1_000_000,))
    return _cpu_seconds(lambda: table[idx]) / len(idx)


def _exchange() -> float:
    """Bytes a second."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        program, environment = ["-m", "benchmarks.unit_costs", folder], {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *launcher, *program], check=True, env=environment)
        return json.loads((Path(folder) / "0.json").read_text())


def exchange(folder: Path) -> None:
    """All-to-all of 32 MB between two processes."""
    dist.init_process_group("gloo")
    mine, theirs = (torch.zeros(2, 2**22) for _ in range(2))
    seconds = []
    for _ in range(20):
        dist.barrier()
        start = time.perf_counter()
        dist.all_to_all_single(theirs, mine)
        seconds.append(time.perf_counter() - start)
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(4 * 2**22 / median(seconds)))
    dist.destroy_process_group()


if __name__ == "__main__":
    exchange(Path(sys.argv[1]))
