"""From the caller's tables to a training and a validation part: columns, split, and encoding by shared vocabularies."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import torch

from collabkit.filters import name_columns, positive_events
from collabkit.interactions import Columns, Interactions, say
from collabkit.splits import Split, Splitter

__all__ = ["is_implicit", "table_columns", "split_rows", "positive_parts", "encode_parts", "say_duplicates"]


def is_implicit(feedback: str, rating_threshold: float | None = None) -> bool:
    """Whether the feedback is implicit, or an error where it is neither, or has a threshold and no use for it."""
    if feedback not in ("explicit", "implicit"):
        raise ValueError(f"feedback must be 'explicit' or 'implicit', got {feedback!r}")
    if feedback == "explicit" and rating_threshold is not None:
        raise ValueError(f"rating_threshold={rating_threshold!r} is for feedback='implicit'")
    return feedback == "implicit"


def table_columns(df, user_name, item_name, rating_name, time_name, implicit: bool = False) -> Columns:
    """The columns of a table, by fastai's places where they are not named."""
    if rating_name is None and not implicit and isinstance(df, pd.DataFrame):
        if len(df.columns) < 3:
            raise KeyError(
                f"a table of ratings needs a user, an item and a rating column; it has {list(df.columns)}. For events "
                "without ratings pass feedback='implicit'"
            )
        rating_name = df.columns[2]
    return name_columns(df, user_name, item_name, rating_name, time_name)


def split_rows(df: pd.DataFrame, columns: Columns, splitter) -> Split:
    """The split that a splitter, or a function of the table alone as in fastai, makes; its notes are warned."""
    if not callable(splitter):
        raise TypeError(f"splitter must be one of collabkit.splits or a function of the table, got {splitter!r}")
    if getattr(splitter, "__module__", "").startswith("collabkit.splits") and not isinstance(splitter, Splitter):
        raise TypeError(f"splitter={splitter.__name__} makes a splitter: call it, splitter={splitter.__name__}()")
    if not isinstance(splitter, Splitter):  # fastai's form: a function of the table alone
        plain = splitter
        splitter = Splitter("the splitter", lambda df, _: (*plain(df), []))
    split = splitter(df, columns)
    for note in split.notes:
        say(f"{split.by}: {note}")
    return split


def encode_parts(train: pd.DataFrame, valid: pd.DataFrame, columns: Columns) -> tuple[Interactions, Interactions]:
    """Both parts, encoded with vocabularies that cover both."""
    data = Interactions.from_df(pd.concat([train, valid], ignore_index=True), columns)
    return data.take(range(len(train))), data.take(range(len(train), len(data)))


def positive_parts(
    train: pd.DataFrame, valid: pd.DataFrame, columns: Columns, rating_threshold: float | None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Index]:
    """The rows of two tables that are positives, each pair once and training before validation.

    Returns:
        Both tables, and the positions in `train` of its rows that stay.

    Raises:
        ValueError: nothing is left of one.
    """
    parts = [part.reset_index(drop=True) for part in (train, valid)]
    if columns.time is not None:  # of a repeated pair the first in time stays
        parts = [part.sort_values(columns.time, kind="stable") for part in parts]
    both = positive_events(pd.concat(parts, keys=[0, 1]), replace(columns, time=None), rating_threshold)
    parts = [both[both.index.get_level_values(0) == number].sort_index() for number in (0, 1)]
    for name, part in zip(("training", "validation"), parts, strict=True):
        if len(part) == 0:
            raise ValueError(f"no row of the {name} table is left: none is a positive that is new")
    return *parts, parts[0].index.get_level_values(1)


def say_duplicates(train: Interactions, valid: Interactions) -> None:
    """Warn of repeated pairs, counted."""
    pairs = torch.cat([part.pair_keys() for part in (train, valid)])
    repeated = len(pairs) - len(torch.unique(pairs))
    if repeated:
        say(
            f"{repeated:,} of {len(pairs):,} rows repeat a (user, item) pair; all are kept. "
            "filters.drop_duplicates keeps one of each"
        )
