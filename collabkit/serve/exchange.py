"""Exchange with other tools: vectors, matrices, runs and relevance judgements; weights of other packages.

See the methods of `Recommender` with the same names.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.data.checks import one_of
from collabkit.data.dataset import Dataset, joined
from collabkit.data.frames import to_pandas
from collabkit.data.interactions import Columns, Interactions
from collabkit.data.notices import say
from collabkit.data.vocab import Vocab
from collabkit.models import CollFilter
from collabkit.models.base import answering
from collabkit.serve.wanted import Wanted

if TYPE_CHECKING:
    import scipy.sparse

    from collabkit.serve.recommender import Recommender

__all__ = ["from_factors", "implicit_factors", "lightfm_factors", "to_qrels", "to_run", "to_scipy", "vectors"]


@torch.no_grad()
def vectors(recommender: "Recommender", side: str) -> tuple[pd.Index, np.ndarray]:
    """See `Recommender.vectors`."""
    one_of("side", side, ("items", "users"))
    model = recommender.model
    if not model.has_vectors:
        raise TypeError(f"the scores of {type(model).__name__} are not dot products, so it has no vectors; "
                        "use similar_items and predict")  # fmt: skip
    vocab = getattr(recommender, side)
    with answering(model):
        if side == "items":
            found = model.item_vectors(torch.arange(1, len(vocab), device=model.device)).float().cpu()
        else:
            parts = torch.arange(1, len(vocab)).split(2**14)
            found = torch.cat(
                [model.user_vectors(recommender.query(part).to(model.device)).float().cpu() for part in parts]
            )
    return vocab.ids, found.numpy()


def to_scipy(data: Dataset, part: str) -> "tuple[scipy.sparse.csr_array, pd.Index, pd.Index]":
    """See `Recommender.to_scipy`."""
    import scipy.sparse

    parts = {"known": [*data.parts], "train": [data.train], "valid": [data.valid]}
    one_of("part", part, parts)
    chosen = [rows for rows in parts[part] if rows is not None]
    if not chosen:
        raise ValueError("there is no validation part")
    rows = joined(*chosen)
    rows = rows.take((rows.user_idx > 0) & (rows.item_idx > 0))
    if rows.rating is not None:  # the last rating of repeated pairs
        rows = rows.take(rows.by_user.values)
        rows = rows.take(~pd.Series(rows.pair_keys().numpy()).duplicated(keep="last").to_numpy())
    values = np.ones(len(rows), dtype=np.float32) if rows.rating is None else rows.rating.numpy()
    at = (rows.user_idx.numpy() - 1, rows.item_idx.numpy() - 1)
    matrix = scipy.sparse.coo_array((values, at), shape=(data.n_users - 1, data.n_items - 1)).tocsr()
    matrix.sum_duplicates()
    return matrix, data.users.ids, data.items.ids


def to_run(
    recommender: "Recommender", k: int, on, candidates, threshold: float | None = None
) -> dict[str, dict[str, float]]:
    """See `Recommender.to_run`."""
    if on is None:
        lists = recommender.recommend(k=k, items=candidates)
    else:
        task = recommender.task(on, candidates=candidates, threshold=threshold)
        users = torch.from_numpy(task.unique)
        asked = {recommender.columns.user: recommender.users.decode(task.unique)}
        wanted = Wanted(k, task.candidates, task.hidden)
        lists = recommender._lists(asked, users, task.asker(recommender.model), wanted)
    user, item = (_texts(lists[name]) for name in (recommender.columns.user, recommender.columns.item))
    run: dict[str, dict[str, float]] = {}
    for one, other, score in zip(user, item, lists["score"].astype(float), strict=True):
        run.setdefault(one, {})[other] = score
    return run


def to_qrels(recommender: "Recommender", on, threshold: float | None) -> dict[str, dict[str, int]]:
    """See `Recommender.to_qrels`."""
    task = recommender.task(on, threshold=threshold)
    users, items = _texts(recommender.users.decode(task.users)), _texts(recommender.items.decode(task.items))
    qrels: dict[str, dict[str, int]] = {}
    for user, item in zip(users, items, strict=True):
        qrels.setdefault(user, {})[item] = 1
    return qrels


def _texts(ids: Iterable) -> list[str]:
    """Ids as strings, as retrieval tools need them."""
    return [str(one) for one in ids]


def implicit_factors(source) -> tuple[np.ndarray, np.ndarray]:
    """The factors of users and items of a model of `implicit`, on the CPU.

    Raises:
        TypeError: it has none.
    """
    found = [getattr(source, f"{side}_factors", None) for side in ("user", "item")]
    if any(part is None for part in found):
        raise TypeError(f"{type(source).__name__} has no user_factors and item_factors: expected a fitted "
                        "matrix factorisation of implicit, e.g. AlternatingLeastSquares")  # fmt: skip
    users, items = (np.asarray(part.to_numpy() if hasattr(part, "to_numpy") else part) for part in found)
    return users, items


def lightfm_factors(source, user_features=None, item_features=None) -> tuple[tuple, tuple]:
    """`(biases (n,), embeddings (n, d))` of the users and of the items of a LightFM model.

    Raises:
        TypeError: it has none.
    """
    names = ("get_user_representations", "get_item_representations")
    if not all(hasattr(source, name) for name in names):
        raise TypeError(f"{type(source).__name__} has no {names[0]}: expected a fitted LightFM model")
    users, items = source.get_user_representations(user_features), source.get_item_representations(item_features)
    return tuple(map(np.asarray, users)), tuple(map(np.asarray, items))


def from_factors(
    users: np.ndarray, items: np.ndarray, biases, user_ids, item_ids, events
) -> tuple[CollFilter, Dataset]:
    """A `CollFilter` whose logits are `users @ items.T` plus biases, and its data.

    Args:
        users, items: factors `(n, d)`.
        biases: of users `(n,)` and of items, or None.
        user_ids, item_ids: `(n,)` external ids, row by row.
        events: the users' events: a DataFrame with the columns `user` and `item` (or as the ids are named),
            a scipy matrix `(n_users, n_items)`, or None.
    """
    vocabs = []
    for name, ids, factors in (("user", user_ids, users), ("item", item_ids, items)):
        if factors.ndim != 2 or len(factors) != len(ids):
            raise ValueError(f"{len(ids):,} {name} ids for {name} factors of shape {factors.shape}: give one id a row")
        if not np.isfinite(factors).all():
            raise ValueError(f"the {name} factors have NaN or infinite numbers")
        vocabs.append(Vocab(ids, getattr(ids, "name", None) or name))
    if users.shape[1] != items.shape[1]:
        raise ValueError(f"users have {users.shape[1]} factors and items {items.shape[1]}: they do not belong together")
    data = Dataset(_known(events, *vocabs))
    model = CollFilter(data.n_users, data.n_items, users.shape[1]).name_rows(*vocabs)
    own = biases or (np.zeros(len(users)), np.zeros(len(items)))
    for side, factors, bias in zip(model.sides, (users, items), own, strict=True):
        rows = [_tensor(factors), _tensor(bias)[:, None]]
        side.write(torch.arange(1, side.n), rows)
        side.write(torch.zeros(1, dtype=torch.int64), [part.mean(0) for part in rows])  # of an unknown id
    model.trained = True
    return model.eval(), data


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _known(events, users: Vocab, items: Vocab) -> Interactions:
    """Interactions by two vocabularies."""
    columns, none = Columns(users.name, items.name), torch.zeros(0, dtype=torch.int64)
    if events is None:
        return Interactions(none, none, None, None, users, items, columns)
    is_matrix = hasattr(events, "tocoo")
    events = events if is_matrix else to_pandas(events)
    if isinstance(events, pd.DataFrame):
        rows = Interactions.from_df(events, columns, users=users, items=items)
        known = (rows.user_idx > 0) & (rows.item_idx > 0)  # the others were counted in a warning
        return rows if bool(known.all()) else rows.take(known)
    if not is_matrix:
        raise TypeError("events must be a DataFrame with the columns "
                        f"{columns.present}, or a scipy matrix; got {type(events).__name__}")  # fmt: skip
    matrix = events.tocoo()
    if matrix.shape != (len(users) - 1, len(items) - 1):
        raise ValueError(f"the events are a matrix {matrix.shape} for {len(users) - 1:,} users and {len(items) - 1:,} "
                         "items; give users in its rows and items in its columns")  # fmt: skip
    there = matrix.data != 0
    if zeros := int((~there).sum()):
        say(f"{zeros:,} of {len(there):,} stored entries of the matrix are 0 and are no events")
    at = (torch.from_numpy(part[there].astype(np.int64) + 1) for part in (matrix.row, matrix.col))
    rows = Interactions(*at, None, None, users, items, columns)
    return rows if rows.n_duplicates() == 0 else rows.take(~pd.Series(rows.pair_keys().numpy()).duplicated())
