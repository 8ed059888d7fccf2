"""A contributed model at work: LightGCN, as in tests/contributed, on Gowalla with all items ranked."""

from __future__ import annotations

import sys
from pathlib import Path

from collabkit import CollabDataLoaders, collab_learner

from .common import timed, write
from .gowalla import NoValidation, read, scores, validation_tenth

RECIPE = {"n_neg": 8192, "bs": 1024, "lr": 2e-2, "n_epoch": 16}
CANDIDATES = [{**RECIPE, "lr": 5e-2}, RECIPE]


def lightgcn_pick() -> None:
    """Recall@20 and NDCG@20 of candidate recipes on a tenth of each user's training items (at least one)."""
    train = read("train")
    held = validation_tenth(train)
    write("lightgcn_pick", [{**recipe, **_run(train[~held], train[held], recipe)} for recipe in CANDIDATES])


def lightgcn() -> None:
    """Recall@20 and NDCG@20 on the test part, d = 64, three layers, a softmax over shared negatives; one seed."""
    write("lightgcn", [{"model": "LightGCN, d=64, 3 layers", **_run(read("train"), read("test"), RECIPE)}])


def _run(train, valid, recipe: dict) -> dict:
    folder = Path(__file__).resolve().parents[1] / "tests"
    sys.path[:0] = [str(folder), str(folder / "contributed")]
    from test_lightgcn import LightGCN

    options = {"negatives": "shared", "by_user": True, "n_neg": recipe["n_neg"], "bs": recipe["bs"], "seed": 0}
    dls = CollabDataLoaders.from_dfs(train, valid, feedback="implicit", **options)
    learn = collab_learner(dls, 64, model=LightGCN, loss_func="softmax")
    with learn.no_bar(), learn.no_logging():
        seconds, _ = timed(lambda: learn.fit_one_cycle(recipe["n_epoch"], recipe["lr"], wd=0.0, cbs=NoValidation()))
    return {**scores(learn), "fit_seconds": round(seconds)}
