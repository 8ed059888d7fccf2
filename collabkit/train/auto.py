"""`auto_fit`: from the plainest model upwards, as long as it pays and there is time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from collabkit.data.checks import check_seed
from collabkit.data.frames import Table, takes_tables
from collabkit.data.notices import noting, say
from collabkit.evaluate.by_user import Judge, UserScores, usual_metric
from collabkit.train.budget import Budget, OutOfTimeError
from collabkit.train.dataloaders import CollabDataLoaders
from collabkit.train.ladder import Rung, Workshop, rungs_for
from collabkit.train.loader import show_table

__all__ = ["auto_fit", "Halves"]

MOST_USERS = 20_000  # that models are judged by
PATIENCE = 2  # steps without a gain


class Halves:
    """A judge whose users fall into two parts: models are chosen by one, and reported on the other.

    Args:
        data: of the models.
        metric: a name.
        test: a table to report on; then they are chosen by all validation rows. None: by the rows of half the users,
            drawn at random, and reported on those of the other half.
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
            raise ValueError(f"{len(users)} users with held-out rows are too few to choose by some and report on "
                             "others; hold more rows out, or name a test table")  # fmt: skip

    def __call__(self, model, check=lambda: None) -> tuple[UserScores, UserScores]:
        """The scores of the part to choose by, and of the other one."""
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
    """The best model that a few minutes find: from popularity upwards, one after the other, as long as it pays.

    Of events: popularity, `ItemKNN`, least squares of 64, 128 and 256 factors, `EASE` where the items allow, and by
    gradient `CollFilter` and a network (`TwoTower` where there are side features). Of events in their order
    (`history=`): popularity, `NextItem`, `ItemKNN`, `EASE` and `SASRec`. Of ratings: biases, `CollFilter` by two
    recipes, `TimeSVD` where there are times, and `EmbeddingNN`.

    A step pays where the 95 % interval of its gain over the best so far, by user, lies above 0. After two steps that do
    not pay the search ends; of least squares with more factors the first that does not pays for all. The model with the
    best figure is kept. It is chosen by the validation rows of half the users; the other half, or `test`, is what the
    choice has not seen: the columns `test` are what to quote. The models themselves are trained on the training part:
    `best.refit_all()` takes the validation rows in.

    Args:
        dls: the data, with a validation part.
        metric: to choose by, `'NDCG@10'` or another one of ranks, or of ratings `'RMSE'` (default for these) or
            `'MAE'`.
        minutes: for all of it. A fit ends in time, with fewer sweeps or epochs where need be; what cannot end early is
            only begun where it should be done in time. Popularity, or biases, are always fitted.
        test: a table of held-out rows to report on; then all validation rows choose.
        seed: of the models and of the halves; default that of `dls`.
        n_boot: resamples of the intervals.
        show: whether to print the table.

    Returns:
        The best model (a learner or a closed-form model), and a table, a row a model: its figure on the part that
        chooses, `value`, `low`, `high` (95 %); `gain` over the best before it, with `gain_low` and `gain_high` (above 0
        is better, of errors too); `test`, `test_low`, `test_high` on the part that does not; `seconds` of fit and
        evaluation; `kept`; and a `note` where it was left out or cut short.

    Raises:
        ValueError: no validation part, or of too few users; an unknown metric, or one of ratings for events; `minutes`
            not above 0.
        TypeError: `dls` is no `CollabDataLoaders`.

    Example:
        >>> from collabkit import datasets
        >>> events = datasets.synthetic(n_users=200, n_items=100, n_ratings=4000, seed=1).ratings
        >>> dls = CollabDataLoaders.from_df(events, user_name='user', item_name='title', feedback='implicit', seed=0)
        >>> best, table = auto_fit(dls, metric='NDCG@10', minutes=1, show=False)
        >>> table.index[:3].tolist(), int(table['kept'].sum())
        (['popularity', 'ItemKNN', 'ALS 64'], 1)
    """
    budget = Budget(minutes)
    if not isinstance(dls, CollabDataLoaders):
        raise TypeError(f"auto_fit takes CollabDataLoaders, got {type(dls).__name__}; make them by "
                        "CollabDataLoaders.from_df(df, feedback='implicit')")  # fmt: skip
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
    """What was tried, and a row of each rung."""
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
    """The rung, fitted and judged; None where there is no time, or the model cannot be fitted to this data."""
    check, before = (lambda: None) if first else shop.budget.check_end, shop.budget.used
    try:
        with noting() as notes:
            if not first:
                shop.budget.check()
            model = rung.fit(shop)
            scores = halves(model, check)
    except OutOfTimeError as error:
        row["note"] = f"not tried: {error}" if str(error) else "not tried: time is over"
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
    """Write the figures; whether the step pays."""
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
