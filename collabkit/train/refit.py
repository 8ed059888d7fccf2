"""`Recipe`: how a learner was made and trained, to repeat it on all rows: `learn.refit_all()`."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, TypeVar

import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.tracker import SaveModelCallback
from fastcore.foundation import L

from collabkit.data.notices import near_match, say
from collabkit.models.base import Model

if TYPE_CHECKING:
    from collabkit.train.learner import CollabLearner

__all__ = ["Fit", "Recipe", "recorded", "refit_all", "repeated"]

F = TypeVar("F", bound=Callable)


@dataclass(frozen=True)
class Fit:
    """One call of a fit: the method, its arguments without callbacks, the callbacks, and the epochs that count."""

    method: str
    arguments: dict
    cbs: tuple[Callback, ...]
    n_epoch: int


@dataclass
class Recipe:
    """The origin of a learner's model: the options of `collab_learner`, and the fits since.

    Args:
        options: None for a learner not made by `collab_learner`.
        fits: in their order.
        foreign: the source of weights that do not come from a fit, if any.
    """

    options: dict | None = None
    fits: list[Fit] = field(default_factory=list)
    foreign: str = ""
    inside: bool = False  # within a call that is already recorded, or has no lasting effect

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context in which nothing is recorded."""
        before, self.inside = self.inside, True
        try:
            yield
        finally:
            self.inside = before

    def add(self, learn, method: str, given: dict, n_done: int) -> None:
        """Record a fit that has trained `n_done` epochs, whether or not it was completed."""
        checkpoint, resumed = given.pop("checkpoint", None), given.pop("resume", False)
        cbs = tuple(L(given.pop("cbs", None)))
        n_epoch = _best_epoch(learn, [*cbs, *learn.cbs]) or n_done
        if resumed and checkpoint is not None and self.fits and self.fits[-1].method == method:
            self.fits.pop()  # the same fit, interrupted
        if n_epoch:
            self.fits.append(Fit(method, deepcopy(given), cbs, n_epoch))

    def check(self) -> None:
        """Raise unless it can be repeated."""
        if self.options is None:
            raise TypeError("refit_all repeats what collab_learner and the fits did, and this learner was not made by "
                            "collab_learner (an artefact keeps a model, not how it was trained)")  # fmt: skip
        if self.foreign:
            raise ValueError(f"refit_all repeats the fits of this learner, but its weights come from {self.foreign}")
        if not self.fits:
            raise ValueError("nothing was trained yet, so there is nothing to repeat on all rows; call "
                             "learn.fit_one_cycle (or fit, fit_als, fit_sgdr) first")  # fmt: skip


def recorded(method: F) -> F:
    """A fit of a learner that is recorded in its recipe."""
    signature = inspect.signature(method)

    @wraps(method)
    def fit(self, *args, **kwargs):
        if self.recipe.inside:
            return method(self, *args, **kwargs)
        if odd := [name for name in kwargs if name not in signature.parameters]:
            raise TypeError(_no_argument(method.__name__, odd[0], list(signature.parameters)[1:]))
        try:
            given = dict(signature.bind(self, *args, **kwargs).arguments)
        except TypeError as error:
            raise TypeError(f"{method.__name__}: {error}") from None
        given.pop("self")
        before = self.n_epochs_done
        try:
            with self.recipe.paused():
                return method(self, *args, **kwargs)
        finally:
            if done := self.n_epochs_done - before:
                self.recipe.add(self, method.__name__, given, self.first_epoch + done)

    return fit  # type: ignore[return-value]


def _no_argument(method: str, name: str, known: list[str]) -> str:
    """The message for an argument that a method does not have."""
    alike = [other for other in known if other.startswith(name) or name.startswith(other)]
    guess = f" (did you mean {alike[0]!r}?)" if alike else near_match(name, known)
    return f"{method} has no argument {name!r}{guess}; it takes {', '.join(known)}"


def refit_all(learn: "CollabLearner", make: Callable) -> "CollabLearner":
    """A new learner, made and trained as `learn` was, on its training and validation rows; see `learn.refit_all`.

    Args:
        learn: is not changed.
        make: `collab_learner`.
    """
    learn.recipe.check()
    return repeated(learn, learn.dls.of(learn.dls.data.all_trained()), make)


def repeated(learn: "CollabLearner", dls, make: Callable) -> "CollabLearner":
    """A new learner, made and trained as `learn` was, on other dataloaders.

    Args:
        learn: is not changed.
        dls: the data of the new one.
        make: `collab_learner`.
    """
    recipe = learn.recipe
    recipe.check()
    new = make(dls, **_options(recipe.options, dls))
    added = [cb for cb in learn.cbs if type(cb) not in {type(own) for own in new.cbs}]
    new.add_cbs([_detached(cb) for cb in added if not _watches(cb)])
    if not hasattr(learn, "progress") and hasattr(new, "progress"):
        new.remove_cb(new.progress)
    new.logger = learn.logger
    watching = [cb for cb in (*added, *(cb for fit in recipe.fits for cb in fit.cbs)) if _watches(cb)]
    left_out = {type(cb).__name__ for cb in watching if not getattr(cb, "once", False)}
    if left_out:
        epochs = " + ".join(str(fit.n_epoch) for fit in recipe.fits)
        say(f"{', '.join(sorted(left_out))} watch figures of the validation part and are left out: the refit trains "
            f"the {epochs} epoch(s) that they ended at")  # fmt: skip
    for fit in recipe.fits:
        cbs = [_detached(cb) for cb in fit.cbs if not _watches(cb)]
        getattr(new, fit.method)(**deepcopy(fit.arguments), cbs=[*cbs, _StopAfter(fit.n_epoch)])
    return new


class _StopAfter(Callback):
    """End a fit after this many epochs, regardless of its schedule."""

    order = 1500

    def __init__(self, n_epoch: int):
        self.n_epoch = n_epoch

    def after_epoch(self):
        if self.learn.epoch + 1 == self.n_epoch < self.learn.n_epoch:
            raise CancelFitException


def _options(options: dict, dls) -> dict:
    """The options of `collab_learner` for these dataloaders; a model passed as an instance is created again."""
    given = options["model"]
    if not isinstance(given, torch.nn.Module):
        return options
    if not isinstance(given, Model):
        raise TypeError(f"refit_all needs one of collabkit's models, got {type(given).__name__}")
    seed = dls.seed if options["seed"] is None else options["seed"]
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return {**options, "model": type(given).for_data(dls.data, **given.config())}


def _watches(cb) -> bool:
    """Whether a callback monitors a validation metric, or belongs to one fit, like a deadline."""
    return getattr(cb, "once", False) or (getattr(type(cb), "__name__", "") != "Recorder" and "monitor" in vars(cb))


def _detached(cb: Callback) -> Callback:
    """A copy for another learner."""
    new = copy(cb)
    new.__dict__.pop("learn", None)
    return new


def _best_epoch(learn, cbs) -> int | None:
    """The epoch, counted from 1, whose weights a `SaveModelCallback` restored, if any."""
    for cb in cbs:
        if isinstance(cb, SaveModelCallback) and not (cb.every_epoch or cb.at_end) and learn.recorder.values:
            column = list(learn.recorder.metric_names[1:]).index(cb.monitor)
            best, at = None, None
            for epoch, row in enumerate(learn.recorder.values, start=1):
                value = row[column] - cb.min_delta
                if best is None or cb.comp(value, best):
                    best, at = row[column], epoch
            return at
    return None
