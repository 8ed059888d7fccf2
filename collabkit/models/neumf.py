"""`GMF` and `NeuMF`: generalised and neural matrix factorisation (He et al. 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from collabkit.data.checks import share_or_all, whole, widths
from collabkit.models.base import Model
from collabkit.models.mlp import NCF, hidden_layers, pair_layer
from collabkit.models.sides import table_sides

__all__ = ["GMF", "NeuMF"]


class GMF(Model):
    """Generalised matrix factorisation: a weighted dot product, `sum_k h_k p_uk q_ik + bias`.

    He et al., "Neural collaborative filtering" (2017), section 3.2.

    Args:
        n_users, n_items: rows of the tables, the unknown row 0 included.
        n_factors: length d of the embeddings.
        init_std: standard deviation of the initial embeddings; the weights h start at 1, an ordinary dot product.
        features, id_dropout: as in `CollFilter`.

    Example:
        >>> GMF(4, 6, n_factors=8)(torch.tensor([1, 2]), torch.tensor([5, 1])).shape
        torch.Size([2])
    """

    def __init__(
        self, n_users: int, n_items: int, n_factors: int = 50, *, init_std: float = 0.1, features=None,
        id_dropout: float = 0.0,
    ):  # fmt: skip
        n_factors = whole("n_factors", n_factors)
        super().__init__(*table_sides(n_users, n_items, [n_factors], std=init_std))
        self.n_factors, self.init_std = n_factors, init_std
        self.out = nn.Linear(n_factors, 1)
        nn.init.ones_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.add_features(features, id_dropout, init_std)

    def interact(self, user_rows, item_rows) -> Tensor:
        (p,), (q,) = user_rows, item_rows
        return self.out(p * q).squeeze(-1)  # (...)

    def user_vectors(self, idx: Tensor) -> Tensor:
        """`(n, d + 1)` vectors `[h * p_u, bias]`; their dot products with `item_vectors` are the logits."""
        (p,) = self.user_rows(idx)
        return torch.cat([p * self.out.weight[0], self.out.bias.expand(*p.shape[:-1], 1)], dim=-1)

    def item_vectors(self, idx: Tensor) -> Tensor:
        """`(n, d + 1)` vectors `[q_i, 1]`."""
        (q,) = self.item_rows(idx)
        return torch.cat([q, q.new_ones(*q.shape[:-1], 1)], dim=-1)

    def config(self) -> dict:
        return {name: getattr(self, name) for name in ("n_factors", "init_std", "id_dropout")}


class NeuMF(Model):
    """Neural matrix factorisation: GMF's products and an MLP's last hidden layer, concatenated, to one output.

    He et al., "Neural collaborative filtering" (2017), section 3.4. The two parts have embeddings of their own.
    `NeuMF.from_parts` starts from two trained models.

    Args:
        n_users, n_items: rows of the tables, the unknown row 0 included.
        n_factors: embedding size of the GMF part.
        mlp_factors: embedding size of the MLP part, on each side; default `n_factors`.
        layers: widths of the MLP's hidden layers.
        init_std: standard deviation of the initial embeddings.
        features, id_dropout: as in `CollFilter`.

    Example:
        >>> NeuMF(4, 6, n_factors=8, mlp_factors=4, layers=[8, 4])(torch.tensor([[1, 5], [2, 1]])).shape
        torch.Size([2])
    """

    def __init__(
        self, n_users: int, n_items: int, n_factors: int = 8, *, mlp_factors: int | None = None,
        layers: Sequence[int] = (64, 32, 16), init_std: float = 0.1, features=None, id_dropout: float = 0.0,
    ):  # fmt: skip
        n_factors = whole("n_factors", n_factors)
        mlp_factors = n_factors if mlp_factors is None else whole("mlp_factors", mlp_factors)
        if not (layers := widths("layers", layers)):
            raise ValueError("layers must hold at least one width, e.g. [64, 32], got an empty list")
        super().__init__(*table_sides(n_users, n_items, [n_factors, mlp_factors], std=init_std))
        self._config = {"n_factors": n_factors, "mlp_factors": mlp_factors, "layers": layers, "init_std": init_std}
        self.mlp = hidden_layers(2 * mlp_factors, layers)
        self.out = nn.Linear(n_factors + layers[-1], 1)
        with torch.no_grad():  # the GMF part starts as an ordinary dot product
            self.out.weight[:, :n_factors] = 1.0
            self.out.bias.zero_()
        self.add_features(features, id_dropout, init_std)

    @classmethod
    def from_parts(cls, gmf: GMF, ncf: NCF, alpha: float = 0.5) -> "NeuMF":
        """Create a model whose score is `alpha * GMF + (1 - alpha) * NCF`, for further training (section 3.4.1).

        Raises:
            ValueError: the parts belong to other data, or `alpha` is outside [0, 1].
        """
        if (gmf.n_users, gmf.n_items) != (ncf.n_users, ncf.n_items):
            rows = f"GMF has {gmf.n_users} x {gmf.n_items} rows, NCF {ncf.n_users} x {ncf.n_items}"
            raise ValueError(f"the parts must share their data: {rows}")
        for part in (gmf, ncf):
            part.refuse_features("NeuMF.from_parts puts ids' tables together")
        alpha = share_or_all("alpha", alpha)
        sizes = {"mlp_factors": ncf.n_factors, "layers": ncf.config()["layers"]}
        model = cls(gmf.n_users, gmf.n_items, gmf.n_factors, **sizes)
        with torch.no_grad():
            for own, *theirs in zip(model.sides, gmf.sides, ncf.sides, strict=True):
                for table, part in zip(own.tables, theirs, strict=True):
                    table.weight.copy_(part.tables[0].weight)
            for own, part in zip(model.mlp.parameters(), ncf.layers[:-1].parameters(), strict=True):
                own.copy_(part)
            model.out.weight.copy_(torch.cat([alpha * gmf.out.weight, (1 - alpha) * ncf.out.weight], dim=1))
            model.out.bias.copy_(alpha * gmf.out.bias + (1 - alpha) * ncf.out.bias)
        return model.name_rows(gmf.users, gmf.items)

    def interact(self, user_rows, item_rows) -> Tensor:
        (p, x), (q, y) = user_rows, item_rows
        hidden = pair_layer(self.mlp[0][0], x, y)  # (..., layers[0])
        for layer in (*self.mlp[0][1:], *self.mlp[1:]):
            hidden = layer(hidden)
        weight = self.out.weight[0].split([p.shape[-1], hidden.shape[-1]])
        return (p * q) @ weight[0] + hidden @ weight[1] + self.out.bias[0]  # (...)

    def floats_per_pair(self) -> int:
        widths = [2 * self._config["mlp_factors"], *self._config["layers"]]
        return 3 * (max(widths) + self._config["n_factors"]) + sum(sorted(widths)[-2:])

    def config(self) -> dict:
        return {**self._config, "id_dropout": self.id_dropout}
