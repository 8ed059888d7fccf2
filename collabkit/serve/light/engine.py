"""The parts of `Light`: queries, scores, lists, shares, and records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from collabkit.data.checks import finite, in_days, whole
from collabkit.data.meaning import Probabilities, from_spec
from collabkit.data.notices import say
from collabkit.data.unique import sorted_unique
from collabkit.serve.light.arrays import Lists, part
from collabkit.serve.light.asked import Choice, is_one, read_choice, read_history
from collabkit.serve.light.events import Events
from collabkit.serve.light.fold import Fold, fold_of
from collabkit.serve.light.ids import Ids, plain
from collabkit.serve.light.ranking import chosen, refuse_nan, tilted, top
from collabkit.serve.light.scorers import SCORERS, Network, Vectors
from collabkit.serve.light.why import Shares, leave_one_out, of_history, of_row
from collabkit.serve.onnx_models import OnnxModel

__all__ = ["Engine", "Wanted", "records", "times"]

CELLS = 2**20  # scores at once
NONE = Choice()
NEVER = np.iinfo(np.int64).max  # the time of an event without one, if others have times


class Told(NamedTuple):
    """One user's history: items `(l,)` and ratings or confidences, and the row solved from it, if any."""

    items: np.ndarray
    weight: np.ndarray | None
    row: np.ndarray | None = None


class Rerank(NamedTuple):
    """Lists by maximal marginal relevance: how much they avoid similar items, and how many are in the pool."""

    weight: float
    pool: int


@dataclass(frozen=True)
class Wanted:
    """The requested lists, as `serve.wanted.Wanted`.

    Args:
        k: items per list.
        seen: which items are hidden, as in `filter_seen`.
        offsets: `(n_items,)` added to scores, or None.
        rerank: changes the order of the best items, or None.
        allow, deny: lists of items, for all or by user.
    """

    k: int
    seen: bool | str = False
    offsets: np.ndarray | None = None
    rerank: Rerank | None = None
    allow: Choice = NONE
    deny: Choice = NONE

    def limited(self, items, exclude, users: Ids | None, vocab: Ids) -> Wanted:
        """The same with an allow and a deny list, checked and encoded."""
        allow = read_choice(items, "items", "allow", users, vocab)
        return replace(self, allow=allow, deny=read_choice(exclude, "exclude", "hide", users, vocab))

    def named(self, users: Ids) -> list | None:
        """The users with an allow list, if it is per user."""
        return None if self.allow.by_user is None else users.decode(list(self.allow.by_user))

    def candidates(self, n_items: int, rows: np.ndarray) -> np.ndarray | None:
        """The items that can be in a list, ascending; None for all."""
        if self.allow.by_user is not None:
            own = [self.allow.by_user[row] for row in rows.tolist() if row in self.allow.by_user]
            found = sorted_unique(np.concatenate([np.zeros(0, np.int64), *own]))
        elif self.allow.items is None and self.deny.items is None:
            return None
        else:
            found = np.arange(1, n_items) if self.allow.items is None else self.allow.items
        if self.deny.items is not None:
            found = found[~np.isin(found, self.deny.items)]
        if len(found) == 0:
            raise ValueError("no item is left to recommend; check items= and exclude=")
        return found


