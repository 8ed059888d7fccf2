"""A plot of the cost of a knob of the lists."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

__all__ = ["plot_tradeoff"]

# A method of `CollabInterpretation`.


def plot_tradeoff(interp, knob: str = "diversity", values=None, *, ax: Axes | None = None, **options) -> Axes:
    """The metric against the gain from a knob of `recommend`, one point per value, with the interval of its change.

    Args:
        knob, values, **options: as in `Recommender.tradeoff`.
        ax: where to draw; a new figure by default.
    """
    table = interp.recommender.tradeoff(knob, values, **options)
    metric = table.columns[0]
    gain = {"diversity": "unlikeness", "freshness_weight": "age"}.get(knob)
    gain = next(name for name in table.columns if name == gain or (gain is None and name.startswith("Novelty")))
    ax = ax or plt.subplots(layout="constrained")[1]
    level = table[metric]
    ax.errorbar(
        table[gain], level, [table["change"] - table["low"], table["high"] - table["change"]], marker="o", capsize=3
    )
    for value, x, y in zip(table.index, table[gain], level, strict=True):
        ax.annotate(f"{value:g}", (x, y), xytext=(5, 5), textcoords="offset points")
    ax.set(xlabel=gain, ylabel=metric, title=f"{knob}: {metric} and {gain}")
    return ax
