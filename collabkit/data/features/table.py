"""`Features`: side information of users or items as tensors, row-aligned with a `Vocab`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.data.checks import shown
from collabkit.data.features.bags import one_vocabulary
from collabkit.data.features.fields import Field, SaysNothing, bag, encode_field, one_hot_lists
from collabkit.data.features.sources import check_columns, check_table, feature_sources, refuse_repeated, row_indices
from collabkit.data.frames import Table, takes_tables
from collabkit.data.notices import say
from collabkit.data.runs import Runs
from collabkit.data.vocab import Vocab

if TYPE_CHECKING:
    from collabkit.data.features.context import Context
    from collabkit.data.interactions import Interactions

__all__ = ["Features", "SideFeatures"]


@dataclass(frozen=True, eq=False)
class Features:
    """Side information of users or of items: row j of every tensor belongs to the id at index j of the vocabulary.

    Create it with `Features.from_df`. `print` shows the fields, their kinds, and missing values.

    Args:
        vocab: the ids.
        fields: descriptions of the columns.
        rows: for each field, `Runs` of codes or numbers `(n, width)`.
        given: `(n,)` bool, which ids have a feature row; the others count as missing in every field.
        notes: counts of dropped and missing values.

    Example:
        >>> films = pd.DataFrame({'title': ['Alien', 'Brazil', 'Cube'], 'genres': ['Horror|Sci-Fi', 'Sci-Fi', 'Horror'],
        ...                       'year': [1979, 1985, 1997.0]})
        >>> features = Features.from_df(films, Vocab(['Alien', 'Brazil', 'Cube'], 'title'))
        >>> features
        Features of 3 'title' ids
          genres: multi, 2 categories
          year: numeric, mean 1987, sd 7.483
        >>> features.matrix()[1]  # Alien: half a (none), Horror, Sci-Fi; year
        tensor([ 0.0000,  0.5000,  0.5000, -1.0690])
    """

    vocab: Vocab
    fields: tuple[Field, ...]
    rows: tuple[Runs | Tensor, ...]
    given: Tensor
    notes: tuple[str, ...] = ()

    @classmethod
    @takes_tables
    def from_df(cls, df: Table | None, vocab: Vocab, columns=None, *, trained: Tensor | None = None) -> "Features":
        """Encode a table of side information with one row per id.

        Args:
            df: a table with the id column (named as the vocabulary) and feature columns; None if `columns` has its own
                ids.
            vocab: the ids. Rows of unknown ids are dropped (and counted); ids without a row count as missing.
            columns: the columns to use: a list of names, or a dict from names to kinds (`'categorical'`, `'multi'`,
                `'numeric'`, `'binned'`, `'dense'`, `'bag'`, `'text'`, `'image'`; None infers the kind, but never a bag,
                text or image), to a kind with options (`Bag(weights='idf')`, `Text(encoder='bag')`), to a list of 0/1
                columns that together are one multi-valued field, or to `(ids, matrix)` of precomputed dense vectors.
                Binned numbers use 20 quantile bins of the training ids, which suits additive models. By default all
                columns, with inferred kinds, except columns that are constant or different for every id (counted).
            trained: `(n,)` bool, the ids with training rows, which alone determine categories, means and scales.
                Default all.

        Raises:
            KeyError: a column is missing.
            ValueError: an id has several rows; a named column is constant; numbers are infinite; vectors contain NaN or
                have unequal lengths.
            TypeError: the values of a column do not fit its kind.
        """
        trained = np.ones(len(vocab), dtype=bool) if trained is None else trained.numpy()
        notes: list[str] = []
        if not isinstance(vocab, Vocab):
            raise TypeError(f"vocab must be the Vocab of the ids, e.g. dls.data.items, got {shown(vocab)}")
        sources = feature_sources(df, vocab, columns, notes)
        fields, rows, given = [], [], torch.zeros(len(vocab), dtype=torch.bool)
        for name, kind, values, one_hot, chosen in sources:
            idx = row_indices(values.index, vocab, notes)
            known = idx > 0
            values, idx = values[known], idx[known]
            try:
                if not trained[idx].any():
                    raise SaysNothing(name, "none of them has a row")
                field = kind.fit(name, values[trained[idx]], one_hot)
            except SaysNothing as error:
                if chosen:
                    raise
                notes.append(f"{error.why} (it is left out)")
                continue
            fields.append(field)
            rows.append(_place(field, encode_field(field, values, notes), idx, len(vocab)))
            given[idx] = True
        if not fields:
            raise ValueError(f"no column of {vocab.name!r} features is left: {'; '.join(notes) or 'none was there'}")
        if bare := int((~given[1:]).sum()):
            notes.append(f"{bare:,} of {len(vocab) - 1:,} ids have no feature row; they count as missing in each field")
        return cls(vocab, tuple(fields), tuple(rows), given, tuple(dict.fromkeys(notes)))

    def extended(self, df: pd.DataFrame | None, vocab: Vocab) -> "Features":
        """These features with those of new ids; `vocab` is this vocabulary with more ids at its end.

        Args:
            df: rows of new ids, with the id column and all fields' columns (a dense field's under its name). Ids
                without a row count as missing in every field; None if no id has one.
            vocab: the vocabulary with the new ids.

        Raises:
            KeyError: a column is missing.
            ValueError, TypeError: as in `from_df`.
        """
        if df is None:
            columns = [column for field in self.fields for column in field.columns or (field.name,)]
            df = pd.DataFrame({name: [] for name in [vocab.name, *columns]})
        else:
            check_table(df, vocab, "the table of new ids")
            refuse_repeated(df[vocab.name])
        idx = vocab.encode(df[vocab.name], unknown="raise") - len(self)
        notes: list[str] = []
        rows = []
        for field, old in zip(self.fields, self.rows, strict=True):
            check_columns(df, field.columns or (field.name,), "the table of new ids")
            table = df.set_index(vocab.name)
            values = one_hot_lists(table, field.name, field.columns) if field.columns else table[field.name]
            new = _place(field, encode_field(field, values, notes), idx, len(vocab) - len(self))
            rows.append(torch.cat([old, new]) if isinstance(old, Tensor) else old.followed_by(new))
        given = torch.zeros(len(vocab) - len(self), dtype=torch.bool)
        given[idx] = True
        if bare := int((~given).sum()):
            notes.append(f"{bare:,} of {len(given):,} ids have no feature row; they count as missing in each field")
        if notes:
            say(f"features of new {vocab.name!r} ids: {'; '.join(dict.fromkeys(notes))}")
        return replace(self, vocab=vocab, rows=tuple(rows), given=torch.cat([self.given, given]))

    def __len__(self) -> int:
        return len(self.vocab)

    def warn(self) -> "Features":
        """Report the notes in a `CollabWarning`; returns the features."""
        if self.notes:
            say(f"features of {self.vocab.name!r}: {'; '.join(self.notes)}")
        return self

    n_columns = property(lambda self: sum(field.size for field in self.fields), doc="Columns p of the design matrix.")

    def matrix(self, idx: Tensor | None = None) -> Tensor:
        """The design matrix `(m, p)` float32 of the ids at `idx` `(m,)`, default all.

        For each field it has one column per category (the shares of the id's categories; the first column stands for
        none) or one column per number.

        Raises:
            TypeError: a field has content, whose numbers a model learns.
        """
        self._refuse_learned()
        idx = torch.arange(len(self)) if idx is None else idx.cpu()
        parts = []
        for field, rows in zip(self.fields, self.rows, strict=True):
            if not field.is_bag:
                parts.append(rows[idx])
                continue
            codes = rows.of(idx)
            parts.append(codes.shares(field.size, field.shares(codes)))
        return torch.cat(parts, dim=1)

    def sparse_matrix(self):
        """The design matrix in two parts: categories as a scipy matrix `(n, p)`, numbers `(n, q)`, both float32.

        Raises:
            TypeError: as in `matrix`.
        """
        import scipy.sparse  # not above: it is not needed to query a model

        self._refuse_learned()
        bags, numbers = [], [np.zeros((len(self), 0), np.float32)]
        for field, rows in zip(self.fields, self.rows, strict=True):
            if field.is_bag:
                parts = (field.shares(rows).numpy(), rows.values.numpy(), rows.start.numpy())
                bags.append(scipy.sparse.csr_matrix(parts, shape=(len(self), field.size)))
            else:
                numbers.append(rows.numpy())
        bags = bags or [scipy.sparse.csr_matrix((len(self), 0), dtype=np.float32)]
        return scipy.sparse.hstack(bags, format="csr"), np.concatenate(numbers, axis=1)

    def _refuse_learned(self) -> None:
        if learned := [field.name for field in self.fields if field.has_encoder]:
            raise TypeError(f"features {learned} have numbers only within a trained model; give "
                            "vectors made elsewhere, or an encoder as a callable")  # fmt: skip

    def spec(self) -> list[dict]:
        """The fields as JSON-ready values."""
        return [field.spec() for field in self.fields]

    def state(self) -> dict[str, Tensor]:
        """The rows as tensors by name, for `from_state`."""
        tensors = {"given": self.given}
        for j, rows in enumerate(self.rows):
            named = {"values": rows} if isinstance(rows, Tensor) else {"start": rows.start, "codes": rows.values}
            tensors |= {f"{j}.{name}": value.contiguous() for name, value in named.items()}
        return tensors

    @classmethod
    def from_state(cls, vocab: Vocab, spec: Sequence[Mapping], state: Mapping[str, Tensor]) -> "Features":
        """The features that `spec` and `state` describe."""
        fields = tuple(map(Field.from_spec, spec))
        all_rows = []
        for j, field in enumerate(fields):
            if field.has_encoder:
                rows = Runs(state[f"{j}.start"], state[f"{j}.codes"])
                ok = _starts_right(rows, len(vocab)) and field.by_kind.fits(field, rows)
            elif field.is_bag:
                rows = Runs(state[f"{j}.start"], state[f"{j}.codes"])
                inside = len(rows.values) == 0 or 0 <= int(rows.values.min()) <= int(rows.values.max()) < field.size
                ok = inside and _starts_right(rows, len(vocab)) and bool((rows.lengths > 0).all())
            else:
                rows = state[f"{j}.values"]
                ok = rows.shape == (len(vocab), field.width)
            if not ok:
                raise ValueError(f"the rows of feature {field.name!r} do not belong to {len(vocab)} ids")
            all_rows.append(rows)
        if state["given"].shape != (len(vocab),):
            raise ValueError("the features do not say which ids have a row")
        return cls(vocab, fields, tuple(all_rows), state["given"])

    def __repr__(self) -> str:
        lines = [f"Features of {len(self) - 1:,} {self.vocab.name!r} ids", *map(str, self.fields)]
        return "\n  ".join([*lines, *(f"note: {note}" for note in self.notes)])


class SideFeatures(NamedTuple):
    """The side information of both sides, each `Features` or None, and of the rows' moments, a `Context` or None."""

    users: Features | None = None
    items: Features | None = None
    context: "Context | None" = None

    def __bool__(self) -> bool:
        return any(part is not None for part in self)

    @classmethod
    def of(cls, train: "Interactions", users=None, items=None, user_columns=None, item_columns=None) -> "SideFeatures":
        """The features of the ids of `train`, from tables and columns as in `Features.from_df`; the notes are reported.

        Categories, means and scales are those of the ids that have training rows.
        """
        sides = []
        for side, df, columns in (("user", users, user_columns), ("item", items, item_columns)):
            if df is None and columns is None:
                sides.append(None)
                continue
            trained = train.counts(side) > 0
            sides.append(Features.from_df(df, train.vocab(side), columns, trained=trained).warn())
        return cls(*_shared(sides), train.contexts)


