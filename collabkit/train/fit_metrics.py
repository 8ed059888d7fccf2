"""Ranking metrics on the validation part in each epoch, next to the loss: `collab_learner(metrics=['NDCG@10'])`."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
from fastai.learner import Metric

from collabkit.data.checks import check_seed, one_of, shown
from collabkit.data.dataset import Dataset
from collabkit.data.interactions import Interactions
from collabkit.evaluate.candidates import SampledCandidates
from collabkit.evaluate.draw import users_label
from collabkit.evaluate.metrics import bootstrap_interval
from collabkit.evaluate.names import ERRORS, read_name
from collabkit.evaluate.task import CUT_METRICS, RankingTask, check_ks, metric_name, metric_values
from collabkit.models.base import as_model, evaluating

__all__ = [
    "RankingMetric", "HitRate", "Precision", "Recall", "NDCG", "MAP", "MRR", "RatingError", "as_metric",
]  # fmt: skip


def as_metric(metric):
    """One of a learner's `metrics` in fastai's form: a name as in tables, `'NDCG@10'`, becomes the metric of that name.

    A plain function of `ranks`, `groups` and `k`, like those of `collabkit.metrics`, becomes a `RankingMetric`; those
    of fastai and functions of predictions and targets are unchanged.

    Raises:
        ValueError: there is no metric of that name in training.

    Example:
        >>> as_metric('HR@5').name, as_metric('NDCG').name, as_metric('RMSE').name
        ('HitRate@5', 'NDCG@10', 'RMSE')
    """
    if isinstance(metric, str):
        name, cut = read_name(metric)
        if name in ERRORS:
            return RatingError(name)
        if name not in CUT_METRICS:
            raise ValueError(f"{name} is available in evaluate and compare only; training has "
                             f"{', '.join((*CUT_METRICS, *ERRORS))}, got {shown(metric)}")  # fmt: skip
        return RankingMetric(10 if cut is None else cut, function=CUT_METRICS[name])
    ranked = inspect.isfunction(metric) and list(inspect.signature(metric).parameters)[:3] == ["ranks", "groups", "k"]
    return RankingMetric(function=metric) if ranked else metric


class RankingMetric(Metric):
    """A metric of the ranks of the validation part's relevant items: one of its subclasses, or a function.

    All metrics of a learner with the same candidates share one ranking pass per validation, at their largest k. The
    value is the same as in `learn.evaluate`, without interval and baseline. Callbacks monitor it by its name, e.g.
    `SaveModelCallback(monitor='NDCG@10')`.

    Args:
        k: cut-off.
        candidates: None for all unseen items, or `SampledCandidates(n, seed)`, which is then part of the name; its
            items are drawn once and are the same in every epoch.
        threshold: a validation item rated at least this is relevant. The default is the median training rating, or, if
            that is the lowest rating, the median of the ratings above it. Without ratings all items are relevant.
        function: a function of `ranks` `(n,)`, `groups` `(n,)` and `k` that returns a value per user; see
            `collabkit.metrics`. A learner wraps such a function in `RankingMetric(function=mine)`.
        n_users: rank only for this many users, as in `learn.evaluate`; the same ones in every epoch, or all if there
            are fewer. The name states it, and `interval` gives the uncertainty.
        seed: seed for drawing these users.

    Raises:
        ValueError: `k` or `n_users` < 1.
        TypeError: `candidates` is neither; in validation, the model is not one of collabkit's.
    """

    metric = ""

    def __init_subclass__(cls, metric: str = "", **kwargs):
        super().__init_subclass__(**kwargs)
        cls.metric = metric or cls.metric

    def __init__(
        self, k: int = 10, candidates: SampledCandidates | None = None, threshold: float | None = None,
        function: Callable | None = None, n_users: int | None = None, seed: int = 0,
    ):  # fmt: skip
        if not isinstance(candidates, (SampledCandidates, type(None))):
            raise TypeError(f"candidates must be None or SampledCandidates(99), got {type(candidates).__name__}")
        (self.k,) = check_ks([k])
        self.candidates, self.threshold = candidates, threshold
        self._users_label = "" if n_users is None else users_label(n_users)
        self.n_users, self.seed = None if n_users is None else int(n_users), check_seed(seed)
        self.function = CUT_METRICS.get(self.metric) if function is None else function
        if self.function is None:
            raise TypeError("RankingMetric needs a function of ranks, groups and k; or take HitRate(10) or the like")
        known = {own: name for name, own in CUT_METRICS.items()}  # the library's functions have names as in tables
        self.title = known.get(self.function) or metric_name(self.function)
        self._task: tuple[Dataset, Interactions, RankingTask] | None = None
        self.reset()

    def reset(self):
        """Forget the last validation."""
        self._learn, self._answer = None, None

    def accumulate(self, learn):
        """Note which learner validates; a batch adds nothing, as ranks need no batches."""
        if not learn.training:
            self._learn = learn

    @property
    def name(self) -> str:
        """As in tables: `'NDCG@10'`, `'NDCG@10 (99 negatives)'`, or `'NDCG@10 (10,000 users)'`."""
        labels = (self.candidates.label if self.candidates else "", self._users_label)
        return " ".join(filter(None, (f"{self.title}@{self.k}", *labels)))

    @property
    def value(self) -> float | None:
        """The mean over users; NaN if none has a relevant item, None before a validation."""
        if self._answer is None:
            if self._learn is None:
                return None
            if isinstance(self._learn.dl, list):  # a single batch, as in show_results: no part to rank
                return float("nan")
            self._rank()
        return float(self._values.mean()) if len(self._answer.ranks) else float("nan")

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % bootstrap interval over users of the `value`; None before a validation."""
        if self.value is None or self._answer is None:
            return None
        if len(self._answer.ranks) == 0:
            return float("nan"), float("nan")
        values = self._values[:, None]
        low, high = bootstrap_interval(values, np.ones(len(values)), n_boot=1000, seed=self.seed)
        return float(low[0]), float(high[0])

    @property
    def _values(self) -> np.ndarray:
        """The metric of each user `(n,)`."""
        return metric_values(self.function, self._answer.ranks, self._answer.groups, self.k)

    @property
    def _asked(self) -> tuple:
        """The key of its ranking pass."""
        return self.candidates, self.threshold, self.n_users, self.n_users and self.seed

    def _rank(self) -> None:
        """One pass, for this metric and all others of the learner that share it."""
        learn = self._learn
        alike = [m for m in learn.metrics if isinstance(m, RankingMetric) and m._asked == self._asked]
        alike = alike if any(m is self for m in alike) else [*alike, self]
        task = self._find_task(alike)
        with evaluating(learn.model):
            answer = task.rank(learn.model, [self.title], [max(m.k for m in alike)]) if len(task) else task.no_answer()
        for metric in alike:
            metric._answer = answer

    def _find_task(self, alike: list[RankingMetric]) -> RankingTask:
        """The task of the validated rows, made once for all metrics `alike`."""
        learn = self._learn
        data, rows = learn.dls.data, getattr(learn.dl, "dataset", None)
        if as_model(learn.model) is None or not isinstance(rows, Interactions):
            found = type(learn.model).__name__
            raise TypeError(f"{self.name} needs one of collabkit's models and loaders, got {found}")
        for metric in alike:
            if metric._task is not None and metric._task[0] is data and metric._task[1] is rows:
                return metric._task[2]
        options = {"candidates": self.candidates, "threshold": self.threshold, "test": rows}
        options |= {"n_users": self.n_users, "seed": self.seed}
        task = RankingTask.make(Dataset(data.train, folded=data.folded), **options)
        for metric in alike:
            metric._task = (data, rows, task)
        return task


