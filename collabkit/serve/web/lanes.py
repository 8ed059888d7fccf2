"""Requests that wait for an answer: those that ask alike are answered by one call, and nobody waits too long."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from collabkit.serve.web.asked import Refused

__all__ = ["Lane"]


LOOK = 256  # requests that are passed over in the search for those that ask alike
SHORT = 0.01  # seconds: what a switch to another thread and back costs when many ask
# Seconds: who asks is waited for, a pause at a time, while somebody comes in each, if of late they came that quickly.
QUICK, PAUSE, GATHER = 0.002, 0.001, 0.005


@dataclass(eq=False)
class _Waiting:
    """One request: what it asks, by which key it may be answered together with others, and since when."""

    key: Hashable
    asked: Any
    answer: Callable[[Sequence[Any]], Sequence[Any]]
    done: asyncio.Future
    since: float = field(default_factory=time.monotonic)


class Lane:
    """A queue with one thread that answers.

    While the thread answers, requests gather; then those with the key of the first are answered by one call, which
    costs little more than one answer; where they come quickly, some milliseconds are waited for that. The queue is
    bounded by time, not by a small number: who has waited for `seconds` is told to come again, and so is who comes
    while somebody else has waited that long.

    Args:
        name: of the thread.
        seconds: that a request may wait, and the answer may take.
        most: requests that wait, at most.
        batch: requests that are answered by one call, at most.
        seen: is told how many were answered together.
        here: whether short answers may be made without the thread, as all of a lane take about as long.
    """

    def __init__(
        self,
        name: str,
        *,
        seconds: float,
        most: int,
        batch: int = 64,
        seen: Callable[[int], None] | None = None,
        here: bool = False,
    ):
        self.seconds, self.most, self.batch, self._seen = seconds, most, batch, seen
        self._queue: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._runs: asyncio.Task | None = None
        self._here, self._each = here, float("inf")  # seconds of the processor that an answer took of late
        self._last, self._pace = 0.0, 1.0  # when the last request came, and seconds from one to the next of late

    async def ask(self, key: Hashable, asked: Any, answer: Callable[[Sequence[Any]], Sequence[Any]]) -> Any:
        """The answer to `asked`.

        Args:
            key: requests with equal ones may be answered together; None for none.
            asked: what `answer` is given, in a list.
            answer: gives as many answers, each a value or an exception.

        Raises:
            Refused: it would take too long, or took so.
        """
        if len(self._queue) >= self.most or (self._queue and self._waited(self._queue[0]) > self.seconds):
            raise self._busy()
        one = _Waiting(key, asked, answer, asyncio.get_running_loop().create_future())
        self._queue.append(one)
        self._pace += 0.1 * (min(one.since - self._last, 1.0) - self._pace)
        self._last = one.since
        if self._runs is None:
            self._runs = asyncio.create_task(self._run())
        timer = one.done.get_loop().call_later(self.seconds, _give_up, one.done)
        try:
            found = await one.done
        finally:
            timer.cancel()
        if found is _LATE:
            raise self._busy()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await self._gathered()
            while chosen := self._next():
                if self._seen is not None:
                    self._seen(len(chosen))
                try:
                    asked = [one.asked for one in chosen]
                    answers = await self._answered(loop, chosen[0].answer, asked)
                    answers = list(zip(chosen, answers, strict=True))
                except Exception as error:  # what goes wrong is the answer of those who asked, not of those who wait
                    answers = [(one, error) for one in chosen]
                for one, found in answers:
                    if not one.done.done():
                        one.done.set_result(found)
                await self._gathered()
        finally:
            self._runs = None

    async def _gathered(self) -> None:
        """Wait for those who come now."""
        await asyncio.sleep(0)
        known, until = 0, time.monotonic() + GATHER
        while self._pace < QUICK and known < len(self._queue) < self.batch and time.monotonic() < until:
            known = len(self._queue)
            await asyncio.sleep(PAUSE)

    async def _answered(self, loop, answer, asked: list) -> Sequence[Any]:
        """The answers, from the thread; or at once where that takes no longer than a loop may stand still."""
        if self._here and self._each * len(asked) < SHORT:
            found, seconds = _timed(answer, asked)
        else:
            found, seconds = await loop.run_in_executor(self._thread, _timed, answer, asked)
        each = seconds / len(asked)
        self._each = each if self._each == float("inf") else 0.8 * self._each + 0.2 * each
        return found

    def _next(self) -> list[_Waiting]:
        """Those who are answered next: the first who still waits, and those who ask alike."""
        chosen: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        while self._queue and len(chosen) < self.batch and len(left) < LOOK:
            one = self._queue.popleft()
            if one.done.done():
                continue
            if not chosen or (one.key is not None and one.key == chosen[0].key):
                chosen.append(one)
            else:
                left.append(one)
            if chosen[0].key is None:
                break
        self._queue.extendleft(reversed(left))
        return chosen

    @staticmethod
    def _waited(one: _Waiting) -> float:
        return time.monotonic() - one.since

    def _busy(self) -> Refused:
        return Refused(503, "busy", f"no answer within {self.seconds:g} s; try again later", retry_after=1)


def _timed(answer: Callable, asked: list) -> tuple[Sequence[Any], float]:
    """Answers, and the seconds of the processor that they took: what it did for others meanwhile does not count."""
    began = time.thread_time()
    return answer(asked), time.thread_time() - began


_LATE = object()


def _give_up(done: asyncio.Future) -> None:
    if not done.done():
        done.set_result(_LATE)
