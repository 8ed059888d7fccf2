"""`Wanted`: the requested lists: how many items, from which, in what order."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from collabkit.data.checks import whole
from collabkit.data.dataset import Dataset
from collabkit.data.runs import Runs
from collabkit.data.vocab import Vocab
from collabkit.retrieval.diversity import MMR
from collabkit.serve.choices import Choice, read_choice

__all__ = ["Limits", "Wanted"]


@dataclass(frozen=True, eq=False)
class Wanted:
    """The requested lists.

    Args:
        k: items per list.
        candidates: `(c,)` the items that can be listed, ascending.
        hidden, allowed: per user, items that are not listed, and the only ones that may be; None for no such limit.
        offsets: `(n_items,)` terms added to the scores, see `retrieval.tilt`.
        rerank: changes the order of the best items.
        max_memory: bound of the score block.
    """

    k: int
    candidates: Tensor
    hidden: Runs | None = None
    allowed: Runs | None = None
    offsets: Tensor | None = None
    rerank: MMR | None = None
    max_memory: int | str = "512MB"

    def __post_init__(self):
        object.__setattr__(self, "k", whole("k", self.k))

    def of(self, rows: Tensor) -> Wanted:
        """The same for the users at `rows` `(b,)`."""
        hidden, allowed = (None if runs is None else runs.of(rows) for runs in (self.hidden, self.allowed))
        return replace(self, hidden=hidden, allowed=allowed)


@dataclass(frozen=True, eq=False)
class Limits:
    """An allow and a deny list, each for all users or per user."""

    allow: Choice
    deny: Choice

    @classmethod
    def read(cls, items, exclude, users: Vocab | None, vocab: Vocab) -> Limits:
        """Check and encode them; arguments and errors as in `choices.read_choice`."""
        allow = read_choice(items, "items", "allow", users, vocab)
        return cls(allow, read_choice(exclude, "exclude", "hide", users, vocab))

    def candidates(self, data: Dataset, rows: Tensor | None = None) -> Tensor:
        """The items `(c,)` that can be in a list of the users at `rows` `(b,)`, ascending.

        Raises:
            ValueError: there is none.
        """
        if self.allow.pairs is not None and rows is not None:
            chosen = self.allow.pairs.of(rows).values.unique()
        else:
            chosen = data.every_item if self.allow.items is None else self.allow.items
        if self.deny.items is not None:
            chosen = chosen[~torch.isin(chosen, self.deny.items)]
        if len(chosen) == 0:
            raise ValueError("no item is left to recommend; check items= and exclude=")
        return chosen

    def hidden(self, seen: Runs | None) -> Runs | None:
        """The `seen` items per user, if any, and those on the deny list."""
        if self.deny.pairs is None:
            return seen
        return self.deny.pairs if seen is None else seen.union(self.deny.pairs)
