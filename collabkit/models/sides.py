"""`Side`: the source of the rows of one side of a model, its users or its items."""

import torch
from torch import Tensor, nn

from collabkit.data.checks import finite, whole
from collabkit.data.features import Features
from collabkit.data.query import Query
from collabkit.data.runs import Runs
from collabkit.data.vocab import Vocab
from collabkit.models.feature_rows import FeatureRows
from collabkit.models.table import Tables, hold, tables_of

__all__ = ["Side", "TableSide", "HistorySide", "MixedSide", "table_sides"]


class Side(nn.Module):
    """One side of a model: the parts `[(b, d), ...]` that the interaction takes, for a query or for indices.

    Everything that sets rows of ids (default rows, new ids, fold-in) or shows them uses this interface. A subclass
    defines `rows`; one that stores rows also defines `read`, `write` and `grow`.

    Args:
        name: `'user'` or `'item'`.
        n: number of rows, the unknown one at 0; None if rows are computed for any user.
        widths: of the parts.
    """

    can_write = False  # whether rows of single ids can be written, and more added
    joins = "sum"

    def __init__(self, name: str, n: int | None = None, widths=()):
        super().__init__()
        self.name, self.n, self.widths = name, n, [int(width) for width in widths]
        self.vocab: Vocab | None = None  # the ids of the rows, for methods that take ids
        self.features: FeatureRows | None = None
        self.tables: tuple | Tables = ()  # embeddings `(n, d)` that hold the ids' own rows, one per part

    def rows(self, query: Tensor | Query) -> tuple[Tensor, ...]:
        """The parts `[(..., d), ...]` of indices `(...)`, or of a query of `b`."""
        raise TypeError(f"the {self.name}s of this model have no rows of their own")

    def read(self, idx: Tensor) -> list[Tensor]:
        """The rows `[(m, d), ...]` of the ids `idx` `(m,)` themselves, without what features add."""
        raise self._refusal("read")

    def write(self, idx: Tensor, rows) -> None:
        """Write `rows` `[(m, d), ...]` (or `(d,)`, the same for all) at `idx` `(m,)`."""
        raise self._refusal("written")

    def grow(self, vocab: Vocab, features: Features | None = None) -> None:
        """Add rows for the ids that `vocab` has in addition at its end: zeros, or from `features`."""
        raise self._refusal("added")

    def state(self) -> tuple:
        """What `put_back` takes to undo a growth."""
        features = None if self.features is None else self.features.features
        return [table.weight.data for table in self.tables], self.n, self.vocab, features

    def put_back(self, state: tuple) -> None:
        """Restore the side to `state`."""
        rows, self.n, self.vocab, features = state
        for table, values in zip(self.tables, rows, strict=True):
            hold(table, values)
        if features is not None:
            self.features.extend(features)

    @property
    def given(self) -> Tensor:
        """Which ids `(n,)` have side features."""
        return torch.zeros(self.n, dtype=torch.bool) if self.features is None else self.features.features.given

    @property
    def row_widths(self) -> list[int]:
        """Width of each of the parts that `rows` gives."""
        if self.features is None or self.joins == "sum":
            return self.widths
        return [self.widths[0] + sum(field.width for field in self.features.fields)]

    def _refusal(self, done: str) -> TypeError:
        what = f"the {self.name}s of this model are computed ({type(self).__name__})"
        return TypeError(f"{what}: single rows cannot be {done}")


