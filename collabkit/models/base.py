"""`Model`: the common parts of all models: two sides, broadcasting `forward`, the rating scale, scores for ranking."""

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from collabkit.data.checks import dropout_rate, one_of, shown
from collabkit.data.dataset import Dataset
from collabkit.data.features import Features, SideFeatures, TrainedEncoder
from collabkit.data.notices import say
from collabkit.data.query import Query, check_needs
from collabkit.data.vocab import Vocab
from collabkit.models.context_rows import ContextRows
from collabkit.models.feature_rows import tie_shared
from collabkit.models.scorers import DotScorer, ItemTable, PairScorer, Scorer, parse_memory
from collabkit.models.sides import Side
from collabkit.models.sparse_dot import row_dots
from collabkit.models.table import is_sparse

__all__ = [
    "Model", "DotModel", "answering", "as_model", "check_y_range", "evaluating", "make_for", "option_names", "probe",
    "say_untrained", "sigmoid_range",
]  # fmt: skip

_EVALUATING: WeakKeyDictionary[nn.Module, tuple] = WeakKeyDictionary()  # count, modules that were in training
_MODES = Lock()  # guards the modes and the dict above
_NO_FEATURES = "takes no side features or context, and the dataloaders have some: make them without"


class Model(nn.Module):
    """Base of the models: a score for a query and an item, from the rows of a user side and an item side.

    A model gives its two sides to this constructor and defines `interact`, which turns their rows `(..., d)` into a
    logit, and `config`; one whose logit is a dot product is a `DotModel`. Training, ranking, evaluation, fold-in and
    the artefact follow from these. `needs` lists the parts of a query that the user side uses.

    Args:
        user_side, item_side: where rows come from; see `sides`.
        y_range: `(low, high)` of the ratings; the logit goes through a sigmoid scaled to it. None gives logits.

    Raises:
        ValueError: `y_range` is not two finite increasing numbers.
    """

    needs: tuple[str, ...] = ("users",)
    ordered = False  # whether the order of a history matters
    joins = "sum"  # how the features' part meets the id's: added to it, or 'concat'
    user_joins: str | None = None  # the same for the user side, if it differs
    by_fit = False  # whether it is fitted by its own `fit(dls)` rather than by a learner
    joined = False  # whether it combines trained models and learns nothing itself
    als: dict | None = None  # options of the alternating least squares that solved for its tables
    calibration = None  # the meaning of its scores, see `evaluate.calibration`
    trained = False  # whether an epoch of training has ended, or weights were loaded
    predicts_ratings = True  # whether it predicts ratings for rated data

    def __init__(self, user_side: Side, item_side: Side, y_range: tuple[float, float] | None = None):
        super().__init__()
        self.needs = check_needs(self.needs)
        self.user_side, self.item_side, self.y_range = user_side, item_side, check_y_range(y_range)
        self.id_dropout = 0.0
        self.context: ContextRows | None = None  # what the moment of a query adds to the user side
        self._steps = 0

    def name_rows(self, users: Vocab, items: Vocab) -> "Model":
        """Set the ids of the rows, for the methods that take ids."""
        self.user_side.vocab, self.item_side.vocab = users, items
        return self

    @classmethod
    def for_data(cls, data: Dataset, **options) -> "Model":
        """A model for a dataset; by default `cls(n_users, n_items, **options)`, with the side features, if any.

        Override it for a model that needs more of the data, e.g. a graph of the interactions. Artefacts are loaded by
        `cls.for_data(data, **config)`.

        Raises:
            TypeError: there are side features, and the model has no argument `features`.
        """
        features = data.features if "context" not in cls.needs else data.features._replace(context=None)
        if features and "features" not in options:
            if "features" not in parameters(cls):
                raise TypeError(f"{cls.__name__} {_NO_FEATURES}")
            options["features"] = features
        model = cls(data.n_users, data.n_items, **options)
        if features and not model.features:
            raise TypeError(f"{cls.__name__} was given side features but has none: call self.add_features(features)")
        return model

    def config(self) -> dict:
        """The options of `for_data`, JSON-ready, from which the artefact recreates the model."""
        name = type(self).__name__
        raise NotImplementedError(f"{name} needs config(), the options that it was made with, to be saved")

    def restore(self, state: dict[str, Tensor]) -> None:
        """Use the tensors of an artefact's `state_dict`: tables stay in the file's memory.

        Others are copied: tensors in a file are not aligned, so products with them differ in the last digit.
        """
        self.load_state_dict({k: v if ".tables." in k else v.clone() for k, v in state.items()}, assign=True)

    def load_state_dict(self, *args, **kwargs):
        """torch's `load_state_dict`; the model counts as trained."""
        found = super().load_state_dict(*args, **kwargs)
        tie_shared(side.features for side in self.sides)  # assigned tensors are not shared
        self.trained = True
        return found

    def add_features(self, features, id_dropout: float = 0.0, init_std: float = 0.01, sizes=None) -> None:
        """Add side features and context; called at the end of a constructor, or as soon as the sides exist.

        Args:
            features: `(users, items)`, each a `Features` or None, row-aligned with the tables, and the `Context` of
                rows, if any, as in `SideFeatures`; None for none at all.
            id_dropout: share of the ids whose own row is zero in a training step, so that the features' part alone,
                which is all that new ids have, also becomes a trained predictor (Volkovs et al., "DropoutNet", 2017).
            init_std: standard deviation of the initial weights of the features.
            sizes: widths by the names of features, if each has its own (`joins = 'concat'`).

        Raises:
            ValueError: features of other tables; an option out of range, or without a feature to apply to.
        """
        id_dropout = dropout_rate("id_dropout", id_dropout)
        if isinstance(features, Features):
            raise TypeError("features must be a pair (users, items), each Features or None, e.g. (None, item_features)")
        features = SideFeatures(*(features or ()))
        names = {field.name for part in features if part is not None for field in part.fields}
        if (id_dropout or sizes) and not names:
            raise ValueError(f"{id_dropout=} and feature_szs={sizes} are for models with side features, this has none")
        if odd := sorted(set(sizes or {}) - names):
            raise ValueError(f"feature_szs names features {odd}; there are {sorted(names)}")
        self.id_dropout = id_dropout
        options, by_user = {"init_std": init_std, "sizes": sizes}, self.user_joins or self.joins
        for side, given, joins in zip(self.sides, features[:2], (by_user, self.joins), strict=True):
            if given is not None:
                side.add_features(given, joins=joins, id_dropout=id_dropout, **options)
        tie_shared(side.features for side in self.sides)
        if features.context is not None:
            self.context = ContextRows(features.context, self.user_side.row_widths, joins=by_user, **options)
            self.needs = check_needs(dict.fromkeys([*self.needs, "context"]))

    def set_sparse(self, sparse: bool | str = "auto") -> "Model":
        """Choose the tables with sparse gradients, for which the cost of a training step depends only on its batch.

        This applies to tables of ids and of features with many categories, not to the weights of a network. It affects
        only training; predictions are the same. Dense steps are faster for small tables, as they need no sorting.

        Args:
            sparse: True for all, False for none, `'auto'` for tables of at least `table.SPARSE_ROWS` rows.

        Raises:
            ValueError: `sparse` is none of the three.
        """
        if not isinstance(sparse, bool) and sparse != "auto":
            raise ValueError(f"sparse must be True, False or 'auto', got {shown(sparse)}")
        for side in self.sides:
            for table in side.tables:
                table.sparse = is_sparse(sparse, table.num_embeddings)
            for field in side.features.fields if side.features is not None else ():
                field.sparse = field.can_be_sparse and is_sparse(sparse, field.field.size)
        return self

    @property
    def sparse(self) -> bool:
        """Whether all tables of ids have sparse gradients."""
        tables = [table for side in self.sides for table in side.tables]
        return bool(tables) and all(table.sparse for table in tables)

    sides = property(lambda self: (self.user_side, self.item_side), doc="The user side and the item side.")
    users = property(lambda self: self.user_side.vocab, doc="The users' ids, a `Vocab`, where they are known.")
    items = property(lambda self: self.item_side.vocab, doc="The items' ids, a `Vocab`, where they are known.")
    n_users = property(lambda self: self.user_side.n, doc="Rows of the user side; None where they are computed.")
    n_items = property(lambda self: self.item_side.n, doc="Rows of the item side.")
    u_weight = property(lambda self: self.user_side.tables[0], doc="The users' first embedding, by fastai's name.")
    i_weight = property(lambda self: self.item_side.tables[0], doc="The items' first embedding, by fastai's name.")

    def side(self, name: str) -> Side:
        """The `'user'` or the `'item'` side."""
        one_of("side", name, ("user", "item"))
        return self.user_side if name == "user" else self.item_side

    def encoder(self, name: str, side: str = "item") -> TrainedEncoder:
        """The encoder trained for the feature `name`, a `'text'` or an `'image'`, for use elsewhere.

        Call it with texts or pictures to get their vectors. `Text(encoder=it)` and `Picture(encoder=it)` use it for
        features of another model.

        Raises:
            ValueError: there is no such feature, or it has no trained encoder.
        """
        features = self.side(name=side).features
        if features is None:
            raise ValueError(f"the model has no {side} features, so none called {name!r}")
        return features.encoder(name)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((t.device for t in self._tensors()), torch.device("cpu"))

    @property
    def features(self) -> SideFeatures:
        """The side features of users and items, each `Features` or None, and the `Context` of rows or None."""
        sides = (None if side.features is None else side.features.features for side in self.sides)
        return SideFeatures(*sides, None if self.context is None else self.context.context)

    def refuse_features(self, what: str) -> None:
        """Raise `TypeError` if the model has side features, which `what` does not support."""
        if self.features:
            raise TypeError(f"{what} without side features; make the model or the dataloaders without them")

    @torch.no_grad()
    def silence_features(self, what: str) -> None:
        """Set the features' weights to zero, if `what` uses only the ids' own rows; new ids are still predicted.

        Raises:
            TypeError: there is a context, or features that are concatenated or have trained encoders.
        """
        sides = [side for side in self.sides if side.features is not None]
        learned = [field.field.name for side in sides for field in side.features.fields if field.encoder is not None]
        if learned:
            raise TypeError(f"{what} without training, so nothing would be learned about {learned}: give "
                            "train='frozen' or vectors made elsewhere, or leave them out")  # fmt: skip
        if self.context is not None or any(side.joins != "sum" for side in sides):
            raise TypeError(f"{what} without a context and without concatenated features; make the dataloaders so")
        for field in (field for side in sides for field in side.features.fields):
            for weight in field.weights:
                weight.zero_()

    def version(self) -> tuple:
        """A value that changes with the weights: results computed from them are valid while it is the same.

        torch counts the changes of a tensor, except those by a fused optimiser, so training steps are counted too.
        """
        return self._steps, *((t.data_ptr(), t._version, t.dtype) for t in self._tensors())

    def _tensors(self) -> Iterator[Tensor]:
        """All parameters and buffers, several times faster than `parameters()`."""
        for module in self.modules():
            yield from (t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None)

    def user_rows(self, query: Tensor | Query) -> tuple[Tensor, ...]:
        """The user side's parts `(..., d)` for a query, including the part of its moment."""
        rows = self.user_side.rows(query)
        return rows if self.context is None else self.context.join(query, rows)

    @property
    def user_widths(self) -> list[int]:
        """Width of each of the parts that `user_rows` gives."""
        return self.user_side.row_widths if self.context is None else self.context.row_widths

    def item_rows(self, idx: Tensor) -> tuple[Tensor, ...]:
        """The item side's parts `(..., d)` for `idx` `(...)`."""
        return self.item_side.rows(idx)

    def user_vectors(self, query: Tensor | Query) -> Tensor:
        """Vectors `(..., d)` whose dot products with the items' are the logits, if the model has them."""
        raise TypeError(f"the score of {type(self).__name__} is not a dot product")

    def item_vectors(self, idx: Tensor) -> Tensor:
        """The items' vectors `(..., d)`."""
        raise TypeError(f"the score of {type(self).__name__} is not a dot product")

    @property
    def has_vectors(self) -> bool:
        """Whether the score is the dot product of `user_vectors` and `item_vectors`."""
        return type(self).item_vectors is not Model.item_vectors

    def interact(self, user_rows: tuple[Tensor, ...], item_rows: tuple[Tensor, ...]) -> Tensor:
        """Logits of the broadcast shape of the leading dimensions of the two sides' parts."""
        raise TypeError(f"{type(self).__name__} does not define interact, the score of user and item rows")

    def score(self, query: Tensor | Query, item_idx: Tensor) -> Tensor:
        """Logits of the broadcast shape of users and items; a `Query` of `b` takes items `(b,)`, `(b, n)`, `(1, n)`."""
        rows = self.user_rows(query)
        if not isinstance(query, Tensor) and item_idx.ndim == 2:
            rows = tuple(part[:, None] for part in rows)
        return self.interact(rows, self.item_rows(item_idx))

    def activation(self, logits: Tensor) -> Tensor:
        """Logits on the rating scale: `sigmoid(logits) * (high - low) + low`; unchanged without `y_range`."""
        return logits if self.y_range is None else sigmoid_range(logits, *self.y_range)

    def forward(self, query: Tensor | Query, item_idx: Tensor | None = None, negative_idx=None, group=None):
        """Ratings (or logits without `y_range`) of a query and items, or of two index tensors that broadcast.

        One tensor `x` `(..., 2)` with users in column 0 and items in column 1, fastai's batch form, does the same.
        Three, a query of `bs`, their positives `(bs,)` and the negatives, give `rank_scores`.
        """
        if self.training:
            self.__dict__["_steps"] += 1  # avoids nn.Module's slow __setattr__
        if group is not None:
            return self.group_scores(query, item_idx, negative_idx, group)
        if negative_idx is not None:
            return self.rank_scores(query, item_idx, negative_idx)
        if item_idx is None:
            query, item_idx = query[..., 0], query[..., 1]
        return self.activation(self.score(query, item_idx))

    def rank_scores(self, query: Tensor | Query, positives: Tensor, negatives: Tensor) -> Tensor:
        """Logits `(bs, 1 + n)` of each row's positive, in column 0, and negatives.

        Args:
            query, positives: of `bs`, and its items `(bs,)`.
            negatives: `(bs, n)` items, each row its own, or `(n,)` that all rows share.
        """
        if not self.has_vectors:
            items = torch.cat([positives[:, None], negatives.expand(len(query), -1)], dim=1)
            return self.score(query[:, None] if isinstance(query, Tensor) else query, items)
        vectors = self.user_vectors(query)  # (bs, d)
        if negatives.ndim == 1:
            own = (vectors * self.item_vectors(positives)).sum(-1, keepdim=True)
            return torch.cat([own, vectors @ self.item_vectors(negatives).T], dim=1)
        items = torch.cat([positives[:, None], negatives], dim=1)
        sparse = any(table.sparse for table in self.item_side.tables)
        if sparse:  # the rows of the batch as a separate table
            each, at = items.unique(return_inverse=True)
            return row_dots(vectors, self.item_vectors(each), at)
        if items.numel() < self.n_items:  # a few rows of a large table
            return torch.einsum("bd,bnd->bn", vectors, self.item_vectors(items))
        return row_dots(vectors, self.item_vectors(torch.arange(self.n_items, device=items.device)), items)

    def group_scores(self, query, positives: Tensor, negatives: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `(r,)` of several positives per user, `(g, m)` of negatives that all users share, and `group`.

        Args:
            query: of `g`.
            positives, group: `(r,)` items; positive j belongs to user `group[j]` of the query.
            negatives: `(m,)` items.
        """
        if not self.has_vectors:
            every = query[:, None] if isinstance(query, Tensor) else query
            return self.score(query[group], positives), self.score(every, negatives[None, :]), group
        vectors = self.user_vectors(query)  # (g, d)
        own = (vectors[group] * self.item_vectors(positives)).sum(-1)
        return own, vectors @ self.item_vectors(negatives).T, group

    def floats_per_pair(self) -> int:
        """Number of floats that `score` holds at once per (user, item) pair, so that callers can limit memory."""
        return 3 * sum(self.user_widths + self.item_side.row_widths)

    @torch.no_grad()
    def scorer(self, candidates: Tensor, max_memory: int | str = "512MB") -> Scorer:
        """A function from a query of `b` to the logits `(b, c)` of the items `candidates` `(c,)`."""
        if not self.has_vectors:
            return PairScorer(self, candidates, max_memory)
        return DotScorer(self, ItemTable(self.item_vectors(candidates.to(self.device))))

    def score_pairs(self, query: Tensor | Query, rows: Tensor, item_idx: Tensor, max_memory="512MB") -> Tensor:
        """Logits `(n,)` on the CPU of the queries at `rows` `(n,)` and items `(n,)`, in batches under the limit."""
        size = min(2**16, max(1, parse_memory(max_memory) // 2 // (4 * self.floats_per_pair())))
        parts = [
            self.score(query[part].to(self.device), items.to(self.device)).float().cpu()
            for part, items in zip(rows.split(size), item_idx.split(size), strict=True)
        ]
        return torch.cat(parts) if parts else torch.zeros(0)

    @property
    def explained(self) -> "Model":
        """The model whose scores are explained: this one, or the last of several stages."""
        return self

    def item_similarity(self, idx: Tensor) -> Tensor:
        """Similarities `(b, n_items)` of items `(b,)` to all items, for a model with its own measure."""
        raise TypeError(f"{type(self).__name__} has no measure of its own; items are compared by the cosine of factors")

    @property
    def has_similarity(self) -> bool:
        """Whether the model has an `item_similarity` of its own."""
        return type(self).item_similarity is not Model.item_similarity

    def factor_tables(self) -> tuple[Tensor, Tensor]:
        """The user and the item factors `(n, d)`, to be solved for in place, if the score is their dot product."""
        what = "the factors of a dot product (CollFilter, or TwoTower without layers)"
        raise TypeError(f"alternating least squares needs {what}, got {type(self).__name__}")

    def drop_user_bias(self, reset: bool = False) -> None:
        """Do not train what shifts all scores of a user equally, for losses of differences; `reset` zeroes it."""

    @torch.no_grad()
    def parts(self, side: str, query: Tensor | Query | None = None) -> tuple[Tensor, ...]:
        """The parts `[(n, d), ...]` of a side's rows, features included, by default of all ids; on the CPU."""
        query = torch.arange(self.side(side).n, device=self.device) if query is None else query
        with evaluating(self):
            return tuple(part.cpu() for part in (self.user_rows if side == "user" else self.item_rows)(query))

    def factors(self, side: str, query: Tensor | Query | None = None) -> Tensor:
        """The factors `(n, d)` of a side's ids: the first of their `parts`."""
        return self.parts(side, query)[0]

    def rows_of(self, ids, side: str = "item") -> tuple[Tensor, ...]:
        """Rows `[(n, d), ...]`, on the CPU and detached, of items (or users) with external `ids` `(n,)`."""
        vocab = self.side(side).vocab
        if vocab is None:
            raise ValueError("the model has no vocabulary: make it with collab_learner, or set its users and items")
        return self.parts(side, torch.from_numpy(vocab.encode(ids, unknown="raise")).to(self.device))


class DotModel(Model):
    """A model whose logit is the dot product of factors, the rows' first part, plus biases, a second one of width 1."""

    def interact(self, user_rows, item_rows) -> Tensor:
        (p, *own), (q, *other) = user_rows, item_rows
        logits = (p * q).sum(-1)
        for bias in (*own, *other):
            logits = logits + bias.squeeze(-1)
        return logits  # (...)

    def user_vectors(self, query: Tensor | Query) -> Tensor:
        """`(..., d + 2)` vectors `[p_u, b_u, 1]`, without biases that the sides lack."""
        p, *own = self.user_rows(query)
        ones = [torch.ones_like(p[..., :1])] * (len(self.item_side.widths) - 1)
        return torch.cat([p, *own, *ones], dim=-1) if own or ones else p

    def item_vectors(self, idx: Tensor) -> Tensor:
        """`(..., d + 2)` vectors `[q_i, 1, b_i]`, without biases that the sides lack."""
        q, *own = self.item_rows(idx)
        ones = [torch.ones_like(q[..., :1])] * (len(self.user_side.widths) - 1)
        return torch.cat([q, *ones, *own], dim=-1) if own or ones else q


def as_model(model) -> Model | None:
    """`model` if it is a `Model`; None for any other module."""
    return model if isinstance(model, Model) else None


def make_for(cls, data: Dataset, **options) -> nn.Module:
    """A `cls` for a dataset: `Model.for_data`, or for any other callable `cls(n_users, n_items, **options)`."""
    if isinstance(cls, type) and issubclass(cls, Model):
        if cls.by_fit:
            raise TypeError(f"{cls.__name__} is fitted in one go: {cls.__name__}().fit(dls)")
        if "context" in cls.needs and not data.columns.context:
            raise ValueError(f"{cls.__name__} uses the context of a row: make dls with context_features=[columns]")
        if "time" in cls.needs and data.columns.time is None:
            raise ValueError(f"{cls.__name__} uses the time of a row: make dls with time_name=")
        return cls.for_data(data, **options)
    if data.features:
        raise TypeError(f"{cls.__name__} {_NO_FEATURES}")
    return cls(data.n_users, data.n_items, **options)


@torch.no_grad()
def probe(model: Model, data: Dataset) -> None:
    """Compute a few scores, and raise `ValueError` if their shape is wrong or the model's two forms disagree."""
    name, users, items = type(model).__name__, torch.arange(2), torch.arange(min(3, data.n_items))
    query = data.asker(model.needs)(users).to(model.device)
    with evaluating(model):
        logits = model.score(query[:, None] if isinstance(query, Tensor) else query, items[None].to(model.device))
        if tuple(getattr(logits, "shape", ())) != (2, len(items)):
            raise ValueError(
                f"{name} must score 2 users and {len(items)} items as (2, {len(items)}) logits, got "
                f"{tuple(getattr(logits, 'shape', ())) or type(logits).__name__}: see its interact"
            )
        if model.has_vectors:
            product = model.user_vectors(query) @ model.item_vectors(items.to(model.device)).T
            if not torch.allclose(product, logits, rtol=1e-3, atol=1e-4):
                raise ValueError(f"{name}'s interact is not the dot product of its user_vectors and item_vectors")


def option_names(cls) -> list[str]:
    """The options of a model's class: those of its `for_data` and, if that passes them on, of its constructor."""
    names = parameters(cls)
    if isinstance(cls, type) and issubclass(cls, Model):
        own = inspect.signature(cls.for_data).parameters.values()
        handed_on = any(p.kind is p.VAR_KEYWORD for p in own)
        names = [p.name for p in own if p.kind is not p.VAR_KEYWORD] + (names if handed_on else [])
    return [name for name in dict.fromkeys(names) if name not in ("data", "n_users", "n_items")]


def parameters(cls) -> list[str]:
    """Names of a constructor's parameters, including those passed on to its base class by `**kwargs`."""
    given = inspect.signature(cls).parameters.values()
    names = [p.name for p in given if p.kind is not p.VAR_KEYWORD]
    handed_on = isinstance(cls, type) and len(names) < len(given)
    return [*names, *(name for name in parameters(cls.__mro__[1]) if name not in names)] if handed_on else names


@contextmanager
def evaluating(model: nn.Module):
    """Context with the model in evaluation mode; the mode is restored when the last thread leaves."""
    with _MODES:
        inside, trained = _EVALUATING.get(model, (0, ()))
        if model.training:
            trained = tuple(module for module in model.modules() if module.training)
            model.eval()
        _EVALUATING[model] = inside + 1, trained
    try:
        yield model
    finally:
        with _MODES:
            inside, trained = _EVALUATING.pop(model)
            if inside > 1:
                _EVALUATING[model] = inside - 1, trained
            else:
                for module in trained:
                    module.training = True


@contextmanager
def answering(model: Model):
    """`evaluating`, for results that users see; it warns if the model is not trained."""
    say_untrained(model)
    with evaluating(model):
        yield model


def say_untrained(model: Model) -> None:
    """Warn if a model's results come from its initial weights."""
    if not (model.trained or model.by_fit):
        say(f"this {type(model).__name__} is not trained, as no epoch of a fit has ended, so its answers are "
            "from random weights; call learn.fit_one_cycle first, or load weights")  # fmt: skip


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
        raise ValueError(f"y_range must be (low, high), e.g. (0, 5.5), got {shown(y_range)}") from error
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"y_range must be (low, high), finite and with low < high, got {shown(y_range)}")
    return low, high
