"""Which columns of the caller's tables are features, their kinds, and checks of them."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from collabkit.data.checks import no_table, one_of, plain, shown
from collabkit.data.features.fields import KINDS, Kind, infer_kind, one_hot_lists
from collabkit.data.frames import to_pandas
from collabkit.data.notices import MissingError
from collabkit.data.vocab import Vocab

__all__ = ["feature_sources", "row_indices", "check_table", "check_columns", "refuse_repeated"]


def feature_sources(df, vocab: Vocab, columns, notes: list[str]) -> list[tuple]:
    """For each field `(name, kind, values by id, its 0/1 columns, whether it was named)`."""
    where = f"the table of {vocab.name!r} features"
    if df is not None:
        check_table(df, vocab, where)
        refuse_repeated(df[vocab.name])
        df = df.set_index(vocab.name)
    named = columns is not None
    if not named:
        columns = _informative(df, notes)
    elif not isinstance(columns, Iterable):
        raise TypeError(f"the features must be names of columns, or a dict from names to kinds, got {shown(columns)}")
    elif not isinstance(columns, Mapping):
        columns = dict.fromkeys([columns] if isinstance(columns, str) else columns)
    sources = []
    for name, what in columns.items():
        if isinstance(what, tuple) and len(what) == 2 and np.ndim(what[1]) == 2:
            sources.append((name, KINDS["dense"], _given_vectors(name, *what), (), True))
            continue
        if df is None:
            raise ValueError(f"feature {name!r} names a column, but there is no table; pass users= or items=")
        one_hot = list(what) if isinstance(what, (list, tuple)) else []
        check_columns(df, one_hot or [name], where)
        values = one_hot_lists(df, name, one_hot) if one_hot else df[name]
        kind = "multi" if one_hot else infer_kind(values) if what is None else what
        if not isinstance(kind, Kind):
            one_of(f"feature {name!r}: the kind", kind, KINDS)
        if kind in ("multi", "categorical") and (sep := _other_separator(values)):
            notes.append(f"column {name!r} seems to hold several values separated by {sep!r}, read as one: split them, "
                         f"df[{name!r}].str.split({sep!r})")  # fmt: skip
        sources.append((name, kind if isinstance(kind, Kind) else KINDS[kind], values, tuple(one_hot), named))
    return sources


def _other_separator(values: pd.Series) -> str | None:
    """The separator in texts that are combinations of fewer values, but for `|`, which is one; else None."""
    texts = {value for value in values if isinstance(value, str)}
    for sep in (", ", "; ", ",", ";", "/"):
        several = [text.split(sep) for text in texts if sep in text]
        parts = {part.strip() for parts in several for part in parts}
        if len(several) > 0.3 * len(texts) and 2 * len(parts) < len(texts) and not any("|" in text for text in texts):
            return sep
    return None


def _informative(df: pd.DataFrame | None, notes: list[str]) -> dict[str, None]:
    """All columns except texts and whole numbers that differ in nearly every row."""
    if df is None:
        raise ValueError("side information needs a table (users=, items=) or columns={'name': (ids, matrix)}")
    kept = {}
    check_columns(df, df.columns, "the table of features")
    for name in df.columns:
        kind = infer_kind(df[name])
        values, own = df[name].dropna(), False
        if kind == "categorical":
            own = values.nunique() > len(values) / 2 and len(values) > 10
        elif kind == "numeric" and pd.api.types.is_integer_dtype(df[name].dtype):
            own = values.is_unique
        if own:
            notes.append(f"column {name!r} is left out: nearly every row has a value of its own; name it to use it")
        else:
            kept[name] = None
    return kept


def _given_vectors(name: str, ids, matrix) -> pd.Series:
    ids = to_pandas(ids)
    matrix = matrix.detach().cpu().numpy() if isinstance(matrix, Tensor) else np.asarray(matrix)
    if matrix.ndim != 2 or len(matrix) != len(ids):
        raise ValueError(f"feature {name!r} needs a matrix with one row per id, got {len(ids)} ids and {matrix.shape}")
    refuse_repeated(pd.Series(list(ids), name=name))
    return pd.Series(list(matrix), index=pd.Index(ids), dtype=object)


def row_indices(ids: pd.Index, vocab: Vocab, notes: list[str]) -> np.ndarray:
    """The index of each row's id, 0 where the vocabulary does not know it (noted)."""
    idx = vocab.encode(ids)
    unknown = int((idx == 0).sum())
    if unknown == len(ids) > 0:
        raise ValueError(f"none of the {len(ids):,} feature rows belongs to an id of {vocab.name!r}: they have ids "
                         f"like {ids[:3].tolist()}, the data has ids like {vocab.ids[:3].tolist()}")  # fmt: skip
    if unknown:
        notes.append(f"{unknown:,} of {len(ids):,} feature rows belong to ids without interactions; they are left out "
                     "(learn.add_items or learn.add_users adds them)")  # fmt: skip
    return idx


def check_table(df, vocab: Vocab, where: str) -> None:
    """Raise unless `df` is a non-empty DataFrame with the id column."""
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"{where} must be a pandas DataFrame, {no_table(df)}")
    check_columns(df, [vocab.name], where)
    if len(df) == 0:
        raise ValueError(f"{where} is empty (0 rows, columns {list(df.columns)})")


def check_columns(df: pd.DataFrame, names, where: str) -> None:
    """Raise `KeyError` where a column is missing."""
    if missing := [name for name in names if name not in df.columns]:
        own = df.index.name
        index = f" (and the index {own!r}: reset_index() makes it a column)" if own in missing else ""
        raise MissingError(f"column(s) {missing} not found in {where}; it has {list(df.columns)}{index}")
    if twice := [name for name in dict.fromkeys(names) if (df.columns == name).sum() > 1]:
        raise ValueError(f"column(s) {twice} occur more than once in {where}; rename or drop the others")


def refuse_repeated(ids: pd.Series) -> None:
    """Raise `ValueError` where an id occurs twice."""
    twice = ids[ids.duplicated()]
    if len(twice):
        raise ValueError(f"{twice.nunique():,} id(s) of {ids.name!r} have more than one feature row, e.g. "
                         f"{plain(twice.iloc[0])!r}; keep one each, e.g. df.drop_duplicates({ids.name!r})")  # fmt: skip
