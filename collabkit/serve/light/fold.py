"""Rows for a history, with the prior in the artefact: the arithmetic of `coldstart.fold_in` for one user.

Events use the same function as the fold-in. The Gauss-Newton steps for ratings, and the parts of events in a row, are
repeated here without blocks, masks and networks; tests check that both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from collabkit.coldstart.climb import climb

__all__ = ["EventFold", "Fold", "RatingFold", "fold_of"]

STEPS = 3  # of Gauss-Newton, as in `fold_in.ratings`


class Fold:
    """The rows x of users and their scores: logits `x . slope[i] + constant[i]`.

    Args:
        arrays, spec: the artefact's prior, and its entry in config.json.
        vectors: the users' and items' vectors.
        y_range: of the ratings.
    """

    rated = False

    def __init__(self, arrays: Mapping[str, np.ndarray], spec: Mapping, vectors, y_range):
        self.arrays, self.spec, self.vectors, self.y_range = arrays, spec, vectors, y_range
        self.mean, self.root = arrays["mean"], arrays["root"]  # (d,), (d, k)
        self.d = len(self.mean)

    @cached_property
    def slope(self) -> np.ndarray:
        """`(n_items, d)` float32."""
        return self.vectors.items[:, : self.d] if self.spec["plain"] else self.arrays["slope"]

    @cached_property
    def constant(self) -> np.ndarray:
        """`(n_items,)` float32."""
        if not self.spec["plain"]:
            return self.arrays["constant"]
        items = self.vectors.items
        return items[:, self.d] if items.shape[1] > self.d else np.zeros(len(items), np.float32)

    def lift(self, user: int) -> np.ndarray:
        """What a user's features add to the prior's mean, `(d,)`."""
        return self._of(user, "lift")

    def shift(self, user: int) -> np.ndarray:
        """What a user's features add to the row, `(d,)`."""
        return self._of(user, "shift")

    def _of(self, user: int, name: str) -> np.ndarray:
        rows = self.arrays.get(name)
        return np.zeros(self.d) if rows is None else rows[user]

    def row(self, user: int) -> np.ndarray:
        """The row in the user table, `(d,)` float64."""
        rows = self.vectors.users[:, : self.d] if self.spec["plain"] else self.arrays["rows"]
        return rows[user].astype(np.float64)

    def rows(self, history: list[tuple[np.ndarray, np.ndarray | None]]) -> np.ndarray:
        """Rows `(b, d)` float32 of new users with the `history` of each, items and ratings or confidences."""
        found = [self.mean + self.root @ self.mode(*one, 0) + self.lift(0) for one in history]
        return np.stack(found).astype(np.float32)

    def scores(self, rows: np.ndarray, candidates: np.ndarray | None = None) -> np.ndarray:
        """Logits `(b, c)` float32 of rows `(b, d)` of users without known features."""
        pick = slice(None) if candidates is None else candidates
        if self.spec["plain"]:  # as for known users
            ones = np.ones((len(rows), self.vectors.items.shape[1] - self.d), np.float32)
            return np.concatenate([rows, ones], axis=1) @ self.vectors.items[pick].T
        return (rows + self.shift(0).astype(np.float32)) @ self.slope[pick].T + self.constant[pick]

    def mode(self, items: np.ndarray, weight: np.ndarray | None, user: int) -> np.ndarray:
        """The most likely `y` `(k,)` of a history, where the row is `mean + root y + lift`."""
        raise NotImplementedError

    def pieces(self, items: np.ndarray, weight: np.ndarray | None, user: int) -> tuple[np.ndarray, np.ndarray]:
        """The row `(d,)` before any event, and what each of `l` events adds to it, `(l, d)`."""
        raise NotImplementedError

    def belief(self, items: np.ndarray) -> tuple[np.ndarray, float]:
        """Slopes `(c, k)` of answers about items by y, and the variance of their noise; see `FoldIn.belief`."""
        raise NotImplementedError

    def solved(
        self, own: np.ndarray, items: np.ndarray, weight: np.ndarray | None, disliked: np.ndarray, met: np.ndarray
    ) -> np.ndarray:
        """What each event adds to a vector `(d,)` of least squares, `(l, d)`; see `LeastSquares.pieces`."""
        gram, how = self.arrays["gram"], self.spec["solved"]
        rows = lambda idx: self.vectors.items[idx, : len(gram)].astype(np.float64) * met[idx, None]  # noqa: E731
        q, low, w = rows(items), rows(disliked), how["unobserved_weight"]
        c = np.ones(len(q)) if weight is None else weight.astype(np.float64)
        gain = (c - w if how["counted"] else c)[:, None] * q
        n = c.sum() + len(low) + w * (len(self.vectors.items) - 1)
        matrix = gain.T @ q + low.T @ low + gram + how["reg"] * n ** how["nu"] * np.eye(len(gram))
        parts = np.linalg.solve(matrix, (c[:, None] * q).T).T
        return parts + (own[: len(gram)] - parts.sum(0)) / max(1, len(items))


