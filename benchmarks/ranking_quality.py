"""Ranking quality: ML-1M in the NCF protocol, the last item of each user among 99 given ones.

The recipes are picked by `ncf_pick` on one random training item a user; `ncf_quality` alone reads the test items. The
figures are of samples of items: compare them with others of this protocol only.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product

import numpy as np
import pandas as pd

from collabkit import CollabDataLoaders, collab_learner
from collabkit.evaluate.candidates import SampledCandidates
from collabkit.models import EASE, NeuMF, Popularity

from .common import ncf_parts, ncf_times, timed, write

SEEDS = (0, 1, 2)
VALID_DRAWS = (0, 1, 2)  # seeds of the validation negatives; the mean over them is less noisy than one draw
EASE_L2 = 1320


@dataclass(frozen=True)
class GradientRecipe:
    """A model trained by one-cycle AdamW on binary cross-entropy.

    Args:
        model: arguments of `collab_learner` that make it.
        n_neg, bs: of the dataloaders.
        n_epoch, lr, wd: of `learn.fit_one_cycle(n_epoch, lr, wd=wd)`.
    """

    model: dict
    n_neg: int
    bs: int
    n_epoch: int
    lr: float
    wd: float

    def fit(self, train: pd.DataFrame, valid: pd.DataFrame, seed: int = 0, **learner):
        """A learner trained on `train`; `learner` are arguments of it."""
        dls = _dls(train, valid, seed, n_neg=self.n_neg, bs=self.bs)
        learn = collab_learner(dls, loss_func="bce", **self.model, **learner)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(self.n_epoch, self.lr, wd=self.wd)
        return learn


@dataclass(frozen=True)
class ALSRecipe:
    """`n_factors` of `CollFilter`, and the arguments of `learn.fit_als`."""

    n_factors: int
    n_sweeps: int
    reg: float
    unobserved_weight: float

    def fit(self, train: pd.DataFrame, valid: pd.DataFrame, seed: int = 0, **learner):
        """A learner trained on `train`; `learner` are arguments of it."""
        learn = collab_learner(_dls(train, valid, seed, bs=8192), n_factors=self.n_factors, **learner)
        with learn.no_bar(), learn.no_logging():
            learn.fit_als(self.n_sweeps, reg=self.reg, unobserved_weight=self.unobserved_weight)
        return learn


DOT = GradientRecipe({"n_factors": 192, "init_std": 0.01}, n_neg=8, bs=4096, n_epoch=16, lr=4e-3, wd=0.12)
DOT_128 = GradientRecipe({"n_factors": 128, "init_std": 0.01}, n_neg=8, bs=4096, n_epoch=12, lr=5e-3, wd=0.1)
NEUMF = GradientRecipe(
    {"model": NeuMF, "n_factors": 64, "mlp_factors": 16, "layers": [32, 16], "init_std": 0.01},
    n_neg=8, bs=4096, n_epoch=12, lr=4e-3, wd=0.12,
)  # fmt: skip
ALS = ALSRecipe(n_factors=256, n_sweeps=12, reg=0.007, unobserved_weight=0.3)

CANDIDATES = {
    "dot product by gradient": [
        DOT,
        replace(DOT, wd=0.18),
        DOT_128,
        replace(DOT_128, bs=8192),
    ],
    "NeuMF": [NEUMF, replace(NEUMF, n_neg=4, n_epoch=8, lr=5e-3, wd=0.1)],
    "fit_als": [
        ALS,
        replace(ALS, n_factors=192),
        replace(ALS, n_factors=192, unobserved_weight=0.2),
        replace(ALS, n_factors=192, reg=0.005, unobserved_weight=0.5),
        replace(ALS, n_factors=192, reg=0.01, unobserved_weight=0.1),
        replace(ALS, n_factors=128),
    ],
}


def ncf_pick() -> None:
    """HR@10 and NDCG@10 of candidate recipes on one training item a user against 99 negatives, means of three draws.

    The item is a random one; for least squares, which are quick, also the latest one whose time is known, which is
    nearer to what the test asks.
    """
    parts = {"random": _held_out(ncf_parts()[0]), "latest": _held_out(ncf_parts()[0], ncf_times())}
    rows = []
    for name, recipes in CANDIDATES.items():
        for recipe, (how, (train, valid)) in product(recipes, parts.items()):
            if how == "latest" and not isinstance(recipe, ALSRecipe):
                continue
            gc.collect()
            seconds, learn = timed(lambda recipe=recipe, train=train, valid=valid: recipe.fit(train, valid))
            draws = [_scores(learn, SampledCandidates(99, seed=seed)) for seed in VALID_DRAWS]
            row = {"model": name, "recipe": _say(recipe), "held_out_item": how, **_mean(draws)}
            rows.append({**row, "fit_seconds": round(seconds, 1)})
    write("ncf_pick", rows)


def ncf_quality() -> None:
    """ML-1M, each user's last item among 99 given ones, by training seed; seconds from tables to a fitted model."""
    train, test, negatives = ncf_parts()
    rows = []

    def add(name: str, seed, fit: Callable) -> None:
        gc.collect()  # a learner is a cycle of references: free the last one before the next
        seconds, model = timed(fit)
        rows.append(
            {"model": name, "seed": seed, **_mean([_scores(model, negatives)]), "fit_seconds": round(seconds, 1)}
        )

    for name, recipe in {"dot product by gradient": DOT, "fit_als": ALS, "NeuMF": NEUMF}.items():
        for seed in SEEDS:
            add(name, seed, lambda recipe=recipe, seed=seed: recipe.fit(train, test, seed))
    for baseline in (EASE(l2=EASE_L2), Popularity()):
        add(baseline.name, "-", lambda baseline=baseline: baseline.fit(_dls(train, test, 0)))
    table = write("ncf_quality", rows)
    print(table.groupby("model", sort=False)[["HR@10", "NDCG@10"]].mean().round(4).to_string())


def _held_out(train: pd.DataFrame, times: np.ndarray | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table without, and with only, one row of each user: a random one, or the latest by `times`."""
    order = np.random.default_rng(0).random(len(train)).argsort()
    if times is not None:
        order = order[np.argsort(-times[order], kind="stable")]
    valid = train.iloc[order].drop_duplicates("user")
    return train.drop(valid.index), valid


def _dls(train: pd.DataFrame, valid: pd.DataFrame, seed: int, **options) -> CollabDataLoaders:
    return CollabDataLoaders.from_dfs(train, valid, feedback="implicit", seed=seed, **options)


def _scores(model, candidates) -> np.ndarray:
    """HR@10 and NDCG@10 on the validation part of the model's data, which holds the test items in `ncf_quality`."""
    table = model.evaluate(k=10, metrics=["HitRate", "NDCG"], candidates=candidates, n_boot=1)
    return table["value"].to_numpy()


def _mean(scores: list[np.ndarray]) -> dict[str, float]:
    return dict(zip(("HR@10", "NDCG@10"), np.mean(scores, axis=0).round(4).tolist(), strict=True))


def _say(recipe) -> str:
    """A recipe's fields as text."""
    fields = asdict(recipe)
    fields |= {k: v for k, v in fields.pop("model", {}).items() if k != "model"}
    return ", ".join(f"{name}={value}" for name, value in fields.items())
