"""A `Recommender` as the engine of the service."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from collabkit.coldstart.new_ids import takes_ratings
from collabkit.data.notices import noting
from collabkit.serve.recommender import Recommender
from collabkit.serve.web.answerer import Answers, Asking, Records
from collabkit.serve.web.ids import Ids

__all__ = ["TorchAnswerer"]


class TorchAnswerer(Asking):
    """A `Recommender` as the engine of the service.

    Args:
        rec: the recommender.
    """

    engine = "torch"

    def __init__(self, rec: Recommender):
        self.who, self.config = rec, rec.config
        self._names = {rec.columns.user: "user", rec.columns.item: "item", rec.columns.rating: "rating"}
        self.users, self.items = (Ids(n, map(_plain, v.ids)) for n, v in (("user", rec.users), ("item", rec.items)))

    def why(self, item: Any, **options: Any) -> Answers:
        """As `Recommender.why`, with the score and the method in a last record."""
        with noting() as notes:
            table = self.who.why(item=item, **options)
        return Answers([*self._records(table), {key: _plain(value) for key, value in table.attrs.items()}], notes)

    def counts(self) -> list[int]:
        """Training rows of each item."""
        return self.who.train.counts("item")[1:].tolist()

    def categories(self) -> dict[str, list[list[str]]]:
        """The categories of each item, by the name of the feature."""
        features = self.who.data.features.items
        if features is None:
            return {}
        found = {}
        for field, rows in zip(features.fields, features.rows, strict=True):
            if field.kind in ("categorical", "multi", "bag"):
                names = field.value_names
                found[field.name] = [[names[code] for code in run.tolist() if code] for run in rows][1:]
        return found

    def vectors(self, places: Sequence[int]) -> Any:
        """Vectors `(m, d)` of the items at positions, None if the model has none."""
        try:
            return self.who.vectors("items")[1][list(places)]
        except TypeError:
            return None

    def facts(self) -> dict[str, Any]:
        """Facts about the artefact, for users and for `/health/ready`."""
        return {
            "model": type(self.who.model).__name__,
            "users": len(self.users),
            "items": len(self.items),
            "rows": len(self.who.train),
            "rated": takes_ratings(self.who.model, self.who.data),
            "y_range": self.who.model.y_range,
        }

    def _records(self, found: pd.DataFrame) -> Records:
        columns = [[_plain(value) for value in found[name].tolist()] for name in found.columns]
        names = [self._names.get(name, name) for name in found.columns]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(value: Any) -> Any:
    """A value in JSON form, unless its type is that of an id."""
    value = value.item() if hasattr(value, "item") and not hasattr(value, "tzinfo") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
