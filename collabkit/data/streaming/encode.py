"""Ids to indices by Polars, a bounded number of rows at once: vocabularies first, then the codes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from collabkit.data.interactions import Columns, no_columns
from collabkit.data.notices import say
from collabkit.data.vocab import UNKNOWN

__all__ = ["Scan", "Side", "open_scan", "polars"]

CHUNK = 2**19  # rows that are encoded at once


def polars():
    """The module `polars`, or an error that says what to install.

    Its allocator keeps freed pages for a while, at 100 million rows over a gigabyte; unless it is loaded already or
    told otherwise, it hands them back at once.
    """
    os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0")
    try:
        import polars as pl
    except ImportError:
        raise ImportError("stream=True reads Parquet by Polars: pip install 'collabkit[scale]'") from None
    if not hasattr(pl.LazyFrame, "collect_batches"):
        raise ImportError(f"stream=True needs polars 1.34 or later, this is {pl.__version__}: pip install -U polars")
    return pl


@dataclass(frozen=True)
class Side:
    """The ids of one side, ascending, and how many rows each has."""

    ids: object  # a polars Series
    counts: np.ndarray

    def index(self, name: str) -> pd.Index:
        """The ids in the type that the same column has in pandas."""
        return pd.Index(self.ids.to_arrow().cast(_plain(self.ids.to_arrow().type)).to_pandas(), name=name)


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.large_string() if pa.types.is_string(kind) or str(kind) == "string_view" else kind


class Scan:
    """The parts of a table, read lazily, with the requested columns and the rows that count.

    Args:
        parts: the Parquet files.
        schemas: of each.
        columns: the names of the columns.
        threshold: the lowest rating of a row that counts, or None.
    """

    def __init__(self, parts: list[Path], schemas: list[pa.Schema], columns: Columns, threshold: float | None):
        pl = polars()
        self.columns, self.threshold, self.parts = columns, threshold, parts
        self.types = {name: _one_type(parts, schemas, name) for name in columns.present}
        frames = [pl.scan_parquet(part).select(columns.present) for part in parts]
        casts = [pl.col(name).cast(_polars_type(kind)) for name, kind in self.types.items() if kind is not None]
        self.every = pl.concat([frame.with_columns(casts) for frame in frames])
        self.frame = self.every
        if threshold is not None:
            self.frame = self.every.filter(pl.col(columns.rating) >= threshold)

    def check(self) -> None:
        """Raise `ValueError` if ids, ratings or times are missing or infinite; report what is left out."""
        pl, columns = polars(), self.columns
        asked = [pl.len().alias("rows"), *(pl.col(name).null_count().alias(f"null {name}") for name in columns.present)]
        if columns.rating is not None:
            rating = pl.col(columns.rating).cast(pl.Float64)
            asked += [rating.is_nan().sum().alias("nan"), rating.is_infinite().sum().alias("inf")]
            if self.threshold is not None:
                asked.append((rating < self.threshold).sum().alias("low"))
        with self._naming():
            told = self.every.select(asked).collect(engine="streaming").row(0, named=True)
        for name in columns.present:
            if missing := told[f"null {name}"]:
                raise ValueError(f"column {name!r} has {missing:,} missing value(s) of {told['rows']:,}; drop or fill "
                                 "them first")  # fmt: skip
        if bad := (told.get("nan") or 0) + (told.get("inf") or 0):
            raise ValueError(f"column {columns.rating!r} has {bad:,} missing (NaN) or infinite rating(s)")
        if told["rows"] == 0:
            raise ValueError(f"the {len(self.parts)} file(s) have no rows")
        if low := told.get("low"):
            say(f"{low:,} of {told['rows']:,} rows left out: rated below {self.threshold:g}, no positive")

    def side(self, name: str) -> Side:
        """The ids of a column that occur, ascending."""
        pl = polars()
        with self._naming():
            counted = self.frame.group_by(name).agg(pl.len()).sort(name).collect(engine="streaming")
        ids = counted[name]
        if ids.dtype == pl.String and UNKNOWN in (found := ids.filter(ids == UNKNOWN)):
            raise ValueError(f"{name!r} has an id {found[0]!r}, which is reserved for unknown ids; rename it")
        return Side(ids, counted["len"].to_numpy().astype(np.int64))

    def codes(self, users: Side, items: Side) -> Iterator[dict[str, np.ndarray]]:
        """The rows in the order of the files: `user` and `item` int32, `rating` float32 and `time` int64, if any."""
        pl, columns = polars(), self.columns
        asked, direct = [], {}
        for key, name, side in (("user", columns.user, users), ("item", columns.item, items)):
            column = pl.col(name)
            if side.ids.dtype == pl.String:
                column = column.cast(pl.Enum(side.ids)).to_physical().cast(pl.Int32) + 1
            else:
                direct[key] = _Numbers(side.ids.to_physical().to_numpy())
                column = column.to_physical()
            asked.append(column.alias(key))
        if columns.rating is not None and self.threshold is None:
            asked.append(pl.col(columns.rating).cast(pl.Float32).alias("rating"))
        if columns.time is not None:
            time = pl.col(columns.time)
            whole = self.frame.collect_schema()[columns.time].is_integer()
            asked.append((time.cast(pl.Int64) if whole else time.dt.epoch("ns")).alias("time"))
        frame = self.frame.select(asked)
        with self._naming():
            for batch in frame.collect_batches(chunk_size=CHUNK, maintain_order=True, engine="streaming"):
                arrays = {name: batch[name].to_numpy() for name in batch.columns}
                yield arrays | {key: numbers.encode(arrays[key]) for key, numbers in direct.items()}

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Context that turns an error of Polars into one that names the unreadable part."""
        try:
            yield
        except polars().exceptions.PolarsError as error:
            for part in self.parts:
                try:
                    for _ in pq.ParquetFile(part).iter_batches(CHUNK, columns=self.columns.present):
                        pass
                except (pa.ArrowException, OSError) as damage:
                    raise ValueError(f"the part {part} is damaged ({damage}); write it again") from error
            raise ValueError(f"the files of {self.parts[0].parent} cannot be read: {error}") from error


