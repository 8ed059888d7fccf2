"""What every model shares: broadcasting `forward`, the rating scale, and rows by external id."""

from __future__ import annotations

import math
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from collabkit.models.sparse_dot import row_dots
from collabkit.vocab import Vocab

__all__ = ["CollabModel", "Table", "embedding", "check_y_range"]


class CollabModel(nn.Module):
    """Base of the models: a score for a user and an item, from one row of each side's tables.

    A model defines `user_rows(idx)` and `item_rows(idx)`, the looked-up parts `(..., d)` of each side, and
    `interact(user_rows, item_rows)`, which turns them into a logit. Everything else follows from these.

    Args:
        n_users, n_items: rows of the tables; row 0 is the unknown id.
        y_range: `(low, high)` of the ratings; the logit goes through a sigmoid scaled to it. None gives logits.

    Raises:
        ValueError: a table of fewer than two rows, or `y_range` not two finite increasing numbers.
    """

    def __init__(self, n_users: int, n_items: int, y_range: tuple[float, float] | None = None):
        super().__init__()
        if n_users < 2 or n_items < 2:
            raise ValueError(f"tables need the unknown row and at least one more, got {n_users=} and {n_items=}")
        self.n_users, self.n_items, self.y_range = n_users, n_items, check_y_range(y_range)
        self.users: Vocab | None = None
        self.items: Vocab | None = None

    def user_rows(self, idx: Tensor) -> tuple[Tensor, ...]:
        """The user side's parts `(..., d)` for `idx` `(...)`."""
        raise NotImplementedError

    def item_rows(self, idx: Tensor) -> tuple[Tensor, ...]:
        """The item side's parts `(..., d)` for `idx` `(...)`."""
        raise NotImplementedError

    def interact(self, user_rows: tuple[Tensor, ...], item_rows: tuple[Tensor, ...]) -> Tensor:
        """Logits of the broadcast shape of the leading dimensions of the two sides' parts."""
        raise NotImplementedError

    def tables(self, is_item: bool) -> list[nn.Parameter]:
        """The embedding tables `(n, d)` of one side, in the order of `user_rows` or `item_rows`."""
        raise NotImplementedError

    def floats_per_pair(self) -> int:
        """Floats that `score` holds at once for each (user, item) pair, so that callers can bound their memory."""
        return 3 * sum(table.shape[1] for is_item in (False, True) for table in self.tables(is_item))

    def config(self) -> dict:
        """The constructor's arguments as JSON-ready values, from which the artefact rebuilds the model."""
        raise NotImplementedError

    def score(self, user_idx: Tensor, item_idx: Tensor) -> Tensor:
        """Logits of the broadcast shape of `user_idx` and `item_idx`."""
        return self.interact(self.user_rows(user_idx), self.item_rows(item_idx))

    def activation(self, logits: Tensor) -> Tensor:
        """Logits on the rating scale: `sigmoid(logits) * (high - low) + low`; unchanged without `y_range`."""
        return logits if self.y_range is None else sigmoid_range(logits, *self.y_range)

    def forward(self, user_idx: Tensor, item_idx: Tensor | None = None, negative_idx=None, group=None):
        """Ratings (or logits without `y_range`) of the broadcast shape of two index tensors.

        One tensor `x` `(..., 2)` with users in column 0 and items in column 1, fastai's batch form, does the same.
        Three tensors, users `(bs,)`, their positives `(bs,)` and the negatives, give `rank_scores`.
        """
        if group is not None:
            return self.group_scores(user_idx, item_idx, negative_idx, group)
        if negative_idx is not None:
            return self.rank_scores(user_idx, item_idx, negative_idx)
        if item_idx is None:
            user_idx, item_idx = user_idx[..., 0], user_idx[..., 1]
        return self.activation(self.score(user_idx, item_idx))

    def rank_scores(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Logits `(bs, 1 + n)` of each user's positive, in column 0, and negatives.

        Args:
            users, positives: `(bs,)` indices.
            negatives: `(bs, n)` items, each row its own, or `(n,)` that all rows share.
        """
        if not hasattr(self, "item_vectors"):
            items = torch.cat([positives[:, None], negatives.expand(len(users), -1)], dim=1)
            return self.score(users[:, None], items)
        vectors = self.user_vectors(users)  # (bs, d)
        if negatives.ndim == 1:
            own = (vectors * self.item_vectors(positives)).sum(-1, keepdim=True)
            return torch.cat([own, vectors @ self.item_vectors(negatives).T], dim=1)
        items = torch.cat([positives[:, None], negatives], dim=1)
        if getattr(self, "sparse", False) or items.numel() < self.n_items:  # a few rows of a large table
            return torch.einsum("bd,bnd->bn", vectors, self.item_vectors(items))
        return row_dots(vectors, self.item_vectors(torch.arange(self.n_items, device=items.device)), items)

    def group_scores(
        self, users: Tensor, positives: Tensor, negatives: Tensor, group: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `(r,)` of several positives a user, `(g, m)` of negatives that all users share, and `group`.

        Args:
            users: `(g,)` indices.
            positives: `(r,)` items; positive j belongs to `users[group[j]]`.
            negatives: `(m,)` items.
            group: `(r,)`.
        """
        if not hasattr(self, "item_vectors"):
            own = self.score(users[group], positives)
            return own, self.score(users[:, None], negatives[None, :]), group
        vectors = self.user_vectors(users)  # (g, d)
        own = (vectors[group] * self.item_vectors(positives)).sum(-1)
        return own, vectors @ self.item_vectors(negatives).T, group

    def row_indices(self, ids, is_item: bool = True) -> Tensor:
        """Rows `(n,)` int64 of external `ids` `(n,)` of items (or users); an unknown id raises `KeyError`."""
        vocab = self.items if is_item else self.users
        if vocab is None:
            raise ValueError("the model has no vocabulary: make it with collab_learner, or set its users and items")
        return torch.from_numpy(vocab.encode(ids, unknown="raise")).to(self.tables(is_item)[0].device)


@contextmanager
def evaluating(model: nn.Module):
    """Within it the model is in evaluation mode; after it, in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield model
    finally:
        model.train(was_training)


def sigmoid_range(x: Tensor, low: float, high: float) -> Tensor:
    """`sigmoid(x) * (high - low) + low`: the logistic function scaled to the open interval `(low, high)`.

    Example:
        >>> sigmoid_range(torch.zeros(1), 0, 5)
        tensor([2.5000])
    """
    return torch.sigmoid(x) * (high - low) + low


class Table(nn.Embedding):
    """`nn.Embedding` whose gradient for large batches on a CPU is summed up several times as fast."""

    def forward(self, idx: Tensor) -> Tensor:
        """Rows `(..., d)` for indices `(...)`."""
        if self.sparse or idx.numel() < 4096 or self.weight.device.type != "cpu":
            return super().forward(idx)
        return _Lookup.apply(self.weight, idx)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table: Tensor, idx: Tensor) -> Tensor:
        ctx.save_for_backward(idx)
        ctx.like = table
        return F.embedding(idx, table)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (idx,) = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1]).contiguous()  # several times as fast to add up as a view
        return torch.zeros_like(ctx.like, dtype=grad.dtype).index_add_(0, idx.reshape(-1), rows), None


def embedding(n: int, d: int, *, std: float = 0.01, sparse: bool = False) -> nn.Embedding:
    """An `nn.Embedding` `(n, d)` drawn from a normal of sd `std` truncated at two sd, as fastai's; row 0 is zero."""
    table = Table(n, d, sparse=sparse)
    nn.init.trunc_normal_(table.weight, std=std, a=-2 * std, b=2 * std)
    with torch.no_grad():
        table.weight[0] = 0.0
    return table


def check_y_range(y_range) -> tuple[float, float] | None:
    """`y_range` as two floats, low below high, or an error."""
    if y_range is None:
        return None
    try:
        low, high = (float(v) for v in y_range)
    except (TypeError, ValueError) as error:
        raise ValueError(f"y_range must be (low, high), e.g. (0, 5.5), got {y_range!r}") from error
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"y_range must be (low, high), finite and with low < high, got {y_range!r}")
    return low, high
