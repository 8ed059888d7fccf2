"""`ItemKNN` and `ContentKNN`: an item's score is how near it is to what the user has."""

import numpy as np
import torch
from torch import Tensor

from collabkit.data.checks import whole
from collabkit.data.dataset import Dataset
from collabkit.data.features import Features
from collabkit.data.runs import Runs
from collabkit.models.closed_form import ClosedForm
from collabkit.models.gram import Neighbours, best_of_rows, events_matrix, gram_blocks, largest

__all__ = ["ItemKNN", "ContentKNN"]

ENTRIES = 2**22  # of neighbours' lists that are read at once


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
        self.register_buffer("near_start", torch.zeros(1, dtype=torch.int64))  # (n_items + 1,)
        self.register_buffer("near", torch.zeros(0, dtype=torch.int64))  # (m,) neighbours, item by item, ascending
        self.register_buffer("nearness", torch.zeros(0))  # (m,) and their similarities

    def config(self) -> dict:
        return {"k": self.k, "shrink": self.shrink}

    @property
    def neighbours(self) -> Runs:
        """Each item's neighbours, ascending, with their similarities as `weight`; all are above 0."""
        return Runs(self.near_start, self.near, len(self.near_start) - 1, self.nearness)

    def restore(self, state: dict[str, Tensor]) -> None:
        if state["near"].ndim == 2:  # as written up to format 4: k a row, of which some were zero
            near, nearness = state["near"], state["nearness"]
            rows, column = (nearness != 0).nonzero(as_tuple=True)
            runs = Runs.group(rows, near[rows, column], len(near), width=len(near), weight=nearness[rows, column])
            order = torch.from_numpy(runs.keys).argsort()
            flat = {"near_start": runs.start, "near": runs.values[order], "nearness": runs.weight[order]}
            state = {**state, **flat}
        super().restore(state)
        self._lay_out()

    def _keep(self, runs: Runs) -> None:
        self.near_start, self.near, self.nearness = runs.start, runs.values, runs.weight
        self._lay_out()

    def _lay_out(self) -> None:
        """For each item those that it is a neighbour of, which is how histories ask."""
        self._followers = self.neighbours.transposed()

    def _fit(self, data: Dataset) -> None:
        matrix, found = events_matrix(data.train), Neighbours()
        norms = np.sqrt(np.bincount(matrix.indices, matrix.data.astype(np.float64) ** 2, data.n_items))
        norms = np.maximum(norms, 1e-12).astype(np.float32)
        if not self.shrink:
            matrix.data /= norms[matrix.indices]  # whose products are cosines
        for first, block in gram_blocks(matrix):
            if self.shrink:
                mine = np.repeat(norms[first : first + block.shape[0]], np.diff(block.indptr))
                block.data /= mine * norms[block.indices] + np.float32(self.shrink)
            found.add(*best_of_rows(block, first, self.k))
        self._keep(found.runs())

    def scores(self, history: Runs) -> Tensor:
        n, lengths = len(self._followers), self._followers.lengths
        found, rows = torch.zeros(len(history) * n), history.rows
        blocks = lengths[history.values].cumsum(0) // ENTRIES  # of events, so that memory is bounded
        for events in torch.arange(len(rows)).split(blocks.bincount().tolist() if len(rows) else 1):
            near = self._followers.of(history.values[events])
            weight = near.weight if history.weight is None else near.weight * history.weight[events][near.rows]
            found.index_add_(0, rows[events][near.rows] * n + near.values, weight)
        return found.view(len(history), n)

    def item_similarity(self, idx: Tensor) -> Tensor:
        """Similarities `(b, n_items)` of items `(b,)` to their neighbours; -inf for other items."""
        found, mine = torch.full((len(idx), len(self.near_start) - 1), -torch.inf), self.neighbours.of(idx)
        found[mine.rows, mine.values] = mine.weight
        return found


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
        features = features_for(data, self.given, "ContentKNN")
        similarity, warm = _Cosines(features), (self.counts > 0).nonzero().squeeze(1)
        self.k, found = len(warm) if self.all else self.k, Neighbours()
        for rows in torch.arange(data.n_items).split(max(1, 2**23 // max(len(warm), 1))):
            cosines = similarity(rows, warm)
            cosines[rows[:, None] == warm] = -torch.inf  # no item is its own neighbour
            counts, columns, values = largest(cosines, self.k)
            found.add(counts, warm.numpy()[columns], values)
        self._keep(found.runs())


def features_for(data: Dataset, given: Features | None, model: str) -> Features:
    """The items' features that were given to a model, else those of the data."""
    features = data.features.items if given is None else given
    if features is None:
        raise ValueError(f"{model} needs item features: {model}(features), or dataloaders made with items=")
    if len(features) != data.n_items:
        raise ValueError(f"features of {len(features)} items for {data.n_items} items: they belong to others")
    return features


class _Cosines:
    """Cosines of items' features less their mean, which are never made dense: `(a - m)'(b - m)` term by term."""

    def __init__(self, features: Features):
        self.sparse, self.dense = features.sparse_matrix()
        given = features.given.numpy()
        mean = np.asarray(self.sparse[given].mean(0)).ravel(), self.dense[given].mean(0)
        self.along = self.sparse @ mean[0] + self.dense @ mean[1]  # (n,), a'm
        self.square = mean[0] @ mean[0] + mean[1] @ mean[1]  # m'm
        own = np.asarray(self.sparse.multiply(self.sparse).sum(1)).ravel() + (self.dense**2).sum(1)
        size = np.sqrt(np.maximum(own - 2 * self.along + self.square, 0))
        self.scale = np.where(size > 1e-6, 1 / np.maximum(size, 1e-6), 0)  # a row that is the mean is like nothing

    def __call__(self, rows: Tensor, columns: Tensor) -> Tensor:
        """`(b, c)` float32 of items `(b,)` and `(c,)`."""
        rows, columns = rows.numpy(), columns.numpy()
        found = (self.sparse[rows] @ self.sparse[columns].T).toarray()
        if self.dense.shape[1]:
            found += self.dense[rows] @ self.dense[columns].T
        found -= self.along[rows][:, None] - self.square
        found -= self.along[columns]
        found *= self.scale[rows][:, None]
        found *= self.scale[columns]
        return torch.from_numpy(found)
