"""The histories of new users, and events of known users since training, as callers give them: checked and encoded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.data.checks import no_table, shown
from collabkit.data.counts import read_counts
from collabkit.data.dataset import Dataset
from collabkit.data.interactions import Columns, Interactions, check_ratings, check_times, encode_times
from collabkit.data.notices import MissingError, say
from collabkit.data.runs import Runs
from collabkit.data.vocab import Vocab, check_ids

__all__ = ["NewUsers", "read_histories", "read_recent"]


@dataclass(frozen=True, eq=False)
class NewUsers:
    """New users and what each has rated or clicked; each item once, except for models that read events in order."""

    ids: pd.Index | None  # `(b,)` external ids; None for one user without an id
    histories: Runs  # `b` runs of items, in the order given, with their ratings, or confidences, as `weight`
    count: Tensor | None = None  # `(m,)` of each of them, where the model's data has counts

    def __len__(self) -> int:
        return len(self.histories)

    def vocab(self, name: str) -> Vocab | None:
        """The ids as a vocabulary, the first user at 1; None where there are none."""
        return None if self.ids is None else Vocab(self.ids, name)

    def interactions(self, like: Interactions, user_idx: Tensor) -> Interactions:
        """The histories as interactions of the users at `user_idx` `(b,)`, without times and context."""
        rows, users = self.histories, user_idx[self.histories.rows]
        context = like.unknown_moments(len(users))
        events = {"user_idx": users, "item_idx": rows.values, "time": None, "weight": None, "count": self.count}
        events["rating"] = rows.weight if self.count is None else None
        return replace(like, **events, context=context)


def read_histories(
    history, data: Dataset, *, rated: bool, y_range=None, ordered: bool = False, named: bool = False
) -> NewUsers:
    """Check and encode histories.

    Args:
        history: for one user a dict from items to ratings or counts, or, if the model knows neither, a list of items;
            for many a DataFrame with the model's user, item and rating columns; one with no user column, and no others
            than the model's, is one user's. Without the column of counts each row
            counts 1; counts of repeated pairs add up, and sums of 0 or less are left out. Unknown items are left out,
            and in a DataFrame only the last of repeated pairs counts; both are counted in a `CollabWarning`. Answers of
            None in a dict, as from a questionnaire, are ignored.
        data: of the model.
        rated: whether the model takes ratings; one that does not takes the items of a dict.
        y_range: of the ratings, where the model has one.
        ordered: whether the model reads events in their order: then repeats stay, and a DataFrame with the time column
            is read by it, else in the order of its rows.
        named: whether a DataFrame must have the user column.

    Raises:
        KeyError: all items of a dict or list are unknown; a column is missing.
        ValueError: a history is empty, or has no item that the model knows; a rating is missing or out of range.
        TypeError: ratings where the model knows none, or none where it needs them.
    """
    if isinstance(history, pd.DataFrame):
        own = {name for name in (*data.columns.present, data.columns.count) if name != data.columns.user}
        # with another column, that of the users may be misspelt
        alone = not named and len(history.columns) > 0 and set(history.columns) <= own
        history = history.assign(**{data.columns.user: 0}) if alone else history
        told = _many_histories(history, data, rated, by_time=ordered)
        told = told._replace(ids=None) if alone else told
    else:
        told = _one_history(history, data, rated)
    counted = told.ratings is not None and not rated
    met = np.bincount(told.code[told.items > 0], minlength=1 if told.ids is None else len(told.ids))
    told = _summed(told, "history") if counted else told
    rows, ids = _kept(told, "history", y_range, ordered), told.ids
    rows = rows[np.argsort(told.code[rows], kind="stable")]  # by user, else as they were
    counts = np.bincount(told.code[rows], minlength=1 if ids is None else len(ids))
    if (none := counts == 0).any():
        example = "" if ids is None else f", e.g. {ids[none].tolist()[0]!r}"
        if (met[none] > 0).any():
            raise ValueError(f"{none.sum():,} user(s) have no item with a count above 0{example}: counts say how often "
                             "or how much, and those of 0 or less do not count. Leave such users out")  # fmt: skip
        raise ValueError(f"{none.sum():,} user(s) have no item that the model knows{example}; leave them out, or "
                         "add_items first")  # fmt: skip
    weight = None if told.ratings is None else told.ratings[torch.from_numpy(rows)]
    histories = Runs.group(told.code[rows], told.items[rows], len(counts), width=data.n_items, weight=weight)
    if rated or weight is None:
        return NewUsers(ids, histories)
    confidences = data.train.confidence.of(histories.rows, histories.values, weight)
    return NewUsers(ids, replace(histories, weight=confidences), weight)


def read_recent(
    recent: pd.DataFrame, data: Dataset, *, rated: bool, y_range=None, ordered: bool = False
) -> tuple[pd.Index, Interactions]:
    """Check and encode the events of known users since training.

    Args:
        recent: one row per event, with the model's user and item columns, the rating column where the model takes
            ratings, and, if it is there, the time column, by which the rows are put in order. It may have no rows. Rows
            of unknown items are left out and, unless the model reads events in order, only the last of repeated pairs
            counts; both are counted in a `CollabWarning`.
        data, rated, y_range, ordered: as in `read_histories`.

    Returns:
        The users that it names, in order of appearance, and the events in their order; their times are there where the
        data and the table have some.

    Raises:
        TypeError: it is no DataFrame; ratings, times or ids are of another type.
        KeyError: a column is missing; a user is unknown.
        ValueError: a rating is missing or out of range; a time is missing.
    """
    if not isinstance(recent, pd.DataFrame):
        what = f"a DataFrame with columns {data.columns.present}, one row per event"
        raise TypeError(f"recent= must be {what}; {no_table(recent)}")
    if len(recent) == 0:
        _columns_of(recent, data, rated, "recent=")
        return data.users.ids[:0], data.train.new_empty()
    told = _many_histories(recent, data, rated, by_time=True, what="recent=")
    counted = told.ratings is not None and not rated
    told = _summed(told, "recent=") if counted else told
    user_idx = data.users.encode(told.ids)
    if len(new := told.ids[user_idx == 0]):
        who = f"{len(new):,} user(s) of recent= are unknown to the model, e.g. {new.tolist()[0]!r}"
        raise MissingError(f"{who}: pass their events as history=, or add them with fold_in first")
    rows = torch.from_numpy(_kept(told, "recent=", y_range, ordered))
    users = torch.from_numpy(user_idx)[torch.from_numpy(told.code)[rows]]
    events = {"user_idx": users, "item_idx": torch.from_numpy(told.items)[rows], "weight": None}
    events["rating"] = told.ratings[rows] if rated else None
    events["count"] = told.ratings[rows] if counted else None
    events["time"] = None if told.times is None else encode_times(told.times, data.columns.ticks)[rows]
    return told.ids, replace(data.train, **events, context=data.train.unknown_moments(len(users)))


class _Told(NamedTuple):
    """Rows of a caller's table or list: the user's position, the ids of the users, the item, the rating, the time."""

    code: np.ndarray
    ids: pd.Index | None
    items: np.ndarray
    ratings: Tensor | None = None
    times: pd.Series | None = None
    unknown: str = ""  # some of the items that the model does not know


def _summed(told: _Told, what: str) -> _Told:
    """One row of each pair, the last, with the sum of its counts; pairs of 0 or less are left out."""
    keys = told.code * (told.items.max(initial=0) + 1) + told.items
    pair = pd.factorize(keys)[0]
    total = np.bincount(pair, told.ratings.numpy())[pair] if len(pair) else np.zeros(0)
    known = told.items > 0  # the others are counted with what the model does not know
    if nothing := int((known & (total <= 0)).sum()):
        say(f"{nothing:,} of {len(known):,} rows of {what} belong to pairs with a count of 0 or less and are left out")
    keep = ~known | ((total > 0) & ~pd.Series(pair).duplicated(keep="last").to_numpy())
    times = None if told.times is None else told.times[keep]
    ratings = torch.from_numpy(total[keep]).float()
    return told._replace(code=told.code[keep], items=told.items[keep], ratings=ratings, times=times)


def _kept(told: _Told, what: str, y_range, ordered: bool) -> np.ndarray:
    """The positions of the rows that count; the others are reported, and ratings out of range are an error."""
    code, items, ratings = told.code, told.items, told.ratings
    if ratings is not None and y_range is not None and len(ratings):
        low, high = y_range
        if outside := int(((ratings < low) | (ratings > high)).sum()):
            span = f"they run from {ratings.min():g} to {ratings.max():g}"
            raise ValueError(f"{outside:,} rating(s) of {what} lie outside y_range={tuple(y_range)}: {span}")
    keep = items > 0
    if not ordered:  # the last one of each pair
        keep &= ~pd.Series(code * (items.max(initial=0) + 1) + items).duplicated(keep="last").to_numpy()
    rows = np.flatnonzero(keep)
    unknown, parts = int((items == 0).sum()), []
    if unknown:
        parts.append(f"{unknown:,} name items that the model does not know and are left out: {told.unknown}")
    if repeated := len(items) - unknown - len(rows):
        parts.append(f"{repeated:,} repeat a (user, item) pair, of which the last one counts")
    if parts:
        say(f"of {len(items):,} rows of {what} {'; '.join(parts)}")
    return rows


def _columns_of(table: pd.DataFrame, data: Dataset, rated: bool, what: str) -> Columns:
    """The columns that a table of events must have, if it has them."""
    count = data.columns.count if data.columns.count in table.columns else None
    rating = data.columns.rating if rated else None
    columns = replace(data.columns, time=None, rating=rating, context=(), count=count)
    missing = [name for name in columns.present if name not in table.columns]
    if missing:
        raise MissingError(f"{what} lacks the column(s) {missing} of the model; it has {list(table.columns)}: rename "
                           "yours to those of the model")  # fmt: skip
    return columns


def _many_histories(table: pd.DataFrame, data: Dataset, rated: bool, by_time: bool, what: str = "the history") -> _Told:
    """The rows of a table, in the order of the times if it is read `by_time` and has times."""
    columns, times = _columns_of(table, data, rated, what), data.columns.time
    columns.check(table)
    by_time &= times in table.columns
    if by_time:
        check_times(table[times])
        table = table.sort_values(times, kind="stable")
    code, ids = pd.factorize(check_ids(table[columns.user], columns.user))
    items = data.items.encode(table[columns.item])
    ratings = check_ratings(table[columns.rating]) if rated else None
    if not rated and data.train.confidence is not None:
        counts = np.ones(len(table)) if columns.count is None else read_counts(table, columns.count)
        ratings = torch.from_numpy(counts)
    unknown = "" if items.all() else data.items.unknown(table[columns.item], items)
    return _Told(code, ids, items, ratings, table[times] if by_time else None, unknown)


def _one_history(history, data: Dataset, rated: bool) -> _Told:
    if isinstance(history, (list, tuple)) and any(isinstance(part, (list, Mapping)) for part in history):
        raise TypeError(f"history= is of one user, got a list of {type(history[0]).__name__}s: call once per user, "
                        f"or pass a DataFrame with columns {data.columns.present}, one row per event")  # fmt: skip
    if rated and not isinstance(history, (Mapping, pd.Series)):
        what = f"{{{data.items[1]!r}: 4}}, or a DataFrame with columns {data.columns.present}; got {shown(history)}"
        raise TypeError(f"the model was trained on ratings: history must be a dict from items to ratings, e.g. {what}")
    counted = not rated and data.train.confidence is not None
    if not (data.rated or counted) and isinstance(history, Mapping):
        raise TypeError("the model was trained on events without ratings: history must be a list of items, got a dict")
    if isinstance(history, (str, bytes)):
        raise TypeError(f"history must be a list of items, got the text {history!r}; for one item pass [{history!r}]")
    if not isinstance(history, Iterable):
        raise TypeError(f"history must be a list of items, got {shown(history)}; for one item pass [{shown(history)}]")
    if isinstance(history, Mapping) or ((data.rated or counted) and isinstance(history, pd.Series)):
        answers = dict(history.dropna() if isinstance(history, pd.Series) else history)  # None there is NaN
        named = {item: answer for item, answer in answers.items() if answer is not None}  # no answer tells nothing
    else:
        named = list(history)
    if len(named) == 0:
        what = "give at least one item; default_list() is for users about whom nothing is known"
        raise ValueError(f"the history is empty: {what}")
    items = data.items.encode(list(named))
    if not items.any():
        data.items.encode(list(named), unknown="raise")
    unknown = "" if items.all() else data.items.unknown(list(named), items)
    told = _Told(np.zeros(len(items), dtype=np.int64), None, items, unknown=unknown)
    if counted and not isinstance(named, dict):
        return told._replace(ratings=torch.ones(len(named), dtype=torch.float64))
    if not rated and not counted:
        return told
    numbers, most = (int, float, np.number), torch.finfo(torch.float32).max  # NaN is not within it either
    if odd := [item for item, value in named.items() if not (isinstance(value, numbers) and abs(value) <= most)]:
        what = "counts" if counted else "ratings"
        raise ValueError(f"the history's {what} must be finite numbers; that of {odd[0]!r} is {named[odd[0]]!r}")
    return told._replace(ratings=torch.tensor([float(rating) for rating in named.values()]))
