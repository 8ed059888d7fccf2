"""`evaluate` over all users and items of ML-1M, leave-one-out, against the bare matrix product."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pandas as pd
import torch

from collabkit import NDCG, CollabDataLoaders, CollFilter, HitRate, Interactions, Recommender, collab_learner
from collabkit.data.interactions import Columns
from collabkit.retrieval.ranking import block_size

from .common import interleaved, median_seconds, ncf_parts, timed, write
from .ranking_speed import epoch_seconds

REPEATS = 25


def evaluate_speed() -> None:
    """Default metrics at k=10 with intervals and popularity, d=64, against the blocked product of all vectors.

    The first call also sorts the training pairs, which later calls on the same data find sorted.
    """
    rec, rows = _recommender(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        fresh = Recommender(rec.model, replace(rec.train), replace(rec.valid))
        seconds_first = median_seconds(interleaved({"first": fresh.evaluate}, 1)["first"])
        functions = {"matmul": lambda: _bare(rec.model), "evaluate": rec.evaluate}
        runs = interleaved(functions, REPEATS)
        limit = median_seconds(runs["matmul"])
        for name, seconds in (*((name, median_seconds(done)) for name, done in runs.items()), ("first", seconds_first)):
            row = {"threads": threads, "what": name, "milliseconds": round(1000 * seconds, 1)}
            rows.append({**row, "times_matmul": round(seconds / limit, 2)})
    write("evaluate_speed", rows)


def metrics_in_fit() -> None:
    """Seconds of a validation with HitRate(10) and NDCG(10) of all items, beside a training epoch of BPR at d=64."""
    torch.set_num_threads(2)
    train, test, _ = ncf_parts()
    dls = CollabDataLoaders.from_dfs(train, test, feedback="implicit", n_neg=1, bs=16_384, seed=0)
    learn = collab_learner(dls, n_factors=64, loss_func="bpr", metrics=[HitRate(10), NDCG(10)])
    learn.logger = lambda *_: None
    with learn.no_bar():
        functions = {"training epoch": lambda: epoch_seconds(learn), "validation": lambda: timed(learn.validate)[0]}
        seconds = {name: [function() for _ in range(9)][2:] for name, function in functions.items()}
    epoch = median(seconds["training epoch"])
    rows = [{"what": name, "seconds": round(median(v), 3)} for name, v in seconds.items()]
    write("metrics_in_fit", [{**row, "share_of_epoch": round(row["seconds"] / epoch, 2)} for row in rows])


def _recommender() -> Recommender:
    train, test, _ = ncf_parts()
    data = Interactions.from_df(pd.concat([train, test], ignore_index=True), Columns("user", "item"))
    parts = data.take(range(len(train))), data.take(range(len(train), len(data)))
    return Recommender(CollFilter(data.n_users, data.n_items, 64), *parts)


@torch.inference_mode()
def _bare(model) -> None:
    users = model.user_vectors(torch.arange(1, model.n_users))
    items = model.item_vectors(torch.arange(1, model.n_items)).T.contiguous()
    parts = users.split(block_size(model.n_items - 1, "512MB"))
    buffer = items.new_empty(len(parts[0]), items.shape[1])
    for part in parts:
        torch.mm(part, items, out=buffer[: len(part)])
