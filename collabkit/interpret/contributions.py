"""What side features contribute: to the score of one pair, to scores in general, and to the quality of predictions."""

from contextlib import contextmanager

import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor

from collabkit.data.runs import Runs
from collabkit.evaluate.names import ERRORS
from collabkit.interpret.plots import plot_bars
from collabkit.models import CollFilter, Model
from collabkit.models.base import evaluating
from collabkit.models.feature_rows import FeatureRows, FieldRows

__all__ = ["feature_effects", "plot_feature_effects", "feature_parts", "feature_importance"]

# The methods of `CollabInterpretation` that are about side features.


def feature_effects(interp, *, side: str = "item") -> pd.DataFrame:
    """What each value of the items' (or users') features adds to the score, largest first.

    Returns:
        DataFrame with `feature`, `value`, `n` (trained ids that have it), `effect` (in logits, for an average user,
        relative to the feature's mean; of a number, per standard deviation) and `strength` (length of its factors:
        how much it divides the users).

    Raises:
        TypeError: the model is not a `CollFilter`, or has no such features.
    """
    rows, other = _features(interp, side), "user" if side == "item" else "item"
    others = interp.model.factors(other)[interp._trained(other)].mean(0)
    known, tables = interp.train.counts(side) > 0, []
    for field in rows.fields:
        vector, bias = (weight.detach().cpu() for weight in field.weights)  # (p, d), (p, 1)
        effect, n = vector @ others + bias[:, 0], _uses(field, known)
        if field.field.is_bag:  # a field's mean effect is part of the average score
            effect = effect - (effect * n).sum() / n.sum().clamp(min=1)
        table = pd.DataFrame({"feature": field.field.name, "value": field.field.value_names, "n": n.numpy()})
        table = table.assign(effect=effect.numpy(), strength=vector.norm(dim=1).numpy())
        tables.append(table[(n > 0).numpy()])
    return pd.concat(tables, ignore_index=True).sort_values("effect", ascending=False, ignore_index=True)


