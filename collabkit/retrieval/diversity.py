"""`Diversity`: lists of dissimilar items, by maximal marginal relevance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from collabkit.data.checks import finite, shown, whole
from collabkit.data.dataset import Dataset
from collabkit.data.features import Features
from collabkit.data.notices import MissingError, near_match
from collabkit.models.base import Model

__all__ = ["Diversity", "MMR", "item_likeness", "met_vectors"]

WIDTH = 64  # of the vectors of items by their users
FLOATS = 2**21  # of the vectors of a block's pools: they stay in a CPU's cache


@dataclass(frozen=True)
class Diversity:
    """How much a list avoids similar items, and what makes items similar.

    A list is built item by item: the next one is that with the largest `(1 - w) r(i) - w max_j cos(i, j)` over the
    items j that are in the list already, where r are the user's scores scaled to 0..1 over the pool from which the list
    is chosen: Carbonell and Goldstein, "The use of MMR, diversity-based reranking for reordering documents and
    producing summaries" (1998). The first item is always the best one.

    Args:
        weight: w, from 0, the model's own ranking, to 1, as dissimilar as possible within the pool.
        by: `'vectors'`: items are similar if the model's vectors are, or, for a model without vectors, if the same
            users have met them, see `met_vectors`. The name of an item feature of the data, or several: by their
            categories or numbers. Or `Features` of the items, which the model need not use.
        pool: the list is chosen from this many best items of each user, or from `k` if that is more.

    Raises:
        ValueError: `weight` outside 0..1, `pool` below 1.
    """

    weight: float = 0.0
    by: object = "vectors"
    pool: int = 100

    def __post_init__(self):
        if not 0 <= finite("diversity", self.weight) <= 1:
            raise ValueError(f"diversity must lie in 0..1, 0 being the model's own ranking, got {shown(self.weight)}")
        whole("pool", self.pool)

    def ranker(self, likeness) -> MMR | None:
        """The re-ranker with the unit vectors `(n_items, d)` that `likeness()` returns; None for weight 0."""
        return None if self.weight == 0 else MMR(likeness(), self.weight, int(self.pool))


def item_likeness(model: Model, data: Dataset, by: object = "vectors") -> Tensor:
    """Unit vectors `(n_items, d)` whose dot products are the similarities of items; `by` as in `Diversity`.

    Raises:
        KeyError: no such feature.
        ValueError: features of other items.
        TypeError: `by` is none of these.
    """
    if isinstance(by, str) and by == "vectors":
        vectors = met_vectors(data) if model.by_fit else model.factors("item").float()
        return torch.nn.functional.normalize(vectors, dim=1)
    if isinstance(by, Features):
        features = by
        if len(features) != data.n_items:
            raise ValueError(f"features of {len(features)} items for data of {data.n_items}: they belong to others")
    else:
        if not isinstance(by, (str, list, tuple)) or not all(isinstance(name, str) for name in by):
            raise TypeError(f"diversify_by must be 'vectors', names of item features, or Features, got {shown(by)}")
        features = _named(data.features.items, [by] if isinstance(by, str) else list(by))
    return torch.nn.functional.normalize(features.matrix(), dim=1).masked_fill(~features.given[:, None], 0.0)


def _named(features: Features | None, names: list[str]) -> Features:
    """The fields called `names` of the items' features."""
    there = {} if features is None else {field.name: at for at, field in enumerate(features.fields)}
    if odd := [name for name in names if name not in there]:
        has = f"there are {sorted(there)}" if there else "the data has none: make it with items=, or pass Features"
        raise MissingError(f"diversify_by= names item features {odd}; {has}{near_match(odd[0], there)}")
    at = [there[name] for name in names]
    fields, rows = (tuple(part[j] for j in at) for part in (features.fields, features.rows))
    return Features(features.vocab, fields, rows, features.given)


