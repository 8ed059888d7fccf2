"""Ids with little data: default rows, rows by features, and users folded in by their events.

`FoldIn` is imported when it is first used: `serve.light` uses arithmetic from here without loading torch.
"""

from typing import TYPE_CHECKING

from collabkit import lazily

if TYPE_CHECKING:
    from collabkit.coldstart.fold_in import FoldIn as FoldIn

__all__ = ["FoldIn"]

__getattr__ = lazily(__name__, {"FoldIn": "fold_in"})