def plot_feature_effects(interp, n: int = 10, *, side: str = "item", ax: Axes | None = None) -> Axes:
    """Bars of the `n` largest and the `n` smallest effects of `feature_effects`."""
    table = interp.feature_effects(side=side)
    half = min(n, len(table) // 2)  # so that no value is at both ends
    table = pd.concat([table.head(half), table.tail(half)])
    return plot_bars(table.assign(value=table["feature"] + ": " + table["value"]), "effect", "value", ax=ax)


def feature_parts(interp, user, item, *, context=None) -> pd.DataFrame:
    """What each of an item's features adds to its score for a user, compared with an average item.

    Args:
        user, item: one external id each.
        context: for a model with context, the moment, as in `Recommender.predict`.

    Returns:
        DataFrame with `part` (the features, `the item itself`, and their `sum`) and `value` in logits; of a model with
        a context also one column per field of it, with the share of `value` that is due to the moment. Of an item
        without ratings, `the item itself` is what its features predict for its own row; see `coldstart.cold_rows`.

    Raises:
        TypeError: the model is not a `CollFilter`, or has neither item features nor a context.
        KeyError: an unknown id.
    """
    model, warm = interp.model, interp._trained("item")
    bare = _adding_up(model).context is not None and model.item_side.features is None
    rows = None if bare else _features(interp, "item")
    u, i = interp._pair(user, item)
    query = interp.recommender.query(u, context).to(model.device)
    with torch.no_grad(), evaluating(model):
        p = {"value": model.user_rows(query)[0].cpu()}  # (1, d), and the moment's share of it by field
        if model.context is not None:
            shares = zip(model.context.context.fields, model.context.field_parts(query), strict=True)
            p |= {field.name: part[:, :-1].cpu() for field, part in shares}
        parts = {}  # rows [q, b] (1, d + 1) of the item, and those of all items with ratings
        for field in [] if rows is None else rows.fields:
            parts[field.field.name] = [field(idx.to(model.device)).cpu() for idx in (i, warm)]
        own = torch.cat([table.weight.cpu() for table in model.item_side.tables], dim=1)
        parts["the item itself"] = [own[i], own[warm]]
    more = {name: mine - every.mean(0) for name, (mine, every) in parts.items()}
    table = pd.DataFrame({"part": [*more]})
    for name, vector in p.items():
        bias = float(name == "value")  # it does not depend on the moment
        table[name] = [float((vector * row[:, :-1]).sum() + bias * row[:, -1].sum()) for row in more.values()]
    total = table.drop(columns="part").sum().to_frame().T.assign(part="sum")
    return pd.concat([table, total], ignore_index=True)


def feature_importance(
    interp, on="valid", *, metric: str | None = None, n_repeats: int = 5, seed: int = 0
) -> pd.DataFrame:
    """How much worse the predictions get when a feature's rows are shuffled among the ids (Breiman 2001).

    Args:
        on: as in `Recommender.evaluate`.
        metric: one of its metrics; default RMSE, or NDCG (at 10) without ratings.
        n_repeats, seed: shuffles of each feature.

    Returns:
        DataFrame with `side`, `feature`, the metric as it is, `loss_when_shuffled` (positive: the feature helps)
        and its standard deviation `sd` over the shuffles.

    Raises:
        TypeError: the model has no features.
    """
    metric = ("NDCG" if interp.train.rating is None else "RMSE") if metric is None else metric
    of_errors = metric in ERRORS

    def score() -> float:
        table = interp.recommender.evaluate(on, metrics=None if of_errors else [metric], n_boot=1)
        return float(table.loc[metric if metric in table.index else f"{metric}@10", "value"])

    generator, rows, base = torch.Generator().manual_seed(seed), [], score()
    for side in interp.model.sides:
        for field in [] if side.features is None else side.features.fields:
            values = []
            for _ in range(n_repeats):
                with _shuffled(field, side.features, generator):
                    values.append(score())
            worse = torch.tensor(values).double() - base
            row = {"side": side.name, "feature": field.field.name, metric: base}
            row["loss_when_shuffled"] = float(worse.mean() if of_errors else -worse.mean())
            rows.append({**row, "sd": float(worse.std(correction=1)) if n_repeats > 1 else float("nan")})
    if not rows:
        raise TypeError("the model has no side features")
    return pd.DataFrame(rows).sort_values("loss_when_shuffled", ascending=False, ignore_index=True)


def _adding_up(model: Model) -> CollFilter:
    """The model, if it is a `CollFilter`, whose scores are sums of parts; else an error."""
    if not isinstance(model, CollFilter):
        raise TypeError(
            f"parts of a score add up in a CollFilter, this model is {type(model).__name__}; "
            "feature_importance works for every model"
        )
    return model


def _features(interp, side: str) -> FeatureRows:
    """The features of a side of a `CollFilter`."""
    rows = _adding_up(interp.model).side(side).features
    if rows is None:
        raise TypeError(f"the model has no {side} features")
    return rows


@contextmanager
def _shuffled(field: FieldRows, side: FeatureRows, generator: torch.Generator):
    """Context in which the field's rows are shuffled among the ids that have features."""
    given = side.features.given.nonzero().squeeze(1)
    order = torch.arange(len(side.features))
    order[given] = given[torch.randperm(len(given), generator=generator)]
    rows = side.features.rows[list(side.fields).index(field)]
    try:
        field.set_rows(rows[order] if isinstance(rows, Tensor) else rows.of(order))
        yield
    finally:
        field.set_rows(rows)


def _uses(field: FieldRows, among: Tensor) -> Tensor:
    """How many of the ids `among` `(n,)` bool have each value `(p,)`; of numbers, all of them."""
    if not field.field.is_bag:
        return torch.full((field.field.size,), float(among.sum()))
    codes = Runs(field.start.cpu(), field.codes.cpu())
    return torch.bincount(codes.values[among[codes.rows]], minlength=field.field.size).float()
