"""The baselines of every result: the global mean, user and item biases, the ranks and lists of popularity."""

from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from collabkit.data.interactions import Interactions
from collabkit.data.runs import Runs

__all__ = ["UserItemBias", "PopularityRanks"]


class UserItemBias:
    """Predicts mean + user bias + item bias, each shrunk towards zero by a count.

    `b_i = sum(r - mean) / (n_i + reg_items)`, then `b_u = sum(r - mean - b_i) / (n_u + reg_users)`, alternated; the
    "baseline estimates" of Koren, "Factor in the neighbors" (2010), section 2.1. Unknown ids (index 0) have bias 0.

    Args:
        train: training interactions with ratings.
        reg_users, reg_items: pseudo-counts of the shrinkage.
        n_sweeps: alternations; with 0 it predicts the mean.
    """

    def __init__(self, train: Interactions, *, reg_users: float = 15.0, reg_items: float = 10.0, n_sweeps: int = 10):
        rating = train.rating.double()
        self.mean = rating.mean()
        self.user, self.item = torch.zeros(train.n_users).double(), torch.zeros(train.n_items).double()
        n_user, n_item = train.counts("user"), train.counts("item")
        for _ in range(n_sweeps):
            rest = rating - self.mean - self.user[train.user_idx]
            self.item = torch.bincount(train.item_idx, rest, train.n_items) / (n_item + reg_items)
            rest = rating - self.mean - self.item[train.item_idx]
            self.user = torch.bincount(train.user_idx, rest, train.n_users) / (n_user + reg_users)

    def predict(self, user_idx: Tensor, item_idx: Tensor) -> Tensor:
        """Ratings `(n,)` float64 for index tensors `(n,)`."""
        return self.mean + self.user[user_idx] + self.item[item_idx]


class PopularityRanks:
    """Ranks by an item's number of training rows, the same score for all users, so no scores need to be computed.

    An item's rank is the number of the user's candidates that have at least as many rows, itself included: one binary
    search in the sorted numbers of all items, less one in those of the user's hidden items.

    Args:
        train: training interactions.
    """

    name = "popularity"

    @classmethod
    def of(cls, train: Interactions) -> "PopularityRanks":
        """The instance of a training part, made once, as it caches sorted arrays."""
        if train not in _RANKS:
            _RANKS[train] = cls(train)
        return _RANKS[train]

    def __init__(self, train: Interactions):
        self.counts = train.counts("item").float()
        self.levels, self.level = np.unique(self.counts.numpy(), return_inverse=True)  # (l,), (n_items,)
        self._sorted: tuple[Runs, np.ndarray] | None = None

    def ranks(
        self, users: Tensor, items: Tensor, candidates: Tensor, *, hidden: Runs | None, allowed: Runs | None = None
    ) -> np.ndarray:
        """Pessimistic ranks `(n,)` of pairs `(n,)`: of users' `allowed` items, or of all users' `candidates` `(c,)`.

        From the latter, the `hidden` pairs are excluded; they must be candidates.
        """
        users, level = users.numpy(), self.level[items.numpy()]
        if allowed is not None:
            return self._at_least(allowed, users, level)
        n = np.bincount(self.level[candidates.numpy()], minlength=len(self.levels))
        at_least = n[::-1].cumsum()[::-1]  # (l,) candidates of this level or a higher one
        if hidden is None or len(hidden) == 0:
            return at_least[level]
        return at_least[level] - self._at_least(hidden, users, level)

    def _at_least(self, pairs: Runs, users: np.ndarray, level: np.ndarray) -> np.ndarray:
        """How many of each user's `pairs` have at least `level` `(n,)`."""
        width = len(self.levels)
        of, keys = self._sorted or (None, None)
        if of is not pairs:  # an evaluation of several models sorts once
            keys = np.sort(pairs.rows.numpy() * width + (width - 1 - self.level[pairs.values.numpy()]))
            self._sorted = pairs, keys  # not read again here: another thread may change it
        found = np.searchsorted(keys, users * width + (width - 1 - level), side="right")
        return found - pairs.start.numpy()[users]

    def scorer(self, candidates: Tensor):
        """A function from users `(b,)` to scores `(b, c)` of the `candidates` `(c,)`."""
        scores = self.counts[candidates]
        return lambda users: scores.repeat(len(users), 1)


_RANKS: WeakKeyDictionary[Interactions, PopularityRanks] = WeakKeyDictionary()
