"""Splits of a table of interactions into a training and a validation part.

Each function makes a `Splitter`, for `CollabDataLoaders.from_df(..., splitter=...)` or to be called on a DataFrame:

    >>> df = pd.DataFrame({'user': [1, 1, 1, 2], 'item': ['a', 'b', 'c', 'a'], 'time': [3, 1, 2, 9]})
    >>> leave_last_out(time_name='time')(df)
    Split: 3 train and 1 valid rows by leave_last_out(n=1)
      1 of 2 users have no row in valid: 1 row or fewer
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from collabkit.filters import describe_left_out, id_codes, name_columns
from collabkit.interactions import Columns, check_seed, check_times
from collabkit.vocab import Vocab

__all__ = [
    "Split", "Splitter", "random_split", "leave_last_out", "time_split", "k_fold", "column_split", "cold_items",
    "cold_users",
]  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Row positions of the two parts, and what was left out of them.

    Args:
        train, valid: int64 positions `(n,)` in the table, disjoint.
        by: how the split was made.
        notes: one line for each kind of rows left out, with its counts and the reason.
    """

    train: np.ndarray
    valid: np.ndarray
    by: str
    notes: tuple[str, ...] = field(default=())

    def __iter__(self):
        return iter((self.train, self.valid))

    def __repr__(self) -> str:
        head = f"Split: {len(self.train):,} train and {len(self.valid):,} valid rows by {self.by}"
        return "\n  ".join([head, *self.notes])


@dataclass(frozen=True)
class Splitter:
    """A way to split: called on a DataFrame it returns a `Split`.

    Args:
        by: what it is called in reports.
        rows: function `(df, columns) -> (train rows, valid rows, notes)`.
        cold: what happens to validation rows whose user or item has no training row: `'keep'` or `'drop'` (counted).
        time_name: column of the event times, for splits that need it; `from_df` fills it in.
        min_rating: validation rows rated below it are left out (counted): what is to be found is what was liked.
    """

    by: str
    rows: Callable[[pd.DataFrame, Columns], tuple[np.ndarray, np.ndarray, list[str]]]
    cold: str = "keep"
    time_name: str | None = None
    min_rating: float | None = None

    def __post_init__(self):
        if self.cold not in ("keep", "drop"):
            raise ValueError(f"cold must be 'keep' or 'drop', got {self.cold!r}")

    def __call__(self, df: pd.DataFrame, columns: Columns | None = None) -> Split:
        if columns is None:
            columns = name_columns(df, time_name=self.time_name)
        elif self.time_name is not None:
            columns = name_columns(df, columns.user, columns.item, columns.rating, self.time_name)
        train, valid, notes = self.rows(df, columns)
        train, valid = _positions(train, len(df), self.by), _positions(valid, len(df), self.by)
        _check_parts(train, valid, len(df), self.by)
        used = np.bincount(np.concatenate([train, valid]), minlength=len(df)).astype(bool)
        left_out = describe_left_out(df, used, columns, "in neither part")
        low = cold = None
        if self.min_rating is not None:
            high = _rated_at_least(df.iloc[valid], columns, self.min_rating)
            low = describe_left_out(df.iloc[valid], high, columns, f"rated below {self.min_rating:g}")
            valid = valid[high]
            _check_parts(train, valid, len(df), self.by)
        if self.cold == "drop":
            warm = _warm(df, columns, train, valid)
            cold = describe_left_out(df.iloc[valid], warm, columns, "user or item without a training row (cold)")
            valid = valid[warm]
            _check_parts(train, valid, len(df), self.by)
        notes = [*notes, *([left_out] if left_out else []), *(f"valid: {why}" for why in (low, cold) if why)]
        return Split(train, valid, self.by, tuple(notes))


def random_split(
    valid_pct: float = 0.2, *, seed: int | None = None, cold: str = "keep", min_rating: float | None = None
) -> Splitter:
    """A random share `valid_pct` of the rows is validation; the same seed gives the same rows as fastai's.

    Without a seed the draw comes from torch's global generator, as in fastai.

    Raises:
        ValueError: `valid_pct` is not strictly between 0 and 1, or a part would be empty.
    """
    if not 0 < valid_pct < 1:
        raise ValueError(f"valid_pct must lie strictly between 0 and 1, got {valid_pct!r}")

    def rows(df, columns):
        generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
        order = torch.randperm(len(df), generator=generator).numpy()
        n_valid = int(valid_pct * len(df))
        return np.sort(order[n_valid:]), np.sort(order[:n_valid]), []

    return Splitter(f"random_split(valid_pct={valid_pct:g}, seed={seed})", rows, cold, min_rating=min_rating)


