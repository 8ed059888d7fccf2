"""Training by several processes: each computes its rows of a batch, and all take the step of the whole batch.

The model is not wrapped. A process's loss is weighted by its rows, and before each step the gradients are added up:
dense ones in one buffer, sparse ones by their rows. Random numbers are drawn for the whole batch on each process, so
the result is that of one process, except for the order in which numbers are added.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout

import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.progress import CSVLogger
from fastai.callback.training import GradientAccumulation, GradientClip
from fastcore.foundation import L
from torch import Tensor

from collabkit.data.interactions import Interactions
from collabkit.data.notices import noting, say
from collabkit.data.processes import Processes, digest, joined, launched, own_device, processes
from collabkit.data.runs import Runs
from collabkit.data.vocab import Vocab
from collabkit.models.base import as_model, probe
from collabkit.models.sharded import common_tensors, is_sharded, owners
from collabkit.train.checkpoint import plan_of
from collabkit.train.shares import Share, as_one

__all__ = ["Together", "joint_fit", "working_together"]


class Together(Callback):
    """The additional work of a fit with several processes; a fit within `learn.distrib_ctx()` adds this callback.

    Args:
        team: the processes.

    Raises:
        ProcessesError: in `fit`, data, model, seed or arguments differ.
        ValueError: in `fit`, a callback that counts rows itself, or metrics of training batches.
    """

    order = -50  # before gradients are clipped or unscaled, and before other callbacks read the loss

    def __init__(self, team: Processes):
        self.team, self.share = team, None

    def before_fit(self):
        """Check that all processes have the same task; only the first one writes files and logs."""
        learn = self.learn
        if any(isinstance(cb, GradientAccumulation) for cb in learn.cbs):
            raise ValueError("GradientAccumulation counts the rows of one process: in several leave it out, and give "
                             "the dataloaders the size of the batch that they share")  # fmt: skip
        if is_sharded(learn.model):
            for cb in (cb for cb in learn.cbs if _looks_at_all_gradients(cb)):
                raise ValueError(f"{type(cb).__name__} looks at the gradients of all rows at once, and these rows are "
                                 "split over several processes: leave it out (learn.to_bf16() needs none)")  # fmt: skip
        if learn.recorder.train_metrics:
            raise ValueError("train_metrics=True would show the metrics of one process's rows: leave it out")
        plan = plan_of(learn)
        plan["loader's epoch"] = getattr(learn.dls.train, "epoch", None)
        plan["weights"] = digest(common_tensors(learn.model))
        self.team.same({name: _plain(value) for name, value in plan.items()}, "training")
        for cb in learn.cbs if not self.team.first else ():
            cb.run = cb.run and not isinstance(cb, CSVLogger)

    @contextmanager
    def part(self, batch) -> Iterator[tuple]:
        """This process's share of a training batch, with the forward pass of its rows in the whole batch."""
        total = getattr(self.learn.loss_func, "reduction", "mean") == "sum"
        self.share = Share(batch, self.team, total)
        with as_one(self.share, self.team):
            yield self.share.batch

    def before_backward(self):
        """Weight the loss by its rows."""
        self.learn.loss_grad = self.learn.loss_grad * self.share.weight
        self.learn.loss = self.learn.loss.detach() * self.share.weight

    def before_step(self):
        """Add up gradients and losses."""
        own = owners(self.learn.model)  # here they are already complete
        groups = self.learn.opt.param_lists
        parameters = [p for group in groups for p in group if p.requires_grad and id(p) not in own]
        self.learn.loss = add_up(parameters, self.learn.loss, self.team, self.share.empty)

    def after_epoch(self):
        """All processes have validated all rows; use the first one's values, in case machines round differently."""
        recorder = self.learn.recorder
        recorder.log = L(self.team.objects(list(recorder.log), "the figures of an epoch")[0])


