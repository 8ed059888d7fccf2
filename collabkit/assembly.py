"""What `collab_learner` puts together: the model and the loss for some batches, from arguments in fastai's form."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import numpy as np
from fastai.losses import BaseLoss
from torch import nn

from collabkit.losses import FlatLoss, RankingLoss
from collabkit.models import NCF, CollabModel, CollFilter, EmbeddingNN
from collabkit.models.base import check_y_range
from collabkit.models.mlp import emb_sz_rule

N_FACTORS = 50  # fastai's default

__all__ = ["N_FACTORS", "rating_model", "other_model", "choose_loss", "check_ratings"]


def choose_loss(dls, loss_func):
    """The loss in the form that the batches want: mean squared error for ratings, else by default `bce`.

    Raises:
        ValueError: a ranking loss for ratings, or a loss of predictions and targets for implicit feedback.
    """
    if getattr(dls, "feedback", "explicit") != "implicit":
        if isinstance(loss_func, (str, RankingLoss)):
            raise ValueError(
                f"loss_func={loss_func!r} ranks positives above negatives: make the dataloaders with "
                "feedback='implicit'"
            )
        if isinstance(loss_func, BaseLoss) and getattr(dls.train.dataset, "weight", None) is not None:
            raise ValueError(
                f"{loss_func!r} takes no weights: pass a torch loss, e.g. nn.MSELoss(), or make dls without"
            )
        return loss_func
    if dls.n_inp == 1:  # pairs one a row
        return FlatLoss(nn.BCEWithLogitsLoss()) if loss_func is None else loss_func
    if isinstance(loss_func, (BaseLoss, FlatLoss, nn.modules.loss._Loss)):
        raise ValueError(
            f"{loss_func!r} compares predictions with targets, and implicit feedback has none: pass the name of a "
            "ranking loss ('bce', 'bpr', ...) or a function of pos (bs,) and neg (bs, n)"
        )
    return loss_func if isinstance(loss_func, RankingLoss) else RankingLoss("bce" if loss_func is None else loss_func)


def rating_model(dls, n_factors, use_nn, *, emb_szs, layers, config, y_range, options: dict) -> CollabModel:
    """fastai's choice: `CollFilter`, or `EmbeddingNN` with `use_nn`; what they take is taken out of `options`."""
    names = ("ps", "embed_p", "use_bn", "bn_final", "init_std", "sparse", "id_dropout", "feature_szs")
    own = {**_from_config(config, use_nn), **{name: options.pop(name) for name in names if name in options}}
    features = dls_features(dls)
    in_config = own.pop("y_range", None)
    y_range = check_y_range(in_config if y_range is None else y_range)
    if use_nn:
        _only(own, ("ps", "embed_p", "use_bn", "bn_final", "id_dropout", "feature_szs"), "use_nn=True")
        layers = [n_factors] if layers is None else layers
        return EmbeddingNN(_emb_szs(dls, emb_szs), layers, y_range=y_range, features=features, **own)
    given = {**own, **({"layers": layers} if layers else {}), **({"emb_szs": emb_szs} if emb_szs else {})}
    _only(given, ("init_std", "sparse", "id_dropout"), "the dot-product model (use_nn=False)")
    return CollFilter(*_table_rows(dls), n_factors, y_range, features=features, **own)


def other_model(dls, model, n_factors, use_nn, *, emb_szs, layers, config, y_range, options: dict) -> nn.Module:
    """`model`, made for the data if it is a class; default `CollFilter`, or `NCF` with `use_nn`."""
    made = isinstance(model, nn.Module)
    if model is not None:
        beside = {"use_nn": use_nn or None, "emb_szs": emb_szs, "config": config}
        _none_beside(model, beside | ({"layers": layers, "y_range": y_range} if made else {}))
    elif (y_range, config, emb_szs) != (None, None, None):
        raise ValueError("scores of implicit feedback are logits: leave y_range=, config= and emb_szs= out")
    if made:
        return _check_made(dls, model)
    given = {"n_factors": n_factors, "layers": layers, "y_range": y_range}
    given = {name: value for name, value in given.items() if value is not None}
    cls = model or (NCF if use_nn else CollFilter)
    if n_factors == N_FACTORS and "n_factors" not in parameters(cls):
        del given["n_factors"]  # the default, which a class without factors has no use for
    return _make_model(cls, dls, given, options)


def _none_beside(model, options: dict) -> None:
    """Raise where an option is given that `model=` would leave without effect."""
    odd = [name for name, value in options.items() if value is not None]
    if odd:
        name = type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__name__", repr(model))
        raise ValueError(f"model={name} leaves {', '.join(odd)} without effect: leave it out, or give it to the model")


