"""Histories of some users, checked, and cut into padded blocks of users of like lengths."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from collabkit.data.runs import Runs

__all__ = ["Block", "blocks", "check_histories"]


@dataclass(frozen=True)
class Block:
    """Users of similar history lengths, padded to the longest."""

    users: Tensor  # (b,) positions among the histories
    cells: Tensor  # (b, l) positions of their rows in the flat tensors; 0 where padded
    mask: Tensor  # (b, l) float64, 0 where padded


def check_histories(histories: Runs, rated: bool, counted: bool = False) -> None:
    """Raise `ValueError` unless these are histories of items, with `weight` for ratings, that a model can fold in.

    Where the data is `counted` the weight may be confidences.
    """
    items, ratings = histories.values, histories.weight
    if (ratings is not None) != rated and not counted:
        how, what = ("on", "them") if rated else ("without", "none")
        raise ValueError(f"the model was trained {how} ratings: give {what}")
    if empty := (histories.lengths == 0).nonzero().squeeze(1).tolist():
        raise ValueError(f"{len(empty):,} histories are empty, at {empty[:5]}: such users get the default row")
    if len(items) and not (int(items.min()) >= 1 and int(items.max()) < histories.width):
        raise ValueError(f"items must lie in 1..{histories.width - 1}, got {int(items.min())} to {int(items.max())}")
    if ratings is not None and (ratings.shape != items.shape or not bool(ratings.isfinite().all())):
        raise ValueError(f"ratings must be {len(items):,} finite numbers, got shape {tuple(ratings.shape)} or NaN")


def blocks(histories: Runs, max_cells: int) -> Iterator[Block]:
    """All users, each once, in blocks of at most `max_cells` cells (or one user) whose lengths differ little.

    Example:
        >>> histories = Runs(torch.tensor([0, 1, 3]), torch.tensor([4, 2, 3]))
        >>> [(block.users.tolist(), block.cells.tolist()) for block in blocks(histories, 100)]
        [([0, 1], [[0, 0], [1, 2]])]
    """
    order = histories.lengths.argsort(stable=True)
    lengths = histories.lengths[order].tolist()
    first = 0
    while first < len(lengths):
        stop, widest = first + 1, 1.25 * lengths[first] + 1
        while stop < len(lengths) and lengths[stop] <= widest and (stop + 1 - first) * lengths[stop] <= max_cells:
            stop += 1
        users = order[first:stop]
        column = torch.arange(lengths[stop - 1])
        mask = column < histories.lengths[users][:, None]
        yield Block(users, (histories.start[users][:, None] + column) * mask, mask.double())
        first = stop
