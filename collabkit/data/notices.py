"""How the library speaks: `say` warns, `near_match` guesses what was meant."""

import difflib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["CollabWarning", "MissingError", "is_noting", "near_match", "noting", "say"]

MIN_PART = 3  # letters of a name that are looked for within others
ALIKE = 0.7  # share of letters in common, from which on a name may be meant
_NOTES: ContextVar[list | None] = ContextVar("collabkit_notes", default=None)


class CollabWarning(UserWarning):
    """Warning that something was dropped, kept or limited; the message states how much."""


@contextmanager
def noting() -> Iterator[list[str]]:
    """Within it what the library says comes into the list, rather than as warnings: of this thread or task alone.

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
    """A `CollabWarning` that points at the line of the caller of this library, however deep in it; see `noting`."""
    if (notes := _NOTES.get()) is not None:
        notes.append(text)
        return
    frame, level, outermost = sys._getframe(1), 2, 2
    while frame is not None:
        outermost = level if frame.f_globals.get("__name__", "").startswith("collabkit.") else outermost
        frame, level = frame.f_back, level + 1
    warnings.warn(text, CollabWarning, stacklevel=outermost + 1)


class MissingError(KeyError):
    """A `KeyError` whose text is shown as it is, without the quotes and escapes that Python puts around a key."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def is_noting() -> bool:
    """Whether what is said here is collected, as by a service, rather than shown to a person at work."""
    return _NOTES.get() is not None


def near_match(wanted, names) -> str:
    """`" (did you mean 'Toy Story (1995)'?)"` where a name is nearly `wanted`, whatever its case; else nothing."""
    if not isinstance(wanted, str):
        return ""
    wanted, texts = wanted.lower(), {str(name).lower(): name for name in names if isinstance(name, str)}
    found = [text for text in texts if len(wanted) >= MIN_PART and wanted in text][:1]
    if not found:  # comparing letters is slow: of many only those that begin alike
        near = [text for text in texts if text[:2] == wanted[:2]] if len(texts) > 2000 else texts
        found = difflib.get_close_matches(wanted, near, n=1, cutoff=ALIKE)
    return f" (did you mean {texts[found[0]]!r}?)" if found else ""
