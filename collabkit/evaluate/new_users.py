"""`evaluate_fold_in`: the quality of predictions for new users, by the number of their known rows."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.coldstart.fold_in import FoldIn
from collabkit.data.checks import check_seed, shown
from collabkit.data.dataset import Dataset
from collabkit.data.interactions import Interactions
from collabkit.data.query import Query
from collabkit.data.runs import Runs
from collabkit.evaluate import metrics
from collabkit.evaluate.references import PopularityRanks
from collabkit.models.base import Model, answering
from collabkit.models.scorers import refuse_nan
from collabkit.retrieval.ranking import Asked, FullCatalogue, rank_pairs

__all__ = ["evaluate_fold_in", "NewUserRows", "Reader"]

_BLOCK = 256  # users


@dataclass(frozen=True)
class Reader:
    """In the place of a `FoldIn`, for a model that reads the histories of new users instead of solving for rows."""

    model: Model
    data: Dataset

    def query(self, users: Tensor, history: Runs) -> Query:
        """The query of `users` `(b,)`, 0 for unknown ones, with these histories alone."""
        query = self.data.asker([name for name in self.model.needs if name != "history"])(users)
        query = Query(query) if isinstance(query, Tensor) else query
        return replace(query, history=replace(history, width=self.data.n_items, weight=None))


class NewUserRows:
    """Test users without training rows: some rows of each that may be given, and the rest, which are predicted.

    The rows of a user are ordered by time, at random without times or if they are equal. The first n rows are given at
    n, and the rows after the first `most` are the same rest for all n. So no given row is later than a predicted one.

    Args:
        train, test: interactions with the same vocabularies; that of the users of `test` may go on with new ids.
        most: the largest number of given rows; users without more rows are left out.
        seed: of the random order.

    Raises:
        ValueError: no user is left.
    """

    def __init__(self, train: Interactions, test: Interactions, most: int, seed: int):
        trained = torch.zeros(test.n_users, dtype=torch.bool)
        trained[: train.n_users] = train.counts("user") > 0
        users, items = test.user_idx, test.item_idx
        rows = ((users > 0) & ~trained[users] & (items > 0)).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(check_seed(seed)))]
        rows = rows if test.time is None else rows[test.time[rows].argsort(stable=True)]
        rows = rows[users[rows].argsort(stable=True)]
        self.users, counts = torch.unique_consecutive(users[rows], return_counts=True)
        n_new, enough = len(self.users), counts > most
        if not bool(enough.any()):
            raise ValueError(
                f"none of the {n_new:,} test users without training rows has more than {most} test rows; hold users "
                "out entirely (splits.cold_users), or ask for a smaller n_given"
            )
        rows = rows[torch.repeat_interleave(enough, counts)]
        self.users, counts = self.users[enough], counts[enough]
        self.group = torch.repeat_interleave(torch.arange(len(counts)), counts)  # (m,)
        place = torch.arange(len(rows)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        self.items, self.rating = items[rows], None if test.rating is None else test.rating[rows].double()
        self.place, self.is_rest = place, place >= most
        self.users = torch.where(self.users < train.n_users, self.users, 0)  # of others nothing else is known

    def __len__(self) -> int:
        return len(self.users)

    def given(self, n: int) -> Runs:
        """The first `n` rows of each user."""
        rows = self.place < n
        rating = None if self.rating is None else self.rating[rows]
        return Runs(torch.arange(len(self) + 1) * n, self.items[rows], weight=rating)

    @property
    def rest(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """The user's position, item and rating of each row to predict."""
        rows = self.is_rest
        return self.group[rows], self.items[rows], None if self.rating is None else self.rating[rows]


