"""`LeanLearner`: fastai's `Learner` with less work a batch and random numbers of its own."""

from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import partial

import numpy as np
import torch
from fastai.callback.core import CancelBatchException
from fastai.callback.fp16 import AMPMode
from fastai.learner import CastToTensor, Learner, Recorder
from fastai.losses import BaseLoss
from fastai.torch_core import defaults
from fastcore.foundation import L
from torch import nn

from collabkit.coldstart.default_rows import settle_default_rows
from collabkit.data.checks import check_seed, whole
from collabkit.losses import FlatLoss, RankingLoss
from collabkit.models.base import as_model
from collabkit.train.callbacks import ColdRows, DeviceMixedPrecision, LeanRecorder, LeanScheduler, cosine, piecewise
from collabkit.train.fit_metrics import RankingMetric, is_ranking_function
from collabkit.train.loader import Loader
from collabkit.train.optim import TableAdamW, TableSparseAdam, feature_weights, undecayed

__all__ = ["LeanLearner"]

_INNER_EVENTS = {
    "before_batch", "after_pred", "after_loss", "before_backward", "after_backward", "before_step", "after_step",
    "after_batch",
}  # fmt: skip


class LeanLearner(Learner):
    """fastai's training loop with less work a batch.

    Events within a batch are sent to the callbacks that define them alone, and the default callbacks are the lean ones
    of `collabkit.train.callbacks`; what is recorded and scheduled is the same (docs/decisions/0001-training-loop.md).

    Args:
        dls: the batches.
        model: the model.
        loss_func: default mean squared error; a torch loss is flattened by `FlatLoss`.
        seed: of everything random in training (dropout); the caller's global generators are left as they were.
        wd_on: which tables weight decay touches by default, see `optim.undecayed`.
        opt_func: default fused AdamW, `optim.TableAdamW`, with fastai's betas; `eps` is fastai's 1e-5, or 1e-8 with a
            `losses.RankingLoss`.
        cbs: callbacks beside the default ones.
        **kwargs: the other arguments of fastai's `Learner`.
    """

    def __init__(self, dls, model, loss_func=None, *, seed=0, wd_on="factors", opt_func=None, cbs=None, **kwargs):
        if opt_func is None:
            # A ranking loss is a mean over many more pairs than a row of a table is in: fastai's 1e-5 would swallow
            # the gradients.
            eps = 1e-8 if isinstance(loss_func, RankingLoss) else 1e-5
            sparse = as_model(model) is not None and model.sparse
            groups = {"spared": undecayed(model, wd_on), "features": feature_weights(model)}
            opt_func = TableSparseAdam if sparse else partial(TableAdamW, **groups, eps=eps)
        loss_func = nn.MSELoss() if loss_func is None else loss_func
        if not isinstance(loss_func, (BaseLoss, FlatLoss, RankingLoss)):
            loss_func = FlatLoss(loss_func)
        if kwargs.pop("default_cbs", True):
            lean = [LeanRecorder if cb is Recorder else cb for cb in defaults.callbacks if cb is not CastToTensor]
            cbs = [*lean, ColdRows, *L(cbs)]
        self._listeners: dict[str, list] = {}
        seed = check_seed(seed)
        self.seed, self._loader_epoch = seed, 0
        self._rng = torch.Generator().manual_seed(seed).get_state()
        if as_model(model) is not None and model.needs != ("users",):
            dls = dls.asking(model.needs)
        metrics = L(kwargs.pop("metrics", None))
        kwargs["metrics"] = metrics.map(lambda m: RankingMetric(function=m) if is_ranking_function(m) else m)
        super().__init__(dls, model, loss_func, opt_func=opt_func, cbs=cbs, default_cbs=False, **kwargs)

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
        """Train or validate on one batch: the inputs, then the targets if any."""
        self.iter = i
        device = self._device
        if b[0].device != device:
            b = tuple(t.to(device) for t in b)
        # Weights come last and are for the training loss alone: metrics, too, know only predictions and targets.
        self.xb, self.yb = b[: self._n_inp], b[self._n_inp : None if self.training else self._n_plain]
        self._with_events(self._do_one_batch, "batch", CancelBatchException)

    def all_batches(self):
        """Run over all batches of `self.dl`."""
        self._device = next(self.model.parameters()).device
        self._n_inp = getattr(self.dl, "n_inp", getattr(self.dls, "n_inp", 1))
        self._n_plain = getattr(self.dl, "n_plain", None)
        super().all_batches()

    def fit(self, n_epoch, *args, **kwargs):
        """fastai's `fit`; dropout draws from this learner's own generator, the caller's are left as they were."""
        n_epoch = whole("n_epoch", n_epoch)
        with self._own_generator(), self._own_epochs():
            try:
                super().fit(n_epoch, *args, **kwargs)
            except BaseException:  # an interrupted fit leaves a model that can be used too
                with suppress(Exception):  # what went wrong first is what is to be seen
                    settle_default_rows(self.model, self.dls)
                raise
            settle_default_rows(self.model, self.dls)

    def fit_one_cycle(
        self, n_epoch, lr_max=None, div=25.0, div_final=1e5, pct_start=0.25, wd=None, moms=None, cbs=None,
        reset_opt=False, start_epoch=0,
    ):  # fmt: skip
        """fastai's `fit_one_cycle`: learning rate up then down a cosine, momentum the other way (Smith, 2018)."""
        lr = self._peak_lr(lr_max)
        low, mid, high = self.moms if moms is None else moms
        parts = {"lr": [cosine(lr / div, lr), cosine(lr, lr / div_final)], "mom": [cosine(low, mid), cosine(mid, high)]}
        schedules = {name: piecewise([pct_start, 1 - pct_start], both) for name, both in parts.items()}
        cbs = [LeanScheduler(schedules), *L(cbs)]
        self.fit(n_epoch, cbs=cbs, reset_opt=reset_opt, wd=wd, start_epoch=start_epoch)

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
        cbs = [LeanScheduler(schedules), *L(cbs)]
        self.fit(sum(lengths), cbs=cbs, reset_opt=reset_opt, wd=wd, start_epoch=start_epoch)

    def _peak_lr(self, lr_max):
        """The peak learning rate, a number or an array with one value a parameter group."""
        if self.opt is None:
            self.create_opt()
        self.opt.set_hyper("lr", self.lr if lr_max is None else lr_max)
        rates = np.array([h["lr"] for h in self.opt.hypers])
        return float(rates[0]) if len(rates) == 1 else rates

    @contextmanager
    def _own_generator(self):
        on_cuda = next(self.model.parameters()).device.type == "cuda"
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if on_cuda else []):
            torch.set_rng_state(self._rng)
            torch.manual_seed(int(torch.randint(2**31, ())))  # seeds the devices' generators too, anew each time
            try:
                yield
            finally:
                self._rng = torch.get_rng_state()

    @contextmanager
    def _own_epochs(self):
        """Count the loader's epochs by learner, so that two learners on one loader see the same batches."""
        loader = self.dls.train if isinstance(self.dls.train, Loader) else None
        if loader is not None:
            loader.epoch = self._loader_epoch
        try:
            yield
        finally:
            self._loader_epoch = 0 if loader is None else loader.epoch

    def lr_find(self, *args, **kwargs):
        """fastai's `lr_find`; the model and the fit that follows are the same as without it."""
        state, weights = (self._rng, self._loader_epoch), deepcopy(self.model.state_dict())
        try:
            return super().lr_find(*args, **kwargs)
        finally:
            self._rng, self._loader_epoch = state
            self.model.load_state_dict(weights)

    def load(self, *args, **kwargs):
        """fastai's `load`; a checkpoint from the midst of training gets its answers for unknown ids here."""
        super().load(*args, **kwargs)
        settle_default_rows(self.model, self.dls)
        return self

    def get_preds(self, ds_idx=1, dl=None, *args, **kwargs):
        """fastai's `get_preds`, also of a single row, whose predictions `(1,)` fastai makes a scalar and trips over."""
        loader = self.dls[ds_idx] if dl is None else dl
        ragged = isinstance(loader, Loader) and loader.batches.ragged
        if ragged or (isinstance(self.loss_func, RankingLoss) and kwargs.get("with_loss")):
            raise ValueError("batches that share different negatives have no table of predictions, and ranking losses "
                             "no value a row: use learn.recommend, learn.predict, or get_preds(dl=dls.test_dl(df)) "
                             "for given pairs")  # fmt: skip
        one = getattr(loader, "n", None) == 1
        kwargs["reorder"] = kwargs.get("reorder", True) and not one
        result = super().get_preds(ds_idx, dl, *args, **kwargs)
        return tuple(t[None] if one and isinstance(t, torch.Tensor) and t.ndim == 0 else t for t in result)

    def to_fp16(self, **kwargs):
        """Train in float16 mixed precision on the model's device."""
        return self.add_cb(DeviceMixedPrecision(**kwargs))

    def to_bf16(self):
        """Train in bfloat16 mixed precision on the model's device."""
        return self.add_cb(DeviceMixedPrecision(amp_mode=AMPMode.BF16))
