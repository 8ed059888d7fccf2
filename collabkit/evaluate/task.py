"""`RankingTask`: the users, their relevant items and candidates; and the metrics of a model's ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.data.checks import at_least, finite, shown
from collabkit.data.dataset import Dataset
from collabkit.data.frames import takes_tables
from collabkit.data.interactions import Interactions
from collabkit.data.notices import near_match, say
from collabkit.data.processes import Processes, digest, processes
from collabkit.data.query import Query
from collabkit.data.runs import Runs
from collabkit.data.unique import sorted_unique
from collabkit.data.vocab import check_ids
from collabkit.evaluate import metrics
from collabkit.evaluate.candidates import Lists, SampledCandidates, given_items, given_pairs
from collabkit.evaluate.draw import drawn_rows
from collabkit.evaluate.lists import LIST_METRICS, ItemFacts
from collabkit.evaluate.references import PopularityRanks
from collabkit.models.base import Model
from collabkit.models.sharded import is_sharded
from collabkit.retrieval.diversity import Diversity, item_likeness
from collabkit.retrieval.ranking import Asked, FullCatalogue, block_size, rank_pairs, top_k
from collabkit.retrieval.tilt import Tilt

__all__ = [
    "RankingTask", "Ranked", "CUT_METRICS", "METRICS", "check_metrics", "check_ks", "default_threshold", "held_out",
    "listed", "metric_name", "metric_values", "refuse_strangers",
]  # fmt: skip

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
    """A model's ranking for a `RankingTask`.

    Args:
        ranks: `(n,)` of the relevant pairs.
        groups: `(n,)` the user of each pair, 0..n_users-1.
        n_candidates: `(n_users,)`.
        lists: `(n_users, k)` items of each user's list, if requested.
    """

    ranks: np.ndarray
    groups: np.ndarray
    n_candidates: np.ndarray
    lists: np.ndarray | None = None

    def only(self, pairs: np.ndarray) -> Ranked:
        """The ranking of the relevant pairs where the mask `pairs` `(n,)` holds, and of the users who have any."""
        left = np.bincount(self.groups[pairs], minlength=len(self.n_candidates)) > 0
        users, groups = np.flatnonzero(left), (np.cumsum(left) - 1)[self.groups[pairs]]
        lists = None if self.lists is None else self.lists[users]
        return Ranked(self.ranks[pairs], groups, self.n_candidates[users], lists)

    def measure(
        self, names: list, ks: list[int], facts: ItemFacts, asked: list[tuple] | None = None
    ) -> dict[tuple[str, int | None], object]:
        """`{(metric, k): (n_users,) values, or a number for a metric of all lists together}`; AUC has no k.

        With `asked` only these, in its order.
        """
        result = {}
        for name in names:
            if callable(name):  # the caller's own metric, called like those of ranks cut at k
                result.update({(metric_name(name), k): metric_values(name, self.ranks, self.groups, k) for k in ks})
            elif name == "AUC":
                result[name, None] = metrics.auc(self.ranks, self.groups, self.n_candidates)
            elif name in CUT_METRICS:
                result.update({(name, k): CUT_METRICS[name](self.ranks, self.groups, k) for k in ks})
            else:
                result.update({(name, k): v for k, v in zip(ks, facts.measure(name, self.lists, ks), strict=True)})
        return result if asked is None else {key: result[key] for key in asked}


def metric_name(metric: Callable) -> str:
    """The name of a metric given as a function; for a `partial`, that of its function."""
    inner = getattr(metric, "func", metric)
    return getattr(inner, "__name__", type(inner).__name__)


def metric_values(metric: Callable, ranks: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """The values of a metric given as a function, or an error where they are not one per user."""
    values = np.asarray(metric(ranks, groups, k), dtype=np.float64)
    n = int(groups.max()) + 1
    if values.shape != (n,):
        raise ValueError(
            f"metric {metric_name(metric)} must return one value per user, ({n},), from ranks (n,), groups (n,) and k, "
            f"got {values.shape}"
        )
    return values


class RankingTask:
    """Rank each user's relevant test items among their candidates: the same task for every model.

    Args:
        data: the known events of the users.
        users, items: `(n,)` the relevant pairs, sorted by user and item, each once.
        hidden: pairs that are never candidates (those seen in training).
        candidates: `(c,)` the items that compete where they are not hidden, ascending; None for all.
        allowed: or each user's own candidates, the relevant ones included.
        label: the suffix of the metrics' names.
        title: the name of the tables' columns: which held-out rows are relevant, if not all, and whether seen items are
            candidates.
        context: by field, values `(n_users, ...)` of the moment of each user's query.
        rows: the evaluated rows, and `is_valid`, whether they are the validation part: they determine which events are
            known to models that read histories in order.
    """

    def __init__(
        self, data: Dataset, users: Tensor, items: Tensor, hidden: Runs, *, candidates: Tensor | None = None,
        allowed: Runs | None = None, label: str = "", title: str | None = None,
        context: Mapping[str, Tensor] | None = None, rows: Interactions | None = None, is_valid: bool = True,
    ):  # fmt: skip
        self.data, self.train, self.users, self.items, self.hidden = data, data.train, users, items, hidden
        self.candidates, self.allowed, self.label, self.context = candidates, allowed, label, context
        self.title, self._rows, self._is_valid = title, rows, is_valid
        self.held = data.valid if is_valid else rows  # all held-out rows, relevant or not
        if candidates is None:
            self.candidates = torch.arange(1, data.n_items)
        else:  # without pairs of other items, the number of a user's pairs is that of hidden candidates
            self.hidden = hidden.where(np.isin(hidden.values.numpy(), candidates.numpy()))
        self.popularity = PopularityRanks.of(data.train)
        new = np.diff(users.numpy(), prepend=-1) > 0
        self.unique, self.groups = users.numpy()[new], np.cumsum(new) - 1
        self.facts = ItemFacts(data.train, self.candidates)

    @classmethod
    @takes_tables
    def make(
        cls, data: Dataset, on="valid", *, candidates: SampledCandidates | pd.DataFrame | Iterable | None = None,
        threshold: float | None = None, test: Interactions | None = None, filter_seen: bool | str = True,
        n_users: int | None = None, seed: int = 0,
    ) -> RankingTask:  # fmt: skip
        """The task defined by held-out rows.

        An item is relevant for a user if it has a held-out rating of at least `threshold`; without ratings every row is
        relevant. Rows with a user or item unknown to the model are left out, counted in a `CollabWarning`.

        Args:
            data: the data of the models.
            on: `'valid'`, or a table; then the validation part is hidden.
            candidates: None for all items that are not hidden, item ids `(c,)` to restrict them, `SampledCandidates`,
                or a table of user-item pairs.
            threshold: default `default_threshold`.
            test: the rows of `on`, if already encoded.
            filter_seen: which seen items are excluded, unless they are in the evaluated rows. True: those of the
                training part and, for a table, of the validation part; `'train'`: only those of the training part;
                False: none.
            n_users, seed: use only this many users, drawn by `seed`; see `draw.drawn_rows`.

        Raises:
            TypeError: `candidates` is something else.
            ValueError: `threshold` for events without ratings; `n_users` < 1.
            ValueError, KeyError: see `candidates.given_items` and `candidates.given_pairs`.
        """
        test = held_out(data, on) if test is None else test
        is_valid = isinstance(on, str)
        met, pairs = data.hidden(is_valid=is_valid), test.pairs
        if repeated := int(met.find(pairs.rows, pairs.values)[1].sum()):
            _say_repeated(repeated, data)
        hidden = data.hidden(filter_seen, is_valid=is_valid)
        hidden = met.where(np.zeros(len(met.values), dtype=bool)) if hidden is None else hidden.without(pairs)
        if threshold is not None and test.rating is None:
            raise ValueError(
                f"threshold={threshold!r} needs ratings, and these events have none: every row is relevant. Pass a "
                "table of the relevant rows, e.g. evaluate(on=test[test['rating'] >= 4])"
            )
        threshold = default_threshold(data.train) if threshold is None else finite("threshold", threshold)
        rows, label, drawn = drawn_rows(_relevant_rows(test, threshold), n_users, seed)
        title = {True: "seen items hidden", False: "no items hidden"}.get(filter_seen, "training items hidden")
        title += " but those evaluated" if repeated and filter_seen else ""
        title = title if test.rating is None else f"relevant: {data.columns.rating} >= {threshold:g}; {title}"
        relevant, options = _competitors(candidates, data.train, test, rows.pairs, hidden)
        options["label"] = " ".join(filter(None, [options.get("label"), label]))
        title = "; ".join(filter(None, [title, drawn]))
        options |= {"context": _moments(rows), "title": title, "rows": rows, "is_valid": is_valid}
        return cls(data, relevant.rows, relevant.values, hidden, **options)

    def __len__(self) -> int:
        return len(self.users)

    @property
    def n_candidates(self) -> np.ndarray:
        """Number of candidates of each user `(n_users,)`."""
        n = (self.hidden if self.allowed is None else self.allowed).lengths.numpy()[self.unique]
        return len(self.candidates) - n if self.allowed is None else n

    def name(self, metric: str, k: int | None) -> str:
        """A metric's name in tables, e.g. `'HitRate@10 (99 negatives)'`."""
        return " ".join(filter(None, [metric if k is None else f"{metric}@{k}", self.label]))

    def rank(
        self, model: Model, names: list, ks: list[int], max_memory: int | str = "512MB", tilt: Tilt | None = None,
        diversity: Diversity | None = None,
    ) -> Ranked:  # fmt: skip
        """A model's ranking, tilted by `tilt`, in one pass for all metrics `names` and cut-offs `ks`.

        With `diversity` the ranks are those of its lists of `max(ks)` items, followed by the other items.
        """
        n_items, candidates = self.train.n_items, self.candidates
        offsets = None if tilt is None else tilt.offsets(self.data, is_valid=self._is_valid)
        ask = self.asker(model)
        if self.allowed is None:
            scorer = Asked(model.scorer(candidates, max_memory), ask)
            source = FullCatalogue(scorer, candidates, n_items, self.hidden, offsets)
            longest = len(candidates)
        else:
            score = lambda users, *pairs: model.score_pairs(ask(users), *pairs, max_memory)  # noqa: E731
            source = Lists(score, self.allowed, offsets)
            longest = int(self.allowed.lengths.max())
        block = block_size(longest, max_memory, model.device)
        options = {"k": None if "AUC" in names else max(ks), "list_k": _list_k(names, ks, len(candidates))}
        rerank = diversity and diversity.ranker(lambda: item_likeness(model, self.data, diversity.by))
        if rerank is not None:
            options |= {"rerank": rerank, "list_k": min(max(ks), len(candidates))}
        team = Processes() if is_sharded(model) else processes()  # look-ups together need the same users
        ranks, lists = self._by_users(
            lambda at: rank_pairs(source, self.users[at], self.items[at], block=block, **options), team
        )
        return Ranked(ranks, self.groups, self.n_candidates, None if lists is None else lists.numpy())

    def _by_users(
        self, rank: Callable[[slice], tuple[np.ndarray, Tensor | None]], team: Processes
    ) -> tuple[np.ndarray, Tensor | None]:
        """The result of `rank` for all pairs; each of several processes computes its share of the users."""
        if team.alone:
            return rank(slice(None))
        team.same({"pairs": f"{len(self.users):,} ({digest([self.users, self.items])})"}, "rows to evaluate")
        at = slice(*np.searchsorted(self.groups, team.part(len(self.unique))).tolist())
        ranks, lists = team.each(lambda: rank(at), "the ranks of its users")
        found = team.gather(torch.from_numpy(ranks), "the ranks of users").numpy()
        return found, None if lists is None else team.gather(lists, "the lists of users")

    def asker(self, model: Model) -> Callable[[Tensor], Tensor | Query]:
        """A function from users to a model's query, with what was known at the moment of evaluation."""
        times = self._times if "time" in model.needs else None
        return self.data.asker(model.needs, self.context, self._histories(model), times)

    def _histories(self, model: Model) -> Runs | None:
        """The histories for a model that reads them: for later rows also the validation part, never later events."""
        if "history" not in model.needs:
            return None
        return self._before if model.ordered else self._known

    @cached_property
    def _times(self) -> Tensor | None:
        """The time `(n_users,)` of each user's query: that of their first evaluated row."""
        if self._rows is None or self._rows.time is None:
            return None
        times = torch.full((self.data.n_users,), self.data.now)
        times[self._rows.user_idx.flip(0)] = self._rows.time.flip(0)  # the first row is written last
        return times

    @property
    def _known(self) -> Runs:
        return self.data.histories if self._is_valid else self.data.latest

    @cached_property
    def _before(self) -> Runs:
        known, every = self.data.histories_before(self._rows, is_valid=self._is_valid), self._known
        users = torch.from_numpy(self.unique)
        if later := int((every.lengths - known.lengths)[users].sum()):
            say(f"{later:,} events of the evaluated users came after the moment of evaluation and are not in their "
                "histories; split by time to keep them out of training too")  # fmt: skip
        return known

    @property
    def item_ages(self) -> np.ndarray:
        """Days `(n,)` from the first known event of each relevant pair's item to the pair's own first row.

        An item without a known event, or with none before the row, was brand-new: 0.

        Raises:
            ValueError: the training or the evaluated rows have no times.
        """
        rows, first = self._rows, self.data.first_times(is_valid=self._is_valid)[self.items].numpy()
        if rows is None or rows.time is None:
            raise ValueError("the age of items is that at the evaluated rows, which have no times: evaluate a table "
                             f"with the column {self.data.columns.time!r}")  # fmt: skip
        keys, asked = (self.users * self.train.n_items + self.items).numpy(), rows.pair_keys().numpy()
        at = np.searchsorted(keys, asked).clip(max=len(keys) - 1)
        there = keys[at] == asked  # rows with other candidates are not included
        moment = np.full(len(keys), np.iinfo(np.int64).max)
        np.minimum.at(moment, at[there], rows.time.numpy()[there])
        return (moment - np.minimum(first, moment)) / self.train.day

    def no_answer(self) -> Ranked:
        """The ranking of a task without relevant pairs."""
        return Ranked(np.zeros(0, dtype=np.int64), self.groups, self.n_candidates)

    def rank_by_popularity(self, names: list[str], ks: list[int], max_memory: int | str = "512MB") -> Ranked:
        """The ranking of the baseline; scores are needed only for its lists."""
        candidates, users = self.candidates, torch.from_numpy(self.unique)
        ranks = self.popularity.ranks(self.users, self.items, candidates, hidden=self.hidden, allowed=self.allowed)
        k, lists = _list_k(names, ks, len(candidates)), None
        scorer, block = self.popularity.scorer(candidates), block_size(len(candidates), max_memory)
        if k and self.allowed is None:
            options = {"n_items": self.train.n_items, "hidden": self.hidden, "block": block}
            lists = top_k(scorer, users, candidates, k, **options)[0].numpy()
        elif k:
            counts = self.popularity.counts
            source = Lists(lambda *asked: counts[asked[-1]], self.allowed)
            lists = rank_pairs(source, self.users, self.items, block=block, list_k=k)[1].numpy()
        return Ranked(ranks, self.groups, self.n_candidates, lists)


