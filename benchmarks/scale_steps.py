"""A training step beside the size of the tables, each model; and where sparse steps begin to pay."""

from __future__ import annotations

import gc
import statistics
import time

import torch

from collabkit.losses import RankingLoss
from collabkit.models import GMF, NCF, CollFilter, NeuMF, TwoTower
from collabkit.train.optim import TableAdamW, undecayed

from .common import write

BS, D, N_NEG = 8192, 64, 4
SIZES = (10_000, 100_000, 1_000_000, 5_000_000)
MODELS = {
    "CollFilter": lambda n, m: CollFilter(n, m, D),
    "TwoTower": lambda n, m: TwoTower(n, m, D, layers=[64]),
    "GMF": lambda n, m: GMF(n, m, D),
    "NCF": lambda n, m: NCF(n, m, D, layers=[64, 32]),
    "NeuMF": lambda n, m: NeuMF(n, m, D // 2, layers=[64, 32]),
}


def steps(sizes=SIZES, repeats: int = 9) -> None:
    """Milliseconds of a step at batch 8,192 with 4 negatives a row and d=64; as many users as items share the rows.

    One thread, seconds of the processor: other programs of the machine do not count.
    """
    torch.set_num_threads(1)
    rows = []
    for name, make in MODELS.items():
        for n in sizes:
            model = make(n // 2, n // 2)
            row = {"model": name, "rows": n, "auto_ms": _milliseconds(model.set_sparse("auto"), repeats)}
            if n <= 1_000_000:
                row["sparse_ms"] = _milliseconds(model.set_sparse(True), repeats)
                row["dense_ms"] = _milliseconds(model.set_sparse(False), repeats)
            del model
            gc.collect()
            rows.append(row)
    least = {}
    for row in rows:
        row["times_smallest"] = round(row["auto_ms"] / least.setdefault(row["model"], row["auto_ms"]), 2)
    write("scale_steps", rows)


def _milliseconds(model, repeats: int) -> float:
    loss, generator = RankingLoss("bpr"), torch.Generator().manual_seed(0)
    optimiser, seconds = TableAdamW(list(model.parameters()), 1e-3, spared=undecayed(model), wd=0.01), []
    model.train()
    n, m = model.n_users, model.n_items
    for _ in range(repeats + 2):
        users = torch.randint(1, n, (BS,), generator=generator)
        positives = torch.randint(1, m, (BS,), generator=generator)
        negatives = torch.randint(1, m, (BS, N_NEG), generator=generator)
        start = time.process_time()
        loss(model(users, positives, negatives), torch.zeros(BS, 1)).backward()
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.process_time() - start)
    return round(1000 * statistics.median(seconds[2:]), 1)
