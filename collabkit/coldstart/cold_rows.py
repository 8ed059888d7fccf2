"""What new ids get from their features: the rows of the trained ids, regressed on theirs."""

import torch
from torch import Tensor

from collabkit.data.interactions import Interactions
from collabkit.models.base import Model, evaluating
from collabkit.models.sides import Side

__all__ = ["fit_cold_head", "ridge", "own_rows"]

MAX_COLUMNS, MAX_ROWS = 2_000, 10_000  # of the regression: it costs rows x columns^2
RELIABLE = 50.0  # rows of ids with so many training rows count half as much as those of ids with very many


@torch.no_grad()
def fit_cold_head(model: Model, train: Interactions, side: Side, centre: list[Tensor] | None = None) -> None:
    """Fit what stands in a side's tables for ids without training rows, as a linear function of their features.

    The trained rows, with what the features add, are regressed on the features by ridge regression. It is chosen by its
    leave-one-out error how much of them to believe: features that tell nothing leave the mean. That gave better answers
    for new ids than the features' trained part alone, whose weights are fitted beside the ids' own rows.

    Args:
        model, train: the trained model, and its training interactions.
        side: with features; its `FeatureRows.cold` is set.
        centre: `[(d,), ...]` the rows that an id with average features should get; default the trained rows' mean.
    """
    rows, counts = side.features, train.counts(side.name)
    warm = ((counts > 0) & side.given).nonzero().squeeze(1)
    warm = warm[counts[warm].argsort(descending=True, stable=True)[:MAX_ROWS]]
    weight = counts[warm] / (counts[warm] + RELIABLE)
    few = rows.features.n_columns <= MAX_COLUMNS  # else the features' trained part is all that they say
    mean = lambda values: (weight[:, None] * values.cpu()).sum(0) / weight.sum()  # noqa: E731
    with evaluating(model):
        design = rows.matrix(warm).to(weight) if few else weight.new_zeros(len(warm), 0)
        trained = own_rows(side, warm)
        added = [mean(part) for part in rows(warm.to(rows.cold.device))] if side.joins == "sum" else None
    heads = []
    for j, values in enumerate(trained):
        slope, level = ridge(design, values.cpu(), weight)
        if centre is not None:
            level = centre[j].cpu() - mean(design) @ slope
        if not few:
            slope = slope.new_zeros(rows.features.n_columns, values.shape[1])
            level = level if added is None else level - added[j]
        elif added is not None:
            slope = slope - torch.cat([field.weights[j] for field in rows.fields]).cpu()
        heads.append(torch.cat([slope, level[None]]))
    rows.cold.copy_(torch.cat(heads, dim=1))


def own_rows(side: Side, idx: Tensor) -> list[Tensor]:
    """The rows `[(m, d), ...]` of `idx` `(m,)`, with what the features add where they are added."""
    if side.features is None or side.joins != "sum":
        return side.read(idx)
    return list(side.rows(idx.to(side.features.cold.device)))


def ridge(X: Tensor, Y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Slope `(p, d)` and level `(d,)` of `Y` `(n, d)` regressed on `X` `(n, p)`, rows weighted by `weight` `(n,)`.

    The penalty is the one with the least leave-one-out error, which follows from the leverages: Golub, Heath and
    Wahba, "Generalized cross-validation" (1979), section 1; an infinite one, the mean, among them.

    Example:
        >>> x = torch.arange(8.0)[:, None]
        >>> slope, level = ridge(x, 2 * x + 1, torch.ones(8))
        >>> round(slope.item(), 1), round(level.item(), 1)
        (2.0, 1.0)
    """
    X, Y, weight = X.double(), Y.double(), weight.double()[:, None] / weight.double().mean()
    x, y = (weight * X).mean(0), (weight * Y).mean(0)
    X, Y, own = weight.sqrt() * (X - x), weight.sqrt() * (Y - y), weight[:, 0] / len(X)
    size, vectors = torch.linalg.eigh(X.T @ X)
    there = size > 1e-10 * size[-1:].clamp(min=1e-300)
    size, vectors = size[there], vectors[:, there]
    Z = X @ vectors  # (n, r), orthogonal columns
    target = Z.T @ Y  # (r, d)
    best, slope = (Y / (1 - own)[:, None]).square().sum(), X.new_zeros(X.shape[1], Y.shape[1])
    for penalty in 10.0 ** torch.arange(-2, 6, 0.5, dtype=torch.float64):
        share = 1 / (size + penalty)
        leverage = Z.square() @ share + own
        error = ((Y - Z @ (share[:, None] * target)) / (1 - leverage).clamp(min=1e-6)[:, None]).square().sum()
        if error < best:
            best, slope = error, vectors @ (share[:, None] * target)
    return slope.float(), (y - x @ slope).float()
