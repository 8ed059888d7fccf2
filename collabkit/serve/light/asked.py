"""The caller's allow and deny lists and histories, checked and encoded, as in `choices` and `histories`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from collabkit.data.notices import say
from collabkit.data.unique import sorted_unique
from collabkit.serve.light.ids import Ids, finite_number, plain

__all__ = ["Choice", "confidences", "is_one", "read_choice", "read_history"]


class Choice(NamedTuple):
    """A list of items `(m,)` for all, ascending, or the items of each listed user, by index."""

    items: np.ndarray | None = None
    by_user: dict[int, np.ndarray] | None = None


def is_one(ids) -> bool:
    """Whether this is one id rather than several."""
    return isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable) or getattr(ids, "ndim", 1) == 0


def read_choice(given, what: str, effect: str, users: Ids | None, items: Ids) -> Choice:
    """An allow or a deny list; arguments and errors as in `choices.read_choice`, but without tables."""
    if given is None:
        return Choice()
    if not isinstance(given, Mapping):
        values = [given] if is_one(given) else list(given)
        idx = items.encode(values)
        if what == "items" and len(idx) and not idx.any():
            items.encode(values, unknown="raise")
        if unknown := int((idx == 0).sum()):
            say(f"{unknown:,} of {len(idx):,} ids in {what}= are unknown to the model and left out: "
                f"{items.unknown(values, idx)}")  # fmt: skip
        return Choice(sorted_unique(idx[idx > 0]))
    if users is None:
        raise ValueError(f"{what}= is given per user, but these users have no ids: give {what}= as item ids")
    rows = users.encode(given)
    named = [[ids] if is_one(ids) else list(ids) for ids in given.values()]
    lists = [items.encode(ids) for ids in named]
    n_pairs = sum(map(len, lists))
    known = sum(int((ids > 0).sum()) for row, ids in zip(rows, lists, strict=True) if row > 0)
    if unknown := n_pairs - known:
        say(f"{unknown:,} of {n_pairs:,} pairs in {what}= name unknown ids; they {effect} nothing: "
            + ", ".join(vocab.unknown(ids, idx) for vocab, ids, idx in (
                (users, [user for user, ids in zip(given, named, strict=True) for _ in ids],
                 np.repeat(rows, [len(ids) for ids in named])),
                (items, [item for ids in named for item in ids], np.concatenate(lists)),
            ) if not idx.all()))  # fmt: skip
    return Choice(
        by_user={int(row): sorted_unique(ids[ids > 0]) for row, ids in zip(rows, lists, strict=True) if row > 0}
    )


def read_history(history, items: Ids, spec: Mapping, having: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """One user's history: items `(l,)`, and ratings or confidences; see `histories.read_histories`.

    Args:
        history: a dict from items to ratings or counts, or a list of items if the model has neither.
        items: the items' ids.
        spec: the model's entry in config.json.
        having: `(n_items,)` how many users have each item.
    """
    rated, counted, told = spec["takes_ratings"], not spec["takes_ratings"] and spec["confidence"], spec["rated"]
    if rated and not isinstance(history, Mapping):
        raise TypeError("the model was trained on ratings: history must be a dict from items to ratings, got "
                        f"{type(history).__name__}")  # fmt: skip
    if not (told or counted) and isinstance(history, Mapping):
        raise TypeError("the model was trained on events without ratings: history must be a list of items, got a dict")
    if isinstance(history, (str, bytes)):
        raise TypeError(f"history must be a list of items, got the text {history!r}; for one item pass [{history!r}]")
    if isinstance(history, Mapping):  # answers of None, as from a questionnaire, are ignored
        answers = {item: plain(answer) for item, answer in history.items()}
        named = {item: answer for item, answer in answers.items() if answer is not None and answer == answer}
    else:
        named = list(history)
    if len(named) == 0:
        raise ValueError("the history is empty: give at least one item; default_list() is for users about whom nothing "
                         "is known")  # fmt: skip
    idx = items.encode(list(named))
    if not idx.any():
        items.encode(list(named), unknown="raise")
    unknown = "" if idx.all() else items.unknown(named, idx)
    weight = _numbers(named, rated, counted)
    met = bool((idx > 0).any())
    if counted:
        idx, weight = _summed(idx, weight)
    rows = _kept(idx, weight, spec, unknown)
    idx, weight = idx[rows], None if weight is None else weight[rows]
    if len(idx) == 0 and counted and met:
        raise ValueError("1 user(s) have no item with a count above 0: counts say how often or how much, and those of "
                         "0 or less do not count. Leave such users out")  # fmt: skip
    if len(idx) == 0:
        raise ValueError("1 user(s) have no item that the model knows; leave them out, or add_items first")
    return idx, confidences(idx, weight, spec["confidence"], having) if counted else weight


def _numbers(named, rated: bool, counted) -> np.ndarray | None:
    if counted and not isinstance(named, dict):
        return np.ones(len(named))
    if not rated and not counted:
        return None
    if odd := [item for item, value in named.items() if not finite_number(value)]:
        what = "counts" if counted else "ratings"
        raise ValueError(f"the history's {what} must be finite numbers; that of {odd[0]!r} is {named[odd[0]]!r}")
    return np.array([float(value) for value in named.values()], dtype=np.float32)


def _summed(idx: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each item once, at its last position, with the sum of its counts; sums of 0 or less are left out."""
    total = np.bincount(idx, counts)[idx]
    known = idx > 0
    if nothing := int((known & (total <= 0)).sum()):
        say(f"{nothing:,} of {len(known):,} rows of history belong to pairs with a count of 0 or less and are left out")
    keep = ~known | ((total > 0) & _lasts(idx))
    return idx[keep], total[keep].astype(np.float32)


