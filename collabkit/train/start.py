"""Where training by gradient begins: at random rows, or at rows that least squares has solved for."""

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
SHARP = 10.0  # logits a unit of least squares, whose scores are about 1 for what was met and 0 for the rest


@torch.no_grad()
def solved_start(model: Model, data: Dataset, seed: int) -> str:
    """Give an untrained dot-product model the rows that `fit_als()` would; what was done, in words.

    The settings are those of `als_defaults.pick_als`. The scores are multiplied, as a softmax has the better part of
    its mass on items whose logits lie some units above the others'. Biases are zero.

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
    """Before the first fit by gradient: `solved_start`. A model that was trained, and `fit_als`, stay as they are."""

    order = -60  # before the others look at the weights

    def before_fit(self):
        """Solve, and say so."""
        if not (self.learn.model.trained or any(isinstance(cb, AlternatingLeastSquares) for cb in self.learn.cbs)):
            done = solved_start(self.learn.model, self.learn.dls.data, self.learn.seed)
            say(f"the training begins at {done}; collab_learner(start='random') begins at random rows")
