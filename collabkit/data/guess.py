"""Which columns of a table are user, item, rating and time: by their names, otherwise by position as in fastai.

A guess that is not obvious is reported, and an ambiguous one is an error: a wrong guess would train a useless model.
"""

import re
from collections.abc import Hashable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from collabkit.data.notices import MissingError, say

__all__ = ["COLUMN_WORDS", "guess_columns", "likeness"]

ROLES = ("user", "item", "rating", "time")
_A = {"user": "a user", "item": "an item", "rating": "a rating", "time": "a time"}

# By role, words that indicate it, the clearest group first.
COLUMN_WORDS: dict[str, tuple[str, ...]] = {
    "user": (
        "user usr reviewer customer cust visitor member client account consumer subscriber person buyer shopper "
        "profile viewer listener reader player patron guest student rater voter follower household anonymous who",
        "session visit basket cookie device",
    ),
    "item": (
        "item product prod movie film article track song artist book asin sku isbn isbn10 isbn13 upc ean gtin barcode "
        "stock video anime manga game app recipe restaurant business poi venue hotel news course podcast episode album "
        "joke beer wine dish merchandise",
        "title show series place location listing page url content document doc post ad offer lesson job property "
        "goods entity object",
    ),
    "rating": ("rating ratings", "score stars star overall", "rate grade vote preference points"),
    "time": ("timestamp time datetime ts unixtime epoch", "date day when at"),
}
_CODES = {"asin", "sku", "isbn", "isbn10", "isbn13", "upc", "ean", "gtin", "barcode"}  # ids as they are
_ID = {"id", "ids", "idx", "index", "code", "no", "nr", "num", "number", "key", "hash", "uuid", "guid", "mbid", "pk"}
_TEXT = {"name", "title"}
_NEUTRAL = {"unique", "unix", "raw", "original", "orig", "encoded", "parent", "main", "internal", "external", "the"}
_SHORT = {"u": "user", "uid": "user", "i": "item", "iid": "item", "r": "rating", "t": "time"}
_NO_RATING = {"avg", "average", "mean", "total", "n", "num", "count", "counts", "sum", "std", "max", "min", "imdb"}
_NO_EVENT = {"release", "released", "birth", "signup", "join", "joined", "registration", "publication", "published",
             "publish", "expiry", "run", "play", "watch", "update", "updated", "life", "listen", "death"}  # fmt: skip
_DATE = re.compile(r"\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([T ].*)?\s*$")
_LOOKED_AT = 50  # values of a column that are inspected to determine their type
_FEW = 20  # rows below which a column may have each value once by chance


class _Candidates(NamedTuple):
    """Candidates for a role: the columns whose names indicate it, how clearly, and the one at fastai's position."""

    likely: dict[Hashable, int]
    place: Hashable | None

    @property
    def best(self) -> list:
        """The columns whose names indicate it most clearly."""
        return [name for name, rank in self.likely.items() if rank == min(self.likely.values())]


