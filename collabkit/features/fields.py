"""The kinds of side information: what is fitted on the training ids, and how a column's values become tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

__all__ = ["KINDS", "Field", "Bag", "infer_kind", "fit_field", "encode_field", "one_hot_lists"]

KINDS = ("categorical", "multi", "numeric", "binned", "dense")
N_BINS = 20
FEW = 20  # whole numbers of at most so many values are categories, fastai's rule in `cont_cat_split`


@dataclass(frozen=True)
class Field:
    """One column of side information, as the training ids fix it.

    Args:
        name: the column's name.
        kind: one of `KINDS`.
        categories: of a categorical, multi-valued or binned field, the text of code 1, 2, ...; code 0 stands for
            "missing, none, or unseen in training".
        edges: of a binned field, the numbers at which one bin ends and the next begins.
        centre, scale: of a numeric field, mean and standard deviation over the training ids; of a dense one, the scale
            is the root of the mean squared length of the vectors less their mean.
        means: of a dense field, the mean vector over the training ids.
        width: columns of its values: of a numeric field 1, or 2 where training has missing values, which the second
            column marks; of a dense field the length of the vectors.
        columns: the names of the 0/1 columns that a multi-valued field was put together from, if so.
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

    @property
    def is_bag(self) -> bool:
        """Whether an id has codes of categories rather than numbers."""
        return self.kind in ("categorical", "multi", "binned")

    @property
    def size(self) -> int:
        """Rows of the field's weights: one a category and code 0, or one a number."""
        return len(self.categories) + 1 if self.is_bag else self.width

    @property
    def value_names(self) -> list[str]:
        """What each row of the field's weights belongs to, `(size,)`."""
        if self.is_bag:
            return ["(none)", *self.categories]
        if self.kind == "numeric":
            return ["per standard deviation", "missing"][: self.width]
        return [str(j) for j in range(self.width)]

    def __str__(self) -> str:
        if self.is_bag:
            return f"{self.name}: {self.kind}, {len(self.categories):,} categories"
        if self.kind == "numeric":
            return f"{self.name}: numeric, mean {self.centre:.6g}, sd {self.scale:.4g}"
        return f"{self.name}: dense, {self.width:,} numbers"


