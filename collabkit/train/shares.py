"""`Share`: one process's rows of a batch that several processes train on together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from collabkit.data.processes import Processes
from collabkit.data.query import Query
from collabkit.data.runs import Runs
from collabkit.train.batches import Batch

__all__ = ["Share", "as_one"]


class Share:
    """One process's rows of a global batch: a batch itself, and the weight of its mean in the whole.

    A batch is cut into neighbouring rows (users, windows); shared negatives stay complete. If there are fewer rows than
    processes, some shares are the batch's first row, with the weight 0.

    Args:
        batch: from a `Loader`.
        team: the processes.
        total: whether the loss is a sum over rows rather than a mean.

    Raises:
        TypeError: a batch of another library, with parts of unequal length.

    Attributes:
        batch: the share.
        weight: weight of the share's loss in that of the batch.
        empty: whether the process has no row of its own.
        axes: by possible length of a tensor of this share: `(start, stop, whole)`, the place of its rows in the
            batch's.
        windows: the same for padded histories, with their lengths here and in the batch.
    """

    def __init__(self, batch: Sequence, team: Processes, total: bool = False):
        n = _rows(batch)
        start, stop = team.part(n)
        self.empty = start == stop
        if self.empty:
            start, stop = 0, min(1, n)
        self.axes: dict[int, tuple[int, int, int]] = {}
        self.windows: tuple[tuple[int, int, int], tuple[int, int]] | None = None
        cut = _windows if _steps(batch) else _users if _name(batch, "group") is not None else _plain
        self.batch, (own, whole) = cut(self, batch, start, stop, n)
        self.weight = 0.0 if self.empty else 1.0 if total else own / whole

    def _axis(self, start: int, stop: int, whole: int, times: int = 1) -> None:
        """Record that tensors of this length, or `times` it, are the rows `start:stop` of `whole`."""
        self.axes.setdefault((stop - start) * times, (start * times, stop * times, whole * times))

    def whole(self, shape: Sequence[int]) -> tuple[list[int], tuple[slice, ...]] | None:
        """The shape of a tensor of this share in a single process, and the share's place in it; None if unchanged."""
        if self.windows is not None:
            (start, stop, n), (length, longest) = self.windows
            if list(shape[:2]) == [stop - start, length]:  # padded histories
                return [n, longest, *shape[2:]], (slice(start, stop), slice(0, length))
        if not len(shape) or shape[0] not in self.axes:
            return None
        start, stop, n = self.axes[shape[0]]
        return [n, *shape[1:]], (slice(start, stop),)


def _name(batch, name: str):
    return getattr(batch, name, None)


def _steps(batch) -> bool:
    return isinstance(_name(batch, "query"), Query) and batch.query.steps


def _rows(batch) -> int:
    """The number of rows (users, windows) by which a batch is cut."""
    if not isinstance(batch, Batch):
        lengths = {len(part) for part in batch}
        if len(lengths) != 1:
            raise TypeError("several processes can share batches of collabkit's loaders, or tensors of one length, "
                            f"got parts of {sorted(lengths)} rows")  # fmt: skip
    return len(batch[0])


def _plain(share: Share, batch, start: int, stop: int, n: int):
    """For batches with one entry per row: everything except shared negatives."""
    share._axis(start, stop, n)
    if not isinstance(batch, Batch):
        return tuple(part[start:stop] for part in batch), (stop - start, n)
    parts = {name: part if part is None else part[start:stop] for name, part in vars(batch).items()}
    if batch.negatives.ndim == 1:
        parts["negatives"] = batch.negatives
    else:
        share._axis(start, stop, n, 1 + batch.negatives.shape[1])
    return Batch(**parts), (stop - start, n)


def _users(share: Share, batch: Batch, start: int, stop: int, n: int):
    """For whole users: their parts, and their positives, over which the mean is taken."""
    first, last = torch.searchsorted(batch.group, batch.group.new_tensor([start, stop])).tolist()
    share._axis(start, stop, n), share._axis(first, last, len(batch.positives))
    parts = {"query": batch.query[start:stop], "positives": batch.positives[first:last], "negatives": batch.negatives}
    parts |= {"group": batch.group[first:last] - start, "log_counts": batch.log_counts}
    parts |= {"hits": _hits(batch.hits, start, stop)}
    weight = None if batch.weight is None else batch.weight[first:last]
    return Batch(**parts, weight=weight), (last - first, len(batch.positives))


