"""`collab_learner` and `CollabLearner`: a fastai `Learner` that recommends, evaluates and exports."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import CancelBatchException
from fastai.callback.fp16 import AMPMode
from fastai.learner import CastToTensor, Learner, Recorder
from fastai.losses import BaseLoss
from fastai.optimizer import OptimWrapper
from fastai.torch_core import defaults
from fastcore.foundation import L
from torch import nn

from collabkit.bundle import load_bundle
from collabkit.callbacks import ColdRows, DeviceMixedPrecision, LeanRecorder, LeanScheduler, cosine, piecewise
from collabkit.dataloaders import CollabDataLoaders
from collabkit.losses import FlatLoss
from collabkit.models import CollabModel, CollFilter, EmbeddingNN
from collabkit.models.base import check_y_range
from collabkit.models.mlp import emb_sz_rule
from collabkit.optim import decay_groups, undecayed
from collabkit.recommender import Recommender

__all__ = ["collab_learner", "CollabLearner", "TableAdamW", "load_learner"]

_INNER_EVENTS = {
    *("before_batch", "after_pred", "after_loss", "before_backward"),
    *("after_backward", "before_step", "after_step", "after_batch"),
}


class TableAdamW(OptimWrapper):
    """torch's fused AdamW behind fastai's optimiser interface, with fastai's betas and epsilon.

    Weight decay is decoupled, `p *= 1 - lr * wd` a step, and leaves the parameters in `spared` alone; they share every
    other hyper-parameter with the group they came from.

    Args:
        params: parameters, or lists of them, one a fastai parameter group.
        spared: `id`s of parameters without weight decay, see `optim.undecayed`.
        lr, mom, sqr_mom, eps, wd: hyper-parameters; `mom` and `sqr_mom` are Adam's betas.
    """

    def __init__(self, params, lr=1e-3, *, spared=frozenset(), mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0.01):
        lists = [list(p) for p in params] if isinstance(params[0], (list, L)) else [list(params)]
        groups = [[{**g, "fai_group": i} for g in decay_groups(p, spared)] for i, p in enumerate(lists)]
        flat = [g for part in groups for g in part]
        adamw = torch.optim.AdamW(flat, lr=lr, betas=(mom, sqr_mom), eps=eps, weight_decay=wd, fused=True)
        super().__init__(opt=adamw)
        self.set_hyper("wd", wd)

    def _groups(self) -> list[list[dict]]:
        """Torch parameter groups by fastai parameter group."""
        n = 1 + max(g["fai_group"] for g in self.opt.param_groups)
        return [[g for g in self.opt.param_groups if g["fai_group"] == i] for i in range(n)]

    @property
    def hypers(self) -> list[dict]:
        """Hyper-parameters by fastai parameter group, under fastai's names."""
        heads = [next((g for g in part if not g["no_decay"]), part[0]) for part in self._groups()]
        return [
            {"wd": g["weight_decay"], "lr": g["lr"], "mom": g["betas"][0], "sqr_mom": g["betas"][1], "eps": g["eps"]}
            for g in heads
        ]

    @property
    def param_lists(self) -> list[list[nn.Parameter]]:
        """Parameters by fastai parameter group."""
        return [[p for g in part for p in g["params"]] for part in self._groups()]

    def set_hyper(self, k, v):
        """Set a hyper-parameter for all groups (a number), or one value a group (an array, a list or a slice)."""
        if isinstance(v, (int, float)):
            self._set_hyper(k, [v] * (1 + self.opt.param_groups[-1]["fai_group"]))
        else:
            super().set_hyper(k, v)

    def _set_hyper(self, k, v):
        for group in self.opt.param_groups:
            value = float(v[group["fai_group"]])
            if k == "wd":
                group["weight_decay"] = 0.0 if group["no_decay"] else value
            elif k in ("mom", "sqr_mom"):
                group["betas"] = (value, group["betas"][1]) if k == "mom" else (group["betas"][0], value)
            else:
                group[k] = value


