"""`grow`: room in a trained model's tables for new ids; nothing is trained again."""

from __future__ import annotations

import torch
from torch import nn

from collabkit.features import Features
from collabkit.models.base import CollabModel
from collabkit.vocab import Vocab

__all__ = ["grow"]


@torch.no_grad()
def grow(model: CollabModel, vocab: Vocab, *, is_item: bool, features: Features | None = None) -> None:
    """Give one side's tables a row for each id that `vocab` has at its end beyond the model's.

    An id with features gets the row that `cold_rows.fit_cold_head` has learned from them; the others, which wait for a
    fold-in, zeros.

    Args:
        model: changed in place. Its parameters are new objects, which an optimiser made before does not know.
        vocab: the ids, beginning with the present ones.
        is_item: the side.
        features: of all ids of `vocab`, where the side has features.
    """
    first = len(model.tables(is_item)[0])
    for table in model.embeddings(is_item):
        new = table.weight.new_zeros(len(vocab) - len(table.weight), table.weight.shape[1])
        table.weight = nn.Parameter(torch.cat([table.weight, new]), requires_grad=table.weight.requires_grad)
        table.num_embeddings = len(vocab)
    side = model.features_of(is_item)
    if side is not None:
        side.extend(features)
        known = torch.arange(first, len(vocab))[features.given[first:]]
        for table, rows in zip(model.tables(is_item), side.cold_rows(known), strict=True):
            table[known.to(table.device)] = rows
    if is_item:
        model.n_items, model.items = len(vocab), vocab
    else:
        model.n_users, model.users = len(vocab), vocab
