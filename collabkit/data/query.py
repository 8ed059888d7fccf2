"""`Query`: the input of the user side of a model; and functions to create queries from data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter

import torch
from torch import Tensor

from collabkit.data.runs import Runs

__all__ = ["Query", "PARTS", "check_needs"]

PARTS = ("users", "history", "context", "time")  # what a model may need of a query


@dataclass(frozen=True, eq=False)
class Query:
    """A batch of `b` queries to a model, with the parts that the model needs.

    If a model needs only users, their indices `(b,)` are a query: every method that takes a query also takes such a
    tensor.

    Args:
        users: `(b,)` int64 user indices, 0 for users without one.
        history: `b` runs of item indices, the latest last.
        context: by field, the context: `(b,)` int64 codes, 0 unknown, or `(b, width)` numbers.
        time: `(b,)` int64, the time of each query, in the unit of the data's times.
        rows: `[(b, d), ...]` rows to use in place of the user tables, for users who are not in them.
        steps: query after each event of the histories, `len(history.values)` in all, instead of only after the last
            one; sequential models are trained in this way.

    Example:
        >>> query = Query(torch.tensor([3, 5]), context={'device': torch.tensor([1, 2])})
        >>> len(query), query[1:].users, query[1:].context
        (2, tensor([5]), {'device': tensor([2])})
    """

    users: Tensor
    history: Runs | None = None
    context: Mapping[str, Tensor] = field(default_factory=dict)
    rows: tuple[Tensor, ...] | None = None
    steps: bool = False
    time: Tensor | None = None

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, at) -> "Query":
        """The queries at the positions `at` `(k,)`, or in a slice, which copies nothing."""
        if isinstance(at, slice):
            first, stop, step = at.indices(len(self))
            at = slice(first, max(first, stop)) if step == 1 else torch.arange(len(self), device=self.device)[at]
        return self._each(lambda part: part.of(at) if isinstance(part, Runs) else part[at])

    device = property(attrgetter("users.device"), doc="Where its tensors are.")

    def to(self, device) -> "Query":
        """The same on `device`."""
        return self._each(lambda part: part.to(device))

    def _each(self, change) -> "Query":
        """The query with `change` applied to all parts."""
        history = None if self.history is None else change(self.history)
        context = {name: change(codes) for name, codes in self.context.items()}
        rows = None if self.rows is None else tuple(map(change, self.rows))
        time = None if self.time is None else change(self.time)
        return Query(change(self.users), history, context, rows, self.steps, time)


def check_needs(needs) -> tuple[str, ...]:
    """The parts that a model declares to need, one or several; an error for an unknown part."""
    needs = (needs,) if isinstance(needs, str) else needs
    if odd := [name for name in needs if name not in PARTS]:
        raise ValueError(f"a model may need {', '.join(map(repr, PARTS))} of a query, got {odd}")
    return tuple(needs)
