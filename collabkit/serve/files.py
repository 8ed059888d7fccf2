"""Files that are complete or absent: written under another name and renamed, with a checksum of their content."""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from collabkit.serve.folder import sha256

__all__ = [
    "DamagedFileError",
    "beside",
    "digest",
    "read_table",
    "read_tensors",
    "save_tensors",
    "sha256",
    "write_tensors",
]

_DIGEST, _CONTENT = "sha256", "content"
MOST_ROWS, MOST_BYTES = 1_000_000, 2**25  # always allowed for a table, however small its file


class DamagedFileError(ValueError):
    """A file has changed since it was written; the message names it."""


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A path next to `path` to write to; it is removed at the end unless it was moved away.

    Leftovers of killed processes of this machine are removed first.
    """
    mine = f".{path.name}.new-{socket.gethostname()}-"
    for old in path.parent.glob(f".{_escaped(path.name)}.new-*"):
        found = re.fullmatch(re.escape(mine) + r"(\d+)-\w+", old.name)
        if found and not _runs(int(found[1])):
            _remove(old)
    new = path.with_name(f"{mine}{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        yield new
    finally:
        _remove(new)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], content: Mapping | None = None) -> None:
    """Write a safetensors file; an older one is replaced as the very last step.

    Args:
        tensors: by name.
        content: JSON-ready values to store with them; the file has a SHA-256 of both.

    Raises:
        OSError: the place cannot be written to, or is full.
    """
    tensors = _apart(tensors)
    text = json.dumps(dict(content or {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as new:
        new.mkdir()  # safetensors leaves a temporary file if it is killed
        save_tensors(new / path.name, tensors, {_CONTENT: text, _DIGEST: digest(tensors, text)})
        _sync(new / path.name)
        os.replace(new / path.name, path)
        _sync(path.parent)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a plain safetensors file.

    Raises:
        OSError: with the number of its cause, e.g. a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(_apart(tensors), path, metadata=metadata)
    except SafetensorError as error:
        found = re.search(r"(?:os error|code:) (\d+)", str(error))
        number = int(found[1]) if found else errno.ENOSPC if "No space" in str(error) else errno.EIO
        raise OSError(number, os.strerror(number) if found else str(error), str(path)) from error


def read_table(path: Path, unique: str | None = None, types_mapper=None) -> pd.DataFrame:
    """Read a Parquet file, unless it would be far larger in memory than on disk.

    Args:
        unique: a column whose values must differ.
        types_mapper: from Arrow's types to those of pandas; default as stored in the file.

    Raises:
        ValueError: it would unfold to many times its size, or values repeat.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, read_dictionary=[unique] if unique else []) as file:
        size, about = path.stat().st_size, file.metadata
        groups = [about.row_group(j) for j in range(about.num_row_groups)]
        unfolded = sum(group.column(j).total_uncompressed_size for group in groups for j in range(group.num_columns))
        if about.num_rows > max(MOST_ROWS, 8 * size) or unfolded > max(MOST_BYTES, 20 * size):
            raise ValueError(f"a table would unfold to {about.num_rows:,} rows of {unfolded:,} bytes from {size:,}")
        table = file.read()
    if unique and pa.types.is_dictionary(table[unique].type):
        values = table[unique].unify_dictionaries().combine_chunks()
        if len(values.dictionary) < len(values):
            raise ValueError(f"a table has values in column {unique!r} that repeat")
        table = table.set_column(table.column_names.index(unique), unique, values.cast(values.type.value_type))
    if types_mapper is not None:
        columns = {name: table[name] for name in table.column_names}
        return pd.DataFrame({name: pd.array(part, dtype=types_mapper(part.type)) for name, part in columns.items()})
    return table.to_pandas()


def read_tensors(path: Path, device="cpu") -> tuple[dict[str, Tensor], dict]:
    """The tensors and the content of a file of `write_tensors`.

    Raises:
        DamagedFileError: it is truncated or changed, or not such a file.
        FileNotFoundError: there is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get(_DIGEST) != digest(tensors, metadata.get(_CONTENT, "")):
            raise DamagedFileError(f"{path} is damaged: its content does not match its checksum")
        return {name: value.to(device, copy=True) for name, value in tensors.items()}, json.loads(metadata[_CONTENT])
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        if isinstance(error, DamagedFileError):
            raise
        raise DamagedFileError(f"{path} is damaged or not a checkpoint: {error}") from error


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, without shared memory, which safetensors refuses."""
    found, seen = {}, set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        storage = value.untyped_storage()
        shared = storage.nbytes() != value.nbytes or (value.nbytes and storage.data_ptr() in seen)
        found[name] = value.clone() if shared else value
        seen.add(storage.data_ptr())
    return found


def digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of the names, types, shapes and bytes of tensors, and of a text."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        found.update(value.flatten().view(torch.uint8).numpy().data if value.numel() else b"")
    return found.hexdigest()


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
