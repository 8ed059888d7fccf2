"""`ItemKNN` and `ContentKNN`: an item's score is how near it is to what the user has."""

import torch
from torch import Tensor

from collabkit.data.checks import whole
from collabkit.data.dataset import Dataset
from collabkit.data.features import Features
from collabkit.data.runs import Runs
from collabkit.models.closed_form import ClosedForm, together

__all__ = ["ItemKNN", "ContentKNN"]


class ItemKNN(ClosedForm):
    """Scores an item by its cosines with the user's items, of which only each item's `k` nearest count.

    `score(u, j) = sum of sim(i, j) over u's items i among the k nearest of j`, with
    `sim(i, j) = n_ij / (sqrt(n_i n_j) + shrink)`, n_ij users having both: Deshpande and Karypis, "Item-based top-N
    recommendation algorithms" (2004), with the shrinkage of Bell and Koren (2007). Memory: `n_items x k` numbers.

    Args:
        k: neighbours an item.
        shrink: pseudo-count that pulls similarities of rare items towards 0.

    Raises:
        ValueError: `k` < 1 or `shrink` < 0.
    """

    name, additive = "item kNN", True

    def __init__(self, k: int = 100, shrink: float = 0.0):
        if not shrink >= 0:
            raise ValueError(f"shrink must be at least 0, got {shrink!r}")
        super().__init__()
        self.k, self.shrink = whole("k", k), float(shrink)
        self.register_buffer("near", torch.zeros(0, 0, dtype=torch.int64))  # (n_items, k) neighbours of each item
        self.register_buffer("nearness", torch.zeros(0, 0))  # and their similarities

    def config(self) -> dict:
        return {"k": self.k, "shrink": self.shrink}

    def _fit(self, data: Dataset) -> None:
        k, near, nearness = min(self.k, data.n_items - 1), [], []
        norms = self.counts.sqrt()
        for rows, counts in together(data.train.pairs):
            similarity = self._similarity(rows, counts, norms)
            similarity[torch.arange(len(rows)), rows] = 0
            best = similarity.topk(k, dim=1)
            near.append(best.indices)
            nearness.append(best.values)
        self.near, self.nearness = torch.cat(near), torch.cat(nearness)

    def _similarity(self, rows: Tensor, counts: Tensor, norms: Tensor) -> Tensor:
        """Similarities `(b, n_items)` of items `(b,)` to all, from how many users have both."""
        return counts / (norms[rows][:, None] * norms + self.shrink).clamp_(min=1e-12)

    def scores(self, history: Runs) -> Tensor:
        n, k = self.near.shape
        neighbours = Runs(torch.arange(n + 1) * k, self.near.flatten(), n).matrix(self.nearness.flatten())
        have = torch.zeros(n, len(history))
        have[history.values, history.rows] = 1
        return (neighbours @ have).T.contiguous()

    def item_similarity(self, idx: Tensor) -> Tensor:
        """Similarities `(b, n_items)` of items `(b,)` to their neighbours; -inf for other items."""
        found = torch.full((len(idx), len(self.near)), -torch.inf)
        return found.scatter_(1, self.near[idx], self.nearness[idx])


class ContentKNN(ItemKNN):
    """Scores an item by how similar its features are to those of the user's items: what new items can be ranked by.

    As `ItemKNN`, with the cosine of two items' features (shares of categories, standardised numbers, vectors, less
    their mean) in the place of that of their users. Items without training rows have neighbours, but are none.

    Args:
        features: the items' `Features`; default those of the dataloaders or the learner that it is fitted to.
        k: neighbours an item; None for all, which ranks by the similarity to the mean of the user's items.

    Raises:
        ValueError: `k` < 1; in `fit`, no item features.
    """

    name = "content kNN"

    def __init__(self, features: Features | None = None, k: int | None = 100):
        super().__init__(1 if k is None else k)
        self.all, self.given = k is None, features

    def config(self) -> dict:
        return {"k": None if self.all else self.k}

    def _fit(self, data: Dataset) -> None:
        features = data.features.items if self.given is None else self.given
        if features is None:
            raise ValueError("ContentKNN needs item features: ContentKNN(features), or dataloaders made with items=")
        if len(features) != data.n_items:
            raise ValueError(f"features of {len(features)} items for {data.n_items} items: they belong to others")
        matrix = features.matrix()
        self.unit = torch.nn.functional.normalize(matrix - matrix[features.given].mean(0), dim=1)
        self.k = data.n_items - 1 if self.all else self.k
        super()._fit(data)
        del self.unit

    def _similarity(self, rows: Tensor, counts: Tensor, norms: Tensor) -> Tensor:
        return (self.unit[rows] @ self.unit.T).masked_fill_(self.counts == 0, -1.0)
