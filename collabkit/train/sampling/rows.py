"""Negatives drawn separately for each row, which its user has not seen."""

import math

import torch
from torch import Tensor

from collabkit.data.interactions import Interactions
from collabkit.data.notices import say
from collabkit.data.runs import Runs
from collabkit.train.sampling.weights import item_weights

__all__ = ["KnownNegatives", "PopularityNegatives", "UniformNegatives"]

PART = 2**18  # events at once in computations over all events


class PopularityNegatives:
    """Items that the user has not seen, with probability proportional to `n_events ** alpha`; exact, without rejection.

    Each item owns an interval of whole numbers, as long as its weight, on one line. Taking the intervals of a user's
    seen items s_0 < s_1 < ... out of it moves what lies after them to the left, so that s_j would begin at
    `key_j = begin(s_j) - (weights of s_0 .. s_{j-1})`. For r uniform in [0, weight of the unseen items) the point
    `r + (weights of the s_j with key_j <= r)` lies in an unseen item's interval, each with its own share. Counting the
    keys is one `searchsorted` for a whole batch, because the keys of user u are offset by `u * total`.

    Items without a training row, the unknown item 0 among them, are never drawn.

    Args:
        train: training interactions.
        alpha: 0 is uniform; 0.75 is the word2vec choice (Mikolov et al. 2013), 1 draws by popularity.
        device: where it draws.

    Raises:
        ValueError: `alpha` is negative, or nobody has an unseen item.

    Example:
        >>> import pandas as pd
        >>> from collabkit.data.interactions import Columns
        >>> df = pd.DataFrame({'user': [1, 1, 2, 2, 3, 3], 'item': list('abbcca')})
        >>> sampler = PopularityNegatives(Interactions.from_df(df, Columns('user', 'item')))
        >>> sampler.draw(torch.tensor([1, 2, 3]), 2)  # one unseen item each
        tensor([[3, 3],
                [1, 1],
                [2, 2]])
    """

    shared = False

    def __init__(self, train: Interactions, alpha: float = 0.75, *, device=None):
        self.n_users = train.n_users
        self.weight = item_weights(train, alpha)  # (n_items,) whole numbers
        end = self.weight.cumsum(0)
        self.total = int(end[-1])
        self.start, self.end, self._flat = train.pairs.start, end, bool((self.weight <= 1).all())
        before = None if self._flat else _before(self.weight, train.pairs.values)
        self._seen = train.pairs if train.pairs.mapped else None  # a file gets no array of its length but `taken`
        self.keys = end.new_zeros(0) if self._seen is not None else self._keys(train.pairs, before)
        # taken[position in keys] - taken[start of the user] is the skipped weight; the number of keys if all weights
        # are 1
        self.taken = torch.zeros(0, dtype=torch.int64) if before is None else before
        skipped = self.start if before is None else before[self.start]
        self.left = self.total - skipped.diff()  # (n_users,) unseen weight
        # If all weights are 1, a point on the line is a position among the items that can be drawn; the position after
        # the last one, where a user who has seen everything ends, is the unknown item.
        self.drawable = torch.cat([self.weight.nonzero().squeeze(1), end.new_zeros(1)])
        self._some_full = bool((self.left == 0).any())
        there = train.counts("user") > 0
        full = int(((self.left == 0) & there).sum())
        if full and not (self.left[there] > 0).any():
            raise ValueError("every user has seen every item: there is nothing to draw negatives from")
        if full:
            say(f"{full:,} users have seen every item: their rows are trained without negatives")
        self.to(device)

    def _keys(self, seen: Runs, before: Tensor | None) -> Tensor:
        """The keys `(m,)` of all users' seen items; int32 if they fit, which is faster to search."""
        kind = torch.int32 if (self.n_users + 1) * self.total < 2**31 else torch.int64
        keys, begin = torch.empty(len(seen.values), dtype=kind), self.end - self.weight
        for at in range(0, len(keys), PART):
            items = seen.values[at : at + PART]
            place = torch.arange(at, at + len(items))
            users = torch.searchsorted(self.start, place, right=True) - 1
            first = self.start[users]
            taken = place - first if before is None else before[place] - before[first]
            keys[at : at + PART] = users * self.total + begin[items] - taken
        return keys

    def to(self, device):
        """Move the tables to `device` (None is the CPU)."""
        self.device = torch.device("cpu" if device is None else device)
        for name in ("keys", "start", "left", "taken", "end", "weight", "drawable"):
            setattr(self, name, getattr(self, name).to(self.device))
        self._log_left = self.left.double().log().float()
        self._log_weight = self.weight.double().log().float()
        return self

    def draw(self, users: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`(b, n)` int64 items that `users` `(b,)` have not seen; 0 for a user who has seen everything."""
        left = self.left[users]  # (b,)
        point = torch.rand(len(users), n, generator=generator, device=self.device, dtype=torch.float64)
        point = point.mul_(left[:, None]).long()  # uniform in [0, left)
        at = self._passed(users, point)
        if self._flat:  # the number of keys passed is the weight skipped
            return self.drawable[point.add_(at).sub_(self.start[users][:, None])]
        point += self.taken[at] - self.taken[self.start[users]][:, None]
        items = torch.searchsorted(self.end, point, right=True)
        return items.masked_fill_((left == 0)[:, None], 0) if self._some_full else items

    def _passed(self, users: Tensor, point: Tensor) -> Tensor:
        """How many keys `(b, n)`, including other users', lie before the points `(b, n)` of `users` `(b,)`."""
        if self._seen is None:
            key = (users * self.total)[:, None] + point
            return torch.searchsorted(self.keys, key.to(self.keys.dtype), right=True)
        first, begin = self.start[users][:, None], self.end - self.weight
        if self._flat:
            most, key = point - first, lambda items, at: begin[items] - at
        else:
            most, key = point - self.taken[first], lambda items, at: begin[items] - self.taken[at]
        return first + self._seen.count_below(users[:, None].expand_as(point), most, key)

    def log_prob(self, users: Tensor, items: Tensor) -> Tensor:
        """Log-probability `(b, n)` of drawing `items` `(b, n)` for `users` `(b,)`, given that they are unseen."""
        return self._log_weight[items] - self._log_left[users][:, None]

    def log_counts(self, users: Tensor, items: Tensor) -> Tensor:
        """Log of the expected count `(b, n)` of each of the `n` drawn items in its row; inf: not a negative."""
        return (self.log_prob(users, items) + math.log(items.shape[1])).masked_fill(items == 0, torch.inf)


def _before(weight: Tensor, items: Tensor) -> Tensor:
    """Sums `(m + 1,)` of the weights of `items` `(m,)` before each place, a bounded number of them at once."""
    found = weight.new_zeros(len(items) + 1)
    for at in range(0, len(items), PART):
        part = weight[items[at : at + PART]]
        torch.cumsum(part, 0, out=found[at + 1 : at + 1 + len(part)])
        found[at + 1 : at + 1 + len(part)] += found[at]
    return found


class UniformNegatives(PopularityNegatives):
    """Items that the user has not seen, all equally likely; `PopularityNegatives` with `alpha=0`."""

    def __init__(self, train: Interactions, *, device=None):
        super().__init__(train, 0.0, device=device)

    def log_counts(self, users: Tensor, items: Tensor) -> Tensor:
        """`(b, 1)`, the same for all items of a row; see `PopularityNegatives.log_counts`."""
        return math.log(items.shape[1]) - self._log_left[users][:, None]  # inf where nothing is unseen


class KnownNegatives:
    """Negatives whose first one in each row is an item that the user dislikes; the others come from a sampler.

    Users without dislikes get only negatives from the sampler. The sampler must not draw disliked items; it does not if
    it was made from events that include these pairs.

    Args:
        sampler: a sampler with separate negatives for each row, e.g. `UniformNegatives`.
        disliked: the disliked items by user.

    Raises:
        ValueError: the sampler shares its negatives within the batch.

    Example:
        >>> import pandas as pd
        >>> from collabkit.data.interactions import Columns
        >>> df = pd.DataFrame({'user': [1, 1, 2, 2], 'item': list('abcd')})
        >>> sampler = KnownNegatives(UniformNegatives(Interactions.from_df(df, Columns('user', 'item'))),
        ...                          Runs.pairs([1], [2], 3, 5))
        >>> sampler.draw(torch.tensor([1, 1]), 2)[:, 0]
        tensor([2, 2])
    """

    shared = False

    def __init__(self, sampler, disliked: Runs):
        if sampler.shared:
            raise ValueError("known negatives need a sampler of each row's own: 'uniform' or 'popularity'")
        self.sampler, self.disliked = sampler, disliked
        self.to(getattr(sampler, "device", None))

    def to(self, device):
        """Move the tables to `device` (None is the CPU)."""
        self.sampler.to(device)
        self.disliked = self.disliked.to("cpu" if device is None else device)
        return self

    def draw(self, users: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`(b, n)` int64 items; see the class."""
        items = self.sampler.draw(users, n, generator)
        lengths = self.disliked.lengths[users]
        point = torch.rand(len(users), generator=generator, device=items.device, dtype=torch.float64)
        at = (self.disliked.start[users] + (point * lengths).long()).clamp(max=len(self.disliked.values) - 1)
        items[:, 0] = torch.where(lengths > 0, self.disliked.values[at], items[:, 0])
        return items

    def log_counts(self, users: Tensor, items: Tensor) -> Tensor:
        """Log of the expected count `(b, n)` of each item in its row; inf: not a negative."""
        n, lengths = items.shape[1], self.disliked.lengths[users]
        own = self.sampler.log_counts(users, items).expand(-1, n)  # of n draws
        some = (lengths > 0)[:, None]
        others = own[:, 1:] + (math.log((n - 1) / n) if n > 1 else 0.0)
        first = torch.where(some, -lengths[:, None].clamp(min=1).double().log().to(own.dtype), own[:, :1])
        return torch.cat([first, torch.where(some, others, own[:, 1:])], dim=1)
