"""Checks of single arguments, and how their errors read."""

import math
import operator
from numbers import Real

import numpy as np

__all__ = ["at_least", "check_seed", "finite", "in_days", "whole", "whole_within"]


def whole(name: str, value) -> int:
    """`value` as a Python int of at least 1, or a `ValueError` that says which argument was wrong.

    Example:
        >>> whole('k', 10.0)
        10
    """
    if isinstance(value, bool) or not isinstance(value, Real) or value % 1 != 0 or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return int(value)


def whole_within(name: str, value, least: int, most: int) -> int:
    """`value` as a Python int from `least` to `most`, or a `ValueError` that says which argument was wrong."""
    if isinstance(value, bool) or not isinstance(value, Real) or value % 1 != 0 or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least:,} to {most:,}, got {value!r}")
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


def in_days(name: str, span) -> float:
    """A span of time in days: a number of them, a `pd.Timedelta` or the like, or a text such as `'7D'` or `'12h'`.

    Raises:
        ValueError: it is none of these, or not positive.

    Example:
        >>> import pandas as pd
        >>> in_days('window', 7), in_days('window', '36h'), in_days('window', pd.Timedelta(weeks=1))
        (7.0, 1.5, 7.0)
    """
    is_number = isinstance(span, Real) and not isinstance(span, (bool, np.bool_))
    try:
        days = float(span) if is_number else _days(span)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} must be a number of days, a pd.Timedelta or a text like '7D', got {span!r}: "
                         f"{error}") from None  # fmt: skip
    if not 0 < days < math.inf:
        raise ValueError(f"{name} must be positive, got {span!r}")
    return days


def at_least(ratings, threshold: float) -> np.ndarray:
    """Which of `ratings` `(n,)` are at least `threshold`; a missing one is not.

    Both are rounded to float32, as ratings are kept: else a float64 .7 from the caller, or the median of a column, is
    above the very rating that it came from.

    Example:
        >>> at_least(np.array([.7, .1], dtype=np.float32), np.float64(.7)).tolist()
        [True, False]
    """
    return np.asarray(ratings, dtype=np.float64).astype(np.float32) >= np.float32(threshold)


def _days(span) -> float:
    """The days of a span that is no number."""
    import pandas as pd  # not above: what answers without pandas checks numbers here too

    if isinstance(span, str) and not any(letter.isalpha() or letter == ":" for letter in span):
        raise ValueError("it has no unit")  # pandas would take nanoseconds
    return pd.Timedelta(span) / pd.Timedelta(days=1)
