"""The best of scores: hidden items, offsets, the top k, and lists whose items are unlike each other."""

from __future__ import annotations

import numpy as np

__all__ = ["chosen", "refuse_nan", "tilted", "top"]


def top(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The places `(b, k)` of the `k` largest of scores `(b, c)`, best first, and these; the first of equal ones wins.

    Example:
        >>> top(np.array([[1., 3., 3., 2.]]), 2)[0].tolist()
        [[1, 2]]
    """
    k = min(k, scores.shape[1])
    if k < scores.shape[1]:
        least = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
        found = np.empty((len(scores), k), np.int64)
        for j, (row, edge) in enumerate(zip(scores, least[:, 0], strict=True)):
            above = np.flatnonzero(row > edge)
            equal = np.flatnonzero(row == edge)[: k - len(above)]
            found[j, : len(above)], found[j, len(above) : len(above) + len(equal)] = above, equal
            if len(above) + len(equal) < k:  # NaN is neither
                raise ValueError(NAN)
    else:
        found = np.broadcast_to(np.arange(k), scores.shape)
    found = np.sort(found, axis=1)
    best = np.take_along_axis(scores, found, 1)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(found, order, 1), np.take_along_axis(best, order, 1)


NAN = "the model's scores are NaN: its training diverged; train again with a lower learning rate"


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
    """The places `(k,)` of a list by maximal marginal relevance, of a pool; see `retrieval.diversity.Diversity`.

    Args:
        scores: `(p,)` of the pool, in descending order, -inf where there is no item.
        unit: `(p, d)` their vectors, of length 1 or 0.
        weight, k: how much the list avoids what is alike; how many to choose.

    Example:
        >>> chosen(np.array([3., 2.9, 1.]), np.array([[1., 0.], [1., 0.], [0., 1.]]), .5, 2).tolist()
        [0, 2]
    """
    there = scores > -np.inf
    k = min(k, len(scores))
    if not there.any():
        return np.arange(k)
    low = scores[there].min()
    left = (1 - weight) * (scores - low) / max(scores[0] - low, np.finfo(np.float32).tiny)
    left = np.where(there, left, -np.inf)
    order, nearest = [], None
    for _ in range(k):
        value = left if nearest is None else left - weight * nearest
        value = np.where(there, value, np.finfo(np.float32).min)  # where nothing is left, the next without an item
        value[order] = -np.inf
        order.append(int(value.argmax()))
        cosine = unit @ unit[order[-1]]
        nearest = cosine if nearest is None else np.maximum(nearest, cosine)
    return np.array(order)
