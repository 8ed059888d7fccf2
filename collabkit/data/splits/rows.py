"""Splits by rows: at random, by time, in folds, or by a column."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from collabkit.data.checks import check_seed
from collabkit.data.interactions import Columns, check_times, comparable_times
from collabkit.data.notices import MissingError
from collabkit.data.splits.splitter import Splitter
from collabkit.data.tables import id_codes

__all__ = ["random_split", "leave_last_out", "time_split", "k_fold", "column_split"]


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
        if tied := int((first == before.reindex(first.index)).sum()):
            notes.append(f"for {tied:,} users events at one time lie on both sides of the cut; table order decided")
        return np.sort(order[~last]), np.sort(order[last]), notes

    return Splitter(f"leave_last_out(n={n})", rows, cold, time_name, min_rating)


def time_split(
    share: float | None = None, *, date=None, time_name: str | None = None, cold: str = "keep",
    min_rating: float | None = None,
) -> Splitter:  # fmt: skip
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
        times = comparable_times(df[columns.time])
        first = times.sort_values().iloc[len(df) - max(1, round(share * len(df)))] if date is None else date
        is_number = isinstance(first, (int, float, np.number))
        try:
            late = times >= (pd.Timestamp(first) if times.dtype.kind == "M" and not is_number else first)
        except TypeError as error:
            odd = f"column {times.name!r} of {times.dtype} (e.g. {times.iloc[0]!r})"
            raise TypeError(f"date={date!r} cannot be compared with {odd}") from error
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
