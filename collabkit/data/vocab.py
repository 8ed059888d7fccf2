"""`Vocab`: the two-way map between the caller's ids and the rows of a table.

An *id* is what the caller uses (a title, a UUID, a customer number); an *index* is the row of an embedding table.
Index 0 is reserved for "unknown" and shown as `#na#`, as in fastai's category maps.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
from torch import Tensor

from collabkit.data.checks import one_of, plain
from collabkit.data.notices import MissingError, is_noting, near_match

__all__ = ["Vocab", "UNKNOWN"]

UNKNOWN = "#na#"


class Vocab:
    """Map between external ids and indices, in order; index 0 is "unknown" and is never recommended.

    Behaves like fastai's `dls.classes[name]`: `vocab[3]`, `len(vocab)`, iteration and `vocab.o2i['Alien (1979)']` all
    include the unknown id at index 0.

    Args:
        ids: unique ids in index order, `(n,)`, of any one hashable type (int, str, UUID, timestamp, ...); the dtype
            is kept.
        name: name of the ids in error messages, e.g. the column's name.

    Raises:
        ValueError: ids are missing (NaN) or repeated.
        TypeError: ids of several types are mixed, or floats too coarse to tell integers apart.

    Example:
        >>> v = Vocab(['Alien', 'Brazil'], name='title')
        >>> len(v), v[1], v.o2i['Brazil'], list(v)
        (3, 'Alien', 2, ['#na#', 'Alien', 'Brazil'])
        >>> v.encode(['Brazil', 'Alien', 'Cabaret'])
        array([2, 1, 0])
    """

    def __init__(self, ids, name: str = "id"):
        index = check_ids(ids, name)
        if not index.is_unique:
            twice = index[index.duplicated()][:3].tolist()
            raise ValueError(f"a Vocab needs unique ids; in {name!r} these occur more than once: {twice}")
        if UNKNOWN in index:
            raise ValueError(f"{name!r} has an id {UNKNOWN!r}, which is reserved for unknown ids; rename it")
        self.name, self.index = name, index  # row of id number j is j + 1

    @classmethod
    def from_values(cls, values, name: str = "id") -> Vocab:
        """The sorted unique `values` `(n,)` of a column as a `Vocab`; ids without an order keep that of the column."""
        return cls.factorize(values, name)[0]

    @classmethod
    def factorize(cls, values, name: str = "id") -> tuple[Vocab, np.ndarray]:
        """`from_values(values)` and the indices `(n,)` of the values in it, in one pass."""
        index = check_ids(values, name)
        if index.dtype == object:  # ids that are not texts: pandas would take tuples for several columns
            unique = index.unique()
            with suppress(TypeError):
                unique = unique.sort_values()
            vocab = cls(unique, name)
            return vocab, vocab.index.get_indexer(index) + 1
        codes, unique = pd.factorize(index)
        order = np.asarray(unique.argsort())
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(1, len(order) + 1)
        return cls(unique.take(order), name), place[codes]

    def __len__(self) -> int:
        return len(self.index) + 1

    def __getitem__(self, i) -> Any:
        """The id at index `i`; a slice or an array of indices gives a list of ids."""
        i = i.cpu() if isinstance(i, Tensor) else i
        i = np.arange(len(self))[i] if isinstance(i, slice) else np.asarray(i)
        if i.ndim:
            return [self[j] for j in i.tolist()]
        i = int(i)
        i += len(self) if i < 0 else 0
        if not 0 <= i < len(self):
            raise IndexError(f"index {i} is outside vocabulary {self.name!r} of {len(self)} rows")
        return UNKNOWN if i == 0 else plain(self.index[i - 1])

    def __iter__(self) -> Iterator:
        yield UNKNOWN
        yield from self.index.tolist()

    def __contains__(self, value) -> bool:
        return isinstance(value, Hashable) and value in self.index

    def __eq__(self, other) -> bool:
        return isinstance(other, Vocab) and self.index.dtype == other.index.dtype and self.index.equals(other.index)

    __hash__ = None

    def __repr__(self) -> str:
        shown = ", ".join(repr(v) for v in self[1:4])
        return f"Vocab({self.name!r}: {len(self) - 1:,} ids, {shown}{', ...' if len(self) > 4 else ''})"

    @property
    def ids(self) -> pd.Index:
        """The known ids `(len - 1,)` as a pandas Index; the id at index `i` is `ids[i - 1]`."""
        return self.index

    @property
    def o2i(self) -> Mapping:
        """Mapping from id to index, as fastai's `CategoryMap.o2i` (an id that is not there raises `KeyError`)."""
        return {value: idx for idx, value in enumerate(self)}

    def extended(self, values) -> Vocab:
        """This vocabulary with the new ids `values` `(m,)` at its end; the others keep their indices.

        Raises:
            ValueError: an id is there already, missing or given twice.
            TypeError: ids of another type.
        """
        values = check_ids(values, self.name)
        self._check_same_kind(values) if len(values) else None
        there = values[values.isin(self.index)]
        if len(there):
            raise ValueError(f"{len(there):,} of {len(values):,} new {self.name!r} id(s) exist already: "
                             f"{_some(there)}; leave them out")  # fmt: skip
        joined = self.index.append(values)
        if joined.dtype != self.index.dtype and not pd.api.types.is_integer_dtype(joined.dtype):
            cast = values.astype(self.index.dtype)  # whole floats for whole numbers, say; wider integers may stay
            if not (cast == values).all():
                raise TypeError(f"{self.name!r} ids are of type {self.index.dtype} (e.g. {_some(self.index)}), new "
                                f"ones like {_some(values)} would be changed by it; convert them first")  # fmt: skip
            joined = self.index.append(cast)
        return Vocab(joined, self.name)

    def encode(self, values, *, unknown: str = "zero") -> np.ndarray:
        """Indices `(n,)` int64 of the ids `values` `(n,)`.

        Args:
            unknown: what to do with an id that is not in the vocabulary: `'zero'` (index 0) or `'raise'`.

        Raises:
            KeyError: an id is unknown and `unknown='raise'`.
            TypeError: the ids are of another type than the vocabulary's (strings for integers, say), so that
                none could ever match.
            ValueError: an id is missing (NaN).
        """
        one_of("unknown", unknown, ("zero", "raise"))
        checked = isinstance(values, pd.Index) and values.dtype == self.index.dtype != object and not values.hasnans
        values = values if checked else check_ids(values, self.name)
        if len(values) == 0:
            return np.zeros(0, dtype=np.int64)
        self._check_same_kind(values)
        idx = self.index.get_indexer(self._alike(values)).astype(np.int64) + 1
        if unknown == "raise" and (idx == 0).any():
            missing = values[idx == 0].unique()
            raise MissingError(f"{len(missing):,} unknown {self.name!r} id(s): {self._named(missing)}. The model "
                               f"knows {len(self) - 1:,} (e.g. {_some(self.index)}). "
                               "Check the spelling, or leave them out")  # fmt: skip
        return idx

    def unknown(self, values, idx: np.ndarray) -> str:
        """Some of the unknown ids among `values` `(n,)`, as text, with a suggestion for the first.

        Args:
            values: ids, some of which `encode` did not find.
            idx: what it returned, `(n,)`.

        Example:
            >>> vocab, asked = Vocab(['Alien', 'Brazil']), ['Brazil', 'Alienn']
            >>> vocab.unknown(asked, vocab.encode(asked))
            "'Alienn' (did you mean 'Alien'?)"
        """
        return self._named(check_ids(values, self.name)[idx == 0].unique(), guess=not is_noting())  # a guess takes ms

    def _named(self, missing: pd.Index, guess: bool = True) -> str:
        return _some(missing) + (near_match(missing[0], self.index) if guess and len(self) < 100_000 else "")

    def row(self, value) -> int | None:
        """The index of one known id of the ids' own type; None for anything else, which `encode` explains."""
        texts = isinstance(self.index.dtype, pd.StringDtype)
        same = isinstance(value, str) if texts else self.index.dtype == int and type(value) in (int, np.int64)
        return self.index.get_loc(value) + 1 if same and value in self.index else None

    def decode(self, idx) -> pd.Index:
        """Ids `(n,)` in the vocabulary's dtype of the indices `idx` `(n,)`, none of which may be 0 (unknown)."""
        idx = np.asarray(idx, dtype=np.int64)
        if len(idx) and (idx.min() < 1 or idx.max() >= len(self)):
            raise IndexError(f"indices must lie in 1..{len(self) - 1} to be decoded, got {idx.min()}..{idx.max()}")
        return self.index.take(idx - 1)

    def _alike(self, values: pd.Index) -> pd.Index:
        """`values` in the ids' dtype, if pandas could not compare the two otherwise, as with Arrow's dates."""
        dtype = self.index.dtype
        if values.dtype == dtype or not isinstance(dtype, pd.ArrowDtype):
            return values
        try:
            return values.astype(dtype)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise TypeError(f"{self.name!r} ids are of type {dtype} (e.g. {_some(self.index)}); {_some(values)} cannot "
                            f"be converted to it: {error}") from error  # fmt: skip

    @property
    def storable(self) -> bool:
        """Whether an artefact can hold the ids."""
        dtype = self.index.dtype
        if dtype != object:
            return getattr(dtype, "kind", "O") != "c" and not isinstance(dtype, pd.IntervalDtype)
        return len(self.index) == 0 or isinstance(self.index[0], (str, UUID, date, Decimal, bytes))

    def _check_same_kind(self, values: pd.Index) -> None:
        if values.dtype == self.index.dtype != object:
            return
        here, there = _kind(self.index), _kind(values)
        if here != there and len(self.index):
            raise TypeError(f"{self.name!r} ids are of type {here} (e.g. {_some(self.index)}), received type {there} "
                            f"(e.g. {_some(values)}); convert them first, "
                            f"e.g. with .astype({self.index.dtype.name!r})")  # fmt: skip


