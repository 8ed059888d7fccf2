"""How often items are drawn: powers of their number of events, as whole numbers."""

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from collabkit.data.interactions import Interactions
from collabkit.data.runs import Runs

__all__ = ["Met", "item_weights"]


@dataclass(frozen=True)
class Met:
    """What samplers look at of events in several parts, as of `Interactions`, without a copy of their rows."""

    parts: tuple[Interactions, ...]

    n_users = property(lambda self: self.parts[0].n_users)
    n_items = property(lambda self: self.parts[0].n_items)

    @cached_property
    def pairs(self) -> Runs:
        first, *others = (part.pairs for part in self.parts)
        return first.union(*others)

    def counts(self, side: str) -> Tensor:
        return sum(part.counts(side) for part in self.parts)


def item_weights(train: Interactions | Met, alpha: float) -> Tensor:
    """Weight `(n_items,)` int64 of each item: `n_events ** alpha` in whole numbers, 0 without a training row."""
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha must be a number of at least 0, got {alpha!r}")
    counts = train.counts("item").clone()
    counts[0] = 0
    if alpha == 0:
        return (counts > 0).long()
    weight = counts.double() ** alpha
    # As fine as possible while the keys of all users fit into 62 bits: whole numbers make the draws exact.
    scale = 2.0 ** (62 - math.ceil(math.log2(train.n_users + 1)) - 1) / float(weight.sum() + len(weight))
    return (weight * min(scale, 2.0**40 / float(weight.max().clamp(min=1)))).ceil().long()