def leave_last_out(
    n: int = 1, *, time_name: str | None = None, cold: str = "keep", min_rating: float | None = None
) -> Splitter:
    """The last `n` rows of each user by time are validation; ties fall to the later row of the table.

    Users with `n` rows or fewer keep all of them in training.

    Raises:
        ValueError: `n` < 1, or no time column was named.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n!r}")

    def rows(df, columns):
        order = _by_time(df, columns)
        user = id_codes(df, columns.user)[order]
        from_end = pd.Series(user[::-1]).groupby(user[::-1]).cumcount().to_numpy()[::-1]
        last = (from_end < n) & (np.bincount(user)[user] > n)
        few = int((np.bincount(user) <= n).sum())
        notes = [f"{few:,} of {user.max() + 1:,} users have no row in valid: {n} row or fewer"] if few else []
        times = df[columns.time].iloc[order].reset_index(drop=True)
        first, before = times[last].groupby(user[last]).min(), times[~last].groupby(user[~last]).max()
        tied = int((first == before.reindex(first.index)).sum())
        if tied:
            notes.append(f"for {tied:,} users events at one time lie on both sides of the cut; table order decided")
        return np.sort(order[~last]), np.sort(order[last]), notes

    return Splitter(f"leave_last_out(n={n})", rows, cold, time_name, min_rating)


def time_split(
    share: float | None = None,
    *,
    date=None,
    time_name: str | None = None,
    cold: str = "keep",
    min_rating: float | None = None,
) -> Splitter:
    """One cut in time for all users: training lies before it, validation at or after it, so that nothing leaks back.

    Args:
        share: share of the rows, the latest ones, that are validation; rows with the time of the cut all go to
            validation, so that the part may be larger. Default 0.2.
        date: or the first moment of the validation part, comparable with the column (a `pd.Timestamp`, a number).

    Raises:
        ValueError: both or a bad `share` given, no time column named, or a part would be empty.
    """
    if share is not None and date is not None:
        raise ValueError(f"give share= or date=, not both (got {share!r} and {date!r})")
    share = 0.2 if share is None and date is None else share
    if share is not None and not 0 < share < 1:
        raise ValueError(f"share must lie strictly between 0 and 1, got {share!r}")

    def rows(df, columns):
        _by_time(df, columns)
        times = df[columns.time]
        if date is None:
            late = times >= times.sort_values().iloc[len(df) - max(1, round(share * len(df)))]
        else:
            late = _from(times, date)
        late = late.to_numpy(dtype=bool)
        return np.flatnonzero(~late), np.flatnonzero(late), []

    by = f"time_split(date={date!r})" if date is not None else f"time_split(share={share:g})"
    return Splitter(by, rows, cold, time_name, min_rating)


def k_fold(n_folds: int = 5, *, seed: int | None = None, cold: str = "keep") -> Iterator[Splitter]:
    """`n_folds` splitters; each row is validation in exactly one of them.

    Example:
        >>> df = pd.DataFrame({'user': range(6), 'item': range(6)})
        >>> [splitter(df).valid.tolist() for splitter in k_fold(3, seed=0)]
        [[2, 3], [4, 5], [0, 1]]
    """
    if n_folds < 2:
        raise ValueError(f"n_folds must be at least 2, got {n_folds!r}")
    seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed  # one permutation for all folds

    def one(fold):
        def rows(df, columns):
            parts = np.array_split(np.random.default_rng(seed).permutation(len(df)), n_folds)
            train = np.concatenate([part for j, part in enumerate(parts) if j != fold])
            return np.sort(train), np.sort(parts[fold]), []

        return Splitter(f"k_fold({fold + 1} of {n_folds}, seed={seed})", rows, cold)

    return (one(fold) for fold in range(n_folds))


def column_split(name: str, *, cold: str = "keep") -> Splitter:
    """A given column says which rows are validation: True/1 or 'valid'/'test'; False/0 or 'train' are training.

    Raises:
        KeyError: the table lacks the column.
        ValueError: the column holds other values.
    """
    meaning = {"train": False, "valid": True, "validation": True, "test": True}

    def rows(df, columns):
        if name not in df.columns:
            raise KeyError(f"split column {name!r} not found; the table has {list(df.columns)}")
        mark = lambda v: meaning.get(v) if isinstance(v, str) else (bool(v) if v in (0, 1) else None)  # noqa: E731
        marks = df[name].map(mark, na_action="ignore")
        if marks.isna().any():
            odd = df.loc[marks.isna(), name].unique()[:3].tolist()
            raise ValueError(f"split column {name!r} must hold booleans, 0/1 or 'train'/'valid'/'test'; it holds {odd}")
        marks = marks.to_numpy(dtype=bool)
        return np.flatnonzero(~marks), np.flatnonzero(marks), []

    return Splitter(f"column_split({name!r})", rows, cold)


def cold_items(frac: float = 0.1, *, seed: int | None = None, min_rating: float | None = None) -> Splitter:
    """A random share `frac` of the items is held out entirely: all their rows are validation, none is training.

    `max(1, round(frac * n_items))` items are drawn among the sorted ids, so that the same seed holds out the same items
    in whatever order the rows are. Without a seed the draw comes from torch's global generator.

    Args:
        frac: share of the items, strictly between 0 and 1.
        seed: of the draw.
        min_rating: validation rows rated below it are left out (counted).

    Raises:
        ValueError: `frac` out of its range; a part would be empty.

    Example:
        >>> df = pd.DataFrame({'user': [1, 2, 1, 2, 3], 'item': ['a', 'a', 'b', 'b', 'a']})
        >>> cold_items(0.5, seed=0)(df)
        Split: 2 train and 3 valid rows by cold_items(frac=0.5, seed=0)
          1 of 2 items are held out, with 3 of 5 rows
          1 valid rows are of 1 users left without a training row: cold too
    """
    return _held_out("item", frac, seed, min_rating)


def cold_users(frac: float = 0.1, *, seed: int | None = None, min_rating: float | None = None) -> Splitter:
    """A random share `frac` of the users is held out entirely: all their rows are validation, none is training.

    Args, draw and errors as of `cold_items`.

    Example:
        >>> df = pd.DataFrame({'user': [1, 2, 1, 2, 3], 'item': ['a', 'a', 'b', 'b', 'a']})
        >>> cold_users(0.3, seed=0)(df).notes
        ('1 of 3 users are held out, with 1 of 5 rows',)
    """
    return _held_out("user", frac, seed, min_rating)


def _held_out(side: str, frac: float, seed: int | None, min_rating: float | None) -> Splitter:
    """`cold_items` or `cold_users`, for `side` `'item'` or `'user'`."""
    if not 0 < frac < 1:
        raise ValueError(f"frac must lie strictly between 0 and 1, got {frac!r}")
    other = "user" if side == "item" else "item"

    def rows(df, columns):
        generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
        name = getattr(columns, side)
        vocab = Vocab.from_values(df[name], name)  # sorted ids, the same whatever the order of the rows
        n = len(vocab) - 1
        cold = np.zeros(n + 1, dtype=bool)
        cold[1 + torch.randperm(n, generator=generator)[: max(1, round(frac * n))].numpy()] = True
        out = cold[vocab.encode(df[name])]
        notes = [f"{cold.sum():,} of {n:,} {side}s are held out, with {out.sum():,} of {len(df):,} rows"]
        codes = id_codes(df, getattr(columns, other))
        left = np.bincount(codes[~out], minlength=codes.max() + 1) == 0  # whose rows were all of held-out ids
        if left.any():
            lost = f"{left[codes].sum():,} valid rows are of {left.sum():,} {other}s"
            notes.append(f"{lost} left without a training row: cold too")
        return np.flatnonzero(~out), np.flatnonzero(out), notes

    return Splitter(f"cold_{side}s(frac={frac:g}, seed={seed})", rows, min_rating=min_rating)


def _by_time(df: pd.DataFrame, columns: Columns) -> np.ndarray:
    """Row positions `(n,)` in time order, stable."""
    if columns.time is None:
        raise ValueError(f"this split needs the times of the events: pass time_name=, one of {list(df.columns)}")
    check_times(df[columns.time])
    return df[columns.time].argsort(kind="stable").to_numpy()


def _from(times: pd.Series, date) -> pd.Series:
    """Which `times` are at or after `date`."""
    try:
        is_number = isinstance(date, (int, float, np.number))
        return times >= (pd.Timestamp(date) if times.dtype.kind == "M" and not is_number else date)
    except TypeError as error:
        raise TypeError(
            f"date={date!r} cannot be compared with column {times.name!r} of {times.dtype} (e.g. {times.iloc[0]!r})"
        ) from error


def _rated_at_least(df: pd.DataFrame, columns: Columns, threshold: float) -> np.ndarray:
    """Which rows `(n,)` bool are rated at least `threshold`."""
    if columns.rating is None:
        raise ValueError(f"min_rating={threshold:g} needs the ratings: pass rating_name=, one of {list(df.columns)}")
    return (df[columns.rating] >= threshold).to_numpy(dtype=bool)


def _warm(df: pd.DataFrame, columns: Columns, train: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Which validation rows `(n_valid,)` bool have a user and an item that training has met."""
    warm = np.ones(len(valid), dtype=bool)
    for name in (columns.user, columns.item):
        codes = id_codes(df, name)
        met = np.zeros(codes.max() + 1, dtype=bool)
        met[codes[train]] = True
        warm &= met[codes[valid]]
    return warm


def _positions(rows, n_rows: int, by: str) -> np.ndarray:
    """`rows` as int64 positions `(m,)` in a table of `n_rows`, or an error."""
    rows = np.asarray(rows)
    if len(rows) and rows.dtype.kind not in "iu":
        raise TypeError(f"{by} must give row positions (whole numbers), got {rows.dtype}; use np.flatnonzero on a mask")
    if len(rows) and (rows.min() < 0 or rows.max() >= n_rows):
        raise ValueError(f"{by} gives row positions from {rows.min()} to {rows.max()}; the table has {n_rows:,} rows")
    return rows.astype(np.int64)


def _check_parts(train: np.ndarray, valid: np.ndarray, n_rows: int, by: str) -> None:
    for name, part in (("training", train), ("validation", valid)):
        if len(part) == 0:
            raise ValueError(
                f"{by} leaves the {name} part empty ({len(train):,} training and {len(valid):,} validation of "
                f"{n_rows:,} rows); use more data or another split"
            )
    twice = len(train) + len(valid) - len(np.union1d(train, valid))
    if twice:
        raise ValueError(f"{by} gives {twice:,} row positions twice; a row belongs to one part, once")
