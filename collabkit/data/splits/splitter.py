"""`Splitter`: a way to split a table, and `Split`, its result."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from collabkit.data.checks import at_least, finite, one_of
from collabkit.data.frames import Table, takes_tables
from collabkit.data.interactions import Columns, check_ratings
from collabkit.data.tables import describe_left_out, id_codes, name_columns

__all__ = ["Split", "Splitter"]


@dataclass(frozen=True)
class Split:
    """Row positions of the two parts, and notes on dropped rows.

    Args:
        train, valid: int64 positions `(n,)` in the table, disjoint.
        by: how the split was made.
        notes: one line per kind of dropped rows, with counts and the reason.
        moment: the time at which validation begins, comparable with the column of times; None if there is no one time.
    """

    train: np.ndarray
    valid: np.ndarray
    by: str
    notes: tuple[str, ...] = field(default=())
    moment: Any = None

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.train, self.valid))

    def __repr__(self) -> str:
        head = f"Split: {len(self.train):,} train and {len(self.valid):,} valid rows by {self.by}"
        return "\n  ".join([head, *self.notes])


@dataclass(frozen=True)
class Splitter:
    """A way to split a table: when called on a DataFrame, it returns a `Split`.

    Args:
        by: name for reports.
        rows: function `(df, columns) -> (train rows, valid rows, notes)`, and as a fourth the moment, for splits at one
            time.
        cold: what happens to validation rows whose user or item has no training row: `'keep'` or `'drop'` (counted).
        time_name: column of the event times, for splits that need it; `from_df` sets it.
        min_rating: validation rows rated below it are dropped (and counted), so that only liked items are relevant.
        may_be_empty: whether the validation part may have no rows; for other splits that is an error.
        counts_rows: whether `rows` looks at nothing but the number of rows.
    """

    by: str
    rows: Callable[[pd.DataFrame, Columns], tuple]
    cold: str = "keep"
    time_name: str | None = None
    min_rating: float | None = None
    may_be_empty: bool = False
    counts_rows: bool = False

    def __post_init__(self):
        one_of("cold", self.cold, ("keep", "drop"))
        if self.min_rating is not None:
            finite("min_rating", self.min_rating)

    @property
    def blind(self) -> bool:
        """Whether the values of the table do not matter, so that it may have none."""
        return self.counts_rows and self.cold == "keep" and self.min_rating is None

    @takes_tables
    def __call__(self, df: Table, columns: Columns | None = None) -> Split:
        if columns is None:
            columns = name_columns(df, time_name=self.time_name)
        elif self.time_name is not None:
            columns = name_columns(df, columns.user, columns.item, columns.rating, self.time_name)
        train, valid, notes, *moment = self.rows(df, columns)
        train, valid = _positions(train, len(df), self.by), _positions(valid, len(df), self.by)
        self._check_parts(train, valid, len(df))
        used = np.zeros(len(df), dtype=bool)
        used[train] = used[valid] = True
        if len(train) + len(valid) > used.sum():
            raise ValueError(f"{self.by} gives {len(train) + len(valid) - used.sum():,} row positions twice; each row "
                             "may occur once, in one part")  # fmt: skip
        notes = [*notes, *_left_out(df, columns, slice(None), used, "in neither part")]
        if self.min_rating is not None:
            if columns.rating is None:
                names = f"one of {list(df.columns)}"
                raise ValueError(f"min_rating={self.min_rating:g} needs the ratings: pass rating_name=, {names}")
            high = at_least(check_ratings(df[columns.rating].iloc[valid]), self.min_rating)
            notes += _left_out(df, columns, valid, high, f"rated below {self.min_rating:g}", "valid: ")
            valid = valid[high]
        if self.cold == "drop":
            warm = np.ones(len(valid), dtype=bool)  # rows whose user and item are in training
            for name in (columns.user, columns.item):
                codes = id_codes(df, name)
                warm &= np.bincount(codes[train], minlength=codes.max() + 1)[codes[valid]] > 0
            notes += _left_out(df, columns, valid, warm, "user or item without a training row (cold)", "valid: ")
            valid = valid[warm]
        self._check_parts(train, valid, len(df))
        return Split(train, valid, self.by, tuple(notes), *moment)

    def _check_parts(self, train: np.ndarray, valid: np.ndarray, n_rows: int) -> None:
        for name, part in (("training", train), ("validation", valid)):
            if len(part) == 0 and not (self.may_be_empty and name == "validation"):
                raise ValueError(f"{self.by} leaves the {name} part empty ({len(train):,} training and {len(valid):,} "
                                 f"validation of {n_rows:,} rows); use more data or another split")  # fmt: skip


def _left_out(df: pd.DataFrame, columns: Columns, rows, keep: np.ndarray, reason: str, part: str = "") -> list[str]:
    """A note on the `rows` that are not kept, if any."""
    if keep.all():
        return []
    users, items = (id_codes(df, name)[rows] for name in (columns.user, columns.item))
    return [part + describe_left_out(keep, users, items, reason)]


def _positions(rows, n_rows: int, by: str) -> np.ndarray:
    """`rows` as int64 positions `(m,)` in a table of `n_rows`, or an error."""
    rows = np.asarray(rows)
    if len(rows) and rows.dtype.kind not in "iu":
        raise TypeError(f"{by} must give row positions (whole numbers), got {rows.dtype}; use np.flatnonzero on a mask")
    if len(rows) and (rows.min() < 0 or rows.max() >= n_rows):
        raise ValueError(f"{by} gives row positions from {rows.min()} to {rows.max()}; the table has {n_rows:,} rows")
    return rows.astype(np.int64)
