"""Nearest rows of a table by cosine."""

from collections.abc import Callable

import torch
from torch import Tensor

from collabkit.data.checks import whole
from collabkit.data.notices import say
from collabkit.models.scorers import refuse_nan

__all__ = ["check_k", "cosines", "nearest"]


def check_k(k, n: int) -> int:
    """`k` as a whole number, at most the `n - 2` others of `n` rows; warns if that is less than requested."""
    if whole("k", k) > n - 2:
        say(f"only {n - 2} others exist, fewer than k={k}")
    return min(int(k), n - 2)


def cosines(table: Tensor) -> Callable[[Tensor], Tensor]:
    """A function from row indices `(b,)` of `table` `(n, d)` to their cosines `(b, n)` with all rows, on the CPU."""
    unit = torch.nn.functional.normalize(table.detach().float().cpu(), dim=1).T.contiguous()  # (d, n)
    return lambda rows: unit[:, rows].T @ unit


@torch.inference_mode()
def nearest(similarity, rows: Tensor, k: int, n: int) -> tuple[Tensor, Tensor]:
    """The `k` rows most similar to each of `rows` `(m,)`, itself and row 0 (the unknown) left out.

    Args:
        similarity: function from row indices `(b,)` to similarities `(b, n)`, which may be overwritten.
        rows: indices of at least 1.
        k: at most `n - 2`.
        n: number of rows.

    Returns:
        Indices `(m, k)`, best first, 0 where fewer have a similarity above -inf, and the similarities.

    Example:
        >>> table = torch.tensor([[0., 0.], [1., 0.], [1., 1.], [0., 1.]])
        >>> nearest(cosines(table), torch.tensor([1]), 2, 4)[0]
        tensor([[2, 3]])
    """
    parts = []
    for part in rows.split(max(1, 2**26 // n)):  # blocks of at most a quarter of a gigabyte
        cosine = similarity(part)
        refuse_nan(cosine.amax(1))  # a NaN is the largest of its row
        cosine[:, 0] = -torch.inf
        cosine[torch.arange(len(part)), part] = -torch.inf
        parts.append(cosine.topk(k, dim=1))
    best, found = (torch.cat(values) for values in zip(*parts, strict=True))
    return found.masked_fill_(best == -torch.inf, 0), best
