"""`Interactions`: validated, encoded events (user, item, rating?, time?), the form in which the library uses data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from collabkit.data.checks import no_table, one_of, plain, shown
from collabkit.data.confidence import Confidence
from collabkit.data.features.context import Context
from collabkit.data.frames import Table, read_source, takes_tables
from collabkit.data.notices import MissingError, near_match, say
from collabkit.data.runs import Runs
from collabkit.data.unique import sorted_unique
from collabkit.data.vocab import Vocab

__all__ = [
    "Columns", "Interactions", "SIDES", "check_frame", "check_ratings", "check_times", "comparable_times", "day_of",
    "encode_times", "not_numbers", "ticks_of",
]  # fmt: skip

SIDES = ("user", "item")

# Columns of result tables in addition to the user and item columns.
RESERVED = {
    "rank", "score", "similarity", "bias", "effect", "n_ratings", "mean_rating", "end", "value", "prediction", "loss"
}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Names of the columns of an interactions table; `rating` and `time` are None where the table has none.

    `context` names the columns that describe the moment: the device, the hour, the page; the time may be one. `ticks`
    is the number of parts of a unit of the time column, if times are fractions: 10**9 for seconds since 1970, and 1 if
    times are whole. It is determined from the data and used for later tables. `count` is how often or how much: plays,
    units, hours.

    Example:
        >>> Columns('user', 'title', 'rating').present
        ['user', 'title', 'rating']
    """

    user: str
    item: str
    rating: str | None = None
    time: str | None = None
    context: tuple[str, ...] = ()
    ticks: int | None = field(default=None, compare=False)  # determined from the data: not the name of a column
    count: str | None = None

    @property
    def present(self) -> list[str]:
        """The names that are set, in the order user, item, rating, time, context, count."""
        context = (name for name in self.context if name != self.time)
        names = (self.user, self.item, self.rating, self.time, *context, self.count)
        return [name for name in names if name is not None]

    def check_names(self) -> None:
        """Raise unless the names differ, are texts or whole numbers, and leave the columns of result tables free."""
        kinds = (str, int, np.integer)
        if odd := [name for name in self.present if isinstance(name, bool) or not isinstance(name, kinds)]:
            raise TypeError(f"column names must be texts or whole numbers, got {odd}; rename the columns")
        if len(set(self.present)) < len(self.present):
            raise ValueError("user, item, rating (or counts), time and context must be different columns, got "
                             f"{self.present}")  # fmt: skip
        taken = [name for name in (self.user, self.item) if name in RESERVED]
        taken += [name for name in (self.rating,) if name in ("prediction", "loss")]
        if taken:
            raise ValueError(f"column name(s) {taken} are taken by result tables; rename, e.g. to {taken[0] + '_id'!r}")

    def check(self, df: pd.DataFrame, *, fixed: bool = False) -> None:
        """Raise unless `df` is a non-empty DataFrame that holds these columns, each once.

        Args:
            fixed: whether they are those of a model, to which the caller cannot give other names.
        """
        check_frame(df)
        if missing := [name for name in self.present if name not in df.columns]:
            raise no_columns(missing, list(df.columns), "the table has", fixed=self.present if fixed else None)
        self.check_names()
        if repeated := [name for name in self.present if (df.columns == name).sum() > 1]:
            raise ValueError(f"column(s) {repeated} occur more than once in the table; rename or drop the others")
        if len(df) == 0:
            raise ValueError(f"the table of interactions is empty (0 rows, columns {list(df.columns)})")


def check_frame(df) -> None:
    """Raise `TypeError` unless `df` is a pandas DataFrame."""
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"expected a pandas DataFrame of interactions, {no_table(df)}")


