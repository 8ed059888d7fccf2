"""Which index pays: exact search and faiss on vectors of models of Gowalla, and on a million that are generated."""

from __future__ import annotations

import numpy as np
import torch

from collabkit import CollabDataLoaders, collab_learner
from collabkit.retrieval.pick_index import pick_index

from .common import write
from .gowalla import RECIPE, _fit, read

SECONDS = 150  # that building one index may take


def indexes() -> None:
    """`use_index('auto')`: recall@10 of exact search, and milliseconds a query in batches of 32 and one at a time.

    `short` lists are those that the index alone leaves short, as seen items are hidden; they are searched exactly, and
    the times include it. Gowalla, LightGCN's training part: ALS (d=64, 5 sweeps) and two towers (d=64, cosine with item
    bias, 6 epochs, so far from trained out), 1,000 users, seed 0. Generated: a million vectors (d=64) around 2,000
    centres, 200 queries. What takes longer to build than 150 seconds, 600 for the million, is left out. One
    thread, of a machine that others used too: compare times within one set of vectors alone.
    """
    train, test = read("train"), read("test")
    als = collab_learner(CollabDataLoaders.from_dfs(train, test, feedback="implicit", seed=0), 64)
    with als.no_bar(), als.no_logging():
        als.fit_als(5, reg=0.01, unobserved_weight=0.1)
    rows = _rows("Gowalla, ALS", als.recommender)
    tower = _fit(train, test, {**RECIPE, "n_neg": 2048, "n_epoch": 6})
    rows += _rows("Gowalla, towers", tower.recommender)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2000, 64)).astype(np.float32)
    vectors, queries = (
        torch.from_numpy(centres[rng.integers(0, 2000, n)] + rng.normal(size=(n, 64)).astype(np.float32) * 0.5)
        for n in (1_000_001, 200)
    )
    report = pick_index(vectors, queries, None, seconds=4 * SECONDS).report
    write("indexes", rows + _table("a million, generated", report))


def _rows(name: str, recommender) -> list[dict]:
    recommender.use_index("auto", seconds=SECONDS)
    return _table(name, recommender.index_report())


def _table(name: str, report) -> list[dict]:
    told = report.drop(columns="note").astype(object).where(report.drop(columns="note").notna(), "")
    rows = told.reset_index().assign(note=report["note"].to_numpy()).to_dict("records")
    for row in rows:
        row["effort"] = row["effort"] if row["effort"] == "" else int(row["effort"])
        row["note"] = "chosen" if row["index"] == report.attrs["chosen"] else row["note"]
    return [{"vectors": name, **row} for row in rows]
