"""`ShownNegatives`: negatives from the lists of a first stage, to train the second stage of a pipeline."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from collabkit.data.checks import whole
from collabkit.data.interactions import Interactions
from collabkit.data.runs import Runs
from collabkit.models.base import evaluating
from collabkit.models.closed_form import model_and_data
from collabkit.retrieval.ranking import Asked, block_size, top_k

__all__ = ["ShownNegatives"]


class ShownNegatives:
    """Items from the lists of candidate models for a user, except seen ones, all equally likely.

    Args:
        train: training interactions.
        models: trained models with the ids of `train`, as in `Pipeline`.
        n: number of items per user in each model's list.
        device: device for the draws.

    Raises:
        ValueError: models have other users or items, or are not trained.

    Example:
        >>> from functools import partial
        >>> from collabkit import sampling
        >>> negatives = partial(sampling.ShownNegatives, models=[ease], n=100)                 # doctest: +SKIP
        >>> dls = CollabDataLoaders.from_df(df, feedback='implicit', negatives=negatives)      # doctest: +SKIP
    """

    shared = False

    def __init__(self, train: Interactions, models, n: int = 200, *, device=None):
        n, lists = whole("n", n), []
        for given in models if isinstance(models, Sequence) else [models]:
            model, data = model_and_data(given)
            if data is None or data.users != train.users or data.items != train.items:
                raise ValueError(f"{type(model).__name__} is not trained, or on other ids; make all from one table")
            candidates, users = data.every_item, torch.arange(len(train.users))
            k = min(n, len(candidates))
            options = {"n_items": train.n_items, "hidden": data.known.union(train.pairs)}
            with evaluating(model), torch.inference_mode():
                scorer = Asked(model.scorer(candidates), data.asker(model.needs))
                block = block_size(len(candidates), "512MB", model.device)
                best = top_k(scorer, users, candidates, k, block=block, **options)[0].cpu().clone()
            row, place = (best > 0).nonzero(as_tuple=True)
            lists.append(Runs.pairs(row.numpy(), best[row, place].numpy(), len(users), train.n_items))
        self.lists = lists[0].union(*lists[1:])
        self.to(device)

    def to(self, device):
        """Move the lists to `device` (None is the CPU)."""
        self.device = torch.device("cpu" if device is None else device)
        self.lists = self.lists.to(self.device)
        return self

    def draw(self, users: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`(b, n)` int64 items, with replacement, of the lists of `users` `(b,)`; 0 for a user whose list is empty."""
        lengths = self.lists.lengths[users][:, None]
        place = torch.rand(len(users), n, generator=generator, device=self.device, dtype=torch.float64) * lengths
        at = (self.lists.start[users][:, None] + place.long()).clamp(max=len(self.lists.values) - 1)
        return self.lists.values[at].masked_fill(lengths == 0, 0)

    def log_counts(self, users: Tensor, items: Tensor) -> Tensor:
        """Log of the expected count `(b, 1)` of each of the `n` drawn items in its row; inf: none is drawn."""
        return math.log(items.shape[1]) - self.lists.lengths[users][:, None].double().log().float()
