"""fastcore's `delegates`, which tells nothing to type checkers, as one that leaves a function's type as it is."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from fastcore import meta

__all__ = ["delegates"]

F = TypeVar("F", bound=Callable)


def delegates(to: Callable, but: str | Sequence[str] | None = None) -> Callable[[F], F]:
    """Put the keywords of `to`, less those named in `but`, in place of `**kwargs` in a function's signature."""
    return meta.delegates(to, but=but)
