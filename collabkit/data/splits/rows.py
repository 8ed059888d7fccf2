"""Splits by rows: at random, by time, in folds, or by a column."""

from collections.abc import Hashable, Iterator
from datetime import date as Date

import numpy as np
import pandas as pd
import torch

from collabkit.data.checks import check_seed, in_days, plain, proper_share, shown, whole
from collabkit.data.interactions import Columns, check_times, comparable_times, day_of
from collabkit.data.notices import MissingError
from collabkit.data.splits.splitter import Splitter
from collabkit.data.tables import id_codes

__all__ = [
    "random_split", "no_split", "leave_last_out", "time_split", "rolling_windows", "window_cuts", "k_fold",
    "column_split", "before", "later",
]  # fmt: skip


def random_split(
    valid_pct: float = 0.2, *, seed: int | None = None, cold: str = "keep", min_rating: float | None = None
) -> Splitter:
    """Put a random share `valid_pct` of the rows into the validation part; a seed gives the same rows as in fastai.

    Without a seed, torch's global generator is used, as in fastai.

    Raises:
        ValueError: `valid_pct` is not strictly between 0 and 1, or a part would be empty.
    """
    valid_pct = proper_share("valid_pct", valid_pct, "; no_split() trains on all")

    def rows(df, columns):
        generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
        order = torch.randperm(len(df), generator=generator).numpy()
        held_out = np.zeros(len(df), dtype=bool)
        held_out[order[: int(valid_pct * len(df))]] = True
        return np.flatnonzero(~held_out), np.flatnonzero(held_out), []

    by = f"random_split(valid_pct={valid_pct:g}, seed={seed})"
    return Splitter(by, rows, cold, min_rating=min_rating, counts_rows=True)


def no_split() -> Splitter:
    """Use all rows for training, without a validation part: for the final fit, after all choices are made.

    `CollabDataLoaders.from_df(valid_pct=0)` does the same.

    Example:
        >>> no_split()(pd.DataFrame({'user': [1, 1, 2], 'item': ['a', 'b', 'a']}))
        Split: 3 train and 0 valid rows by no_split()
    """
    return Splitter("no_split()", lambda df, _: (np.arange(len(df)), [], []), may_be_empty=True)


def leave_last_out(
    n: int = 1, *, time_name: str | None = None, cold: str = "keep", min_rating: float | None = None
) -> Splitter:
    """Put the last `n` rows of each user by time into the validation part; among ties the later row in the table.

    Users with `n` rows or fewer have all of them in the training part.

    Raises:
        ValueError: `n` < 1, or no time column was named.
    """
    n = whole("n", n)

    def rows(df, columns):
        order = _by_time(df, columns)
        user = id_codes(df, columns.user)[order]
        from_end = pd.Series(user[::-1]).groupby(user[::-1]).cumcount().to_numpy()[::-1]
        last = (from_end < n) & (np.bincount(user)[user] > n)
        few = int((np.bincount(user) <= n).sum())
        notes = [f"{few:,} of {user.max() + 1:,} users have no row in valid, as they have {n} or fewer"] if few else []
        times = df[columns.time].iloc[order].reset_index(drop=True)
        first, before = times[last].groupby(user[last]).min(), times[~last].groupby(user[~last]).max()
        if tied := int((first == before.reindex(first.index)).sum()):
            notes.append(f"{tied:,} users have events at one time on both sides of the cut; table order decided")
        return np.sort(order[~last]), np.sort(order[last]), notes

    return Splitter(f"leave_last_out(n={n})", rows, cold, time_name, min_rating)


