"""`fit_on_ray`: runs a training function in the workers of Ray Train, and restarts it if one of them dies."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from collabkit.data.checks import whole, whole_within

__all__ = ["fit_on_ray"]

T = TypeVar("T")


def fit_on_ray(
    train: Callable[[Path], T], storage: str | Path, *, n_workers: int = 1, retries: int = 0, use_gpu: bool = False,
    timeout: int = 600, **scaling,
) -> T:  # fmt: skip
    """Run a training function in the workers of a Ray cluster, and return what the first worker's returns.

    The function is like a script under torchrun: all workers run all of it, and work together within
        `learn.distrib_ctx()`, with the result of one process. Ray starts them by `TorchTrainer`. If one dies or raises
        an error, all are restarted, `retries` times: a fit with `checkpoint=` and `resume=True` then continues from its
        last epoch. It can also evaluate: `learn.evaluate` within `distrib_ctx` ranks a share of the users on each
        worker.

    If `ray.init(...)` was not called, Ray joins the cluster at `RAY_ADDRESS`, or starts one on this machine.

    Args:
        train: a function of one argument, the path of `storage`. It reads its data itself, by absolute paths, e.g. by
            `CollabDataLoaders.from_parquet(..., stream=True, cache=...)` with a cache on the machine's own disk. Its
            result is pickled: return a path or a table, not a learner.
        storage: a folder that all machines see, for checkpoints and artefacts; created if needed. Ray writes its own
            files to `ray/` there.
        n_workers: how many.
        retries: maximum number of restarts; -1 for no limit.
        use_gpu: give each worker a GPU.
        timeout: seconds to wait for a worker that does not answer.
        **scaling: further options of `ray.train.ScalingConfig`, e.g. `resources_per_worker={'CPU': 4}`.

    Returns:
        What `train` returned in the first worker.

    Raises:
        ImportError: Ray is not installed: `pip install 'collabkit[ray]'`.
        TypeError: `train` does not take one argument.
        ValueError: `storage` is an address, not a folder; numbers out of range.
        ray.train.TrainingFailedError: a worker failed more than `retries` times; the message has its error.

    Example:
        >>> def train(folder):
        ...     columns = dict(user_name='user', item_name='title', rating_name='rating', seed=42)
        ...     dls = CollabDataLoaders.from_parquet('/data/ratings', stream=True, cache='/tmp/ratings', **columns)
        ...     learn = collab_learner(dls, use_nn=True, y_range=(0, 5.5))
        ...     with learn.distrib_ctx(), learn.no_bar():
        ...         learn.fit_one_cycle(5, 5e-3, checkpoint=folder / 'checkpoints', resume=True)
        ...         return learn.export(folder / 'artefact')
        >>> artefact = fit_on_ray(train, '/data/run-1', n_workers=4, retries=3)    # doctest: +SKIP
    """
    try:
        inspect.signature(train).bind(storage)
    except TypeError as error:
        raise TypeError(f"train must be a function of one argument, as def train(folder): is ({error})") from None
    n_workers, timeout = whole("n_workers", n_workers), whole("timeout", timeout)
    retries = whole_within("retries", retries, -1, 1_000_000)
    if "://" in str(storage):
        raise ValueError(f"storage must be a folder that all machines see, got the address {str(storage)!r}: mount it")
    try:
        from ray.train import FailureConfig, Result, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise ImportError(f"fit_on_ray needs Ray Train ({error}): pip install 'collabkit[ray]'") from error
    if not hasattr(Result, "return_value"):
        raise ImportError("fit_on_ray needs the second version of Ray Train: unset RAY_TRAIN_V2_ENABLED, or "
                          "pip install -U 'collabkit[ray]'")  # fmt: skip
    folder = Path(storage).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)

    def work() -> T:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"this machine has no folder {folder}: storage must be a folder that all machines see"
            )
        return train(folder)

    trainer = TorchTrainer(
        work,
        # Processes also exchange data in CPU memory, which NCCL alone cannot transfer.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo", timeout_s=timeout),
        scaling_config=ScalingConfig(num_workers=n_workers, use_gpu=use_gpu, **scaling),
        run_config=RunConfig(storage_path=str(folder / "ray"), failure_config=FailureConfig(max_failures=retries)),
    )
    return trainer.fit().return_value
