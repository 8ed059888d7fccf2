"""Distinct values, by sorting; without torch, as `serve.light` uses it too."""

import numpy as np

__all__ = ["repeats_of", "sorted_unique"]


def sorted_unique(values: np.ndarray, *, reuse: bool = False) -> np.ndarray:
    """`numpy.unique` of `(n,)`, which from NumPy 2.3 on hashes whole numbers first and takes fifteen times as long.

    With `reuse` the memory of `values` is overwritten, and is that of the answer if all are different.
    """
    if reuse:
        values.sort()
    else:
        values = np.sort(values)
    first = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return values if first.all() else values[first]


def repeats_of(values: np.ndarray) -> np.ndarray:
    """Which `(n,)` of whole numbers are there several times; cheap where none is.

    Example:
        >>> repeats_of(np.array([5, 3, 5, 7]))
        array([ True, False,  True, False])
    """
    ordered = np.sort(values)
    several = sorted_unique(ordered[1:][ordered[1:] == ordered[:-1]], reuse=True)
    del ordered
    if not len(several):
        return np.zeros(len(values), dtype=bool)
    return several[np.searchsorted(several, values).clip(max=len(several) - 1)] == values
