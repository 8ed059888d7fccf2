"""`ALSSolver`: implicit alternating least squares, batched over all users or items at once."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from collabkit.data.checks import finite, positive, whole
from collabkit.data.interactions import Interactions
from collabkit.data.processes import Processes, processes
from collabkit.data.runs import Runs

__all__ = ["ALSSolver", "check_options"]

# Floats of one block's vectors. On a CPU all arrays of a block, about five times as much, stay in one core's cache, and
# there are enough blocks to keep the cores equally busy; on a GPU only memory limits them (256 MB per vector).
_CPU_BLOCK, _DEVICE_BLOCK = 2**15, 2**26


class ALSSolver:
    """Half sweeps of implicit alternating least squares on the tables of a dot-product model.

    Minimises over user vectors `p_u` and item vectors `q_i`, with `s = p_u . q_i`,

        sum over observed c (s - 1)^2 + w * sum over all pairs s^2
            + reg * sum_u (n_u + w * n_items)^nu |p_u|^2 + reg * sum_i (n_i + w * n_users)^nu |q_i|^2

    where w is `unobserved_weight`, c is 1 or the weight of the row, and `n_u` the sum of c over the user's events,
    `n_i` over the item's. The loss is that of Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback
    datasets" (2008), the regularisation that of Rendle, Krichene, Zhang and Koren, "Revisiting the performance of iALS
    on item recommendation benchmarks" (2021), section 3, as is the second sum over all pairs. Of data with counts, c is
    their confidence and the second sum is over the pairs that were not observed, as in the paper of 2008: with nu = 0 a
    half sweep that is solved to the end gives its equation 4, `x_u = (Y'C_u Y + reg I)^-1 Y'C_u p_u`, all of it in
    units of the mean confidence (there w is 1 in the units of c that are not divided by the mean). `disliked` pairs add
    s^2, and 1 to `n_u` and `n_i`. A half sweep takes `n_cg` steps of conjugate gradients from the present vectors, as
    Takacs, Pilaszy and Tikk, "Applications of the conjugate gradient method for implicit feedback collaborative
    filtering" (2011). All users go together: the sum over all pairs is a product with the Gram matrix of the items, and
    the sum over the observed ones two sparse products, so a step costs O(events * d + rows * d^2) for any d.

    Args:
        train: the events, each (user, item) pair once, with their weights, if any; ratings and times are ignored.
        reg: strength of the regularisation, above 0.
        unobserved_weight: weight w of each pair, observed or not, pulled towards 0; above 0. A higher value suits data
            in which an unseen item is a rejected one.
        nu: exponent of the frequency scaling; 0 is the plain penalty, 1 the scaled one.
        n_cg: conjugate gradient steps per half sweep. With d or more each half is solved to rounding.
        device: of the tables.
        disliked: pairs that are known negatives, none of them in `train`.

    Raises:
        ValueError: an argument is out of range; there are no events, repeated pairs, or unknown ids (index 0).

    Example:
        >>> import pandas as pd
        >>> from collabkit.data.interactions import Columns
        >>> df = pd.DataFrame({'user': [1, 1, 2, 2, 3], 'item': [1, 2, 1, 2, 3]})
        >>> train = Interactions.from_df(df, Columns('user', 'item'))
        >>> solver = ALSSolver(train, reg=0.01, unobserved_weight=0.1)
        >>> P, Q = solver.init_tables(2, seed=0)
        >>> for _ in range(20):
        ...     solver.solve_users(P, Q)
        ...     solver.solve_items(P, Q)
        >>> [[abs(round(s, 1)) for s in row] for row in (P @ Q.T).tolist()[1:]]
        [[0.0, 0.9, 0.9, 0.0], [0.0, 0.9, 0.9, 0.0], [0.0, 0.0, 0.0, 0.9]]
    """

    def __init__(
        self, train: Interactions, *, reg: float, unobserved_weight: float, nu: float = 1.0, n_cg: int = 3,
        device: torch.device | str = "cpu", disliked: Interactions | None = None,
    ):  # fmt: skip
        self._weigh(reg, unobserved_weight)
        check_options(reg, unobserved_weight, nu, n_cg)
        self.nu, self.n_cg, self.device = float(nu), int(n_cg), torch.device(device)
        if not len(train):
            raise ValueError("there are no events to train on")
        if unknown := int(((train.user_idx == 0) | (train.item_idx == 0)).sum()):
            raise ValueError(f"{unknown:,} of {len(train):,} events have unknown ids (index 0); leave them out first")
        if repeated := train.n_duplicates():
            raise ValueError(f"{repeated:,} of {len(train):,} events repeat a (user, item) pair; keep one of each "
                             "first, e.g. df.drop_duplicates(['user', 'item'])")  # fmt: skip
        self._counted = train.count is not None
        self._by_user, self._by_item = self._sides(train, disliked)
        self._user_penalty, self._item_penalty = self._penalty(self._by_user), self._penalty(self._by_item)

    def again(self, reg: float, unobserved_weight: float) -> "ALSSolver":
        """A solver of the same events with another `reg` and `unobserved_weight`."""
        new = copy(self)
        new._weigh(reg, unobserved_weight)
        new._user_penalty, new._item_penalty = new._penalty(self._by_user), new._penalty(self._by_item)
        return new

    def _weigh(self, reg: float, unobserved_weight: float) -> None:
        self.reg, self.unobserved_weight = positive("reg", reg), positive("unobserved_weight", unobserved_weight)

    def _block(self, side: "_Observed", start: int, stop: int, dtype: torch.dtype) -> "_Block":
        """Rows of a side; for data with counts, without their part in the sum over all pairs."""
        block = side.block(start, stop, dtype)
        if not self._counted:
            return block
        return block._replace(gain=block.gain - self.unobserved_weight * (block.pull > 0))

    def _sides(self, train: Interactions, disliked: Interactions | None) -> tuple["_Observed", "_Observed"]:
        """The observed pairs by user and by item."""
        pairs, gain, pull, worth = train.pairs, None, None, None
        if train.weight is not None or disliked is not None:
            weight = torch.ones(len(train)) if train.weight is None else train.weight
            users, items, columns = train.user_idx, train.item_idx, [weight, weight, weight]
            if disliked is not None:
                users, items = torch.cat([users, disliked.user_idx]), torch.cat([items, disliked.item_idx])
                extra = torch.ones(len(disliked))
                columns = [torch.cat([c, e]) for c, e in zip(columns, (extra, 0 * extra, extra), strict=True)]
            order = (users * train.n_items + items).argsort()
            pairs = Runs.group(users[order], items[order], train.n_users, width=train.n_items)
            gain, pull, worth = (column[order] for column in columns)
        if gain is None:
            return tuple(
                _Observed.of(runs, None, None, None, None, self.device) for runs in (pairs, pairs.transposed())
            )
        place = Runs(pairs.start, pairs.values, pairs.width, torch.arange(len(pairs.values))).transposed()
        return tuple(_Observed.of(runs, at, gain, pull, worth, self.device)
                     for runs, at in ((pairs, None), (place, place.weight)))  # fmt: skip

    def init_tables(self, d: int, *, seed: int, std: float = 0.1) -> tuple[Tensor, Tensor]:
        """New tables `(n_users, d)`, `(n_items, d)`: normal of sd `std / sqrt(d)`; rows without events are zero."""
        if d < 1:
            raise ValueError(f"d must be at least 1, got {d}")
        rng = torch.Generator().manual_seed(seed)
        new = lambda n: torch.randn(n, d, generator=rng).mul_(std / math.sqrt(d)).to(self.device)  # noqa: E731
        return tuple(_clear_empty(side, new(len(side))) for side in (self._by_user.runs, self._by_item.runs))

    @torch.no_grad()
    def solve_users(self, P: Tensor, Q: Tensor, rows: Tensor | None = None) -> None:
        """Move the user vectors `P` `(n_users, d)` in place towards the optimum for the items `Q` `(n_items, d)`.

        `rows` `(m,)` are the users to move, default all.
        """
        self._check_tables(P, Q)
        self._solve(self._user_penalty, (self._by_user, P), (self._by_item, Q), rows)

    @torch.no_grad()
    def solve_items(self, P: Tensor, Q: Tensor, rows: Tensor | None = None) -> None:
        """Move the item vectors `Q` `(n_items, d)` in place towards the optimum for the users `P` `(n_users, d)`.

        `rows` `(m,)` are the items to move, default all.
        """
        self._check_tables(P, Q)
        self._solve(self._item_penalty, (self._by_item, Q), (self._by_user, P), rows)

    @torch.no_grad()
    def objective(self, P: Tensor, Q: Tensor) -> float:
        """The value of the objective above, exact: the sum over all pairs is `w * <P'P, Q'Q>`.

        Rows without events count with their current values; the half sweeps set them to zero.
        """
        self._check_tables(P, Q)
        total = self.unobserved_weight * ((P.T @ P).double() * (Q.T @ Q).double()).sum()

        def observed(start: int, stop: int) -> Tensor:
            block = self._block(self._by_user, start, stop, P.dtype)
            scores = _sampled(block.events, P[start:stop], Q).values().double()
            if block.gain is None:
                return (scores - 1).square().sum()
            return (block.gain * scores.square() - block.pull * (2 * scores - 1)).sum()

        team = processes()
        bounds = _shares(self._by_user.runs, P.shape[1], team)
        own = _each(observed, _blocks(bounds[team.rank : team.rank + 2], P), P.device)
        total += team.sum(torch.stack(own).sum() if own else total.new_zeros(()), "the objective")
        for penalty, table in ((self._user_penalty, P), (self._item_penalty, Q)):
            total += (penalty * table.square().sum(1)).double().sum()
        return float(total)

    def _penalty(self, side: "_Observed") -> Tensor:
        """Weight `(n_rows,)` of each row's squared norm; row 0 of the other side is no user or item."""
        return self.reg * (side.n + self.unobserved_weight * (side.runs.width - 1)) ** self.nu

    def _solve(
        self, penalty: Tensor, solved: tuple["_Observed", Tensor], fixed: tuple["_Observed", Tensor],
        rows: Tensor | None,
    ) -> None:  # fmt: skip
        """Conjugate gradients, block by block, on the `rows` of one table, with the other fixed."""
        (side, X), (_, Y) = solved, fixed
        for of, table in (solved, fixed):
            _clear_empty(of.runs, table)  # rows of unknown ids must not count in the Gram matrix
        gram = self.unobserved_weight * (Y.T @ Y)  # (d, d)
        team = Processes() if rows is not None else processes()  # a few rows: each process solves for all of them
        if rows is not None:
            whole, side, penalty, X = X, side.take(rows), penalty[rows], X[rows]
        bounds = _shares(side.runs, X.shape[1], team)

        def solve(start: int, stop: int) -> None:
            events = self._block(side, start, stop, X.dtype)
            _conjugate_gradients(events, penalty[start:stop, None].to(X.dtype), gram, X[start:stop], Y, self.n_cg)

        _each(solve, _blocks(bounds[team.rank : team.rank + 2], X), X.device)
        team.fill(X, bounds, "solved rows")
        if rows is not None:
            whole[rows] = X

    def _check_tables(self, P: Tensor, Q: Tensor) -> None:
        n_users, n_items = len(self._by_user.runs), len(self._by_item.runs)
        if P.ndim != 2 or Q.ndim != 2 or len(P) != n_users or len(Q) != n_items or P.shape[1] != Q.shape[1]:
            raise ValueError(f"the tables must be P ({n_users}, d) and Q ({n_items}, d), row 0 the unknown id; got "
                             f"{tuple(P.shape)} and {tuple(Q.shape)}")  # fmt: skip
        if P.dtype != Q.dtype or P.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"the tables must be float32, got {P.dtype} and {Q.dtype}; both may be float64")


