"""What every model shares: broadcasting `forward`, the rating scale, side features, and rows by external id."""

from __future__ import annotations

import math
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from collabkit.features import Features, SideFeatures
from collabkit.models.feature_rows import FeatureRows
from collabkit.models.sparse_dot import row_dots
from collabkit.vocab import Vocab

__all__ = ["CollabModel", "check_y_range", "evaluating", "device_of"]


class CollabModel(nn.Module):
    """Base of the models: a score for a user and an item, from one row of each side's tables.

    A model defines `embeddings(is_item)`, the tables of each side, and `interact(user_rows, item_rows)`, which turns
    the looked-up rows `(..., d)` into a logit. Everything else follows from these. With side features a row is what the
    id's own row in the tables and the features give together; see `add_features`.

    Args:
        n_users, n_items: rows of the tables; row 0 is the unknown id.
        y_range: `(low, high)` of the ratings; the logit goes through a sigmoid scaled to it. None gives logits.

    Raises:
        ValueError: a table of fewer than two rows, or `y_range` not two finite increasing numbers.
    """

    joins = "sum"  # how the features' part meets the id's: added to it, or 'concat'

    def __init__(self, n_users: int, n_items: int, y_range: tuple[float, float] | None = None):
        super().__init__()
        if n_users < 2 or n_items < 2:
            raise ValueError(f"tables need the unknown row and at least one more, got {n_users=} and {n_items=}")
        self.n_users, self.n_items, self.y_range = n_users, n_items, check_y_range(y_range)
        self.users: Vocab | None = None
        self.items: Vocab | None = None
        self.id_dropout = 0.0
        self.user_features: FeatureRows | None = None
        self.item_features: FeatureRows | None = None

    def add_features(self, features, id_dropout: float = 0.0, init_std: float = 0.01, sizes=None) -> None:
        """Take side features in; called at the end of a constructor, or as soon as the tables are there.

        Args:
            features: `(users, items)`, each a `Features` or None, row-aligned with the tables; None for none at all.
            id_dropout: share of the ids whose own row is zero in a training step, so that the features' part alone is a
                trained predictor too: it is what new ids have (Volkovs et al., "DropoutNet", 2017).
            init_std: standard deviation of the initial weights of the features.
            sizes: widths by the names of features, where each has its own (`joins = 'concat'`).

        Raises:
            ValueError: features of other tables; an option out of range, or without a feature to apply to.
        """
        if not 0 <= id_dropout < 1:
            raise ValueError(f"id_dropout must lie in [0, 1), got {id_dropout!r}")
        if isinstance(features, Features):
            raise TypeError("features must be a pair (users, items), each Features or None, e.g. (None, item_features)")
        names = {field.name for side in features or () if side is not None for field in side.fields}
        if (id_dropout or sizes) and not names:
            raise ValueError(f"{id_dropout=} and feature_szs={sizes} are for models with side features, this has none")
        if odd := sorted(set(sizes or {}) - names):
            raise ValueError(f"feature_szs names features {odd}; there are {sorted(names)}")
        for is_item, given in enumerate(features or ()):
            if given is None:
                continue
            if getattr(self, "sparse", False):
                raise ValueError("sparse=True is for tables alone: the weights of features have dense gradients")
            tables = self.tables(bool(is_item))
            if len(given) != len(tables[0]):
                raise ValueError(f"features of {len(given)} rows for tables of {len(tables[0])}: they belong to others")
            self.id_dropout = float(id_dropout)
            widths = [table.shape[1] for table in tables]
            rows = FeatureRows(given, widths, joins=self.joins, init_std=init_std, sizes=sizes)
            setattr(self, "item_features" if is_item else "user_features", rows)

    @property
    def features(self) -> SideFeatures:
        """The side features of users and items, each `Features` or None."""
        sides = (self.features_of(is_item) for is_item in (False, True))
        return SideFeatures(*(None if side is None else side.features for side in sides))

    def refuse_features(self, what: str) -> None:
        """Raise `TypeError` where the model has side features, which `what` knows nothing of."""
        if self.features:
            raise TypeError(f"{what} without side features; make the model or the dataloaders without them")

    def features_of(self, is_item: bool) -> FeatureRows | None:
        """The features' part of one side's rows, or None."""
        return self.item_features if is_item else self.user_features

    def user_rows(self, idx: Tensor) -> tuple[Tensor, ...]:
        """The user side's parts `(..., d)` for `idx` `(...)`."""
        return self.join(False, idx, tuple(table(idx) for table in self.embeddings(False)))

    def item_rows(self, idx: Tensor) -> tuple[Tensor, ...]:
        """The item side's parts `(..., d)` for `idx` `(...)`."""
        return self.join(True, idx, tuple(table(idx) for table in self.embeddings(True)))

    def join(self, is_item: bool, idx: Tensor, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What `interact` takes: an id's own `rows` `[(..., d), ...]` with the features of `idx` `(...)`."""
        features = self.features_of(is_item)
        if features is None:
            return rows
        if self.training and self.id_dropout > 0:
            keep = torch.rand(idx.shape, device=idx.device)[..., None] >= self.id_dropout
            rows = tuple(part * keep for part in rows)
        return features.join(idx, rows)

    def embeddings(self, is_item: bool) -> list[nn.Embedding]:
        """The embeddings of one side, in the order of `user_rows` or `item_rows`."""
        raise NotImplementedError

    def interact(self, user_rows: tuple[Tensor, ...], item_rows: tuple[Tensor, ...]) -> Tensor:
        """Logits of the broadcast shape of the leading dimensions of the two sides' parts."""
        raise NotImplementedError

    def tables(self, is_item: bool) -> list[nn.Parameter]:
        """The embedding tables `(n, d)` of one side: the ids' own rows, without what features add."""
        return [table.weight for table in self.embeddings(is_item)]

    @torch.no_grad()
    def set_rows(self, is_item: bool, idx: Tensor, rows) -> None:
        """Put `rows` `[(m, d), ...]` (or `(d,)`, the same for all) into one side's tables at `idx` `(m,)`."""
        for table, values in zip(self.tables(is_item), rows, strict=True):
            table[idx.to(table.device)] = values.to(table.dtype)

    def row_widths(self, is_item: bool) -> list[int]:
        """Width of each of the parts that `user_rows` or `item_rows` gives."""
        widths = [table.shape[1] for table in self.tables(is_item)]
        features = self.features_of(is_item)
        return widths if features is None else features.joined_widths(widths)

    def floats_per_pair(self) -> int:
        """Floats that `score` holds at once for each (user, item) pair, so that callers can bound their memory."""
        return 3 * sum(sum(self.row_widths(is_item)) for is_item in (False, True))

    @torch.no_grad()
    def parts(self, is_item: bool) -> tuple[Tensor, ...]:
        """The parts `[(n, d), ...]` of all of one side's ids, with what features add; on the CPU and detached."""
        idx = torch.arange(len(self.tables(is_item)[0]), device=device_of(self))
        with evaluating(self):
            return tuple(part.cpu() for part in (self.item_rows if is_item else self.user_rows)(idx))

    def factors(self, is_item: bool) -> Tensor:
        """The factors `(n, d)` of all of one side's ids: the first of their `parts`."""
        return self.parts(is_item)[0]

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

    def rows_of(self, ids, is_item: bool = True) -> tuple[Tensor, ...]:
        """Rows `[(n, d), ...]`, on the CPU and detached, of items (or users) with external `ids` `(n,)`."""
        idx = self.row_indices(ids, is_item)
        with torch.no_grad(), evaluating(self):
            return tuple(part.cpu() for part in (self.item_rows if is_item else self.user_rows)(idx))

    def row_indices(self, ids, is_item: bool = True) -> Tensor:
        """Rows `(n,)` int64 of external `ids` `(n,)` of items (or users); an unknown id raises `KeyError`."""
        vocab = self.items if is_item else self.users
        if vocab is None:
            raise ValueError("the model has no vocabulary: make it with collab_learner, or set its users and items")
        return torch.from_numpy(vocab.encode(ids, unknown="raise")).to(self.tables(is_item)[0].device)


def device_of(model) -> torch.device:
    """Where a model's tables are; baselines, which have none, work on the CPU."""
    return model.tables(True)[0].device if isinstance(model, CollabModel) else torch.device("cpu")


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
