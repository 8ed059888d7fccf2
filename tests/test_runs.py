"""`Runs`: every operation against plain lists."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collabkit.data.runs import Runs
from collabkit.data.unique import sorted_unique

WIDTH = 6
lists = st.lists(st.lists(st.integers(0, WIDTH - 1), max_size=5), max_size=5)  # rows of values, repeated ones too
ints = lambda values: np.array(values, dtype=np.int64)  # noqa: E731


def flat(table):
    """Rows and values `(m,)` of a list of lists."""
    pairs = [(row, value) for row, values in enumerate(table) for value in values]
    return ints([row for row, _ in pairs]), ints([value for _, value in pairs])


def runs_of(table, weighted=False):
    rows, values = flat(table)
    return Runs.group(rows, values, len(table), width=WIDTH, weight=torch.arange(len(rows)) if weighted else None)


def sets(table):
    """The same rows as sorted distinct pairs, and as lists."""
    return Runs.pairs(*flat(table), len(table), WIDTH), [sorted(set(values)) for values in table]


def same(runs, table):
    """Whether runs hold these rows, and what they derive agrees with them."""
    rows, values = flat(table)
    assert [run.tolist() for run in runs] == table and len(runs) == len(table)
    assert runs.start.dtype == runs.values.dtype == torch.int64 and runs.lengths.tolist() == [*map(len, table)]
    assert runs.rows.tolist() == rows.tolist() and runs.keys.tolist() == (rows * runs.width + values).tolist()
    return True


@given(lists, st.randoms(use_true_random=False))
def test_group_keeps_the_order_within_a_row_and_the_weights_beside_their_values(table, random):
    rows, values = flat(table)
    order = list(range(len(rows)))
    random.shuffle(order)
    runs = Runs.group(rows[order], values[order], len(table), width=WIDTH, weight=torch.tensor(order) * 0.5)
    places = [[j for j in order if rows[j] == row] for row in range(len(table))]
    assert same(runs, [[int(values[j]) for j in row] for row in places])
    assert runs.weight.tolist() == [0.5 * j for row in places for j in row]
    assert same(runs_of(table).to("cpu"), table)


@given(lists, st.lists(st.integers(0, 4), max_size=6), st.integers(0, 5), st.integers(0, 5))
def test_rows_slices_spans_and_the_last(table, wanted, k, first):
    runs, wanted = runs_of(table, weighted=True), [row for row in wanted if row < len(table)]
    assert same(runs.of(ints(wanted)), [table[row] for row in wanted])
    number = runs.start.tolist()  # of each row's first value
    assert runs.of(ints(wanted)).weight.tolist() == [number[r] + j for r in wanted for j in range(len(table[r]))]
    first = min(first, len(table))
    part = runs.of(slice(first, first + k))
    assert same(part, table[first : first + k])
    assert part.weight.tolist() == [*range(number[first], number[first] + len(part.values))]
    assert same(runs.last(k), [values[max(0, len(values) - k) :] for values in table])
    stop = torch.maximum(runs.start[1:] - 1, runs.start[:-1])
    assert same(runs.spans(runs.start[:-1], stop), [values[:-1] for values in table])


@given(lists, lists)
def test_rows_that_are_filled_padded_and_followed(table, more):
    runs, longest = runs_of(table), max(map(len, table), default=0)
    assert same(runs.filled(4), [values or [4] for values in table])
    padded = runs.padded(fill=-1)
    assert padded.shape == (len(table), longest)
    assert padded.tolist() == [values + [-1] * (longest - len(values)) for values in table]
    assert same(runs.followed_by(runs_of(more)), table + more)


@given(lists)
def test_each_value_once(table):
    pairs, expected = sets(table)
    assert same(runs_of(table).unique(), expected) and same(pairs, expected) and pairs.unique() is pairs
    assert sorted_unique(flat(table)[1]).tolist() == sorted({value for values in table for value in values})


@given(lists, lists, lists)
def test_sets_of_pairs(table, other, third):
    n = min(len(table), len(other), len(third))
    (a, left), (b, right), (c, more) = (sets(rows[:n]) for rows in (table, other, third))
    assert same(a.union(b, c), [sorted({*x, *y, *z}) for x, y, z in zip(left, right, more, strict=True)])
    assert same(a.union(), left)
    assert same(a.without(b), [sorted({*x} - {*y}) for x, y in zip(left, right, strict=True)])
    at, there = a.find(b.rows, b.values)
    pairs = [*zip(*map(np.ndarray.tolist, flat(left)), strict=True)]
    asked = [*zip(*map(np.ndarray.tolist, flat(right)), strict=True)]
    assert there.tolist() == [pair in pairs for pair in asked]
    assert at.tolist() == [sum(pair < other for pair in pairs) for other in asked]
    assert same(a.where(a.values.numpy() % 2 == 0), [[value for value in x if value % 2 == 0] for x in left])


@given(lists)
def test_transposed_and_as_a_matrix(table):
    pairs, rows = sets(table)
    turned = pairs.transposed()
    assert same(turned, [[row for row, values in enumerate(rows) if v in values] for v in range(WIDTH)])
    assert turned.width == len(table)
    dense = torch.zeros(len(table), WIDTH)
    dense[pairs.rows, pairs.values] = 1
    weight = torch.arange(1.0, len(pairs.values) + 1)
    assert torch.equal(pairs.matrix().to_dense(), dense) and torch.equal(turned.matrix().to_dense(), dense.T)
    assert pairs.matrix(weight).to_dense()[pairs.rows, pairs.values].tolist() == weight.tolist()


def test_no_rows_at_all():
    empty = runs_of([])
    assert same(empty, []) and same(empty.of(ints([])), []) and same(empty.union(), []) and same(empty.last(3), [])
    assert same(Runs.group([], [], 2, width=3), [[], []]) and same(Runs.pairs([], [], 2, 3), [[], []])
    with pytest.raises(IndexError):
        runs_of([[1], []]).of(ints([2]))