def met_vectors(data: Dataset, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Vectors `(n_items, width)` of items, similar if the same users have met them in training.

    The leading directions of the 0/1 matrix of users and items, whose columns are scaled to length 1, so that the dot
    product of two items approximates the cosine of their users.
    """
    by_item = data.train.pairs.transposed()
    weight = by_item.lengths.clamp(min=1).float().rsqrt()[by_item.rows]
    matrix = torch.sparse_coo_tensor(torch.stack([by_item.rows, by_item.values]), weight, (len(by_item), by_item.width))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, size, _ = torch.svd_lowrank(matrix.coalesce(), q=min(width, *matrix.shape), niter=2)
    return left * size


class MMR:
    """Maximal marginal relevance of the best items of many users at once; see `Diversity`.

    Args:
        unit: `(n_items, d)` vectors of length 1, or 0 for an item that is similar to none.
        weight, pool: as in `Diversity`.

    Example:
        >>> unit = torch.tensor([[0., 0.], [1., 0.], [1., 0.], [0., 1.]])
        >>> best, place = torch.tensor([[3., 2.9, 1.]]), torch.tensor([[0, 1, 2]])  # of the items 1, 2, 3
        >>> MMR(unit, 0.5).best(best, torch.tensor([1, 2, 3]), place, k=2)[1]  # 2 is like 1
        tensor([[0, 2]])
    """

    def __init__(self, unit: Tensor, weight: float, pool: int = 100):
        self.unit, self.weight, self.pool = unit, weight, pool

    def pool_for(self, k: int) -> int:
        """The number of a user's best items from which a list of `k` is chosen."""
        return max(self.pool, k)

    def best(self, scores: Tensor, candidates: Tensor, position: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The scores and positions `(b, min(k, p))` of the lists, chosen from those `(b, p)` of the pools; -inf last.

        Args:
            scores: in descending order, -inf where there is no item.
            candidates: `(c,)` the items at the positions.
            position, k: of the pool's items among them; how many to choose.
        """
        return self._chosen(scores, position, candidates[position.cpu()], k)

    def shown(self, source, rows: Tensor, logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The same for a block of users of a source of candidates; see `ranking.rank_pairs`."""
        best, position = logits.topk(min(self.pool_for(k), logits.shape[1]), dim=1)
        return self._chosen(best, position, source.items(rows, position.cpu()), k)

    def _chosen(self, scores: Tensor, position: Tensor, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
        step = max(1, FLOATS // max(1, items.shape[1] * self.unit.shape[1]))
        parts = zip(scores.float().cpu().split(step), items.split(step), strict=True)
        order = torch.cat([self._order(*part, k) for part in parts]) if len(items) else items[:, :k]
        order = order.to(scores.device)
        return scores.gather(1, order), position.gather(1, order)

    def _order(self, scores: Tensor, items: Tensor, k: int) -> Tensor:
        """Places `(b, min(k, p))` in the pools in the order of the lists."""
        there = scores > -torch.inf
        low = scores.where(there, torch.inf).amin(1, keepdim=True)
        spread = (scores[:, :1] - low).clamp(min=torch.finfo(scores.dtype).tiny)
        left = ((1 - self.weight) * (scores - low) / spread).where(there, -torch.inf)  # of those not yet chosen
        vectors, rows = self.unit[items], torch.arange(len(items))  # (b, p, d)
        order, nearest = torch.empty(len(items), min(k, items.shape[1]), dtype=torch.int64), None
        for j in range(order.shape[1]):
            value = left if nearest is None else left - self.weight * nearest
            # where nothing is left, the next place that has no item
            value = torch.where(there, value, torch.finfo(value.dtype).min)
            if j:
                value.scatter_(1, order[:, :j], -torch.inf)
            order[:, j] = value.argmax(1)
            cosine = torch.bmm(vectors, vectors[rows, order[:, j]][..., None]).squeeze(2)  # (b, p)
            nearest = cosine if nearest is None else torch.maximum(nearest, cosine)
        return order
