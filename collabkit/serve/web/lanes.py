"""Queues of requests: equal ones are answered by one call, and waiting time is limited."""

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


LOOK = 256  # requests to search for ones with the same key
SHORT = 0.01  # seconds that a switch to another thread and back costs under load
# Seconds to wait for more requests, in pauses, as long as each pause brings one, if recent requests came that fast.
QUICK, PAUSE, GATHER = 0.002, 0.001, 0.005


@dataclass(eq=False)
class _Waiting:
    """One request: its content, the key of requests that can be answered together, and its time."""

    key: Hashable
    asked: Any
    answer: Callable[[Sequence[Any]], Sequence[Any]]
    done: asyncio.Future
    since: float = field(default_factory=time.monotonic)


class Lane:
    """A queue with one thread.

    While the thread works, requests accumulate; then all with the key of the first are answered by one call, which
    costs little more than one answer. If requests come quickly, the lane waits some milliseconds for more. The queue is
    limited by time, not by a small number: a request that has waited for `seconds` is refused, and so are new ones
    while another has waited that long.

    Args:
        name: of the thread.
        seconds: maximum time that a request may wait, and that an answer may take.
        most: maximum number of waiting requests.
        batch: maximum number of requests answered by one call.
        seen: called with the number of requests answered together.
        here: whether short answers may be computed without the thread, if all of a lane take about equally long.
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
        self._here, self._each = here, float("inf")  # recent CPU seconds per answer
        self._last, self._pace = 0.0, 1.0  # time of the last request, and recent seconds between requests

    async def ask(self, key: Hashable, asked: Any, answer: Callable[[Sequence[Any]], Sequence[Any]]) -> Any:
        """The answer to `asked`.

        Args:
            key: requests with equal ones may be answered together; None for none.
            asked: passed to `answer`, in a list.
            answer: returns as many answers, each a value or an exception.

        Raises:
            Refused: it would take too long, or did.
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
        """Stop the thread."""
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
                except Exception as error:  # an error is the answer to these requests, not to those still waiting
                    answers = [(one, error) for one in chosen]
                for one, found in answers:
                    if not one.done.done():
                        one.done.set_result(found)
                await self._gathered()
        finally:
            self._runs = None

    async def _gathered(self) -> None:
        """Wait for requests that come now."""
        await asyncio.sleep(0)
        known, until = 0, time.monotonic() + GATHER
        while self._pace < QUICK and known < len(self._queue) < self.batch and time.monotonic() < until:
            known = len(self._queue)
            await asyncio.sleep(PAUSE)

    async def _answered(self, loop, answer, asked: list) -> Sequence[Any]:
        """The answers, from the thread; or directly if that blocks the event loop only briefly."""
        if self._here and self._each * len(asked) < SHORT:
            found, seconds = _timed(answer, asked)
        else:
            found, seconds = await loop.run_in_executor(self._thread, _timed, answer, asked)
        each = seconds / len(asked)
        self._each = each if self._each == float("inf") else 0.8 * self._each + 0.2 * each
        return found

    def _next(self) -> list[_Waiting]:
        """The requests to answer next: the first that still waits, and those with the same key."""
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
    """Answers, and the CPU seconds that they took in this thread."""
    began = time.thread_time()
    return answer(asked), time.thread_time() - began


_LATE = object()


def _give_up(done: asyncio.Future) -> None:
    if not done.done():
        done.set_result(_LATE)
