"""`learn.update` with the newest events against none and against a full refit: quality of what follows, and time."""

from __future__ import annotations

from time import process_time

import pandas as pd

from collabkit import EASE, CollabDataLoaders, collab_learner

from .common import ncf_parts, ncf_times, timed, write

SEEDS = (0, 1, 2)
EVENTS = {"user_name": "user", "item_name": "item", "time_name": "time", "feedback": "implicit", "valid_pct": 0}
KINDS = ("fit_als", "bpr", "EASE")


def update() -> None:
    """ML-1M, ratings not looked at, in the order of time: 80 % are trained on, 10 % come later, 10 % are asked for.

    NDCG@10 among all unseen items of the users of the last part whom the first two name; `old_users` are those whom
    the first names, and `no_update` is of these alone, as that model knows no others. The updated model starts from
    the trained one and takes the second part in; the refit is the same recipe on both parts. Seconds are the
    processor's.
    """
    frame = dated()
    first, second = frame[: int(0.8 * len(frame))], frame[int(0.8 * len(frame)) : int(0.9 * len(frame))]
    test = frame[int(0.9 * len(frame)) :]
    test = test[test["user"].isin(pd.concat([first, second])["user"])]
    rows = [_row(kind, seed, first, second, test) for kind in KINDS for seed in (SEEDS if kind != "EASE" else (0,))]
    table = write("update", rows)
    print(table.groupby("model", sort=False).mean(numeric_only=True).drop(columns="seed").round(4).to_string())


def dated() -> pd.DataFrame:
    """The events of ML-1M whose time is known (the training part of the NCF protocol), in the order of time."""
    frame = ncf_parts()[0].assign(time=ncf_times())
    return frame[frame["time"] > 0].sort_values("time", kind="stable")


def _row(kind: str, seed: int, first: pd.DataFrame, second: pd.DataFrame, test: pd.DataFrame) -> dict:
    old = test[test["user"].isin(first["user"])]
    fit_seconds, model = timed(lambda: _fitted(kind, first, seed), process_time)
    figures = {"no_update_old_users": _ndcg(model, old)}
    seconds, updated = timed(lambda: model.update(second), process_time)
    refit_seconds, refit = timed(lambda: _fitted(kind, pd.concat([first, second]), seed), process_time)
    for name, one in (("update", updated), ("refit", refit)):
        figures |= {f"{name}_old_users": _ndcg(one, old), name: _ndcg(one, test)}
    figures["share_of_refit"] = figures["update"] / figures["refit"]
    times = {"fit_seconds": fit_seconds, "update_seconds": seconds, "refit_seconds": refit_seconds}
    times["share_of_time"] = seconds / refit_seconds
    return {"model": kind, "seed": seed} | {name: round(value, 4) for name, value in (figures | times).items()}


def _fitted(kind: str, events: pd.DataFrame, seed: int):
    dls = CollabDataLoaders.from_df(events, seed=seed, bs=4096, n_neg=8, **EVENTS)
    if kind == "EASE":
        return EASE().fit(dls)
    learn = collab_learner(dls, n_factors=64, **({} if kind == "fit_als" else {"loss_func": kind}))
    with learn.no_bar(), learn.no_logging():
        learn.fit_als(12, reg=0.02, unobserved_weight=0.2) if kind == "fit_als" else learn.fit_one_cycle(
            12, 1e-2, wd=0.1
        )
    return learn


def _ndcg(model, test: pd.DataFrame) -> float:
    return float(model.evaluate(on=test, metrics=["NDCG"], n_boot=1)["value"].iloc[0])