@dataclass(frozen=True, eq=False)
class Bag:
    """Codes of categories by row: those of row r are `codes[start[r]:start[r + 1]]`, at least one each.

    Args:
        start: `(n + 1,)` int64.
        codes: `(m,)` int64.
    """

    start: Tensor
    codes: Tensor

    @classmethod
    def of(cls, rows: np.ndarray, codes: np.ndarray, n: int) -> Bag:
        """The bag of `n` rows with codes `(m,)` at `rows` `(m,)`; a row without any gets code 0."""
        empty = np.flatnonzero(np.bincount(rows, minlength=n) == 0)
        rows, codes = np.concatenate([rows, empty]), np.concatenate([codes, np.zeros_like(empty)])
        order = np.argsort(rows, kind="stable")
        start = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
        return cls(torch.from_numpy(start.astype(np.int64)), torch.from_numpy(codes[order].astype(np.int64)))

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def rows(self) -> Tensor:
        """The row `(m,)` of each code."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.start.device), self.start.diff())

    def take(self, idx: Tensor) -> Bag:
        """The rows at `idx` `(k,)`."""
        first, counts = self.start[idx], self.start.diff()[idx]
        start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        within = torch.arange(int(start[-1]), device=idx.device) - torch.repeat_interleave(start[:-1], counts)
        return Bag(start, self.codes[torch.repeat_interleave(first, counts) + within])


def infer_kind(column: pd.Series) -> str:
    """The kind of a column's values.

    Sequences of numbers with a decimal point, and arrays of numbers, are dense vectors; other sequences, and texts with
    a `|`, multi-valued; numbers and dates numeric, but for whole numbers of at most 20 different values; all else is
    categorical.

    Example:
        >>> infer_kind(pd.Series(['Drama|Crime', 'Comedy'])), infer_kind(pd.Series([1995.5, None]))
        ('multi', 'numeric')
    """
    values = column.dropna()
    first = values.iloc[0] if len(values) else None
    if isinstance(first, (list, tuple, set, frozenset, np.ndarray, Tensor)):
        return "dense" if any(_is_vector(value) for value in values.head(100)) else "multi"
    if pd.api.types.is_bool_dtype(column.dtype):
        return "categorical"
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return "numeric"
    what = pd.api.types.infer_dtype(values)  # an object column may hold numbers, where some are None
    if pd.api.types.is_numeric_dtype(column.dtype) or what in ("integer", "floating", "mixed-integer-float"):
        whole = pd.api.types.is_integer_dtype(column.dtype) or what == "integer"
        return "categorical" if whole and values.nunique() <= FEW else "numeric"
    if any("|" in value for value in values if isinstance(value, str)):
        return "multi"
    return "categorical"


def fit_field(name: str, kind: str, values: pd.Series, columns: Sequence[str] = ()) -> Field:
    """The field that the values `(m,)` of the training ids fix.

    Raises:
        ValueError: they tell no two ids apart, numbers are infinite, or vectors are of unequal length or have NaN.
        TypeError: values of another kind.
    """
    if len(values) == 0:
        raise ValueError(_says_nothing(name, "none of them has a row"))
    if kind in ("categorical", "multi"):
        texts = [text for row in _lists(name, values, kind) for text in row]
        field = Field(name, kind, tuple(sorted(set(texts))), columns=tuple(columns))
        encoded = encode_field(field, values)[0]
        rows = {tuple(codes) for codes in np.split(encoded.codes.numpy(), encoded.start.numpy()[1:-1])}
        if len(rows) < 2:
            raise ValueError(_says_nothing(name, f"the only value is {texts[0]!r}" if texts else "all are missing"))
        return field
    if kind in ("numeric", "binned"):
        numbers = _numbers(name, values)
        known = numbers[~np.isnan(numbers)]
        if len(known) == 0:
            raise ValueError(_says_nothing(name, "all are missing"))
        if kind == "binned":
            return _fit_bins(name, known, len(known) < len(numbers))
        centre, scale = float(known.mean()), float(known.std())
        varies = scale > 1e-9 * max(1.0, abs(centre))
        if not varies and len(known) == len(numbers):
            raise ValueError(_says_nothing(name, f"all are {known[0]:g}"))
        width = 1 + (len(known) < len(numbers))
        return Field(name, kind, centre=centre, scale=scale if varies else 1.0, width=width)
    matrix, there = _vectors(name, values)
    means = matrix[there].mean(0) if there.any() else matrix[:0].sum(0)
    length = float(np.sqrt(np.square(matrix[there] - means).sum(1).mean())) if there.any() else 0.0
    if not length > 1e-9 * max(1.0, float(np.abs(means).max(initial=0))):
        raise ValueError(_says_nothing(name, "all vectors are the same or missing"))
    return Field(name, kind, scale=length, means=tuple(means.tolist()), width=matrix.shape[1])


def encode_field(field: Field, values: pd.Series) -> tuple[Bag | Tensor, int, list[str]]:
    """Values `(m,)` as the field's codes or numbers `(m, width)` float32.

    Returns:
        What the values became; how many rows are missing; the values that are categories unseen in training, which
        count as none.

    Raises:
        ValueError, TypeError: as of `fit_field`.
    """
    if field.kind == "binned":
        numbers = _numbers(field.name, values)
        known = np.flatnonzero(~np.isnan(numbers))
        codes = np.searchsorted(field.edges, numbers[known], side="right") + 1
        return Bag.of(known, codes, len(numbers)), len(numbers) - len(known), []
    if field.is_bag:
        lists = _lists(field.name, values, field.kind)
        lengths = np.array([len(row) for row in lists], dtype=np.int64)
        flat = [text for row in lists for text in row]
        codes = pd.Index(field.categories, dtype=object).get_indexer(pd.Index(flat, dtype=object)) + 1
        rows, known = np.repeat(np.arange(len(lists)), lengths), codes > 0
        unseen = [flat[j] for j in np.flatnonzero(~known)]
        return Bag.of(rows[known], codes[known], len(lists)), int((lengths == 0).sum()), unseen
    if field.kind == "numeric":
        numbers = _numbers(field.name, values)
        missing = np.isnan(numbers)
        scaled = np.where(missing, 0.0, (numbers - field.centre) / field.scale)
        matrix = np.stack([scaled, missing], axis=1)[:, : field.width]
        return torch.from_numpy(matrix.astype(np.float32)), int(missing.sum()), []
    matrix, there = _vectors(field.name, values, field.width)
    matrix[there] -= field.means
    return torch.from_numpy((matrix / field.scale).astype(np.float32)), int((~there).sum()), []


def _fit_bins(name: str, known: np.ndarray, some_missing: bool) -> Field:
    """Bins of about equally many training ids."""
    edges = np.unique(np.quantile(known, np.arange(1, N_BINS) / N_BINS, method="inverted_cdf"))
    edges = edges[edges > known.min()]
    if len(edges) == 0 and not some_missing:
        raise ValueError(_says_nothing(name, f"nearly all are {np.median(known):g}"))
    ends = [f"{edge:.6g}" for edge in edges]
    names = [f"{low} to {high}" for low, high in zip(["", *ends], [*ends, ""], strict=True)]
    names[0], names[-1] = f"below {ends[0]}" if ends else "any", f"from {ends[-1]}" if ends else "any"
    return Field(name, "binned", tuple(names), tuple(map(float, edges)))


def one_hot_lists(df: pd.DataFrame, name: str, columns: Sequence[str]) -> pd.Series:
    """The names of the columns that hold a 1, `(m,)` lists, for a field given as 0/1 columns."""
    values = df[list(columns)]
    numbers = values.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    ones = numbers == 1
    odd = ~(ones | (numbers == 0))
    if odd.any():
        row, column = np.argwhere(odd)[0]
        raise ValueError(
            f"feature {name!r} is made of 0/1 columns; {columns[column]!r} holds {values.iloc[row, column]} for "
            f"{values.index[row]!r}"
        )
    return pd.Series([[str(columns[j]) for j in np.flatnonzero(row)] for row in ones], index=df.index, dtype=object)


def _says_nothing(name: str, why: str) -> str:
    return f"feature {name!r} tells no two training ids apart: {why}. Leave the column out"


def _is_vector(value) -> bool:
    """Whether a sequence holds numbers that are no categories: arrays of numbers, or some with a decimal point."""
    if isinstance(value, (np.ndarray, Tensor)):
        return isinstance(value, Tensor) or value.dtype.kind in "iuf"
    return isinstance(value, (list, tuple)) and any(isinstance(v, (float, np.floating)) for v in value)


def _lists(name: str, values: pd.Series, kind: str) -> list[list[str]]:
    """Each row's categories as texts, each once; a missing value has none."""
    if kind == "categorical":
        odd = next((v for v in values if isinstance(v, (list, tuple, set, frozenset, np.ndarray))), None)
        if odd is not None:
            raise TypeError(f"feature {name!r} is categorical, but holds {odd!r}; its kind is 'multi' or 'dense'")
        return [[] if pd.isna(value) else [_text(value)] for value in values]
    return [_multi(name, value) for value in values]