def _shared(sides: Sequence[Features | None]) -> list[Features | None]:
    """The sides with one vocabulary for all bags that share their values."""
    places: dict[str, list[tuple[int, int]]] = {}
    for side, features in enumerate(sides):
        for j, field in enumerate(() if features is None else features.fields):
            if share := field.options.get("share"):
                places.setdefault(share, []).append((side, j))
    sides = list(sides)
    for where in places.values():
        found = one_vocabulary([sides[side].fields[j] for side, j in where])
        for (side, j), (field, codes) in zip(where, found, strict=True):
            fields, rows = list(sides[side].fields), list(sides[side].rows)
            fields[j], rows[j] = field, Runs(rows[j].start, codes[rows[j].values])
            sides[side] = replace(sides[side], fields=tuple(fields), rows=tuple(rows))
    return sides


def _place(field: Field, encoded: Runs | Tensor, idx: np.ndarray, n: int) -> Runs | Tensor:
    """The encoded values of the rows `idx` `(m,)` as `n` rows; the others are missing."""
    if field.is_bag:
        return bag(idx[encoded.rows.numpy()], encoded.values.numpy(), n)
    if field.has_encoder:
        order, lengths = torch.from_numpy(np.argsort(idx)), torch.zeros(n, dtype=torch.int64)
        lengths[torch.from_numpy(idx)] = encoded.lengths
        return Runs(torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), encoded.of(order).values)
    rows = field.by_kind.missing(field, n)
    rows[idx] = encoded
    return rows


def _starts_right(rows: Runs, n: int) -> bool:
    """Whether `rows` from a file belong to `n` ids in order."""
    start = rows.start
    ends = len(rows) == n and int(start[0]) == 0 and int(start[-1]) == len(rows.values)
    return ends and bool((rows.lengths >= 0).all())
