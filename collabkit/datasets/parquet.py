"""The parts of one table in Parquet, read in blocks of bounded size; also one column of CSV."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from collabkit.data.notices import MissingError

__all__ = ["PARQUET", "head_of", "is_hidden", "parquet_parts", "read_schemas", "row_count", "stream_column"]

PARQUET = (".parquet", ".pq")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file is not part of the table in `folder`: hidden, or named like Spark's own files."""
    return any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)


def parquet_parts(path: str | Path) -> list[Path]:
    """The Parquet files of a table in the order of their names: a file itself, or all in a folder and those within.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the folder holds none.
    """
    return _parts(path, PARQUET, "Parquet")


def _parts(path: str | Path, endings: Collection[str], kind: str) -> list[Path]:
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path} (working directory {Path.cwd()})")
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if not (file.is_dir() or is_hidden(file, path)))
    parts = [file for file in files if file.suffix.lower() in endings]
    if not parts:
        raise ValueError(f"{path} holds no {kind} file (it holds {len(files)} files); give the folder of the parts")
    return parts


def read_schemas(parts: Sequence[Path], read=pq.read_schema, kind: str = "Parquet") -> list[pa.Schema]:
    """The schema of each part, as `read` reads it.

    Raises:
        ValueError: a part is missing or cannot be read; parts with other columns than the first.
    """
    schemas = []
    for part in parts:
        try:
            schemas.append(read(part))
        except FileNotFoundError:
            raise ValueError(f"the part {part} is missing: it was there when the folder was listed") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"the part {part} is not a complete {kind} file ({error}); write it again, or move it out "
                             "of the folder") from error  # fmt: skip
        if set(schemas[-1].names) != set(schemas[0].names):
            raise ValueError(f"{part.name} has the columns {schemas[-1].names}, but {parts[0].name} has "
                             f"{schemas[0].names}: the files are not parts of one table")  # fmt: skip
    return schemas


def stream_column(path: str | Path, name: str, rows: int, kind: pa.DataType | None = None) -> Iterator[pa.ChunkedArray]:
    """A column of a table in Parquet, CSV or TSV, `rows` of it at once: the column `name`, or the only one.

    Args:
        path: a file, or a folder of parts of one kind.
        kind: the type of the values in a CSV; default inferred.

    Raises:
        FileNotFoundError: there is no such file or folder.
        KeyError: there is no such column.
        ValueError: a folder without parts or with parts of several kinds, a damaged part, parts with other columns, or
            with values of another type.
    """
    parts = _parts(path, (*PARQUET, *_SEPARATORS), "Parquet, CSV or TSV")
    endings = {".parquet" if part.suffix.lower() not in _SEPARATORS else part.suffix.lower() for part in parts}
    if len(endings) > 1:
        raise ValueError(f"{path} holds files of several kinds ({', '.join(sorted(endings))}): keep only the parts "
                         "of one table there")  # fmt: skip
    separator = _SEPARATORS.get(endings.pop())
    if separator is None:
        schemas = read_schemas(parts)
    else:
        schemas = read_schemas(parts, lambda part: _open_separated(part, separator).schema, "CSV")
    names = schemas[0].names
    if name not in names and len(names) > 1:
        raise MissingError(f"{path} has no column {name!r}, but {names}: rename that column, or leave the others out")
    column, held, n = name if name in names else names[0], [], 0
    if separator is None or kind is None:
        kind = _one_type(parts, column, [schema.field(column).type for schema in schemas])
    for part in parts:
        try:
            if separator is None:
                batches = pq.ParquetFile(part).iter_batches(rows, columns=[column])
            else:
                batches = _open_separated(part, separator, include_columns=[column], column_types={column: kind})
            for batch in batches:
                held, n = [*held, batch.column(0).cast(kind)], n + len(batch)
                while n >= rows:
                    whole = pa.chunked_array(held)
                    yield whole[:rows]
                    held, n = [*whole[rows:].chunks], n - rows
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"the part {part} is damaged ({error}); write it again") from error
    if n:
        yield pa.chunked_array(held)


def _open_separated(part: Path, separator: str, **convert) -> pc.CSVStreamingReader:
    options = {"parse_options": pc.ParseOptions(delimiter=separator), "convert_options": pc.ConvertOptions(**convert)}
    return pc.open_csv(part, **options)


def _one_type(parts: Sequence[Path], column: str, types: Sequence[pa.DataType]) -> pa.DataType:
    """The type of a column in all parts: the widest one for whole numbers of several widths."""
    types = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in types]
    if all(kind == types[0] for kind in types):
        return types[0]
    if all(map(pa.types.is_integer, types)):
        return pa.unify_schemas([pa.schema({column: kind}) for kind in types], promote_options="permissive")[0].type
    if all(pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in types):
        return pa.large_string()
    j = next(j for j, kind in enumerate(types) if kind != types[0])
    raise ValueError(f"the column {column!r} is of type {types[0]} in {parts[0].name} and of type {types[j]} in "
                     f"{parts[j].name}: write all parts with ids of one type")  # fmt: skip


def head_of(path: str | Path, rows: int = 10_000) -> pd.DataFrame:
    """The first rows of a table in Parquet, used to find columns that were not named.

    Raises:
        ValueError: there are none, or a part is damaged.
    """
    parts = parquet_parts(path)
    read_schemas(parts)
    for part in parts:
        for batch in pq.ParquetFile(part).iter_batches(rows):
            return batch.to_pandas()
    raise ValueError(f"{path} has no rows in {len(parts)} file(s)")


def row_count(path: str | Path) -> int:
    """The number of rows of a table in Parquet, from the metadata of its files."""
    return sum(pq.read_metadata(part).num_rows for part in parquet_parts(path))
