"""Baselines to be compared with: popularity, item neighbours, and EASE. Fit one, then use it as a learner."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor

from collabkit.evaluate.references import GlobalMean, PopularityRanks, UserItemBias
from collabkit.features import Features
from collabkit.interactions import Interactions
from collabkit.pairs import Pairs
from collabkit.ranking import Scorer
from collabkit.recommender import Recommender

__all__ = ["Baseline", "Popularity", "ItemKNN", "ContentKNN", "EASE", "GlobalMean", "UserItemBias"]


class Baseline:
    """What the baselines share: `fit`, then `recommend`, `evaluate` and `similar_items` as of a learner.

    A subclass defines `_fit(train)` and `scorer(candidates)`. Training rows count as events, whatever their rating, and
    each (user, item) pair once.
    """

    training = False
    recommender: Recommender | None = None

    def fit(self, data) -> Baseline:
        """Fit to the training part of `data`, and return itself.

        Args:
            data: a `CollabDataLoaders`, a learner, a `Recommender`, or Interactions: a training part, or a pair
                `(train, valid)`.

        Raises:
            TypeError: `data` is something else.
        """
        train, valid = parts_of(data)
        self._fit(train)
        self.recommender = Recommender(self, train, valid)
        return self

    def _fit(self, train: Interactions) -> None:
        raise NotImplementedError

    def scorer(self, candidates: Tensor) -> Scorer:
        """A `ranking.Scorer` of `candidates` `(c,)`."""
        raise NotImplementedError

    def recommend(self, users=None, k: int = 10, **kwargs) -> pd.DataFrame:
        """The top `k` items of each user; see `Recommender.recommend` for the other arguments."""
        return self._fitted.recommend(users, k, **kwargs)

    def evaluate(self, on="valid", **kwargs) -> pd.DataFrame:
        """Ranking metrics with intervals; see `Recommender.evaluate`."""
        return self._fitted.evaluate(on, **kwargs)

    def similar_items(self, item, k: int = 10) -> pd.DataFrame:
        """The `k` items most similar to `item` (one id or several), where the baseline knows any."""
        return self._fitted.similar_items(item, k)

    @property
    def _fitted(self) -> Recommender:
        if self.recommender is None:
            raise ValueError(f"this {type(self).__name__} is not fitted; call .fit(dls) first")
        return self.recommender

    def eval(self) -> Baseline:
        """Nothing: there is no training mode."""
        return self

    def train(self, mode: bool = True) -> Baseline:
        """Nothing: there is no training mode."""
        return self

    def activation(self, logits: Tensor) -> Tensor:
        """Scores are shown as they are."""
        return logits


class Popularity(Baseline):
    """Every item's score is its number of training rows, the same for all users.

    Example:
        >>> from collabkit import CollabDataLoaders, datasets
        >>> ratings = datasets.synthetic(seed=1).ratings
        >>> dls = CollabDataLoaders.from_df(ratings, user_name='user', item_name='title', seed=42)
        >>> len(Popularity().fit(dls).recommend(k=3)) == 3 * (len(dls.classes['user']) - 1)
        True
    """

    name = "popularity"

    def _fit(self, train: Interactions) -> None:
        self.counts = PopularityRanks(train).counts

    def scorer(self, candidates: Tensor) -> Scorer:
        scores = self.counts[candidates]
        return lambda users: scores.repeat(len(users), 1)


class ItemKNN(Baseline):
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

    name = "item kNN"

    def __init__(self, k: int = 100, shrink: float = 0.0):
        if int(k) != k or k < 1:
            raise ValueError(f"k must be a whole number of at least 1, got {k!r}")
        if not shrink >= 0:
            raise ValueError(f"shrink must be at least 0, got {shrink!r}")
        self.k, self.shrink = int(k), float(shrink)

    def _fit(self, train: Interactions) -> None:
        self.pairs = Pairs.from_interactions(train)
        self.norms = torch.bincount(torch.from_numpy(self.pairs.items), minlength=train.n_items).float().sqrt()
        values, columns = [], []
        for rows, counts in _together(self.pairs):
            similarity = self._similarity(rows, counts)
            similarity[torch.arange(len(rows)), rows] = 0
            best = similarity.topk(min(self.k, train.n_items - 1), dim=1)
            values.append(best.values)
            columns.append(best.indices)
        values, columns = torch.cat(values), torch.cat(columns)  # (n_items, k): the neighbours i of each item j
        start = torch.arange(len(values) + 1) * values.shape[1]
        self.neighbours = _csr(start, columns.flatten(), values.flatten(), (len(values), train.n_items))

    def _similarity(self, rows: Tensor, counts: Tensor) -> Tensor:
        return counts / (self.norms[rows][:, None] * self.norms + self.shrink).clamp_(min=1e-12)

    def item_similarity(self, rows: Tensor) -> Tensor:
        """Similarities `(b, n_items)` of items `(b,)` to all items."""
        return self._similarity(rows, next(_together(self.pairs, rows))[1])

    def scorer(self, candidates: Tensor) -> Scorer:
        popular = _tie_break(self.pairs, candidates)

        def scores(users: Tensor) -> Tensor:
            return popular((self.neighbours @ _history(self.pairs, users).T)[candidates].T.contiguous())

        return scores


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
        self.all, self.features = k is None, features

    def fit(self, data) -> ContentKNN:
        """Fit to the training part of `data`; see `Baseline.fit`."""
        self._given = self.features
        if self._given is None:
            sources = (data, getattr(data, "dls", None), getattr(data, "model", None))
            self._given = next((f.items for f in (getattr(source, "features", None) for source in sources) if f), None)
        if self._given is None:
            raise ValueError("ContentKNN needs item features: ContentKNN(features), or dataloaders made with items=")
        return super().fit(data)

    def _fit(self, train: Interactions) -> None:
        if len(self._given) != train.n_items:
            raise ValueError(f"features of {len(self._given)} items for {train.n_items} items: they belong to others")
        matrix = self._given.matrix()
        self.unit = torch.nn.functional.normalize(matrix - matrix[self._given.given].mean(0), dim=1)
        self.cold = torch.bincount(train.item_idx.cpu(), minlength=train.n_items) == 0
        self.k = train.n_items - 1 if self.all else self.k
        super()._fit(train)

    def _similarity(self, rows: Tensor, counts: Tensor) -> Tensor:
        return (self.unit[rows] @ self.unit.T).masked_fill_(self.cold, -1.0)


class EASE(Baseline):
    """Linear item-item model in closed form, `score = x_u B` for the 0/1 row x_u of the user's items.

    Steck, "Embarrassingly shallow autoencoders for sparse data" (2019): with `P = (X'X + l2 I)^-1`,
    `B = I - P diag(1 / diag(P))`, so that its diagonal is zero and no item recommends itself.

    Args:
        l2: ridge penalty; a few hundred to a few thousand for data like MovieLens.
        max_items: the inverse takes `n_items^2` memory and `n_items^3` time (20,000 items: some 5 GB and ten minutes on
            two cores); beyond this number of items `fit` refuses.

    Raises:
        ValueError: `l2` is not positive; in `fit`, more items than `max_items`.
    """

    name = "EASE"

    def __init__(self, l2: float = 500.0, max_items: int = 20_000):
        if not l2 > 0:
            raise ValueError(f"l2 must be positive, got {l2!r}")
        self.l2, self.max_items = float(l2), int(max_items)

    def _fit(self, train: Interactions) -> None:
        n = train.n_items - 1
        if n > self.max_items:
            gigabytes = 12 * n**2 / 1e9
            raise ValueError(
                f"EASE inverts a matrix of items x items: {n:,} items are more than max_items={self.max_items:,} and "
                f"would take some {gigabytes:,.0f} GB. Drop rare items first (filters.min_count), raise max_items, or "
                "use ItemKNN"
            )
        self.pairs = Pairs.from_interactions(train)
        gram = torch.cat([counts for _, counts in _together(self.pairs)])  # (n_items, n_items), row and column 0 empty
        gram = gram.double() if n <= 5000 else gram  # single precision is enough for the order, and half the memory
        gram.diagonal().add_(self.l2)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        self.weights = (inverse / -inverse.diagonal()).float()  # column j divided by its diagonal entry
        self.weights.diagonal().zero_()

    def item_similarity(self, rows: Tensor) -> Tensor:
        """Weights `(b, n_items)`: what having each of the items `(b,)` adds to the scores of all items."""
        return self.weights[rows].clone()

    def scorer(self, candidates: Tensor) -> Scorer:
        weights, popular = self.weights[:, candidates], _tie_break(self.pairs, candidates)
        return lambda users: popular(_history_csr(self.pairs, users) @ weights)


def _tie_break(pairs: Pairs, candidates: Tensor):
    """A function of scores `(b, c)`: where they are 0, for want of evidence, the more popular candidate leads."""
    counts = torch.bincount(torch.from_numpy(pairs.items), minlength=pairs.n_items).float()
    small = 1e-9 * counts[candidates] / counts.max().clamp(min=1)
    return lambda scores: torch.where(scores == 0, small, scores)


def parts_of(data) -> tuple[Interactions, Interactions | None]:
    """The training and validation parts of dataloaders, a learner, a `Recommender`, or Interactions."""
    data = getattr(data, "dls", data)
    if isinstance(data, Recommender):
        return data.train, data.valid
    if isinstance(data, Interactions):
        return data, None
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Interactions) for part in data):
        return data[0], data[1]
    parts = [getattr(getattr(data, name, None), "dataset", None) for name in ("train", "valid")]
    if not isinstance(parts[0], Interactions):
        raise TypeError(f"expected CollabDataLoaders, a learner or Interactions to fit to, got {type(data).__name__}")
    return parts[0], parts[1]


def _together(pairs: Pairs, rows: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """`(items (b,), counts (b, n_items))`: users who have both items, by block; given `rows` in one block."""
    users, items = torch.from_numpy(pairs.users), torch.from_numpy(pairs.items)
    step = max(1, 2**25 // max(pairs.n_users, pairs.n_items))  # blocks of 128 MB
    order = torch.argsort(items, stable=True)
    start = torch.searchsorted(items[order], torch.arange(pairs.n_items + 1))
    by_item = _csr(start, users[order], torch.ones(len(users)), (pairs.n_items, pairs.n_users))
    for part in torch.arange(pairs.n_items).split(step) if rows is None else [rows]:
        place = torch.full((pairs.n_items,), -1)
        place[part] = torch.arange(len(part))
        mine = place[items] >= 0
        have = torch.zeros(pairs.n_users, len(part))
        have[users[mine], place[items[mine]]] = 1
        yield part, (by_item @ have)[:, place[part]].T.contiguous()


def _history(pairs: Pairs, users: Tensor) -> Tensor:
    """The 0/1 rows `(b, n_items)` of what `users` `(b,)` have."""
    rows, items = pairs.of(users)
    have = torch.zeros(len(users), pairs.n_items)
    have[rows, items] = 1
    return have


def _history_csr(pairs: Pairs, users: Tensor) -> Tensor:
    rows, items = pairs.of(users)
    start = torch.searchsorted(rows, torch.arange(len(users) + 1))
    return _csr(start, items, torch.ones(len(items)), (len(users), pairs.n_items))


def _csr(start: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(start, columns, values, shape, check_invariants=False)