def _lasts(idx: np.ndarray) -> np.ndarray:
    """Whether each of the items `(l,)` is its last occurrence."""
    keep = np.zeros(len(idx), bool)
    keep[len(idx) - 1 - np.unique(idx[::-1], return_index=True)[1]] = True
    return keep


def _kept(idx: np.ndarray, ratings: np.ndarray | None, spec: Mapping, names: str) -> np.ndarray:
    """The positions of the rows that count; the others are reported, and ratings out of range are an error."""
    if ratings is not None and spec["y_range"] is not None and len(ratings):
        low, high = spec["y_range"]
        if outside := int(((ratings < low) | (ratings > high)).sum()):
            span = f"they run from {ratings.min():g} to {ratings.max():g}"
            raise ValueError(f"{outside:,} rating(s) of history lie outside y_range={(low, high)}: {span}")
    keep = idx > 0
    unknown, parts = int((~keep).sum()), []
    if not spec["ordered"]:
        keep &= _lasts(idx)
    if unknown:
        parts.append(f"{unknown:,} name items that the model does not know and are left out: {names}")
    if repeated := len(idx) - unknown - int(keep.sum()):
        parts.append(f"{repeated:,} repeat a (user, item) pair, of which the last one counts")
    if parts:
        say(f"of {len(idx):,} rows of history {'; '.join(parts)}")
    return np.flatnonzero(keep)


def confidences(items: np.ndarray, counts: np.ndarray, spec: Mapping, having: np.ndarray) -> np.ndarray:
    """The confidences `(l,)` float32 of one user's counts; see `data.confidence.Confidence`."""
    r = counts.astype(np.float64)
    if spec["kind"] == "bm25":
        total, have = r.sum() / spec["mean_total"], having[items].astype(np.float64)
        value = r * (spec["k1"] + 1) / (r + spec["k1"] * (1 - spec["b"] + spec["b"] * total))
        value = value * np.log1p((spec["n_users"] - have + 0.5) / (have + 0.5))
    else:
        value = r if spec["kind"] == "linear" else np.log1p(r / spec["eps"])
    return ((1 + spec["alpha"] * value) / spec["scale"]).astype(np.float32)
