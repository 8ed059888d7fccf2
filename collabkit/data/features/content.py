"""`Content`: kinds whose values a module encodes as numbers: trained with the model, or once beforehand."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor, nn

from collabkit.data.checks import whole_within
from collabkit.data.features.encoders import TrainedEncoder
from collabkit.data.features.fields import Dense, Field, Kind, SaysNothing
from collabkit.data.features.vectors import VectorStore
from collabkit.data.runs import Runs

__all__ = ["Content", "Block", "is_missing"]

END_TO_END, FROZEN = "end_to_end", "frozen"
_GIVEN = {"encoder": "given"}  # the options of a field with vectors of an encoder that no artefact stores


class Block(NamedTuple):
    """Some contents in the form that an encoder takes.

    Args:
        contents: those that are not missing.
        keys: the key of each.
        there: bool, for all rows, which have content.
    """

    contents: object
    keys: list[bytes]
    there: np.ndarray


class Content(Kind):
    """A kind whose ids have content: with a built-in encoder, trained with the model, or a given one, applied once.

    Args:
        encoder: a name in `built_in`; a callable from `m` contents to vectors `(m, d)`; or a `TrainedEncoder`.
        train: `'end_to_end'` or `'frozen'`.
        width: numbers that a built-in encoder gives.
        cache: a folder for the vectors of a frozen one.
    """

    kind = ""
    built_in: tuple[str, ...] = ()
    of_moments = False

    def __init__(self, encoder, train: str | None, width: int | None, cache: str | Path | None):
        own = isinstance(encoder, str)
        if not own and not callable(encoder):
            raise TypeError(f"the encoder of a {self.kind} must be one of {', '.join(map(repr, self.built_in))} or a "
                            f"callable, got {encoder!r}")  # fmt: skip
        train = (END_TO_END if own else FROZEN) if train is None else train
        if train not in (END_TO_END, FROZEN):
            raise ValueError(f"train must be {END_TO_END!r} or {FROZEN!r}, got {train!r}")
        if own and train == FROZEN:
            raise ValueError(f"encoder={encoder!r} has learned nothing yet: train it end to end in one model, and give "
                             "encoder=learn.model.encoder(name), train='frozen' to another")  # fmt: skip
        if train == END_TO_END and not own and not isinstance(encoder, TrainedEncoder):
            raise ValueError(f"{encoder!r} cannot be trained: pass train='frozen' to compute its vectors once. "
                             f"Trainable are {', '.join(map(repr, self.built_in))} and a TrainedEncoder")  # fmt: skip
        if isinstance(encoder, TrainedEncoder):
            if encoder.field.kind != self.kind:
                raise ValueError(f"{encoder} is of kind {encoder.field.kind!r}, not {self.kind!r}")
            if width is not None:
                raise ValueError("the trained encoder has its own width; leave width= out")
        if cache is not None and train == END_TO_END:
            raise ValueError("cache= keeps the vectors of a frozen encoder; this one is trained end to end")
        self.own_encoder, self.train = encoder, train
        self.width = None if width is None else whole_within("width", width, 1, 4096)
        self.store = None if train == END_TO_END else VectorStore(self.ask, cache, encoder)

    # --- what a kind of content defines
    # ---------------------------------------------------------------------------------

    def ask(self, contents):
        """The given encoder's vectors `(m, d)` of the contents of a `Block`."""
        return self.own_encoder(contents)

    def blocks(self, name: str, values: pd.Series, notes: dict) -> Iterator[Block]:
        """The values in the form that the given encoder takes; problems are counted in `notes`."""
        raise NotImplementedError

    def learned_options(self, name: str, values: pd.Series) -> dict:
        """The options of the field that the training values determine, for an encoder that is trained end to end."""
        raise NotImplementedError

    def contents(self, field: Field, values: pd.Series, notes: dict) -> Runs:
        """The values as the built-in encoder takes them."""
        raise NotImplementedError

    def module(self, field: Field) -> nn.Module:
        """A new encoder of the field."""
        raise NotImplementedError

    # --- the kind ----------------------------------------------------------------------------------------------------

    def fit(self, name: str, values: pd.Series, columns=()) -> Field:
        if self.train == FROZEN:
            vectors, _ = self._vectors(name, values, {})
            return replace(Dense().fit(name, vectors), kind=self.kind, options=dict(_GIVEN), maker=self)
        options = self.learned_options(name, values)
        if isinstance(self.own_encoder, TrainedEncoder):
            options = dict(self.own_encoder.field.options)
        return Field(name, self.kind, width=options["width"], options=options, maker=self)

    def encode(self, field: Field, values: pd.Series):
        notes: dict[str, list] = {}
        if self.has_encoder(field):
            encoded = self.contents(field, values, notes)
            return encoded, int((encoded.lengths == 0).sum()), [], *_counted(notes)
        vectors = values
        if not _are_vectors(values):
            if self.train == END_TO_END:  # an artefact keeps no code
                raise ValueError(
                    f"feature {field.name!r} has the vectors of an encoder that an artefact does not keep: give its "
                    f"vectors of {field.width} numbers instead, df[{field.name!r}] = list(encoder(contents))"
                )
            vectors, width = self._vectors(field.name, values, notes)
            if width not in (None, field.width):
                raise ValueError(f"the encoder of {field.name!r} gives vectors of {width} numbers but gave "
                                 f"{field.width} in training: it is a different encoder")  # fmt: skip
        return *Dense().encode(field, vectors), *_counted(notes)

    def has_encoder(self, field: Field) -> bool:
        return field.options != _GIVEN

    def encoder(self, field: Field) -> nn.Module:
        module = self.module(field)
        if isinstance(self.own_encoder, TrainedEncoder):
            module.load_state_dict(self.own_encoder.module.state_dict())
        return module

    def describe(self, field: Field) -> str:
        how = f"{field.options['encoder']}, trained end to end" if self.has_encoder(field) else "by an encoder, once"
        return f"{field.width:,} numbers, {how}"

    def _vectors(self, name: str, values: pd.Series, notes: dict) -> tuple[pd.Series, int | None]:
        """The vector of each value, None where there is none, and their width."""
        rows: list = []
        for block in self.blocks(name, values, notes):
            found = iter(self.store(name, block.contents, block.keys, probe=not rows) if block.keys else ())
            rows += [next(found) if there else None for there in block.there]
        width = next((len(row) for row in rows if row is not None), None)
        series = pd.Series(index=values.index, dtype=object)
        for j, row in enumerate(rows):
            series.iat[j] = row
        return series, width

    def __deepcopy__(self, memo) -> "Content":
        return self  # an encoder may be large, and only its cache changes here

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.own_encoder!r}, train={self.train!r})"


def says_nothing(name: str, n_there: int, n_different: int) -> None:
    """Raise if the contents of the training ids do not distinguish them."""
    if n_there == 0:
        raise SaysNothing(name, "all are missing")
    if n_different < 2:
        raise SaysNothing(name, "all are the same")


def is_missing(value) -> bool:
    """Whether a value is missing: None, NaN, NaT or NA."""
    return value is None or (np.ndim(value) == 0 and not isinstance(value, (str, bytes, Path)) and _is_na(value))


def _is_na(value) -> bool:
    found = pd.isna(value)
    return isinstance(found, (bool, np.bool_)) and bool(found)


def _are_vectors(values: pd.Series) -> bool:
    """Whether all values that are not missing are vectors of numbers."""
    there = [value for value in values if not is_missing(value)]
    return all(
        (isinstance(value, (np.ndarray, Tensor)) and value.ndim == 1)
        or (isinstance(value, (list, tuple)) and all(isinstance(v, (int, float, np.number)) for v in value))
        for value in there
    )


def _counted(notes: dict[str, list]) -> list[str]:
    """The problems of contents, each with their number and the first one."""
    return [f"{len(who):,} {what}, that of {who[0]!r} first" for what, who in notes.items()]
