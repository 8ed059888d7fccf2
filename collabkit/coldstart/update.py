"""`update`: adds new events of known and new users and items to a trained model without training it again.

The rows concerned are solved for again, the others stay: see `Recommender.update` for what this means for each kind of
model, and docs/decisions/0019-keep-learning.md for why.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.coldstart.fold_in import FoldIn
from collabkit.coldstart.fold_in.ratings import histories_of
from collabkit.coldstart.new_ids import _undone_on_error
from collabkit.data.checks import no_table
from collabkit.data.counts import read_counts
from collabkit.data.dataset import Dataset, joined
from collabkit.data.features.sources import check_columns, refuse_repeated
from collabkit.data.interactions import Interactions
from collabkit.data.notices import say
from collabkit.data.vocab import Vocab, check_ids
from collabkit.models.base import Model
from collabkit.models.sharded import refuse_shards

__all__ = ["Update", "update"]


@dataclass(frozen=True, eq=False)
class Update:
    """What an update did.

    Args:
        data: with the new ids and rows.
        users: `(m,)` the users who have new rows, and `items` `(n,)` the new items that have any.
        untrained: `(k,)` of these items, whose rows are those of an item with little data.
    """

    data: Dataset
    users: Tensor
    items: Tensor
    untrained: Tensor


def update(
    model: Model, data: Dataset, events: pd.DataFrame, users: pd.DataFrame | None = None,
    items: pd.DataFrame | None = None, solver: Callable[[Dataset], FoldIn] | None = None,
) -> Update:  # fmt: skip
    """Add new events; arguments and errors as in `Recommender.update`.

    Args:
        model: changes in place, or stays as it was where an error is raised.
        data: its data.
        events, users, items: the caller's tables.
        solver: gives the `FoldIn` for a dataset; default a new one.
    """
    _check(model, data, events)
    none = torch.zeros(0, dtype=torch.int64)
    with _undone_on_error(model):
        grown = data
        for name, table in (("user", users), ("item", items)):
            grown = _with_new_ids(model, grown, events, name, table)
        new, grown = _new_rows(model, grown, events)
        if len(new) == 0 and grown.users is data.users and grown.items is data.items:
            return Update(data, none, none, none)
        before, grown = grown, _joined(grown, new)
        changed, fresh = new.user_idx.unique(), new.item_idx.unique()
        counts = data.train.counts("item")
        fresh = fresh[(fresh >= len(counts)) | (counts[fresh.clamp(max=len(counts) - 1)] == 0)]
        untrained = _solve(model, before, grown, changed, fresh, solver or (lambda data: FoldIn(model, data)))
    return Update(grown, changed, fresh, untrained)


def _check(model: Model, data: Dataset, events) -> None:
    """Raise unless the model can be updated and the table has its columns and rows."""
    name = type(model).__name__
    refuse_shards(model, "an update")
    if model.joined:
        raise TypeError(f"{name} trains nothing: update each of its models, and join them again")
    if not (model.by_fit or "history" in model.needs or (model.user_side.can_write and model.item_side.can_write)):
        raise TypeError(f"{name} cannot be updated: its rows are computed from all training data; train it anew")
    if not isinstance(events, pd.DataFrame):
        what = f"a DataFrame with columns {data.columns.present}, one row per event"
        raise TypeError(f"update needs {what}; {no_table(events)}")
    data.columns.check(events, fixed=True)


def _with_new_ids(model: Model, data: Dataset, events: pd.DataFrame, name: str, table) -> Dataset:
    """The data, and the model's side, with the ids that the events (or a table of features) name for the first time."""
    vocab, side = getattr(data, f"{name}s"), model.side(name)
    features = getattr(data.features, f"{name}s") if side.features is None else side.features.features
    if table is not None:
        if features is None:
            raise TypeError(f"{name}s= has {name} features, but the model was made without: leave it out")
        check_columns(table, [vocab.name], f"the table {name}s=")
        refuse_repeated(table[vocab.name])
        known = vocab.encode(table[vocab.name]) > 0
        if known.any():
            say(f"{known.sum():,} of {len(known):,} rows of {name}s= have ids that are already known: their features "
                "do not change")  # fmt: skip
            table = table[~known]
    fresh = _unknown(vocab, events[vocab.name])
    if table is not None and len(table):
        fresh = fresh.append(_unknown(vocab, table[vocab.name])).unique()
    if len(fresh) == 0:
        return data
    if not (side.can_write or side.features is not None or model.by_fit or side.n is None):
        raise TypeError(f"{type(model).__name__} cannot take in new {name}s: their rows are computed; train it anew")
    vocab = vocab.extended(fresh)
    table = None if table is None or len(table) == 0 else table
    features = None if features is None else features.extended(table, vocab)
    if side.can_write or side.features is not None:
        first, known = side.n, None if side.features is None else features
        side.grow(vocab, known)
        if side.can_write:  # ids without any data are treated as unknown ones
            new = torch.arange(first, side.n)
            new = new if known is None else new[~known.given[new]]
            side.write(new, [part[0] for part in side.read(torch.zeros(1, dtype=torch.int64))])
    side.vocab = vocab
    return data.with_ids(name, vocab, features)


