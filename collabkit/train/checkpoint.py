"""`Checkpoint`: stores what an interrupted training needs to continue as if it had not been interrupted."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from fastcore.foundation import L
from torch import Tensor

from collabkit.data.notices import say
from collabkit.data.processes import Processes, processes
from collabkit.models.base import as_model
from collabkit.models.sharded import is_sharded, shards_of
from collabkit.serve.files import DamagedFileError, read_tensors, write_tensors

__all__ = ["Checkpoint", "load_checkpoint", "pack", "part_of", "plan_of", "save_checkpoint", "unpack"]

KEPT = 2  # checkpoints: the newest, and the one before in case that is damaged


class Checkpoint(Callback):
    """Save the state of training after each epoch, and resume from the newest good one.

    Weights, optimiser, random numbers, the loader's epoch, the schedule's place, the records, and the values that other
    callbacks remember: a resumed run ends with the same weights, to the last digit, as an uninterrupted one.
    `learn.fit(..., checkpoint=folder)` and the other fits add it.

    Args:
        folder: of the checkpoints, `epoch_00003.safetensors` after three epochs; relative to the learner's path. The
            last two are kept. For sharded tables each process writes its own, `epoch_00003.part1of2.safetensors`.
        resume: resume from the newest one, or start if there is none.

    Raises:
        FileExistsError: in `fit`, the folder has checkpoints and `resume` is False.
        ValueError: in `fit`, the checkpoints belong to another training: data, model, schedule or number of epochs; or,
            for sharded tables, to another number of processes.
    """

    order = 2000  # after all other callbacks, whose values it saves

    def __init__(self, folder: str | Path, resume: bool = False):
        self.folder, self.resume = Path(folder), resume

    def before_fit(self):
        """Load the newest good checkpoint."""
        if hasattr(self.learn, "lr_finder") or hasattr(self.learn, "gather_preds"):
            return
        self.where = Path(self.learn.path) / self.folder
        self.plan = plan_of(self.learn)
        files = sorted(self.where.glob("epoch_*.safetensors"), reverse=True)
        part = part_of(self.learn.model)
        if files and not self.resume:
            raise FileExistsError(
                f"{self.where} holds checkpoints of a training run; pass resume=True to go on from the newest, or "
                "name another folder"
            )
        mine = [file for file in files if file.name.endswith(f"{part}.safetensors")]
        team = processes() if part else Processes()  # processes with their own parts must load the same epoch
        if files and not any(team.objects(bool(mine), "which checkpoints there are")):
            raise ValueError(f"the checkpoints in {self.where} were not written by {team.size} processes: go on with "
                             f"as many as wrote them ({files[0].name}), or name another folder")  # fmt: skip
        for file in team.objects([file.name for file in mine], "which checkpoints there are")[0]:
            file = self.where / file.replace(part_of(self.learn.model, 0), part)
            try:
                (tensors, content), damage = read_tensors(file), None
            except (DamagedFileError, FileNotFoundError) as error:
                damage = error
            damage = next(filter(None, team.objects(damage and str(damage), "whether a checkpoint is whole")), None)
            if damage is not None:
                say(f"{damage}; the previous checkpoint is used, or the training starts anew")
                continue
            odd = [name for name, value in self.plan.items() if content["plan"].get(name) != value]
            if odd:
                told = "; ".join(f"{name} was {content['plan'].get(name)}, is {self.plan[name]}" for name in odd)
                raise ValueError(
                    f"the checkpoints in {self.where} are of another training run: {told}. Name another folder"
                )
            self._restore(tensors, unpack(content["state"], tensors))
            return

    def after_epoch(self):
        """Write the checkpoint, and remove old ones."""
        state = {
            "model": self.learn.model.state_dict(),
            "opt": self.learn.opt.state_dict(),
            "epoch": self.learn.epoch + 1,
            "loader_epoch": getattr(self.learn.dls.train, "epoch", None),
            "random": [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ())],
            "recorder": _records(self.learn.recorder),
            "smooth_loss": [self.learn.recorder.smooth_loss.count, self.learn.recorder.smooth_loss.val],
            "callbacks": {cb.name: _figures(cb) for cb in self.learn.cbs if cb is not self},
        }
        if getattr(self.learn, "scaler", None) is not None:
            state["scaler"] = self.learn.scaler.state_dict()
        team = processes()
        (team.each if is_sharded(self.learn.model) else team.once)(lambda: self._write(state), "a checkpoint")

    def _write(self, state: dict) -> None:
        tensors: dict[str, Tensor] = {}
        packed = pack(state, tensors)
        ending = f"{part_of(self.learn.model)}.safetensors"
        write_tensors(self.where / f"epoch_{state['epoch']:05d}{ending}", tensors, {"plan": self.plan, "state": packed})
        for old in sorted(self.where.glob(f"epoch_*{ending}"))[:-KEPT]:
            old.unlink()

    def _restore(self, tensors: dict[str, Tensor], state: dict) -> None:
        learn = self.learn
        learn.model.load_state_dict(state["model"])
        learn.opt.load_state_dict(state["opt"])
        learn.first_epoch = state["epoch"]
        if state["loader_epoch"] is not None:
            learn.dls.train.epoch = state["loader_epoch"]
        cpu, *devices = state["random"]
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)
        for name, values in state["recorder"].items():
            setattr(learn.recorder, name, list(values))
        learn.recorder.smooth_loss.count, learn.recorder.smooth_loss.val = state["smooth_loss"]
        if learn.recorder.values:
            learn.final_record = L(learn.recorder.values[-1])
        for cb in learn.cbs:
            vars(cb).update(state["callbacks"].get(cb.name, {}))
        if "scaler" in state:
            learn.scaler.load_state_dict(state["scaler"])


def plan_of(learn) -> dict:
    """The facts that a resumed training must share with the interrupted one: JSON-ready, by name."""
    data, model, bs = getattr(learn.dls, "data", None), learn.model, getattr(learn.dls.train, "bs", None)
    plan = {"epochs": learn.n_epoch, "seed": learn.seed, "batch size": bs, "model": type(model).__name__}
    sizes = [value.numel() for value in model.state_dict().values()]
    plan["size"] = f"{len(sizes)} tensors of {sum(sizes):,} numbers"
    plan["loss"] = repr(learn.loss_func)
    hypers = [{name: value for name, value in hyper.items() if name != "mom"} for hyper in learn.opt.hypers]
    plan["optimiser"] = f"{type(learn.opt).__name__} {hypers}"  # momentum may have the value of an interrupted schedule
    if data is not None:
        plan["training data"] = data.train.data_hash()
    if as_model(model) is not None and not model.by_fit:
        plan["options"] = str(model.config())
    for cb in learn.cbs:
        if getattr(cb, "plan", None):
            plan[cb.name] = str(cb.plan)
    return plan


def part_of(model, rank: int | None = None) -> str:
    """The suffix of file names if each process writes its own, for this process or number `rank`."""
    shards = shards_of(model)
    return f".part{(shards[0].rank if rank is None else rank) + 1}of{shards[0].size}" if shards else ""


def _records(recorder) -> dict:
    """The records of a recorder; the losses, one tensor per batch, as one."""
    records = {name: list(getattr(recorder, name)) for name in recorder._stateattrs}
    if records["losses"]:
        records["losses"] = torch.stack([torch.as_tensor(loss).cpu() for loss in records["losses"]])
    return records


def _figures(cb: Callback) -> dict:
    """The numbers that a callback remembers, e.g. the best value and the waiting time of `EarlyStoppingCallback`."""
    kinds = (int, float, np.number)
    return {name: value for name, value in vars(cb).items() if isinstance(value, kinds) and name != "run"}


def pack(value, tensors: dict[str, Tensor], path: str = ""):
    """`value` in JSON form; its tensors are put into `tensors`, by their path."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, (np.ndarray, np.number)):
        return {"array": pack(torch.as_tensor(value), tensors, path)}
    if isinstance(value, Mapping):
        return {"dict": [[pack(k, tensors), pack(v, tensors, f"{path}/{k}")] for k, v in value.items()]}
    if isinstance(value, (list, tuple, L)):
        kind = "tuple" if isinstance(value, tuple) else "L" if isinstance(value, L) else "list"
        return {kind: [pack(v, tensors, f"{path}/{j}") for j, v in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint cannot hold {path.strip('/')}, a {type(value).__name__}: {value!r}")


def unpack(packed, tensors: dict[str, Tensor]):
    """The value that was passed to `pack`."""
    if not isinstance(packed, dict):
        return packed
    ((kind, value),) = packed.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "array":
        array = unpack(value, tensors).numpy()
        return array if array.ndim else array[()]
    if kind == "dict":
        return {unpack(k, tensors): unpack(v, tensors) for k, v in value}
    return {"tuple": tuple, "L": L, "list": list}[kind](unpack(v, tensors) for v in value)


def save_checkpoint(path: Path, model, opt=None) -> None:
    """Write a model's tensors, and those of an optimiser; see `serve.files.write_tensors`."""
    tensors: dict[str, Tensor] = {}
    packed = pack({"model": model.state_dict(), "opt": None if opt is None else opt.state_dict()}, tensors)
    write_tensors(path, tensors, {"state": packed})


def load_checkpoint(path: Path, device="cpu") -> dict:
    """The content from `save_checkpoint`: `{'model': state_dict, 'opt': state_dict or None}`."""
    tensors, content = read_tensors(path, device)
    return unpack(content["state"], tensors)
