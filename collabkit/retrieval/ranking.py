"""Ranking: the only module that scores candidates, hides seen items and takes the top k or the exact rank.

Works in blocks of users, so that the users x items matrix is never built.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from collabkit.data.query import Query
from collabkit.data.runs import Runs
from collabkit.models.scorers import parse_memory, refuse_nan
from collabkit.retrieval.diversity import MMR
from collabkit.retrieval.tilt import tilted

__all__ = ["Asked", "FullCatalogue", "block_size", "top_k", "rank_pairs"]


class Asked:
    """A scorer for user indices instead of queries.

    Args:
        scorer: of queries.
        ask: function from users `(b,)` to a query.
    """

    def __init__(self, scorer: Callable, ask: Callable[[Tensor], Tensor | Query]):
        self.scorer, self.ask = scorer, ask

    def __call__(self, users: Tensor) -> Tensor:
        return self.scorer(self.ask(users))

    finite = property(lambda self: getattr(self.scorer, "finite", False), doc="Whether no last score was NaN, surely.")


class FullCatalogue:
    """Each user's candidates are the same `candidates` `(c,)`, without the `hidden` pairs.

    Args:
        scorer: function from users `(b,)` to scores `(b, c)` of the candidates.
        candidates: `(c,)` item indices, unique and without 0.
        n_items: rows of the item table.
        hidden: pairs that are not candidates.
        offsets: `(n_items,)` what is added to the scores, see `tilt.tilted`; None for nothing.
    """

    def __init__(
        self, scorer: Callable, candidates: Tensor, n_items: int, hidden: Runs | None, offsets: Tensor | None = None
    ):
        self.scorer, self.candidates, self.hidden = scorer, candidates, hidden
        self.offsets = None if offsets is None else offsets[candidates]
        self.column = _columns(candidates, n_items)

    def check(self, items: Tensor) -> None:
        """Raise unless all `items` `(n,)` are candidates."""
        foreign = int((items < 1 if self.column is None else self.column[items] < 0).sum())
        if foreign:
            raise ValueError(f"{foreign:,} of {len(items):,} items to rank are not candidates")

    def logits(self, users: Tensor) -> Tensor:
        """Scores `(b, c)` of a block, -inf where hidden, on the scorer's device; NaN raises `ValueError`."""
        logits = tilted(self.scorer(users).float(), self.offsets)
        if self.offsets is not None or not getattr(self.scorer, "finite", False):
            refuse_nan(logits.amax(1))  # a NaN is the largest of its row
        return _hide(logits, users, self.column, self.hidden)

    def columns(self, users: Tensor, items: Tensor) -> Tensor:
        """The column `(n,)` of each (user, item) pair in its user's row of `logits`."""
        return items - 1 if self.column is None else self.column[items]

    def items(self, users: Tensor, position: Tensor) -> Tensor:
        """The items at columns `position` `(b, k)` of a block."""
        return self.candidates[position]