class _Numbers:
    """Positions of whole numbers in an ascending array: by a lookup table if they are close together."""

    def __init__(self, ids: np.ndarray):
        self.ids, self.low = ids, ids[0]
        close = ids.dtype.kind in "iu" and float(ids[-1]) - float(ids[0]) < max(4 * len(ids), 2**20)
        self.place = np.zeros(int(ids[-1]) - int(ids[0]) + 1, dtype=np.int32) if close else None
        if close:
            self.place[np.subtract(ids, self.low, dtype=np.int64, casting="unsafe")] = np.arange(1, len(ids) + 1)

    def encode(self, values: np.ndarray) -> np.ndarray:
        if self.place is not None:
            return self.place[np.subtract(values, self.low, dtype=np.int64, casting="unsafe")]
        return np.searchsorted(self.ids, values).astype(np.int32) + 1


def open_scan(parts: list[Path], schemas: list[pa.Schema], columns: Columns, threshold: float | None) -> Scan:
    """The scan of some parts, after a check of columns and types.

    Raises:
        KeyError: a column is missing.
        TypeError: a column has different kinds of values in two parts, or values that cannot be ids, numbers or times.
    """
    if missing := [name for name in columns.present if name not in schemas[0].names]:
        raise no_columns(missing, schemas[0].names, "the files have")
    columns.check_names()
    kinds = {columns.user: "id", columns.item: "id", columns.rating: "rating", columns.time: "time"}
    for name in columns.present:
        for part, schema in zip(parts, schemas, strict=True):
            _check_type(part, name, schema.field(name).type, kinds[name])
    return Scan(parts, schemas, columns, threshold)


def _family(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _family(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view":
        return "text"
    if pa.types.is_integer(kind):
        return "whole number"
    if pa.types.is_floating(kind):
        return "fraction"
    return "time" if pa.types.is_timestamp(kind) or pa.types.is_date(kind) else str(kind)


def _check_type(part: Path, name: str, kind: pa.DataType, what: str) -> None:
    allowed = {"id": ("text", "whole number", "time"), "rating": ("whole number", "fraction"),
               "time": ("whole number", "time")}[what]  # fmt: skip
    if _family(kind) not in allowed:
        raise TypeError(f"column {name!r} is {kind} in {part.name}; a stream reads {what}s that are "
                        f"{', '.join(allowed)}: convert the column, or read it in memory (stream=False)")  # fmt: skip


def _one_type(parts: list[Path], schemas: list[pa.Schema], name: str) -> pa.DataType | None:
    """The common type of a column of all parts; None if it is the same in all."""
    types = [schema.field(name).type for schema in schemas]
    plain = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in types]
    for part, kind in zip(parts, plain, strict=True):
        if _family(kind) != _family(plain[0]):
            raise TypeError(f"column {name!r} is {plain[0]} in {parts[0].name} and {kind} in {part.name}: ids, ratings "
                            "and times have one type in all parts; convert those of one of them")  # fmt: skip
    if all(kind == types[0] for kind in types) and not pa.types.is_dictionary(types[0]):
        return None
    return pa.unify_schemas([pa.schema([(name, kind)]) for kind in plain], promote_options="permissive").field(0).type


def _polars_type(kind: pa.DataType):
    return polars().from_arrow(pa.array([], type=kind)).dtype
