"""`FlatLoss`: predictions and targets are flattened, whatever their shapes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from collabkit.losses import FlatLoss

PRED, TARGET = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([2.0, 4.0, 1.0])  # squared errors 1, 4, 16; absolute 1, 2, 4
FORMS = [(PRED, TARGET), (PRED, TARGET[:, None]), (PRED[:, None], TARGET), (PRED[:, None], TARGET[:, None])]


@pytest.mark.parametrize(("pred", "target"), FORMS, ids=lambda t: str(tuple(t.shape)))
def test_no_shape_broadcasts(pred, target):
    assert FlatLoss(nn.MSELoss())(pred, target).item() == 7.0
    assert FlatLoss(nn.L1Loss(reduction="sum"))(pred, target).item() == 7.0
    assert FlatLoss(F.mse_loss)(pred, target).item() == 7.0


def test_gradient_is_that_of_the_flat_loss():
    pred = PRED.clone().requires_grad_()
    FlatLoss(nn.MSELoss())(pred, TARGET[:, None]).backward()
    assert torch.allclose(pred.grad, 2 * (PRED - TARGET) / 3)


@pytest.mark.parametrize("loss", [nn.MSELoss(), F.mse_loss], ids=["module", "function"])
def test_reduction_can_be_switched_and_back(loss):
    flat = FlatLoss(loss)
    assert flat.reduction == "mean"
    flat.reduction = "none"
    assert flat.reduction == "none"
    assert flat(PRED, TARGET[:, None]).tolist() == [1.0, 4.0, 16.0]
    flat.reduction = "mean"
    assert flat(PRED, TARGET).item() == 7.0
    assert not hasattr(F.mse_loss, "reduction")  # nothing of torch was written to


def test_a_function_without_a_reduction_argument_works():
    flat = FlatLoss(lambda pred, target: (pred - target).abs().max())
    assert flat(PRED, TARGET[:, None]).item() == 4.0


def test_different_numbers_are_refused():
    with pytest.raises(ValueError, match=r"predictions \(3,\) and targets \(2,\) differ"):
        FlatLoss(nn.MSELoss())(PRED, TARGET[:2])
    with pytest.raises(ValueError, match="differ in number"):
        FlatLoss(nn.MSELoss())(PRED[:1], TARGET)  # would broadcast


def test_activation_and_decodes_change_nothing():
    flat = FlatLoss(nn.MSELoss())
    assert flat.activation(PRED) is PRED and flat.decodes(PRED) is PRED
    assert repr(flat) == "FlatLoss(MSELoss())"


def test_to_moves_a_module_and_leaves_a_function():
    weighted = nn.BCEWithLogitsLoss(pos_weight=torch.ones(1))
    assert FlatLoss(weighted).to("meta").func.pos_weight.device.type == "meta"
    flat = FlatLoss(F.mse_loss)
    assert flat.to("meta") is flat
