"""Filters: functions DataFrame -> DataFrame that drop rows before the data is split.

Each reports in a `CollabWarning` how many rows, users and items it dropped and why. Columns that are not named are
found as in `CollabDataLoaders.from_df`, and an ambiguous choice raises an error before rows are dropped. A table from
polars, Arrow or another library is returned in the same library.
"""

from numbers import Real

import numpy as np
import pandas as pd

from collabkit.data.checks import at_least, finite, one_of, shown
from collabkit.data.feedback import check_threshold, positive_rows
from collabkit.data.frames import keeps_rows
from collabkit.data.interactions import Columns, Interactions, check_ratings
from collabkit.data.tables import id_codes, name_columns, say_left_out

__all__ = ["min_count", "k_core", "min_rating", "sample_users", "drop_duplicates", "positive_events"]


@keeps_rows
def min_count(
    df: pd.DataFrame, *, users: int = 1, items: int = 1, user_name: str | None = None, item_name: str | None = None
) -> pd.DataFrame:
    """Keep users with at least `users` rows and items with at least `items` rows, both counted once on the input.

    The result may contain users with fewer rows, because some of their items were dropped; `k_core` repeats the filter
    until there are none.

    Example:
        >>> df = pd.DataFrame({'user': [1, 1, 2], 'item': ['a', 'b', 'a']})
        >>> min_count(df, users=2)
           user item
        0     1    a
        1     1    b
    """
    columns = name_columns(df, user_name, item_name)
    keep = _count_mask(df, columns, users, items)
    return _kept(df, keep, columns, f"users with fewer than {users} or items with fewer than {items} rows")


@keeps_rows
def k_core(
    df: pd.DataFrame, k: int | tuple[int, int] = 5, *, user_name: str | None = None, item_name: str | None = None
) -> pd.DataFrame:
    """Repeat `min_count` until every user and every item has at least `k` rows (`k` may be `(users, items)`).

    Example:
        >>> df = pd.DataFrame({'user': [1, 1, 2, 2, 3], 'item': ['a', 'b', 'a', 'b', 'c']})
        >>> len(k_core(df, 2))
        4
    """
    columns = name_columns(df, user_name, item_name)
    k_users, k_items = k if isinstance(k, tuple) else (k, k)
    rows = np.arange(len(df))
    while not (keep := _count_mask(df.iloc[rows], columns, k_users, k_items)).all():
        rows = rows[keep]
    return _kept(df, np.isin(np.arange(len(df)), rows), columns, f"outside the ({k_users}, {k_items})-core")


@keeps_rows
def min_rating(
    df: pd.DataFrame, threshold: float, *, rating_name: str | None = None, user_name: str | None = None,
    item_name: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Keep the rows rated at least `threshold`."""
    columns = name_columns(df, user_name, item_name, rating_name, rated=True)
    threshold = finite("threshold", threshold)
    return _kept(df, at_least(check_ratings(df[columns.rating]), threshold), columns, f"rated below {threshold:g}")


@keeps_rows
def sample_users(
    df: pd.DataFrame, frac: float, *, seed: int | None = None, user_name: str | None = None,
    item_name: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Keep all rows of a random share `frac` (0 < frac <= 1) of the users; the same seed keeps the same users."""
    columns = name_columns(df, user_name, item_name)
    if not isinstance(frac, Real) or not 0 < frac <= 1:
        raise ValueError(f"frac must lie in (0, 1], got {shown(frac)}")
    users = df[columns.user].unique()
    chosen = np.random.default_rng(seed).permutation(len(users))[: max(1, round(frac * len(users)))]
    keep = df[columns.user].isin(users[np.sort(chosen)]).to_numpy()
    return _kept(df, keep, columns, f"users outside the sample of {frac:.0%}")


@keeps_rows
def drop_duplicates(
    df: pd.DataFrame, *, keep: str = "last", user_name: str | None = None, item_name: str | None = None
) -> pd.DataFrame:
    """Keep one row, the `'first'` or the `'last'` in table order, of each (user, item) pair.

    Example:
        >>> df = pd.DataFrame({'user': [1, 1], 'item': ['a', 'a'], 'rating': [2, 5]})
        >>> drop_duplicates(df)['rating'].tolist()
        [5]
    """
    columns = name_columns(df, user_name, item_name)
    one_of("keep", keep, ("first", "last"))
    mask = ~df.duplicated([columns.user, columns.item], keep=keep).to_numpy()
    return _kept(df, mask, columns, "repeat a (user, item) pair")


@keeps_rows
def positive_events(df: pd.DataFrame, columns: Columns, threshold: float | None = None) -> pd.DataFrame:
    """Keep the rows that are positives of implicit feedback, each (user, item) pair once.

    With `threshold` these are the rows rated at least that. Without it every row is a positive, whatever its value,
    except counts of zero, which mean that nothing happened. Of a repeated pair the first event in time is kept (the
    first in table order without a time column), because later ones add no information.

    Args:
        df: one row per event.
        columns: its columns; `columns.rating` may be None.
        threshold: the lowest rating that is a positive.

    Raises:
        ValueError: `threshold` is given without a rating column; values are negative and there is no threshold; no row
            is left.
    """
    check_threshold(df, columns, threshold)
    return df.iloc[positive_rows(Interactions.from_df(df, columns), threshold)]


def _count_mask(df: pd.DataFrame, columns: Columns, k_users: int, k_items: int) -> np.ndarray:
    enough = np.ones(len(df), dtype=bool)
    for name, k in ((columns.user, k_users), (columns.item, k_items)):
        codes = id_codes(df, name)
        enough &= np.bincount(codes)[codes] >= finite("the least number of rows", k)
    return enough


def _kept(df: pd.DataFrame, keep: np.ndarray, columns: Columns, reason: str) -> pd.DataFrame:
    if not (len(keep) and keep.all()):
        say_left_out(keep, id_codes(df, columns.user), id_codes(df, columns.item), reason)
    return df[keep]
