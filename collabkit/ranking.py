"""Ranking: the only place that scores candidates, hides seen items and takes the top k or the exact rank.

Works in blocks of users, so that the users x items matrix is never built.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from collabkit.interactions import Interactions
from collabkit.models import CollabModel

__all__ = ["Pairs", "Scorer", "model_scorer", "top_k", "exact_ranks", "parse_memory"]

Scorer = Callable[[Tensor], Tensor]
"""Function from user indices `(b,)` to logits `(b, n_candidates)`."""


@dataclass(frozen=True)
class Pairs:
    """(user, item) pairs sorted by user, to hide them block by block.

    Args:
        start: `(n_users + 1,)` int64; user u's pairs are at `start[u]:start[u + 1]`.
        users, items: `(n,)` int64 indices.
    """

    start: Tensor
    users: Tensor
    items: Tensor

    @classmethod
    def from_interactions(cls, *parts: Interactions) -> Pairs:
        """The pairs of all `parts`, which share their vocabularies."""
        users = torch.cat([p.user_idx for p in parts])
        items = torch.cat([p.item_idx for p in parts])
        users, items = users[items > 0], items[items > 0]  # the unknown item is no candidate anyway
        users, order = torch.sort(users, stable=True)
        start = torch.searchsorted(users, torch.arange(parts[0].n_users + 1))
        return cls(start, users, items[order])

    def of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """For a block of `users` `(b,)`: `(rows, items)`, the position in the block and the item of each pair."""
        first = int(users[0])
        if torch.equal(users, torch.arange(first, first + len(users))):  # all users, block by block: plain slices
            part = slice(int(self.start[first]), int(self.start[first + len(users)]))
            return self.users[part] - first, self.items[part]
        n = self.start[users + 1] - self.start[users]
        rows = torch.repeat_interleave(torch.arange(len(users)), n)
        offset = torch.arange(len(rows)) - torch.repeat_interleave(torch.cumsum(n, 0) - n, n)
        return rows, self.items[torch.repeat_interleave(self.start[users], n) + offset]


def model_scorer(model: CollabModel, candidates: Tensor, max_memory: int | str = "512MB") -> Scorer:
    """A `Scorer` of `candidates` `(c,)` by a model: one matrix product where its score is a dot product.

    The product is written into one buffer that each call reuses: the previous block's scores are gone by then. Other
    models score as many pairs at once as fit in half of `max_memory`.
    """
    device = model.tables(True)[0].device
    candidates = candidates.to(device)
    if not hasattr(model, "item_vectors"):
        pairs = parse_memory(max_memory) // 2 // (4 * model.floats_per_pair())

        def pieces(users: Tensor) -> Tensor:
            users = users.to(device)[:, None]
            parts = candidates.split(max(1, pairs // len(users)))
            return torch.cat([model.score(users, part[None, :]) for part in parts], dim=1)

        return pieces
    vectors = model.item_vectors(candidates).T.contiguous()  # (d, c)
    buffer = vectors.new_empty(0, len(candidates))

    def scores(users: Tensor) -> Tensor:
        nonlocal buffer
        if len(users) > len(buffer):
            buffer = vectors.new_empty(len(users), len(candidates))
        return torch.mm(model.user_vectors(users.to(device)), vectors, out=buffer[: len(users)])

    return scores


@torch.inference_mode()
def top_k(
    scorer: Scorer, users: Tensor, candidates: Tensor, k: int, *, n_items: int, hidden: Pairs | None = None, block: int
) -> tuple[Tensor, Tensor]:
    """The `k` best candidates of each user.

    Args:
        scorer: scores of the candidates.
        users: `(n,)` user indices.
        candidates: `(c,)` item indices, unique and without 0.
        k: how many.
        n_items: rows of the item table.
        hidden: pairs that are not candidates.
        block: users scored at once.

    Returns:
        Item indices `(n, min(k, c))`, 0 where fewer are left, and their logits, -inf there.

    Raises:
        ValueError: a score is NaN, as after diverged training.
    """
    k = min(k, len(candidates))
    column = _columns(candidates, n_items)
    items, scores = torch.empty(len(users), k, dtype=torch.int64), torch.empty(len(users), k)
    for start in range(0, len(users), block):
        rows = users[start : start + block]
        logits = _hide(scorer(rows).float(), rows, column, hidden)
        best, position = logits.topk(k, dim=1)
        items[start : start + block] = candidates[position.cpu()]
        scores[start : start + block] = best.cpu()
    refuse_nan(scores)  # topk sorts NaN first, so one look at the winners finds any
    items[scores == -torch.inf] = 0
    return items, scores


@torch.inference_mode()
def exact_ranks(
    scorer: Scorer, users: Tensor, items: Tensor, candidates: Tensor, *, n_items: int, hidden: Pairs | None, block: int
) -> np.ndarray:
    """Exact rank of each (user, item) pair among the user's candidates that are not hidden.

    The rank is 1 + number of better candidates + number of tied others (pessimistic).

    Args:
        users, items: `(n,)` indices of the pairs, in any order; each item must be a candidate and not hidden.
        candidates: `(c,)` item indices.
        block: users scored at once.

    Returns:
        Ranks `(n,)` int64 in the order of the pairs.

    Raises:
        ValueError: an item is not a candidate, or a score is NaN.
    """
    ranks = torch.empty(len(users), dtype=torch.int64)
    column = _columns(candidates, n_items)
    foreign = int((items < 1 if column is None else column[items] < 0).sum())
    if foreign:
        raise ValueError(f"{foreign:,} of {len(items):,} items to rank are not candidates")
    order = torch.argsort(users, stable=True)
    unique, counts = torch.unique_consecutive(users[order], return_counts=True)
    ends = torch.cumsum(counts, 0)
    for start in range(0, len(unique), block):
        rows = unique[start : start + block]
        pairs = order[int(ends[start] - counts[start]) : int(ends[min(start + block, len(unique)) - 1])]
        logits = _hide(scorer(rows).float().cpu(), rows, column, hidden)
        refuse_nan(logits.amax(1))  # a NaN is the largest of its row
        row = torch.searchsorted(rows, users[pairs])
        own = logits[row, items[pairs] - 1 if column is None else column[items[pairs]]]
        for part in torch.arange(len(pairs)).split(block):
            ranks[pairs[part]] = (logits[row[part]] >= own[part, None]).sum(1)
    return ranks.numpy()


def block_size(model: CollabModel, n_candidates: int, max_memory: int | str) -> int:
    """Users that fit in half of `max_memory` (bytes, or '512MB') when each is scored against `n_candidates`."""
    bytes_a_user = 4.0 * 3.0 * max(n_candidates, 1)  # a score, its copy and topk's workspace
    most = 1024 if model.tables(True)[0].device.type == "cpu" else 2**31  # larger blocks fall out of a CPU's cache
    return min(most, max(1, int(parse_memory(max_memory) / 2 / bytes_a_user)))


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


def _columns(candidates: Tensor, n_items: int) -> Tensor | None:
    """Column `(n_items,)` of each item among the candidates, -1 for those that are none.

    None where the candidates are all items in order, so that item i is column i - 1.
    """
    if torch.equal(candidates, torch.arange(1, n_items)):
        return None
    column = torch.full((n_items,), -1, dtype=torch.int64)
    column[candidates] = torch.arange(len(candidates))
    return column


def _hide(logits: Tensor, users: Tensor, column: Tensor | None, hidden: Pairs | None) -> Tensor:
    """Set the logits `(b, c)` of hidden pairs to -inf, in place."""
    if hidden is None:
        return logits
    rows, items = hidden.of(users)
    if column is None:
        index = rows * logits.shape[1]
        index += items
        index -= 1
    else:
        there = column[items] >= 0
        index = rows[there] * logits.shape[1] + column[items[there]]
    flat = logits.view(-1)
    if logits.device.type == "cpu":
        flat.numpy()[index.numpy()] = -np.inf  # twice as fast as torch's indexed assignment
    else:
        flat[index.to(logits.device)] = -torch.inf
    return logits


def refuse_nan(scores: Tensor) -> None:
    """Raise `ValueError` where a score is NaN."""
    if scores.isnan().any():
        raise ValueError("the model's scores are NaN: its training diverged; train again with a lower learning rate")
