"""`Gaussian`: the distribution of users' rows before any event is known, estimated on trained users."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Gaussian", "shrunk_covariance"]


@dataclass(frozen=True)
class Gaussian:
    """The distribution of rows `x = mean + root y`, `y` standard normal.

    Example:
        >>> prior = Gaussian.of(torch.zeros(2).double(), torch.diag(torch.tensor([4.0, 0.0])).double())
        >>> prior.root.abs()
        tensor([[2.],
                [0.]], dtype=torch.float64)
    """

    mean: Tensor  # (d,) float64
    root: Tensor  # (d, k); without directions in which rows do not vary (a bias that least squares leaves at zero)

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor) -> "Gaussian":
        """From a covariance `(d, d)`."""
        values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
        keep = values > 1e-9 * values[-1].clamp(min=1e-300)
        return cls(mean, vectors[:, keep] * values[keep].sqrt())

    @classmethod
    def of_rows(cls, rows: Tensor) -> "Gaussian":
        """From rows `(n, d)` of trained users, one or more."""
        mean = rows.mean(0)
        return cls.of(mean, shrunk_covariance((rows - mean).T @ (rows - mean) / len(rows), len(rows)))

    def at(self, y: Tensor) -> Tensor:
        """Rows `(b, d)` for `y` `(b, k)`."""
        return self.mean + y @ self.root.T


def shrunk_covariance(covariance: Tensor, n: int) -> Tensor:
    """A covariance `(d, d)` estimated on `n` rows, drawn towards its diagonal, and that towards its mean, by `d / n`.

    The posterior mean for an inverse Wishart prior of about d rows: with far more users than factors nothing changes,
    with few only the scale is theirs.
    """
    d = len(covariance)
    share = d / (d + n)
    variances = covariance.diagonal()
    varying = variances > 1e-12 * variances.max()
    if not bool(varying.any()):  # of one user
        return torch.eye(d, dtype=covariance.dtype, device=covariance.device)
    level = torch.where(varying, (1 - share) * variances + share * variances[varying].mean(), 0.0)
    return (1 - share) * covariance + share * torch.diag(level)
