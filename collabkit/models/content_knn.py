"""`ContentKNN`: scores an item by the similarity of its features to those of the user's items."""

from __future__ import annotations

import numpy as np
import torch

from collabkit.data.checks import one_of
from collabkit.data.dataset import Dataset
from collabkit.data.features import Features
from collabkit.data.features.weighting import bm25, centred, tfidf
from collabkit.models.gram import Neighbours, best_of_rows, gram_blocks, largest
from collabkit.models.knn import ItemKNN, check_features, features_for

__all__ = ["ContentKNN"]

WEIGHTINGS = ("tfidf", "bm25", None)
CELLS = 2**23  # similarities at once where they are dense


class ContentKNN(ItemKNN):
    """Score an item by the similarity of its features to those of the user's items; it can also rank new items.

    Like `ItemKNN`, but with the similarity of two items' features instead of that of their users. Items without
    training rows have neighbours, but are not neighbours themselves. Categories stay sparse, however many there are.

    Args:
        features: the items' `Features`; default those of the dataloaders or the learner that it is fitted to.
        k: number of neighbours per item; None for all, which ranks by the similarity to the mean of the user's items.
        weighting: weights of shared categories. `'tfidf'`: the cosine of rows in which rare categories count more, by
            `ln((n + 1) / (n_c + 1)) + 1`. `'bm25'`: the product of rows that are weighted by the inverse document
            frequency and in which each of many categories counts less (Robertson and Zaragoza, "The probabilistic
            relevance framework: BM25 and beyond", 2009). None: the cosine of the shares of categories minus their
            mean, in which all categories count equally.

    Raises:
        ValueError: `k` < 1, another `weighting`; in `fit`, no item features.

    Example:
        >>> import pandas as pd
        >>> from collabkit import CollabDataLoaders
        >>> events = pd.DataFrame({'user': [1, 1, 2, 2], 'item': ['a', 'b', 'b', 'c']})
        >>> items = pd.DataFrame({'item': ['a', 'b', 'c'], 'tags': ['x|y', 'x', 'y|x|z']})
        >>> dls = CollabDataLoaders.from_df(events, feedback='implicit', items=items, item_features={'tags': 'multi'},
        ...                                 valid_pct=0)
        >>> ContentKNN().fit(dls).similar_items('a')['item'].tolist()
        ['c', 'b']
    """

    name = "content kNN"

    def __init__(self, features: Features | None = None, k: int | None = 100, weighting: str | None = "bm25"):
        one_of("weighting", weighting, WEIGHTINGS)
        check_features(features)
        super().__init__(1 if k is None else k)
        self.all, self.given, self.weighting = k is None, features, weighting

    def config(self) -> dict:
        return {"k": None if self.all else self.k, "weighting": self.weighting}

    def _fit(self, data: Dataset) -> None:
        features = features_for(data, self.given, "ContentKNN")
        warm, found = self.counts > 0, Neighbours()
        self.k = int(warm.sum()) if self.all else self.k
        bags, left, right = _factors(features, self.weighting, (warm & features.given).numpy())
        met = bags.multiply(warm.numpy()[:, None]).tocsr()
        met.eliminate_zeros()
        if not left.shape[1]:
            for first, block in gram_blocks(bags.T.tocsr(), met.T.tocsr()):
                found.add(*best_of_rows(block, first, self.k))
        size = max(1, CELLS // data.n_items)
        for first in range(0, data.n_items if left.shape[1] else 0, size):
            rows = slice(first, first + size)
            similarity = torch.from_numpy((bags[rows] @ met.T).toarray() + left[rows] @ right.T)
            similarity[:, ~warm] = -torch.inf
            similarity.diagonal(first).fill_(-torch.inf)  # no item is its own neighbour
            found.add(*largest(similarity, self.k))
        self._keep(found.runs())


def _factors(features: Features, weighting: str | None, met: np.ndarray) -> tuple:
    """Sparse `S` `(n, p)` and dense `L`, `R` `(n, q)`, float32: the similarities of all items are `S S' + L R'`."""
    given = features.given.numpy()
    if weighting is None:
        bags, numbers = features.sparse_matrix()
    else:
        bags, numbers = (tfidf if weighting == "tfidf" else bm25)(features, met)
        numbers = centred(numbers, given)
    own, left, right = np.asarray(bags.multiply(bags).sum(1)).ravel() + np.square(numbers).sum(1), numbers, numbers
    if weighting is None:  # subtracting their mean m would fill the matrix: (a - m)'(b - m) term by term
        mean = np.asarray(bags[given].mean(0)).ravel(), numbers[given].mean(0)
        along, square = bags @ mean[0] + numbers @ mean[1], mean[0] @ mean[0] + mean[1] @ mean[1]
        own, one = own - 2 * along + square, np.ones_like(along)
        left, right = np.c_[numbers, -along, one], np.c_[numbers, one, square - along]
    scale = np.ones(len(features)) if weighting == "bm25" else 1 / np.sqrt(np.maximum(own, 1e-12))
    scale[own < 1e-12] = 0  # a row that is the mean, or empty, is similar to none
    scaled = bags.multiply(scale[:, None]).tocsr().astype(np.float32)
    scaled.eliminate_zeros()
    return scaled, *(np.float32(part * scale[:, None]) for part in (left, right))
