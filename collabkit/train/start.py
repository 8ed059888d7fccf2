"""Where training by gradient begins: at random rows, or at rows that least squares has solved for."""

import math

import torch
from fastai.callback.core import Callback

from collabkit.data.dataset import Dataset
from collabkit.data.notices import say
from collabkit.models.base import Model
from collabkit.train.als import ALSSolver
from collabkit.train.als_defaults import als_rule
from collabkit.train.callbacks import AlternatingLeastSquares

__all__ = ["START", "StartSolved", "solved_start"]

START = ("als", "random")
SWEEPS = 5
SHARP = 10.0  # logits a unit of least squares, whose scores are about 1 for what was met and 0 for the rest


@torch.no_grad()
def solved_start(model: Model, data: Dataset, seed: int) -> str:
    """Give an untrained dot-product model the rows that a few sweeps of least squares solve for; what was done.

    The settings are those of `als_defaults.als_rule`. The scores are multiplied, as a softmax has the better part of
    its mass on items whose logits lie some units above the others'. Biases are zero.

    Raises:
        TypeError: the model's score is not the dot product of two tables.
    """
    tables = model.factor_tables()
    reg, weight = als_rule(data.train)
    options = {"reg": reg, "unobserved_weight": weight, "disliked": data.disliked, "device": tables[0].device}
    solver = ALSSolver(data.train, **options)
    solved = solver.init_tables(tables[0].shape[1], seed=seed)
    for _ in range(SWEEPS):
        solver.solve_users(*solved)
        solver.solve_items(*solved)
    for table, rows in zip(tables, solved, strict=True):
        table.copy_(rows * math.sqrt(SHARP))
    return f"{SWEEPS} sweeps of least squares (reg={reg:.3g}, unobserved_weight={weight:.3g})"


class StartSolved(Callback):
    """Before the first fit by gradient: `solved_start`. A model that was trained, and `fit_als`, stay as they are."""

    order = -60  # before the others look at the weights

    def before_fit(self):
        """Solve, and say so."""
        if not (self.learn.model.trained or any(isinstance(cb, AlternatingLeastSquares) for cb in self.learn.cbs)):
            done = solved_start(self.learn.model, self.learn.dls.data, self.learn.seed)
            say(f"the training begins at {done}; collab_learner(start='random') begins at random rows")