@torch.inference_mode()
def top_k(
    scorer: Callable, users: Tensor, candidates: Tensor, k: int, *, n_items: int, hidden: Runs | None = None,
    block: int, offsets: Tensor | None = None, allowed: Runs | None = None, rerank: MMR | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The `k` best candidates of each user.

    Args:
        scorer, candidates, n_items, hidden, offsets: as in `FullCatalogue`.
        users: `(n,)` user indices.
        k: how many.
        block: users scored at once.
        allowed: alternatively, the only pairs that may be listed.
        rerank: puts the best ones in another order.

    Returns:
        Item indices `(n, min(k, c))`, 0 where fewer are left, and their logits, -inf there. `offsets` and `rerank`
        change the order, but the logits are still the scorer's own.

    Raises:
        ValueError: a score is NaN, as after diverged training.
    """
    k = min(k, len(candidates))
    column, offsets = _columns(candidates, n_items), None if offsets is None else offsets[candidates]
    items, scores = torch.empty(len(users), k, dtype=torch.int64), torch.empty(len(users), k)
    for start in range(0, len(users), block):
        rows = users[start : start + block]
        own = scorer(rows).float()
        logits = _hide(tilted(own, offsets), rows, column, hidden)
        logits = logits if allowed is None else _allow(logits, rows, column, allowed)
        size = k if rerank is None else min(rerank.pool_for(k), len(candidates))
        best, position = logits.topk(size, dim=1)
        refuse_nan(best)  # topk sorts NaN first, so a check of the winners finds any
        if rerank is not None:
            best, position = rerank.best(best, candidates, position, k)
        items[start : start + block] = candidates[position.cpu()]
        if offsets is not None:
            best = own.gather(1, position).masked_fill_(best == -torch.inf, -torch.inf)
        scores[start : start + block] = best.cpu()
    items[scores == -torch.inf] = 0
    return items, scores


@torch.inference_mode()
def rank_pairs(
    source: FullCatalogue, users: Tensor, items: Tensor, *, block: int, k: int | None = None, list_k: int = 0,
    rerank: MMR | None = None,
) -> tuple[np.ndarray, Tensor | None]:  # fmt: skip
    """The rank of each (user, item) pair among the user's candidates, and each user's top list, in one pass.

    The rank is 1 + number of better candidates + number of tied others (pessimistic).

    Args:
        source: `FullCatalogue`, or `evaluate.candidates.Lists`, which has the same methods.
        users, items: `(n,)` indices of the pairs, in any order; each item must be a candidate and not hidden.
        block: users scored at once.
        k: ranks are exact up to `k`; beyond it they may be any number above `k`. None: all exact.
        list_k: length of the lists.
        rerank: puts the best `max(k, list_k)` in another order, the others keep theirs; it needs one of the two.

    Returns:
        Ranks `(n,)` int64 in the order of the pairs, and item indices `(n_users, list_k)` of the users in order, 0
        where fewer are left (None for `list_k=0`).

    Raises:
        ValueError: an item is not a candidate, or a score is NaN.
    """
    source.check(items)
    ranks, lists = torch.empty(len(users), dtype=torch.int64), []
    order = torch.argsort(users, stable=True)
    unique, counts = torch.unique_consecutive(users[order], return_counts=True)
    ends = torch.cumsum(counts, 0)
    for start in range(0, len(unique), block):
        rows = unique[start : start + block]
        pairs = order[int(ends[start] - counts[start]) : int(ends[min(start + block, len(unique)) - 1])]
        logits = source.logits(rows)
        shown = None if rerank is None else rerank.shown(source, rows, logits, max(k or 0, list_k))
        if list_k:
            best, position = logits.topk(min(list_k, logits.shape[1]), dim=1) if shown is None else shown
            best, position = best[:, :list_k], position[:, :list_k]
            found = source.items(rows, position.cpu()).masked_fill_(best.cpu() == -torch.inf, 0)
            lists.append(torch.nn.functional.pad(found, (0, list_k - found.shape[1])))
        row = torch.from_numpy(np.repeat(np.arange(len(rows)), counts[start : start + block].numpy()))
        column = source.columns(users[pairs], items[pairs])
        row, column = row.to(logits.device), column.to(logits.device)
        if shown is None:
            ranks[pairs] = _ranks(logits, row, column, k).cpu()
        else:
            ranks[pairs] = _moved(_count(logits, row, logits[row, column]), logits, row, column, *shown).cpu()
    if list_k and not lists:
        lists = [torch.zeros(0, list_k, dtype=torch.int64)]
    return ranks.numpy(), torch.cat(lists) if lists else None


def _ranks(logits: Tensor, row: Tensor, column: Tensor, k: int | None) -> Tensor:
    """Ranks `(n,)` of the cells (row, column) of `logits` `(b, c)`, which may be overwritten."""
    own = logits[row, column]
    if len(row) == len(logits):  # one pair per user: comparing all in place is cheaper than finding the k best
        return logits.ge_(own[:, None]).sum(1).long()
    if k is None or 4 * k >= logits.shape[1]:
        return _count(logits, row, own)
    best = logits.topk(k, dim=1).values  # (b, k)
    ranks = (best[row] >= own[:, None]).sum(1)  # exact above the k-th: all better ones are in `best`
    ranks[own < best[row, -1]] = k + 1
    tied = (own == best[row, -1]).nonzero().squeeze(1)  # others tied with it may be outside
    ranks[tied] = _count(logits, row[tied], own[tied])
    return ranks


def _moved(ranks: Tensor, logits: Tensor, row: Tensor, column: Tensor, best: Tensor, shown: Tensor) -> Tensor:
    """The `ranks` `(n,)` of cells if the columns `shown` `(b, k)`, with logits `best`, come before all others."""
    own, there = logits[row, column], best[row] > -torch.inf  # (n,), (n, k)
    listed = (shown[row] == column[:, None]) & there
    passed = ((best[row] < own[:, None]) & there).sum(1)  # worse ones that are shown
    return torch.where(listed.any(1), listed.long().argmax(1) + 1, ranks + passed)


def _count(logits: Tensor, row: Tensor, own: Tensor) -> Tensor:
    """How many `logits` in each pair's row are at least `own`, for a bounded number of rows at once."""
    step = max(1, len(logits) // 4)
    parts = zip(row.split(step), own.split(step), strict=True)
    counts = [(logits[rows] >= mine[:, None]).sum(1) for rows, mine in parts]
    return torch.cat(counts) if counts else row.new_empty(0)


def block_size(n_candidates: int, max_memory: int | str, device: torch.device | None = None) -> int:
    """Users that fit in half of `max_memory` (bytes, or '512MB') when each is scored against `n_candidates`."""
    bytes_a_user = 4.0 * 3.0 * max(n_candidates, 1)  # a score, its copy and topk's workspace
    # Larger blocks do not stay in a CPU's cache until the scores are read again; smaller ones slow the product down.
    on_cpu = device is None or device.type == "cpu"
    most = max(64, 2**20 // max(n_candidates, 1)) if on_cpu else 2**31
    return min(most, max(1, int(parse_memory(max_memory) / 2 / bytes_a_user)))


def _columns(candidates: Tensor, n_items: int) -> Tensor | None:
    """Column `(n_items,)` of each item among the candidates, -1 for the others.

    None if the candidates are all items in order, so that item i is column i - 1.
    """
    given = candidates.numpy()
    if len(given) == n_items - 1 and (given[1:] > given[:-1]).all():
        return None
    column = torch.full((n_items,), -1, dtype=torch.int64)
    column[candidates] = torch.arange(len(candidates))
    return column


def _allow(logits: Tensor, users: Tensor, column: Tensor | None, allowed: Runs) -> Tensor:
    """The logits `(b, c)` of the pairs `allowed`, -inf for the others."""
    runs = allowed.of(users)
    columns = runs.values - 1 if column is None else column[runs.values]
    mask = torch.zeros(logits.shape, dtype=torch.bool)
    mask[runs.rows[columns >= 0], columns[columns >= 0]] = True
    return logits.where(mask.to(logits.device), -torch.inf)


def _hide(logits: Tensor, users: Tensor, column: Tensor | None, hidden: Runs | None) -> Tensor:
    """Set the logits `(b, c)` of hidden pairs to -inf, in place."""
    if hidden is None or len(users) == 0:
        return logits
    first, width = int(users[0]), logits.shape[1]
    if (
        column is None and not hidden.mapped and (users.numpy() == np.arange(first, first + len(users))).all()
    ):  # a block: a plain slice
        part = slice(*(int(hidden.start[j]) for j in (first, first + len(users))))
        index = hidden.cells[part] - first * width
    else:
        runs = hidden.of(users)
        columns = runs.values - 1 if column is None else column[runs.values]
        index = (runs.rows * width + columns)[columns >= 0].numpy()
    flat = logits.view(-1)
    if logits.device.type == "cpu":
        flat.numpy()[index] = -np.inf  # twice as fast as torch's indexed assignment
    else:
        flat[torch.from_numpy(index).to(logits.device)] = -torch.inf
    return logits
