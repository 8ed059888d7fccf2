"""Ids and their indices, like `Vocab`, on arrays: bisection for whole numbers and texts, a dict for others."""

from __future__ import annotations

import bisect
import datetime
import decimal
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import numpy as np

from collabkit.data.notices import MissingError, is_noting, near_match

__all__ = ["Ids", "plain"]

LARGEST = float(np.finfo(np.float32).max)
READ = {
    "datetime": datetime.datetime.fromisoformat,
    "timedelta": lambda text: datetime.timedelta(microseconds=int(text)),
    "bool": "True".__eq__,
    "int": int,
    "float": float,
    "uuid": uuid.UUID,
    "decimal": decimal.Decimal,
    "bytes": bytes.fromhex,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
}


class Ids:
    """External ids of users or of items; index 0 is unknown.

    Args:
        spec: their entry from `light_state`.
        arrays: their arrays.
    """

    def __init__(self, spec: Mapping, arrays: Mapping[str, np.ndarray]):
        self.name, self.kind, self.n = spec["name"], spec["kind"], int(spec["n"])
        self.numbers, self.text, self.ends = (arrays.get(name) for name in ("ids", "text", "ends"))
        self.order = arrays.get("order")
        self.bisected = self.numbers is not None or self.kind == "text"
        self._values: list | None = None

    def __len__(self) -> int:
        """Indices, the unknown one included."""
        return self.n

    def __iter__(self) -> Iterator:
        """The known ids, in the order of their indices."""
        return iter(self.numbers.tolist()) if self.numbers is not None else map(self._read, range(self.n - 1))

    def hold(self, values: list, place: Mapping) -> None:
        """Use Python's list of the known ids and their positions from now on: faster, with more memory."""
        self._values, self._place, self.bisected = values, place, False

    def __contains__(self, value) -> bool:
        try:
            return self._find(plain(value)) > 0
        except TypeError:
            return False

    def decode(self, idx: Iterable[int]) -> list:
        """The ids at indices `(n,)`, as plain Python values."""
        if self._values is not None:
            return [self._values[i - 1] for i in np.asarray(idx, dtype=np.int64).tolist()]
        if self.numbers is not None:
            return self.numbers[np.asarray(idx, dtype=np.int64) - 1].tolist()
        return [self._read(i - 1) for i in np.asarray(idx, dtype=np.int64).tolist()]

    def encode(self, values: Iterable, unknown: str = "zero") -> np.ndarray:
        """Indices `(n,)` int64 of ids `(n,)`; 0, or an error with `unknown='raise'`, for unknown ids.

        Raises:
            KeyError: an id is unknown and `unknown='raise'`.
            TypeError: ids of another type, of several types, or that cannot be looked up.
            ValueError: an id is missing (None or NaN).
        """
        values = [plain(value) for value in values]
        self._check(values)
        found = np.fromiter((self._find(value) for value in values), np.int64, len(values))
        if unknown == "raise" and (found == 0).any():
            missing = list(dict.fromkeys(value for value, row in zip(values, found, strict=True) if row == 0))
            raise MissingError(f"{len(missing):,} unknown {self.name!r} id(s): {self._named(missing)}. The model "
                               f"knows {self.n - 1:,} (e.g. {self._examples()}). "
                               "Check the spelling, or leave them out")  # fmt: skip
        return found

    def unknown(self, values: Iterable, idx: np.ndarray) -> str:
        """Some of the ids `values` `(n,)` that `encode` found unknown, as text; see `Vocab.unknown`."""
        return self._named(
            list(dict.fromkeys(plain(value) for value, row in zip(values, idx, strict=True) if row == 0)),
            guess=not is_noting(),
        )

    def _named(self, missing: list, guess: bool = True) -> str:
        return _some(missing) + (near_match(missing[0], self) if guess and self.n < 100_000 else "")

    def _check(self, values: list) -> None:
        if missing := [j for j, value in enumerate(values) if value is None or value != value]:
            raise ValueError(f"{self.name!r} has {len(missing):,} missing (NaN) id(s), first at row {missing[0]}")
        kinds = list(dict.fromkeys(map(_kind, values)))
        if len(kinds) > 1:
            raise TypeError(f"{self.name!r} mixes ids of types {', '.join(sorted(kinds))}; convert them to one")
        own = _kind(self._read(0)) if self.n > 1 else None
        if kinds and own is not None and kinds[0] != own:
            raise TypeError(f"{self.name!r} ids are of type {own} (e.g. {self._examples()}), received type {kinds[0]} "
                            f"(e.g. {_some(values)}); convert them first")  # fmt: skip

    def _find(self, value) -> int:
        """The index of one value of the right type; 0 if it is unknown."""
        if not self.bisected:
            return self._place.get(value, -1) + 1
        if self.numbers is not None:
            if isinstance(value, float):
                value = int(value) if value.is_integer() else None
            if not isinstance(value, int) or not -(2**63) <= value < 2**63:
                return 0
        elif not isinstance(value, str):
            return 0
        else:
            value = value.encode("utf-8", "surrogatepass")
        at = bisect.bisect_left(_Rising(self), value)
        if at >= self.n - 1:
            return 0
        row = at if self.order is None else int(self.order[at])
        return row + 1 if self.key(row) == value else 0

    def key(self, row: int):
        """The sort key of the id in a row: a number, or the bytes of a text."""
        if self.numbers is not None:
            return int(self.numbers[row])
        return self.text[int(self.ends[row]) : int(self.ends[row + 1])].tobytes()

    def _read(self, row: int):
        if self.numbers is not None:
            return int(self.numbers[row])
        text = self.key(row).decode("utf-8")
        return text if self.kind == "text" else READ[self.kind](text)

    @cached_property
    def _place(self) -> Mapping:
        return {value: place for place, value in enumerate(self)}

    def _examples(self) -> str:
        return _some([self._read(j) for j in range(min(3, self.n - 1))], self.n - 1)


class _Rising:
    """The keys of ids in ascending order, for `bisect`."""

    def __init__(self, ids: Ids):
        self.ids = ids

    def __len__(self) -> int:
        return self.ids.n - 1

    def __getitem__(self, at: int):
        return self.ids.key(at if self.ids.order is None else int(self.ids.order[at]))


def plain(value):
    """A NumPy number as a Python number."""
    return value.item() if isinstance(value, np.generic) else value


def _kind(value) -> str:
    """Family of types within which ids can be equal, as in `Vocab`."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, datetime.datetime):
        return "timestamp" if value.tzinfo is None else "timestamp with time zone"
    if isinstance(value, datetime.timedelta):
        return "timedelta"
    return type(value).__name__


def _some(values: list, n: int | None = None) -> str:
    return ", ".join(map(repr, values[:3])) + (", ..." if (len(values) if n is None else n) > 3 else "")


def finite_number(value) -> bool:
    """Whether a value is a number, and finite in float32."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST
