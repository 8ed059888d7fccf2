"""Training speed on ML-100k, interleaved: collabkit, fastai.collab, and a plain torch loop as the limit."""

from __future__ import annotations

import math
import statistics

import fastai.collab
import torch
import torch.nn.functional as F

from collabkit import CollabDataLoaders, collab_learner
from collabkit.train.recipes import FAST_100K, QUALITY_100K, Recipe

from .common import NAMES, Y_RANGE, interleaved, median_seconds, ratings, write

COURSE = Recipe(n_factors=50, bs=64, n_epoch=5, lr=5e-3, wd=0.1)  # fastai's course chapter
SEED = 42
REPEATS = 3


def training() -> None:
    """Seconds and best valid MSE of the same fit in the three libraries, on one thread and two."""
    frame = ratings("100k")[["user", "item", "rating"]]
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        _fit_collabkit(frame, COURSE)  # the first fit of a process costs a second more
        for bs in (64, 1024):
            recipe = Recipe(COURSE.n_factors, bs, COURSE.n_epoch, COURSE.lr, COURSE.wd)
            functions = {
                "collabkit": lambda r=recipe: _fit_collabkit(frame, r),
                "torch": lambda r=recipe: _plain(frame, r),
            }
            if bs == 64:
                functions["fastai"] = lambda r=recipe: _fit_fastai(frame, r)
            runs = interleaved(functions, REPEATS)
            ours = median_seconds(runs["collabkit"])
            for name, done in runs.items():
                rows.append(
                    {
                        "threads": threads,
                        "bs": bs,
                        "library": name,
                        "fit_seconds": round(median_seconds(done), 3),
                        "times_collabkit": round(median_seconds(done) / ours, 2),
                        "best_valid_mse": round(statistics.median(min(losses) for _, losses in done), 4),
                    }
                )
    write("speed_training", rows)


def time_to_quality() -> None:
    """Seconds until a recipe reaches the best valid MSE of fastai's course fit on the same split."""
    frame = ratings("100k")[["user", "item", "rating"]]
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        _fit_collabkit(frame, FAST_100K)
        functions = {
            "fastai, course": lambda: _fit_fastai(frame, COURSE),
            "collabkit, fast recipe": lambda: _fit_collabkit(frame, FAST_100K),
            "collabkit, quality recipe": lambda: _fit_collabkit(frame, QUALITY_100K),
        }
        runs = interleaved(functions, REPEATS)
        target = statistics.median(min(losses) for _, losses in runs["fastai, course"])
        reached = {name: statistics.median(_until(run, target) for run in done) for name, done in runs.items()}
        for name, done in runs.items():
            rows.append(
                {
                    "threads": threads,
                    "recipe": name,
                    "target_mse": round(target, 4),
                    "seconds_to_target": round(reached[name], 3),
                    "times_sooner_than_fastai": round(reached["fastai, course"] / reached[name], 1),
                    "best_valid_mse": round(statistics.median(min(losses) for _, losses in done), 4),
                }
            )
    write("speed_time_to_quality", rows)


def _until(run, target: float) -> float:
    """Seconds to the end of the first epoch at or below the target, epochs counted as equally long."""
    seconds, losses = run
    epoch = next((i for i, loss in enumerate(losses, 1) if loss <= target), len(losses))
    return seconds * epoch / len(losses)


def _fit_collabkit(frame, recipe: Recipe) -> list[float]:
    dls = CollabDataLoaders.from_df(frame, seed=SEED, bs=recipe.bs, **NAMES)
    learn = collab_learner(dls, n_factors=recipe.n_factors, y_range=Y_RANGE)
    return _valid_losses(learn, recipe)


def _fit_fastai(frame, recipe: Recipe) -> list[float]:
    dls = fastai.collab.CollabDataLoaders.from_df(frame, seed=SEED, bs=recipe.bs, **NAMES)
    learn = fastai.collab.collab_learner(dls, n_factors=recipe.n_factors, y_range=Y_RANGE)
    return _valid_losses(learn, recipe)


def _valid_losses(learn, recipe: Recipe) -> list[float]:
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(recipe.n_epoch, recipe.lr, wd=recipe.wd)
    return [values[1] for values in learn.recorder.values]


def _plain(frame, recipe: Recipe) -> list[float]:
    """The same model, tensors, schedule and fused AdamW in a bare loop: what any training loop must at least cost."""
    dls = CollabDataLoaders.from_df(frame, seed=SEED, bs=recipe.bs, **NAMES)
    model = collab_learner(dls, n_factors=recipe.n_factors, y_range=Y_RANGE).model
    (x, y), (vx, vy) = ((loader._x, loader._y[:, 0]) for loader in (dls.train, dls.valid))
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.95, 0.99), eps=1e-5, weight_decay=recipe.wd, fused=True
    )
    group, losses, step = optimiser.param_groups[0], [], 0
    n_steps = recipe.n_epoch * math.ceil(len(x) / recipe.bs)
    for _ in range(recipe.n_epoch):
        order = torch.randperm(len(x))
        for xb, yb in zip(x[order].split(recipe.bs), y[order].split(recipe.bs), strict=True):
            group["lr"], mom = _one_cycle(step / n_steps, recipe.lr)
            group["betas"] = (mom, 0.99)
            step += 1
            F.mse_loss(model(xb), yb).backward()
            optimiser.step()
            optimiser.zero_grad()
        with torch.no_grad():
            losses.append(F.mse_loss(model(vx), vy).item())
    return losses


def _one_cycle(pos: float, lr: float) -> tuple[float, float]:
    up, down = (1 - math.cos(math.pi * pos / 0.25)) / 2, (1 + math.cos(math.pi * (pos - 0.25) / 0.75)) / 2
    return (lr * (0.04 + 0.96 * up), 0.95 - 0.1 * up) if pos < 0.25 else (lr * down, 0.95 - 0.1 * down)
