"""The layers of the package, in order: a module imports from its own folder and from those above it.

The one list from which the table in ARCHITECTURE.md and the import test are made: `python docs/layers.py` writes the
table.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINE = "the line: above it torch, NumPy and pandas; below it fastai too"
LAYERS = {
    "data": "`Vocab`, `Interactions`, `Runs`, `Query`, `Dataset`; `prepare`; filters, splits, features",
    "datasets": "`movielens`, `synthetic`, `read_interactions`",
    "losses": "losses of ratings, and of the scores of positives and negatives",
    "models": "`Model` and its two `Side`s, scorers, and one file a model, the closed-form ones too",
    "retrieval": "exact top k and ranks, `Tilt`, `Diversity`, the `Index` protocol, nearest neighbours",
    "coldstart": "default rows, rows by features, new ids, `fold_in/`, the questionnaire",
    "evaluate": "metrics, `RankingTask`, candidates, tables with intervals and baselines, `compare`, `audit`",
    "serve": "the artefact; `Recommender`, which answers by ids; `light/`, by NumPy alone; `web/`, over HTTP",
    LINE: "",
    "train": "`Loader` and its batches, `sampling/`, dataloaders, the loop, optimisers, callbacks, learner, `backtest`",
    "interpret": "`CollabInterpretation`, what features contribute, plots, the questionnaire as a form",
    "cli": "the command, the demo",
    "all": "for `from collabkit.all import *` in notebooks",
}
ABOVE = list(LAYERS)[: list(LAYERS).index(LINE)]
ORDER = [name for name in LAYERS if name != LINE]
# The imports of a lower layer, made when they are needed: a fitted model's own `recommend` is that of a `Recommender`,
# and the solver of least squares, which knows nothing of fastai, lies with the training.
DEFERRED = {("models.closed_form", "serve"), ("coldstart.update", "train")}


def table() -> str:
    """The layers as a Markdown table."""
    rows = [f"| *{name}* | |" if name == LINE else f"| `{_name(name)}` | {what} |" for name, what in LAYERS.items()]
    return "\n".join(["| layer | what it holds |", "|---|---|", *rows])


def _name(layer: str) -> str:
    return f"{layer}/" if (ROOT / "collabkit" / layer).is_dir() else f"{layer}.py"


def replaced(text: str) -> str:
    """`text` with the table between its marks."""
    start, end = "<!-- layers -->\n", "<!-- end of layers -->"
    return text[: text.index(start) + len(start)] + table() + "\n" + text[text.index(end) :]


if __name__ == "__main__":
    page = ROOT / "ARCHITECTURE.md"
    page.write_text(replaced(page.read_text(encoding="utf-8")), encoding="utf-8")
