"""`CollabDataLoaders.from_df` of a table in memory: bytes a row above the table, and seconds beside Polars."""

from __future__ import annotations

import os
import time

import numpy as np
import pandas as pd

from .common import write
from .scale_data import Memory, in_process

ROWS = int(float(os.environ.get("COLLABKIT_ROWS", 2e7)))
KINDS = {"ratings": ["rating"], "events": [], "events with times": ["time"]}


def table(rows: int, more: list[str]) -> pd.DataFrame:
    """Rows of `rows / 50` users and 200,000 items, whose ids are numbers; few have most of them."""
    rng = np.random.default_rng(0)
    users, items = (
        (rng.random(rows) ** 1.5 * rows / 50).astype(np.int64),
        (rng.random(rows) ** 3 * 200_000).astype(np.int64),
    )
    df = pd.DataFrame({"user": users, "item": items})
    if "rating" in more:
        df["rating"] = rng.integers(1, 6, rows).astype(np.float32)
    if "time" in more:
        df["time"] = rng.integers(1_600_000_000, 1_700_000_000, rows)
    return df


def ours(kind: str, answer) -> None:
    """Peak and kept bytes a row above the table, and processor seconds."""
    import torch

    from collabkit import CollabDataLoaders

    torch.set_num_threads(1)
    names = {"user_name": "user", "item_name": "item", "seed": 0}
    names |= {"rating_name": "rating"} if kind == "ratings" else {"feedback": "implicit"}
    names |= {"time_name": "time"} if "times" in kind else {}
    CollabDataLoaders.from_df(table(1000, KINDS[kind]), **names)  # what the first call alone loads
    df = table(ROWS, KINDS[kind])
    memory = Memory()
    before, start = memory.now()["own"], time.process_time()
    dls = CollabDataLoaders.from_df(df, **names)
    seconds, peak, kept = time.process_time() - start, memory.stage()["peak_own_MB"], memory.now()["own"]
    a_row = 2**20 / ROWS
    answer.put(
        {"peak": (peak - before) * a_row, "kept": (kept - before) * a_row, "seconds": seconds, "n": len(dls.train)}
    )


def polars(kind: str, answer) -> None:
    """Processor seconds of the same vocabularies and codes by Polars, on one thread."""
    import polars as pl

    frame = pl.from_pandas(table(ROWS, KINDS[kind]))
    start = time.process_time()
    for name in ("user", "item"):
        values = frame[name].unique().sort()
        codes = pl.DataFrame({name: values}).with_row_index("code")
        frame.select(name).join(codes, on=name, how="left", maintain_order="left")["code"].cast(pl.Int32)
    answer.put({"seconds": time.process_time() - start})


def scale_memory() -> None:
    """20 million rows of 400,000 users and 200,000 items, a fifth held out at random: medians of three."""
    rows = []
    os.environ["POLARS_MAX_THREADS"] = "1"
    for kind in KINDS:
        runs = [(in_process(ours, kind), in_process(polars, kind)) for _ in range(3)]
        median = {name: float(np.median([mine[name] for mine, _ in runs])) for name in ("peak", "kept", "seconds")}
        theirs = float(np.median([other["seconds"] for _, other in runs]))
        rows.append({"rows": ROWS, "kind": kind, "peak_bytes_a_row": round(median["peak"], 1),
                     "kept_bytes_a_row": round(median["kept"], 1), "cpu_s": round(median["seconds"], 1),
                     "polars_encode_s": round(theirs, 1), "ratio": round(median["seconds"] / theirs, 2)})  # fmt: skip
        write("scale_memory", rows)
