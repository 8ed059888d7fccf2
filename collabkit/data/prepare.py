"""`prepare`: from the caller's tables to a `Dataset`."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from collabkit.data.checks import shown
from collabkit.data.counts import Counted
from collabkit.data.dataset import Dataset
from collabkit.data.features import Context, SideFeatures
from collabkit.data.feedback import Implicit, check_threshold, disliked_events, positive_rows, rated_rows
from collabkit.data.interactions import SIDES, Columns, Interactions, comparable_times
from collabkit.data.notices import say
from collabkit.data.splits import Split, Splitter
from collabkit.data.splits.rows import before
from collabkit.data.tables import name_columns
from collabkit.data.unique import among, repeated, sorted_unique
from collabkit.data.vocab import Vocab
from collabkit.data.weights import check_weight_column, weighted

__all__ = ["prepare", "table_columns", "say_duplicates", "say_order", "say_unstorable"]

COLD = 0.3  # share of the validation rows of new users and items that is worth a note
QUANTITIES = {"quantity", "qty", "count", "units", "amount", "plays"}


def prepare(
    table: pd.DataFrame, columns: Columns, *, splitter, feedback: Implicit | None = None, weights: str | None = None,
    users: pd.DataFrame | None = None, items: pd.DataFrame | None = None, user_features=None, item_features=None,
    context_features=(),
) -> Dataset:  # fmt: skip
    """Check the columns, encode them once, keep the positives, split, weight, and add the side features.

    The vocabularies cover the rows that are used; a validation part without rows is None. Arguments and errors as in
    `CollabDataLoaders.from_df`; `feedback` is None for ratings.
    """
    check_weight_column(table, weights)
    if feedback is not None:
        check_threshold(table, columns, feedback.threshold, feedback.counts is not None)
    given, n_first, is_split = table, len(table), isinstance(splitter, pd.DataFrame)
    if is_split:
        columns.check(splitter)
        table = pd.concat([table[columns.present], splitter[columns.present]], ignore_index=True)
    # before the split, so that errors name the caller's rows; the training part determines the context
    rated = events = Interactions.from_df(table, replace(columns, context=()))
    rows, counted, since = np.arange(len(table)), None, None
    if feedback is not None:
        rows, counted = _positives(table, events, feedback, rows >= n_first if is_split else None)
        if feedback.history is not None:
            say_order(events.take(rows))
        events = replace(events, rating=None, columns=replace(events.columns, rating=None))
    if not is_split:
        used = table
        if len(rows) < len(table):  # without a copy of the table for a splitter that only counts
            used = pd.DataFrame(index=range(len(rows))) if getattr(splitter, "blind", False) else table.iloc[rows]
        split = split_rows(used, columns, splitter)
        first, second = split if len(rows) == len(table) else (rows[part] for part in split)
        if split.moment is not None:
            since = ~before(comparable_times(table[splitter.time_name or columns.time]), split.moment)
        del used, split
    else:
        first, second = rows[rows < n_first], rows[rows >= n_first]
        for name, part in (("training", first), ("validation", second)):
            if len(part) == 0:
                raise ValueError(f"no row of the {name} table is left: none is a new positive")
    if counted is not None:
        least = feedback.threshold if rated.rating is None else None
        first, second, *sums = counted.split(first, second, least, since, by_table=is_split)
    del rows
    train, held_out = _only_used_ids(events.take(first), events.take(second))
    held_out = held_out if len(held_out) else None
    rated = rated if feedback is not None and feedback.dislikes is not None else None  # all rows: not kept for nothing
    del events
    if counted is not None:
        train, held_out = _with_counts(train, held_out, sums, feedback)
    _say_odd(table, train, held_out, feedback)
    train = weighted(train, weights, given, first)
    if columns.context:
        context = Context.fit(
            table.iloc[first], context_features if isinstance(context_features, Mapping) else columns.context
        )
        train, held_out = (
            part if part is None else part.with_context(context, table.iloc[rows])
            for part, rows in ((train, first), (held_out, second))
        )
    disliked = None
    if feedback is not None and feedback.dislikes is not None:
        disliked = disliked_events(rated, feedback.threshold, (first, second, since), train, n_first)
    features = SideFeatures.of(train, users, items, user_features, item_features)
    return Dataset(train, held_out, features=features, disliked=disliked)


def _say_odd(
    table: pd.DataFrame, train: Interactions, held_out: Interactions | None, feedback: Implicit | None
) -> None:
    """Warn of what is allowed and rarely meant: equal ratings, returns as events, a cold validation part."""
    if feedback is None and len(train) > 1 and bool((train.rating == train.rating[0]).all()):
        say(f"all ratings are {train.rating[0]:g}, so they do not tell items apart; for clicks or purchases pass "
            "feedback='implicit'")  # fmt: skip
    if feedback is not None and feedback.counts is None:
        for name in [name for name in table if str(name).lower() in QUANTITIES]:
            numbers = pd.api.types.is_numeric_dtype(table[name].dtype)
            if numbers and (returned := int((table[name] < 0).sum())):
                say(f"{returned:,} of {len(table):,} rows have a {name!r} below 0, but count as events; "
                    f"feedback=Implicit(counts={name!r}) subtracts them")  # fmt: skip
    if held_out is None:
        return
    cold = [train.counts(side)[held_out.indices(side)] == 0 for side in SIDES]
    n, on_purpose = int((cold[0] | cold[1]).sum()), any(bool(part.all()) for part in cold)
    if n > max(COLD * len(held_out), 20) and not on_purpose:
        say(f"{n:,} of {len(held_out):,} validation rows ({n / len(held_out):.0%}) have a user or an item without a "
            "training row, for which a model knows only averages or features; cold='drop' of the splitter leaves them "
            "out")  # fmt: skip


def _positives(
    table: pd.DataFrame, events: Interactions, feedback: Implicit, part: np.ndarray | None
) -> tuple[np.ndarray, Counted | None]:
    """The positions of the rows that are positives, and the counts of their pairs, if any."""
    if feedback.counts is None:
        return positive_rows(events, feedback.threshold, part, feedback.repeats), None
    counted = Counted.of(table, events, rated_rows(events, feedback.threshold), part)
    return counted.rows(feedback.threshold if events.rating is None else None), counted


def _with_counts(
    train: Interactions, valid: Interactions | None, sums: list[np.ndarray], feedback: Implicit
) -> tuple[Interactions, Interactions | None]:
    """Both parts with the counts of their pairs, and the confidence fitted to those of the first."""
    first, second = (torch.from_numpy(part.astype(np.float32)) for part in sums)
    train = train.with_counts(first, feedback.how)
    return train, None if valid is None else replace(valid, count=second, confidence=train.confidence)


def table_columns(df, user_name, item_name, rating_name, time_name, context, feedback: Implicit | None) -> Columns:
    """The columns of a table; those not named are guessed, see `guess.guess_columns`.

    The time column is guessed only if the model learns from the order of events.
    """
    wanted = {"rated": feedback is None, "timed": feedback is not None and feedback.history is not None}
    columns = name_columns(df, user_name, item_name, rating_name, time_name, context, **wanted)
    if feedback is None or feedback.counts in (None, "repeats"):
        return columns
    columns = replace(columns, count=feedback.counts)
    columns.check(df)
    return columns


def split_rows(df: pd.DataFrame, columns: Columns, splitter) -> Split:
    """The split by a splitter, or by a function of the table as in fastai; its notes are reported."""
    if not callable(splitter):
        raise TypeError(f"splitter must be one of collabkit.splits or a function of the table, got {shown(splitter)}")
    if getattr(splitter, "__module__", "").startswith("collabkit.data.splits") and not isinstance(splitter, Splitter):
        raise TypeError(f"splitter={splitter.__name__} makes a splitter: call it, splitter={splitter.__name__}()")
    if not isinstance(splitter, Splitter):  # fastai's form: a function of the table alone
        plain = splitter
        splitter = Splitter("the splitter", lambda df, _: (*plain(df), []))
    split = splitter(df, columns)
    for note in split.notes:
        say(f"{split.by}: {note}")
    return split


def say_order(events: Interactions) -> None:
    """Warn if only the table orders events: without times, or for events of one user at the same time."""
    if events.time is None:
        say("there is no time_name=, so the order of the table is taken as the order in time")
        return
    rows = events.by_user.values
    user, time = events.user_idx[rows].diff(), events.time[rows].diff()
    if tied := int(((user == 0) & (time == 0)).sum()):
        say(f"{tied:,} of {len(events):,} events have the time of their user's previous event; they keep the order of "
            "the table")  # fmt: skip


def say_unstorable(data: Dataset) -> None:
    """Warn about ids that no artefact can hold, before the training rather than after it."""
    for vocab in (data.users, data.items):
        if not vocab.storable:
            say(f"ids like {vocab[1]!r} (column {vocab.name!r}) can be trained on but not stored in an artefact; "
                f"convert them first, e.g. df[{vocab.name!r}].astype(str)")  # fmt: skip


def say_duplicates(train: Interactions, valid: Interactions | None) -> None:
    """Warn about repeated pairs, and those whose ratings differ, with their numbers."""
    parts = [part for part in (train, valid) if part is not None]
    pairs = np.concatenate([part.pair_keys().numpy() for part in parts])
    pairs.sort()
    n, surplus, several = len(pairs), int((pairs[1:] == pairs[:-1]).sum()), repeated(pairs)
    del pairs
    if surplus:
        conflicts = "" if train.rating is None else _conflicts(parts, several)
        say(f"{surplus:,} of {n:,} rows repeat a (user, item) pair; all are kept. filters.drop_duplicates keeps one of "
            f"each{conflicts}")  # fmt: skip


def _conflicts(parts: list[Interactions], several: np.ndarray) -> str:
    """How many of the pairs that repeat, `several` keys, have different ratings, in words."""
    pairs = np.concatenate([part.pair_keys().numpy() for part in parts])
    again = np.flatnonzero(among(pairs, several))
    pairs, ratings = pairs[again], torch.cat([part.rating for part in parts]).numpy()[again]
    order = np.lexsort((ratings, pairs))
    pairs, changes = pairs[order], np.diff(ratings[order]) != 0
    different = len(sorted_unique(pairs[1:][changes & (np.diff(pairs) == 0)]))
    if not different:
        return ""
    return f". {different:,} of the {len(several):,} pairs that repeat have different ratings"


def _only_used_ids(train: Interactions, valid: Interactions) -> tuple[Interactions, Interactions]:
    """Both parts with vocabularies of the ids that occur in them."""
    for side in ("user", "item"):
        used = (train.counts(side) + valid.counts(side))[1:] > 0
        if bool(used.all()):
            continue
        place = torch.cat([torch.zeros(1, dtype=torch.int64), used.cumsum(0) * used])
        new = Vocab(train.vocab(side).ids[used.numpy()], train.vocab(side).name)
        fewer = [{f"{side}_idx": place[part.indices(side)], f"{side}s": new} for part in (train, valid)]
        train, valid = replace(train, **fewer[0]), replace(valid, **fewer[1])
    return train, valid
