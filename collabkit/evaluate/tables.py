"""Evaluation: predictions and ranks of held-out rows -> a DataFrame with intervals and baselines."""

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.data.checks import one_of, whole
from collabkit.data.dataset import Dataset
from collabkit.data.frames import takes_tables
from collabkit.data.interactions import Interactions
from collabkit.data.query import Query
from collabkit.evaluate import metrics
from collabkit.evaluate.lists import LIST_METRICS
from collabkit.evaluate.names import read_metrics, split_errors
from collabkit.evaluate.references import UserItemBias
from collabkit.evaluate.task import Ranked, RankingTask, held_out, refuse_strangers
from collabkit.models.base import Model, answering
from collabkit.models.scorers import refuse_nan
from collabkit.retrieval.diversity import Diversity
from collabkit.retrieval.tilt import Tilt

__all__ = [
    "evaluate", "evaluate_ratings", "evaluate_ranking", "deciles", "cold_parts", "join_tables", "predict_ratings",
    "interval_columns", "column_mean",
]  # fmt: skip

RANKING_COLUMNS = ["value", "low", "high", "popularity", "difference", "diff_low", "diff_high", "n"]
PARTS = ("warm", "cold item", "cold user", "cold both")


@takes_tables
def evaluate(
    model: Model, data: Dataset, on="valid", *, k: int | Iterable[int] = 10, metrics: Iterable | None = None,
    candidates=None, by: str | None = None, threshold: float | None = None, n_boot: int = 1000, seed: int = 0,
    max_memory: int | str = "512MB", tilt: Tilt | None = None, diversity: Diversity | None = None,
    filter_seen: bool | str = True, n_users: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Rating errors and ranking metrics of a model on held-out rows; see `Recommender.evaluate`."""
    errors, wanted = split_errors(metrics)
    test = held_out(data, on)
    rated = test.rating is not None and data.rated and model.predicts_ratings
    if errors and metrics is not None and not (rated and by in (None, "cold")):
        if rated:
            raise ValueError(f"{', '.join(errors)}: only with by=None or by='cold', got by={by!r}")
        why = "these events have none" if not data.rated else f"{type(model).__name__} predicts none"
        raise ValueError(f"{', '.join(errors)}: only for predicted ratings, and {why}; take ranking metrics, e.g. "
                         "metrics=['NDCG@10', 'HitRate@10']")  # fmt: skip
    whole("n_boot", n_boot)
    options = {"threshold": threshold, "test": test, "filter_seen": filter_seen, "n_users": n_users, "seed": seed}
    task = RankingTask.make(data, on, candidates=candidates, **options)
    if len(task) == 0 and not (rated and errors):
        refuse_strangers(test)
    common, lean = {"by": by, "n_boot": n_boot, "seed": seed}, {"tilt": tilt, "diversity": diversity}
    with answering(model):
        table = None
        if wanted or wanted is None or not errors:
            table = evaluate_ranking(model, task, k=k, metrics=wanted, max_memory=max_memory, **lean, **common)
        if rated and errors and by in (None, "cold"):
            groups = on[data.columns.user].factorize()[0] if isinstance(on, pd.DataFrame) else None
            found = evaluate_ratings(model, data, test, groups=groups, **common)
            found = found[found.index.get_level_values("metric").isin(errors)]
            table = found if table is None else join_tables(found, table)
    last = [c for c in ("difference", "diff_low", "diff_high", "n") if c in table]
    table = table[[c for c in table.columns if c not in last] + last].astype({"n": int})
    return table.rename_axis(columns=task.title)


@torch.inference_mode()
def predict_ratings(model: Model, query: Tensor | Query, item_idx: Tensor, *, batch: int = 65_536) -> Tensor:
    """Predicted ratings `(n,)` float32 on the CPU for a query of `n` and items `(n,)`; NaN raises `ValueError`."""
    device = model.device
    parts = [
        model(query[at : at + batch].to(device), item_idx[at : at + batch].to(device)).float().cpu()
        for at in range(0, len(item_idx), batch)
    ]
    ratings = torch.cat(parts) if parts else torch.zeros(0)
    refuse_nan(ratings)
    return ratings


def evaluate_ratings(
    model: Model, data: Dataset, test: Interactions, *, groups: np.ndarray | None = None, by: str | None = None, n_boot:
    int = 1000, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """RMSE and MAE of the ratings in `test`, beside the global mean and the user + item bias baseline.

    Args:
        model: in evaluation mode.
        data: what it was trained on.
        test: interactions with ratings, encoded with the same vocabularies.
        groups: `(n,)` the user of each row, for the bootstrap; default the encoded users, all unknown ones as one.
        by: None, or `'cold'` for a table per part of `cold_parts`.
        n_boot, seed: of the bootstrap over users.

    Returns:
        DataFrame indexed by metric, or part and metric, with columns `value`, `low`, `high` (95 % interval), one per
        baseline, `difference` (`value` less `user+item bias`, by user), `diff_low`, `diff_high`, `n` (ratings).
    """
    train = data.train
    target = test.rating.double().numpy()
    groups = test.user_idx.numpy() if groups is None else groups
    predictions = {"value": predict_ratings(model, data.query_of(test, model.needs), test.item_idx).double().numpy()}
    baselines = {"global mean": UserItemBias(train, n_sweeps=0), "user+item bias": UserItemBias(train)}
    for name, baseline in baselines.items():
        predictions[name] = baseline.predict(test.user_idx, test.item_idx).numpy()
    table = partial(_rating_errors, predictions, target, groups, n_boot=n_boot, seed=seed)
    if by is None:
        return table(slice(None))
    parts = cold_parts(train, test.user_idx, test.item_idx)
    return pd.concat({part: table(rows) for part, rows in parts}, names=["part", "metric"])


def _rating_errors(
    predictions: dict[str, np.ndarray], target: np.ndarray, groups: np.ndarray, rows, *, n_boot: int, seed: int
) -> pd.DataFrame:
    """The table of `evaluate_ratings` for the `rows`, a mask or a slice."""
    predictions, target = {name: p[rows] for name, p in predictions.items()}, target[rows]
    groups = pd.factorize(groups[rows], sort=True)[0]
    error = predictions["value"] - target
    other = predictions["user+item bias"] - target
    terms = [(np.square(error), np.square(other)), (np.abs(error), np.abs(other))]
    columns = [np.bincount(groups, part) for a, b in terms for part in (a, a - b)]
    low, high = metrics.bootstrap_interval(np.stack(columns, axis=1), np.bincount(groups), n_boot=n_boot, seed=seed)
    table = pd.DataFrame(
        {name: {"RMSE": metrics.rmse(p, target), "MAE": metrics.mae(p, target)} for name, p in predictions.items()}
    )
    table.insert(1, "low", [np.sqrt(low[0]), low[2]])
    table.insert(2, "high", [np.sqrt(high[0]), high[2]])
    table["difference"] = table["value"] - table["user+item bias"]
    squares = metrics.root_ends((low[1], high[1]), *table.loc["RMSE", ["value", "user+item bias"]])
    table["diff_low"], table["diff_high"] = [squares[0], low[3]], [squares[1], high[3]]
    return table.assign(n=len(target)).rename_axis("metric")


def evaluate_ranking(
    model: Model, task: RankingTask, *, k: int | Iterable[int] = 10, metrics: Iterable[str] | None = None,
    by: str | None = None, n_boot: int = 1000, seed: int = 0, max_memory: int | str = "512MB", tilt: Tilt | None = None,
    diversity: Diversity | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Ranking metrics of a model on a task, beside popularity; one pass over the scores yields all of them.

    Args:
        model: in evaluation mode.
        task: the users, their relevant items and their candidates.
        k, metrics, n_boot, seed, max_memory: as in `Recommender.evaluate`.
        tilt, diversity: what is ranked in place of the scores alone.
        by: `'user_activity'`: by decile of the users' training rows; `'item_popularity'`: by decile of the relevant
            items' training rows, each item counting in its decile as if it were all that is relevant. The index is then
            decile, its smallest and largest number (`from`, `to`), and metric; see `deciles`. `'item_age'`: by decile
            of the days from the item's first event to the row; see `RankingTask.item_ages`. `'cold'`: by whether the
            pairs' users and items have training rows; see `cold_parts`.

    Returns:
        DataFrame indexed by metric, with columns `value`, `low`, `high` (95 %), `popularity`, `difference` (`value`
        less `popularity`, by user), `diff_low`, `diff_high`, `n` (users that the value is a mean over); the ends are
        NaN for Coverage and Gini, which are not means over users. Empty if the task is empty.

    Raises:
        ValueError: `k` < 1, an unknown metric, a metric of lists with `by` items, or another `by`;
            `'item_age'` without times.
    """
    names, ks, asked = read_metrics(metrics, k)
    levels, split = _check_by(by, names)
    if len(task) == 0:
        return pd.DataFrame(columns=[*levels, "metric", *RANKING_COLUMNS]).set_index([*levels, "metric"])
    chosen = None if split is None else list(split(task))  # first, as it may raise an error
    answers = (task.rank(model, names, ks, max_memory, tilt, diversity), task.rank_by_popularity(names, ks, max_memory))
    options = {"asked": asked, "n_boot": n_boot, "seed": seed}
    if chosen is None:
        return _table(task, *answers, names, ks, **options)
    parts = {
        key: _table(task, *(answer.only(pairs) for answer in answers), names, ks, **options) for key, pairs in chosen
    }
    return pd.concat(parts, names=[*levels, "metric"])


def deciles(value: np.ndarray) -> Iterator[tuple[int, float, float, np.ndarray]]:
    """`(decile 1..10, smallest value, largest value, mask (n,))` of each tenth of `value` `(n,)`.

    Equal values are in the same decile, so deciles may differ in size; empty ones are left out.
    """
    edges = np.quantile(value, np.arange(1, 10) / 10, method="inverted_cdf")
    place = np.searchsorted(edges, value, side="left") + 1
    for decile in sorted(set(place.tolist())):
        mask = place == decile
        yield int(decile), value[mask].min(), value[mask].max(), mask


def cold_parts(train: Interactions, user_idx: Tensor, item_idx: Tensor) -> Iterator[tuple[str, np.ndarray]]:
    """`(part, mask (n,))` of pairs `(n,)` by whether their user and item have training rows; empty parts are left out.

    `'warm'`: both have; `'cold item'`: only the item has none; `'cold user'`: only the user has none; `'cold both'`.
    Unknown ids (index 0) have none.

    Example:
        >>> from collabkit.data.interactions import Columns
        >>> rows = pd.DataFrame({'user': ['ann', 'bob'], 'item': [1, 2]})
        >>> data = Interactions.from_df(rows, Columns('user', 'item'))
        >>> parts = cold_parts(data.take([0]), torch.tensor([1, 1, 2]), torch.tensor([1, 2, 0]))
        >>> [(part, mask.tolist()) for part, mask in parts]
        [('warm', [True, False, False]), ('cold item', [False, True, False]), ('cold both', [False, False, True])]
    """
    cold = []
    for side, asked in (("item", item_idx), ("user", user_idx)):
        met = (train.counts(side) > 0).numpy()
        met[0] = False
        cold.append(~met[asked.numpy()])
    place = cold[0] + 2 * cold[1]  # in PARTS
    for j in sorted(set(place.tolist())):
        yield PARTS[j], place == j


def join_tables(errors: pd.DataFrame, ranking: pd.DataFrame) -> pd.DataFrame:
    """Rating errors above ranking metrics, within each part if both are by part; an empty `ranking` adds nothing."""
    if len(ranking) == 0:
        return errors
    table = pd.concat([errors, ranking])
    if "part" not in table.index.names:
        return table
    place = [PARTS.index(part) for part in table.index.get_level_values("part")]
    return table.iloc[np.argsort(place, kind="stable")]


def _check_by(by: str | None, names: list):
    """Names of the index levels before the metric's, and the function from a task to `(key, mask of pairs)`."""
    if by is None:
        return [], None
    one_of("by", by, (None, *_BY))
    wrong = sorted({name for name in names if name in LIST_METRICS})
    if by != "user_activity" and wrong:
        raise ValueError(f"{', '.join(wrong)} describe(s) users' lists; by={by!r} has none")
    return _BY[by]


def _user_activity(task: RankingTask) -> Iterator[tuple[tuple, np.ndarray]]:
    rows = task.train.counts("user").numpy()
    return ((tuple(key), users[task.groups]) for *key, users in deciles(rows[task.unique]))


def _item_popularity(task: RankingTask) -> Iterator[tuple[tuple, np.ndarray]]:
    return ((tuple(key), pairs) for *key, pairs in deciles(task.facts.counts[task.items.numpy()].astype(np.int64)))


def _item_age(task: RankingTask) -> Iterator[tuple[tuple, np.ndarray]]:
    return ((tuple(key), pairs) for *key, pairs in deciles(task.item_ages))


def _cold(task: RankingTask) -> Iterator[tuple[str, np.ndarray]]:
    return cold_parts(task.train, task.users, task.items)


_DECILE = ["decile", "from", "to"]
_BY = {
    "user_activity": (_DECILE, _user_activity),
    "item_popularity": (_DECILE, _item_popularity),
    "item_age": (_DECILE, _item_age),
    "cold": (["part"], _cold),
}


def _table(
    task: RankingTask, answer: Ranked, popular: Ranked, names: list, ks: list[int], *, asked: list | None, **options
) -> pd.DataFrame:  # fmt: skip
    """The rows of `evaluate_ranking` from the answers of the model and of popularity."""
    values, base = (ranked.measure(names, ks, task.facts, asked) for ranked in (answer, popular))
    table = interval_columns(values, base, len(answer.n_candidates), **options)
    table.insert(3, "popularity", [column_mean(base[key]) for key in values])
    return table.set_axis(pd.Index([task.name(*key) for key in values], name="metric"))


def interval_columns(values: dict, base: dict, n_users: int, *, n_boot: int, seed: int) -> pd.DataFrame:
    """Means and bootstrap intervals of a model's metrics and of their paired differences to another's.

    Args:
        values, base: `Ranked.measure` of the model and of the other, on one task.
        n_users: number of users.
        n_boot, seed: of the bootstrap; all metrics share the resamples.

    Returns:
        DataFrame, one row per metric: `value`, `low`, `high`, `difference`, `diff_low`, `diff_high`, `n`.
    """
    columns = {name: np.full(len(values), np.nan) for name in ("low", "high", "diff_low", "diff_high")}
    means, others = (np.array([column_mean(part[key]) for key in values]) for part in (values, base))
    spread = [j for j, value in enumerate(values.values()) if np.ndim(value)]
    if spread:
        pairs = [(value, value - base[key]) for key, value in values.items() if np.ndim(value)]
        matrix = np.column_stack([column for pair in pairs for column in pair])  # (n_users, 2 m)
        missing = np.isnan(matrix)
        weight = (~missing).astype(np.float64) if missing.any() else np.ones(n_users)
        matrix[missing] = 0
        ends = metrics.bootstrap_interval(matrix, weight, n_boot=n_boot, seed=seed)
        for end, own, difference in zip(ends, ("low", "high"), ("diff_low", "diff_high"), strict=True):
            columns[own][spread], columns[difference][spread] = end[0::2], end[1::2]
    low, high = columns.pop("low"), columns.pop("high")
    counts = [int(np.count_nonzero(~np.isnan(v))) if np.ndim(v) else n_users for v in values.values()]
    data = {"value": means, "low": low, "high": high, "difference": means - others, **columns, "n": counts}
    return pd.DataFrame(data)


def column_mean(value) -> float:
    """Mean over the users that have a value (NaN if none has); a number as it is."""
    if not np.ndim(value):
        return float(value)
    there = ~np.isnan(value)
    return float(np.mean(value[there])) if there.any() else np.nan
