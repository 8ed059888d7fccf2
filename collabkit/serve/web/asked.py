"""The content of requests: JSON and query strings, checked before any computation."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Limits", "Refused", "is_name", "number", "number_text", "read_history", "read_json", "read_lists", "read_pairs",
    "switch", "take_query", "whole_text",
]  # fmt: skip

LONGEST = 800  # characters of a message
DEPTH = 16  # of objects and lists within each other
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}", re.ASCII)  # `str.isdigit` takes '²' too
_STEERING = ("diversity", "novelty_weight")
_LISTS = ("users", "history", "k", "items", "exclude", "filter_seen", "context", "why", *_STEERING)


class Refused(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        error: one word for programs.
        message: what was wrong, what was received, what to do.
        retry_after: seconds after which to try again.
    """

    def __init__(self, status: int, error: str, message: str, retry_after: int | None = None):
        message = message if len(message) <= LONGEST else f"{message[:LONGEST]}..."
        super().__init__(message)
        self.status, self.error, self.message, self.retry_after = status, error, message, retry_after


@dataclass(frozen=True)
class Limits:
    """Limits of one request.

    Args:
        body: bytes.
        k: items per list.
        users: lists of one request.
        history, items: ids in a history, and in `items` or `exclude`.
        seconds: maximum time to wait for a turn, and to compute an answer.
        in_flight: maximum number of requests in progress or waiting; it protects memory, while `seconds` sheds load.
    """

    body: int = 1 << 20
    k: int = 1000
    users: int = 1000
    history: int = 2000
    items: int = 20_000
    seconds: float = 10.0
    in_flight: int = 10_000


def read_json(body: bytes) -> dict:
    """The object in a body; numbers are finite, names occur once, texts are valid.

    Raises:
        Refused: the body is something else.
    """
    try:
        text = body.decode()  # only UTF-8: `json` guesses other encodings, and accepts lone surrogates
        found = json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_once)
        if b"\\u" in body:
            json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate is not valid text
    except RecursionError:
        raise Refused(400, "bad_json", "the body is nested too deeply") from None
    except (ValueError, UnicodeError) as error:
        raise Refused(400, "bad_json", f"the body is not valid JSON: {_short(error)}") from None
    if body.count(b"[") + body.count(b"{") > DEPTH:
        _check_depth(found)
    if not isinstance(found, dict):
        raise Refused(422, "invalid", f"the body must be a JSON object, got {_kind(found)}")
    return found


def read_lists(body: Mapping, ids: Any, limits: Limits) -> tuple[list | None, dict]:
    """The users of a request for lists, and the options for `recommend`.

    Args:
        body: of `POST /v1/recommend`.
        ids: a function from `'user'` or `'item'` and a JSON value to the id.
        limits: of numbers.

    Returns:
        The users, or None for a history, and the options, then with `history`.
    """
    _only(body, _LISTS)
    users, history = body.get("users"), body.get("history")
    if (users is None) == (history is None):
        raise Refused(422, "invalid", "give either users, a list of ids, or history, the items of a new user")
    options: dict = {"k": _whole("k", body.get("k", 10), 1, limits.k)}
    for name in ("items", "exclude"):
        if body.get(name) is not None:
            options[name] = [ids("item", one) for one in _array(name, body[name], limits.items)]
    if options.get("items") == []:
        raise Refused(422, "invalid", "items is empty, so nothing can be recommended; leave it out for all items")
    options["filter_seen"] = _filter_seen(body.get("filter_seen", True))
    options["why"] = _why(body.get("why", False))
    if body.get("context") is not None:
        options["context"] = _context(body["context"])
    for name in _STEERING:
        options[name] = number(name, body.get(name, 0.0), *((0.0, 1.0) if name == "diversity" else (-10.0, 10.0)))
    if users is None:
        return None, options | {"history": read_history(history, ids, limits)}
    found = [ids("user", one) for one in _array("users", users, limits.users)]
    if not found:
        raise Refused(422, "invalid", "users is empty; give at least one id")
    if len(found) * options["k"] > 20 * limits.k:
        raise Refused(422, "invalid", f"{len(found)} users of k={options['k']} are more than {20 * limits.k} rows; "
                                      "ask in parts")  # fmt: skip
    return list(dict.fromkeys(found)), options


def read_history(history: Any, ids: Callable, limits: Limits) -> dict | list:
    """A list of ids, or a dict from ids to ratings.

    It is given as a list of ids, a list of `{"item": id, "rating": number}`, or an object from ids to ratings.
    """
    if isinstance(history, dict):
        history = [{"item": _Text(item), "rating": rating} for item, rating in history.items()]
    entries = _array("history", history, limits.history)
    if not entries:
        raise Refused(422, "invalid", "history is empty; give at least one item, or ask for users")
    rated = [isinstance(entry, dict) for entry in entries]
    if not any(rated):
        return [ids("item", one) for one in entries]
    if not all(rated):
        raise Refused(422, "invalid", "history mixes plain ids and items with ratings; give one or the other")
    found: dict = {}
    for entry in entries:
        _only(entry, ("item", "rating"))
        if "item" not in entry:
            raise Refused(422, "invalid", "an entry of history has no item")
        rating = entry.get("rating")
        item = ids("item", entry["item"])
        if item in found:
            raise Refused(422, "invalid", f"history has {item!r} twice; give one rating of it")
        found[item] = None if rating is None else number("rating", rating)
    return found


