"""`tune`: searches the options of a model with Optuna within some minutes; prunes hopeless trials."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.callback.core import Callback, CancelFitException
from filelock import FileLock

from collabkit.data.checks import check_seed, whole
from collabkit.data.frames import Table, takes_tables
from collabkit.data.notices import noting, say
from collabkit.evaluate.by_user import usual_metric
from collabkit.evaluate.names import ERRORS
from collabkit.train.auto import Halves
from collabkit.train.budget import Budget, Deadline
from collabkit.train.cross_validation import loaders_of
from collabkit.train.dataloaders import CollabDataLoaders
from collabkit.train.loader import show_table
from collabkit.train.space import Space

__all__ = ["searched", "tune"]

SAFETY = 1.3  # a trial may take this many times the longest one before
GRID = 50  # up to this number of combinations, without ranges, each is tried once
FAILURES = 3  # maximum number of failed trials before the first success
_FIGURES = ("low", "high", "test", "test_low", "test_high", "seconds")


@takes_tables
def tune(
    data: CollabDataLoaders | Table, space: dict, *, minutes: float = 10, metric: str | None = None,
    n_trials: int | None = None, storage: str | Path | None = None, resume: bool = False, test: Table | None = None,
    seed: int | None = None, n_boot: int = 1000, show: bool = True, **options,
) -> tuple[object, pd.DataFrame]:  # fmt: skip
    """Find the best options of a model within some minutes, with Optuna: Bayesian search with pruning.

    After each epoch (or sweep of `fit_als`) the metric is computed on the validation part, and a trial whose value is
    worse than the median of the earlier trials at that epoch is pruned. Options are chosen on the validation rows of
    half of the users; the other half, or `test`, is not used for the choice, as in `auto_fit`. A space without ranges
    and of at most 50 combinations is tried completely, each combination once.

    With `storage` each trial is written to a file as soon as it ends. After a kill, `resume=True` continues the search
    and restarts the trial that was running. Install Optuna with `pip install collabkit[tune]`.

    Args:
        data: dataloaders with a validation part, or a table from which they are created with `options`.
        space: `{name: choice}`. A list is a set of choices; a pair `(low, high)` is a range (of integers if both ends
            are integers; on a logarithmic scale if the ends differ by a factor of ten); anything else is fixed. Names
            are arguments of the batches (`bs`, `n_neg`, `negatives`), of `collab_learner` and the model (`model`,
            `n_factors`, `loss_func`, ...) and of the fit (`n_epoch`, `lr`, `wd`; with `reg`, `unobserved_weight` or
            `n_sweeps` the fit is `fit_als`). What is not named has its default; for ratings `y_range` is theirs with a
            tenth of their spread on either side, and epochs, rate and weight decay come from `recipes.rating_recipe`.
            With a closed-form `model` (`EASE`, `ItemKNN`) they are its options.
        minutes: total time; trials end in time, and at least one is run.
        metric: the metric to optimise; default NDCG@10, or RMSE for ratings.
        n_trials: maximum number of trials, including those before a kill.
        storage: a file for the trials, e.g. `'study.log'`.
        resume: continue with the trials in `storage`, or start if there are none.
        test: a table of held-out rows to report on; then all validation rows are used for the choice.
        seed: seed of the models, the search and the halves; default that of the dataloaders.
        n_boot: number of bootstrap resamples for the intervals.
        show: whether to print the table.
        **options: arguments of `CollabDataLoaders.from_df`, for a table.

    Returns:
        The best model, trained on the training part with the best options, and a table with one row per trial: its
        options, `value`, `low`, `high` (95 %) on the part used for the choice, `test`, `test_low`, `test_high` on the
        other part, `seconds`, `state` (`'complete'`, `'pruned'`, `'failed'`) and `kept`.

    Raises:
        ImportError: Optuna is not installed.
        FileExistsError: `storage` has trials, and `resume` is False.
        ValueError, TypeError: `storage` belongs to another search; `space` is invalid; as in `auto_fit`.

    Example:
        >>> from collabkit import datasets
        >>> events = datasets.synthetic(n_users=100, n_items=80, n_ratings=3000, seed=1).ratings
        >>> dls = CollabDataLoaders.from_df(events, user_name='user', item_name='title', feedback='implicit', seed=0)
        >>> space = {'n_factors': [8, 16], 'reg': (1e-3, 1e-1), 'unobserved_weight': 0.1, 'n_sweeps': 4}
        >>> best, table = tune(dls, space, minutes=1, n_trials=3, show=False)          # doctest: +SKIP
    """
    given = {"minutes": minutes, "metric": metric, "n_trials": n_trials, "storage": storage, "resume": resume}
    best, table = searched(data, space, **given, test=test, seed=seed, n_boot=n_boot, options=options)
    if show:
        show_table(table.reset_index(), True)
    return best, table


def searched(
    data, space: dict, *, minutes: float, metric: str | None, n_trials: int | None = None, storage=None,
    resume: bool = False, test=None, seed: int | None = None, n_boot: int = 1000, options: dict | None = None,
    begin: Callable[[], object] = lambda: None,
) -> tuple[object, pd.DataFrame]:  # fmt: skip
    """The search of `tune`; `begin` is called after all checks, before the first trial."""
    budget, space = Budget(minutes), Space(space)
    check_optuna()
    whole("n_boot", n_boot)
    if n_trials is not None:
        whole("n_trials", n_trials)
    dls = loaders_of(data, options or {}, 0 if seed is None else seed)
    dls.check_of(weighted=True)
    seed = dls.seed if seed is None else check_seed(seed)
    halves = Halves(dls.data, usual_metric(dls.data.rated) if metric is None else metric, test, seed=seed)
    _dry_run(space, dls, seed)
    with _quiet():
        study = _study(storage, resume, space, dls, halves, seed)
        search = _Search(study, space, dls, halves, budget, seed, n_boot)
        begin()
        search.run(n_trials)
        return search.best(), search.table()


def check_optuna() -> None:
    """Raise if Optuna is missing."""
    if find_spec("optuna") is None:
        raise ImportError("tune() needs Optuna: pip install 'collabkit[tune]'")


def _dry_run(space: Space, dls: CollabDataLoaders, seed: int) -> None:
    """Create the first model, so that errors come before any work."""
    with noting():
        space.make(dls, space.first(), seed)


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without Optuna's log and its notes on experimental features."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


class _Lock:
    """A file lock for Optuna that ends with its process; Optuna's own outlives a kill by half a minute."""

    def __init__(self, file: Path):
        self.lock = FileLock(file.with_name(f".{file.name}.guard"))

    def acquire(self) -> bool:
        self.lock.acquire()
        return True

    def release(self) -> None:
        self.lock.release()


