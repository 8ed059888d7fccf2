"""`Runs`: values of unequal length, row by row: histories, seen items, a feature's categories, candidates."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from scipy.sparse import coo_array
from torch import Tensor

from collabkit.data.unique import sorted_unique

__all__ = ["Runs"]


@dataclass(frozen=True, eq=False)
class Runs:
    """Values by row: those of row j are `values[start[j]:start[j + 1]]`.

    Args:
        start: `(n + 1,)` int64.
        values: `(m,)` int64; int32 if they are a mapped file, of which no full copy is made.
        width: the values are in `0..width - 1`; needed by methods that treat runs as sets of pairs (`union`, `without`,
            `find`) or as a matrix.
        weight: `(m,)` numbers that go with the values, e.g. ratings, or None.

    Example:
        >>> runs = Runs.group([1, 0, 1], [7, 5, 6], n=3, width=9)
        >>> [run.tolist() for run in runs], runs.of([2, 1]).values.tolist(), runs.lengths.tolist()
        ([[5], [7, 6], []], [7, 6], [1, 2, 0])
    """

    start: Tensor
    values: Tensor
    width: int = 0
    weight: Tensor | None = None

    @classmethod
    def group(cls, rows, values, n: int, *, width: int = 0, weight: Tensor | None = None) -> Runs:
        """The values `(m,)` of `n` rows, each row's in the order given; `rows` `(m,)` is the row of each value."""
        rows, values = (torch.as_tensor(part, dtype=torch.int64) for part in (rows, values))
        if len(rows) and bool((rows.diff() < 0).any()):
            order = _stable_order(rows, n)
            values, weight = values[order], None if weight is None else weight[order]
        return cls(_starts(torch.bincount(rows, minlength=n)), values, width, weight)

    @classmethod
    def pairs(cls, rows, values, n: int, width: int) -> Runs:
        """The distinct pairs of `rows` `(m,)` and `values` `(m,)`, each row's values ascending."""
        keys = np.array(rows, dtype=np.int64)  # a copy, which becomes the values
        keys *= width
        keys += np.asarray(values, np.int64)
        return cls.from_keys(sorted_unique(keys, reuse=True), n, width, reuse=True)

    @classmethod
    def from_keys(cls, keys: np.ndarray, n: int, width: int, *, reuse: bool = False) -> Runs:
        """The pairs of sorted distinct `keys`, `row * width + value`, whose memory may be overwritten with `reuse`."""
        start = np.searchsorted(keys, np.arange(n + 1) * width)
        values = np.remainder(keys, max(width, 1), out=keys if reuse else None)
        return cls(torch.from_numpy(start), torch.from_numpy(values), width)

    @property
    def mapped(self) -> bool:
        """Whether the values are a file: too many for arrays of this length."""
        return self.values.dtype == torch.int32

    def __len__(self) -> int:
        return len(self.start) - 1

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.values.split(self.lengths.tolist()))

    @cached_property
    def lengths(self) -> Tensor:
        """Number of values `(n,)` of each row."""
        return self.start.diff()

    @cached_property
    def rows(self) -> Tensor:
        """The row `(m,)` of each value."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.start.device), self.lengths)

    @cached_property
    def keys(self) -> np.ndarray:
        """One number `(m,)` for each pair, `row * width + value`."""
        return self._new_keys()

    def _new_keys(self) -> np.ndarray:
        keys = np.repeat(np.arange(len(self), dtype=np.int64) * self.width, self.lengths.numpy())
        keys += self.values.numpy()
        return keys

    @cached_property
    def cells(self) -> np.ndarray:
        """The pairs `(m,)` as positions in a flat `(n, width - 1)` matrix, value 1 first."""
        return self.keys - self.rows.numpy() - 1

    def of(self, rows) -> Runs:
        """The runs of `rows` `(b,)`, or of a slice of them, one after the other."""
        if isinstance(rows, slice):
            start = self.start[rows.start : rows.stop + 1]
            part = slice(int(start[0]), int(start[-1]))
            weight = None if self.weight is None else self.weight[part]
            return Runs(start - start[0], _in_memory(self.values[part]), self.width, weight)
        rows = torch.as_tensor(rows, device=self.start.device)
        return self.spans(self.start[rows], self.start[rows + 1])

    def spans(self, first: Tensor, stop: Tensor) -> Runs:
        """Runs of the values from `first` `(b,)` up to `stop` `(b,)`, positions in `values`."""
        lengths = stop - first
        start = _starts(lengths)
        owner = torch.repeat_interleave(torch.arange(len(lengths), device=start.device), lengths)
        at = (first - start[:-1])[owner] + torch.arange(len(owner), device=start.device)
        runs = Runs(start, _in_memory(self.values[at]), self.width, None if self.weight is None else self.weight[at])
        runs.__dict__["rows"] = owner
        return runs

    def last(self, k: int) -> Runs:
        """The last `k` values of each row; these runs themselves where no row has more."""
        if len(self) == 0 or int(self.lengths.max()) <= k:
            return self
        return self.spans(torch.maximum(self.start[1:] - k, self.start[:-1]), self.start[1:])

    def filled(self, value: int) -> Runs:
        """The same, with `value` in the rows that have none."""
        empty = (self.lengths == 0).nonzero().squeeze(1)
        rows, values = torch.cat([self.rows, empty]), torch.cat([self.values, torch.full_like(empty, value)])
        return Runs.group(rows, values, len(self), width=self.width)

    def followed_by(self, other: Runs) -> Runs:
        """The rows of these runs, then those of `other`, with weights if both have some."""
        start = torch.cat([self.start, other.start[1:] + self.start[-1]])
        weighted = self.weight is not None and other.weight is not None
        weight = torch.cat([self.weight, other.weight]) if weighted else None
        return Runs(start, torch.cat([self.values, other.values]), self.width, weight)

    def padded(self, fill: int = 0) -> Tensor:
        """The values as a table `(n, longest)`, `fill` after the end of a row."""
        table = self.values.new_full((len(self), int(self.lengths.max()) if len(self) else 0), fill)
        table[self.rows, torch.arange(len(self.values), device=table.device) - self.start[self.rows]] = self.values
        return table

    def unique(self) -> Runs:
        """Each row's values, distinct and ascending, with the last weight; these runs themselves if they are so."""
        if bool((self.keys[1:] > self.keys[:-1]).all()):
            return self
        found = Runs.from_keys(sorted_unique(self.keys), len(self), self.width)
        if self.weight is None:
            return found
        order = np.argsort(self.keys, kind="stable")
        last = order[np.append(np.diff(self.keys[order]) > 0, True)]
        return Runs(found.start, found.values, self.width, self.weight[torch.from_numpy(last)])

    def find(self, rows, values) -> tuple[np.ndarray, np.ndarray]:
        """For pairs `(m,)`: where each is or would be among these sorted ones, and whether it is there."""
        if self.mapped:
            rows, values = torch.as_tensor(rows), torch.as_tensor(values)
            at = self.start[rows] + self.count_below(rows, values - 1)
            there = at < self.start[rows + 1]
            there[there.clone()] = self.values[at[there]] == values[there]
            return at.numpy(), there.numpy()
        keys = np.asarray(rows) * self.width + np.asarray(values)
        at = np.searchsorted(self.keys, keys)
        there = np.zeros(len(keys), dtype=bool)
        inside = at < len(self.keys)
        there[inside] = self.keys[at[inside]] == keys[inside]
        return at, there

    def count_below(self, rows: Tensor, most: Tensor, key: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """How many `(b, ...)` values of each of the `rows` `(b, ...)` are at most `most` `(b, ...)`, by bisection.

        The values of a row must ascend, or the result of `key` for values and their positions in `values`.
        """
        first = self.start[rows]
        low, high = first.clone(), self.start[rows + 1]
        for _ in range(int((high - low).amax()).bit_length() if low.numel() else 0):
            middle = (low + high) >> 1
            at = middle.clamp(max=max(len(self.values) - 1, 0))
            value = self.values[at] if key is None else key(self.values[at].long(), at)
            right = (value <= most) & (middle < high)
            low, high = torch.where(right, middle + 1, low), torch.where(right, high, middle)
        return low - first

    def union(self, *others: Runs) -> Runs:
        """These sorted pairs and those of `others`."""
        keys = np.empty(sum(len(runs.values) for runs in (self, *others)), dtype=np.int64)
        at = 0
        for runs in (self, *others):
            at += len(runs.values)
            keys[at - len(runs.values) : at] = runs._new_keys()  # which are not kept
        return self.from_keys(sorted_unique(keys, reuse=True), len(self), self.width, reuse=True)

    def without(self, other: Runs) -> Runs:
        """These sorted pairs less those of `other`."""
        at, there = self.find(other.rows, other.values)
        return self.from_keys(np.delete(self.keys, at[there]), len(self), self.width) if there.any() else self

    def where(self, keep: np.ndarray) -> Runs:
        """The sorted pairs where the mask `keep` `(m,)` holds."""
        return self.from_keys(self.keys[keep], len(self), self.width)

    def transposed(self) -> Runs:
        """The rows that have each value, ascending."""
        if self.mapped and self.weight is None:
            return self._counted()
        return Runs.group(self.values, self.rows, self.width, width=len(self), weight=self.weight)

    def _counted(self) -> Runs:
        """`transposed` for mapped pairs, by counting, a bounded number of them at once, with four bytes per pair."""
        n, step, at = len(self.values), 2**22, 0
        counts = torch.zeros(self.width, dtype=torch.int64)
        for part in self.values.split(step):
            counts += torch.bincount(part, minlength=self.width)
        start = _starts(counts)
        found, place = torch.empty(n, dtype=torch.int32), start[:-1].clone()
        for part in self.values.split(step):
            rows = torch.searchsorted(self.start, torch.arange(at, at + len(part)), right=True) - 1
            mine = Runs.group(part, rows, self.width)
            within = torch.arange(len(part)) - mine.start[mine.rows]
            found[place[mine.rows] + within] = mine.values.int()
            place, at = place + mine.lengths, at + len(part)
        return Runs(start, found, len(self))

    def matrix(self, weight: Tensor | None = None) -> Tensor:
        """The sparse `(n, width)` matrix with `weight` `(m,)`, default ones, at the pairs."""
        _silence_beta_notice()
        weight = torch.ones(len(self.values), device=self.start.device) if weight is None else weight
        return torch.sparse_csr_tensor(self.start, self.values, weight, (len(self), self.width), check_invariants=False)

    def parts(self, weight: Tensor) -> Tensor:
        """Numbers `(m,)` of the values as parts of their row's sum."""
        total = weight.new_zeros(len(self)).index_add(0, self.rows, weight)
        return weight / total[self.rows]

    def shares(self, width: int, weight: Tensor | None = None) -> Tensor:
        """The dense `(n, width)` float32 matrix of the shares that the values have in their rows, or of `weight`."""
        found = torch.zeros(len(self), width, device=self.start.device)
        share = 1.0 / self.lengths[self.rows].float() if weight is None else weight
        return found.index_put_((self.rows, self.values), share, accumulate=True)

    def to(self, device) -> Runs:
        """The same on `device`."""
        weight = None if self.weight is None else self.weight.to(device)
        return Runs(self.start.to(device), self.values.to(device), self.width, weight)


def _stable_order(rows: Tensor, n: int) -> Tensor:
    """`argsort(rows, stable=True)` of `(m,)` numbers below `n`, by counting: a third of the time."""
    m = len(rows)
    counted = coo_array((np.ones(m, np.int8), (rows.cpu().numpy(), np.arange(m))), shape=(n, m)).tocsr()
    return torch.from_numpy(counted.indices.astype(np.int64)).to(rows.device)


@cache
def _silence_beta_notice() -> None:
    """Trigger torch's one-time notice that sparse rows are in beta now, and suppress it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1))


def _in_memory(values: Tensor) -> Tensor:
    """Values from a mapped int32 file as int64, as everywhere else; other values unchanged."""
    return values.long() if values.dtype == torch.int32 else values


def _starts(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
