"""Arrays of safetensors files, mapped into memory: unused parts are not read, and processes share the rest."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["Lists", "mapped", "part"]

TYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}


def mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name, read-only; types that NumPy lacks are left out.

    `safetensors.numpy` would copy them. The format: eight bytes with the length of a header, the header, which is JSON,
    and the bytes of all arrays.

    Raises:
        ValueError: the file does not have that format.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    found = {}
    for name, about in header.items():
        if name == "__metadata__" or about["dtype"] not in TYPES:
            continue
        kind, (first, stop) = np.dtype(TYPES[about["dtype"]]), about["data_offsets"]
        count = int(np.prod(about["shape"], dtype=np.int64))
        if not 0 <= first <= stop <= len(memory) - 8 - length or stop - first != count * kind.itemsize:
            raise ValueError(f"array {name!r} does not lie in the file")
        found[name] = np.frombuffer(memory, kind, count, 8 + length + first).reshape(about["shape"])
    return found


def part(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `name` and a dot, by the rest of their names."""
    return {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}


class Lists(NamedTuple):
    """Items by row, as `Runs`: those of row j are `items[start[j]:start[j + 1]]`, with a number for each."""

    start: np.ndarray
    items: np.ndarray
    weight: np.ndarray | None = None

    @classmethod
    def of(cls, parts: list[tuple[np.ndarray, np.ndarray | None]]) -> Lists:
        """The rows of `(items, weights or None)`."""
        start = np.cumsum([0, *(len(items) for items, _ in parts)])
        items = np.concatenate([np.zeros(0, np.int64), *(items for items, _ in parts)])
        weighted = bool(parts) and all(weight is not None for _, weight in parts)
        return cls(start, items, np.concatenate([weight for _, weight in parts]) if weighted else None)

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.start) - 1

    def row(self, j: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The items of row j, and their numbers."""
        where = slice(int(self.start[j]), int(self.start[j + 1]))
        return self.items[where], None if self.weight is None else self.weight[where]

    def rows(self, at) -> Lists:
        """The rows at places `(m,)`, in their order."""
        return Lists.of([self.row(j) for j in at])
