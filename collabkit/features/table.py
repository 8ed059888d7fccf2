"""`Features`: side information of users or items as tensors, row-aligned with a `Vocab`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.features.fields import KINDS, Bag, Field, encode_field, fit_field, infer_kind, one_hot_lists
from collabkit.interactions import CollabWarning, Interactions
from collabkit.vocab import Vocab

__all__ = ["Features", "SideFeatures"]


@dataclass(frozen=True, eq=False)
class Features:
    """Side information of users or of items: row j of every tensor belongs to the id at index j of the vocabulary.

    Make it with `Features.from_df`. `print` shows the fields, the kinds they were taken for, and what is missing.

    Args:
        vocab: the ids.
        fields: what the columns are.
        rows: of each field, a `Bag` of `n` rows or numbers `(n, width)`.
        given: `(n,)` bool, which ids have a feature row; the others count as missing in every field.
        notes: what was left out or missing, counted.

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
    rows: tuple[Bag | Tensor, ...]
    given: Tensor
    notes: tuple[str, ...] = ()

    @classmethod
    def from_df(cls, df: pd.DataFrame | None, vocab: Vocab, columns=None, *, trained: Tensor | None = None) -> Features:
        """Encode a table of side information, one row an id.

        Args:
            df: a table with the id column (called as the vocabulary) and columns of features; None where `columns`
                brings its own ids.
            vocab: the ids. Rows of ids it does not know are left out (counted); ids without a row count as missing.
            columns: which columns: a list of names, or a dict from names to kinds (`'categorical'`, `'multi'`,
                `'numeric'`, `'binned'`, `'dense'`; None to infer it), to a list of 0/1 columns that together are one
                multi-valued field, or to `(ids, matrix)` of dense vectors made elsewhere. A binned number counts by the
                twentieth of the training ids it lies in, which suits models that add parts up. Default all columns,
                kinds inferred, less those that tell no two ids apart or every two (counted).
            trained: `(n,)` bool, the ids with training rows: they alone fix categories, means and scales. Default all.

        Raises:
            KeyError: a column is not there.
            ValueError: an id has several rows; a column that was named tells no two ids apart; infinite numbers;
                vectors with NaN or of unequal length.
            TypeError: a column does not hold what its kind says.
        """
        trained = np.ones(len(vocab), dtype=bool) if trained is None else trained.cpu().numpy()
        notes: list[str] = []
        sources = _sources(df, vocab, columns, notes)
        fields, rows, given = [], [], torch.zeros(len(vocab), dtype=torch.bool)
        for name, kind, values, one_hot, chosen in sources:
            idx = _row_indices(values.index, vocab, notes)
            known = idx > 0
            values, idx = values[known], idx[known]
            try:
                field = fit_field(name, kind, values[trained[idx]], one_hot)
            except ValueError as error:
                if chosen or "tells no two" not in str(error):
                    raise
                notes.append(f"{error} (it is left out)".replace(". Leave the column out", ""))
                continue
            fields.append(field)
            rows.append(_place(field, _encode(field, values, notes), idx, len(vocab)))
            given[idx] = True
        if not fields:
            raise ValueError(f"no column of side information is left of {[source[0] for source in sources]}")
        bare = int((~given[1:]).sum())
        if bare:
            notes.append(f"{bare:,} of {len(vocab) - 1:,} ids have no feature row; they count as missing in each field")
        return cls(vocab, tuple(fields), tuple(rows), given, tuple(dict.fromkeys(notes)))

    def extended(self, df: pd.DataFrame | None, vocab: Vocab) -> Features:
        """These features with those of new ids, `vocab` being this vocabulary with more ids at its end.

        Args:
            df: rows of new ids, with the id column and all fields' columns (a dense field's under its name). Ids
                without a row count as missing in every field; None for none of them.
            vocab: the vocabulary with the new ids.

        Raises:
            KeyError: a column is missing.
            ValueError, TypeError: as of `from_df`.
        """
        if df is None:
            columns = [column for field in self.fields for column in field.columns or (field.name,)]
            df = pd.DataFrame({name: [] for name in [vocab.name, *columns]})
        else:
            _check_table(df, vocab, "the table of new ids")
            _refuse_repeated(df[vocab.name])
        idx = vocab.encode(df[vocab.name], unknown="raise") - len(self)
        notes: list[str] = []
        rows = []
        for field, old in zip(self.fields, self.rows, strict=True):
            _check_columns(df, field.columns or (field.name,), "the table of new ids")
            table = df.set_index(vocab.name)
            values = one_hot_lists(table, field.name, field.columns) if field.columns else table[field.name]
            new = _place(field, _encode(field, values, notes), idx, len(vocab) - len(self))
            rows.append(_join(old, new))
        given = torch.zeros(len(vocab) - len(self), dtype=torch.bool)
        given[idx] = True
        return replace(self, vocab=vocab, rows=tuple(rows), given=torch.cat([self.given, given]), notes=tuple(notes))

    def __len__(self) -> int:
        return len(self.vocab)

    def warn(self, stacklevel: int = 3) -> Features:
        """Say the notes in `CollabWarning`s; returns the features."""
        for note in self.notes:
            warnings.warn(f"features of {self.vocab.name!r}: {note}", CollabWarning, stacklevel=stacklevel)
        return self

    @property
    def n_columns(self) -> int:
        """Columns p of the design matrix."""
        return sum(field.size for field in self.fields)

    def matrix(self, idx: Tensor | None = None) -> Tensor:
        """The design matrix `(m, p)` float32 of the ids at `idx` `(m,)`, default all.

        For each field it has a column a category (the shares of the id's categories; the first column stands for none)
        or a column a number.
        """
        idx = torch.arange(len(self)) if idx is None else idx.cpu()
        parts = []
        for field, rows in zip(self.fields, self.rows, strict=True):
            if not field.is_bag:
                parts.append(rows[idx])
                continue
            bag = rows.take(idx)
            share = 1.0 / bag.start.diff()[bag.rows].float()
            part = torch.zeros(len(idx), field.size)
            parts.append(part.index_put_((bag.rows, bag.codes), share, accumulate=True))
        return torch.cat(parts, dim=1)

    def spec(self) -> list[dict]:
        """The fields as JSON-ready values."""
        return [asdict(field) for field in self.fields]

    def state(self) -> dict[str, Tensor]:
        """The rows as tensors by name, from which `from_state` makes the features again."""
        tensors = {"given": self.given}
        for j, rows in enumerate(self.rows):
            named = {"values": rows} if isinstance(rows, Tensor) else {"start": rows.start, "codes": rows.codes}
            tensors |= {f"{j}.{name}": value.contiguous() for name, value in named.items()}
        return tensors

    @classmethod
    def from_state(cls, vocab: Vocab, spec: Sequence[Mapping], state: Mapping[str, Tensor]) -> Features:
        """The features that `spec` and `state` describe."""
        tuples = ("categories", "columns", "edges")
        fields = tuple(Field(**{k: tuple(v) if k in tuples else v for k, v in field.items()}) for field in spec)
        rows = tuple(
            Bag(state[f"{j}.start"], state[f"{j}.codes"]) if field.is_bag else state[f"{j}.values"]
            for j, field in enumerate(fields)
        )
        features = cls(vocab, fields, rows, state["given"])
        _check_state(features)
        return features

    def __repr__(self) -> str:
        lines = [f"Features of {len(self) - 1:,} {self.vocab.name!r} ids", *map(str, self.fields)]
        return "\n  ".join([*lines, *(f"note: {note}" for note in self.notes)])


