"""What a caller says of new users and items, checked and encoded: their histories, and room for their ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.features import Features
from collabkit.fold_in import Histories
from collabkit.interactions import Interactions, check_ratings, say
from collabkit.models import CollabModel
from collabkit.models.growing import grow
from collabkit.pairs import Pairs
from collabkit.vocab import Vocab, check_ids

__all__ = ["NewUsers", "read_histories", "extend_vocab", "with_vocab"]


@dataclass(frozen=True, eq=False)
class NewUsers:
    """New users and what each has rated or clicked, every item once.

    Args:
        ids: `(b,)` external ids; None for one user without an id.
        histories: of `b` users.
    """

    ids: pd.Index | None
    histories: Histories

    def __len__(self) -> int:
        return len(self.histories)

    @property
    def positions(self) -> Tensor:
        """The position `(m,)` of each history row's user."""
        return torch.repeat_interleave(torch.arange(len(self)), self.histories.counts)

    def pairs(self, n_items: int) -> Pairs:
        """The histories as pairs of positions and items."""
        return Pairs.from_indices(self.positions, self.histories.items, n_users=len(self), n_items=n_items)

    def interactions(self, like: Interactions, user_idx: Tensor) -> Interactions:
        """The histories as interactions of the users at `user_idx` `(b,)`, without times."""
        rows, users = self.histories, user_idx[self.positions]
        return replace(like, user_idx=users, item_idx=rows.items, rating=rows.ratings, time=None, weight=None)


def read_histories(history, train: Interactions, y_range=None) -> NewUsers:
    """Check and encode histories.

    Args:
        history: of one user a dict from items to ratings, or where the model knows no ratings a list of items; of many
            a DataFrame with the model's user, item and rating columns. In a DataFrame, rows of unknown items are left
            out and repeated pairs count once, the last one; both are counted in a `CollabWarning`.
        train: the training interactions.
        y_range: of the ratings, where the model has one.

    Raises:
        KeyError: a dict or list names an unknown item; a column is missing.
        ValueError: a history is empty, or has no item that the model knows; a rating is missing or out of range.
        TypeError: ratings where the model knows none, or none where it needs them.
    """
    rated = train.rating is not None
    if isinstance(history, pd.DataFrame):
        columns = replace(train.columns, time=None, rating=train.columns.rating if rated else None)
        missing = [name for name in columns.present if name not in history.columns]
        if missing:
            raise KeyError(f"the history lacks the column(s) {missing} of the model; it has {list(history.columns)}")
        columns.check(history)
        code, ids = pd.factorize(check_ids(history[columns.user], columns.user))
        items = train.items.encode(history[columns.item])
        ratings = check_ratings(history[columns.rating]) if rated else None
    else:
        items, ratings = _one_history(history, train, rated)
        code, ids = np.zeros(len(items), dtype=np.int64), None
    if rated:
        _check_range(ratings, y_range)
    rows = _kept(code, items)
    _say_left_out(items, len(rows))
    counts = np.bincount(code[rows], minlength=1 if ids is None else len(ids))
    if (counts == 0).any():
        who = (
            f"{(counts == 0).sum():,} user(s) have no item that the model knows, e.g. {ids[counts == 0].tolist()[0]!r}"
        )
        raise ValueError(f"{who}; leave them out, or add_items first")
    start = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
    histories = Histories(start, torch.from_numpy(items[rows]), ratings[torch.from_numpy(rows)] if rated else None)
    return NewUsers(ids, histories)


def extend_vocab(model: CollabModel, vocab: Vocab, *, is_item: bool, df: pd.DataFrame | None = None) -> None:
    """Room in the model for the ids that `vocab` has at its end beyond the model's; `df` has their features, if any."""
    side, features = model.features_of(is_item), None
    if side is not None:
        features: Features = side.features.extended(df, vocab)
    grow(model, vocab, is_item=is_item, features=features)


def with_vocab(part: Interactions | None, vocab: Vocab, is_item: bool) -> Interactions | None:
    """`part` with the extended vocabulary of one side."""
    return None if part is None else replace(part, **{"items" if is_item else "users": vocab})


def _one_history(history, train: Interactions, rated: bool) -> tuple[np.ndarray, Tensor | None]:
    if rated and not isinstance(history, (Mapping, pd.Series)):
        raise TypeError(
            "the model was trained on ratings: history must be a dict from items to ratings, e.g. "
            f"{{{train.items[1]!r}: 4}}, or a DataFrame with columns {train.columns.present}; got {history!r}"
        )
    if not rated and isinstance(history, Mapping):
        raise TypeError("the model was trained on events without ratings: history must be a list of items, got a dict")
    if isinstance(history, (str, bytes)):
        raise TypeError(f"history must be a list of items, got the text {history!r}; for one item pass [{history!r}]")
    named = dict(history) if rated else list(history)
    if len(named) == 0:
        raise ValueError(
            "the history is empty: give at least one item; default_list() is for users of whom nothing is known"
        )
    items = train.items.encode(list(named), unknown="raise")
    if not rated:
        return items, None
    odd = [item for item, rating in named.items() if not _is_rating(rating)]
    if odd:
        raise ValueError(f"the history's ratings must be finite numbers; that of {odd[0]!r} is {named[odd[0]]!r}")
    return items, torch.tensor([float(rating) for rating in named.values()])


def _is_rating(value) -> bool:
    return isinstance(value, (int, float, np.number)) and bool(np.isfinite(value))


def _kept(code: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The rows `(k,)` of known items, the last one of each pair, in the order of their users `code` `(m,)`."""
    keys = (code * (items.max() + 1) + items)[::-1]
    last = len(keys) - 1 - np.unique(keys, return_index=True)[1]  # in the order of users and items
    return last[items[last] > 0]


def _say_left_out(items: np.ndarray, n_kept: int) -> None:
    unknown, parts = int((items == 0).sum()), []
    if unknown:
        parts.append(f"{unknown:,} name items that the model does not know and are left out")
    if repeated := len(items) - unknown - n_kept:
        parts.append(f"{repeated:,} repeat a (user, item) pair, of which the last one counts")
    if parts:
        say(f"of {len(items):,} rows of history {'; '.join(parts)}")


def _check_range(ratings: Tensor, y_range) -> None:
    if y_range is None or len(ratings) == 0:
        return
    low, high = y_range
    outside = int(((ratings < low) | (ratings > high)).sum())
    if outside:
        raise ValueError(
            f"{outside:,} rating(s) of the history lie outside y_range={tuple(y_range)}: they run from "
            f"{ratings.min():g} to {ratings.max():g}"
        )
