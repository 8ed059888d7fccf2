"""`Track`: logs a fit to TensorBoard, Weights & Biases, MLflow or trackio, with the names used in tables."""

from __future__ import annotations

import math
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from fastai.callback.core import Callback

from collabkit.data.checks import one_of
from collabkit.models.base import as_model

__all__ = ["Track"]


class Track(Callback):
    """Log the losses, metrics and learning rate of each epoch, and the options of the fit, to a tracker.

    One callback supports all trackers, with the names of the table that a fit prints (`train_loss`, `valid_loss`,
    `NDCG@10`). MLflow does not allow `@` in a name: there it is `NDCG_at_10`. `collabkit[track]` installs the trackers.

    Args:
        to: `'tensorboard'`, `'wandb'`, `'mlflow'` or `'trackio'`.
        run: name of the run; the same name continues the run, e.g. after an interruption. Default the time.
        project: the project in W&B and trackio, the experiment in MLflow.
        folder: storage location: the folder of TensorBoard's logs (default `runs`) or of W&B's files; for MLflow the
            tracking URI. trackio reads `TRACKIO_DIR`.
        config: additional options to log with the run.

    Raises:
        ValueError: `to` is none of the four.
        ImportError: its package is not installed.

    Example:
        >>> learn = collab_learner(dls, metrics=['NDCG@10'])                      # doctest: +SKIP
        >>> learn.fit_one_cycle(5, cbs=Track('tensorboard', run='als-start'))     # doctest: +SKIP
    """

    order = 70  # after the recorder

    def __init__(
        self, to: str, run: str | None = None, *, project: str = "collabkit", folder: str | Path | None = None,
        config: dict | None = None,
    ):  # fmt: skip
        one_of("to", to, _TRACKERS)
        if find_spec(to) is None:
            raise ImportError(f"Track({to!r}) needs the package {to}: pip install {to} (collabkit[track] has all four)")
        self.to, self.project, self.folder, self.config = to, project, folder, dict(config or {})
        self.run_name, self.tracker, self.step = run, None, 0

    def before_fit(self):
        """Start the run, or continue it."""
        if hasattr(self.learn, "lr_finder") or hasattr(self.learn, "gather_preds"):
            return
        if self.run_name is None:
            self.run_name = datetime.now().strftime("%Y-%m-%d %H.%M.%S")
        self.tracker = _TRACKERS[self.to](self)
        self.tracker.options({**fit_options(self.learn), **self.config})

    def after_epoch(self):
        """Log the epoch's values."""
        if self.tracker is None:
            return
        self.step += 1
        recorder = self.learn.recorder
        names = [name for name in recorder.metric_names if name not in ("epoch", "time")]
        figures = dict(zip(names, map(float, recorder.values[-1]), strict=False))
        figures["lr"] = float(self.learn.opt.hypers[-1]["lr"])
        self.tracker.log({name: value for name, value in figures.items() if math.isfinite(value)}, self.step)

    def after_fit(self):
        """End the run, whichever way the fit ended."""
        if self.tracker is not None:
            self.tracker.close()
            self.tracker = None


def fit_options(learn) -> dict:
    """The options of a fit, as numbers and texts."""
    data, model = learn.dls.data, as_model(learn.model)
    found = {"model": type(learn.model).__name__, "loss": str(learn.loss_func), "seed": learn.seed}
    found |= {"epochs": learn.n_epoch, "bs": learn.dls.train.bs, "training rows": len(data.train)}
    found |= {"users": data.n_users - 1, "items": data.n_items - 1}
    if model is not None:
        found |= {name: value for name, value in model.config().items() if isinstance(value, (int, float, str, bool))}
    for cb in learn.cbs:
        if isinstance(plan := getattr(cb, "plan", None), dict):
            found |= {f"{cb.name}.{n}": v for n, v in plan.items() if isinstance(v, (int, float, str, bool))}
    return found | {name: value for name, value in learn.opt.hypers[-1].items() if isinstance(value, (int, float))}


class _TensorBoard:
    def __init__(self, track: Track):
        from torch.utils.tensorboard import SummaryWriter

        folder = Path("runs" if track.folder is None else track.folder) / track.run_name
        self.writer = SummaryWriter(log_dir=str(folder))

    def options(self, config: dict) -> None:
        rows = "\n".join(f"| {name} | {value} |" for name, value in config.items())
        self.writer.add_text("options", f"| option | value |\n|---|---|\n{rows}")

    def log(self, figures: dict, step: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _WandB:
    def __init__(self, track: Track):
        import wandb

        named = "".join(c if c.isalnum() or c in "-_." else "-" for c in track.run_name)
        folder = None if track.folder is None else str(track.folder)
        self.run = wandb.init(project=track.project, name=track.run_name, id=named, resume="allow", dir=folder)

    def options(self, config: dict) -> None:
        self.run.config.update(config, allow_val_change=True)

    def log(self, figures: dict, step: int) -> None:
        self.run.log(figures, step=step)

    def close(self) -> None:
        self.run.finish()


class _MLflow:
    def __init__(self, track: Track):
        import mlflow

        uri = None if track.folder is None else str(track.folder)
        self.client = mlflow.MlflowClient(tracking_uri=uri)
        experiment = self.client.get_experiment_by_name(track.project)
        where = self.client.create_experiment(track.project) if experiment is None else experiment.experiment_id
        alike = self.client.search_runs([where], f"attributes.run_name = '{track.run_name}'", max_results=1)
        self.id = (alike[0] if alike else self.client.create_run(where, run_name=track.run_name)).info.run_id
        self.known = dict(alike[0].data.params) if alike else {}

    def options(self, config: dict) -> None:
        for name, value in config.items():
            if self._name(name) not in self.known:  # a parameter cannot change
                self.client.log_param(self.id, self._name(name), value)

    def log(self, figures: dict, step: int) -> None:
        for name, value in figures.items():
            self.client.log_metric(self.id, self._name(name), value, step=step)

    def close(self) -> None:
        self.client.set_terminated(self.id)

    @staticmethod
    def _name(name: str) -> str:
        name = name.replace("@", "_at_")
        return "".join(c if c.isalnum() or c in "-_./ " else "_" for c in name)


class _Trackio:
    def __init__(self, track: Track):
        import trackio

        self.run = trackio.init(project=track.project, name=track.run_name, resume="allow", embed=False)
        self.end = trackio.finish

    def options(self, config: dict) -> None:
        self.run.config.update(config)

    def log(self, figures: dict, step: int) -> None:
        self.run.log(figures, step=step)

    def close(self) -> None:
        self.end()


_TRACKERS = {"tensorboard": _TensorBoard, "wandb": _WandB, "mlflow": _MLflow, "trackio": _Trackio}
