"""`read_interactions`: a table of ratings or clicks from a file, by its extension."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pandas as pd

__all__ = ["read_interactions"]

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_PARQUET = (".parquet", ".pq")
_HEADERLESS = {".dat": "::", ".data": "\t"}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_COLUMNS = ("user", "item", "rating", "timestamp")


def read_interactions(path: str | os.PathLike) -> pd.DataFrame:
    """Read a table of interactions; the file name says how.

    | ends in            | read as                                                                        |
    |--------------------|--------------------------------------------------------------------------------|
    | `.csv`             | comma-separated, UTF-8, first line is the header                                |
    | `.tsv`             | tab-separated, UTF-8, first line is the header                                  |
    | `.parquet`, `.pq`  | Parquet                                                                        |
    | `.dat`             | MovieLens `user::item::rating[::timestamp]`, no header                          |
    | `.data`            | MovieLens 100K `user<TAB>item<TAB>rating[<TAB>timestamp]`, no header            |

    `.csv` and `.tsv` may be compressed (`.csv.gz`, `.bz2`, `.xz`, `.zst`). Column names and values stay as they are in
    the file; the two headerless forms get the names `user, item, rating, timestamp`.

    Args:
        path: the file.

    Returns:
        A DataFrame with at least one row and two columns.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a folder, an unknown extension, no rows, a single column, or content that does not parse.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / 'clicks.csv').write_text('user,item\\n1,7\\n2,9\\n')
        >>> read_interactions(folder / 'clicks.csv').shape
        (2, 2)
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path} (working directory {Path.cwd()})")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, a file is expected; for a MovieLens folder use movielens(name, path)")
    kind = _extension(path)
    try:
        if kind in _PARQUET:
            table = pd.read_parquet(path)
        elif kind in _HEADERLESS:
            table = read_separated(path, _HEADERLESS[kind], _COLUMNS)
        else:
            table = pd.read_csv(path, sep=_SEPARATORS[kind], low_memory=False)
    except (ValueError, OSError) as error:  # pandas' parser and pyarrow's errors derive from these
        raise ValueError(f"{path} cannot be read as {kind}: {error}") from error
    if table.empty:
        raise ValueError(f"{path} holds no rows (columns: {list(table.columns)})")
    if table.shape[1] < 2:
        raise ValueError(
            f"{path} has a single column {list(table.columns)}: at least a user and an item column are expected; "
            f"is the file separated as {kind} says?"
        )
    return table


def _extension(path: Path) -> str:
    """The extension that decides, below a compression suffix; ValueError when none is known."""
    suffixes = [s.lower() for s in path.suffixes]
    kind = suffixes[-1] if suffixes else ""
    if kind in _COMPRESSED and len(suffixes) > 1 and suffixes[-2] in _SEPARATORS:
        return suffixes[-2]
    known = (*_SEPARATORS, *_PARQUET, *_HEADERLESS)
    if kind not in known:
        raise ValueError(
            f"{path} ends in {kind or 'no extension'}: expected one of {', '.join(known)} "
            f"(.csv and .tsv also with {', '.join(_COMPRESSED)})"
        )
    return kind


def read_separated(path: Path, separator: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a headerless file of numbers; trailing columns may be absent from the file.

    Args:
        path: the file, uncompressed.
        separator: what stands between two fields; may be longer than one character.
        columns: names of the columns, in order; a file may hold all of them or only the first three or more.

    Returns:
        A DataFrame whose columns are the first of `columns`.

    Raises:
        ValueError: a number of fields other than expected, a ragged line, or a field that is not a number.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / 'ratings.dat'
        >>> _ = file.write_text('1::1193::5\\n1::661::3\\n')
        >>> list(read_separated(file, '::', ('user', 'item', 'rating', 'timestamp')).columns)
        ['user', 'item', 'rating']
    """
    # pandas parses a separator of two characters in Python, 20 times slower than one character in C.
    content = path.read_bytes().replace(separator.encode(), b"\t")
    n_fields = content.split(b"\n", 1)[0].count(b"\t") + 1
    if not 3 <= n_fields <= len(columns):
        raise ValueError(
            f"{path} has {n_fields} fields in its first line: expected {' '.join(columns)} separated by "
            f"{separator!r} (the last {len(columns) - 3} may be absent)"
        )
    try:
        table = pd.read_csv(io.BytesIO(content), sep="\t", header=None, names=columns[:n_fields], index_col=False)
    except pd.errors.ParserError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    wrong = [name for name in table if table[name].dtype.kind not in "if" or table[name].isna().any()]
    if wrong:
        raise ValueError(f"{path} is damaged: column {wrong[0]!r} holds missing values or values that are not numbers")
    return table
