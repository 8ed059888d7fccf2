"""`tradeoff`: the cost in accuracy of favouring diverse, unknown or new items, and the gain."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.data.checks import finite, one_of, shown, whole
from collabkit.data.dataset import Dataset
from collabkit.evaluate.names import read_metrics
from collabkit.evaluate.tables import column_mean, interval_columns
from collabkit.evaluate.task import CUT_METRICS, RankingTask, held_out, refuse_strangers
from collabkit.models.base import Model, answering
from collabkit.retrieval.diversity import Diversity, item_likeness
from collabkit.retrieval.tilt import Tilt

__all__ = ["KNOBS", "tradeoff", "unlikeness"]

KNOBS = {
    "diversity": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7),
    "novelty_weight": (0.0, 0.05, 0.1, 0.2, 0.5, 1.0),
    "freshness_weight": (0.0, 0.1, 0.2, 0.5, 1.0, 2.0),
}
BESIDE = ("Diversity", "Novelty", "Coverage")


def tradeoff(
    model: Model, data: Dataset, knob: str = "diversity", values: Iterable[float] | None = None, on="valid", *,
    k: int = 10, metric: str = "NDCG", half_life=None, diversify_by="vectors", pool: int = 100, candidates=None,
    threshold: float | None = None, filter_seen: bool | str = True, n_boot: int = 1000, seed: int = 0,
    max_memory: int | str = "512MB",
) -> pd.DataFrame:  # fmt: skip
    """The cost in a metric of values of a knob of `recommend`, and the gain; see `Recommender.tradeoff`."""
    one_of("knob", knob, KNOBS)
    whole("n_boot", n_boot)
    if knob == "freshness_weight" and half_life is None:
        raise ValueError("knob='freshness_weight' needs half_life=, the days after which an item is half as fresh")
    (name,), (cut,), _ = read_metrics(metric, k)
    if name not in CUT_METRICS:
        raise ValueError(f"metric must be one of {', '.join(CUT_METRICS)}, got {shown(metric)}")
    steps = sorted({0.0, *(finite(knob, value) for value in (KNOBS[knob] if values is None else values))}, key=abs)
    lean = [_lean(knob, value, half_life, diversify_by, pool) for value in steps]
    task = RankingTask.make(data, on, candidates=candidates, threshold=threshold, filter_seen=filter_seen)
    if len(task) == 0:
        refuse_strangers(held_out(data, on))
        raise ValueError("the evaluated rows hold no relevant item of a known user; there is nothing to weigh up")
    names, rows, base = [name, *BESIDE], [], None
    brings = _gain(knob, model, data, diversify_by, isinstance(on, str))
    with answering(model):
        for value, options in zip(steps, lean, strict=True):
            answer = task.rank(model, names, [cut], max_memory, **options)
            found = answer.measure(names, [cut], task.facts)
            own = {(name, cut): found[name, cut]}
            base = own if base is None else base
            change = interval_columns(own, base, len(answer.n_candidates), n_boot=n_boot, seed=seed).iloc[0]
            row = {knob: value, task.name(name, cut): change["value"], "change": change["difference"]}
            row |= {"low": change["diff_low"], "high": change["diff_high"], **brings(answer.lists)}
            rows.append(row | {task.name(other, cut): column_mean(found[other, cut]) for other in BESIDE})
    table = pd.DataFrame(rows).set_index(knob).rename_axis(columns=task.title)
    table.attrs["free"] = _free(table)
    return table


def _lean(knob: str, value: float, half_life, diversify_by, pool: int) -> dict:
    """The options of `RankingTask.rank` for a value of a knob."""
    if knob == "diversity":
        return {"diversity": Diversity(value, diversify_by, pool)}
    if knob == "novelty_weight":
        return {"tilt": Tilt(value)}
    return {"tilt": Tilt(0.0, half_life, value)}


def _gain(knob: str, model: Model, data: Dataset, by, is_valid: bool):
    """A function from lists `(n_users, k)` to the quantities that the knob controls, by name."""
    if knob == "diversity":
        unit = item_likeness(model, data, by)
        return lambda lists: {"unlikeness": column_mean(unlikeness(lists, unit))}
    if knob == "novelty_weight":
        return lambda lists: {}  # which is among the metrics
    ages = data.item_ages(is_valid=is_valid).numpy()
    return lambda lists: {"age": float(ages[lists[lists > 0]].mean()) if (lists > 0).any() else np.nan}


def _free(table: pd.DataFrame) -> float:
    """The largest value up to which there is no visible loss: the interval of each change reaches 0."""
    free = 0.0
    for value, high in table["high"].items():
        if value != 0 and not high >= 0:
            break
        free = value
    return float(free)


def unlikeness(lists: np.ndarray, unit: Tensor) -> np.ndarray:
    """1 - the mean cosine of all pairs of items in each list; NaN for lists of fewer than two.

    Args:
        lists: `(n_users, k)` items, 0 where a list is shorter.
        unit: `(n_items, d)` their vectors, of length 1 or 0.

    Example:
        >>> unit = torch.tensor([[0., 0.], [1., 0.], [1., 0.], [0., 1.]])
        >>> unlikeness(np.array([[1, 2], [1, 3], [1, 0]]), unit).tolist()
        [0.0, 1.0, nan]
    """
    found = []
    for part in torch.from_numpy(lists).split(4096):
        there = (part > 0).double()
        vectors = unit[part].double() * there[..., None]
        n = there.sum(1)
        pairs = vectors.sum(1).square().sum(1) - vectors.square().sum((1, 2))
        found.append(1 - pairs / (n * (n - 1)).where(n > 1, torch.nan))
    return torch.cat(found).numpy() if found else np.zeros(0)