def no_columns(missing: list, there: list, has: str, *, fixed: list | None = None) -> MissingError:
    """The error for `missing` columns of a table that `has` the columns `there`.

    Args:
        fixed: the columns of the model, if the table is for one; otherwise the caller names them.
    """
    if fixed is not None:
        mine = next((name for name in there if name not in fixed), "mine")
        return MissingError(f"column(s) {missing} not found; {has} {there}. The model's columns are {fixed}: rename "
                            f"yours, e.g. df.rename(columns={{{mine!r}: {missing[0]!r}}})")  # fmt: skip
    return MissingError(f"column(s) {missing} not found{near_match(missing[0], there)}; {has} {there}. Name them with "
                        "user_name=, item_name=, rating_name=, time_name= (context_features=, counts=)")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Interactions:
    """Encoded events: in row j, user `user_idx[j]` met item `item_idx[j]`.

    Build it with `Interactions.from_df`. Index 0 stands for an id that the vocabulary does not know.

    Args:
        user_idx, item_idx: `(n,)` int64 rows of the user and item tables.
        rating: `(n,)` float32, or None for events without a value.
        time: `(n,)` int64 (nanoseconds for timestamps, else the column's own unit or, for fractions, its
            `columns.ticks`-th part), or None.
        users, items: the vocabularies.
        columns: the column names in the caller's table.
        weight: `(n,)` float32, how much each row counts in the training loss, or None if all count equally. It is part
            of the training, like the loss, and not included in `to_df`, `data_hash` or the artefact.
        context: the moment of each row, by field as from `Context.encode`.
        contexts: the description of these fields.
        count: `(n,)` float32 above 0, the total number or amount of a pair, or None; each pair occurs once.
        confidence: how counts become confidence, fitted to the training part.

    Example:
        >>> df = pd.DataFrame({'user': [1, 1, 2], 'title': ['Alien', 'Brazil', 'Alien'], 'rating': [4, 5, 3]})
        >>> data = Interactions.from_df(df, Columns('user', 'title', 'rating'))
        >>> data
        Interactions: 3 rows, 2 users, 2 items, density 75.0%, rating 3 to 5 (mean 4.000)
        >>> data.user_idx, data.items[2]
        (tensor([1, 1, 2]), 'Brazil')
    """

    user_idx: Tensor
    item_idx: Tensor
    rating: Tensor | None
    time: Tensor | None
    users: Vocab
    items: Vocab
    columns: Columns
    weight: Tensor | None = None
    context: Mapping[str, Tensor] = field(default_factory=dict)
    contexts: Context | None = None
    count: Tensor | None = None
    confidence: Confidence | None = None

    stored: ClassVar[bool] = False  # whether the columns are mapped files, see `data.stored`

    @classmethod
    def from_df(
        cls, df: Table, columns: Columns, *, users: Vocab | None = None, items: Vocab | None = None,
        contexts: Context | None = None,
    ) -> Interactions:  # fmt: skip
        """Validate and encode a table.

        Args:
            df: one row per event, of any library; or a scipy matrix of users by items, whose rows and columns are
                numbered.
            columns: which columns hold what.
            users, items: vocabularies to encode with (ids they do not know become index 0 and are counted in a
                `CollabWarning`); by default they are made from `df`.
            contexts: the same for the columns of the context.

        Raises:
            KeyError: a column is missing.
            ValueError: the table is empty; an id or rating is missing or infinite.
            TypeError: ratings are not numbers; ids are of mixed types or another type than the vocabulary's.
        """
        if not isinstance(columns, Columns):
            raise TypeError(f"columns must be Columns('user', 'item', ...) with the names, got {shown(columns)}")
        names = (columns.user, columns.item, columns.rating or "count")
        df, _ = read_source(df, names, rated=columns.rating is not None)
        columns.check(df, fixed=users is not None)
        rating = None if columns.rating is None else check_ratings(df[columns.rating])
        time = None
        if columns.time is not None:
            ticks = ticks_of(df[columns.time]) if columns.ticks is None else columns.ticks
            columns = replace(columns, ticks=ticks)
            time = encode_times(df[columns.time], ticks)
        vocabs, idx = [], []
        for name, vocab in ((columns.user, users), (columns.item, items)):
            found, codes = Vocab.factorize(df[name], name) if vocab is None else (vocab, vocab.encode(df[name]))
            if vocab is not None and (unknown := int((codes == 0).sum())):
                say(f"{unknown:,} of {len(df):,} rows have {vocab.name!r} ids that the model does not know; they get "
                    "the answer for an unknown id")  # fmt: skip
            vocabs.append(found)
            idx.append(torch.from_numpy(codes))
        events = cls(*idx, rating, time, *vocabs, columns)
        if not columns.context:
            return events
        return events.with_context(Context.fit(df, columns.context) if contexts is None else contexts, df)

    def with_context(self, contexts: Context, df: pd.DataFrame) -> Interactions:
        """The same rows with their context from `df`, which has as many rows."""
        columns = replace(self.columns, context=tuple(contexts.kinds))
        return replace(self, columns=columns, contexts=contexts, context=contexts.encode(df))

    @takes_tables
    def encode(self, df: Table, columns: Columns | None = None) -> Interactions:
        """Encode a table with the same columns, or others, by these vocabularies; see `from_df`."""
        columns = replace(self.columns if columns is None else columns, count=None)  # only the training part has counts
        return self.from_df(df, columns, users=self.users, items=self.items, contexts=self.contexts)

    def __len__(self) -> int:
        return len(self.user_idx)

    n_users = property(lambda self: len(self.users), doc="Rows of a user table: the known users and the unknown one.")
    n_items = property(lambda self: len(self.items), doc="Rows of an item table: the known items and the unknown one.")

    def vocab(self, side: str) -> Vocab:
        """The ids of the `'user'` or `'item'` side."""
        return self.users if side == "user" else self.items

    def indices(self, side: str) -> Tensor:
        """`user_idx` or `item_idx`."""
        return self.user_idx if side == "user" else self.item_idx

    def counts(self, side: str) -> Tensor:
        """Number of rows `(n_users,)` or `(n_items,)` int64 of each user or item."""
        if side not in SIDES:
            one_of("side", side, SIDES)
        return self._counts[SIDES.index(side)]

    @cached_property
    def _counts(self) -> tuple[Tensor, ...]:
        return tuple(torch.bincount(self.indices(side), minlength=len(self.vocab(side))) for side in SIDES)

    @cached_property
    def pairs(self) -> Runs:
        """The distinct (user, item) pairs, except those of the unknown item."""
        users, items = self.user_idx.numpy(), self.item_idx.numpy()
        if not (items > 0).all():
            users, items = users[items > 0], items[items > 0]
        return Runs.pairs(users, items, self.n_users, self.n_items)

    @cached_property
    def confidences(self) -> Tensor | None:
        """The confidence `(n,)` float32 of each row, of mean 1 over the training part; None without counts."""
        if self.count is None or self.confidence is None:
            return None
        return self.confidence.of(self.user_idx, self.item_idx, self.count)

    @cached_property
    def weighted_pairs(self) -> Runs:
        """`pairs`, with their confidences as weight if there are counts."""
        if self.confidences is None:
            return self.pairs
        known = (self.item_idx > 0).numpy()
        at = self.pairs.find(self.user_idx.numpy()[known], self.item_idx.numpy()[known])[0]
        weight = torch.zeros(len(self.pairs.values))
        weight[torch.from_numpy(at)] = self.confidences[torch.from_numpy(known)]
        return replace(self.pairs, weight=weight)

    def with_counts(self, count: Tensor, confidence: Confidence) -> Interactions:
        """These rows, a training part of distinct pairs, with their counts `(n,)` and the confidence fitted."""
        fitted = confidence.fitted(self.user_idx, self.item_idx, count)
        counted = replace(self, count=count, confidence=fitted)
        return replace(counted, weight=counted.confidences)

    @property
    def day(self) -> int:
        """The length of a day in the unit of the times, seconds to nanoseconds, by how far they are from 1970."""
        ticks = self.columns.ticks or 1
        return day_of(int(self.time.abs().max()) // ticks) * ticks

    @cached_property
    def first_times(self) -> Tensor:
        """The time `(n_items,)` int64 of each item's first row; the largest number where it has none."""
        never = torch.full((self.n_items,), torch.iinfo(torch.int64).max)
        return never.scatter_reduce(0, self.item_idx, self.time, "amin")

    @cached_property
    def information(self) -> Tensor:
        """Self-information `(n_items,)` float64 of each item in bits, `-log2(users who have it / users with rows)`.

        An item without rows counts as if one user had it.
        """
        pairs = self.pairs
        n_users = max(1, int((pairs.lengths > 0).sum()))
        have = torch.bincount(pairs.values, minlength=self.n_items).clamp(min=1).double()
        return -torch.log2(have / n_users)

    @cached_property
    def by_user(self) -> Runs:
        """The positions of each user's rows, in the order of their times, or of the table."""
        rows = torch.arange(len(self)) if self.time is None else torch.argsort(self.time, stable=True)
        return Runs.group(self.user_idx[rows], rows, self.n_users, width=len(self))

    @cached_property
    def histories(self) -> Runs:
        """Each user's items in the order of their times, or of the table; their confidences as weight, if any."""
        rows = self.by_user
        weight = None if self.confidences is None else self.confidences[rows.values]
        return Runs(rows.start, self.item_idx[rows.values], self.n_items, weight)

    def unknown_moments(self, n: int) -> dict[str, Tensor]:
        """The context of `n` rows with unknown moments; empty if there is no context."""
        return {} if self.contexts is None else self.contexts.unknown(n)

    def take(self, rows) -> Interactions:
        """The interactions at the positions `rows` `(m,)`, or where a mask `rows` `(n,)` holds, with the same ids."""
        if not isinstance(rows, Tensor):
            rows = np.asarray(rows)
            rows = torch.from_numpy((np.flatnonzero(rows) if rows.dtype == bool else rows).astype(np.int64, copy=False))
        columns = {name: None if (column := getattr(self, name)) is None else column[rows] for name in _COLUMNS}
        return replace(self, **columns, context={name: codes[rows] for name, codes in self.context.items()})

    @classmethod
    def concat(cls, *parts: Interactions) -> Interactions:
        """The rows of all `parts`, which share their vocabularies and columns, one part after the other.

        Ratings, times, weights and counts are kept if every part has them.
        """
        columns = {name: [getattr(part, name) for part in parts] for name in _COLUMNS}
        joined = {k: None if any(v is None for v in values) else torch.cat(values) for k, values in columns.items()}
        context = {name: torch.cat([part.context[name] for part in parts]) for name in parts[0].context}
        return replace(parts[0], **joined, context=context)

    def sorted_by_user(self) -> Interactions:
        """The same rows in the order of their users, each user's by time, otherwise as they were."""
        in_order = self.user_idx[1:] >= self.user_idx[:-1]
        if self.time is not None:
            in_order &= (self.user_idx[1:] > self.user_idx[:-1]) | (self.time[1:] >= self.time[:-1])
        return self if bool(in_order.all()) else self.take(self.by_user.values)

    def new_empty(self) -> Interactions:
        """No rows, with the same vocabularies (fastai's `Learner.export` calls it)."""
        return self.take([])

    def n_duplicates(self) -> int:
        """Number of rows whose (user, item) pair occurred in an earlier row."""
        return len(self) - len(sorted_unique(self.pair_keys().numpy()))

    def pair_keys(self) -> Tensor:
        """One number `(n,)` int64 for each row's (user, item) pair, `user_idx * n_items + item_idx`."""
        return self.user_idx * self.n_items + self.item_idx

    def data_hash(self) -> str:
        """SHA-256 of the encoded columns, which identifies an artefact's training data."""
        digest = hashlib.sha256()
        for column in (self.user_idx, self.item_idx, self.rating, self.time, *self.context.values(), self.count):
            if column is not None:
                digest.update(column.numpy().tobytes())
        return digest.hexdigest()

    def to_df(self) -> pd.DataFrame:
        """The interactions as a DataFrame with the caller's ids and column names; unknown ids show as `#na#`."""
        columns, data = self.columns, {}
        coded = {columns.user: (self.users, self.user_idx), columns.item: (self.items, self.item_idx)}
        for name, (vocab, idx) in coded.items():
            data[name] = vocab.decode(idx) if bool((idx > 0).all()) else vocab[idx.numpy()]
        for name, column in ((columns.rating, self.rating), (columns.time, self.time), (columns.count, self.count)):
            if column is not None and name is not None:
                data[name] = column.numpy()
        if self.time is not None and (ticks := columns.ticks or 1) > 1:
            data[columns.time] = data[columns.time] // ticks + data[columns.time] % ticks / ticks
        return pd.DataFrame(data | (self.contexts.decode(self.context) if self.context else {}))

    def __repr__(self) -> str:
        n_users, n_items = (int((self.counts(side) > 0).sum()) for side in SIDES)
        text = f"Interactions: {len(self):,} rows, {n_users:,} users, {n_items:,} items"
        if len(self):
            pairs = len(self) - self.n_duplicates()
            text += f", density {pairs / (n_users * n_items):.1%}"
        if self.rating is not None and len(self):
            r = self.rating
            text += f", rating {r.min():g} to {r.max():g} (mean {r.double().mean():.3f})"
        return text


_LOOKED_AT = 1000  # values of a column that cannot be used, for its error
_COLUMNS = ("user_idx", "item_idx", "rating", "time", "weight", "count")


def day_of(largest: int) -> int:
    """The length of a day in the unit of times, by the one farthest from 1970, `largest`; see `Interactions.day`."""
    units = ((10**17, 10**9), (10**14, 10**6), (10**11, 1000), (0, 1))
    return 86_400 * next(unit for least, unit in units if largest >= least)


def check_ratings(column: pd.Series) -> Tensor:
    """Ratings `(n,)` float32, or an error that names the rows at fault."""
    if column.dtype.kind not in "iuf":
        raise not_numbers("ratings", column)
    exact = column.to_numpy(dtype=np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):  # numbers too large for float32 become infinite, and are refused below
        values = exact.astype(np.float32)
    for bad, what in ((np.isnan(values), "missing (NaN)"), (np.isinf(values), "infinite")):
        if bad.any():
            rows = np.flatnonzero(bad)
            raise ValueError(f"column {column.name!r} has {len(rows):,} {what} rating(s), first at row {rows[0]}; drop "
                             "or correct them first")  # fmt: skip
    if rounded := int(((np.abs(exact) > 2**24) & (values != exact)).sum()):
        say(f"{rounded:,} of {len(values):,} ratings in {column.name!r} are above 2**24 and are rounded to float32, up "
            f"to {exact[np.argmax(np.abs(values - exact))]:.0f}; scale them, e.g. by their logarithm")  # fmt: skip
    return torch.from_numpy(values)


def not_numbers(what: str, column: pd.Series) -> TypeError:
    """The error for a column of `what` that does not hold numbers, with what makes numbers of it."""
    name, values = column.name, column.dropna()
    begin = f"{what} must be numbers; column {name!r} is {column.dtype}"
    if len(values) == 0:
        return TypeError(f"{begin}, and all values are missing. Leave it out, or name another column")
    begin += f" (e.g. {plain(values.iloc[0])!r})"
    if column.dtype.kind == "b" or all(isinstance(value, bool) for value in values.head(_LOOKED_AT)):
        events = ", or read the rows as events: feedback='implicit' without this column" if what == "ratings" else ""
        return TypeError(f"{begin}. Convert it, df[{name!r}].astype(int){events}")
    texts = values.astype(str).str.strip()
    comma = texts.str.fullmatch(r"[+-]?\d*,\d+")
    if comma.any() and _reads_as_numbers(texts.str.replace(",", ".", regex=False)):
        return TypeError(
            f"{begin}, and {texts[comma].iloc[0]!r} has a decimal comma. Read the file with "
            f"pd.read_csv(file, decimal=','), or use df[{name!r}].str.replace(',', '.').astype(float)"
        )
    if _reads_as_numbers(texts):
        return TypeError(f"{begin}. Convert it, e.g. pd.to_numeric(df[{name!r}])")
    bad = pd.to_numeric(texts, errors="coerce").isna().to_numpy()
    row = np.flatnonzero(column.notna().to_numpy())[bad.argmax()]
    return TypeError(f"{begin}, and {bad.sum():,} of {len(bad):,} values are no numbers: {texts[bad].iloc[0]!r} in row "
                     f"{row} first. Correct or drop them, or name another column")  # fmt: skip


def _reads_as_numbers(texts: pd.Series) -> bool:
    """Whether `pd.to_numeric` converts a column."""
    try:
        return pd.to_numeric(texts).dtype.kind in "iuf"
    except (ValueError, TypeError):
        return False


def check_times(column: pd.Series) -> None:
    """Raise unless the column holds timestamps or numbers, none missing."""
    if column.isna().any():
        raise ValueError(f"column {column.name!r} has {column.isna().sum():,} missing time(s); drop or fill them first")
    if column.dtype.kind not in "iufM":
        how = "pd.to_numeric" if column.dtype.kind != "b" and _reads_as_numbers(column) else "pd.to_datetime"
        raise TypeError(f"times must be timestamps or numbers; column {column.name!r} is {column.dtype} (e.g. "
                        f"{plain(column.iloc[0])!r}). Convert it, e.g. {how}(df[{column.name!r}])")  # fmt: skip


def comparable_times(column: pd.Series) -> pd.Series:
    """The column, with Arrow's dates as timestamps, because pandas cannot compare them with timestamps."""
    is_day = isinstance(column.dtype, pd.ArrowDtype) and pa.types.is_date(column.dtype.pyarrow_dtype)
    return column.astype("datetime64[s]") if is_day else column


def ticks_of(column: pd.Series) -> int:
    """The number of parts of a unit of a time column: 1 if all times are whole or timestamps.

    Otherwise the largest power of 10, at most 10**9, with which they fit into 64 bits: nanoseconds for seconds since
    1970.

    Raises:
        ValueError: times are missing or infinite.
    """
    check_times(column)
    if column.dtype.kind != "f":
        return 1
    values = column.to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"column {column.name!r} holds infinite times; use finite numbers or timestamps")
    if len(values) == 0 or (values == np.floor(values)).all():
        return 1
    largest = np.abs(values).max()
    return next((10**power for power in range(9, 0, -1) if largest * 10**power < 2.0**62), 1)


