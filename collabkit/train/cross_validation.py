"""`cross_validate`: evaluates models on k parts of the data in turn, trained on the other parts."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from collabkit.data.checks import check_seed, no_table, shown, whole
from collabkit.data.dataset import Dataset
from collabkit.data.frames import Table, takes_tables
from collabkit.data.notices import say
from collabkit.evaluate.by_user import Judge, UserScores, usual_metric
from collabkit.evaluate.compare import model_labels
from collabkit.models.closed_form import ClosedForm, in_words
from collabkit.train.dataloaders import CollabDataLoaders
from collabkit.train.learner import CollabLearner, collab_learner
from collabkit.train.refit import repeated

__all__ = ["cross_validate", "folds_of", "loaders_of", "all_rows"]


@takes_tables
def cross_validate(
    data: CollabDataLoaders | Table, models, k: int = 5, *, metrics: str | Iterable[str] | None = None,
    seed: int | None = None, n_boot: int = 1000, **options,
) -> pd.DataFrame:  # fmt: skip
    """Evaluate models by k-fold cross-validation: each row is held out once, and models are trained on the rest.

    All rows, from both parts if `data` is dataloaders, are split into `k` parts at random. A metric uses all held-out
    rows: the rows of each user are combined, and the intervals are bootstraps over users, whose rows are not
    independent. All models use the same parts. To evaluate predictions of the future, use `backtest`.

    Args:
        data: dataloaders, or a table from which they are created with `options`.
        models: one model, a list, or a dict by name, of closed-form models (`EASE()`, or the class), trained learners
            (created and trained again on each part, as in `refit_all`), and functions from dataloaders to a trained
            model. The models that you pass stay unchanged.
        k: number of parts, at least 2.
        metrics: ranking metrics with a cut-off such as `'NDCG@10'`, and `'RMSE'` and `'MAE'` for ratings; one or
            several. Default NDCG@10, or RMSE for ratings.
        seed: seed of the parts and the bootstrap; default that of the dataloaders.
        n_boot: number of bootstrap resamples.
        **options: arguments of `CollabDataLoaders.from_df`, for a table.

    Returns:
        DataFrame indexed by metric and model: `value`, `low`, `high` (95 %), `difference` to the first model, paired by
        user, with `diff_low` and `diff_high`; `std` over the folds; `n` users; mean `seconds` of a fit.
        `attrs['folds']` has the values of each fold.

    Raises:
        ValueError: `k` is below 2 or above the number of rows; there are no models; a metric is unknown.
        TypeError: an element of `models` is not a model; `options` are given with dataloaders.

    Example:
        >>> from collabkit import EASE, Popularity, datasets
        >>> events = datasets.synthetic(n_users=200, n_items=100, n_ratings=4000, seed=1).ratings
        >>> names = {'user_name': 'user', 'item_name': 'title', 'feedback': 'implicit'}
        >>> table = cross_validate(events, [Popularity(), EASE()], k=3, metrics='NDCG@10', seed=0, **names)
        >>> table.loc['NDCG@10'].index.tolist(), bool(table.loc[('NDCG@10', 'EASE'), 'diff_low'] > 0)
        (['popularity', 'EASE'], True)
    """
    whole("n_boot", n_boot)
    dls = all_rows(data, options, seed)
    seed = dls.seed if seed is None else check_seed(seed)
    makers = _makers(models)
    given = [metrics] if isinstance(metrics, str) else list(metrics or [usual_metric(dls.data.rated)])
    found, seconds = {}, dict.fromkeys(makers, 0.0)
    for fold in folds_of(dls, k, seed):
        judges = [Judge(fold.data, metric) for metric in given]
        for name, make in makers.items():
            started = time.perf_counter()
            model = make(fold)
            seconds[name] += (time.perf_counter() - started) / k
            for judge in judges:
                found.setdefault((judge.metric, name), []).append(judge(model))
    return _table(found, list(makers), seconds, n_boot, seed)


def loaders_of(data, options: dict, seed: int | None = None) -> CollabDataLoaders:
    """Dataloaders unchanged, or those of a table with `options` of `from_df`.

    Raises:
        TypeError: `data` is something else; options are given with dataloaders.
    """
    if isinstance(data, CollabDataLoaders):
        if options:
            raise TypeError(f"{', '.join(options)}: options are for a table; these dataloaders already exist")
        return data
    if not isinstance(data, pd.DataFrame):
        raise TypeError(f"expected CollabDataLoaders or a table, {no_table(data)}")
    return CollabDataLoaders.from_df(data, seed=seed, **options)


def all_rows(data, options: dict, seed: int | None = None) -> CollabDataLoaders:
    """The same, with all rows in the training part.

    Raises:
        TypeError: as in `loaders_of`; a split is named.
    """
    if isinstance(data, pd.DataFrame):
        if odd := sorted({"valid_pct", "splitter"} & set(options)):
            raise TypeError(f"{', '.join(odd)}: leave out; the rows are split at random here")
        options = {**options, "valid_pct": 0}
    dls = loaders_of(data, options, seed)
    return dls if dls.data.valid is None else dls.of(dls.data.all_trained())


def folds_of(dls: CollabDataLoaders, k: int, seed: int) -> Iterable[CollabDataLoaders]:
    """Dataloaders of each fold of the training rows, made as `dls` were."""
    data, n = dls.data, len(dls.data.train)
    if whole("k", k) < 2 or k > n:
        raise ValueError(f"k must be from 2 to the number of rows ({n:,}), got {shown(k)}")
    if dls.history is not None:
        say("cross_validate holds rows out at random, so models of order learn from later events; backtest "
            "holds out the next events")  # fmt: skip
    place = np.random.default_rng(seed).permutation(n) % k
    return (_fold(dls, data, place == j) for j in range(k))


def _fold(dls: CollabDataLoaders, data: Dataset, out: np.ndarray) -> CollabDataLoaders:
    train, valid = data.train.take(~out), replace(data.train.take(out), weight=None)
    if train.weight is not None and train.confidences is None:
        train = replace(train, weight=train.weight / train.weight.mean())
    known = torch.isin(valid.pair_keys(), train.pair_keys()).numpy() & (not data.rated)
    return dls.of(replace(data, train=train, valid=valid.take(~known)))


def _makers(models) -> dict[str, Callable]:
    """By name, functions from dataloaders to a trained model."""
    if isinstance(models, Mapping):
        names, models = [str(name) for name in models], list(models.values())
    else:
        models = list(models) if isinstance(models, (list, tuple)) else [models]
        names = None
    if not models:
        raise ValueError("there is nothing to validate: name at least one model")
    makers = [_maker(model) for model in models]  # before the names, which need models
    return dict(zip(names or _names(models), makers, strict=True))


def _names(models: list) -> list[str]:
    """The names of models as in `compare`; a function has its own name."""
    made = [model() if inspect.isclass(model) else model for model in models]
    return model_labels(made, [getattr(m, "__name__", None) for m in made])


def _maker(model) -> Callable:
    if inspect.isclass(model) and issubclass(model, ClosedForm):
        return lambda dls: model().fit(dls)
    if isinstance(model, ClosedForm):
        return lambda dls: type(model).for_data(dls.data, **model.config()).fit(dls)
    if isinstance(model, CollabLearner):
        model.recipe.check()
        return lambda dls: repeated(model, dls, collab_learner)
    if inspect.isroutine(model) or (callable(model) and not isinstance(model, torch.nn.Module)):
        return model
    raise TypeError("expected closed-form models, trained learners and functions from dataloaders to a trained model, "
                    f"got {in_words(model)}")  # fmt: skip


def _table(found: dict, names: list[str], seconds: dict, n_boot: int, seed: int) -> pd.DataFrame:
    rows, folds = [], {}
    for (metric, name), parts in found.items():
        scores, first = UserScores.joined(parts), UserScores.joined(found[metric, names[0]])
        low, high = scores.interval(n_boot, seed)
        row = {"metric": metric, "model": name, "value": scores.value, "low": low, "high": high}
        ends = (np.nan,) * 3 if name == names[0] else scores.difference(first, n_boot, seed)
        row |= dict(zip(("difference", "diff_low", "diff_high"), ends, strict=True))
        folds[metric, name] = [part.value for part in parts]
        row |= {"std": float(np.std(folds[metric, name], ddof=1)), "n": len(scores.users), "seconds": seconds[name]}
        rows.append(row)
    table = pd.DataFrame(rows)
    order = table["metric"].map({metric: j for j, metric in enumerate(dict.fromkeys(table["metric"]))})
    table = table.iloc[np.argsort(order.to_numpy(), kind="stable")].set_index(["metric", "model"])
    each = pd.DataFrame(folds).T.rename_axis(["metric", "model"])
    table.attrs["folds"] = each.set_axis(range(1, each.shape[1] + 1), axis=1).loc[table.index]
    return table