def _unknown(vocab: Vocab, ids: pd.Series) -> pd.Index:
    """The ids that are not in a vocabulary, each once, in the order of their first appearance."""
    found = check_ids(ids, vocab.name)
    return found[vocab.encode(found) == 0].unique()


def _new_rows(model: Model, data: Dataset, events: pd.DataFrame) -> tuple[Interactions, Dataset]:
    """The rows of the table that are new, and the data without the known ratings that they replace."""
    rows = data.train.encode(events)
    if model.y_range is not None and rows.rating is not None:
        low, high = model.y_range
        if outside := int(((rows.rating < low) | (rows.rating > high)).sum()):
            raise ValueError(f"{outside:,} rating(s) of the new events lie outside y_range={tuple(model.y_range)}")
    n, kept = len(rows), rows
    if rows.rating is not None:
        kept, data, replaced = _newest_ratings(rows, data)
        if replaced:
            say(f"{replaced:,} known ratings are replaced by newer ones of the same user and item")
    elif data.train.confidence is not None:
        return _added_counts(rows, events, data)
    elif model.ordered or data.train.n_duplicates():  # repeats are events of their own
        if rows.time is not None:
            parts = [_timed_keys(part) for part in data.parts[:2] if part is not None]
            kept = rows.take(~np.isin(_timed_keys(rows), np.concatenate(parts)))
    else:
        order = np.arange(n) if rows.time is None else np.argsort(rows.time.numpy(), kind="stable")
        first = order[~pd.Series(rows.pair_keys().numpy()[order]).duplicated().to_numpy()]
        kept = rows.take(np.sort(first))
        kept = kept.take(~data.seen.find(kept.user_idx, kept.item_idx)[1])
    if known := n - len(kept):
        say(f"{known:,} of {n:,} rows are already known, or repeat another row, and are left out")
    return replace(kept, weight=None), data


def _newest_ratings(rows: Interactions, data: Dataset) -> tuple[Interactions, Dataset, int]:
    """Of each pair the last row, unless a known rating is newer or the same; the data without those that are older."""
    order = np.arange(len(rows)) if rows.time is None else np.argsort(rows.time.numpy(), kind="stable")
    last = order[~pd.Series(rows.pair_keys().numpy()[order]).duplicated(keep="last").to_numpy()]
    rows = rows.take(last[np.argsort(rows.pair_keys().numpy()[last])])
    keys, tells = rows.pair_keys(), torch.ones(len(rows), dtype=torch.bool)
    for part in (part for part in data.parts if part is not None):
        at = torch.searchsorted(keys, part.pair_keys()).clamp(max=len(keys) - 1)
        known = (keys[at] == part.pair_keys()) & (part.rating == rows.rating[at])
        if part.time is not None and rows.time is not None:
            known &= part.time == rows.time[at]
            known |= (keys[at] == part.pair_keys()) & (part.time > rows.time[at])
        tells[at[known]] = False
    rows = rows.take(tells)
    return rows, *_without(data, rows.pair_keys())


