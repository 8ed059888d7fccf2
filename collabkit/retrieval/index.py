"""`Index`: searches item vectors for the best of a query; the exact one is the default and checks the others."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from collabkit.data.runs import Runs
from collabkit.models.scorers import ItemTable
from collabkit.retrieval.ranking import block_size, top_k

__all__ = ["Index", "ExactIndex", "index_recall", "judged_index"]


class Index(Protocol):
    """Searches item vectors. `Recommender.use_index` takes a function that makes one from vectors `(n_items, d)`.

    Row 0 of the vectors is the unknown item, which is never returned.
    """

    def search(
        self, vectors: Tensor, k: int, hidden: Runs | None = None, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The `k` items with the largest dot products.

        Args:
            vectors: `(b, d)` of the queries.
            k: how many.
            hidden: `b` runs of items to exclude.
            allowed: `(c,)` the only items that may be returned; None for all.

        Returns:
            Item indices `(b, k)`, the best first, 0 where fewer are left, and their scores `(b, k)`, -inf there.
        """
        ...


class ExactIndex:
    """Compares a query with every item: one matrix product.

    Args:
        vectors: `(n_items, d)`.

    Example:
        >>> index = ExactIndex(torch.tensor([[0., 0.], [1., 0.], [0., 2.], [3., 0.]]))
        >>> index.search(torch.tensor([[1., 1.]]), 2, hidden=Runs.group([0], [3], 1, width=4))[0]
        tensor([[2, 1]])
    """

    def __init__(self, vectors: Tensor):
        self.table, self.n_items = ItemTable(vectors[1:]), len(vectors)

    def search(
        self, vectors: Tensor, k: int, hidden: Runs | None = None, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        candidates = torch.arange(1, self.n_items) if allowed is None else allowed
        table = self.table if allowed is None else self.table.take(allowed - 1)
        options = {"n_items": self.n_items, "hidden": hidden, "block": block_size(len(candidates), "512MB")}
        return top_k(lambda at: vectors[at] @ table.columns, torch.arange(len(vectors)), candidates, k, **options)


def judged_index(
    make: Callable[[Tensor], Index], vectors: Tensor, queries: Tensor, k: int, hidden: Runs, min_recall: float
) -> tuple[Index, float]:
    """An index of `vectors` `(n_items, d)`, and its recall of the exact top `k` of `queries` `(b, d)`.

    Raises:
        ValueError: the recall is below `min_recall`.
    """
    index = make(vectors)
    recall = index_recall(index, ExactIndex(vectors), queries, k, hidden)
    if recall < min_recall:
        raise ValueError(
            f"the index finds {recall:.1%} of the exact top {k} of {len(queries):,} users, less than "
            f"min_recall={min_recall:g}; give it more effort, or search exactly"
        )
    return index, recall


def index_recall(index: Index, exact: Index, vectors: Tensor, k: int, hidden: Runs | None = None) -> float:
    """Share of the exact top `k` of queries `vectors` `(b, d)` that an index finds."""
    found, true = (judged.search(vectors, k, hidden)[0] for judged in (index, exact))
    hits = (true[:, :, None] == found[:, None, :]).any(2) & (true > 0)
    return float(hits.sum() / (true > 0).sum().clamp(min=1))
