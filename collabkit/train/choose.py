"""The parts of `collab_learner`: the model and the loss for some batches, from arguments in fastai's form."""

import inspect
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from fastai.learner import Learner
from fastai.losses import BaseLoss
from torch import nn

from collabkit.data.checks import one_of, shown
from collabkit.data.notices import near_match, say
from collabkit.losses import FlatLoss, RankingLoss
from collabkit.models import NCF, CollFilter, EmbeddingNN, Model, SASRec
from collabkit.models import __all__ as NAMES
from collabkit.models.base import as_model, check_y_range, make_for, option_names
from collabkit.models.mlp import emb_sz_rule
from collabkit.train.start import START


class _Usual(int):
    """A default that can be distinguished from the same number given by the caller."""


N_FACTORS = _Usual(50)  # fastai's default; models with their own default keep that

__all__ = [
    "N_FACTORS", "check_model", "usual_range", "rating_model", "other_model", "is_plain", "choose_loss", "choose_start",
    "check_ratings", "check_rest", "check_shards", "say_windows",
]  # fmt: skip


def check_model(model) -> None:
    """Raise `TypeError` unless `model` is None, an instance, or a class or function that makes one."""
    if model is None or (callable(model) and not getattr(model, "by_fit", False)):
        return
    if callable(model):
        name = model.__name__ if isinstance(model, type) else type(model).__name__
        raise TypeError(f"{name} is fitted in one go: {name}().fit(dls)")
    how = ""
    if isinstance(model, str):
        how = f": give the class, not its name, model={model}" if model in NAMES else near_match(model, NAMES)
    raise TypeError(f"model must be a class such as TwoTower, or an instance, got {shown(model)}{how}")


def usual_range(data) -> tuple[float, float]:
    """A `y_range` for the ratings of a `Dataset`: theirs, and a tenth of their spread on either side."""
    ends = [part.rating.aminmax() for part in (data.train, data.valid) if part is not None and len(part)]
    low, high = min(float(end.min) for end in ends), max(float(end.max) for end in ends)
    margin = 0.1 * (high - low) or 0.5
    return low - margin, high + margin


def is_plain(dls, model) -> bool:
    """Whether a model of events is a plain `CollFilter`, whose two tables least squares can solve for."""
    events = getattr(dls, "feedback", "explicit") == "implicit" and dls.history is None
    return events and dls.n_inp > 1 and type(model) is CollFilter and not model.features


def choose_start(dls, model, start: str | None, named: bool) -> str:
    """The starting point of a new model's training: `start`, or by the kind of model if the user has `named` no option.

    Raises:
        ValueError: it is not in `START`, or least squares cannot solve for the model.
    """
    one_of("start", start, (None, *START))
    if start == "als" and not is_plain(dls, model):
        raise ValueError("start='als' is for CollFilter on implicit feedback, without side features and history=; got "
                         f"{type(model).__name__}")  # fmt: skip
    return start or ("als" if is_plain(dls, model) and not named else "random")


def check_shards(dls, model, start: str | None, opt_func) -> None:
    """Raise `TypeError` or `ValueError` unless sharded tables support the arguments of `collab_learner`."""
    if isinstance(model, nn.Module):
        raise TypeError(f"sharded=True makes a new model, in parts; got a finished {type(model).__name__}: "
                        "pass its class as model=")  # fmt: skip
    needs = ("users",) if model is None else tuple(getattr(model, "needs", ()))
    if dls.history is not None or needs != ("users",):
        what = "a model of histories" if model is None else getattr(model, "__name__", repr(model))
        raise TypeError(f"sharded=True is for models of two tables whose scores need only ids; got {what}")
    if any(dls_features(dls) or ()):
        raise TypeError("sharded=True is for models without side features or context; make the dataloaders without")
    if start == "als":
        raise ValueError("start='als' needs all rows in one process: leave it out, or sharded=")
    if opt_func is not None:
        raise ValueError("sharded=True trains by the default optimiser, which takes gradients of single rows: leave "
                         "opt_func= out")  # fmt: skip


