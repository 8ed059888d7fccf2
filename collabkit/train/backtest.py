"""`backtest`: evaluates models on the windows after several points in time, trained on the data up to then."""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from torch import nn

from collabkit.data.checks import in_days
from collabkit.data.dataset import Dataset
from collabkit.data.frames import Table, takes_tables
from collabkit.data.interactions import check_frame, check_times, comparable_times
from collabkit.data.notices import MissingError, say
from collabkit.data.splits import Splitter, time_split, window_cuts
from collabkit.data.splits.rows import before, later
from collabkit.data.tables import id_codes
from collabkit.evaluate.compare import compare
from collabkit.evaluate.metrics import hits_per_thousand
from collabkit.models.closed_form import in_words
from collabkit.models.popularity import Popularity
from collabkit.train.dataloaders import CollabDataLoaders

__all__ = ["backtest"]

_METRICS = ("HitRate", "NDCG", "Recall", hits_per_thousand)


@takes_tables
def backtest(
    fit: Callable, ratings: Table, *, time_name: str | None = None, n: int = 4, cuts: Iterable | None = None,
    window="7D", k: int | Iterable[int] = 10, metrics: Iterable | None = None, threshold: float | None = None,
    cold: str = "keep", n_boot: int = 1000, seed: int = 0, max_memory: int | str = "512MB", **options,
) -> pd.DataFrame:  # fmt: skip
    """Evaluate models at several points in time: train on all rows before each, test on the window that follows.

    The usual leave-last-out split lets a model learn from what other users did later than the tested event: which items
    became popular, and who would interact with which. In production nobody knows that (Ji et al., "A critical study on
    data leakage in recommender system offline evaluation", 2023). Here the training part contains nothing of the
    future.

    Each user with an event in the window gets one list, computed at the cut; the relevant items are all that the user
    interacts with for the first time in the window. The baselines are the popularity in a window of the same length
    before the last training event (by default the last week), to which all models are compared, and the popularity over
    all time.

    Args:
        fit: function from `CollabDataLoaders` to a trained model (a learner, `Recommender` or closed-form model), or to
            a list of them; closed-form ones may be unfitted. The validation part of the dataloaders is the window:
            `fit` must not use it for any choice.
        ratings: the events, as in `CollabDataLoaders.from_df`.
        time_name: the column of their times.
        n, window: number of windows, counted from the end, and their length; see `splits.rolling_windows`.
        cuts: the starts of the windows, instead of `n`; see `splits.time_split`.
        k, metrics, threshold, n_boot, max_memory: as in `compare`; by default HitRate, NDCG, Recall and
            `hits_per_thousand`, the hits among the items of a thousand lists.
        cold: `'keep'` keeps users and items without an event before the cut: a new user gets the default list, and a
            new item is relevant, although a model of ids cannot find it. `'drop'` drops the window's rows of both. Both
            are counted in a `CollabWarning`.
        seed: seed of the dataloaders and the bootstrap.
        **options: arguments of `CollabDataLoaders.from_df`: columns, feedback, side features, batch size.

    Returns:
        DataFrame with index `(cut, metric, model)` and the columns of `compare`; `difference` is to the popularity of
        the last window. Then there is a row for each metric and model with the cut `'mean'`: the means over the cuts,
        their intervals (treating the cuts as independent) and the sum of `n`.

    Raises:
        ValueError: there are no times; windows reach back to the first event; there are no rows before a cut or in its
            window.
        KeyError: a column is missing.
        TypeError: `fit` returns something that is not a model.

    Example:
        >>> from collabkit import EASE, datasets
        >>> events = datasets.synthetic(n_users=200, n_items=100, n_ratings=4000, seed=1).ratings
        >>> names = {'user_name': 'user', 'item_name': 'title', 'time_name': 'timestamp', 'feedback': 'implicit'}
        >>> table = backtest(lambda dls: EASE(), events, n=2, window='90D', **names, n_boot=10)
        >>> table.loc[('mean', 'NDCG@10'), 'value'].index.tolist()
        ['popularity (90 days)', 'popularity', 'EASE']
    """
    if not callable(fit) or isinstance(fit, nn.Module):
        what = "fit must be a function from dataloaders to models, e.g. lambda dls: EASE()"
        raise TypeError(f"{what}; got {in_words(fit)}")
    days, cuts = in_days("window", window), _cuts(ratings, time_name, cuts, n, window)
    given = {"threshold": threshold, "metrics": _METRICS if metrics is None else metrics, "k": k}
    common = {"n_boot": n_boot, "seed": seed, "max_memory": max_memory}
    tables, parts, times = {}, [], comparable_times(ratings[time_name])
    for cut in cuts:
        until = ratings[before(times, later(times, cut, days))]  # later events are not known
        split = _window(cut, time_name, cold)
        dls = CollabDataLoaders.from_df(until, splitter=split, time_name=time_name, seed=seed, **options)
        models = fit(dls)
        models = list(models) if isinstance(models, (list, tuple)) else [models]
        popular = [Popularity(days=days).fit(dls), Popularity().fit(dls)]
        tables[cut] = compare([*popular, *models], **given, **common)
        parts.append(dls.data)
    _say_cold(parts)
    mean = pd.concat({"mean": _mean(list(tables.values()))})
    return pd.concat([pd.concat(tables), mean]).rename_axis(["cut", "metric", "model"])