def time_split(
    share: float | None = None, *, date=None, window=None, time_name: str | None = None, cold: str = "keep",
    min_rating: float | None = None,
) -> Splitter:  # fmt: skip
    """Split at one time for all users: training rows are before it, validation rows at or after it.

    So the model cannot learn from the future.

    Args:
        share: share of the rows, the latest ones, in the validation part. All rows with the time of the cut are
            validation rows, so the part may be larger. Default 0.2.
        date: alternatively, the start of the validation part, comparable with the column (a `pd.Timestamp`, a number).
        window: length of the validation part: days, a `pd.Timedelta` or a string like `'7D'`. Later rows are in neither
            part (counted). By default there is no limit. Numeric times are since 1970; see `Interactions.day`.

    Raises:
        ValueError: both `share` and `date` are given, `share` or `window` is invalid, no time column was named, or a
            part would be empty.

    Example:
        >>> days = pd.to_datetime(['1998-02-27', '1998-03-01', '1998-03-07', '1998-03-08'])
        >>> df = pd.DataFrame({'user': [1, 2, 1, 2], 'item': ['a', 'b', 'c', 'a'], 'time': days})
        >>> time_split(date='1998-03-01', window='7D', time_name='time')(df).valid.tolist()
        [1, 2]
    """
    if share is not None and date is not None:
        raise ValueError(f"give share= or date=, not both (got {shown(share)} and {shown(date)})")
    if isinstance(share, (str, Date)):
        raise TypeError(f"the first argument of time_split is the share of the rows, got {shown(share)}: give a number "
                        f"such as 0.2, or name a moment, date={str(share)!r}")  # fmt: skip
    if date is None:
        share = proper_share("share", 0.2 if share is None else share)
    days = None if window is None else in_days("window", window)

    def rows(df, columns):
        _by_time(df, columns)
        times = comparable_times(df[columns.time])
        first = times.sort_values().iloc[len(df) - max(1, round(share * len(df)))] if date is None else date
        return _parts(times, first, days)

    by = f"date={date!r}" if date is not None else f"share={share:g}"
    by += "" if window is None else f", window={window!r}"
    return Splitter(f"time_split({by})", rows, cold, time_name, min_rating)


def rolling_windows(
    n: int = 4, window="7D", *, time_name: str | None = None, cold: str = "keep", min_rating: float | None = None
) -> list[Splitter]:
    """Return `n` splitters for a backtest: each validates on one of the last `n` windows and trains on all rows before.

    The last window ends with the last event, every other one where the next begins; the earliest comes first. Rows
    after a window are in neither part (counted). `collabkit.backtest` evaluates models on these splits.

    Args:
        n: number of windows.
        window: length of each window: days, a `pd.Timedelta` or a string like `'7D'`; see `time_split`.

    Raises:
        ValueError: `n` < 1 or `window` is invalid; when a splitter is called, the windows reach back to the first
            event, or a part would be empty.

    Example:
        >>> df = pd.DataFrame({'user': range(4), 'item': range(4), 'time': pd.date_range('2020-01-01', periods=4)})
        >>> [splitter(df).valid.tolist() for splitter in rolling_windows(3, '1D', time_name='time')]
        [[1], [2], [3]]
    """
    n, days = whole("n", n), in_days("window", window)

    def one(j):
        def rows(df, columns):
            _by_time(df, columns)
            times = comparable_times(df[columns.time])
            return _parts(times, window_cuts(times, n, window)[j], days)

        return Splitter(f"rolling_windows({j + 1} of {n}, window={window!r})", rows, cold, time_name, min_rating)

    return [one(j) for j in range(n)]


def window_cuts(times: pd.Series, n: int = 4, window="7D") -> list:
    """The first moments of the last `n` windows of a column of times, ascending; the last ends with the last event.

    Raises:
        ValueError: they reach back to the first event, so nothing would lie before them.

    Example:
        >>> [str(cut.round('s')) for cut in window_cuts(pd.Series(pd.date_range('2020-01-01', '2020-03-01')), 2)]
        ['2020-02-16 00:00:00', '2020-02-23 00:00:00']
    """
    n, days = whole("n", n), in_days("window", window)
    check_times(times)
    times = comparable_times(times)
    first, last, step = times.min(), times.max(), pd.Timedelta(1)
    if times.dtype.kind != "M":
        first, last, step = int(first), int(last), 1
    cuts = [last - j * _span(times, days) + step for j in range(n, 0, -1)]
    if cuts[0] <= first:
        raise ValueError(f"{n} windows of {days:g} days, the last of them ending with the last event ({last}), begin "
                         f"at {cuts[0]}, and nothing lies before it to train on: the first event is at {first}. Use "
                         "fewer or shorter windows")  # fmt: skip
    return cuts


def before(times: pd.Series, moment) -> np.ndarray:
    """Which of `times` `(n,)` lie before a moment: a `pd.Timestamp`, a value that converts to one, or a number.

    Raises:
        TypeError: the moment and the times have different kinds.
    """
    try:
        return (times < _moment(times, moment)).to_numpy(dtype=bool)
    except TypeError as error:  # only one of them has a time zone
        raise _incomparable(times, moment) from error


def later(times: pd.Series, moment, days: float):
    """The moment this many days later, in the unit of the column; see `Interactions.day`."""
    return _moment(times, moment) + _span(times, days)


