"""Users for an item: the reverse of `recommend`."""

from collections.abc import Callable

import torch
from torch import Tensor

from collabkit.data.runs import Runs
from collabkit.models.scorers import refuse_nan

__all__ = ["top_users"]


def top_users(
    scorer: Callable, users: Tensor, items: Tensor, k: int, *, hidden: Runs | None, block: int
) -> tuple[Tensor, Tensor]:
    """The `k` users with the best scores of each item.

    Args:
        scorer: function from users `(b,)` to scores `(b, c)` of the items.
        users: `(n,)` indices of the users to choose from.
        items: `(c,)` ascending.
        k: how many, at most n.
        hidden: by user, items for which they are not chosen.
        block: users scored at once.

    Returns:
        User indices `(c, k)`, 0 where fewer are left, and their logits, -inf there.

    Raises:
        ValueError: a score is NaN.
    """
    found = torch.zeros(len(items), 0, dtype=torch.int64)
    best = torch.zeros(len(items), 0)
    for rows in users.split(block):
        scores = scorer(rows).float().cpu().clone()  # (b, c)
        if hidden is not None:
            met = hidden.of(rows)
            column = torch.searchsorted(items, met.values).clamp(max=len(items) - 1)
            there = items[column] == met.values
            scores[met.rows[there], column[there]] = -torch.inf
        refuse_nan(scores.amax(0))  # a NaN is the largest of its column
        best = torch.cat([best, scores.T], dim=1)
        found = torch.cat([found, rows.expand(len(items), -1)], dim=1)
        best, place = best.topk(min(k, best.shape[1]), dim=1)
        found = found.gather(1, place)
    return found.masked_fill(best == -torch.inf, 0), best
