"""`EASE`: a linear item-item model in closed form."""

import torch
from torch import Tensor

from collabkit.data.checks import whole
from collabkit.data.dataset import Dataset
from collabkit.data.runs import Runs
from collabkit.models.closed_form import ClosedForm, together

__all__ = ["EASE"]


class EASE(ClosedForm):
    """Linear item-item model in closed form, `score = x_u B` for the 0/1 row x_u of the user's items.

    Steck, "Embarrassingly shallow autoencoders for sparse data" (2019): with `P = (X'X + l2 I)^-1`,
    `B = I - P diag(1 / diag(P))`, so that its diagonal is zero and no item recommends itself.

    Args:
        l2: ridge penalty; a few hundred to a few thousand for data like MovieLens.
        max_items: the inverse takes `n_items^2` memory and `n_items^3` time (20,000 items: some 5 GB and ten minutes on
            two cores); beyond this number of items `fit` refuses.
        last: score by the last so many events of a history alone; None by all. The map is the same, so that what people
            did lately counts without a model of order.

    Raises:
        ValueError: `l2` is not positive; `last` < 1; in `fit`, more items than `max_items`.
    """

    name, additive = "EASE", True

    def __init__(self, l2: float = 500.0, max_items: int = 20_000, last: int | None = None):
        if not l2 > 0:
            raise ValueError(f"l2 must be positive, got {l2!r}")
        super().__init__()
        self.l2, self.max_items = float(l2), int(max_items)
        self.last = None if last is None else whole("last", last)
        self.ordered = last is not None
        self.register_buffer("weights", torch.zeros(0, 0))  # (n_items, n_items), row i what having item i adds

    def config(self) -> dict:
        return {"l2": self.l2, "max_items": self.max_items, "last": self.last}

    def _fit(self, data: Dataset) -> None:
        n = data.n_items - 1
        if n > self.max_items:
            gigabytes = 12 * n**2 / 1e9
            raise ValueError(
                f"EASE inverts a matrix of items x items: {n:,} items are more than max_items={self.max_items:,} and "
                f"would take some {gigabytes:,.0f} GB. Drop rare items first (filters.min_count), raise max_items, or "
                "use ItemKNN"
            )
        gram = torch.cat(
            [counts for _, counts in together(data.train.pairs)]
        )  # (n_items, n_items), row and column 0 empty
        gram = gram.double() if n <= 5000 else gram  # single precision is enough for the order, and half the memory
        gram.diagonal().add_(self.l2)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        self.weights = (inverse / -inverse.diagonal()).float()  # column j divided by its diagonal entry
        self.weights.diagonal().zero_()

    def counted(self, history: Runs) -> Runs:
        return (history if self.last is None else history.last(self.last)).unique()

    def scores(self, history: Runs) -> Tensor:
        history = history if self.last is None else self.counted(history)
        return history.matrix() @ self.weights

    def item_similarity(self, idx: Tensor) -> Tensor:
        """Weights `(b, n_items)`: what having each of the items `(b,)` adds to the scores of all items."""
        return self.weights[idx].clone()
