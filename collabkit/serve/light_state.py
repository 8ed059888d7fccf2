"""The part of an artefact for `serve.light`: vectors, events, ids and the fitted prior as plain arrays.

`light.safetensors` has the arrays, and `config.json` describes them under `light`. Data in another file of the artefact
(the weights of EASE, neighbours) is read from there. Names of arrays are `part.what`: `users` and `items` are ids,
`events` the known events of each user in the order of histories, `model` the inputs of scores, `fold` the prior of the
fold-in and `why` the inputs of explanations.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from collabkit.coldstart.fold_in import FoldIn
from collabkit.coldstart.new_ids import takes_ratings
from collabkit.data.dataset import Dataset, joined
from collabkit.data.runs import Runs
from collabkit.data.vocab import Vocab
from collabkit.models import EASE, ItemKNN, NextItem, Popularity
from collabkit.models.base import Model, evaluating
from collabkit.models.closed_form import ClosedForm
from collabkit.models.scorers import all_finite
from collabkit.retrieval.diversity import met_vectors
from collabkit.serve.why import equations

__all__ = ["fold_of", "light_state", "read_fold"]

BATCH = 4096  # users whose vectors are computed at once
TRAIN, VALID, FOLDED = range(3)  # codes of parts, as in interactions.parquet


def light_state(model: Model, data: Dataset, fold: FoldIn | None = None) -> tuple[dict[str, Tensor], dict]:
    """The arrays of `light.safetensors`, and their entry in config.json.

    Args:
        model, data: of the artefact, the model in evaluation mode.
        fold: the fold-in, if its prior is to be stored; see `fold_of`.
    """
    spec = {
        "needs": list(model.needs),
        "ordered": bool(model.ordered),
        "rated": data.rated,
        "takes_ratings": takes_ratings(model, data),
        "confidence": _confidence(data),
        "y_range": model.y_range,
        "folds_in": bool(model.user_side.can_write and "history" not in model.needs),
        "predicts_ratings": bool(model.predicts_ratings),
        "users_with_rows": max(1, int((data.train.pairs.lengths > 0).sum())),
    }
    arrays: dict[str, Tensor] = {}
    try:
        for name in ("users", "items"):
            spec[name], found = _ids(getattr(data, name))
            arrays |= {f"{name}.{key}": value for key, value in found.items()}
    except TypeError as error:
        return {}, {**spec, "kind": None, "refused": str(error)}
    arrays |= _events(data) | _facts(data)
    with torch.no_grad(), evaluating(model):
        spec["kind"], found, facts = _scores(model, data)
        spec |= facts
        arrays |= found
        if fold is not None:
            spec["fold"], found = _fold(model, data, fold, arrays)
            arrays |= found
    return {name: value.detach().cpu().contiguous() for name, value in arrays.items()}, spec


def fold_of(model: Model, data: Dataset, make: Callable[[], FoldIn]) -> FoldIn | None:
    """The fold-in whose prior is to be stored: a fitted one, or one that the light runtime can use; else None.

    Args:
        model, data: of the artefact.
        make: returns the fold-in of a model that has one.
    """
    if "history" in model.needs or not model.user_side.can_write or not all_finite(model.state_dict().values()):
        return None
    fold = make()
    return fold if fold.fitted or (model.has_vectors and fold.scores.linear) else None


def read_fold(model: Model, data: Dataset, arrays: dict[str, Tensor]) -> FoldIn | None:
    """The fold-in with the prior in an artefact, or None."""
    state = {name.removeprefix("fold."): value for name, value in arrays.items() if name.startswith("fold.")}
    names = ("mean", "root", "beta", "noise", "curvature")
    return FoldIn.restored(model, data, {name: state[name] for name in names if name in state}) if state else None


def _confidence(data: Dataset) -> dict | None:
    found = data.train.confidence
    if found is None:
        return None
    return {**found.spec(), "scale": found.scale, "mean_total": found.mean_total, "n_users": found.n_users}


def _ids(vocab: Vocab) -> tuple[dict, dict[str, Tensor]]:
    """A description of the ids, and their arrays: numbers, or the concatenated bytes of texts and their ends."""
    ids, spec = vocab.ids, {"name": vocab.name, "n": len(vocab)}
    if ids.dtype.kind in "iu" and (len(ids) == 0 or int(ids.max()) < 2**63):
        values = torch.from_numpy(ids.to_numpy().astype(np.int64))
        return {**spec, "kind": "int"}, {"ids": values, **_order(values.numpy())}
    kind, texts = _texts(ids.tolist(), vocab.name)
    parts = [text.encode("utf-8") for text in texts]
    ends = torch.tensor([0, *map(len, parts)]).cumsum(0)
    arrays = {"text": torch.frombuffer(bytearray(b"".join(parts) or b"\0"), dtype=torch.uint8), "ends": ends}
    if kind == "text":
        arrays |= _order(np.array(parts, dtype=object))
    return {**spec, "kind": kind}, arrays


def _order(values: np.ndarray) -> dict[str, Tensor]:
    """The positions of the values in ascending order, unless they are sorted."""
    if len(values) < 2 or bool((values[1:] > values[:-1]).all()):
        return {}
    return {"order": torch.from_numpy(np.argsort(values, kind="stable").astype(np.int64))}


def _texts(ids: list, name: str) -> tuple[str, list[str]]:
    """How ids of one type are written as texts, and the texts."""
    first = ids[0] if ids else ""
    if isinstance(first, str):
        return "text", ids
    if isinstance(first, (datetime.datetime, np.datetime64)):
        if any(getattr(value, "nanosecond", 0) for value in ids):
            raise TypeError(f"ids of type {type(first).__name__} with nanoseconds (column {name!r})")
        return "datetime", [value.isoformat() for value in ids]
    if isinstance(first, datetime.timedelta):
        if any(getattr(value, "nanoseconds", 0) for value in ids):
            raise TypeError(f"ids of type {type(first).__name__} with nanoseconds (column {name!r})")
        return "timedelta", [str(round(value / datetime.timedelta(microseconds=1))) for value in ids]
    ways = {bool: str, int: str, float: repr, uuid.UUID: str, decimal.Decimal: str, bytes: bytes.hex,
            datetime.date: datetime.date.isoformat, datetime.time: datetime.time.isoformat}  # fmt: skip
    if type(first) not in ways:
        raise TypeError(f"ids of type {type(first).__name__} (column {name!r})")
    return type(first).__name__.lower(), [ways[type(first)](value) for value in ids]


def _events(data: Dataset) -> dict[str, Tensor]:
    """All known events of each user, the latest last: items, the part of each, and its weight."""
    parts = [(code, part) for code, part in enumerate(data.parts) if part is not None]
    every = joined(*(part for _, part in parts))
    code = torch.cat([torch.full((len(part),), code, dtype=torch.int8) for code, part in parts])
    rows = every.by_user
    found = {"start": rows.start, "items": every.item_idx[rows.values].int(), "part": code[rows.values]}
    trained = data.trained
    own = trained.confidences if trained.rating is None else trained.rating
    if own is not None:
        value = torch.ones(len(every)) if trained.rating is None else every.rating.clone()
        value[code != VALID] = own
        found["weight"] = value[rows.values]
    if every.confidences is not None:
        found["latest"] = every.confidences[rows.values]
    if every.count is not None:
        found["count"] = every.count[rows.values]
    if data.train.weight is not None:
        solved = torch.ones(len(every))
        solved[code == TRAIN] = data.train.weight
        found["solved"] = solved[rows.values]
    if every.time is not None:
        found["time"] = every.time[rows.values]
    if data.disliked is not None:
        runs = data.disliked.pairs
        found |= {"disliked_start": runs.start, "disliked": runs.values.int()}
    return {f"events.{name}": value for name, value in found.items()}


def _facts(data: Dataset) -> dict[str, Tensor]:
    """For each item: its training rows, the users who have it and, if there are times, its age in days."""
    rows = torch.bincount(data.train.pairs.values, minlength=data.n_items)
    found = {"items.rows": data.train.counts("item"), "items.having": rows}
    if all(part.time is not None for part in (data.train, data.valid) if part is not None):
        found["items.age"] = data.item_ages(is_valid=False)
    return found


def _scores(model: Model, data: Dataset) -> tuple[str | None, dict[str, Tensor], dict]:
    """The kind of the scores, their arrays, and further entries for config.json."""
    if model.has_vectors:
        return "vectors", *_vectors(model, data)
    if not isinstance(model, ClosedForm):
        return "pairs", {"model.factors": model.factors("item")}, {}
    forms = {EASE.scores: _ease, ItemKNN.scores: _knn, NextItem.scores: _next, Popularity.scores: _popular}
    form = forms.get(type(model).scores)
    if form is None or model.joined:
        return None, {}, {"refused": f"the scores of {type(model).__name__}, which have no plain form"}
    kind, arrays, facts = form(model)
    likeness = {"model.likeness": torch.nn.functional.normalize(met_vectors(data), dim=1)}
    return kind, arrays | likeness, {"additive": model.additive, **facts}


def _vectors(model: Model, data: Dataset) -> tuple[dict[str, Tensor], dict]:
    items = model.item_vectors(torch.arange(data.n_items, device=model.device)).cpu().float()
    ask = data.asker(model.needs, histories=data.latest if "history" in model.needs else None)
    users = [
        model.user_vectors(ask(part).to(model.device)).cpu().float() for part in torch.arange(data.n_users).split(BATCH)
    ]
    factors, found = model.factors("item").float(), {"model.users": torch.cat(users), "model.items": items}
    width = factors.shape[1]
    if not torch.equal(factors, items[:, :width]):
        found["model.factors"] = factors
    return found, {"factors": width}


def _ease(model: EASE) -> tuple[str, dict, dict]:
    if not len(model.inverse):
        return "linear", {}, {"last": model.last}
    runs = Runs(model.user_start, model.user_items, len(model.counts), model.user_weight).transposed()
    found = {"model.start": runs.start, "model.users": runs.values.int(), "model.weight": runs.weight}
    return "by users", found, {"last": model.last}


def _knn(model: ItemKNN) -> tuple[str, dict, dict]:
    runs = model.neighbours.transposed()  # for each item the items that it is a neighbour of
    found = {"model.start": runs.start, "model.near": runs.values.int(), "model.nearness": runs.weight}
    return "neighbours", found, {}


def _next(model: NextItem) -> tuple[str, dict, dict]:
    return "next", {}, {}


def _popular(model: Popularity) -> tuple[str, dict, dict]:
    return "popularity", {}, {}


def _fold(model: Model, data: Dataset, fold: FoldIn, arrays: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    """The prior, and the logits `x . slope + constant` of a user's row x, if they are linear in it."""
    spec = {"kind": "ratings" if data.rated else "events", "linear": bool(fold.scores.linear), "plain": False}
    found = fold.state()
    if fold.scores.linear and model.has_vectors:
        slope, constant = fold.scores.slope.cpu().float(), fold.scores.constant.cpu().float()
        spec["plain"] = _is_plain(arrays, slope, constant, fold)
        if not spec["plain"]:
            found |= {"slope": slope, "constant": constant, "rows": fold.scores.rows(_every(data)).cpu().float()}
        at = torch.zeros(1, dtype=torch.int64) if model.user_side.features is None else _every(data)
        _ = fold.solver
        lift, shift = fold.lift(at), fold.scores.shift(at).cpu()
        if bool(lift.any()) or bool(shift.any()):
            found |= {"lift": lift.cpu(), "shift": shift}
        if not data.rated and len(fold.solver.catalogue) < data.n_items - 1:
            found |= {"catalogue": fold.solver.catalogue, "log_weight": fold.solver.log_weight}
        if (solved := equations(model, data)) is not None:
            found["gram"] = solved.gram
            spec["solved"] = {name: solved.options[name] for name in ("reg", "unobserved_weight", "nu")}
            spec["solved"]["counted"] = data.train.count is not None
    return spec, {f"fold.{name}": value for name, value in found.items()}


def _is_plain(arrays: dict[str, Tensor], slope: Tensor, constant: Tensor, fold: FoldIn) -> bool:
    """Whether a user's vector is the row followed by ones, so that slopes and constants are parts of the items'."""
    users, items, d = arrays["model.users"], arrays["model.items"], slope.shape[1]
    rows = fold.scores.rows(torch.arange(len(users))).cpu().float()
    ones = bool((users[:, d:] == 1).all()) and users.shape[1] - d <= 1
    own = items[:, d] if users.shape[1] > d else torch.zeros(len(items))
    same = users.shape[1] >= d and torch.equal(users[:, :d], rows)
    return same and ones and torch.equal(items[:, :d], slope) and torch.equal(own, constant)


def _every(data: Dataset) -> Tensor:
    return torch.arange(data.n_users)
