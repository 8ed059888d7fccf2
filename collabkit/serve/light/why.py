"""Why an item is in a list: the share of each past item in its score, as in `serve.why`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from collabkit.serve.light.arrays import Lists

__all__ = ["Shares", "leave_one_out", "of_history", "of_row", "told"]


class Shares(NamedTuple):
    """What each of `l` past items adds to the scores of `m` items, `(l, m)`, as in `serve.why.Shares`."""

    items: np.ndarray
    values: np.ndarray
    prior: np.ndarray | None
    method: str
    ratings: np.ndarray | None = None

    def reasons(self) -> np.ndarray:
        """As in `serve.why.Shares`."""
        if self.ratings is None or not len(self.items):
            return self.values
        return self.values * (self.ratings >= self.ratings.mean() - 1e-9)[:, None]


def of_history(scorer, items: np.ndarray, weight: np.ndarray | None, among: np.ndarray) -> Shares:
    """For a model whose score is a sum over the history, or does not depend on it."""
    if scorer.additive:
        items, weight = scorer.counted(Lists.of([(items, weight)])).row(0)
    method = "additive" if scorer.additive else "leave-one-out"
    return Shares(items, scorer.shares(items, weight, among), None, method)


def leave_one_out(encoder, scorer, user: int, items: np.ndarray, among: np.ndarray) -> Shares:
    """The drop of the scores of items `among` `(m,)` when single events are removed from a history."""
    every = [items, *(np.delete(items, j) for j in range(len(items)))]
    scores = scorer.scores(encoder.vectors([user] * len(every), history=every), among).astype(np.float64)
    return Shares(items, scores[:1] - scores[1:], None, "leave-one-out")


def of_row(fold, user: int, told: tuple | None, events, met: np.ndarray, among: np.ndarray) -> Shares:
    """For a model with a row for each user: from the equations of least squares, or of the fold-in.

    Args:
        fold: the fold-in.
        user: an index; 0 for a new user.
        told: for a new user, items, ratings and the row that was solved from them.
        events: the known events of users.
        met: `(n_items,)` which items have training rows.
        among: `(m,)` items.
    """
    exact = told is None and "gram" in fold.arrays and len(events.solved(user)[0]) > 0
    if told is None:
        x, (items, weight) = fold.row(user), events.solved(user) if exact else events.trained(user)
    else:
        (items, weight), x = told[:2], told[2].astype(np.float64)
    origin, pieces = x.copy(), np.zeros((len(items), fold.d))
    if exact:
        own = fold.solved(fold.vectors.users[user].astype(np.float64), items, weight, events.disliked(user), met)
        origin[:] = 0.0
        pieces[:, : own.shape[1]] = own
    elif len(items):
        origin, pieces = fold.pieces(items, weight, user)
    slope = fold.slope[among].astype(np.float64)
    prior = slope @ (origin + fold.shift(user)) + fold.constant[among]
    ratings = weight.astype(np.float64) if fold.rated else None
    return Shares(items, pieces @ slope.T, prior, "least squares" if exact else "fold-in", ratings)


def told(shares: Shares, score: float, y_range) -> tuple[list[tuple], float]:
    """The rows `(index of a past item or None, part, share)` of one item's score, largest first, and the score.

    Args:
        shares: of one item.
        score: its logit.
        y_range: of ratings; shares are then proportional parts on their scale.
    """
    values, prior = shares.values[:, 0], shares.prior
    rest = {} if prior is None or shares.method == "least squares" else {"prior": float(prior[0])}
    rest["rest"] = score - float(values.sum()) - sum(rest.values())
    if y_range is not None:
        low, high = y_range
        scaled = lambda logit: low + (high - low) / (1 + np.exp(-logit))  # noqa: E731
        start = rest.get("prior", score - float(values.sum()))
        end, away = float(scaled(score)), score - start
        away = 1e-4 if abs(away) < 1e-4 else away
        slope = float(scaled(start + away) - scaled(start)) / away
        values, rest["rest"] = values * slope, rest["rest"] * slope
        first = next(iter(rest))
        rest[first] = end - float(values.sum()) - sum(value for name, value in rest.items() if name != first)
        score = end
    order = np.argsort(-values, kind="stable")
    rows = [(int(shares.items[j]), "history", float(values[j])) for j in order]
    return [*rows, *((None, name, float(value)) for name, value in rest.items())], score
