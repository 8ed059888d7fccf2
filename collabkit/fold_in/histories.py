"""`Histories`: what is known of some users, as flat tensors, cut into padded blocks of users of like lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from collabkit.interactions import Interactions

__all__ = ["Block", "Histories"]


@dataclass(frozen=True)
class Block:
    """Users of similar history lengths, padded to the longest.

    Args:
        users: `(b,)` positions among the histories.
        cells: `(b, l)` positions of their rows in the flat tensors; 0 where padded.
        mask: `(b, l)` float64, 0 where padded.
    """

    users: Tensor
    cells: Tensor
    mask: Tensor

    @property
    def n(self) -> Tensor:
        """Rows `(b,)` of each user."""
        return self.mask.sum(1)


@dataclass(frozen=True)
class Histories:
    """Rows of `b` users: user j has `items[start[j]:start[j + 1]]`, each item index at least 1, and their ratings.

    Args:
        start: `(b + 1,)` int64, from 0 to m, not decreasing.
        items: `(m,)` int64.
        ratings: `(m,)` or None for events.

    Example:
        >>> histories = Histories(torch.tensor([0, 1, 3]), torch.tensor([4, 2, 3]))
        >>> [(block.users.tolist(), block.cells.tolist()) for block in histories.blocks(100)]
        [([0, 1], [[0, 0], [1, 2]])]
    """

    start: Tensor
    items: Tensor
    ratings: Tensor | None = None

    @classmethod
    def of(cls, train: Interactions, users: Tensor) -> tuple[Histories, Tensor]:
        """The rows of `users` `(b,)` in `train`, and where each stands in it `(m,)`."""
        place = torch.full((train.n_users,), -1)
        place[users] = torch.arange(len(users))
        rows = (place[train.user_idx.cpu()] >= 0).nonzero().squeeze(1)
        rows = rows[place[train.user_idx.cpu()[rows]].argsort(stable=True)]
        counts = torch.bincount(place[train.user_idx.cpu()[rows]], minlength=len(users))
        start = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        rating = None if train.rating is None else train.rating.cpu()[rows].double()
        return cls(start, train.item_idx.cpu()[rows], rating), rows

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def counts(self) -> Tensor:
        """Rows `(b,)` of each user."""
        return self.start.diff()

    def check(self, n_items: int, rated: bool) -> None:
        """Raise `ValueError` or `TypeError` unless these are histories for a model of `n_items` rows."""
        start, items, ratings = self.start, self.items, self.ratings
        for name, value in (("start", start), ("items", items)):
            if value.ndim != 1 or value.dtype != torch.int64:
                raise TypeError(f"{name} must be a vector of int64, got {value.dtype} of shape {tuple(value.shape)}")
        if len(start) < 1 or start[0] != 0 or start[-1] != len(items) or bool((start.diff() < 0).any()):
            raise ValueError(f"start must rise from 0 to len(items)={len(items)}, got {start[:5].tolist()}...")
        if (ratings is not None) != rated:
            how, what = ("on", "them") if rated else ("without", "none")
            raise ValueError(f"the model was trained {how} ratings: give {what}")
        empty = (self.counts == 0).nonzero().squeeze(1).tolist()
        if empty:
            raise ValueError(f"{len(empty):,} histories are empty, at {empty[:5]}: such users get the default row")
        if len(items) and not (int(items.min()) >= 1 and int(items.max()) < n_items):
            raise ValueError(f"items must lie in 1..{n_items - 1}, got {int(items.min())} to {int(items.max())}")
        if rated and (ratings.shape != items.shape or not bool(ratings.isfinite().all())):
            raise ValueError(f"ratings must be {len(items):,} finite numbers, got shape {tuple(ratings.shape)} or NaN")

    def blocks(self, max_cells: int) -> Iterator[Block]:
        """All users, each once, in blocks of at most `max_cells` cells (or one user) whose lengths differ little."""
        order = self.counts.argsort(stable=True)
        lengths = self.counts[order].tolist()
        first = 0
        while first < len(lengths):
            stop, widest = first + 1, 1.25 * lengths[first] + 1
            while stop < len(lengths) and lengths[stop] <= widest and (stop + 1 - first) * lengths[stop] <= max_cells:
                stop += 1
            users = order[first:stop]
            column = torch.arange(lengths[stop - 1])
            mask = column < self.counts[users][:, None]
            yield Block(users, (self.start[users][:, None] + column) * mask, mask.double())
            first = stop
