"""The kinds of side information: what is fitted on the training ids, and how values of a column become tensors."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, timedelta
from decimal import Decimal
from operator import attrgetter

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from collabkit.data.runs import Runs

__all__ = ["KINDS", "Kind", "Field", "bag", "infer_kind", "one_hot_lists", "SaysNothing", "encode_field", "plain_times"]

N_BINS = 20
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?$")
FEW = 20  # whole numbers of at most so many values are categories, fastai's rule in `cont_cat_split`


def rarity(n: int, having: np.ndarray) -> np.ndarray:
    """Inverse document frequencies `ln((n + 1) / (n_c + 1)) + 1` of categories that `having` `(p,)` of `n` ids have.

    Example:
        >>> rarity(3, np.array([3, 0])).round(2).tolist()
        [1.0, 2.39]
    """
    return np.log((n + 1) / (having + 1)) + 1


@dataclass(frozen=True)
class Field:
    """One column of side information, as determined by the training ids.

    Args:
        name: the column's name.
        kind: one of `KINDS`, which determines how the other arguments are used.
        categories: the text of code 1, 2, ...; code 0 stands for "missing, none, or unseen in training".
        edges: numbers at which one bin ends and the next begins.
        centre, scale: subtracted from numbers, which are then divided by the scale.
        means: the centre of vectors.
        width: number of columns, if it has numbers rather than categories.
        columns: the names of the 0/1 columns that a multi-valued field was made from, if any.
        options: other parameters of the kind, JSON-ready.
        maker: the kind with the caller's options, which an artefact does not store; default that of `KINDS`.
    """

    name: str
    kind: str
    categories: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    centre: float = 0.0
    scale: float = 1.0
    means: tuple[float, ...] = ()
    width: int = 0
    columns: tuple[str | int, ...] = ()
    options: Mapping = field(default_factory=dict, hash=False)
    maker: "Kind | None" = field(default=None, compare=False, repr=False)

    @property
    def by_kind(self) -> "Kind":
        """The `Kind` of the field."""
        if self.maker is not None:
            return self.maker
        if self.kind not in KINDS:
            raise ValueError(f"feature {self.name!r} is of the unknown kind {self.kind!r}: add it to KINDS first, "
                             f"which has {', '.join(map(repr, KINDS))}")  # fmt: skip
        return KINDS[self.kind]

    is_bag = property(attrgetter("by_kind.is_bag"), doc="Whether an id has codes of categories rather than numbers.")

    @property
    def has_one_code(self) -> bool:
        """Whether an id has at most one category, so that one code represents it."""
        return self.by_kind.has_one_code(self)

    @property
    def has_encoder(self) -> bool:
        """Whether ids have content that a module encodes, rather than numbers or codes."""
        return self.by_kind.has_encoder(self)

    def spec(self) -> dict:
        """What `from_spec` takes, JSON-ready; options only where there are some."""
        left = {"maker"} if self.options else {"maker", "options"}
        return {part.name: getattr(self, part.name) for part in fields(self) if part.name not in left}

    @classmethod
    def from_spec(cls, spec: Mapping) -> "Field":
        """The field that `spec` describes, also after conversion to JSON."""
        tuples = ("categories", "columns", "edges", "means")
        return cls(**{name: tuple(value) if name in tuples else value for name, value in spec.items()})

    def shares(self, codes: Runs) -> Tensor:
        """The weight `(m,)` float32 of each code in the mean of its row, before a model has learned other weights."""
        weight = self.by_kind.code_weights(self)
        weight = torch.ones(self.size) if weight is None else weight
        return codes.parts(weight.to(codes.values.device)[codes.values])

    @property
    def size(self) -> int:
        """Rows of the field's weights: one per category and code 0, or one per number."""
        return len(self.categories) + 1 if self.is_bag else self.width

    @property
    def value_names(self) -> list[str]:
        """The names `(size,)` of the rows of the field's weights."""
        return ["(none)", *self.categories] if self.is_bag else self.by_kind.number_names(self)

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}, {self.by_kind.describe(self)}"


