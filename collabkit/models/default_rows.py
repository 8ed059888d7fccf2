"""What an id without training data predicts: the row of each side's tables that fits an "average stranger" best."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from collabkit.interactions import Interactions
from collabkit.models.base import CollabModel, device_of, evaluating
from collabkit.models.cold_rows import fit_cold_head, own_rows

__all__ = ["zero_cold_rows", "fit_default_rows", "fill_cold_items", "settle_default_rows"]

RIDGE = 30.0  # in units of one rating's squared error; 10 to 100 did equally well on held-out users of ML-100k


@torch.no_grad()
def zero_cold_rows(model: CollabModel, train: Interactions) -> None:
    """Set the rows of ids without a training row, the unknown row 0 among them, to zero: no opinion yet."""
    for is_item in (False, True):
        cold = _cold_rows(train, is_item)
        for table in model.tables(is_item):
            table[cold.to(table.device)] = 0.0


def fit_default_rows(model: CollabModel, train: Interactions, *, max_rows: int = 100_000) -> None:
    """Give every id of which nothing is known, the unknown row 0 among them, the best no-information answer.

    That is every id without a training row and without side features. Those with features get what these tell beyond;
    see `cold_rows.fit_cold_head`.

    For a stranger nothing is known, so one row must serve them all: the row that predicts the training ratings best
    when put in the place of every user (or item) at once, the other side held fixed. Its error depends on the data only
    through each item's mean rating and count, `sum_i n_i (mean_i - pred_i)**2 + constant`, so that the fit (L-BFGS from
    the mean of the trained rows) costs one small regression over the items, whatever the number of ratings. A ridge
    holds the row near that mean: `RIDGE` times its squared distance in standard deviations of the trained rows.

    Args:
        model: the trained model, changed in place.
        train: its training interactions. Without ratings (implicit feedback) the user's row is the one under which the
            items' popularity is most likely, in a softmax over the items, so that a stranger's list is about the
            popular items; for items see `fill_cold_items`.
        max_rows: use at most this many of the other side's most frequent ids.
    """
    if train.rating is None:
        fill_cold_items(model, train, always=True)
    with evaluating(model):
        for is_item in (False, True) if train.rating is not None else (False,):
            counts, means = _count_and_mean(train, by_item=not is_item)
            other = torch.argsort(counts, descending=True)[:max_rows]
            other = other[counts[other] > 0]
            device = device_of(model)
            row = _fit_row(model, is_item, other.to(device), means[other].to(device), counts[other].to(device), train)
            model.set_rows(is_item, _bare_rows(model, train, is_item), row)
            _fill_by_features(model, train, is_item, centred=True)


@torch.no_grad()
def fill_cold_items(model: CollabModel, train: Interactions, *, always: bool = False) -> None:
    """For implicit feedback: items without a training row and without features get the mean row of the rarest tenth.

    An item nobody has met is most like those that few have met. A row of zeros would not do: its score of 0 lies above
    those of most trained negatives.

    Args:
        model, train: as of `fit_default_rows`.
        always: fit what features foretell even where no such item is there yet.
    """
    counts = torch.bincount(train.item_idx.cpu(), minlength=train.n_items)
    cold = _bare_rows(model, train, True)
    warm = (counts > 0).nonzero().squeeze(1)
    rarest = warm[counts[warm].argsort(stable=True)[: max(1, len(warm) // 10)]]
    with evaluating(model):
        rows = _unfeatured_rows(model, True, rarest.to(device_of(model)))
    model.set_rows(True, cold, [values.mean(0) for values in rows])
    features = model.features_of(True)
    if features is not None and (always or bool(features.features.given[_cold_rows(train, True)].any())):
        _fill_by_features(model, train, True, centred=False)


def settle_default_rows(model, loader) -> None:
    """`fit_default_rows` where it is due: a model of this library whose unknown user is still zero.

    They are after training, after an interrupted one, and in a checkpoint that was saved during it.

    Args:
        model: any model; others than `CollabModel` are left alone.
        loader: the training loader, whose `dataset` holds the interactions.
    """
    train = getattr(loader, "dataset", None)
    if not isinstance(model, CollabModel) or not isinstance(train, Interactions):
        return
    if not any(bool(table[0].any()) for table in model.tables(False)):
        fit_default_rows(model, train)


def _fit_row(model, is_item: bool, other: Tensor, means: Tensor, counts: Tensor, train: Interactions) -> list[Tensor]:
    """One row `[(d,), ...]` of a side's tables, fitted to the other side's mean ratings `(m,)`."""
    with torch.no_grad():
        fixed = (model.user_rows if is_item else model.item_rows)(other)
        warm = torch.ones(len(model.tables(is_item)[0]), dtype=torch.bool)
        warm[_cold_rows(train, is_item)] = False
        trained = _unfeatured_rows(model, is_item, warm.nonzero().squeeze(1).to(device_of(model)))
        start = [rows.mean(0) for rows in trained]
        spread = [rows.std(0, correction=0).mean().clamp(min=1e-6) for rows in trained]
    row = [value.clone().requires_grad_() for value in start]
    weights = counts / counts.sum()
    optimiser = torch.optim.LBFGS(row, max_iter=50, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        unknown = torch.zeros(len(other), dtype=torch.int64, device=other.device)
        own = model.join(is_item, unknown, tuple(value.expand(len(other), -1) for value in row))
        logits = model.interact(fixed, own) if is_item else model.interact(own, fixed)
        if train.rating is None:
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
    finite = all(bool(value.isfinite().all()) for value in row)
    return [value.detach() for value in row] if finite else start


@torch.no_grad()
def _fill_by_features(model: CollabModel, train: Interactions, is_item: bool, *, centred: bool) -> None:
    """Give the ids without a training row but with features the rows that these foretell.

    With `centred` an id of average features gets the no-information answer, which stands in row 0.
    """
    side = model.features_of(is_item)
    if side is None:
        return
    unknown = torch.zeros(1, dtype=torch.int64)
    fit_cold_head(model, train, is_item, [r[0] for r in own_rows(model, is_item, unknown)] if centred else None)
    cold = _cold_rows(train, is_item)
    cold = cold[side.features.given[cold]]
    model.set_rows(is_item, cold, side.cold_rows(cold))


def _unfeatured_rows(model: CollabModel, is_item: bool, idx: Tensor) -> list[Tensor]:
    """What stands in the tables for `idx` `(m,)`, or would if the features of each were those of the unknown id."""
    rows, features = own_rows(model, is_item, idx), model.features_of(is_item)
    if features is None or model.joins != "sum":
        return rows
    return [part - none for part, none in zip(rows, features(torch.zeros_like(idx[:1])), strict=True)]


def _bare_rows(model: CollabModel, train: Interactions, is_item: bool) -> Tensor:
    """Rows `(m,)` of which nothing is known: no training row and no side features."""
    features, cold = model.features_of(is_item), _cold_rows(train, is_item)
    return cold if features is None else cold[~features.features.given[cold]]


def _count_and_mean(train: Interactions, by_item: bool) -> tuple[Tensor, Tensor]:
    """Number and mean of the ratings of each item (or user), `(n,)` float32 each; means of 0 without ratings."""
    idx, n = (train.item_idx, train.n_items) if by_item else (train.user_idx, train.n_users)
    idx = idx.cpu()
    counts = torch.bincount(idx, minlength=n)
    rating = torch.zeros(len(idx)).double() if train.rating is None else train.rating.cpu().double()
    return counts.float(), (torch.bincount(idx, weights=rating, minlength=n) / counts.clamp(min=1)).float()


def _cold_rows(train: Interactions, is_item: bool) -> Tensor:
    idx, n = (train.item_idx, train.n_items) if is_item else (train.user_idx, train.n_users)
    cold = torch.ones(n, dtype=torch.bool)
    cold[idx.cpu()] = False
    cold[0] = True
    return cold.nonzero().squeeze(1)
