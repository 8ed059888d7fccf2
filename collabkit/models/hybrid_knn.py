"""`HybridKNN`: item neighbours by common users and, for items with few users, as predicted from features."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from collabkit.data.checks import finite, positive, shown
from collabkit.data.dataset import Dataset
from collabkit.data.features import Features
from collabkit.data.features.weighting import tfidf
from collabkit.data.interactions import Interactions
from collabkit.data.runs import Runs
from collabkit.models.cold_weight import learned_cold_weight
from collabkit.models.gram import Neighbours, events_matrix, gram_blocks, largest
from collabkit.models.knn import ItemKNN, check_features, features_for

if TYPE_CHECKING:
    import scipy.sparse

__all__ = ["HybridKNN"]

MAX_COLUMNS = 10_000  # of the features: the regression needs memory for columns x columns and columns x items
CELLS = 2**23  # similarities at once


class HybridKNN(ItemKNN):
    """Score items by neighbours from events, blended with neighbours predicted from features for rare items.

    The similarity of items by their users is `c_ij = sum over users of both of 1 / n_u / sqrt(n_i n_j)`: a cosine in
    which a user of many items counts less for each pair. A ridge regression predicts each item's similarities from its
    features, `C' = X (X'WX + l2 I)^-1 X'W C`, where X holds the items' categories by tf-idf (rows of length 1) and
    their numbers, and W is how much is known about each item, `n_j / (n_j + prior)`: Gantner et al., "Learning
    attribute-to-feature mappings for cold-start recommendations" (2010), for neighbours instead of factors. The
    similarity is the weighted mean of both,

        sim(i, j) = (n_j c_ij + prior c'_ij) / (n_j + prior),

    of which each item keeps its `k` largest. So an item without users is ranked only by its features, and an item with
    many users by its users.

    Args:
        features: the items' `Features`; default those of the dataloaders or the learner that it is fitted to.
        k: number of neighbours per item.
        prior: weight of the features, as a number of users.
        l2: penalty of the regression.
        cold_weight: factor for the similarities of items without training rows, which are predicted and therefore less
            spread out than others. None learns it on items held out from the training rows, with one more fit if there
            are items without training rows; see `cold_weight.learned_cold_weight`. 1.0 leaves the similarities
            unchanged. A larger factor shows new items more often, at the expense of the others.

    Raises:
        ValueError: `k` < 1, `prior` < 0, `l2` or `cold_weight` is not above 0; in `fit`, there are no item features, or
            too many columns.

    Example:
        >>> from collabkit import CollabDataLoaders, datasets
        >>> data = datasets.synthetic(300, 200, 6000, seed=0)
        >>> names = {'user_name': 'user', 'item_name': 'title', 'items': data.items[['title', 'genres']]}
        >>> dls = CollabDataLoaders.from_df(data.ratings, **names, feedback='implicit', seed=0)
        >>> HybridKNN().fit(dls).recommend(k=3).columns.tolist()
        ['user', 'title', 'rank', 'score']
    """

    name = "hybrid kNN"

    def __init__(
        self, features: Features | None = None, k: int = 500, prior: float = 10.0, l2: float = 1.0,
        cold_weight: float | None = None,
    ):  # fmt: skip
        if not finite("prior", prior) >= 0:
            raise ValueError(f"prior must be at least 0, got {shown(prior)}")
        l2 = positive("l2", l2)
        check_features(features)
        if cold_weight is not None and not finite("cold_weight", cold_weight) > 0:
            raise ValueError(f"cold_weight must be above 0, got {shown(cold_weight)}")
        super().__init__(k)
        self.given, self.prior, self.l2 = features, float(prior), l2
        self.cold_weight = None if cold_weight is None else float(cold_weight)

    def config(self) -> dict:
        return {"k": self.k, "prior": self.prior, "l2": self.l2, "cold_weight": self.cold_weight}

    def _fit(self, data: Dataset) -> None:
        features = features_for(data, self.given, type(self).__name__)
        if features.n_columns > MAX_COLUMNS:
            raise ValueError(f"{type(self).__name__} solves for each column of the features, and "
                             f"{features.n_columns:,} are more than {MAX_COLUMNS:,}: leave out categories that few "
                             "items have")  # fmt: skip
        n_users = self.counts.numpy().astype(np.float64)
        learned = n_users / np.maximum(n_users + self.prior, 1e-9)  # the weight of the learned part
        events, design = _evened(data.train), _design(features, n_users > 0)
        slopes = self._regression(design, learned, events)  # (p, n)
        found, size = Neighbours(), max(1, CELLS // data.n_items)
        for first, block in gram_blocks(events):
            for at in range(0, block.shape[0], size):
                rows = np.arange(first + at, first + min(at + size, block.shape[0]))
                similarity = design[rows] @ slopes
                similarity *= (1 - learned[rows, None]).astype(np.float32)
                own = block[at : at + size].multiply(learned[rows, None]).tocoo()
                similarity[own.row, own.col] += own.data.astype(np.float32)
                similarity[np.arange(len(rows)), rows] = 0
                found.add(*largest(torch.from_numpy(similarity).clamp_(min=0), self.k))
        self._keep(self._weighted(found.runs(), data, features))

    def _weighted(self, runs: Runs, data: Dataset, features: Features) -> Runs:
        """The neighbours, with rescaled similarities for items without training rows."""
        cold = self.counts == 0
        cold[0] = False
        weight = self.cold_weight
        if weight is None:
            plain = {"k": self.k, "prior": self.prior, "l2": self.l2, "cold_weight": 1.0}
            again = lambda part: HybridKNN(features, **plain).fit(part)  # noqa: E731
            weight = learned_cold_weight(again, data) if bool(cold.any()) else 1.0
        return replace(runs, weight=torch.where(cold[runs.rows], weight * runs.weight, runs.weight))

    def _regression(
        self, design: scipy.sparse.csr_matrix, weight: np.ndarray, events: scipy.sparse.csr_matrix
    ) -> np.ndarray:
        """The slopes `(p, n_items)` float32 of the items' similarities on their features."""
        weighted = design.multiply(weight[:, None]).tocsr()
        moments = np.zeros((design.shape[1], events.shape[1]))  # X'WC
        for first, block in gram_blocks(events):
            block.setdiag(0, k=first)
            moments += (weighted[first : first + block.shape[0]].T @ block).toarray()
        gram = torch.from_numpy((weighted.T @ design).toarray().astype(np.float64))
        gram.diagonal().add_(self.l2)
        return torch.cholesky_solve(torch.from_numpy(moments), torch.linalg.cholesky(gram)).float().numpy()


def _evened(train: Interactions) -> scipy.sparse.csr_matrix:
    """The events `(n_users, n_items)`, whose products are the similarities."""
    events = events_matrix(train)
    square = events.data.astype(np.float64) ** 2
    by_item = np.bincount(events.indices, square, events.shape[1])
    user = np.repeat(np.arange(events.shape[0]), np.diff(events.indptr))
    by_user = np.bincount(user, square, events.shape[0])
    events.data = (events.data / np.sqrt(by_item[events.indices] * by_user[user])).astype(np.float32)
    return events


def _design(features: Features, met: np.ndarray) -> scipy.sparse.csr_matrix:
    """The features `(n, p)`: categories by tf-idf in rows of length 1, numbers of mean square length 1, a constant."""
    import scipy.sparse  # not above: it is not needed to query a model

    bags, numbers = tfidf(features, met)
    size = np.sqrt(np.square(numbers).sum(1).mean()) if numbers.size else 1.0
    parts = [bags, numbers / max(float(size), 1e-9), np.ones((len(features), 1))]
    return scipy.sparse.hstack([scipy.sparse.csr_matrix(part) for part in parts], format="csr", dtype=np.float32)
