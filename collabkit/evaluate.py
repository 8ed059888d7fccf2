"""Evaluation: predictions and full-catalogue ranks of held-out rows -> a DataFrame with intervals and baselines."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit import metrics
from collabkit.baselines import GlobalMean, Popularity, UserItemBias
from collabkit.interactions import CollabWarning, Interactions
from collabkit.models import CollabModel
from collabkit.ranking import Pairs, block_size, exact_ranks, model_scorer, refuse_nan

__all__ = ["evaluate_ratings", "evaluate_ranking", "predict_ratings"]


@torch.inference_mode()
def predict_ratings(model: CollabModel, user_idx: Tensor, item_idx: Tensor, *, batch: int = 65_536) -> Tensor:
    """Predicted ratings `(n,)` float32 on the CPU for index tensors `(n,)`, in batches; NaN raises `ValueError`."""
    device = model.tables(True)[0].device
    parts = [
        model(users.to(device), items.to(device)).float().cpu()
        for users, items in zip(user_idx.split(batch), item_idx.split(batch), strict=True)
    ]
    ratings = torch.cat(parts) if parts else torch.zeros(0)
    refuse_nan(ratings)
    return ratings


def evaluate_ratings(
    model: CollabModel,
    train: Interactions,
    test: Interactions,
    *,
    groups: np.ndarray | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """RMSE and MAE of the ratings in `test`, beside the global mean and the user + item bias baseline.

    Args:
        model: in evaluation mode.
        train, test: interactions with ratings, encoded with the same vocabularies.
        groups: `(n,)` whose row each is, for the bootstrap; default the encoded users, where unknown ones are one.
        n_boot, seed: of the bootstrap over users.

    Returns:
        DataFrame indexed by metric, with columns `value`, `low`, `high` (95 % interval), one a baseline, `n` (ratings).
    """
    target = test.rating.double().numpy()
    groups = np.unique(test.user_idx.numpy() if groups is None else groups, return_inverse=True)[1]
    predictions = {"value": predict_ratings(model, test.user_idx, test.item_idx).double().numpy()}
    for baseline in (GlobalMean(train), UserItemBias(train)):
        predictions[baseline.name] = baseline.predict(test.user_idx, test.item_idx).numpy()
    error = predictions["value"] - target
    sums = np.stack([np.bincount(groups, e) for e in (np.square(error), np.abs(error))], axis=1)  # (n_users, 2)
    low, high = metrics.bootstrap_interval(sums, np.bincount(groups), n_boot=n_boot, seed=seed)
    table = pd.DataFrame(
        {name: {"RMSE": metrics.rmse(p, target), "MAE": metrics.mae(p, target)} for name, p in predictions.items()}
    )
    table.insert(1, "low", [np.sqrt(low[0]), low[1]])
    table.insert(2, "high", [np.sqrt(high[0]), high[1]])
    return table.assign(n=len(target)).rename_axis("metric")


def evaluate_ranking(
    model: CollabModel,
    train: Interactions,
    test: Interactions,
    *,
    hidden: Pairs,
    k: int = 10,
    threshold: float | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    max_memory: int | str = "512MB",
) -> pd.DataFrame:
    """Ranking metrics of the relevant test items among all items, beside popularity.

    An item is relevant for a user when the test part holds it with a rating of at least `threshold`. Rows with a user
    or item unknown to the model are left out and counted in a `CollabWarning`; `n` counts the users that have a
    relevant item, over whom the metrics are averaged.

    Args:
        hidden: pairs that are never candidates (those seen in training).
        k: cut-off.
        threshold: default the (lower) median training rating; every row is relevant where there are no ratings.
        max_memory: bound of the score blocks.

    Returns:
        DataFrame indexed by metric, columns `value`, `low`, `high`, `popularity`, `n` (users); empty if none is left.
    """
    users, items = _relevant_pairs(test, default_threshold(train) if threshold is None else threshold)
    if len(users) == 0:
        return pd.DataFrame(columns=["value", "low", "high", Popularity.name, "n"], index=pd.Index([], name="metric"))
    candidates = torch.arange(1, train.n_items)
    common = {"n_items": train.n_items, "hidden": hidden, "block": block_size(model, len(candidates), max_memory)}
    ranks, popular = (
        exact_ranks(scorer, users, items, candidates, **common)
        for scorer in (model_scorer(model, candidates, max_memory), Popularity(train).scorer(candidates))
    )
    groups = np.unique(users.numpy(), return_inverse=True)[1]
    values, baseline = (
        np.stack([metric(r, groups, k) for metric in RANKING_METRICS.values()], axis=1) for r in (ranks, popular)
    )  # (n_users, n_metrics)
    low, high = metrics.bootstrap_interval(values, np.ones(len(values)), n_boot=n_boot, seed=seed)
    columns = {"value": values.mean(0), "low": low, "high": high, Popularity.name: baseline.mean(0), "n": len(values)}
    return pd.DataFrame(columns, index=pd.Index([f"{name}@{k}" for name in RANKING_METRICS], name="metric"))


RANKING_METRICS = {
    "HitRate": metrics.hit_rate,
    "Precision": metrics.precision,
    "Recall": metrics.recall,
    "NDCG": metrics.ndcg,
    "MRR": metrics.reciprocal_rank,
}


def default_threshold(train: Interactions) -> float:
    """The median training rating: an item rated at least as high counts as liked (4 on MovieLens)."""
    return -np.inf if train.rating is None else float(train.rating.median())


def _relevant_pairs(test: Interactions, threshold: float) -> tuple[Tensor, Tensor]:
    """Users and items `(n,)` of the test rows rated at least `threshold`, each pair once, sorted by user."""
    relevant = torch.ones(len(test), dtype=torch.bool) if test.rating is None else test.rating >= threshold
    known = relevant & (test.user_idx > 0) & (test.item_idx > 0)
    unknown = int((relevant & ~known).sum())
    if unknown:
        warnings.warn(
            f"ranking metrics leave out {unknown:,} relevant rows whose user or item the model does not know",
            CollabWarning,
            stacklevel=4,
        )
    keys = torch.unique(test.pair_keys()[known])
    return keys // test.n_items, keys % test.n_items