def read_pairs(body: Mapping, ids: Callable, limits: Limits) -> tuple[list, list, dict]:
    """Users and items `(n,)` of pairs, and the options for `predict`."""
    _only(body, ("pairs", "context", "interval"))
    entries = _array("pairs", body.get("pairs"), limits.users)
    if not entries:
        raise Refused(422, "invalid", "pairs is empty; give at least one")
    pairs = []
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {"user", "item"}:
            raise Refused(422, "invalid", f"a pair is an object of a user and an item, got {_short(entry)}")
        pairs.append((ids("user", entry["user"]), ids("item", entry["item"])))
    options = {} if body.get("context") is None else {"context": _context(body["context"])}
    if body.get("interval") is not None:
        options["interval"] = number("interval", body["interval"], 0.01, 0.99)
    return [user for user, _ in pairs], [item for _, item in pairs], options


def take_query(params: Any, takes: Mapping[str, Callable[[str], Any]]) -> dict:
    """The values of a query string, read by the functions of `takes`.

    Raises:
        Refused: a name is not among them, or occurs twice.
    """
    found: dict = {}
    for name, value in params.multi_items():
        if name not in takes:
            raise Refused(422, "invalid", f"the query has {_short(name)}; it takes {', '.join(takes) or 'nothing'}")
        if name in found:
            raise Refused(422, "invalid", f"the query has {name} twice")
        found[name] = takes[name](value)
    return found


def whole_text(name: str, low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers."""

    def read(text: str) -> int:
        if not _WHOLE.fullmatch(text):
            raise Refused(422, "invalid", f"{name} must be a whole number from {low} to {high}, got {_short(text)}")
        return _whole(name, int(text), low, high)

    return read


def number_text(name: str, low: float, high: float) -> Callable[[str], float]:
    """A parser of decimal numbers."""

    def read(text: str) -> float:
        if not re.fullmatch(r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{0,12})?", text, re.ASCII):
            raise Refused(422, "invalid", f"{name} must be a number from {low:g} to {high:g}, got {_short(text)}")
        return number(name, float(text), low, high)

    return read


def switch(name: str, **more: Any) -> Callable[[str], Any]:
    """A parser of `true` and `false`, and of other given words."""
    values = {"true": True, "false": False, **more}

    def read(text: str) -> Any:
        if text not in values:
            raise Refused(422, "invalid", f"{name} must be one of {', '.join(values)}, got {_short(text)}")
        return values[text]

    return read


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number in a range."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused(422, "invalid", f"{name} must be a number, got {_kind(value)}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not (math.isfinite(found) and low <= found <= high):
        raise Refused(422, "invalid", f"{name} must be a number from {low:g} to {high:g}, got {_short(value)}")
    return found


class _Text(str):
    """An id that is a key of a JSON object, and is written there as in a path."""


def is_name(value: Any) -> bool:
    """Whether an id comes from a place that allows only texts."""
    return isinstance(value, _Text)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Refused(422, "invalid", f"{name} must be a whole number from {low} to {high}, got {_short(value)}")
    return value


def _array(name: str, value: Any, most: int) -> list:
    if not isinstance(value, list):
        raise Refused(422, "invalid", f"{name} must be a list, got {_kind(value)}")
    if len(value) > most:
        raise Refused(422, "invalid", f"{name} has {len(value):,} entries; at most {most:,} are taken")
    return value


def _only(body: Mapping, names: tuple[str, ...]) -> None:
    if odd := [name for name in body if name not in names]:
        raise Refused(422, "invalid", f"{_short(odd[0])} is unknown; known are {', '.join(names)}")


def _filter_seen(value: Any) -> bool | str:
    if value is True or value is False or value == "train":
        return value
    raise Refused(422, "invalid", f"filter_seen must be true, false or 'train', got {_short(value)}")


def _why(value: Any) -> bool | int:
    return value if isinstance(value, bool) else _whole("why", value, 1, 10)


def _context(value: Any) -> dict:
    if not isinstance(value, dict) or not all(isinstance(one, (str, int, float)) for one in value.values()):
        raise Refused(422, "invalid", "context must be an object from columns to texts or numbers")
    if odd := [name for name, one in value.items() if isinstance(one, int) and abs(one) >= 2**63]:
        raise Refused(422, "invalid", f"context has a number in {_short(odd[0])} that is too large")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _check_depth(found: Any) -> None:
    level = [found]
    for _ in range(DEPTH):
        level = [one for part in level if isinstance(part, (dict, list))
                 for one in (part.values() if isinstance(part, dict) else part)]  # fmt: skip
    if any(isinstance(part, (dict, list)) for part in level):
        raise Refused(400, "bad_json", f"the body is nested too deeply; {DEPTH} levels are taken")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _short(value: Any, most: int = 80) -> str:
    """A value for a message: short and on one line."""
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of many digits"
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
