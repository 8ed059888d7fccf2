"""Negatives that are shared by the rows of a batch."""

import torch
from torch import Tensor

from collabkit.data.interactions import Interactions
from collabkit.train.sampling.weights import item_weights

__all__ = ["SharedNegatives", "InBatchNegatives", "AllItems"]


class SharedNegatives:
    """Items for the whole batch, drawn by `n_events ** alpha` from those with training rows, each at most once.

    `n` draws are made, and an item drawn twice counts once. Items that a row's user has seen in training, including the
    row's own positive (an accidental hit), are masked in that row.

    Args:
        train: training interactions.
        alpha: 0 is uniform, 1 by popularity.
        mask_seen: mask all items that the user has seen; otherwise only the row's own positive.
        device: device for the draws.

    Raises:
        ValueError: `alpha` is negative.
    """

    shared = True

    def __init__(self, train: Interactions, alpha: float = 0.0, *, mask_seen: bool = True, device=None):
        weight = item_weights(train, alpha).double()
        self.share = weight.cumsum(0) / weight.sum()
        self.log_share = (weight / weight.sum()).log().float()
        self.mask_seen, self.seen = mask_seen, train.pairs
        self.to(device)

    def to(self, device):
        """Move the tables to `device` (None is the CPU)."""
        self.device = torch.device("cpu" if device is None else device)
        for name in ("share", "log_share", "seen"):
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
        """Log of the expected count of each of `items` `(m,)` in `n` draws, at most once: `1 - (1 - q)^n`."""
        never = n * torch.log1p(-self.log_prob(items).double().exp().clamp(max=1 - 1e-12))
        return (-torch.expm1(never)).log().float()

    def log_counts(self, users: Tensor, positives: Tensor, items: Tensor, n: int) -> Tensor:
        """Log of the expected count `(b, m)` of each of `items` `(m,)` after `n` draws; inf if not a negative."""
        counts = self.log_expected(items, n).expand(len(users), -1).contiguous()
        rows, columns = self.hits(users, positives, items)
        counts[rows, columns] = torch.inf
        return counts

    def hits(self, users: Tensor, positives: Tensor | None, items: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns `(h,)` of the items `(m,)`, all different, that are not negatives for the row's user.

        Those are its own positive (where there are `positives` `(b,)`) and, with `mask_seen`, what the user has seen.
        """
        rows = found = users[:0]
        if self.mask_seen:
            seen = self.seen.of(users)
            rows, found = seen.rows, seen.values
        if positives is not None:
            rows = torch.cat([torch.arange(len(users), device=users.device), rows])
            found = torch.cat([positives, found])
        order = None if bool((items.diff() > 0).all()) else items.argsort()  # a table of all items would be as large
        ascending = items if order is None else items[order]
        at = torch.searchsorted(ascending, found).clamp(max=max(len(items) - 1, 0))
        there = ascending[at] == found if len(items) else torch.zeros_like(found, dtype=torch.bool)
        at = at[there] if order is None else order[at[there]]
        return rows[there], at


class InBatchNegatives(SharedNegatives):
    """The positives of the other rows of the batch, which cost nothing and are distributed by popularity.

    The correction for popularity is that of Yi et al., "Sampling-bias-corrected neural modeling" (2019). An item that
    is the positive of several rows is a negative only once. Arguments as in `SharedNegatives`.
    """

    def __init__(self, train: Interactions, *, mask_seen: bool = True, device=None):
        super().__init__(train, 1.0, mask_seen=mask_seen, device=device)

    def draw(self, positives: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """The different items among `positives` `(b,)`, ascending; `n` is not used."""
        return torch.unique(positives)

    def log_counts(self, users: Tensor, positives: Tensor, items: Tensor, n: int) -> Tensor:
        """As in `SharedNegatives`, for the `b - 1` other rows; `n` is not used."""
        return super().log_counts(users, positives, items, max(len(positives) - 1, 1))


class AllItems(SharedNegatives):
    """Every item with a training row: the full softmax, for catalogues where `bs x n_items` scores fit.

    Arguments as in `SharedNegatives`; by default only the row's own positive is masked: the softmax over all items.
    """

    def __init__(self, train: Interactions, *, mask_seen: bool = False, device=None):
        super().__init__(train, 0.0, mask_seen=mask_seen, device=device)

    def to(self, device):
        """Move the tables to `device` (None is the CPU)."""
        super().to(device)
        self.every = self.log_share.isfinite().nonzero().squeeze(1)
        return self

    def draw(self, positives: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """All items with a training row, ascending; `n` is not used."""
        return self.every

    def log_expected(self, items: Tensor, n: int) -> Tensor:
        """Every item occurs once: 0."""
        return torch.zeros_like(self.log_share[items])