def _say_repeated(n: int, data: Dataset) -> None:
    """Report that `n` evaluated pairs occurred before: a leak, unless the training part also has repeated events."""
    what = f"{n:,} of the pairs the model was trained or validated on occur in the evaluated rows"
    if not data.rated and data.train.n_duplicates():
        say(f"{what}: as repeats are kept, these items stay candidates of their users; other seen items are hidden")
        return
    who = "" if data.folded is None else " (or users were folded in by them)"
    say(f"{what}{who}: their figures are too good; drop duplicates before splitting (filters.drop_duplicates)")


def held_out(data: Dataset, on, *, new_users: bool = False) -> Interactions:
    """The validation part for `'valid'`, or the rows of a table with the data's columns.

    With `new_users` the users that the model does not know are added at the end of the vocabulary.
    """
    if isinstance(on, pd.DataFrame):
        columns, train = data.columns if data.columns.time in on else replace(data.columns, time=None), data.train
        if new_users:
            replace(columns, count=None).check(on, fixed=True)
            ids = check_ids(on[columns.user], columns.user)
            train = replace(train, users=train.users.extended(ids[train.users.encode(ids) == 0].unique()))
        return train.encode(on, columns)
    if not (isinstance(on, str) and on == "valid"):
        raise ValueError(f"on must be 'valid' or a DataFrame, got {shown(on)}")
    if data.valid is None:
        raise ValueError("there is no validation part to evaluate on: give a table of test rows")
    return data.valid