def encode_times(column: pd.Series, ticks: int | None = None) -> Tensor:
    """Times `(n,)` int64 of a column, nanoseconds for timestamps, or an error if it holds other values.

    Fractions are counted in `ticks` of the column's unit, so that their order stays.

    Raises:
        ValueError: times are missing, infinite, too large, or fractions in place of whole numbers.
        TypeError: they are neither numbers nor timestamps.

    Example:
        >>> encode_times(pd.Series([1.5, 1.25], name='at'), 100)
        tensor([150, 125])
    """
    check_times(column)
    if column.dtype.kind == "M":
        try:
            column = comparable_times(column).dt.as_unit("ns").astype("int64")
        except pd.errors.OutOfBoundsDatetime as error:
            raise ValueError(f"column {column.name!r} has times outside the years 1677 to 2262, which 64 bits of "
                             f"nanoseconds hold: {error}; correct them") from None  # fmt: skip
        return torch.from_numpy(column.to_numpy().astype(np.int64))
    values, ticks = column.to_numpy(), ticks or 1
    whole = np.floor(values) if values.dtype.kind == "f" else values
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (ticks > 1 or (values == whole).all())):
        raise ValueError(f"column {column.name!r} holds infinite or fractional times where the model's data have whole "
                         "numbers; use the same unit")  # fmt: skip
    if len(values) and not -(2.0**63) <= float(whole.min()) * ticks <= float(whole.max()) * ticks < 2.0**63:
        raise ValueError(f"column {column.name!r} holds times outside the range of int64, up to {values.max()}")
    parts = np.rint((values - whole) * ticks).astype(np.int64) if ticks > 1 and values.dtype.kind == "f" else 0
    return torch.from_numpy(whole.astype(np.int64) * ticks + parts)
