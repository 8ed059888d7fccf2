"""A training step never waits for the device: no number is read, and no shape depends on values.

On the meta device both are errors, whatever the machine has. Steps that sort ids (sparse tables, negatives that a batch
shares) have shapes that depend on values by their nature, and are left out.
"""

import copy

import pytest
import several
import torch

from collabkit import NCF, NeuMF, TwoTower, collab_learner
from collabkit.models import GMF, CollFilter, EmbeddingNN
from collabkit.train.batches import on_device
from collabkit.train.callbacks import LeanProgress
from collabkit.train.optim import LazyAdamW

EVENTS = {"loss": ["bce", "bpr", "hinge", "softmax"], "model": [CollFilter, NCF, GMF, NeuMF, TwoTower]}


def step(learn, device="meta"):
    """Forward, loss and backward of a batch on a device."""
    batch = on_device(learn.dls.train.one_batch(), device)
    model = copy.deepcopy(learn.model).to(device).train()
    n_inp = learn.dls.train.n_inp
    loss = learn.loss_func(model(*batch[:n_inp]), *batch[n_inp:])
    loss.backward()
    optimiser = LazyAdamW(model.parameters(), lr=1e-3, fused=False)
    optimiser.step()
    return loss


@pytest.mark.parametrize("loss", EVENTS["loss"])
@pytest.mark.parametrize("model", EVENTS["model"])
@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
def test_a_step_of_events_reads_nothing(model, loss, negatives):
    dls = several.loaders(negatives=negatives, n_neg=2)
    assert step(collab_learner(dls, model=model, loss_func=loss, start="random")).device.type == "meta"


@pytest.mark.parametrize("model", [CollFilter, EmbeddingNN])
@pytest.mark.parametrize("weights", [None, "inverse_item"])
def test_a_step_of_ratings_reads_nothing(model, weights):
    dls = several.loaders("explicit", weights=weights)
    assert step(collab_learner(dls, use_nn=model is EmbeddingNN, y_range=(0, 5.5))).device.type == "meta"


def test_the_bar_reads_the_loss_some_times_a_second(monkeypatch):
    learn = collab_learner(several.loaders("explicit", bs=2), n_factors=4, y_range=(0, 5.5))
    assert isinstance(learn.progress, LeanProgress)
    read, item = [], torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: read.append(tensor) or item(tensor))
    monkeypatch.setattr(LeanProgress, "every", 1e9)
    with learn.no_logging():
        learn.fit(1)
    in_training = len(read) - len(learn.dls.valid)
    monkeypatch.setattr(LeanProgress, "every", -1.0)
    read.clear()
    with learn.no_logging():
        learn.fit(1)
    assert len(learn.dls.train) > 200 and in_training < 20 and len(read) > len(learn.dls.train)