class Kind:
    """A kind of column.

    To add one, put a subclass into `KINDS` under its name. Ids have codes of categories, `Runs` of them (`is_bag`), or
    numbers `(n, width)`, or contents, `Runs` of tensors, which a module trained with the model encodes as numbers
    (`has_encoder`).
    """

    is_bag = False
    of_moments = True  # whether it also suits the context of rows

    def fit(self, name: str, values: pd.Series, columns: Sequence[str] = ()) -> "Field":
        """The field that the values `(m,)` of the training ids determine; at least one is not missing.

        Raises:
            ValueError: they do not distinguish the ids, numbers are infinite, or vectors have unequal lengths or NaN.
            TypeError: values of another kind.
        """
        raise NotImplementedError

    def encode(self, field: Field, values: pd.Series) -> tuple[Runs | Tensor, int, list[str]]:
        """Values `(m,)` as the field's codes or numbers `(m, width)` float32.

        Returns:
            The encoded values; how many are missing; the categories unseen in training, which count as none; and
            further texts for the notes, if any.

        Raises:
            ValueError, TypeError: as in `fit`.
        """
        raise NotImplementedError

    def missing(self, field: Field, n: int) -> Tensor:
        """The numbers `(n, width)` of ids about which nothing is known."""
        return torch.zeros(n, field.width)

    def has_one_code(self, field: Field) -> bool:
        """Whether an id has at most one category, so that one code represents it."""
        return self.is_bag

    def has_encoder(self, field: Field) -> bool:
        """Whether `encode` returns contents, which the module `encoder` turns into numbers."""
        return False

    def encoder(self, field: Field) -> nn.Module:
        """A module from contents, `Runs` of `m` rows, to numbers `(m, width)`; zeros for a row without content."""
        raise NotImplementedError

    def fits(self, field: Field, contents: Runs) -> bool:
        """Whether `contents` have the form that `encode` returns and `encoder` takes."""
        raise NotImplementedError

    def code_weights(self, field: Field) -> Tensor | None:
        """The weight `(size,)` of each code in the mean of an id's codes; None if all weights are equal."""
        return None

    def has_attention(self, field: Field) -> bool:
        """Whether a model learns the weights of the codes."""
        return False

    def parts(self, field: Field, content, grid: int) -> tuple[pd.DataFrame, list]:
        """The parts of a content: one row per part, and the place of each, for the encoder's method `without`.

        Args:
            content: a text or a picture, as the column holds it.
            grid: number of regions in each direction into which a picture is divided.
        """
        raise TypeError(f"a feature of kind {field.kind!r} has no parts of content to look at")

    def describe(self, field: Field) -> str:
        """The field in words."""
        return f"{len(field.categories):,} categories" if self.is_bag else f"{field.width:,} numbers"

    def number_names(self, field: Field) -> list[str]:
        """What each number stands for, `(width,)`."""
        return [str(j) for j in range(field.width)]

    def part_width(self, field: Field) -> int:
        """Width of its part, if each field has its own: fastai's rule for categories, at most 32 for numbers."""
        return min(600, round(1.6 * field.size**0.56)) if self.is_bag else min(32, field.width)


class Categories(Kind):
    """One category per id, or with `many` any number of them: lists, or texts with `|` between the values."""

    is_bag = True

    def __init__(self, many: bool):
        self.many = many

    def has_one_code(self, field: Field) -> bool:
        return not self.many

    def fit(self, name: str, values: pd.Series, columns: Sequence[str] = ()) -> "Field":
        texts = [text for row in self._lists(name, values) for text in row]
        kind = "multi" if self.many else "categorical"
        field = Field(name, kind, tuple(sorted(set(texts))), columns=tuple(columns))
        if len({tuple(codes.tolist()) for codes in self.encode(field, values)[0]}) < 2:
            raise SaysNothing(name, f"the only value is {texts[0]!r}" if texts else "all are missing")
        return field

    def encode(self, field: Field, values: pd.Series) -> tuple[Runs, int, list[str]]:
        lists = self._lists(field.name, values)
        lengths = np.array([len(row) for row in lists], dtype=np.int64)
        flat = [text for row in lists for text in row]
        codes = pd.Index(field.categories, dtype=object).get_indexer(pd.Index(flat, dtype=object)) + 1
        rows, known = np.repeat(np.arange(len(lists)), lengths), codes > 0
        unseen = [flat[j] for j in np.flatnonzero(~known)]
        return bag(rows[known], codes[known], len(lists)), int((lengths == 0).sum()), unseen

    def _lists(self, name: str, values: pd.Series) -> list[list[str]]:
        """Each row's categories as texts, each once; a missing value has none."""
        if self.many:
            return [_multi(name, value) for value in values]
        odd = next((v for v in values if isinstance(v, (list, tuple, set, frozenset, np.ndarray))), None)
        if odd is not None:
            raise TypeError(f"feature {name!r} is categorical, but holds {odd!r}; use kind 'multi' or 'dense'")
        return [[] if pd.isna(value) else [_text(value)] for value in values]


