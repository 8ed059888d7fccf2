"""`grow`: room in a trained model's tables for new ids; nothing is trained again."""

from __future__ import annotations

from contextlib import contextmanager

import torch

from collabkit.features import Features
from collabkit.models.base import CollabModel
from collabkit.vocab import Vocab

__all__ = ["grow", "undone_on_error"]


@torch.no_grad()
def grow(model: CollabModel, vocab: Vocab, *, is_item: bool, features: Features | None = None) -> None:
    """Give one side's tables a row for each id that `vocab` has at its end beyond the model's.

    An id with features gets the row that `cold_rows.fit_cold_head` has learned from them; the others, which wait for a
    fold-in, zeros.

    Args:
        model: changed in place. An optimiser made before knows the tables' old sizes: make a new one.
        vocab: the ids, beginning with the present ones.
        is_item: the side.
        features: of all ids of `vocab`, where the side has features.
    """
    first = len(model.tables(is_item)[0])
    for table in model.embeddings(is_item):
        new = table.weight.new_zeros(len(vocab) - len(table.weight), table.weight.shape[1])
        _put(table, torch.cat([table.weight, new]))
    side = model.features_of(is_item)
    if side is not None:
        side.extend(features)
        known = torch.arange(first, len(vocab))[features.given[first:]]
        model.set_rows(is_item, known, side.cold_rows(known))
    _set_ids(model, vocab, is_item)


@contextmanager
def undone_on_error(model: CollabModel):
    """Within it the model may grow; where an error leaves it, the model is as it was."""
    tables = [(table, table.weight.data) for side in (False, True) for table in model.embeddings(side)]
    vocabs, features = (model.users, model.items), model.features
    try:
        yield
    except BaseException:
        for table, rows in tables:
            _put(table, rows)
        for is_item, (vocab, side) in enumerate(zip(vocabs, features, strict=True)):
            if side is not None:
                model.features_of(bool(is_item)).extend(side)
            _set_ids(model, vocab, bool(is_item))
        raise


def _put(table, rows) -> None:
    """Put `rows` in the place of a table's, whose parameter stays the same object: weight decay goes by it."""
    table.weight.data, table.weight.grad = rows, None
    table.num_embeddings = len(rows)


def _set_ids(model: CollabModel, vocab: Vocab | None, is_item: bool) -> None:
    n = len(model.tables(is_item)[0])
    if is_item:
        model.n_items, model.items = n, vocab
    else:
        model.n_users, model.users = n, vocab
