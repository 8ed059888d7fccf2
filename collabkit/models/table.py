"""`Tables` of ids, whose gradients for large batches are summed up fast."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

__all__ = [
    "Embedding", "Tables", "bounded", "embedding", "filled_later", "hold", "init_rows", "is_sparse", "lookup",
    "made_as", "tables_of", "uninitialised",
]  # fmt: skip

# Number of rows from which sparse steps are faster, with batches of thousands; see `benchmarks.scale_steps`.
SPARSE_ROWS = 300_000

_EMPTY: ContextVar[bool] = ContextVar("collabkit_uninitialised", default=False)
_KIND: ContextVar = ContextVar("collabkit_tables", default=None)


def is_sparse(sparse: bool | str, n_rows: int) -> bool:
    """Whether a table of `n_rows` has sparse gradients, see `Model.set_sparse`."""
    return sparse if isinstance(sparse, bool) else n_rows >= SPARSE_ROWS


@contextmanager
def uninitialised() -> Iterator[None]:
    """Context in which new tables are not initialised, because they will be filled from a file."""
    token = _EMPTY.set(True)
    try:
        yield
    finally:
        _EMPTY.reset(token)


def filled_later() -> bool:
    """Whether this is within `uninitialised`, so that initial values need not be computed."""
    return _EMPTY.get()


@contextmanager
def bounded(n_floats: int) -> Iterator[None]:
    """Context in which a tensor created from a size may not be many times larger than `n_floats`.

    Raises:
        ValueError: one would.
    """
    with _Bounded(8 * n_floats + 10_000_000):
        yield


class _Bounded(TorchFunctionMode):
    made_of_sizes = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange)

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.made_of_sizes and args:
            size = args[0] if isinstance(args[0], (list, tuple)) else args
            if math.prod(n for n in size if isinstance(n, int)) > self.most:
                raise ValueError(f"the options ask for a tensor of {list(size)}, which the file does not hold")
        return func(*args, **(kwargs or {}))


class Embedding(nn.Embedding):
    """`nn.Embedding` whose gradient for large batches on a CPU is summed up several times faster."""

    def forward(self, idx: Tensor) -> Tensor:
        return super().forward(idx) if self.sparse else lookup(self.weight, idx)


def lookup(table: Tensor, idx: Tensor) -> Tensor:
    """Rows `(..., d)` of `table` `(n, d)` at `idx` `(...)`; the gradient is dense, and fast for many indices."""
    few = not torch.is_grad_enabled() or table.device.type != "cpu" or idx.numel() < 4096
    return F.embedding(idx, table) if few else _Lookup.apply(table, idx)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table: Tensor, idx: Tensor) -> Tensor:
        ctx.save_for_backward(idx)
        ctx.like = table
        return F.embedding(idx, table)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (idx,) = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1]).contiguous()  # several times faster to add up than a view
        return torch.zeros_like(ctx.like, dtype=grad.dtype).index_add_(0, idx.reshape(-1), rows), None


class Tables(nn.ModuleList):
    """A side's embeddings `(n, d)`, one per part: their rows are looked up, read, written and added to together."""

    def forward(self, idx: Tensor) -> tuple[Tensor, ...]:
        """The rows `[(..., d), ...]` at `idx` `(...)`."""
        return tuple([table(idx) for table in self])

    def read(self, idx: Tensor) -> list[Tensor]:
        """The rows `[(m, d), ...]` at `idx` `(m,)`, detached."""
        return [table.weight.detach()[idx.to(table.weight.device)] for table in self]

    def write(self, idx: Tensor, rows) -> None:
        """Write `rows` `[(m, d), ...]` (or `(d,)`, the same for all) at `idx` `(m,)`."""
        for table, values in zip(self, rows, strict=True):
            table.weight[idx.to(table.weight.device)] = values.to(table.weight)  # of its type, on its device

    def grow(self, n: int) -> None:
        """Extend them to `n` rows with zeros."""
        for table in self:
            new = table.weight.new_zeros(n - len(table.weight), table.weight.shape[1])
            hold(table, torch.cat([table.weight, new]))


def tables_of(name: str, n: int, widths, *, std: float, sparse: bool) -> Tables:
    """Embeddings `(n, width)` of a side, of the current kind, see `made_as`."""
    kind = _KIND.get()
    if kind is not None:
        return kind(name, n, widths, std=std, sparse=sparse)
    return Tables(embedding(n, width, std=std, sparse=sparse) for width in widths)


@contextmanager
def made_as(kind) -> Iterator[None]:
    """Context in which the tables of new sides are `kind(name, n, widths, std=, sparse=)`; for None, plain `Tables`."""
    token = _KIND.set(kind)
    try:
        yield
    finally:
        _KIND.reset(token)


def hold(table: nn.Embedding, rows: Tensor) -> None:
    """Replace the rows of a table by `rows`; its parameter stays the same object, as weight decay identifies it."""
    table.weight.data, table.weight.grad = rows, None
    table.num_embeddings = len(rows)


def embedding(n: int, d: int, *, std: float = 0.01, sparse: bool = False) -> Embedding:
    """An `nn.Embedding` `(n, d)` with the rows of `init_rows`; row 0, of unknown ids, is zero."""
    table = Embedding(n, d, sparse=sparse, _weight=torch.empty(n, d))  # given weights are not initialised again
    table.weight = init_rows(n, d, std, True)
    return table


def init_rows(n: int, d: int, std: float, zero_first: bool = False) -> nn.Parameter:
    """A parameter `(n, d)` drawn from a normal of sd `std` truncated at two sd, as fastai's embeddings.

    Values outside are drawn again, which takes a tenth of the time of `nn.init.trunc_normal_`.
    """
    if _EMPTY.get():
        return nn.Parameter(torch.empty(n, d))
    rows = torch.empty(n, d).normal_(0, std)
    far = (rows.abs() > 2 * std).nonzero(as_tuple=True)
    while len(far[0]):
        rows[far] = new = torch.empty(len(far[0])).normal_(0, std)
        still = new.abs() > 2 * std
        far = tuple(index[still] for index in far)
    if zero_first:
        rows[0] = 0.0
    return nn.Parameter(rows)
