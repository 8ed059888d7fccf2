"""Sorts the rows of files by user, a share of the users at a time, and collects their pairs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from collabkit.data.streaming.cache import Cache
from collabkit.data.unique import sorted_unique

__all__ = ["TYPES", "bucket_of_users", "fill_buckets", "sort_buckets", "cut_part"]

TYPES = {"user": "int32", "item": "int32", "rating": "float32", "time": "int64"}
BUCKET = 2**22  # rows that are sorted at once


def bucket_of_users(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which bucket each user `(n_users,)` is in, and where each bucket's rows begin `(n_buckets + 1,)`."""
    before = np.concatenate([[0], np.cumsum(counts)])
    bucket = before[:-1] // BUCKET
    bucket = np.cumsum(np.diff(bucket, prepend=bucket[:1]) > 0)  # ascending: empty buckets are left out
    sizes = np.bincount(bucket, weights=counts).astype(np.int64)
    return bucket.astype(np.int16 if len(sizes) < 2**15 else np.int32), np.concatenate([[0], np.cumsum(sizes)])


def fill_buckets(cache: Cache, batches: Iterator[dict[str, np.ndarray]], counts: np.ndarray, names: list[str]) -> None:
    """Write the rows of all `batches` to the files `raw.NAME`, grouped by bucket, in their original order."""
    bucket, starts = bucket_of_users(counts)
    files, next_at = (
        {name: cache.new(f"raw.{name}", TYPES[name], int(starts[-1])) for name in names},
        starts[:-1].copy(),
    )
    for arrays in batches:
        of = bucket[arrays["user"] - 1]
        order = np.argsort(of, kind="stable")
        n = np.bincount(of, minlength=len(next_at))
        ends = np.cumsum(n)
        for name, file in files.items():
            rows = arrays[name][order]
            for j in np.flatnonzero(n):
                file[next_at[j] : next_at[j] + n[j]] = rows[ends[j] - n[j] : ends[j]]
        next_at += n


def sort_buckets(cache: Cache, counts: np.ndarray, n_items: int, names: list[str], *, once: bool) -> dict:
    """Sort each bucket by user and time; with `once` a pair's first row stays. Writes `NAME`, `pairs` and their starts.

    Args:
        counts: `(n_users,)` rows of each user, the first of them user 1.
        n_items: rows of an item table.
        names: the columns.
        once: whether repeated pairs are left out.
    """
    starts, n_users = bucket_of_users(counts)[1], len(counts)
    raw = {name: cache.open(f"raw.{name}", TYPES[name]) for name in names}
    files = {name: cache.new(name, TYPES[name], int(starts[-1])) for name in names}
    writer, at = _Pairs(cache, int(starts[-1]), n_users, n_items), 0
    for first, stop in pairwise(starts):
        part = {name: np.asarray(column[first:stop]) for name, column in raw.items()}
        order = np.lexsort((part["time"], part["user"])) if "time" in part else _stable(part["user"])
        part = {name: column[order] for name, column in part.items()}
        rows = writer.add(part["user"], part["item"], once=once)
        for name, file in files.items():
            column = part[name] if rows is None else part[name][rows]
            file[at : at + len(column)] = column
        at += len(part["user"]) if rows is None else len(rows)
    for name in names:
        cache.cut(name, TYPES[name], at)
    return {"rows": at, "left_out": int(starts[-1]) - at, "pairs": writer.close()}


def cut_part(cache: Cache, whole: dict[str, np.ndarray], keep: np.ndarray, n_users: int, n_items: int) -> dict:
    """The rows of sorted columns where the mask `keep` `(n,)` holds, as separate files, with pairs and starts."""
    n = int(keep.sum())
    files = {name: cache.new(name, TYPES[name], n) for name in whole}
    writer, at = _Pairs(cache, n, n_users - 1, n_items), 0
    for start, stop in _whole_users(whole["user"]):
        rows = np.flatnonzero(keep[start:stop]) + start
        part = {name: column[rows] for name, column in whole.items()}
        for name, file in files.items():
            file[at : at + len(rows)] = part[name]
        writer.add(part["user"], part["item"], once=False)
        at += len(rows)
    return {"rows": n, "pairs": writer.close()}


def _whole_users(users: np.ndarray) -> Iterator[tuple[int, int]]:
    """Spans of about `BUCKET` rows of sorted `users` `(n,)` that do not split a user."""
    start = 0
    while start < len(users):
        stop = min(start + BUCKET, len(users))
        if stop < len(users):
            stop = int(np.searchsorted(users, users[stop - 1], side="right"))
        yield start, stop
        start = stop


def _stable(users: np.ndarray) -> np.ndarray:
    """`argsort(users, kind='stable')`, by radix sort if a bucket has few users."""
    if len(users) and int(users.max()) - int(users.min()) < 2**16:
        users = (users - users.min()).astype(np.uint16)
    return np.argsort(users, kind="stable")


class _Pairs:
    """Writes the distinct pairs of sorted rows that come user by user, and where each user's rows and pairs begin."""

    def __init__(self, cache: Cache, most: int, n_users: int, n_items: int):
        self.cache, self.n_items, self.at = cache, n_items, 0
        self.values = cache.new("pairs", "int32", most)
        self.lengths = {name: np.zeros(n_users + 1, dtype=np.int64) for name in ("starts", "pair_starts")}
        self.item_counts = np.zeros(n_items, dtype=np.int64)

    def add(self, users: np.ndarray, items: np.ndarray, *, once: bool) -> np.ndarray | None:
        """Add the rows of some users, in one call per user; returns the rows kept with `once`, None for all."""
        keys = users.astype(np.int64) * self.n_items + items
        distinct, rows = sorted_unique(keys), None
        if once and len(distinct) < len(keys):
            order = np.argsort(keys, kind="stable")
            rows = np.sort(order[np.append(True, np.diff(keys[order]) > 0)])
            users, items = users[rows], items[rows]
        self.lengths["starts"] += np.bincount(users, minlength=len(self.lengths["starts"]))
        self.item_counts += np.bincount(items, minlength=self.n_items)
        mine = distinct // self.n_items
        self.lengths["pair_starts"] += np.bincount(mine, minlength=len(self.lengths["starts"]))
        self.values[self.at : self.at + len(distinct)] = distinct - mine * self.n_items
        self.at += len(distinct)
        return rows

    def close(self) -> int:
        """Write the rest of the pairs; returns their number."""
        self.cache.cut("pairs", "int32", self.at)
        for name, lengths in self.lengths.items():
            file = self.cache.new(name, "int64", len(lengths) + 1)
            file[0], file[1:] = 0, np.cumsum(lengths)
        self.cache.new("item_counts", "int64", self.n_items)[:] = self.item_counts
        return self.at
