"""`Budget`: how much of the time that a search was given is left, and a callback that ends a fit when none is."""

import time

from fastai.callback.core import Callback, CancelFitException

from collabkit.data.checks import finite

__all__ = ["Budget", "Deadline", "OutOfTimeError"]


GRACE = 0.06  # of the time, for judging what was fitted in it


class OutOfTimeError(Exception):
    """There is no time left for the work at hand."""


class Budget:
    """A span of time that has begun.

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
            raise ValueError(f"minutes must be above 0, got {minutes!r}")
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
        """Likewise, but a little later: what is fitted should be judged too."""
        if self.left <= -self.grace:
            raise OutOfTimeError


class Deadline(Callback):
    """End a fit, after the batch or sweep at hand, when its time is over. The model stays as it was trained so far.

    Args:
        seconds: from now on, so that what a fit does before its first batch counts too.
    """

    order, once = 1900, True  # no part of what `refit_all` repeats

    def __init__(self, seconds: float):
        self.ends, self.ended = time.perf_counter() + seconds, False

    def after_batch(self):
        """Look at it after a training batch."""
        if self.learn.training:
            self._look()

    def after_epoch(self):
        """And after an epoch."""
        if self.learn.epoch + 1 < self.learn.n_epoch:
            self._look()

    def _look(self):
        if time.perf_counter() > self.ends:
            self.ended = True
            raise CancelFitException
