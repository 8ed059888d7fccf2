"""`SolveBiases`: the biases of users and items in closed form, instead of an epoch of a `CollFilter`."""

import torch
from fastai.callback.core import Callback, CancelTrainException

from collabkit.evaluate.references import UserItemBias
from collabkit.models import CollFilter

__all__ = ["SolveBiases"]


class SolveBiases(Callback):
    """Set a rating model's biases to those of `references.UserItemBias`, and its factors to zero.

    The baseline for every model of tastes: strict users, and items that everybody likes. Use `learn.fit(1,
        cbs=SolveBiases())` on a `CollFilter` without `y_range` and side features.

    Raises:
        TypeError, ValueError: in `fit`, another model, or no ratings.
    """

    order = 1000

    def before_fit(self):
        """Check the model and the data."""
        model, data = self.learn.model, self.learn.dls.data
        if type(model) is not CollFilter or model.y_range is not None or model.features:
            raise TypeError("SolveBiases is for a CollFilter without y_range and side features, got "
                            f"{type(model).__name__}")  # fmt: skip
        if not data.rated:
            raise ValueError("SolveBiases is for ratings, and these events have none")

    @torch.no_grad()
    def before_train(self):
        """Solve; the loss that is shown is the mean squared error of the training ratings."""
        model, train = self.learn.model, self.learn.dls.data.train
        found = UserItemBias(train)
        for side in model.sides:
            side.tables[0].weight.zero_()
        model.u_bias.weight.copy_(found.user[:, None])
        model.i_bias.weight.copy_((found.item + found.mean)[:, None])
        shown = self.learn.recorder.smooth_loss
        off = found.predict(train.user_idx, train.item_idx) - train.rating
        shown.val, shown.count = off.square().mean().float(), 2**31
        raise CancelTrainException

    def after_cancel_train(self):
        """The epoch was not cancelled: there is a loss to record."""
        self.learn.recorder.cancel_train = False