class _SparseAdam(OptimWrapper):
    """torch's SparseAdam behind fastai's optimiser interface; it has no weight decay."""

    def __init__(self, params, lr=1e-3, **kwargs):
        super().__init__(params, opt=torch.optim.SparseAdam, lr=lr, **kwargs)

    def set_hyper(self, k, v):
        if k == "wd" and not v:
            return
        if k == "wd":
            raise ValueError(
                f"sparse=True trains with SparseAdam, which has no weight decay, got wd={v!r}; leave wd= out"
            )
        super().set_hyper(k, v)


class CollabLearner(Learner):
    """A fastai `Learner` for the models of this library; make it with `collab_learner`.

    On top of fastai's methods it has `predict`, `recommend`, `similar_items`, `similar_users`, `evaluate` and `export`
    by external ids. Its training loop is fastai's with less work a batch: events are dispatched to the callbacks that
    define them alone, and default callbacks are the lean ones of `collabkit.callbacks`.

    Args:
        dls: the batches.
        model: the model.
        seed: of everything random in training (dropout); the caller's global generators are left as they were.
        wd_on: which tables weight decay touches by default, see `optim.undecayed`.
        opt_func, lr, cbs, ...: as fastai's `Learner`.
    """

    def __init__(self, dls, model, loss_func=None, *, seed=0, wd_on="factors", opt_func=None, cbs=None, **kwargs):
        if opt_func is None:
            opt_func = partial(TableAdamW, spared=undecayed(model, wd_on))
        loss_func = nn.MSELoss() if loss_func is None else loss_func
        if not isinstance(loss_func, (BaseLoss, FlatLoss)):
            loss_func = FlatLoss(loss_func)
        if kwargs.pop("default_cbs", True):
            lean = [LeanRecorder if cb is Recorder else cb for cb in defaults.callbacks if cb is not CastToTensor]
            cbs = [*lean, ColdRows, *L(cbs)]
        self._listeners: dict[str, list] = {}
        self._recommender: Recommender | None = None
        self._metrics_of_fit: dict[str, float] = {}
        self._rng = torch.Generator().manual_seed(seed).get_state()
        self.seed = seed
        super().__init__(dls, model, loss_func, opt_func=opt_func, cbs=cbs, default_cbs=False, **kwargs)

    # --- the training loop, with less work a batch -------------------------------------------------------------------

    def __call__(self, event_name):
        for name in L(event_name) if not isinstance(event_name, str) else (event_name,):
            self._call_one(name)

    def _call_one(self, event_name):
        if event_name not in _INNER_EVENTS:
            self._listeners.clear()  # callbacks may have come or gone since
            super()._call_one(event_name)
            return
        listeners = self._listeners.get(event_name)
        if listeners is None:
            listeners = self._listeners[event_name] = list(self.ordered_cbs(event_name))
        for cb in listeners:
            cb(event_name)

    def one_batch(self, i, b):
        """Train or validate on one batch `(x, y?)`."""
        self.iter = i
        device = self._device
        if b[0].device != device:
            b = tuple(t.to(device) for t in b)
        self.xb, self.yb = b[:1], b[1:]
        self._with_events(self._do_one_batch, "batch", CancelBatchException)

    def all_batches(self):
        """Run over all batches of `self.dl`."""
        self._device = next(self.model.parameters()).device
        super().all_batches()

    def fit(self, n_epoch, *args, **kwargs):
        """fastai's `fit`; dropout draws from this learner's own generator, the caller's are left as they were."""
        if int(n_epoch) != n_epoch or n_epoch < 1:
            raise ValueError(f"n_epoch must be a whole number of at least 1, got {n_epoch!r}")
        with self._own_generator():
            super().fit(n_epoch, *args, **kwargs)
        self._keep_metrics()

    def _keep_metrics(self):
        """Remember the last epoch's figures for `export`: `validate` and `get_preds` overwrite the recorder's."""
        recorder = getattr(self, "recorder", None)
        row = recorder.values[-1] if recorder is not None and recorder.values else []
        names = [] if recorder is None else [name for name in recorder.metric_names if name not in ("epoch", "time")]
        if len(row) == len(names) and all(value is not None for value in row):  # lr_find has no validation loss
            self._metrics_of_fit = dict(zip(names, map(float, row), strict=True))

    def fit_one_cycle(
        self, n_epoch, lr_max=None, div=25.0, div_final=1e5, pct_start=0.25, wd=None, moms=None, cbs=None,
        reset_opt=False, start_epoch=0,
    ):  # fmt: skip
        """fastai's `fit_one_cycle`: learning rate up then down a cosine, momentum the other way (Smith, 2018)."""
        lr = self._peak_lr(lr_max)
        low, mid, high = self.moms if moms is None else moms
        shares = [pct_start, 1 - pct_start]
        schedules = {
            "lr": piecewise(shares, [cosine(lr / div, lr), cosine(lr, lr / div_final)]),
            "mom": piecewise(shares, [cosine(low, mid), cosine(mid, high)]),
        }
        self._fit_scheduled(n_epoch, schedules, cbs, reset_opt=reset_opt, wd=wd, start_epoch=start_epoch)

    def fit_sgdr(
        self, n_cycles, cycle_len, lr_max=None, cycle_mult=2, cbs=None, reset_opt=False, wd=None, start_epoch=0
    ):
        """Cosine annealing with warm restarts: `n_cycles` cycles, each `cycle_mult` times as long as the one before.

        Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017). The first cycle has
        `cycle_len` epochs; `cycle_mult=1` keeps them all so long.
        """
        lr = self._peak_lr(lr_max)
        lengths = [cycle_len * cycle_mult**i for i in range(n_cycles)]
        schedules = {"lr": piecewise([n / sum(lengths) for n in lengths], [cosine(lr, lr * 0)] * n_cycles)}
        self._fit_scheduled(sum(lengths), schedules, cbs, reset_opt=reset_opt, wd=wd, start_epoch=start_epoch)

    def _peak_lr(self, lr_max):
        """The peak learning rate, a number or an array with one value a parameter group."""
        if self.opt is None:
            self.create_opt()
        self.opt.set_hyper("lr", self.lr if lr_max is None else lr_max)
        rates = np.array([h["lr"] for h in self.opt.hypers])
        return float(rates[0]) if len(rates) == 1 else rates

    def _fit_scheduled(self, n_epoch, schedules, cbs, **kwargs):
        self.fit(n_epoch, cbs=[LeanScheduler(schedules), *L(cbs)], **kwargs)

    @contextmanager
    def _own_generator(self):
        device = next(self.model.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)  # seeds the device's generator too
            torch.set_rng_state(self._rng)
            try:
                yield
            finally:
                self._rng = torch.get_rng_state()

    def get_preds(self, ds_idx=1, dl=None, *args, **kwargs):
        """fastai's `get_preds`, also of a single row, whose predictions `(1,)` fastai makes a scalar and trips over."""
        one = getattr(self.dls[ds_idx] if dl is None else dl, "n", None) == 1
        kwargs["reorder"] = kwargs.get("reorder", True) and not one
        result = super().get_preds(ds_idx, dl, *args, **kwargs)
        return tuple(t[None] if one and isinstance(t, torch.Tensor) and t.ndim == 0 else t for t in result)

    def to_fp16(self, **kwargs):
        """Train in float16 mixed precision on the model's device."""
        return self.add_cb(DeviceMixedPrecision(**kwargs))

    def to_bf16(self):
        """Train in bfloat16 mixed precision on the model's device."""
        return self.add_cb(DeviceMixedPrecision(amp_mode=AMPMode.BF16))

    # --- recommendations, by external ids ----------------------------------------------------------------------------

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
    seed: int | None = None,
    wd_on: str = "factors",
    **kwargs,
) -> CollabLearner:
    """A learner for rating prediction, with fastai's signature and defaults.

    Args:
        dls: batches from `CollabDataLoaders`.
        n_factors: factors of the dot-product model; the hidden layer's width with `use_nn`.
        use_nn: an embedding network (`EmbeddingNN`) rather than the dot product with biases (`CollFilter`).
        emb_szs: with `use_nn`, embedding sizes: `{column: size}`, or a user and an item entry, each a size or
            `(n, size)` as from fastai's `get_emb_sz`. Default `emb_sz_rule`.
        layers: with `use_nn`, widths of the hidden layers; default `[n_factors]`.
        config: with `use_nn`, a dict of `ps`, `embed_p`, `use_bn`, `bn_final`, `y_range` as from `tabular_config`.
        y_range: `(low, high)` of the predictions, a little wider than the ratings, e.g. `(0, 5.5)`.
        loss_func: default mean squared error.
        seed: of the initial weights and of training; default the dataloaders' seed.
        wd_on: `'factors'`: weight decay spares biases; `'all'`: it touches every table, as in fastai.
        **kwargs: `ps`, `embed_p`, `use_bn`, `bn_final` (with `use_nn`), `init_std`, `sparse` (without), and fastai's
            `Learner` arguments (`metrics`, `cbs`, `lr`, `wd`, `opt_func`, `path`, ...).

    Raises:
        ValueError: ratings outside `y_range`; sizes that do not fit the data; options of the other model.
        TypeError: an unknown argument.
    """
    seed = getattr(dls, "seed", 0) if seed is None else seed
    options = {k: kwargs.pop(k) for k in ("ps", "embed_p", "use_bn", "bn_final", "init_std", "sparse") if k in kwargs}
    options = {**_from_config(config, use_nn), **options}
    in_config = options.pop("y_range", None)
    y_range = check_y_range(in_config if y_range is None else y_range)
    _check_ratings(dls, y_range)
    n_users, n_items = (len(vocab) for vocab in dls.classes.values())
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        if use_nn:
            _only(options, ("ps", "embed_p", "use_bn", "bn_final"), "use_nn=True")
            layers = [n_factors] if layers is None else layers
            model = EmbeddingNN(_emb_szs(dls, emb_szs), layers, y_range=y_range, **options)
        else:
            given = {**options, **({"layers": layers} if layers else {}), **({"emb_szs": emb_szs} if emb_szs else {})}
            _only(given, ("init_std", "sparse"), "the dot-product model (use_nn=False)")
            model = CollFilter(n_users, n_items, n_factors, y_range, **options)
    model.users, model.items = dls.classes.values()
    if options.get("sparse"):
        kwargs.setdefault("opt_func", _SparseAdam)
    return CollabLearner(dls, model, loss_func, seed=seed, wd_on=wd_on, **kwargs)


def load_learner(folder: str | Path, *, path: str | Path = ".", **kwargs) -> CollabLearner:
    """The learner in an artefact folder written by `learn.export`, ready to recommend or to train on.

    Args:
        folder: the artefact. For a pickle exported by fastai use `fastai.learner.load_learner`.
        path: where the learner saves.
        **kwargs: `bs`, `val_bs`, `device` of the dataloaders, and arguments of `CollabLearner`.

    Raises:
        FileNotFoundError, BundleError: see `bundle.load_bundle`.
    """
    model, train, valid, config = load_bundle(folder)
    loader = {k: kwargs.pop(k) for k in ("bs", "val_bs", "device") if k in kwargs}
    dls = CollabDataLoaders.from_interactions(train, valid, path=path, seed=config.get("seed", 0), **loader)
    return CollabLearner(dls, model.to(dls.device), **kwargs)


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
