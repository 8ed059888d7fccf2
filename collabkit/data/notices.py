"""Messages of the library: `say` warns, `near_match` suggests what was meant."""

import difflib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["CollabWarning", "MissingError", "is_noting", "near_match", "noting", "say"]

MIN_PART = 3  # minimum letters of a name to be searched within others
ALIKE = 0.7  # minimum share of letters in common for a suggestion
_NOTES: ContextVar[list | None] = ContextVar("collabkit_notes", default=None)


class CollabWarning(UserWarning):
    """Warning that something was dropped, kept or limited; the message states how much."""


@contextmanager
def noting() -> Iterator[list[str]]:
    """Context in which messages of the library go into the list instead of warnings, for this thread or task only.

    Example:
        >>> with noting() as notes:
        ...     say('2 of 3 ids are unknown')
        >>> notes
        ['2 of 3 ids are unknown']
    """
    notes: list[str] = []
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)


def say(text: str) -> None:
    """Give a `CollabWarning` that points at the line of the library's caller, from any depth; see `noting`."""
    if (notes := _NOTES.get()) is not None:
        notes.append(text)
        return
    frame, level, outermost = sys._getframe(1), 2, 2
    while frame is not None:
        outermost = level if frame.f_globals.get("__name__", "").startswith("collabkit.") else outermost
        frame, level = frame.f_back, level + 1
    warnings.warn(text, CollabWarning, stacklevel=outermost + 1)


class MissingError(KeyError):
    """A `KeyError` whose text is shown unchanged, without the quotes and escapes that Python adds to a key."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def is_noting() -> bool:
    """Whether messages are collected, as by a service, instead of shown to a user."""
    return _NOTES.get() is not None


def near_match(wanted, names) -> str:
    """`" (did you mean 'Toy Story (1995)'?)"` if a name is similar to `wanted`, ignoring case; else nothing."""
    if not isinstance(wanted, str):
        return ""
    wanted, texts = wanted.lower(), {str(name).lower(): name for name in names if isinstance(name, str)}
    found = [text for text in texts if len(wanted) >= MIN_PART and wanted in text][:1]
    if not found:  # comparing letters is slow: among many, only names with the same beginning
        near = [text for text in texts if text[:2] == wanted[:2]] if len(texts) > 2000 else texts
        found = difflib.get_close_matches(wanted, near, n=1, cutoff=ALIKE)
    return f" (did you mean {texts[found[0]]!r}?)" if found else ""
