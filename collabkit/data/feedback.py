"""`Implicit`: how a table of events is read as implicit feedback."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from collabkit.data.checks import at_least, finite, whole
from collabkit.data.interactions import Columns, Interactions
from collabkit.data.notices import say
from collabkit.data.tables import say_left_out

__all__ = ["Implicit", "read_feedback", "positive_rows", "check_threshold"]


@dataclass(frozen=True)
class Implicit:
    """Implicit feedback: clicks, views, purchases, liked items; what is not there is sampled as a negative.

    `CollabDataLoaders.from_df(..., feedback=Implicit(n_neg=8))`; the plain `feedback='implicit'` is `Implicit()`.

    Args:
        threshold: the lowest rating that is a positive; None: every row is one.
        negatives: where negatives come from: `'uniform'` or `'popularity'` (items the user has not seen), `'shared'`,
            `'in_batch'` or `'all'` (the same for the whole batch), or a function of the training interactions that
            makes a sampler; see `collabkit.train.sampling`.
        n_neg: negatives a positive.
        by_user: with `'shared'` negatives, batches of whole users rather than of events: a softmax then costs its sum
            once a user.
        history: learn what comes next: the batches are windows of each user's events in their order, at most so many
            before an event, for models that look at histories. The batch then shares its negatives: `'popularity'`
            (default), `'uniform'`, `'in_batch'` or `'all'`, 512 by default.
        repeats: what becomes of a repeated (user, item) pair: `'first'`, the first stays, or `'keep'`, all stay.
            Default `'keep'` with `history`, else `'first'`.

    Raises:
        ValueError: `history` is no whole number of at least 1; another word for `repeats`; `by_user` with `history`.
    """

    threshold: float | None = None
    negatives: object = None
    n_neg: int | None = None
    by_user: bool = False
    history: int | None = None
    repeats: str | None = None

    def __post_init__(self):
        ordered = self.history is not None
        if ordered:
            whole("history", self.history)
        if ordered and self.by_user:
            raise ValueError("by_user=True makes batches without order: leave it out with history=")
        if self.repeats not in (None, "first", "keep"):
            raise ValueError(f"repeats must be 'first' or 'keep', got {self.repeats!r}")
        usual = {"negatives": "popularity", "n_neg": 512, "repeats": "keep"}
        usual = usual if ordered else {"negatives": "uniform", "n_neg": 4, "repeats": "first"}
        for name, value in usual.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)


def read_feedback(feedback, **given) -> Implicit | None:
    """`feedback` as a record, or None for explicit ratings; `given` are its fields, where they came one by one."""
    given = {name: value for name, value in given.items() if value is not None and value is not False}
    if isinstance(feedback, Implicit):
        if given:
            raise ValueError(f"give {', '.join(given)} in the Implicit record or beside it, not both")
        return feedback
    if feedback == "implicit":
        return Implicit(**given)
    if feedback != "explicit":
        raise ValueError(f"feedback must be 'explicit', 'implicit' or an Implicit record, got {feedback!r}")
    if "threshold" in given:
        raise ValueError(f"rating_threshold={given['threshold']!r} is for feedback='implicit'")
    if given:
        options = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ValueError(f"{options}: for feedback='implicit'; ratings need no negatives")
    return None


def check_threshold(df: pd.DataFrame, columns: Columns, threshold: float | None) -> None:
    """Raise `ValueError` unless a threshold is a number, and the ratings that it is for are read."""
    if threshold is None:
        return
    finite("rating_threshold", threshold)
    if columns.rating is None:
        raise ValueError(f"rating_threshold={threshold:g} needs rating_name=, one of the columns {list(df.columns)}")


def positive_rows(
    table: Interactions, threshold: float | None = None, part: np.ndarray | None = None, repeats: str = "first"
) -> np.ndarray:
    """The positions `(m,)`, ascending, of the positives, as of `filters.positive_events`; what is left out is said.

    `part` `(n,)` says of which of several tables each row is: an earlier one keeps the pair. With `repeats='keep'` all
    rows of a pair stay.
    """
    rows = _rated_positive(table, threshold)
    if repeats == "keep":
        return rows
    time = np.zeros(len(table)) if table.time is None else table.time.numpy()
    order = rows[np.lexsort([time[rows], np.zeros(len(rows)) if part is None else part[rows]])]
    first = order[~pd.Series(table.pair_keys().numpy()[order]).duplicated().to_numpy()]
    which = "in the table" if table.time is None else "in time"
    return _kept(table, rows, np.isin(rows, first), f"repeat a (user, item) pair; the first {which} stays")


def _rated_positive(table: Interactions, threshold: float | None) -> np.ndarray:
    rows = np.arange(len(table))
    if table.rating is None:
        return rows
    values, name = table.rating.numpy(), table.columns.rating
    if threshold is not None:
        return _kept(table, rows, at_least(values, threshold), f"rated below {threshold:g}, no positive")
    if (values < 0).any():
        raise ValueError(f"column {name!r} has {(values < 0).sum():,} negative value(s), first at row "
                         f"{np.flatnonzero(values < 0)[0]}: a count cannot be negative. For ratings pass "
                         "rating_threshold=, the lowest one that is a positive")  # fmt: skip
    rows = _kept(table, rows, values > 0, f"count of zero in {name!r}, nothing happened")
    say(f"feedback='implicit': every row is a positive, whatever its {name!r}; pass rating_threshold= to count only "
        "high values")  # fmt: skip
    return rows


def _kept(table: Interactions, rows: np.ndarray, keep: np.ndarray, reason: str) -> np.ndarray:
    if not (len(keep) and keep.all()):
        say_left_out(keep, table.user_idx.numpy()[rows], table.item_idx.numpy()[rows], reason)
    return rows[keep]
