"""Optimisers for embedding tables, as torch parameter groups that say which tables weight decay touches."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from collabkit.models import CollabModel

__all__ = ["decay_groups", "undecayed"]


def undecayed(model: nn.Module, wd_on: str = "factors") -> set[int]:
    """`id`s of the parameters that weight decay leaves alone.

    Args:
        wd_on: `'factors'` spares tables of width 1 (the biases of `CollFilter`), layer biases and batch norms, which
            gave the best ratings; `'all'` decays every parameter, as fastai does for embeddings.
    """
    if wd_on not in ("factors", "all"):
        raise ValueError(f"wd_on must be 'factors' or 'all', got {wd_on!r}")
    if wd_on == "all":
        return set()
    tables = {id(t) for side in (False, True) for t in model.tables(side)} if isinstance(model, CollabModel) else set()
    return {id(p) for p in model.parameters() if p.ndim < 2 or (id(p) in tables and p.shape[1] == 1)}


def decay_groups(params: Iterable[nn.Parameter], spared: set[int]) -> list[dict]:
    """Torch parameter groups of `params`: the decayed ones, then those in `spared`, marked `no_decay`; none empty."""
    params = list(params)  # frozen ones too: they may be unfrozen later
    groups = [
        {"params": [p for p in params if id(p) not in spared], "no_decay": False},
        {"params": [p for p in params if id(p) in spared], "no_decay": True, "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]
