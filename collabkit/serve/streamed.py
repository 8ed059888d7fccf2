"""Lists for more users than a table holds: block by block, as an iterator or as the parts of a folder of Parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from collabkit.data.checks import file_path, whole
from collabkit.data.frames import to_pandas
from collabkit.data.notices import MissingError, noting, say
from collabkit.data.vocab import Vocab
from collabkit.datasets.parquet import stream_column
from collabkit.serve.files import beside

__all__ = ["BLOCK", "check_folder", "list_blocks", "new_folder", "user_blocks", "write_lists"]

BLOCK = 50_000  # users per table of lists


def user_blocks(users, vocab: Vocab, block: int) -> Iterator[pd.Index]:
    """The ids of `users`, at most `block` at once.

    Args:
        users: None for all; ids; a table with the column of the users; the path of a file or folder (Parquet, CSV or
            TSV) with that column, or with a single column; or a reader, i.e. an iterator of such tables or ids.

    Raises:
        FileNotFoundError, KeyError, ValueError: there is no such file or column, or a file is damaged.
    """
    if users is None:
        users = vocab.ids
    elif isinstance(users, (str, Path)):
        users = stream_column(users, vocab.name, block, _arrow_type(vocab))
    users = to_pandas(users)
    if isinstance(users, (pd.DataFrame, pd.Series, pd.Index, np.ndarray, list, tuple)):
        users = [users]
    elif not isinstance(users, Iterable):
        raise TypeError(f"users must be ids, a table, a path or a reader of tables, got {type(users).__name__}")
    for part in users:
        ids = _ids(part, vocab)
        yield from (ids[at : at + block] for at in range(0, len(ids), block))


def _arrow_type(vocab: Vocab) -> pa.DataType | None:
    """The type of ids in a file without types: `007` is a text if the ids are texts, otherwise a number."""
    dtype = vocab.ids.dtype
    if pd.api.types.is_integer_dtype(dtype):
        return pa.int64()
    return pa.string() if isinstance(dtype, pd.StringDtype) or (len(vocab) > 1 and isinstance(vocab[1], str)) else None


def _ids(part, vocab: Vocab) -> pd.Index:
    """The ids of a part that a reader gave: a table, a column, or ids."""
    part = part.to_pandas() if isinstance(part, (pa.RecordBatch, pa.ChunkedArray, pa.Array)) else to_pandas(part)
    if isinstance(part, pd.DataFrame):
        if vocab.name not in part:
            raise MissingError(f"the users must be in the column {vocab.name!r}; the table has {list(part.columns)}")
        part = part[vocab.name]
    if isinstance(part, (str, bytes)) or not isinstance(part, Iterable):
        raise TypeError(f"a reader of users must give tables or arrays of ids, got a {type(part).__name__}")
    return pd.Index(part, tupleize_cols=False)


def check_users(users, vocab: Vocab, block: int, unknown: str) -> None:
    """Raise before the first list if `users`, unless it is an iterator, has unknown or invalid ids."""
    again = isinstance(users, (str, Path)) or not isinstance(users, Iterator)
    if users is None or not again or isinstance(users, pa.RecordBatchReader):
        return
    for ids in user_blocks(users, vocab, block):
        vocab.encode(ids, unknown="raise" if unknown == "raise" else "zero")


def list_blocks(recommend: Callable, users, vocab: Vocab, block: int, options: dict) -> Iterator[pd.DataFrame]:
    """The tables of `recommend` for each block of `users`; its warnings are given once, at the end.

    Raises:
        ValueError: there are no users.
    """
    block = whole("block", block)
    check_users(users, vocab, block, options.get("unknown", "raise"))
    return _tables(recommend, users, vocab, block, options)


def _tables(recommend: Callable, users, vocab: Vocab, block: int, options: dict) -> Iterator[pd.DataFrame]:
    notes, n = {}, 0
    for ids in user_blocks(users, vocab, block):
        with noting() as said:
            table = recommend(ids, **options)
        n += 1
        for note in said:
            notes.setdefault(_kind(note), [0, note])[0] += 1
        yield table
    if n == 0:
        raise ValueError("there are no users to recommend to: the reader gave none")
    for times, note in notes.values():
        say(note if n == 1 else f"in {times:,} of {n:,} blocks of users, the first: {note}")


def _kind(note: str) -> str:
    """A note without its numbers, which is the same for every block."""
    return "".join(c for c in note if not (c.isdigit() or c == ","))


def write_lists(folder: str | Path, tables: Iterable[pd.DataFrame]) -> Path:
    """Write tables as the parts of a new folder, which appears after the last one; returns its path.

    Raises:
        FileExistsError: `folder` already exists.
        OSError: the disk is full, or cannot be written to; nothing is left behind.
    """
    with new_folder(folder) as new:
        new.mkdir()
        for j, table in enumerate(tables):
            pq.write_table(pa.Table.from_pandas(table, preserve_index=False), new / f"part-{j:05d}.parquet")
    return file_path("the folder of lists", folder).resolve()


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A path for a folder, which is moved to `folder` when the context ends without an error.

    Raises:
        FileExistsError: `folder` already exists.
    """
    folder = file_path("the folder of lists", folder).resolve()
    check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with beside(folder) as new:
        yield new
        if folder.is_dir():
            folder.rmdir()  # an empty one
        os.replace(new, folder)


def check_folder(folder: str | Path) -> None:
    """Raise `FileExistsError` if a new folder would replace something."""
    folder = file_path("the folder of lists", folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists: lists are written to a new folder; choose another, or remove it")