class HitRate(RankingMetric, metric="HitRate"):
    """`metrics.hit_rate` on the validation part; arguments as in `RankingMetric`."""


class Precision(RankingMetric, metric="Precision"):
    """`metrics.precision` on the validation part; arguments as in `RankingMetric`."""


class Recall(RankingMetric, metric="Recall"):
    """`metrics.recall` on the validation part; arguments as in `RankingMetric`."""


class NDCG(RankingMetric, metric="NDCG"):
    """`metrics.ndcg` on the validation part; arguments as in `RankingMetric`."""


class MAP(RankingMetric, metric="MAP"):
    """`metrics.average_precision` on the validation part; arguments as in `RankingMetric`."""


class MRR(RankingMetric, metric="MRR"):
    """`metrics.reciprocal_rank` on the validation part; arguments as in `RankingMetric`."""


class RatingError(Metric):
    """The RMSE or MAE of the validation ratings, those of `evaluate`; `metrics=['RMSE']` makes one.

    Args:
        error: `'RMSE'` or `'MAE'`.
    """

    def __init__(self, error: str = "RMSE"):
        one_of("error", error, ERRORS)
        self.error = error
        self.reset()

    def reset(self):
        """Forget the last validation."""
        self._sum, self._n = 0.0, 0

    def accumulate(self, learn):
        """Add a batch."""
        if not learn.yb or getattr(learn.dls, "feedback", "explicit") == "implicit":
            raise TypeError(f"{self.error} is an error of predicted ratings, and these batches have none")
        off = learn.to_detach(learn.pred).double().flatten() - learn.to_detach(learn.y).double().flatten()
        self._sum += float((off.square() if self.error == "RMSE" else off.abs()).sum())
        self._n += off.numel()

    @property
    def name(self) -> str:
        """As in tables."""
        return self.error

    @property
    def value(self) -> float | None:
        """Over all ratings so far; None without any."""
        if self._n == 0:
            return None
        mean = self._sum / self._n
        return mean**0.5 if self.error == "RMSE" else mean