class Binned(Kind):
    """A number as one of 20 quantile bins of the training ids."""

    is_bag = True

    def fit(self, name: str, values: pd.Series, columns: Sequence[str] = ()) -> "Field":
        numbers, known = _known_numbers(name, values)
        quantiles = np.quantile(known, np.arange(1, N_BINS) / N_BINS, method="inverted_cdf")
        edges = np.array(sorted({edge for edge in quantiles.tolist() if edge > known.min()}))
        if len(edges) == 0 and len(known) == len(numbers):
            raise SaysNothing(name, f"nearly all are {np.median(known):g}")
        ends = [f"{edge:.6g}" for edge in edges]
        names = [f"{low} to {high}" for low, high in zip(["", *ends], [*ends, ""], strict=True)]
        names[0], names[-1] = f"below {ends[0]}" if ends else "any", f"from {ends[-1]}" if ends else "any"
        return Field(name, "binned", tuple(names), tuple(map(float, edges)))

    def encode(self, field: Field, values: pd.Series) -> tuple[Runs, int, list[str]]:
        numbers = _numbers(field.name, values)
        known = np.flatnonzero(~np.isnan(numbers))
        codes = np.searchsorted(field.edges, numbers[known], side="right") + 1
        return bag(known, codes, len(numbers)), len(numbers) - len(known), []


class Numeric(Kind):
    """A number, standardised; where training has missing values, a second column marks them."""

    def fit(self, name: str, values: pd.Series, columns: Sequence[str] = ()) -> "Field":
        numbers, known = _known_numbers(name, values)
        centre, scale = float(known.mean()), float(known.std())
        varies = scale > 1e-9 * max(1.0, abs(centre))
        if not varies and len(known) == len(numbers):
            raise SaysNothing(name, f"all are {known[0]:g}")
        width = 1 + (len(known) < len(numbers))
        return Field(name, "numeric", centre=centre, scale=scale if varies else 1.0, width=width)

    def encode(self, field: Field, values: pd.Series) -> tuple[Tensor, int, list[str]]:
        numbers = _numbers(field.name, values)
        missing = np.isnan(numbers)
        scaled = np.where(missing, 0.0, (numbers - field.centre) / field.scale)
        matrix = np.stack([scaled, missing], axis=1)[:, : field.width]
        return torch.from_numpy(matrix.astype(np.float32)), int(missing.sum()), []

    def missing(self, field: Field, n: int) -> Tensor:
        return torch.tensor([[0.0, 1.0]])[:, : field.width].repeat(n, 1)

    def describe(self, field: Field) -> str:
        return f"mean {field.centre:.6g}, sd {field.scale:.4g}"

    def number_names(self, field: Field) -> list[str]:
        return ["per standard deviation", "missing"][: field.width]

    def part_width(self, field: Field) -> int:
        return field.width


class Dense(Kind):
    """A vector of numbers, centred and scaled by the root of the mean squared length."""

    def fit(self, name: str, values: pd.Series, columns: Sequence[str] = ()) -> "Field":
        matrix, there = _vectors(name, values)
        means = matrix[there].mean(0) if there.any() else matrix[:0].sum(0)
        length = float(np.sqrt(np.square(matrix[there] - means).sum(1).mean())) if there.any() else 0.0
        if not length > 1e-9 * max(1.0, float(np.abs(means).max(initial=0))):
            raise SaysNothing(name, "all vectors are the same or missing")
        return Field(name, "dense", scale=length, means=tuple(means.tolist()), width=matrix.shape[1])

    def encode(self, field: Field, values: pd.Series) -> tuple[Tensor, int, list[str]]:
        matrix, there = _vectors(field.name, values, field.width)
        matrix[there] -= field.means
        return torch.from_numpy((matrix / field.scale).astype(np.float32)), int((~there).sum()), []


KINDS: dict[str, Kind] = {
    "categorical": Categories(many=False), "multi": Categories(many=True), "numeric": Numeric(), "binned": Binned(),
    "dense": Dense(),
}  # fmt: skip


def bag(rows: np.ndarray, codes: np.ndarray, n: int) -> Runs:
    """The codes `(m,)` of categories at `rows` `(m,)` of `n` rows; a row without any gets code 0."""
    return Runs.group(rows.astype(np.int64), codes.astype(np.int64), n).filled(0)


