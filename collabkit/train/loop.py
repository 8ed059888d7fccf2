"""`LeanLearner`: fastai's `Learner` with less work per batch and its own random numbers."""

from contextlib import AbstractContextManager, contextmanager, suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import CancelBatchException, CancelEpochException, CancelFitException, event
from fastai.callback.fp16 import AMPMode
from fastai.callback.progress import ProgressCallback
from fastai.learner import CastToTensor, Learner, Recorder
from fastai.losses import BaseLoss
from fastai.torch_core import defaults, rank_distrib
from fastcore.foundation import L
from torch import nn

from collabkit.coldstart.default_rows import settle_default_rows
from collabkit.data.checks import check_seed, finite, whole
from collabkit.data.memory import give_back
from collabkit.data.notices import say
from collabkit.data.processes import processes
from collabkit.losses import FlatLoss, RankingLoss
from collabkit.models.base import as_model
from collabkit.models.scorers import all_finite
from collabkit.models.sharded import is_sharded
from collabkit.train.batches import on_device
from collabkit.train.callbacks import (
    ColdRows,
    DeviceMixedPrecision,
    LeanProgress,
    LeanRecorder,
    LeanScheduler,
    cosine,
    piecewise,
)
from collabkit.train.checkpoint import Checkpoint, load_checkpoint, part_of, save_checkpoint
from collabkit.train.dataloaders import CollabDataLoaders
from collabkit.train.distributed import joint_fit, working_together
from collabkit.train.fit_metrics import RatingError, as_metric
from collabkit.train.loader import Loader
from collabkit.train.optim import TableAdamW, feature_weights, undecayed
from collabkit.train.refit import Recipe, recorded

__all__ = ["LeanLearner"]

_INNER_EVENTS = {
    "before_batch", "after_pred", "after_loss", "before_backward", "after_backward", "before_step", "after_step",
    "after_batch",
}  # fmt: skip