def refuse_strangers(test: Interactions) -> None:
    """Raise `ValueError` if no row is of a user, or of an item, that the model knows."""
    for vocab, idx in ((test.users, test.user_idx), (test.items, test.item_idx)):
        if len(idx) and not bool((idx > 0).any()):
            new = "; for new users call evaluate_fold_in, which gives their first rows" if vocab is test.users else ""
            raise ValueError(f"the model knows none of the {vocab.name!r} ids in the table, so there is no list to "
                             f"evaluate. Check that the ids are those of the training data{new}")  # fmt: skip


def check_metrics(names) -> list:
    """The metrics as a list (default those of ranks cut at k), or an error that lists the known ones.

    A function of `ranks` `(n,)`, `groups` `(n,)` and `k` that returns one value per user is a metric too; see
    `metrics`.
    """
    names = list(CUT_METRICS) if names is None else listed(names)
    unknown = [name for name in names if not callable(name) and name not in METRICS]
    if unknown or not names:
        what = f"unknown metric(s) {unknown}" if unknown else "unknown metric(s): there is none in metrics"
        raise ValueError(
            f"{what}; there are {', '.join(METRICS)}{near_match(*unknown[:1], METRICS) if unknown else ''}"
        )
    return list(dict.fromkeys(names))


def listed(metrics) -> list:
    """One metric or several, names or functions, as a list."""
    if isinstance(metrics, str) or callable(metrics):
        return [metrics]
    if not isinstance(metrics, Iterable):
        raise TypeError(f"metrics must be names or functions, e.g. ['NDCG@10', 'MRR'], got {shown(metrics)}")
    return list(metrics)


