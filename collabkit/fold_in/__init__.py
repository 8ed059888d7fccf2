"""Fold-in: rows for users who were not trained on, from a few of their ratings or events, the model as it is.

`scores` asks the model for logits and their derivatives, `prior` says what users are like, `ratings` and `events`
solve for rows, `jackknife` takes a user's own ratings out of the item side while the prior is fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from collabkit.fold_in.events import EventSolver
from collabkit.fold_in.histories import Histories
from collabkit.fold_in.ratings import RatingSolver
from collabkit.fold_in.scores import UserScores
from collabkit.interactions import Interactions
from collabkit.models import CollabModel

__all__ = ["FoldIn", "Histories"]


class FoldIn:
    """Rows for new users of a trained model from what they rated or clicked; nothing of the model is changed.

    A user's row is the most likely one given the history and a Gaussian prior that is estimated on the trained users;
    see `RatingSolver` and `EventSolver`. Works for every model: where logits are not linear in the user's row, they are
    made so step by step. Deterministic; the order of a history does not matter. The prior is fitted at the first call,
    which takes seconds; after it a user costs a millisecond or so, and many at once far less.

    Args:
        model: the trained model.
        train: its training interactions.
        **options: of `RatingSolver`, or of `EventSolver` where `train` has no ratings.

    Example:
        >>> import pandas as pd
        >>> from collabkit.interactions import Columns
        >>> from collabkit.models import CollFilter
        >>> df = pd.DataFrame({'user': [1, 1, 2, 2], 'item': ['a', 'b', 'a', 'c'], 'rating': [5, 1, 4, 2]})
        >>> train = Interactions.from_df(df, Columns('user', 'item', 'rating'))
        >>> fold_in = FoldIn(CollFilter(3, 4, n_factors=2, y_range=(0, 5.5)), train)
        >>> rows = fold_in.rows(torch.tensor([0, 1, 3]), torch.tensor([1, 2, 3]), torch.tensor([5.0, 1.0, 2.0]))
        >>> [tuple(part.shape) for part in rows]
        [(2, 2), (2, 1)]
    """

    def __init__(self, model: CollabModel, train: Interactions, **options):
        self.model, self.train, self._options = model, train, options

    @cached_property
    def solver(self) -> RatingSolver | EventSolver:
        """What solves for rows, with the prior; made at its first use."""
        tables = (*self.model.tables(False), *self.model.parts(True))
        if not all(bool(table.isfinite().all()) for table in tables):
            raise ValueError("the model's rows are NaN: its training diverged; train again with a lower learning rate")
        cls = EventSolver if self.train.rating is None else RatingSolver
        with torch.inference_mode(False), torch.no_grad():  # a caller's inference tensors would know no gradients
            return cls(UserScores(self.model), self.train, **self._options)

    def rows(
        self, start: Tensor, items: Tensor, ratings: Tensor | None = None, *, at: Tensor | None = None
    ) -> list[Tensor]:
        """The rows `[(b, d), ...]` that would stand in `model.tables(False)` for `b` new users.

        Args:
            start: `(b + 1,)` int64; user j has `items[start[j]:start[j + 1]]`.
            items: `(m,)` item indices of at least 1. A repeated item counts as often as it is there.
            ratings: `(m,)`, exactly if the model was trained on ratings.
            at: `(b,)` user indices whose side features apply; default 0, the features of an unknown user.

        Returns:
            Of the tables' type, on the model's device; `model.join(False, at, rows)` is what `interact` takes.

        Raises:
            ValueError: an empty history, an item index out of range, ratings that are NaN, missing or undue.
        """
        histories = Histories(start.cpu(), items.cpu(), None if ratings is None else ratings.cpu().double())
        histories.check(self.train.n_items, self.train.rating is not None)
        at = torch.zeros(len(histories), dtype=torch.int64) if at is None else at.cpu()
        if at.shape != (len(histories),):
            raise ValueError(f"at must name {len(histories)} users, one a history, got shape {tuple(at.shape)}")
        if len(histories) == 0:
            found = torch.zeros(0, sum(table.shape[1] for table in self.model.tables(False)))
        else:
            with torch.inference_mode(False), torch.no_grad():
                at = at.clone()
                found = self.solver.rows(histories, at, self._lift(at))
        tables = self.model.tables(False)
        parts = found.split([table.shape[1] for table in tables], dim=1)
        return [part.to(table.dtype).to(table.device) for part, table in zip(parts, tables, strict=True)]

    def _lift(self, at: Tensor) -> Tensor:
        """What is added to the prior's mean `(b, d)`: what a user's features foretell of the row.

        Users of whom no features are given are average users, not users with the features of the unknown: what that
        id's features add was hardly trained. What a network has beside its own row (`joins='concat'`) stays as it is.
        """
        scores, features = self.solver.scores, self.model.features_of(False)
        if features is None:
            return torch.zeros(len(at), scores.d, dtype=torch.float64)
        known = features.features.given[at][:, None].to(scores.device)
        foretold = torch.cat(features.cold_rows(at), dim=1).double() - self._typical[0]
        return torch.where(known, foretold, self._typical[1] - scores.shift(at))

    @cached_property
    def _typical(self) -> tuple[Tensor, Tensor]:
        """Means `(d,)` over the trained users: of the rows that their features foretell, and of what these add."""
        trained, features = torch.unique(self.train.user_idx.cpu()), self.model.features_of(False)
        foretold = torch.cat(features.cold_rows(trained), dim=1).double().mean(0)
        return foretold, self.solver.scores.shift(trained).mean(0)

    def belief(self, items: Tensor) -> tuple[Tensor, float]:
        """What is thought of a new user's answers about `items` `(c,)`, before the first one.

        Returns:
            `slope` `(c, k)` float64 on the CPU: an answer is a number plus `slope y` plus noise, `y` standard normal;
            and the noise's variance. Answers are ratings, or the log-odds of an event.
        """
        solver = self.solver
        nobody = torch.zeros(1, dtype=torch.int64)
        with torch.inference_mode(False), torch.no_grad():
            parts = tuple(part[None] for part in solver.scores.parts_of(items.to(solver.scores.device)))
            logits, slope = solver.scores.gradients(solver.prior.mean[None], nobody, parts)
            return solver.answers(logits[0], slope[0] @ solver.prior.root)

    def logits(self, rows: list[Tensor], items: Tensor | None = None, *, at: Tensor | None = None) -> Tensor:
        """The model's logits `(b, c)` of items for users with `rows` `[(b, d), ...]`; arguments as of `scorer`."""
        return self.scorer(rows, items, at=at)(torch.arange(len(rows[0])))

    def scorer(
        self, rows: list[Tensor], items: Tensor | None = None, *, at: Tensor | None = None
    ) -> Callable[[Tensor], Tensor]:
        """A function from positions `(n,)` among `rows` to the model's logits `(n, c)`, on its device.

        One matrix product where logits are linear in the row, else as many pairs at once as fit in some 100 MB.

        Args:
            rows: as of `rows`.
            items: `(c,)` item indices; default all, the unknown item in column 0.
            at: as of `rows`.
        """
        x, scores = torch.cat(rows, dim=1), self.solver.scores
        at = torch.zeros(len(x), dtype=torch.int64) if at is None else at.cpu()
        if scores.linear:
            slope, constant = scores.products(items)
            x = x if self.model.features_of(False) is None else x + scores.shift(at).to(x.dtype)
            return lambda users: torch.addmm(constant, x[users.to(x.device)], slope)
        items = torch.arange(self.train.n_items) if items is None else items
        parts = tuple(part[None] for part in scores.parts_of(items.to(x.device)))
        size = max(1, 25_000_000 // self.model.floats_per_pair() // max(1, len(items)))

        def curved(users: Tensor) -> Tensor:
            found = [scores.logits(x[who.to(x.device)], at[who], parts).float() for who in users.split(size)]
            return torch.cat(found) if found else x.new_empty(0, len(items))

        return curved