class LeanLearner(Learner):
    """fastai's training loop with less work per batch.

    Events within a batch are sent only to callbacks that define them, and the default callbacks are the lean ones in
    `collabkit.train.callbacks`. Recording and scheduling are the same (docs/decisions/0001-training-loop.md).

    Args:
        dls: the batches.
        model: the model.
        loss_func: default mean squared error; a torch loss is flattened by `FlatLoss`.
        seed: seed of everything random in training (dropout); the caller's global generators stay unchanged.
        wd_on: to which tables weight decay applies by default, see `optim.undecayed`.
        opt_func: default fused AdamW, `optim.TableAdamW`, with fastai's betas; `eps` is fastai's 1e-5, or 1e-8 with a
            `losses.RankingLoss`.
        cbs: callbacks in addition to the default ones.
        **kwargs: the other arguments of fastai's `Learner`.
    """

    def __init__(
        self, dls, model, loss_func=None, *, seed=0, wd_on="factors", opt_func=None, cbs=None, **kwargs
    ) -> None:
        if opt_func is None:
            # A ranking loss is a mean over many more pairs than those of one table row: with fastai's 1e-5, eps would
            # dominate the gradients.
            eps = 1e-8 if isinstance(loss_func, RankingLoss) else 1e-5
            groups = {"spared": undecayed(model, wd_on), "features": feature_weights(model)}
            opt_func = partial(TableAdamW, **groups, eps=eps)
        loss_func = nn.MSELoss() if loss_func is None else loss_func
        if not isinstance(loss_func, (BaseLoss, FlatLoss, RankingLoss)):
            loss_func = FlatLoss(loss_func)
        if kwargs.pop("default_cbs", True):
            lean = {Recorder: LeanRecorder, ProgressCallback: LeanProgress}
            cbs = [*(lean.get(cb, cb) for cb in defaults.callbacks if cb is not CastToTensor), ColdRows, *L(cbs)]
        self._listeners: dict[str, list] = {}
        seed = check_seed(seed)
        self.seed, self._loader_epoch = seed, 0
        self._rng = torch.Generator().manual_seed(seed).get_state()
        self.recipe, self.n_epochs_done, self.first_epoch = Recipe(), 0, 0
        if as_model(model) is not None and isinstance(dls, CollabDataLoaders):
            dls = dls.asking(model.needs)
        kwargs["metrics"] = L(kwargs.pop("metrics", None)).map(as_metric)
        for error in (m for m in kwargs["metrics"] if isinstance(m, RatingError)):
            if getattr(dls, "feedback", "explicit") == "implicit":
                raise ValueError(f"{error.name} is an error of predicted ratings, and implicit feedback has none: "
                                 "name a ranking metric, e.g. metrics=['NDCG@10']")  # fmt: skip
        super().__init__(dls, model, loss_func, opt_func=opt_func, cbs=cbs, default_cbs=False, **kwargs)

    def __call__(self, event_name):
        for name in L(event_name) if not isinstance(event_name, str) else (event_name,):
            self._call_one(name)

    def _call_one(self, event_name):
        if event_name not in _INNER_EVENTS:
            self._listeners.clear()  # callbacks may have come or gone since
        listeners = self._listeners.get(event_name)
        if listeners is None:
            if not hasattr(event, event_name):
                super()._call_one(event_name)  # fastai's error for an unknown event
            listeners = self._listeners[event_name] = list(self.ordered_cbs(event_name))
        try:
            for cb in listeners:
                cb(event_name)
        except IndexError as error:
            cause = error.__context__
            if cause is None or cause.args:
                raise
            raise cause from None  # fastai's message would repeat the empty text

    def one_batch(self, i, b):
        """Train or validate on one batch: the inputs, then the targets if any."""
        self.iter = i
        if b[0].device != self._device:
            b = on_device(b, self._device)
        if self.training and not processes().alone and hasattr(self, "together"):
            with self.together.part(b) as own:
                self._one_batch(own)
        else:
            self._one_batch(b)

    def _one_batch(self, b):
        # Weights come last and are only for the training loss; metrics use only predictions and targets.
        self.xb, self.yb = b[: self._n_inp], b[self._n_inp : None if self.training else self._n_plain]
        self._with_events(self._do_one_batch, "batch", CancelBatchException)

    def all_batches(self):
        """Run over all batches of `self.dl`."""
        self._device = next(self.model.parameters()).device
        self._n_inp = getattr(self.dl, "n_inp", getattr(self.dls, "n_inp", 1))
        self._n_plain = getattr(self.dl, "n_plain", None)
        super().all_batches()

    @recorded
    def fit(
        self, n_epoch, lr=None, wd=None, cbs=None, reset_opt=False, start_epoch=0, *, checkpoint=None, resume=False
    ) -> None:
        """Train as fastai's `fit`; dropout uses this learner's own generator, the caller's stay unchanged.

        Args:
            n_epoch, lr, wd, cbs, reset_opt, start_epoch: as in fastai.
            checkpoint, resume: a folder for the training state, and whether to resume from the newest checkpoint in
                it, as if there had been no interruption; see `checkpoint.Checkpoint`.

        Raises:
            ValueError: `n_epoch`, `lr` or `wd` is out of range; the checkpoints belong to another training.
        """
        n_epoch = whole("n_epoch", n_epoch)
        _check_rates(lr, "lr"), _check_rates(wd, "wd")
        if checkpoint is not None:
            cbs = [*L(cbs), Checkpoint(checkpoint, resume)]
        elif resume:
            raise ValueError("resume=True needs checkpoint=, the folder of the checkpoints to go on from")
        self.first_epoch = 0
        with self._own_generator(), self._own_epochs(), joint_fit(self) as more:
            try:
                super().fit(n_epoch, lr, wd, [*L(cbs), *more], reset_opt, start_epoch)
            except BaseException:  # the model of an interrupted fit can be used too
                if not is_sharded(self.model):  # else it would wait for processes that do not know of the error
                    with suppress(Exception):  # the first error is the one to show
                        settle_default_rows(self.model, self.dls)
                raise
            settle_default_rows(self.model, self.dls)

    def distrib_ctx(self, *, timeout: float = 600.0) -> AbstractContextManager["LeanLearner"]:
        """Context in which the processes of a launcher train, evaluate and export together; no effect without one.

        Start the processes with `torchrun --nproc-per-node 2 train.py`. All run the same script: they read the same
        rows, create the same learner, with a seed, and call the same methods. `bs` remains the size of the whole
        batch, and each process computes its share of the rows, so the result is the same as with one process except
        for rounding. The first process writes files while the others wait. See
        docs/decisions/0027-several-processes.md.

        Args:
            timeout: seconds after which a process that does not respond is given up.

        Raises:
            ProcessesError: the processes have different data, seeds or weights; another process has ended or does not
                respond.

        Example:
            >>> from collabkit import CollabDataLoaders, collab_learner, datasets
            >>> names = {'user_name': 'user', 'item_name': 'title', 'rating_name': 'rating'}
            >>> table = datasets.synthetic(n_users=100, n_items=80, n_ratings=2000, seed=1).ratings
            >>> dls = CollabDataLoaders.from_df(table, **names, seed=0)
            >>> learn = collab_learner(dls, n_factors=8, y_range=(0, 5.5))
            >>> with learn.distrib_ctx(), learn.no_bar(), learn.no_logging():
            ...     learn.fit_one_cycle(1)
        """
        return working_together(self, timeout)

    def to_detach(self, b, cpu=True, gather=True):
        """fastai's `to_detach` for this process only: each has all validated rows, and fastai would gather them."""
        return super().to_detach(b, cpu, gather=False)

    def _end_cleanup(self):
        """fastai's clean-up, and release of the last training loss, whose graph would keep old tables in memory.

        Freed memory is returned to the system.
        """
        super()._end_cleanup()
        self.loss_grad = None
        give_back()

    def _do_epoch_validate(self, ds_idx=1, dl=None):
        """As in fastai; nothing is shown without rows."""
        loader = self.dls[ds_idx] if dl is None else dl
        if getattr(loader, "n", None) != 0:
            super()._do_epoch_validate(ds_idx, dl)

    def validate(self, ds_idx=1, dl=None, cbs=None):
        """Return the loss and metrics of a part, as fastai's `validate`.

        Raises:
            ValueError: the part has no rows.
        """
        self._check_rows(self.dls[ds_idx] if dl is None else dl)
        return super().validate(ds_idx, dl, cbs)

    @staticmethod
    def _check_rows(loader) -> None:
        if getattr(loader, "n", None) == 0:
            raise ValueError("there is no validation part, as all rows are trained on: give dl=dls.test_dl(df)")

    def _do_epoch_train(self):
        self.model.als = self.model.calibration = None  # of other weights; least squares sets `als` again
        super()._do_epoch_train()
        self.model.trained = True
        self.n_epochs_done += 1

    def _do_fit(self):
        """fastai's epochs, starting at `first_epoch`; stops with a warning if weights become NaN or infinite."""
        for epoch in range(self.first_epoch, self.n_epoch):
            self.epoch = epoch
            self._with_events(self._do_epoch, "epoch", CancelEpochException)
            if not hasattr(self, "lr_finder") and not self._finite():
                say(f"training diverged in epoch {epoch}: weights are NaN or infinite, and the model cannot be "
                    "used. Train a new one with a lower learning rate or less weight decay")  # fmt: skip
                raise CancelFitException

    def _finite(self) -> bool:
        """Whether all weights are finite, on all processes if the tables are sharded."""
        here = all_finite(self.model.parameters())
        return all(processes().objects(here, "whether weights are finite")) if is_sharded(self.model) else here

    @recorded
    def fit_one_cycle(
        self, n_epoch, lr_max=None, div=25.0, div_final=1e5, pct_start=0.25, wd=None, moms=None, cbs=None,
        reset_opt=False, start_epoch=0, *, checkpoint=None, resume=False,
    ) -> None:  # fmt: skip
        """Train as fastai's `fit_one_cycle`: the rate rises and falls along a cosine, momentum inversely (Smith, 2018).

        `checkpoint` and `resume` as in `fit`.
        """
        lr = self._peak_lr(lr_max)
        low, mid, high = self.moms if moms is None else moms
        parts = {"lr": [cosine(lr / div, lr), cosine(lr, lr / div_final)], "mom": [cosine(low, mid), cosine(mid, high)]}
        schedules = {name: piecewise([pct_start, 1 - pct_start], both) for name, both in parts.items()}
        plan = {"lr": lr, "div": div, "div_final": div_final, "pct_start": pct_start, "moms": (low, mid, high)}
        cbs, again = [LeanScheduler(schedules, plan), *L(cbs)], {"checkpoint": checkpoint, "resume": resume}
        self.fit(n_epoch, cbs=cbs, reset_opt=reset_opt, wd=wd, start_epoch=start_epoch, **again)

    @recorded
    def fit_sgdr(
        self, n_cycles, cycle_len, lr_max=None, cycle_mult=2, cbs=None, reset_opt=False, wd=None, start_epoch=0, *,
        checkpoint=None, resume=False,
    ) -> None:  # fmt: skip
        """Train with warm restarts (SGDR): `n_cycles` cycles, each `cycle_mult` times as long as the one before.

        Each cycle anneals the learning rate along a cosine: Loshchilov and Hutter, "SGDR: stochastic gradient descent
        with warm restarts" (2017). The first cycle has `cycle_len` epochs; with `cycle_mult=1` all cycles have this
        length. `checkpoint` and `resume` as in `fit`.
        """
        lr = self._peak_lr(lr_max)
        lengths = [cycle_len * cycle_mult**i for i in range(n_cycles)]
        schedules = {"lr": piecewise([n / sum(lengths) for n in lengths], [cosine(lr, lr * 0)] * n_cycles)}
        cbs = [LeanScheduler(schedules, {"lr": lr, "lengths": lengths}), *L(cbs)]
        again = {"checkpoint": checkpoint, "resume": resume}
        self.fit(sum(lengths), cbs=cbs, reset_opt=reset_opt, wd=wd, start_epoch=start_epoch, **again)

    def _peak_lr(self, lr_max):
        """The peak learning rate, a number or an array with one value per parameter group."""
        _check_rates(lr_max, "lr_max")
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
            torch.manual_seed(int(torch.randint(2**31, ())))  # also seeds the devices' generators, each time anew
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

    def lr_find(self, *args, **kwargs) -> Any:
        """Run fastai's `lr_find`; the model, the optimiser and later fits are the same as without it."""
        state, weights = (self._rng, self._loader_epoch), deepcopy(self.model.state_dict())
        said = {name: getattr(self.model, name, None) for name in ("trained", "als", "calibration")}
        if self.opt is None:
            self.create_opt()
        moments = deepcopy(self.opt.state_dict())
        try:
            with self.recipe.paused():
                return super().lr_find(*args, **kwargs)
        finally:
            self._rng, self._loader_epoch = state
            self.model.load_state_dict(weights)
            vars(self.model).update(said)
            self.opt.load_state_dict(moments)
            self._checkpoint("_tmp", ".safetensors").unlink(missing_ok=True)  # fastai's temporary copy of the weights

    def save(self, file, with_opt: bool = True, **kwargs) -> Path:
        """Save weights, and the optimiser if there is one, to `path/model_dir/file.safetensors`.

        The file replaces an older one only when it is complete, and has a checksum.

        Args:
            file: file name, with or without the extension.
            with_opt: save the optimiser too.
            **kwargs: fastai's pickle options, which are ignored.

        Returns:
            The path of the file.
        """
        path = self._checkpoint(file, ".safetensors")
        if not (processes().alone and rank_distrib()):
            write = partial(save_checkpoint, path, self.model, self.opt if with_opt else None)
            team = processes()
            (team.each if is_sharded(self.model) else team.once)(write, f"the file {path.name}")
        return path

    def load(self, file, device=None, with_opt: bool = True, strict: bool = True, **kwargs):
        """Load a file written by `save`, or fastai's `.pth`.

        For a checkpoint from the middle of a training, the rows of unknown ids are set when it is loaded. To resume an
        interrupted training use `fit(..., checkpoint=folder, resume=True)`.

        Args:
            file: file name; without an extension the `.safetensors` file if it exists, else the `.pth` file.
            device: device of the optimiser's tensors; default that of the dataloaders.
            with_opt: load the optimiser too, if it was saved.
            strict: require that the names of the tensors are those of the model.
            **kwargs: fastai's arguments, for `.pth`.

        Raises:
            DamagedFileError: the file was changed or truncated.
            FileNotFoundError: neither file exists.
        """
        if not self.recipe.inside:  # otherwise a callback restores weights of its own fit
            self.recipe.foreign = f"the file {file}"
            self.model.als = self.model.calibration = None
        path = self._checkpoint(file, ".safetensors")
        old = self._checkpoint(file, ".pth")
        if Path(file).suffix == ".pth" or (old.is_file() and not path.is_file()):
            super().load(str(old.with_suffix("")), device, with_opt=with_opt, strict=strict, **kwargs)
        elif not path.is_file():
            raise FileNotFoundError(f"there is no checkpoint {path}, nor one of fastai, {old}")
        else:
            state = load_checkpoint(path, self.dls.device if device is None else device)
            self.model.load_state_dict(state["model"], strict=strict)
            if with_opt and state["opt"] is not None:
                if self.opt is None:
                    self.create_opt()
                self.opt.load_state_dict(state["opt"])
            elif with_opt:
                say(f"{path.name} was saved without an optimiser: training begins with a new one")
        settle_default_rows(self.model, self.dls)
        return self

    def _checkpoint(self, file, ending: str) -> Path:
        """The path of the checkpoint `file`."""
        name = Path(file)
        name = name.with_suffix("") if name.suffix in (".safetensors", ".pth") else name
        return Path(self.path) / self.model_dir / name.with_name(name.name + part_of(self.model) + ending)

    def get_preds(self, ds_idx=1, dl=None, *args, **kwargs) -> Any:
        """fastai's `get_preds`, which also works for a single row (fastai squeezes its predictions and then fails)."""
        loader = self.dls[ds_idx] if dl is None else dl
        self._check_rows(loader)
        ragged = isinstance(loader, Loader) and loader.batches.ragged
        if ragged or (isinstance(self.loss_func, RankingLoss) and kwargs.get("with_loss")):
            raise ValueError("batches that share different negatives have no table of predictions, and ranking losses "
                             "no value per row: use learn.recommend, learn.predict, or get_preds(dl=dls.test_dl(df)) "
                             "for given pairs")  # fmt: skip
        one = getattr(loader, "n", None) == 1
        kwargs["reorder"] = kwargs.get("reorder", True) and not one
        result = super().get_preds(ds_idx, dl, *args, **kwargs)
        return tuple(t[None] if one and isinstance(t, torch.Tensor) and t.ndim == 0 else t for t in result)

    def add_cb(self, cb) -> "LeanLearner":
        """fastai's `add_cb`; turns off the image-specific parts of its `TensorBoardCallback`, which would fail here."""
        cb = cb() if isinstance(cb, type) else cb
        odd = [name for name in ("trace_model", "log_preds", "projector") if getattr(cb, name, False)]
        if odd and cb.name == "tensor_board":
            say(f"TensorBoardCallback: {', '.join(odd)} made for images and switched off; losses, metrics and "
                "hyper-parameters are logged")  # fmt: skip
            for name in odd:
                setattr(cb, name, False)
        return super().add_cb(cb)

    def to_fp16(self, **kwargs) -> "LeanLearner":
        """Train in float16 mixed precision on the model's device."""
        return self.add_cb(DeviceMixedPrecision(**kwargs))

    def to_bf16(self) -> "LeanLearner":
        """Train in bfloat16 mixed precision on the model's device."""
        return self.add_cb(DeviceMixedPrecision(amp_mode=AMPMode.BF16))


def _check_rates(rates, name: str) -> None:
    """Raise `ValueError` unless `rates`, a number or one per parameter group, or None, are finite and not negative."""
    ends = (rates.start, rates.stop) if isinstance(rates, slice) else rates
    given = [rate for rate in L(ends) if rate is not None] if rates is not None else []
    for rate in np.asarray(given, dtype=object).ravel():
        if finite(name, rate) < 0:
            raise ValueError(f"{name} must not be negative, got {rates!r}")
