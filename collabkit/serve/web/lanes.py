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

    While the thread answers, requests gather; then those with the key of the first are answered by one call. The queue
    is bounded by time, not by a small number: who has waited for `seconds` is told to come again, and so is who comes
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
        self._here, self._each = here, float("inf")  # seconds that an answer took of late

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
        finally:
            self._runs = None

    async def _answered(self, loop, answer, asked: list) -> Sequence[Any]:
        """The answers, from the thread; or at once where that takes no longer than a loop may stand still."""
        began = time.perf_counter()
        if self._here and self._each * len(asked) < SHORT:
            await asyncio.sleep(0)  # whoever comes now is in the next batch
            began = time.perf_counter()
            found = answer(asked)
        else:
            found = await loop.run_in_executor(self._thread, answer, asked)
        each = (time.perf_counter() - began) / len(asked)
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
        return Refused(503, "busy", f"no answer within {self.seconds:g} s; come again", retry_after=1)


_LATE = object()


def _give_up(done: asyncio.Future) -> None:
    if not done.done():
        done.set_result(_LATE)