class Engine:
    """Computations on an artefact's arrays; `Light` has the public methods.

    Args:
        config: of the artefact.
        arrays: of its files, see `load.load_arrays`.
        network: the model's network in ONNX Runtime, if any, for vectors of histories or logits.
    """

    def __init__(self, config: dict, arrays: Mapping[str, np.ndarray], network: OnnxModel | None = None):
        self.config, self.arrays, self.spec = config, arrays, config["light"]
        self.users, self.items = (Ids(self.spec[name], part(arrays, name)) for name in ("users", "items"))
        self.events, self.y_range = Events(part(arrays, "events")), self.spec["y_range"]
        calibration = config.get("calibration")
        self.calibration = None if calibration is None else from_spec(calibration)
        self.called: Mapping[str, str] = {}  # columns of results with a different name from the data
        self.model, kind = part(arrays, "model"), self.spec["kind"]
        if kind == "vectors":
            self.scorer = Vectors(self.model["users"], self.model["items"])
        elif kind == "pairs":
            self.scorer = Network(network)
        else:
            self.scorer = SCORERS[kind](self.events, self.model["counts"], self.model, self.spec)
        vectors = self.scorer if kind == "vectors" else None
        reads = network is not None and kind == "vectors" and "history" in self.spec["needs"]
        self.encoder = network if reads else None
        self.fold = fold_of(part(arrays, "fold"), self.spec.get("fold"), vectors, self.y_range)

    @property
    def n_items(self) -> int:
        """Indices of items, the unknown one included."""
        return len(self.items)

    def _refuse(self, **given) -> None:
        for name, value in given.items():
            if value is not None and not (isinstance(value, Mapping) and not value):
                raise NotImplementedError(f"the light runtime does not take {name}=: use Recommender")

    def _need_fold(self) -> Fold:
        if self.fold is None:
            name = self.config["model"]["class"]
            reads = self.spec["kind"] == "vectors" and "history" in self.spec["needs"]
            if not reads and not self.spec["folds_in"]:
                raise TypeError(f"folding in needs a model with rows for users; those of {name} are computed")
            raise NotImplementedError(f"the light runtime cannot answer histories for {name}: they need torch, "
                                      "or a prior that its artefact lacks; use Recommender")  # fmt: skip
        return self.fold

    def _encode(self, vocab: Ids, ids, unknown: str) -> np.ndarray:
        if unknown not in ("raise", "default"):
            raise ValueError(f"unknown must be 'raise' or 'default', got {unknown!r}")
        return vocab.encode([ids] if is_one(ids) else ids, "raise" if unknown == "raise" else "zero")

    def _asked(self, users, unknown: str) -> tuple[np.ndarray, list]:
        """The indices `(b,)` of the users, and their ids."""
        if users is None:
            rows = np.arange(1, len(self.users))
            return rows, self.users.decode(rows)
        given = [users] if is_one(users) else list(users)
        return self._encode(self.users, given, unknown), [plain(value) for value in given]

    def _read(self, history) -> Told:
        """One user's history, for a model that reads histories or folds them in."""
        fold = self._need_fold() if self._solves else None
        items, weight = read_history(history, self.items, self.spec, self.arrays["items.having"])
        return Told(items, weight, None if fold is None else fold.rows([(items, weight)])[0])

    @property
    def reads_histories(self) -> bool:
        """Whether lists for a history are supported."""
        return not self._solves or self.fold is not None

    @property
    def _solves(self) -> bool:
        """Whether a row is solved for from a history, rather than the model reading it."""
        return self.spec["kind"] in ("vectors", "pairs") and self.encoder is None

    def _told(self, one: Told):
        """The query of a new user."""
        if self.encoder is not None:
            return self.encoder.vectors(history=[one.items])
        return Lists.of([(one.items, one.weight)]) if one.row is None else one.row[None]

    def _scores(self, query, candidates: np.ndarray | None) -> np.ndarray:
        """Logits `(1, c)` of a new user."""
        if self._solves:
            return self.fold.scores(query, candidates)
        return self.scorer.scores(query, candidates)

    def _pairs(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Logits `(n,)` float32 of users and items at indices."""
        if self.spec["kind"] == "vectors":
            return np.einsum("nd,nd->n", self.scorer.users[rows], self.scorer.items[items])
        found = np.empty(len(rows), np.float32)
        for user in sorted_unique(rows):
            mine = rows == user
            found[mine] = self.scorer.scores(self.scorer.known(np.array([user])))[0][items[mine]]
        return found

    def _activated(self, logits: np.ndarray) -> np.ndarray:
        """Logits on the scale of ratings, float32."""
        if self.y_range is None:
            return logits
        low, high = map(np.float32, self.y_range)
        with np.errstate(over="ignore"):
            return (1 / (1 + np.exp(-logits))) * (high - low) + low

    # --- lists ------------------------------------------------------------------------------------------------------

    def _lists(
        self, wanted: Wanted, rows: np.ndarray, query=None, met: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The items `(b, k)` of the users at `rows`, 0 where fewer are left, and their logits.

        Args:
            wanted: the request.
            rows: `(b,)`.
            query, met: for a new user, the query, and the items to hide instead of seen ones.
        """
        candidates = wanted.candidates(self.n_items, rows)
        found, best = [], []
        for at in range(0, len(rows), step := max(1, CELLS // self.n_items)):
            users = rows[at : at + step]
            if query is None:
                scores = self.scorer.scores(self.scorer.known(users), candidates)
                hidden = [self._hidden(wanted, int(user), self.events.seen(int(user), wanted.seen)) for user in users]
            else:
                scores = self._scores(query, candidates)
                hidden = [self._hidden(wanted, 0, met if wanted.seen is not False else met[:0])]
            allowed = None if wanted.allow.by_user is None else [wanted.allow.by_user.get(u) for u in users.tolist()]
            items, logits = self._best(wanted, scores, candidates, hidden, allowed)
            found.append(items), best.append(logits)
        width = min(wanted.k, self.n_items - 1 if candidates is None else len(candidates))
        empty = np.zeros((0, width), np.int64), np.zeros((0, width), np.float32)
        return np.concatenate([empty[0], *found]), np.concatenate([empty[1], *best])

    @staticmethod
    def _hidden(wanted: Wanted, user: int, seen: np.ndarray) -> np.ndarray:
        denied = (wanted.deny.by_user or {}).get(user)
        return seen if denied is None else np.concatenate([seen, denied])

    def _best(self, wanted: Wanted, own: np.ndarray, candidates, hidden: list, allowed: list | None) -> tuple:
        """The lists of a block of users from their logits `(b, c)`."""
        places = lambda items: _places(items, candidates)  # noqa: E731
        if candidates is None:
            own[:, 0] = -np.inf  # the unknown item
        scores = own if wanted.offsets is None else tilted(own, wanted.offsets[_all(candidates)])
        for j, items in enumerate(hidden):
            scores[j, places(items)] = -np.inf
        if allowed is not None:
            left = np.full_like(scores, -np.inf)
            for j, items in enumerate(allowed):
                if items is not None:
                    left[j, places(items)] = scores[j, places(items)]
            scores = left
        n = scores.shape[1] - (candidates is None)
        size = wanted.k if wanted.rerank is None else max(wanted.rerank.pool, wanted.k)
        place, best = top(scores, min(size, n))
        refuse_nan(best)
        items = place if candidates is None else candidates[place]
        if wanted.rerank is not None:
            k = min(wanted.k, n)
            order = np.stack(
                [chosen(b, self._unit(i), wanted.rerank.weight, k) for b, i in zip(best, items, strict=True)]
            )
            place, best, items = (np.take_along_axis(part, order, 1) for part in (place, best, items))
        logits = best if wanted.offsets is None else np.take_along_axis(own, place, 1)
        logits = np.where(best == -np.inf, -np.inf, logits)
        return np.where(best == -np.inf, 0, items), logits.astype(np.float32)

    def _filter(self, filter_seen) -> bool | str:
        if isinstance(filter_seen, (bool, np.bool_)):
            return bool(filter_seen)
        if isinstance(filter_seen, str) and filter_seen == "train":
            return filter_seen
        raise ValueError(f"filter_seen must be True, False or 'train' (the training part alone), got {filter_seen!r}")

    def _offsets(self, novelty_weight: float, half_life, freshness_weight: float) -> np.ndarray | None:
        """The terms added to scores, `(n_items,)` float32; see `retrieval.tilt.Tilt`."""
        novelty, freshness = finite("novelty_weight", novelty_weight), finite("freshness_weight", freshness_weight)
        if half_life is None and freshness != 1:
            raise ValueError(f"freshness_weight={freshness_weight!r} needs half_life=, the days after which an item is "
                             "half as fresh")  # fmt: skip
        if novelty == 0 and half_life is None:
            return None
        total = np.zeros(self.n_items)
        if novelty != 0:
            bits = -np.log2(np.maximum(self.arrays["items.having"], 1) / self.spec["users_with_rows"])
            mean, spread = bits[1:].mean(), bits[1:].std()
            total += novelty * (bits - mean) / spread if spread > 0 else 0.0
        if half_life is not None:
            if "items.age" not in self.arrays:
                raise ValueError("the age of items needs the times of the events, which this data lacks: make the "
                                 "dataloaders with time_name=")  # fmt: skip
            total += freshness * np.exp2(-self.arrays["items.age"] / in_days("half_life", half_life))
        return total.astype(np.float32)

    def _rerank(self, diversity: float, by, pool) -> Rerank | None:
        if not 0 <= finite("diversity", diversity) <= 1:
            raise ValueError(f"diversity must lie in 0..1, 0 being the model's own ranking, got {diversity!r}")
        pool = whole("pool", pool)
        if diversity == 0:
            return None
        if not (isinstance(by, str) and by == "vectors"):
            raise NotImplementedError("the light runtime takes only diversify_by='vectors': use Recommender")
        return Rerank(float(diversity), pool)

    @cached_property
    def _factors(self) -> np.ndarray | None:
        """The items' factors `(n_items, d)`, if the model has them."""
        if self.spec["kind"] not in ("vectors", "pairs"):
            return None
        return self.model["factors"] if "factors" in self.model else self.model["items"][:, : self.spec["factors"]]

    @cached_property
    def _norms(self) -> np.ndarray:
        return np.maximum(np.sqrt(np.square(self._factors).sum(1)), np.float32(1e-12))

    def _unit(self, items: np.ndarray) -> np.ndarray:
        """Vectors of length 1 `(m, d)`, which determine the similarity of items."""
        if self._factors is None:
            return self.model["likeness"][items]
        return self._factors[items] / self._norms[items, None]

    def _alike(self, item: int) -> np.ndarray:
        """Similarities of all items to one item, `(n_items,)` float32."""
        if self._factors is None:
            return np.array(self.scorer.similar(item), dtype=np.float32)
        return (self._factors @ (self._factors[item] / self._norms[item])) / self._norms

    # --- reasons ----------------------------------------------------------------------------------------------------

    def _check_why(self, why) -> bool | int:
        if why is None or (isinstance(why, (bool, np.bool_)) and not why):
            return False
        if self._solves:
            self._need_fold()
        return True if isinstance(why, (bool, np.bool_)) else whole("why", why)

    def _shares(self, user: int, one: Told | None, among: np.ndarray) -> Shares:
        """The shares of past items in the scores of items `among` `(m,)`, of a user or of a new user."""
        if not self._solves:
            items, weight = self.events.latest(user) if one is None else one[:2]
            if self.encoder is not None:
                return leave_one_out(self.encoder, self.scorer, user, items, among)
            return of_history(self.scorer, items, weight, among)
        met = self.arrays["items.rows"] > 0
        return of_row(self.fold, user, None if one is None else tuple(one), self.events, met, among)

    def _because(self, found: np.ndarray, why: bool | int, shares: Callable) -> list | None:
        """For each item of each list the ids of the past items that contribute most, as in `serve.why.because_of`."""
        if not why:
            return None
        every = []
        for j, items in enumerate(found):
            among = items[items > 0]
            if not len(among):
                continue
            mine = shares(j, among)
            reasons = mine.reasons()
            order = np.argsort(-reasons, axis=0, kind="stable")[: int(why)]
            for m in range(len(among)):
                ids = self.items.decode([mine.items[i] for i in order[:, m] if reasons[i, m] > 0])
                every.append(ids if why is not True else ids[0] if ids else None)
        return every

    # --- records ----------------------------------------------------------------------------------------------------

    def _records(
        self, found: np.ndarray, logits: np.ndarray, k: int, asked: dict, because: list | None
    ) -> list[dict]:  # fmt: skip
        scores = {"score": self._activated(logits)}
        if isinstance(self.calibration, Probabilities):
            scores["probability"] = self.calibration(logits)
        return self._table(found, k, asked, "users", scores, {} if because is None else {"because": because})

    def _table(
        self, found: np.ndarray, k: int, asked: dict, askers: str, scores: dict, more: Mapping = {}
    ) -> list[dict]:  # fmt: skip
        """The lists `(b, k)` of items and their scores, with the ids `asked`, as records; short lists are reported."""
        left = found > 0
        counts = left.sum(1)
        if short := int((counts < k).sum()):
            say(f"fewer than k={k} items are left for {short:,} of {len(found):,} {askers}, who get fewer rows (at "
                f"least {int(counts.min())})")  # fmt: skip
        columns = {
            name: [one for one, n in zip(ids, counts, strict=True) for _ in range(n)] for name, ids in asked.items()
        }
        columns[self.items.name] = self.items.decode(found[left])
        columns["rank"] = left.cumsum(1)[left].tolist()
        return self._called(columns | {name: values[left].tolist() for name, values in scores.items()} | dict(more))

    def _called(self, columns: Mapping[str, list]) -> list[dict]:
        """Rows of columns as dicts, with the names of the results' columns."""
        return records({self.called.get(name, name): values for name, values in columns.items()})


def _places(items: np.ndarray, candidates: np.ndarray | None) -> np.ndarray:
    """The columns of the items that are among `candidates`."""
    if candidates is None:
        return items
    at = np.minimum(np.searchsorted(candidates, items), len(candidates) - 1)
    return at[candidates[at] == items]


def _all(candidates: np.ndarray | None):
    return slice(None) if candidates is None else candidates


def records(columns: Mapping[str, list]) -> list[dict]:
    """Rows of columns `(n,)` as dicts."""
    names = tuple(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def times(values: np.ndarray, ticks: int) -> list:
    """Times in the unit of the caller's column, None where an event has none; see `Interactions.to_df`."""
    shown = values if ticks == 1 else values // ticks + values % ticks / ticks
    return [None if raw == NEVER else value for raw, value in zip(values.tolist(), shown.tolist(), strict=True)]
