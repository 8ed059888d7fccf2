"""Side features: quality for known ids with and without them, and for ids that training has not met.

The settings were picked on other held-out items and users than those of the tables (seeds from 100 on); see README.md.
"""

from __future__ import annotations

import gc
from functools import partial

import numpy as np
import pandas as pd
import torch

from collabkit import CollabDataLoaders, collab_learner, datasets, splits
from collabkit.models import ContentKNN
from collabkit.train.recipes import QUALITY_100K
from collabkit.train.sampling import AllItems

from .common import NAMES, data_folder, fit, ncf_parts, timed, valid_rmse, write
from .ranking_quality import DOT, _mean, _scores

SEEDS = (0, 1, 2)
FILM_FEATURES = {"year": "binned", "genres": "multi"}
USER_FEATURES = {"age": "binned", "gender": "categorical", "occupation": "categorical"}
COLD_FACTORS, COLD_EPOCHS, COLD_LR, COLD_WD = 64, 12, 1e-2, 0.01


def features_warm() -> None:
    """Known ids with and without features: test RMSE on ML-100k u1-u5, HR@10 (99 given negatives) on ML-1M-NCF."""
    rows = []
    data = datasets.movielens("100k", data_folder())
    side = {"users": data.users, "items": data.items, "user_features": USER_FEATURES, "item_features": FILM_FEATURES}
    for seed in SEEDS:
        for name, given in (("without", {}), ("with", side)):
            scores = []
            for _, train, test in datasets.movielens_folds("100k", data_folder()):
                dls = CollabDataLoaders.from_dfs(train, test, seed=seed, bs=QUALITY_100K.bs, **NAMES, **given)
                scores.append(valid_rmse(fit(dls, QUALITY_100K, seed=seed)))
            rows.append(
                {"data": "ml-100k u1-u5", "features": name, "seed": seed, "metric": "RMSE", "value": np.mean(scores)}
            )
    train, test, negatives = ncf_parts()
    for seed in SEEDS:
        for name, given in (("without", {}), ("with", {"items": _ncf_films(), "item_features": FILM_FEATURES})):
            gc.collect()
            dls = CollabDataLoaders.from_dfs(
                train, test, feedback="implicit", seed=seed, n_neg=DOT.n_neg, bs=DOT.bs, **given
            )
            learn = collab_learner(dls, loss_func="bce", **DOT.model)
            with learn.no_bar(), learn.no_logging():
                seconds, _ = timed(lambda learn=learn: learn.fit_one_cycle(DOT.n_epoch, DOT.lr, wd=DOT.wd))
            for metric, value in _mean([_scores(learn, negatives)]).items():
                row = {"data": "ml-1m-ncf", "features": name, "seed": seed, "metric": metric, "value": value}
                rows.append({**row, "fit_seconds": round(seconds, 1)})
    write("features_warm", [{**row, "value": round(float(row["value"]), 4)} for row in rows])


def cold_items() -> None:
    """ML-1M, a tenth of the films held out entirely, all ratings as events: Recall@10 and NDCG@10 against chance.

    Among the held-out films, and among all unseen ones. Chance is the expectation over random orders. Profile mean and
    content kNN use the same features.
    """
    rows = []
    for seed in SEEDS:
        dls = cold_item_data(seed)
        learn = fit_cold_items(dls)
        held_out = dls.valid.dataset.items.decode(dls.valid.dataset.item_idx.unique().numpy())
        models = {"CollFilter with features": learn}
        models |= {"profile mean": ContentKNN(k=None).fit(dls), "content kNN": ContentKNN(k=20).fit(dls)}
        for among, candidates in (("held-out", held_out), ("all", None)):
            for name, model in models.items():
                table = model.evaluate(k=10, metrics=["Recall", "NDCG"], candidates=candidates, n_boot=1)["value"]
                recall, ndcg = table.to_numpy()
                chance = _chance(dls, len(held_out) if among == "held-out" else None)
                row = {"seed": seed, "among": f"{among} films", "model": name, "Recall@10": recall, "NDCG@10": ndcg}
                rows.append({**row, "recall_x_chance": recall / chance[0], "ndcg_x_chance": ndcg / chance[1]})
    table = write(
        "cold_items", [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    )
    print(table.groupby(["among", "model"], sort=False).mean(numeric_only=True).round(3).to_string())


def cold_users() -> None:
    """ML-100k, a tenth of the users held out entirely: rating RMSE from age, sex and occupation, and without them."""
    rows = []
    data = datasets.movielens("100k", data_folder())
    for seed in SEEDS:
        for name, given in (
            ("no information", {}),
            ("age, sex, occupation", {"users": data.users, "user_features": USER_FEATURES}),
        ):
            options = {"splitter": splits.cold_users(0.1, seed=seed), "seed": seed, "bs": QUALITY_100K.bs}
            dls = CollabDataLoaders.from_df(data.ratings, **options, **NAMES, **given)
            rows.append(
                {
                    "seed": seed,
                    "known of a new user": name,
                    "RMSE": round(valid_rmse(fit(dls, QUALITY_100K, seed=seed)), 4),
                }
            )
    table = write("cold_users", rows)
    print(table.groupby("known of a new user", sort=False)["RMSE"].mean().round(4).to_string())


def cold_item_data(seed: int) -> CollabDataLoaders:
    """ML-1M as events, a tenth of the films in the validation part alone; year, genres and the set of genres."""
    data = datasets.movielens("1m", data_folder())
    features = {**FILM_FEATURES, "genre_set": "categorical"}
    return CollabDataLoaders.from_df(
        data.ratings[["user", "item"]], user_name="user", item_name="item", feedback="implicit", seed=seed,
        splitter=splits.cold_items(0.1, seed=seed), negatives=partial(AllItems, mask_seen=True), by_user=True, bs=256,
        items=data.items.assign(genre_set=data.items["genres"]), item_features=features,
    )  # fmt: skip


def fit_cold_items(dls: CollabDataLoaders):
    """The model of `cold_items`, trained by the full softmax."""
    gc.collect()
    learn = collab_learner(dls, n_factors=COLD_FACTORS, init_std=0.1, loss_func="softmax")
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(COLD_EPOCHS, COLD_LR, wd=COLD_WD)
    return learn


def _chance(dls: CollabDataLoaders, n_candidates: int | None) -> tuple[float, float]:
    """Recall@10 and NDCG@10 to be expected of random orders: each place holds a relevant item equally often."""
    train, valid = dls.train.dataset, dls.valid.dataset
    relevant = torch.bincount(valid.user_idx, minlength=train.n_users).double()
    asked = relevant > 0
    seen = torch.bincount(train.user_idx, minlength=train.n_users).double()
    candidates = (
        train.n_items - 1 - seen[asked]
        if n_candidates is None
        else torch.full((int(asked.sum()),), float(n_candidates))
    )
    relevant = relevant[asked]
    discounts = 1 / torch.log2(torch.arange(10).double() + 2)
    ideal = discounts.cumsum(0)[relevant.clamp(max=10).long() - 1]
    return float((10 / candidates).mean()), float((relevant / candidates * discounts.sum() / ideal).mean())


def _ncf_films() -> pd.DataFrame:
    """Year and genres of the items of ML-1M-NCF whose film is known."""
    ids = pd.read_csv(data_folder() / "ml-1m-ncf" / "ml-1m.item_map.tsv", sep="\t").set_axis(["ncf", "item"], axis=1)
    films = datasets.movielens("1m", data_folder()).items
    known = ids.dropna().merge(films, on="item")
    return known.drop(columns=["item", "title"]).rename(columns={"ncf": "item"})