def _added_counts(rows: Interactions, events: pd.DataFrame, data: Dataset) -> tuple[Interactions, Dataset]:
    """One row per pair with its total count; the data without the known rows, whose counts are included."""
    name = data.columns.count
    counts = torch.from_numpy(read_counts(events, name) if name in events else np.ones(len(events)))
    keys, place = rows.pair_keys().unique(return_inverse=True)
    total = torch.zeros(len(keys), dtype=torch.float64).index_add_(0, place, counts)
    last = torch.zeros(len(keys), dtype=torch.int64).scatter_reduce_(0, place, torch.arange(len(rows)), "amax")
    for part in (part for part in data.parts if part is not None):
        at = torch.searchsorted(keys, part.pair_keys()).clamp(max=len(keys) - 1)
        again = keys[at] == part.pair_keys()
        total.index_add_(0, at[again], part.count[again].double())
    if gone := int((total <= 0).sum()):
        say(f"the counts of {gone:,} of {len(keys):,} pairs add up to 0 or less; the pairs are left out")
    there = total > 0
    return replace(rows.take(last[there]), count=total[there].float(), weight=None), _without(data, keys)[0]


def _without(data: Dataset, pairs: Tensor) -> tuple[Dataset, int]:
    """The data without the rows of the pairs with these keys, and how many they were."""
    gone = [None if part is None else torch.isin(part.pair_keys(), pairs) for part in data.parts]
    train, *others = (None if out is None else part.take(~out) for part, out in zip(data.parts, gone, strict=True))
    valid, folded = (part if part is not None and len(part) else None for part in others)
    return replace(data, train=train, valid=valid, folded=folded), sum(
        int(out.sum()) for out in gone if out is not None
    )


def _timed_keys(rows: Interactions) -> np.ndarray:
    """One key a row of its pair and time."""
    keys = np.empty(len(rows), dtype=[("pair", np.int64), ("time", np.int64)])
    keys["pair"], keys["time"] = rows.pair_keys().numpy(), rows.time.numpy()
    return keys


def _joined(data: Dataset, new: Interactions) -> Dataset:
    """The data with the new rows: those of folded-in users among the folded-in rows, all others in training."""
    if data.folded is None or len(new) == 0:
        return data if len(new) == 0 else replace(data, train=joined(data.train, new))
    folded = (data.folded.counts("user") > 0)[new.user_idx]
    if bool(folded.any()):
        data = data.with_folded(replace(new.take(folded), time=None))
    return replace(data, train=joined(data.train, new.take(~folded))) if not bool(folded.all()) else data


def _solve(model: Model, before: Dataset, data: Dataset, users: Tensor, items: Tensor, solver: Callable) -> Tensor:
    """Solve for the rows concerned; returns the new items `(k,)` whose rows could not be solved for."""
    if model.by_fit:
        fresh = type(model).for_data(data, **model.config()).fit(data)
        model.restore(fresh.state_dict())
        model.data = data
        return items[:0]
    if model.als is not None:
        _solve_als(model, data, users, items)
        return items[:0]
    if "history" not in model.needs:
        whole = data.trained.take(~torch.isin(data.trained.item_idx, items))  # whose rows say nothing yet
        users = users[whole.counts("user")[users] > 0]
        if len(users):
            model.user_side.write(users, solver(before).rows(histories_of(whole, users)[0], users))
    return items


@torch.no_grad()
def _solve_als(model: Model, data: Dataset, users: Tensor, items: Tensor) -> None:
    """The exact rows of users given the items, of new items given the users, and of the users again."""
    als = import_module("collabkit.train.als")  # it needs nothing of training but its folder
    tables = [side.tables[0].weight for side in model.sides]
    P, Q = (table.detach().clone() for table in tables)  # the solver clears rows without events, which are answers here
    options = {**model.als, "n_cg": P.shape[1], "disliked": data.disliked}
    solver = als.ALSSolver(data.train, device=P.device, **options)
    trained = data.train.counts("user")[users] > 0
    at = users[trained].to(P.device)
    if len(items):
        exact, solver.n_cg = solver.n_cg, 3  # a start is enough for what follows
        solver.solve_users(P, Q, rows=at)
        solver.solve_items(P, Q, rows=items.to(P.device))
        solver.solve_users(P, Q, rows=at)
        solver.n_cg = exact
        solver.solve_items(P, Q, rows=items.to(P.device))
        tables[1][items.to(P.device)] = Q[items.to(P.device)]
    solver.solve_users(P, Q, rows=at)
    tables[0][at] = P[at]
