"""Distinct values, by sorting; without torch, as `serve.light` uses it too."""

import numpy as np

__all__ = ["among", "repeated", "repeats_of", "sorted_unique"]

PART = 2**20  # values that are looked up at once


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
    """Which `(n,)` of whole numbers occur several times; cheap where none does.

    Example:
        >>> repeats_of(np.array([5, 3, 5, 7]))
        array([ True, False,  True, False])
    """
    return among(values, repeated(np.sort(values)))


def among(values: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Which `(n,)` of the values are among `some` ascending ones, a bounded number of them at once."""
    found = np.zeros(len(values), dtype=bool)
    for at in range(0, len(values) if len(some) else 0, PART):
        part = values[at : at + PART]
        place = np.searchsorted(some, part)
        np.minimum(place, len(some) - 1, out=place)
        found[at : at + PART] = some[place] == part
    return found


def repeated(ordered: np.ndarray) -> np.ndarray:
    """The values, each once, that occur several times in ascending ones `(n,)`."""
    return sorted_unique(ordered[1:][ordered[1:] == ordered[:-1]], reuse=True)
