"""`CollabDataLoaders`: a table of ratings or events -> batches for a fastai `Learner`, with fastai's signature."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pandas as pd
import torch
from fastai.data.core import DataLoaders
from fastai.torch_core import default_device
from scipy.sparse import issparse

from collabkit.data.checks import check_seed, no_table, whole
from collabkit.data.dataset import Dataset
from collabkit.data.features import SideFeatures
from collabkit.data.feedback import Implicit, read_feedback
from collabkit.data.frames import Table, read_source, takes_tables, to_pandas
from collabkit.data.interactions import Interactions
from collabkit.data.matrices import MatrixIds
from collabkit.data.memory import give_back
from collabkit.data.notices import CollabWarning, near_match, say
from collabkit.data.prepare import prepare, say_duplicates, table_columns
from collabkit.data.processes import own_device
from collabkit.data.splits import no_split, random_split
from collabkit.data.tables import check_one_name, with_dates
from collabkit.data.vocab import Vocab
from collabkit.data.weights import INVERSE, only_training_weights, weighted
from collabkit.datasets.tables import read_csv
from collabkit.evaluate.audit import audit
from collabkit.train.batches import ByUser, Pointwise, Ranked, Rated, Windows
from collabkit.train.delegates import delegates
from collabkit.train.from_files import streamed
from collabkit.train.loader import Loader, auto_bs
from collabkit.train.sampling import IN_ORDER, KnownNegatives, Met, make_sampler

__all__ = ["CollabDataLoaders", "check_dls"]


class CollabDataLoaders(DataLoaders):
    """Training and validation batches from a table of interactions; a replacement for fastai's `CollabDataLoaders`.

    Create it with `from_df`, `from_dfs`, `from_csv` or `from_parquet`.

    Example:
        >>> from collabkit import datasets
        >>> ratings = datasets.synthetic(seed=1).ratings
        >>> dls = CollabDataLoaders.from_df(ratings, user_name='user', item_name='title', seed=42)
        >>> x, y = dls.one_batch()
        >>> x.shape, y.shape, dls.classes['title'][0]
        (torch.Size([64, 2]), torch.Size([64, 1]), '#na#')
    """

    _data: Dataset | None = None  # read from the loaders if only these are given
    weights: str | None = None  # which weights the training rows have, as given to `from_df`
    _options: dict | None = None  # of `from_dataset`

    @classmethod
    def from_df(
        cls, ratings: Table, valid_pct: float = 0.2, user_name: str | None = None, item_name: str | None = None,
        rating_name: str | None = None, seed: int | None = None, path: str | Path = ".", *,
        time_name: str | None = None, context_features=(), splitter=None, feedback: str | Implicit = "explicit",
        rating_threshold: float | None = None, n_neg: int | None = None, negatives=None, by_user: bool = False,
        history: int | None = None, weights: str | None = None, users: Table | None = None,
        items: Table | None = None, user_features=None, item_features=None, bs: int | None = 64,
        val_bs: int | None = None, shuffle: bool = True,
        drop_last: bool = False, device=None,
    ) -> CollabDataLoaders:  # fmt: skip
        """Create batches from one table and split it into a training and a validation part.

        With `feedback='implicit'` every event is a positive, or only those rated at least `rating_threshold`. A
        repeated pair counts once (see `filters.positive_events`). Batches contain positives with sampled negatives.

        `weights` multiply the loss of the training rows, e.g. if a few items have most of the rows. They are scaled to
        mean 1, so that learning rates keep their meaning. They are the last tensor of a training batch, and
        `learn.fit_als` uses them too. Validation losses, metrics and predictions ignore weights. The artefact stores
        neither weights nor the loss, but it does store counts.

        Args:
            ratings: a table with one row per event (pandas, polars, Arrow or any other library that narwhals
                supports), or a scipy matrix, see `from_scipy`. With implicit feedback the rating column is read only
                if you name it.
            valid_pct: share of the rows, drawn at random, in the validation part. With 0 there is no validation part:
                all rows are used for training, fits show no validation figures, and `learn.evaluate` needs a table.
                Ignored if there is a `splitter`.
            user_name, item_name, rating_name, time_name: column names, in any order. The names of user, item and
                (explicit feedback) rating are optional if the columns can be identified by their names
                (`customer_id`, `sku`, `stars`, ...) or else, as in fastai, as the first three. The choice is
                reported unless it is the first columns with the standard names; an ambiguous choice raises an error;
                see `guess.guess_columns`. Times are used only if you name them, or with `history`, which depends on
                their order.
            context_features: columns with the context of a row (device, hour, page): names, or a dict from names to
                kinds as in `user_features`. A column of kind `'time'` is expanded into hour, weekday, season and age;
                see `features.Context`.
            seed: seed of the split, of the order of the batches and, by default, of the learner; with a seed the split
                is the same as fastai's.
            path: folder in which the learner saves files.
            splitter: one of `collabkit.splits`, any function DataFrame -> (training rows, validation rows), or the
                validation table itself.
            feedback: `'explicit'` (ratings) or `'implicit'` (clicks, views, purchases, liked items), or an object
                `Implicit(threshold=, negatives=, n_neg=, by_user=, history=, repeats=)`, which replaces the next five
                arguments and also has `counts=` (plays, quantities, repeats as confidence) and `dislikes=`.
            rating_threshold: with implicit feedback, the lowest rating that is a positive.
            n_neg, negatives, by_user, history: with implicit feedback, as in `Implicit`.
            weights: weights of the rows in the training loss. `'inverse_user'` or `'inverse_item'`: 1 / the number of
                training rows of the row's user or item, so that all users or items have the same total weight. Or the
                name of a column of nonnegative numbers; for a repeated pair, the weight of the row that is kept is
                used. (A column that has one of these two names must be renamed.)
            users, items: side information, one row per user (item): tables with the user (item) column of `ratings`.
            user_features, item_features: columns of these tables to use: names, or a dict from names to kinds; see
                `features.Features.from_df`. By default all informative columns. `print(dls.features.items)` shows the
                inferred kinds.
            bs: rows per training batch; None chooses it from the number of rows, see `auto_bs`.
            val_bs: rows per validation batch (affects only memory); default the larger of `bs` and 8,192.
            shuffle: use a new permutation in each epoch.
            drop_last: drop an incomplete last training batch.
            device: default fastai's `default_device()`.

        Raises:
            KeyError: a column is missing.
            ValueError, TypeError: ids, ratings or weights are missing, infinite or of the wrong type; weights are
                negative, or 0 in all training rows; the training or validation part would be empty.
        """
        given = {"threshold": rating_threshold, "n_neg": n_neg, "negatives": negatives, "by_user": by_user}
        feedback = read_feedback(feedback, **given, history=history)
        rated = feedback is None or feedback.threshold is not None
        check_one_name(user_name, item_name, rating_name, time_name)
        names = (user_name or "user", item_name or "item", rating_name or ("rating" if rated else "count"))
        ratings, source = read_source(ratings, names, rated=rated)
        if source.matrix is not None:
            user_name, item_name, rating_name = *names[:2], names[2] if rated else rating_name
            splitter = (splitter, source.matrix) if issparse(splitter) else splitter  # with the same rows and columns
        splitter = read_source(splitter, names, rated=rated)[0]
        users, items = to_pandas(users), to_pandas(items)
        columns = table_columns(ratings, user_name, item_name, rating_name, time_name, context_features, feedback)
        if splitter is None:
            splitter = no_split() if valid_pct == 0 else random_split(valid_pct, seed=seed)
            if valid_pct and feedback is not None and feedback.history is not None:
                say("rows are held out at random, so a model trains on events later than those it predicts; pass "
                    "splitter=splits.leave_last_out() or splits.time_split() to evaluate the next event")  # fmt: skip
        sides = {"users": users, "items": items, "user_features": user_features, "item_features": item_features}
        data = prepare(ratings, columns, splitter=splitter, feedback=feedback, weights=weights, **sides,
                       context_features=context_features)  # fmt: skip
        options = {"path": path, "seed": seed, "bs": bs, "val_bs": val_bs, "shuffle": shuffle, "drop_last": drop_last}
        data = replace(data, source=source)
        del ratings
        if feedback is not None:  # here, where the rows in another order are not kept by a caller
            data = data.sorted_by_user()
        give_back()  # columns were allocated and freed several times
        return cls.from_dataset(data, feedback=feedback, device=device, weights=weights, **options)

    @classmethod
    @delegates(from_df.__func__, but=["ratings", "valid_pct", "splitter"])
    def from_dfs(
        cls, train: Table, valid: Table, user_name: str | None = None, item_name: str | None = None,
        rating_name: str | None = None, seed: int | None = None, path: str | Path = ".", **kwargs,
    ) -> CollabDataLoaders:  # fmt: skip
        """Create batches from two tables, split by the caller; the vocabularies cover both. Arguments as in `from_df`.

        With implicit feedback, validation pairs that also occur in the training part are dropped (and counted). A
        column of `weights` is needed only in `train`.
        """
        valid = valid if issparse(valid) else to_pandas(valid)
        if not (issparse(valid) or isinstance(valid, pd.DataFrame)):
            raise TypeError(f"valid must be a DataFrame of interactions, {no_table(valid)}")
        _options_of("from_dfs", kwargs)
        if odd := sorted({"valid_pct", "splitter"} & set(kwargs)):
            raise TypeError(f"from_dfs() got {', '.join(odd)}, but the tables are split already")
        names = {"user_name": user_name, "item_name": item_name, "rating_name": rating_name}
        return cls.from_df(train, splitter=valid, seed=seed, path=path, **names, **kwargs)

    @classmethod
    @delegates(from_df.__func__, but="ratings")
    def from_csv(cls, csv: str | Path, **kwargs) -> CollabDataLoaders:
        """Call `from_df` on the table in a CSV file; strings in the column `time_name` are parsed as dates.

        Columns may be separated by semicolons, tabs or bars instead of commas, which is said. Dates such as 03.07.2026
        are read with the day first; those with slashes or dashes are an error if no day above 12 tells the order.
        Files that need other options (decimal commas, encodings) are read by `pandas.read_csv`, then by `from_df`.
        """
        _options_of("from_csv", kwargs)
        if isinstance(csv, pd.DataFrame):
            raise TypeError("from_csv takes the path of a file, got a DataFrame: pass it to from_df")
        try:
            table = read_csv(csv) if isinstance(csv, (str, Path)) else pd.read_csv(csv)
        except ValueError as error:  # pandas' parser does not say which file it was
            raise ValueError(f"{csv} cannot be read as CSV: {error}") from error
        return cls.from_df(with_dates(table, kwargs.get("time_name")), **kwargs)

    @classmethod
    @delegates(from_df.__func__, but="ratings")
    def from_parquet(
        cls, file: str | Path, *, stream: bool = False, cache: str | Path | None = None, **kwargs
    ) -> CollabDataLoaders:  # fmt: skip
        """Call `from_df` on `pandas.read_parquet(file)`, or stream files that are larger than memory.

        With `stream=True` Polars encodes the files without loading them as a table. The encoded columns are stored in
        the folder `cache`, sorted by user, and batches are read from there. The next call with the same files and
        options reuses them. Epochs mix blocks of neighbouring rows, see `BlockOrder`. Models are used in the same way.
        A stream has these differences: the rows held out are drawn one by one with the probability `valid_pct`, or by
        one of `collabkit.splits`, which gets indices instead of ids; unusual types of ids, times and ratings are not
        converted; and `weights`, `context_features`, `counts` and `dislikes` are not supported.

        Args:
            file: a Parquet file; with `stream=True` also a folder of its parts.
            stream: whether to stream the files. Needs `pip install 'collabkit[scale]'`.
            cache: folder of the cache, about 20 bytes per row; each set of files and options has its own subfolder.

        Raises:
            ImportError: Polars is missing.
            FileNotFoundError, KeyError, TypeError, ValueError: a part is missing or damaged, or its schema or type of
                ids differs from the others; also as in `from_df`.
            OSError: the disk of the cache is full; finished parts are kept.
        """
        if not stream:
            _options_of("from_parquet", kwargs)
            if cache is not None:
                raise ValueError("cache= is for stream=True, which reads files that are larger than memory")
            return cls.from_df(pd.read_parquet(file), **kwargs)
        if cache is None:
            raise ValueError("stream=True needs cache=, a folder for the encoded columns: some 20 bytes a row")
        data, feedback, options = streamed(file, cache, kwargs)
        return cls.from_dataset(data, feedback=feedback, **options)

    @classmethod
    @delegates(from_df.__func__, but="ratings")
    def from_scipy(cls, matrix, user_ids=None, item_ids=None, **kwargs) -> CollabDataLoaders:
        """Create batches from a scipy matrix of users by items, whose values are ratings or, if implicit, counts.

        The columns of its table are `user`, `item` and `rating` (`count`). Duplicate entries, stored zeros, and users
        or items without entries are counted; see `matrices.matrix_table`. `recommend(history=)`, `evaluate(on=)` and
        similar methods accept matrices with the same columns.

        Args:
            matrix: `(n users, n items)` in any sparse format.
            user_ids, item_ids: ids of its rows and columns; default 0, 1, 2, ...
            **kwargs: arguments of `from_df`.

        Raises:
            ValueError: the number of ids differs from the number of rows or columns, or ids are repeated; values are
                missing, infinite or negative; a pair has more than one rating.

        Example:
            >>> from scipy.sparse import csr_array
            >>> plays = csr_array([[1, 2, 0], [0, 1, 1], [3, 0, 1]])
            >>> dls = CollabDataLoaders.from_scipy(plays, item_ids=['a', 'b', 'c'], feedback='implicit', seed=0)
            >>> dls.train.dataset.n_items
            4
        """
        _options_of("from_scipy", kwargs)
        if not issparse(matrix):
            raise TypeError(f"from_scipy() takes a scipy sparse matrix, got {type(matrix).__name__}")
        names = (kwargs.get("user_name") or "user", kwargs.get("item_name") or "item")
        return cls.from_df((matrix, MatrixIds.of(matrix, to_pandas(user_ids), to_pandas(item_ids), names)), **kwargs)

    @classmethod
    def from_interactions(
        cls, train: Interactions, valid: Interactions | None = None, *, feedback: str | Implicit = "explicit",
        n_neg: int | None = None, negatives=None, by_user: bool = False, features: SideFeatures | None = None,
        **options,
    ) -> CollabDataLoaders:  # fmt: skip
        """Create batches from one encoded part, or from two that share their vocabularies. Arguments as in `from_df`.

        `features` are the side features of users and items, row-aligned with the vocabularies.
        Weights are those in `train.weight`, scaled to mean 1; those of `valid` are ignored.
        """
        feedback = read_feedback(feedback, n_neg=n_neg, negatives=negatives, by_user=by_user)
        train, valid = only_training_weights(train, valid)
        if feedback is not None and any(part is not None and part.rating is not None for part in (train, valid)):
            raise ValueError("implicit feedback has no ratings: from_df and from_dfs make events of them")
        features = (SideFeatures() if features is None else features)._replace(context=train.contexts)
        data = Dataset(train, valid, features=features)
        return cls.from_dataset(data, feedback=feedback, **options)

    @classmethod
    def from_dataset(
        cls, data: Dataset, *, feedback: Implicit | None = None, path: str | Path = ".", seed: int | None = None,
        bs: int | None = 64, val_bs: int | None = None, shuffle: bool = True, drop_last: bool = False, device=None,
        weights: str | None = None,
    ) -> CollabDataLoaders:  # fmt: skip
        """Create batches from a `Dataset`. Arguments as in `from_df`; `feedback` is None for ratings.

        Without a validation part the validation loader has no batches.
        """
        if feedback is not None:  # samplers and histories need the order of users and times
            data = data.sorted_by_user()
        if (feedback is None or feedback.repeats != "keep") and not data.train.stored:  # else wanted or reported
            say_duplicates(data.train, data.valid)
        bs = auto_bs(len(data.train)) if bs is None else whole("bs", bs)
        order = int(torch.randint(2**31, ())) if seed is None else check_seed(seed)
        first, second = _batches(data, feedback)
        if isinstance(first, Windows):  # a batch has places for at least 32 of them
            bs = max(bs, 32 * first.length)
        if val_bs is None:  # with shared negatives, a validation batch has an equally large matrix of scores
            val_bs = bs if first.shares_negatives else max(bs, 8192)
        train = Loader(first, bs=bs, shuffle=shuffle, drop_last=drop_last, seed=order)
        device = (own_device() or default_device()) if device is None else torch.device(device)
        dls = cls(train, Loader(second, bs=val_bs, seed=order), path=path, device=device)
        dls.seed, dls._data, dls.weights = order, data, weights
        options = {"path": path, "seed": order, "bs": bs, "val_bs": val_bs, "shuffle": shuffle, "device": device}
        dls._options = {**options, "feedback": feedback, "drop_last": drop_last, "weights": weights}
        return dls

    def of(self, data: Dataset) -> CollabDataLoaders:
        """Create batches of other data with the same options: batch size, negatives, seed, and kind of weights.

        Raises:
            TypeError: these dataloaders were put together by hand.
            ValueError: the weights came from a column, which is not stored.
        """
        self.check_of(weighted=data.train.weight is not None)
        if self.weights in INVERSE:
            data = replace(data, train=weighted(data.train, self.weights, None, None))
        return self.from_dataset(data, **self._options)

    def check_of(self, weighted: bool = False) -> None:
        """Raise the errors that `of` would raise for data whose training rows are `weighted` or not."""
        if self._options is None:
            raise TypeError("these dataloaders were built from single loaders: make them by CollabDataLoaders.from_df")
        train = self.train.dataset  # weights made from counts are made again from those of the other data
        if self.weights not in INVERSE and train.weight is not None and train.count is None and not weighted:
            raise ValueError(f"the weights of the rows ({self.weights or 'given'}) are known for the training rows "
                             "alone: make new dataloaders of the whole table, from_df(valid_pct=0)")  # fmt: skip

    def with_data(self, data: Dataset) -> CollabDataLoaders:
        """Return the same batches with data that has more ids; another learner may use them with its own model."""
        parts = data.train, _held_out(data)
        return self._with((dl.new(part) for dl, part in zip(self.loaders, parts, strict=True)), _data=data)

    def asking(self, needs: Sequence[str]) -> CollabDataLoaders:
        """Return the same batches with the parts of a query that a model needs; see `Model.needs`."""
        if tuple(needs) == self._needs:
            return self
        return self._with(dl.new(batches=dl.batches.asking(needs)) for dl in self.loaders)

    _needs = property(attrgetter("train.batches.needs"), doc="What the queries of the batches have.")

    def _with(self, loaders, **attributes) -> CollabDataLoaders:
        dls = copy(self)
        dls.__dict__.update(loaders=list(loaders), **attributes)
        return dls

    def __repr__(self) -> str:
        lines = [f"CollabDataLoaders on {self.device}"]
        lines += [f"{name}: {dl.dataset!r}, bs {dl.bs:,}" for name, dl in zip(("train", "valid"), self, strict=True)]
        if (weight := self.train.dataset.weight) is not None:
            lines.append(f"weights: {self.weights or 'given'}, {weight.min():.3g} to {weight.max():.3g} (mean 1)")
        lines += [repr(side).replace("\n", "\n  ") for side in self.features if side is not None]
        return "\n  ".join(lines)

    @property
    def data(self) -> Dataset:
        """The `Dataset` behind the batches, even if another loader was put into `loaders`."""
        train, valid = (loader.dataset for loader in self.loaders[:2])
        valid = valid if len(valid) else None
        if self._data is None or train is not self._data.train or valid is not self._data.valid:
            self._data = replace(self._data or Dataset(train), train=train, valid=valid)
        return self._data

    @property
    def features(self) -> SideFeatures:
        """The side features of users and of items, each `Features` or None."""
        return self.data.features

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
    def feedback(self) -> str:
        """`'explicit'`, or `'implicit'` if the batches have sampled negatives."""
        return "explicit" if isinstance(self.train.batches, Rated) and self.data.rated else "implicit"

    @property
    def history(self) -> int | None:
        """The number of events that each window of history looks back on; None if made without `history=`."""
        batches = self.train.batches
        return batches.length if isinstance(batches, Windows) else None

    @property
    def n_inp(self) -> int:
        """Number of inputs in a batch: one (`x` `(bs, 2)`), or three if implicit (users, positives and negatives)."""
        return self.train.n_inp

    def pointwise(self) -> CollabDataLoaders:
        """The same implicit data as single pairs, `x (m, 2)` and `y (m, 1)`; see `batches.Pointwise`.

        For use with a plain fastai `Learner` and a module that takes only `x`. Not available for data with weights.
        """
        if self.feedback != "implicit":
            raise ValueError("explicit feedback already has batches x (bs, 2), y (bs, 1); pointwise() is for implicit")
        return self._with(dl.new(batches=Pointwise(dl.batches)) for dl in self.loaders)

    def audit(self, k: int = 10) -> pd.DataFrame:
        """Describe the data and report possible problems before training; see `collabkit.evaluate.audit.audit`."""
        if self.data.valid is None:
            raise ValueError("audit() compares the training with the validation part, and there is none (valid_pct=0)")
        return audit(self.data.train, self.data.valid, k=k)

    @takes_tables
    def test_dl(
        self, test_items: Table, *, with_labels: bool = False, bs: int | None = None, rm_type_tfms=None,
        num_workers: int = 0, process: bool = True,
    ) -> Loader:  # fmt: skip
        """Create a loader of new rows for `learn.get_preds(dl=...)`; unknown ids become index 0 with a `CollabWarning`.

        Args:
            test_items: a table with the user and item columns, and the rating column for `with_labels=True`.
            with_labels: return batches `(x, y)` instead of `(x,)`.
            bs: rows per batch; default that of the validation loader.
            rm_type_tfms, num_workers, process: accepted for compatibility with fastai and ignored: there are no
                transforms to remove and no workers, and ids are always encoded.
        """
        data = self.data.train
        time = data.columns.time if "time" in self._needs else None
        columns = replace(data.columns, time=time, rating=data.columns.rating if with_labels else None)
        before = self.data.trained if "history" in self._needs else None
        rows = Rated(data.encode(test_items, columns), before).asking(self._needs)
        return Loader(rows, bs=self.valid.bs if bs is None else bs, seed=self.seed, device=self.device)


def check_dls(what: str, dls, kind: type = CollabDataLoaders) -> None:
    """Raise `TypeError` unless `dls` are dataloaders of this `kind`; `what` takes them."""
    if isinstance(dls, kind):
        return
    make = "from_df(df)"
    if isinstance(dls, (str, Path)):
        make = f"from_csv({str(dls)!r})"
    raise TypeError(f"{what} takes CollabDataLoaders, got {type(dls).__name__}: make them with "
                    f"CollabDataLoaders.{make}, and with feedback='implicit' if the rows have no ratings")  # fmt: skip


def _options_of(method: str, kwargs: dict) -> None:
    """Raise `TypeError` for arguments of `from_csv` and its kin that `from_df` does not take."""
    if not (odd := [name for name in kwargs if name not in _FROM_DF]):
        return
    of_pandas = inspect.signature(pd.read_csv).parameters
    if method == "from_csv" and (given := [name for name in odd if name in of_pandas]):
        sep = " finds the separator by itself, and" if {"sep", "delimiter"} & set(given) else ""
        raise TypeError(f"from_csv{sep} takes no options of pd.read_csv, got {', '.join(given)}: leave them out, or "
                        f"use from_df(pd.read_csv(file, {given[0]}=...), ...)")  # fmt: skip
    raise TypeError(f"CollabDataLoaders.{method}() got an unexpected keyword argument {odd[0]!r}"
                    f"{near_match(odd[0], _FROM_DF)}")  # fmt: skip


_FROM_DF = tuple(inspect.signature(CollabDataLoaders.from_df).parameters)[1:]  # without the table


def _held_out(data: Dataset) -> Interactions:
    """The validation rows; empty if there is no such part."""
    return data.train.new_empty() if data.valid is None else data.valid


def _batches(data: Dataset, feedback: Implicit | None) -> tuple[Rated | Ranked, Rated | Ranked]:
    """Batches of the training and the validation rows; validation events are not negatives in the latter."""
    train, valid = data.train, _held_out(data)
    if feedback is None:
        return Rated(train), Rated(valid)
    if feedback.history is not None:
        sampler = make_sampler(feedback.negatives, train, IN_ORDER)
        windows = Windows(train, sampler, feedback.n_neg, feedback.history)
        events = Ranked(valid, sampler, feedback.n_neg, data.trained, feedback.history)
        return windows.asking(("history",)), events.asking(("history",))
    first, n_neg = _sampler(data, feedback, train), feedback.n_neg
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)  # reported for the training part
        try:
            second = first if len(valid) == 0 else _sampler(data, feedback, train, valid)
        except ValueError:  # in both parts together, all users have met all items
            second = first
    if feedback.by_user:
        return ByUser(train, first, n_neg), ByUser(valid, second, n_neg)
    before = data.trained if len(valid) else None  # the items that they had met
    return Ranked(train, first, n_neg), Ranked(valid, second, n_neg, before)


def _sampler(data: Dataset, feedback: Implicit, *parts: Interactions):
    """The sampler of negatives of `parts`, with those that are known, if there are any."""
    if data.disliked is None:
        return make_sampler(feedback.negatives, _together(data, feedback, parts))
    sampler = make_sampler(feedback.negatives, _together(data, feedback, (*parts, data.disliked)))
    if sampler.shared and feedback.dislikes is None:  # as of an artefact
        return make_sampler(feedback.negatives, _together(data, feedback, parts))
    return KnownNegatives(sampler, data.disliked.pairs)


def _together(data: Dataset, feedback: Implicit, parts: tuple[Interactions, ...]) -> Interactions | Met:
    """What a sampler is made from; a copy of all rows only for a function of the caller."""
    if len(parts) == 1:
        return parts[0]
    if data.train.stored:
        return data.events
    if isinstance(feedback.negatives, str):
        return Met(parts)
    return Interactions.concat(*(replace(part, context={}, contexts=None) for part in parts))
