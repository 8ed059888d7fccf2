"""The rows of ids without training data: in each side's tables the row that fits an "average stranger" best."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from collabkit.coldstart.cold_levels import level_cold_items
from collabkit.coldstart.cold_rows import fit_cold_head, own_rows
from collabkit.data.dataset import Dataset
from collabkit.data.interactions import Interactions
from collabkit.data.query import Query
from collabkit.models.base import Model, as_model, evaluating
from collabkit.models.scorers import all_finite
from collabkit.models.sharded import ShardedTables
from collabkit.models.sides import Side

__all__ = ["zero_cold_rows", "fit_default_rows", "fill_cold_items", "settle_default_rows"]

RIDGE = 30.0  # in units of one rating's squared error; 10 to 100 did equally well on held-out users of ML-100k


@torch.no_grad()
def zero_cold_rows(model: Model, train: Interactions) -> None:
    """Set the rows of ids without a training row, the unknown row 0 among them, to zero: no opinion yet."""
    for side in _written(model):
        side.write(_cold(train, side), [torch.zeros(width) for width in side.widths])
    if model.context is not None:
        model.context.settle(train.context, average=False)


def fit_default_rows(model: Model, data: Dataset, *, max_rows: int = 100_000, filled: bool = False) -> None:
    """Give every id about which nothing is known, the unknown row 0 among them, the best no-information answer.

    These are the ids without a training row and without side features. For those with features see
    `cold_rows.fit_cold_head`. Sides whose rows are computed get nothing.

    Where nothing is known, one row must serve all: the row that predicts the training ratings best when put in place of
    every user (or item) at once, the other side held fixed. Its error depends on the data only through each item's mean
    rating and count, `sum_i n_i (mean_i - pred_i)**2 + constant`, so that the fit (L-BFGS from the mean of the trained
    rows) costs one small regression over the items, whatever the number of ratings. A ridge holds the row
    near that mean: `RIDGE` times its squared distance in standard deviations of the trained rows.

    Args:
        model: the trained model, changed in place.
        data: what it was trained on. Without ratings (implicit feedback) the user's row is the one under which the
            items' popularity is most likely, in a softmax over the items, so that the list of a user about whom nothing
            is known is about the popular items; for items see `fill_cold_items`.
        max_rows: use at most this many of the other side's most frequent ids.
        filled: `fill_cold_items` has just been called for the same weights and predicted rows.
    """
    if model.context is not None:
        model.context.settle(data.train.context, average=True)
    if not data.rated:
        if not filled:
            fill_cold_items(model, data.train)
        level_cold_items(model, data)
        _write_foretold(data.train, model.item_side)
    with evaluating(model):
        for side in _written(model):
            if side.name == "item" and not data.rated:
                continue
            row = _fit_row(model, side, data, max_rows)
            side.write(_bare(data.train, side), row)
            _fill_by_features(model, data.train, side, centred=True)


@torch.no_grad()
def fill_cold_items(model: Model, train: Interactions, *, foretell: bool = True) -> None:
    """For implicit feedback: items without a training row and without features get the mean row of the rarest tenth.

    An item without events is most like those with few. A row of zeros would not do: its score of 0 is above those of
    most trained negatives. With `foretell`, items with features get what these predict.
    """
    side = model.item_side
    if not side.can_write:
        return
    counts = train.counts("item")
    warm = (counts > 0).nonzero().squeeze(1)
    rarest = warm[counts[warm].argsort(stable=True)[: max(1, len(warm) // 10)]]
    with evaluating(model):
        means = [mean for mean, _ in _moments(side, rarest)]
    side.write(_bare(train, side), means)
    if foretell:
        _fill_by_features(model, train, side, centred=False)


def settle_default_rows(model, dls, filled: bool = False) -> None:
    """Call `fit_default_rows` if it is due: for a `Model` whose rows of unknown ids are still zero, with `dls.data`.

    They are zero after training, complete or interrupted, and in a checkpoint that was saved during it.
    """
    model, data = as_model(model), getattr(dls, "data", None)
    if model is None or not isinstance(data, Dataset):
        return
    sides = _written(model)
    if sides and not any(bool(part.any()) for part in sides[0].read(torch.zeros(1, dtype=torch.int64))):
        fit_default_rows(model, data, filled=filled)


def _written(model: Model) -> list[Side]:
    """The sides whose rows can be written, the users' first."""
    return [side for side in model.sides if side.can_write]


