"""Ids of which little is known: default rows, rows by features, and users folded in by what they have met."""

from collabkit.coldstart.fold_in import FoldIn

__all__ = ["FoldIn"]
