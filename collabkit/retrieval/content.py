"""Similarity of items by their features, independent of who has met them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from collabkit.data.dataset import Dataset
from collabkit.data.features.weighting import centred, tfidf
from collabkit.models.base import Model

__all__ = ["ContentCosines"]


class ContentCosines:
    """The cosines of items by their features; calling it returns those of some items with all.

    Categories count by tf-idf, in rows of length 1. Numbers, and the model's encodings of texts and pictures, are
    centred and scaled to a mean square length of 1. No matrix of items by items, or of items by categories, is made
    dense.

    Args:
        model: provides the encoders, if items have texts or pictures.
        data: with item features.

    Raises:
        TypeError: there are no item features, or content without an encoder.

    Example:
        >>> import pandas as pd
        >>> from collabkit import CollabDataLoaders, ContentKNN
        >>> events = pd.DataFrame({'user': [1, 1, 2, 2], 'item': ['a', 'b', 'b', 'c']})
        >>> items = pd.DataFrame({'item': ['a', 'b', 'c'], 'tags': ['x|y', 'x', 'y|x']})
        >>> dls = CollabDataLoaders.from_df(events, feedback='implicit', items=items, item_features={'tags': 'multi'},
        ...                                 valid_pct=0)
        >>> ContentCosines(ContentKNN().fit(dls), dls.data)(torch.tensor([1]))[0, 1:].round(decimals=2)
        tensor([1.0000, 0.6100, 1.0000])
    """

    def __init__(self, model: Model, data: Dataset):
        features, rows = data.features.items, model.item_side.features
        if features is None:
            raise TypeError("by='content' compares item features, and the data has none: make the dataloaders with "
                            "items=, a table of them, or use by='vectors'")  # fmt: skip
        encoders = {} if rows is None else {field.field.name: field for field in rows.fields if field.encoder}
        plain = [j for j, field in enumerate(features.fields) if not field.has_encoder]
        learned = [field.name for field in features.fields if field.has_encoder]
        if odd := [name for name in learned if name not in encoders]:
            raise TypeError(f"features {odd} are texts or pictures, and {type(model).__name__} has no trained "
                            "encoder for them")  # fmt: skip
        fields, kept = (tuple(part[j] for j in plain) for part in (features.fields, features.rows))
        self.sparse, numbers = tfidf(replace(features, fields=fields, rows=kept), features.given.numpy())
        every = torch.arange(data.n_items)
        seen = [encoders[name].numbers(every.to(model.device)).float().cpu() for name in learned]
        self.given, numbers = features.given, torch.cat([torch.from_numpy(numbers), *seen], dim=1).numpy()
        self.dense = torch.from_numpy(centred(numbers, self.given.numpy()))
        length = np.asarray(self.sparse.multiply(self.sparse).sum(1)).ravel() + self.dense.square().sum(1).numpy()
        scale = np.where(self.given.numpy(), 1 / np.sqrt(np.maximum(length, 1e-12)), 0).astype(np.float32)
        self.sparse = self.sparse.multiply(scale[:, None]).tocsr()
        self.dense *= torch.from_numpy(scale)[:, None]

    def __call__(self, rows: Tensor) -> Tensor:
        """`(b, n_items)` float32 of items `(b,)`; -inf for items without known features.

        Raises:
            ValueError: one of the queried items has none.
        """
        if bare := int((~self.given[rows]).sum()):
            raise ValueError(f"{bare} of the items have no known features: by='content' has nothing to compare; use "
                             "by='vectors'")  # fmt: skip
        at = rows.numpy()
        found = torch.from_numpy((self.sparse[at] @ self.sparse.T).toarray().astype(np.float32, copy=False))
        found += self.dense[rows] @ self.dense.T
        return found.masked_fill_(~self.given, -torch.inf)
