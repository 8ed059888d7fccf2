"""Ids as JSON and addresses have them, and as the artefact has them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from collabkit.serve.web.asked import Refused, is_name

__all__ = ["Ids"]

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)  # as JSON writes them, so that one id has one address


class Ids:
    """The ids of one side, and how they stand in JSON and in an address.

    Whole numbers, other numbers, booleans and texts are themselves in JSON; ids of another type, dates and UUIDs for
    two, are texts there. In an address all are texts.

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
        """From ids to positions, the first one 0."""
        return {value: place for place, value in enumerate(self.values)}

    @cached_property
    def _by_text(self) -> dict[str, Any]:
        return {str(value): value for value in self.values}

    def known(self, value: Any) -> bool:
        """Whether the artefact has an id."""
        return value in self.place

    def json(self, value: Any) -> Any:
        """An id as it stands in an answer."""
        return value if self.kind is not object else str(value)

    def text(self, value: Any) -> str:
        """An id as it stands in an address, before its characters are escaped."""
        if self.kind is bool:
            return "true" if value else "false"
        return str(value)

    def read(self, value: Any) -> Any:
        """The id that a JSON value is, known or not.

        Raises:
            Refused: the ids are of another type; of types that are texts here, nobody has it.
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
        """The id that a text in an address is, known or not.

        Raises:
            Refused: no id of this type is written so.
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
        """The known id that is written so; of these types no other can be made."""
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
