"""`ALSSolver`: its sweeps and objective against dense algebra, empty rows, planted blocks, bad arguments."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from elsewhere import elsewhere

from collabkit.data.interactions import Columns, Interactions
from collabkit.data.vocab import Vocab
from collabkit.train.als import ALSSolver
from collabkit.train.als_defaults import TRIALS, als_rule, pick_als

N_USERS, N_ITEMS = 40, 30


@pytest.fixture(autouse=True)
def one_thread():
    """Hundreds of tiny products: on a busy machine threads would wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def events(pairs, n_users=N_USERS, n_items=N_ITEMS) -> Interactions:
    """Events of the 0-based (user, item) `pairs`, in tables that may know more ids than occur."""
    frame = pd.DataFrame(list(pairs), columns=["user", "item"])
    users = Vocab.from_values(pd.Series(range(n_users)), "user")
    items = Vocab.from_values(pd.Series(range(n_items)), "item")
    return Interactions.from_df(frame, Columns("user", "item"), users=users, items=items)


@pytest.fixture
def sparse_events() -> Interactions:
    """A fifth of the pairs at random; users 38 and 39 and item 29 have none."""
    there = np.random.default_rng(0).random((N_USERS - 2, N_ITEMS - 1)) < 0.2
    there[:, 0] = True  # every other user has an event
    there[0] = True
    return events(np.argwhere(there))


def dense(train: Interactions) -> torch.Tensor:
    matrix = torch.zeros(train.n_users, train.n_items, dtype=torch.float64)
    matrix[train.user_idx, train.item_idx] = 1.0
    return matrix


def penalties(observed, reg, w, nu):
    """Weight of each row's squared norm, written out from the formula in the docstring."""
    n_users, n_items = (n - 1 for n in observed.shape)
    return reg * (observed.sum(1) + w * n_items) ** nu, reg * (observed.sum(0) + w * n_users) ** nu


def exact(observed, penalty, w, Y):
    """The optimum of each row by its own normal equations; zero for rows without events."""
    rows = []
    for seen, weight in zip(observed.bool(), penalty, strict=True):
        A = w * Y.T @ Y + Y[seen].T @ Y[seen] + weight * torch.eye(Y.shape[1], dtype=Y.dtype)
        rows.append(torch.linalg.solve(A, Y[seen].sum(0)))
    return torch.stack(rows)


@pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])
def test_enough_steps_solve_the_normal_equations(sparse_events, nu):
    observed, w, reg = dense(sparse_events), 0.3, 0.05
    solver = ALSSolver(sparse_events, reg=reg, unobserved_weight=w, nu=nu, n_cg=12)
    P, Q = solver.init_tables(6, seed=0, std=1.0)
    of_users, of_items = penalties(observed, reg, w, nu)
    solver.solve_users(P, Q)
    torch.testing.assert_close(P.double(), exact(observed, of_users, w, Q.double()), atol=1e-4, rtol=1e-4)
    solver.solve_items(P, Q)
    torch.testing.assert_close(Q.double(), exact(observed.T, of_items, w, P.double()), atol=1e-4, rtol=1e-4)


def test_blocks_and_threads_give_what_one_block_gives(sparse_events, monkeypatch):
    solver = ALSSolver(sparse_events, reg=0.05, unobserved_weight=0.3)
    P, Q = solver.init_tables(4, seed=0)
    P_blocks, Q_blocks = (torch.nn.Parameter(t.clone()) for t in (P, Q))
    sweep(solver, P, Q)
    value = solver.objective(P, Q)
    monkeypatch.setattr("collabkit.train.als._CPU_BLOCK", 4 * 7)  # 7 rows a block, the last one short
    torch.set_num_threads(2)
    sweep(solver, P_blocks, Q_blocks)
    assert solver.objective(P_blocks, Q_blocks) == pytest.approx(value, rel=1e-6)
    assert torch.get_num_threads() == 2
    torch.testing.assert_close(P_blocks.detach(), P)
    torch.testing.assert_close(Q_blocks.detach(), Q)


def sweep(solver, P, Q):
    solver.solve_users(P, Q)
    solver.solve_items(P, Q)


@pytest.mark.parametrize("nu", [0.0, 1.0])
def test_objective_is_the_dense_sum(sparse_events, nu):
    observed, w, reg = dense(sparse_events), 0.3, 0.05
    solver = ALSSolver(sparse_events, reg=reg, unobserved_weight=w, nu=nu)
    P, Q = solver.init_tables(6, seed=0, std=1.0)
    sweep(solver, P, Q)
    scores = P.double() @ Q.double().T
    of_users, of_items = penalties(observed, reg, w, nu)
    expected = (observed * (scores - 1) ** 2).sum() + w * scores.square().sum()
    expected += (of_users * P.double().square().sum(1)).sum() + (of_items * Q.double().square().sum(1)).sum()
    assert solver.objective(P, Q) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("n_cg", [1, 3])
