"""Checks of single arguments, and how their errors read."""

import operator
from numbers import Real

__all__ = ["check_seed", "whole"]


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
        return operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be a whole number, got {seed!r}") from None