def choose_loss(dls, loss_func, model=None):
    """The loss in the form that the batches need: mean squared error for ratings, else by default `bce`.

    For next items, and for a `CollFilter` without side features, it is `sampled_softmax`, which keeps the solution of
    least squares, while few negatives and `bce` lose some of it.

    Raises:
        ValueError: a ranking loss for ratings, or a loss of predictions and targets for implicit feedback.
    """
    if getattr(dls, "feedback", "explicit") != "implicit":
        if isinstance(loss_func, (str, RankingLoss)):
            needed = "make the dataloaders with feedback='implicit'"
            raise ValueError(f"loss_func={loss_func!r} ranks positives above negatives: {needed}")
        if isinstance(loss_func, BaseLoss) and getattr(dls.train.dataset, "weight", None) is not None:
            raise ValueError(
                f"{loss_func!r} takes no weights: pass a torch loss, e.g. nn.MSELoss(), or make dls without"
            )
        return loss_func
    if dls.n_inp == 1:  # pairs one per row
        return FlatLoss(nn.BCEWithLogitsLoss()) if loss_func is None else loss_func
    if isinstance(loss_func, (BaseLoss, FlatLoss, nn.modules.loss._Loss)):
        raise ValueError(
            f"{loss_func!r} compares predictions with targets, and implicit feedback has none: pass the name of a "
            "ranking loss ('bce', 'bpr', ...) or a function of pos (bs,) and neg (bs, n)"
        )
    usual = "sampled_softmax" if dls.history is not None or is_plain(dls, model) else "bce"
    return loss_func if isinstance(loss_func, RankingLoss) else RankingLoss(usual if loss_func is None else loss_func)


def rating_model(dls, n_factors, use_nn, *, emb_szs, layers, config, y_range, options: dict) -> Model:
    """fastai's choice: `CollFilter`, or `EmbeddingNN` with `use_nn`; their options are removed from `options`."""
    names = ("ps", "embed_p", "use_bn", "bn_final", "init_std", "id_dropout", "feature_szs")
    if config is not None and not isinstance(config, Mapping):
        raise TypeError(f"config must be a dict of options, e.g. {{'ps': 0.1}}, got {shown(config)}")
    if config and not use_nn:
        raise ValueError(f"config= is for use_nn=True; the dot-product model has no {sorted(config)}")
    _only(config or {}, ("ps", "embed_p", "use_bn", "bn_final", "y_range"), "config=")
    own = {name: value for name, value in (config or {}).items() if value is not None}
    own |= {name: options.pop(name) for name in names if name in options}
    features = dls_features(dls)
    in_config = own.pop("y_range", None)
    y_range = check_y_range(in_config if y_range is None else y_range)
    if use_nn:
        _only(own, ("ps", "embed_p", "use_bn", "bn_final", "id_dropout", "feature_szs"), "use_nn=True")
        layers = [n_factors] if layers is None else layers
        return EmbeddingNN(_emb_szs(dls, emb_szs), layers, y_range=y_range, features=features, **own)
    given = {**own, **({"layers": layers} if layers else {}), **({"emb_szs": emb_szs} if emb_szs else {})}
    _only(given, ("init_std", "id_dropout"), "the dot-product model (use_nn=False)")
    return CollFilter(*_table_rows(dls), n_factors, y_range, features=features, **own)


def other_model(dls, model, n_factors, use_nn, *, emb_szs, layers, config, y_range, options: dict) -> nn.Module:
    """`model`, made for the data if it is a class; default `CollFilter`, or `NCF` with `use_nn`."""
    made = isinstance(model, nn.Module)
    if model is not None:
        beside = {"use_nn": use_nn or None, "emb_szs": emb_szs, "config": config}
        beside |= {"layers": layers, "y_range": y_range} if made else {}
        odd = [name for name, value in beside.items() if value is not None]
        if odd:
            name = type(model).__name__ if made else getattr(model, "__name__", repr(model))
            raise ValueError(
                f"model={name} leaves {', '.join(odd)} without effect: leave it out, or give it to the model"
            )
    elif (y_range, config, emb_szs) != (None, None, None):
        raise ValueError("scores of implicit feedback are logits: leave y_range=, config= and emb_szs= out")
    if made:
        return _check_made(dls, model)
    given = {"n_factors": n_factors, "layers": layers, "y_range": y_range}
    given = {name: value for name, value in given.items() if value is not None}
    ordered = dls.history is not None
    cls = model or (NCF if use_nn else SASRec if ordered else CollFilter)
    known = [name for name in option_names(cls) if name != "features"]
    if n_factors is N_FACTORS:
        del given["n_factors"]
    _only(given, known, cls.__name__)
    given |= {name: options.pop(name) for name in known if name in options}
    if ordered and "length" in known:
        given.setdefault("length", dls.history)
    return make_for(cls, dls.data, **given)


