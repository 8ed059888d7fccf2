"""`CollabDataLoaders`: a table of ratings or events -> batches for a fastai `Learner`, with fastai's signature."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from fastai.data.core import DataLoaders
from fastai.torch_core import default_device

from collabkit.audit import audit
from collabkit.features import SideFeatures
from collabkit.filters import positive_events
from collabkit.interactions import CollabWarning, Interactions, check_seed
from collabkit.loader import InteractionsLoader, auto_bs
from collabkit.parts import (
    encode_parts,
    is_implicit,
    positive_parts,
    say_duplicates,
    split_rows,
    table_columns,
)
from collabkit.ranking_loader import PointwiseLoader, RankingLoader, UserLoader
from collabkit.row_weights import check_weight_column, only_training_weights, weighted
from collabkit.sampling import make_sampler
from collabkit.splits import random_split
from collabkit.vocab import Vocab

__all__ = ["CollabDataLoaders"]


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

    features = SideFeatures()  # of users and items, if any
    weights: str | None = None  # which weights the training rows have, as given to `from_df`

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
        feedback: str = "explicit",
        rating_threshold: float | None = None,
        n_neg: int | None = None,
        negatives=None,
        by_user: bool = False,
        weights: str | None = None,
        users: pd.DataFrame | None = None,
        items: pd.DataFrame | None = None,
        user_features=None,
        item_features=None,
        bs: int | None = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        device=None,
    ) -> CollabDataLoaders:
        """Batches from one table, which is split here.

        With `feedback='implicit'` every event is a positive, or those rated at least `rating_threshold`; a repeated
        pair counts once (see `filters.positive_events`), and the batches are positives with sampled negatives.

        With `weights` the loss of a training row counts so many times, e.g. where a few items have most of the rows.
        They are scaled to mean 1, so that learning rates keep their meaning, and are the last tensor of a training
        batch. Validation losses and metrics, predictions and `learn.fit_als` know no weights, and the artefact keeps
        none, as it keeps no loss.

        Args:
            ratings: a row an event; its first three columns are user, item and rating unless named. With implicit
                feedback only a named rating column is read.
            valid_pct: share of the rows, drawn at random, that is validation; ignored with a `splitter`.
            user_name, item_name, rating_name, time_name: columns, in any order.
            seed: of the split, the order of the batches and, by default, the learner; the split is then fastai's.
            path: where the learner saves.
            splitter: one of `collabkit.splits`, or any function DataFrame -> (training rows, validation rows).
            feedback: `'explicit'` (ratings) or `'implicit'` (clicks, views, purchases, liked items).
            rating_threshold: with implicit feedback, the lowest rating that is a positive.
            n_neg: with implicit feedback, negatives a positive; default 4.
            negatives: and where they come from: `'uniform'` (default) or `'popularity'` (items the user has not seen),
                `'shared'`, `'in_batch'` or `'all'` (the same for the whole batch), or a function of the training
                interactions that makes a sampler; see `collabkit.sampling`.
            by_user: with implicit feedback and `'shared'` negatives, batches of `bs` whole users rather than `bs`
                events: a softmax then costs its sum once a user; see `ranking_loader.UserLoader`.
            weights: of the rows in the training loss: `'inverse_user'` or `'inverse_item'`, 1 / the number of training
                rows of the row's user or item, so that all of them count the same; or the name of a column of numbers
                of at least 0, of which a repeated pair's row that stays has its own (a column that is called as one
                of the two words must be renamed).
            users, items: side information, a row a user (item): tables with the user (item) column of `ratings`.
            user_features, item_features: their columns to use: names, or a dict from names to kinds; see
                `features.Features.from_df`. Default all that tell something. The kinds that were inferred are shown by
                `print(dls.features.items)`.
            bs: rows a training batch; None picks one from the number of rows, see `auto_bs`.
            val_bs: rows a validation batch (memory only); default the larger of `bs` and 8,192.
            shuffle: a new permutation each epoch.
            drop_last: leave out an incomplete last training batch.
            device: default fastai's `default_device()`.

        Raises:
            KeyError: a column is missing.
            ValueError, TypeError: ids, ratings or weights are missing, infinite or of the wrong type; weights are
                negative, or 0 in all training rows; a part would be empty.
        """
        implicit = is_implicit(feedback, rating_threshold)
        columns = table_columns(ratings, user_name, item_name, rating_name, time_name, implicit)
        check_weight_column(ratings, weights)
        data = Interactions.from_df(ratings, columns)  # before the split, so that errors name the caller's rows
        if implicit:
            ratings = positive_events(ratings, columns, rating_threshold)
        split = split_rows(ratings, columns, random_split(valid_pct, seed=seed) if splitter is None else splitter)
        if not implicit and len(split.train) + len(split.valid) == len(data):
            parts = [data.take(rows) for rows in split]
        else:  # the vocabularies cover what is used
            read = replace(columns, rating=None) if implicit else columns
            parts = encode_parts(*(ratings.iloc[rows][read.present] for rows in split), read)
        options = {"path": path, "seed": seed, "bs": bs, "val_bs": val_bs, "shuffle": shuffle, "drop_last": drop_last}
        options |= {"feedback": feedback, "n_neg": n_neg, "negatives": negatives, "by_user": by_user, "device": device}
        options["features"] = SideFeatures.of(parts[0], users, items, user_features, item_features)
        dls = cls.from_interactions(weighted(parts[0], weights, ratings, split.train), parts[1], **options)
        dls.weights = weights
        return dls

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
        feedback: str = "explicit",
        rating_threshold: float | None = None,
        weights: str | None = None,
        users: pd.DataFrame | None = None,
        items: pd.DataFrame | None = None,
        user_features=None,
        item_features=None,
        **kwargs,
    ) -> CollabDataLoaders:
        """Batches from two tables, split by the caller; the vocabularies cover both. Arguments as in `from_df`.

        With implicit feedback a pair of the validation part that training holds too is left out of it (counted). A
        column of `weights` need be in `train` alone.
        """
        implicit = is_implicit(feedback, rating_threshold)
        columns = table_columns(train, user_name, item_name, rating_name, time_name, implicit)
        columns.check(valid)
        check_weight_column(train, weights)
        parts, kept = (train[columns.present], valid[columns.present]), slice(None)
        if implicit:
            *parts, kept = positive_parts(*parts, columns, rating_threshold)
            columns = replace(columns, rating=None)
        first, second = encode_parts(*(part[columns.present] for part in parts), columns)
        options = {"path": path, "seed": seed, "feedback": feedback, **kwargs}
        options["features"] = SideFeatures.of(first, users, items, user_features, item_features)
        dls = cls.from_interactions(weighted(first, weights, train, kept), second, **options)
        dls.weights = weights
        return dls

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
        feedback: str = "explicit",
        n_neg: int | None = None,
        negatives=None,
        by_user: bool = False,
        bs: int | None = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        device=None,
        features: SideFeatures | None = None,
    ) -> CollabDataLoaders:
        """Batches from two encoded parts that share their vocabularies. Arguments as in `from_df`.

        `features` are the side features of users and items, row-aligned with the vocabularies.
        Weights are those of `train.weight`, scaled to mean 1; those of `valid` are left out.
        """
        train, valid = only_training_weights(train, valid)
        say_duplicates(train, valid)
        bs = auto_bs(len(train)) if bs is None else bs
        order = int(torch.randint(2**31, ())) if seed is None else check_seed(seed)
        first, second, options = {"bs": bs, "shuffle": shuffle, "drop_last": drop_last}, {}, {"seed": order}
        make, second["bs"] = InteractionsLoader, max(bs, 8192)
        if is_implicit(feedback):
            if train.rating is not None or valid.rating is not None:
                raise ValueError("implicit feedback has no ratings: from_df and from_dfs make events of them")
            train, valid = (part.sorted_by_user() for part in (train, valid))
            make, options["n_neg"] = UserLoader if by_user else RankingLoader, 4 if n_neg is None else n_neg
            first["sampler"], second["sampler"] = _samplers("uniform" if negatives is None else negatives, train, valid)
            if first["sampler"].shared:
                second["bs"] = bs  # a validation batch has as large a matrix of scores as a training batch
        elif n_neg is not None or negatives is not None or by_user:
            raise ValueError(
                f"{n_neg=}, {negatives=}, {by_user=} are for feedback='implicit'; ratings need no negatives"
            )
        if val_bs is not None:
            second["bs"] = val_bs
        loaders = [make(part, **own, **options) for part, own in ((train, first), (valid, second))]
        dls = cls(*loaders, path=path, device=default_device() if device is None else torch.device(device))
        dls.seed, dls.features = order, SideFeatures() if features is None else features
        return dls

    def __repr__(self) -> str:
        parts = "\n  ".join(
            f"{name}: {dl.dataset!r}, bs {dl.bs:,}" for name, dl in zip(("train", "valid"), self, strict=True)
        )
        weight = self.train.dataset.weight
        if weight is not None:
            name = "given" if self.weights is None else self.weights
            parts += f"\n  weights: {name}, {weight.min():.3g} to {weight.max():.3g} (mean 1)"
        for side in self.features:
            parts += "" if side is None else "\n  " + repr(side).replace("\n", "\n  ")
        return f"CollabDataLoaders on {self.device}\n  {parts}"

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
        """`'explicit'`, or `'implicit'` where the batches have sampled negatives."""
        return "implicit" if isinstance(self.train, RankingLoader) else "explicit"

    @property
    def n_inp(self) -> int:
        """Number of inputs in a batch: one, `x` `(bs, 2)`; three, users, positives and negatives, if implicit."""
        return self.train.n_inp

    def pointwise(self) -> CollabDataLoaders:
        """The same implicit data as single pairs, `x (m, 2)` and `y (m, 1)`; see `ranking_loader.PointwiseLoader`.

        For a module that takes `x` alone and a plain fastai `Learner`. There is none of data with weights.
        """
        if self.feedback != "implicit":
            raise ValueError("explicit feedback has batches x (bs, 2), y (bs, 1) already; pointwise() is for implicit")
        loaders = [dl.new(cls=PointwiseLoader) for dl in self]
        dls = type(self)(*loaders, path=self.path, device=self.device)
        dls.seed, dls.features = self.seed, self.features
        return dls

    def audit(self, k: int = 10) -> pd.DataFrame:
        """What is in the data, and what to beware of before training; see `collabkit.audit.audit`."""
        return audit(self.train.dataset, self.valid.dataset, k=k)

    def test_dl(
        self,
        test_items: pd.DataFrame,
        *,
        with_labels: bool = False,
        bs: int | None = None,
        rm_type_tfms=None,
        num_workers: int = 0,
        process: bool = True,
    ) -> InteractionsLoader:
        """A loader of new rows for `learn.get_preds(dl=...)`; unknown ids become index 0, counted in a `CollabWarning`.

        Args:
            test_items: a table with the user and item columns, and the rating column for `with_labels=True`.
            with_labels: batches `(x, y)` rather than `(x,)`.
            bs: rows a batch; default the validation loader's.
            rm_type_tfms, num_workers, process: taken for fastai's sake; there is nothing to remove, no worker, and
                ids are always encoded.
        """
        data = self.train.dataset
        columns = replace(data.columns, time=None, rating=data.columns.rating if with_labels else None)
        rows = Interactions.from_df(test_items, columns, users=data.users, items=data.items)
        return InteractionsLoader(rows, bs=self.valid.bs if bs is None else bs, seed=self.seed, device=self.device)


def _samplers(negatives, train: Interactions, valid: Interactions) -> tuple:
    """Samplers of the training and of the validation batches; in the latter validation events are no negatives."""
    first = make_sampler(negatives, train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)  # said of the training part
        try:
            return first, make_sampler(negatives, Interactions.concat(train, valid))
        except ValueError:  # between both parts everybody has met everything
            return first, make_sampler(negatives, train)
