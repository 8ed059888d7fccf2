"""Negative sampling: which items a user has not met stand beside each positive in training.

A sampler is made from the training interactions and draws item indices. Two kinds share one interface:

- *per row* (`shared = False`): `UniformNegatives`, `PopularityNegatives` draw `(b, n)` items that the row's user has
  not seen in training, exactly, with replacement;
- *shared* (`shared = True`): `SharedNegatives`, `InBatchNegatives`, `AllItems` give items `(m,)` for the whole batch,
  so that the scores are one matrix product; what a row's user has seen, its own positive at the least, is masked.

`log_counts` says how often an item was to be expected among a row's negatives, for the correction of the sampled
softmax; `inf` there marks a negative that does not count.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from collabkit.interactions import CollabWarning, Interactions

__all__ = [
    "UniformNegatives", "PopularityNegatives", "SharedNegatives", "InBatchNegatives", "AllItems", "SAMPLERS",
    "make_sampler",
]  # fmt: skip


class PopularityNegatives:
    """Items that the user has not seen, with probability proportional to `n_events ** alpha`; exact, without rejection.

    Each item owns an interval of whole numbers, as long as its weight, on one line. Taking the intervals of a user's
    seen items s_0 < s_1 < ... out of it moves what lies after them to the left, so that s_j would begin at
    `key_j = begin(s_j) - (weights of s_0 .. s_{j-1})`. For r uniform in [0, weight of the unseen items) the point
    `r + (weights of the s_j with key_j <= r)` lies in an unseen item's interval, each with its own share. Counting the
    keys is one `searchsorted` for a whole batch, because the keys of user u are offset by `u * total`.

    Items without a training row, the unknown item 0 among them, are never drawn.

    Args:
        train: training interactions.
        alpha: 0 is uniform; 0.75 is the word2vec choice (Mikolov et al. 2013), 1 draws by popularity.
        device: where it draws.

    Raises:
        ValueError: `alpha` is negative, or nobody has an unseen item.

    Example:
        >>> import pandas as pd
        >>> from collabkit.interactions import Columns
        >>> df = pd.DataFrame({'user': [1, 1, 2, 2, 3, 3], 'item': list('abbcca')})
        >>> sampler = PopularityNegatives(Interactions.from_df(df, Columns('user', 'item')))
        >>> sampler.draw(torch.tensor([1, 2, 3]), 2)  # one unseen item each
        tensor([[3, 3],
                [1, 1],
                [2, 2]])
    """

    shared = False

    def __init__(self, train: Interactions, alpha: float = 0.75, *, device=None):
        self.n_users = train.n_users
        self.weight = _weights(train, alpha)  # (n_items,) whole numbers
        end = self.weight.cumsum(0)
        self.total = int(end[-1])
        pairs = torch.unique(train.pair_keys().cpu())
        pairs = pairs[pairs % train.n_items > 0]
        users, items = pairs // train.n_items, pairs % train.n_items
        seen = self.weight[items].cumsum(0)  # of all users, one after the other
        self.start = torch.searchsorted(users, torch.arange(train.n_users + 1))
        before = torch.cat([seen.new_zeros(1), seen])
        own = before[:-1] - before[self.start[users]]  # weight of the user's seen items before this one
        self.keys = users * self.total + (end - self.weight)[items] - own
        self.taken = before  # taken[position in keys] - taken[start of the user] is what was skipped
        self.left = self.total - (before[self.start[1:]] - before[self.start[:-1]])  # (n_users,) unseen weight
        self.end = end
        self._flat = bool((self.weight[1:] == 1).all())  # every item has weight 1: a point on the line is an item
        self._some_full = bool((self.left == 0).any())
        if self._some_full:
            self._say_full(train)
        self.to(device)

    def _say_full(self, train: Interactions) -> None:
        full = (self.left == 0) & (torch.bincount(train.user_idx.cpu(), minlength=self.n_users) > 0)
        if full.any():
            if not (self.left[train.user_idx.cpu()] > 0).any():
                raise ValueError("every user has seen every item: there is nothing to draw negatives from")
            warnings.warn(
                f"{int(full.sum()):,} users have seen every item: their rows are trained without negatives",
                CollabWarning,
                stacklevel=4,
            )

    def to(self, device):
        """Move the tables to `device` (None is the CPU)."""
        self.device = torch.device("cpu" if device is None else device)
        small = (self.n_users + 1) * self.total < 2**31
        for name in ("keys", "start", "left", "taken", "end", "weight"):
            setattr(self, name, getattr(self, name).to(self.device))
        if small:  # half the memory to search through
            self.keys = self.keys.int()
        self._log_left = self.left.double().log().float()
        self._log_weight = self.weight.double().log().float()
        return self

    def draw(self, users: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`(b, n)` int64 items that `users` `(b,)` have not seen; 0 for a user who has seen everything."""
        left = self.left[users]  # (b,)
        point = torch.rand(len(users), n, generator=generator, device=self.device, dtype=torch.float64)
        point = point.mul_(left[:, None]).long()  # uniform in [0, left)
        key = (users * self.total)[:, None] + point
        at = torch.searchsorted(self.keys, key.to(self.keys.dtype), right=True)
        if self._flat:  # the number of keys passed is the weight skipped, and a point is an item
            items = point.add_(at).sub_((self.start[users] - 1)[:, None])
        else:
            point += self.taken[at] - self.taken[self.start[users]][:, None]
            items = torch.searchsorted(self.end, point, right=True)
        return items.masked_fill_((left == 0)[:, None], 0) if self._some_full else items

    def log_prob(self, users: Tensor, items: Tensor) -> Tensor:
        """Log-probability `(b, n)` of drawing `items` `(b, n)` for `users` `(b,)`, given that they are unseen."""
        return self._log_weight[items] - self._log_left[users][:, None]

    def log_counts(self, users: Tensor, items: Tensor) -> Tensor:
        """Log of the expected number of times `(b, n)` each of the `n` drawn items occurs in its row; inf: no
        negative."""
        return (self.log_prob(users, items) + math.log(items.shape[1])).masked_fill(items == 0, torch.inf)


