"""`ItemKNN`: scores an item by its similarity to the user's items."""

import numpy as np
import torch
from torch import Tensor

from collabkit.data.checks import finite, shown, whole
from collabkit.data.dataset import Dataset
from collabkit.data.features import Features
from collabkit.data.runs import Runs
from collabkit.models.closed_form import ClosedForm
from collabkit.models.gram import Neighbours, best_of_rows, events_matrix, gram_blocks

__all__ = ["ItemKNN", "features_for"]

ENTRIES = 2**22  # entries of neighbours' lists that are read at once


class ItemKNN(ClosedForm):
    """Score an item by its cosines with those of the user's items that are among its `k` nearest neighbours.

    `score(u, j) = sum of sim(i, j) over u's items i among the k nearest of j`, with
    `sim(i, j) = n_ij / (sqrt(n_i n_j) + shrink)`, n_ij users having both: Deshpande and Karypis, "Item-based top-N
    recommendation algorithms" (2004), with the shrinkage of Bell and Koren (2007). Memory: `n_items x k` numbers.

    Args:
        k: number of neighbours per item.
        shrink: pseudo-count that pulls similarities of rare items towards 0.

    Raises:
        ValueError: `k` < 1 or `shrink` < 0.
    """

    name, additive = "item kNN", True

    def __init__(self, k: int = 100, shrink: float = 0.0):
        if finite("shrink", shrink) < 0:
            raise ValueError(f"shrink must be at least 0, got {shown(shrink)}")
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
        if state["near"].ndim == 2:  # as written up to format 4: k per row, some of them zero
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
        """For each item the items that it is a neighbour of, as needed for histories."""
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


def check_features(features) -> None:
    """Raise `TypeError` unless they are `Features` or None."""
    if features is not None and not isinstance(features, Features):
        raise TypeError(f"features must be the items' Features, e.g. dls.features.items, got {shown(features)}")


def features_for(data: Dataset, given: Features | None, model: str) -> Features:
    """The items' features given to a model, else those of the data."""
    features = data.features.items if given is None else given
    if features is None:
        raise ValueError(f"{model} needs item features: {model}(features), or dataloaders made with items=")
    if len(features) != data.n_items:
        raise ValueError(f"features of {len(features)} items for data of {data.n_items}: they belong to others")
    return features
