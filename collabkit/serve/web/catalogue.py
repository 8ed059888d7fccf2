"""The items for browsing: titles, popularity, categories, and a search."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from collabkit.serve.web.answerer import Answerer

__all__ = ["Catalogue", "folded", "one_line"]


class Catalogue:
    """The items of an artefact.

    Args:
        answerer: of the artefact.
    """

    def __init__(self, answerer: Answerer):
        self.ids, self.counts = answerer.items, list(answerer.counts())
        self.titles = [one_line(str(value)) for value in self.ids.values]
        self.categories = answerer.categories()
        self.by_count = sorted(range(len(self.counts)), key=lambda place: -self.counts[place])

    @cached_property
    def _folded(self) -> list[str]:
        return [folded(title) for title in self.titles]

    @cached_property
    def kinds(self) -> dict[str, dict[str, list[int]]]:
        """The categories of each feature, the frequent ones first, each with the positions of its items."""
        found: dict[str, dict[str, list[int]]] = {}
        for name, lists in self.categories.items():
            members: dict[str, list[int]] = {}
            for place, labels in enumerate(lists):
                for label in labels:
                    members.setdefault(label, []).append(place)
            if 2 <= len(members) <= 100:
                found[name] = dict(sorted(members.items(), key=lambda pair: -len(pair[1])))
        return found

    def title(self, item: Any) -> str:
        """The title of an item."""
        return self.titles[self.ids.place[item]]

    def labels(self, item: Any) -> list[str]:
        """The categories of an item, of all features."""
        place = self.ids.place[item]
        return [label for lists in self.categories.values() for label in lists[place]]

    def hidden(self, labels: Sequence[tuple[str, str]]) -> list[Any]:
        """The items that have one of some categories, each a feature and a label."""
        places = {place for name, label in labels for place in self.kinds.get(name, {}).get(label, ())}
        return [self.ids.values[place] for place in sorted(places)]

    def search(self, text: str, k: int, offset: int = 0) -> tuple[list[Any], int]:
        """The items whose titles have all the words of a text, the most popular first, and their number."""
        words = folded(text).split()
        if words:
            names = self._folded
            places = [place for place in self.by_count if all(word in names[place] for word in words)]
        else:
            places = self.by_count
        return [self.ids.values[place] for place in places[offset : offset + k]], len(places)


def folded(text: str) -> str:
    """A text without case and accents."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(mark for mark in apart if not unicodedata.combining(mark))


def one_line(text: str) -> str:
    """A title for display: without line ends, control characters, and marks that change the text direction.

    Example:
        >>> one_line('A\\r\\nB\\x00')
        'A B'
    """
    if text.isprintable() and not text.isspace():
        return text or "(no title)"
    kept = (" " if unicodedata.category(mark) in ("Cc", "Cf", "Zl", "Zp") else mark for mark in text)
    return " ".join("".join(kept).split()) or "(no title)"
