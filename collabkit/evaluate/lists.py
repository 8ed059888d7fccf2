"""Beyond accuracy: properties of the lists, from the training rows of the items in them."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from collabkit.data.interactions import Interactions
from collabkit.evaluate import metrics

__all__ = ["LIST_METRICS", "ItemFacts"]

LIST_METRICS = ("Coverage", "Novelty", "Diversity", "ARP", "Gini")


class ItemFacts:
    """Popularity, novelty and likeness of items, and the metrics of lists made of them.

    - `ARP`, average recommendation popularity: mean number of training rows of the listed items.
    - `Novelty`: mean self-information `-log2(users who have the item / users)` of the listed items, in bits, users
      being those with training rows (Vargas and Castells, "Rank and relevance in novelty and diversity metrics for
      recommender systems", 2011; Zhou et al. 2010). An item without training rows counts as if one user had it.
    - `Diversity`: 1 - mean cosine of all pairs of listed items, an item being the 0/1 vector of the users who had it in
      training, so that it does not depend on the model; NaN for lists of fewer than two items (Ziegler et al.,
      "Improving recommendation lists through topic diversification", 2005, with this likeness).
    - `Coverage` and `Gini`: share of the catalogue (or of `items`) listed at all, and inequality of how often; see
      `metrics`.

    Args:
        train: training interactions.
        items: `(c,)` distinct indices of the items that can be listed; default all of the catalogue.
    """

    def __init__(self, train: Interactions, items: Tensor | None = None):
        self.train = train
        items = torch.arange(1, train.n_items) if items is None else items
        self.n_items = len(items)
        self._number = np.zeros(train.n_items, dtype=np.int64)  # position of each item among `items`, from 1; 0 stays 0
        self._number[items.numpy()] = np.arange(1, len(items) + 1)

    @cached_property
    def counts(self) -> np.ndarray:
        """Training rows `(n_items,)` of each item."""
        return self.train.counts("item").double().numpy()

    @cached_property
    def _by_item(self) -> tuple[np.ndarray, np.ndarray]:
        """`(users, start)`: the distinct users of item i are `users[start[i]:start[i + 1]]`."""
        runs = self.train.pairs.transposed()
        return runs.values.numpy(), runs.start.numpy()

    @cached_property
    def information(self) -> np.ndarray:
        """Self-information `(n_items,)` in bits."""
        return self.train.information.numpy()

    def measure(self, name: str, lists: np.ndarray, ks: list[int]) -> list:
        """The metric `name` of `lists` `(n_users, k)` cut at each of `ks`: `(n_users,)` values, or one number."""
        if name == "Diversity":
            return self.diversity(lists, ks)
        functions = {
            "Coverage": lambda cut: metrics.coverage(cut, self.n_items),
            "Gini": lambda cut: metrics.gini(self._number[cut], self.n_items),
            "ARP": lambda cut: metrics.list_mean(cut, self.counts),
            "Novelty": lambda cut: metrics.list_mean(cut, self.information),
        }
        return [functions[name](lists[:, :k]) for k in ks]

    def diversity(self, lists: np.ndarray, ks: list[int]) -> list[np.ndarray]:
        """Diversity `(n_users,)` of `lists` `(n_users, k)` cut at each of `ks`.

        The sum of the cosines of all pairs is half of `|sum of the items' unit vectors|^2 - number of items`, which
        needs neither a matrix of items x items nor the pairs.
        """
        if len(lists) == 0:
            return [np.zeros(0) for _ in ks]
        unique, inverse = np.unique(lists, axis=0, return_inverse=True)
        step = max(1, 2**24 // self.train.n_users)  # 64 MB of sums
        parts = [self._diversity(unique[start : start + step], ks) for start in range(0, len(unique), step)]
        return [np.concatenate(column)[inverse.ravel()] for column in zip(*parts, strict=True)]

    def _diversity(self, lists: np.ndarray, ks: list[int]) -> list[np.ndarray]:
        users, start = self._by_item
        n = np.diff(start)
        sums = torch.zeros(len(lists), self.train.n_users)
        found = {}
        for j in range(lists.shape[1]):
            items = lists[:, j]
            m = n[items] * (items > 0)
            at = np.repeat(start[items] - (np.cumsum(m) - m), m) + np.arange(m.sum())
            cells = np.repeat(np.arange(len(lists)) * self.train.n_users, m) + users[at]
            weight = np.repeat(1 / np.sqrt(np.maximum(m, 1)), m).astype(np.float32)
            sums.view(-1).index_add_(0, torch.from_numpy(cells), torch.from_numpy(weight))
            if j + 1 in ks or j + 1 == lists.shape[1]:
                square = sums.square().sum(1, dtype=torch.float64).numpy()
                cut = lists[:, : j + 1]
                length, warm = (cut > 0).sum(1), ((cut > 0) & (n[cut] > 0)).sum(1)
                pairs = length * (length - 1)
                cosine = np.divide(square - warm, pairs, out=np.full(len(lists), np.nan), where=pairs > 0)
                found[j + 1] = 1 - cosine
        return [found[min(k, lists.shape[1])] for k in ks]
