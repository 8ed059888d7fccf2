"""Ranking of scores: hidden items, offsets, the top k, and lists of dissimilar items."""

from __future__ import annotations

import numpy as np

NAN = "the model's scores are NaN: its training diverged; train again with a lower learning rate"

__all__ = ["chosen", "refuse_nan", "tilted", "top"]


def top(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions `(b, k)` of the `k` largest scores `(b, c)`, best first, and these scores; ties by position.

    Example:
        >>> top(np.array([[1., 3., 3., 2.]]), 2)[0].tolist()
        [[1, 2]]
    """
    b, c = scores.shape
    k = min(k, c)
    rows, places = np.divmod(np.flatnonzero(scores >= _edges(scores, k)[:, None]), c)
    values = scores[rows, places]
    order = np.lexsort((-values, rows))  # stable
    first = np.searchsorted(rows, np.arange(b))[:, None] + np.arange(k)
    return places[order][first], values[order][first]


def _edges(scores: np.ndarray, k: int) -> np.ndarray:
    """Thresholds `(b,)` that at least `k` of each row's scores reach, and few more if `k` is small.

    The k-th largest of the maxima of blocks: it reads each score once, while the k-th largest of all would take several
    passes.
    """
    b, c = scores.shape
    width = c // (8 * k) if k else 0
    if width < 2:
        refuse_nan(scores)
        return np.partition(scores, c - k, axis=1)[:, c - k] if 0 < k < c else np.full(b, -np.inf, scores.dtype)
    blocks = c // width
    maxima = scores[:, : blocks * width].reshape(b, blocks, width).max(axis=2)
    refuse_nan(maxima), refuse_nan(scores[:, blocks * width :])
    return np.partition(maxima, blocks - k, axis=1)[:, blocks - k]


def refuse_nan(scores: np.ndarray) -> None:
    """Raise `ValueError` where a score is NaN."""
    if np.isnan(scores).any():
        raise ValueError(NAN)


def tilted(scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Scores `(b, c)` plus `offsets` `(c,)` times the standard deviation of each row; see `retrieval.tilt.tilted`."""
    there = np.where(scores > -np.inf, scores, np.float32(np.nan))
    spread = np.sqrt(np.nanmean((there - np.nanmean(there, axis=1, keepdims=True)) ** 2, axis=1, keepdims=True))
    return scores + spread * offsets


def chosen(scores: np.ndarray, unit: np.ndarray, weight: float, k: int) -> np.ndarray:
    """The positions `(k,)` in a pool of a list by maximal marginal relevance; see `retrieval.diversity.Diversity`.

    Args:
        scores: `(p,)` of the pool, in descending order, -inf where there is no item.
        unit: `(p, d)` their vectors, of length 1 or 0.
        weight, k: how much the list avoids similar items; how many to choose.

    Example:
        >>> chosen(np.array([3., 2.9, 1.]), np.array([[1., 0.], [1., 0.], [0., 1.]]), .5, 2).tolist()
        [0, 2]
    """
    there = scores > -np.inf
    k = min(k, len(scores))
    if not there.any():
        return np.arange(k)
    low = scores[there].min()
    left = (1 - weight) * (np.where(there, scores, low) - low) / max(scores[0] - low, np.finfo(np.float32).tiny)
    left = np.where(there, left, -np.inf)
    order, nearest = [], None
    for _ in range(k):
        value = left if nearest is None else left - weight * nearest
        value = np.where(there, value, np.finfo(np.float32).min)  # if nothing is left, the next one without an item
        value[order] = -np.inf
        order.append(int(value.argmax()))
        cosine = unit @ unit[order[-1]]
        nearest = cosine if nearest is None else np.maximum(nearest, cosine)
    return np.array(order)
