"""The caller's tables: which columns hold what, ids as numbers, and what was left out, in words."""

from collections.abc import Hashable, Iterable
from functools import lru_cache

import numpy as np
import pandas as pd

from collabkit.data.checks import shown
from collabkit.data.guess import guess_columns
from collabkit.data.interactions import Columns, check_frame
from collabkit.data.notices import say
from collabkit.data.vocab import refuse_missing

__all__ = ["check_one_name", "name_columns", "with_dates", "id_codes", "new_frame", "describe_left_out", "say_left_out"]


def name_columns(
    df: pd.DataFrame, user_name: str | None = None, item_name: str | None = None, rating_name: str | None = None,
    time_name: str | None = None, context=(), *, rated: bool = False, timed: bool = False,
) -> Columns:  # fmt: skip
    """The `Columns` of `df`, checked; wanted ones (`rated`, `timed`) that are not named are guessed."""
    check_frame(df)
    if context is not None and not isinstance(context, Iterable):
        raise TypeError("context_features must be names of columns, or a dict from names to kinds, got "
                        f"{shown(context)}")  # fmt: skip
    context = (context,) if isinstance(context, str) else tuple(context or ())
    check_one_name(user_name, item_name, rating_name, time_name)
    given = {"user": user_name, "item": item_name, "rating": rating_name, "time": time_name}
    wanted = {"user", "item", *(["rating"] if rated else []), *(["time"] if timed else [])}
    if any(given[role] is None for role in wanted):
        for name in given.values():  # a misspelt name should not cast doubt on the others
            if name is not None and name not in df.columns:
                Columns(*(given[role] or df.columns[0] for role in ("user", "item")), rating_name, time_name).check(df)
        given = guess_columns(df, given, rated=rated, timed=timed)
    columns = Columns(*given.values(), context)
    columns.check(df)
    return columns


def check_one_name(*names) -> None:
    """Raise `TypeError` where a name of a column is a list or a column itself."""
    for name in names:
        if not isinstance(name, Hashable) or isinstance(name, (pd.Series, pd.Index)):
            raise TypeError(f"columns are named by their names, e.g. user_name='user', got {shown(name)}")


def with_dates(df: pd.DataFrame, time_name: str | None) -> pd.DataFrame:
    """A table read from a file, with the time column converted if it holds dates as text."""
    if time_name is None or time_name not in df.columns or not pd.api.types.is_string_dtype(df[time_name].dtype):
        return df
    texts = df[time_name]
    day_first = _day_first(texts, time_name)
    times = pd.to_datetime(texts, dayfirst=day_first, errors="coerce")
    if (bad := texts[times.isna() & texts.notna()]).any():
        try:  # dates in several formats
            times = pd.to_datetime(texts, dayfirst=day_first, format="mixed")
        except (ValueError, TypeError):
            raise ValueError(f"column {time_name!r} has times that cannot be read, {len(bad):,} of them, e.g. "
                             f"{bad.iloc[0]!r}: write them as 2026-01-31 12:00, or {_CONVERT}") from None  # fmt: skip
    return df.assign(**{time_name: times})


_CONVERT = "read the table with pandas, convert them by pd.to_datetime, and hand it to from_df"
_NUMERIC_DATE = r"^\s*(\d{1,2})([./-])(\d{1,2})\2\d{2}(?:\d{2})?(?!\d)"


def _day_first(texts: pd.Series, name: str) -> bool:
    """Whether dates such as 03.07.2026 begin with the day: by days above 12 or by dots, else an error."""
    heads = pd.Series(texts.dropna().str.slice(0, 12).unique()).str.extract(_NUMERIC_DATE).dropna()
    if heads.empty:
        return False
    first, second = heads[0].astype(int), heads[2].astype(int)
    if (first > 12).any() or (second > 12).any():
        return bool((first > 12).any())
    text = texts.dropna().iloc[0]
    if (heads[1] == ".").all():
        say(f"dates in {name!r} are read with the day first, as is usual with dots, e.g. {text!r}")
        return True
    raise ValueError(f"dates in {name!r} begin with the day or with the month, e.g. {text!r}: no day above 12 "
                     f"tells which: write them as 2026-01-31, or {_CONVERT}")  # fmt: skip


def id_codes(df: pd.DataFrame, name: str) -> np.ndarray:
    """The ids in a column as numbers `(n,)` from 0 in order of appearance; a missing id raises `ValueError`."""
    codes = pd.factorize(df[name])[0]
    refuse_missing(codes < 0, name)
    return codes


def new_frame(columns: dict) -> pd.DataFrame:
    """`pd.DataFrame(columns)` of columns not shared with others: in a third of the time if they are short."""
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
        raise ValueError(f"no row of {len(keep):,} is left: {reason}; relax the filter")
    say(describe_left_out(keep, users, items, reason))
