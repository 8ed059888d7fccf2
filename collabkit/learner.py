"""`collab_learner` and `CollabLearner`: a fastai `Learner` that recommends, evaluates and exports."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastcore.foundation import L
from torch import nn

from collabkit.bundle import load_bundle
from collabkit.callbacks import AlternatingLeastSquares
from collabkit.dataloaders import CollabDataLoaders
from collabkit.interactions import check_seed
from collabkit.losses import FlatLoss, RankingLoss
from collabkit.models import NCF, CollabModel, CollFilter, EmbeddingNN
from collabkit.models.base import check_y_range
from collabkit.models.mlp import emb_sz_rule
from collabkit.recommender import Recommender
from collabkit.training import LeanLearner

__all__ = ["collab_learner", "CollabLearner", "load_learner"]


class CollabLearner(LeanLearner):
    """A fastai `Learner` for the models of this library; make it with `collab_learner`.

    On top of fastai's methods it has `predict`, `recommend`, `similar_items`, `similar_users`, `evaluate` and `export`,
    all by external ids. Arguments as of `training.LeanLearner`.
    """

    def __init__(self, *args, **kwargs):
        self._recommender: Recommender | None = None
        self._metrics_of_fit: dict[str, float] = {}
        super().__init__(*args, **kwargs)

    def fit(self, n_epoch, *args, **kwargs):
        """fastai's `fit`; see `LeanLearner.fit`."""
        super().fit(n_epoch, *args, **kwargs)
        self._keep_metrics()

    def fit_als(
        self,
        n_sweeps: int = 12,
        *,
        reg: float = 0.007,
        unobserved_weight: float = 0.3,
        nu: float = 1.0,
        n_cg: int = 3,
        cbs=None,
    ):
        """Implicit alternating least squares for a dot-product model: the quickest way to a strong ranking.

        Each sweep solves for all users and then for all items, and counts as an epoch: progress, validation metrics,
        `SaveModelCallback` and early stopping work as in `fit`. Biases are set to zero. Gradient training may follow.

        Args:
            n_sweeps: how many.
            reg, unobserved_weight, nu, n_cg: the objective and the steps of conjugate gradients; see `als.ALSSolver`.
            cbs: further callbacks.

        Raises:
            TypeError: the model's score is not the dot product of two tables.
            ValueError: explicit feedback, or an argument out of range.
        """
        options = {"reg": reg, "unobserved_weight": unobserved_weight, "nu": nu, "n_cg": n_cg}
        self.fit(n_sweeps, cbs=[AlternatingLeastSquares(**options), *L(cbs)])

    def _keep_metrics(self):
        """Remember the last epoch's figures for `export`: `validate` and `get_preds` overwrite the recorder's."""
        recorder = getattr(self, "recorder", None)
        row = recorder.values[-1] if recorder is not None and recorder.values else []
        names = [] if recorder is None else [name for name in recorder.metric_names if name not in ("epoch", "time")]
        if len(row) == len(names) and all(value is not None for value in row):  # lr_find has no validation loss
            self._metrics_of_fit = dict(zip(names, map(float, row), strict=True))

    @property
    def recommender(self) -> Recommender:
        """The `Recommender` on this learner's model and data."""
        model, train, valid = self.model, self.dls.train.dataset, self.dls.valid.dataset
        old = self._recommender
        if old is None or old.model is not model or old.train is not train or old.valid is not valid:
            if not isinstance(model, CollabModel):
                raise TypeError(f"this needs one of collabkit's models, got {type(model).__name__}")
            self._recommender = Recommender(model, train, valid)
        return self._recommender

    def predict(self, users, items, *, unknown: str = "raise") -> float | np.ndarray:
        """Predicted rating of each (user, item) pair; see `Recommender.predict`."""
        return self.recommender.predict(users, items, unknown=unknown)

    def recommend(self, users=None, k: int = 10, **kwargs) -> pd.DataFrame:
        """The top `k` items of each user; see `Recommender.recommend` for the other arguments."""
        return self.recommender.recommend(users, k, **kwargs)

    def similar_items(self, item, k: int = 10) -> pd.DataFrame:
        """The `k` nearest items by cosine; see `Recommender.similar_items`."""
        return self.recommender.similar_items(item, k)

    def similar_users(self, user, k: int = 10) -> pd.DataFrame:
        """The `k` nearest users by cosine; see `Recommender.similar_users`."""
        return self.recommender.similar_users(user, k)

    def evaluate(self, on="valid", **kwargs) -> pd.DataFrame:
        """Rating and ranking metrics with intervals, beside baselines; see `Recommender.evaluate`."""
        return self.recommender.evaluate(on, **kwargs)

    def export(self, folder: str | Path = "export") -> Path:
        """Write the artefact (no pickle) that `load_learner` and `Recommender.load` read; see `bundle.save_bundle`.

        A relative `folder` lies under `self.path`.
        """
        return self.recommender.save(Path(self.path) / folder, metrics=self._metrics_of_fit)


