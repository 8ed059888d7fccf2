"""`EmbeddingNN` and `NCF`: user and item embeddings, concatenated and passed through a multi-layer perceptron."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collabkit.data.checks import dropout_rate, shown, whole, widths
from collabkit.data.dataset import Dataset
from collabkit.data.processes import processes
from collabkit.models.base import Model, parameters
from collabkit.models.sides import table_sides

__all__ = ["EmbeddingNN", "NCF", "emb_sz_rule", "pair_layer", "hidden_layers"]

LAYERS = (50,)  # the default, as in fastai


class EmbeddingNN(Model):
    """Embedding network: `[user embedding, item embedding] -> layers -> one output`, as fastai's `EmbeddingNN`.

    Each hidden layer is Linear -> ReLU -> BatchNorm -> Dropout, in fastai's order. Users and items have their own
    embedding sizes. With features each field has an embedding of its own size, concatenated to that of the id.

    Args:
        emb_szs: `((n_users, d_user), (n_items, d_item))`, e.g. from fastai's `get_emb_sz(dls)`.
        layers: widths of the hidden layers.
        ps: dropout of the hidden layers, one value for all or one each.
        embed_p: dropout of the concatenated embeddings.
        y_range: `(low, high)` of the ratings; None gives logits.
        use_bn: batch normalisation after each hidden layer.
        bn_final: batch normalisation of the output.
        features, id_dropout: as in `CollFilter`.
        feature_szs: embedding sizes by feature name; default `features.Kind.part_width`.
        init_std: standard deviation of the initial embeddings.

    Raises:
        ValueError: sizes or dropouts of the wrong number or range.

    Example:
        >>> model = EmbeddingNN([(4, 3), (6, 5)], layers=[8, 4], y_range=(0, 5.5))
        >>> model(torch.tensor([[1, 5], [2, 3]])).shape
        torch.Size([2])
    """

    joins = "concat"

    def __init__(
        self, emb_szs: Sequence[tuple[int, int]], layers: Sequence[int], *, ps: float | Sequence[float] = 0.0,
        embed_p: float = 0.0, y_range: tuple[float, float] | None = None, use_bn: bool = True, bn_final: bool = False,
        features=None, id_dropout: float = 0.0, feature_szs: Mapping[str, int] | None = None, init_std: float = 0.01,
    ):  # fmt: skip
        (n_users, d_user), (n_items, d_item) = _two_sizes(emb_szs)
        if not (layers := widths("layers", layers)):
            raise ValueError("layers must hold at least one width, e.g. [64, 32], got an empty list")
        ps = list(ps) if isinstance(ps, Sequence) and not isinstance(ps, str) else [ps] * len(layers)
        ps, embed_p = [dropout_rate("ps", p) for p in ps], dropout_rate("embed_p", embed_p)
        if len(ps) != len(layers):
            raise ValueError(f"ps must be one dropout, or one per layer ({len(layers)}), got {ps}")
        super().__init__(*table_sides(n_users, n_items, [d_user], [d_item], std=init_std), y_range)
        self.init_std = init_std
        self._config = {"layers": layers, "ps": ps, "embed_p": embed_p, "use_bn": use_bn, "bn_final": bn_final}
        self._config["feature_szs"] = dict(feature_szs or {})
        self.emb_drop = nn.Dropout(embed_p)
        self.add_features(features, id_dropout, sizes=feature_szs)
        blocks = hidden_layers(sum(self.user_widths + self.item_side.row_widths), layers, ps, use_bn)
        final = nn.Linear(layers[-1], 1, bias=not bn_final)
        self.layers = nn.Sequential(*blocks, nn.Sequential(final, nn.BatchNorm1d(1)) if bn_final else final)

    @classmethod
    def for_data(cls, data: Dataset, **options) -> "EmbeddingNN":
        if "n_users" in parameters(cls):  # a subclass that makes the sizes itself
            return super().for_data(data, **options)
        counts = data.n_users, data.n_items  # the numbers of rows come from the data
        sizes = [size[-1] for size in options.pop("emb_szs")] if "emb_szs" in options else map(emb_sz_rule, counts)
        options = {"layers": LAYERS, "features": data.features or None, **options}
        return cls(list(zip(counts, sizes, strict=True)), **options)

    embeds = property(lambda self: [side.tables[0] for side in self.sides], doc="The embeddings of users and items.")

    def interact(self, user_rows, item_rows) -> Tensor:
        (p,), (q,) = user_rows, item_rows
        if self.training and self.emb_drop.p > 0:  # each pair has its own dropout mask
            shape = torch.broadcast_shapes(p.shape[:-1], q.shape[:-1])
            p, q = self.emb_drop(p.expand(*shape, -1)), self.emb_drop(q.expand(*shape, -1))
        x = pair_layer(self.layers[0][0], p, q)  # (..., layers[0])
        shape = x.shape[:-1]
        if self.training and self._config["use_bn"] and shape.numel() == 1 and processes().alone:
            raise ValueError("batch normalisation cannot train on a batch of one row; use a larger bs, or use_bn=False")
        x = x.reshape(-1, x.shape[-1])  # BatchNorm1d wants (n, features)
        for layer in (*self.layers[0][1:], *self.layers[1:]):
            x = layer(x)
        return x.reshape(shape)  # (...)

    def floats_per_pair(self) -> int:
        widths = [sum(self.user_widths + self.item_side.row_widths), *self._config["layers"]]
        return 3 * max(widths) + sum(sorted(widths)[-2:])  # a layer's input, output and their copies

    def config(self) -> dict:
        options = {name: getattr(self, name) for name in ("y_range", "id_dropout", "init_std")}
        return {"emb_szs": [[side.n, side.widths[0]] for side in self.sides], **self._config, **options}

    def weight(self, ids, is_item: bool = True) -> Tensor:
        """Embeddings `(n, d)`, on the CPU and detached, of the items (or users) with external `ids` `(n,)`."""
        return self.rows_of(ids, "item" if is_item else "user")[0]


class NCF(EmbeddingNN):
    """Neural collaborative filtering: `[user embedding, item embedding] -> layers with ReLU -> one logit`.

    The MLP of He et al., "Neural collaborative filtering" (2017), section 3.3: an `EmbeddingNN` without batch
    normalisation, with embeddings of one size.

    Args:
        n_users, n_items: rows of the tables, the unknown row 0 included.
        n_factors: embedding size of each side.
        layers, ps, embed_p, init_std, features, id_dropout, feature_szs: as in `EmbeddingNN`.

    Example:
        >>> NCF(4, 6, n_factors=8, layers=[64, 32])(torch.tensor([[1, 5], [2, 3]])).shape
        torch.Size([2])
    """

    def __init__(
        self, n_users: int, n_items: int, n_factors: int = 8, *, layers: Sequence[int] = (64, 32),
        ps: float | Sequence[float] = 0.0, embed_p: float = 0.0, init_std: float = 0.1, **kwargs,
    ):  # fmt: skip
        sizes = [(n_users, n_factors), (n_items, n_factors)]
        super().__init__(sizes, layers, ps=ps, embed_p=embed_p, use_bn=False, init_std=init_std, **kwargs)
        self.n_factors = n_factors

    out = property(lambda self: self.layers[-1], doc="The output layer.")

    def config(self) -> dict:
        options = {name: getattr(self, name) for name in ("n_factors", "init_std", "id_dropout")}
        options |= {} if self.y_range is None else {"y_range": self.y_range}
        return options | {name: self._config[name] for name in ("layers", "ps", "embed_p", "feature_szs")}


def _two_sizes(emb_szs) -> list[tuple[int, int]]:
    """`emb_szs` as two pairs of whole numbers, or an error."""
    try:
        pairs = [(n, d) for n, d in emb_szs]
    except TypeError:
        pairs = []
    if len(pairs) != 2:
        raise ValueError(f"emb_szs must be ((n_users, d_user), (n_items, d_item)), got {shown(emb_szs)}")
    return [(n, whole("an embedding size in emb_szs", d)) for n, d in pairs]


def pair_layer(layer: nn.Linear, p: Tensor, q: Tensor) -> Tensor:
    """`layer` of the concatenation `[p, q]`, `(..., n_out)`, for `p` and `q` `(..., d)` whose leading shapes broadcast.

    Each side is multiplied by its half of the weights first, so a user with a thousand items costs one product.
    """
    d = p.shape[-1]
    return F.linear(p, layer.weight[:, :d], layer.bias) + F.linear(q, layer.weight[:, d:])


def hidden_layers(n_in: int, layers: Sequence[int], ps: Sequence[float] | None = None, use_bn: bool = False):
    """Hidden layers of widths `layers` as a `nn.Sequential` of blocks Linear -> ReLU -> BatchNorm? -> Dropout?."""
    blocks = []
    for n_out, p in zip(layers, [0.0] * len(layers) if ps is None else ps, strict=True):
        norm, dropout = [nn.BatchNorm1d(n_out)] if use_bn else [], [nn.Dropout(p)] if p > 0 else []
        linear = nn.Linear(n_in, n_out, bias=not use_bn)
        blocks.append(nn.Sequential(linear, nn.ReLU(inplace=True), *norm, *dropout))
        n_in = n_out
    return nn.Sequential(*blocks)


def emb_sz_rule(n: int) -> int:
    """fastai's rule of thumb for the embedding size of a table of `n` rows: `min(600, round(1.6 * n ** 0.56))`.

    Example:
        >>> emb_sz_rule(944), emb_sz_rule(1665)
        (74, 102)
    """
    return min(600, round(1.6 * n**0.56))
