"""Checks of single arguments, and how their errors read."""

import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path

import numpy as np

from collabkit.data.notices import near_match

__all__ = [
    "at_least", "check_seed", "dropout_rate", "file_path", "finite", "in_days", "no_table", "one_of", "plain",
    "positive", "proper_share", "share_or_all", "shown", "whole", "whole_within", "widths",
]  # fmt: skip

_LONG = 100  # letters of a value in a message


def plain(value):
    """A NumPy scalar as the Python value that it prints like; anything else unchanged."""
    return value.item() if isinstance(value, np.generic) and not isinstance(value, np.datetime64) else value


def shown(value) -> str:
    """A value as a message shows it: numbers as in Python, texts and lists cut if they are long, tables by their type.

    Example:
        >>> shown(np.int64(3)), shown('a'), shown(np.zeros((9, 9)))
        ('3', "'a'", 'a value of type ndarray')
    """
    text = repr(plain(value))
    if isinstance(value, (str, bytes, list, tuple, dict, set)) and "\n" not in text:
        return text if len(text) <= _LONG else f"{text[:_LONG]}..."
    return text if len(text) <= _LONG and "\n" not in text else f"a value of type {type(value).__name__}"


def one_of(name: str, value, choices: Iterable[str], other: str = ""):
    """`value`, or a `ValueError` that lists the `choices`, if it is none of them, and suggests one.

    Args:
        other: what else may be given, in words.

    Example:
        >>> one_of('by', 'vektors', ('vectors', 'content'))
        Traceback (most recent call last):
        ValueError: by must be 'vectors' or 'content', got 'vektors' (did you mean 'vectors'?)
    """
    choices = tuple(choices)
    if (isinstance(value, str) or value is None) and value in choices:
        return value
    words = [repr(choice) for choice in choices if choice is not None]
    if len(words) > 2:
        words = [f"one of {', '.join(words)}"]
    words = [*(["None"] if None in choices else []), *words, *([other] if other else [])]
    listed = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
    raise ValueError(f"{name} must be {listed}, got {shown(value)}{near_match(value, choices)}")


def whole(name: str, value) -> int:
    """`value` as a Python int of at least 1, or a `ValueError` that says which argument was wrong.

    Example:
        >>> whole('k', 10.0)
        10
    """
    if isinstance(value, bool) or not isinstance(value, Real) or value % 1 != 0 or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {shown(value)}")
    return int(value)


def whole_within(name: str, value, least: int, most: int) -> int:
    """`value` as a Python int from `least` to `most`, or a `ValueError` that says which argument was wrong."""
    if isinstance(value, bool) or not isinstance(value, Real) or value % 1 != 0 or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least:,} to {most:,}, got {shown(value)}")
    return int(value)


def check_seed(seed) -> int:
    """`seed` as a Python int, or an error."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be a whole number, got {shown(seed)}") from None
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"seed must be a whole number of 64 bits, got {shown(seed)}")
    return number


def finite(name: str, value) -> float:
    """`value` as a finite Python float, or a `ValueError` that says which argument was wrong."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {shown(value)}")
    return float(value)


def _number(name: str, value, holds: Callable[[float], bool], must: str, hint: str = "") -> float:
    """`value` as a Python float, or a `ValueError` of what it `must` be, unless it is a number that `holds`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real) or not holds(value):
        raise ValueError(f"{name} must {must}, got {shown(value)}{hint}")
    return float(value)


def positive(name: str, value) -> float:
    """`value` as a finite Python float above 0, or a `ValueError` that says which argument was wrong."""
    return _number(name, value, lambda x: 0 < x < math.inf, "be a number above 0")


def proper_share(name: str, value, hint: str = "") -> float:
    """`value` as a Python float strictly between 0 and 1, or a `ValueError` that ends with `hint`."""
    return _number(name, value, lambda x: 0 < x < 1, "lie strictly between 0 and 1", hint)


def share_or_all(name: str, value) -> float:
    """`value` as a Python float from 0 to 1, both included, or a `ValueError`."""
    return _number(name, value, lambda x: 0 <= x <= 1, "lie in [0, 1]")


def dropout_rate(name: str, value) -> float:
    """`value` as a Python float of at least 0 and below 1, or a `ValueError`."""
    return _number(name, value, lambda x: 0 <= x < 1, "lie in [0, 1)")


def widths(name: str, value) -> list[int]:
    """The widths of layers as Python ints, or a `ValueError` where they are no list of whole numbers of at least 1.

    Example:
        >>> widths('layers', (64, 32))
        [64, 32]
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a list of widths, e.g. [64, 32], got {shown(value)}")
    return [whole(f"each width in {name}", width) for width in value]


def file_path(what: str, value) -> Path:
    """`value` as a path, `~` expanded, or a `TypeError` where it is none.

    Args:
        what: what is there, in words.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{what} is named by its path, a text or pathlib.Path; got {type(value).__name__}")
    return Path(value).expanduser()


def no_table(value) -> str:
    """What was given in the place of a table, and how it becomes one: the end of a message."""
    how = ""
    if isinstance(value, (str, os.PathLike)):
        how = f" {os.fspath(value)!r}: read a file first, e.g. pd.read_csv(file); from_csv and from_parquet do both"
    elif isinstance(value, (Mapping, Sequence)) and not isinstance(value, bytes):
        how = "; pd.DataFrame(...) makes a table of it"
    return f"got {type(value).__name__}{how}"


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
        raise ValueError(f"{name} must be a number of days, a pd.Timedelta or a text like '7D', got {shown(span)}: "
                         f"{error}") from None  # fmt: skip
    if not 0 < days < math.inf:
        raise ValueError(f"{name} must be positive, got {shown(span)}")
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