def infer_kind(column: pd.Series) -> str:
    """The kind of a column's values.

    Sequences of numbers with a decimal point, and arrays of numbers, are dense vectors; other sequences, and texts with
    a `|`, multi-valued; numbers and dates numeric, but for whole numbers of at most 20 different values; all else is
    categorical.
    """
    values = column.dropna()
    first = values.iloc[0] if len(values) else None
    if isinstance(first, (dict, complex, np.complexfloating)):
        raise TypeError(f"feature {column.name!r} holds {first!r}, a {type(first).__name__}, which no kind takes; make "
                        "columns of numbers or texts of it")  # fmt: skip
    if isinstance(first, (list, tuple, set, frozenset, np.ndarray, Tensor)):
        return "dense" if any(_is_vector(value) for value in values.head(100)) else "multi"
    if column.dtype.kind in "bM":
        return "categorical" if column.dtype.kind == "b" else "numeric"
    what = pd.api.types.infer_dtype(values)  # an object column may hold numbers, where some are None
    if pd.api.types.is_numeric_dtype(column.dtype) or what in ("integer", "floating", "mixed-integer-float"):
        whole = pd.api.types.is_integer_dtype(column.dtype) or what == "integer"
        return "categorical" if whole and values.nunique() <= FEW else "numeric"
    if isinstance(first, (Decimal, date, timedelta, pd.Period, np.timedelta64)) or _are_dates(values):
        return "numeric"
    if any("|" in value for value in values if isinstance(value, str)):
        return "multi"
    return "categorical"


def _are_dates(values: pd.Series) -> bool:
    """Whether all are texts of days or moments, as ISO 8601 writes them."""
    return len(values) > 0 and all(isinstance(value, str) and _ISO.match(value) for value in values)


def one_hot_lists(df: pd.DataFrame, name: str, columns: Sequence[str]) -> pd.Series:
    """The names of the columns that hold a 1, `(m,)` lists, for a field given as 0/1 columns."""
    values = df[list(columns)]
    numbers = values.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    ones = numbers == 1
    odd = ~(ones | (numbers == 0))
    if odd.any():
        row, column = np.argwhere(odd)[0]
        raise ValueError(f"feature {name!r} is made of 0/1 columns; {columns[column]!r} holds "
                         f"{values.iloc[row, column]} for {values.index[row]!r}")  # fmt: skip
    return pd.Series([[str(columns[j]) for j in np.flatnonzero(row)] for row in ones], index=df.index, dtype=object)


class SaysNothing(ValueError):
    """The error of a column that does not distinguish ids or rows."""

    def __init__(self, name: str, why: str, column: str = "feature", apart: str = "ids"):
        self.why = f"{column} {name!r} does not distinguish the training {apart}: {why}"
        super().__init__(f"{self.why}. Leave the column out")
        self.reason = why


def _is_vector(value) -> bool:
    """Whether a sequence holds numbers that are no categories: arrays of numbers, or some with a decimal point."""
    if isinstance(value, (np.ndarray, Tensor)):
        return isinstance(value, Tensor) or value.dtype.kind in "iuf"
    return isinstance(value, (list, tuple)) and any(isinstance(v, (float, np.floating)) for v in value)


def _multi(name: str, value) -> list[str]:
    if isinstance(value, str):
        return list(dict.fromkeys(part for part in map(str.strip, value.split("|")) if part))
    if _is_vector(value) and (isinstance(value, Tensor) or np.asarray(value).dtype.kind == "f"):
        raise TypeError(f"feature {name!r} is multi-valued, but holds vectors of numbers; use kind 'dense'")
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        parts = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return list(dict.fromkeys(_text(part) for part in parts if not pd.isna(part)))
    if pd.isna(value):
        return []
    raise TypeError(f"feature {name!r} is multi-valued: lists or texts with '|' between the values, got {value!r}")


