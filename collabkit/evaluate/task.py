"""`RankingTask`: who is asked, what is relevant, which items compete; and what a model's answer is worth."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit import metrics
from collabkit.evaluate.candidates import Lists, SampledCandidates, given_items, given_pairs, pair_scorer
from collabkit.evaluate.lists import LIST_METRICS, ItemFacts
from collabkit.evaluate.references import PopularityRanks
from collabkit.interactions import CollabWarning, Interactions
from collabkit.models import CollabModel
from collabkit.pairs import Pairs
from collabkit.ranking import FullCatalogue, block_size, model_scorer, rank_pairs, top_k

__all__ = ["RankingTask", "Ranked", "CUT_METRICS", "METRICS", "check_metrics", "check_ks", "default_threshold"]

CUT_METRICS = {
    "HitRate": metrics.hit_rate,
    "Precision": metrics.precision,
    "Recall": metrics.recall,
    "NDCG": metrics.ndcg,
    "MAP": metrics.average_precision,
    "MRR": metrics.reciprocal_rank,
}
METRICS = (*CUT_METRICS, "AUC", *LIST_METRICS)


@dataclass(frozen=True)
class Ranked:
    """A model's answer to a `RankingTask`.

    Args:
        ranks: `(n,)` of the relevant pairs.
        groups: `(n,)` whose pair each is, 0..n_users-1.
        n_candidates: `(n_users,)`.
        lists: `(n_users, k)` items of each user's list, if they were asked for.
    """

    ranks: np.ndarray
    groups: np.ndarray
    n_candidates: np.ndarray
    lists: np.ndarray | None = None

    def only(self, pairs: np.ndarray) -> Ranked:
        """The answer for the relevant pairs where the mask `pairs` `(n,)` holds, and the users who have any."""
        users, groups = np.unique(self.groups[pairs], return_inverse=True)
        lists = None if self.lists is None else self.lists[users]
        return Ranked(self.ranks[pairs], groups, self.n_candidates[users], lists)

    def measure(self, names: list[str], ks: list[int], facts: ItemFacts) -> dict[tuple[str, int | None], object]:
        """`{(metric, k): (n_users,) values, or a number for a metric of all lists together}`; AUC has no k."""
        result = {}
        for name in names:
            if name == "AUC":
                result[name, None] = metrics.auc(self.ranks, self.groups, self.n_candidates)
            elif name in CUT_METRICS:
                result.update({(name, k): CUT_METRICS[name](self.ranks, self.groups, k) for k in ks})
            else:
                result.update({(name, k): v for k, v in zip(ks, facts.measure(name, self.lists, ks), strict=True)})
        return result


class RankingTask:
    """Rank each user's relevant test items among their candidates: the same question for every model.

    Args:
        train: training interactions.
        users, items: `(n,)` the relevant pairs, sorted by user and item, each once.
        hidden: pairs that are never candidates (those seen in training).
        candidates: `(c,)` the items that compete where they are not hidden, ascending; None for all.
        allowed: or each user's own candidates, the relevant ones included.
        label: what stands behind the metrics' names.
        popularity: ranks of the baseline, to be shared by tasks on one training part.
    """

    def __init__(self, train: Interactions, users: Tensor, items: Tensor, hidden: Pairs, **kwargs):
        self.train, self.users, self.items, self.hidden = train, users, items, hidden
        self.candidates: Tensor | None = kwargs.get("candidates")
        if self.candidates is None:
            self.candidates = torch.arange(1, train.n_items)
        else:  # pairs of other items hide nothing: without them their numbers are those of hidden candidates
            keys = hidden.keys[np.isin(hidden.items, self.candidates.numpy())]
            self.hidden = Pairs.from_keys(keys, train.n_users, train.n_items)
        self.allowed: Pairs | None = kwargs.get("allowed")
        self.label: str = kwargs.get("label", "")
        self.popularity = kwargs.get("popularity") or PopularityRanks(train)
        new = np.diff(users.numpy(), prepend=-1) > 0
        self.unique, self.groups = users.numpy()[new], np.cumsum(new) - 1
        self.facts = ItemFacts(train, self.candidates)

    @classmethod
    def make(
        cls,
        train: Interactions,
        test: Interactions,
        *,
        hidden: Pairs,
        candidates: SampledCandidates | pd.DataFrame | Iterable | None = None,
        threshold: float | None = None,
        popularity: PopularityRanks | None = None,
    ) -> RankingTask:
        """The task that a test part sets.

        An item is relevant for a user when the test part holds it with a rating of at least `threshold`; every row is
        where there are no ratings. Rows with a user or item unknown to the model are left out, counted in a
        `CollabWarning`.

        Args:
            train, test: interactions encoded with the same vocabularies.
            hidden: pairs that are never candidates.
            candidates: None for all items that are not hidden, item ids `(c,)` for those of them, `SampledCandidates`,
                or a table of user-item pairs.
            threshold: default the (lower) median training rating.

        Raises:
            TypeError: `candidates` is something else.
            ValueError: `threshold` for events without ratings.
            ValueError, KeyError: see `candidates.given_items` and `candidates.given_pairs`.
        """
        if threshold is not None and test.rating is None:
            raise ValueError(
                f"threshold={threshold:g} is of ratings, and these events have none: every row is relevant. Pass a "
                "table of the rows that are, e.g. evaluate(on=test[test['rating'] >= 4])"
            )
        relevant = _relevant_pairs(test, default_threshold(train) if threshold is None else threshold)
        relevant, options = _competitors(candidates, train, test, relevant, hidden)
        pairs = (torch.from_numpy(relevant.users), torch.from_numpy(relevant.items))
        return cls(train, *pairs, hidden, popularity=popularity, **options)

    def __len__(self) -> int:
        return len(self.users)

    @property
    def n_candidates(self) -> np.ndarray:
        """Number of candidates of each user `(n_users,)`."""
        n = np.diff((self.hidden if self.allowed is None else self.allowed).start)[self.unique]
        return len(self.candidates) - n if self.allowed is None else n

    def name(self, metric: str, k: int | None) -> str:
        """A metric's name in tables, e.g. `'HitRate@10 (99 negatives)'`."""
        return " ".join(filter(None, [metric if k is None else f"{metric}@{k}", self.label]))

    def rank(self, model: CollabModel, names: list[str], ks: list[int], max_memory: int | str = "512MB") -> Ranked:
        """A model's answer, in one pass for all metrics `names` and all cut-offs `ks`."""
        n_items, candidates = self.train.n_items, self.candidates
        if self.allowed is None:
            source = FullCatalogue(model_scorer(model, candidates, max_memory), candidates, n_items, self.hidden)
            block = block_size(model, len(candidates), max_memory)
        else:
            source = Lists(pair_scorer(model, n_items, max_memory), self.allowed)
            block = block_size(model, int(np.diff(self.allowed.start).max()), max_memory)
        options = {"k": None if "AUC" in names else max(ks), "list_k": _list_k(names, ks, len(candidates))}
        ranks, lists = rank_pairs(source, self.users, self.items, block=block, **options)
        return Ranked(ranks, self.groups, self.n_candidates, None if lists is None else lists.numpy())

    def no_answer(self) -> Ranked:
        """The answer to a task without relevant pairs."""
        return Ranked(np.zeros(0, dtype=np.int64), self.groups, self.n_candidates)

    def rank_by_popularity(self, names: list[str], ks: list[int], max_memory: int | str = "512MB") -> Ranked:
        """The baseline's answer; scores are needed for its lists alone."""
        candidates, users = self.candidates, torch.from_numpy(self.unique)
        ranks = self.popularity.ranks(self.users, self.items, candidates, hidden=self.hidden, allowed=self.allowed)
        k, lists = _list_k(names, ks, len(candidates)), None
        if k and self.allowed is None:
            scorer, block = self.popularity.scorer(candidates), block_size(None, len(candidates), max_memory)
            options = {"n_items": self.train.n_items, "hidden": self.hidden, "block": block}
            lists = top_k(scorer, users, candidates, k, **options)[0].numpy()
        elif k:
            lists = self.rank(self.popularity, names, ks, max_memory).lists
        return Ranked(ranks, self.groups, self.n_candidates, lists)


