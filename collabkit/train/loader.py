"""`Loader`: cuts an order of rows into batches: slices of tensors, instead of a sampler and worker processes."""

import math
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter

import pandas as pd
import torch
from fastai.torch_core import display_df
from fastcore.imports import IN_NOTEBOOK
from torch import Tensor

from collabkit.data.checks import whole
from collabkit.data.interactions import Interactions
from collabkit.train.batches import DRAWS, Pointwise, Ranked, Rated, Windows
from collabkit.train.block_order import BlockOrder

__all__ = ["Loader", "auto_bs", "show_table"]

CHUNK = 2**20  # rows gathered at once: limits the copies of large data in an epoch


class Loader:
    """Batches of rows in an order, with every row exactly once per epoch.

    An epoch is one permutation, for files that of `BlockOrder`. Like the drawn negatives, it depends only on `seed` and
    the number of epochs run so far. Without `shuffle` both are always the same, so that validation losses can be
    compared. No batch has a single row next to larger batches (batch normalisation could not train on it): a single
    left-over row joins the last full batch.

    Args:
        batches: how rows become batches, see `train.batches`; interactions mean batches of ratings.
        bs: rows (or users) per batch.
        shuffle: draw a new permutation in each epoch.
        drop_last: leave out an incomplete last batch, unless it is the only one.
        seed: of the permutations.
        device: of the tensors.
        get_idxs: function that returns the row order `(n,)` in place of the permutation, for fastai's `get_preds`; none
            of these rows is dropped, and they have no weights, which are only for training.
    """

    _arguments = ("bs", "shuffle", "drop_last", "seed", "device")  # arguments for a similar loader

    def __init__(
        self, batches: Rated | Ranked | Interactions, *, bs: int = 64, shuffle: bool = False, drop_last: bool = False,
        seed: int = 0, device=None, get_idxs: Callable[[], Tensor] | None = None,
    ):  # fmt: skip
        self.batches = Rated(batches) if isinstance(batches, Interactions) else batches
        self.bs, self.shuffle, self.drop_last, self.seed, self.epoch = whole("bs", bs), shuffle, drop_last, seed, 0
        self._given_order, self._planned = get_idxs, None
        if get_idxs is not None:
            self.drop_last, self.batches = False, self.batches.on(replace(self.dataset, weight=None))
        self.to(device)

    def to(self, device) -> "Loader":
        """Move the data to `device` (None is the CPU)."""
        self.batches.to(device)
        self.device = self.batches.device
        return self

    dataset = property(attrgetter("batches.data"), doc="The interactions.")
    n_inp = property(attrgetter("batches.n_inp"), doc="Number of inputs in a batch.")
    n_plain = property(attrgetter("batches.n_plain"), doc="Number of tensors in a batch without its weights.")
    n = property(lambda self: len(self.batches), doc="Number of rows (or users) that are put in an order.")
    items = property(lambda self: self.dataset.to_df(), doc="The rows as a DataFrame with the caller's ids.")

    def __len__(self) -> int:
        return len(self._plan()[1]) if isinstance(self.batches, Windows) else len(self._sizes())

    def _plan(self) -> tuple[Tensor | BlockOrder, list[int]]:
        """The rows of the next epoch in their order, and how many of them make each batch."""
        if not isinstance(self.batches, Windows):
            mixed = self.shuffle and self._given_order is None and self.n == len(self.dataset)
            if mixed and self.dataset.stored:  # whole users are not rows of the file
                return BlockOrder(self.n, self._seed(self.epoch, 0)), self._sizes()
            return self._order(), self._sizes()
        if self._planned is None or self._planned[0] != self.epoch:  # for both the number of batches and the batches
            generator = self._generator("cpu", self.epoch) if self.shuffle else None
            self._planned = self.epoch, self.batches.plan(self.bs, generator)
        return self._planned[1]

    def _sizes(self) -> list[int]:
        full, rest = divmod(self.n, self.bs)
        sizes = [self.bs] * full
        if rest == 0 or (self.drop_last and full):
            return sizes
        return [*sizes[:-1], self.bs + 1] if rest == 1 and full else [*sizes, rest]

    @property
    def get_idxs(self) -> Callable[[], Tensor]:
        """The function that gives the row order `(n,)` of the next epoch, on the CPU, by fastai's name.

        Single pairs and windows have none: fastai would expect that many predictions, while a batch has more rows.
        """
        if isinstance(self.batches, (Pointwise, Windows)):
            raise AttributeError("batches of pairs or windows have more rows than the order that draws them")
        return lambda: self._order().cpu()  # where the predictions are, which fastai puts in this order

    def _order(self) -> Tensor:
        """The row order `(n,)` of the next epoch."""
        if self._given_order is not None:
            return torch.as_tensor(self._given_order()).to(self.device)
        if not self.shuffle:
            return torch.arange(self.n, device=self.device)
        return torch.randperm(self.n, generator=self._generator("cpu", self.epoch)).to(self.device)

    def _generator(self, device, epoch: int, stream: int = 0) -> torch.Generator:
        """A generator that depends only on the seed, the epoch and the stream."""
        return torch.Generator(device).manual_seed(self._seed(epoch, stream))

    def _seed(self, epoch: int, stream: int) -> int:
        return (self.seed * 1_000_003 + epoch + (stream << 40)) % 2**63

    def __iter__(self):
        plan, epoch = self._plan(), self.epoch
        self.epoch += bool(self.shuffle)
        yield from self._batches(*plan, epoch)

    def _batches(self, order: Tensor | BlockOrder, sizes: list[int], epoch: int):
        generator = self._generator(self.device, epoch, stream=1)
        at_once = CHUNK if not self.batches.n_negatives else min(CHUNK, DRAWS // self.batches.n_negatives)
        start, per_chunk = 0, max(1, at_once // self.bs)
        for first in range(0, len(sizes), per_chunk):
            part = sizes[first : first + per_chunk]
            yield from self.batches.make(order[start : start + sum(part)], part, generator)
            start += sum(part)

    def one_batch(self) -> tuple[Tensor, ...]:
        """The first batch of the next epoch, without starting it."""
        if self.n == 0:
            raise ValueError("this loader has no rows: there is no validation part")
        return next(self._batches(*self._plan(), self.epoch))

    def new(self, dataset: Interactions | None = None, batches=None, cls=None, **kwargs) -> "Loader":
        """A loader like this one, with other data or arguments (fastai's `get_preds` and `show_results` call it)."""
        batches = self.batches if batches is None else batches
        other = {name: kwargs.pop(name) for name in ("sampler", "n_neg") if name in kwargs}  # of batches with negatives
        if dataset is not None or other:
            batches = batches.on(batches.data if dataset is None else dataset, **other)
        loader = Loader(batches, **{**{name: getattr(self, name) for name in self._arguments}, **kwargs})
        loader.epoch = self.epoch
        return loader

    def decode_batch(self, b, max_n: int = 9) -> pd.DataFrame:
        """The first `max_n` rows of a batch with the caller's ids and column names."""
        return self.batches.decode(b, max_n)

    def show_batch(self, b=None, max_n: int = 9, show: bool = True) -> pd.DataFrame | None:
        """Display (or return, with `show=False`) rows of a batch with the caller's ids."""
        return show_table(self.decode_batch(self.one_batch() if b is None else b, max_n), show)

    def show_results(self, b, out, max_n: int = 9, show: bool = True) -> pd.DataFrame | None:
        """Display (or return) rows of a batch with the caller's ids and the model's results `out`."""
        return show_table(self.batches.results(b, out, max_n), show)


def auto_bs(n_rows: int) -> int:
    """The batch size that `bs=None` picks for `n_rows` training rows: 64 for small data, about 400 batches per epoch.

    The power of two nearest `n_rows / 400`, at least 64 and at most 16,384; near the best validation error on subsets
    of MovieLens from 20 thousand to a million ratings (beyond that the rule is extrapolated). Larger batches need a
    higher learning rate.

    Example:
        >>> [auto_bs(n) for n in (1_000, 20_000, 80_000, 900_000, 20_000_000)]
        [64, 64, 256, 2048, 16384]
    """
    return min(16_384, max(64, 2 ** round(math.log2(max(n_rows, 1) / 400))))


def show_table(df: pd.DataFrame, show: bool = True) -> pd.DataFrame | None:
    """A table in a notebook, text elsewhere; with `show=False` the table is returned."""
    if show:
        return display_df(df) if IN_NOTEBOOK else print(df.to_string(index=False))
    return df
