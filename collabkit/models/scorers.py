"""Scores of many items at once, block by block under a memory limit."""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

import torch
from torch import Tensor

from collabkit.data.query import Query

__all__ = ["Scorer", "ItemTable", "DotScorer", "PairScorer", "all_finite", "parse_memory", "refuse_nan"]

_CACHED = 8_000_000  # bytes of a network's layers at once on a CPU: more does not fit its cache, at half the speed

Scorer = Callable[[Tensor | Query], Tensor]
"""Function from a query of `b` to logits `(b, n_candidates)`."""


class ItemTable:
    """Vectors `(c, d)` of candidates, laid out for products, and the largest number among them."""

    def __init__(self, vectors: Tensor):
        self.columns = vectors.T.contiguous()  # (d, c)
        self.largest = vectors.abs().amax() * vectors.shape[1]

    def take(self, positions: Tensor) -> "ItemTable":
        """The table of some of the candidates."""
        return ItemTable(self.columns[:, positions.to(self.columns.device)].T)


class DotScorer:
    """Scores by one matrix product, written into one buffer, which overwrites the previous block's scores."""

    def __init__(self, model, table: ItemTable):
        self.model, self.table = model, table
        self.buffer = table.columns.new_empty(0, table.columns.shape[1])
        self.vectors = table.columns.new_zeros(1)  # of the last query

    @property
    def finite(self) -> bool:
        """Whether a bound far from overflow proves that no score is NaN, without a check of each; NaN fails it."""
        largest = self.vectors.abs().amax() * self.table.largest
        return bool(largest < torch.finfo(self.vectors.dtype).max / 2)

    def __call__(self, query: Tensor | Query) -> Tensor:
        if len(query) > len(self.buffer):
            self.buffer = self.buffer.new_empty(len(query), self.buffer.shape[1])
        self.vectors = self.model.user_vectors(query.to(self.buffer.device))
        return torch.mm(self.vectors, self.table.columns, out=self.buffer[: len(query)])


class PairScorer:
    """Scores of a network for `candidates` `(c,)`, with as many pairs at once as fit in half of the memory."""

    finite = False

    def __init__(self, model, candidates: Tensor, max_memory: int | str):
        room = parse_memory(max_memory) // 2
        room = min(room, _CACHED) if model.device.type == "cpu" else room
        self.model, self.candidates = model, candidates.to(model.device)
        self.pairs = room // (4 * model.floats_per_pair())

    def __call__(self, query: Tensor | Query) -> Tensor:
        query = query.to(self.model.device)
        query = query[:, None] if isinstance(query, Tensor) else query
        size = max(1, self.pairs // max(len(query), 1))
        return torch.cat([self.model.score(query, part[None, :]) for part in self.candidates.split(size)], dim=1)


@lru_cache
def parse_memory(size: int | str) -> int:
    """Bytes of a size such as `'512MB'`, `'2 GB'` or a number of bytes.

    Example:
        >>> parse_memory('1.5KB'), parse_memory(2048)
        (1500, 2048)
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?)B?\s*", str(size), flags=re.IGNORECASE)
    if not match or float(match[1]) <= 0:
        raise ValueError(f"max_memory must be a positive number of bytes or a text like '512MB', got {size!r}")
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no number of `tensors` is NaN or infinite; a sum shows it faster than a check of each."""
    return all(bool(part.sum().isfinite()) or bool(part.isfinite().all()) for part in tensors)


def refuse_nan(scores: Tensor) -> None:
    """Raise `ValueError` where a score is NaN."""
    if scores.isnan().any():
        raise ValueError("the model's scores are NaN: its training diverged; train again with a lower learning rate")
