"""`Context`: the moment of a row (the hour, the device): what training fixes about its columns, and their tensors."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.data.features.fields import KINDS, Field, SaysNothing, encode_field, infer_kind, plain_times
from collabkit.data.notices import say

__all__ = ["Context", "unfolded"]

TIME = "time"  # the kind of a column of times, which unfolds into several fields
_UNFOLDED = {"hour": "categorical", "weekday": "categorical", "season": "categorical", "age": "binned"}
_SEASONS = np.array(["Dec-Feb", "Mar-May", "Jun-Aug", "Sep-Nov"], dtype=object)
_UNITS = ((10**17, "ns"), (10**14, "us"), (10**11, "ms"), (0, "s"))  # of numbers, by how far from 1970 they are


@dataclass(frozen=True, eq=False)
class Context:
    """The columns of a row that describe its moment, and the fields made from them.

    A field has the kinds of side features. Its values are codes `(n,)` int64 of one category a row, 0 where it is
    missing or unseen in training; or numbers `(n, width)` float32, e.g. the shares of several categories.
    A column of kind `'time'` unfolds into fields for the hour, the weekday, the season and the age: days before the
    last training row, 0 for now and later moments. The product of the age with an item's row is that item's course in
    time; for items without training rows it can come from a side feature, their release date.

    Args:
        kinds: the caller's columns, and the kind of each.
        fields: what they became.
        latest: of each column of times, the last moment of training, in nanoseconds since 1970.

    Example:
        >>> table = pd.DataFrame({'hour': [8, 20, 20], 'device': ['phone', 'tv', 'phone']})
        >>> context = Context.fit(table, ['hour', 'device'])
        >>> context
        Context of a row
          hour: categorical, 2 categories
          device: categorical, 2 categories
        >>> context.encode(pd.DataFrame({'device': ['tv']}))
        {'hour': tensor([0]), 'device': tensor([2])}
    """

    kinds: Mapping[str, str]
    fields: tuple[Field, ...]
    latest: Mapping[str, int]

    @classmethod
    def fit(cls, df: pd.DataFrame, columns) -> "Context":
        """The context that the training rows `df` determine.

        Args:
            df: one row per event.
            columns: names of columns, whose kinds are inferred, or a dict from names to kinds: those of
                `Features.from_df`, or `'time'`.

        Raises:
            ValueError: a column does not distinguish the rows, or there is no such kind.
            TypeError: the values of a column do not fit its kind.
        """
        given = columns if isinstance(columns, Mapping) else dict.fromkeys(columns)
        kinds = {name: infer_kind(df[name]) if kind is None else kind for name, kind in given.items()}
        known = (*(name for name, kind in KINDS.items() if kind.of_moments), TIME)
        if odd := {name: kind for name, kind in kinds.items() if kind not in known}:
            raise ValueError(f"context_features: the kind must be one of {', '.join(map(repr, known))}, got {odd}")
        moments = {name: read_moments(df[name]) for name, kind in kinds.items() if kind == TIME}
        if unknown := [name for name, times in moments.items() if times.isna().all()]:
            raise ValueError(f"context column {unknown[0]!r} has no time: all are missing. Leave the column out")
        latest = {name: int(times.max().value) for name, times in moments.items()}
        fields, notes = [], []
        for name, kind in kinds.items():
            columns = unfolded(name, moments[name], latest[name]) if kind == TIME else {name: df[name]}
            found = []
            for part, values in columns.items():
                try:
                    inner = _UNFOLDED[part.removeprefix(f"{name} ")] if kind == TIME else kind
                    found.append(KINDS[inner].fit(part, values))
                except SaysNothing as error:
                    if kind != TIME:
                        raise SaysNothing(name, error.reason, "context column", "rows") from None
                    notes.append(f"{part!r}: {error.reason} (it is left out)")
            if not found:
                raise SaysNothing(name, "all times are the same", "context column", "rows")
            fields += found
        if notes:
            say(f"context: {'; '.join(notes)}")
        return cls(kinds, tuple(fields), latest)

    def encode(self, df: pd.DataFrame, what: str = "context") -> dict[str, Tensor]:
        """The fields' values for the rows of `df`; a column that it lacks is unknown.

        Missing and unseen values are counted in a `CollabWarning`.

        Raises:
            TypeError, ValueError: the values have another kind than in training.
        """
        notes, found = [], self.unknown(len(df))
        for name, values in self._columns(df).items():
            if (field := self._by_name.get(name)) is not None:
                found[name] = _values(field, encode_field(field, values, notes, "rows"))
        if notes:
            say(f"{what}: {'; '.join(notes)}")
        return found

    def unknown(self, n: int) -> dict[str, Tensor]:
        """The values of `n` moments about which nothing is known."""
        return {field.name: _missing(field, n) for field in self.fields}

    def decode(self, values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Columns that show the values: categories as texts, numbers in their own unit, missing ones as None or NaN."""
        return {field.name: _shown(field, values[field.name]) for field in self.fields}

    def _columns(self, df: pd.DataFrame) -> dict[str, pd.Series]:
        found = {}
        for name, kind in self.kinds.items():
            if name in df and kind == TIME:
                found |= unfolded(name, read_moments(df[name]), self.latest[name])
            elif name in df:
                found[name] = df[name]
        return found

    _by_name = property(lambda self: {field.name: field for field in self.fields})

    def spec(self) -> dict:
        """All of it as JSON-ready values."""
        return {"kinds": dict(self.kinds), "fields": [f.spec() for f in self.fields], "latest": dict(self.latest)}

    @classmethod
    def from_spec(cls, spec: Mapping) -> "Context":
        """The context that `spec` describes."""
        return cls(spec["kinds"], tuple(map(Field.from_spec, spec["fields"])), spec["latest"])

    def __repr__(self) -> str:
        return "\n  ".join(["Context of a row", *map(str, self.fields)])


