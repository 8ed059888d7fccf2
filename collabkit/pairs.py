"""`Pairs`: sorted (user, item) pairs, to hide them, to look them up, or to choose from them block by block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from collabkit.interactions import Interactions

__all__ = ["Pairs", "sorted_unique"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Distinct (user, item) pairs in order, to hide them, to look them up or to choose from them block by block.

    Args:
        keys: `(n,)` int64, sorted: `user * (n_items - 1) + item - 1`.
        start: `(n_users + 1,)` int64; user u's pairs are at `start[u]:start[u + 1]`.
        n_items: rows of the item table.
    """

    keys: np.ndarray
    start: np.ndarray
    n_items: int

    @classmethod
    def from_indices(cls, users, items, *, n_users: int, n_items: int) -> Pairs:
        """The pairs of index arrays `(n,)`; those of the unknown item are left out, as it is no candidate anyway."""
        users, items = np.asarray(users), np.asarray(items)
        keys = users * (n_items - 1) + items - 1
        return cls.from_keys(sorted_unique(keys if (items > 0).all() else keys[items > 0]), n_users, n_items)

    @classmethod
    def from_keys(cls, keys: np.ndarray, n_users: int, n_items: int) -> Pairs:
        """The pairs of sorted distinct `keys`."""
        return cls(keys, np.searchsorted(keys, np.arange(n_users + 1) * (n_items - 1)), n_items)

    @classmethod
    def from_interactions(cls, *parts: Interactions) -> Pairs:
        """The pairs of all `parts`, which share their vocabularies."""
        users = torch.cat([p.user_idx for p in parts]).cpu().numpy()
        items = torch.cat([p.item_idx for p in parts]).cpu().numpy()
        return cls.from_indices(users, items, n_users=parts[0].n_users, n_items=parts[0].n_items)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def n_users(self) -> int:
        """Rows of the user table."""
        return len(self.start) - 1

    @property
    def users(self) -> np.ndarray:
        """The user `(n,)` of each pair."""
        return np.repeat(np.arange(self.n_users), np.diff(self.start))

    @property
    def items(self) -> np.ndarray:
        """The item `(n,)` of each pair."""
        return self.keys - self.users * (self.n_items - 1) + 1

    def place(self, users, items) -> tuple[np.ndarray, np.ndarray]:
        """For pairs `(m,)`: where each is or would be in `keys`, and whether it is there."""
        keys = np.asarray(users) * (self.n_items - 1) + np.asarray(items) - 1
        at = np.searchsorted(self.keys, keys)
        there = np.zeros(len(keys), dtype=bool)
        inside = at < len(self.keys)
        there[inside] = self.keys[at[inside]] == keys[inside]
        return at, there

    def without(self, other: Pairs) -> Pairs:
        """These pairs less those of `other`."""
        at, there = self.place(other.users, other.items)
        return self.from_keys(np.delete(self.keys, at[there]), self.n_users, self.n_items) if there.any() else self

    def union(self, *others: Pairs) -> Pairs:
        """These pairs and those of `others`."""
        keys = sorted_unique(np.concatenate([self.keys, *(other.keys for other in others)]))
        return self.from_keys(keys, self.n_users, self.n_items)

    def of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """For a block of `users` `(b,)`: `(rows, items)`, the position in the block and the item of each pair."""
        rows = np.repeat(np.arange(len(users)), np.diff(self.start)[users.numpy()])
        return torch.from_numpy(rows), torch.from_numpy(self.cells(users) - rows * (self.n_items - 1) + 1)

    def cells(self, users: Tensor) -> np.ndarray:
        """The pairs of a block of `users` `(b,)` as positions in a flat `(b, n_items - 1)` matrix, item 1 first."""
        width, first = self.n_items - 1, int(users[0])
        if torch.equal(users, torch.arange(first, first + len(users))):  # all users, block by block: a plain slice
            return self.keys[self.start[first] : self.start[first + len(users)]] - first * width
        users = users.numpy()
        n = np.diff(self.start)[users]
        offset = np.repeat(self.start[users] - (np.cumsum(n) - n), n) + np.arange(n.sum())
        return self.keys[offset] - np.repeat((users - np.arange(len(users))) * width, n)


def sorted_unique(values: np.ndarray) -> np.ndarray:
    """`numpy.unique` of `(n,)`, which from NumPy 2.3 on hashes whole numbers first and takes fifteen times as long.

    Example:
        >>> sorted_unique(np.array([3, 1, 3, 2]))
        array([1, 2, 3])
    """
    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values
