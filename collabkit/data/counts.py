"""Counts of pairs: the rows of each (user, item) pair become one, with their total number or amount."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from collabkit.data.interactions import Interactions, not_numbers
from collabkit.data.notices import say
from collabkit.data.tables import say_left_out

__all__ = ["Counted", "read_counts"]


def read_counts(df: pd.DataFrame, name) -> np.ndarray:
    """The counts `(n,)` float64 in a column, or an error that names the rows at fault; fractions are reported.

    Raises:
        TypeError: they are no numbers.
        ValueError: one is missing or infinite.
    """
    column = df[name]
    if column.dtype.kind not in "iuf":
        raise not_numbers("counts", column)
    values = column.to_numpy(np.float64, na_value=np.nan)
    for bad, what in ((np.isnan(values), "missing (NaN)"), (np.isinf(values), "infinite")):
        if bad.any():
            raise ValueError(f"column {name!r} has {bad.sum():,} {what} count(s), first at row "
                             f"{np.flatnonzero(bad)[0]}; drop them, or fill them with what they stand for")  # fmt: skip
    if fractions := int((values != np.floor(values)).sum()):
        say(f"{fractions:,} of {len(values):,} counts in {name!r} are fractions; they are taken as amounts")
    return values


@dataclass(frozen=True)
class Counted:
    """Rows of events with their counts, and which of them make a pair.

    Args:
        events: the rows; a pair of another part is another pair.
        among: `(k,)` the positions of the rows that count.
        count: `(n,)` of each row; if below 0, it is subtracted from the pair's sum.
        name: of the column of counts, or None for the number of rows.
        pair: `(n,)` the number of each row's pair.
    """

    events: Interactions
    among: np.ndarray
    count: np.ndarray
    name: str | None
    pair: np.ndarray

    @classmethod
    def of(cls, df: pd.DataFrame, events: Interactions, among: np.ndarray, part: np.ndarray | None = None) -> Counted:
        """The rows `among` of a table and its `events`; `part` `(n,)` is the number of each row's table."""
        name = events.columns.count
        count = np.ones(len(events)) if name is None else read_counts(df, name)
        keys = events.pair_keys().numpy()
        if part is not None:
            keys = keys * 2 + part
        return cls(events, among, count, name, pd.factorize(keys)[0])

    def rows(self, threshold: float | None) -> np.ndarray:
        """The positions `(m,)`, ascending, of the row that represents each pair; the rest is reported.

        It is the first row in time, or in the table, with a count above 0. The pair's sum must be above 0 and at least
        `threshold`.
        """
        among, keep = self.among, self._enough(self.totals(self.among), threshold)
        if below := int((self.count[among] < 0).sum()):
            say(f"{below:,} of {len(among):,} counts in {self.name!r} are below 0 (returns); they are subtracted from "
                "the sums of their pairs")  # fmt: skip
        left = keep[self.pair[among]]
        if not left.all():
            users, items = self.events.user_idx.numpy()[among], self.events.item_idx.numpy()[among]
            say_left_out(left, users, items, f"the counts of the (user, item) pair have a sum {_little(threshold)}")
        return self._firsts(keep)

    def _firsts(self, keep: np.ndarray) -> np.ndarray:
        """The positions, ascending, of the first row with a count above 0 of each pair in `keep` `(n_pairs,)`."""
        there = self.among[keep[self.pair[self.among]] & (self.count[self.among] > 0)]
        time = np.zeros(len(self.events)) if self.events.time is None else self.events.time.numpy()
        order = there[np.argsort(time[there], kind="stable")]
        return np.sort(order[~pd.Series(self.pair[order]).duplicated().to_numpy()])

    @staticmethod
    def _enough(total: np.ndarray, threshold: float | None) -> np.ndarray:
        return total > 0 if threshold is None else (total > 0) & (total >= threshold)

    def totals(self, among: np.ndarray) -> np.ndarray:
        """The sum `(n_pairs,)` of the counts of each pair's rows `among` `(k,)`."""
        return np.bincount(self.pair[among], self.count[among], int(self.pair.max(initial=-1)) + 1)

    def split(
        self, first: np.ndarray, second: np.ndarray, threshold: float | None, since: np.ndarray | None = None, *,
        by_table: bool,
    ) -> tuple[np.ndarray, ...]:  # fmt: skip
        """The rows that are left of a training and a validation part, and their pairs' sums: `(first, second, sums of
        first, sums of second)`.

        If the split was by time, training knows what was known at its moment: the sums of training pairs exclude later
        rows, and pairs that `rows` left out because of later returns are training pairs. With two tables (`by_table`)
        each has its own sums, and a pair that both have stays in the first. `since` is as in `late_rows`.
        """
        if by_table:
            late, keys = np.zeros(len(self.events), bool), self.events.pair_keys().numpy()
            known = np.isin(keys[second], keys[first])
            if known.any():
                say(f"{known.sum():,} of {len(second):,} validation pairs are training pairs too; they are left out")
            second = second[~known]
        else:
            late = late_rows(self.events, first, second, since)
        whole, known = self.totals(self.among), self.totals(self.among[~late[self.among]])  # sums of all, at the moment
        enough = self._enough(known, threshold)
        kept = enough[self.pair[first]]
        if gone := int((~kept).sum()):
            say(
                f"{gone:,} training pairs have a sum {_little(threshold)} at the moment of the split; they are left out"
            )
        later = self._firsts(enough & ~self._enough(whole, threshold))
        later = later[~late[later]]
        if len(later):
            say(f"{len(later):,} of the pairs left out were returned only after the moment of the split; they are "
                "training pairs")  # fmt: skip
        first = np.sort(np.concatenate([first[kept], later]))
        return first, second, known[self.pair[first]], whole[self.pair[second]]


def _little(threshold: float | None) -> str:
    """Which sums are too small, in words; see `Counted._enough`."""
    return "of 0 or less" if threshold is None else f"below {threshold:g}"


def late_rows(
    events: Interactions, first: np.ndarray, second: np.ndarray, since: np.ndarray | None = None
) -> np.ndarray:
    """Which rows `(n,)` came after the moment of a split by time into training rows and validation rows.

    The splitter may know the moment: `since` `(n,)` names the rows from then on. Else it is the time of the first
    validation row, if none is earlier than a training row; or, for each user, that of the user's first validation row,
    if none of the user's is earlier. Rows at the moment itself are late, unless a training row has the same time. Other
    splits have no such moment.
    """
    if since is not None:
        return since
    late = np.zeros(len(events), dtype=bool)
    if events.time is None or len(first) == 0 or len(second) == 0:
        return late
    time, users = events.time.numpy(), events.user_idx.numpy()
    begins, ends = time[second].min(), time[first].max()
    if begins >= ends:
        late |= (time > begins) | ((time == begins) & (begins > ends))
    begins = np.full(events.n_users, np.iinfo(np.int64).max)
    np.minimum.at(begins, users[second], time[second])
    ends = np.full(events.n_users, np.iinfo(np.int64).min)
    np.maximum.at(ends, users[first], time[first])
    begins, ends = begins[users], ends[users]
    return late | ((begins >= ends) & (time > begins)) | ((begins > ends) & (time == begins))
