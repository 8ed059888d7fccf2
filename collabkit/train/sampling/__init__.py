"""Negative sampling: draws items that a user has not seen as negatives for each positive in training.

A sampler is made from the training interactions and draws item indices. There are two kinds with one interface:

- *per row* (`shared = False`): `UniformNegatives`, `PopularityNegatives` draw `(b, n)` items that the row's user has
  not seen in training, exactly, with replacement; `ShownNegatives` draws from another model's lists;
- *shared* (`shared = True`): `SharedNegatives`, `InBatchNegatives`, `AllItems` return items `(m,)` for the whole batch,
  so that the scores are one matrix product; items that a row's user has seen, at least its positive, are masked.

`log_counts` is the log of the expected count of an item among a row's negatives, for the correction of the sampled
softmax; `inf` marks a negative to ignore.
"""

from collections.abc import Callable
from functools import partial

from collabkit.data.checks import one_of
from collabkit.data.interactions import Interactions
from collabkit.train.sampling.rows import KnownNegatives, PopularityNegatives, UniformNegatives
from collabkit.train.sampling.shared import AllItems, InBatchNegatives, SharedNegatives
from collabkit.train.sampling.shown import ShownNegatives
from collabkit.train.sampling.weights import Met

__all__ = [
    "UniformNegatives", "PopularityNegatives", "SharedNegatives", "InBatchNegatives", "AllItems", "ShownNegatives",
    "KnownNegatives", "Met",
    "SAMPLERS", "IN_ORDER", "make_sampler",
]  # fmt: skip

SAMPLERS: dict[str, Callable] = {
    "uniform": UniformNegatives, "popularity": PopularityNegatives, "shared": SharedNegatives,
    "in_batch": InBatchNegatives, "all": AllItems,
}  # fmt: skip


# For windows of histories: shared by the batch, and only a row's own positive is masked: items that the user met long
# ago are negatives for the next item.
IN_ORDER: dict[str, Callable] = {
    "uniform": partial(SharedNegatives, mask_seen=False),
    "popularity": partial(SharedNegatives, alpha=1.0, mask_seen=False),
    "in_batch": partial(InBatchNegatives, mask_seen=False),
    "all": AllItems,
}


def make_sampler(negatives, train: Interactions | Met, named: dict[str, Callable] = SAMPLERS):
    """Create the sampler `negatives`: a name in `named`, or a function of the training interactions."""
    if isinstance(negatives, str) and negatives in named:
        return named[negatives](train)
    if callable(negatives):
        return negatives(train)
    other = "a function of the training interactions such as partial(PopularityNegatives, alpha=0.5)"
    return one_of("negatives", negatives, named, other)
