"""Allow and deny lists as callers give them: of items, or of items by user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from collabkit.data.interactions import Columns
from collabkit.data.notices import say
from collabkit.data.runs import Runs
from collabkit.data.vocab import Vocab

__all__ = ["Choice", "is_one", "read_choice"]


class Choice(NamedTuple):
    """A list of items `(m,)` for all, or one per user."""

    items: Tensor | None = None
    pairs: Runs | None = None
    users: pd.Index | None = None  # known users with a list, in order of appearance


def read_choice(given, what: str, effect: str, users: Vocab | None, items: Vocab) -> Choice:
    """Check and encode an allow or a deny list.

    Args:
        given: item ids, one or any iterable of them, for all; or one list per user: a dict from users to item ids, or a
            DataFrame with the user and the item column. None means no list. Unknown ids are left out, counted in a
            `CollabWarning`.
        what: the argument's name.
        effect: the effect of a pair, which one with an unknown id does not have: `'hide'` or `'allow'`.
        users: the users' ids; None if the users in the query have no ids.
        items: the items' ids.

    Raises:
        KeyError: a column of a DataFrame is missing; all ids of an allow list `items` are unknown.
        ValueError: a list per user for users without ids; a missing id.
        TypeError: ids of another type than the model's.
    """
    if given is None:
        return Choice()
    if not isinstance(given, (Mapping, pd.DataFrame)):
        given = [given] if is_one(items, given) else given if hasattr(given, "dtype") else list(given)
        idx = items.encode(given)
        if what == "items" and len(idx) and not idx.any():
            items.encode(given, unknown="raise")
        if unknown := int((idx == 0).sum()):
            say(f"{unknown:,} of {len(idx):,} ids in {what}= are unknown to the model and left out: "
                f"{items.unknown(given, idx)}")  # fmt: skip
        return Choice(torch.from_numpy(idx[idx > 0]).unique())
    if users is None:
        raise ValueError(f"{what}= is given per user, but these users have no ids: give {what}= as item ids")
    if isinstance(given, pd.DataFrame):
        if len(given):
            Columns(users.name, items.name).check(given, fixed=True)
        named = keys = given[users.name] if len(given) else []
        asked = given[items.name] if len(given) else []
    else:
        lists = [[ids] if is_one(items, ids) else list(ids) for ids in given.values()]
        named = list(given)
        keys = [user for user, ids in zip(given, lists, strict=True) for _ in ids]
        asked = [item for ids in lists for item in ids]
    user_idx, item_idx = users.encode(keys), items.encode(asked)
    known = (user_idx > 0) & (item_idx > 0)
    if unknown := int((~known).sum()):
        say(f"{unknown:,} of {len(known):,} pairs in {what}= name unknown ids; they {effect} nothing: "
            + ", ".join(vocab.unknown(ids, idx) for vocab, ids, idx in
                        ((users, keys, user_idx), (items, asked, item_idx)) if not idx.all()))  # fmt: skip
    pairs = Runs.pairs(user_idx[known], item_idx[known], len(users), len(items))
    rows = users.encode(named)
    return Choice(pairs=pairs, users=users.decode(pd.unique(rows[rows > 0])))


def is_one(vocab: Vocab, ids) -> bool:
    """Whether `ids` is one id rather than several; a tuple or a frozen set is one if the vocabulary has it."""
    if isinstance(ids, (tuple, frozenset)):
        return ids in vocab
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        return True
    return getattr(ids, "ndim", 1) == 0
