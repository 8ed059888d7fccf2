"""The moment of a query: the caller's context, and queries at that moment."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pandas as pd
from torch import Tensor

from collabkit.data.checks import shown
from collabkit.data.dataset import Dataset
from collabkit.data.interactions import encode_times
from collabkit.data.query import Query
from collabkit.models.base import Model

__all__ = ["at_moment", "in_turn", "moment_of"]


def moment_of(context, n: int, model: Model, data: Dataset) -> dict:
    """The parts of a query for one moment or `n` moments given by a caller; empty without context."""
    if context is None or (isinstance(context, Mapping) and not context):
        return {}
    needs, timed = model.needs, data.columns.time
    names = [*(data.columns.context if "context" in needs else ()), *([timed] if "time" in needs else ())]
    if not isinstance(context, (Mapping, pd.DataFrame)):
        raise TypeError(f"context= must be a dict from columns to values, or a DataFrame, got {shown(context)}")
    is_table = isinstance(context, pd.DataFrame)
    fits = names and (not set(names).isdisjoint(context) if is_table else set(context) <= set(names))
    if not fits:
        odd = sorted(map(str, set(context) - set(names)))
        raise ValueError(f"context= names {odd}; the model knows {list(names)}")
    if is_table:
        table = context.reset_index(drop=True)
    else:
        lists = {name: v if pd.api.types.is_list_like(v) else [v] for name, v in context.items()}
        longest = max(map(len, lists.values()), default=1)
        table = pd.DataFrame({name: list(v) * (longest if len(v) == 1 else 1) for name, v in lists.items()})
    if len(table) not in (1, n):
        raise ValueError(f"context= has {len(table):,} rows; give one, or one for each of the {n:,} users")
    found = {"context": data.train.contexts.encode(table, "context=")} if "context" in needs else {}
    if "time" in needs and timed in table:
        found["time"] = encode_times(table[timed], data.columns.ticks)
    return found


def at_moment(ask: Callable, moment: dict) -> Callable[[Tensor], Tensor | Query]:
    """`ask` at one moment, or at one per query; unchanged without a moment."""
    if not moment:
        return ask

    def at(users: Tensor) -> Query:
        each = lambda value: value.expand(len(users), *value.shape[1:])  # noqa: E731
        parts = {
            k: {n: each(v) for n, v in part.items()} if k == "context" else each(part) for k, part in moment.items()
        }
        return replace(ask(users), **parts)

    return at


def in_turn(query: Query) -> Callable[[Tensor], Query]:
    """A function from consecutive blocks of positions to the parts of a query at them."""
    return lambda at: query[int(at[0]) : int(at[-1]) + 1] if len(at) else query[:0]
