"""`UserScores`: a model's logits as a function of one user's row, with derivatives, the item side as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from collabkit.models import CollabModel
from collabkit.models.base import device_of, evaluating

__all__ = ["UserScores"]


class UserScores:
    """Logits of items for user rows `x` `(..., d)`, the tables' parts side by side, and their derivatives by `x`.

    Each pair gets a copy of its user's row: then one backward pass through the sum of all logits gives every pair's own
    gradient. A model whose gradients do not depend on `x` (dot products, whatever their biases and weights) is
    `linear`: its logits are `x . slope[i] + constant[i]`.

    Args:
        model: the model, which stays as it is.

    Example:
        >>> from collabkit.models import NCF, CollFilter
        >>> scores = UserScores(CollFilter(4, 6, n_factors=2))
        >>> scores.linear, scores.slope.shape, UserScores(NCF(4, 6)).linear
        (True, torch.Size([6, 3]), False)
    """

    def __init__(self, model: CollabModel):
        self.model, self.device = model, device_of(model)
        self.widths = [table.shape[1] for table in model.tables(False)]
        self.dtype = model.tables(False)[0].dtype
        self.additive = model.joins == "sum"  # then the features' part is a shift of the row
        self.item_parts = tuple(part.to(self.device) for part in model.parts(True))  # [(n_items, d), ...]
        self.linear = self._find_slope()
        self._products: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def d(self) -> int:
        """Length of a user's row, all tables together."""
        return sum(self.widths)

    def rows(self, idx: Tensor) -> Tensor:
        """The rows `(m, d)` float64 that stand in the user tables for `idx` `(m,)`."""
        return torch.cat([table.detach()[idx.to(self.device)] for table in self.model.tables(False)], dim=1).double()

    def shift(self, at: Tensor) -> Tensor:
        """What the features of users `at` `(b,)` add to their rows, `(b, d)` float64; zero without any."""
        if not self.additive or self.model.features_of(False) is None:
            return torch.zeros(len(at), self.d, dtype=torch.float64, device=self.device)
        with torch.no_grad(), evaluating(self.model):
            none = [torch.zeros(len(at), width, dtype=self.dtype, device=self.device) for width in self.widths]
            return torch.cat(self.model.join(False, at.to(self.device), tuple(none)), dim=-1).double()

    def parts_of(self, items: Tensor) -> tuple[Tensor, ...]:
        """The item side's parts `[(..., d), ...]` of `items` `(...)`."""
        return tuple(part[items] for part in self.item_parts)

    def logits(self, x: Tensor, at: Tensor, item_parts: tuple[Tensor, ...]) -> Tensor:
        """Logits `(b, l)` float64 of rows `x` `(b, d)` of users `at` `(b,)` for item parts `[(b or 1, l, d), ...]`."""
        with torch.no_grad(), evaluating(self.model):
            return self._interact(x.to(self.dtype)[:, None], at, item_parts).double()

    def products(self, items: Tensor | None) -> tuple[Tensor, Tensor]:
        """The linear model's slopes `(d, c)` and constants `(c,)`, in its tables' type, for `items`, default all."""
        key = torch.arange(len(self.slope)) if items is None else items.cpu()
        if self._products is None or not torch.equal(self._products[0], key):  # the same items are asked for again
            on = key.to(self.device)
            self._products = key, self.slope[on].to(self.dtype).T.contiguous(), self.constant[on].to(self.dtype)
        return self._products[1:]

    def gradients(self, x: Tensor, at: Tensor, item_parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Logits `(b, l)` as `logits`, and their gradients `(b, l, d)` by the user's row."""
        n = item_parts[0].shape[-2]
        with torch.enable_grad(), evaluating(self.model):
            copies = x.to(self.dtype)[:, None].expand(-1, n, -1).contiguous().requires_grad_()
            logits = self._interact(copies, at, item_parts)
            (slope,) = torch.autograd.grad(logits.sum(), copies)
        return logits.detach().double(), slope.double()

    def item_gradients(
        self, x: Tensor, at: Tensor, item_parts: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits `(m,)` of pairs of user rows `x` `(m, d)` and item parts `[(m, d), ...]`, and gradients by these."""
        with torch.enable_grad(), evaluating(self.model):
            parts = tuple(part.detach()[:, None].requires_grad_() for part in item_parts)
            logits = self._interact(x.to(self.dtype)[:, None], at, parts)
            slopes = torch.autograd.grad(logits.sum(), parts)
        return logits.detach().squeeze(1).double(), tuple(slope.squeeze(1).double() for slope in slopes)

    def _interact(self, x: Tensor, at: Tensor, item_parts: tuple[Tensor, ...]) -> Tensor:
        idx = at.to(self.device)[:, None].expand(x.shape[:-1])
        joined = self.model.join(False, idx, x.split(self.widths, dim=-1))
        return self.model.interact(joined, item_parts)

    def _find_slope(self) -> bool:
        """Set `slope` `(n, d)` and `constant` `(n,)` float64 (of rows with the features' part), if there are such."""
        if not self.additive:
            return False
        generator = torch.Generator().manual_seed(0)
        parts = tuple(part[None] for part in self.item_parts)
        at, found = torch.zeros(1, dtype=torch.int64), []
        for x in (torch.zeros(1, self.d), torch.randn(1, self.d, generator=generator)):
            # features off: their part is added to the row, so that the slope is the same without
            logits, slope = self.gradients(x.double().to(self.device) - self.shift(at), at, parts)
            found.append((logits[0], slope[0]))
        (self.constant, self.slope), (_, other) = found
        return bool(torch.allclose(self.slope, other, rtol=1e-4, atol=1e-5 * float(self.slope.abs().max())))
