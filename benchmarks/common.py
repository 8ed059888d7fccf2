"""What the benchmarks share: data, quiet fits, interleaved timing, and the table of results."""

from __future__ import annotations

import datetime
import gc
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from collabkit import CollabDataLoaders, collab_learner, datasets
from collabkit.train.recipes import Recipe

RESULTS = Path(__file__).parent / "results"
NAMES = {"user_name": "user", "item_name": "item", "rating_name": "rating"}
Y_RANGE = (0, 5.5)

warnings.filterwarnings("ignore", category=UserWarning)


def data_folder() -> Path:
    """The folder with ml-100k and ml-1m: `$COLLABKIT_DATA`, else `shared/data` beside the repository."""
    folder = Path(os.environ.get("COLLABKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        raise SystemExit(f"no data in {folder}: set COLLABKIT_DATA to a folder with ml-100k and ml-1m")
    return folder


def ratings(name: str) -> pd.DataFrame:
    """The ratings of a MovieLens edition."""
    return datasets.movielens(name, data_folder()).ratings


@lru_cache
def ncf_parts() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """ML-1M in the NCF protocol: training events, each user's test item, the 99 given negatives; `user, item` each."""
    folder, names = data_folder() / "ml-1m-ncf", ["user", "item"]
    train, test = (
        pd.read_csv(folder / f"ml-1m.{part}.rating", sep="\t", header=None, usecols=[0, 1], names=names)
        for part in ("train", "test")
    )
    given = pd.read_csv(folder / "ml-1m.test.negative", sep="\t", header=None)
    users = given[0].str.extract(r"\((\d+),")[0].astype(int)
    negatives = given.drop(columns=0).set_axis(users, axis=0).stack().rename_axis(["user", "place"]).rename("item")
    return train, test, negatives.reset_index()[names]


def ncf_times() -> np.ndarray:
    """Times of the training events of `ncf_parts`, 0 where unknown."""
    file = data_folder() / "ml-1m-ncf" / "ml-1m.train.rating"
    return pd.read_csv(file, sep="\t", header=None, usecols=[3])[3].to_numpy()


def fit(dls: CollabDataLoaders, recipe: Recipe, *, seed: int | None = None):
    """A learner trained by `recipe` without progress output."""
    gc.collect()  # a learner is a cycle of references: free the last one before the next
    learn = collab_learner(dls, n_factors=recipe.n_factors, y_range=Y_RANGE, seed=seed)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(recipe.n_epoch, recipe.lr, wd=recipe.wd)
    return learn


def valid_rmse(learn) -> float:
    """RMSE on the validation part."""
    return learn.evaluate(n_boot=1).loc["RMSE", "value"]


def timed(function: Callable, clock: Callable[[], float] = time.perf_counter) -> tuple[float, object]:
    """Seconds a call took, and its result; `time.process_time` counts those of the processor."""
    start = clock()
    result = function()
    return clock() - start, result


def interleaved(functions: dict[str, Callable], repeats: int) -> dict[str, list[tuple[float, object]]]:
    """Run each function in turn, `repeats` times over, so that a slow spell of the machine hits all alike."""
    runs: dict[str, list] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            gc.collect()  # learners are cycles: the last one's memory must not be freed on this one's time
            runs[name].append(timed(function))
    return runs


def median_seconds(runs: list[tuple[float, object]]) -> float:
    """The median of the seconds of `timed` calls."""
    return statistics.median(seconds for seconds, _ in runs)


def write(name: str, rows: list[dict]) -> pd.DataFrame:
    """Save rows as `results/<name>.csv`, print them, and return them."""
    table = pd.DataFrame(rows)
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / f"{name}.csv", index=False)
    print(f"\n{name}\n{table.to_string(index=False)}", flush=True)
    return table


def environment() -> dict[str, str]:
    """Versions and machine, to be printed with the figures."""
    import fastai

    import collabkit

    return {
        "date": datetime.date.today().isoformat(),
        "collabkit": collabkit.__version__,
        "torch": torch.__version__,
        "fastai": fastai.__version__,
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
    }
