"""A scipy matrix, users by items, as a table of events; irregular entries are reported or refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from collabkit.data.notices import say
from collabkit.data.unique import sorted_unique
from collabkit.data.vocab import Vocab, check_ids

__all__ = ["MatrixIds", "matrix_table"]


@dataclass(frozen=True, eq=False)
class MatrixIds:
    """The ids of the rows and of the columns of a matrix, in their order."""

    rows: pd.Index
    columns: pd.Index

    @classmethod
    def of(cls, matrix, rows=None, columns=None, names: tuple[str, str] = ("user", "item")) -> MatrixIds:
        """The given ids, else numbers from 0.

        Raises:
            ValueError: the number of ids differs from that of rows or columns; an id is missing or repeated.
        """
        found = []
        for what, ids, n, name in zip(("row", "column"), (rows, columns), matrix.shape, names, strict=True):
            ids = pd.RangeIndex(n) if ids is None else check_ids(ids, name)
            if len(ids) != n:
                raise ValueError(
                    f"{name}_ids has {len(ids):,} ids, but the matrix has {n:,} {what}s; give one for each"
                )
            found.append(ids if isinstance(ids, pd.RangeIndex) else Vocab(ids, name).ids)
        return cls(*found)

    def with_new_rows(self, matrix) -> MatrixIds:
        """The same columns, and numbers from 0 for the rows of a matrix."""
        return replace(self, rows=pd.RangeIndex(matrix.shape[0]))


def matrix_table(
    matrix, ids: MatrixIds, names: tuple[str, str, str], *, rated: bool, whole: bool = True
) -> pd.DataFrame:
    """One row per stored value, in order of rows, with the columns `names`: user, item, value.

    Stored zeros are ratings of 0 if the values are ratings; otherwise they are no events. scipy adds up repeated
    entries: that is accepted for counts, but not for ratings.

    Args:
        matrix: `(n users, n items)`, in any sparse format, with entries in any order.
        ids: of its rows and columns.
        names: of the columns of the table.
        rated: whether the values are ratings rather than counts.
        whole: whether empty rows and columns are reported.

    Raises:
        ValueError: the shape does not match the ids; values are missing, infinite or, for counts, negative; a pair has
            several ratings; there are no values.
        TypeError: values that are no numbers.

    Example:
        >>> from scipy import sparse
        >>> matrix = sparse.csr_array(np.array([[5, 0], [0, 3]]))
        >>> matrix_table(matrix, MatrixIds.of(matrix, ['ann', 'bob']), ('user', 'item', 'rating'), rated=True)
          user  item  rating
        0  ann     0       5
        1  bob     1       3
    """
    if matrix.ndim != 2 or matrix.shape != (len(ids.rows), len(ids.columns)):
        raise ValueError(f"the matrix has the shape {matrix.shape}, but {len(ids.rows):,} users and "
                         f"{len(ids.columns):,} items have ids")  # fmt: skip
    coo = matrix.tocoo()
    row, column, values = np.asarray(coo.row, np.int64), np.asarray(coo.col, np.int64), np.asarray(coo.data)
    _check_values(values)
    row, column, values = _each_once(row, column, values, matrix.shape[1], rated)
    if zeros := int((values == 0).sum()):
        if rated:
            say(f"{zeros:,} of {len(values):,} stored values of the matrix are zeros; they count as ratings of 0. "
                "matrix.eliminate_zeros() removes them")  # fmt: skip
        else:
            say(f"left out {zeros:,} of {len(values):,} stored values of the matrix: zeros are no events")
            row, column, values = (part[values != 0] for part in (row, column, values))
    if not rated and (values < 0).any():
        raise ValueError(f"the matrix has {(values < 0).sum():,} negative value(s): a count cannot be negative. For "
                         "ratings use feedback='explicit', or keep those that are positives")  # fmt: skip
    if len(values) == 0:
        raise ValueError(f"the matrix of shape {matrix.shape} has no values to use")
    if whole:
        empty = [n - len(sorted_unique(part)) for n, part in zip(matrix.shape, (row, column), strict=True)]
        if any(empty):
            say(f"{empty[0]:,} of {matrix.shape[0]:,} rows and {empty[1]:,} of {matrix.shape[1]:,} columns of the "
                "matrix are empty: their ids are unknown to the data")  # fmt: skip
    users, items, value = names
    return pd.DataFrame({users: ids.rows.take(row), items: ids.columns.take(column), value: values}, copy=False)


def _check_values(values: np.ndarray) -> None:
    if values.dtype.kind not in "iufb":
        raise TypeError(f"the values of a matrix must be numbers, got {values.dtype}")
    if values.dtype.kind == "f" and (odd := int((~np.isfinite(values)).sum())):
        raise ValueError(f"the matrix has {odd:,} missing (NaN) or infinite value(s) of {len(values):,}; drop or "
                         "correct them first")  # fmt: skip


def _each_once(row, column, values, n_columns: int, rated: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries in the order of their rows and columns, repeated ones added up."""
    values = values.astype(np.int64) if values.dtype.kind == "b" else values
    order = np.lexsort((column, row))
    row, column, values = row[order], column[order], values[order]
    first = np.flatnonzero(np.diff(row * n_columns + column, prepend=-1))
    if repeated := len(row) - len(first):
        if rated:
            raise ValueError(f"{repeated:,} of {len(row):,} entries of the matrix repeat a (user, item) pair: scipy "
                             "adds them up, and a sum is not a rating. Pass the ratings as a table, or call "
                             "matrix.sum_duplicates() if the sum is meant")  # fmt: skip
        say(
            f"{repeated:,} of {len(row):,} entries of the matrix repeat a (user, item) pair; as in scipy, their "
            "sum counts"
        )
        values = np.add.reduceat(values, first)
    return row[first], column[first], values