def _check_made(dls, model: nn.Module) -> nn.Module:
    if as_model(model) is None:
        return model
    rows, needed = (model.n_users, model.n_items), _table_rows(dls)
    if any(n not in (None, m) for n, m in zip(rows, needed, strict=True)):
        raise ValueError(
            f"the model has tables of {rows} rows, the data needs {needed} (users and items, #na# included)"
        )
    if dls_features(dls) and not model.features:
        raise ValueError(
            "the dataloaders have side features and the model was made without: make it with features=dls.features, "
            "or the dataloaders without"
        )
    return model


def dls_features(dls):
    """The side features of the batches, or None."""
    return getattr(dls, "features", None) or None


def _table_rows(dls) -> tuple[int, int]:
    n_users, n_items = (len(vocab) for vocab in dls.classes.values())
    return n_users, n_items


def _only(options: Mapping, allowed: Sequence[str], where: str) -> None:
    odd = sorted(set(options) - set(allowed))
    if odd:
        raise ValueError(f"{where} has no option {', '.join(odd)}; it takes {', '.join(allowed)}")


def check_rest(options: dict, model, own: Iterable[str]) -> None:
    """Raise `TypeError` for options that the model has not taken and that fastai's `Learner` does not know.

    Args:
        options: what is left for the learner.
        model: the model; its options are guessed from, too.
        own: the arguments of `collab_learner`.
    """
    of_learner = [name for name in inspect.signature(Learner).parameters if name not in ("dls", "model", "loss_func")]
    of_model = option_names(type(model)) if as_model(model) is not None else []
    odd = [name for name in options if name not in of_learner]
    if odd:
        guess = near_match(odd[0], dict.fromkeys([*own, *of_model, *of_learner]))
        raise TypeError(f"collab_learner has no argument {', '.join(map(repr, odd))}{guess}. Options of "
                        f"{type(model).__name__}: {', '.join(of_model) or 'none'}. Arguments of fastai's Learner: "
                        f"{', '.join(of_learner)}")  # fmt: skip


def say_windows(dls, model) -> None:
    """Warn where a model that reads histories in their order is not given windows of them."""
    if model.ordered and dls.history is None:
        order = "time" if dls.data.train.time is not None else "the table (there is no time_name=)"
        say(f"{type(model).__name__} predicts what comes next, and the dataloaders were made without history=: each "
            f"event is predicted from all other events of its user, in the order of {order}. Make them with "
            "history=, e.g. 100")  # fmt: skip


def check_ratings(dls, y_range) -> None:
    """Raise `ValueError` unless all ratings lie within `y_range`, if there is one."""
    for name, data in (("training", dls.train.dataset), ("validation", dls.valid.dataset)):
        if data.rating is None or y_range is None:
            continue
        outside = int(((data.rating < y_range[0]) | (data.rating > y_range[1])).sum())
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
    if isinstance(emb_szs, str) or not hasattr(emb_szs, "__len__") or len(emb_szs) != 2:
        raise ValueError(f"emb_szs needs a user and an item entry, e.g. [50, 50], got {shown(emb_szs)}")
    sizes = zip(counts, emb_szs, strict=True)
    pairs = [(n, int(size)) if np.ndim(size) == 0 else tuple(map(int, size)) for n, size in sizes]
    rows = [n for n, _ in pairs]
    if rows != counts:
        raise ValueError(f"emb_szs has tables of {rows} rows, the data needs {counts}")
    return pairs
