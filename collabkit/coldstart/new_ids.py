"""New users and items in a trained model without training: by their features, or by their events."""

from collections.abc import Callable
from contextlib import contextmanager

import pandas as pd
import torch
from torch import Tensor

from collabkit.coldstart.fold_in import FoldIn
from collabkit.coldstart.fold_in.ratings import histories_of
from collabkit.coldstart.histories import read_histories
from collabkit.data.checks import no_table
from collabkit.data.dataset import Dataset
from collabkit.data.features.sources import check_columns, refuse_repeated
from collabkit.data.vocab import Vocab
from collabkit.models.base import Model

__all__ = ["add_ids", "fold_in_users", "refold", "takes_ratings"]


def add_ids(model: Model, data: Dataset, df: pd.DataFrame, name: str) -> Dataset:
    """Add new users or items by their features alone.

    Args:
        model: grows in place, or stays as it was where an error is raised.
        data: its data.
        df: one row per id: the id column and the columns of the model's features.
        name: the side, `'user'` or `'item'`.

    Returns:
        The data with the new ids.

    Raises:
        TypeError: the model has no features of that side.
        KeyError, ValueError: as in `Recommender.add_items`.
    """
    side, vocab = model.side(name), getattr(data, f"{name}s")
    if side.features is None:
        other = ", or fold_in(ratings) them" if name == "user" else ""
        why = f"the model has no {name} features, so nothing is known about a new {name}"
        raise TypeError(f"{why}: train with {name}s=features{other}")
    fields = side.features.features.fields
    columns = [vocab.name, *(column for field in fields for column in field.columns or (field.name,))]
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"new {name}s need a DataFrame with the columns {columns}, {no_table(df)}")
    check_columns(df, columns, f"the table of new {name}s")
    refuse_repeated(df[vocab.name])
    with _undone_on_error(model):
        return _extended(model, data, vocab.extended(df[vocab.name]), name, df)


def fold_in_users(
    model: Model, data: Dataset, ratings: pd.DataFrame, users: pd.DataFrame | None, solver: Callable[[Dataset], FoldIn]
) -> Dataset:
    """Add new users by what they have rated or clicked, without changing the items; see `Recommender.fold_in`.

    Args:
        model, data: as in `add_ids`.
        ratings, users: rows of the new users; their features, if any are given.
        solver: gives the `FoldIn` for the grown data.

    Returns:
        The data with the users and their rows.
    """
    if not isinstance(ratings, pd.DataFrame):
        raise TypeError(f"fold_in needs a DataFrame with columns {data.columns.present}, {no_table(ratings)}")
    if not model.user_side.can_write and "history" not in model.needs:
        raise TypeError(f"{type(model).__name__} cannot fold users in: its users are computed from the training data")
    rated, ordered = takes_ratings(model, data), model.ordered
    new = read_histories(ratings, data, rated=rated, y_range=model.y_range, ordered=ordered, named=True)
    idx = data.users.encode(new.ids)
    trained = (data.train.counts("user")[idx] > 0).numpy() & (idx > 0)
    if trained.any():
        who = f"{trained.sum():,} user(s) have training rows, e.g. {new.ids[trained].tolist()[0]!r}"
        raise ValueError(f"{who}: fold_in is for users without; leave them out")
    if users is not None and data.users.name in getattr(users, "columns", ()):
        others = users[data.users.name][~users[data.users.name].isin(new.ids)]
        if len(others):
            who = f"{len(others):,} of {len(users):,} rows of users= belong to users without a known rating"
            raise ValueError(f"{who}, e.g. {others.tolist()[0]!r}; add_users takes such users")
    with _undone_on_error(model):
        if users is not None:
            data = add_ids(model, data, users, "user")
        if len(unknown := new.ids[data.users.encode(new.ids) == 0]):
            data = _extended(model, data, data.users.extended(unknown), "user", None)
        events = new.interactions(data.train, torch.from_numpy(data.users.encode(new.ids)))
        data = data.with_folded(events)
        refold(model, data, solver, events.user_idx.unique())
    return data


def refold(model: Model, data: Dataset, solver: Callable[[Dataset], FoldIn], chosen: Tensor | None = None) -> None:
    """Solve for the rows of the folded-in users at `chosen` `(m,)` (None: all) again, e.g. after more training."""
    side = model.user_side
    if data.folded is None or not side.can_write:
        return
    at = (data.folded.counts("user") > 0).nonzero().squeeze(1) if chosen is None else chosen
    if "history" in model.needs:  # which describes them: apart from it they are average users
        side.write(at, [part[0] for part in side.read(torch.zeros(1, dtype=torch.int64))])
    else:
        side.write(at, solver(data).rows(histories_of(data.folded, at)[0], at))


def takes_ratings(model: Model, data: Dataset) -> bool:
    """Whether a history for the model has ratings: it does for rated data, unless the model needs only the items."""
    return data.rated and "history" not in model.needs


def _extended(model: Model, data: Dataset, vocab: Vocab, name: str, df: pd.DataFrame | None) -> Dataset:
    """Add room for the new ids at the end of `vocab` to the model and its data; `df` has their features, if any."""
    side = model.side(name)
    features = None if side.features is None else side.features.features.extended(df, vocab)
    if side.can_write or features is not None:
        side.grow(vocab, features)
    side.vocab = vocab
    return data.with_ids(name, vocab, features)


@contextmanager
def _undone_on_error(model: Model):
    """Within it the model may grow; where an error leaves it, the model is as it was."""
    states = [(side, side.state()) for side in model.sides]
    try:
        yield
    except BaseException:
        for side, state in states:
            side.put_back(state)
        raise
