"""How often items are drawn: powers of their number of events, as whole numbers; and runs of unequal length."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from collabkit.interactions import Interactions

__all__ = ["item_weights", "ragged"]


def item_weights(train: Interactions, alpha: float) -> Tensor:
    """Weight `(n_items,)` int64 of each item: `n_events ** alpha` in whole numbers, 0 without a training row."""
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha must be a number of at least 0, got {alpha!r}")
    counts = torch.bincount(train.item_idx.cpu(), minlength=train.n_items)
    counts[0] = 0
    if alpha == 0:
        return (counts > 0).long()
    weight = counts.double() ** alpha
    # As fine as the keys of all users fit into 62 bits: whole numbers make the draws exact.
    scale = 2.0 ** (62 - math.ceil(math.log2(train.n_users + 1)) - 1) / float(weight.sum() + len(weight))
    return (weight * min(scale, 2.0**40 / float(weight.max().clamp(min=1)))).ceil().long()


def ragged(start: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """The positions of several runs one after the other, and which run each belongs to.

    Args:
        start: `(n + 1,)`; run j lies at `start[j]:start[j + 1]`.
        which: `(b,)` runs.

    Returns:
        `(run (r,), position (r,))`, `run` counting 0..b-1.

    Example:
        >>> ragged(torch.tensor([0, 2, 5]), torch.tensor([1, 0]))
        (tensor([0, 0, 0, 1, 1]), tensor([2, 3, 4, 0, 1]))
    """
    sizes = start[which + 1] - start[which]
    run = torch.repeat_interleave(torch.arange(len(which), device=which.device), sizes)
    first = start[which] - (sizes.cumsum(0) - sizes)  # `first[run] + place` counts up within a run
    return run, first[run] + torch.arange(len(run), device=which.device)
