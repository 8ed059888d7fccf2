"""Plots of tables of numbers, as matplotlib Axes, independent of models."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib.axes import Axes

from collabkit.data.notices import say

__all__ = ["plot_map", "plot_bars", "plot_calibration", "plot_losses"]

MOST_LABELS = 50  # of a map; moving more labels apart takes minutes


def plot_map(points: pd.DataFrame, x: str, y: str, label: str, *, ax: Axes | None = None, max_chars: int = 32) -> Axes:
    """A labelled scatter plot whose labels are moved apart until they do not collide; the first 50 points have one.

    Args:
        points: one row per point, with the columns `x`, `y` (numbers) and `label`.
        ax: where to draw; a new figure by default.
        max_chars: longer labels are cut, with an ellipsis.
    """
    ax = ax or plt.subplots(figsize=(12, 9), layout="constrained")[1]
    ax.scatter(points[x], points[y], s=18, color="#4c72b0", alpha=0.8, zorder=2)
    ax.axhline(0, color="0.85", lw=0.8, zorder=0)
    ax.axvline(0, color="0.85", lw=0.8, zorder=0)
    ax.margins(0.12)
    ax.set(xlabel=x, ylabel=y)
    named = points.head(MOST_LABELS)
    if len(points) > len(named):
        say(f"{len(points):,} points are drawn, the first {len(named)} with labels: more would be unreadable")
    texts = [
        ax.text(px, py, _short(text, max_chars), fontsize=8, color="0.15")
        for px, py, text in zip(named[x], named[y], named[label], strict=True)
    ]
    ax.figure.canvas.draw()  # label sizes are known only after the layout
    if len(texts) > 1:
        adjust_text(
            texts,
            x=named[x].to_numpy(),
            y=named[y].to_numpy(),
            ax=ax,
            expand=(1.08, 1.25),
            iter_lim=min(300, 20_000 // len(texts)),  # steps, not seconds: the same data gives the same picture
            arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.5},
        )
    return ax


def plot_bars(table: pd.DataFrame, value: str, label: str, *, ax: Axes | None = None, max_chars: int = 40) -> Axes:
    """A horizontal bar for each row, in the table's order from the top; negative bars have another colour.

    Args:
        table: one row per bar, with the columns `value` (a number) and `label`.
        ax: where to draw; a new figure by default.
    """
    ax = ax or plt.subplots(figsize=(8, 1 + 0.28 * len(table)), layout="constrained")[1]
    values, where = table[value].to_numpy(), np.arange(len(table))
    ax.barh(where, values, color=np.where(values < 0, "#c44e52", "#4c72b0"))
    ax.set_yticks(where, [_short(text, max_chars) for text in table[label]])
    ax.invert_yaxis()
    ax.axvline(0, color="0.3", lw=0.8)
    ax.set_xlabel(value)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plot_calibration(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Predicted against observed values: bins of probabilities, or levels of intervals.

    Args:
        table: as in `Recommender.calibrate`.
        ax: where to draw; a new figure by default.
    """
    ax = ax or plt.subplots(figsize=(6, 6), layout="constrained")[1]
    ax.spines[["top", "right"]].set_visible(False)
    if table.attrs["kind"] == "intervals":
        for users, part in table.groupby("users", sort=False):
            ax.plot(part.index.get_level_values("level"), part["coverage"], marker="o", ms=4, label=f"{users} users")
        ax.plot([0, 1], [0, 1], color="0.7", lw=0.8, zorder=0)
        ax.set(xlabel="share of ratings wanted in the interval", ylabel="share found in it",
               title="Intervals of ratings, held-out users")  # fmt: skip
        ax.legend(frameon=False)
        return ax
    there = table[table["observed"] > 0]
    errors = np.abs(there[["low", "high"]].to_numpy().T - there["observed"].to_numpy())
    ax.errorbar(there["predicted"], there["observed"], yerr=errors, fmt="o", ms=5, color="#4c72b0", ecolor="0.7")
    for _, row in there.iterrows():
        ax.annotate(f"{row['positives']:,.0f}", (row["predicted"], row["observed"]), xytext=(5, -10),
                    textcoords="offset points", fontsize=8, color="0.4")  # fmt: skip
    ends = [
        table[["predicted", "observed"]].replace(0, np.nan).min().min(),
        table[["predicted", "observed"]].max().max(),
    ]
    ax.plot(ends, ends, color="0.7", lw=0.8, zorder=0)
    if ends[1] > 10 * ends[0]:
        ax.set(xscale="log", yscale="log")
    ece, rate = table.attrs["ece"], table.attrs["base_rate"]
    ax.set(xlabel="predicted probability", ylabel="share of pairs that were positives",
           title=f"Reliability, held-out users (positives)\nECE {ece:.2g}, base rate {rate:.2g}")  # fmt: skip
    return ax


def plot_losses(history: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Training and validation loss by epoch.

    Args:
        history: one row per epoch, with the columns `epoch` (counted from 1), `train_loss`, `valid_loss`.
        ax: where to draw; a new figure by default.
    """
    ax = ax or plt.subplots(figsize=(7, 4.5), layout="constrained")[1]
    for name in ("train_loss", "valid_loss"):
        ax.plot(history["epoch"], history[name], marker="o", ms=4, label=name.replace("_", " "))
    ax.set(xlabel="epoch", ylabel="loss")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax


def _short(text, max_chars: int) -> str:
    """`text` cut to `max_chars` in the middle, so that a year in parentheses at its end stays."""
    text = str(text)
    if len(text) <= max_chars:
        return text
    tail = (re.findall(r" ?\([^()]{1,8}\)$", text) or [""])[0]
    tail = tail if len(tail) < max_chars - 1 else ""
    return text[: max_chars - 1 - len(tail)].rstrip() + "…" + tail