def evaluate_fold_in(
    fold_in: FoldIn | Reader, test: Interactions, *, n_given: Iterable[int] = (1, 3, 5, 10, 20), k: int = 10,
    seed: int = 0, filter_seen: bool | str = True,
) -> pd.DataFrame:  # fmt: skip
    """Predictions for users without training rows when the first n of their rows become known.

    These are the first in time, if `test` has times; otherwise, and among equal times, n rows are drawn by `seed`. For
    every n the same rest is predicted, the rows beyond the largest n, and the rows given at n are also given at a
    larger n. With n = 0, which is always included, users have the row that their features predict, or else the default
    row.

    Args:
        fold_in: of the trained model; a `Reader` of one that reads histories.
        test: interactions with the model's vocabularies, that of the users with new ids at its end, if any; users with
            training rows, or with too few rows, are left out.
        n_given: how many rows are given.
        k: cut-off of the ranking metrics.
        seed: of the draw.
        filter_seen: for events, whether the items given at the largest n are excluded from the candidates; these users
            have no other training rows, so `'train'` means the same as True.

    Returns:
        DataFrame indexed by `n_given`. With ratings: `RMSE` of the fold-in; `no information`, that of the default row;
        `item mean`, that of the item's mean training rating (the overall mean where it has none); `n_users`,
        `n_ratings`. Without: `HitRate@k`, `NDCG@k` and `Recall@k` of the rest among all items but those that are
        given at the largest n, each beside its `popularity` column, and `n_users`.

    Raises:
        ValueError: `n_given` is empty or below 1; no user has enough rows; a prediction is NaN.
        TypeError: ratings, and a model that predicts none.
    """
    given = list(n_given) if isinstance(n_given, Iterable) and not isinstance(n_given, str) else [n_given]
    if not given or not all(isinstance(n, Real) and n % 1 == 0 and n >= 1 for n in given):
        raise ValueError(f"n_given must hold whole numbers of at least 1, got {shown(n_given)}")
    chosen = sorted({int(n) for n in given})
    if fold_in.data.rated and not fold_in.model.predicts_ratings:
        raise TypeError(f"{type(fold_in.model).__name__} predicts no ratings, by which new users of rated data are "
                        "evaluated: make the data with feedback='implicit'")  # fmt: skip
    users = NewUserRows(fold_in.data.train, test, chosen[-1], seed)
    fold_in.data.hidden(filter_seen)  # raises unless it is one of the three
    measure = _ratings if fold_in.data.rated else partial(_ranking, hide=bool(filter_seen))
    with torch.inference_mode(), answering(fold_in.model):
        table = [measure(fold_in, users, _rows(fold_in, users, n), k) for n in (0, *chosen)]
    return pd.DataFrame(table, index=pd.Index([0, *chosen], name="n_given"))


def _rows(fold_in: FoldIn, users: NewUserRows, n: int) -> Query:
    """The users given `n` rows each, as a query, with their own features."""
    if isinstance(fold_in, Reader):
        return fold_in.query(users.users, users.given(n))
    rows = fold_in.rows(users.given(n), users.users) if n else fold_in.model.user_side.read(users.users)
    return Query(users.users, rows=tuple(rows))


def _scorer(fold_in: FoldIn, query: Query, candidates: Tensor) -> Asked:
    """Scores of `candidates` by position in the query."""
    return Asked(fold_in.model.scorer(candidates), lambda at: query[at])


def _ratings(fold_in: FoldIn, users: NewUserRows, query: Query, k: int) -> dict:
    _, items, rating = users.rest
    train = fold_in.data.train
    counts, known = train.counts("item"), train.rating.double()
    sums = torch.bincount(train.item_idx, weights=known, minlength=train.n_items)
    means = torch.where(counts > 0, sums / counts.clamp(min=1), known.mean())
    nobody = torch.zeros_like(users.users)
    if isinstance(fold_in, Reader):
        default = fold_in.query(nobody, users.given(0))
    else:
        default = Query(nobody, rows=tuple(fold_in.model.user_side.read(nobody)))
    predicted = {"RMSE": _predict(fold_in, users, query), "no information": _predict(fold_in, users, default)}
    predicted["item mean"] = means[items]
    errors = {name: float(metrics.rmse(value.numpy(), rating.numpy())) for name, value in predicted.items()}
    return {**errors, "n_users": len(users), "n_ratings": len(items)}


def _predict(fold_in: FoldIn, users: NewUserRows, query: Query) -> Tensor:
    """Ratings `(m,)` float64 of the rest."""
    group, items, _ = users.rest
    found = torch.empty(len(items), dtype=torch.float64)
    scorer = _scorer(fold_in, query, torch.arange(fold_in.data.n_items))
    for first in range(0, len(users), _BLOCK):
        logits = scorer(torch.arange(first, min(first + _BLOCK, len(users))))
        mine = (group >= first) & (group < first + _BLOCK)
        values = logits[(group[mine] - first).to(logits.device), items[mine].to(logits.device)]
        found[mine] = fold_in.model.activation(values).double().cpu()
    refuse_nan(found)
    return found


def _ranking(fold_in: FoldIn, users: NewUserRows, query: Query, k: int, hide: bool) -> dict:
    group, items, _ = users.rest
    n_items = fold_in.data.n_items
    candidates, hidden = torch.arange(1, n_items), ~users.is_rest & hide
    pairs = Runs.pairs(users.group[hidden], users.items[hidden], len(users), n_items)
    popularity = PopularityRanks.of(fold_in.data.train).scorer(candidates)
    scorers = {"": _scorer(fold_in, query, candidates), "popularity": popularity}
    result = {}
    for name, scorer in scorers.items():
        source = FullCatalogue(scorer, candidates, n_items, pairs)
        ranks, _ = rank_pairs(source, group, items, block=_BLOCK, k=k)
        for metric, function in (("HitRate", metrics.hit_rate), ("NDCG", metrics.ndcg), ("Recall", metrics.recall)):
            result[f"{name} {metric}@{k}".strip()] = float(np.mean(function(ranks, group.numpy(), k)))
    order = [f"{prefix}{metric}@{k}" for metric in ("HitRate", "NDCG", "Recall") for prefix in ("", "popularity ")]
    return {**{name: result[name] for name in order}, "n_users": len(users)}