def add_up(parameters: list[Tensor], loss: Tensor, team: Processes, empty: bool = False) -> Tensor:
    """Give each of `parameters` the sum of its gradients on all processes, and return the sum of the losses `()`.

    A parameter without a gradient on any process keeps none. An `empty` process has no rows and no gradient to add.
    """
    sparse = [p for p in parameters if p.grad is not None and p.grad.is_sparse]
    for p in sparse:
        own = p.grad.coalesce()
        rows, values = own.indices()[0], own.values()
        if empty:
            rows, values = rows[:0], values[:0]
        rows = team.gather(rows, "the rows of a sparse gradient")
        values = team.gather(values, "a sparse gradient")
        p.grad = torch.sparse_coo_tensor(rows[None], values, p.shape, check_invariants=False).coalesce()
    dense = [p for p in parameters if not any(p is other for other in sparse)]
    there = torch.tensor([p.grad is not None for p in dense], dtype=torch.float32, device=loss.device)
    parts = [loss.detach().reshape(1).float(), there]
    parts += [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).float() for p in dense]
    flat = team.sum(torch.cat(parts), "the gradients of a batch")
    total, there, *found = flat.split([len(part) for part in parts])
    for p, some, gradient in zip(dense, (there > 0).tolist(), found, strict=True):
        if some:
            p.grad = gradient.view_as(p).to(p.dtype)
    return total[0]


@contextmanager
def joint_fit(learn) -> Iterator[list[Callback]]:
    """Context for a fit, with the callbacks that it needs; afterwards all processes have the first one's weights."""
    team = processes()
    if team.alone:
        if launched()[1] > 1:
            rank, size = launched()
            say(f"this is process {rank} of {size}, and each of them trains alone on all rows: to share the work, "
                "put the fit within `with learn.distrib_ctx():`")  # fmt: skip
        yield []
        return
    with ExitStack() as stack:
        if not team.first:  # callbacks print too
            stack.enter_context(_silent(learn))
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield [Together(team)]
    team.from_first(common_tensors(learn.model), "the trained weights")


@contextmanager
def working_together(learn, timeout: float) -> Iterator:
    """The context of `learn.distrib_ctx()`; see there."""
    if launched()[1] == 1 or not processes().alone:
        yield learn
        return
    with joined(timeout) as team:
        _move(learn)
        team.same(_facts(learn), "learner")
        if is_sharded(learn.model):
            probe(learn.model, learn.dls.data)
        with ExitStack() as stack:
            if not team.first:  # only the first process shows messages
                stack.enter_context(_silent(learn))
                stack.enter_context(noting())
            yield learn


def _move(learn) -> None:
    """Move a learner to this process's GPU, if it was made on another's."""
    device = own_device()
    here = next(learn.model.parameters()).device
    if device is None or here.type != "cuda" or here == device:
        return
    learn.dls.to(device)
    learn.model.to(device)
    learn.opt = None


@contextmanager
def _silent(learn) -> Iterator[None]:
    """Context in which a learner shows no bar and logs nothing, as the first process does."""
    logger, bar = learn.logger, getattr(learn, "progress", None)
    learn.logger = _say_nothing
    if bar is not None:
        learn.remove_cb(bar)
    try:
        yield
    finally:
        learn.logger = logger
        if bar is not None:
            learn.add_cb(bar)


def _say_nothing(*_) -> None:
    pass


def _facts(learn) -> dict[str, str]:
    """The facts about a learner that all processes must share: by name, in a few letters."""
    facts = {"seed": learn.seed, "model": type(learn.model).__name__, "loss": repr(learn.loss_func)}
    for name, loader in zip(("training", "validation"), learn.dls.loaders, strict=False):
        facts |= {f"{name} {key}": getattr(loader, key, None) for key in ("bs", "seed", "shuffle", "drop_last")}
        rows = getattr(loader, "dataset", None)
        if isinstance(rows, Interactions):
            facts[f"{name} rows"] = f"{len(rows):,} ({rows.data_hash()[:8]})"
    if as_model(learn.model) is not None:
        data = learn.dls.data
        for side, features in zip(("users", "items"), (data.features.users, data.features.items), strict=True):
            facts[side] = f"{len(getattr(data, side)):,} ({digest([_ids(getattr(data, side))])})"
            if features is not None:
                facts[f"features of {side}"] = digest([features.given, *_values(features.rows)])
    facts["weights"] = digest(common_tensors(learn.model))
    return {name: _plain(value) for name, value in facts.items()}


def _plain(value) -> str:
    """`value` as text, without the addresses of functions, which differ."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _values(rows) -> list[Tensor]:
    return [part for row in rows for part in ((row.start, row.values) if isinstance(row, Runs) else (row,))]


def _ids(vocab: Vocab) -> Tensor:
    """One number per id, whatever its type."""
    return torch.from_numpy(pd.util.hash_array(vocab.ids.astype(str).to_numpy(object), categorize=False).view("int64"))


def _looks_at_all_gradients(cb: Callback) -> bool:
    return isinstance(cb, GradientClip) or (isinstance(cb, MixedPrecision) and cb.amp_mode != AMPMode.BF16)
