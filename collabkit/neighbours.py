"""Nearest rows of a table by cosine."""

from __future__ import annotations

import torch
from torch import Tensor

from collabkit.interactions import say
from collabkit.models import CollabModel

__all__ = ["similar_rows", "nearest", "cosine_rows"]


def similar_rows(model, rows: Tensor, k: int, n: int, *, is_item: bool) -> tuple[Tensor, Tensor]:
    """Indices and similarities `(m, k)` of the `k` items (or users) most similar to each of `rows` `(m,)`.

    By the cosine of their factors, or by a model's own `item_similarity` (the baselines).

    Raises:
        ValueError: `k` below 1.
        TypeError: the model knows no similarities.
    """
    if int(k) != k or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, got {k!r}")
    if k > n - 2:
        say(f"only {n - 2} others exist, fewer than k={k}")
    similarity = getattr(model, "item_similarity", None) if is_item else None
    if similarity is None and not isinstance(model, CollabModel):
        raise TypeError(f"{type(model).__name__} knows no similar {'items' if is_item else 'users'}")
    return nearest(
        cosine_rows(model.factors(is_item)) if similarity is None else similarity, rows, min(int(k), n - 2), n
    )


def cosine_rows(table: Tensor):
    """A function from row indices `(b,)` to their cosines `(b, n)` with all rows of `table` `(n, d)`, on the CPU."""
    unit = torch.nn.functional.normalize(table.detach().float().cpu(), dim=1)
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
        >>> nearest(cosine_rows(table), torch.tensor([1]), 2, 4)[0]
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
