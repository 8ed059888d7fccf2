"""What a caller says of new users, checked and encoded."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.data.dataset import Dataset
from collabkit.data.interactions import Interactions, check_ratings, check_times
from collabkit.data.notices import MissingError, say
from collabkit.data.runs import Runs
from collabkit.data.vocab import check_ids

__all__ = ["NewUsers", "read_histories"]


@dataclass(frozen=True, eq=False)
class NewUsers:
    """New users and what each has rated or clicked, every item once but for models that read events in their order."""

    ids: pd.Index | None  # `(b,)` external ids; None for one user without an id
    histories: Runs  # `b` runs of items, in the order given, with their ratings as `weight`

    def __len__(self) -> int:
        return len(self.histories)

    def interactions(self, like: Interactions, user_idx: Tensor) -> Interactions:
        """The histories as interactions of the users at `user_idx` `(b,)`, without times and context."""
        rows, users = self.histories, user_idx[self.histories.rows]
        context = {} if like.contexts is None else like.contexts.unknown(len(users))
        events = {"user_idx": users, "item_idx": rows.values, "rating": rows.weight, "time": None, "weight": None}
        return replace(like, **events, context=context)


def read_histories(history, data: Dataset, *, rated: bool, y_range=None, ordered: bool = False) -> NewUsers:
    """Check and encode histories.

    Args:
        history: of one user a dict from items to ratings, or where the model knows no ratings a list of items; of many
            a DataFrame with the model's user, item and rating columns. In a DataFrame, rows of unknown items are left
            out and repeated pairs count once, the last one; both are counted in a `CollabWarning`.
        data: of the model.
        rated: whether the model takes ratings; one that does not takes the items of a dict.
        y_range: of the ratings, where the model has one.
        ordered: whether the model reads events in their order: then repeats stay, and a DataFrame with the time column
            is read by it, else in the order of its rows.

    Raises:
        KeyError: a dict or list names an unknown item; a column is missing.
        ValueError: a history is empty, or has no item that the model knows; a rating is missing or out of range.
        TypeError: ratings where the model knows none, or none where it needs them.
    """
    if isinstance(history, pd.DataFrame):
        code, ids, items, ratings = _many_histories(history, data, rated, ordered)
    else:
        items, ratings = _one_history(history, data, rated)
        code, ids = np.zeros(len(items), dtype=np.int64), None
    if rated and y_range is not None:
        low, high = y_range
        if outside := int(((ratings < low) | (ratings > high)).sum()):
            span = f"they run from {ratings.min():g} to {ratings.max():g}"
            raise ValueError(f"{outside:,} rating(s) of the history lie outside y_range={tuple(y_range)}: {span}")
    keep = items > 0
    if not ordered:  # the last one of each pair
        keep &= ~pd.Series(code * (items.max() + 1) + items).duplicated(keep="last").to_numpy()
    rows = np.flatnonzero(keep)
    rows = rows[np.argsort(code[rows], kind="stable")]  # by user, else as they were
    unknown, parts = int((items == 0).sum()), []
    if unknown:
        parts.append(f"{unknown:,} name items that the model does not know and are left out")
    if repeated := len(items) - unknown - len(rows):
        parts.append(f"{repeated:,} repeat a (user, item) pair, of which the last one counts")
    if parts:
        say(f"of {len(items):,} rows of history {'; '.join(parts)}")
    counts = np.bincount(code[rows], minlength=1 if ids is None else len(ids))
    if (none := counts == 0).any():
        who = f"{none.sum():,} user(s) have no item that the model knows, e.g. {ids[none].tolist()[0]!r}"
        raise ValueError(f"{who}; leave them out, or add_items first")
    weight = ratings[torch.from_numpy(rows)] if rated else None
    histories = Runs.group(code[rows], items[rows], len(counts), width=data.n_items, weight=weight)
    return NewUsers(ids, histories)


def _many_histories(
    history: pd.DataFrame, data: Dataset, rated: bool, ordered: bool
) -> tuple[np.ndarray, pd.Index, np.ndarray, Tensor | None]:
    """Of each row, whose it is among the users, their ids, the item and the rating."""
    columns = replace(data.columns, time=None, rating=data.columns.rating if rated else None, context=())
    missing = [name for name in columns.present if name not in history.columns]
    if missing:
        raise MissingError(f"the history lacks the column(s) {missing} of the model; it has {list(history.columns)}")
    columns.check(history)
    if ordered and data.columns.time in history.columns:
        check_times(history[data.columns.time])
        history = history.sort_values(data.columns.time, kind="stable")
    code, ids = pd.factorize(check_ids(history[columns.user], columns.user))
    items = data.items.encode(history[columns.item])
    ratings = check_ratings(history[columns.rating]) if rated else None
    return code, ids, items, ratings


def _one_history(history, data: Dataset, rated: bool) -> tuple[np.ndarray, Tensor | None]:
    if rated and not isinstance(history, (Mapping, pd.Series)):
        what = f"{{{data.items[1]!r}: 4}}, or a DataFrame with columns {data.columns.present}; got {history!r}"
        raise TypeError(f"the model was trained on ratings: history must be a dict from items to ratings, e.g. {what}")
    if not rated and not data.rated and isinstance(history, (Mapping, pd.Series)):
        raise TypeError("the model was trained on events without ratings: history must be a list of items, got a dict")
    if isinstance(history, (str, bytes)):
        raise TypeError(f"history must be a list of items, got the text {history!r}; for one item pass [{history!r}]")
    named = dict(history) if rated else list(history)
    if len(named) == 0:
        what = "give at least one item; default_list() is for users of whom nothing is known"
        raise ValueError(f"the history is empty: {what}")
    items = data.items.encode(list(named), unknown="raise")
    if not rated:
        return items, None
    numbers = (int, float, np.number)
    if odd := [item for item, value in named.items() if not (isinstance(value, numbers) and np.isfinite(value))]:
        raise ValueError(f"the history's ratings must be finite numbers; that of {odd[0]!r} is {named[odd[0]]!r}")
    return items, torch.tensor([float(rating) for rating in named.values()])
