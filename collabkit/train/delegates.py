"""A version of fastcore's `delegates` that keeps a function's type for type checkers."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from fastcore import meta

__all__ = ["delegates"]

F = TypeVar("F", bound=Callable)


def delegates(to: Callable, but: str | Sequence[str] | None = None) -> Callable[[F], F]:
    """Replace `**kwargs` in a function's signature by the keywords of `to`, without those in `but`."""
    return meta.delegates(to, but=but)