def test_objective_never_rises(sparse_events, n_cg):
    solver = ALSSolver(sparse_events, reg=0.01, unobserved_weight=0.1, n_cg=n_cg)
    P, Q = solver.init_tables(8, seed=0)
    values = [solver.objective(P, Q)]
    for _ in range(15):
        for half in (solver.solve_users, solver.solve_items):
            half(P, Q)
            values.append(solver.objective(P, Q))
    rises = np.diff(values)
    assert (rises <= 1e-5 * np.abs(values[1:])).all(), rises
    assert values[-1] < 0.7 * values[0]


def test_rows_without_events_stay_or_become_zero(sparse_events):
    solver = ALSSolver(sparse_events, reg=0.05, unobserved_weight=0.3)
    P, Q = solver.init_tables(4, seed=0)
    assert not P[[0, 39, 40]].any() and not Q[[0, 30]].any() and P[1:39].any(1).all() and Q[1:30].any(1).all()
    P[[0, 40]], Q[[0, 30]] = 1.0, 1.0  # as tables that were trained otherwise may hold
    sweep(solver, P, Q)
    assert not P[[0, 39, 40]].any() and not Q[[0, 30]].any() and P[1:39].any(1).all() and Q[1:30].any(1).all()


def test_junk_in_rows_without_events_does_not_reach_the_solution(sparse_events):
    solver = ALSSolver(sparse_events, reg=0.05, unobserved_weight=0.3)
    P, Q = solver.init_tables(4, seed=0)
    P_junk, Q_junk = P.clone(), Q.clone()
    P_junk[[0, 40]], Q_junk[[0, 30]] = 1.0, 1.0
    sweep(solver, P, Q)
    sweep(solver, P_junk, Q_junk)
    torch.testing.assert_close(P_junk, P)
    torch.testing.assert_close(Q_junk, Q)


def test_recovers_planted_blocks():
    # Checkerboard: even users took even items, odd users odd ones, but for one pair each left out.
    pairs = [(u, i) for u in range(20) for i in range(20) if (u - i) % 2 == 0 and u != i]
    train = events(pairs, 20, 20)
    solver = ALSSolver(train, reg=0.002, unobserved_weight=0.1)
    P, Q = solver.init_tables(2, seed=0)
    for _ in range(20):
        sweep(solver, P, Q)
    scores = (P @ Q.T)[1:, 1:]
    same = (torch.arange(20)[:, None] - torch.arange(20)) % 2 == 0
    assert scores[same].min() > 0.6 and scores[~same].abs().max() < 0.1  # the pairs left out among the high ones


def test_says_nothing_of_torchs_beta_state():
    code = "import test_als; t = test_als; s = t.ALSSolver(t.events([(0, 0)]), reg=1, unobserved_weight=1);"
    code += "s.solve_users(*s.init_tables(2, seed=0))"
    assert elsewhere(code).stderr == ""


def test_one_seed_one_result_and_the_callers_generator_is_left_alone(sparse_events):
    state = torch.get_rng_state()
    results = []
    for seed in (3, 3, 4):
        solver = ALSSolver(sparse_events, reg=0.05, unobserved_weight=0.3)
        P, Q = solver.init_tables(4, seed=seed)
        sweep(solver, P, Q)
        results.append(P)
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters_that_need_gradients_are_solved_in_place(sparse_events):
    solver = ALSSolver(sparse_events, reg=0.05, unobserved_weight=0.3)
    P, Q = (torch.nn.Parameter(t) for t in solver.init_tables(4, seed=0))
    before = P.data_ptr(), P.detach().clone()
    sweep(solver, P, Q)
    assert P.data_ptr() == before[0] and not torch.equal(P, before[1]) and P.requires_grad


def test_the_order_of_the_events_does_not_matter(sparse_events):
    tables = []
    for rows in (np.arange(len(sparse_events)), np.random.default_rng(1).permutation(len(sparse_events))):
        solver = ALSSolver(sparse_events.take(rows), reg=0.05, unobserved_weight=0.3)
        P, Q = solver.init_tables(4, seed=0)
        sweep(solver, P, Q)
        tables.append(P)
    assert torch.equal(*tables)