def check_ks(k: int | Iterable[int]) -> list[int]:
    """The cut-offs as an ascending list of whole numbers of at least 1, or an error."""
    ks = list(k) if isinstance(k, Iterable) else [k]
    for value in ks:
        whole = isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and value % 1 == 0
        if not whole:
            raise ValueError(f"k must be a whole number or a list of them, got {shown(k)}")
        if not 1 <= value < 2**31:
            raise ValueError(f"k must be at least 1, got {shown(value)}" if value < 1 else f"k={value!r} is too large")
    if not ks:
        raise ValueError("k must be a whole number or a list of them, got an empty list")
    return sorted({int(value) for value in ks})


def default_threshold(train: Interactions) -> float:
    """The rating from which an item counts as liked: the (lower) median training rating, 4 on MovieLens.

    If that is the lowest rating, which nobody gives to items they like, it is the median of the ratings above it: 1 for
        0 and 1. If all ratings are equal, like marks of events, every row counts, and the tables say so.
    """
    if train.rating is None:
        return -np.inf
    lowest, median = train.rating.min(), train.rating.median()
    above = train.rating[train.rating > lowest] if median == lowest else train.rating
    return float(above.median() if len(above) else lowest)


def _list_k(names: list, ks: list[int], n_candidates: int) -> int:
    return min(max(ks), n_candidates) if set(names) & set(LIST_METRICS) else 0


