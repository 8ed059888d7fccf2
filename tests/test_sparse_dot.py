"""`row_dots`: values and gradients against gathering the rows, and foreign indices."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collabkit.data.runs import Runs
from collabkit.models.sparse_dot import row_dots


def gathered(vectors, table, items):
    """The obvious way, in double precision."""
    return torch.einsum("bd,bnd->bn", vectors.double(), table.double()[items])


def make(b=4, n=3, m=6, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vectors, table = torch.randn(b, d, generator=generator), torch.randn(m, d, generator=generator)
    return vectors.requires_grad_(), table.requires_grad_(), torch.randint(m, (b, n), generator=generator)


def gradients(function, vectors, table, items, upstream):
    scores = function(vectors, table, items)
    return torch.autograd.grad(scores, (vectors, table), upstream.to(scores.dtype))


def test_by_hand():
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], requires_grad=True)
    vectors = torch.tensor([[2.0, 3.0], [1.0, -1.0]], requires_grad=True)
    items = torch.tensor([[2, 0, 2], [1, 1, 0]])  # unsorted and repeated
    scores = row_dots(vectors, table, items)
    assert scores.tolist() == [[5.0, 2.0, 5.0], [-1.0, -1.0, 1.0]]
    (scores * torch.tensor([[1.0, 10.0, 100.0], [1.0, 10.0, 100.0]])).sum().backward()
    assert vectors.grad.tolist() == [[111.0, 101.0], [100.0, 11.0]]
    # row 0: 10 * v0 + 100 * v1; row 1: (1 + 10) * v1; row 2: (1 + 100) * v0
    assert table.grad.tolist() == [[120.0, -70.0], [11.0, -11.0], [202.0, 303.0]]


@given(st.integers(1, 9), st.integers(1, 7), st.integers(1, 12), st.integers(1, 9), st.integers(0, 1000))
def test_values_and_gradients_are_those_of_gathering(b, n, m, d, seed):
    vectors, table, items = make(b, n, m, d, seed)
    assert torch.allclose(row_dots(vectors, table, items).double(), gathered(vectors, table, items), atol=1e-5)
    upstream = torch.randn(b, n, generator=torch.Generator().manual_seed(seed))
    mine, theirs = (gradients(f, vectors, table, items, upstream) for f in (row_dots, gathered))
    for one, other in zip(mine, theirs, strict=True):
        assert one.shape == other.shape and torch.allclose(one, other, atol=1e-5)


def test_gradients_by_finite_differences():
    vectors, table, items = make()
    with torch.no_grad():
        weights = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    got = gradients(row_dots, vectors, table, items, weights)
    for tensor, grad in zip((vectors, table), got, strict=True):
        for at in [(0, 0), (1, 2), (3, 4)]:
            values = []
            for step in (0.5, -0.5):  # the function is linear in each entry: the step may be large
                with torch.no_grad():
                    tensor[at] += step
                    values.append((row_dots(vectors, table, items) * weights).sum().item())
                    tensor[at] -= step
            assert values[0] - values[1] == pytest.approx(grad[at].item(), abs=1e-4)


@pytest.mark.parametrize("which", ["vectors", "table", "none"])
def test_gradients_only_where_they_are_asked_for(which):
    vectors, table, items = make()
    vectors.requires_grad_(which == "vectors")
    table.requires_grad_(which == "table")
    scores = row_dots(vectors, table, items)
    assert scores.requires_grad == (which != "none")
    if which != "none":
        scores.sum().backward()
        wanted, other = (vectors, table) if which == "vectors" else (table, vectors)
        assert wanted.grad is not None and other.grad is None


def test_tensors_that_are_not_contiguous():
    vectors, table, items = make(b=6, n=6, m=6, d=6)
    expected = gathered(vectors.T, table.T, items.T)
    scores = row_dots(vectors.T, table.T, items.T)
    assert torch.allclose(scores.double(), expected, atol=1e-5)
    mine = torch.autograd.grad(scores.T.sum(0)[2], (vectors, table))  # an upstream gradient that is expanded
    theirs = torch.autograd.grad(expected.T.sum(0)[2], (vectors, table))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(mine, theirs, strict=True))


def test_other_precisions_gather():
    vectors, table, items = make()
    assert torch.equal(row_dots(vectors.double(), table.double(), items), gathered(vectors, table, items))
    half = row_dots(vectors.bfloat16(), table.bfloat16(), items)
    assert half.dtype == torch.bfloat16 and torch.allclose(half.double(), gathered(vectors, table, items), atol=0.1)


@pytest.mark.parametrize("bad", [-1, 6, 2**31])
def test_an_index_outside_the_table_raises(bad):
    vectors, table, items = make()
    items[2, 1] = bad
    with pytest.raises(IndexError, match=r"items must lie in 0\.\.5, got "):
        row_dots(vectors, table, items)


def test_the_edges_of_the_table_are_inside():
    vectors, table, _ = make()
    items = torch.tensor([[0, 5]] * 4)
    assert torch.allclose(row_dots(vectors, table, items).double(), gathered(vectors, table, items), atol=1e-5)


def test_no_notice_that_sparse_matrices_are_in_beta():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = Runs(torch.tensor([0, 1, 3]), torch.tensor([2, 0, 1]), width=3)
        matrix = runs.matrix(torch.tensor([1.0, 2.0, 3.0]))
        assert matrix.to_dense().tolist() == [[0.0, 0.0, 1.0], [2.0, 3.0, 0.0]]
        row_dots(*make()).sum().backward()