def check_options(
    reg: float | None = None, unobserved_weight: float | None = None, nu: float = 1.0, n_cg: int = 3
) -> None:
    """Raise `ValueError` for options of `ALSSolver` that are out of range; those that are None are not known yet."""
    for name, value in (("reg", reg), ("unobserved_weight", unobserved_weight)):
        if value is not None:
            positive(name, value)
    finite("nu", nu)
    whole("n_cg", n_cg)


class _Block(NamedTuple):
    """Observed pairs of some rows: a sparse matrix `(b, n)`, and `gain` and `pull` `(m,)`, None where all are 1."""

    events: Tensor
    gain: Tensor | None
    pull: Tensor | None


class _Observed(NamedTuple):
    """The observed pairs by the rows of one side, and what each of them adds to the normal equations.

    `gain` `(m,)` times `y y'` is on the left side, `pull` `(m,)` times y on the right; None if all are 1. `n`
    `(n_rows,)` float64 is the count in the penalty.
    """

    runs: Runs
    gain: Tensor | None
    pull: Tensor | None
    n: Tensor

    @classmethod
    def of(cls, runs: Runs, order: Tensor | None, gain, pull, worth, device) -> "_Observed":
        """The observed pairs on `device`, with columns in `order`."""
        ones = Runs(runs.start, runs.values, runs.width, torch.ones(len(runs.values)))
        if gain is None:
            return cls(ones.to(device), None, None, runs.lengths.double().to(device))
        columns = [column if order is None else column[order] for column in (gain, pull, worth)]
        n = torch.zeros(len(runs), dtype=torch.float64).index_add_(0, runs.rows, columns[2].double())
        return cls(ones.to(device), columns[0].to(device), columns[1].to(device), n.to(device))

    def take(self, rows: Tensor) -> "_Observed":
        """The pairs of some `rows` `(m,)`."""
        part = self.runs.of(rows)
        if self.gain is None:
            return _Observed(part, None, None, self.n[rows])
        at = replace(self.runs, weight=torch.arange(len(self.runs.values), device=rows.device)).of(rows).weight
        return _Observed(part, self.gain[at], self.pull[at], self.n[rows])

    def block(self, first: int, stop: int, dtype: torch.dtype) -> _Block:
        """The pairs of the rows `first:stop`."""
        part = self.runs.of(slice(first, stop))
        events = part.matrix(part.weight.to(dtype))
        if self.gain is None:
            return _Block(events, None, None)
        at = slice(int(self.runs.start[first]), int(self.runs.start[stop]))
        return _Block(events, self.gain[at].to(dtype), self.pull[at].to(dtype))


