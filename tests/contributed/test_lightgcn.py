"""A contributed model whose rows come from a graph: LightGCN."""

import torch
import torch.nn.functional as F
from contract import ModelContract
from torch import Tensor

from collabkit import Dataset, Query
from collabkit.data.runs import Runs
from collabkit.models import DotModel, TableSide


class Propagate(torch.autograd.Function):
    """The mean of `E, A E, ..., A^n E` for `A` of two blocks, `edges` `(n_users, n_items)` and their transpose."""

    @staticmethod
    def forward(ctx, users: Tensor, items: Tensor, edges: tuple[Tensor, Tensor], n_layers: int):
        ctx.edges, ctx.n_layers = edges, n_layers
        (n_users, n_items), sums, layer = edges[0].shape, [users.clone(), items.clone()], (users, items)
        for _ in range(n_layers):
            layer = edges[0] @ layer[1][:n_items], edges[1] @ layer[0][:n_users]
            sums[0][:n_users] += layer[0]
            sums[1][:n_items] += layer[1]
        return tuple(total / (n_layers + 1) for total in sums)

    @staticmethod
    def backward(ctx, users: Tensor, items: Tensor):
        return *Propagate.apply(users.contiguous(), items.contiguous(), ctx.edges, ctx.n_layers), None, None


class GraphSide(TableSide):
    """The rows of a table after their propagation; an id without an edge keeps its own row."""

    def __init__(self, name: str, n: int, widths, std: float, propagated):
        super().__init__(name, n, widths, std=std)
        self.propagated = propagated

    def rows(self, query):
        if isinstance(query, Query) and query.rows is not None:
            return query.rows
        idx = query if isinstance(query, Tensor) else query.users
        rows = self.propagated(self.name)
        idx = idx.to(rows.device)
        return (F.embedding(idx, rows), *(table(idx) for table in self.tables[1:]))

    def read(self, idx):
        with torch.no_grad():
            return list(self.rows(idx))


class LightGCN(DotModel):
    """Embeddings averaged over the graph of users and items, and a bias of each item; He et al., "LightGCN" (2020).

    Args:
        train: pairs of users and items, the edges.
        n_factors, n_layers: length of the embeddings; how often they are propagated.
        temperature: cosines are divided by it.
    """

    def __init__(
        self, train: Runs, n_factors: int = 64, *, n_layers: int = 3, temperature: float = 0.1, std: float = 0.1
    ):
        widths = (("user", len(train), [n_factors]), ("item", train.width, [n_factors, 1]))
        super().__init__(*(GraphSide(*side, std, self.propagated) for side in widths))
        self.options = {"n_factors": n_factors, "n_layers": n_layers, "temperature": temperature, "std": std}
        other, self.kept = train.transposed(), None
        degrees = [runs.lengths.float().clamp(min=1).rsqrt() for runs in (train, other)]
        self.edges = tuple(
            runs.matrix(mine[runs.rows] * theirs[runs.values])
            for runs, mine, theirs in ((train, *degrees), (other, *degrees[::-1]))
        )
        self.linked = {"user": train.lengths > 0, "item": other.lengths > 0}

    @classmethod
    def for_data(cls, data: Dataset, **options) -> "LightGCN":
        return cls(data.train.pairs, **options)

    def config(self) -> dict:
        return self.options

    def propagated(self, name: str) -> Tensor:
        """All rows of a side, computed once a training step, or as long as no weight changes."""
        state = self.version(), torch.is_grad_enabled()
        if self.kept is None or self.kept[0] != state:
            tables = {"user": self.u_weight.weight, "item": self.i_weight.weight}
            self.edges = tuple(edges.to(self.device) for edges in self.edges)  # no buffers: a CSR has no one storage
            means = Propagate.apply(*tables.values(), self.edges, self.options["n_layers"])
            scale, rows = self.options["temperature"] ** -0.5, {}
            for (side, table), mean in zip(tables.items(), means, strict=True):
                linked = F.pad(self.linked[side], (0, len(table) - len(self.linked[side])))[:, None].to(table.device)
                rows[side] = torch.where(linked, F.normalize(mean, dim=1) * scale, table)
            self.kept = state, rows
        return self.kept[1][name]

    def __getstate__(self):
        return {**self.__dict__, "kept": None}  # of another graph of gradients


class TestLightGCN(ModelContract):
    model, options = LightGCN, {"n_factors": 16, "loss_func": "softmax"}
    data = {"negatives": "shared", "n_neg": 32}
