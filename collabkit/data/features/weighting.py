"""Weights of categories for the comparison of items, by rarity; and numbers on the same scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from collabkit.data.features.fields import rarity
from collabkit.data.features.table import Features

if TYPE_CHECKING:
    import scipy.sparse

__all__ = ["bm25", "centred", "tfidf"]

K1, B = 1.2, 0.75  # of BM25, as usual


def tfidf(features: Features, met: np.ndarray) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """Categories by tf-idf `(n, p)`, rows of length 1, and the numbers `(n, q)`; `met` `(n,)` are the trained ids.

    The weight of a category is that of `fields.rarity`; "(none)", the first of each field, has none.
    """
    bags, numbers = features.sparse_matrix()
    bags.data[:] = 1.0
    weight = rarity(met.sum(), np.asarray(bags[met].sum(0)).ravel())
    weight[_nones(features)] = 0
    bags = bags.multiply(weight).tocsr()
    length = np.sqrt(np.asarray(bags.multiply(bags).sum(1)).ravel())
    return bags.multiply(1 / np.maximum(length, 1e-9)[:, None]).tocsr(), numbers


def bm25(features: Features, met: np.ndarray) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """Categories by BM25 `(n, p)`, and the numbers `(n, q)`; see `tfidf`."""
    bags, numbers = features.sparse_matrix()
    bags.data[:] = 1.0
    n, having = met.sum(), np.asarray(bags[met].sum(0)).ravel()
    weight = np.log1p((n - having + 0.5) / (having + 0.5))
    weight[_nones(features)] = 0
    length = np.asarray(bags.sum(1)).ravel()
    damped = (K1 + 1) / (1 + K1 * (1 - B + B * length / max(float(length[met].mean()), 1e-9)))
    return bags.multiply(damped[:, None]).multiply(weight).tocsr(), numbers


def centred(numbers: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Numbers `(n, q)` less their mean over the ids `given` `(n,)`, of mean square length 1; zeros of the others."""
    if not numbers.shape[1]:
        return numbers
    numbers = (numbers - numbers[given].mean(0)) * given[:, None]
    return numbers / max(float(np.sqrt(np.square(numbers[given]).sum(1).mean())), 1e-9)


def _nones(features: Features) -> np.ndarray:
    """The columns of "(none)" in `Features.sparse_matrix`."""
    return np.cumsum([0, *(field.size for field in features.fields if field.is_bag)])[:-1]
