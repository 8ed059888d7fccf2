"""Fold-in: rows for users who were not trained on, from a few ratings or events; the model stays the same.

`scores` gets logits and their derivatives from the model, `prior` describes users in general, `ratings` and `events`
solve for rows, `jackknife` takes a user's own ratings out of the item side while the prior is fitted.
"""

from functools import cached_property

import torch
from torch import Tensor

from collabkit.coldstart.fold_in.events import EventSolver
from collabkit.coldstart.fold_in.histories import check_histories
from collabkit.coldstart.fold_in.ratings import RatingSolver
from collabkit.coldstart.fold_in.scores import UserScores
from collabkit.data.dataset import Dataset
from collabkit.data.runs import Runs
from collabkit.models.base import Model
from collabkit.models.scorers import all_finite

__all__ = ["FoldIn"]


class FoldIn:
    """Rows for new users of a trained model from what they rated or clicked; the model does not change.

    A user's row is the most likely one given the history and a Gaussian prior that is estimated on the trained users;
    see `RatingSolver` and `EventSolver`. Works for every model whose user side has rows that can be written: where
    logits are not linear in the user's row, they are made so step by step. Deterministic; the order of a history does
    not matter. The prior is fitted at the first call, which takes seconds; after it a user costs a millisecond or so,
    and many at once far less.

    Args:
        model: the trained model.
        data: what it was trained on.
        **options: of `RatingSolver`, or of `EventSolver` where the data has no ratings.

    Raises:
        TypeError: the model's users are computed.

    Example:
        >>> import pandas as pd
        >>> from collabkit.data.interactions import Columns, Interactions
        >>> from collabkit.models import CollFilter
        >>> df = pd.DataFrame({'user': [1, 1, 2, 2], 'item': ['a', 'b', 'a', 'c'], 'rating': [5, 1, 4, 2]})
        >>> data = Dataset(Interactions.from_df(df, Columns('user', 'item', 'rating')))
        >>> fold_in = FoldIn(CollFilter(3, 4, n_factors=2, y_range=(0, 5.5)), data)
        >>> histories = Runs.group([0, 1, 1], [1, 2, 3], 2, width=4, weight=torch.tensor([5.0, 1.0, 2.0]))
        >>> [tuple(part.shape) for part in fold_in.rows(histories)]
        [(2, 2), (2, 1)]
    """

    def __init__(self, model: Model, data: Dataset, **options):
        if not model.user_side.can_write or "history" in model.needs:
            why = f"computed{', from a history=' if 'history' in model.needs else ''}"
            raise TypeError(f"folding in needs a model with rows for users; those of {type(model).__name__} are {why}")
        self.model, self.data, self._options = model, data, options
        self._state: dict[str, Tensor] | None = None

    @cached_property
    def scores(self) -> UserScores:
        """The model's logits as a function of a user's row."""
        with torch.inference_mode(False), torch.no_grad():  # a caller's inference tensors would have no gradients
            return UserScores(self.model, self.data)

    @cached_property
    def solver(self) -> RatingSolver | EventSolver:
        """What solves for rows, with the prior; made at its first use."""
        cls = RatingSolver if self.data.rated else EventSolver
        every = [*self.model.parts("item"), *self.model.user_side.read(torch.arange(self.model.n_users))]
        if not all_finite(every):
            raise ValueError("the model's rows are NaN: its training diverged; train again with a lower learning rate")
        with torch.inference_mode(False), torch.no_grad():
            if self._state is not None:
                return cls.restored(self.scores, self.data.train, self._state)
            return cls(self.scores, self.data.train, **self._options)

    @property
    def fitted(self) -> bool:
        """Whether the prior is known, so that no call has to fit it."""
        return self._state is not None or "solver" in vars(self)

    def state(self) -> dict[str, Tensor]:
        """What was fitted, tensors on the CPU, for `restored`."""
        return {name: value.detach().cpu().contiguous() for name, value in self.solver.state().items()}

    @classmethod
    def restored(cls, model: Model, data: Dataset, state: dict[str, Tensor]) -> "FoldIn":
        """The fold-in that gave `state`, of the same model and data; nothing is fitted."""
        new = cls(model, data)
        new._state = state
        return new

    def for_items(self, data: Dataset) -> "FoldIn":
        """The same after items have changed or been added; the distribution of the users is kept."""
        new = FoldIn(self.model, data, **self._options)
        if "solver" in vars(self):
            with torch.inference_mode(False), torch.no_grad():
                vars(new)["solver"] = self.solver.for_items(UserScores(self.model, data), data.train)
        return new

    def rows(self, histories: Runs, at: Tensor | None = None) -> list[Tensor]:
        """The rows `[(b, d), ...]` that would stand in the user tables for `b` new users.

        Args:
            histories: `b` runs of item indices of at least 1, with ratings as `weight` exactly if the model was trained
                on some; of data with counts with confidences, default 1. A repeated item counts as often as it is
                there.
            at: `(b,)` user indices whose side features apply; default 0, the features of an unknown user.

        Returns:
            Of the tables' type, on the model's device; `Query(at, rows=rows)` asks the model with them.

        Raises:
            ValueError: an empty history, an item index out of range, ratings that are NaN, missing or not expected.
        """
        histories = self._checked(histories)
        at = torch.zeros(len(histories), dtype=torch.int64) if at is None else at.cpu()
        if at.shape != (len(histories),):
            raise ValueError(f"at must name {len(histories)} users, one per history, got shape {tuple(at.shape)}")
        widths = self.model.user_side.widths
        found = torch.zeros(0, sum(widths))
        if len(histories):
            with torch.inference_mode(False), torch.no_grad():
                at = at.clone()
                found = self.solver.rows(histories, at, self.lift(at))
        return [part.to(self.model.device, torch.float32) for part in found.split(widths, dim=1)]

    def pieces(self, histories: Runs, at: Tensor) -> tuple[Tensor, Tensor]:
        """What each event of a history adds to the row of its user.

        The row solves a system in which every event has a term; the inverse of the posterior's curvature times a term
        is the event's part of the row, as in section 5 of Hu, Koren and Volinsky (2008). To first order the parts
        differ as the rows do that are without one of the events: Koh and Liang, "Understanding black-box predictions
        via influence functions" (2017).

        Args:
            histories, at: as in `rows`; none is empty.

        Returns:
            `(b, d)` float64, the row before any event, and `(m, d)` float64, the events' parts, on the CPU. The
            sum is the row.
        """
        histories = self._checked(histories)
        with torch.inference_mode(False), torch.no_grad():
            lift = self.lift(at.cpu().clone())
            pieces = self.solver.pieces(histories, at.cpu().clone(), lift)
        return (self.solver.prior.mean + lift.to(self.solver.prior.mean.device)).cpu(), pieces.cpu()

    def _checked(self, histories: Runs) -> Runs:
        """Histories on the CPU, in double precision, or an error."""
        weight = None if histories.weight is None else histories.weight.cpu().double()
        histories = Runs(histories.start.cpu(), histories.values.cpu(), self.data.n_items, weight)
        check_histories(histories, self.data.rated, self.data.train.confidence is not None)
        return histories

    def lift(self, at: Tensor) -> Tensor:
        """What is added to the prior's mean `(b, d)`: what a user's features predict for the row.

        Users without given features are average users, not users with the features of the unknown id, which were hardly
        trained. Features that a network has beside the row (`joins='concat'`) do not change.
        """
        scores, features = self.solver.scores, self.model.user_side.features
        if features is None:
            return torch.zeros(len(at), scores.d, dtype=torch.float64)
        known = features.features.given[at][:, None].to(scores.device)
        foretold = torch.cat(features.cold_rows(at), dim=1).double() - self._typical[0]
        return torch.where(known, foretold, self._typical[1] - scores.shift(at))

    @cached_property
    def _typical(self) -> tuple[Tensor, Tensor]:
        """Means `(d,)` over the trained users: of the rows that their features predict, and of what these add."""
        trained = (self.data.train.counts("user") > 0).nonzero().squeeze(1)
        features = self.model.user_side.features
        foretold = torch.cat(features.cold_rows(trained), dim=1).double().mean(0)
        return foretold, self.solver.scores.shift(trained).mean(0)

    def belief(self, items: Tensor) -> tuple[Tensor, float]:
        """What is expected of a new user's answers about `items` `(c,)`, before the first one.

        Returns:
            `slope` `(c, k)` float64 on the CPU: an answer is a number plus `slope y` plus noise, `y` standard normal;
            and the noise's variance. Answers are ratings, or the log-odds of an event.
        """
        solver, nobody = self.solver, torch.zeros(1, dtype=torch.int64)
        with torch.inference_mode(False), torch.no_grad():
            parts = tuple(part[None] for part in solver.scores.parts_of(items.to(solver.scores.device)))
            logits, slope = solver.scores.gradients(solver.prior.mean[None], nobody, parts)
            return solver.answers(logits[0], slope[0] @ solver.prior.root)
