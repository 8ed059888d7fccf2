"""The parts of one table in Parquet, and their columns, read a bounded number of rows at once."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from collabkit.data.notices import MissingError

__all__ = ["PARQUET", "head_of", "is_hidden", "parquet_parts", "read_schemas", "row_count", "stream_column"]

PARQUET = (".parquet", ".pq")


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file is no part of the table in `folder`: hidden, or named as Spark names its own."""
    return any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)


def parquet_parts(path: str | Path) -> list[Path]:
    """The Parquet files of a table in the order of their names: a file itself, or all in a folder and those within.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the folder holds none, or files of another kind beside them.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path} (working directory {Path.cwd()})")
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if not (file.is_dir() or is_hidden(file, path)))
    parts = [file for file in files if file.suffix.lower() in PARQUET]
    if not parts:
        raise ValueError(f"{path} holds no Parquet file (it holds {len(files)} files); give the folder of the parts")
    return parts


def read_schemas(parts: Sequence[Path]) -> list[pa.Schema]:
    """The schema of each part.

    Raises:
        ValueError: a part is missing or cannot be read; parts with other columns than the first.
    """
    schemas = []
    for part in parts:
        try:
            schemas.append(pq.read_schema(part))
        except FileNotFoundError:
            raise ValueError(f"the part {part} is missing: it was there when the folder was listed") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"the part {part} is no whole Parquet file ({error}); write it again, or move it out of "
                             "the folder") from error  # fmt: skip
        if set(schemas[-1].names) != set(schemas[0].names):
            raise ValueError(f"{part.name} has the columns {schemas[-1].names}, but {parts[0].name} has "
                             f"{schemas[0].names}: the files are no parts of one table")  # fmt: skip
    return schemas


def stream_column(path: str | Path, name: str, rows: int) -> Iterator[pa.ChunkedArray]:
    """A column of a table in Parquet, `rows` of it at once; the column `name`, or the only one that there is.

    Raises:
        KeyError: there is no such column.
        ValueError: see `parquet_parts` and `read_schemas`.
    """
    parts = parquet_parts(path)
    names = read_schemas(parts)[0].names
    if name not in names and len(names) > 1:
        raise MissingError(f"{path} has no column {name!r}, but {names}: name it so, or leave the others out")
    column, held, n = name if name in names else names[0], [], 0
    for part in parts:
        try:
            for batch in pq.ParquetFile(part).iter_batches(rows, columns=[column]):
                held, n = [*held, batch.column(0)], n + len(batch)
                while n >= rows:
                    whole = pa.chunked_array(held)
                    yield whole[:rows]
                    held, n = [*whole[rows:].chunks], n - rows
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"the part {part} is damaged ({error}); write it again") from error
    if n:
        yield pa.chunked_array(held)


def head_of(path: str | Path, rows: int = 10_000) -> pd.DataFrame:
    """The first rows of a table in Parquet, by which columns that nobody named are found.

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
    """How many rows a table in Parquet has, by what its files say."""
    return sum(pq.read_metadata(part).num_rows for part in parquet_parts(path))
