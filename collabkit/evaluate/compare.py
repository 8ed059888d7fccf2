"""`compare`: several models on one task, with paired differences to the first."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from collabkit.data.checks import whole
from collabkit.data.dataset import Dataset
from collabkit.data.frames import takes_tables
from collabkit.evaluate.by_user import Judge
from collabkit.evaluate.names import read_metrics, split_errors
from collabkit.evaluate.tables import interval_columns
from collabkit.evaluate.task import RankingTask, held_out, refuse_strangers
from collabkit.models.base import Model, answering
from collabkit.models.closed_form import in_words, model_and_data

__all__ = ["compare", "model_labels"]


@takes_tables
def compare(
    models: Sequence | Mapping, *, names: Sequence[str] | None = None, k: int | Iterable[int] = 10,
    metrics: Iterable | None = None, candidates=None, on="valid", threshold: float | None = None, n_boot: int = 1000,
    seed: int = 0, max_memory: int | str = "512MB", filter_seen: bool | str = True, n_users: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Compare metrics of several models on the same users, relevant items and candidates, or on the same ratings.

    Args:
        models: learners, `Recommender`s and baselines; an unfitted baseline is fitted on the training part of the first
            fitted model. Or a dict from names to models.
        names: names for the table; default the class names, numbered if several are equal.
        k, metrics, candidates, on, threshold, n_boot, seed, max_memory, filter_seen, n_users: as in
            `Recommender.evaluate`; the default metrics are those of rankings. RMSE and MAE need models that predict
            ratings, and use the rows of known users.

    Returns:
        DataFrame with index `(metric, model)` and columns `value`, `low`, `high` (95 %), `difference` (to the first
        model, paired by user), `diff_low`, `diff_high`, `n` (users, or ratings for errors). If an interval contains 0,
        the difference may be chance. The name of the columns states what is relevant, and whether seen items are
        candidates.

    Raises:
        ValueError: models differ in users, items, training or validation rows; no model is fitted; names are repeated.
        TypeError: an element of `models` is not a model.

    Example:
        >>> compare([learn, Popularity(), EASE()], k=[5, 10], metrics=['NDCG'])  # doctest: +SKIP
    """
    errors, ranked = ([], None) if metrics is None else split_errors(metrics)
    whole("n_boot", n_boot)
    models, names = _listed(models, names)
    given = _with_data(models)
    labels, data = _labels(models, names), given[0][1]
    tables = [_errors(name, models, data, labels, on, n_users, n_boot, seed) for name in errors]
    title = "errors of ratings"
    if ranked or not errors:
        options = {"threshold": threshold, "filter_seen": filter_seen, "n_users": n_users, "seed": seed}
        task = RankingTask.make(data, on, candidates=candidates, **options)
        if len(task) == 0:
            refuse_strangers(held_out(data, on))
            raise ValueError("the evaluated rows hold no relevant item of a known user; there is nothing to compare on")
        models_of = dict(zip(labels, (model for model, _ in given), strict=True))
        tables.append(_ranked(task, models_of, read_metrics(ranked, k), max_memory, n_boot, seed))
        title = task.title
    return pd.concat(tables).set_index(["metric", "model"]).rename_axis(columns=title)


def _listed(models, names) -> tuple[list, Sequence[str] | None]:
    """The models as a list, and their names: those of a dict are its keys."""
    if isinstance(models, Mapping):
        if names is not None:
            raise TypeError("models is a dict from names to models: leave names= out")
        return list(models.values()), [str(name) for name in models]
    if isinstance(models, str) or not isinstance(models, Iterable):
        raise TypeError(f"compare takes a list of models, e.g. compare([learn, Popularity()]), got {in_words(models)}")
    return list(models), names


