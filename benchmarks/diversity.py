"""What diverse lists cost: NDCG against diversity, and time; what a past item's share costs and how well it orders."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau

from collabkit import EASE, CollabDataLoaders, CollFilter, collab_learner, datasets, splits
from collabkit.coldstart.fold_in.ratings import histories_of
from collabkit.data.query import Query
from collabkit.data.runs import Runs

from .common import data_folder, interleaved, median_seconds, write

NAMES = {"user_name": "user", "item_name": "title", "seed": 0}
VALUES = (0.1, 0.2, 0.3, 0.5)


def _dls(**kwargs) -> CollabDataLoaders:
    """ML-1M, every rating an event, a fifth of them at random as the validation part."""
    data = datasets.movielens("ml-1m", data_folder())
    options = {**NAMES, "items": data.items, **kwargs}
    options["item_features"] = {"genres": "multi"}
    return CollabDataLoaders.from_df(data.ratings, **options)


def diversity() -> None:
    """The curve on the validation part of ML-1M, by the model's vectors and by genres."""
    dls = _dls(feedback="implicit")
    plain = CollabDataLoaders.from_df(datasets.movielens("ml-1m", data_folder()).ratings, feedback="implicit",
                                      **NAMES)  # fmt: skip
    als = collab_learner(plain, model=CollFilter, n_factors=64, loss_func="bpr", seed=0)
    with als.no_bar(), als.no_logging():
        als.fit_als(8)
    ease, rows = EASE().fit(dls), []
    for label, rec in (("EASE", ease.recommender), ("least squares", als.recommender)):
        for by in ("vectors", "genres") if label == "EASE" else ("vectors",):
            table = rec.tradeoff("diversity", VALUES, diversify_by=by if by == "vectors" else dls.data.features.items)
            free = table.attrs["free"]
            for value, row in table.reset_index().set_index("diversity", drop=False).iterrows():
                found = {"model": label, "by": by, **row.round(4).to_dict(), "no loss shows": value <= free}
                rows.append(found)
    write("diversity", rows)


def diversity_speed() -> None:
    """Top 10 of 10,000 users (ML-1M's, some of them twice) as they are, diverse, and with the past item behind each."""
    dls = _dls(feedback="implicit")
    learn = collab_learner(dls, model=CollFilter, n_factors=64, loss_func="bpr", seed=0)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2)
    ease = EASE().fit(dls).recommender
    users = np.resize(np.asarray(dls.data.users.ids), 10_000)
    ways = {"as they are": {}, "diverse, by vectors": {"diversity": 0.3}}
    ways |= {"diverse, by genres": {"diversity": 0.3, "diversify_by": "genres"}, "because of": {"why": True}}
    rows = []
    for label, rec in (("dot product", learn.recommender), ("EASE", ease)):
        calls = {way: (lambda rec=rec, options=options: rec.recommend(users, k=10, **options))
                 for way, options in ways.items() if way != "because of" or label == "EASE"}  # fmt: skip
        for options in ways.values():
            rec.recommend(users[:100], k=10, **options)  # what is kept from one call to the next
        runs = interleaved(calls, 3 if label == "dot product" else 1)
        plain = median_seconds(runs["as they are"])
        for way, timed in runs.items():
            seconds = median_seconds(timed)
            rows.append({"model": label, "lists": way, "ms a user": round(seconds / 10, 4),
                         "times as long": round(seconds / plain, 2)})  # fmt: skip
    write("diversity_speed", rows)


def shares() -> None:
    """Kendall's tau between shares of past items and what leaving one out does, ML-latest-small, 40 users, 5 items."""
    data = datasets.movielens("ml-latest-small", data_folder())
    names = {**NAMES, "time_name": "timestamp", "splitter": splits.leave_last_out()}
    rated = CollabDataLoaders.from_df(data.ratings, rating_name="rating", **names)
    events = CollabDataLoaders.from_df(data.ratings, feedback="implicit", **names)
    learners = {
        "ratings, dot product": collab_learner(rated, n_factors=32, y_range=(0, 5.5), seed=0),
        "events, bpr": collab_learner(events, model=CollFilter, n_factors=32, loss_func="bpr", seed=0),
        "events, least squares": collab_learner(events, model=CollFilter, n_factors=32, loss_func="bpr", seed=0),
    }
    rows = []
    for label, learn in learners.items():
        with learn.no_bar(), learn.no_logging():
            if "squares" in label:
                learn.fit_als(8)
            else:
                learn.fit_one_cycle(3, 2e-2, wd=0.1)
        rec = learn.recommender
        users = rec.users.decode(np.random.default_rng(0).choice(len(rec.users) - 1, 40, replace=False) + 1)
        taus, rest = zip(*(pair for user in users for pair in _taus(rec, user)), strict=True)
        rows.append({"model": label, "tau": round(float(np.nanmean(taus)), 3),
                     "its lower tenth": round(float(np.nanquantile(taus, 0.1)), 3),
                     "share of scores left for rest": round(float(np.median(rest)), 3)})  # fmt: skip
    write("shares", rows)


def _taus(rec, user, n: int = 50):
    """For five items, tau over the user's last `n` events, and how much of the score is left for `rest`."""
    listed = rec.recommend(user, k=5)
    told = histories_of(rec.data.trained, torch.from_numpy(rec.users.encode([user])))[0].last(n)
    names = rec.items.decode(told.values.numpy()).tolist()
    for item in listed["title"]:
        table = rec.why(user, item)
        rest = abs(table["share"].iloc[-1] / table.attrs["score"])
        events = pd.DataFrame({"user": user, "title": names})
        if told.weight is not None:
            events["rating"] = told.weight.numpy()
        shares = rec.why(history=events, item=item)
        shares = shares[shares["part"] == "history"].set_index("title")["share"]
        falls = _falls(rec, told, rec.items.encode([item]))
        yield kendalltau(falls, shares[names]).statistic, rest


@torch.no_grad()
def _falls(rec, told: Runs, item: np.ndarray) -> np.ndarray:
    """By how much the score of an item falls without each event, the user folded in anew."""
    m = len(told.values)
    others = ~torch.eye(m, dtype=torch.bool)
    start = torch.tensor([0, *np.cumsum([m, *[m - 1] * m])])
    pick = lambda part: None if part is None else torch.cat([part, part.expand(m, m)[others]])  # noqa: E731
    rows = rec.fold.rows(Runs(start, pick(told.values), told.width, pick(told.weight)))
    query = Query(torch.zeros(m + 1, dtype=torch.int64), rows=tuple(rows))
    scores = rec.model.score(query, torch.from_numpy(item).expand(m + 1)).double()
    return (scores[0] - scores[1:]).numpy()
