"""Weights of the rows in the training loss: from a keyword or a column, checked and scaled to mean 1."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.data.interactions import Interactions, not_numbers
from collabkit.data.notices import MissingError, near_match

__all__ = ["INVERSE", "check_weight_column", "scale_weights", "weighted", "only_training_weights"]

INVERSE = ("inverse_user", "inverse_item")  # weights that need no column


def check_weight_column(df: pd.DataFrame, weights) -> None:
    """Raise unless `weights` is None, one of `INVERSE`, or a column of finite numbers of at least 0."""
    if weights is None:
        return
    words = f"{INVERSE[0]!r}, {INVERSE[1]!r}"
    if not isinstance(weights, (str, int, np.integer)):
        raise TypeError(f"weights must be {words} or the name of a column, got {type(weights).__name__}")
    if weights in INVERSE:
        return
    found = int((df.columns == weights).sum())
    if found == 0:
        there = list(df.columns)
        raise MissingError(f"weights={weights!r} is neither {words} nor a column"
                           f"{near_match(weights, [*INVERSE, *there])}; the table has {there}")  # fmt: skip
    if found > 1:
        raise ValueError(f"column {weights!r} occurs more than once in the table; rename or drop the others")
    if df[weights].dtype.kind not in "iuf":
        raise not_numbers("weights", df[weights])
    check_weights(df[weights].to_numpy(np.float64, na_value=np.nan), f"column {weights!r}")


def weighted(train: Interactions, weights, df: pd.DataFrame, rows) -> Interactions:
    """`train` with weights; its rows are those at the positions `rows` of the caller's table `df`."""
    if weights is None:
        return train  # its confidences, if it has any
    if weights in INVERSE:
        side = weights.removeprefix("inverse_")
        values = 1 / train.counts(side)[train.indices(side)].double()
    else:
        values = df[weights].to_numpy(np.float64, na_value=np.nan)[rows]
    if train.confidences is not None:
        values = np.asarray(values) * train.confidences.numpy()
    return replace(train, weight=scale_weights(values, f"column {weights!r}"))


def only_training_weights(train: Interactions, valid: Interactions | None) -> tuple[Interactions, Interactions | None]:
    """Both parts, with weights of mean 1 in `train`, if it has any, and none in `valid`."""
    if train.weight is not None:
        if train.weight.shape != (len(train),):
            raise ValueError(f"train.weight must be one per row, ({len(train)},), got {tuple(train.weight.shape)}")
        train = replace(train, weight=scale_weights(train.weight, "train.weight"))
    return train, None if valid is None else replace(valid, weight=None)


def check_weights(values, name: str) -> np.ndarray:
    """Weights `(n,)` float64: finite and not negative, or a `ValueError` that counts and names the rows at fault."""
    values = np.asarray(values, dtype=np.float64)
    for mask, what in ((np.isnan(values), "missing (NaN)"), (np.isinf(values), "infinite"), (values < 0, "negative")):
        if mask.any():
            rows = np.flatnonzero(mask)
            shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
            raise ValueError(f"{name} has {len(rows):,} {what} weight(s) in {len(values):,} rows, at row {shown}; "
                             "weights must be numbers of at least 0: drop or correct them first")  # fmt: skip
    return values


def scale_weights(values, name: str) -> Tensor:
    """Weights `(n,)` float32 scaled to mean 1, so that learning rates keep their meaning; not all may be 0."""
    values = check_weights(values, name)
    if not values.any():
        raise ValueError(f"{name} has a weight of 0 in all {len(values):,} training rows: nothing would be learned")
    values = values / values.max()  # the sum of huge ones would be infinite
    return torch.from_numpy((values / values.mean()).astype(np.float32))