def _ranked(
    task: RankingTask, models: dict[str, Model], wanted: tuple, max_memory: int | str, n_boot: int, seed: int
) -> pd.DataFrame:
    """The rows of the ranking metrics, `wanted` as `read_metrics` gives them; by metric, then by model."""
    metric_names, ks, asked = wanted
    tables, first = [], None
    for label, model in models.items():
        with answering(model):
            answer = task.rank(model, metric_names, ks, max_memory)
        values = answer.measure(metric_names, ks, task.facts, asked)
        own = first is None
        first = values if own else first
        table = interval_columns(values, first, len(answer.n_candidates), n_boot=n_boot, seed=seed)
        if own:
            table[["difference", "diff_low", "diff_high"]] = np.nan
        tables.append(table.assign(metric=[task.name(*key) for key in values], model=label))
    table = pd.concat(tables)
    order = {task.name(*key): j for j, key in enumerate(first)}
    return table.iloc[np.argsort(table["metric"].map(order).to_numpy(), kind="stable")]


def _errors(
    metric: str, models: Sequence, data: Dataset, labels: list[str], on, n_users: int | None, n_boot: int, seed: int
) -> pd.DataFrame:
    """The rows of one error of ratings, a row per model."""
    judge, first, rows = Judge(data, metric, on, most=n_users, seed=seed), None, []
    for model, label in zip(models, labels, strict=True):
        scores = judge(model)
        low, high = scores.interval(n_boot, seed)
        row = {"value": scores.value, "low": low, "high": high, "difference": np.nan, "diff_low": np.nan,
               "diff_high": np.nan}  # fmt: skip
        if first is not None:
            row |= dict(
                zip(("difference", "diff_low", "diff_high"), scores.difference(first, n_boot, seed), strict=True)
            )
        first = first or scores
        rows.append(row | {"n": int(scores.counts.sum()), "metric": metric, "model": label})
    return pd.DataFrame(rows)


def _with_data(models: list) -> list[tuple[Model, Dataset]]:
    """Each model and its data, closed-form ones fitted, all on the same data."""
    if not models:
        raise ValueError("compare() needs at least one model, got an empty list")
    found = [model_and_data(given) for given in models]
    fitted = next((data for _, data in found if data is not None), None)
    if fitted is None:
        raise ValueError("no model is fitted: fit one of the baselines first, e.g. Popularity().fit(dls)")
    found = [(model, data) if data is not None else (model.fit(fitted), fitted) for model, data in found]
    for j, (_, data) in enumerate(found[1:], start=2):
        for what, same in (
            ("users", data.users == fitted.users),
            ("items", data.items == fitted.items),
            ("training rows", _same_rows(data.train, fitted.train)),
            ("validation rows", _same_rows(data.valid, fitted.valid)),
        ):
            if not same:
                raise ValueError(
                    f"model {j} of compare() ({type(models[j - 1]).__name__}) has different {what} from the first; "
                    "train all of them on the same CollabDataLoaders"
                )
    return found


def _same_rows(a, b) -> bool:
    """Whether two parts hold the same (user, item) pairs, in any order."""
    if a is b or a is None or b is None:
        return a is b
    return len(a) == len(b) and torch.equal(a.pair_keys().sort().values, b.pair_keys().sort().values)


def _labels(models: Sequence, names: Sequence[str] | None) -> list[str]:
    if names is not None:
        if len(names) != len(models) or len(set(names)) < len(names):
            raise ValueError(f"names must be {len(models)} different texts, one per model, got {list(names)!r}")
        return list(names)
    return model_labels(models)


def model_labels(models: Sequence, names: Sequence[str | None] | None = None) -> list[str]:
    """Names of models in tables: from `names` or else their own, numbered if several are equal."""
    given = names or [None] * len(models)
    own = [getattr(model, "name", None) or type(getattr(model, "model", model)).__name__ for model in models]
    plain = [name or label for name, label in zip(given, own, strict=True)]
    return [f"{name} {plain[: j + 1].count(name)}" if plain.count(name) > 1 else name for j, name in enumerate(plain)]
