"""What the moment and the time of a row tell: ratings with biases in time, and YouTube's candidate generation."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from collabkit import (
    CollabDataLoaders,
    CollFilter,
    Popularity,
    TimeSVD,
    TwoTower,
    YouTubeNet,
    collab_learner,
    datasets,
    splits,
)
from collabkit.evaluate.task import RankingTask
from collabkit.models.base import evaluating
from collabkit.train.recipes import QUALITY_100K

from .common import NAMES, data_folder, valid_rmse, write
from .features import FILM_FEATURES, SEEDS, USER_FEATURES

EPOCHS, LR, DROPOUT = 12, 3e-3, 0.3  # of the networks, picked on validation


def time_biases() -> None:
    """Test RMSE on ML-100k u1-u5 with side features, without and with biases that change in time."""
    data, rows = datasets.movielens("100k", data_folder()), []
    side = {"users": data.users, "items": data.items, "user_features": USER_FEATURES, "item_features": FILM_FEATURES}
    for seed in SEEDS:
        for model in (CollFilter, TimeSVD):
            scores, start = [], time.process_time()
            for _, train, test in datasets.movielens_folds("100k", data_folder()):
                options = {"seed": seed, "bs": QUALITY_100K.bs, "time_name": "timestamp", **NAMES, **side}
                dls = CollabDataLoaders.from_dfs(train, test, **options)
                learn = collab_learner(dls, model=model, n_factors=QUALITY_100K.n_factors, y_range=(0, 5.5), seed=seed)
                with learn.no_bar(), learn.no_logging():
                    learn.fit_one_cycle(QUALITY_100K.n_epoch, QUALITY_100K.lr, wd=QUALITY_100K.wd)
                scores.append(valid_rmse(learn))
            seconds = (time.process_time() - start) / len(scores)
            row = {"model": model.__name__, "seed": seed, "RMSE": round(float(np.mean(scores)), 4)}
            rows.append({**row, "folds": " ".join(f"{s:.4f}" for s in scores), "cpu_seconds_a_fold": round(seconds, 1)})
    write("time_biases", rows)


def youtube() -> None:
    """ML-100k, each user's last event: `YouTubeNet` with all that is known and with the history alone, and `TwoTower`.

    Known are age, gender, occupation, genres and the hour of the event. The differences are by user, of the means over
    the seeds.
    """
    data = datasets.movielens("100k", data_folder())
    events = data.ratings.sort_values("timestamp", kind="stable")
    events = events.assign(hour=pd.to_datetime(events["timestamp"], unit="s").dt.hour, time=events["timestamp"])
    last = ~events.duplicated("user", keep="last")
    rest, test = events[~last].reset_index(drop=True), events[last].reset_index(drop=True)
    names = {"user_name": "user", "item_name": "title", "time_name": "time", "feedback": "implicit", "seed": 0}
    names["splitter"] = splits.leave_last_out()
    known = {"users": data.users, "items": data.items, "user_features": USER_FEATURES, "context_features": ["hour"]}
    known["item_features"] = {"genres": "multi"}
    towers = {"negatives": "shared", "n_neg": 512}
    kinds = {
        "YouTubeNet, all": (YouTubeNet, {**known, "history": 100}, {"dropout": DROPOUT}),
        "YouTubeNet, history": (YouTubeNet, {"history": 100}, {"dropout": DROPOUT}),
        "TwoTower, all": (TwoTower, {**known, **towers}, {"n_factors": 64, "loss_func": "sampled_softmax"}),
    }
    found = {}
    for label, (model, of_data, options) in kinds.items():
        dls = CollabDataLoaders.from_df(rest, **names, **of_data)
        for seed in SEEDS:
            learn = collab_learner(dls, model=model, seed=seed, **options)
            with learn.no_bar(), learn.no_logging():
                learn.fit_one_cycle(EPOCHS, LR, wd=0.01, pct_start=0.15)
            found.setdefault(label, []).append(_by_user(learn.model, dls, test))
    found["popularity"] = [_by_user(Popularity().fit(dls), dls, test)]
    means = {
        label: {name: np.mean([one[name] for one in runs], 0) for name in runs[0]} for label, runs in found.items()
    }
    rows = []
    for label, values in means.items():
        row = {"model": label, **{name: round(float(v.mean()), 4) for name, v in values.items()}}
        more = means["YouTubeNet, all"]["NDCG@10"] - values["NDCG@10"]
        low, high = more.mean() + np.array([-1.96, 1.96]) * more.std() / np.sqrt(len(more))
        rows.append({**row, "NDCG@10 of the first less this": f"{more.mean():.4f} [{low:.4f}, {high:.4f}]"})
    write("youtube", rows)


def _by_user(model, dls, test: pd.DataFrame) -> dict[str, np.ndarray]:
    """The metrics of each user, on the test rows whose items training knows."""
    task = RankingTask.make(dls.data, test[test["title"].isin(dls.data.items.ids)])
    with evaluating(model):
        values = task.rank(model, ["HitRate", "NDCG"], [10]).measure(["HitRate", "NDCG"], [10], task.facts)
    return {f"{name}@{k}": np.asarray(v) for (name, k), v in values.items()}
