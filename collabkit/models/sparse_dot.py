"""Dot products of a batch of vectors with chosen rows of a table, without copying those rows out of it.

The obvious `(p[:, None] * table[items]).sum(-1)` builds a `(b, n, d)` tensor, and another one for its gradient: ten to
forty times the memory traffic of the products themselves. As sparse matrices with n entries a row, the scores are one
sampled product, and both gradients one sparse-dense product each.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from collabkit.data.runs import Runs

__all__ = ["row_dots"]


def row_dots(vectors: Tensor, table: Tensor, items: Tensor) -> Tensor:
    """`(b, n)` dot products of `vectors` `(b, d)` with the rows `items` `(b, n)` of `table` `(m, d)`; differentiable.

    On a CPU it uses sparse products; on other devices, whose memory is fast, it gathers the rows.

    Example:
        >>> table = torch.tensor([[1., 0.], [0., 1.], [1., 1.]])
        >>> row_dots(torch.tensor([[2., 3.]]), table, torch.tensor([[0, 2]]))
        tensor([[2., 5.]])
    """
    if vectors.device.type == "cpu" and vectors.dtype == table.dtype == torch.float32:
        low, high = (int(v) for v in torch.aminmax(items))
        if low < 0 or high >= len(table):  # sparse products would read outside the table
            raise IndexError(f"items must lie in 0..{len(table) - 1}, got {low}..{high}")
        if items.shape[1] > len(table):  # more than torch's sparse rows can hold, or different scores
            return (vectors @ table.T).gather(1, items)
        return _RowDots.apply(vectors, table, items)
    return torch.einsum("bd,bnd->bn", vectors, table[items])


class _RowDots(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vectors: Tensor, table: Tensor, items: Tensor) -> Tensor:
        (b, n), m = items.shape, len(table)
        pattern = Runs(torch.arange(0, b * n + 1, n), items.reshape(-1), m).matrix(vectors.new_zeros(b * n))
        scores = torch.sparse.sampled_addmm(pattern, vectors.contiguous(), table.T, beta=0.0).values()
        ctx.save_for_backward(vectors, table, items)
        return scores.view(b, n)

    @staticmethod
    def backward(ctx, grad: Tensor):
        vectors, table, items = ctx.saved_tensors
        grad = grad.contiguous()
        by_vector = by_table = None
        if ctx.needs_input_grad[0]:  # sum over n of grad[b, n] * table[items[b, n]]
            by_vector = F.embedding_bag(items, table, per_sample_weights=grad, mode="sum")
        if ctx.needs_input_grad[1]:  # for each row of the table, sum of grad[b, n] * vectors[b] where items[b, n] is it
            columns, order = torch.sort(items.reshape(-1))
            start = torch.searchsorted(columns, torch.arange(len(table) + 1))
            by_table = Runs(start, order // items.shape[1], len(vectors)).matrix(grad.view(-1)[order]) @ vectors
        return by_vector, by_table, None