def _check_made(dls, model: nn.Module) -> nn.Module:
    rows, needed = (getattr(model, "n_users", None), getattr(model, "n_items", None)), _table_rows(dls)
    if isinstance(model, CollabModel) and rows != needed:
        raise ValueError(
            f"the model has tables of {rows} rows, the data needs {needed} (users and items, #na# included)"
        )
    if isinstance(model, CollabModel) and dls_features(dls) and not model.features:
        raise ValueError(
            "the dataloaders have side features and the model was made without: make it with features=dls.features, "
            "or the dataloaders without"
        )
    return model


def _make_model(cls, dls, options: dict, kwargs: dict) -> CollabModel:
    """A `cls` for the data, with `options` and those of `kwargs` that its constructor names, which are taken out."""
    known = [name for name in parameters(cls) if name not in ("n_users", "n_items")]
    odd = sorted(set(options) - set(known))
    if odd:
        raise ValueError(f"{cls.__name__} has no option {', '.join(odd)}; it takes {', '.join(known)}")
    options |= {name: kwargs.pop(name) for name in known if name in kwargs}
    if dls_features(dls) and "features" not in options:
        if "features" not in known:
            raise TypeError(f"{cls.__name__} takes no side features, and the dataloaders have some: make them without")
        options["features"] = dls_features(dls)
    return cls(*_table_rows(dls), **options)


def dls_features(dls):
    """The side features of the batches, or None."""
    return getattr(dls, "features", None) or None


def parameters(cls) -> list[str]:
    """Names of a constructor's parameters, those that it hands on to its base class by `**kwargs` included."""
    given = inspect.signature(cls).parameters.values()
    names = [p.name for p in given if p.kind is not p.VAR_KEYWORD]
    handed_on = isinstance(cls, type) and len(names) < len(given)
    return [*names, *(name for name in parameters(cls.__mro__[1]) if name not in names)] if handed_on else names


def _table_rows(dls) -> tuple[int, int]:
    n_users, n_items = (len(vocab) for vocab in dls.classes.values())
    return n_users, n_items


def _from_config(config: Mapping | None, use_nn: bool) -> dict:
    """The options in fastai's `config`, which is left as it is."""
    if not config:
        return {}
    if not use_nn:
        raise ValueError(f"config= is for use_nn=True; the dot-product model has no {sorted(config)}")
    known = ("ps", "embed_p", "use_bn", "bn_final", "y_range")
    _only(config, known, "config=")
    return {k: v for k, v in config.items() if v is not None}


def _only(options: Mapping, allowed: tuple[str, ...], where: str) -> None:
    odd = sorted(set(options) - set(allowed))
    if odd:
        raise ValueError(f"{where} has no option {', '.join(odd)}; it takes {', '.join(allowed)}")


def check_ratings(dls, y_range) -> None:
    """Raise `ValueError` unless all ratings lie within `y_range`, where there is one."""
    for name, data in (("training", dls.train.dataset), ("validation", dls.valid.dataset)):
        if data.rating is None or y_range is None:
            continue
        low, high = y_range
        outside = int(((data.rating < low) | (data.rating > high)).sum())
        if outside:
            raise ValueError(
                f"{outside:,} {name} ratings lie outside y_range={tuple(y_range)}: they run from {data.rating.min():g} "
                f"to {data.rating.max():g}. Widen y_range or correct the ratings"
            )


def _emb_szs(dls, emb_szs) -> list[tuple[int, int]]:
    """`[(n_users, d_user), (n_items, d_item)]` from sizes in any of the accepted forms."""
    names, counts = dls.cat_names, [len(vocab) for vocab in dls.classes.values()]
    if emb_szs is None or isinstance(emb_szs, Mapping):
        odd = sorted(map(str, set(emb_szs or {}) - set(names)))
        if odd:
            raise ValueError(f"emb_szs names columns {odd}; the user and item columns are {names}")
        emb_szs = [(emb_szs or {}).get(name, emb_sz_rule(n)) for name, n in zip(names, counts, strict=True)]
    if len(emb_szs) != 2:
        raise ValueError(f"emb_szs needs a user and an item entry, got {emb_szs!r}")
    pairs = [
        (n, int(size)) if np.ndim(size) == 0 else tuple(map(int, size)) for n, size in zip(counts, emb_szs, strict=True)
    ]
    if [n for n, _ in pairs] != counts:
        raise ValueError(f"emb_szs has tables of {[n for n, _ in pairs]} rows, the data needs {counts}")
    return pairs
