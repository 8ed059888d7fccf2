"""Losses of score tensors."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

__all__ = ["FlatLoss"]


class FlatLoss:
    """A loss on flattened predictions and targets, so that `(bs,)` and `(bs, 1)` never broadcast to `(bs, bs)`.

    Takes the place of fastai's `MSELossFlat` without its tensor subclass, which costs more than the loss itself.

    Args:
        func: a torch loss with a `reduction` attribute, e.g. `nn.MSELoss()`, or a function of two `(n,)` tensors; it
            needs a `reduction` argument, as `F.l1_loss` has, only for losses a row.

    Raises:
        ValueError: predictions and targets differ in number.

    Example:
        >>> import torch
        >>> loss = FlatLoss(nn.MSELoss())
        >>> loss(torch.tensor([1., 2.]), torch.tensor([[1.], [4.]]))
        tensor(2.)
    """

    def __init__(self, func: Callable[..., Tensor]):
        self.func = func
        self._reduction = "mean"  # of a plain function; a loss object holds its own

    def __call__(self, pred: Tensor, target: Tensor, **kwargs) -> Tensor:
        if pred.numel() != target.numel():
            raise ValueError(f"predictions {tuple(pred.shape)} and targets {tuple(target.shape)} differ in number")
        if self._reduction != "mean":
            kwargs.setdefault("reduction", self._reduction)
        return self.func(pred.reshape(-1), target.reshape(-1), **kwargs)

    @property
    def reduction(self) -> str:
        """'mean', 'sum' or 'none' (fastai switches to 'none' for losses a row)."""
        return getattr(self.func, "reduction", self._reduction)

    @reduction.setter
    def reduction(self, value: str) -> None:
        if hasattr(self.func, "reduction"):
            self.func.reduction = value
        else:
            self._reduction = value

    def to(self, device) -> FlatLoss:
        """Move the wrapped loss, where it is a module."""
        if isinstance(self.func, nn.Module):
            self.func.to(device)
        return self

    def activation(self, pred: Tensor) -> Tensor:
        """What turns predictions into ratings: nothing, the model did it."""
        return pred

    def decodes(self, pred: Tensor) -> Tensor:
        """Predictions as shown by `show_results`."""
        return pred

    def __repr__(self) -> str:
        return f"FlatLoss({self.func!r})"
