"""`Confidence`: turns counts (plays, quantities, repeats) into the confidence that a user likes an item."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from collabkit.data.checks import one_of, share_or_all

__all__ = ["Confidence", "CONFIDENCES"]

CONFIDENCES = ("linear", "log", "bm25")


@dataclass(frozen=True, eq=False, repr=False)
class Confidence:
    """The confidence of a (user, item) pair with a count r, in units of the mean over the training pairs.

    `c = (1 + alpha f(r)) / mean`, with f by `kind`:

    - `'linear'`: `f(r) = r`, equation 1 of Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback
      datasets" (2008);
    - `'log'`: `f(r) = log(1 + r / eps)`, equation 6 there: for counts with a heavy tail;
    - `'bm25'`: `f(r) = idf(i) r (k1 + 1) / (r + k1 (1 - b + b R_u / R))`, the items being the terms of users'
      documents, R_u the user's total count and R its mean, `idf(i) = log(1 + (n_users - n_i + .5) / (n_i + .5))` for
      n_i users who have the item: Robertson and Zaragoza, "The probabilistic relevance framework: BM25 and beyond"
      (2009), with Lucene's idf, which is never negative. Items that many users have count less, and so do the single
      counts of users with many.

    So a pair has confidence 1 on average, the total weight of the events in a loss is the same as without counts, and
    in least squares `unobserved_weight` and `reg` keep their meaning. Equal counts have the same effect as no counts,
    except with `'bm25'`.

    Args:
        kind: one of the three.
        alpha: how much a count adds; 0 gives all pairs the same confidence. In the paper it is above 0 (40 did well)
            and also determines how much less an unobserved pair counts, which is `unobserved_weight` here.
        eps: for `'log'`: counts well below it add little.
        k1, b: for `'bm25'`: the count above which more adds little, and how much a user's total matters (0 to 1).

    Raises:
        ValueError: `kind` is unknown; `alpha` is below 0, `eps` or `k1` is not above 0, `b` is outside [0, 1].

    Example:
        >>> raw = Confidence('linear', alpha=40)
        >>> raw.of(torch.tensor([1, 1]), torch.tensor([1, 2]), torch.tensor([1., 3.]))
        tensor([ 41., 121.])
        >>> raw.fitted(torch.tensor([1, 1]), torch.tensor([1, 2]), torch.tensor([1., 3.])).scale
        81.0
    """

    kind: str = "log"
    alpha: float = 1.0
    eps: float = 1.0
    k1: float = 100.0
    b: float = 0.8
    scale: float = 1.0  # the mean over the training pairs; this and the next three are set by `fitted`
    mean_total: float = 1.0  # of users with training pairs
    n_users: int = 0  # who have any
    n_having: Tensor | None = None  # (n_items,) users who have each item

    def __post_init__(self):
        one_of("confidence", self.kind, CONFIDENCES)
        for name, least in (("alpha", 0), ("eps", None), ("k1", None)):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or (value < 0 if least == 0 else value <= 0):
                raise ValueError(f"{name} must be a number {'of at least' if least == 0 else 'above'} 0, got {value!r}")
        share_or_all("b", self.b)

    def of(self, users: Tensor, items: Tensor, count: Tensor) -> Tensor:
        """Return confidences `(m,)` float32 of pairs with counts `(m,)` above 0; all of a user's pairs are needed."""
        count = count.double()
        if self.kind == "bm25":
            value = self._bm25(users, items, count)
        else:
            value = count if self.kind == "linear" else torch.log1p(count / self.eps)
        return ((1 + self.alpha * value) / self.scale).float()

    def _bm25(self, users: Tensor, items: Tensor, count: Tensor) -> Tensor:
        total = torch.bincount(users, count)[users] / self.mean_total
        value = count * (self.k1 + 1) / (count + self.k1 * (1 - self.b + self.b * total))
        if self.n_having is None:
            return value
        known = items < len(self.n_having)  # ids that were added later: no training user has them
        have = torch.where(known, self.n_having[torch.where(known, items, 0)], 0).double()
        return value * torch.log1p((self.n_users - have + 0.5) / (have + 0.5))

    def fitted(self, users: Tensor, items: Tensor, count: Tensor) -> Confidence:
        """The same with the totals, frequencies and the mean of the training pairs `(m,)`."""
        total = torch.bincount(users, count.double())
        n_users = max(1, int((total > 0).sum()))
        facts = {"mean_total": float(total.sum()) / n_users, "n_users": n_users, "n_having": torch.bincount(items)}
        new = replace(self, **facts, scale=1.0)
        raw = new.of(users, items, count).double()
        return replace(new, scale=float(raw.mean()) if len(raw) else 1.0)

    def __repr__(self) -> str:
        plain = Confidence(self.kind)
        odd = [f"{name}={value!r}" for name, value in self.spec().items() if value != getattr(plain, name)]
        return f"Confidence({', '.join([repr(self.kind), *odd])})"

    def spec(self) -> dict:
        """What an artefact stores, JSON-ready; the rest follows from its training part."""
        return {name: getattr(self, name) for name in ("kind", "alpha", "eps", "k1", "b")}