def guess_columns(
    df: pd.DataFrame, given: Mapping[str, Hashable | None], *, rated: bool = False, timed: bool = False
) -> dict[str, Hashable | None]:
    """The user, item, rating and time column of a table: as given, else guessed. Doubtful guesses are reported.

    A column with a usual name for users holds them, wherever it is. If names do not tell, user, item and rating are the
    first three columns, as in fastai, unless one has unsuitable values (times, dates as text, booleans or fractions for
    ids; no numbers for ratings), has the name of something else, or is a row number. If the first columns have possible
    names for users, items (and ratings), they are used, even if another column could be meant too, e.g. an `item` next
    to a `title`.

    Args:
        df: the table.
        given: by role, the columns that the caller named.
        rated: whether there is a rating column.
        timed: whether a column of times is wanted. It is found only by its name; otherwise there is none. Times that
            are not wanted are not used, as they may change results.

    Raises:
        ValueError: an ambiguous guess; the message lists the candidates.
        KeyError: the table has too few columns.

    Example:
        >>> guess_columns(pd.DataFrame({'item': ['a'], 'user': [7]}), {'user': 'user', 'item': 'item'})['user']
        'user'
        >>> likeness('customer_id', 'user'), likeness('Customer Age', 'user')
        (0, None)
    """
    found = {role: given.get(role) for role in ROLES}
    wanted = [role for role in ROLES[: 3 if rated else 2] if found[role] is None]
    if len(df.columns) < (3 if rated else 2):
        what = "ratings needs a user, an item and a rating" if rated else "interactions needs a user and an item"
        implicit = ". For events without ratings pass feedback='implicit'" if rated else ""
        raise MissingError(f"a table of {what} column; it has {list(df.columns)}{implicit}")
    free = [name for name in df.columns if name not in {name for name in found.values() if name is not None}]
    seen = {role: _candidates(df, role, free) for role in ROLES}
    notes = []
    in_place = all(seen[role].place in seen[role].likely for role in wanted)
    for role in wanted:
        name, why = _at_its_place(role, seen[role]) if in_place else _elsewhere(df, role, seen, free)
        found[role] = name
        if why is not None:
            notes.append(f"{role} {name!r}{why}")
    notes += _times(df, found, seen["time"], timed, said=bool(notes))
    if notes:
        say(f"columns chosen by name or position: {'; '.join(notes)}. Name them to be sure (user_name=, "
            "item_name=, rating_name=, time_name=)")  # fmt: skip
    return found


def likeness(name, role: str) -> int | None:
    """How clearly a column's name indicates a role: 0 most clearly; None not at all.

    Case, spaces, underscores, dashes and the types that RecBole writes (`user_id:token`) do not matter.
    """
    if not isinstance(name, str) or not (words := _words(name)):
        return None
    if "".join(words) in _SHORT:
        return 0 if _SHORT["".join(words)] == role else None
    if role in ("user", "item"):
        return _like_ids(words, role)
    no = _NO_RATING if role == "rating" else _NO_EVENT
    if no & set(words):
        return None
    groups = [text.split() for text in COLUMN_WORDS[role]]
    if role == "time" and len(words) > 1 and words[-1] == "at":
        return 0
    if role == "time" and words[-1].removesuffix("time") not in no and words[-1].endswith("time"):
        return 0
    return next((rank for rank, group in enumerate(groups) if words[-1] in group), None)


def _like_ids(words: list[str], role: str) -> int | None:
    """0 for an id of the first group, 1 for its plain word, 2 for its name or title; 3, 4, 5 for the second group."""
    is_id = text = False
    stems = []
    for word in words:
        is_id |= word in _ID or word in _CODES
        text |= word in _TEXT and len(words) > 1
        if word not in _ID | _NEUTRAL and not (word in _TEXT and len(words) > 1):
            stems.append(word)
    if len(stems) != 1:
        return None
    ends = ["", "s", *sorted(_ID | _TEXT, key=len, reverse=True)]  # 'visitorid' is one word
    for rank, group in enumerate(COLUMN_WORDS[role]):
        known = group.split()
        end = next((end for end in ends if stems[0].endswith(end) and stems[0].removesuffix(end) in known), None)
        if end is not None:
            return 3 * rank + (0 if is_id or end in _ID else 2 if text or end in _TEXT else 1)
    return None


def _words(name: str) -> list[str]:
    """'reviewerID' -> ['reviewer', 'id'], 'user_id:token' -> ['user', 'id']."""
    plain = re.sub(r":[a-z_]+$", "", name.strip())
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", plain)
    return re.findall(r"[^\W_]+", plain.lower())


def _candidates(df: pd.DataFrame, role: str, free: list) -> _Candidates:
    likely = {name: rank for name in free if (rank := likeness(name, role)) is not None}
    if role == "rating":  # texts that are called so, only where there are no numbers
        numbers = {name: rank for name, rank in likely.items() if _bears(df, name, role)}
        likely = numbers or likely
    place = df.columns[ROLES.index(role)] if role != "time" and len(df.columns) > ROLES.index(role) else None
    return _Candidates(likely, place if place in free else None)


