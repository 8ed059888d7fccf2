"""`read_interactions`: a table of ratings or clicks from a file, by its extension."""

import io
import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import pandas as pd

from collabkit.data.checks import file_path
from collabkit.data.notices import say

__all__ = ["read_interactions", "read_csv", "READERS"]

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_COLUMNS = ("user", "item", "rating", "timestamp")


def read_interactions(path: str | os.PathLike) -> pd.DataFrame:
    """Read a table of interactions from a file or a folder; the extension determines the format.

    | ends in            | read as                                                                        |
    |--------------------|--------------------------------------------------------------------------------|
    | `.csv`             | comma-separated, UTF-8, first line is the header                                |
    | `.tsv`             | tab-separated, UTF-8, first line is the header                                  |
    | `.parquet`, `.pq`  | Parquet                                                                        |
    | `.dat`             | MovieLens `user::item::rating[::timestamp]`, no header                          |
    | `.data`            | MovieLens 100K `user<TAB>item<TAB>rating[<TAB>timestamp]`, no header            |
    | `.inter`           | RecBole's atomic file: tab-separated, a header of `field:type`                  |
    | a folder           | a MovieLens edition, with titles; one `.inter` file; or all its Parquet, CSV or |
    |                    | TSV files, in the order of their names, those of sub-folders too               |

    `.csv` and `.tsv` may be compressed (`.csv.gz`, `.bz2`, `.xz`, `.zst`). Column names and values are those of the
    file; the two formats without a header get the names `user, item, rating, timestamp`. To add a format, put a
    function from a path to a DataFrame into `READERS` under its extension.

    Args:
        path: the file or folder.

    Returns:
        A DataFrame with at least one row and two columns.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the folder has no table or several, the extension is unknown, there are no rows or only one column,
            or the content cannot be parsed.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / 'clicks.csv').write_text('user,item\\n1,7\\n2,9\\n')
        >>> read_interactions(folder / 'clicks.csv').shape
        (2, 2)
    """
    path = file_path("a table to read", path)
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path} (working directory {Path.cwd()})")
    kind = "a folder" if path.is_dir() else _kind(path)
    try:
        table = _folder(path) if path.is_dir() else READERS[kind](path)
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


def read_csv(file: str | os.PathLike) -> pd.DataFrame:
    """`pandas.read_csv`; a header without a comma but with semicolons, tabs or bars is split by these and reported."""
    header = pd.read_csv(file, nrows=0).columns
    found = [mark for mark in ";\t|" if len(header) == 1 and mark in str(header[0])]
    if found:
        say(f"{file} is read as a table separated by {found[0]!r}, as its header has no comma")
    return pd.read_csv(file, sep=found[0] if found else ",", low_memory=False)


def _folder(path: Path) -> pd.DataFrame:
    # Not imported above: the reader of MovieLens imports this module.
    return import_module("collabkit.datasets.folders").read_folder(path, READERS)


def _kind(path: Path) -> str:
    """The extension that determines how a file is read."""
    *above, kind = ["", *(s.lower() for s in path.suffixes)]
    if kind in _COMPRESSED and above[-1] in (".csv", ".tsv"):
        kind = above[-1]
    if kind not in READERS:
        raise ValueError(
            f"{path} ends in {kind or 'no extension'}: expected one of {', '.join(READERS)} "
            f"(.csv and .tsv also with {', '.join(_COMPRESSED)})"
        )
    return kind


def read_separated(path: Path, separator: str) -> pd.DataFrame:
    """Read a headerless file of numbers with the columns `user, item, rating` and, if it is there, `timestamp`.

    Raises:
        ValueError: a number of fields other than expected, a ragged line, or a field that is not a number.
    """
    # pandas parses a separator of two characters in Python, 20 times slower than one character in C.
    content = path.read_bytes().replace(separator.encode(), b"\t")
    n_fields = content.split(b"\n", 1)[0].count(b"\t") + 1
    if n_fields not in (3, 4):
        raise ValueError(
            f"{path} has {n_fields} fields in its first line: expected {' '.join(_COLUMNS)} separated by "
            f"{separator!r} (the last 1 may be absent)"
        )
    try:
        table = pd.read_csv(io.BytesIO(content), sep="\t", header=None, names=_COLUMNS[:n_fields], index_col=False)
    except pd.errors.ParserError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    wrong = [name for name in table if table[name].dtype.kind not in "if" or table[name].isna().any()]
    if wrong:
        raise ValueError(f"{path} is damaged: column {wrong[0]!r} holds missing values or values that are not numbers")
    return table


def read_atomic(file: Path) -> pd.DataFrame:
    """A file of RecBole: fields separated by tabs, and a header of `name:type`, of which the names stay.

    Tokens are texts, or whole numbers where all of a column are written as such.

    Raises:
        ValueError: the header has no types.
    """
    header = pd.read_csv(file, sep="\t", nrows=0).columns
    types = {name: name.rpartition(":")[2] for name in header}
    if odd := [name for name, kind in types.items() if ":" not in name or kind not in _TYPES]:
        raise ValueError(f"the header has no type for {odd}: atomic files name fields as user_id:token, rating:float")
    dtypes, missing = {name: _TYPES[kind] for name, kind in types.items()}, {name: [""] for name in header}
    table = pd.read_csv(file, sep="\t", dtype=dtypes, keep_default_na=False, na_values=missing)
    for name in [name for name, kind in types.items() if kind == "token"]:
        if len(table) and table[name].notna().all() and table[name].str.fullmatch(r"0|-?[1-9]\d{0,17}").all():
            table[name] = table[name].astype("int64")
    return table.rename(columns={name: name.rpartition(":")[0] for name in header})


_TYPES = {"token": "str", "token_seq": "str", "float": "float64", "float_seq": "str"}


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": read_csv,
    ".tsv": partial(pd.read_csv, sep="\t", low_memory=False),
    ".parquet": pd.read_parquet,
    ".pq": pd.read_parquet,
    ".dat": partial(read_separated, separator="::"),
    ".data": partial(read_separated, separator="\t"),
    ".inter": read_atomic,
}
