"""Metrics as pure functions: of predictions and ratings, or of the exact ranks of the relevant items.

Ranking metrics take `ranks` `(n,)`, the rank (1 is best) of each relevant item among its user's candidates, and
`groups` `(n,)`, which user (0..n_groups-1) each belongs to. They return one value a user `(n_groups,)`; every group
needs at least one relevant item (users without any are left out, and counted, before). Gains are binary. Ties are
settled in the ranks: `ranking.exact_ranks` puts tied others ahead, so that a constant model scores zero, not one.
"""

from __future__ import annotations

import numpy as np

__all__ = ["rmse", "mae", "hit_rate", "precision", "recall", "ndcg", "reciprocal_rank", "bootstrap_interval"]


def rmse(pred: np.ndarray, target: np.ndarray) -> float:
    """Root mean squared error `sqrt(mean((pred - target)**2))`, in rating units.

    Example:
        >>> rmse(np.array([3., 5.]), np.array([4., 3.])).round(4)
        np.float64(1.5811)
    """
    return np.sqrt(np.mean(np.square(_difference(pred, target))))


def mae(pred: np.ndarray, target: np.ndarray) -> float:
    """Mean absolute error `mean(|pred - target|)`, in rating units."""
    return np.mean(np.abs(_difference(pred, target)))


def hit_rate(ranks: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """1 for users with at least one relevant item in the top k, else 0.

    Example:
        >>> hit_rate(np.array([1, 7, 12]), np.array([0, 0, 1]), k=5)
        array([1., 0.])
    """
    return (_hits(ranks, groups, k) > 0).astype(np.float64)


def precision(ranks: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """Relevant items in the top k, divided by k (also when a user has fewer than k relevant items)."""
    return _hits(ranks, groups, k) / k


def recall(ranks: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """Relevant items in the top k, divided by the user's number of relevant items."""
    return _hits(ranks, groups, k) / np.bincount(groups)


def ndcg(ranks: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """Normalised discounted cumulative gain at k: `sum(1 / log2(rank + 1))` over hits, by the best achievable at k.

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (2002), with binary gains.

    Example:
        >>> ndcg(np.array([1, 3]), np.array([0, 0]), k=10).round(4)  # (1 + 1/2) / (1 + 1/log2(3))
        array([0.9197])
    """
    _hits(ranks, groups, k)
    gain = np.where(ranks <= k, 1 / np.log2(ranks + 1.0), 0.0)
    best = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
    return np.bincount(groups, weights=gain) / best[np.minimum(np.bincount(groups), k) - 1]


def reciprocal_rank(ranks: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """1 / rank of the user's best-ranked relevant item, 0 if that lies beyond k; its mean is MRR@k."""
    _hits(ranks, groups, k)
    best = np.full(groups.max() + 1, np.inf)
    np.minimum.at(best, groups, ranks)
    return np.where(best <= k, 1 / best, 0.0)


def bootstrap_interval(
    sums: np.ndarray, counts: np.ndarray, *, n_boot: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap intervals, over users, of the ratios `sum(sums) / sum(counts)`.

    Whole users are resampled, because one user's ratings are not independent (Efron and Tibshirani, 1993, chapter 13).

    Args:
        sums: each user's sum, `(n_users,)`, or `(n_users, m)` for m ratios from the same resamples.
        counts: `(n_users,)` each user's number of terms; ones give a mean over users.
        n_boot: resamples.
        level: coverage.

    Returns:
        The lower and the upper ends, 0-dimensional or `(m,)`; NaN for fewer than two users, who tell nothing of others.

    Example:
        >>> low, high = bootstrap_interval(np.arange(100.), np.ones(100))
        >>> bool(low < 49.5 < high)
        True
    """
    rng, n = np.random.default_rng(seed), len(sums)
    if n < 2:
        return np.full(sums.shape[1:], np.nan), np.full(sums.shape[1:], np.nan)
    if n_boot < 1:
        raise ValueError(f"n_boot must be at least 1, got {n_boot!r}")
    ratios = np.empty((n_boot, *sums.shape[1:]))
    step = max(1, 20_000_000 // max(n, 1))  # blocks of resamples, so that memory stays bounded
    for start in range(0, n_boot, step):
        weights = rng.multinomial(n, np.full(n, 1 / n), size=min(step, n_boot - start)).astype(np.float64)
        total = np.maximum(weights @ counts, 1e-12)  # weights: (resamples, n_users)
        ratios[start : start + step] = ((weights @ sums).T / total).T
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _difference(pred, target) -> np.ndarray:
    pred, target = np.asarray(pred, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if pred.shape != target.shape or pred.size == 0:
        raise ValueError(f"predictions and ratings must have one non-empty shape, got {pred.shape} and {target.shape}")
    return pred - target


def _hits(ranks: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """Relevant items in the top k of each group `(n_groups,)`."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if len(ranks) != len(groups) or len(groups) == 0 or np.bincount(groups).min() == 0:
        raise ValueError("ranks and groups must have the same length, and every group at least one relevant item")
    return np.bincount(groups, weights=ranks <= k)
