"""The equations of rows that alternating least squares solved for, and what each event adds to such a row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from collabkit.data.dataset import Dataset

__all__ = ["LeastSquares"]

SAMPLE = 300  # users whose equations are looked at
NEAR = 0.1  # share of the right side that may be left: sweeps end with the items' half, after few steps


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """The equations of users' vectors: `(sum_i g_i q_i q_i' + w Q'Q + penalty_u I) p_u = sum_i c_i q_i`.

    They are those of `als.ALSSolver`, with its weight w and its penalty. `c_i` is the confidence of an event. `g_i` is
    c_i too, or `c_i - w` of data with counts, whose second sum is over the pairs that were not observed. A pair that
    is a known negative has g of 1 and c of 0, and no part in the vector.

    Args:
        P, Q: `(n_users, d)` and `(n_items, d)` float64.
        data: what they were solved from.
        options: of the solver: `reg`, `unobserved_weight`, `nu`; others are not looked at.
    """

    P: Tensor
    Q: Tensor
    data: Dataset
    options: dict

    def __post_init__(self):
        object.__setattr__(self, "gram", self.options["unobserved_weight"] * self.Q.T @ self.Q)  # (d, d) w Q'Q

    def hold(self, seed: int = 0) -> bool:
        """Whether the vectors fulfil the equations, but for what sweeps leave.

        They do not where the weights changed since, or the rows' `weights=` are not known, which no artefact keeps.
        """
        users = self.data.train.by_user.lengths.nonzero().squeeze(1)
        users = users[torch.randperm(len(users), generator=torch.Generator().manual_seed(seed))[:SAMPLE]]
        near = []
        for user in users.tolist():
            matrix, pull = self._equations(user)
            right, own = pull.sum(0), self.P[user]
            near.append(bool((right - matrix @ own).norm() <= NEAR * right.norm()) and bool(own.any()))
        return len(near) > 0 and sum(near) > 0.9 * len(near)

    def pieces(self, users: Tensor) -> Tensor:
        """What each event of `users` `(b,)` adds to the user's vector, `(m, d)`: `A_u^-1 c_i q_i`.

        The events are in the order of `train.by_user`. What the last sweeps have left of the equations is spread evenly
        over them, so that the sum is the vector.
        """
        found = [torch.zeros(0, self.Q.shape[1], dtype=torch.float64)]
        for user in users.tolist():
            matrix, pull = self._equations(user)
            parts = torch.linalg.solve(matrix, pull.T).T
            found.append(parts + (self.P[user] - parts.sum(0)) / max(1, len(parts)))
        return torch.cat(found)

    def _equations(self, user: int) -> tuple[Tensor, Tensor]:
        """The matrix `(d, d)` on the left of a user's equations, and the terms `(m, d)` of the sum on the right."""
        train, weight = self.data.train, self.options["unobserved_weight"]
        rows = train.by_user.of(slice(user, user + 1)).values
        q = self.Q[train.item_idx[rows]]
        c = torch.ones(len(q), dtype=torch.float64) if train.weight is None else train.weight[rows].double()
        gain = c if train.count is None else c - weight
        matrix, n = (gain[:, None] * q).T @ q + self.gram, float(c.sum())
        if self.data.disliked is not None:
            low = self.Q[self.data.disliked.pairs.of(slice(user, user + 1)).values]
            matrix, n = matrix + low.T @ low, n + len(low)
        penalty = self.options["reg"] * (n + weight * (len(self.Q) - 1)) ** self.options["nu"]
        return matrix + penalty * torch.eye(len(matrix), dtype=torch.float64), c[:, None] * q