def read_moments(column: pd.Series) -> pd.Series:
    """A column of timestamps, texts of them, or numbers since 1970 (whose unit their size tells) as datetime64[ns]."""
    name, values = column.name, plain_times(column.name, column)
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return values.dt.tz_localize(None).dt.as_unit("ns")  # the local hour, as it is written
    if values.isna().all():
        return pd.Series(pd.NaT, index=column.index, dtype="datetime64[ns]")
    if not pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_bool_dtype(values.dtype):
        odd = next(iter(values.dropna()), None)
        raise TypeError(f"context column {name!r} holds {odd!r}; times must be timestamps or numbers since 1970")
    numbers = values.astype("Float64")
    largest = numbers.abs().max()
    unit = next(unit for least, unit in _UNITS if pd.isna(largest) or largest >= least)
    try:
        return pd.to_datetime(numbers, unit=unit).dt.as_unit("ns")
    except (pd.errors.OutOfBoundsDatetime, ValueError, OverflowError) as error:
        raise ValueError(f"context column {name!r} has times that cannot be read: {error}") from None


def unfolded(name: str, moments: pd.Series, latest: int) -> dict[str, pd.Series]:
    """The hour, the weekday, the season and the age of moments, by the fields' names.

    Example:
        >>> parts = unfolded('at', pd.Series(pd.to_datetime(['1998-03-02 20:15'])), pd.Timestamp('1998-03-04').value)
        >>> {field: str(values[0]) for field, values in parts.items()}
        {'at hour': '20', 'at weekday': 'Monday', 'at season': 'Mar-May', 'at age': '1.15625'}
    """
    at = moments.dt
    age = (pd.Timestamp(latest) - moments) / pd.Timedelta(days=1)
    season = pd.Series(_SEASONS[at.month.fillna(1).astype(int) % 12 // 3], index=moments.index).where(moments.notna())
    parts = {"hour": at.hour, "weekday": at.day_name(), "season": season, "age": age.clip(lower=0)}
    return {f"{name} {part}": values for part, values in parts.items()}


def _missing(field: Field, n: int) -> Tensor:
    if field.has_one_code:
        return torch.zeros(n, dtype=torch.int64)
    if field.is_bag:  # all of it is "(none)"
        return torch.eye(1, field.size).repeat(n, 1)
    return field.by_kind.missing(field, n)


def _values(field: Field, encoded) -> Tensor:
    if not field.is_bag:
        return encoded
    if field.has_one_code:
        return encoded.values
    return encoded.shares(field.size)


def _shown(field: Field, values: Tensor) -> np.ndarray:
    values = values.cpu()
    if field.is_bag:
        names = np.array([None, *field.categories], dtype=object)
        if field.has_one_code:
            return names[values.numpy()]
        return np.array([" | ".join(names[1:][row[1:] > 0]) or None for row in values.numpy()], dtype=object)
    if field.kind == "numeric":
        numbers = values[:, 0].double().numpy() * field.scale + field.centre
        return np.where(values[:, 1].numpy() > 0, np.nan, numbers) if field.width > 1 else numbers
    return np.array([*values.numpy(), None], dtype=object)[:-1]  # one vector per row