def _at_its_place(role: str, seen: _Candidates) -> tuple[Hashable, str | None]:
    """The column at fastai's position, whose name fits the role, and a note about it if needed."""
    rank = seen.likely[seen.place]
    rivals = [name for name, other in seen.likely.items() if name != seen.place and other <= rank]
    if any(seen.likely[name] == rank or (role == "user" and seen.likely[name] < 3 <= rank) for name in rivals):
        raise _doubt(role, [seen.place, *rivals])
    return seen.place, f" (by position; {', '.join(map(repr, rivals))} could also be meant)" if rivals else None


def _elsewhere(df: pd.DataFrame, role: str, seen: dict[str, _Candidates], free: list) -> tuple[Hashable, str | None]:
    """The column whose name fits the role, else the one at its position if its values fit, and a note about it."""
    mine = seen[role]
    if mine.likely:
        if len(mine.best) > 1:
            raise _doubt(role, mine.best)
        less = [name for name in mine.likely if name != mine.best[0]]
        return mine.best[0], f" (rather than {', '.join(map(repr, less))})" if less else ""
    place = mine.place
    called = [other for other in ROLES if place in seen[other].likely]
    if place is None or called or not _bears(df, place, role):
        at = df.columns[ROLES.index(role)]
        why = f"is named like {_A[called[0]]}" if called else "is already taken" if place is None else _holds(df, at)
        silent = [name for name in free if not any(name in seen[other].likely for other in ROLES)]
        could = [name for name in silent if _bears(df, name, role)]
        hint = f", perhaps one of {could}" if could else f"; the table has {list(df.columns)}"
        implicit = ". Events without ratings take feedback='implicit'" if role == "rating" else ""
        raise ValueError(f"no column is named like {_A[role]}, and {at!r}, at the position of one, {why}: pass "
                         f"{role}_name={hint}{implicit}")  # fmt: skip
    return place, " (by position)"


def _doubt(role: str, names: list) -> ValueError:
    return ValueError(f"the columns {' and '.join(map(repr, names))} could each be the {role}: pass the right one, "
                      f"e.g. {role}_name={names[0]!r}")  # fmt: skip


def _times(df: pd.DataFrame, found: dict, seen: _Candidates, timed: bool, said: bool) -> list[str]:
    """Fill in the column of times, if it is wanted and unambiguous; returns notes about it."""
    named = [name for name in seen.likely if name not in set(found.values())]
    there = {name: seen.likely[name] for name in named if _bears(df, name, "time")}
    if found["time"] is not None or not named:
        return []
    best = [name for name, rank in there.items() if rank == min(there.values())]
    if timed and len(best) == 1:
        found["time"] = best[0]
        return [f"time {best[0]!r}"]
    names = ", ".join(map(repr, named))
    return [f"no time, though {names} may be one (to use it, pass time_name=)"] if said or timed else []


def _bears(df: pd.DataFrame, name, role: str) -> bool:
    """Whether the values of a column can be ids, ratings or times."""
    column = df.iloc[:, list(df.columns).index(name)]
    kind = getattr(column.dtype, "kind", "O")
    if role == "time":
        return kind in "iufM"
    if role == "rating":
        return kind in "iuf"
    first = column.dropna().head(_LOOKED_AT)
    if kind in "mMb" or (kind == "f" and (first != np.floor(first)).any()):
        return False
    if kind not in "iuf" and len(first) and all(isinstance(value, (list, dict, np.ndarray)) for value in first):
        return False
    if kind not in "iuf" and len(first) and all(_DATE.match(str(value)) for value in first):
        return False
    return not (role == "user" and len(column) >= _FEW and column.is_unique)


def _holds(df: pd.DataFrame, name) -> str:
    column = df.iloc[:, list(df.columns).index(name)]
    unique = ", all different" if len(column) >= _FEW and _hashable(column) and column.is_unique else ""
    return f"holds values like {column.iloc[:1].tolist()[0]!r}{unique}" if len(column) else "holds nothing"


def _hashable(column: pd.Series) -> bool:
    return len(column) > 0 and isinstance(column.iloc[0], Hashable)
