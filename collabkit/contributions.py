"""What side features contribute: to the score of one pair, to scores in general, and to the quality of predictions."""

from __future__ import annotations

from contextlib import contextmanager

import pandas as pd
import torch
from torch import Tensor

from collabkit.features import Bag
from collabkit.models import CollabModel, CollFilter
from collabkit.models.base import evaluating
from collabkit.models.feature_rows import FeatureRows, FieldRows
from collabkit.recommender import Recommender

__all__ = ["feature_effects", "feature_parts", "feature_importance"]


def feature_effects(rec: Recommender, is_item: bool) -> pd.DataFrame:
    """What each value of a side's features adds to the score of an average other side; see `CollabInterpretation`."""
    model, side = _linear(rec), _side(rec.model, is_item)
    others = model.factors(not is_item)[_trained(rec, not is_item)].mean(0)
    counts, tables = _counts(rec, is_item), []
    for field in side.fields:
        vector, bias = (weight.detach().cpu() for weight in field.weights)  # (p, d), (p, 1)
        values, n = field.field.value_names, _uses(field, counts > 0)
        table = pd.DataFrame({"feature": field.field.name, "value": values, "n": n.numpy()})
        effect = vector @ others + bias[:, 0]
        if field.field.is_bag:  # a field's mean effect is part of the average score
            effect = effect - (effect * n).sum() / n.sum().clamp(min=1)
        table["effect"], table["strength"] = effect.numpy(), vector.norm(dim=1).numpy()
        tables.append(table[(n > 0).numpy()])
    return pd.concat(tables, ignore_index=True).sort_values("effect", ascending=False, ignore_index=True)


def feature_parts(rec: Recommender, user, item) -> pd.DataFrame:
    """How one item's score for one user differs from the average item's, by what causes it."""
    model = _linear(rec)
    u = torch.from_numpy(rec.users.encode([user], unknown="raise"))
    i = torch.from_numpy(rec.items.encode([item], unknown="raise"))
    warm = _trained(rec, True)
    side = _side(model, True)
    with torch.no_grad(), evaluating(model):
        p, _ = (part.cpu() for part in model.user_rows(u.to(side.cold.device)))  # (1, d)
        parts = {}
        for field in side.fields:
            parts[field.field.name] = [field(idx.to(side.cold.device)).cpu() for idx in (i, warm)]
        own = torch.cat([table.detach().cpu() for table in model.tables(True)], dim=1)
        parts["the item itself"] = [own[i], own[warm]]
        worth = {name: _worth(p, mine - every.mean(0)) for name, (mine, every) in parts.items()}
    table = pd.DataFrame({"part": [*worth], "value": [float(v) for v in worth.values()]})
    return pd.concat([table, pd.DataFrame({"part": ["sum"], "value": [table["value"].sum()]})], ignore_index=True)


def feature_importance(rec: Recommender, on="valid", *, metric: str | None = None, n_repeats: int = 5, seed: int = 0):
    """How much worse predictions get when a feature's rows are shuffled among the ids; see `CollabInterpretation`."""
    rated = rec.train.rating is not None
    metric = ("RMSE" if rated else "NDCG") if metric is None else metric
    generator, rows = torch.Generator().manual_seed(seed), []
    base = _score(rec, on, metric)
    for is_item, name in ((False, "user"), (True, "item")):
        side = rec.model.features_of(is_item)
        for field in [] if side is None else side.fields:
            values = []
            for _ in range(n_repeats):
                with _shuffled(field, side, generator):
                    values.append(_score(rec, on, metric))
            worse = torch.tensor(values).double() - base
            worse = worse if metric in ("RMSE", "MAE") else -worse
            row = {"side": name, "feature": field.field.name, metric: base, "loss_when_shuffled": float(worse.mean())}
            rows.append({**row, "sd": float(worse.std(correction=1)) if n_repeats > 1 else float("nan")})
    if not rows:
        raise TypeError("the model has no side features")
    return pd.DataFrame(rows).sort_values("loss_when_shuffled", ascending=False, ignore_index=True)


def _score(rec: Recommender, on, metric: str) -> float:
    table = rec.evaluate(on, metrics=None if metric in ("RMSE", "MAE") else [metric], n_boot=1)
    return float(table.loc[metric if metric in table.index else f"{metric}@10", "value"])


@contextmanager
def _shuffled(field: FieldRows, side: FeatureRows, generator: torch.Generator):
    """Within it the field's rows belong to other ids, among those that have features."""
    given = side.features.given.nonzero().squeeze(1)
    order = torch.arange(len(side.features))
    order[given] = given[torch.randperm(len(given), generator=generator)]
    rows = side.features.rows[list(side.fields).index(field)]
    try:
        field.set_rows(rows[order] if isinstance(rows, Tensor) else rows.take(order))
        yield
    finally:
        field.set_rows(rows)


def _worth(p: Tensor, rows: Tensor) -> Tensor:
    """What parts `[q, b]` `(1, d + 1)` add to the score of a user with factors `p` `(1, d)`."""
    return (p * rows[:, :-1]).sum() + rows[:, -1].sum()


def _uses(field: FieldRows, among: Tensor) -> Tensor:
    """How many of the ids `among` `(n,)` bool have each value `(p,)`; of numbers, all of them."""
    if not field.field.is_bag:
        return torch.full((field.field.size,), float(among.sum()))
    bag = Bag(field.start.cpu(), field.codes.cpu())
    return torch.bincount(bag.codes[among[bag.rows]], minlength=field.field.size).float()


def _counts(rec: Recommender, is_item: bool) -> Tensor:
    idx, vocab = (rec.train.item_idx, rec.items) if is_item else (rec.train.user_idx, rec.users)
    return torch.bincount(idx.cpu(), minlength=len(vocab))


def _trained(rec: Recommender, is_item: bool) -> Tensor:
    return (rec.train.item_idx if is_item else rec.train.user_idx).cpu().unique()


def _side(model: CollabModel, is_item: bool) -> FeatureRows:
    side = model.features_of(is_item)
    if side is None:
        raise TypeError(f"the model has no {'item' if is_item else 'user'} features")
    return side


def _linear(rec: Recommender) -> CollFilter:
    if not isinstance(rec.model, CollFilter):
        raise TypeError(
            f"parts of a score add up in a CollFilter, this model is {type(rec.model).__name__}; feature_importance "
            "works for every model"
        )
    return rec.model
