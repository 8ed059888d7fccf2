"""How far scores of items without events can be raised, so that they are shown at little cost to the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from collabkit.data.dataset import Dataset
from collabkit.models.base import Model

__all__ = ["learned_cold_weight"]

SHARE = 0.1  # of the items, and of the events of the other items, held out
COST = 0.02  # largest loss, as a share of what lists find of the others
WEIGHTS = 2.0 ** np.arange(0, 4.125, 0.125)
DEPTH = 100  # places of a list that count
LEAST, MOST = 100, 10_000  # events of the others: fewer are too few, and more are not needed


@torch.no_grad()
def learned_cold_weight(fit: Callable[[Dataset], Model], data: Dataset, seed: int = 0) -> float:
    """The largest factor of the scores of items without training rows by which the others lose at most a fiftieth.

    What features predict is an expectation, less spread out than what events tell, so items without events hardly enter
    the top of a list. Over a wide range of factors, showing more of them gains as much as it loses on the others, so
    the loss decides. A model is fitted without a tenth of the items, and without a tenth of the events of the others.
    These events are ranked among all items that the user is not known to have met, including the held-out ones. Their
    value is the sum of `1 / log2(1 + rank)` down to place 100, compared with that at a factor of 1.

    Args:
        fit: returns a model fitted to a dataset; its scores are at least 0 and not weighted.
        data: with some items without training rows, which are not used.
        seed: of the held-out part, and of the draw of users for 10,000 events.

    Returns:
        The factor, at least 1; 1.0 if there are too few held-out events.
    """
    train, rng = data.train, torch.Generator().manual_seed(seed)
    met = train.counts("item") > 0
    cold = met & (torch.rand(data.n_items, generator=rng) < SHARE)
    out = ~cold[train.item_idx] & (torch.rand(len(train), generator=rng) < SHARE)
    kept, held = train.take((~cold[train.item_idx] & ~out).numpy()), train.take(out.numpy()).pairs
    asked = torch.randperm(data.n_users, generator=rng)
    asked = asked[(held.lengths > 0)[asked] & (kept.pairs.lengths > 0)[asked]]
    asked = asked[held.lengths[asked].cumsum(0) <= MOST]
    if int(held.lengths[asked].sum()) < LEAST or not bool(cold.any()):
        return 1.0
    part = Dataset(kept, features=data.features)
    ask, scorer = part.asker(("history",)), fit(part).scorer(torch.arange(data.n_items))
    worth = np.zeros(len(WEIGHTS))
    for users in asked.split(256):
        scores, seen = scorer(ask(users)).clone(), kept.pairs.of(users)
        scores[seen.rows, seen.values] = -torch.inf
        for row, items in zip(scores, held.of(users), strict=True):
            own, rivals = _better(row[met & ~cold], row[items]), _better(row[cold], row[items][:, None] / WEIGHTS)
            worth += _worth(1 + own[:, None] + rivals).sum(0)
    return float(WEIGHTS[worth >= (1 - COST) * worth[0]][-1])


def _better(scores: Tensor, than: Tensor) -> np.ndarray:
    """How many of `scores` `(n,)` are above each of `than`."""
    return len(scores) - np.searchsorted(np.sort(scores.numpy()), np.asarray(than), side="right")


def _worth(rank: np.ndarray) -> np.ndarray:
    return np.where(rank <= DEPTH, 1 / np.log2(1 + rank), 0)
