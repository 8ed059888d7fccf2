"""Checks of single arguments, and how their errors read."""

import math
import operator
from numbers import Real

import numpy as np

__all__ = ["at_least", "check_seed", "finite", "whole"]


def whole(name: str, value) -> int:
    """`value` as a Python int of at least 1, or a `ValueError` that says which argument was wrong.

    Example:
        >>> whole('k', 10.0)
        10
    """
    if isinstance(value, bool) or not isinstance(value, Real) or value % 1 != 0 or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return int(value)


def check_seed(seed) -> int:
    """`seed` as a Python int, or an error."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be a whole number, got {seed!r}") from None
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"seed must be a whole number of 64 bits, got {seed!r}")
    return number


def finite(name: str, value) -> float:
    """`value` as a finite Python float, or a `ValueError` that says which argument was wrong."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def at_least(ratings, threshold: float) -> np.ndarray:
    """Which of `ratings` `(n,)` are at least `threshold`; a missing one is not.

    Both are rounded to float32, as ratings are kept: else a float64 .7 from the caller, or the median of a column, is
    above the very rating that it was taken from.

    Example:
        >>> at_least(np.array([.7, .1], dtype=np.float32), np.float64(.7)).tolist()
        [True, False]
    """
    return np.asarray(ratings, dtype=np.float64).astype(np.float32) >= np.float32(threshold)
