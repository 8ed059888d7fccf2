"""`Judge`: one metric of any model, user by user, so that models are compared on the same users and subsets of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from collabkit.data.checks import shown
from collabkit.data.dataset import Dataset
from collabkit.data.notices import say
from collabkit.evaluate.draw import drawn_rows
from collabkit.evaluate.metrics import bootstrap_interval, root_ends
from collabkit.evaluate.names import ERRORS, read_name
from collabkit.evaluate.tables import predict_ratings
from collabkit.evaluate.task import CUT_METRICS, RankingTask, held_out, refuse_strangers
from collabkit.models.base import answering
from collabkit.models.closed_form import model_and_data

__all__ = ["Judge", "UserScores", "usual_metric"]

USERS = 1000  # users between two looks at the clock


def usual_metric(rated: bool) -> str:
    """The default metric by which models are chosen."""
    return "RMSE" if rated else "NDCG@10"


@dataclass(frozen=True)
class UserScores:
    """The terms of each user in a metric, which is `sum(sums) / sum(counts)`, or its root for RMSE.

    Args:
        metric: its name in tables.
        users: ids `(n,)`, each once.
        sums, counts: `(n,)` float64.

    Example:
        >>> a = UserScores('MAE', np.array([1, 2]), np.array([1.0, 4.0]), np.array([2.0, 2.0]))
        >>> b = UserScores('MAE', np.array([1, 2]), np.array([1.0, 2.0]), np.array([2.0, 2.0]))
        >>> a.value, b.gain_over(a)[0]
        (1.25, 0.5)
    """

    metric: str
    users: np.ndarray
    sums: np.ndarray
    counts: np.ndarray

    @property
    def small_is_good(self) -> bool:
        """Whether the metric is an error."""
        return self.metric in ERRORS

    @property
    def value(self) -> float:
        """The metric; NaN without users."""
        return self._metric(self.sums.sum() / self.counts.sum()) if self.counts.sum() > 0 else float("nan")

    def _metric(self, ratio: float) -> float:
        return float(np.sqrt(ratio) if self.metric == "RMSE" else ratio)

    def interval(self, n_boot: int = 1000, seed: int = 0) -> tuple[float, float]:
        """The 95 % interval over users."""
        low, high = bootstrap_interval(self.sums, self.counts, n_boot=n_boot, seed=seed)
        return self._metric(low), self._metric(high)

    def difference(self, other: UserScores, n_boot: int = 1000, seed: int = 0) -> tuple[float, float, float]:
        """`(value - other.value, low, high)`, with the interval of the difference on the same users.

        For RMSE it comes from the interval of the squares, see `root_ends`.

        Raises:
            ValueError: the two have different users.
        """
        if self.metric != other.metric or not np.array_equal(self.users, other.users):
            raise ValueError(f"{self.metric} and {other.metric} are of different users: judge both on the same rows")
        ends = bootstrap_interval(self.sums - other.sums, self.counts, n_boot=n_boot, seed=seed)
        ends = root_ends(ends, self.value, other.value) if self.metric == "RMSE" else map(float, ends)
        return self.value - other.value, *ends

    def gain_over(self, other: UserScores, n_boot: int = 1000, seed: int = 0) -> tuple[float, float, float]:
        """How much better than `other`, and the 95 % interval: above 0 is better, also for errors."""
        difference, low, high = self.difference(other, n_boot, seed)
        return (-difference, -high, -low) if self.small_is_good else (difference, low, high)

    def of(self, users: np.ndarray) -> UserScores:
        """The scores of some users."""
        mine = pd.Index(users).get_indexer_for(self.users) >= 0
        return replace(self, users=self.users[mine], sums=self.sums[mine], counts=self.counts[mine])

    @staticmethod
    def joined(parts: list[UserScores]) -> UserScores:
        """All `parts` together, each of different rows, such as the folds of a cross-validation."""
        table = pd.concat([pd.DataFrame({"sums": p.sums, "counts": p.counts}, index=p.users) for p in parts])
        table = table.groupby(level=0, sort=False).sum()
        return UserScores(parts[0].metric, table.index.to_numpy(), table["sums"].to_numpy(), table["counts"].to_numpy())


class Judge:
    """A metric of any model on held-out rows, user by user.

    Args:
        data: of the models that are judged.
        metric: a name, `'NDCG@10'`, one of ranks cut at k, or of ratings `'RMSE'` or `'MAE'`.
        on: `'valid'` or a table with the data's columns.
        most: maximum number of users; if there are more, a sample is drawn (counted in a `CollabWarning`).
        seed: of the draw.

    Raises:
        ValueError: an unknown metric; a rating error for events; no user has a relevant item.
    """

    def __init__(self, data: Dataset, metric: str, on="valid", *, most: int | None = None, seed: int = 0):
        self.name, cut = read_name(metric)
        self.data, self.k = data, 10 if cut is None else cut
        if self.name not in (*CUT_METRICS, *ERRORS):
            raise ValueError(f"models are chosen by one of {', '.join((*CUT_METRICS, *ERRORS))}, got {shown(metric)}")
        if self.name in ERRORS and not data.rated:
            raise ValueError(f"{self.name} is an error of predicted ratings, and these events have none: take "
                             "metric='NDCG@10'")  # fmt: skip
        self.metric = self.name if self.name in ERRORS else f"{self.name}@{self.k}"
        if isinstance(on, str) and data.valid is None:
            raise ValueError("there is no validation part to judge models by: make the dataloaders with one (valid_pct "
                             "or splitter=)")  # fmt: skip
        self.on, self.tasks, self.rows = on, [], None
        test, _, drawn = drawn_rows(held_out(data, on), most, seed)
        if drawn:
            say(f"models are judged on {drawn}, at random, of those with held-out rows")
        if self.name in ERRORS:
            self.rows = test.take((test.user_idx > 0).numpy())
            self.users = self.rows.user_idx.unique().numpy()
        else:
            whole = RankingTask.make(data, on, test=test)
            self.users = whole.unique
            n_parts = max(1, -(-len(self.users) // USERS))
            self.tasks = [self._part(whole, part) for part in np.array_split(self.users, n_parts)]
        if len(self.users) == 0:
            refuse_strangers(test)
            raise ValueError("the held-out rows hold no relevant item of a known user; there is nothing to judge by")

    def _part(self, task: RankingTask, users: np.ndarray) -> RankingTask:
        mine = torch.from_numpy(np.isin(task.users.numpy(), users))
        options = {"candidates": task.candidates, "title": task.title, "context": task.context}
        return RankingTask(task.data, task.users[mine], task.items[mine], task.hidden, rows=task._rows,
                           is_valid=task._is_valid, **options)  # fmt: skip

    def __call__(self, given, check: Callable[[], None] = lambda: None) -> UserScores:
        """The scores of a learner, `Recommender` or fitted closed-form model.

        Args:
            given: the model; one that predicts no ratings is judged only by ranks.
            check: called from time to time; its errors are passed on.
        """
        model, _ = model_and_data(given)
        if self.name in ERRORS and not model.predicts_ratings:
            raise ValueError(f"{type(model).__name__} predicts no ratings, so it has no {self.name}")
        with answering(model):
            sums, counts = self._errors(model) if self.name in ERRORS else self._ranks(model, check)
        return UserScores(self.metric, self.data.users.decode(self.users).to_numpy(), sums, counts)

    def _ranks(self, model, check) -> tuple[np.ndarray, np.ndarray]:
        values = []
        for task in self.tasks:
            check()
            answer = task.rank(model, [self.name], [self.k])
            values.append(answer.measure([self.name], [self.k], task.facts)[self.name, self.k])
        return np.concatenate(values), np.ones(len(self.users))

    def _errors(self, model) -> tuple[np.ndarray, np.ndarray]:
        found = predict_ratings(model, self.data.query_of(self.rows, model.needs), self.rows.item_idx)
        off = (found.double() - self.rows.rating.double()).numpy()
        place = np.searchsorted(self.users, self.rows.user_idx.numpy())
        sums = np.bincount(place, off**2 if self.name == "RMSE" else np.abs(off))
        return sums, np.bincount(place).astype(np.float64)
