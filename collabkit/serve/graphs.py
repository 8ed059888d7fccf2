"""The part of a model that is exported to another runtime: modules from plain tensors to scores or vectors.

Everything that does not depend on the query is precomputed and stored in the file as a table: the rows of items, and
    those of users with their side features.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collabkit.data.checks import one_of, shown
from collabkit.data.features import Field
from collabkit.data.query import Query
from collabkit.data.runs import Runs
from collabkit.models.base import Model
from collabkit.models.feature_rows import FeatureRows
from collabkit.models.gru_rec import GRURec
from collabkit.models.sequence import SequenceModel
from collabkit.models.sides import HistorySide, TableSide

__all__ = ["WHATS", "Graph", "Padded", "check_what", "fields_of", "make_graph", "padded"]

WHATS = {
    "score": "the score of each user and item, `(b,)`",
    "topk": "the `k` best items of each user and their scores, `(b, k)`",
    "encoder": "the vector of each user, `(b, d)`: of models that read histories by the history, of others by features",
    "vectors": "the vector of each user, `(b, d)`, by what the model needs",
    "logits": "the logits of all items for each user, `(b, n_items)`",
}


class Padded(NamedTuple):
    """Histories of unequal length: items `(b, longest)`, with any values after the end of a row, and lengths `(b,)`."""

    items: Tensor
    lengths: Tensor


def check_what(model: Model, what: str, k: int) -> None:
    """Raise, before any work, if the model has no `what`."""
    name = type(model).__name__
    one_of("what", what, WHATS)
    if model.by_fit or model.joined:
        raise TypeError(f"{name} is not a network and cannot be exported as a graph. Export the artefact, which "
                        "collabkit's own runtime reads")  # fmt: skip
    if what in ("encoder", "vectors") and not model.has_vectors:
        raise TypeError(f"the score of {name} is not a dot product, so its users have no vectors: export 'score', "
                        "'logits' or 'topk'")  # fmt: skip
    if "history" in model.needs and not _reads_padded(model):
        raise TypeError(f"{name} reads histories in its own way; only SequenceModels can be exported, "
                        "as they define states of padded histories")  # fmt: skip
    if what == "topk" and not (isinstance(k, int) and 1 <= k < model.n_items):
        raise ValueError(f"k must lie between 1 and the number of items, {model.n_items - 1:,}; got {shown(k)}")
    if what == "encoder" and _by_features(model):
        content = [field.name for field in model.user_side.features.features.fields if field.has_encoder]
        if content:
            raise TypeError(f"the users' features {content} are texts or pictures, whose encoders are not exported "
                            "with the users' encoder: export 'vectors', which takes known users")  # fmt: skip


def _reads_padded(model: Model) -> bool:
    return isinstance(model, SequenceModel) and type(model).encode is SequenceModel.encode


def _by_features(model: Model) -> bool:
    """Whether the encoder takes the features of users, for a model with user ids."""
    return "history" not in model.needs and isinstance(model.user_side, TableSide) and bool(model.user_side.features)


class Graph(nn.Module):
    """A module with named inputs.

    Args:
        model: a trained one.
        what: one of `WHATS`.
        k: of `'topk'`.
        unrolled: write recurrent layers step by step, for a compiler that does not support them.
    """

    def __init__(self, model: Model, what: str, k: int, unrolled: bool):
        super().__init__()
        self.what, self.k, self.length = what, k, getattr(model, "length", None) or 0
        self.by_features = what == "encoder" and _by_features(model)
        every = torch.arange(model.n_items, device=model.device)
        parts = tuple(part.detach().cpu() for part in model.item_rows(every))
        self.asked = _UserSide(model, parts, by_features=self.by_features, unrolled=unrolled)
        self.inputs = [*self.asked.inputs, *{"score": ["items"], "topk": ["hidden"]}.get(what, [])]
        self.outputs = {"score": ["score"], "topk": ["items", "scores"], "logits": ["logits"]}.get(what, ["vectors"])
        self.whole = model.has_vectors and what in ("topk", "logits")
        if self.whole:
            self.register_buffer("columns", model.item_vectors(every).detach().cpu().T.contiguous())
        elif what in ("score", "topk", "logits"):
            self.items = _Tables(parts)
        self.eval()

    @property
    def tables(self) -> int:
        """Total bytes of its tables."""
        return sum(t.numel() * t.element_size() for t in (*self.parameters(), *self.buffers()))

    def forward(self, *inputs: Tensor):
        given = dict(zip(self.inputs, inputs, strict=True))
        model = self.asked.model
        if self.what == "score":
            rows = self.asked.rows(given)
            return model.activation(model.interact(rows, self.items(given["items"])))
        if self.what not in ("topk", "logits"):
            return self.asked.vectors(given)
        if self.whole:
            logits = self.asked.vectors(given) @ self.columns
        else:
            rows = tuple(part[:, None] for part in self.asked.rows(given))
            logits = model.interact(rows, tuple(part[None] for part in self.items.tables))
        return logits if self.what == "logits" else self._best(logits, given["hidden"])

    def _best(self, logits: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Items `(b, k)`, 0 where fewer are left, and scores, -inf there; `hidden` `(b, h)` is padded with 0."""
        hidden = F.pad(hidden, (1, 0))  # the unknown item is always hidden
        logits = logits.scatter(1, hidden, -torch.inf)
        best, items = logits.topk(self.k, dim=1)
        left = best > -torch.inf
        return items * left, torch.where(left, self.asked.model.activation(best), best)