def collab_learner(
    dls: CollabDataLoaders,
    n_factors: int = 50,
    use_nn: bool = False,
    emb_szs=None,
    layers=None,
    config: Mapping | None = None,
    y_range: tuple[float, float] | None = None,
    loss_func=None,
    *,
    model=None,
    seed: int | None = None,
    wd_on: str = "factors",
    **kwargs,
) -> CollabLearner:
    """A learner for ratings or for implicit feedback, with fastai's signature and defaults.

    Args:
        dls: batches from `CollabDataLoaders`.
        n_factors: factors of a dot-product model, embedding size of the others; with `use_nn` on ratings, as in fastai,
            the hidden layer's width.
        use_nn: an embedding network rather than the dot product with biases (`CollFilter`): `EmbeddingNN` for ratings,
            `NCF` for implicit feedback.
        emb_szs: with `use_nn` on ratings, embedding sizes: `{column: size}`, or a user and an item entry, each a size
            or `(n, size)` as from fastai's `get_emb_sz`. Default `emb_sz_rule`.
        layers: widths of the hidden layers, for models that have them; default `[n_factors]` with `use_nn` on ratings.
        config: with `use_nn`, a dict of `ps`, `embed_p`, `use_bn`, `bn_final`, `y_range` as from `tabular_config`.
        y_range: `(low, high)` of predicted ratings, a little wider than the ratings, e.g. `(0, 5.5)`.
        loss_func: for ratings default mean squared error. For implicit feedback a name in `losses.LOSSES` (`'bce'`, the
            default, `'bpr'`, `'hinge'`, `'softmax'`, `'sampled_softmax'`, ...) or a function of the positives' scores
            `(bs,)` and the negatives' `(bs, n)`.
        model: another model: a class, e.g. `TwoTower`, or one that is made already.
        seed: of the initial weights and of training; default the dataloaders' seed.
        wd_on: `'factors'`: weight decay spares biases; `'all'`: it touches every table, as in fastai.
        **kwargs: options of the model (`ps`, `embed_p`, `init_std`, `sparse`, `similarity`, ...), and fastai's
            `Learner` arguments (`metrics`, `cbs`, `lr`, `wd`, `opt_func`, `path`, ...).

    Raises:
        ValueError: ratings outside `y_range`; sizes that do not fit the data; options of another model or feedback.
        TypeError: an unknown argument.
    """
    seed = check_seed(getattr(dls, "seed", 0) if seed is None else seed)
    y_range = check_y_range(y_range)
    implicit = getattr(dls, "feedback", "explicit") == "implicit"
    loss_func = _loss_func(dls, implicit, loss_func)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        made = isinstance(model, nn.Module)
        if model is not None:
            beside = {"use_nn": use_nn or None, "emb_szs": emb_szs, "config": config}
            _none_beside(model, beside | ({"layers": layers, "y_range": y_range} if made else {}))
        if made:
            model = _check_made(dls, model)
        elif model is not None or implicit:
            if implicit and (y_range, config, emb_szs) != (None, None, None):
                raise ValueError("scores of implicit feedback are logits: leave y_range=, config= and emb_szs= out")
            cls = model or (NCF if use_nn else CollFilter)
            options = {"n_factors": n_factors, "layers": layers, "y_range": y_range}
            model = _make_model(cls, dls, {k: v for k, v in options.items() if v is not None}, kwargs)
        else:
            model = _rating_model(dls, n_factors, use_nn, emb_szs, layers, config, y_range, kwargs)
    _check_ratings(dls, getattr(model, "y_range", None))
    model.users, model.items = dls.classes.values()
    return CollabLearner(dls, model, loss_func, seed=seed, wd_on=wd_on, **kwargs)


