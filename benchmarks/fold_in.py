"""New users folded in: quality by the number of ratings or events known, against a full refit, and speed."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from collabkit import CollabDataLoaders, collab_learner, splits
from collabkit.coldstart.fold_in import FoldIn
from collabkit.evaluate.new_users import NewUserRows, evaluate_fold_in
from collabkit.evaluate.tables import predict_ratings
from collabkit.train.recipes import QUALITY_1M, QUALITY_100K

from .common import NAMES, fit, ratings, timed, write

SEEDS = (0, 1, 2)
N_GIVEN = (1, 3, 5, 10, 20)
RECIPE = replace(QUALITY_100K, bs=512, wd=0.8)
EVENTS = {"user_name": "user", "item_name": "item", "feedback": "implicit"}


def fold_in() -> None:
    """RMSE on the same rest of held-out users' ratings (ML-100k, a tenth of the users), by how many are given.

    `full refit`: the model trained anew on the training part and all held-out users' given ratings.
    """
    rows = []
    frame = ratings("100k")
    for seed in SEEDS:
        dls = CollabDataLoaders.from_df(
            frame, splitter=splits.cold_users(0.1, seed=seed), seed=seed, bs=RECIPE.bs, **NAMES
        )
        learn = fit(dls, RECIPE, seed=seed)
        train, test = dls.train.dataset, dls.valid.dataset
        table = evaluate_fold_in(FoldIn(learn.model, dls.data), test, n_given=N_GIVEN, seed=seed)
        users = NewUserRows(train, test, max(N_GIVEN), seed)
        for n, row in table.iterrows():
            refit = _refit_rmse(train, users, int(n), seed) if n else np.nan
            errors = {"fold-in": row["RMSE"], **row[["no information", "item mean"]], "full refit": refit}
            errors["ratio to item mean"] = row["RMSE"] / row["item mean"]
            sizes = {"n_users": int(row["n_users"]), "n_ratings": int(row["n_ratings"])}
            rows.append({"seed": seed, "n_given": n, **{k: round(v, 4) for k, v in errors.items()}, **sizes})
    table = write("fold_in", rows)
    print(table.groupby("n_given").mean().drop(columns="seed").round(4).to_string())


def _refit_rmse(train, users: NewUserRows, n: int, seed: int) -> float:
    """RMSE on the rest of a model that was trained on `n` ratings of each newcomer too."""
    given, rest = (_frame(train, users, rows) for rows in (users.place < n, users.is_rest))
    known = pd.concat([train.to_df(), given], ignore_index=True)
    dls = CollabDataLoaders.from_dfs(known, rest, seed=seed, bs=RECIPE.bs, **NAMES)
    learn = fit(dls, RECIPE, seed=seed)
    valid = dls.valid.dataset
    errors = predict_ratings(learn.model.eval(), valid.user_idx, valid.item_idx) - valid.rating
    return float(errors.square().mean().sqrt())


def _frame(train, users: NewUserRows, rows: torch.Tensor) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user": train.users.decode(users.users[users.group[rows]].numpy()),
            "item": train.items.decode(users.items[rows].numpy()),
            "rating": users.rating[rows].numpy(),
        }
    )


def fold_in_events() -> None:
    """The same from events (ML-100k, ratings not looked at): the rest among all items less the given ones."""
    rows = []
    for name in ("bce", "bpr", "softmax", "fit_als"):
        for seed in SEEDS:
            table = evaluate_fold_in(*_event_model(name, seed), n_given=N_GIVEN, seed=seed)
            rows += [{"model": name, "seed": seed, "n_given": n, **row.round(4)} for n, row in table.iterrows()]
    table = write("fold_in_events", rows)
    print(table.groupby(["model", "n_given"], sort=False).mean().drop(columns="seed").round(4).to_string())


def _event_model(name: str, seed: int):
    frame, splitter = ratings("100k")[["user", "item"]], splits.cold_users(0.1, seed=seed)
    dls = CollabDataLoaders.from_df(frame, splitter=splitter, seed=seed, bs=1024, n_neg=8, **EVENTS)
    loss = {} if name == "fit_als" else {"loss_func": name}
    learn = collab_learner(dls, n_factors=64, init_std=0.01, **loss)
    with learn.no_bar(), learn.no_logging():
        if name == "fit_als":
            learn.fit_als(12, reg=0.02, unobserved_weight=0.2)
        else:
            learn.fit_one_cycle(12, 5e-3, wd=0.1)
    return FoldIn(learn.model, dls.data), dls.data.valid


def fold_in_speed() -> None:
    """`Recommender.recommend(history=...)`, ML-1M, top 10, one core: ms a new user, singly and 10,000 in one call."""
    torch.set_num_threads(1)
    rows = []
    for name in ("ratings", "events"):
        recommender = _speed_model(name).recommender
        seconds, _ = timed(lambda recommender=recommender: recommender.fold.solver)
        for n in (5, 20):
            one, many = _speeds(recommender, n)
            figures = {"one_by_one_ms": round(1000 * one, 2), "at_once_ms": round(1000 * many, 3)}
            rows.append(
                {
                    "model": name,
                    "n_given": n,
                    "build_seconds": round(seconds, 1),
                    **figures,
                    "ratio": round(one / many, 1),
                }
            )
    write("fold_in_speed", rows)


def _speed_model(name: str):
    frame = ratings("1m")
    if name == "ratings":
        dls = CollabDataLoaders.from_df(frame, valid_pct=0.1, seed=0, bs=QUALITY_1M.bs, **NAMES)
        return fit(dls, replace(QUALITY_1M, n_epoch=2))
    dls = CollabDataLoaders.from_df(frame[["user", "item"]], valid_pct=0.1, seed=0, bs=8192, **EVENTS)
    learn = collab_learner(dls, n_factors=128)
    with learn.no_bar(), learn.no_logging():
        learn.fit_als(4)
    return learn


def _speeds(recommender, n: int, n_users: int = 10_000, n_single: int = 200, n_repeats: int = 3) -> tuple[float, float]:
    """Seconds a user of `n` known items, one by one and in one call of `n_users`: medians, measured in turn."""
    rng = np.random.default_rng(0)
    ids = np.asarray(recommender.items.ids)
    items = np.concatenate([rng.choice(ids, n, replace=False) for _ in range(n_users)])
    table = pd.DataFrame({"user": np.repeat(10**6 + np.arange(n_users), n), "item": items})
    rated = recommender.train.rating is not None
    if rated:
        table["rating"] = rng.integers(1, 6, len(table)).astype(float)
    own = [table.iloc[j * n : (j + 1) * n] for j in range(n_single)]
    histories = [dict(zip(t["item"], t["rating"], strict=True)) if rated else t["item"].tolist() for t in own]
    single, many = [], []
    for _ in range(n_repeats):
        single += [timed(lambda h=h: recommender.recommend(history=h, k=10))[0] for h in histories]
        many.append(timed(lambda: recommender.recommend(history=table, k=10))[0] / n_users)
    return statistics.median(single), statistics.median(many)
