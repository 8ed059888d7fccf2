"""`FactorizationMachine`: pairwise interactions of all fields of a row: ids, side features and context."""

import torch
from torch import Tensor

from collabkit.data.checks import whole
from collabkit.data.query import Query
from collabkit.models.base import DotModel
from collabkit.models.sides import TableSide, table_sides

__all__ = ["FactorizationMachine"]


class FactorizationMachine(DotModel):
    """Second-order factorisation machine: `sum_a w_a + sum_(a < b) v_a . v_b` over the fields a, b of a row.

    Rendle, "Factorization machines" (2010). The fields are the user, the item, the side features of both (the mean, if
    there are several categories) and the context. `CollFilter` is this model without side features and context; with
    features it is LightFM's model (Kula 2015), in which only fields of different sides interact. Here fields of one
    side interact too: an age and a device, a genre and a year. All terms without the item are one number in the user's
    row, so that the score remains a dot product.

    Args:
        n_users, n_items, n_factors, y_range, init_std, features, id_dropout: as in `CollFilter`.

    Example:
        >>> model = FactorizationMachine(n_users=4, n_items=6, n_factors=3, y_range=(0, 5.5))
        >>> model(torch.tensor([1, 2, 3]), torch.tensor([5, 1, 2])).shape
        torch.Size([3])
    """

    def __init__(
        self, n_users: int, n_items: int, n_factors: int = 50, y_range: tuple[float, float] | None = None, *,
        init_std: float = 0.01, features=None, id_dropout: float = 0.0,
    ):  # fmt: skip
        n_factors = whole("n_factors", n_factors)
        super().__init__(*table_sides(n_users, n_items, [n_factors, 1], std=init_std), y_range)
        self.n_factors, self.init_std = n_factors, init_std
        self.add_features(features, id_dropout, init_std)

    def config(self) -> dict:
        return {name: getattr(self, name) for name in ("n_factors", "y_range", "init_std", "id_dropout")}

    def user_rows(self, query: Tensor | Query) -> tuple[Tensor, Tensor]:
        """`(..., d)` sums of the vectors of the user's fields and the moment's, and numbers `(..., 1)`."""
        moment = [] if self.context is None else self.context.field_parts(query)
        return self._met(self._fields(self.user_side, query) + moment)

    def item_rows(self, idx: Tensor) -> tuple[Tensor, Tensor]:
        """`(..., d)` sums of the vectors of the item's fields, and numbers `(..., 1)`."""
        return self._met(self._fields(self.item_side, idx))

    def _fields(self, side: TableSide, query) -> list[Tensor]:
        """The output of each field of a side, `(..., d + 1)`: a vector and a number."""
        idx, own = side.own(query)
        return [torch.cat(own, dim=-1), *([] if side.features is None else side.features.field_parts(idx))]

    def _met(self, fields: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The sum of the fields' vectors, and that of their numbers and of the products of every two of the vectors."""
        vector, number = sum(fields[1:], fields[0]).split([self.n_factors, 1], dim=-1)
        if len(fields) > 1:  # sum_(a < b) v_a . v_b = (|sum_a v_a|^2 - sum_a |v_a|^2) / 2, Rendle's lemma 3.1
            alone = sum(part[..., :-1].square().sum(-1, keepdim=True) for part in fields)
            number = number + (vector.square().sum(-1, keepdim=True) - alone) / 2
        return vector, number
