"""Folders that hold one table: parts in Parquet or CSV, one of RecBole's atomic files, MovieLens."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from .grouplens import movielens, movielens_name
from .parquet import PARQUET, is_hidden

__all__ = ["read_folder"]


def read_folder(folder: Path, readers: Mapping[str, Callable[[Path], pd.DataFrame]]) -> pd.DataFrame:
    """The table in a folder; see `read_interactions`.

    Args:
        folder: its hidden files, and those that begin with an underscore, as written by Spark, are ignored.
        readers: by ending, what reads a file.

    Raises:
        ValueError: no table, files of several kinds, several atomic files, or parts with other columns.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not is_hidden(path, folder))
    by_kind: dict[str, list[Path]] = {}
    for file in files:
        kind = next((s.lower() for s in reversed(file.suffixes) if s.lower() in readers), None)
        if kind is not None:
            by_kind.setdefault(".parquet" if kind in PARQUET else kind, []).append(file)
    if (table := _movielens(folder)) is not None:
        return table
    tables = {kind: found for kind, found in by_kind.items() if kind in (".parquet", ".csv", ".tsv", ".inter")}
    if len(tables) != 1:
        held = ", ".join(f"{len(found)} {kind}" for kind, found in by_kind.items()) or "no file that can be read"
        raise ValueError(f"{folder} is a folder with {held}: expected the parts of one table (.parquet, .csv or .tsv), "
                         "one RecBole .inter file, or MovieLens")  # fmt: skip
    ((kind, parts),) = tables.items()
    if kind == ".inter" and len(parts) > 1:
        names = ", ".join(part.name for part in parts[:3])
        raise ValueError(
            f"{folder} is a folder of {len(parts)} atomic files of interactions ({names}): read one of them"
        )
    return _parquet(folder, parts) if kind == ".parquet" else _separated(parts, readers[kind])


def _movielens(folder: Path) -> pd.DataFrame | None:
    """The ratings with titles, if it is a MovieLens folder."""
    try:
        name = movielens_name(folder)
    except FileNotFoundError:
        return None
    items = {"100k": "u.item", "1m": "movies.dat", "latest-small": "movies.csv"}[name]
    return movielens(name, folder).ratings if (folder / items).is_file() else None


def _parquet(folder: Path, parts: list[Path]) -> pd.DataFrame:
    """Parts in folders that may add columns, e.g. `year=2026`; of different types, e.g. int32 and int64, the wider."""
    schemas = [pa.parquet.read_schema(part) for part in parts]
    _check_alike(parts, [schema.names for schema in schemas])
    flavour = pa.dataset.partitioning(flavor="hive")
    options = {"format": "parquet", "partitioning": flavour, "partition_base_dir": str(folder)}
    whole = pa.unify_schemas(schemas, promote_options="permissive")
    for field in pa.dataset.dataset(parts, **options).schema:  # those that the folders say
        whole = whole if field.name in whole.names else whole.append(field)
    return pa.dataset.dataset(parts, schema=whole, **options).to_table().to_pandas()


def _separated(parts: list[Path], read: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    tables = [read(part) for part in parts]
    _check_alike(parts, [list(table.columns) for table in tables])
    return pd.concat(tables, ignore_index=True)


def _check_alike(parts: list[Path], columns: list[list]) -> None:
    for part, names in zip(parts, columns, strict=True):
        if set(names) != set(columns[0]):
            raise ValueError(f"{part.name} has the columns {names}, but {parts[0].name} has {columns[0]}: the files "
                             "are not parts of one table; read them one by one")  # fmt: skip