class SideFeatures(NamedTuple):
    """The side information of both sides, each `Features` or None."""

    users: Features | None = None
    items: Features | None = None

    def __bool__(self) -> bool:
        return self.users is not None or self.items is not None

    @classmethod
    def of(cls, train: Interactions, users=None, items=None, user_columns=None, item_columns=None) -> SideFeatures:
        """The features of the ids of `train`, from tables and columns as of `Features.from_df`; the notes are warned.

        Categories, means and scales are those of the ids that have training rows.
        """
        sides = []
        for vocab, idx, df, columns in (
            (train.users, train.user_idx, users, user_columns),
            (train.items, train.item_idx, items, item_columns),
        ):
            if df is None and columns is None:
                sides.append(None)
                continue
            trained = torch.zeros(len(vocab), dtype=torch.bool)
            trained[idx.cpu()] = True
            sides.append(Features.from_df(df, vocab, columns, trained=trained).warn(stacklevel=5))
        return cls(*sides)


def _sources(df, vocab: Vocab, columns, notes: list[str]) -> list[tuple]:
    """For each field `(name, kind, values by id, its 0/1 columns, whether it was named)`."""
    where = f"the table of {vocab.name!r} features"
    if df is not None:
        _check_table(df, vocab, where)
        _refuse_repeated(df[vocab.name])
        df = df.set_index(vocab.name)
    named = columns is not None
    if not named:
        columns = _informative(df, notes)
    elif not isinstance(columns, Mapping):
        columns = dict.fromkeys([columns] if isinstance(columns, str) else columns)
    sources = []
    for name, what in columns.items():
        if isinstance(what, tuple) and len(what) == 2:
            sources.append((name, "dense", _given_vectors(name, *what), (), True))
            continue
        if df is None:
            raise ValueError(f"feature {name!r} names a column, but there is no table; pass users= or items=")
        one_hot = list(what) if isinstance(what, (list, tuple)) else []
        _check_columns(df, one_hot or [name], where)
        values = one_hot_lists(df, name, one_hot) if one_hot else df[name]
        kind = "multi" if one_hot else infer_kind(values) if what is None else what
        if kind not in KINDS:
            raise ValueError(f"feature {name!r}: the kind must be one of {', '.join(map(repr, KINDS))}, got {what!r}")
        sources.append((name, kind, values, tuple(map(str, one_hot)), named))
    return sources