def _study(storage, resume: bool, space: Space, dls, halves: Halves, seed: int):
    """A new study, or the one in the file, whose killed trial will be repeated."""
    import optuna
    from optuna.storages import InMemoryStorage, JournalStorage
    from optuna.storages.journal import JournalFileBackend

    file = None if storage is None else Path(storage)
    if file is None and resume:
        raise ValueError("resume=True needs storage=, the file of the trials to go on from")
    if file is not None:
        if file.exists() and file.stat().st_size and not resume:
            raise FileExistsError(f"{file} holds the trials of a search; pass resume=True to go on, or name another "
                                  "file")  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        _cut_last_line(file)
    direction = "minimize" if halves.metric in ERRORS else "maximize"
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
    try:
        backend = None if file is None else JournalFileBackend(str(file), lock_obj=_Lock(file))
        kept = InMemoryStorage() if backend is None else JournalStorage(backend)
        study = optuna.create_study(storage=kept, study_name="collabkit", load_if_exists=True, direction=direction,
                                    pruner=pruner)  # fmt: skip
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not a file of trials ({error}): name another one in storage=") from None
    plan = {"metric": halves.metric, "data": dls.data.train.data_hash()[:16], "seed": str(seed), **space.plan()}
    before = json.loads(study.user_attrs.get("plan", "null"))
    if before is None:
        study.set_user_attr("plan", json.dumps(plan))
    elif odd := [name for name in {**before, **plan} if before.get(name) != plan.get(name)]:
        told = "; ".join("it had other training rows" if name == "data" else
                         f"{name} was {before.get(name)}, is {plan.get(name)}" for name in odd)  # fmt: skip
        raise ValueError(f"the trials in {file} are of another search: {told}. Name another file")
    for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):  # killed
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.set_user_attr(f"killed {trial.number}", True)
        if trial.params:
            study.enqueue_trial(trial.params)
    study.sampler = optuna.samplers.TPESampler(seed=(seed + len(study.trials)) % 2**32)
    return study


def _cut_last_line(file: Path) -> None:
    """Remove an incomplete last line left by a kill."""
    if file.exists() and (content := file.read_bytes()) and not content.endswith(b"\n"):
        file.write_bytes(content[: content.rfind(b"\n") + 1])


