"""The folder that caches data computed from files: named by its inputs, filled in steps, and checked."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock

from collabkit.data.notices import say

__all__ = ["Cache", "content_key", "locked"]

FORMAT = 1


def content_key(parts: list[Path], options: dict) -> str:
    """The name of the cache of some files: from their paths, sizes, modification times, and how they are read."""
    files = [(str(part.resolve()), part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    text = json.dumps({"format": FORMAT, "files": files, "options": options}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Context in which no other process fills the cache `folder`; a second one waits and then finds it complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        yield


class Cache:
    """Arrays in files of one folder, made in steps: a step is complete when all of its files exist.

    Args:
        folder: their folder, created with the first step.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def step(self, name: str, make: Callable[[Cache], dict | None]) -> dict:
        """The record of the step `name`, made by `make` unless it is already complete.

        `make` writes files by `new` and returns further JSON-ready values to store.

        Raises:
            OSError: the disk is full; earlier steps are kept, and the next call continues from there.
        """
        if (found := self.found(name)) is not None:
            return found
        note = self.folder / f"{name}.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._made: list[str] = []
        try:
            told = make(self) or {}
            told["files"] = {file: self._sums(file) for file in self._made}
            new = note.with_suffix(".new")
            new.write_text(json.dumps(told), encoding="utf-8")
            os.replace(new, note)
        except OSError as error:
            for file in self._made:
                (self.folder / file).unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(error.errno, f"the disk of the cache {self.folder} is full ({error.strerror}): free some "
                              "space or give another cache=; finished parts are kept, and the next call goes on "
                              "from there") from error  # fmt: skip
            raise
        return told

    def new(self, name: str, dtype: str, n: int) -> np.ndarray:
        """A new array `(n,)` in the file `name`, to be filled; its disk space is reserved at once."""
        path, size = self.folder / name, n * np.dtype(dtype).itemsize
        self._made.append(name)
        with open(path, "wb") as file:
            self.reserve(file, size)
        return np.memmap(path, dtype=dtype, mode="r+", shape=(n,)) if n else np.zeros(0, dtype)

    def reserve(self, file, size: int) -> None:
        """Reserve `size` bytes for a file: writing a mapped page on a full disk would kill the process."""
        if size == 0:
            return
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)

    def cut(self, name: str, dtype: str, n: int) -> None:
        """Shorten the array in the file `name` to `n`."""
        os.truncate(self.folder / name, n * np.dtype(dtype).itemsize)

    def open(self, name: str, dtype: str) -> np.ndarray:
        """The array in the file `name`, mapped; changes to it do not reach the file."""
        path = self.folder / name
        return np.memmap(path, dtype=dtype, mode="c") if path.stat().st_size else np.zeros(0, dtype)

    def forget(self, name: str) -> None:
        """Remove the step `name` and its files, which a later step has used."""
        told = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        for file in (f"{name}.json", *told["files"]):
            (self.folder / file).unlink(missing_ok=True)

    def keep(self, name: str) -> Path:
        """The path of a file that the caller writes itself."""
        self._made.append(name)
        return self.folder / name

    def found(self, name: str) -> dict | None:
        """The record of a finished step; None if there is none, or if one of its files has changed."""
        note = self.folder / f"{name}.json"
        if not note.is_file():
            return None
        told = json.loads(note.read_text(encoding="utf-8"))
        if damaged := [name for name, sums in told["files"].items() if self._sums(name) != sums]:
            say(f"{damaged[0]} of the cache {self.folder} has changed since it was written: it is made again")
            note.unlink()
            return None
        return told

    def _sums(self, name: str) -> list[int] | None:
        """Size and checksum of a file; None where there is none."""
        path = self.folder / name
        if not path.is_file():
            return None
        value = 0
        with open(path, "rb") as file:
            while block := file.read(2**24):
                value = zlib.crc32(block, value)
        return [path.stat().st_size, value]
