"""Why an item is recommended: the share of each past item in its score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.coldstart.fold_in import FoldIn
from collabkit.coldstart.fold_in.least_squares import LeastSquares
from collabkit.coldstart.fold_in.ratings import histories_of
from collabkit.data.checks import whole
from collabkit.data.dataset import Dataset
from collabkit.data.query import Query
from collabkit.data.runs import Runs
from collabkit.models.base import Model, answering
from collabkit.models.closed_form import ClosedForm

__all__ = ["Explainer", "Shares", "because_of", "check_why", "equations", "why_history"]

BLOCK, SUMS = 256, 4096  # users at once; the second for models whose scores are sums over all items
CELLS = 2**24  # scores at once


@dataclass(frozen=True, eq=False)
class Shares:
    """What each event of `b` histories adds to the scores of `k` items each.

    Args:
        events: the `b` histories.
        values: `(m, k)` float64, in logits.
        prior: `(b, k)`, the scores for an unknown user, if the model has them.
        method: how the shares were computed.
        ratings: `(m,)` of the events, if the shares are of ratings.
    """

    events: Runs
    values: Tensor
    prior: Tensor | None
    method: str
    ratings: Tensor | None = None

    def reasons(self) -> Tensor:
        """`values`, 0 for events rated below the user's mean: a disliked item may add to a score, but is no reason."""
        if self.ratings is None:
            return self.values
        rows = self.events.rows
        mean = self.values.new_zeros(len(self.events)).index_add(0, rows, self.ratings.double()) / self.events.lengths
        return self.values * (self.ratings >= mean[rows] - 1e-9)[:, None]