def _multi(name: str, value) -> list[str]:
    if isinstance(value, str):
        return list(dict.fromkeys(part for part in map(str.strip, value.split("|")) if part))
    if _is_vector(value) and (isinstance(value, Tensor) or np.asarray(value).dtype.kind == "f"):
        raise TypeError(f"feature {name!r} is multi-valued, but holds vectors of numbers; its kind is 'dense'")
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        parts = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return list(dict.fromkeys(_text(part) for part in parts if not pd.isna(part)))
    if pd.isna(value):
        return []
    raise TypeError(f"feature {name!r} is multi-valued: lists or texts with '|' between the values, got {value!r}")


def _text(value) -> str:
    """A category's text; whole numbers are the same whether a missing value made floats of them or not."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _numbers(name: str, values: pd.Series) -> np.ndarray:
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        years = (values.dt.tz_localize(None) - pd.Timestamp(0)) / pd.Timedelta(days=365.25)  # since 1970
        return years.to_numpy(dtype=np.float64, na_value=np.nan)
    odd = next((v for v in values.dropna() if isinstance(v, (str, bytes)) or np.ndim(v)), None)
    if odd is not None:
        advice = "convert it with pd.to_numeric" if isinstance(odd, (str, bytes)) else "its kind is 'multi' or 'dense'"
        raise TypeError(f"feature {name!r} is numeric, but holds {odd!r}; {advice}")
    numbers = pd.to_numeric(values).to_numpy(dtype=np.float64, na_value=np.nan)
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
        raise TypeError(f"feature {name!r} is dense: a vector of numbers each, but holds {flat!r}")
    if width is None:  # what most of them have
        width = max(set(shapes), key=shapes.count)[0] if shapes else 0
    wrong = next((j for j, shape in enumerate(shapes) if shape != (width,)), None)
    if wrong is not None:
        raise ValueError(
            f"feature {name!r} is dense: vectors of {width} numbers, that of {values.index[there][wrong]!r} has "
            f"{shapes[wrong][0]}; all need the same"
        )
    matrix = np.zeros((len(there), width))
    if given:
        matrix[there] = np.asarray(given, dtype=np.float64)
    bad = ~np.isfinite(matrix).all(1)
    if bad.any():
        raise ValueError(
            f"feature {name!r} has NaN or infinite numbers in {bad.sum():,} vector(s), first of "
            f"{values.index[np.flatnonzero(bad)[0]]!r}; correct them, or give None for a vector that is missing"
        )
    return matrix, there