class RatingFold(Fold):
    """For ratings: Gauss-Newton steps; see `RatingSolver`."""

    rated = True

    @property
    def noise(self) -> float:
        """The variance of ratings around predictions."""
        return float(self.arrays["noise"])

    def rating(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ratings for logits, and their derivative."""
        if self.y_range is None:
            return logits, np.ones_like(logits)
        low, high = self.y_range
        share = 1 / (1 + np.exp(-logits))
        return low + (high - low) * share, (high - low) * share * (1 - share)

    def _line(self, items: np.ndarray, user: int) -> tuple[np.ndarray, np.ndarray]:
        """The logits `base + slope y` of items: `(l,)` and `(l, k)`."""
        slope = self.slope[items].astype(np.float64)
        base = slope @ self.mean + self.constant[items] + slope @ (self.shift(user) + self.lift(user))
        return base, slope @ self.root

    def mode(self, items, weight, user):
        (base, slope), ratings = self._line(items, user), weight.astype(np.float64)
        y, eye = np.zeros(slope.shape[1]), np.eye(min(slope.shape))
        for _ in range(STEPS):
            logits = base + slope @ y
            rating, change = self.rating(logits)
            a, target = slope * change[:, None], ratings - rating + change * (logits - base)
            if slope.shape[0] <= slope.shape[1]:
                new = a.T @ np.linalg.solve(a @ a.T + self.noise * eye, target)
            else:
                new = np.linalg.solve(a.T @ a + self.noise * eye, a.T @ target)
            y = new if self.y_range is None else self._best(base, slope, ratings, y, new)
        return y

    def _best(self, base, slope, ratings, y: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Of `y`, `new` and points between, the most likely."""

        def loss(point: np.ndarray) -> float:
            error = ratings - self.rating(base + slope @ point)[0]
            return float(error @ error) / self.noise + float(point @ point)

        best, least = y, loss(y)
        for share in (0.25, 0.5, 1.0):
            point = y + share * (new - y)
            if (there := loss(point)) <= least:
                best, least = point, there
        return best

    def pieces(self, items, weight, user):
        y = self.mode(items, weight, user)
        base, slope = self._line(items, user)
        rating, change = self.rating(base + slope @ y)
        a = slope * change[:, None]
        pulls = a * (weight.astype(np.float64) - rating)[:, None]
        found = parts_of(y, pulls, np.ones(len(items)), a.T @ a + self.noise * np.eye(len(y)))
        return self.mean + self.lift(user), found @ self.root.T

    def belief(self, items):
        slope = self.slope[items].astype(np.float64)
        logits = slope @ (self.mean + self.shift(0)) + self.constant[items]
        return slope @ self.root * self.rating(logits)[1][:, None], self.noise


class EventFold(Fold):
    """For events: see `EventSolver`."""

    @property
    def beta(self) -> float:
        """The factor that turns logits into log-odds."""
        return float(self.arrays["beta"])

    @cached_property
    def catalogue(self) -> slice | np.ndarray:
        """The items that the softmax runs over."""
        return self.arrays.get("catalogue", slice(1, None))

    @cached_property
    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits `(c,)` and slopes `(c, k)` float32 of the catalogue, times `beta`, at the prior's mean."""
        slope = self.beta * self.slope[self.catalogue].astype(np.float64)
        base = slope @ self.mean + self.beta * self.constant[self.catalogue] + self.arrays.get("log_weight", 0.0)
        return base.astype(np.float32), np.ascontiguousarray((slope @ self.root).astype(np.float32))

    def mode(self, items, weight, user):
        base, slopes = self.start
        weight = np.ones(len(items)) if weight is None else weight.astype(np.float64)
        own = (weight @ self._slopes(items)).astype(np.float32)
        if (moved := self.shift(user) + self.lift(user)).any():
            base = base + (self.beta * self.slope[self.catalogue].astype(np.float64) @ moved).astype(np.float32)
        n = np.array([weight.sum()], np.float32)
        curvature = self.arrays["curvature"].astype(np.float32)
        return climb(own[None], n, base[None], slopes, curvature, _softmax, _dots)[0][0].astype(np.float64)

    def _slopes(self, items: np.ndarray) -> np.ndarray:
        return self.beta * self.slope[items].astype(np.float64) @ self.root

    def pieces(self, items, weight, user):
        y = self.mode(items, weight, user)
        mask = np.ones(len(items)) if weight is None else weight.astype(np.float64)
        x = self.mean + self.root @ y + self.lift(user) + self.shift(user)
        logits = self.beta * (self.slope[self.catalogue].astype(np.float64) @ x + self.constant[self.catalogue])
        share = _softmax((logits + self.arrays.get("log_weight", 0.0))[None])[0]
        every = self.start[1].astype(np.float64)
        mean = share @ every
        spread = (every * share[:, None]).T @ every - np.outer(mean, mean)
        found = parts_of(y, self._slopes(items), mask, np.eye(len(y)) + mask.sum() * spread)
        return self.mean + self.lift(user), found @ self.root.T

    def belief(self, items):
        return self._slopes(items), 4.0


def parts_of(y: np.ndarray, pulls: np.ndarray, mask: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """What each event adds to a solution y, `(l, k)`; see `fold_in.ratings.parts_of`."""
    n = mask.sum()
    return mask[:, None] * (y / n + np.linalg.solve(hessian, (pulls - mask @ pulls / n).T).T)


def fold_of(arrays: Mapping[str, np.ndarray], spec: Mapping | None, vectors, y_range) -> Fold | None:
    """The fold-in of an artefact; None if there is none, or it needs a network."""
    if spec is None or not spec["linear"] or vectors is None:
        return None
    return {"ratings": RatingFold, "events": EventFold}[spec["kind"]](arrays, spec, vectors, y_range)


def _softmax(logits: np.ndarray) -> np.ndarray:
    found = np.exp(logits - logits.max(1, keepdims=True))
    return found / found.sum(1, keepdims=True)


def _dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("bc,bc->b", a, b)
