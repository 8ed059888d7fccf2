"""`AveragedHistory`: averages of a history with learned decay rates."""

import torch
from torch import Tensor, nn

from collabkit.data.checks import whole
from collabkit.models.sequence import SequenceModel

__all__ = ["AveragedHistory"]


class AveragedHistory(SequenceModel):
    """Predict the next item from decayed averages of the history's rows, mixed by a linear map.

    `state_t = sum_k M_k (sum_s a_k^(t - s) row_s / sum_s a_k^(t - s))` with learned decays a_k: the averaged watches of
    Covington et al., "Deep neural networks for YouTube recommendations" (2016), with order. It is the cheapest of the
    networks. It starts as the mean of its averages.

    Args:
        n_items, n_factors, length, dropout, **kwargs: as in `SequenceModel`.
        n_decays: number of averages; their decays start evenly spaced between .1 and .9.

    Example:
        >>> import torch
        >>> from collabkit import AveragedHistory
        >>> from collabkit.data.runs import Runs
        >>> model = AveragedHistory(50, n_factors=8).eval()
        >>> model.encode(Runs.group([0, 0, 1], [3, 4, 5], 2)).shape
        torch.Size([2, 8])
    """

    def __init__(self, n_items: int, n_factors: int = 64, length: int = 100, dropout: float = 0.2, *,
                 n_decays: int = 3, **kwargs):  # fmt: skip
        super().__init__(n_items, n_factors, length, dropout, **kwargs)
        self.n_decays = whole("n_decays", n_decays)
        self.decay_logits = nn.Parameter(torch.logit(torch.linspace(0.1, 0.9, n_decays)))
        self.mix = nn.Linear(n_decays * n_factors, n_factors, bias=False)
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(n_factors).repeat(1, n_decays) / n_decays)

    def _own_config(self) -> dict:
        return {"n_decays": self.n_decays}

    @property
    def decays(self) -> Tensor:
        """The current decays `(n_decays,)`."""
        return torch.sigmoid(self.decay_logits)

    def states(self, rows: Tensor, lengths: Tensor) -> Tensor:
        place = torch.arange(rows.shape[1], device=rows.device)
        age = (place[:, None] - place).clamp(min=0)
        weight = self.decays[:, None, None] ** age * (place[:, None] >= place)  # (n_decays, longest, longest)
        averages = torch.einsum("kts,bsd->btkd", weight / weight.sum(2, keepdim=True), rows)
        return self.mix(self.drop(averages.flatten(2)))

    def last_states(self, rows: Tensor, lengths: Tensor) -> Tensor:
        age = lengths[:, None] - 1 - torch.arange(rows.shape[1], device=rows.device)  # (b, longest)
        weight = self.decays[:, None, None] ** age.clamp(min=0) * (age >= 0)  # (n_decays, b, longest)
        averages = torch.einsum("kbs,bsd->bkd", weight / weight.sum(2, keepdim=True), rows)
        return self.mix(self.drop(averages.flatten(1)))
