"""`pick_index`: chooses an index for given vectors by measuring, as no rule holds for all models."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from collabkit.data.runs import Runs
from collabkit.retrieval.faiss_index import EFFORTS, FaissIndex, TooSlowError
from collabkit.retrieval.index import ExactIndex, Index

__all__ = ["Picked", "pick_index"]

GAIN = 1.5  # minimum speed-up over exact search, to be worth the items that an index misses
ALONE = 32  # queries that are timed one at a time


class Picked(NamedTuple):
    """The result of `pick_index`.

    Args:
        index: the one to use; None for exact search.
        kind, effort: of it; `'exact'`.
        recall: of it.
        report: see `Recommender.index_report`.
    """

    index: FaissIndex | None
    kind: str
    effort: int
    recall: float
    report: pd.DataFrame


def pick_index(
    vectors: Tensor, queries: Tensor, hidden: Runs | None, *, k: int = 10, min_recall: float = 0.95, batch: int = 32,
    seconds: float = 600.0, exact: bool = True,
) -> Picked:  # fmt: skip
    """The fastest index with enough recall of the exact top `k`; exact search if none is worth it.

    Args:
        vectors: `(n_items, d)` of items, the unknown one at 0.
        queries, hidden: `(q, d)` of users, and the items hidden from each.
        k, min_recall: the share of the exact top `k` (without hidden items) that must be found.
        batch: queries per call when the time is measured.
        seconds: maximum time to build an index.
        exact: whether exact search may be chosen; otherwise the fastest index is, however fast exact search is.

    Raises:
        ImportError: faiss is missing.
        ValueError: no index finds enough, and `exact=False`.
    """
    judge = ExactIndex(vectors)
    true = judge.search(queries, k, hidden)[0]
    rows = [{"index": "exact", "effort": 0, "recall": 1.0, "short": 0.0, **_times(judge, queries, k, hidden, batch),
             "build_seconds": 0.0, "note": ""}]  # fmt: skip
    built: dict[str, FaissIndex] = {}
    for kind in EFFORTS:
        start = time.perf_counter()
        try:
            index = built[kind] = FaissIndex(vectors, kind, seconds=seconds)
        except (TooSlowError, ValueError) as error:
            rows.append({"index": kind, "note": str(error)})
            continue
        row = {"index": kind, "build_seconds": round(time.perf_counter() - start, 2)}
        row |= _effort(index, queries, k, hidden, true, min_recall) | _times(index, queries, k, hidden, batch)
        rows.append({**row, "note": "" if row["recall"] >= min_recall else f"finds less than {min_recall:g}"})
    report = pd.DataFrame(rows).set_index("index")
    chosen, why = _choice(report, min_recall, exact)
    report.attrs = {"chosen": chosen, "why": why, "n_items": len(vectors) - 1, "d": vectors.shape[1], "k": k,
                    "n_queries": len(queries), "batch": batch, "min_recall": min_recall,
                    "threads": torch.get_num_threads()}  # fmt: skip
    effort, recall = report.loc[chosen, ["effort", "recall"]]
    return Picked(built.get(chosen), chosen, int(effort), float(recall), report)


def _effort(index: FaissIndex, queries: Tensor, k: int, hidden, true: Tensor, min_recall: float) -> dict:
    """Set the least effort with enough recall in `index`; return it, its recall, and the share of short lists."""
    there = true > 0
    for effort in EFFORTS[index.kind]:
        index.effort = effort
        found = index.search(queries, k, hidden)[0]
        hits = (true[:, :, None] == found[:, None, :]).any(2) & there
        recall = float(hits.sum() / there.sum().clamp(min=1))
        if recall >= min_recall:
            break
    short = float(index.found(queries, k, hidden)[2].float().mean())
    return {"effort": index.effort, "recall": round(recall, 4), "short": round(short, 4)}


def _choice(report: pd.DataFrame, min_recall: float, exact: bool) -> tuple[str, str]:
    """The index to use, and why."""
    enough = report[(report["recall"] >= min_recall) & (report.index != "exact")].sort_values("ms")
    base = report.loc["exact", "ms"]
    if len(enough) == 0:
        if not exact:
            best = report.drop(index="exact")["recall"].max()
            raise ValueError(
                f"no index finds min_recall={min_recall:g} of the exact lists (best: {best:.1%}); search exactly"
            )
        return "exact", "no index finds enough"
    name, times = enough.index[0], base / max(enough["ms"].iloc[0], 1e-9)
    said = f"{name} takes {enough['ms'].iloc[0]:.3g} ms a query, exact search {base:.3g}"
    if exact and times < GAIN:
        return "exact", f"{said}: exact search of so many items is fast enough"
    return name, f"{said}, and finds {enough['recall'].iloc[0]:.1%} of it"


def _times(index: Index, queries: Tensor, k: int, hidden: Runs | None, batch: int) -> dict[str, float]:
    """Milliseconds per query, in batches and one at a time: medians."""
    return {name: _median(index, queries[:most], k, hidden, size)
            for name, size, most in (("ms", batch, 8 * batch), ("ms_alone", 1, ALONE))}  # fmt: skip


def _median(index: Index, queries: Tensor, k: int, hidden: Runs | None, size: int) -> float:
    found = []
    for ask in _asks(index, queries, k, hidden, size):
        start = time.perf_counter()
        n = ask()
        found.append((time.perf_counter() - start) * 1000 / n)
    return round(float(pd.Series(found[1:] or found).median()), 4)  # the first one warms up


def _asks(index: Index, queries: Tensor, k: int, hidden: Runs | None, size: int) -> Iterator[Callable[[], int]]:
    for rows in torch.arange(len(queries)).split(size):
        part, seen = queries[rows], None if hidden is None else hidden.of(rows)
        yield lambda part=part, seen=seen: len(index.search(part, k, seen)[0])
