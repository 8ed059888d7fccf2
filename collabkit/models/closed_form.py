"""`ClosedForm`: models that are fitted in one go: popularity, neighbours, EASE. They score items for a history."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from collabkit.data.dataset import Dataset
from collabkit.data.prepare import say_order, say_unstorable
from collabkit.data.query import Query
from collabkit.data.runs import Runs
from collabkit.models.base import Model, as_model
from collabkit.models.scorers import Scorer
from collabkit.models.sides import Side

if TYPE_CHECKING:
    from typing_extensions import Self

    from collabkit.serve import Recommender

__all__ = ["ClosedForm", "in_words", "model_and_data"]


class ClosedForm(Model):
    """The common methods: `fit`, then `recommend`, `evaluate`, `similar_items` and `export`, as of a learner.

    A subclass defines `_fit(train)`, which registers what it learns as buffers, and `scores(history)`. Training rows
    count as events, whatever their rating, and each (user, item) pair once.
    """

    needs = ("history",)
    by_fit, predicts_ratings = True, False
    additive = False  # whether the scores of a history are the sum of those of its events
    by_place = False  # whether what an event adds depends on its place in the history
    name = ""  # in tables of results

    def __init__(self) -> None:
        super().__init__(Side("user"), Side("item"))
        self.register_buffer("counts", torch.zeros(0))  # of the training rows of each item (n_items,)
        self.data: Dataset | None = None
        self.eval()

    @classmethod
    def for_data(cls, data: Dataset, **options) -> "Self":
        """A model that is not fitted yet."""
        return cls(**options)

    def fit(self, data) -> "Self":
        """Fit to the training part of `data`, and return itself.

        Args:
            data: a `CollabDataLoaders`, a learner, a `Recommender`, a `Dataset`, or Interactions: a training part, or
                a pair `(train, valid)`.

        Raises:
            TypeError: `data` is something else.
        """
        said = getattr(data, "history", None) is not None  # by the dataloaders, when they were made
        data = Dataset.of(data)
        say_unstorable(data)
        if self.ordered and data.train.time is None and not said:
            say_order(data.train)
        self.counts = torch.bincount(data.train.pairs.values, minlength=data.n_items).float()
        self._fit(data)
        self.data, self.item_side.n, self.calibration = data, data.n_items, None
        return self

    def _fit(self, data: Dataset) -> None:
        """Learn from `data.train`."""

    def calibrate(self, method: str = "platt", **kwargs) -> pd.DataFrame:
        """Calibrate scores to probabilities; see `Recommender.calibrate`."""
        return self.recommender.calibrate(method, **kwargs)

    def update(self, events: pd.DataFrame, items: pd.DataFrame | None = None) -> "Self":
        """Add new events, by a fit to all rows; see `Recommender.update`. Returns itself."""
        self.recommender.update(events, items=items)
        return self

    def refit_all(self) -> "Self":
        """A new model with the same options, fitted to the training and the validation rows together.

        For the end, after options were chosen with the validation part. This model stays unchanged.

        Raises:
            ValueError: the model is not fitted.
        """
        data = self.recommender.data.all_trained()
        return type(self).for_data(data, **self.config()).fit(data)

    def scores(self, history: Runs) -> Tensor:
        """Scores `(b, n_items)` of all items for `b` histories, 0 without evidence for an item."""
        raise NotImplementedError

    def counted(self, history: Runs) -> Runs:
        """The events of histories that count in the scores."""
        return history if self.ordered else history.unique()

    def event_scores(self, history: Runs) -> Tensor:
        """What each event of histories adds to the scores of all items, `(m, n_items)`, for an `additive` model."""
        return self.scores(Runs(torch.arange(len(history.values) + 1), history.values, history.width, history.weight))

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            self.register_buffer(name, value)
        self.item_side.n = len(self.counts)

    def scorer(self, candidates: Tensor, max_memory: int | str = "512MB") -> Scorer:
        popular = 1e-9 * self.counts / self.counts.max().clamp(min=1)  # decides where scores are 0, without evidence
        in_a_row = len(candidates) > 0 and bool((candidates.diff() == 1).all())  # e.g. all items: no copy of columns
        columns = slice(int(candidates[0]), int(candidates[-1]) + 1) if in_a_row else candidates
        popular = popular[columns]

        def scores(query: Query) -> Tensor:
            found = self.scores(self.counted(query.history))[:, columns]
            return torch.where(found == 0, popular, found)

        return scores

    def score_pairs(self, query: Query, rows: Tensor, item_idx: Tensor, max_memory: int | str = "512MB") -> Tensor:
        scores, size = torch.empty(len(rows)), max(1, 2**22 // len(self.counts))
        scorer = self.scorer(torch.arange(len(self.counts)))
        for at in range(0, len(query), size):
            mine = ((rows >= at) & (rows < at + size)).nonzero().squeeze(1)
            scores[mine] = scorer(query[at : at + size])[rows[mine] - at, item_idx[mine]].float()
        return scores

    def parts(self, side: str, query=None) -> tuple[Tensor, ...]:
        raise TypeError(f"{type(self).__name__} knows no similar {side}s")

    def __getattr__(self, name: str):
        """What torch registers; the error names the recommender where that has the attribute."""
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            if name.startswith("_") or not hasattr(import_module("collabkit.serve").Recommender, name):
                raise
            raise AttributeError(f"{error}; its .recommender has") from None

    @property
    def recommender(self) -> "Recommender":
        """The `Recommender` of this model and the data that it was fitted to."""
        if self.data is None:
            raise ValueError(f"this {type(self).__name__} is not fitted; call .fit(dls) first")
        # Not imported above: `serve` imports the models.
        return import_module("collabkit.serve").Recommender(self, self.data)

    def recommend(self, users=None, k: int = 10, **kwargs) -> pd.DataFrame:
        """The top `k` items of each user, or for any `history=`; see `Recommender.recommend`."""
        return self.recommender.recommend(users, k, **kwargs)

    def why(self, user=None, item=None, **kwargs) -> pd.DataFrame:
        """What each past item adds to the score of an item; see `Recommender.why`."""
        return self.recommender.why(user, item, **kwargs)

    def recommend_users(self, item, k: int = 10, **kwargs) -> pd.DataFrame:
        """The `k` users with the best scores for an item; see `Recommender.recommend_users`."""
        return self.recommender.recommend_users(item, k, **kwargs)

    def evaluate(self, on="valid", **kwargs) -> pd.DataFrame:
        """Ranking metrics with intervals; see `Recommender.evaluate`."""
        return self.recommender.evaluate(on, **kwargs)

    def similar_items(self, item, k: int = 10, *, by: str = "vectors") -> pd.DataFrame:
        """The `k` items most similar to `item` (one id or several)."""
        return self.recommender.similar_items(item, k, by=by)

    def next_items(self, item, k: int = 10) -> pd.DataFrame:
        """The `k` items expected right after `item` (one id or several), for models of order."""
        return self.recommender.next_items(item, k)

    def export(self, folder: str | Path = "export") -> Path:
        """Write the artefact that `Recommender.load` reads; see `serve.save_artefact`."""
        return self.recommender.save(folder)


def model_and_data(given) -> tuple[Model, Dataset | None]:
    """The model and the data of a learner, a recommender or a closed-form model, which may have no data yet.

    Raises:
        TypeError: `given` is none of these.
    """
    if isinstance(given, ClosedForm):
        return given, given.data
    model = as_model(getattr(given, "model", None))
    try:
        return model, Dataset.of(given if model is not None else None)
    except TypeError:
        raise TypeError(f"expected learners, Recommenders and closed-form models, got {in_words(given)}") from None


def in_words(given) -> str:
    """What was given in the place of a model, and what to give: the end of a message."""
    if isinstance(given, str):
        return f"str {given!r}: give the model itself, not its name"
    if isinstance(given, type):
        how = f": write {given.__name__}()" if issubclass(given, ClosedForm) else ": give a trained learner of it"
        return f"the class {given.__name__}{how if issubclass(given, Model) else ''}"
    return type(given).__name__
