"""A `Recommender` as the service asks it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from collabkit.coldstart.new_ids import takes_ratings
from collabkit.data.notices import noting
from collabkit.serve.recommender import Recommender
from collabkit.serve.web.answerer import Answers, Records, scored
from collabkit.serve.web.ids import Ids

__all__ = ["TorchAnswerer"]


class TorchAnswerer:
    """A `Recommender` as the service asks it.

    Args:
        rec: what answers.
    """

    engine = "torch"

    def __init__(self, rec: Recommender):
        self.rec, self.config = rec, rec.config
        self._names = {rec.columns.user: "user", rec.columns.item: "item", rec.columns.rating: "rating"}
        self.users, self.items = (Ids(n, map(_plain, v.ids)) for n, v in (("user", rec.users), ("item", rec.items)))

    def recommend(self, users: Sequence | None = None, **options: Any) -> Answers:
        """Lists; arguments as of `Recommender.recommend`."""
        return self._table(lambda: self.rec.recommend(users, **options))

    def similar(self, item: Any, k: int) -> Answers:
        """As of `Recommender.similar_items`."""
        return self._table(lambda: self.rec.similar_items(item, k))

    def default(self, k: int) -> Answers:
        """As of `Recommender.default_list`."""
        return self._table(lambda: self.rec.default_list(k))

    def questionnaire(self, n: int) -> Answers:
        """As of `Recommender.questionnaire`."""
        return self._table(lambda: self.rec.questionnaire(n))

    def why(self, item: Any, **options: Any) -> Answers:
        """As of `Recommender.why`, the score and the method in a last record."""
        found: dict = {}

        def ask():
            table = self.rec.why(item=item, **options)
            found.update(table.attrs)
            return table

        records, notes = self._table(ask)
        return Answers([*records, {key: _plain(value) for key, value in found.items()}], notes)

    def predict(self, users: Sequence, items: Sequence, **options: Any) -> Answers:
        """As of `Recommender.predict`, a record a pair."""
        with noting() as notes:
            found = self.rec.predict(list(users), list(items), **options)
        parts = found if isinstance(found, tuple) else (found,)
        return Answers(scored([part.tolist() for part in parts]), notes)

    def history(self, user: Any) -> Records:
        """As of `Recommender.history`."""
        return self._table(lambda: self.rec.history(user)).records

    def counts(self) -> list[int]:
        """Training rows of each item."""
        return self.rec.train.counts("item")[1:].tolist()

    def categories(self) -> dict[str, list[list[str]]]:
        """The categories of each item, by the name of the feature."""
        features = self.rec.data.features.items
        if features is None:
            return {}
        found = {}
        for field, rows in zip(features.fields, features.rows, strict=True):
            if field.kind in ("categorical", "multi", "bag"):
                names = field.value_names
                found[field.name] = [[names[code] for code in run.tolist() if code] for run in rows][1:]
        return found

    def vectors(self, places: Sequence[int]) -> Any:
        """Vectors `(m, d)` of the items at positions, None where the model has none."""
        try:
            return self.rec.vectors("items")[1][list(places)]
        except TypeError:
            return None

    def facts(self) -> dict[str, Any]:
        """What the artefact is: for people and for `/health/ready`."""
        return {
            "model": type(self.rec.model).__name__,
            "users": len(self.users),
            "items": len(self.items),
            "rows": len(self.rec.train),
            "rated": takes_ratings(self.rec.model, self.rec.data),
            "y_range": self.rec.model.y_range,
        }

    def _table(self, ask: Callable[[], pd.DataFrame]) -> Answers:
        with noting() as notes:
            table = ask()
        columns = [[_plain(value) for value in table[name].tolist()] for name in table.columns]
        names = [self._names.get(name, name) for name in table.columns]
        return Answers([dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)], notes)


def _plain(value: Any) -> Any:
    """A value as JSON can hold it, as far as its type is not that of an id."""
    value = value.item() if hasattr(value, "item") and not hasattr(value, "tzinfo") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
