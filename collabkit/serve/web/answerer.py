"""The engine behind the service: a `Recommender` or the light runtime; both return records and notes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from collabkit.data.notices import noting
from collabkit.serve.folder import BundleError
from collabkit.serve.web.ids import Ids

if TYPE_CHECKING:
    from collabkit.serve.light import Light

__all__ = ["ENGINES", "Answerer", "Answers", "Asking", "LightAnswerer", "open_artefact"]

ENGINES = ("auto", "light", "torch")

log = logging.getLogger("collabkit.serve")
Records = list[dict[str, Any]]


class Answers(NamedTuple):
    """An answer, and the warnings that a notebook would have shown."""

    records: Records
    notes: list[str]


class Answerer(Protocol):
    """The interface of an engine; each answer comes with notes.

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


class Asking:
    """The methods that the engine `who` has under the same names; `_records` converts their results to records."""

    who: Any

    def recommend(self, users: Sequence | None = None, **options: Any) -> Answers:
        """Lists; arguments as in `Recommender.recommend`."""
        return self._answers(lambda: self.who.recommend(users, **options))

    def similar(self, item: Any, k: int) -> Answers:
        """See `Recommender.similar_items`."""
        return self._answers(lambda: self.who.similar_items(item, k))

    def default(self, k: int) -> Answers:
        """See `Recommender.default_list`."""
        return self._answers(lambda: self.who.default_list(k))

    def questionnaire(self, n: int) -> Answers:
        """See `Recommender.questionnaire`."""
        return self._answers(lambda: self.who.questionnaire(n))

    def why(self, item: Any, **options: Any) -> Answers:
        """See `Recommender.why`."""
        return self._answers(lambda: self.who.why(item=item, **options))

    def history(self, user: Any) -> Records:
        """See `Recommender.history`."""
        return self._answers(lambda: self.who.history(user)).records

    def predict(self, users: Sequence, items: Sequence, **options: Any) -> Answers:
        """As `Recommender.predict`, with one record per pair: the score and, if asked for, the ends of its interval."""
        with noting() as notes:
            found = self.who.predict(list(users), list(items), **options)
        columns = found if isinstance(found, tuple) else (found,)
        columns = [part if isinstance(part, list) else part.tolist() for part in columns]
        names = ("score", "low", "high")[: len(columns)]
        return Answers([dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)], notes)

    def _answers(self, ask: Callable[[], Any]) -> Answers:
        with noting() as notes:
            found = ask()
        return Answers(self._records(found), notes)

    def _records(self, found: Any) -> Records:
        raise NotImplementedError


class LightAnswerer(Asking):
    """The light runtime as the engine of the service.

    Args:
        light: the runtime.
    """

    engine = "light"

    def __init__(self, light: Light):
        self.who, self.config = light, light.config
        light.called = {
            light.users.name: "user",
            light.items.name: "item",
            light.config["columns"].get("rating"): "rating",
        }
        self.users, self.items = Ids("user", light.users), Ids("item", light.items)
        for own, ids in ((light.users, self.users), (light.items, self.items)):
            own.hold(ids.values, ids.place)

    def counts(self) -> list[int]:
        """Training rows of each item."""
        return self.who.popularity()[1:].tolist()

    def categories(self) -> dict[str, list[list[str]]]:
        """The categories of each item, by the name of the feature."""
        fields = self.config.get("features", {}).get("items", ())
        names = [field["name"] for field in fields if field["kind"] in ("categorical", "multi", "bag")]
        if not names:
            return {}
        facts = [self.who.facts(item) for item in self.items.values]
        return {name: [one.get(name, []) for one in facts] for name in names}

    def vectors(self, places: Sequence[int]) -> Any:
        """Vectors `(m, d)` of the items at positions, None if the model has none."""
        if self.who.spec["kind"] != "vectors":
            return None
        return self.who.model["items"][[place + 1 for place in places]]

    def facts(self) -> dict[str, Any]:
        """Facts about the artefact, for users and for `/v1/artefact`."""
        sizes = {"users": len(self.users), "items": len(self.items), "rows": int(sum(self.counts()))}
        scale = {"rated": bool(self.who.spec["rated"]), "y_range": self.who.spec["y_range"]}
        return {"model": self.config["model"]["class"], **sizes, **scale}

    def _records(self, found: Records) -> Records:
        return found


def open_artefact(folder: str | Path, engine: str = "auto") -> Answerer:
    """The answerer of an artefact.

    Args:
        folder: of the artefact.
        engine: `'light'`, `'torch'`, or `'auto'`: the light runtime if it supports all requests.

    Raises:
        FileNotFoundError, BundleError: as in `load_artefact`.
        ValueError: another engine.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    from collabkit.serve.light import Light

    answerer: Answerer | None = None
    if engine != "torch":
        try:
            light = Light.load(folder)
            if engine == "light" or answers_all(light):
                answerer = LightAnswerer(light)
        except BundleError as error:
            if engine == "light":
                raise
            log.info("torch answers: %s", error)  # it reads the artefact again and reports errors
    if answerer is None:
        from collabkit.serve.recommender import Recommender
        from collabkit.serve.web.with_torch import TorchAnswerer

        answerer = TorchAnswerer(Recommender.load(folder))
    warm(answerer)
    return answerer


def answers_all(light: Light) -> bool:
    """Whether the light runtime supports histories and contexts as the artefact's model does."""
    needs = light.spec["needs"]
    histories = "history" in needs or light.spec["folds_in"]
    return "context" not in needs and (light.reads_histories or not histories)


def warm(answerer: Answerer) -> None:
    """Compute values that are cached, such as the prior of the fold-in, before the first request."""
    first = answerer.items.values[0]
    for ask in (lambda: answerer.default(1), lambda: answerer.questionnaire(1), lambda: answerer.similar(first, 1)):
        try:
            ask()
        except (TypeError, ValueError, NotImplementedError) as error:  # a request will get this error
            log.debug("not warmed: %s", error)
