"""Splits of a table of interactions into a training and a validation part.

Each function returns a `Splitter`, to be passed to `CollabDataLoaders.from_df(..., splitter=...)` or called on a
DataFrame:

    >>> import pandas as pd
    >>> df = pd.DataFrame({'user': [1, 1, 1, 2], 'item': ['a', 'b', 'c', 'a'], 'time': [3, 1, 2, 9]})
    >>> leave_last_out(time_name='time')(df)
    Split: 3 train and 1 valid rows by leave_last_out(n=1)
      1 of 2 users have no row in valid, as they have 1 or fewer

`splitter` holds the common classes, `rows` the splits by rows and times, `cold` those that hold out whole ids.
"""

from collabkit.data.splits.cold import cold_items, cold_users
from collabkit.data.splits.rows import (
    column_split,
    k_fold,
    leave_last_out,
    no_split,
    random_split,
    rolling_windows,
    time_split,
    window_cuts,
)
from collabkit.data.splits.splitter import Split, Splitter

__all__ = [
    "Split", "Splitter", "random_split", "no_split", "leave_last_out", "time_split", "rolling_windows", "window_cuts",
    "k_fold", "column_split", "cold_items", "cold_users",
]  # fmt: skip