def _informative(df: pd.DataFrame | None, notes: list[str]) -> dict[str, None]:
    """All columns but texts and whole numbers of which nearly every row has its own."""
    if df is None:
        raise ValueError("side information needs a table (users=, items=) or columns={'name': (ids, matrix)}")
    kept = {}
    for name in df.columns:
        kind = infer_kind(df[name])
        values, own = df[name].dropna(), False
        if kind == "categorical":
            own = values.nunique() > len(values) / 2 and len(values) > 10
        elif kind == "numeric" and pd.api.types.is_integer_dtype(df[name].dtype):
            own = values.is_unique
        if own:
            notes.append(f"column {name!r} is left out: nearly every row has a value of its own; name it to use it")
        else:
            kept[name] = None
    return kept


def _given_vectors(name: str, ids, matrix) -> pd.Series:
    matrix = matrix.detach().cpu().numpy() if isinstance(matrix, Tensor) else np.asarray(matrix)
    if matrix.ndim != 2 or len(matrix) != len(ids):
        raise ValueError(f"feature {name!r} needs a matrix with a row an id, got {len(ids)} ids and {matrix.shape}")
    _refuse_repeated(pd.Series(list(ids), name=name))
    return pd.Series(list(matrix), index=pd.Index(ids), dtype=object)


def _row_indices(ids: pd.Index, vocab: Vocab, notes: list[str]) -> np.ndarray:
    idx = vocab.encode(ids)
    unknown = int((idx == 0).sum())
    if unknown:
        notes.append(
            f"{unknown:,} of {len(ids):,} feature rows belong to ids without interactions; they are left out "
            "(learn.add_items or learn.add_users takes them in)"
        )
    return idx


def _encode(field: Field, values: pd.Series, notes: list[str]) -> Bag | Tensor:
    encoded, missing, unseen = encode_field(field, values)
    if missing:
        what = "the mean" if field.kind == "numeric" else "zero" if field.kind == "dense" else "a category of its own"
        notes.append(f"{field.name!r} is missing for {missing:,} of {len(values):,} ids, which get {what}")
    if unseen:
        notes.append(f"{unseen:,} value(s) of {field.name!r} are categories unseen in training; they count as none")
    return encoded


def _place(field: Field, encoded: Bag | Tensor, idx: np.ndarray, n: int) -> Bag | Tensor:
    """What was encoded for the rows `idx` `(m,)` as `n` rows; the others are missing."""
    if field.is_bag:
        return Bag.of(idx[encoded.rows.numpy()], encoded.codes.numpy(), n)
    rows = torch.zeros(n, field.width)
    if field.kind == "numeric" and field.width == 2:
        rows[:, 1] = 1.0
    rows[idx] = encoded
    return rows


def _join(old: Bag | Tensor, new: Bag | Tensor) -> Bag | Tensor:
    if isinstance(old, Tensor):
        return torch.cat([old, new])
    return Bag(torch.cat([old.start, new.start[1:] + old.start[-1]]), torch.cat([old.codes, new.codes]))


def _check_table(df, vocab: Vocab, where: str) -> None:
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"{where} must be a pandas DataFrame, got {type(df).__name__}")
    _check_columns(df, [vocab.name], where)
    if len(df) == 0:
        raise ValueError(f"{where} is empty (0 rows, columns {list(df.columns)})")


def _check_columns(df: pd.DataFrame, names, where: str) -> None:
    missing = [name for name in names if name not in df.columns]
    if missing:
        raise KeyError(f"column(s) {missing} not found in {where}; it has {list(df.columns)}")


def _refuse_repeated(ids: pd.Series) -> None:
    twice = ids[ids.duplicated()]
    if len(twice):
        raise ValueError(
            f"{twice.nunique():,} id(s) of {ids.name!r} have more than one feature row, e.g. {twice.iloc[0]!r}; keep "
            f"one each, e.g. df.drop_duplicates({ids.name!r})"
        )


def _check_state(features: Features) -> None:
    """Raise `ValueError` where tensors read from a file are not those of the fields and the ids."""
    for field, rows in zip(features.fields, features.rows, strict=True):
        ok = len(rows) == len(features)
        if field.is_bag:
            inside = len(rows.codes) == 0 or 0 <= int(rows.codes.min()) <= int(rows.codes.max()) < field.size
            ok = ok and inside and int(rows.start[0]) == 0 and int(rows.start[-1]) == len(rows.codes)
            ok = ok and bool((rows.start.diff() > 0).all())
        else:
            ok = ok and rows.shape == (len(features), field.width)
        if not ok:
            raise ValueError(f"the rows of feature {field.name!r} do not belong to {len(features)} ids")
    if features.given.shape != (len(features),):
        raise ValueError("the features do not say which ids have a row")