def _fit_row(model: Model, side: Side, data: Dataset, max_rows: int) -> list[Tensor]:
    """One row `[(d,), ...]` of a side's tables, fitted to the other side's mean ratings."""
    train, by_user = data.train, side.name == "user"
    fixed_side = "item" if by_user else "user"
    counts, means = train.counts(fixed_side).float(), None
    other = torch.argsort(counts, descending=True)[:max_rows]
    other = other[counts[other] > 0]
    if train.rating is not None:
        sums = torch.bincount(train.indices(fixed_side), weights=train.rating.double(), minlength=len(counts))
        means = (sums[other] / counts[other]).float().to(model.device)
    counts = counts[other].to(model.device)
    ask = data.asker(model.needs)
    unknown = torch.zeros(len(other), dtype=torch.int64)
    with torch.no_grad():
        fixed = model.item_rows(other.to(model.device)) if by_user else model.user_rows(ask(other).to(model.device))
        warm = torch.ones(side.n, dtype=torch.bool)
        warm[_cold(train, side)] = False
        start, spread = zip(*_moments(side, warm.nonzero().squeeze(1)), strict=True)
        spread = [deviation.mean().clamp(min=1e-6) for deviation in spread]
    row = [value.clone().requires_grad_() for value in start]
    weights = counts / counts.sum()
    optimiser = torch.optim.LBFGS(row, max_iter=50, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        query = ask(unknown) if by_user else unknown
        query = (Query(query) if isinstance(query, Tensor) else query).to(model.device)
        query = replace(query, rows=tuple(value.expand(len(other), -1) for value in row))
        own = model.user_rows(query) if by_user else model.item_rows(query)
        logits = model.interact(own, fixed) if by_user else model.interact(fixed, own)
        if means is None:
            value = -(weights * F.log_softmax(logits, dim=0)).sum()
        else:
            value = (weights * F.mse_loss(model.activation(logits), means, reduction="none")).sum()
        for own_row, centre, sd in zip(row, start, spread, strict=True):
            value = value + RIDGE / counts.sum() * ((own_row - centre) / sd).square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        if loss().isfinite():  # else the training diverged and there is nothing to fit
            optimiser.step(loss)
    model.zero_grad()
    return [value.detach() for value in row] if all_finite(row) else list(start)


@torch.no_grad()
def _fill_by_features(model: Model, train: Interactions, side: Side, *, centred: bool) -> None:
    """Give ids with features but no training row what these predict; `centred`: of average ones, what row 0 holds."""
    if side.features is None:
        return
    unknown = torch.zeros(1, dtype=torch.int64)
    fit_cold_head(model, train, side, [part[0] for part in own_rows(side, unknown)] if centred else None)
    _write_foretold(train, side)


def _write_foretold(train: Interactions, side: Side) -> None:
    """Give ids with features but no training row the rows that the side's `FeatureRows.cold` predicts."""
    if side.features is None or not side.can_write:
        return
    cold = _cold(train, side)
    cold = cold[side.given[cold]]
    side.write(cold, side.features.cold_rows(cold))


def _unfeatured_rows(side: Side, idx: Tensor) -> list[Tensor]:
    """What stands in the tables for `idx` `(m,)`, or would if the features of each were those of the unknown id."""
    rows = own_rows(side, idx)
    if side.features is None or side.joins != "sum":
        return rows
    none = side.features(torch.zeros(1, dtype=torch.int64, device=rows[0].device))
    return [part - shift for part, shift in zip(rows, none, strict=True)]


def _moments(side: Side, idx: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and standard deviation `[((d,), (d,)), ...]` of the `_unfeatured_rows`."""
    if isinstance(side.tables, ShardedTables):  # which have no features
        return side.tables.moments(idx)
    return [(rows.mean(0), rows.std(0, correction=0)) for rows in _unfeatured_rows(side, idx)]


def _bare(train: Interactions, side: Side) -> Tensor:
    """Rows `(m,)` about which nothing is known: no training row and no side features."""
    cold = _cold(train, side)
    return cold[~side.given[cold]]


def _cold(train: Interactions, side: Side) -> Tensor:
    """Rows `(m,)` of ids without a training row, the unknown one among them."""
    cold = train.counts(side.name) == 0
    cold[0] = True
    return cold.nonzero().squeeze(1)
