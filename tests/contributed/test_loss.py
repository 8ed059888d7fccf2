"""A contributed loss: a function of the scores of positives and negatives."""

import torch
import torch.nn.functional as F
from contract import ModelContract
from torch import Tensor

from collabkit import CollFilter


def softplus_margin(pos: Tensor, neg: Tensor) -> Tensor:
    """A smooth hinge: `softplus(margin - pos + neg)`, averaged over `(bs, n)` pairs; -inf is no negative."""
    return F.softplus(1.0 - pos[:, None] + neg).mean()


class TestSoftplusMargin(ModelContract):
    model, options = CollFilter, {"n_factors": 8, "loss_func": softplus_margin}


def test_a_masked_negative_adds_nothing():
    pos, neg = torch.tensor([0.5]), torch.tensor([[0.0, -torch.inf]])
    assert torch.isclose(softplus_margin(pos, neg), F.softplus(torch.tensor(0.5)) / 2)