def _shares(side: Runs, d: int, team: Processes) -> list[int]:
    """Where each process's rows of a side begin, so that a step costs each process the same."""
    return team.bounds(side.lengths + d) if not team.alone else [0, len(side)]


def _blocks(bounds: list[int], table: Tensor) -> list[tuple[int, int]]:
    """`(start, stop)` of the blocks of the rows in `bounds`, for a table `(n, d)`."""
    (first, last), d = bounds, table.shape[1]
    size = max(1, (_CPU_BLOCK if table.device.type == "cpu" else _DEVICE_BLOCK) // d)
    return [(start, min(start + size, last)) for start in range(first, last, size)]


def _clear_empty(side: Runs, table: Tensor) -> Tensor:
    """`table` `(n, d)` with zeros, in place, in the rows without events (including that of the unknown id)."""
    return table.masked_fill_((side.lengths == 0)[:, None], 0.0)


def _each(function: Callable, blocks: list[tuple[int, int]], device: torch.device) -> list:
    """`function(start, stop)` of each block; on a CPU in as many threads as torch has, one block per thread at a time.

    By default torch uses all threads for each operation and synchronises them at its end, some hundred times per sweep.
    If other processes use the cores too, each synchronisation waits for the thread that was delayed: measured six times
    slower than one thread. Here they synchronise once.
    """
    n_threads = min(torch.get_num_threads(), len(blocks))
    if device.type != "cpu" or n_threads < 2:
        return [function(*block) for block in blocks]
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a new thread uses this number for its own operations
    try:
        with ThreadPoolExecutor(n_threads) as pool:
            return list(pool.map(torch.no_grad()(lambda block: function(*block)), blocks))
    finally:
        torch.set_num_threads(before)


def _conjugate_gradients(block: _Block, penalty: Tensor, gram: Tensor, X: Tensor, Y: Tensor, n_steps: int) -> None:
    """`n_steps` steps, in place, for every row x_u of `X` on `(sum_i g_i y_i y_i' + gram + penalty_u) x_u = sum_i h_i
    y_i`.

    `block` has the items i of each row u, with their gain g and pull h; `penalty` is `(b, 1)`; `gram` `(d, d)` is `w *
    Y'Y`; the steps start from `X` `(b, d)`; `Y` is `(n, d)`.
    """
    events, gain, pull = block

    def unobserved(V: Tensor) -> Tensor:
        return torch.addcmul(V @ gram, V, penalty)  # (b, d)

    def weighed(V: Tensor) -> Tensor:
        scores = _sampled(events, V, Y)
        return scores if gain is None else _like(scores, scores.values() * gain)

    scores = weighed(X)
    missing = _like(scores, (1 if pull is None else pull) - scores.values())
    residual = torch.addmm(unobserved(X).neg_(), missing, Y)  # (b, d)
    direction = residual.clone()
    norm = first = residual.square().sum(1, keepdim=True)  # (b, 1)
    for step in range(n_steps):
        product = torch.addmm(unobserved(direction), weighed(direction), Y)  # (b, d)
        rate = norm / (direction * product).sum(1, keepdim=True).clamp_(min=_TINY)  # 0 for rows already solved
        X.addcmul_(rate, direction)
        if step + 1 < n_steps:
            residual.addcmul_(rate, product, value=-1)
            norm, last = residual.square().sum(1, keepdim=True), norm
            if n_steps > FEW and bool((norm <= 1e-12 * first).all()):
                break  # solved to rounding
            direction.mul_(norm / last.clamp_(min=_TINY)).add_(residual)


FEW = 8  # up to so many steps, a check whether all rows are solved is not worth it


def _like(events: Tensor, values: Tensor) -> Tensor:
    """The sparse matrix `events` with other `values` `(m,)`."""
    at = (events.crow_indices(), events.col_indices())
    return torch.sparse_csr_tensor(*at, values, events.shape, check_invariants=False)


_TINY = torch.finfo(torch.float32).tiny


def _sampled(events: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    """Sparse `(b, n)`: the dot products of rows of `X` `(b, d)` and `Y` `(n, d)` where `events` has entries."""
    return torch.sparse.sampled_addmm(events, X, Y.T, beta=0.0)