class UniformNegatives(PopularityNegatives):
    """Items that the user has not seen, all equally likely; `PopularityNegatives` with `alpha=0`."""

    def __init__(self, train: Interactions, *, device=None):
        super().__init__(train, 0.0, device=device)

    def log_counts(self, users: Tensor, items: Tensor) -> Tensor:
        """`(b, 1)`, the same for all items of a row; see `PopularityNegatives.log_counts`."""
        left = self._log_left[users][:, None]  # -inf where nothing is unseen
        return math.log(items.shape[1]) - left


class SharedNegatives:
    """Items for the whole batch, drawn by `n_events ** alpha` from those with training rows, each at most once.

    `n` draws are made, and what comes up twice counts once. In a row whose user has seen an item in training it is no
    negative: it is masked, the row's own positive (an accidental hit) among them.

    Args:
        train: training interactions.
        alpha: 0 is uniform, 1 by popularity.
        mask_seen: mask all that the user has seen; else the row's own positive alone.
        device: where it draws.

    Raises:
        ValueError: `alpha` is negative.
    """

    shared = True

    def __init__(self, train: Interactions, alpha: float = 0.0, *, mask_seen: bool = True, device=None):
        weight = _weights(train, alpha).double()
        self.share = weight.cumsum(0) / weight.sum()
        self.log_share = (weight / weight.sum()).log().float()
        self.mask_seen = mask_seen
        keys = torch.unique(train.pair_keys().cpu())
        self.seen = keys % train.n_items
        self.start = torch.searchsorted(keys, torch.arange(train.n_users + 1) * train.n_items)
        self.to(device)

    def to(self, device):
        """Move the tables to `device` (None is the CPU)."""
        self.device = torch.device("cpu" if device is None else device)
        for name in ("share", "log_share", "seen", "start"):
            setattr(self, name, getattr(self, name).to(self.device))
        return self

    def draw(self, positives: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """At most `n` different items, ascending, int64, for a batch with the items `positives` `(b,)`."""
        point = torch.rand(n, generator=generator, device=self.device, dtype=torch.float64)
        return torch.unique(torch.searchsorted(self.share, point, right=True).clamp_(max=len(self.share) - 1))

    def log_prob(self, items: Tensor) -> Tensor:
        """Log-probability `(m,)` of each of `items` `(m,)` in a single draw."""
        return self.log_share[items]

    def log_expected(self, items: Tensor, n: int) -> Tensor:
        """Log of how often each of `items` `(m,)` is to be expected in `n` draws, once at the most: `1 - (1 - q)^n`."""
        never = n * torch.log1p(-self.log_prob(items).double().exp().clamp(max=1 - 1e-12))
        return (-torch.expm1(never)).log().float()

    def log_counts(self, users: Tensor, positives: Tensor, items: Tensor, n: int) -> Tensor:
        """Log of the expected count `(b, m)` of each of `items` `(m,)` after `n` draws; inf where it is no negative."""
        counts = self.log_expected(items, n).expand(len(users), -1).contiguous()
        rows, columns = self._hits(users, positives, items)
        counts[rows, columns] = torch.inf
        return counts

    def _hits(self, users: Tensor, positives: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns of the items, all different and ascending, that are no negatives of the row."""
        rows, found = torch.arange(len(users), device=users.device), positives
        if self.mask_seen:
            n_seen = self.start[users + 1] - self.start[users]
            own = torch.repeat_interleave(rows, n_seen)
            first = self.start[users] - (n_seen.cumsum(0) - n_seen)  # `first[own] + position` counts up in a row
            seen = self.seen[first[own] + torch.arange(len(own), device=users.device)]
            rows, found = torch.cat([rows, own]), torch.cat([found, seen])
        column = torch.full_like(self.log_share, -1, dtype=torch.int64)
        column[items] = torch.arange(len(items), device=items.device)
        at = column[found]
        return rows[at >= 0], at[at >= 0]


class InBatchNegatives(SharedNegatives):
    """The positives of the other rows of the batch: free of charge, and drawn by popularity.

    The correction for popularity is that of Yi et al., "Sampling-bias-corrected neural modeling" (2019). An item that
    is the positive of several rows stands once among the negatives.

    Args:
        train: training interactions.
        mask_seen: as of `SharedNegatives`.
        device: where it draws.
    """

    def __init__(self, train: Interactions, *, mask_seen: bool = True, device=None):
        super().__init__(train, 1.0, mask_seen=mask_seen, device=device)

    def draw(self, positives: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """The different items among `positives` `(b,)`, ascending; `n` is not used."""
        return torch.unique(positives)

    def log_counts(self, users: Tensor, positives: Tensor, items: Tensor, n: int) -> Tensor:
        """As of `SharedNegatives`, for the `b - 1` other rows; `n` is not used."""
        return super().log_counts(users, positives, items, max(len(positives) - 1, 1))


class AllItems(SharedNegatives):
    """Every item with a training row: the full softmax, for catalogues where `bs x n_items` scores fit.

    Args:
        train: training interactions.
        mask_seen: as of `SharedNegatives`; by default only the row's own positive is masked, which is the softmax over
            all items.
        device: where it draws.
    """

    def __init__(self, train: Interactions, *, mask_seen: bool = False, device=None):
        super().__init__(train, 0.0, mask_seen=mask_seen, device=device)

    def draw(self, positives: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """All items with a training row, ascending; `n` is not used."""
        return self.log_share.isfinite().nonzero().squeeze(1)

    def log_expected(self, items: Tensor, n: int) -> Tensor:
        """Every item is there once: 0."""
        return torch.zeros_like(self.log_share[items])


SAMPLERS: dict[str, Callable] = {
    "uniform": UniformNegatives,
    "popularity": PopularityNegatives,
    "shared": SharedNegatives,
    "in_batch": InBatchNegatives,
    "all": AllItems,
}


def make_sampler(negatives, train: Interactions):
    """The sampler that `negatives` names, or makes: one of `SAMPLERS`, or a function of the training interactions.

    Example:
        >>> make_sampler("unifrom", None)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: negatives must be one of 'uniform', 'popularity', ..., got 'unifrom'
    """
    if isinstance(negatives, str) and negatives in SAMPLERS:
        return SAMPLERS[negatives](train)
    if callable(negatives):
        return negatives(train)
    names = ", ".join(map(repr, SAMPLERS))
    raise ValueError(
        f"negatives must be one of {names}, or a function of the training interactions such as "
        f"partial(PopularityNegatives, alpha=0.5), got {negatives!r}"
    )


def _weights(train: Interactions, alpha: float) -> Tensor:
    """Weight `(n_items,)` int64 of each item: `n_events ** alpha` in whole numbers, 0 without a training row."""
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha must be a number of at least 0, got {alpha!r}")
    counts = torch.bincount(train.item_idx.cpu(), minlength=train.n_items)
    counts[0] = 0
    if alpha == 0:
        return (counts > 0).long()
    weight = counts.double() ** alpha
    # As fine as the keys of all users fit into 62 bits: whole numbers make the draws exact.
    scale = 2.0 ** (62 - math.ceil(math.log2(train.n_users + 1)) - 1) / float(weight.sum() + len(weight))
    return (weight * min(scale, 2.0**40 / float(weight.max().clamp(min=1)))).ceil().long()
