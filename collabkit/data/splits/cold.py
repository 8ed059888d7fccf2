"""Splits that hold out whole items or users, to evaluate predictions for new ones."""

import numpy as np
import torch

from collabkit.data.checks import check_seed, proper_share
from collabkit.data.splits.splitter import Splitter
from collabkit.data.tables import id_codes
from collabkit.data.vocab import Vocab

__all__ = ["cold_items", "cold_users"]


def cold_items(frac: float = 0.1, *, seed: int | None = None, min_rating: float | None = None) -> Splitter:
    """Hold out a random share `frac` of the items entirely: all their rows are in the validation part.

    `max(1, round(frac * n_items))` items are drawn from the sorted ids, so the same seed holds out the same items
    regardless of the order of the rows. Without a seed, torch's global generator is used.

    Args:
        frac: share of the items, strictly between 0 and 1.
        seed: seed of the draw.
        min_rating: validation rows rated below it are dropped (and counted).

    Raises:
        ValueError: `frac` is out of range; a part would be empty.

    Example:
        >>> import pandas as pd
        >>> df = pd.DataFrame({'user': [1, 2, 1, 2, 3], 'item': ['a', 'a', 'b', 'b', 'a']})
        >>> cold_items(0.5, seed=0)(df)
        Split: 2 train and 3 valid rows by cold_items(frac=0.5, seed=0)
          1 of 2 items are held out, with 3 of 5 rows
          1 valid rows belong to 1 users left without a training row, so they are cold too
    """
    return _held_out("item", frac, seed, min_rating)


def cold_users(frac: float = 0.1, *, seed: int | None = None, min_rating: float | None = None) -> Splitter:
    """Hold out a random share `frac` of the users entirely: all their rows are in the validation part.

    Arguments, draw and errors as in `cold_items`.

    Example:
        >>> import pandas as pd
        >>> df = pd.DataFrame({'user': [1, 2, 1, 2, 3], 'item': ['a', 'a', 'b', 'b', 'a']})
        >>> cold_users(0.3, seed=0)(df).notes
        ('1 of 3 users are held out, with 1 of 5 rows',)
    """
    return _held_out("user", frac, seed, min_rating)


def _held_out(side: str, frac: float, seed: int | None, min_rating: float | None) -> Splitter:
    frac = proper_share("frac", frac)
    other = "user" if side == "item" else "item"

    def rows(df, columns):
        generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
        name = getattr(columns, side)
        vocab = Vocab.from_values(df[name], name)  # sorted ids, the same whatever the order of the rows
        n = len(vocab) - 1
        cold = np.zeros(n + 1, dtype=bool)
        cold[1 + torch.randperm(n, generator=generator)[: max(1, round(frac * n))].numpy()] = True
        out = cold[vocab.encode(df[name])]
        notes = [f"{cold.sum():,} of {n:,} {side}s are held out, with {out.sum():,} of {len(df):,} rows"]
        codes = id_codes(df, getattr(columns, other))
        left = np.bincount(codes[~out], minlength=codes.max() + 1) == 0  # whose rows were all of held-out ids
        if left.any():
            notes.append(f"{left[codes].sum():,} valid rows belong to {left.sum():,} {other}s left without a training "
                         "row, so they are cold too")  # fmt: skip
        return np.flatnonzero(~out), np.flatnonzero(out), notes

    return Splitter(f"cold_{side}s(frac={frac:g}, seed={seed})", rows, min_rating=min_rating)
