"""Scores of all items: from vectors, or as sums over the items of a history. Networks run in ONNX Runtime.

A scorer makes queries by `known(users)` or `told(history)`, and `scores(query, candidates)` returns `(b, c)` float32.
`event_scores` are the terms of single events, if a score is the sum over a history.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from collabkit.serve.light.arrays import Lists
from collabkit.serve.light.events import Events
from collabkit.serve.onnx_models import OnnxModel

__all__ = ["SCORERS", "ByUsers", "Linear", "Neighbours", "Network", "Next", "Popularity", "Vectors"]


class Vectors:
    """Dot products; the users' vectors are in the artefact, whatever model computed them.

    Args:
        users, items: `(n_users, d)` and `(n_items, d)` float32, biases folded in.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray):
        self.users, self.items = users, items

    def known(self, users: np.ndarray) -> np.ndarray:
        """The vectors `(b, d)` of users at indices `(b,)`."""
        return self.users[users]

    def scores(self, query: np.ndarray, candidates: np.ndarray | None = None) -> np.ndarray:
        """Logits `(b, c)` of vectors `(b, d)`; `candidates` `(c,)`, None for all items, the unknown one included."""
        return query @ (self.items if candidates is None else self.items[candidates]).T


class Network:
    """The scores of pairs by a network, which ONNX Runtime computes.

    Args:
        model: gives logits.
    """

    def __init__(self, model: OnnxModel):
        self.model = model

    def known(self, users: np.ndarray) -> np.ndarray:
        """The users themselves."""
        return users

    def scores(self, query: np.ndarray, candidates: np.ndarray | None = None) -> np.ndarray:
        """Logits `(b, c)` of users at indices `(b,)`."""
        found = self.model.logits(query)
        return found.copy() if candidates is None else found[:, candidates]


class Histories:
    """Base of models that read histories.

    Args:
        events: the known events of users.
        counts: `(n_items,)` popularity of items, which decides without evidence for an item.
        arrays: of the model.
        spec: from config.json.
    """

    additive = True

    def __init__(self, events: Events, counts: np.ndarray, arrays: Mapping[str, np.ndarray], spec: Mapping):
        self.events, self.arrays, self.n = events, arrays, len(counts)
        self.ordered, self.last = spec["ordered"], spec.get("last")
        self.popular = (np.float32(1e-9) * counts / max(1, counts.max())).astype(np.float32)

    def known(self, users: np.ndarray) -> Lists:
        """The histories of users at indices `(b,)`."""
        return Lists.of([self.events.latest(int(user)) for user in users])

    def counted(self, history: Lists) -> Lists:
        """The events that count in scores: in a model without order each item once, with its last weight."""
        rows = []
        for j in range(history.n):
            items, weight = history.row(j)
            if self.last is not None:
                items, weight = items[-self.last :], None if weight is None else weight[-self.last :]
            if not self.ordered or self.last is not None:
                unique, back = np.unique(items[::-1], return_index=True)
                items, weight = unique, None if weight is None else weight[::-1][back]
            rows.append((items, weight))
        return Lists.of(rows)

    def scores(self, query: Lists, candidates: np.ndarray | None = None) -> np.ndarray:
        """Scores `(b, c)` of histories."""
        query = self.counted(query)
        found = np.stack([self.score(*query.row(j)) for j in range(query.n)]).astype(np.float32, copy=False)
        popular = self.popular if candidates is None else self.popular[candidates]
        found = found if candidates is None else found[:, candidates]
        return np.where(found == 0, popular, found)

    def score(self, items: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """Scores `(n_items,)` of one history that is `counted`."""
        raise NotImplementedError

    def shares(self, items: np.ndarray, weight: np.ndarray | None, among: np.ndarray) -> np.ndarray:
        """What each of `l` events of a counted history adds to the scores of items `among` `(m,)`, `(l, m)` float64."""
        one = [self.score(items[j : j + 1], None)[among] for j in range(len(items))]
        found = np.stack(one).astype(np.float64) if one else np.zeros((0, len(among)))
        return found if weight is None else found * weight.astype(np.float64)[:, None]

    def similar(self, item: int) -> np.ndarray:
        """What having met an item adds to the scores of all, `(n_items,)`; -inf for unrelated items."""
        return self.score(np.array([item]), None).astype(np.float32)


class Linear(Histories):
    """EASE: `x W` for the items x of a history."""

    def score(self, items, weight):
        rows = self.arrays["weights"][items]
        return rows.sum(0) if weight is None else weight.astype(rows.dtype) @ rows

    def shares(self, items, weight, among):
        found = self.arrays["weights"][np.ix_(items, among)].astype(np.float64)
        return found if weight is None else found * weight.astype(np.float64)[:, None]


class ByUsers(Histories):
    """EASE through the inverse of its users' products; see `models.EASE`."""

    def score(self, items, weight):
        inverse, own = self.arrays["inverse"], self.arrays["own"]
        have = np.zeros(self.n, inverse.dtype)
        have[items] = 1 if weight is None else weight
        users, worth = self.arrays["users"], self.arrays["weight"]
        alike = np.zeros(len(inverse), inverse.dtype)
        for item in items.tolist():
            where = slice(int(self.arrays["start"][item]), int(self.arrays["start"][item + 1]))
            alike[users[where]] += have[item] * worth[where]  # no user is repeated
        sums = np.concatenate([[0.0], np.cumsum(worth * (inverse @ alike)[users], dtype=np.float64)])
        found = sums[self.arrays["start"][1:]] - sums[self.arrays["start"][:-1]]
        return ((found - have * own) / (1 - own)).astype(np.float32)


class Neighbours(Histories):
    """kNN: the summed similarities of a history's items."""

    def score(self, items, weight):
        start, found = self.arrays["start"], np.zeros(self.n, np.float32)
        for j, item in enumerate(items.tolist()):
            where = slice(int(start[item]), int(start[item + 1]))
            near = self.arrays["nearness"][where]
            found[self.arrays["near"][where]] += near if weight is None else near * np.float32(weight[j])
        return found

    def similar(self, item):
        start = self.arrays["near_start"]
        where = slice(int(start[item]), int(start[item + 1]))
        found = np.full(self.n, -np.inf, np.float32)
        found[self.arrays["own_near"][where]] = self.arrays["own_nearness"][where]
        return found


class Next(Histories):
    """NextItem: items that have followed the events of a history, with decay."""

    def score(self, items, weight):
        return self._events(items).sum(0, dtype=np.float32) if len(items) else np.zeros(self.n, np.float32)

    def shares(self, items, weight, among):
        return self._events(items)[:, among].astype(np.float64)

    def _events(self, items: np.ndarray) -> np.ndarray:
        """What each event adds, `(l, n_items)`."""
        found, age = np.zeros((len(items), self.n), np.float32), np.arange(len(items))[::-1].astype(np.float64)
        for rate, next_items, worth in zip(
            self.arrays["rates"], self.arrays["next"], self.arrays["weight"], strict=True
        ):
            for j in np.flatnonzero((decayed := rate**age) > 1e-6):
                found[j, next_items[items[j]]] += worth[items[j]] * np.float32(decayed[j])
        return found


class Popularity(Histories):
    """The same scores for everybody."""

    additive = False

    def score(self, items, weight):
        return self.arrays["counts"]

    def shares(self, items, weight, among):
        return np.zeros((len(items), len(among)))

    def similar(self, item):
        raise TypeError("Popularity knows no similar items")


SCORERS = {
    "linear": Linear,
    "by users": ByUsers,
    "neighbours": Neighbours,
    "next": Next,
    "popularity": Popularity,
}
