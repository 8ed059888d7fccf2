"""Events in Parquet that are larger than memory: peak memory, encoding beside Polars alone, feeding beside a bare loop.

`python -m benchmarks.scale_data --rows 1e8 --folder /big/disk`; the generator is part of it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .common import write

PART = 5_000_000
BS, D = 16_384, 32


def generate(folder: Path, rows: int, seed: int = 0) -> None:
    """Events of `rows / 50` users and 200,000 items, whose ids are texts, with times; few have most of them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, n_users, n_items = np.random.default_rng(seed), max(rows // 50, 100), 200_000
    names = pa.array([f"item-{j:06d}-{j * 7919 % 104729:06d}" for j in rng.permutation(n_items)])
    for j, at in enumerate(range(0, rows, PART)):
        n = min(PART, rows - at)
        users = (n_users * rng.random(n) ** 1.5).astype(np.int64) * 31 + 1_000_003
        items = (n_items * rng.random(n) ** 3).astype(np.int32)
        columns = {"user": users, "item": names.take(pa.array(items)), "time": rng.integers(1.6e9, 1.7e9, n)}
        pq.write_table(pa.table(columns), folder / f"part-{j:04d}.parquet", row_group_size=500_000)


class Memory:
    """The most memory that this process has held: its own, and with the pages of mapped files, in MB.

    Its own is anonymous memory less what an allocator has handed back and the system may take at any time (LazyFree):
    that of Polars keeps its freed pages so.
    """

    def __init__(self):
        self.peak = {"own": 0, "with_files": 0}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while True:
            anonymous, whole = (_kilobytes("status")[name] // 1024 for name in ("RssAnon", "VmRSS"))
            if anonymous > self.peak["own"] or whole > self.peak["with_files"]:  # the rest takes longer to find
                for name, value in self.now().items():
                    self.peak[name] = max(self.peak[name], value)
            time.sleep(0.02)

    @staticmethod
    def now() -> dict[str, int]:
        held = _kilobytes("smaps_rollup")
        return {"own": (held["Anonymous"] - held["LazyFree"]) // 1024,
                "with_files": (held["Rss"] - held["LazyFree"]) // 1024}  # fmt: skip

    def stage(self) -> dict[str, int]:
        """The peaks since the last stage."""
        found, self.peak = self.peak, {"own": 0, "with_files": 0}
        return {"peak_own_MB": found["own"], "peak_with_files_MB": found["with_files"]}


def _kilobytes(file: str) -> dict[str, int]:
    lines = [line.split() for line in Path(f"/proc/self/{file}").read_text().splitlines()]
    return {line[0].rstrip(":"): int(line[1]) for line in lines if line[-1] == "kB"}


def polars_alone(folder: Path, answer) -> None:
    """The same vocabularies and codes by Polars, written to files: what encoding costs at the least."""
    import polars as pl

    memory, start = Memory(), time.perf_counter()
    frame = pl.scan_parquet(folder / "events" / "*.parquet")
    users = frame.select(pl.col("user").unique().sort()).collect(engine="streaming")["user"]
    items = frame.select(pl.col("item").unique().sort()).collect(engine="streaming")["item"]
    table = pl.LazyFrame({"user": users}).with_row_index("u")
    item = pl.col("item").cast(pl.Enum(items)).to_physical().cast(pl.Int32)
    coded = frame.join(table, on="user", how="left", maintain_order="left").select(
        pl.col("u").cast(pl.Int32), item, "time"
    )
    coded.sink_ipc(folder / "alone.arrow")
    answer.put({"seconds": time.perf_counter() - start, **memory.stage()})


def encode(folder: Path, answer) -> None:
    """Vocabularies and codes, then the order by user, each with its time."""
    from collabkit import CollabDataLoaders
    from collabkit.data.streaming import cache

    memory, seconds, step = Memory(), {}, cache.Cache.step

    def timed(self, name, make):
        start = time.perf_counter()
        found = step(self, name, make)
        seconds[name] = time.perf_counter() - start
        return found

    cache.Cache.step = timed
    start = time.perf_counter()
    CollabDataLoaders.from_parquet(folder / "events", **_options(folder))
    answer.put({"seconds": time.perf_counter() - start, "steps": seconds, **memory.stage()})


def train(folder: Path, answer) -> None:
    """The dataloaders from the cache, an epoch of batches beside a bare loop, and an epoch of BPR."""
    import torch

    from collabkit import CollabDataLoaders, collab_learner
    from collabkit.train.block_order import BlockOrder

    torch.set_num_threads(1)
    memory, start = Memory(), time.perf_counter()
    dls = CollabDataLoaders.from_parquet(folder / "events", **_options(folder))
    opened = {"open_s": time.perf_counter() - start, **memory.stage()}
    events, sampler = dls.train.dataset, dls.train.batches.sampler
    some, bare, fed = min(len(events), 4_000_000) // BS, 0.0, 0.0

    def loop():
        order, generator = BlockOrder(len(events), 0), torch.Generator().manual_seed(0)
        for at in range(0, some * BS, 64 * BS):
            rows = order[at : min(at + 64 * BS, some * BS)]
            users, items = events.user_idx[rows].long(), events.item_idx[rows].long()
            drawn = sampler.draw(users, 1, generator)
            yield from zip(users.split(BS), items.split(BS), drawn.split(BS), strict=True)

    for _ in range(3):
        start = time.perf_counter()
        for _ in loop():
            pass
        middle = time.perf_counter()
        for j, _ in enumerate(dls.train):
            if j + 1 == some:
                break
        bare, fed = bare + middle - start, fed + time.perf_counter() - middle
    feeding = {"bare_s": bare / 3, "loader_s": fed / 3, **memory.stage()}
    learn = collab_learner(dls, n_factors=D, loss_func="bpr", **_sparse())
    tables = sum(p.numel() for p in learn.model.parameters()) * 4 / 2**20
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 5e-3)
    answer.put({"opened": opened, "feeding": feeding, "epoch_s": time.perf_counter() - start, "tables_MB": tables,
                **memory.stage()})  # fmt: skip


def _sparse() -> dict:
    return {"sparse": True}


def _options(folder: Path) -> dict:
    names = {"user_name": "user", "item_name": "item", "time_name": "time"}
    return {**names, "feedback": "implicit", "n_neg": 1, "stream": True, "cache": folder / "cache", "valid_pct": 0.05,
            "seed": 0, "bs": BS}  # fmt: skip


def in_process(function, given) -> dict:
    """What `function` answers to what it is given, in a process of its own, so that its memory is its own too."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=function, args=(given, answer))
    process.start()
    found = answer.get()
    process.join()
    return found


def from_files_to_epoch(rows: int = 10_000_000, folder: str | Path = "/tmp/collabkit-scale") -> None:
    """From files to the end of one BPR epoch."""
    folder = Path(folder)
    try:
        generate(folder / "events", rows)
        alone, made = in_process(polars_alone, folder), in_process(encode, folder)
        os.remove(folder / "alone.arrow")
        trained = in_process(train, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    codes, feeding = made["steps"]["1-ids"] + made["steps"]["2-rows"], trained["feeding"]
    stages = {"encode and sort": made, "open": trained["opened"], "BPR epoch": trained, "Polars alone": alone}
    table = [{"rows": rows, "stage": name, "peak_own_MB": told["peak_own_MB"],
              "peak_with_files_MB": told["peak_with_files_MB"],
              "seconds": round(told.get("seconds") or told.get("open_s") or told["epoch_s"], 1)}
             for name, told in stages.items()]  # fmt: skip
    write("scale_data_memory", table)
    row = {"rows": rows, "encoding_s": round(codes, 1), "polars_s": round(alone["seconds"], 1)}
    row |= {"encoding_ratio": round(codes / alone["seconds"], 2), "sorting_s": round(made["steps"]["3-order"], 1)}
    row |= {"loader_s": round(feeding["loader_s"], 2), "bare_s": round(feeding["bare_s"], 2)}
    row |= {
        "feeding_ratio": round(feeding["loader_s"] / feeding["bare_s"], 2),
        "tables_MB": round(trained["tables_MB"]),
    }
    write("scale_data", [row])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=float, default=1e7)
    parser.add_argument("--folder", default="/tmp/collabkit-scale")
    given = parser.parse_args()
    from_files_to_epoch(int(given.rows), given.folder)
