"""`CollabDataLoaders`: a table of ratings -> batches for a fastai `Learner`, with fastai's signature and defaults."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pandas as pd
import torch
from fastai.data.core import DataLoaders
from fastai.torch_core import default_device, display_df
from fastcore.imports import IN_NOTEBOOK
from torch import Tensor

from collabkit.filters import name_columns
from collabkit.interactions import CollabWarning, Columns, Interactions
from collabkit.splits import Split, Splitter, random_split
from collabkit.vocab import Vocab

__all__ = ["CollabDataLoaders", "InteractionsLoader", "auto_bs"]

CHUNK = 2**20  # rows gathered at once: bounds the copy that an epoch makes of large data


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
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        return torch.randperm(self.n, generator=generator)

    def __iter__(self):
        order = torch.as_tensor(self.get_idxs()).to(self.device)
        if self.shuffle:
            self.epoch += 1
        yield from self._batches(order)

    def _batches(self, order: Tensor):
        sizes, start = self._sizes(), 0
        per_chunk = max(1, CHUNK // self.bs)
        for first in range(0, len(sizes), per_chunk):
            part = sizes[first : first + per_chunk]
            rows = order[start : start + sum(part)]
            start += len(rows)
            columns = [column[rows].split(part) for column in (self._x, self._y) if column is not None]
            yield from zip(*columns, strict=True)

    def one_batch(self) -> tuple[Tensor, ...]:
        """The first batch of the next epoch, without starting it."""
        return next(self._batches(torch.as_tensor(self.get_idxs()).to(self.device)))

    def new(self, dataset: Interactions | None = None, cls=None, **kwargs) -> InteractionsLoader:
        """A loader like this one, with other data or arguments (fastai's `get_preds` and `show_results` call it)."""
        arguments = {name: getattr(self, name) for name in ("bs", "shuffle", "drop_last", "seed", "device")}
        loader = type(self)(self.dataset if dataset is None else dataset, **{**arguments, **kwargs})
        loader.epoch = self.epoch
        return loader

    def decode_batch(self, b, max_n: int = 9) -> pd.DataFrame:
        """The first `max_n` rows of a batch `(x, y?)` with the caller's ids and column names."""
        columns = self.dataset.columns
        x = b[0][:max_n].cpu()
        data = {columns.user: self.dataset.users[x[:, 0]], columns.item: self.dataset.items[x[:, 1]]}
        if len(b) > 1:
            data[columns.rating or "rating"] = b[1][:max_n].flatten().cpu().numpy()
        return pd.DataFrame(data)

    def show_batch(self, b=None, max_n: int = 9, show: bool = True) -> pd.DataFrame | None:
        """Display (or return, with `show=False`) rows of a batch with the caller's ids."""
        df = self.decode_batch(self.one_batch() if b is None else b, max_n)
        return _display(df) if show else df

    def show_results(self, b, out, max_n: int = 9, show: bool = True) -> pd.DataFrame | None:
        """Display (or return) rows of a batch with the caller's ids, their rating and the prediction `out` `(bs,)`."""
        df = self.decode_batch(b, max_n)
        out = out[0] if isinstance(out, (tuple, list)) else out
        df[f"{self.dataset.columns.rating or 'rating'}_pred"] = out.flatten()[:max_n].float().cpu().numpy()
        return _display(df) if show else df


class CollabDataLoaders(DataLoaders):
    """Training and validation batches of a table of interactions; takes the place of fastai's `CollabDataLoaders`.

    Make it with `from_df`, `from_dfs`, `from_csv` or `from_parquet`.

    Example:
        >>> from collabkit import datasets
        >>> ratings = datasets.synthetic(seed=1).ratings
        >>> dls = CollabDataLoaders.from_df(ratings, user_name='user', item_name='title', seed=42)
        >>> x, y = dls.one_batch()
        >>> x.shape, y.shape, dls.classes['title'][0]
        (torch.Size([64, 2]), torch.Size([64, 1]), '#na#')
    """

    @classmethod
    def from_df(
        cls,
        ratings: pd.DataFrame,
        valid_pct: float = 0.2,
        user_name: str | None = None,
        item_name: str | None = None,
        rating_name: str | None = None,
        seed: int | None = None,
        path: str | Path = ".",
        *,
        time_name: str | None = None,
        splitter=None,
        bs: int | None = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        device=None,
    ) -> CollabDataLoaders:
        """Batches from one table, which is split here.

        Args:
            ratings: a row an event; its first three columns are user, item and rating unless named.
            valid_pct: share of the rows, drawn at random, that is validation; ignored with a `splitter`.
            user_name, item_name, rating_name, time_name: columns, in any order.
            seed: of the split, the order of the batches and, by default, the learner; the split is then fastai's.
            path: where the learner saves.
            splitter: one of `collabkit.splits`, or any function DataFrame -> (training rows, validation rows).
            bs: rows a training batch; None picks one from the number of rows, see `auto_bs`.
            val_bs: rows a validation batch (memory only); default the larger of `bs` and 8,192.
            shuffle: a new permutation each epoch.
            drop_last: leave out an incomplete last training batch.
            device: default fastai's `default_device()`.

        Raises:
            KeyError: a column is missing.
            ValueError, TypeError: ids or ratings are missing, infinite or of the wrong type; a part would be empty.
        """
        columns = _columns(ratings, user_name, item_name, rating_name, time_name)
        splitter = random_split(valid_pct, seed=seed) if splitter is None else splitter
        data = Interactions.from_df(ratings, columns)  # before the split, so that errors name the caller's rows
        split = _split(ratings, columns, splitter)
        parts = [data.take(rows) for rows in split]
        if len(split.train) + len(split.valid) < len(data):  # the vocabularies cover what is used
            parts = _encode(*(ratings.iloc[rows][columns.present] for rows in split), columns)
        options = {"path": path, "seed": seed, "bs": bs, "val_bs": val_bs, "shuffle": shuffle}
        return cls.from_interactions(*parts, **options, drop_last=drop_last, device=device)

    @classmethod
    def from_dfs(
        cls,
        train: pd.DataFrame,
        valid: pd.DataFrame,
        user_name: str | None = None,
        item_name: str | None = None,
        rating_name: str | None = None,
        seed: int | None = None,
        path: str | Path = ".",
        *,
        time_name: str | None = None,
        **kwargs,
    ) -> CollabDataLoaders:
        """Batches from two tables, split by the caller; the vocabularies cover both. Arguments as in `from_df`."""
        columns = _columns(train, user_name, item_name, rating_name, time_name)
        columns.check(valid)
        parts = _encode(train[columns.present], valid[columns.present], columns)
        return cls.from_interactions(*parts, path=path, seed=seed, **kwargs)

    @classmethod
    def from_csv(cls, csv: str | Path, **kwargs) -> CollabDataLoaders:
        """`from_df` of `pandas.read_csv(csv)`."""
        return cls.from_df(pd.read_csv(csv), **kwargs)

    @classmethod
    def from_parquet(cls, file: str | Path, **kwargs) -> CollabDataLoaders:
        """`from_df` of `pandas.read_parquet(file)`."""
        return cls.from_df(pd.read_parquet(file), **kwargs)

    @classmethod
    def from_interactions(
        cls,
        train: Interactions,
        valid: Interactions,
        *,
        path: str | Path = ".",
        seed: int | None = None,
        bs: int | None = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        device=None,
    ) -> CollabDataLoaders:
        """Batches from two encoded parts that share their vocabularies. Arguments as in `from_df`."""
        _say_duplicates(train, valid)
        bs = auto_bs(len(train)) if bs is None else bs
        val_bs = max(bs, 8192) if val_bs is None else val_bs
        order = seed if seed is not None else int(torch.randint(2**31, ()))
        loaders = [
            InteractionsLoader(train, bs=bs, shuffle=shuffle, drop_last=drop_last, seed=order),
            InteractionsLoader(valid, bs=val_bs, seed=order),
        ]
        dls = cls(*loaders, path=path, device=default_device() if device is None else torch.device(device))
        dls.seed = order
        return dls

    @property
    def classes(self) -> dict[str, Vocab]:
        """`{user column: users, item column: items}`; each `Vocab` has `#na#` at index 0 and an `o2i` mapping."""
        data = self.train.dataset
        return {data.columns.user: data.users, data.columns.item: data.items}

    @property
    def cat_names(self) -> list[str]:
        """The user and the item column, for fastai's `get_emb_sz(dls)`."""
        return list(self.classes)

    @property
    def n_inp(self) -> int:
        """Number of inputs in a batch: one, `x` `(bs, 2)`."""
        return 1

    def test_dl(
        self,
        test_items: pd.DataFrame,
        *,
        with_labels: bool = False,
        bs: int | None = None,
        rm_type_tfms=None,
        num_workers=0,
    ) -> InteractionsLoader:
        """A loader of new rows for `learn.get_preds(dl=...)`; unknown ids become index 0, counted in a `CollabWarning`.

        Args:
            test_items: a table with the user and item columns, and the rating column for `with_labels=True`.
            with_labels: batches `(x, y)` rather than `(x,)`.
            bs: rows a batch; default the validation loader's.
            rm_type_tfms, num_workers: taken for fastai's sake; there is nothing to remove and no worker process.
        """
        data = self.train.dataset
        columns = data.columns if with_labels else Columns(data.columns.user, data.columns.item)
        rows = Interactions.from_df(test_items, columns, users=data.users, items=data.items)
        return self.valid.new(rows, bs=self.valid.bs if bs is None else bs)


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


def _columns(df, user_name, item_name, rating_name, time_name) -> Columns:
    if rating_name is None and isinstance(df, pd.DataFrame):
        if len(df.columns) < 3:
            raise KeyError(f"a table of ratings needs a user, an item and a rating column; it has {list(df.columns)}")
        rating_name = df.columns[2]
    return name_columns(df, user_name, item_name, rating_name, time_name)


def _split(df: pd.DataFrame, columns: Columns, splitter) -> Split:
    if not callable(splitter):
        raise TypeError(f"splitter must be one of collabkit.splits or a function of the table, got {splitter!r}")
    if not isinstance(splitter, Splitter):  # fastai's form: a function of the table alone
        plain = splitter
        splitter = Splitter("the splitter", lambda df, _: (*plain(df), []))
    split = splitter(df, columns)
    for note in split.notes:
        warnings.warn(f"{split.by}: {note}", CollabWarning, stacklevel=3)
    return split


def _encode(train: pd.DataFrame, valid: pd.DataFrame, columns: Columns) -> tuple[Interactions, Interactions]:
    """Both parts, encoded with vocabularies that cover both."""
    data = Interactions.from_df(pd.concat([train, valid], ignore_index=True), columns)
    return data.take(range(len(train))), data.take(range(len(train), len(data)))


def _say_duplicates(train: Interactions, valid: Interactions) -> None:
    pairs = torch.cat([part.user_idx * part.n_items + part.item_idx for part in (train, valid)])
    repeated = len(pairs) - len(torch.unique(pairs))
    if repeated:
        warnings.warn(
            f"{repeated:,} of {len(pairs):,} rows repeat a (user, item) pair; all are kept. "
            "filters.drop_duplicates keeps one of each",
            CollabWarning,
            stacklevel=4,
        )
