"""Names of metrics: one name, such as `NDCG@10`, in `metrics=`, in `monitor=` and in tables."""

from __future__ import annotations

import re
from collections.abc import Iterable

from collabkit.data.checks import shown
from collabkit.data.notices import near_match
from collabkit.evaluate.task import METRICS, check_ks, check_metrics, listed, metric_name

__all__ = ["ERRORS", "read_name", "read_metrics", "same_name", "split_errors"]

ERRORS = ("RMSE", "MAE")
_NAMES = {name: name for name in (*METRICS, *ERRORS)} | {"HR": "HitRate"}


def read_name(text: str) -> tuple[str, int | None]:
    """The metric that a text names, spelt as in tables, and its cut-off, if any; `HR` is HitRate.

    Raises:
        ValueError: there is no such metric, or its cut-off is not a whole number of at least 1.

    Example:
        >>> read_name('NDCG@10'), read_name('HR@5'), read_name('RMSE')
        (('NDCG', 10), ('HitRate', 5), ('RMSE', None))
    """
    if not isinstance(text, str):
        raise TypeError(f"a metric is named by a text, e.g. 'NDCG@10', got {shown(text)}")
    word, at, cut = text.partition("@")
    if word not in _NAMES:
        raise ValueError(f"unknown metric(s) {[text]}; there are {', '.join(METRICS)}; for ratings {', '.join(ERRORS)}"
                         f"{near_match(word, _NAMES)}. Write a cut-off as in 'NDCG@10'")  # fmt: skip
    name = _NAMES[word]
    if not at:
        return name, None
    if not cut.isdigit():
        raise ValueError(f"the cut-off of a metric is a whole number, as in '{name}@10', got {text!r}")
    if name == "AUC" or name in ERRORS:
        raise ValueError(f"{name} has no cut-off, got {text!r}")
    return name, check_ks(int(cut))[0]


def same_name(text: str, names: Iterable[str]) -> str | None:
    """The one of `names` that a text means, ignoring case and `_`, with `HR` for HitRate; None if there is none.

    Example:
        >>> same_name('ndcg@10', ['valid_loss', 'NDCG@10']), same_name('hit_rate@5', ['HitRate@5'])
        ('NDCG@10', 'HitRate@5')
    """
    plain = {_plain(name): name for name in names}
    return text if text in plain.values() else plain.get(_plain(text))


def _plain(name: str) -> str:
    word, at, cut = name.partition("@")
    return re.sub(r"[\s_-]", "", _NAMES.get(word, word)).lower() + at + cut


def read_metrics(metrics: Iterable | str | None, k) -> tuple[list, list[int], list[tuple] | None]:
    """`(names, cut-offs, pairs)` of the metrics that `evaluate` and similar methods are called with.

    Args:
        metrics: names, with or without their own cut-off, and functions; None for the default ones.
        k: the cut-offs of those without one.

    Returns:
        The names and cut-offs to compute, and the requested keys of `Ranked.measure`, in order; None for all of them.

    Example:
        >>> read_metrics(['NDCG@20', 'HR'], k=[5, 10])
        (['NDCG', 'HitRate'], [5, 10, 20], [('NDCG', 20), ('HitRate', 5), ('HitRate', 10)])
    """
    ks = check_ks(k)
    given = check_metrics(None) if metrics is None else listed(metrics)
    if not any(isinstance(metric, str) for metric in given):
        return check_metrics(given), ks, None
    read = [read_name(metric) if isinstance(metric, str) else (metric, None) for metric in given]
    names = check_metrics([name for name, _ in read])
    if all(cut is None for _, cut in read):
        return names, ks, None
    keys = [
        (name if isinstance(name, str) else metric_name(name), cut)
        for name, own in read
        for cut in _cuts(name, own, ks)
    ]
    return names, sorted({cut for _, cut in keys if cut is not None}) or ks, list(dict.fromkeys(keys))


def split_errors(metrics) -> tuple[list[str], list | None]:
    """The errors of ratings among `metrics`, and the others; `(ERRORS, None)` for None."""
    if metrics is None:
        return list(ERRORS), None
    given = listed(metrics)
    names = {at: read_name(metric)[0] for at, metric in enumerate(given) if isinstance(metric, str)}
    errors = [names[at] for at in names if names[at] in ERRORS]
    return list(dict.fromkeys(errors)), [metric for at, metric in enumerate(given) if names.get(at) not in ERRORS]


def _cuts(name, own: int | None, ks: list[int]) -> list[int | None]:
    if name == "AUC":
        return [None]
    return ks if own is None else [own]