class TableSide(Side):
    """Rows from embedding tables, with side features added or concatenated.

    Args:
        name: `'user'` or `'item'`.
        n: rows of the tables, at least 2.
        widths: of the tables; one of width 1 is a bias.
        std: standard deviation of the initial rows.
        sparse: sparse gradients.

    Raises:
        ValueError: fewer than two rows.

    Example:
        >>> side = TableSide('item', 6, [3, 1])
        >>> [part.shape for part in side.rows(torch.tensor([5, 1]))]
        [torch.Size([2, 3]), torch.Size([2, 1])]
    """

    can_write = True

    def __init__(self, name: str, n: int, widths, *, std: float = 0.01, sparse: bool = False):
        if whole(f"n_{name}s", n) < 2:
            raise ValueError(f"tables need the unknown row and at least one more, got {n} rows of {name}s")
        super().__init__(name, n, widths)
        self.tables = tables_of(name, n, self.widths, std=finite("init_std", std), sparse=sparse)
        self.id_dropout = 0.0

    def add_features(self, features: Features, *, joins: str, id_dropout: float, init_std: float, sizes=None) -> None:
        """Add the side features of the ids; see `Model.add_features`."""
        if len(features) != self.n:
            raise ValueError(f"features of {len(features)} rows for tables of {self.n}: they belong to others")
        self.joins, self.id_dropout = joins, float(id_dropout)
        self.features = FeatureRows(features, self.widths, joins=joins, init_std=init_std, sizes=sizes)

    def rows(self, query: Tensor | Query) -> tuple[Tensor, ...]:
        """The tables' rows, or those in the query, joined with the features of its ids."""
        idx, own = self.own(query)
        return own if self.features is None else self.features.join(idx, own)

    def own(self, query: Tensor | Query) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The ids `(...)` of a query, and their rows in the tables or those in the query, without features."""
        idx, own = (query, None) if isinstance(query, Tensor) else (query.users, query.rows)
        own = self.tables(idx) if own is None else own
        if self.features is not None and self.training and self.id_dropout > 0:
            keep = torch.rand(idx.shape, device=idx.device)[..., None] >= self.id_dropout
            own = tuple(part * keep for part in own)
        return idx, own

    def read(self, idx: Tensor) -> list[Tensor]:
        return self.tables.read(idx)

    @torch.no_grad()
    def write(self, idx: Tensor, rows) -> None:
        self.tables.write(idx, rows)

    @torch.no_grad()
    def grow(self, vocab: Vocab, features: Features | None = None) -> None:
        first = self.n
        self.tables.grow(len(vocab))
        self.n, self.vocab = len(vocab), vocab
        if self.features is not None:
            self.features.extend(features)
            known = torch.arange(first, self.n)[features.given[first:]]
            self.write(known, self.features.cold_rows(known))


def table_sides(n_users: int, n_items: int, users, items=None, **options) -> tuple[TableSide, TableSide]:
    """The two sides of a model with tables of widths `users` and `items` (None: the same), users first."""
    items = users if items is None else items
    return TableSide("user", n_users, users, **options), TableSide("item", n_items, items, **options)


class HistorySide(Side):
    """Rows computed from a query's history by an encoder, for any user with a history, known or not.

    Args:
        width: of the rows.
        encode: function from `Runs` of `b` histories to rows `(b, width)`, e.g. a bound method of the model.
        encode_steps: function to the rows `(m, width)` after each of the `m` events, if that is faster than encoding as
            many histories.
    """

    def __init__(self, width: int, encode, encode_steps=None):
        super().__init__("user", None, [width])
        self.encode = encode
        if encode_steps is not None:
            self.encode_steps = encode_steps

    def add_features(self, features: Features, *, joins: str, id_dropout: float, init_std: float, sizes=None) -> None:
        """Add the side features of the users; see `Model.add_features`."""
        self.joins = joins
        self.features = FeatureRows(features, self.widths, joins=joins, init_std=init_std, sizes=sizes)

    def grow(self, vocab: Vocab, features: Features | None = None) -> None:
        """Add the features of more users; there are no rows to add."""
        self.vocab = vocab
        if self.features is not None:
            self.features.extend(features)

    def rows(self, query: Query) -> tuple[Tensor, ...]:
        if isinstance(query, Tensor) or query.history is None:
            raise TypeError('a model with a HistorySide must say so: needs = ("history",)')
        state = self.encode_steps(query.history) if query.steps else self.encode(query.history)
        return (state,) if self.features is None else self.features.join(asking(query), (state,))

    def encode_steps(self, history: Runs) -> Tensor:
        """The rows `(m, width)` after each event of the histories, by encoding as many histories."""
        return self.encode(history.spans(history.start[:-1][history.rows], torch.arange(1, len(history.values) + 1)))


class MixedSide(TableSide):
    """Long-term taste and recent events: the row of a user table plus that of a history.

    Args:
        history: the side that computes the latter.
        n, std: as in `TableSide`.
    """

    def __init__(self, history: HistorySide, n: int, *, std: float = 0.01):
        super().__init__("user", n, history.widths, std=std)
        self.history = history

    def own(self, query: Query) -> tuple[Tensor, tuple[Tensor, ...]]:
        (state,), users = self.history.rows(query), asking(query)
        idx, (own,) = super().own(users if query.rows is None else Query(users, rows=query.rows))
        return idx, (own + state,)


def asking(query: Query) -> Tensor:
    """The user of each query; with a query after each event of a history, the user of the history."""
    return query.users[query.history.rows] if query.steps else query.users