class Explainer:
    """The shares of past items in the scores of a model.

    Args:
        model, data: as in `Recommender`.
        fold: returns the fold-in of `model.explained`, or raises if it has none.
        equations: returns the result of `equations` for it.
    """

    def __init__(
        self, model: Model, data: Dataset, fold: Callable[[], FoldIn], equations: Callable[[], LeastSquares | None]
    ):
        self.model, self.data, self.fold, self.equations = model, data, fold, equations

    def shares(self, query: Tensor | Query, told: Runs | None, items: Tensor) -> Shares:
        """The shares of past items in the scores of `items` `(b, k)` for a query of `b`.

        Args:
            query: with the parts that the model needs.
            told: the events that the query's rows were solved from, if any.
            items: indices; the values at 0 have no meaning.
        """
        model = self.model.explained
        query = Query(query) if isinstance(query, Tensor) else query
        if "history" not in model.needs:
            return self._of_rows(model, query, told, items)
        if isinstance(model, ClosedForm) and model.additive:
            return additive(model, query.history, items)
        return leave_one_out(model, query, items)

    def _of_rows(self, model: Model, query: Query, told: Runs | None, items: Tensor) -> Shares:
        """For a model with a row for each user: from the equations that the row solves, or would if folded in."""
        users, data, scores = query.users, self.data, self.fold().scores
        rows, equations = query.rows, None
        if rows is None:
            rows, told = model.user_side.read(users), histories_of(data.trained, users)[0]
            equations = self.equations()
        x = torch.cat([part.cpu().double() for part in rows], dim=1)
        origin, pieces = x.clone(), torch.zeros(len(told.values), scores.d, dtype=torch.float64)
        solved = (data.train.counts("user")[users] > 0) if equations is not None else torch.zeros(len(users)) > 0
        folded = ~solved & (told.lengths > 0)
        if bool(solved.any()):
            origin[solved] = 0.0
            pieces[solved[told.rows], : equations.Q.shape[1]] = equations.pieces(users[solved])
        if bool(folded.any()):
            at = folded.nonzero().squeeze(1)
            origin[folded], pieces[folded[told.rows]] = self.fold().pieces(told.of(at), users[at])
        slope, prior = self._slopes(scores, x, origin, users, items)
        values = torch.einsum("mkd,md->mk", slope[told.rows], pieces)
        ratings = told.weight if data.rated else None
        return Shares(told, values, prior, "least squares" if bool(solved.all()) else "fold-in", ratings)

    @staticmethod
    def _slopes(scores, x: Tensor, origin: Tensor, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients `(b, k, d)` of the items' scores by the row at `x`, and the scores `(b, k)` at `origin`."""
        device = scores.device
        with torch.inference_mode(False), torch.no_grad():
            x, origin, at, items = (part.clone().to(device) for part in (x, origin, users, items))
            parts = scores.parts_of(items)
            prior = scores.logits(origin, at, parts)
            slope = scores.slope[items] if scores.linear else scores.gradients(x, at, parts)[1]
        return slope.cpu(), prior.cpu()


def equations(model: Model, data: Dataset) -> LeastSquares | None:
    """The equations that a model's user vectors satisfy, if they come from `fit_als`."""
    if model.als is None:
        return None
    tables = [side.read(torch.arange(side.n))[0].cpu().double() for side in model.sides]
    met = [data.train.counts(side.name) > 0 for side in model.sides]  # the other rows are those for unknown ids
    P, Q = (table * rows[:, None] for table, rows in zip(tables, met, strict=True))
    found = LeastSquares(P, Q, data, model.als)
    return found if found.hold() else None


def additive(model: ClosedForm, history: Runs, items: Tensor) -> Shares:
    """The shares in a model whose scores are sums over the events of a history: exact."""
    history = model.counted(history)
    values = torch.empty(len(history.values), items.shape[1], dtype=torch.float64)
    step = max(1, CELLS // len(model.counts))
    if model.by_place:
        for at in _row_blocks(history, step):
            part = history.of(at)
            mine = slice(int(history.start[at.start]), int(history.start[at.stop]))
            values[mine] = model.event_scores(part).double().gather(1, items[at][part.rows])
        return Shares(history, values, None, "additive")
    unique, place = history.values.unique(return_inverse=True)
    for first in range(0, len(unique), step):
        some = unique[first : first + step]
        table = model.event_scores(Runs(torch.arange(len(some) + 1), some, history.width)).double()
        mine = ((place >= first) & (place < first + len(some))).nonzero().squeeze(1)
        values[mine] = table[(place[mine] - first)[:, None], items[history.rows[mine]]]
    if history.weight is not None:
        values *= history.weight.double()[:, None]
    return Shares(history, values, None, "additive")


def leave_one_out(model: Model, query: Query, items: Tensor) -> Shares:
    """The drop of the scores of `items` `(b, k)` when single events are removed from the history."""
    history, values = query.history, []
    for j, run in enumerate(history):
        m, own = len(run), query[j : j + 1]
        without = run.expand(m, m)[~torch.eye(m, dtype=torch.bool)]
        lengths = torch.tensor([m, *[m - 1] * m])
        start = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        every = replace(own[torch.zeros(m + 1, dtype=torch.int64)],
                        history=Runs(start, torch.cat([run, without]), history.width))  # fmt: skip
        rows = torch.arange(m + 1).repeat_interleave(items.shape[1])
        scores = model.score_pairs(every, rows, items[j].repeat(m + 1)).double().reshape(m + 1, -1)
        values.append(scores[:1] - scores[1:])
    return Shares(history, torch.cat([items.new_zeros(0, items.shape[1]).double(), *values]), None, "leave-one-out")


def _row_blocks(history: Runs, size: int) -> Iterator[slice]:
    """The rows of histories in blocks of at most `size` events, or one row."""
    first = 0
    while first < len(history):
        stop = int(torch.searchsorted(history.start, history.start[first] + size, right=True)) - 1
        stop = max(first + 1, min(stop, len(history)))
        yield slice(first, stop)
        first = stop


def check_why(model: Model, why) -> bool | int:
    """`why` of `recommend`, checked: False, True, or the number of past items per row.

    Raises:
        TypeError: the shares of past items cannot be computed for this model.
        ValueError: `why` is none of these.
    """
    if why is None or (isinstance(why, (bool, np.bool_)) and not why):
        return False
    inner = model.explained
    if "history" not in inner.needs and not inner.user_side.can_write:
        raise TypeError(f"the users of {type(inner).__name__} are computed from the training data as a whole: what one "
                        "past item adds to a score is unknown")  # fmt: skip
    return True if isinstance(why, (bool, np.bool_)) else whole("why", why)


def because_of(explainer: Explainer, best: Tensor, why: bool | int, query, told: Runs | None) -> pd.Series:
    """For each item in lists `best` `(b, k)`, 0 where they end, the ids of the past items that contribute most.

    Of ratings, only those of at least the user's mean count; see `Shares.reasons`.

    Returns:
        `(n,)` ids, None if no past item contributes; lists of ids if `why` is a number.
    """
    found = np.full((*best.shape, int(why)), 0)
    size = SUMS if getattr(explainer.model.explained, "additive", False) else BLOCK
    for first in range(0, len(best), size):
        part = slice(first, min(first + size, len(best)))
        with answering(explainer.model), torch.inference_mode():
            own = None if told is None else told.of(torch.arange(part.start, part.stop))
            shares = explainer.shares(query[part], own, best[part])
        for j, (run, values) in enumerate(
            zip(shares.events, shares.reasons().split(shares.events.lengths.tolist()), strict=True)
        ):
            top = values.argsort(dim=0, descending=True, stable=True)[: int(why)]  # (n, k)
            found[first + j, :, : len(top)] = run[top].masked_fill_(values.gather(0, top) <= 0, 0).T.numpy()
    items, listed = explainer.data.items, found[best.numpy() > 0]  # (n, why)
    if why is True and bool((listed > 0).all()):
        return pd.Series(items.decode(listed[:, 0]))
    ids = [None, *items.ids]
    named = [[ids[i] for i in row if i] for row in listed]
    return pd.Series([row[0] if row else None for row in named] if why is True else named, dtype=object)


def why_history(explainer: Explainer, query, told: Runs | None, item: Tensor) -> pd.DataFrame:
    """The table of `Recommender.why` for one query and the index `(1,)` of an item."""
    model, items = explainer.model, explainer.data.items
    with answering(model), torch.inference_mode():
        shares = explainer.shares(query, told, item[None])
        score = model.score_pairs(query, torch.zeros(1, dtype=torch.int64), item).double()
        if not bool(score.isfinite()):
            raise ValueError(f"{items.decode(item.numpy())[0]!r} has no score for this user, so nothing explains it")
        values, prior = shares.values[:, 0], shares.prior
        rows = {} if prior is None or shares.method == "least squares" else {"prior": prior[0]}
        rows["rest"] = score - values.sum() - sum(rows.values())
        if model.y_range is not None:  # on the scale of ratings, shares are proportional parts
            start = rows.get("prior", score - values.sum())
            end = model.activation(score)
            away = torch.where((score - start).abs() < 1e-4, 1e-4, score - start)
            slope = (model.activation(start + away) - model.activation(start)) / away
            values, rows["rest"] = values * slope, rows["rest"] * slope
            first = next(iter(rows))
            rows[first] = end - values.sum() - sum(value for name, value in rows.items() if name != first)
            score = end
    order = values.argsort(descending=True, stable=True)
    ids = items.decode(shares.events.values[order].numpy()).astype(object)
    ids = pd.Series([*ids, *[None] * len(rows)], dtype=object)
    table = {items.name: ids, "part": ["history"] * len(order) + [*rows]}
    table = pd.DataFrame({**table, "share": torch.cat([values[order], *rows.values()]).numpy()})
    rest = abs(float(rows["rest"][0]))
    exact = rest <= 1e-5 * max(1.0, abs(float(score[0])))
    table.attrs = {"score": float(score[0]), "method": shares.method, "exact": exact}
    return table