def _windows(share: Share, batch: Batch, start: int, stop: int, n: int):
    """For windows: their parts, and their events, which determine context, positives and the mean."""
    query, history = batch.query, batch.query.history
    first, last = int(history.start[start]), int(history.start[stop])
    own = history.of(slice(start, stop))
    share.windows = (start, stop, n), (_longest(own), _longest(history))
    share._axis(first, last, len(batch.positives)), share._axis(start, stop, n)
    asked = replace(query, users=query.users[start:stop], history=own,
                    context={name: code[first:last] for name, code in query.context.items()})  # fmt: skip
    parts = {"query": asked, "positives": batch.positives[first:last], "negatives": batch.negatives}
    parts |= {"group": batch.group[: last - first], "log_counts": batch.log_counts}
    parts |= {"hits": _hits(batch.hits, first, last)}
    return Batch(**parts), (last - first, len(batch.positives))


def _hits(hits: Tensor, start: int, stop: int) -> Tensor:
    """The places `(2, h)` in the rows `start:stop` of a table of scores."""
    there = (hits[0] >= start) & (hits[0] < stop)
    return torch.stack([hits[0, there] - start, hits[1, there]])


def _longest(history: Runs) -> int:
    return int(history.lengths.max()) if len(history) else 0


@contextmanager
def as_one(share: Share, team: Processes) -> Iterator[None]:
    """Context in which a forward pass of a share gives the result of its rows in the whole batch.

    Batch normalisation uses the means over all processes' rows. Dropout and `torch.rand` are drawn for the whole batch,
    and each process takes its rows, so one seed gives one result for any number of processes.
    """
    with _AsOne(share, team):
        yield


class _AsOne(TorchFunctionMode):
    def __init__(self, share: Share, team: Processes):
        super().__init__()
        self.share, self.team = share, team

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func is torch.rand and "generator" not in kwargs:
            return self._rand(*args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        at = self.share.whole(input.shape) if training and p > 0 else None
        if at is None:
            return F.dropout(input, p, training, inplace)
        # A single process draws the mask in memory order, in which a tensor's axes may be permuted.
        axes = sorted(range(input.ndim), key=lambda axis: -input.stride(axis))
        ones = input.new_ones([at[0][axis] for axis in axes])
        kept = F.dropout(ones, p).permute([axes.index(axis) for axis in range(input.ndim)])[at[1]]
        return input.mul_(kept) if inplace else input * kept

    def _rand(self, *size, **kwargs) -> Tensor:
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        at = self.share.whole(tuple(shape))
        return torch.rand(*size, **kwargs) if at is None else torch.rand(*at[0], **kwargs)[at[1]]

    def _batch_norm(
        self, input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
        bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        shown = [1, -1] + [1] * (input.ndim - 2)
        axes = [0, *range(2, input.ndim)]
        own = 0.0 if self.share.empty else 1.0
        n = self.team.sum(input.new_tensor([own * input.numel() / input.shape[1]]), "the rows of a batch")
        if float(n) <= 1:
            raise ValueError("batch normalisation cannot train on a batch of one row; use a larger bs")
        mean = _Sum.apply(own * input.sum(axes), self.team) / n
        centred = input - mean.view(shown)
        var = _Sum.apply(own * centred.square().sum(axes), self.team) / n
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean), momentum)
                running_var.lerp_((var * n / (n - 1)).to(running_var), momentum)
        out = centred * torch.rsqrt(var + eps).view(shown)
        out = out if weight is None else out * weight.view(shown)
        return out if bias is None else out + bias.view(shown)


class _Sum(torch.autograd.Function):
    """The sum over the processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, tensor: Tensor, team: Processes) -> Tensor:
        ctx.team = team
        return team.sum(tensor.clone(), "the means of a batch")

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return ctx.team.sum(gradient.clone(), "the gradients of the means of a batch"), None
