"""`GRURec`: a recurrent network over a history."""

import torch
from torch import Tensor, nn

from collabkit.data.checks import whole
from collabkit.models.sequence import SequenceModel

__all__ = ["GRURec"]


class GRURec(SequenceModel):
    """Predict the next item by a gated recurrent network over the history (Hidasi et al., "GRU4Rec", 2016).

    Args:
        n_items, n_factors, length, dropout, **kwargs: as in `SequenceModel`.
        n_layers: number of recurrent layers.

    Example:
        >>> import torch
        >>> from collabkit import GRURec
        >>> from collabkit.data.runs import Runs
        >>> model = GRURec(50, n_factors=8).eval()
        >>> model.encode(Runs.group([0, 0, 1], [3, 4, 5], 2)).shape
        torch.Size([2, 8])
    """

    def __init__(self, n_items: int, n_factors: int = 128, length: int = 100, dropout: float = 0.2, *,
                 n_layers: int = 1, **kwargs):  # fmt: skip
        super().__init__(n_items, n_factors, length, dropout, **kwargs)
        self.n_layers, n_factors = whole("n_layers", n_layers), self.n_factors
        self.gru = nn.GRU(n_factors, n_factors, self.n_layers, batch_first=True)
        self.out = nn.Linear(n_factors, n_factors)

    def _own_config(self) -> dict:
        return {"n_layers": self.n_layers}

    def states(self, rows: Tensor, lengths: Tensor) -> Tensor:
        return self.out(self.drop(self._read(rows)))

    def last_states(self, rows: Tensor, lengths: Tensor) -> Tensor:
        last = torch.arange(rows.shape[0], device=rows.device), lengths - 1
        return self.out(self.drop(self._read(rows)[last]))

    def _read(self, rows: Tensor) -> Tensor:
        return self.gru(rows, rows.new_zeros(self.n_layers, rows.shape[0], rows.shape[2]))[0]
