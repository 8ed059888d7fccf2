"""A contributed model whose users are what they met last: the mean of the vectors of their latest items."""

import torch
from contract import ModelContract
from torch import Tensor

from collabkit.data.runs import Runs
from collabkit.models import DotModel, HistorySide, TableSide


class LastItems(DotModel):
    """A user's vector is the mean of those of the last `n_last` items; there is no table of users.

    Args:
        n_items: rows of the item table.
        n_factors: length of the vectors.
        n_last: how many of the latest items count.
    """

    needs = ("history",)

    def __init__(self, n_users: int, n_items: int, n_factors: int = 16, *, n_last: int = 5):
        super().__init__(HistorySide(n_factors, self.encode), TableSide("item", n_items, [n_factors, 1], std=0.1))
        self.n_factors, self.n_last = n_factors, n_last

    def encode(self, history: Runs) -> Tensor:
        """Mean vectors `(b, d)` of histories; zero of an empty one."""
        last = history.last(self.n_last)
        vectors = self.item_rows(last.values)[0]
        sums = vectors.new_zeros(len(last), self.n_factors).index_add(0, last.rows, vectors)
        return sums / last.lengths.clamp(min=1)[:, None]

    def config(self) -> dict:
        return {"n_factors": self.n_factors, "n_last": self.n_last}


class TestLastItems(ModelContract):
    model, options = LastItems, {"n_factors": 16, "loss_func": "softmax"}
    data = {"n_neg": 16}


def test_the_order_of_a_history_counts():
    model = LastItems(4, 8, n_last=2)
    histories = Runs.group([0, 0, 0, 1, 1, 1], [1, 2, 3, 3, 2, 1], 2, width=8)
    rows = model.encode(histories)
    table = model.i_weight.weight
    assert torch.allclose(rows, torch.stack([table[2:4].mean(0), table[1:3].mean(0)]))