def _competitors(
    candidates, train: Interactions, test: Interactions, relevant: Runs, hidden: Runs
) -> tuple[Runs, dict[str, object]]:
    """The relevant pairs that have competitors, and the arguments of `RankingTask` for these; see `make`."""
    if candidates is None:
        return relevant, {}
    if isinstance(candidates, SampledCandidates):
        if len(relevant.values) == 0:
            return relevant, {"label": candidates.label}
        drawn = candidates.draw(sorted_unique(relevant.rows.numpy()), hidden.union(test.pairs))
        return relevant, {"allowed": drawn.union(relevant), "label": candidates.label}
    if isinstance(candidates, pd.DataFrame):
        if len(relevant.values) == 0:
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


def _relevant_rows(test: Interactions, threshold: float) -> Interactions:
    """The test rows rated at least `threshold`, of known users and items."""
    relevant = torch.ones(len(test), dtype=torch.bool)
    if test.rating is not None:
        relevant = torch.from_numpy(at_least(test.rating, threshold))
    known = relevant & (test.user_idx > 0) & (test.item_idx > 0)
    unknown = int((relevant & ~known).sum())
    if unknown:
        users = int((relevant & (test.user_idx == 0)).sum())
        new = f"; evaluate_fold_in evaluates new users ({users:,} of these rows)" if users else ""
        say(f"ranking metrics leave out {unknown:,} relevant rows whose user or item the model does not know{new}")
    return test if bool(known.all()) else test.take(known.numpy())


def _moments(rows: Interactions) -> dict[str, Tensor]:
    """By field of context, the values `(n_users, ...)` at each user's first row, unknown for those without any."""
    found = rows.unknown_moments(rows.n_users)
    for name, values in rows.context.items():
        found[name][rows.user_idx.flip(0)] = values.flip(0)  # the first row is written last
    return found
