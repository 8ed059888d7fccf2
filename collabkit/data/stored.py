"""`StoredInteractions`: events whose columns are files mapped into memory, sorted by user."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from collabkit.data.interactions import Interactions
from collabkit.data.runs import Runs

__all__ = ["STEP", "StoredInteractions", "together"]

STEP = 2**22  # rows that are processed at once


@dataclass(frozen=True, eq=False)
class StoredInteractions(Interactions):
    """Events in the order of their users, each user's in the order of time, or of the files.

    The columns are int32 and float32 tensors over mapped files, so only the parts being read are in memory; values
    taken from them are int64, as everywhere else. Everything that needs an order by user (seen items, samplers, least
    squares, histories, whole-user batches) uses one table of where each user's rows begin.

    Args:
        starts: `(n_users + 1,)` where the rows of each user begin.
        distinct: the distinct pairs, each user's items ascending, mapped too.
        item_counts: `(n_items,)` rows of each item.
        whole: these events and those held out of them, if any.
    """

    starts: Tensor | None = None
    distinct: Runs | None = None
    item_counts: Tensor | None = None
    whole: StoredInteractions | None = None

    stored: ClassVar[bool] = True

    @cached_property
    def _counts(self) -> tuple[Tensor, ...]:
        return self._start.diff(), _longer(self.item_counts, self.n_items)

    @property
    def _start(self) -> Tensor:
        """`starts`, extended to the current number of users."""
        more = self.n_users + 1 - len(self.starts)
        return torch.cat([self.starts, self.starts[-1:].expand(more)]) if more else self.starts

    @cached_property
    def pairs(self) -> Runs:
        """The distinct (user, item) pairs."""
        more = self.n_users + 1 - len(self.distinct.start)
        start = self.distinct.start
        start = torch.cat([start, start[-1:].expand(more)]) if more else start
        return Runs(start, self.distinct.values, self.n_items)

    @cached_property
    def histories(self) -> Runs:
        """Each user's items in the order of their times, or of the files: the rows in stored order."""
        return Runs(self._start, self.item_idx, self.n_items)

    @cached_property
    def by_user(self) -> Runs:
        """The positions of each user's rows, in stored order."""
        return Runs(self._start, torch.arange(len(self)), len(self))

    @cached_property
    def first_times(self) -> Tensor:
        """The time `(n_items,)` of each item's first row; the largest number where it has none."""
        found = torch.full((self.n_items,), torch.iinfo(torch.int64).max)
        for part in self._steps():
            found.scatter_reduce_(0, self.item_idx[part].long(), self.time[part], "amin")
        return found

    def take(self, rows) -> Interactions:
        """The interactions at the positions `rows` `(m,)`, or where a mask holds: a copy in memory."""
        return self.in_memory(rows)

    def in_memory(self, rows=None) -> Interactions:
        """All rows, or some, as `Interactions` with columns of their own."""
        rows = slice(None) if rows is None else np.asarray(rows)
        if isinstance(rows, np.ndarray):
            rows = torch.from_numpy(np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64, copy=False))
        idx = (column[rows].long() for column in (self.user_idx, self.item_idx))
        others = (None if column is None else column[rows].clone() for column in (self.rating, self.time))
        return Interactions(*idx, *others, self.users, self.items, self.columns)

    @classmethod
    def concat(cls, *parts: Interactions) -> Interactions:
        """The rows of all `parts` in memory; see `together`."""
        return Interactions.concat(*(part.in_memory() if part.stored else part for part in parts))

    def sorted_by_user(self) -> StoredInteractions:
        """These rows, which are already sorted."""
        return self

    def n_duplicates(self) -> int:
        """Number of rows whose pair occurred in an earlier row."""
        return len(self) - len(self.distinct.values)

    def pair_keys(self) -> Tensor:
        """One number `(n,)` int64 for each row's pair."""
        return self.user_idx.long() * self.n_items + self.item_idx

    def data_hash(self) -> str:
        """The same hash as that of the rows in memory."""
        digest = hashlib.sha256()
        for column, kind in ((self.user_idx, "int64"), (self.item_idx, "int64"), (self.rating, ""), (self.time, "")):
            for part in self._steps() if column is not None else ():
                digest.update(column[part].numpy().astype(kind or column.numpy().dtype).tobytes())
        return digest.hexdigest()

    def _steps(self) -> Iterator[slice]:
        return (slice(at, at + STEP) for at in range(0, len(self), STEP))


def together(train: Interactions, valid: Interactions | None) -> Interactions | None:
    """The stored rows of both parts, if they were cut from one stored table; else None."""
    whole = train.whole if train.stored else None
    if whole is None or valid is None or len(whole) != len(train) + len(valid):
        return None
    same = whole.n_users == train.n_users and whole.n_items == train.n_items
    return whole if same else None


def _longer(counts: Tensor, n: int) -> Tensor:
    return torch.cat([counts, counts.new_zeros(n - len(counts))]) if len(counts) < n else counts
