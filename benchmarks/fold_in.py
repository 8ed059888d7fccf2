"""New users folded in: quality by the number of ratings or events known, against a full refit, and speed."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from collabkit import CollabDataLoaders, collab_learner, splits
from collabkit.evaluate.fold_in import Newcomers, evaluate_fold_in
from collabkit.evaluate.tables import predict_ratings
from collabkit.fold_in import FoldIn
from collabkit.recipes import QUALITY_1M, QUALITY_100K

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
        table = evaluate_fold_in(FoldIn(learn.model, train), test, n_given=N_GIVEN, seed=seed)
        users = Newcomers(train, test, max(N_GIVEN), seed)
        for n, row in table.iterrows():
            refit = _refit_rmse(train, users, int(n), seed) if n else np.nan
            errors = {"fold-in": row["RMSE"], **row[["no information", "item mean"]], "full refit": refit}
            errors["ratio to item mean"] = row["RMSE"] / row["item mean"]
            sizes = {"n_users": int(row["n_users"]), "n_ratings": int(row["n_ratings"])}
            rows.append({"seed": seed, "n_given": n, **{k: round(v, 4) for k, v in errors.items()}, **sizes})
    table = write("fold_in", rows)
    print(table.groupby("n_given").mean().drop(columns="seed").round(4).to_string())


def _refit_rmse(train, users: Newcomers, n: int, seed: int) -> float:
    """RMSE on the rest of a model that was trained on `n` ratings of each newcomer too."""
    given, rest = (_frame(train, users, rows) for rows in (users.place < n, users.is_rest))
    known = pd.concat([train.to_df(), given], ignore_index=True)
    dls = CollabDataLoaders.from_dfs(known, rest, seed=seed, bs=RECIPE.bs, **NAMES)
    learn = fit(dls, RECIPE, seed=seed)
    valid = dls.valid.dataset
    errors = predict_ratings(learn.model.eval(), valid.user_idx, valid.item_idx) - valid.rating
    return float(errors.square().mean().sqrt())


def _frame(train, users: Newcomers, rows: torch.Tensor) -> pd.DataFrame:
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
    return FoldIn(learn.model, dls.train.dataset), dls.valid.dataset


def fold_in_speed() -> None:
    """Milliseconds a new user, row and top 10, one by one (median) and 10,000 at once; ML-1M, one core."""
    torch.set_num_threads(1)
    rows = []
    for name in ("ratings", "events"):
        folder, train = _speed_model(name)
        rows += _speed_rows(name, folder, train)
    write("fold_in_speed", rows)


def _speed_model(name: str):
    frame = ratings("1m")
    if name == "ratings":
        dls = CollabDataLoaders.from_df(frame, valid_pct=0.1, seed=0, bs=QUALITY_1M.bs, **NAMES)
        learn = fit(dls, replace(QUALITY_1M, n_epoch=2))
    else:
        dls = CollabDataLoaders.from_df(frame[["user", "item"]], valid_pct=0.1, seed=0, bs=8192, **EVENTS)
        learn = collab_learner(dls, n_factors=128)
        with learn.no_bar(), learn.no_logging():
            learn.fit_als(4)
    return FoldIn(learn.model, dls.train.dataset), dls.train.dataset


def _speed_rows(name: str, folder: FoldIn, train, n_users: int = 10_000) -> list[dict]:
    rng, found = torch.Generator().manual_seed(0), []
    build = timed(lambda: folder.solver)[0]
    for n in (5, 20):
        items = torch.randint(1, train.n_items, (n_users * n,), generator=rng)
        values = None if train.rating is None else torch.randint(1, 6, (n_users * n,), generator=rng).float()

        def answer(first: int, count: int, n=n, items=items, values=values):
            own = slice(first * n, (first + count) * n)
            start = torch.arange(count + 1) * n
            rows = folder.rows(start, items[own], None if values is None else values[own])
            for part in zip(*(table.split(256) for table in rows), strict=True):
                folder.logits(list(part)).topk(10, dim=1)

        single = []
        for user in range(200):
            begin = time.perf_counter()
            answer(user, 1)
            single.append(time.perf_counter() - begin)
        one, many = statistics.median(single), timed(lambda answer=answer: answer(0, n_users))[0] / n_users
        row = {
            "one_by_one_ms": round(1000 * one, 3),
            "at_once_ms": round(1000 * many, 4),
            "ratio": round(one / many, 1),
        }
        found.append({"model": name, "n_given": n, "build_seconds": round(build, 1), **row})
    return found
