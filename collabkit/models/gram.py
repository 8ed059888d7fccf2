"""Items by items from users by items: the sparse product of the events with themselves, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from collabkit.data.interactions import Interactions
from collabkit.data.runs import Runs

if TYPE_CHECKING:
    import scipy.sparse

__all__ = ["events_matrix", "gram_blocks", "best_of_rows", "largest", "Neighbours"]

PRODUCTS = 2**23  # multiplications per block, and at most as many results, some 100 MB


def events_matrix(train: Interactions) -> scipy.sparse.csr_matrix:
    """The sparse `(n_users, n_items)` float32 of the pairs: ones, or the confidences of data with counts."""
    import scipy.sparse  # not above: it is not needed to query a model

    pairs = train.weighted_pairs
    values = np.ones(len(pairs.values), np.float32) if pairs.weight is None else pairs.weight.numpy()
    index = (pairs.values.numpy(), pairs.start.numpy())
    if len(train) < 2**31 and max(train.n_users, train.n_items) < 2**31:  # halves the memory traffic
        index = tuple(part.astype(np.int32) for part in index)
    return scipy.sparse.csr_matrix((values, *index), shape=(train.n_users, train.n_items))


def gram_blocks(matrix: scipy.sparse.csr_matrix, other=None) -> Iterator[tuple[int, scipy.sparse.csr_matrix]]:
    """`(first, block)`: the rows of `matrix.T @ other` from `first` on, of matrices `(n_users, n_items)`.

    `other` is the matrix itself by default.
    """
    other = matrix if other is None else other
    by_item = matrix.T.tocsr()
    lengths = np.diff(other.indptr)
    owner = np.repeat(np.arange(by_item.shape[0]), np.diff(by_item.indptr))
    work = np.bincount(owner, lengths[by_item.indices], by_item.shape[0]).cumsum()
    first = 0
    while first < len(work):
        done = work[first - 1] if first else 0
        stop = max(first + 1, int(np.searchsorted(work, done + PRODUCTS, side="right")))
        yield first, by_item[first:stop] @ other
        first = stop


def best_of_rows(block: scipy.sparse.csr_matrix, first: int, k: int) -> tuple[list[int], np.ndarray, np.ndarray]:
    """The `k` largest entries of each row of a block, whose rows begin at `first`, except that of the row itself.

    All entries must be above 0, like cosines of counts.

    Returns:
        The number of entries of each row `(b,)`, and their columns and values `(m,)`. The columns of a row are
        ascending; among equal values the first columns are used.
    """
    start, indices, data = block.indptr.tolist(), block.indices, block.data
    counts, kept = [], []
    for row, (begin, end) in enumerate(pairwise(start), start=first):
        values, columns = data[begin:end], indices[begin:end]
        if end - begin > k + 1:  # the largest with ties of the last one: few, and the row itself
            least = np.partition(values, end - begin - k - 1)[end - begin - k - 1]
            at = (values >= least).nonzero()[0]
        else:
            at = np.arange(end - begin)
        at = at[columns[at].argsort()]
        at = at[columns[at] != row]
        if len(at) > k:
            at = at[np.sort((-values[at]).argsort(kind="stable")[:k])]
        counts.append(len(at))
        kept.append(at + begin)
    at = np.concatenate(kept)
    return counts, indices[at], data[at]


def largest(similarity: Tensor, k: int) -> tuple[list[int], np.ndarray, np.ndarray]:
    """As `best_of_rows`, for dense rows `(b, n)`; entries of 0 or -inf are ignored."""
    best = similarity.topk(min(k, similarity.shape[1]), dim=1)
    order = best.indices.argsort(dim=1)  # so that columns ascend
    columns, values = best.indices.gather(1, order), best.values.gather(1, order)
    keep = values.isfinite() & (values != 0)
    return keep.sum(1).tolist(), columns[keep].numpy(), values[keep].numpy()


class Neighbours:
    """Collects the neighbours of items, row by row, as `Runs`."""

    def __init__(self):
        self.counts: list[int] = []
        self.columns: list[np.ndarray] = []
        self.values: list[np.ndarray] = []

    def add(self, counts: list[int], columns: np.ndarray, values: np.ndarray) -> None:
        """Add the next rows, as from `best_of_rows`."""
        self.counts.extend(counts)
        self.columns.append(columns)
        self.values.append(values)

    def runs(self) -> Runs:
        """All of them, with the similarities `(m,)` float32 as weight."""
        start = torch.tensor([0, *self.counts]).cumsum(0)
        values = torch.from_numpy(np.concatenate(self.columns).astype(np.int64))
        return Runs(start, values, len(self.counts), torch.from_numpy(np.concatenate(self.values).astype(np.float32)))
