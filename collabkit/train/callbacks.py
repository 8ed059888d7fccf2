"""Callbacks: cheaper versions of fastai's per-batch ones, cold rows, and mixed precision on any device."""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from fastai.callback.core import Callback, CancelTrainException
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import ParamScheduler
from fastai.learner import AvgSmoothLoss, Recorder
from tqdm import tqdm

from collabkit.coldstart.default_rows import fill_cold_items, fit_default_rows, settle_default_rows, zero_cold_rows
from collabkit.data.checks import shown
from collabkit.data.interactions import SIDES
from collabkit.data.notices import near_match, say
from collabkit.evaluate.names import ERRORS, same_name
from collabkit.models.base import as_model
from collabkit.models.sharded import refuse_shards
from collabkit.train.als import ALSSolver

__all__ = [
    "LeanRecorder", "LeanProgress", "LeanScheduler", "ColdRows", "AlternatingLeastSquares", "DeviceMixedPrecision",
    "ConsoleProgress", "IdDropoutSchedule", "cosine", "piecewise",
]  # fmt: skip

ALL_TRAINED = "all rows are trained on. Choose with a validation part, then learn.refit_all()"


class LeanRecorder(Recorder):
    """fastai's `Recorder` with the same records; it needs three small tensor operations per training batch."""

    name = "recorder"

    def __init__(self, beta: float = 0.98, **kwargs):
        super().__init__(beta=beta, **kwargs)
        self.smooth_loss = _LeanSmoothLoss(beta=beta)

    def before_fit(self):
        """As in fastai; the values that callbacks monitor must be recorded."""
        valid = getattr(self.learn.dls, "valid", None)
        missing = getattr(valid, "n", None) == 0  # on purpose: `valid_pct=0`
        self.valid_metrics = not missing
        if missing and self.learn.metrics and not hasattr(self.learn, "lr_finder"):
            raise ValueError(f"metrics ({', '.join(self.learn.metrics.attrgot('name'))}) need a validation part, "
                             f"and there is none: {ALL_TRAINED}")  # fmt: skip
        super().before_fit()
        names = list(self.metric_names[1:])
        for cb in self.learn.cbs:
            if (wanted := getattr(cb, "monitor", None)) is not None and not _monitors(cb, names):
                why = f"; there is no validation part: {ALL_TRAINED}" if missing else ""
                raise ValueError(f"{type(cb).__name__}(monitor={wanted!r}): no such figure is recorded"
                                 f"{near_match(wanted, names)}; there are {', '.join(names)}{why}")  # fmt: skip

    def plot_loss(self, skip_start=5, with_valid=True, **kwargs):
        """fastai's `plot_loss`; without a validation part it plots only the training loss."""
        return super().plot_loss(skip_start, with_valid and self.valid_metrics, **kwargs)

    def after_batch(self):
        """Record the learning rate and the smoothed loss of a training batch; validation as in fastai."""
        learn = self.learn
        if not learn.training or self.train_metrics or not learn.yb:
            super().after_batch()
            return
        self.smooth_loss.accumulate(learn)
        self.lrs.append(learn.opt.param_groups[-1]["lr"])
        learn.smooth_loss = self.smooth_loss.value
        self.losses.append(learn.smooth_loss)

    def after_train(self):
        """As in fastai; the losses of the epoch are moved to the CPU all at once, so that no step waits."""
        self.after_fit()
        super().after_train()

    def after_fit(self):
        """The same after a fit that was cancelled within an epoch, as by `lr_find`."""
        new = next((i for i, loss in enumerate(self.losses) if not loss.is_cpu), len(self.losses))
        if new < len(self.losses):
            self.losses[new:] = torch.stack(list(self.losses[new:])).cpu().unbind()


class LeanProgress(ProgressCallback):
    """fastai's bar; the loss next to it is read only a few times per second, because reading waits for a GPU."""

    name, every = "progress", 0.2  # seconds

    def before_train(self):
        """Start the bar."""
        self.shown = -math.inf
        super().before_train()

    def after_batch(self):
        """Advance the bar."""
        now = time.perf_counter()
        if self.learn.training and now - self.shown < self.every:
            self.pbar.update(self.iter + 1)
        else:
            self.shown = now
            super().after_batch()


def _monitors(cb, names: list[str]) -> bool:
    """Whether a callback monitors one of `names`; its name is replaced by the recorded one.

    fastai assumes that values whose names contain neither loss nor error should be large.
    """
    found = same_name(cb.monitor, names)
    if found is None:
        return False
    cb.monitor = found
    if found in ERRORS and getattr(cb, "comp", None) is np.greater:
        cb.comp, cb.min_delta = np.less, -cb.min_delta
    return True


class _LeanSmoothLoss(AvgSmoothLoss):
    def accumulate(self, learn):
        self.count += 1
        loss = learn.loss.detach()
        loss = loss.mean() if loss.ndim else loss
        self.val = torch.lerp(loss, self.val.to(loss.device), self.beta)


