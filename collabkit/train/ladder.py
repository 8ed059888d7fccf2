"""The rungs of `auto_fit`: models from the simplest to the most expensive, their cost, and how they fit in time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from collabkit.data.features import SideFeatures
from collabkit.data.runs import Runs
from collabkit.models import EASE, ItemKNN, NeuMF, NextItem, Popularity, SASRec, TimeSVD, TwoTower
from collabkit.train.als_defaults import als_rule
from collabkit.train.biases import SolveBiases
from collabkit.train.budget import Budget, Deadline, OutOfTimeError
from collabkit.train.choose import usual_range
from collabkit.train.dataloaders import CollabDataLoaders
from collabkit.train.learner import CollabLearner, collab_learner
from collabkit.train.loader import auto_bs
from collabkit.train.recipes import FAST_100K, Recipe, rating_recipe

__all__ = ["Rung", "Workshop", "rungs_for"]

SWEEPS, SEARCH = 12, 35  # sweeps of a fit by least squares, and of the choice of its penalty
SAFETY = 1.5  # fits that cannot be interrupted may take this many times the estimate
PICKED = 3.0  # the same for the choice of the penalty, which the rule can replace
TIMED = 12  # batches from which the duration of an epoch is estimated
PAIRS_A_SECOND = 4e7  # pairs of a user's items per second in counting neighbours, on one slow core


@dataclass
class Workshop:
    """The state that the rungs of one search share.

    Args:
        dls: the data.
        budget: the remaining time.
        seed: of the models.
    """

    dls: CollabDataLoaders
    budget: Budget
    seed: int
    sweep: float | None = None  # seconds, of 64 factors
    settings: dict = field(default_factory=dict)  # of least squares, once chosen
    notes: dict[str, str] = field(default_factory=dict)  # by rung

    def need(self, seconds: float) -> None:
        """Raise `OutOfTimeError` if less time is left."""
        if seconds > self.budget.left:
            raise OutOfTimeError(f"would take about {seconds:,.0f} s, {max(0.0, self.budget.left):,.0f} s are left")

    def quiet(self, learn: CollabLearner, fit: Callable) -> CollabLearner:
        """`learn` after `fit(learn)`, without a bar or a log."""
        with learn.no_bar(), learn.no_logging():
            fit(learn)
        return learn

    def batches(self, bs: int | None) -> CollabDataLoaders:
        """The same batches with another size."""
        return CollabDataLoaders.from_dataset(self.dls.data, **{**self.dls._options, "bs": bs, "val_bs": None})


@dataclass(frozen=True)
class Rung:
    """A model to try.

    Args:
        name: in the table.
        fit: function from the workshop to the trained model; `OutOfTimeError` if there is too little time.
        kind: larger sizes of one kind are skipped if a smaller one gained nothing.
        why_not: why it is skipped on this data, if it is.
    """

    name: str
    fit: Callable[[Workshop], object]
    kind: str = ""
    why_not: str = ""


def rungs_for(dls: CollabDataLoaders) -> list[Rung]:
    """The ladder for ratings, for events, or for events in their order."""
    if dls.feedback == "explicit":
        return _rated(dls)
    closed = [_closed("ItemKNN", ItemKNN, _knn_seconds)]
    ease = Rung("EASE", lambda shop: _fit_closed(shop, EASE, _ease_seconds), why_not=_too_many_for_ease(dls))
    if dls.history is not None:
        nets = [_gradient("SASRec", lambda dls, seed: collab_learner(dls, 64, seed=seed, model=SASRec), 5, 2e-3)]
        return [_POPULARITY, _closed("NextItem", NextItem, _next_seconds), *closed, ease, *nets]
    solved = [Rung(f"ALS {d}", lambda shop, d=d: _als(shop, d), kind="ALS") for d in (64, 128, 256)]
    by_features = dls.features.users is not None or dls.features.items is not None
    net = TwoTower if by_features else NeuMF
    nets = [
        _gradient("CollFilter", lambda dls, seed: collab_learner(dls, 64, seed=seed), 5, 5e-3, before=_search_seconds),
        _gradient(net.__name__, lambda dls, seed: collab_learner(dls, 64, seed=seed, model=net), 5, 5e-3),
    ]
    return [_POPULARITY, *closed, *solved, ease, *nets]


# --- closed forms


def _closed(name: str, cls, seconds: Callable) -> Rung:
    return Rung(name, lambda shop: _fit_closed(shop, cls, seconds))


def _fit_closed(shop: Workshop, cls, seconds: Callable):
    shop.need(SAFETY * seconds(shop.dls.data))
    return cls().fit(shop.dls)


_POPULARITY = Rung("popularity", lambda shop: Popularity().fit(shop.dls))


def _knn_seconds(data) -> float:
    lengths = data.train.pairs.lengths.double()
    return float(lengths.square().sum()) / PAIRS_A_SECOND


def _next_seconds(data) -> float:
    return _knn_seconds(data) + (_cubic_seconds(2 * data.n_items) if data.n_items < 3000 else 0.0)


def _ease_seconds(data) -> float:
    return _knn_seconds(data) + _cubic_seconds(_ease_rows(data.train.pairs))


def _cubic_seconds(n: int) -> float:
    """The approximate time to invert a matrix of n rows, measured with 768 rows."""
    matrix = torch.eye(768, dtype=torch.float64 if n <= 5000 else torch.float32)
    start = time.perf_counter()
    torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    return (time.perf_counter() - start) * (n / 768) ** 3


def _ease_rows(pairs: Runs) -> int:
    return min(pairs.width, int((pairs.lengths > 0).sum()))


def _too_many_for_ease(dls) -> str:
    n, most = _ease_rows(dls.data.train.pairs), EASE().max_items
    if n > most:
        return f"{n:,} items (or users) are more than the {most:,} whose matrix it inverts"
    needed, there = 20 * n * n, _free_memory()
    return f"its matrix of {n:,} rows takes {needed / 1e9:.0f} GB, {there / 1e9:.0f} are free" if needed > there else ""


def _free_memory() -> float:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not available on this system
        return float("inf")


# --- least squares


def _als(shop: Workshop, d: int) -> CollabLearner:
    """`fit_als`; its penalty and weight are chosen once, with fewer sweeps if time runs out."""
    data, fixed = shop.dls.data, {}
    if shop.sweep is None:
        reg, weight = als_rule(data.train)
        trial = collab_learner(shop.dls, 64, seed=shop.seed, start="random")
        started = time.perf_counter()
        shop.quiet(trial, lambda learn: learn.fit_als(1, reg=reg, unobserved_weight=weight))
        shop.sweep = time.perf_counter() - started
    sweep = shop.sweep * (d / 64) ** 1.3
    shop.need(sweep * 3)
    if shop.settings:
        fixed = shop.settings
    elif PICKED * shop.sweep * SEARCH + sweep * SWEEPS > shop.budget.left:
        fixed = {"search": False}
    learn = collab_learner(shop.dls, d, seed=shop.seed, start="random")
    end = Deadline(0.9 * shop.budget.left)
    shop.quiet(learn, lambda learn: learn.fit_als(SWEEPS, **fixed, cbs=end))
    if end.ended:
        shop.notes[f"ALS {d}"] = f"{learn.n_epochs_done} of {SWEEPS} sweeps, as time ran out"
    found = learn.model.als
    shop.settings = {name: found[name] for name in ("reg", "unobserved_weight")}
    return learn


def _search_seconds(shop: Workshop) -> float:
    """The time to solve for the starting rows of gradient training."""
    return SAFETY * (shop.sweep or 0.0) * (SEARCH + SWEEPS)


# --- by gradient


def _gradient(name: str, make: Callable, n_epoch: int, lr: float, *, bs: int | None = None, wd: float | None = None,
              before: Callable = lambda shop: 0.0) -> Rung:  # fmt: skip
    """A rung that is trained by gradient descent, for as many of `n_epoch` epochs as there is time for."""

    def fit(shop: Workshop):
        shop.need(before(shop) + 1)
        dls = shop.batches(bs)
        learn = make(dls, shop.seed)
        epoch = _epoch_seconds(shop, make(dls, shop.seed))
        left = 0.85 * (shop.budget.left - before(shop))
        shop.need(before(shop) + 1.2 * epoch)
        n = max(1, min(n_epoch, int(left / epoch)))
        if n < n_epoch:
            shop.notes[name] = f"{n} of {n_epoch} epochs, as time was short"
        end = Deadline(0.9 * shop.budget.left)
        shop.quiet(learn, lambda learn: learn.fit_one_cycle(n, lr, wd=wd, cbs=end))
        if not learn.n_epochs_done:
            raise OutOfTimeError("time ran out before the first epoch was done")
        if end.ended:
            shop.notes[name] = f"stopped after {learn.n_epochs_done} of {n} epochs, as time ran out"
        return learn

    return Rung(name, fit)


def _epoch_seconds(shop: Workshop, learn: CollabLearner) -> float:
    """The duration of an epoch of a learner like `learn`, which is discarded: from a few batches after the first.

    It does not include validation, nor the work before the first batch.
    """
    model, loss, times = learn.model, learn.loss_func, []
    optimiser = torch.optim.Adam(model.parameters(), lr=0.0)
    n_batches, n_inp = len(learn.dls.train), learn.dls.train.n_inp
    with torch.random.fork_rng(devices=[]):
        for batch in learn.dls.train.new():
            started = time.perf_counter()
            optimiser.zero_grad()
            batch = tuple(part.to(learn.dls.device) for part in batch)
            loss(model(*batch[:n_inp]), *batch[n_inp:]).backward()
            optimiser.step()
            times.append(time.perf_counter() - started)
            if len(times) == TIMED or shop.budget.left < 0:
                break
    times = sorted(times[2:] or times)
    return 1.3 * n_batches * times[len(times) // 2]


# --- ratings


def _rated(dls) -> list[Rung]:
    """Biases, matrix factorisation by two recipes, a network; and with times, time-dependent biases."""
    train, n = dls.data.train, len(dls.data.train)
    y_range = usual_range(dls.data)
    good = rating_recipe(n)
    quick = Recipe(FAST_100K.n_factors, max(FAST_100K.bs, auto_bs(n)), FAST_100K.n_epoch, FAST_100K.lr, good.wd)

    def factors(recipe: Recipe) -> Rung:
        make = lambda dls, seed: collab_learner(dls, recipe.n_factors, seed=seed, y_range=y_range)  # noqa: E731
        name = f"CollFilter {recipe.n_factors}, {recipe.n_epoch} epochs"
        return _gradient(name, make, recipe.n_epoch, recipe.lr, bs=recipe.bs, wd=recipe.wd)

    network = lambda dls, seed: collab_learner(dls, 100, True, seed=seed, y_range=y_range)  # noqa: E731
    nets = [_gradient("EmbeddingNN", network, 4, 5e-3, bs=quick.bs, wd=0.01)]
    if train.time is not None:
        moving = lambda dls, seed: collab_learner(  # noqa: E731
            dls, quick.n_factors, seed=seed, y_range=y_range, model=TimeSVD
        )
        nets.insert(0, _gradient("TimeSVD", moving, good.n_epoch, good.lr, bs=good.bs, wd=good.wd))
    return [Rung("biases", _biases), factors(quick), factors(good), *nets]


def _biases(shop: Workshop) -> CollabLearner:
    dls = shop.dls
    if any(part is not None for part in dls.features):  # pure biases do not use them
        dls = dls.of(replace(dls.data, features=SideFeatures()))
    learn = collab_learner(dls, 1, seed=shop.seed)
    return shop.quiet(learn, lambda learn: learn.fit(1, cbs=SolveBiases()))
