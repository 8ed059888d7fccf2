"""Recipes: hyper-parameters for `CollFilter` on ratings, chosen on validation parts of MovieLens.

The table in benchmarks/README.md shows the results of each, and the data on which it was chosen.
"""

from dataclasses import dataclass

__all__ = ["Recipe", "QUALITY_100K", "QUALITY_1M", "FAST_100K", "rating_recipe"]


@dataclass(frozen=True)
class Recipe:
    """Arguments of a one-cycle fit of `CollFilter` with weight decay on the factors.

    Args:
        n_factors: length of the factor vectors.
        bs: rows per batch.
        n_epoch, lr, wd: arguments of `learn.fit_one_cycle(n_epoch, lr, wd=wd)`.
    """

    n_factors: int
    bs: int
    n_epoch: int
    lr: float
    wd: float


QUALITY_100K = Recipe(n_factors=100, bs=256, n_epoch=8, lr=5e-3, wd=0.7)
QUALITY_1M = Recipe(n_factors=128, bs=2048, n_epoch=12, lr=2.5e-3, wd=0.4)
FAST_100K = Recipe(n_factors=64, bs=512, n_epoch=5, lr=1e-2, wd=0.7)


def rating_recipe(n_rows: int) -> Recipe:
    """Return the quality recipe for about `n_rows` training ratings: more rows need larger batches and less decay.

    Example:
        >>> rating_recipe(80_000).bs, rating_recipe(900_000).bs
        (256, 2048)
    """
    return QUALITY_100K if n_rows < 300_000 else QUALITY_1M
