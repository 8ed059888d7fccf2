"""Rows of new ids from their features, by a regression of the trained ids' rows on their features."""

import numpy as np
import torch
from torch import Tensor

from collabkit.coldstart.ridge import Design, ridge
from collabkit.data.features.fields import rarity
from collabkit.data.interactions import Interactions
from collabkit.models.base import Model, evaluating
from collabkit.models.feature_rows import FeatureRows
from collabkit.models.sides import Side

__all__ = ["fit_cold_head", "own_rows"]

RELIABLE = 50.0  # rows of ids with so many training rows count half as much as those of ids with very many


@torch.no_grad()
def fit_cold_head(model: Model, train: Interactions, side: Side, centre: list[Tensor] | None = None) -> None:
    """Fit the rows of a side for ids without training rows, as a linear function of their features.

    The trained rows, with what the features add, are regressed on the features by ridge regression, for which an id's
    categories are weighted by how few trained ids have them: tf-idf, in rows of length 1. Rows are weighted by how much
    is known about them. Cross-validation chooses how far to trust the features: useless features leave the mean.
    This gave better predictions for new ids than the features' trained part alone, whose weights are fitted
    together with the ids' own rows.

    Args:
        model, train: the trained model, and its training interactions.
        side: with features; what its `FeatureRows.cold_rows` gives is set.
        centre: `[(d,), ...]` the rows that an id with average features should get; default the trained rows' mean.
    """
    rows, counts = side.features, train.counts(side.name)
    warm = ((counts > 0) & side.given).nonzero().squeeze(1)
    weight = counts[warm] / (counts[warm] + RELIABLE)
    with evaluating(model):
        rows.rarity.copy_(_rarity(rows, warm))
        design = Design(rows.cold_design(warm))
        heads = ridge(design, [part.cpu() for part in own_rows(side, warm)], weight)
    average = design.back((weight / weight.sum()).to(design.dtype)[:, None])[:, 0].float()  # (p,)
    if centre is not None:
        heads = [(slope, row.cpu() - average @ slope) for (slope, _), row in zip(heads, centre, strict=True)]
    rows.cold.copy_(torch.cat([torch.cat([slope, level[None]]) for slope, level in heads], dim=1))


def _rarity(rows: FeatureRows, among: Tensor) -> Tensor:
    """The `fields.rarity` `(p,)` of all columns that are categories, else 1."""
    found = []
    for field in rows.fields:
        having = field.having(among)
        one = np.ones(field.field.size) if having is None else rarity(len(among), having.cpu().numpy())
        found.append(torch.from_numpy(one).float())
    return torch.cat(found)


def own_rows(side: Side, idx: Tensor) -> list[Tensor]:
    """The tables' rows `[(m, d), ...]` of `idx` `(m,)`, with what the features add where they are added."""
    rows = side.read(idx)
    if side.features is None or side.joins != "sum":
        return rows
    return list(side.features.join(idx.to(side.features.cold.device), tuple(rows)))