def _text(value) -> str:
    """A category's text; whole numbers have the same text if missing values turned them into floats."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def encode_field(field: Field, values: pd.Series, notes: list[str], what: str = "ids") -> Runs | Tensor:
    """The values `(m,)` encoded by a field; missing and unseen ones are counted in `notes`."""
    encoded, missing, unseen, *more = field.by_kind.encode(field, values)
    if len(encoded) != len(values) or not _fits(field, encoded):
        raise ValueError(
            f"kind {field.kind!r} must encode {field.name!r} as {len(values)} rows of {field.width} finite numbers, or "
            f"of codes below {field.size}; it gave {type(encoded).__name__} of {len(encoded)} rows"
        )
    notes.extend(more)
    if missing:
        instead = "a category of its own" if field.is_bag else "zeros" if field.has_encoder else "the mean"
        notes.append(f"{field.name!r} is missing for {missing:,} of {len(values):,} {what}, which get {instead}")
    if unseen:
        shown = ", ".join(map(repr, dict.fromkeys(unseen[:3]))) + (", ..." if len(unseen) > 3 else "")
        many = f"{len(unseen):,} value(s) of {field.name!r} are categories unseen in training"
        notes.append(f"{many} ({shown}), which count as none")
    return encoded


def _fits(field: Field, encoded: Runs | Tensor) -> bool:
    """Whether a kind has encoded values in the form that it declares."""
    if field.has_encoder:
        return field.by_kind.fits(field, encoded)
    codes = encoded.values if field.is_bag else encoded
    if codes.shape[1:] != (() if field.is_bag else (field.width,)):
        return False
    return bool(((codes >= 0) & (codes < field.size)).all() if field.is_bag else codes.isfinite().all())


def _known_numbers(name: str, values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """The `_numbers` of all rows, and those that are not missing; an error if all are."""
    numbers = _numbers(name, values)
    known = numbers[~np.isnan(numbers)]
    if len(known) == 0:
        raise SaysNothing(name, "all are missing")
    return numbers, known


def plain_times(name: str, values: pd.Series) -> pd.Series:
    """Days, moments and spans of any type as timestamps and time deltas; decimals as floats; all else as it is."""
    if values.dtype == object:  # NaT and NA stand for any gap
        values = values.where(values.notna(), None)
    known = values.dropna()
    first = known.iloc[0] if len(known) else None
    if isinstance(first, pd.Period):
        return pd.Series(pd.PeriodIndex(values), index=values.index).dt.to_timestamp()
    if isinstance(first, (pd.Timedelta, timedelta, np.timedelta64)):
        return pd.to_timedelta(pd.Series(list(values), index=values.index))
    if isinstance(first, date) or _are_dates(known):
        utc = not isinstance(first, date) or getattr(first, "tzinfo", None) is not None
        try:
            return pd.to_datetime(
                pd.Series(list(values), index=values.index), utc=utc, format="ISO8601" if utc else None
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"feature {name!r} has dates that cannot be read: {error}") from error
    if isinstance(first, Decimal):
        return values.map(float, na_action="ignore").astype(float)
    return values


def _numbers(name: str, values: pd.Series) -> np.ndarray:
    values = plain_times(name, values)
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        years = (values.dt.tz_localize(None) - pd.Timestamp(0)) / pd.Timedelta(days=365.25)  # since 1970
        return years.to_numpy(dtype=np.float64, na_value=np.nan)
    if values.dtype.kind == "m":
        return (values / pd.Timedelta(days=1)).to_numpy(dtype=np.float64, na_value=np.nan)
    odd = next((v for v in values.dropna() if isinstance(v, (str, bytes)) or np.ndim(v)), None)
    if odd is not None:
        advice = "convert it with pd.to_numeric" if isinstance(odd, (str, bytes)) else "use kind 'multi' or 'dense'"
        raise TypeError(f"feature {name!r} is numeric, but holds {odd!r}; {advice}")
    try:
        numbers = pd.to_numeric(values).to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise TypeError(f"feature {name!r} is numeric, but holds values that are not numbers: {error}") from error
    if np.isinf(numbers).any():
        raise ValueError(f"feature {name!r} has {np.isinf(numbers).sum():,} infinite value(s); correct them first")
    return numbers


def _vectors(name: str, values: pd.Series, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Vectors `(m, width)`, zero where missing, and which are there `(m,)`."""
    there = np.array([not (value is None or (np.ndim(value) == 0 and pd.isna(value))) for value in values], dtype=bool)
    given = [value.detach().cpu().numpy() if isinstance(value, Tensor) else value for value in values[there]]
    shapes = [np.shape(value) for value in given]
    flat = next((value for value, shape in zip(given, shapes, strict=True) if len(shape) != 1), None)
    if flat is not None:
        raise TypeError(f"feature {name!r} is dense and needs vectors of numbers, but holds {flat!r}")
    if width is None:  # the most common one
        width = max(set(shapes), key=shapes.count)[0] if shapes else 0
    wrong = next((j for j, shape in enumerate(shapes) if shape != (width,)), None)
    if wrong is not None:
        raise ValueError(f"feature {name!r} is dense: vectors of {width} numbers, that of "
                         f"{values.index[there][wrong]!r} has {shapes[wrong][0]}; all need the same")  # fmt: skip
    matrix = np.zeros((len(there), width))
    if given:
        matrix[there] = np.asarray(given, dtype=np.float64)
    bad = ~np.isfinite(matrix).all(1)
    if bad.any():
        raise ValueError(f"feature {name!r} has NaN or infinite numbers in {bad.sum():,} vector(s), first for "
                         f"{values.index[np.flatnonzero(bad)[0]]!r}; correct them, or give None for a vector that is "
                         "missing")  # fmt: skip
    return matrix, there
