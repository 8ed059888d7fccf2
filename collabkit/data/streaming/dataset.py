"""`stream_dataset`: Parquet files larger than memory -> a `Dataset` whose columns are mapped."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from collabkit.data.checks import check_seed, finite, shown
from collabkit.data.dataset import Dataset
from collabkit.data.features import SideFeatures
from collabkit.data.feedback import Implicit
from collabkit.data.interactions import Columns, Interactions
from collabkit.data.notices import say
from collabkit.data.runs import Runs
from collabkit.data.splits import Splitter
from collabkit.data.stored import StoredInteractions
from collabkit.data.streaming.cache import Cache, content_key, locked
from collabkit.data.streaming.encode import Scan, Side, open_scan, polars
from collabkit.data.streaming.order import TYPES, cut_part, fill_buckets, sort_buckets
from collabkit.data.vocab import Vocab

__all__ = ["stream_dataset"]


def stream_dataset(
    parts: list[Path], schemas: list[pa.Schema], columns: Columns, cache: str | Path, *, valid_pct: float = 0.2,
    seed: int | None = None, splitter=None, feedback: Implicit | None = None, users=None, items=None,
    user_features=None, item_features=None,
) -> Dataset:  # fmt: skip
    """The data of some Parquet files; arguments as in `CollabDataLoaders.from_parquet`.

    Args:
        parts, schemas: the files, and their schemas.
        columns: the names of their columns.
        cache: folder in which the encoded columns are kept.
        feedback: None for ratings.

    Raises:
        KeyError, TypeError, ValueError: columns, types or values are invalid; see `encode.Scan`.
        OSError: the disk is full.
    """
    once = feedback is not None and feedback.repeats == "first"
    threshold = None if feedback is None else feedback.threshold
    threshold = None if threshold is None else finite("rating_threshold", threshold)
    scan = open_scan(parts, schemas, columns, threshold)
    names = ["user", "item", *["rating"][: columns.rating is not None and threshold is None]]
    names += ["time"] if columns.time is not None else []
    options = {"columns": [str(name) for name in columns.present], "roles": names, "once": once, "threshold": threshold}
    folder = Path(cache).expanduser().resolve() / content_key(parts, options)
    kept = columns if feedback is None else replace(columns, rating=None)
    with locked(folder):
        whole = _whole(Cache(folder), scan, names, replace(kept, ticks=None if kept.time is None else 1), once)
        if feedback is None and (repeated := whole.n_duplicates()):
            say(f"{repeated:,} of {len(whole):,} rows repeat a (user, item) pair; all are kept")
        train, valid = _split(Cache(folder), whole, valid_pct, seed, splitter)
    features = SideFeatures.of(train, users, items, user_features, item_features)
    return Dataset(train, valid, features=features)


def _whole(cache: Cache, scan: Scan, names: list[str], columns: Columns, once: bool) -> StoredInteractions:
    """All rows, sorted; made in steps, and finished steps are reused."""
    sides: dict = {}

    def ids(cache: Cache) -> None:
        scan.check()
        for side, name in (("users", columns.user), ("items", columns.item)):
            sides[side] = scan.side(name)
            pq.write_table(pa.table({"id": sides[side].ids.to_arrow()}), cache.keep(f"{side}.parquet"))
            cache.new(f"{side}.counts", "int64", len(sides[side].counts))[:] = sides[side].counts

    def rows(cache: Cache) -> None:
        found = [sides.get(side) or _read_side(cache, side) for side in ("users", "items")]
        fill_buckets(cache, scan.codes(*found), found[0].counts, names)

    def ordered(cache: Cache) -> dict:
        n_items = len(cache.open("items.counts", "int64")) + 1
        return sort_buckets(cache, cache.open("users.counts", "int64"), n_items, names, once=once)

    cache.step("1-ids", ids)
    told = cache.found("3-order")
    if told is None:
        cache.step("2-rows", rows)
        told = cache.step("3-order", ordered)
        cache.forget("2-rows")
    if once and told["left_out"]:
        which = "in the files" if columns.time is None else "in time"
        say(f"{told['left_out']:,} of {told['left_out'] + told['rows']:,} rows left out: they repeat a (user, item) "
            f"pair; the first {which} is kept")  # fmt: skip
    vocabs = [Vocab(_read_side(cache, side).index(name), name)
              for side, name in (("users", columns.user), ("items", columns.item))]  # fmt: skip
    return _open(cache, names, vocabs, columns)


def _read_side(cache: Cache, side: str) -> Side:
    ids = polars().from_arrow(pq.read_table(cache.folder / f"{side}.parquet")["id"])
    return Side(ids, cache.open(f"{side}.counts", "int64"))


def _open(cache: Cache, names: list[str], vocabs: list[Vocab], columns: Columns) -> StoredInteractions:
    """The events in a cache."""
    mapped = {name: torch.from_numpy(cache.open(name, TYPES[name])) for name in names}
    starts, pair_starts, item_counts = (
        torch.from_numpy(np.array(cache.open(name, "int64"))) for name in ("starts", "pair_starts", "item_counts")
    )
    distinct = Runs(pair_starts, torch.from_numpy(cache.open("pairs", "int32")), len(vocabs[1]))
    columns_of = (mapped["user"], mapped["item"], mapped.get("rating"), mapped.get("time"))
    return StoredInteractions(*columns_of, *vocabs, columns, starts=starts, distinct=distinct, item_counts=item_counts)


def _split(
    cache: Cache, whole: StoredInteractions, valid_pct: float, seed: int | None, splitter
) -> tuple[StoredInteractions, Interactions | None]:
    """The training part, mapped, and the validation part, in memory."""
    if splitter is None and valid_pct == 0:
        return whole, None
    keep = _drawn(whole, valid_pct, seed) if splitter is None else None
    held = ~keep if keep is not None else None
    if keep is None:
        keep, held = _by_splitter(whole, splitter)
    if not held.any():
        return (whole, None) if keep.all() else (_part(cache, whole, keep, None), None)
    everything = bool((keep | held).all())
    return _part(cache, whole, keep, whole if everything else None), whole.in_memory(held)


def _part(
    cache: Cache, whole: StoredInteractions, keep: np.ndarray, of: StoredInteractions | None
) -> StoredInteractions:
    """The rows of a mask as files, cached by content."""
    names = ["user", "item", *["rating"][: whole.rating is not None], *["time"][: whole.time is not None]]
    columns = [whole.user_idx, whole.item_idx, whole.rating, whole.time]
    mapped = dict(zip(names, (column.numpy() for column in columns if column is not None), strict=True))
    part = Cache(cache.folder / f"part-{hashlib.sha256(np.packbits(keep).tobytes()).hexdigest()[:20]}")
    part.step("part", lambda part: cut_part(part, mapped, keep, whole.n_users, whole.n_items))
    return replace(_open(part, names, [whole.users, whole.items], whole.columns), whole=of)


def _drawn(whole: StoredInteractions, valid_pct: float, seed: int | None) -> np.ndarray:
    """Which rows `(n,)` are trained on: each is held out with the probability `valid_pct`."""
    if not 0 < valid_pct < 1:
        raise ValueError(f"valid_pct must lie in [0, 1), got {shown(valid_pct)}")
    seed = int(torch.randint(2**31, ())) if seed is None else check_seed(seed)
    rng, keep = np.random.default_rng(seed % 2**63), np.empty(len(whole), dtype=bool)
    for at in range(0, len(keep), 2**22):
        part = keep[at : at + 2**22]
        part[:] = rng.random(len(part), dtype=np.float32) >= valid_pct
    if keep.all() or not keep.any():
        raise ValueError(f"valid_pct={valid_pct:g} leaves a part of {len(keep):,} rows empty; change it")
    return keep


def _by_splitter(whole: StoredInteractions, splitter) -> tuple[np.ndarray, np.ndarray]:
    """Which rows a splitter trains on and holds out, from a table of the indices of users and items."""
    if not isinstance(splitter, Splitter):
        raise TypeError(f"with stream=True splitter= is one of collabkit.splits, got {shown(splitter)}; tables with "
                        "a split of their own are read in memory (stream=False)")  # fmt: skip
    columns = whole.columns
    table = {columns.user: whole.user_idx, columns.item: whole.item_idx, columns.time: whole.time}
    table = {name: pd.Series(column.numpy(), copy=False) for name, column in table.items() if column is not None}
    if whole.rating is not None:
        table[columns.rating] = pd.Series(whole.rating.numpy(), copy=False)
    split = splitter(pd.DataFrame(table, copy=False), columns)
    for note in split.notes:
        say(f"{split.by}: {note}")
    masks = np.zeros((2, len(whole)), dtype=bool)
    masks[0, split.train] = masks[1, split.valid] = True
    return masks[0], masks[1]
