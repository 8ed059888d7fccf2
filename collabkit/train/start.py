"""The starting point of gradient training: random rows, or rows that least squares has solved for."""

import math

import torch
from fastai.callback.core import Callback

from collabkit.data.dataset import Dataset
from collabkit.data.notices import say
from collabkit.models.base import Model
from collabkit.train.als import ALSSolver
from collabkit.train.als_defaults import pick_als
from collabkit.train.callbacks import AlternatingLeastSquares

__all__ = ["START", "StartSolved", "solved_start"]

START = ("als", "random")
SWEEPS = 12  # the default of `fit_als`
SHARP = 10.0  # logits per unit of least squares, whose scores are about 1 for observed items and 0 for others


@torch.no_grad()
def solved_start(model: Model, data: Dataset, seed: int) -> str:
    """Give an untrained dot-product model the rows of `fit_als()`; returns a description.

    The settings are those of `als_defaults.pick_als`. The scores are multiplied, because a softmax puts most of its
    mass on items whose logits are some units above the others. Biases are zero.

    Raises:
        TypeError: the model's score is not the dot product of two tables.
    """
    tables = model.factor_tables()
    fixed = {"disliked": data.disliked, "device": tables[0].device}
    d = tables[0].shape[1]
    picked = pick_als(data.train, d, SWEEPS, seed=seed, **fixed)
    solver = ALSSolver(data.train, reg=picked.reg, unobserved_weight=picked.unobserved_weight, **fixed)
    solved = solver.init_tables(d, seed=seed)
    for _ in range(SWEEPS):
        solver.solve_users(*solved)
        solver.solve_items(*solved)
    for table, rows in zip(tables, solved, strict=True):
        table.copy_(rows * math.sqrt(SHARP))
    values = f"reg={picked.reg:.3g}, unobserved_weight={picked.unobserved_weight:.3g}"
    return f"{SWEEPS} sweeps of least squares ({values})"


class StartSolved(Callback):
    """Calls `solved_start` before the first gradient fit; no effect on a trained model, or with `fit_als`."""

    order = -60  # before other callbacks use the weights

    def before_fit(self):
        """Solve, and report it."""
        if not (self.learn.model.trained or any(isinstance(cb, AlternatingLeastSquares) for cb in self.learn.cbs)):
            done = solved_start(self.learn.model, self.learn.dls.data, self.learn.seed)
            say(f"the training begins at {done}; collab_learner(start='random') begins at random rows")
