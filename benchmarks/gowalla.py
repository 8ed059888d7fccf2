"""Ranking quality on Gowalla (LightGCN's split), all items ranked: two towers by a softmax over shared negatives."""

from __future__ import annotations

import gc

import numpy as np
import pandas as pd
from fastai.callback.core import Callback, CancelValidException

from collabkit import CollabDataLoaders, Popularity, TwoTower, collab_learner

from .common import data_folder, timed, write

RECIPE = {"tau": 0.1, "n_neg": 16_384, "bs": 512, "lr": 2e-2, "wd": 0.0, "n_epoch": 100, "item_bias": True}
CANDIDATES = [
    {**RECIPE, "n_neg": 8192, "n_epoch": 40},
    {**RECIPE, "n_neg": 8192, "n_epoch": 40, "item_bias": False},
    {**RECIPE, "n_neg": 8192, "n_epoch": 40, "tau": 0.13},
    {**RECIPE, "n_neg": 8192, "n_epoch": 40, "wd": 0.2},
    RECIPE,
]


def gowalla_pick() -> None:
    """Recall@20 and NDCG@20 of candidate recipes on a tenth of each user's training items (at least one)."""
    train = read("train")
    held = validation_tenth(train)
    rows = []
    for recipe in CANDIDATES:
        gc.collect()
        seconds, learn = timed(lambda recipe=recipe: _fit(train[~held], train[held], recipe))
        rows.append({**recipe, **scores(learn), "fit_seconds": round(seconds)})
    write("gowalla_pick", rows)


def gowalla() -> None:
    """Recall@20 and NDCG@20 on the test part, trained on the whole training part by the picked recipe; one seed."""
    train, test = read("train"), read("test")
    seconds, learn = timed(lambda: _fit(train, test, RECIPE))
    rows = [{"model": "TwoTower, d=64", **scores(learn), "fit_seconds": round(seconds)}]
    seconds, baseline = timed(lambda: Popularity().fit(learn))
    rows.append({"model": "popularity", **scores(baseline), "fit_seconds": round(seconds)})
    write("gowalla", rows)


class NoValidation(Callback):
    """Leave the validation out: the test part is looked at once, after the fit."""

    order = -50

    def before_validate(self):
        raise CancelValidException


def _fit(train: pd.DataFrame, valid: pd.DataFrame, recipe: dict):
    """A learner with 64 factors, seed 0."""
    options = {"negatives": "shared", "by_user": True, "n_neg": recipe["n_neg"], "bs": recipe["bs"], "seed": 0}
    dls = CollabDataLoaders.from_dfs(train, valid, feedback="implicit", **options)
    tower = {"similarity": "cosine", "temperature": recipe["tau"], "item_bias": recipe["item_bias"], "init_std": 0.1}
    learn = collab_learner(dls, 64, model=TwoTower, loss_func="softmax", **tower)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(recipe["n_epoch"], recipe["lr"], wd=recipe["wd"], cbs=NoValidation())
    return learn


def validation_tenth(train: pd.DataFrame) -> np.ndarray:
    """Which rows `(n,)` are held out: a tenth of each user's, at least one."""
    order = pd.Series(np.random.default_rng(123).random(len(train))).groupby(train["user"].to_numpy()).rank()
    size = train.groupby("user")["item"].transform("size").to_numpy()
    return (order.to_numpy() <= np.maximum(1, np.round(0.1 * size))) & (size > 1)


def scores(model) -> dict[str, float]:
    table = model.evaluate(k=20, metrics=["Recall", "NDCG"], n_boot=1)
    return {name: round(table.loc[name, "value"], 4) for name in ("Recall@20", "NDCG@20")}


def read(part: str) -> pd.DataFrame:
    lines = (data_folder() / "gowalla" / f"{part}.txt").read_text().splitlines()
    rows = [(int(user), int(item)) for user, *items in map(str.split, lines) for item in items]
    return pd.DataFrame(rows, columns=["user", "item"])
