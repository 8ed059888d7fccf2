"""Nearest rows of a table by cosine."""

import torch
from torch import Tensor

from collabkit.data.notices import say

__all__ = ["check_k", "nearest", "cosine_rows", "unit_rows"]


def check_k(k, n: int) -> int:
    """`k` as a whole number, at most the `n - 2` others of `n` rows; fewer than asked are said."""
    if int(k) != k or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, got {k!r}")
    if k > n - 2:
        say(f"only {n - 2} others exist, fewer than k={k}")
    return min(int(k), n - 2)


def unit_rows(table: Tensor) -> Tensor:
    """The rows of `table` `(n, d)` scaled to length 1, on the CPU."""
    return torch.nn.functional.normalize(table.detach().float().cpu(), dim=1)


def cosine_rows(unit: Tensor):
    """A function from row indices `(b,)` to their cosines `(b, n)` with all rows of length 1, `unit` `(n, d)`."""
    return lambda rows: unit[rows] @ unit.T


@torch.inference_mode()
def nearest(similarity, rows: Tensor, k: int, n: int) -> tuple[Tensor, Tensor]:
    """The `k` rows most similar to each of `rows` `(m,)`, itself and row 0 (the unknown) left out.

    Args:
        similarity: function from row indices `(b,)` to similarities `(b, n)`, which may be overwritten.
        rows: indices of at least 1.
        k: at most `n - 2`.
        n: number of rows.

    Returns:
        Indices and similarities `(m, k)`, best first.

    Example:
        >>> table = torch.tensor([[0., 0.], [1., 0.], [1., 1.], [0., 1.]])
        >>> nearest(cosine_rows(unit_rows(table)), torch.tensor([1]), 2, 4)[0]
        tensor([[2, 3]])
    """
    parts = []
    for part in rows.split(max(1, 2**26 // n)):  # blocks of at most a quarter of a gigabyte
        cosine = similarity(part)
        cosine[:, 0] = -torch.inf
        cosine[torch.arange(len(part)), part] = -torch.inf
        parts.append(cosine.topk(k, dim=1))
    best, found = (torch.cat(values) for values in zip(*parts, strict=True))
    return found, best