class _Tables(nn.Module):
    """Rows by index, in parts."""

    def __init__(self, parts):
        super().__init__()
        for j, part in enumerate(parts):
            self.register_buffer(f"part{j}", part.contiguous())
        self.n = len(parts)

    tables = property(lambda self: tuple(getattr(self, f"part{j}") for j in range(self.n)))

    def forward(self, idx: Tensor) -> tuple[Tensor, ...]:
        return tuple(F.embedding(idx, part) for part in self.tables)


class _UserSide(nn.Module):
    """The user side of a model: its rows and vectors from named tensors."""

    def __init__(self, model: Model, items: tuple[Tensor, ...], *, by_features: bool, unrolled: bool):
        super().__init__()
        self.model, self.by_features, inputs = _stripped(model), by_features, []
        self.by_index = model.needs == ("users",) and not by_features
        if self.by_index:
            self.own = _Tables(model.parts("user"))
            self.model.user_side, self.model.user_rows = nn.Module(), self.own.forward
        elif by_features:
            self.model.user_side.tables = nn.ModuleList()
            self.model.user_side.features = _Given(model.user_side.features)
            inputs += self.model.user_side.features.names
        elif model.user_side.features is not None:
            self.model.user_side.features = _Constant(model.user_side.features)
        if "history" in model.needs:
            _read_padded(self.model, items[0], unrolled)
        if not by_features and ("users" in model.needs or model.user_side.features is not None):
            inputs.append("users")
        inputs += ["history", "lengths"] * ("history" in model.needs)
        fields = model.context.context.fields if model.context is not None else ()
        self.inputs = [*inputs, *(f"context.{field.name}" for field in fields), *["time"] * ("time" in model.needs)]

    def rows(self, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return self.model.user_rows(self._query(given))

    def vectors(self, given: dict[str, Tensor]) -> Tensor:
        return self.model.user_vectors(self._query(given))

    def _query(self, given: dict[str, Tensor]) -> Tensor | Query:
        if self.by_index:
            return given["users"]
        context = {name.partition(".")[2]: part for name, part in given.items() if name.startswith("context.")}
        history = Padded(given["history"], given["lengths"]) if "history" in given else None
        rows, some = None, next(iter(given.values()))
        if self.by_features:
            rows = self.model.user_side.features.take(given)
        users = given["users"] if "users" in given else torch.zeros_like(some.reshape(some.shape[0], -1)[:, 0]).long()
        return Query(users, history, context, rows, time=given.get("time"))


def _stripped(model: Model) -> Model:
    """A copy of a model with shared tensors, without the tables of items, on the CPU."""
    on_cpu = model.device.type == "cpu"
    kept = [*model.parameters(), *model.buffers()] if on_cpu else []  # others are copied from their device
    kept += [part for side in model.sides for part in (side.vocab, getattr(side.features, "features", None))]
    kept += [] if model.context is None else [model.context.context]
    copy = deepcopy(model, {id(part): part for part in kept if part is not None})
    copy.item_side.tables, copy.item_side.features = nn.ModuleList(), None
    return copy.eval() if on_cpu else copy.cpu().eval()


class _Constant(FeatureRows):
    """The output of the features of ids, from precomputed tables."""

    def __init__(self, rows: FeatureRows):
        nn.Module.__init__(self)
        self.features, self.joins, self.widths = rows.features, rows.joins, rows.widths
        every = torch.arange(len(rows.fields[0]), device=rows.cold.device)
        self.parts = _Tables([part.detach().cpu() for part in rows.field_parts(every)])

    def field_parts(self, idx: Tensor) -> list[Tensor]:
        return list(self.parts(idx))


class _Given(FeatureRows):
    """The output of features given in the query: numbers, or shares of categories, `(b, size)` per field.

    The user's own row is the one fitted for ids without training rows, as in `add_users`.
    """

    def __init__(self, rows: FeatureRows):
        nn.Module.__init__(self)
        self.features, self.joins, self.widths = rows.features, rows.joins, rows.widths
        self.names = [f"feature.{field.name}" for field in rows.features.fields]
        self.weights = _Tables([torch.cat([*field.weights], dim=1).detach().cpu() for field in rows.fields])
        self.register_buffer("cold", rows.cold.detach().cpu())
        rarities = rows.rarity.split([field.field.size for field in rows.fields])
        pairs = zip(rows.fields, rarities, strict=True)
        self.rare = _Tables([field.rare(rarity).detach().cpu() for field, rarity in pairs])
        counting = [field.counting() for field in rows.fields]
        self.counting = _Tables([torch.zeros(0) if part is None else part.detach().cpu() for part in counting])
        self.bags, self.fitted = [field.field.is_bag for field in rows.fields], bool(rows.rarity.any())
        self._now: list[Tensor] = []

    def take(self, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Store the numbers of this query, and return the users' own rows `[(b, d), ...]`."""
        self._now, foretold = [], []
        for name, is_bag, rare, counting in zip(
            self.names, self.bags, self.rare.tables, self.counting.tables, strict=True
        ):
            numbers = weighted = given[name]
            if len(counting):
                numbers = (numbers > 0) * counting
                numbers = numbers / numbers.sum(1, keepdim=True)
            if is_bag and self.fitted:
                weighted = F.normalize((weighted > 0) * rare, dim=1)
            self._now.append(numbers)
            foretold.append(weighted)
        rows = torch.cat(foretold, dim=1) @ self.cold[:-1] + self.cold[-1]
        if self.fitted and self.joins == "sum":
            rows = rows - sum(self.field_parts(None))
        return rows.split(self.widths, dim=1)

    def field_parts(self, idx: Tensor) -> list[Tensor]:
        return [numbers @ weight for numbers, weight in zip(self._now, self.weights.tables, strict=True)]


def _read_padded(model: SequenceModel, rows: Tensor, unrolled: bool) -> None:
    """Make the history side of `model` encode `Padded` histories with the items' `rows` `(n_items, d)`."""
    side = next(module for module in model.user_side.modules() if isinstance(module, HistorySide))
    model.register_buffer("events", rows)
    model.register_buffer("places", torch.arange(model.length))
    if unrolled and isinstance(model, GRURec):
        model.gru = _Unrolled(model.gru, model.length)

    def encode(history: Padded) -> Tensor:
        items, lengths = history
        there = model.places[: items.shape[1]] < lengths[:, None]  # fails for more than `length` events
        states = model.last_states(F.embedding(items * there, model.events), lengths.clamp(min=1))
        return states * (lengths > 0)[:, None]

    side.encode = encode


class _Unrolled(nn.Module):
    """A GRU as `length` steps; steps after the end of a history have no meaning."""

    def __init__(self, gru: nn.GRU, length: int):
        super().__init__()
        self.gru, self.length = gru, length

    def forward(self, rows: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        room = rows.new_zeros(rows.shape[0], self.length, rows.shape[2])
        steps = torch.cat([rows, room], dim=1)[:, : self.length]
        for layer in range(self.gru.num_layers):
            w_in, w_state, b_in, b_state = (getattr(self.gru, f"{name}_l{layer}")
                                            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))  # fmt: skip
            given, state, states = F.linear(steps, w_in, b_in), start[layer], []
            for step in given.unbind(1):
                r, z, new = step.chunk(3, dim=1)
                r_state, z_state, new_state = F.linear(state, w_state, b_state).chunk(3, dim=1)
                z, new = torch.sigmoid(z + z_state), torch.tanh(new + torch.sigmoid(r + r_state) * new_state)
                state = new + z * (state - new)
                states.append(state)
            steps = torch.stack(states, dim=1)
        return steps, start


@torch.no_grad()
def make_graph(model: Model, what: str, k: int, unrolled: bool = False) -> Graph:
    """The module of `what` of a model; see `check_what` for errors."""
    check_what(model, what, k)
    return Graph(model, what, k, unrolled)


def fields_of(model: Model) -> Iterator[tuple[str, Field]]:
    """The fields of users' features and of the context, by the names of their inputs."""
    if model.user_side.features is not None:
        yield from ((f"feature.{field.name}", field) for field in model.user_side.features.features.fields)
    if model.context is not None:
        yield from ((f"context.{field.name}", field) for field in model.context.context.fields)


def padded(history: Runs, length: int) -> Padded:
    """The last `length` events of histories, as a table of at least one column."""
    history = history.last(length)
    items = history.padded()
    return Padded(F.pad(items, (0, max(0, 1 - items.shape[1]))), history.lengths)
