"""Ids in JSON and in URLs, and in the artefact."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from collabkit.serve.web.asked import Refused, is_name

__all__ = ["Ids"]

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)  # as in JSON, so that each id has one URL


class Ids:
    """The ids of one side, and their form in JSON and in a URL.

    Numbers, booleans and texts are unchanged in JSON; ids of other types, e.g. dates and UUIDs, are texts there. In a
    URL all are texts.

    Args:
        name: `'user'` or `'item'`.
        values: the ids, as plain Python values.

    Example:
        >>> ids = Ids('item', [3, 5])
        >>> ids.read(5), ids.parse('3'), ids.known(4), ids.json(5)
        (5, 3, False, 5)
    """

    def __init__(self, name: str, values: Iterable[Any]):
        self.name, self.values = name, list(values)
        first = self.values[0] if self.values else ""
        self.kind = next((kind for kind in (bool, int, float, str) if type(first) is kind), object)

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def place(self) -> dict:
        """Mapping from ids to positions, starting at 0."""
        return {value: place for place, value in enumerate(self.values)}

    @cached_property
    def _by_text(self) -> dict[str, Any]:
        return {str(value): value for value in self.values}

    def known(self, value: Any) -> bool:
        """Whether the artefact has an id."""
        return value in self.place

    def json(self, value: Any) -> Any:
        """An id in the form of answers."""
        return value if self.kind is not object else str(value)

    def text(self, value: Any) -> str:
        """An id in the form of a URL, before its characters are escaped."""
        if self.kind is bool:
            return "true" if value else "false"
        return str(value)

    def read(self, value: Any) -> Any:
        """The id for a JSON value, known or not.

        Raises:
            Refused: the ids have another type; for types that are texts here, the id is unknown.
        """
        if is_name(value):
            return self.parse(str(value))
        wanted = {int: (int,), float: (int, float), bool: (bool,)}.get(self.kind, (str,))
        if type(value) not in wanted:
            raise self._odd(value)
        if self.kind is object:
            return self._named(value)
        if self.kind in (int, float) and not -(2**63) <= value < 2**64:
            raise Refused(422, "invalid", f"no {self.name} id is as large as that number")
        return float(value) if self.kind is float else value

    def parse(self, text: str) -> Any:
        """The id for a text in a URL, known or not.

        Raises:
            Refused: the text is not an id of this type.
        """
        if self.kind is str:
            return text
        if self.kind is bool and text in ("true", "false"):
            return text == "true"
        if self.kind is int and _WHOLE.fullmatch(text) and text != "-0":
            return self.read(int(text))
        if self.kind is float and re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?", text, re.ASCII):
            return float(text)
        if self.kind is object:
            return self._named(text)
        raise self._odd(text)

    def find(self, value: Any) -> Any:
        """A known id.

        Raises:
            Refused: the artefact does not have it.
        """
        if not self.known(value):
            raise self._unknown(self.json(value))
        return value

    def _named(self, text: str) -> Any:
        """The known id with this text; for these types, unknown ids cannot be made."""
        if text not in self._by_text:
            raise self._unknown(text)
        return self._by_text[text]

    def _unknown(self, shown: Any) -> Refused:
        return Refused(404, "unknown_id", f"the artefact has no {self.name} {shown!r:.80}; it knows {len(self):,}")

    def _odd(self, value: Any) -> Refused:
        names = {int: "whole numbers", float: "numbers", bool: "true or false"}
        shown, example = repr(value)[:80], repr(self.json(self.values[0])) if self.values else "none"
        what = names.get(self.kind, "texts")
        return Refused(422, "invalid", f"{self.name} ids are {what} (e.g. {example[:80]}), got {shown}")