def _cuts(ratings: pd.DataFrame, time_name: str | None, cuts: Iterable | None, n: int, window) -> list:
    check_frame(ratings)
    if time_name is None:
        raise ValueError(f"a backtest needs the times of the events: pass time_name=, one of {list(ratings.columns)}")
    if time_name not in ratings.columns:
        raise MissingError(f"column(s) {[time_name]} not found; the table has {list(ratings.columns)}")
    if cuts is None:
        return window_cuts(ratings[time_name], n, window)
    check_times(ratings[time_name])
    if not (cuts := [cuts] if isinstance(cuts, str) or not isinstance(cuts, Iterable) else list(cuts)):
        raise ValueError("cuts must name at least one moment, got an empty list")
    times = comparable_times(ratings[time_name])
    for cut in cuts:
        if len(set(before(times, cut))) < 2:
            raise ValueError(f"cut {cut!r} does not lie within the data, whose events are from {times.min()} to "
                             f"{times.max()}: there must be some before it and some after it")  # fmt: skip
    return cuts


def _window(cut, time_name: str, cold: str) -> Splitter:
    """Training before the cut, validation the rows from it on that do not repeat a training pair."""
    split = time_split(date=cut, time_name=time_name)

    def rows(df, columns):
        train, valid, _, *moment = split.rows(df, columns)
        items = id_codes(df, columns.item)
        pairs = id_codes(df, columns.user) * (items.max() + 1) + items
        new = ~np.isin(pairs[valid], pairs[train])
        again = int((~new).sum())
        notes = [f"{again:,} rows of the window repeat a training pair, which lists leave out"] if again else []
        return train, valid[new], notes, *moment

    return Splitter(f"the window at {cut!r}", rows, cold, time_name)


def _say_cold(parts: list[Dataset]) -> None:
    """Report users and items without earlier events, over all windows."""
    asked = [(data.train.counts("user"), data.valid.user_idx.unique()) for data in parts]
    found = [(data.train.counts("item"), data.valid.item_idx) for data in parts]
    new_users, new_rows = (sum(int((counts[idx] == 0).sum()) for counts, idx in pairs) for pairs in (asked, found))
    if new_users or new_rows:
        n_users, n_rows = (sum(len(idx) for _, idx in pairs) for pairs in (asked, found))
        say(f"{new_users:,} of the {n_users:,} users of the {len(parts)} windows have no event before the cut and get "
            f"the list of an unknown user; {new_rows:,} of the {n_rows:,} events are of items "
            "without one. cold='drop' leaves both out")  # fmt: skip


def _mean(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The mean of tables of the same rows, with the intervals that follow from those of independent tables."""
    if any(not table.index.equals(tables[0].index) for table in tables):
        raise ValueError("fit must return the same models, in one order, at each cut; it returned " + " and ".join(
            str(table.index.unique("model").tolist()[2:]) for table in tables))  # fmt: skip
    mean = tables[0].assign(n=sum(table["n"] for table in tables))
    for name, *ends in (("value", "low", "high"), ("difference", "diff_low", "diff_high")):
        centres = np.stack([table[name] for table in tables])  # (cuts, rows)
        mean[name] = centres.mean(0)
        for end, sign in zip(ends, (-1, 1), strict=True):
            widths = np.stack([table[end] for table in tables]) - centres
            mean[end] = mean[name] + sign * np.sqrt(np.square(widths).sum(0)) / len(tables)
    return mean
