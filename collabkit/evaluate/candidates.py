"""Candidates of an evaluation: all unseen items, chosen ones, sampled ones, or a list for each user."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.data.checks import check_seed, whole
from collabkit.data.interactions import Columns, Interactions
from collabkit.data.notices import CollabWarning, say
from collabkit.data.runs import Runs
from collabkit.data.unique import sorted_unique
from collabkit.models.scorers import refuse_nan
from collabkit.retrieval.tilt import tilted

__all__ = ["SampledCandidates", "Lists", "known_pairs", "given_pairs", "given_items"]


@dataclass(frozen=True)
class SampledCandidates:
    """Rank each user's relevant items among `n` unseen items drawn uniformly without replacement.

    Unseen items are not in the user's training, validation or test rows. A user with fewer than `n` unseen items gets
    all of them, with a `CollabWarning`. Sampled metrics may order models differently from exact ones (Krichene and
    Rendle, "On sampled metrics for item recommendation", 2020), so each metric's name includes the sample size.

    Args:
        n: number of items to draw per user.
        seed: seed of the draw; the same users, seen items and seed give the same candidates for every model.

    Example:
        >>> learn.evaluate(candidates=SampledCandidates(99, seed=0))  # doctest: +SKIP
    """

    n: int = 99
    seed: int = 0

    def __post_init__(self):
        whole("n", self.n)
        check_seed(self.seed)

    label = property(lambda self: f"({self.n} negatives)", doc="What stands behind the metrics' names.")

    def draw(self, users: np.ndarray, seen: Runs) -> Runs:
        """Up to `n` items that are not in `seen` for each of the distinct `users` `(m,)`."""
        rng = np.random.default_rng(self.seed)
        left = seen.width - 1 - seen.lengths.numpy()[users]  # (m,) unseen items
        short = int((left < self.n).sum())
        if short:
            say(f"{short:,} of {len(users):,} users have under {self.n} unseen items and compete with all of them")
        many = left > 4 * self.n
        rows, numbers = _distinct_few(rng, np.flatnonzero(many), left, self.n)
        more_rows, more = _distinct_many(rng, np.flatnonzero(~many), left, self.n)
        owner = users[np.concatenate([rows, more_rows])]
        items = _nth_unseen(owner, np.concatenate([numbers, more]), seen)
        return Runs.pairs(owner, items, len(seen), seen.width)


def _distinct_few(rng, rows: np.ndarray, left: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """`n` distinct numbers in `[0, left)` for each of `rows`: draw, and redraw repeated ones.

    Keeping the first n distinct ones of independent draws is drawing without replacement.
    """
    width = int(left.max(initial=0)) + 1
    keys, short = np.zeros(0, dtype=np.int64), np.repeat(rows, n)
    while len(short):
        keys = sorted_unique(np.concatenate([keys, short * width + rng.integers(0, left[short])]))
        have = np.bincount(keys // width, minlength=len(left))[rows]
        short = np.repeat(rows, n - have)
    return keys // width, keys % width


def _distinct_many(rng, rows: np.ndarray, left: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to `n` distinct numbers in `[0, left)` for each of `rows`, where n is a large part of `left` (<= 4 n)."""
    if len(rows) == 0:
        return rows, rows
    picked, step = [], max(1, 2_000_000 // (4 * n))
    for start in range(0, len(rows), step):
        mine = left[rows[start : start + step]][:, None]
        order = np.argsort(np.where(np.arange(mine.max()) < mine, rng.random((len(mine), mine.max())), 2.0), axis=1)
        row, place = np.nonzero(np.arange(min(n, order.shape[1])) < mine)
        picked.append((rows[start + row], order[row, place]))
    return tuple(np.concatenate(column) for column in zip(*picked, strict=True))


def _nth_unseen(users: np.ndarray, numbers: np.ndarray, seen: Runs) -> np.ndarray:
    """Each user's unseen item number `numbers` `(m,)`, counted from 0.

    With the user's seen items s_0 < s_1 < ... (counted from 0) it is `r + #{j : s_j - j <= r}`. `s_j - j` never
    decreases, so with an offset per user all of them form one sorted array.
    """
    owner, start = seen.rows.numpy(), seen.start.numpy()
    keys = seen.keys - 1 - (np.arange(len(owner)) - start[owner])  # user * width + s_j - j, s_j counted from 0
    before = np.searchsorted(keys, users * seen.width + numbers, side="right") - start[users]
    return numbers + before + 1


def known_pairs(table: pd.DataFrame, data: Interactions) -> tuple[Runs, int]:
    """The pairs of a table with the user and item columns of `data`, and how many rows name ids unknown to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)  # it would say what an unknown id gets
        rows = data.encode(table, Columns(data.columns.user, data.columns.item))
    known = ((rows.user_idx > 0) & (rows.item_idx > 0)).numpy()
    return rows.take(known).pairs, int((~known).sum())


def given_pairs(table: pd.DataFrame, train: Interactions, relevant: Runs, hidden: Runs) -> tuple[Runs, Runs]:
    """The candidates in a table of user-item pairs, and the relevant pairs of the users who have any.

    Pairs with unknown ids and pairs seen in training (`hidden`) are left out, and users without given candidates are
    not evaluated (their relevant items would compete with nothing); all are counted in a `CollabWarning`.

    Raises:
        KeyError: the table lacks the user or item column.
        ValueError: nothing is left.
    """
    pairs, unknown = known_pairs(table, train)
    given = pairs.without(hidden)
    owner = relevant.rows.numpy()
    competes = given.without(relevant).lengths.numpy()[owner] > 0
    alone = len(sorted_unique(owner[~competes]))
    for n, what in (
        (unknown, f"of {len(table):,} candidate pairs name unknown ids and are left out"),
        (len(pairs.values) - len(given.values), "candidate pairs were seen in training or validation and are left out"),
        (alone, "users with relevant items have no other candidates given and are left out"),
    ):
        if n:
            say(f"{n:,} {what}")
    if not competes.any():
        raise ValueError(
            f"no candidate is left for any user with a relevant item: of {len(table):,} pairs given, "
            f"{len(table) - unknown:,} have known ids and {len(given.values):,} of these are unseen"
        )
    kept = relevant.where(competes)
    return given.union(kept), kept


def given_items(ids: Iterable, train: Interactions, relevant: Runs) -> tuple[Tensor, Runs]:
    """The indices `(c,)` of the items `ids`, ascending and each once, and the `relevant` pairs with them.

    The other relevant pairs are left out, counted in a `CollabWarning`.

    Raises:
        KeyError: an id is unknown.
        ValueError: fewer than two items, so there is nothing to rank; no relevant pair is left.
    """
    items = sorted_unique(train.items.encode(ids, unknown="raise"))
    if len(items) < 2:
        raise ValueError(f"candidates= must hold at least 2 different items to compete, got {len(items)}")
    among = np.isin(relevant.values.numpy(), items)
    if among.all():
        return torch.from_numpy(items), relevant
    out = (
        f"{(~among).sum():,} of {len(relevant.values):,} relevant pairs have an item that is none of the {len(items):,}"
    )
    if not among.any():
        raise ValueError(f"{out} candidates: nothing is left to be found")
    say(f"{out} candidates and are left out")
    return torch.from_numpy(items), relevant.where(among)


class Lists:
    """Each user has candidates of their own: the pairs `allowed`.

    Args:
        score: function of users `(b,)`, positions among them `(n,)` and items `(n,)` to their logits `(n,)`.
        allowed: the candidates.
        offsets: `(n_items,)` what is added to the scores, see `tilt.tilted`; None for nothing.
    """

    def __init__(self, score: Callable[[Tensor, Tensor, Tensor], Tensor], allowed: Runs, offsets: Tensor | None = None):
        self.score, self.allowed, self.offsets = score, allowed, offsets

    def check(self, items: Tensor) -> None:
        """Does nothing: `columns` detects missing items."""

    def logits(self, users: Tensor) -> Tensor:
        """Scores `(b, c)` of a block, c the longest list, -inf past the end of a shorter one."""
        mine = self.allowed.of(users)
        scores = self.score(users, mine.rows, mine.values)
        refuse_nan(scores)
        logits = scores.new_full((len(users), max(1, int(mine.lengths.max()))), -torch.inf)
        cells = mine.rows, torch.arange(len(mine.rows)) - mine.start[mine.rows]
        logits[cells] = scores
        if self.offsets is None:
            return logits
        offsets = torch.zeros(logits.shape)
        offsets[cells] = self.offsets[mine.values]
        return tilted(logits, offsets)

    def columns(self, users: Tensor, items: Tensor) -> Tensor:
        """The column `(n,)` of each (user, item) pair in its user's row of `logits`."""
        at, there = self.allowed.find(users, items)
        if not there.all():
            raise ValueError(f"{(~there).sum():,} of {len(there):,} items to rank are not candidates")
        return torch.from_numpy(at) - self.allowed.start[users]

    def items(self, users: Tensor, position: Tensor) -> Tensor:
        """The items at columns `position` `(b, k)` of a block; 0 past the end of a list."""
        at = self.allowed.start[users][:, None] + position
        items = self.allowed.values[at.clamp(max=len(self.allowed.values) - 1)]
        return torch.where(at < self.allowed.start[users + 1][:, None], items, 0)
