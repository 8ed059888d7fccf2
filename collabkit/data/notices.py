"""`say`: the one way in which the library warns."""

import sys
import warnings

__all__ = ["CollabWarning", "say"]


class CollabWarning(UserWarning):
    """Something was left out, kept or limited that the caller may want to know; the message counts it."""


def say(text: str) -> None:
    """A `CollabWarning` that points at the line of the caller of this library, however deep in it."""
    frame, level, outermost = sys._getframe(1), 2, 2
    while frame is not None:
        outermost = level if frame.f_globals.get("__name__", "").startswith("collabkit.") else outermost
        frame, level = frame.f_back, level + 1
    warnings.warn(text, CollabWarning, stacklevel=outermost + 1)
