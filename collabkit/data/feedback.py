"""`Implicit`: how a table of events is read as implicit feedback."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from collabkit.data.checks import at_least, finite, one_of, shown, whole
from collabkit.data.confidence import Confidence
from collabkit.data.counts import late_rows
from collabkit.data.interactions import Columns, Interactions
from collabkit.data.notices import say
from collabkit.data.tables import say_left_out
from collabkit.data.unique import repeats_of

__all__ = ["Implicit", "read_feedback", "positive_rows", "rated_rows", "disliked_events", "check_threshold"]


@dataclass(frozen=True)
class Implicit:
    """Options of implicit feedback: clicks, views, purchases, liked items; negatives are sampled from the other items.

    Use it as `CollabDataLoaders.from_df(..., feedback=Implicit(n_neg=8))`; `feedback='implicit'` means `Implicit()`.

    Args:
        threshold: the lowest rating that is a positive; None makes every row a positive.
        negatives: where negatives come from: `'uniform'` or `'popularity'` (items the user has not seen), `'shared'`,
            `'in_batch'` or `'all'` (the same for the whole batch), or a function of the training interactions that
            creates a sampler; see `collabkit.train.sampling`.
        n_neg: number of negatives per positive.
        by_user: with `'shared'` negatives, use batches of whole users instead of events; a softmax then computes its
            sum only once per user.
        history: train sequential models: the batches are windows of each user's events in order, with at most this
            many events before a target, for models that read histories. Negatives are then shared within the batch:
            `'popularity'` (default), `'uniform'`, `'in_batch'` or `'all'`, 512 by default.
        repeats: how to treat a repeated (user, item) pair: `'first'` keeps the first row, `'keep'` keeps all. Default
            `'keep'` with `history`, else `'first'`.
        counts: counts or amounts that indicate how certain it is that a user likes an item: a column of numbers (plays,
            quantities, hours), or `'repeats'`, the number of rows of a pair. All rows of a pair are merged into one,
            the first in time, with their sum. Negative numbers (returns) are subtracted; pairs whose sum is 0 or less
            (or below `threshold`, if there is no rating column) are dropped. With a split by time, later rows do not
            count. `fit_als`, `ItemKNN`, `EASE` and the losses weight pairs by their confidence, which is stored in the
            artefact.
        confidence: how counts become confidence: `'linear'`, `'log'` (default), `'bm25'`, or a `Confidence`, which has
            all options and documents the formulas.
        alpha: parameter of the confidence if it is given by name; default 1.
        dislikes: `'negatives'`: rows rated below `threshold` are known negatives. One of them is among the negatives of
            each event of their user, least squares pulls them to 0, and they are hidden like seen items. None: these
            rows are dropped.

    Raises:
        ValueError: `history` is not an integer of at least 1; `repeats`, `confidence` or `dislikes` has an unknown
            value; `by_user`, `counts` or `dislikes` is used with `history`; `dislikes` is used without `threshold`, or
            with shared negatives.

    Example:
        >>> Implicit(counts='plays', confidence='linear', alpha=40).how
        Confidence('linear', alpha=40)
    """

    threshold: float | None = None
    negatives: object = None
    n_neg: int | None = None
    by_user: bool = False
    history: int | None = None
    repeats: str | None = None
    counts: str | None = None
    confidence: str | Confidence | None = None
    alpha: float | None = None
    dislikes: str | None = None

    def __post_init__(self):
        self._check_counts()
        self._check_dislikes()
        ordered = self.history is not None
        if ordered:
            whole("history", self.history)
        if ordered and self.by_user:
            raise ValueError("by_user=True makes batches without order: leave it out with history=")
        one_of("repeats", self.repeats, (None, "first", "keep"))
        if self.n_neg is not None:
            whole("n_neg", self.n_neg)
        if self.threshold is not None:
            finite("threshold", self.threshold)
        usual = {"negatives": "popularity", "n_neg": 512, "repeats": "keep"}
        usual = usual if ordered else {"negatives": "uniform", "n_neg": 4, "repeats": "first"}
        for name, value in usual.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @property
    def how(self) -> Confidence | None:
        """How counts become confidence; None without counts."""
        if self.counts is None or isinstance(self.confidence, Confidence):
            return self.confidence
        return Confidence(
            "log" if self.confidence is None else self.confidence, 1.0 if self.alpha is None else self.alpha
        )

    def _check_counts(self) -> None:
        if self.counts is None:
            if given := [name for name in ("confidence", "alpha") if getattr(self, name) is not None]:
                raise ValueError(f"{', '.join(given)} weight(s) counts: also give counts=, a column or 'repeats'")
            return
        if isinstance(self.counts, bool) or not isinstance(self.counts, (str, int, np.integer)):
            raise TypeError(f"counts must be a column or 'repeats', got {shown(self.counts)}")
        if self.history is not None or self.repeats == "keep":
            raise ValueError("counts= merges all rows of a pair, but history= and repeats='keep' keep each row: "
                             "leave one of them out")  # fmt: skip
        if isinstance(self.confidence, Confidence) and self.alpha is not None:
            raise ValueError("give alpha in the Confidence record or beside it, not both")
        self.how  # noqa: B018  # raises for another word

    def _check_dislikes(self) -> None:
        if self.dislikes is None:
            return
        one_of("dislikes", self.dislikes, (None, "negatives"))
        if self.threshold is None:
            raise ValueError("dislikes= needs threshold=, below which a rating is a dislike")
        if self.history is not None or self.by_user or self.negatives not in (None, "uniform", "popularity"):
            raise ValueError("dislikes='negatives' draws per row: give negatives='uniform' or 'popularity', "
                             "without by_user= and history=")  # fmt: skip


def read_feedback(feedback, **given) -> Implicit | None:
    """`feedback` as a record, or None for explicit ratings; `given` are fields that were passed separately."""
    given = {name: value for name, value in given.items() if value is not None and value is not False}
    if isinstance(feedback, Implicit):
        if given:
            raise ValueError(f"give {', '.join(given)} in the Implicit record or beside it, not both")
        return feedback
    if isinstance(feedback, str) and feedback == "implicit":
        if "threshold" in given:
            finite("rating_threshold", given["threshold"])  # as the caller names it
        return Implicit(**given)
    one_of("feedback", feedback, ("explicit", "implicit"), "an Implicit record")
    if "threshold" in given:
        raise ValueError(f"rating_threshold={given['threshold']!r} is for feedback='implicit'")
    if given:
        options = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ValueError(f"{options}: only for feedback='implicit'; ratings need no negatives")
    return None


def check_threshold(df: pd.DataFrame, columns: Columns, threshold: float | None, counted: bool = False) -> None:
    """Raise `ValueError` unless the threshold is a number and there are ratings or counts that it applies to."""
    if threshold is None:
        return
    finite("rating_threshold", threshold)
    if columns.rating is None and not counted:
        raise ValueError(f"rating_threshold={threshold:g} needs rating_name=, one of the columns {list(df.columns)}")


def positive_rows(
    table: Interactions, threshold: float | None = None, part: np.ndarray | None = None, repeats: str = "first"
) -> np.ndarray:
    """The positions `(m,)`, ascending, of the positives, as in `filters.positive_events`; rows left out are reported.

    `part` `(n,)` is the number of each row's table: an earlier one keeps the pair. With `repeats='keep'` all rows of a
    pair stay.
    """
    rows = rated_rows(table, threshold)
    if repeats == "keep":
        return rows
    which = "in the table" if table.time is None else "in time"
    reason = f"repeat a (user, item) pair; the first {which} is kept"
    keys, keep = table.pair_keys().numpy(), np.ones(len(rows), dtype=bool)
    again = np.flatnonzero(repeats_of(keys if len(rows) == len(keys) else keys[rows]))  # places in `rows`
    if len(again):
        at = rows[again]
        key = keys[at]
        time = np.zeros(len(at)) if table.time is None else table.time.numpy()[at]
        order = np.lexsort([time, np.zeros(len(at)) if part is None else part[at], key])
        keep[again[order[1:][key[order[1:]] == key[order[:-1]]]]] = False
    del keys
    return _kept(table, rows, keep, reason)


def rated_rows(table: Interactions, threshold: float | None) -> np.ndarray:
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
    rows = _kept(table, rows, values > 0, f"count of zero in {name!r}, no event")
    say(f"feedback='implicit': every row is a positive, whatever its {name!r}; pass rating_threshold= to count only "
        "high values")  # fmt: skip
    return rows


def _kept(table: Interactions, rows: np.ndarray, keep: np.ndarray, reason: str) -> np.ndarray:
    if not (len(keep) and keep.all()):
        users, items = table.user_idx.numpy(), table.item_idx.numpy()
        say_left_out(keep, *((users, items) if len(rows) == len(users) else (users[rows], items[rows])), reason)
    return rows[keep]


def disliked_events(
    rated: Interactions, threshold: float, parts: tuple, train: Interactions, n_first: int
) -> Interactions:
    """The pairs that are known negatives: rated below `threshold`, and never at or above it.

    Args:
        rated: all rows, with their ratings; the first `n_first` are not from a validation table.
        threshold: the lowest rating of a positive.
        parts: the positions in it of the training and the validation rows, and `since` of `counts.late_rows`. Ratings
            that came after the moment of a split by time are left out.
        train: the training part, whose ids are used; pairs with other ids are left out.
    """
    keys, low = rated.pair_keys().numpy(), ~at_least(rated.rating.numpy(), threshold)
    low[n_first:] = False
    rows = np.flatnonzero(low & ~np.isin(keys, keys[~low]) & ~late_rows(rated, *parts))
    rows = rows[~pd.Series(keys[rows]).duplicated().to_numpy()]
    events = rated.take(rows)
    idx = {f"{side}_idx": _in_vocab(events, train, side) for side in ("user", "item")}
    known = (idx["user_idx"] > 0) & (idx["item_idx"] > 0)
    if lost := int((~known).sum()):
        say(f"{lost:,} of {len(rows):,} disliked pairs have a user or item without a positive; they are left out")
    vocabs = {"users": train.users, "items": train.items, "columns": train.columns}
    return replace(events, **idx, **vocabs, rating=None, context={}, contexts=None).take(known.numpy())


def _in_vocab(events: Interactions, train: Interactions, side: str) -> torch.Tensor:
    """The indices `(n,)` of a side's ids in the vocabulary of `train`, 0 if unknown."""
    place = np.append(0, train.vocab(side).encode(events.vocab(side).ids))
    return torch.from_numpy(place)[events.indices(side)]