def _moment(times: pd.Series, moment):
    is_number, of_numbers = isinstance(moment, (int, float, np.number)), times.dtype.kind != "M"
    if is_number != of_numbers:
        raise _incomparable(times, moment)
    if is_number:
        return moment
    try:
        return pd.Timestamp(moment)
    except (ValueError, TypeError) as error:
        raise ValueError(f"date={shown(moment)} is no moment: {error}. Write it as '2026-01-31'") from None


def _incomparable(times: pd.Series, moment) -> TypeError:
    odd = f"column {times.name!r} of {times.dtype} (e.g. {plain(times.iloc[0])!r})"
    if times.dtype.kind != "M":
        how = (f"Give a number in the unit of the column, or make times of it, e.g. "
               f"pd.to_datetime(df[{times.name!r}], unit='s') for seconds since 1970")  # fmt: skip
    elif isinstance(moment, (int, float, np.number)):
        how = "Give a date, e.g. '2026-01-31' or a pd.Timestamp"
    else:
        how = "Give a moment with a time zone where the column has one, and without where it has none"
    return TypeError(f"date={shown(moment)} cannot be compared with {odd}. {how}")


def _span(times: pd.Series, days: float):
    if times.dtype.kind == "M":
        return pd.Timedelta(days=days)
    return max(1, round(days * day_of(int(times.abs().max()))))


def _parts(times: pd.Series, first, days: float | None) -> tuple[np.ndarray, np.ndarray, list, object]:
    """The rows before a moment, those from it on for this many days, no notes, and the moment."""
    early = before(times, first)
    valid = ~early if days is None else ~early & before(times, later(times, first, days))
    return np.flatnonzero(early), np.flatnonzero(valid), [], first


def k_fold(n_folds: int = 5, *, seed: int | None = None, cold: str = "keep") -> Iterator[Splitter]:
    """Return `n_folds` splitters; each row is a validation row in exactly one of them.

    Example:
        >>> df = pd.DataFrame({'user': range(6), 'item': range(6)})
        >>> [splitter(df).valid.tolist() for splitter in k_fold(3, seed=0)]
        [[2, 3], [4, 5], [0, 1]]
    """
    if whole("n_folds", n_folds) < 2:
        raise ValueError(f"n_folds must be at least 2, got {shown(n_folds)}")
    seed = (
        int(np.random.default_rng().integers(2**31)) if seed is None else check_seed(seed)
    )  # one permutation for all folds

    def one(fold):
        def rows(df, columns):
            parts = np.array_split(np.random.default_rng(seed).permutation(len(df)), n_folds)
            train = np.concatenate([part for j, part in enumerate(parts) if j != fold])
            return np.sort(train), np.sort(parts[fold]), []

        return Splitter(f"k_fold({fold + 1} of {n_folds}, seed={seed})", rows, cold)

    return (one(fold) for fold in range(n_folds))


def column_split(name: str, *, cold: str = "keep") -> Splitter:
    """Split by a column: True/1 or 'valid'/'test' are validation rows; False/0 or 'train' are training rows.

    Raises:
        KeyError: the table lacks the column.
        ValueError: the column holds other values.
    """
    if not isinstance(name, Hashable):
        raise TypeError(f"column_split takes the name of a column, got {shown(name)}")
    meaning = {"train": False, "valid": True, "validation": True, "test": True}

    def mark(value):
        if isinstance(value, str):
            return meaning.get(value)
        return bool(value) if value is not pd.NA and value in (0, 1) else None  # pd.NA in an object column is no bool

    def rows(df, columns):
        if name not in df.columns:
            raise MissingError(f"split column {name!r} not found; the table has {list(df.columns)}")
        marks = df[name].map(mark, na_action="ignore")
        if marks.isna().any():
            odd = df.loc[marks.isna(), name].unique()[:3].tolist()
            raise ValueError(f"split column {name!r} must hold booleans, 0/1 or 'train'/'valid'/'test'; it holds {odd}")
        marks = marks.to_numpy(dtype=bool)
        return np.flatnonzero(~marks), np.flatnonzero(marks), []

    return Splitter(f"column_split({name!r})", rows, cold)


def _by_time(df: pd.DataFrame, columns: Columns) -> np.ndarray:
    """Row positions `(n,)` in time order, stable."""
    if columns.time is None:
        raise ValueError(f"this split needs the times of the events: pass time_name=, one of {list(df.columns)}")
    check_times(df[columns.time])
    return df[columns.time].argsort(kind="stable").to_numpy()
