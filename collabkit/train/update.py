"""`update`: adds events since training to a learner, and trains the rows of new items for some epochs."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import pandas as pd
import torch
from torch import Tensor

from collabkit.data.notices import say
from collabkit.models.base import Model, evaluating
from collabkit.train.loader import Loader

__all__ = ["update", "train_rows"]

STEPS = 100  # of a warm training


def update(learn, events: pd.DataFrame, users=None, items=None, *, lr: float = 1e-2) -> None:
    """Add new events to a learner's model and data; see `CollabLearner.update`."""
    recommender, dls = learn.recommender, learn.dls
    dls.check_of()
    done = recommender._update(events, users, items)
    model, data = learn.model, done.data
    if data is dls.data:
        return
    dls = dls.of(data).asking(model.needs)
    recommender.data = learn._given = dls.data  # its rows may be in another order
    learn.dls, learn.opt = dls, None
    have = done.users[:0]
    if len(done.untrained):
        rows = {"item": done.untrained}
        if "history" in model.needs and model.user_side.can_write:
            rows["user"] = done.users
        train_rows(learn, rows, lr=lr)
        if "history" not in model.needs:  # users who have the new items are solved for with them
            train = learn.dls.data.train
            have = train.user_idx[torch.isin(train.item_idx, done.untrained)].unique()
    recommender._resolve(have)


def train_rows(learn, rows: dict[str, Tensor], *, lr: float = 1e-2, n_steps: int = STEPS) -> None:
    """Train some rows of the tables with the learner's loss and batches; all other weights stay the same, bit by bit.

    The batches are drawn from all training rows, so that the ratio of positives and negatives is that of training:
        whole passes with about `n_steps` batches in all, or `n_steps` batches of one longer pass. The optimiser is
        Adam, and its rate falls linearly to zero.

    Args:
        learn: its model changes.
        rows: by side the indices `(m,)`.
        lr: the initial rate.
    """
    model, loader = learn.model, learn.dls.train
    model_rows = [(table.weight, rows[side.name]) for side in model.sides if side.name in rows for table in side.tables]
    n_passes = max(1, round(n_steps / max(1, len(loader))))
    total = n_passes * len(loader) if len(loader) < n_steps else n_steps
    own = [p[at.to(p.device)].detach().clone() for p, at in model_rows]
    optimiser = torch.optim.Adam(own, lr=lr)
    loader = loader.new()
    with (
        _own_gradients(model, [p for p, _ in model_rows]),
        evaluating(model),
        torch.enable_grad(),
        learn.recipe.paused(),
    ):
        for step, batch in enumerate(islice(_batches(loader, n_passes), total)):
            n_inp = loader.n_inp
            loss = learn.loss_func(model(*batch[:n_inp]), *batch[n_inp:])
            gradients = torch.autograd.grad(loss, [p for p, _ in model_rows], allow_unused=True)
            for (table, at), mine, gradient in zip(model_rows, own, gradients, strict=True):
                mine.grad = None if gradient is None else _rows_of(gradient, at.to(table.device))
            for group in optimiser.param_groups:
                group["lr"] = lr * (1 - step / total)
            optimiser.step()
            with torch.no_grad():
                for (table, at), mine in zip(model_rows, own, strict=True):
                    table[at.to(table.device)] = mine
    if not all(bool(mine.isfinite().all()) for mine in own):
        say("the rows of new items became NaN or infinite in their training; call update with a lower lr")


def _rows_of(gradient: Tensor, at: Tensor) -> Tensor:
    return gradient.coalesce().to_dense()[at] if gradient.is_sparse else gradient[at]


def _batches(loader: Loader, n_passes: int) -> Iterator[tuple]:
    for _ in range(n_passes):
        yield from loader


@contextmanager
def _own_gradients(model: Model, tables: list) -> Iterator[None]:
    """Context in which only these tables have gradients."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in before:
            p.requires_grad_(any(p is table for table in tables))
        yield
    finally:
        for p, wanted in before:
            p.requires_grad_(wanted)