GOOD = {"reg": 0.05, "unobserved_weight": 0.3}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"reg": 0.0}, "reg must be a number above 0, got 0.0"),
        ({"reg": float("nan")}, "reg must be a number above 0, got nan"),
        ({"unobserved_weight": -1}, "unobserved_weight must be a number above 0, got -1"),
        ({"n_cg": 0}, "n_cg must be a whole number of at least 1, got 0"),
        ({"nu": float("inf")}, "nu must be a finite number.*, got inf"),
    ],
)
def test_bad_arguments(sparse_events, bad, message):
    with pytest.raises(ValueError, match=message):
        ALSSolver(sparse_events, **{**GOOD, **bad})


def test_bad_events(sparse_events):
    with pytest.raises(ValueError, match="no events"):
        ALSSolver(sparse_events.new_empty(), **GOOD)
    with pytest.raises(ValueError, match="2 of .* events repeat a .user, item. pair"):
        ALSSolver(sparse_events.take([0, 1, 1, 2, 0]), **GOOD)
    with pytest.warns(UserWarning, match="do not|does not know"):
        unknown = Interactions.from_df(
            pd.DataFrame({"user": [0, 99], "item": [1, 1]}),
            Columns("user", "item"),
            users=sparse_events.users,
            items=sparse_events.items,
        )
    with pytest.raises(ValueError, match="1 of 2 events have unknown ids"):
        ALSSolver(unknown, **GOOD)


def test_bad_tables(sparse_events):
    solver = ALSSolver(sparse_events, **GOOD)
    P, Q = solver.init_tables(4, seed=0)
    for users, items in ((Q, P), (P, Q[:, :3]), (P[0], Q), (P[1:], Q)):
        with pytest.raises(ValueError, match=r"must be P \(41, d\) and Q \(31, d\)"):
            solver.solve_users(users, items)
    with pytest.raises(TypeError, match="must be float32, got torch.float64"):
        solver.solve_items(P.double(), Q)
    with pytest.raises(ValueError, match="d must be at least 1"):
        solver.init_tables(0, seed=0)


# --- what is picked where nothing is named ---------------------------------------------------------------------------


def sparse_groups(n_users=700, n_items=12_000, n_events=8, seed=0) -> Interactions:
    """Few events of many items: each user has some of one of twenty groups of items, the first ones more often."""
    rng = np.random.default_rng(seed)
    rows = [(u, i) for u in range(n_users)
            for i in np.unique(rng.integers(0, 20) + 20 * (n_items // 20 * rng.random(n_events) ** 4).astype(int))
            ]  # fmt: skip
    return events(rows, n_users, n_items)


def test_the_rule_does_not_let_zero_win_where_fixed_settings_do():
    train = sparse_groups()
    norms = []
    for reg, weight in (als_rule(train), (0.007, 0.3)):
        solver = ALSSolver(train, reg=reg, unobserved_weight=weight)
        P, Q = solver.init_tables(16, seed=0)
        for _ in range(8):
            sweep(solver, P, Q)
        norms.append(float(P[1:].norm(dim=1).mean()))
    assert norms[0] > 0.1 and norms[1] < 0.05 * norms[0]


@pytest.mark.parametrize("given", [{}, {"reg": 0.5}, {"unobserved_weight": 0.02}, {"reg": 0.01, "nu": 0.5}])
def test_what_is_named_stays_and_the_rest_is_picked(given):
    train = sparse_groups()
    picked = pick_als(train, 8, 12, **given)
    assert all(getattr(picked, name, value) == value for name, value in given.items())
    assert 1 <= len(picked.trials) <= TRIALS and f"reg={picked.reg:.3g}" in picked.why
    assert pick_als(train, 8, 12, **given) == picked
    assert math.isfinite(picked.reg) and 0 < picked.unobserved_weight <= 1


def test_a_short_fit_or_few_events_are_left_to_the_rule(sparse_events):
    for train, n_sweeps in ((sparse_groups(), 8), (sparse_events, 12)):
        picked = pick_als(train, 8, n_sweeps)
        assert picked.trials == () and (picked.reg, picked.unobserved_weight) == als_rule(train)


def test_a_rule_that_is_far_off_is_left(monkeypatch):
    monkeypatch.setattr("collabkit.train.als_defaults.STRENGTH", 1.2)
    train = sparse_groups()
    picked = pick_als(train, 8, 12)
    assert picked.reg < 0.6 * als_rule(train, strength=1.2, unobserved_weight=picked.unobserved_weight)[0], picked
