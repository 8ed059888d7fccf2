"""`audit`: what is in the data, and what could bias an evaluation on it."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.data.checks import at_least, whole
from collabkit.data.interactions import SIDES, Interactions
from collabkit.data.unique import sorted_unique
from collabkit.evaluate.task import default_threshold

__all__ = ["audit", "chance_level"]


def audit(train: Interactions, valid: Interactions, *, k: int = 10) -> pd.DataFrame:
    """Size, repetitions, leaks from the future, cold ids, concentration, and what chance would score.

    Args:
        train, valid: the two parts, with the same vocabularies.
        k: cut-off of the metrics whose chance level is given.

    Returns:
        DataFrame indexed by `check`, with the columns `value` (a count or a share) and `meaning`. Rows about time are
        there if the events have times.

    The clearest sign of a leak is the count of `training rows from their user's future`: it is 0 unless training
    contains events after the evaluated ones, as with a random split. Later events of other users (`training rows from
    the future`) are always in training if each user's last event is held out; `collabkit.backtest` has neither.

    Example:
        >>> from collabkit.data.interactions import Columns
        >>> df = pd.DataFrame({'user': [1, 1, 2, 2], 'item': ['a', 'b', 'a', 'c'], 'time': [1, 4, 2, 3]})
        >>> data = Interactions.from_df(df, Columns('user', 'item', time='time'))
        >>> table = audit(data.take([0, 1, 2]), data.take([3]))
        >>> table.loc['training rows', 'value'], round(table.loc['training rows from the future', 'value'], 2)
        (3, 0.33)
    """
    k = whole("k", k)
    rows = [*_sizes(train, valid), *_times(train, valid), *_cold(train, valid), *_concentration(train)]
    users, n_relevant = _relevant(train, valid)
    if len(users):
        n_candidates = train.n_items - 1 - train.pairs.lengths[users].numpy()
        levels = chance_level(n_candidates, n_relevant.numpy(), k)
        meaning = f"of a random order of each user's unseen items, over {len(users):,} users with something to find"
        rows += [(f"chance level of {name}", value, meaning) for name, value in levels.items()]
    table = pd.DataFrame(rows, columns=["check", "value", "meaning"], dtype=object)  # counts stay whole numbers
    return table.set_index("check")


def chance_level(n_candidates: np.ndarray, n_relevant: np.ndarray, k: int) -> dict[str, float]:
    """Expected metrics at k of a random order, averaged over users.

    Args:
        n_candidates, n_relevant: `(n_users,)` how many candidates each user has, and how many of them are relevant.
        k: cut-off.

    Example:
        >>> levels = chance_level(np.array([100]), np.array([1]), k=10)
        >>> [(name, round(float(levels[name]), 4)) for name in ('HitRate@10', 'NDCG@10', 'MRR@10')]
        [('HitRate@10', 0.1), ('NDCG@10', 0.0454), ('MRR@10', 0.0293)]
    """
    n, r = np.asarray(n_candidates, dtype=np.float64), np.asarray(n_relevant, dtype=np.float64)
    n, cut = np.maximum(n, r), k
    k = min(k, int(n.max(initial=1)))  # nothing is beyond
    rank = np.arange(1, k + 1, dtype=np.float64)[:, None]  # (k, 1)
    possible = rank <= n  # (k, n_users): is there such a rank?
    share = np.where(possible, r / n, 0.0)  # chance of a hit at each rank
    # None of the first j is relevant with the probability prod_{i<j} (n - r - i) / (n - i).
    miss = np.cumprod(np.clip(n - r - rank + 1, 0, None) / np.clip(n - rank + 1, 1, None), axis=0)
    first = np.concatenate([np.ones((1, len(n))), miss[:-1]]) - miss  # the first hit is at rank j
    discount = 1 / np.log2(rank + 1)
    best = np.cumsum(discount)[np.minimum(r, k).astype(int) - 1]
    others = 1 + (rank - 1) * (r - 1) / np.maximum(n - 1, 1)  # hits up to and at j, given one at j
    values = {
        "HitRate": 1 - miss[-1],
        "Precision": share.sum(0) / cut,
        "Recall": share.sum(0) / r,
        "NDCG": (share * discount).sum(0) / best,
        "MAP": (share * others / rank).sum(0) / np.minimum(r, k),
        "MRR": (first / rank).sum(0),
    }
    return {**{f"{name}@{cut}": float(value.mean()) for name, value in values.items()}, "AUC": 0.5}


def _sizes(train: Interactions, valid: Interactions) -> list[tuple]:
    both = Interactions.concat(train, valid)
    n_users, n_items = (int((both.counts(side) > 0).sum()) for side in SIDES)
    repeated = both.n_duplicates()
    return [
        ("training rows", len(train), "events the model learns from"),
        ("validation rows", len(valid), "events held out"),
        ("users", n_users, "with an event in either part"),
        ("items", n_items, "with an event in either part"),
        ("density", (len(both) - repeated) / (n_users * n_items), "share of all pairs with an event"),
        ("repeated pairs", repeated, "rows whose (user, item) pair occurs in an earlier row"),
    ]


def _times(train: Interactions, valid: Interactions) -> list[tuple]:
    if train.time is None or valid.time is None or not len(valid):
        return []
    both = Interactions.concat(train, valid)
    moments = torch.unique(torch.stack([both.user_idx, both.time], 1), dim=0, return_counts=True)[1]
    tied = float(moments[moments > 1].sum()) / len(both)
    last = torch.full((train.n_users,), torch.iinfo(torch.int64).min)
    last = last.scatter_reduce(0, train.user_idx, train.time, "amax")
    own = float((last[valid.user_idx] > valid.time).double().mean())
    future = float((train.time > valid.time.min()).double().mean())
    never = torch.iinfo(torch.int64).max
    asked = torch.full((train.n_users,), never).scatter_reduce(0, valid.user_idx, valid.time, "amin")
    leaked = train.time > asked[train.user_idx]  # never for users without validation rows
    leak = "later than their user's first validation row: a model that learns from them knows the future"
    same = "share of rows with another event of the same user at the same time: their order is unknown"
    later = "share of validation rows whose user has a later training row"
    return [
        ("tied times", tied, same),
        ("training rows from the future", future, "share of training rows later than the first validation row"),
        ("validation rows before their user's training", own, later),
        ("training rows from their user's future", int(leaked.sum()), f"{leak}; splits.time_split leaves none"),
        ("users with training rows from their future", len(train.user_idx[leaked].unique()), "who have such rows"),
    ]


def _cold(train: Interactions, valid: Interactions) -> list[tuple]:
    rows = []
    for side in SIDES:
        what, idx = f"{side}s", valid.indices(side)
        cold = idx[train.counts(side)[idx] == 0]
        n_cold = int((torch.bincount(cold) > 0).sum())
        rows.append((f"cold {what} of the validation part", n_cold, "without a training row"))
        rows.append((f"validation rows of cold {what}", len(cold), "which a model of ids cannot predict"))
    return rows


def _concentration(train: Interactions) -> list[tuple]:
    counts = train.counts("item")[1:].double().sort().values
    counts = counts[counts > 0]
    n = len(counts)
    gini = float((2 * torch.arange(1, n + 1) - n - 1).double() @ counts / (n * counts.sum()))
    top = max(1, round(0.01 * n))
    share = float(counts[-top:].sum() / counts.sum())
    return [
        ("Gini of item popularity", gini, "0: all items have equally many training rows; near 1: a few have them all"),
        ("rows of the top 1 % of items", share, f"share of the training rows that the {top:,} most popular items have"),
    ]


def _relevant(train: Interactions, valid: Interactions) -> tuple[Tensor, Tensor]:
    """Users with a relevant validation item, and how many of these each has, `(m,)` each."""
    keep = valid.user_idx > 0
    if valid.rating is not None:
        keep &= torch.from_numpy(at_least(valid.rating, default_threshold(train)))
    keys = torch.from_numpy(sorted_unique(valid.pair_keys()[keep].numpy()))
    return torch.unique_consecutive(keys // valid.n_items, return_counts=True)
