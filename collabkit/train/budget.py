"""`Budget`: the remaining time of a search, and a callback that ends a fit when it is over."""

import time

from fastai.callback.core import Callback, CancelFitException

from collabkit.data.checks import finite, shown

__all__ = ["Budget", "Deadline", "OutOfTimeError"]


GRACE = 0.06  # share of the time, added for the evaluation of fitted models


class OutOfTimeError(Exception):
    """There is no time left."""


class Budget:
    """A time limit, counted from its creation.

    Args:
        minutes: how long; None for no limit.

    Raises:
        ValueError: `minutes` is not a positive number.

    Example:
        >>> budget = Budget(1)
        >>> 59 < budget.left <= 60, Budget(None).left
        (True, inf)
    """

    def __init__(self, minutes: float | None):
        if minutes is not None and finite("minutes", minutes) <= 0:
            raise ValueError(f"minutes must be above 0, got {shown(minutes)}")
        self.started = time.perf_counter()
        self.ends = float("inf") if minutes is None else self.started + 60 * minutes
        self.grace = 0.0 if minutes is None else GRACE * 60 * minutes

    @property
    def left(self) -> float:
        """Seconds; below 0 when it is over."""
        return self.ends - time.perf_counter()

    @property
    def used(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.started

    def check(self) -> None:
        """Raise `OutOfTimeError` when it is over."""
        if self.left <= 0:
            raise OutOfTimeError

    def check_end(self) -> None:
        """The same a little later, so that a fitted model can still be evaluated."""
        if self.left <= -self.grace:
            raise OutOfTimeError


class Deadline(Callback):
    """End a fit after the current batch or sweep when its time is over. The model keeps the training so far.

    Args:
        seconds: from now on, including the work before the first batch.
    """

    order, once = 1900, True  # not repeated by `refit_all`

    def __init__(self, seconds: float):
        self.ends, self.ended = time.perf_counter() + seconds, False

    def after_batch(self):
        """Check the time after a training batch."""
        if self.learn.training:
            self._look()

    def after_epoch(self):
        """Check the time after an epoch."""
        if self.learn.epoch + 1 < self.learn.n_epoch:
            self._look()

    def _look(self):
        if time.perf_counter() > self.ends:
            self.ended = True
            raise CancelFitException
