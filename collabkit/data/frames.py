"""Tables of any library as arguments: pandas inside, results in the kind that was passed.

narwhals knows the kinds (polars, Arrow, Modin, cuDF, ...), Arrow carries the columns: numbers without a copy where a
column is one piece without gaps. A scipy matrix has rows and columns in place of ids; see `data.matrices`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import narwhals.stable.v2 as nw
import pandas as pd
import pyarrow as pa
from narwhals.typing import IntoDataFrame
from scipy import sparse

from collabkit.data.matrices import MatrixIds, matrix_table

__all__ = ["Source", "Table", "as_kind", "gives_tables", "keeps_rows", "read_source", "takes_tables", "to_pandas"]

Table = IntoDataFrame  # of pandas, polars, Arrow, and other libraries that narwhals supports
P = ParamSpec("P")
T = TypeVar("T")

_OWN = ("builtins", "numpy", "torch", "pandas", "collabkit", "fastai", "pathlib", "collections", "uuid", "datetime")
_DATES = {pa.date32(): pd.ArrowDtype(pa.date32()), pa.date64(): pd.ArrowDtype(pa.date32())}
_WHOLE = {
    pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(), pa.uint16(): pd.UInt16Dtype(), pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(), pa.bool_(): pd.BooleanDtype(),
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """What a dataset was made from.

    Args:
        kind: the kind of the table, as narwhals names it; None for pandas.
        matrix: the ids of the rows and columns, if it was a scipy matrix.
    """

    kind: Any = None
    matrix: MatrixIds | None = None


def to_pandas(value):
    """A table or column of any library as a pandas DataFrame or Series; anything else unchanged.

    Whole numbers and booleans with gaps become pandas' nullable ones, days stay days, categories and enumerations
    become categories; no value is changed.

    Raises:
        TypeError: a lazy table (polars' LazyFrame, a DuckDB relation, Dask), whose rows are not computed yet; a
            scipy matrix, whose rows have no ids here.

    Example:
        >>> to_pandas(pa.table({'user': [1, None], 'title': ['Alien', 'Brazil']}))
           user   title
        0     1   Alien
        1  <NA>  Brazil
    """
    if not _may_be_foreign(type(value)):
        return value
    if sparse.issparse(value):
        raise TypeError("a scipy matrix has no ids for its rows and columns here: pass a table, or make the data from "
                        "a matrix (from_scipy)")  # fmt: skip
    found = _known(value)
    if isinstance(found, nw.LazyFrame):
        raise TypeError(f"a {type(value).__module__.partition('.')[0]} {type(value).__name__} is lazy: its rows are "
                        "not computed yet; compute them first, e.g. table.collect()")  # fmt: skip
    if isinstance(found, nw.DataFrame):
        likes_pandas = found.implementation.is_pandas_like()
        return found.to_pandas() if likes_pandas else _from_arrow(found.to_arrow())
    if isinstance(found, nw.Series):
        if found.implementation.is_pandas_like():
            return found.to_pandas()
        name = found.name or None
        return _from_arrow(pa.table({"values": found.to_arrow()}))["values"].rename(name)
    return value


def read_source(value, names: tuple[str, str, str] | None = None, *, rated: bool = False) -> tuple[Any, Source]:
    """A table as in `to_pandas`, a matrix as a table with the columns `names`, and its `Source`.

    Args:
        value: a table of any library, a scipy matrix, or a pair `(matrix, MatrixIds)`.
        names: of the user, item and value column of a matrix; None if matrices are not accepted.
        rated: whether the values of a matrix are ratings rather than counts.
    """
    matrix, ids = value if isinstance(value, tuple) and sparse.issparse(value[0]) else (value, None)
    if names is None or not sparse.issparse(matrix):
        return to_pandas(value), Source(_kind(value))
    ids = MatrixIds.of(matrix, names=names[:2]) if ids is None else ids
    return matrix_table(matrix, ids, names, rated=rated), Source(None, ids)


def as_kind(frame: pd.DataFrame, kind) -> Any:
    """A pandas table of rows in the kind of `Source.kind`.

    Raises:
        TypeError: Arrow, and so any library but pandas, cannot hold its ids.
    """
    if kind is None:
        return frame
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise TypeError(f"the ids cannot be returned in a {kind} table: {error}; pass a pandas table") from error
    return nw.from_arrow(table, backend=kind).to_native()


def takes_tables(function: Callable[P, T]) -> Callable[P, T]:
    """A function whose arguments may be tables and columns of any library; inside, they are pandas tables.

    Methods of objects whose data was made from a scipy matrix also accept one.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        args, kwargs, _ = _read(args, kwargs)
        return function(*args, **kwargs)

    return wrapped


def gives_tables(function: Callable[P, T]) -> Callable[P, T]:
    """As `takes_tables`, and the returned table has the kind of the first table passed.

    Without a table among the arguments, it has the kind that the data of the first argument was made from.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        args, kwargs, source = _read(args, kwargs)
        source = _source_of(args) if source is None else source
        return as_kind(function(*args, **kwargs), source.kind)

    return wrapped


def keeps_rows(function: Callable[P, T]) -> Callable[P, T]:
    """A function that returns some rows of its first argument, a table of any library, which keeps its kind."""

    @wraps(function)
    def wrapped(df, *args, **kwargs):
        frame = to_pandas(df)
        kept = function(frame, *args, **kwargs)
        if frame is df or not isinstance(frame, pd.DataFrame):
            return kept
        return _known(df)[kept.index.to_numpy()].to_native()

    return wrapped


def _read(args: tuple, kwargs: dict) -> tuple[tuple, dict, Source | None]:
    """The arguments with pandas tables, and the source of the first table or column among them."""
    given = [*args, *kwargs.values()]
    found = [value for value in given if isinstance(value, pd.DataFrame) or _may_be_foreign(type(value))]
    if not found:
        return args, kwargs, None
    source, read = None, {}
    for name, value in [*enumerate(args), *kwargs.items()]:
        if isinstance(value, pd.DataFrame):
            source = Source() if source is None else source
        elif _may_be_foreign(type(value)):
            if sparse.issparse(value):
                read[name] = _matrix_of(value, args, new_rows=name == "history")
            elif (frame := to_pandas(value)) is not value:
                read[name] = frame
                source = Source(_kind(value)) if source is None else source
    args = tuple(read.get(j, value) for j, value in enumerate(args))
    return args, {name: read.get(name, value) for name, value in kwargs.items()}, source


def _source_of(args: tuple) -> Source:
    return getattr(getattr(args[0], "data", None), "source", None) or Source() if args else Source()


def _matrix_of(matrix, args: tuple, new_rows: bool) -> pd.DataFrame:
    """A matrix with the rows and columns of the one that the data was made from; in a history the rows are new."""
    ids = _source_of(args).matrix
    if ids is None:
        to_pandas(matrix)  # refuses it
    data = args[0].data
    names = (data.columns.user, data.columns.item, data.columns.rating or "count")
    return matrix_table(matrix, ids.with_new_rows(matrix) if new_rows else ids, names, rated=data.rated, whole=False)


@lru_cache(maxsize=512)
def _may_be_foreign(kind: type) -> bool:
    return kind.__module__.partition(".")[0] not in _OWN


def _known(value):
    """A table or column as a narwhals object, or the value unchanged."""
    if isinstance(value, pa.RecordBatch):
        value = pa.Table.from_batches([value])
    elif isinstance(value, pa.Array):
        value = pa.chunked_array([value])
    found = nw.from_native(value, pass_through=True, allow_series=True)
    if found is value and hasattr(value, "__arrow_c_stream__") and hasattr(value, "schema"):
        return nw.from_native(pa.table(value))
    return found


def _kind(value):
    """The narwhals name of the library of a table or column; None for pandas and for anything else."""
    if not _may_be_foreign(type(value)):
        return None
    found = _known(value)
    return found.implementation if isinstance(found, (nw.DataFrame, nw.Series)) else None


def _from_arrow(table: pa.Table) -> pd.DataFrame:
    table = table.unify_dictionaries()
    frame = table.to_pandas(split_blocks=True, ignore_metadata=True, types_mapper=_DATES.get)
    for j, column in enumerate(table.columns):
        if column.null_count and column.type in _WHOLE:  # which NumPy could not hold beside a gap: 2**53 + 1, say
            frame.isetitem(j, pd.Series(_WHOLE[column.type].__from_arrow__(column), index=frame.index))
        elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            frame.isetitem(j, pd.Series(column.to_pylist(), index=frame.index, dtype=object))
    return frame
