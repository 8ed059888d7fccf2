"""Ids of which little is known: default rows, rows by features, and users folded in by what they have met."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collabkit.coldstart.fold_in import FoldIn as FoldIn

__all__ = ["FoldIn"]


def __getattr__(name: str):
    """The class when it is first used: `serve.light` takes arithmetic from here and loads no torch."""
    if name in __all__:
        return getattr(import_module("collabkit.coldstart.fold_in"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