def check_ids(values, name: str = "id") -> pd.Index:
    """`values` `(n,)` as an Index of ids of one type, or an error that describes the problem.

    Categories become their values, pandas' nullable integers and Python's in an object column NumPy's; every other
    dtype is kept.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        values = [values]
    if isinstance(values, pd.DataFrame):
        raise TypeError(f"{name!r} ids must be one column, got a DataFrame: pass its column, df[{name!r}]")
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    elif not hasattr(values, "dtype"):
        values = list(values)
        kind = object if isinstance(next(iter(values), None), (tuple, list)) else None
        values = pd.Index(values, dtype=kind, tupleize_cols=False)
    missing = np.asarray(pd.isna(values))
    if missing.ndim != 1:
        raise ValueError(f"{name!r} ids must be one-dimensional, got shape {missing.shape}")
    refuse_missing(missing, name)
    index = _to_index(values)
    _check_floats(index, name)
    types = sorted({type(v).__name__ for v in index}) if index.dtype == object else []
    if len(types) > 1:
        raise TypeError(f"{name!r} mixes ids of types {', '.join(types)}; convert them to one, e.g. .astype(str)")
    if types and not isinstance(index[0], Hashable):
        raise TypeError(f"{name!r} ids are of type {types[0]}, which cannot be looked up; use tuples or strings")
    return index


def refuse_missing(missing: np.ndarray, name: str) -> None:
    """Raise `ValueError` where ids are `missing` `(n,)`."""
    if missing.any():
        raise ValueError(f"{name!r} has {missing.sum():,} missing (NaN) id(s), first at row {missing.argmax()}; drop "
                         f"or fill them first, e.g. df.dropna(subset=[{name!r}])")  # fmt: skip


def _to_index(values) -> pd.Index:
    dtype = values.dtype
    if isinstance(dtype, pd.ArrowDtype) and pa.types.is_nested(dtype.pyarrow_dtype):
        raise TypeError(f"ids are of type {dtype}, which cannot be looked up; use tuples or strings")
    if isinstance(dtype, pd.ArrowDtype) and pa.types.is_dictionary(dtype.pyarrow_dtype):
        values = pd.Series(values).astype(pd.ArrowDtype(dtype.pyarrow_dtype.value_type)).array
        dtype = values.dtype
    if isinstance(dtype, pd.SparseDtype):
        values, dtype = np.asarray(values), dtype.subtype
    if isinstance(dtype, pd.CategoricalDtype):
        values = pd.Index(dtype.categories).take(np.asarray(pd.Categorical(values).codes))
    elif isinstance(dtype, pd.api.extensions.ExtensionDtype) and pd.api.types.is_integer_dtype(dtype):
        values = np.asarray(values, dtype=dtype.numpy_dtype)
    elif dtype == np.float16:
        raise TypeError("ids are float16, which cannot tell whole numbers above 2,048 apart; read them as int64 or str")
    elif dtype == object and pd.api.types.infer_dtype(values) == "integer":
        values = np.asarray(values.tolist())  # beyond 64 bits it stays object
    elif dtype == object and pd.api.types.infer_dtype(values) == "floating":
        values = np.asarray(values, dtype=np.float64)
    elif getattr(dtype, "kind", "") == "U" or (dtype == object and pd.api.types.infer_dtype(values) == "string"):
        try:
            text = pd.Index(np.asarray(values, dtype=object), dtype="str")
            if text.dtype == object:  # before pandas 3, which did not look
                pa.array(text, pa.large_string())
            return text
        except UnicodeEncodeError as error:
            raise ValueError(
                f"an id is not valid text: {error}; correct it, e.g. .str.encode('utf-8', 'replace')"
            ) from None
    elif dtype == object and len(values) and isinstance(np.asarray(values)[0], tuple):
        return pd.Index(values, dtype=object, tupleize_cols=False)
    return values if isinstance(values, pd.Index) else pd.Index(values)


def _check_floats(index: pd.Index, name: str) -> None:
    if not pd.api.types.is_float_dtype(index.dtype) or len(index) == 0:
        return
    array = index.to_numpy()
    limit, largest = 2.0 ** (24 if array.dtype == np.float32 else 53), np.abs(array).max()
    if np.isinf(largest):
        raise ValueError(f"{name!r} has infinite ids; ids must be finite")
    if largest >= limit:
        raise TypeError(f"{name!r} ids are {array.dtype} up to {largest:.0f}; from {limit:,.0f} on {array.dtype} "
                        "cannot tell neighbouring integers apart, so different ids may be merged. Read the column as "
                        "int64 or str")  # fmt: skip


def _kind(index: pd.Index) -> str:
    """Family of id types within which equality makes sense, by the first id, whatever the container."""
    if not len(index):
        return str(index.dtype)
    first = index[0]
    if isinstance(first, (bool, np.bool_)):
        return "bool"
    if isinstance(first, (int, float, complex, np.number)) and not isinstance(first, np.timedelta64):
        return "number"
    if isinstance(first, datetime):
        return "timestamp" if first.tzinfo is None else "timestamp with time zone"
    return type(first).__name__


def _some(values, n: int = 3) -> str:
    shown = ", ".join(repr(plain(v)) for v in list(values[:n]))
    return shown + (", ..." if len(values) > n else "")
