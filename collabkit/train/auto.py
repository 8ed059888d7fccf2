"""`auto_fit`: tries models from the simplest upwards, as long as they improve and there is time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from collabkit.data.checks import check_seed
from collabkit.data.frames import Table, takes_tables
from collabkit.data.notices import noting, say
from collabkit.evaluate.by_user import Judge, UserScores, usual_metric
from collabkit.train.budget import Budget, OutOfTimeError
from collabkit.train.dataloaders import CollabDataLoaders, check_dls
from collabkit.train.ladder import Rung, Workshop, rungs_for
from collabkit.train.loader import show_table

__all__ = ["auto_fit", "Halves"]

MOST_USERS = 20_000  # for the evaluation of a model
PATIENCE = 2  # steps without a gain


class Halves:
    """A judge with two groups of users: models are chosen by one, and reported on the other.

    Args:
        data: of the models.
        metric: a name.
        test: a table to report on; then models are chosen by all validation rows. None: they are chosen by the rows of
            half the users, drawn at random, and reported on those of the other half.
        seed: of the draw.

    Raises:
        ValueError: fewer than four users.
    """

    def __init__(self, data, metric: str, test: pd.DataFrame | None = None, *, seed: int = 0):
        self.judge = Judge(data, metric, most=MOST_USERS, seed=seed)
        self.metric = self.judge.metric
        users = data.users.decode(self.judge.users).to_numpy()
        self.other = None if test is None else Judge(data, metric, test, most=MOST_USERS, seed=seed)
        half = np.random.default_rng(seed).permutation(len(users)) < (len(users) + 1) // 2
        self.choosing, self.untouched = (users, None) if test is not None else (users[half], users[~half])
        if len(users) < 4:
            raise ValueError(f"{len(users)} users with held-out rows are too few to choose by one half and report on "
                             "the other; hold more rows out, or name a test table")  # fmt: skip

    def __call__(self, model, check=lambda: None) -> tuple[UserScores, UserScores]:
        """The scores on the part to choose by, and on the other one."""
        scores = self.judge(model, check)
        if self.other is not None:
            return scores, self.other(model, check)
        return scores.of(self.choosing), scores.of(self.untouched)


@dataclass
class _Tried:
    model: object
    chosen: UserScores
    untouched: UserScores
    row: dict


@takes_tables
def auto_fit(
    dls: CollabDataLoaders, metric: str | None = None, minutes: float = 2, *, test: Table | None = None,
    seed: int | None = None, n_boot: int = 1000, show: bool = True,
) -> tuple[object, pd.DataFrame]:  # fmt: skip
    """Find the best model within a few minutes: try models from popularity upwards while they improve.

    For events: popularity, `ItemKNN`, least squares with 64, 128 and 256 factors, `EASE` if the number of items allows
    it, and, by gradient descent, `CollFilter` and a network (`TwoTower` if there are side features). For ordered events
    (`history=`): popularity, `NextItem`, `ItemKNN`, `EASE` and `SASRec`. For ratings: biases, `CollFilter` with two
    recipes, `TimeSVD` if there are times, and `EmbeddingNN`.

    A model is an improvement if the 95 % interval of its gain over the best so far, paired by user, lies above 0. The
    search ends after two models without improvement. If least squares does not improve with more factors, still larger
    ones are skipped. The model with the best value is kept. It is chosen on the validation rows of half of the users.
    The other half, or `test`, is not used for the choice: report the `test` columns. The models are trained on the
    training part; `best.refit_all()` adds the validation rows.

    Args:
        dls: the data, with a validation part.
        metric: the metric to optimise: `'NDCG@10'` or another ranking metric, or for ratings `'RMSE'` (the default
            there) or `'MAE'`.
        minutes: total time. A fit ends in time, with fewer sweeps or epochs if necessary. Fits that cannot be stopped
            early are started only if they should finish in time. Popularity, or biases, are always fitted.
        test: a table of held-out rows to report on; then all validation rows are used for the choice.
        seed: seed of the models and of the halves; default that of `dls`.
        n_boot: number of bootstrap resamples for the intervals.
        show: whether to print the table.

    Returns:
        The best model (a learner or a closed-form model), and a table with one row per model: `value`, `low`, `high`
        (95 %) on the part used for the choice; `gain` over the best model before it, with `gain_low` and `gain_high`
        (positive is better, also for errors); `test`, `test_low`, `test_high` on the other part; `seconds` of fit and
        evaluation; `kept`; and a `note` if the model was skipped or stopped early.

    Raises:
        ValueError: there is no validation part, or it has too few users; the metric is unknown, or a rating metric is
            used for events; `minutes` is not above 0.
        TypeError: `dls` is not a `CollabDataLoaders`.

    Example:
        >>> from collabkit import datasets
        >>> events = datasets.synthetic(n_users=200, n_items=100, n_ratings=4000, seed=1).ratings
        >>> dls = CollabDataLoaders.from_df(events, user_name='user', item_name='title', feedback='implicit', seed=0)
        >>> best, table = auto_fit(dls, metric='NDCG@10', minutes=1, show=False)
        >>> table.index[:3].tolist(), int(table['kept'].sum())
        (['popularity', 'ItemKNN', 'ALS 64'], 1)
    """
    budget = Budget(minutes)
    check_dls("auto_fit", dls)
    dls.check_of(weighted=True)
    seed = dls.seed if seed is None else check_seed(seed)
    halves = Halves(dls.data, usual_metric(dls.data.rated) if metric is None else metric, test, seed=seed)
    shop = Workshop(dls, budget, seed)
    tried, table = _climb(rungs_for(dls), shop, halves, n_boot)
    best = _best(tried)
    best.row["kept"] = True
    table = pd.DataFrame(table).set_index("model").rename_axis(columns=halves.metric)
    if show:
        show_table(table.reset_index(), True)
    return best.model, table


def _climb(rungs: list[Rung], shop: Workshop, halves: Halves, n_boot: int) -> tuple[list[_Tried], list[dict]]:
    """The tried models, and a row for each rung."""
    tried: list[_Tried] = []
    rows, in_vain, ended = [], 0, set()
    for rung in rungs:
        row = {"model": rung.name} | dict.fromkeys(_COLUMNS, np.nan) | {"kept": False, "note": rung.why_not}
        rows.append(row)
        if in_vain == PATIENCE:
            row["note"] = f"not tried: {PATIENCE} steps gained nothing"
        elif rung.kind in ended:
            row["note"] = f"not tried: a smaller {rung.kind} gained nothing"
        elif not rung.why_not:
            done = _step(rung, shop, halves, row, first=not tried)
            if done is None:
                continue
            paid = _fill(row, done, _best(tried) if tried else None, n_boot)
            in_vain = 0 if paid else in_vain + 1
            ended |= set() if paid or not rung.kind else {rung.kind}
            tried.append(done)
    return tried, rows


def _step(rung: Rung, shop: Workshop, halves: Halves, row: dict, *, first: bool) -> _Tried | None:
    """The rung, fitted and judged; None if there is no time, or the model cannot be fitted to this data."""
    check, before = (lambda: None) if first else shop.budget.check_end, shop.budget.used
    try:
        with noting() as notes:
            if not first:
                shop.budget.check()
            model = rung.fit(shop)
            scores = halves(model, check)
    except OutOfTimeError as error:
        row["note"] = f"not tried: {error}" if str(error) else "not tried: no time left"
        return None
    except (ValueError, TypeError) as error:
        if first:
            raise
        row["note"] = f"not tried: {error}"
        return None
    for text in notes:
        if "diverged" in text:
            say(f"{rung.name}: {text}")
    row |= {"seconds": shop.budget.used - before, "note": shop.notes.get(rung.name, "")}
    return _Tried(model, *scores, row)


_COLUMNS = ("value", "low", "high", "gain", "gain_low", "gain_high", "test", "test_low", "test_high", "seconds")


def _fill(row: dict, done: _Tried, best: _Tried | None, n_boot: int) -> bool:
    """Write the metrics; returns whether the step pays."""
    row["value"], row["test"] = done.chosen.value, done.untouched.value
    row["low"], row["high"] = done.chosen.interval(n_boot)
    row["test_low"], row["test_high"] = done.untouched.interval(n_boot)
    if best is None:
        return True
    row["gain"], row["gain_low"], row["gain_high"] = done.chosen.gain_over(best.chosen, n_boot)
    return row["gain_low"] > 0


def _best(tried: list[_Tried]) -> _Tried:
    sign = -1 if tried[0].chosen.small_is_good else 1
    return max(tried, key=lambda done: np.nan_to_num(sign * done.chosen.value, nan=-np.inf))
