"""The caller's tables: which columns hold what, ids as numbers, and what was left out, in words."""

from functools import lru_cache

import numpy as np
import pandas as pd

from collabkit.data.interactions import Columns
from collabkit.data.notices import MissingError, say
from collabkit.data.vocab import refuse_missing

__all__ = ["name_columns", "id_codes", "new_frame", "describe_left_out", "say_left_out"]


def name_columns(
    df: pd.DataFrame, user_name: str | None = None, item_name: str | None = None, rating_name: str | None = None,
    time_name: str | None = None, context=(),
) -> Columns:  # fmt: skip
    """The `Columns` of `df`, checked; user and item default to its first two columns."""
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"expected a pandas DataFrame of interactions, got {type(df).__name__}")
    if len(df.columns) < 2:
        raise MissingError(f"a table of interactions needs a user and an item column; it has {list(df.columns)}")
    names = [df.columns[j] if name is None else name for j, name in enumerate((user_name, item_name))]
    columns = Columns(*names, rating_name, time_name, (context,) if isinstance(context, str) else tuple(context or ()))
    columns.check(df)
    return columns


def id_codes(df: pd.DataFrame, name: str) -> np.ndarray:
    """The ids in a column as numbers `(n,)` from 0 in order of appearance; a missing id raises `ValueError`."""
    codes = pd.factorize(df[name])[0]
    refuse_missing(codes < 0, name)
    return codes


def new_frame(columns: dict) -> pd.DataFrame:
    """`pd.DataFrame(columns)` of columns that nobody else holds: a third of its time where they are short."""
    frame = pd.DataFrame(dict(enumerate(columns.values())), copy=False)
    frame.columns = _index(tuple(columns))
    return frame


_index = lru_cache(lambda names: pd.Index(names, tupleize_cols=False))


def describe_left_out(keep: np.ndarray, users: np.ndarray, items: np.ndarray, reason: str) -> str:
    """'left out 3 of 10 rows, 1 of 4 users, 0 of 5 items: reason', for rows `(n,)` of which `keep` are kept."""
    parts = [f"{(~keep).sum():,} of {len(keep):,} rows"]
    for codes, what in ((users, "users"), (items, "items")):
        before, after = (int((np.bincount(part) > 0).sum()) for part in (codes, codes[keep]))
        parts.append(f"{before - after:,} of {before:,} {what}")
    return f"left out {', '.join(parts)}: {reason}"


def say_left_out(keep: np.ndarray, users: np.ndarray, items: np.ndarray, reason: str) -> None:
    """Warn of the rows `(n,)` that are not kept; none kept is a `ValueError`."""
    if not keep.any():
        raise ValueError(f"no row of {len(keep):,} is left: all are {reason}; relax the filter")
    say(describe_left_out(keep, users, items, reason))
