"""Baselines that every result is shown beside: the global mean, user and item biases, popularity."""

from __future__ import annotations

import torch
from torch import Tensor

from collabkit.interactions import Interactions

__all__ = ["GlobalMean", "UserItemBias", "Popularity"]


class GlobalMean:
    """Predicts the mean training rating for every pair.

    Args:
        train: training interactions with ratings.
    """

    name = "global mean"

    def __init__(self, train: Interactions):
        self.mean = train.rating.double().mean()

    def predict(self, user_idx: Tensor, item_idx: Tensor) -> Tensor:
        """Ratings `(n,)` float64 for index tensors `(n,)`."""
        return self.mean.expand(len(user_idx))


class UserItemBias:
    """Predicts mean + user bias + item bias, each shrunk towards zero by a count.

    `b_i = sum(r - mean) / (n_i + reg_items)`, then `b_u = sum(r - mean - b_i) / (n_u + reg_users)`, alternated; the
    "baseline estimates" of Koren, "Factor in the neighbors" (2010), section 2.1. Unknown ids (index 0) have bias 0.

    Args:
        train: training interactions with ratings.
        reg_users, reg_items: pseudo-counts of the shrinkage.
        n_sweeps: alternations.
    """

    name = "user+item bias"

    def __init__(self, train: Interactions, *, reg_users: float = 15.0, reg_items: float = 10.0, n_sweeps: int = 10):
        rating = train.rating.double()
        self.mean = rating.mean()
        self.user, self.item = torch.zeros(train.n_users).double(), torch.zeros(train.n_items).double()
        n_user = torch.bincount(train.user_idx, minlength=train.n_users)
        n_item = torch.bincount(train.item_idx, minlength=train.n_items)
        for _ in range(n_sweeps):
            rest = rating - self.mean - self.user[train.user_idx]
            self.item = torch.bincount(train.item_idx, rest, train.n_items) / (n_item + reg_items)
            rest = rating - self.mean - self.item[train.item_idx]
            self.user = torch.bincount(train.user_idx, rest, train.n_users) / (n_user + reg_users)

    def predict(self, user_idx: Tensor, item_idx: Tensor) -> Tensor:
        """Ratings `(n,)` float64 for index tensors `(n,)`."""
        return self.mean + self.user[user_idx] + self.item[item_idx]


class Popularity:
    """Scores every item by its number of training rows, the same for all users."""

    name = "popularity"

    def __init__(self, train: Interactions):
        self.counts = torch.bincount(train.item_idx, minlength=train.n_items).float()

    def scorer(self, candidates: Tensor):
        """A `ranking.Scorer` of `candidates` `(c,)`."""
        scores = self.counts[candidates]
        return lambda users: scores.repeat(len(users), 1)