@dataclass
class _Search:
    study: object
    space: Space
    dls: CollabDataLoaders
    halves: Halves
    budget: Budget
    seed: int
    n_boot: int
    model: object = None  # the best model of this process, and its trial
    number: int = -1
    longest: float = 0.0

    def __post_init__(self):
        data = self.dls.data
        if self.halves.untouched is not None:  # early stopping must not use the other half
            chosen = data.users.encode(pd.Index(self.halves.choosing))
            valid = data.valid.take(np.isin(data.valid.user_idx.numpy(), chosen))
            self.chooses = self.dls.of(replace(data, valid=valid))
        else:
            self.chooses = self.dls

    def run(self, n_trials: int | None) -> None:
        """Run trials until there is no time for another, there are enough, or nothing is left to try."""
        from optuna.trial import TrialState

        grid, rng = self.space.grid(GRID), np.random.default_rng(self.seed)
        done = len(self._of(TrialState.COMPLETE, TrialState.PRUNED))
        while n_trials is None or done < n_trials:
            if self._of(TrialState.COMPLETE) and self.longest * SAFETY > self.budget.left:
                break
            if self.budget.left <= 0 and self._of(TrialState.COMPLETE):
                break
            if grid is not None:
                tried = [trial.params for trial in self._ended()]
                left = [params for params in grid if params not in tried]
                if not left:
                    break
                if not self._of(TrialState.WAITING):
                    self.study.enqueue_trial(rng.choice(left))
            done += self._one()

    def _ended(self) -> list:
        """The trials that ended, well or not; one that was killed is made again and does not count."""
        from optuna.trial import TrialState

        ended = self._of(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return [trial for trial in ended if f"killed {trial.number}" not in self.study.user_attrs]

    def _of(self, *states) -> list:
        return self.study.get_trials(deepcopy=False, states=states)

    def _one(self) -> int:
        """Run one trial; returns 1 if it succeeded."""
        import optuna
        from optuna.trial import TrialState

        first = not self._of(TrialState.COMPLETE)
        trial, before = self.study.ask(), self.budget.used
        try:
            with noting():
                model = self._trained(self.space.sample(trial), trial, None if first else self.budget.left)
                chosen, untouched = self.halves(model)
            if not np.isfinite(chosen.value):
                raise ValueError(f"{chosen.metric} is {chosen.value}")
        except optuna.TrialPruned:
            trial.set_user_attr("seconds", self.budget.used - before)
            self.study.tell(trial, state=TrialState.PRUNED)
            return 1
        except (ValueError, TypeError, RuntimeError) as error:
            trial.set_user_attr("error", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
            if first and len(self._of(TrialState.FAIL)) > FAILURES:
                raise
            say(f"trial {trial.number} ({trial.params}) failed: {error}")
            return 1
        seconds = self.budget.used - before
        figures = (*chosen.interval(self.n_boot), untouched.value, *untouched.interval(self.n_boot), seconds)
        for name, value in zip(_FIGURES, figures, strict=True):
            trial.set_user_attr(name, float(value))
        self.study.tell(trial, chosen.value)
        self.longest = max(self.longest, seconds)
        if self.study.best_trial.number == trial.number:
            self.model, self.number = model, trial.number
        return 1

    def _trained(self, values: dict, trial=None, seconds: float | None = None):
        """A model trained with these values."""
        metrics = () if self.space.closed or trial is None else (self.halves.metric,)
        model = self.space.make(self.chooses, values, self.seed, metrics)
        end = Deadline(np.inf if seconds is None or not np.isfinite(seconds) else 0.95 * seconds)
        cbs = [end] if trial is None else [end, _Prune(trial, self.halves.metric)]
        self.space.train(model, self.chooses, values, cbs)
        if end.ended:
            import optuna

            raise optuna.TrialPruned
        if not self.space.closed:
            model.metrics = []
        return model

    def best(self):
        """The model of the best trial; trained again if another process had trained it."""
        import optuna

        ended = self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
        if not ended:
            raise ValueError(f"none of the {len(self.study.trials)} trials finished; see the warnings above for "
                             "the errors. Correct the space, and name a new file if there is one")  # fmt: skip
        trial = self.study.best_trial
        if trial.number != self.number:
            with noting():
                self.model = self._trained(self.space.sample(optuna.trial.FixedTrial(trial.params)))
        if self.space.closed:
            self.model.data = self.dls.data
        else:
            self.model.dls = self.space.batches(self.dls, self.space.sample(optuna.trial.FixedTrial(trial.params))) \
                .asking(self.model.model.needs)  # fmt: skip
        return self.model

    def table(self) -> pd.DataFrame:
        """One row per trial, the best first."""
        from optuna.trial import TrialState

        names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
        rows = []
        for trial in self._ended():
            done = trial.state == TrialState.COMPLETE
            row = {"trial": trial.number, **trial.params, "value": trial.value if done else np.nan}
            row |= {name: trial.user_attrs.get(name, np.nan) for name in _FIGURES}
            rows.append(row | {"state": names[trial.state], "kept": trial.number == self.study.best_trial.number})
        table = pd.DataFrame(rows).set_index("trial")
        up = self.study.direction.name == "MINIMIZE"
        return table.sort_values("value", ascending=up, kind="stable").rename_axis(columns=self.halves.metric)


class _Prune(Callback):
    """Report the metric to a trial after each epoch, and end it if earlier trials were better."""

    order, once = 1950, True

    def __init__(self, trial, metric: str):
        self.trial, self.metric = trial, metric

    def after_epoch(self):
        """Report, and check."""
        names = list(self.learn.recorder.metric_names[1:])
        value = self.learn.recorder.values[-1][names.index(self.metric)]
        if np.isfinite(value):
            self.trial.report(float(value), self.learn.epoch)
        if self.learn.epoch + 1 < self.learn.n_epoch and self.trial.should_prune():
            self.pruned = True
            raise CancelFitException

    def after_fit(self):
        """End the trial, whose model is not needed."""
        if getattr(self, "pruned", False):
            import optuna

            raise optuna.TrialPruned