class LeanScheduler(ParamScheduler):
    """fastai's `ParamScheduler` for schedules made by `cosine` and `piecewise`: plain Python, no tensors in a step."""

    name = "param_scheduler"

    def __init__(self, scheds, plan: dict | None = None):
        super().__init__(scheds)
        self.plan = plan  # what the schedules were made from

    def before_batch(self):
        """Set each hyper-parameter to its value at this point of the training."""
        for name, schedule in self.scheds.items():
            self.learn.opt.set_hyper(name, schedule(self.learn.pct_train))


def cosine(start, end) -> Callable:
    """Half a cosine from `start` to `end` (numbers or arrays) over a position in [0, 1]."""
    return lambda pos: start + (1 + math.cos(math.pi * (1 - pos))) * (end - start) / 2


def piecewise(shares: Sequence[float], schedules: Sequence[Callable]) -> Callable:
    """Run `schedules` one after the other, each over its share of [0, 1].

    Example:
        >>> f = piecewise([0.25, 0.75], [cosine(0.0, 1.0), cosine(1.0, 0.0)])
        >>> [round(f(pos), 3) for pos in (0.0, 0.125, 0.25, 0.625, 1.0)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if abs(sum(shares) - 1) > 1e-6 or len(shares) != len(schedules):
        raise ValueError(f"shares must add up to 1, one a schedule, got {list(shares)} for {len(schedules)} schedules")
    starts = [sum(shares[:i]) for i in range(len(shares))]

    def at(pos):
        i = max(j for j, start in enumerate(starts) if pos >= start or j == 0)
        return schedules[i](min((pos - starts[i]) / shares[i], 1.0) if shares[i] else 1.0)

    return at


class ColdRows(Callback):
    """Rows of ids without training data: zero during training, afterwards the best prediction without information.

    Runs after callbacks that restore weights (`SaveModelCallback`). Only a training pass zeroes the rows: validation
    and predictions on their own leave them as they are.
    """

    order = 90

    filled: tuple | None = None  # the version of the weights for which cold items' rows were filled

    def before_fit(self):
        """Look whether validation asks for ids without training rows."""
        data = getattr(self.learn.dls, "data", None)
        valid, train = getattr(data, "valid", None), getattr(data, "train", None)
        self.any_cold = valid is not None and any(bool((train.counts(s)[valid.indices(s)] == 0).any()) for s in SIDES)

    def before_train(self):
        """Zero the rows, so that validation during the fit does not use untrained random ones."""
        if as_model(self.learn.model) is not None:
            zero_cold_rows(self.learn.model, self.learn.dls.data.train)

    def after_train(self):
        """Set the rows of cold ids for the following validation, if it uses any, so that it is as `evaluate`."""
        model, data = as_model(self.learn.model), self.learn.dls.data
        if model is None or data.valid is None:
            return
        if data.rated:
            if self.any_cold:
                fit_default_rows(model, data)
            return
        asked = data.valid.item_idx.unique()  # all items, if there are metrics
        side, cold = model.item_side, data.train.counts("item")[asked] == 0
        foretell = bool(len(self.learn.metrics)) or (side.can_write and bool((side.given[asked] & cold).any()))
        fill_cold_items(model, data.train, foretell=foretell)
        self.filled = model.version() if foretell else None

    def after_fit(self):
        """Fit the rows, if they are zero; see `models.default_rows.fit_default_rows`."""
        model = as_model(self.learn.model)
        filled = model is not None and self.filled == model.version()
        settle_default_rows(self.learn.model, self.learn.dls, filled)


class IdDropoutSchedule(Callback):
    """Change the share of ids that are trained without their own row during a fit; see `id_dropout`.

    A large share at first makes the model learn from features; a small one at the end lets known ids have their own
    rows.

    Args:
        schedule: function from the position in the fit, 0 to 1, to the share, e.g. fastai's `SchedLin(0.5, 0.0)`.

    Raises:
        TypeError: the schedule is not a function.
        ValueError: a share is outside [0, 1).

    The start of the fit raises an error for a model without side features. After the fit the model has its original
    `id_dropout` again.

    Example:
        >>> from fastai.callback.schedule import SchedLin
        >>> cb = IdDropoutSchedule(SchedLin(0.5, 0.1))
        >>> [round(share, 2) for share in cb.plan]
        [0.5, 0.4, 0.3, 0.2, 0.1]
    """

    def __init__(self, schedule: Callable):
        if not callable(schedule):
            raise TypeError(
                f"schedule must be a function of the position in a fit, e.g. SchedLin(0.5, 0), got {shown(schedule)}"
            )
        self.schedule, self.plan = schedule, [float(schedule(step / 4)) for step in range(5)]
        if odd := [share for share in self.plan if not 0 <= share < 1]:
            raise ValueError(f"shares of ids without their own row must lie in [0, 1), the schedule gives {odd[0]}")

    def before_fit(self):
        """Find the sides that have features."""
        model = as_model(self.learn.model)
        self.both = [] if model is None else [side for side in model.sides if side.features is not None]
        if not self.both:
            raise ValueError("IdDropoutSchedule is for models with side features, and this has none")

    def before_batch(self):
        """Set the share of this step."""
        if self.training:
            for side in self.both:
                side.id_dropout = float(self.schedule(self.pct_train))

    def after_fit(self):
        """Set the share back."""
        for side in getattr(self, "both", ()):
            side.id_dropout = self.learn.model.id_dropout


VANISHED = 0.01  # the target score of observed pairs is 1


class AlternatingLeastSquares(Callback):
    """A sweep of alternating least squares instead of an epoch's batches; `learn.fit_als` adds it.

    The displayed training loss is the objective per training event.

    Args:
        **options: of `als.ALSSolver`.
    """

    order = 1000  # after the other callbacks have begun the epoch

    def __init__(self, **options):
        self.options = self.plan = options

    @staticmethod
    def check(learn) -> None:
        """Raise unless the learner has a model and data for least squares."""
        if as_model(learn.model) is None:
            name = type(learn.model).__name__
            raise TypeError(f"alternating least squares needs one of collabkit's models, got {name}")
        refuse_shards(learn.model, "alternating least squares")
        learn.model.factor_tables  # noqa: B018  # a model that has none raises here
        if learn.dls.data.train.rating is not None:
            raise ValueError("alternating least squares is for implicit feedback; these are ratings")

    def before_fit(self):
        """Check the model and the data, and lay the events out as sparse matrices."""
        self.check(self.learn)
        data = self.learn.dls.data
        self.both_tables = self.learn.model.factor_tables()
        device = self.both_tables[0].device
        self.solver = ALSSolver(data.train, device=device, disliked=data.disliked, **self.options)

    def before_train(self):
        """Solve for the users, then for the items."""
        self.solver.solve_users(*self.both_tables)
        self.solver.solve_items(*self.both_tables)
        self.learn.model.als = self.options
        shown = self.learn.recorder.smooth_loss
        shown.val = torch.tensor(self.solver.objective(*self.both_tables) / len(self.learn.dls.data.train))
        shown.count = 2**31  # as after many batches, so that the start of the smoothing does not count
        raise CancelTrainException

    def after_cancel_train(self):
        """The epoch was not cancelled: there is a loss to record."""
        self.learn.recorder.cancel_train = False

    def after_fit(self):
        """Warn if the vectors have vanished."""
        if not hasattr(self, "both_tables"):
            return
        users, items = (table.detach().norm(dim=1) for table in self.both_tables)
        largest = float(users[1:].mean() * items[1:].mean())
        if largest < VANISHED:
            say(f"the vectors have vanished: norms of {users[1:].mean():.1g} (users) and {items[1:].mean():.1g} "
                "(items) on average, so that all scores are about 0. The penalty is too strong for data as sparse as "
                "these: lower reg or unobserved_weight, or leave both out and fit_als picks them")  # fmt: skip


class DeviceMixedPrecision(MixedPrecision):
    """fastai's mixed precision, with autocast for the model's own device rather than always for CUDA."""

    name = "mixed_precision"

    def before_fit(self):
        """Create the autocast context, and the gradient scaler for float16."""
        device = next(self.learn.model.parameters()).device.type
        dtype = torch.bfloat16 if self.amp_mode == AMPMode.BF16 else torch.float16
        if device == "cpu":
            say("mixed precision on a CPU saves no time for embedding models")
        self.kwargs["enabled"] = dtype == torch.float16
        self.autocast = torch.autocast(device, dtype=dtype)
        self.learn.scaler, self.scales = torch.amp.GradScaler(device, **self.kwargs), []


class ConsoleProgress(Callback):
    """For the command line: a bar over the batches of an epoch, and one line with the losses when it is over.

    The bar is not drawn if standard error is not a terminal.
    """

    order = 61

    def before_fit(self):
        """Print the header of the table of losses."""
        print(f"{'epoch':>5}  {'train loss':>10}  {'valid loss':>10}  {'seconds':>7}", flush=True)

    def before_train(self):
        """Start the bar and the clock."""
        self.started = time.perf_counter()
        title = f"epoch {self.learn.epoch + 1}/{self.learn.n_epoch}"
        self.bar = tqdm(total=len(self.learn.dls.train), desc=title, unit="batch", leave=False, disable=None)

    def after_batch(self):
        """Move the bar."""
        if self.learn.training:
            self.bar.update()

    def after_train(self):
        """Remove the bar."""
        self.bar.close()

    def after_epoch(self):
        """Print the epoch's losses."""
        shown = self.learn.final_record
        figures = shown[:2] if self.learn.recorder.valid_metrics else [*shown[:1], "-"]
        seconds = time.perf_counter() - self.started
        shown = "  ".join(f"{v:>10}" if isinstance(v, str) else f"{v:>10.4f}" for v in figures)
        print(f"{self.learn.epoch + 1:>5}  {shown}  {seconds:>7.1f}", flush=True)
