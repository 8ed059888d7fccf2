"""Who answers: a `Recommender`, or the light runtime where it can load the artefact; both as records and notes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from collabkit.data.notices import noting
from collabkit.serve.web.ids import Ids

if TYPE_CHECKING:
    from collabkit.serve.recommender import Recommender

__all__ = ["Answerer", "Answers", "TorchAnswerer", "open_artefact"]

log = logging.getLogger("collabkit.serve")
Records = list[dict[str, Any]]


class Answers(NamedTuple):
    """What was answered, and what a notebook would have warned of."""

    records: Records
    notes: list[str]


class Answerer(Protocol):
    """What the service asks; each answer comes with notes.

    Its records have plain Python values, ids under `user` and `item`, whatever the columns are called.
    """

    users: Ids
    items: Ids
    config: dict
    engine: str

    def recommend(self, users: Sequence | None = None, **options: Any) -> Answers: ...
    def similar(self, item: Any, k: int) -> Answers: ...
    def predict(self, users: Sequence, items: Sequence, **options: Any) -> Answers: ...
    def default(self, k: int) -> Answers: ...
    def questionnaire(self, n: int) -> Answers: ...
    def why(self, item: Any, **options: Any) -> Answers: ...
    def history(self, user: Any) -> Records: ...
    def counts(self) -> Sequence[int]: ...
    def categories(self) -> dict[str, list[list[str]]]: ...
    def vectors(self, places: Sequence[int]) -> Any: ...
    def facts(self) -> dict[str, Any]: ...


class TorchAnswerer:
    """A `Recommender` as the service asks it.

    Args:
        rec: what answers.
    """

    engine = "torch"

    def __init__(self, rec: Recommender):
        self.rec, self.config = rec, rec.config
        self._names = {rec.columns.user: "user", rec.columns.item: "item"}
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
        names = ("score", "low", "high")[: len(parts)]
        rows = zip(*(part.tolist() for part in parts), strict=True)
        return Answers([dict(zip(names, row, strict=True)) for row in rows], notes)

    def history(self, user: Any) -> Records:
        """The events that a user is known by, the latest last."""
        row = self.rec.users.row(user) or int(self.rec.users.encode([user])[0])
        records = []
        for part in self.rec.data.parts:
            if part is None:
                continue
            at = part.by_user.of([row]).values
            columns = {"item": [_plain(one) for one in self.rec.items.decode(part.item_idx[at].numpy())]}
            if part.rating is not None:
                columns["rating"] = part.rating[at].tolist()
            records += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return records

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
            if field.kind in ("categorical", "multi"):
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
            "rated": self.rec.train.rating is not None,
        }

    def _table(self, ask) -> Answers:
        with noting() as notes:
            table = ask()
        columns = [[_plain(value) for value in table[name].tolist()] for name in table.columns]
        names = [self._names.get(name, name) for name in table.columns]
        return Answers([dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)], notes)


def open_artefact(folder: str | Path, models: Iterable[type] = ()) -> Answerer:
    """The answerer of an artefact: the light runtime where it can, else a `Recommender`.

    Raises:
        FileNotFoundError, BundleError: as of `load_artefact`.
    """
    from collabkit.serve.recommender import Recommender

    answerer = TorchAnswerer(Recommender.load(folder, tuple(models)))
    warm(answerer)
    return answerer


def warm(answerer: Answerer) -> None:
    """Have what is computed once, as the prior of the fold-in is, before anybody waits for it."""
    for ask in (lambda: answerer.default(1), lambda: answerer.questionnaire(1), lambda: answerer.similar(first, 1)):
        first = answerer.items.values[0]
        try:
            ask()
        except (TypeError, ValueError) as error:  # a model that has none says so to those who ask
            log.debug("not warmed: %s", error)


def _plain(value: Any) -> Any:
    """A value as JSON can hold it, as far as its type is not that of an id."""
    value = value.item() if hasattr(value, "item") and not hasattr(value, "tzinfo") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
