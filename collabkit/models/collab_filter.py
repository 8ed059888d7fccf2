"""`CollFilter`: dot product of a user's and an item's factors plus both biases."""

import torch
from torch import Tensor

from collabkit.data.checks import whole
from collabkit.models.base import DotModel
from collabkit.models.sides import table_sides

__all__ = ["CollFilter"]


class CollFilter(DotModel):
    """Matrix factorisation with biases: `y_range` of `u_weight[u] . i_weight[i] + u_bias[u] + i_bias[i]`.

    The biased model of Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems" (2009),
    section "Adding biases", squeezed into the rating scale by a sigmoid as in fastai. With features, the factors and
    the bias of a row are those of the id plus the sum of those of its features, as in LightFM (Kula 2015).

    Args:
        n_users, n_items: rows of the tables, the unknown row 0 included (`len(dls.classes['user'])`).
        n_factors: length d of the factor vectors.
        y_range: `(low, high)` of the ratings, a little wider than the scale, e.g. `(0, 5.5)`; None gives logits.
        init_std: standard deviation of the initial factors and biases.
        sparse: use sparse gradients for the tables, see `Model.set_sparse`; your own optimiser must support them
            (`train.optim.LazyAdamW`, `torch.optim.SparseAdam`).
        features: `(users, items)` side features, each a `Features` or None (`dls.features`).
        id_dropout: with features, see `Model.add_features`.

    Example:
        >>> model = CollFilter(n_users=4, n_items=6, n_factors=3, y_range=(0, 5.5))
        >>> users, items = torch.tensor([1, 2, 3]), torch.tensor([5, 1, 2])
        >>> model(users, items).shape, model(torch.stack([users, items], 1)).shape, model(users[:, None], items).shape
        (torch.Size([3]), torch.Size([3]), torch.Size([3, 3]))
    """

    def __init__(
        self, n_users: int, n_items: int, n_factors: int = 50, y_range: tuple[float, float] | None = None, *,
        init_std: float = 0.01, sparse: bool = False, features=None, id_dropout: float = 0.0,
    ):  # fmt: skip
        n_factors = whole("n_factors", n_factors)
        super().__init__(*table_sides(n_users, n_items, [n_factors, 1], std=init_std, sparse=sparse), y_range)
        self.n_factors, self.init_std = n_factors, init_std
        self.add_features(features, id_dropout, init_std)

    u_bias = property(lambda self: self.user_side.tables[1], doc="The users' biases, an embedding `(n_users, 1)`.")
    i_bias = property(lambda self: self.item_side.tables[1], doc="The items' biases, an embedding `(n_items, 1)`.")

    def config(self) -> dict:
        return {name: getattr(self, name) for name in ("n_factors", "y_range", "init_std", "sparse", "id_dropout")}

    def drop_user_bias(self, reset: bool = False) -> None:
        self.u_bias.weight.requires_grad_(False)
        if reset:
            self.u_bias.weight.zero_()

    @torch.no_grad()
    def factor_tables(self) -> tuple[Tensor, Tensor]:
        """The user and the item factors `(n, d)`, to be solved for in place; sets the biases to zero."""
        if self.y_range is not None:
            raise ValueError(f"factors are solved for in logits; make the model without y_range, got {self.y_range}")
        self.silence_features("factors are solved for")
        self.u_bias.weight.zero_()
        self.i_bias.weight.zero_()
        return self.u_weight.weight.data, self.i_weight.weight.data

    def bias(self, ids, is_item: bool = True) -> Tensor:
        """Biases `(n,)`, on the CPU and detached, of the items (or users) with external `ids` `(n,)`."""
        return self.rows_of(ids, "item" if is_item else "user")[1].squeeze(-1)

    def weight(self, ids, is_item: bool = True) -> Tensor:
        """Factors `(n, d)`, on the CPU and detached, of the items (or users) with external `ids` `(n,)`."""
        return self.rows_of(ids, "item" if is_item else "user")[0]
