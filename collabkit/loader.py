"""Batches as slices of tensors, in the place of a Dataset, a sampler and worker processes.

`InteractionsLoader` gives users, items and ratings; `RankingLoader` positives with sampled negatives; `PointwiseLoader`
the same one pair a row.
"""

from __future__ import annotations

import math

import pandas as pd
import torch
from fastai.torch_core import display_df
from fastcore.imports import IN_NOTEBOOK
from torch import Tensor

from collabkit.interactions import Interactions

__all__ = ["InteractionsLoader", "RankingLoader", "PointwiseLoader", "auto_bs"]

CHUNK = 2**20  # rows gathered at once: bounds the copy that an epoch makes of large data
DRAWS = 2**23  # negatives drawn at once


class InteractionsLoader:
    """Batches `(x (bs, 2) int64, y (bs, 1) float32)` as slices of tensors that live on the device.

    An epoch is one permutation, so that every row comes exactly once. It depends on `seed` and the number of epochs
    run so far alone. No batch has one row beside larger ones (batch normalisation could not train on it): a single
    left-over row joins the last full batch.

    Args:
        data: the interactions; without ratings the batches are `(x,)`.
        bs: rows a batch.
        shuffle: draw a new permutation each epoch.
        drop_last: leave out an incomplete last batch, unless it is the only one.
        seed: of the permutations.
        device: where the tensors live.
        get_idxs: function that returns the row order `(n,)` in place of the permutation, for fastai's `get_preds`; none
            of these rows is dropped.
    """

    n_inp = 1
    _arguments = ("bs", "shuffle", "drop_last", "seed", "device")  # of a loader like this one

    def __init__(
        self,
        data: Interactions,
        *,
        bs: int = 64,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        device=None,
        get_idxs=None,
    ):
        if int(bs) != bs or bs < 1:
            raise ValueError(f"bs must be a whole number of at least 1, got {bs!r}")
        self.dataset, self.bs, self.shuffle, self.drop_last, self.seed = data, int(bs), shuffle, drop_last, seed
        self.epoch = 0
        if get_idxs is not None:
            self.get_idxs, self.drop_last = get_idxs, False
        self.to(device)

    def to(self, device) -> InteractionsLoader:
        """Move the columns to `device` (None is the CPU)."""
        self.device = torch.device("cpu" if device is None else device)
        self._x = torch.stack([self.dataset.user_idx, self.dataset.item_idx], 1).to(self.device)  # (n, 2)
        rating = self.dataset.rating
        self._y = None if rating is None else rating[:, None].to(self.device)  # (n, 1)
        return self

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.dataset)

    @property
    def items(self) -> pd.DataFrame:
        """The rows as a DataFrame with the caller's ids."""
        return self.dataset.to_df()

    def __len__(self) -> int:
        return len(self._sizes())

    def _sizes(self) -> list[int]:
        full, rest = divmod(self.n, self.bs)
        sizes = [self.bs] * full
        if rest == 0 or (self.drop_last and full):
            return sizes
        return [*sizes[:-1], self.bs + 1] if rest == 1 and full else [*sizes, rest]

    def get_idxs(self) -> Tensor:
        """The row order `(n,)` of the next epoch."""
        if not self.shuffle:
            return torch.arange(self.n)
        return torch.randperm(self.n, generator=self._generator("cpu", self.epoch))

    def _order(self) -> Tensor:
        return torch.as_tensor(self.get_idxs()).to(self.device)

    def _generator(self, device, epoch: int, stream: int = 0) -> torch.Generator:
        """A generator that depends on the seed, the epoch and what it is for alone."""
        return torch.Generator(device).manual_seed((self.seed * 1_000_003 + epoch + (stream << 40)) % 2**63)

    def __iter__(self):
        order, epoch = self._order(), self.epoch
        if self.shuffle:
            self.epoch += 1
        yield from self._batches(order, epoch)

    def _chunks(self, order: Tensor, rows_at_once: int = CHUNK):
        """Pieces of the order, each with the sizes of the batches in it."""
        sizes, start = self._sizes(), 0
        per_chunk = max(1, rows_at_once // self.bs)
        for first in range(0, len(sizes), per_chunk):
            part = sizes[first : first + per_chunk]
            yield order[start : start + sum(part)], part
            start += sum(part)

    def _batches(self, order: Tensor, epoch: int):
        for rows, part in self._chunks(order):
            columns = [column[rows].split(part) for column in (self._x, self._y) if column is not None]
            yield from zip(*columns, strict=True)

    def one_batch(self) -> tuple[Tensor, ...]:
        """The first batch of the next epoch, without starting it."""
        return next(self._batches(self._order(), self.epoch))

    def new(self, dataset: Interactions | None = None, cls=None, **kwargs) -> InteractionsLoader:
        """A loader like this one, with other data or arguments (fastai's `get_preds` and `show_results` call it)."""
        arguments = {name: getattr(self, name) for name in self._arguments}
        loader = (cls or type(self))(self.dataset if dataset is None else dataset, **{**arguments, **kwargs})
        loader.epoch = self.epoch
        return loader

    def decode_batch(self, b, max_n: int = 9) -> pd.DataFrame:
        """The first `max_n` rows of a batch `(x, y?)` with the caller's ids and column names."""
        columns = self.dataset.columns
        x = b[0][:max_n].cpu()
        data = {columns.user: self.dataset.users[x[:, 0]], columns.item: self.dataset.items[x[:, 1]]}
        if len(b) > 1:
            data[columns.rating if columns.rating is not None else "rating"] = b[1][:max_n].flatten().cpu().numpy()
        return pd.DataFrame(data)

    def show_batch(self, b=None, max_n: int = 9, show: bool = True) -> pd.DataFrame | None:
        """Display (or return, with `show=False`) rows of a batch with the caller's ids."""
        df = self.decode_batch(self.one_batch() if b is None else b, max_n)
        return _display(df) if show else df

    def show_results(self, b, out, max_n: int = 9, show: bool = True) -> pd.DataFrame | None:
        """Display (or return) rows of a batch with the caller's ids, their rating and the prediction `out` `(bs,)`."""
        df = self.decode_batch(b, max_n)
        out = out[0] if isinstance(out, (tuple, list)) else out
        rating = self.dataset.columns.rating
        df[f"{'rating' if rating is None else rating}_pred"] = out.flatten()[:max_n].float().cpu().numpy()
        return _display(df) if show else df


class RankingLoader(InteractionsLoader):
    """Batches `(users (bs,), positives (bs,), negatives, log_counts)` of events, with negatives drawn anew each epoch.

    The negatives are `(bs, n_neg)` items that each row's user has not seen, or `(n,)` that the batch shares, as the
    sampler has it; `log_counts` is the target that a `losses.RankingLoss` takes. Without `shuffle` an epoch's negatives
    are always the same, so that validation losses can be compared.

    Args:
        data: the events; rows in the order of their users are drawn fastest.
        sampler: one of `collabkit.sampling`.
        n_neg: negatives for each positive, drawn with replacement.
        **kwargs: as of `InteractionsLoader`; `bs` counts positives.

    Raises:
        ValueError: `n_neg` < 1.
    """

    n_inp = 3
    _arguments = (*InteractionsLoader._arguments, "sampler", "n_neg")

    def __init__(self, data: Interactions, *, sampler, n_neg: int = 4, **kwargs):
        if int(n_neg) != n_neg or n_neg < 1:
            raise ValueError(f"n_neg must be a whole number of at least 1, got {n_neg!r}")
        self.sampler, self.n_neg = sampler, int(n_neg)
        super().__init__(data, **kwargs)

    def to(self, device) -> RankingLoader:
        """Move the columns and the sampler's tables to `device` (None is the CPU)."""
        self.sampler.to(device)
        return super().to(device)

    def _batches(self, order: Tensor, epoch: int):
        users, items = self._x.T.contiguous()  # (n,) each
        generator, sampler, n_neg = self._generator(self.device, epoch, stream=1), self.sampler, self.n_neg
        for rows, part in self._chunks(order, min(CHUNK, DRAWS // n_neg)):
            batches = zip(users[rows].split(part), items[rows].split(part), strict=True)
            if sampler.shared:
                for user, positive in batches:
                    negatives = sampler.draw(positive, n_neg, generator)
                    yield user, positive, negatives, sampler.log_counts(user, positive, negatives, n_neg)
                continue
            if len(rows) == self.n:  # in the order of the users: their part of the search stays in the cache
                drawn = sampler.draw(users, n_neg, generator)[rows]
            else:
                drawn = sampler.draw(users[rows], n_neg, generator)
            for (user, positive), negatives in zip(batches, drawn.split(part), strict=True):
                yield user, positive, negatives, sampler.log_counts(user, negatives)

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
        return _display(df) if show else df


class PointwiseLoader(RankingLoader):
    """The pairs of a `RankingLoader` one a row: `(x (m, 2), y (m, 1))`, y 1 for a positive and 0 for a negative.

    For a module that takes `x (m, 2)` and a pointwise loss, in a plain fastai `Learner`. A batch has `bs` positives and
    their negatives, `m = bs * (1 + n_neg)` rows, less the negatives of users who have seen everything.

    Raises:
        ValueError: a sampler of shared negatives.
    """

    n_inp = 1

    def __init__(self, data: Interactions, *, sampler, **kwargs):
        if sampler.shared:
            raise ValueError("pairs one a row need negatives of each row's own: negatives='uniform' or 'popularity'")
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


def auto_bs(n_rows: int) -> int:
    """The batch size that `bs=None` picks for `n_rows` training rows: 64 for small data, about 400 batches an epoch.

    The power of two nearest `n_rows / 400`, at least 64 and at most 16,384; near the best validation error on subsets
    of MovieLens from 20 thousand to a million ratings (beyond that the rule is extrapolated). Larger batches want a
    higher learning rate.

    Example:
        >>> [auto_bs(n) for n in (1_000, 20_000, 80_000, 900_000, 20_000_000)]
        [64, 64, 256, 2048, 16384]
    """
    return min(16_384, max(64, 2 ** round(math.log2(max(n_rows, 1) / 400))))


def _display(df: pd.DataFrame) -> None:
    """A table in a notebook, text elsewhere."""
    if IN_NOTEBOOK:
        display_df(df)
    else:
        print(df.to_string(index=False))
