"""Seconds per sweep of implicit ALS on ML-1M: `collabkit.train.als` against the `implicit` library, interleaved."""

from __future__ import annotations

import time
from statistics import median

import torch

from collabkit.data.interactions import Columns, Interactions
from collabkit.train.als import ALSSolver

from .common import data_folder, ncf_parts, write
from .peers import peer

FACTORS = (64, 192)
THREADS = (1, 2)
REPEATS = 15
WARM_UP = 3  # sweeps not counted: first calls start threads and allocate
REG, UNOBSERVED_WEIGHT = 0.007, 0.3

# Runs in implicit's environment. A request is a line with the number of factors; the reply is the seconds of one sweep,
# taken by the library itself around its two half sweeps. The vectors are kept from one request to the next.
_SERVER = """
import sys
import numpy as np
import scipy.sparse
from implicit.als import AlternatingLeastSquares

path, threads = sys.argv[1], int(sys.argv[2])
rows = np.loadtxt(path, dtype=np.int64, usecols=(0, 1))
matrix = scipy.sparse.csr_matrix((np.ones(len(rows), np.float32), (rows[:, 0], rows[:, 1])))
models = {}
print("ready", flush=True)
for line in sys.stdin:
    d = int(line)
    if d not in models:
        models[d] = AlternatingLeastSquares(factors=d, iterations=1, num_threads=threads, random_state=0)
    seconds = []
    models[d].fit(matrix, show_progress=False, callback=lambda iteration, elapsed, loss: seconds.append(elapsed))
    print(seconds[0], flush=True)
"""


def als_sweep() -> None:
    """Median seconds of one ALS sweep (users and items, 3 steps of conjugate gradients) on ML-1M, interleaved."""
    path = data_folder() / "ml-1m-ncf" / "ml-1m.train.rating"
    train = Interactions.from_df(ncf_parts()[0], Columns("user", "item"))
    solver = ALSSolver(train, reg=REG, unobserved_weight=UNOBSERVED_WEIGHT)
    rows = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        with peer(_SERVER, str(path), threads=threads) as ask:
            for d in FACTORS:
                runs = _interleaved(solver, d, ask)
                theirs = median(runs["implicit"])
                for name, seconds in runs.items():
                    rows.append(
                        {
                            "threads": threads,
                            "n_factors": d,
                            "library": name,
                            "seconds_a_sweep": round(median(seconds), 4),
                            "times_implicit": round(median(seconds) / theirs, 2),
                        }
                    )
    write("als_sweep", rows)


def _interleaved(solver: ALSSolver, d: int, ask) -> dict[str, list[float]]:
    """Seconds of `REPEATS` sweeps of each library in turn, after the warm-up."""
    P, Q = solver.init_tables(d, seed=0)
    runs: dict[str, list[float]] = {"implicit": [], "collabkit": []}
    for _ in range(WARM_UP + REPEATS):
        runs["implicit"].append(ask(str(d))[0])
        start = time.perf_counter()
        solver.solve_users(P, Q)
        solver.solve_items(P, Q)
        runs["collabkit"].append(time.perf_counter() - start)
    return {name: seconds[WARM_UP:] for name, seconds in runs.items()}
