"""Metrics as pure functions of predictions and ratings, or of the exact ranks of the relevant items.

Ranking metrics take `ranks` `(n,)`, the rank (1 is best) of each relevant item among its user's candidates, and
`groups` `(n,)`, the user (0..n_groups-1) of each. They return one value per user `(n_groups,)`; every group needs at
least one relevant item (users without any are dropped, and counted, before). Gains are binary. Ties are resolved in
the ranks: `ranking.rank_pairs` ranks tied other items first, so that a constant model scores zero, not one.

Metrics of lists take `lists` `(n_users, k)`, the items of each user's top k, 0 where a list is shorter.
"""

import numpy as np

from collabkit.data.checks import whole

__all__ = [
    "rmse", "mae", "hit_rate", "precision", "recall", "ndcg", "average_precision", "reciprocal_rank", "auc",
    "hits_per_thousand", "list_mean", "coverage", "gini", "bootstrap_interval",
]  # fmt: skip


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


def hits_per_thousand(ranks: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """A thousand times the number of relevant items in the top k: their number in a thousand lists.

    Example:
        >>> hits_per_thousand(np.array([1, 7, 12]), np.array([0, 0, 1]), k=10)
        array([2000.,    0.])
    """
    return 1000.0 * _hits(ranks, groups, k)


def ndcg(ranks: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """Normalised discounted cumulative gain at k: `sum(1 / log2(rank + 1))` over hits, by the best achievable at k.

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (2002), with binary gains.

    Example:
        >>> ndcg(np.array([1, 3]), np.array([0, 0]), k=10).round(4)  # (1 + 1/2) / (1 + 1/log2(3))
        array([0.9197])
    """
    _hits(ranks, groups, k)
    gain = np.where(ranks <= k, 1 / np.log2(ranks + 1.0), 0.0)
    n = np.minimum(np.bincount(groups), k)  # hits of the best list
    return np.bincount(groups, weights=gain) / np.cumsum(1 / np.log2(np.arange(2, n.max() + 2)))[n - 1]


def reciprocal_rank(ranks: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """1 / rank of the user's best-ranked relevant item, 0 if that lies beyond k; its mean is MRR@k."""
    _hits(ranks, groups, k)
    best = np.full(groups.max() + 1, np.inf)
    np.minimum.at(best, groups, ranks.astype(np.float64))
    return np.where(best <= k, 1 / best, 0.0)


def average_precision(ranks: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """Average precision at k: the sum over hits of `j / rank`, by `min(k, number of relevant items)`.

    j counts the user's relevant items up to this one, so that `j / rank` is the precision at its rank; its mean over
    users is MAP@k. (Manning, Raghavan and Schütze, "Introduction to information retrieval" (2008), section 8.4, cut at
    k.) Relevant items that tie share the worst of their ranks, and are counted one after the other.

    Example:
        >>> average_precision(np.array([1, 3]), np.array([0, 0]), k=10).round(4)  # (1/1 + 2/3) / 2
        array([0.8333])
    """
    _hits(ranks, groups, k)
    n, place = np.bincount(groups), 1
    if len(n) < len(ranks):  # else every user has one relevant item
        order = np.lexsort((ranks, groups))
        ranks, groups = ranks[order], groups[order]
        place = np.arange(1, len(ranks) + 1) - (np.cumsum(n) - n)[groups]
    return np.bincount(groups, weights=np.where(ranks <= k, place / ranks, 0.0)) / np.minimum(n, k)


def auc(ranks: np.ndarray, groups: np.ndarray, n_candidates: np.ndarray) -> np.ndarray:
    """Share of a user's (relevant, irrelevant) pairs of candidates in which the relevant one scores higher.

    The area under the user's ROC curve, except that a tie counts against the model (as one half elsewhere).

    Args:
        ranks: exact ranks `(n,)`, not cut at any k.
        n_candidates: `(n_groups,)` how many candidates each user has, relevant ones included.

    Returns:
        `(n_groups,)`; NaN for a user all of whose candidates are relevant, because there is no pair to compare.

    Example:
        >>> auc(np.array([1, 4]), np.array([0, 0]), np.array([5]))  # 3 + 1 of 2 * 3 pairs
        array([0.66666667])
    """
    _hits(ranks, groups, 1)
    n = np.bincount(groups)
    key = groups * (int(ranks.max()) + 1) + ranks
    up_to = np.searchsorted(np.sort(key), key, side="right") - (np.cumsum(n) - n)[groups]  # relevant, ranked as high
    wrong = np.bincount(groups, weights=ranks - up_to)
    pairs = n * (n_candidates - n)
    return 1 - np.divide(wrong, pairs, out=np.full(len(n), np.nan), where=pairs > 0)


def list_mean(lists: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Mean `(n_users,)` of an item's `value` `(n_items,)` over each user's list; NaN for an empty one.

    With an item's number of training rows it is the average recommendation popularity of Abdollahpouri, Burke and
    Mobasher, "Managing popularity bias in recommender systems with personalized re-ranking" (2019); with
    `-log2(share of the users who know the item)` the novelty (mean self-information) of Zhou et al., "Solving the
    apparent diversity-accuracy dilemma of recommender systems" (2010).

    Example:
        >>> list_mean(np.array([[1, 2], [2, 0]]), np.array([0., 5., 3.]))
        array([4., 3.])
    """
    there = lists > 0
    n = there.sum(1)
    return np.divide((value[lists] * there).sum(1), n, out=np.full(len(lists), np.nan), where=n > 0)


def coverage(lists: np.ndarray, n_items: int) -> float:
    """Share of the catalogue's `n_items` items that are in at least one list.

    Example:
        >>> coverage(np.array([[1, 2], [2, 0]]), n_items=4)
        0.5
    """
    return int((np.bincount(lists[lists > 0]) > 0).sum()) / n_items


def gini(lists: np.ndarray, n_items: int) -> float:
    """Gini index of how often each of the catalogue's `n_items` items (1..n_items) is listed.

    `sum((2 i - n - 1) x_i) / (n sum(x))` over the counts x in ascending order: 0 when all items are listed equally
    often, `1 - 1 / n` when only one is. NaN when all lists are empty.

    Example:
        >>> gini(np.array([[1, 2], [3, 4]]), n_items=4), gini(np.array([[1], [1]]), n_items=4)
        (0.0, 0.75)
    """
    counts = np.sort(np.bincount(lists[lists > 0], minlength=n_items + 1)[1:])
    if counts.sum() == 0:
        return np.nan
    return float((2 * np.arange(1, n_items + 1) - n_items - 1) @ counts / (n_items * counts.sum()))


def bootstrap_interval(
    sums: np.ndarray, counts: np.ndarray, *, n_boot: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap intervals, over users, of the ratios `sum(sums) / sum(counts)`.

    Whole users are resampled, because one user's ratings are not independent (Efron and Tibshirani, 1993, chapter 13).
    Users with equal rows are exchangeable, so where few rows are distinct only their frequencies are drawn.

    Args:
        sums: each user's sum, `(n_users,)`, or `(n_users, m)` for m ratios from the same resamples.
        counts: `(n_users,)` each user's number of terms, or `(n_users, m)`; ones give a mean over users.
        n_boot: number of resamples.
        level: coverage.

    Returns:
        The lower and the upper ends, 0-dimensional or `(m,)`; NaN for fewer than two users.

    Example:
        >>> low, high = bootstrap_interval(np.arange(100.), np.ones(100))
        >>> bool(low < 49.5 < high)
        True
    """
    rng, n = np.random.default_rng(seed), len(sums)
    if n < 2:
        return (np.full(sums.shape[1:], np.nan),) * 2
    n_boot = whole("n_boot", n_boot)
    first, times = _distinct_rows(np.column_stack([sums, counts]))
    few = 10 * len(times) < n
    sums, counts = (sums[first], counts[first]) if few else (sums, counts)
    ratios = np.empty((n_boot, *sums.shape[1:]))
    step = max(1, 5_000_000 // len(sums))  # blocks of resamples, so that memory stays bounded
    for start in range(0, n_boot, step):
        size = min(step, n_boot - start)
        weights = rng.multinomial(n, times / n, size=size) if few else _resample(rng, n, size)
        weights = weights.astype(np.float64)  # (resamples, rows)
        total = np.maximum(weights @ counts, 1e-12)
        ratios[start : start + step] = (weights @ sums) / (total if total.ndim == sums.ndim else total[:, None])
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def root_ends(ends, a: float, b: float) -> tuple[float, ...]:
    """The ends of an interval of `a - b` from those of `a**2 - b**2 = (a - b) * (a + b)`; 0 if both are 0.

    Example:
        >>> root_ends((-1.0, 5.0), 3.0, 2.0)
        (-0.2, 1.0)
    """
    return tuple(float(end / (a + b)) if a + b else 0.0 for end in ends)


def _resample(rng, n: int, size: int) -> np.ndarray:
    """How often each of n users is drawn in n draws, `(size, n)`; for many categories faster than `rng.multinomial`."""
    drawn = rng.integers(0, n, size=(size, n))
    drawn += np.arange(size)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)


def _distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First position and number of occurrences of each distinct row of `(n, m)`, most frequent first.

    Rows are told apart by a random projection, summed column by column so that equal rows have equal sums, and then
    compared; `numpy.unique` of whole rows takes some fifty times as long.
    """
    mark = np.zeros(len(rows))
    for column, weight in zip(rows.T, np.random.default_rng(0).random(rows.shape[1]), strict=True):
        mark += weight * column
    _, first, inverse, times = np.unique(mark, return_index=True, return_inverse=True, return_counts=True)
    if not np.array_equal(rows[first][inverse], rows):
        _, first, times = np.unique(rows, axis=0, return_index=True, return_counts=True)
    order = np.argsort(-times, kind="stable")  # then the multinomial's conditional draws run out of users early
    return first[order], times[order]


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
