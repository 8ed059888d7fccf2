"""`TwoTower`: a user tower and an item tower return vectors; their dot product or cosine is the score."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collabkit.data.checks import one_of, positive, whole, widths
from collabkit.models.base import Model
from collabkit.models.sides import TableSide

__all__ = ["TwoTower"]


class TwoTower(Model):
    """Two towers: an embedding, with those of side features added, optionally through a perceptron, on each side.

    Positives and negatives pass through the same item tower, so that with a pairwise loss it is a siamese network. The
    item vectors can be computed once and searched. Huang et al., "Learning deep structured semantic models" (2013);
    cosine and temperature as in Yi et al., "Sampling-bias-corrected neural modeling" (2019).

    Args:
        n_users, n_items: rows of the tables, the unknown row 0 included.
        n_factors: length d of the embeddings, and of the vectors if there are no `layers`.
        layers: widths of each tower's perceptron, ReLU between them; the last one is the length of the vectors.
        similarity: `'dot'` or `'cosine'`, which scales the vectors to length 1.
        temperature: the similarity is divided by it; use about 0.1 for cosines, which lie between -1 and 1.
        item_bias: add a bias for each item, its popularity regardless of taste, which a cosine cannot represent.
        init_std: standard deviation of the initial embeddings.
        sparse, features, id_dropout: as in `CollFilter`.

    Raises:
        ValueError: sizes, similarity or temperature are out of range.

    Example:
        >>> import torch
        >>> model = TwoTower(4, 6, n_factors=8, layers=[16, 4], similarity='cosine', temperature=0.1)
        >>> model(torch.tensor([1, 2]), torch.tensor([5, 1])).shape, model.item_vectors(torch.arange(6)).shape
        (torch.Size([2]), torch.Size([6, 4]))
    """

    def __init__(
        self, n_users: int, n_items: int, n_factors: int = 50, *, layers: Sequence[int] = (), similarity: str = "dot",
        temperature: float = 1.0, item_bias: bool = False, init_std: float = 0.1, sparse: bool = False, features=None,
        id_dropout: float = 0.0,
    ):  # fmt: skip
        n_factors, layers = whole("n_factors", n_factors), widths("layers", () if layers is None else layers)
        one_of("similarity", similarity, ("dot", "cosine"))
        temperature = positive("temperature", temperature)
        options = {"std": init_std, "sparse": sparse}
        items = TableSide("item", n_items, [n_factors, 1] if item_bias else [n_factors], **options)
        super().__init__(TableSide("user", n_users, [n_factors], **options), items)
        self.n_factors, self.layers, self.similarity, self.item_bias = n_factors, layers, similarity, item_bias
        self.temperature, self.init_std = temperature, init_std
        self.u_tower, self.i_tower = (_tower([n_factors, *layers]) for _ in range(2))
        self.add_features(features, id_dropout, init_std)

    @property
    def i_bias(self) -> nn.Embedding | None:
        """The items' biases, an embedding `(n_items, 1)`, or None."""
        return self.item_side.tables[1] if self.item_bias else None

    def interact(self, user_rows, item_rows) -> Tensor:
        return (self._user_vectors(*user_rows) * self._item_vectors(*item_rows)).sum(-1)  # (...)

    def user_vectors(self, idx: Tensor) -> Tensor:
        """`(n, d)` user vectors divided by the temperature; their dot products with `item_vectors` are the logits."""
        return self._user_vectors(*self.user_rows(idx))

    def item_vectors(self, idx: Tensor) -> Tensor:
        """`(n, d)` vectors of items, of length 1 with `similarity='cosine'`; the bias, if any, comes after them."""
        return self._item_vectors(*self.item_rows(idx))

    def _user_vectors(self, rows: Tensor) -> Tensor:
        vectors = self._vectors(self.u_tower, rows)
        vectors = vectors if self.temperature == 1 else vectors / self.temperature
        return F.pad(vectors, (0, 1), value=1.0) if self.item_bias else vectors  # times the item's bias

    def _item_vectors(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        vectors = self._vectors(self.i_tower, rows)
        return vectors if bias is None else torch.cat([vectors, bias], dim=-1)

    def _vectors(self, tower: nn.Module, rows: Tensor) -> Tensor:
        vectors = tower(rows)
        return F.normalize(vectors, dim=-1) if self.similarity == "cosine" else vectors

    def factor_tables(self) -> tuple[Tensor, Tensor]:
        """The two embedding tables `(n, d)`, to be solved for in place, if the score is their plain dot product."""
        if self.layers or self.similarity != "dot" or self.temperature != 1 or self.item_bias:
            what = f"without layers and item bias, with similarity 'dot' and temperature 1, got {self.config()}"
            raise TypeError(f"factors can be solved for only where the score is their dot product: TwoTower {what}")
        self.silence_features("factors are solved for")
        return tuple(side.tables[0].weight.data for side in self.sides)

    def config(self) -> dict:
        names = ("n_factors", "layers", "similarity", "temperature", "item_bias", "init_std", "sparse", "id_dropout")
        return {name: getattr(self, name) for name in names}


def _tower(widths: list[int]) -> nn.Sequential:
    """Linear layers through `widths`, ReLU between them; nothing for a single width."""
    parts = [part for pair in pairwise(widths) for part in (nn.ReLU(), nn.Linear(*pair))]
    return nn.Sequential(*parts[1:])
