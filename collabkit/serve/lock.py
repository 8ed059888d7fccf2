"""`ReadWriteLock`: many queries at once, or one change of the data."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import Condition, get_ident
from typing import ParamSpec, TypeVar

__all__ = ["ReadWriteLock", "reads", "writes"]

P = ParamSpec("P")
T = TypeVar("T")


class ReadWriteLock:
    """Many readers at once, or one writer; a waiting writer goes before new readers.

    A thread may acquire the lock again, and a writer may read. Copies are independent locks.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._readers: Counter[int] = Counter()  # by thread, how often it holds the lock
        self._writers: Counter[int] = Counter()  # of at most one thread
        self._waiting = 0

    @contextmanager
    def read(self) -> Iterator[None]:
        """Context in which nobody writes."""
        me = get_ident()
        with self._changed:
            if me not in self._readers and me not in self._writers:
                self._changed.wait_for(lambda: not self._writers and not self._waiting)
            self._readers[me] += 1
        try:
            yield
        finally:
            self._leave(self._readers, me)

    @contextmanager
    def write(self) -> Iterator[None]:
        """Context in which nobody else reads or writes."""
        me = get_ident()
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not (self._writers.keys() | self._readers.keys()) - {me})
            finally:
                self._waiting -= 1
            self._writers[me] += 1
        try:
            yield
        finally:
            self._leave(self._writers, me)

    def _leave(self, holders: Counter, me: int) -> None:
        with self._changed:
            holders[me] -= 1
            if not holders[me]:
                del holders[me]
                self._changed.notify_all()

    def __reduce__(self):
        return ReadWriteLock, ()


def reads(method: Callable[P, T]) -> Callable[P, T]:
    """A method of an object with a `lock` that reads what writers change."""
    return _holding(method, "read")


def writes(method: Callable[P, T]) -> Callable[P, T]:
    """A method of an object with a `lock` that changes what readers use."""
    return _holding(method, "write")


def _holding(method, how: str):
    @wraps(method)
    def wrapped(self, *args, **kwargs):
        with getattr(self.lock, how)():
            return method(self, *args, **kwargs)

    return wrapped
