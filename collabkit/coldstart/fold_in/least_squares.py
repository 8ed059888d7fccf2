"""Rows that alternating least squares solved for, told by the equations that they fulfil, and their events' parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from collabkit.data.interactions import Interactions
from collabkit.data.runs import Runs

__all__ = ["LeastSquares"]

SAMPLE = 300  # users whose equations are looked at
NEAR = 0.1  # share of the right side that may be left: sweeps end with the items' half, after few steps


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """The equations of users' vectors: `(sum_i c_i q_i q_i' + w Q'Q + penalty_u I) p_u = sum_i c_i q_i`.

    They are those of `als.ALSSolver`. Its weight w and the penalties stand in no model, but follow from the vectors: of
    each user's d equations only w and one penalty are unknown. Where no numbers fulfil them, the vectors were trained
    by something else.

    Args:
        P, Q: `(n_users, d)` and `(n_items, d)` float64.
        gram: `(d, d)`, `Q'Q`.
        weight: w.
    """

    P: Tensor
    Q: Tensor
    gram: Tensor
    weight: float

    @classmethod
    def find(cls, P: Tensor, Q: Tensor, train: Interactions, seed: int = 0) -> LeastSquares | None:
        """The equations of vectors, or None where there are no such.

        Args:
            P, Q: as above.
            train: the events, whose `weight`, if any, is the confidence c.
        """
        users = train.pairs.lengths.nonzero().squeeze(1)
        users = users[torch.randperm(len(users), generator=torch.Generator().manual_seed(seed))[:SAMPLE]]
        found = cls(P, Q, Q.T @ Q, 1.0)
        events, own = found.events(train, users), P[users]
        if len(users) == 0 or not bool(own.isfinite().all()) or not bool(own.any(1).all()):
            return None
        right, square = found._sums(events, own)
        left = right - square  # w * pull + penalty * own
        pull = own @ found.gram
        across = pull - own * ((pull * own).sum(1) / own.square().sum(1))[:, None]  # what no penalty can explain
        weight = float((across * left).sum() / across.square().sum().clamp(min=1e-300))
        found = cls(P, Q, found.gram, weight)
        rest = left - weight * pull
        rest = rest - own * found._penalty(rest, own)[:, None]
        fits = rest.norm(dim=1) <= NEAR * right.norm(dim=1)
        return found if weight > 0 and float(fits.double().mean()) > 0.9 else None

    def events(self, train: Interactions, users: Tensor) -> Runs:
        """The events of `users` `(b,)`, each pair once, with confidences as weights, if any."""
        rows = train.by_user.of(users)
        weight = None if train.weight is None else train.weight[rows.values].double()
        return Runs(rows.start, train.item_idx[rows.values], train.n_items, weight)

    def pieces(self, events: Runs, users: Tensor) -> Tensor:
        """What each of the `events` of `users` `(b,)` adds to the user's vector, `(m, d)`: `A_u^-1 c_i q_i`.

        What the last sweeps have left of the equations is spread evenly over the events, so that the sum is the vector.
        """
        own = self.P[users]
        right, square = self._sums(events, own)
        penalty = self._penalty(right - square - self.weight * own @ self.gram, own)
        found = torch.zeros(len(events.values), self.Q.shape[1], dtype=torch.float64)
        eye = torch.eye(self.Q.shape[1], dtype=torch.float64)
        for j, (first, stop) in enumerate(zip(events.start[:-1].tolist(), events.start[1:].tolist(), strict=True)):
            q = self.Q[events.values[first:stop]]
            scaled = q if events.weight is None else q * events.weight[first:stop, None]
            matrix = scaled.T @ q + self.weight * self.gram + penalty[j].clamp(min=0) * eye
            parts = torch.linalg.solve(matrix, scaled.T).T
            found[first:stop] = parts + (own[j] - parts.sum(0)) / max(1, stop - first)
        return found

    def _sums(self, events: Runs, own: Tensor) -> tuple[Tensor, Tensor]:
        """`sum_i c_i q_i` and `sum_i c_i q_i (q_i . p)` of each user, `(b, d)`."""
        q = self.Q[events.values]
        weight = torch.ones(len(q), dtype=torch.float64) if events.weight is None else events.weight
        scores = (q * own[events.rows]).sum(1)
        zero = torch.zeros(len(events), q.shape[1], dtype=torch.float64)
        parts = (weight[:, None] * q, (weight * scores)[:, None] * q)
        return tuple(zero.index_add(0, events.rows, part) for part in parts)

    @staticmethod
    def _penalty(rest: Tensor, own: Tensor) -> Tensor:
        """The multiple `(b,)` of `own` `(b, d)` that is nearest to `rest`."""
        return (rest * own).sum(1) / own.square().sum(1).clamp(min=1e-300)
