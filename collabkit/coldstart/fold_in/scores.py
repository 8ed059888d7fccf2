"""`UserScores`: a model's logits as a function of one user's row, with derivatives, the item side as it is."""

from dataclasses import replace

import torch
from torch import Tensor

from collabkit.data.dataset import Dataset
from collabkit.data.query import Query
from collabkit.models.base import Model, evaluating

__all__ = ["UserScores"]


class UserScores:
    """Logits of items for user rows `x` `(..., d)`, the tables' parts side by side, and their derivatives by `x`.

    Each pair gets a copy of its user's row: then one backward pass through the sum of all logits gives every pair's own
    gradient. A model whose gradients do not depend on `x` (dot products, whatever their biases and weights) is
    `linear`: its logits are `x . slope[i] + constant[i]`. The model stays as it is; its user side must be writable.
    """

    def __init__(self, model: Model, data: Dataset):
        self.model, self.side, self.device = model, model.user_side, model.device
        self.widths, self._ask = self.side.widths, data.asker(model.needs)
        self.additive = self.side.joins == "sum"  # then the features' part is a shift of the row
        with torch.no_grad(), evaluating(model):
            self.item_parts = model.item_rows(torch.arange(data.n_items, device=self.device))  # [(n_items, d), ...]
        self.dtype = self.item_parts[0].dtype
        self.linear = self._find_slope()

    d = property(lambda self: sum(self.widths), doc="Length of a user's row, all tables together.")

    def rows(self, idx: Tensor) -> Tensor:
        """The rows `(m, d)` float64 that stand in the user tables for `idx` `(m,)`."""
        return torch.cat(self.side.read(idx), dim=1).double()

    def shift(self, at: Tensor) -> Tensor:
        """What the features of users `at` `(b,)` add to their rows, `(b, d)` float64; zero without any."""
        if not self.additive or self.side.features is None:
            return torch.zeros(len(at), self.d, dtype=torch.float64, device=self.device)
        with torch.no_grad(), evaluating(self.model):
            return torch.cat(self.side.features(at.to(self.device)), dim=-1).double()

    def parts_of(self, items: Tensor) -> tuple[Tensor, ...]:
        """The item side's parts `[(..., d), ...]` of `items` `(...)`."""
        return tuple(part[items] for part in self.item_parts)

    def logits(self, x: Tensor, at: Tensor, item_parts: tuple[Tensor, ...]) -> Tensor:
        """Logits `(b, l)` float64 of rows `x` `(b, d)` of users `at` `(b,)` for item parts `[(b or 1, l, d), ...]`."""
        with torch.no_grad(), evaluating(self.model):
            return self._interact(x.to(self.dtype)[:, None], at, item_parts).double()

    def gradients(self, x: Tensor, at: Tensor, item_parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Logits `(b, l)` as `logits`, and their gradients `(b, l, d)` by the user's row."""
        n = item_parts[0].shape[-2]
        with torch.enable_grad(), evaluating(self.model):
            copies = x.to(self.dtype)[:, None].expand(-1, n, -1).contiguous().requires_grad_()
            logits = self._interact(copies, at, item_parts)
            (slope,) = torch.autograd.grad(logits.sum(), copies)
        return logits.detach().double(), slope.double()

    def item_gradients(self, x: Tensor, at: Tensor, item_parts) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits `(m,)` of pairs of user rows `x` `(m, d)` and item parts `[(m, d), ...]`, and gradients by these."""
        with torch.enable_grad(), evaluating(self.model):
            parts = tuple(part.detach()[:, None].requires_grad_() for part in item_parts)
            logits = self._interact(x.to(self.dtype)[:, None], at, parts)
            slopes = torch.autograd.grad(logits.sum(), parts)
        return logits.detach().squeeze(1).double(), tuple(slope.squeeze(1).double() for slope in slopes)

    def _interact(self, x: Tensor, at: Tensor, item_parts: tuple[Tensor, ...]) -> Tensor:
        query = self._ask(at[:, None].expand(x.shape[:-1]).cpu())
        query = (Query(query) if isinstance(query, Tensor) else query).to(self.device)
        query = replace(query, rows=x.split(self.widths, dim=-1))
        return self.model.interact(self.model.user_rows(query), item_parts)

    def _find_slope(self) -> bool:
        """Set `slope` `(n, d)` and `constant` `(n,)` float64 (of rows with the features' part), if there are such."""
        if not self.additive:
            return False
        generator = torch.Generator().manual_seed(0)
        parts, random = tuple(part[None] for part in self.item_parts), torch.randn(1, self.d, generator=generator)
        nobody, found = torch.zeros(1, dtype=torch.int64), []
        last = nobody if self.side.features is None else nobody + self.side.n - 1  # whose features are others
        for x, at in ((torch.zeros(1, self.d), nobody), (random, nobody), (random, last)):
            # features off: their part is added to the row, so that the slope is the same without
            logits, slope = self.gradients(x.double().to(self.device) - self.shift(at), at, parts)
            found.append((logits[0], slope[0]))
        (self.constant, self.slope), *others = found
        close = {"rtol": 1e-4, "atol": 1e-5 * float(self.slope.abs().max())}
        return all(torch.allclose(self.slope, other, **close) for _, other in others)
