"""`InteractionsLoader`: batches as slices of tensors, in the place of a Dataset, a sampler and worker processes."""

from __future__ import annotations

import math

import pandas as pd
import torch
from fastai.torch_core import display_df
from fastcore.imports import IN_NOTEBOOK
from torch import Tensor

from collabkit.interactions import Interactions

__all__ = ["InteractionsLoader", "auto_bs"]

CHUNK = 2**20  # rows gathered at once: bounds the copy that an epoch makes of large data


class InteractionsLoader:
    """Batches `(x (bs, 2) int64, y (bs, 1) float32)` as slices of tensors that live on the device.

    Ratings with weights give `(x, y, w (bs, 1) float32)`: a further target, which a `losses.FlatLoss` takes.

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
            of these rows is dropped, and they come without weights, which are for training alone.
    """

    n_inp = 1
    n_plain = 2  # tensors of a batch but its weights
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
        self.weighted = data.weight is not None and get_idxs is None
        if get_idxs is not None:
            self.get_idxs, self.drop_last = get_idxs, False
        self.to(device)

    def to(self, device) -> InteractionsLoader:
        """Move the columns to `device` (None is the CPU)."""
        self.device = torch.device("cpu" if device is None else device)
        self._x = torch.stack([self.dataset.user_idx, self.dataset.item_idx], 1).to(self.device)  # (n, 2)
        rating = self.dataset.rating
        self._y = None if rating is None else rating[:, None].to(self.device)  # (n, 1)
        self._w = self.dataset.weight.to(self.device) if self.weighted else None  # (n,)
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
        columns = [self._x] if self._y is None else [self._x, self._y]
        if self._y is not None and self._w is not None:  # without ratings they would be taken for the target
            columns.append(self._w[:, None])
        for rows, part in self._chunks(order):
            yield from zip(*(column[rows].split(part) for column in columns), strict=True)

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
        return show_table(df) if show else df

    def show_results(self, b, out, max_n: int = 9, show: bool = True) -> pd.DataFrame | None:
        """Display (or return) rows of a batch with the caller's ids, their rating and the prediction `out` `(bs,)`."""
        df = self.decode_batch(b, max_n)
        out = out[0] if isinstance(out, (tuple, list)) else out
        rating = self.dataset.columns.rating
        df[f"{'rating' if rating is None else rating}_pred"] = out.flatten()[:max_n].float().cpu().numpy()
        return show_table(df) if show else df


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


def show_table(df: pd.DataFrame) -> None:
    """A table in a notebook, text elsewhere."""
    if IN_NOTEBOOK:
        display_df(df)
    else:
        print(df.to_string(index=False))
