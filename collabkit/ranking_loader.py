"""Batches of implicit feedback: positives with sampled negatives.

`RankingLoader` gives each event its negatives, `UserLoader` takes each user's events together, `PointwiseLoader` gives
one pair a row.
"""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from collabkit.interactions import Interactions
from collabkit.loader import CHUNK, InteractionsLoader, show_table
from collabkit.sampling import AllItems, InBatchNegatives, ragged

__all__ = ["RankingLoader", "UserLoader", "PointwiseLoader"]

DRAWS = 2**23  # negatives drawn at once


class RankingLoader(InteractionsLoader):
    """Batches `(users (bs,), positives (bs,), negatives, log_counts)` of events, with negatives drawn anew each epoch.

    The negatives are `(bs, n_neg)` items that each row's user has not seen, or `(n,)` that the batch shares, as the
    sampler has it; `log_counts` is the target that a `losses.RankingLoss` takes. Without `shuffle` an epoch's negatives
    are always the same, so that validation losses can be compared. Events with weights give a fifth tensor `(bs,)`.

    Args:
        data: the events; rows in the order of their users are drawn fastest.
        sampler: one of `collabkit.sampling`.
        n_neg: negatives for each positive, drawn with replacement.
        **kwargs: as of `InteractionsLoader`; `bs` counts positives.

    Raises:
        ValueError: `n_neg` < 1.
    """

    n_inp, n_plain = 3, 4
    _arguments = (*InteractionsLoader._arguments, "sampler", "n_neg")

    def __init__(self, data: Interactions, *, sampler, n_neg: int = 4, **kwargs):
        if int(n_neg) != n_neg or n_neg < 1:
            raise ValueError(f"n_neg must be a whole number of at least 1, got {n_neg!r}")
        self.sampler, self.n_neg = sampler, int(n_neg)
        super().__init__(data, **kwargs)

    @property
    def ragged(self) -> bool:
        """Whether batches differ in their number of negatives, so that their scores make no table."""
        return self.sampler.shared and not isinstance(self.sampler, AllItems)

    def to(self, device) -> RankingLoader:
        """Move the columns and the sampler's tables to `device` (None is the CPU)."""
        self.sampler.to(device)
        return super().to(device)

    def _batches(self, order: Tensor, epoch: int):
        users, items = self._x.T.contiguous()  # (n,) each
        columns = (users, items) if self._w is None else (users, items, self._w)
        generator, sampler, n_neg = self._generator(self.device, epoch, stream=1), self.sampler, self.n_neg
        for rows, part in self._chunks(order, min(CHUNK, DRAWS // n_neg)):
            batches = zip(*(column[rows].split(part) for column in columns), strict=True)
            if sampler.shared:
                for user, positive, *weight in batches:
                    negatives = sampler.draw(positive, n_neg, generator)
                    yield user, positive, negatives, sampler.log_counts(user, positive, negatives, n_neg), *weight
                continue
            if len(rows) == self.n:  # in the order of the users: their part of the search stays in the cache
                drawn = sampler.draw(users, n_neg, generator)[rows]
            else:
                drawn = sampler.draw(users[rows], n_neg, generator)
            for (user, positive, *weight), negatives in zip(batches, drawn.split(part), strict=True):
                yield user, positive, negatives, sampler.log_counts(user, negatives), *weight

    def decode_batch(self, b, max_n: int = 9, max_negatives: int = 5) -> pd.DataFrame:
        """The first rows of a batch with the caller's ids: the user, the positive, and up to five of the negatives."""
        columns, items = self.dataset.columns, self.dataset.items
        user, positive, negatives = (t.cpu() for t in b[:3])
        user, positive = user[:max_n], positive[:max_n]
        negatives = negatives.expand(len(user), -1) if negatives.ndim == 1 else negatives[:max_n]
        data = {columns.user: self.dataset.users[user], columns.item: items[positive]}
        n = negatives.shape[1]
        data |= {f"negative {j + 1} of {n}": items[negatives[:, j]] for j in range(min(n, max_negatives))}
        return pd.DataFrame(data)

    def show_results(self, b, out, max_n: int = 9, show: bool = True) -> pd.DataFrame | None:
        """Display (or return) users with their positive, the negative that scores best, and both scores."""
        scores = (out[0] if isinstance(out, (tuple, list)) else out)[:max_n].float().cpu()  # (n, 1 + n_neg)
        out_of_it = b[3].cpu()[: len(scores)] == torch.inf  # the row's own positive, or none at all
        best, at = scores[:, 1:].masked_fill(out_of_it, -torch.inf).max(1)
        negatives = b[2].cpu().expand(len(b[0]), -1)[: len(scores)]
        df = self.decode_batch(b, max_n, max_negatives=0)
        df["score"] = scores[:, 0].numpy()
        df["best negative"] = self.dataset.items[negatives[torch.arange(len(at)), at]]
        df["its score"] = best.numpy()
        return show_table(df) if show else df


class UserLoader(RankingLoader):
    """Batches of whole users: `(users (g,), positives (r,), negatives (m,), group (r,), log_counts (m,), hits (2, h))`.

    All events of `bs` users and negatives that the batch shares. What a softmax costs, the sum over the negatives, is
    then computed once a user rather than once an event: with 30 events a user, a thirtieth. `group` says which of
    the batch's users each positive belongs to, `hits` at which places of the `(g, m)` scores a user has seen the item.
    Events with weights give a seventh tensor `(r,)`.

    Args:
        data: the events, in the order of their users.
        sampler: one of shared negatives that masks what a user has seen.
        **kwargs: as of `RankingLoader`; `bs` counts users.

    Raises:
        ValueError: another kind of sampler; events out of the order of their users.
    """

    n_inp, n_plain = 4, 6

    def __init__(self, data: Interactions, *, sampler, **kwargs):
        if not (sampler.shared and sampler.mask_seen) or isinstance(sampler, InBatchNegatives):
            raise ValueError(
                "batches of users need negatives that they share, without what each has seen: negatives='shared' or "
                f"partial(AllItems, mask_seen=True), got {type(sampler).__name__}"
            )
        if (data.user_idx.diff() < 0).any():
            raise ValueError("batches of users need the events in their order: pass data.sorted_by_user()")
        self.users, counts = torch.unique_consecutive(data.user_idx, return_counts=True)  # (n_users,)
        self.start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        super().__init__(data, sampler=sampler, **kwargs)

    ragged = True

    @property
    def n(self) -> int:
        """Number of users."""
        return len(self.users)

    def to(self, device) -> UserLoader:
        """Move the columns and the sampler's tables to `device` (None is the CPU)."""
        super().to(device)
        self.users, self.start = self.users.to(self.device), self.start.to(self.device)
        return self

    def _batches(self, order: Tensor, epoch: int):
        generator = self._generator(self.device, epoch, stream=1)
        for chosen, part in self._chunks(order):
            for batch in chosen.split(part):
                group, rows = ragged(self.start, batch)
                users, positives = self.users[batch], self._x[rows, 1]
                negatives = self.sampler.draw(positives, self.n_neg, generator)
                hits = torch.stack(self.sampler.hits(users, None, negatives))
                targets = (self.sampler.log_expected(negatives, self.n_neg), hits)
                yield users, positives, negatives, group, *targets, *(() if self._w is None else (self._w[rows],))

    def decode_batch(self, b, max_n: int = 9, max_negatives: int = 5) -> pd.DataFrame:
        """As of `RankingLoader`; the negatives of a row are those of the batch, seen ones included."""
        users, positives, negatives, group = (t.cpu() for t in b[:4])
        return super().decode_batch((users[group], positives, negatives), max_n, max_negatives)

    def show_results(self, b, out, max_n: int = 9, show: bool = True) -> pd.DataFrame | None:
        """Display (or return) users with their positives and their scores."""
        df = self.decode_batch(b, max_n, max_negatives=0)
        df["score"] = out[0][: len(df)].float().cpu().numpy()
        return show_table(df) if show else df


class PointwiseLoader(RankingLoader):
    """The pairs of a `RankingLoader` one a row: `(x (m, 2), y (m, 1))`, y 1 for a positive and 0 for a negative.

    For a module that takes `x (m, 2)` and a pointwise loss, in a plain fastai `Learner`. A batch has `bs` positives and
    their negatives, `m = bs * (1 + n_neg)` rows, less the negatives of users who have seen everything.

    Raises:
        ValueError: a sampler of shared negatives; events with weights.
    """

    n_inp, n_plain = 1, 2

    def __init__(self, data: Interactions, *, sampler, **kwargs):
        if sampler.shared:
            raise ValueError("pairs one a row need negatives of each row's own: negatives='uniform' or 'popularity'")
        if data.weight is not None:
            raise ValueError("pairs one a row carry no weights: make the dataloaders without weights=")
        super().__init__(data, sampler=sampler, **kwargs)

    def _batches(self, order: Tensor, epoch: int):
        for user, positive, negatives, _ in super()._batches(order, epoch):
            items = torch.cat([positive[:, None], negatives], dim=1)  # (bs, 1 + n_neg)
            x = torch.stack([user[:, None].expand_as(items), items], dim=-1).reshape(-1, 2)
            y = torch.zeros(items.shape, device=items.device)
            y[:, 0] = 1
            there = x[:, 1] > 0
            yield x[there], y.reshape(-1, 1)[there]

    @property
    def get_idxs(self):
        """There is none: fastai would take that many predictions, in this order, while a batch has more rows."""
        raise AttributeError("the rows of a PointwiseLoader are pairs, not events: they have no order of their own")

    def _order(self) -> Tensor:
        return RankingLoader.get_idxs(self).to(self.device)

    decode_batch = InteractionsLoader.decode_batch
    show_results = InteractionsLoader.show_results