def check_metrics(names) -> list[str]:
    """The metric names as a list (default those of ranks cut at k), or an error that lists what there is."""
    names = list(CUT_METRICS) if names is None else [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise ValueError(f"unknown metric(s) {unknown}; there are {', '.join(METRICS)}")
    return list(dict.fromkeys(names))


def check_ks(k: int | Iterable[int]) -> list[int]:
    """The cut-offs as an ascending list of whole numbers of at least 1, or an error."""
    ks = list(k) if isinstance(k, Iterable) else [k]
    for value in ks:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or value != math.floor(value):
            raise ValueError(f"k must be a whole number or a list of them, got {k!r}")
        if value < 1:
            raise ValueError(f"k must be at least 1, got {value!r}")
    if not ks:
        raise ValueError("k must be a whole number or a list of them, got an empty list")
    return sorted({int(value) for value in ks})


def default_threshold(train: Interactions) -> float:
    """The median training rating: an item rated at least as high counts as liked (4 on MovieLens)."""
    return -np.inf if train.rating is None else float(train.rating.median())


def _list_k(names: list[str], ks: list[int], n_candidates: int) -> int:
    return min(max(ks), n_candidates) if set(names) & set(LIST_METRICS) else 0


def _competitors(
    candidates, train: Interactions, test: Interactions, relevant: Pairs, hidden: Pairs
) -> tuple[Pairs, dict[str, object]]:
    """The relevant pairs that meet competitors, and what `RankingTask` needs to know of these; see `make`."""
    if candidates is None:
        return relevant, {}
    if isinstance(candidates, SampledCandidates):
        if len(relevant) == 0:
            return relevant, {"label": candidates.label}
        drawn = candidates.draw(np.unique(relevant.users), hidden.union(Pairs.from_interactions(test)))
        return relevant, {"allowed": drawn.union(relevant), "label": candidates.label}
    if isinstance(candidates, pd.DataFrame):
        if len(relevant) == 0:
            return relevant, {}
        allowed, relevant = given_pairs(candidates, train, relevant, hidden)
        return relevant, {"allowed": allowed, "label": "(given candidates)"}
    if pd.api.types.is_list_like(candidates) and not isinstance(candidates, Mapping):
        items, relevant = given_items(candidates, train, relevant)
        return relevant, {"candidates": items, "label": f"(among {len(items)} items)"}
    raise TypeError(
        "candidates must be None (all unseen items), a list of item ids, SampledCandidates(99) or a DataFrame of "
        f"user-item pairs, got {type(candidates).__name__}"
    )


def _relevant_pairs(test: Interactions, threshold: float) -> Pairs:
    """The pairs of the test rows rated at least `threshold`."""
    relevant = torch.ones(len(test), dtype=torch.bool) if test.rating is None else test.rating >= threshold
    known = relevant & (test.user_idx > 0) & (test.item_idx > 0)
    unknown = int((relevant & ~known).sum())
    if unknown:
        warnings.warn(
            f"ranking metrics leave out {unknown:,} relevant rows whose user or item the model does not know",
            CollabWarning,
            stacklevel=5,
        )
    return Pairs.from_interactions(test if bool(known.all()) else test.take(known))
