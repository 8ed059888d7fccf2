"""Rating quality: ML-100k official folds u1-u5 and ML-1M random 90/10, by one fixed recipe each.

The recipe is picked by `pick` on validation parts cut from the training parts; `test` alone reads the test parts.
"""

from __future__ import annotations

from dataclasses import asdict, replace

from collabkit import CollabDataLoaders, datasets, splits
from collabkit.train.recipes import QUALITY_1M, QUALITY_100K

from .common import NAMES, data_folder, fit, ratings, timed, valid_rmse, write

SEEDS = (0, 1, 2)
CANDIDATES_100K = [
    QUALITY_100K,
    replace(QUALITY_100K, wd=0.6),
    replace(QUALITY_100K, wd=0.8),
    replace(QUALITY_100K, bs=512, wd=0.8),
    replace(QUALITY_100K, lr=4e-3, n_epoch=10, wd=0.6),
    replace(QUALITY_100K, n_factors=64),
]
CANDIDATES_1M = [
    QUALITY_1M,
    replace(QUALITY_1M, bs=1024),
    replace(QUALITY_1M, wd=0.5),
    replace(QUALITY_1M, n_factors=64),
]


def pick() -> None:
    """Validation RMSE of the candidate recipes: a tenth of each training part is held out, the test part untouched."""
    rows = []
    for recipe in CANDIDATES_100K:
        scores = []
        for fold, train, _ in datasets.movielens_folds("100k", data_folder()):
            dls = CollabDataLoaders.from_df(train, valid_pct=0.1, seed=int(fold[1]), bs=recipe.bs, **NAMES)
            scores.append(valid_rmse(fit(dls, recipe)))
        rows.append(
            {"data": "ml-100k, a tenth of each u1-u5 base", **asdict(recipe), "rmse": sum(scores) / len(scores)}
        )
    frame = ratings("1m")
    for recipe in CANDIDATES_1M:
        train = frame.iloc[splits.random_split(0.1, seed=0)(frame).train]
        dls = CollabDataLoaders.from_df(train, valid_pct=0.1, seed=100, bs=recipe.bs, **NAMES)
        rows.append(
            {"data": "ml-1m, a tenth of split 0's train", **asdict(recipe), "rmse": valid_rmse(fit(dls, recipe))}
        )
    write("pick", [{**row, "rmse": round(row["rmse"], 4)} for row in rows])


def test() -> None:
    """Test RMSE of the picked recipes, three training seeds on each ML-100k fold and three splits of ML-1M."""
    rows = []
    for fold, train, test_part in datasets.movielens_folds("100k", data_folder()):
        for seed in SEEDS:
            dls = CollabDataLoaders.from_dfs(train, test_part, seed=seed, bs=QUALITY_100K.bs, **NAMES)
            rows.append(_row("ml-100k", f"fold {fold}", seed, dls, QUALITY_100K))
    frame = ratings("1m")
    for seed in SEEDS:
        dls = CollabDataLoaders.from_df(frame, valid_pct=0.1, seed=seed, bs=QUALITY_1M.bs, **NAMES)
        rows.append(_row("ml-1m", f"random 90/10, seed {seed}", seed, dls, QUALITY_1M))
    table = write("quality", rows)
    print(table.groupby(["data", "train_seed"])["test_rmse"].mean().round(4).to_string())


def _row(data: str, split: str, seed: int, dls: CollabDataLoaders, recipe) -> dict:
    seconds, learn = timed(lambda: fit(dls, recipe, seed=seed))
    scores = learn.evaluate(n_boot=1)
    return {
        "data": data,
        "split": split,
        "train_seed": seed,
        "test_rmse": round(scores.loc["RMSE", "value"], 4),
        "test_mae": round(scores.loc["MAE", "value"], 4),
        "user_item_bias_rmse": round(scores.loc["RMSE", "user+item bias"], 4),
        "fit_seconds": round(seconds, 2),
    }