def _loss_func(dls, implicit: bool, loss_func):
    """The loss in the form that the batches want."""
    if not implicit:
        if isinstance(loss_func, (str, RankingLoss)):
            raise ValueError(
                f"loss_func={loss_func!r} ranks positives above negatives: make the dataloaders with "
                "feedback='implicit'"
            )
        return loss_func
    if dls.n_inp == 1:  # pairs one a row
        return FlatLoss(nn.BCEWithLogitsLoss()) if loss_func is None else loss_func
    return loss_func if isinstance(loss_func, RankingLoss) else RankingLoss("bce" if loss_func is None else loss_func)


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
    return model


def _make_model(cls, dls, options: dict, kwargs: dict) -> CollabModel:
    """A `cls` for the data, with `options` and those of `kwargs` that its constructor names, which are taken out."""
    known = [name for name in inspect.signature(cls).parameters if name not in ("n_users", "n_items")]
    odd = sorted(set(options) - set(known))
    if odd:
        raise ValueError(f"{cls.__name__} has no option {', '.join(odd)}; it takes {', '.join(known)}")
    options |= {name: kwargs.pop(name) for name in known if name in kwargs}
    return cls(*_table_rows(dls), **options)


def _rating_model(dls, n_factors, use_nn, emb_szs, layers, config, y_range, kwargs: dict) -> CollabModel:
    """fastai's choice: `CollFilter`, or `EmbeddingNN` with `use_nn`; their options are taken out of `kwargs`."""
    options = {k: kwargs.pop(k) for k in ("ps", "embed_p", "use_bn", "bn_final", "init_std", "sparse") if k in kwargs}
    options = {**_from_config(config, use_nn), **options}
    in_config = options.pop("y_range", None)
    y_range = check_y_range(in_config if y_range is None else y_range)
    if use_nn:
        _only(options, ("ps", "embed_p", "use_bn", "bn_final"), "use_nn=True")
        return EmbeddingNN(
            _emb_szs(dls, emb_szs), [n_factors] if layers is None else layers, y_range=y_range, **options
        )
    given = {**options, **({"layers": layers} if layers else {}), **({"emb_szs": emb_szs} if emb_szs else {})}
    _only(given, ("init_std", "sparse"), "the dot-product model (use_nn=False)")
    return CollFilter(*_table_rows(dls), n_factors, y_range, **options)


def _table_rows(dls) -> tuple[int, int]:
    n_users, n_items = (len(vocab) for vocab in dls.classes.values())
    return n_users, n_items


def load_learner(folder: str | Path, *, path: str | Path = ".", **kwargs) -> CollabLearner:
    """The learner in an artefact folder written by `learn.export`, ready to recommend or to train on.

    Args:
        folder: the artefact. For a pickle exported by fastai use `fastai.learner.load_learner`.
        path: where the learner saves.
        **kwargs: `bs`, `val_bs`, `device`, and for implicit feedback `n_neg` and `negatives`, of the dataloaders;
            arguments of `CollabLearner`.

    Raises:
        FileNotFoundError, BundleError: see `bundle.load_bundle`.
        ValueError: it was saved without a validation part.
    """
    model, train, valid, _ = load_bundle(folder)
    if valid is None:
        raise ValueError(f"the artefact {folder} has no validation part, which a learner needs; use Recommender.load")
    loader = {k: kwargs.pop(k) for k in ("bs", "val_bs", "device", "n_neg", "negatives") if k in kwargs}
    implicit = train.rating is None
    loader["feedback"] = "implicit" if implicit else "explicit"
    dls = CollabDataLoaders.from_interactions(train, valid, path=path, seed=0, **loader)
    loss_func = _loss_func(dls, implicit, kwargs.pop("loss_func", None))
    return CollabLearner(dls, model.to(dls.device), loss_func, **kwargs)


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


def _check_ratings(dls: CollabDataLoaders, y_range) -> None:
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


def _emb_szs(dls: CollabDataLoaders, emb_szs) -> list[tuple[int, int]]:
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
