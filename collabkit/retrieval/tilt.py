"""`Tilt`: rankings that favour little-known or new items: one term per item, added to the model's score."""

from dataclasses import dataclass

import torch
from torch import Tensor

from collabkit.data.checks import finite, in_days
from collabkit.data.dataset import Dataset

__all__ = ["Tilt", "tilted"]


@dataclass(frozen=True)
class Tilt:
    """Terms added to a model's scores before ranking, in standard deviations of each user's scores.

    User u's score s(u, i) of item i becomes `s(u, i) + d(u) * (w * z(i) + v * 2 ** (-age(i) / half_life))`:

    - d(u) is the standard deviation of the user's scores over the candidates, seen ones included, so that w and v
      mean the same for every model;
    - z(i) is the item's self-information `-log2(share of the users who have it)`, less its mean over all items, divided
      by its standard deviation. Adding a standardised novelty to a standardised score is the linear re-ranking of
      Vargas and Castells, "Rank and relevance in novelty and diversity metrics for recommender systems" (2011), and
      RankSys;
    - age(i) is the days from the item's first event to the latest event of all: an item is new when it appears, however
      often it is met later. Covington et al., "Deep neural networks for YouTube recommendations" (2016), section 3.3,
      call it the example's age. A brand-new item gains v standard deviations, one of age `half_life` half of them.

    Args:
        novelty_weight: w; 0 adds nothing, below 0 it favours popular items.
        half_life: days, a `pd.Timedelta` or a text like `'30D'`; None adds nothing.
        freshness_weight: v, not used without a `half_life`.

    Raises:
        ValueError: a weight is not finite, `half_life` is not positive, or `freshness_weight` is used without it.
    """

    novelty_weight: float = 0.0
    half_life: object = None
    freshness_weight: float = 1.0

    def __post_init__(self):
        for name in ("novelty_weight", "freshness_weight"):
            finite(name, getattr(self, name))
        if self.half_life is not None:
            object.__setattr__(self, "half_life", in_days("half_life", self.half_life))
        elif self.freshness_weight != 1:
            raise ValueError(f"freshness_weight={self.freshness_weight!r} needs half_life=, the days after which an "
                             "item is half as fresh")  # fmt: skip

    def offsets(self, data: Dataset, *, is_valid: bool = False) -> Tensor | None:
        """The term `(n_items,)` float32 in parentheses; None where nothing is added.

        Args:
            data: the events that determine how many users have an item (in training) and its age.
            is_valid: the validation part is evaluated; otherwise it counts as known.

        Raises:
            ValueError: `half_life` for events without times.
        """
        if self.novelty_weight == 0 and self.half_life is None:
            return None
        total = torch.zeros(data.n_items, dtype=torch.float64)
        if self.novelty_weight != 0:
            bits = data.train.information
            mean, spread = bits[1:].mean(), bits[1:].std(correction=0)
            if spread > 0:  # otherwise all items have equally many users
                total += self.novelty_weight * (bits - mean) / spread
        if self.half_life is not None:
            total += self.freshness_weight * torch.exp2(-data.item_ages(is_valid=is_valid) / self.half_life)
        return total.float()


def tilted(logits: Tensor, offsets: Tensor | None) -> Tensor:
    """Scores `(b, c)` plus `offsets`, `(c,)` or `(b, c)`, times the standard deviation of each row.

    Scores of -inf, for items that are not candidates, are not included. Without offsets it returns the scores.

    Example:
        >>> tilted(torch.tensor([[1., 3.], [10., 30.]]), torch.tensor([1., 0.]))
        tensor([[ 2.,  3.],
                [20., 30.]])
    """
    if offsets is None:
        return logits
    there = logits.where(logits > -torch.inf, torch.nan)
    spread = (there - there.nanmean(1, keepdim=True)).square_().nanmean(1, keepdim=True).sqrt_()
    return logits + spread * offsets.to(logits.device)
