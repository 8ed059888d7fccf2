"""Tables in shards on two processes of one thread each, beside plain tables in one of one thread.

`python -m benchmarks.shards FOLDER` is what a process does; torchrun's launcher starts it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch

from collabkit import CollabDataLoaders, collab_learner
from collabkit.data.processes import launched

from .common import write
from .several_processes import quiet

IDS, ROWS, BS, D, REPEATS = 400_000, 800_000, 8192, 64, 5


def shards() -> None:
    """A training step (BPR, one negative, d=64, batch 8,192, users and items of 400,000 ids each, drawn evenly) of plain tables in one process and of shards on two, in turn, medians of five epochs of 98 steps; bytes of tables and Adam's moments; bytes of rows and gradients that a process sends a step, by count of the rows."""  # noqa: E501
    if importlib.util.find_spec("torchrec") is None:
        print("shards: left out, TorchRec is not installed (requirements-torchrec.txt)")
        return
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        program, environment = ["-m", "benchmarks.shards", folder], {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *launcher, *program], check=True, env=environment)
        found = json.loads((Path(folder) / "0.json").read_text())
    rows = [
        {
            "tables": name,
            "ms a step": round(1000 * median(found[name]["seconds"]) / found["steps"], 1),
            "MB held a process": round(found[name]["bytes"] / 1e6),
            "MB sent a step": round(found[name]["sent"] / 1e6, 1),
        }
        for name in ("plain, one process", "shards, two")
    ]
    write("shards", rows)


def measure(folder: Path) -> None:
    """Both ways in turn; the second process waits where the first trains alone."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"user": rng.integers(0, IDS, ROWS), "item": rng.integers(0, IDS, ROWS)}).drop_duplicates()
    dls = CollabDataLoaders.from_df(table, user_name="user", item_name="item", feedback="implicit", n_neg=1, bs=BS,
                                    valid_pct=0, seed=0)  # fmt: skip
    options = {"n_factors": D, "loss_func": "bpr"}
    ways = {
        "plain, one process": quiet(collab_learner(dls, **options, sparse=True)),
        "shards, two": quiet(collab_learner(dls, **options, sharded=True)),
    }
    found: dict = {name: {"seconds": [], "sent": 0.0} for name in ways}
    (plain, sharded), n = ways.values(), launched()[1]
    for _ in range(1 + REPEATS):
        if launched()[0] == 0:
            found["plain, one process"]["seconds"].append(_epoch(plain))
        with sharded.distrib_ctx():
            found["shards, two"]["seconds"].append(_epoch(sharded))
    for name, learn in ways.items() if launched()[0] == 0 else ():
        states = [state for p in learn.model.parameters() for state in learn.opt.opt.state.get(p, {}).values()]
        found[name]["bytes"] = sum(part.untyped_storage().nbytes() for part in (*learn.model.parameters(), *states))
        found[name]["seconds"] = found[name]["seconds"][1:]
    asked = 3 * BS / n  # a user, a positive and a negative a row, nearly all of them different
    found["shards, two"]["sent"] = asked * (n - 1) / n * (8 + 2 * 4 * (D + 1))  # an id, a row there, a gradient back
    found["steps"] = len(dls.train)
    (folder / f"{launched()[0]}.json").write_text(json.dumps(found))


def _epoch(learn) -> float:
    """Seconds of an epoch's batches alone."""
    seconds = []
    train = learn._do_epoch_train

    def timed():
        start = time.perf_counter()
        train()
        seconds.append(time.perf_counter() - start)

    learn._do_epoch_train = timed
    try:
        learn.fit(1, 1e-3)
    finally:
        learn._do_epoch_train = train
    return seconds[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    measure(Path(sys.argv[1]))
