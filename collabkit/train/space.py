"""`Space`: the choices of a search, and the target of each name: the batches, the model or the fit."""

from __future__ import annotations

import inspect
from dataclasses import replace
from itertools import product
from math import prod

from collabkit.data.checks import finite, one_of, shown
from collabkit.data.notices import near_match
from collabkit.models import CollFilter
from collabkit.models.base import Model, option_names
from collabkit.models.closed_form import ClosedForm
from collabkit.train.choose import check_model, usual_range
from collabkit.train.dataloaders import CollabDataLoaders
from collabkit.train.learner import CollabLearner, collab_learner
from collabkit.train.recipes import rating_recipe

__all__ = ["Space"]

FITS = ("fit_one_cycle", "fit_als", "fit")
BATCHES = ("bs", "n_neg", "negatives")
LOG = 10  # ratio of the ends from which a range is searched on a logarithmic scale
_FIXED_HERE = ("self", "cbs", "checkpoint", "resume", "start_epoch", "reset_opt")
_OTHER_NAMES = {"fit_one_cycle": {"lr": "lr_max"}, "fit_als": {"n_epoch": "n_sweeps"}, "fit": {"lr_max": "lr"}}


class Space:
    """Names with their choices.

    Args:
        given: `{name: choice}`: a list is a choice of its values, a pair `(low, high)` a range (of whole numbers where
            both ends are; by logarithm where they are above 0 and ten times apart), anything else is fixed. Names are
            those of the batches (`bs`, `n_neg`, `negatives`), of `collab_learner` and the model (`model`, `n_factors`,
            `loss_func`, ...) or of the fit (`n_epoch`, `lr`, `wd`; of `fit_als` `reg`, `unobserved_weight`, `n_sweeps`,
            ...); `fit` names the fit. With a closed-form `model` they are its options.

    Raises:
        TypeError: `given` is no dict, or has nothing to choose; a name that is none of these.
        ValueError: an empty list, an invalid range, models of both kinds.
    """

    def __init__(self, given: dict):
        if not isinstance(given, dict) or not given:
            raise TypeError("space must be a dict of names with what each may be, e.g. {'n_factors': [32, 64], "
                            f"'lr': (1e-3, 1e-1)}}, got {shown(given)}")  # fmt: skip
        self.given = {str(name): _checked(name, choice) for name, choice in given.items()}
        if not any(isinstance(choice, (list, tuple)) for choice in self.given.values()):
            raise TypeError(f"there is nothing to choose: each of {', '.join(self.given)} is fixed")
        models = self.given.get("model")
        models = models if isinstance(models, list) else [models]
        for model in models:
            if not (inspect.isclass(model) and issubclass(model, ClosedForm)):  # these are fitted here, too
                check_model(model)
        kinds = {inspect.isclass(m) and issubclass(m, ClosedForm) for m in models}
        if len(kinds) > 1:
            raise ValueError("model: a search is of closed-form models or of trained ones, not of both; auto_fit tries "
                             "both kinds")  # fmt: skip
        self.closed = kinds.pop()
        self.models = models
        self.fit = None if self.closed else self._fit()
        self._check_names()

    def _fit(self) -> str:
        named = self.given.get("fit")
        one_of("fit", named, (None, *FITS))
        squares = {"reg", "unobserved_weight", "n_sweeps", "nu", "n_cg", "search"} & set(self.given)
        return named or ("fit_als" if squares else "fit_one_cycle")

    def _check_names(self) -> None:
        known = {"model"}
        for model in self.models:
            cls = model if inspect.isclass(model) and issubclass(model, Model) else None
            known |= set() if cls is None else set(option_names(cls))
        if not self.closed:
            known |= {"fit", *BATCHES, *self._fit_names(), "n_epoch", "lr"}
            known |= set(inspect.signature(collab_learner).parameters) - {"dls", "kwargs", "seed"}
            known |= {"init_std", "id_dropout", "ps", "embed_p", "use_bn", "dropout", "moms"}
        for name in self.given:
            if name not in known:
                whose = " and ".join(m.__name__ for m in self.models) if self.closed else f"models and {self.fit}"
                raise TypeError(f"space has {name!r}, which is no option here{near_match(name, known)}; the options of "
                                f"{whose} are {', '.join(sorted(known - {'model', 'fit'}))}")  # fmt: skip

    def _fit_names(self) -> set[str]:
        return set(inspect.signature(getattr(CollabLearner, self.fit)).parameters) - set(_FIXED_HERE)

    def sample(self, trial) -> dict:
        """The values of an Optuna trial."""
        values = {}
        for name, choice in self.given.items():
            if isinstance(choice, list):
                labels = {_label(value): value for value in choice}
                values[name] = labels[trial.suggest_categorical(name, list(labels))]
            elif isinstance(choice, tuple):
                low, high = choice
                whole, log = all(isinstance(end, int) for end in choice), low > 0 and high / low >= LOG
                suggest = trial.suggest_int if whole else trial.suggest_float
                values[name] = suggest(name, low, high, log=log)
            else:
                values[name] = choice
        return values

    def grid(self, most: int) -> list[dict] | None:
        """All combinations as parameters of trials, where there are at most so many of them; else None."""
        if any(isinstance(choice, tuple) for choice in self.given.values()):
            return None
        lists = {name: [_label(value) for value in c] for name, c in self.given.items() if isinstance(c, list)}
        if prod(map(len, lists.values())) > most:
            return None
        return [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]

    def first(self) -> dict:
        """The first of each list and the low ends, for checks before any work."""
        return {name: c[0] if isinstance(c, (list, tuple)) else c for name, c in self.given.items()}

    def plan(self) -> dict[str, str]:
        """By name, in words: the facts that a resumed search must share with the previous one."""
        show = lambda c: [_label(v) for v in c] if isinstance(c, (list, tuple)) else _label(c)  # noqa: E731
        return {name: repr(show(choice)) for name, choice in sorted(self.given.items())}

    def batches(self, dls: CollabDataLoaders, values: dict) -> CollabDataLoaders:
        """`dls` with the values for batches."""
        mine = {name: values[name] for name in BATCHES if name in values}
        if not mine or self.closed:
            return dls
        options = dict(dls._options)
        if "bs" in mine:
            options |= {"bs": mine.pop("bs"), "val_bs": None}
        if mine:
            if options["feedback"] is None:
                raise ValueError(f"{', '.join(mine)}: ratings have no negatives")
            options["feedback"] = replace(options["feedback"], **mine)
        return CollabDataLoaders.from_dataset(dls.data, **options)

    def make(self, dls: CollabDataLoaders, values: dict, seed: int, metrics=()):
        """The learner, or the closed-form model, not fitted yet."""
        if self.closed:
            model = values["model"]
            return model(**{name: value for name, value in values.items() if name != "model"})
        mine = self._of_fit(values)
        options = {n: v for n, v in values.items() if n not in mine and n not in (*BATCHES, "fit", "lr", "n_epoch")}
        if dls.data.rated and "y_range" in option_names(options.get("model") or CollFilter):
            options.setdefault("y_range", usual_range(dls.data))
        learn = collab_learner(self.batches(dls, values), seed=seed, metrics=list(metrics), **options)
        if hasattr(learn, "progress"):
            learn.remove_cb(learn.progress)
        return learn

    def train(self, model, dls: CollabDataLoaders, values: dict, cbs=()) -> None:
        """Fit the result of `make`."""
        if self.closed:
            model.fit(dls)
            return
        rename = _OTHER_NAMES[self.fit]
        given = {rename.get(name, name): value for name, value in self._of_fit(values).items()}
        if self.fit != "fit_als":
            given = {**self._usual(model, dls), **given}
        with model.no_bar(), model.no_logging():
            getattr(model, self.fit)(**given, cbs=list(cbs))

    def _usual(self, model, dls: CollabDataLoaders) -> dict:
        """Arguments of the fit where the space does not name them: for ratings those that `collabkit train` has."""
        if not dls.data.rated:
            return {"n_epoch": 5}
        recipe = rating_recipe(len(dls.data.train))
        rate = "lr_max" if self.fit == "fit_one_cycle" else "lr"
        if type(model.model) is CollFilter:
            return {"n_epoch": recipe.n_epoch, rate: recipe.lr, "wd": recipe.wd}
        return {"n_epoch": 5, rate: 5e-3}

    def _of_fit(self, values: dict) -> dict:
        known = self._fit_names() | set(_OTHER_NAMES[self.fit])
        return {name: value for name, value in values.items() if name in known}


def _checked(name, choice):
    """`choice`, after a check: a list, a pair of ends or one value."""
    if isinstance(choice, list):
        if not choice:
            raise ValueError(f"{name}: an empty list leaves nothing to choose")
        if len({_label(value) for value in choice}) < len(choice):
            raise ValueError(f"{name}: some values of {choice!r} look the same")
    elif isinstance(choice, tuple):
        if len(choice) != 2 or not finite(name, choice[0]) < finite(name, choice[1]):
            raise ValueError(f"{name}: a range is a pair (low, high), a choice of values a list, got {shown(choice)}")
        return choice
    return choice


def _label(value):
    """A value in the form of the storage."""
    return (
        value
        if value is None or isinstance(value, (bool, int, float, str))
        else getattr(value, "__name__", repr(value))
    )
