"""`Light`: recommendations from an artefact with NumPy alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from collabkit.coldstart.questions import BY, most_telling
from collabkit.data.checks import whole
from collabkit.data.meaning import Intervals
from collabkit.data.notices import noting, say
from collabkit.data.unique import sorted_unique
from collabkit.serve.light.asked import is_one
from collabkit.serve.light.engine import Engine, Wanted, times
from collabkit.serve.light.load import load_arrays
from collabkit.serve.light.ranking import top
from collabkit.serve.light.why import told

__all__ = ["Light"]


class Light(Engine):
    """Recommend from an artefact with NumPy alone: the results of `Recommender` in a fraction of its time and memory.

    Supports models whose scores are dot products, sums over the items of a history, or popularity. For models whose
    vectors come from a network that reads a history, it supports users in the artefact; new histories need the network.
    Results are lists of dicts, whose keys are the columns of `Recommender`'s tables. Scores are the same to the last
    digits of float32; among equal scores, the item that comes first in the vocabulary is listed first.

    It changes nothing and keeps no state between calls, so any number of threads may use one object. Arrays are
    memory-mapped and shared by several processes.

    Args:
        config: the config of the artefact.
        arrays: the arrays from its files.

    Example:
        >>> light = Light.load(folder)                           # doctest: +SKIP
        >>> light.recommend('ann', k=1)                          # doctest: +SKIP
        [{'user': 'ann', 'title': 'Alien (1979)', 'rank': 1, 'score': 4.61}]
        >>> with light.noting() as notes:                        # doctest: +SKIP
        ...     light.recommend(history=['Alien (1979)', 'Alein'])
    """

    noting = staticmethod(noting)

    @classmethod
    def load(cls, folder: str | Path) -> Light:
        """Load the artefact in a folder written by `learn.export`.

        Raises:
            FileNotFoundError: the folder does not exist.
            BundleError: it is damaged or not an artefact, lacks the files that this runtime needs, or holds a model
                that needs torch; the message says what to do.
        """
        return cls(*load_arrays(folder))

    @property
    def n_items(self) -> int:
        """Indices of items, the unknown one included."""
        return len(self.items)

    def recommend(
        self, users=None, k: int = 10, *, history=None, recent=None, filter_seen: bool | str = True, items=None,
        exclude=None, unknown: str = "raise", context=None, novelty_weight: float = 0.0, half_life=None,
        freshness_weight: float = 1.0, diversity: float = 0.0, diversify_by="vectors", pool: int = 100,
        why: bool | int = False, max_memory=None,
    ) -> list[dict]:  # fmt: skip
        """Return the top `k` items of each user or of a `history`; arguments as in `Recommender.recommend`.

        A history is that of one user; lists per user are dicts. `recent` and `context` need torch, and so does
        `diversify_by`, except `'vectors'`.

        Raises:
            KeyError, ValueError, TypeError: as in `Recommender.recommend`.
            NotImplementedError: this runtime does not support the request.
        """
        self._refuse(recent=recent, context=context)
        lean = {"offsets": self._offsets(novelty_weight, half_life, freshness_weight)}
        lean["rerank"] = self._rerank(diversity, diversify_by, pool)
        wanted = Wanted(whole("k", k), seen=self._filter(filter_seen), **lean)
        n_why = self._check_why(why)
        if history is not None:
            if users is not None:
                raise ValueError("history= is for new users: leave out users= and recent=")
            one = self._read(history)
            wanted = wanted.limited(items, exclude, None, self.items)
            query = self._told(one)
            found, logits = self._lists(wanted, np.zeros(1, np.int64), query, sorted_unique(one.items))
            because = self._because(found, n_why, lambda j, among: self._shares(0, one, among))
            return self._records(found, logits, wanted.k, {}, because)
        wanted = wanted.limited(items, exclude, self.users, self.items)
        users = wanted.named(self.users) if users is None else users
        rows, ids = self._asked(users, unknown)
        found, logits = self._lists(wanted, rows)
        because = self._because(found, n_why, lambda j, among: self._shares(int(rows[j]), None, among))
        return self._records(found, logits, wanted.k, {self.users.name: ids}, because)

    def default_list(self, k: int = 10, *, items=None, exclude=None, context=None) -> list[dict]:
        """Return the top `k` items for an unknown user; arguments as in `recommend`."""
        self._refuse(context=context)
        wanted = Wanted(whole("k", k)).limited(items, exclude, None, self.items)
        return self._records(*self._lists(wanted, np.zeros(1, np.int64)), wanted.k, {}, None)

    def predict(
        self, users, items, *, unknown: str = "raise", context=None, interval: float | None = None
    ) -> float | list[float] | tuple:
        """Return the rating or score of each (user, item) pair; arguments and errors as in `Recommender.predict`.

        Returns:
            A float for two scalars, else a list. With `interval` three of these.
        """
        self._refuse(context=context)
        if interval is not None and not isinstance(self.calibration, Intervals):
            raise ValueError("intervals need a model of ratings with known errors: call calibrate() first")
        if interval is not None and not 0 < interval < 1:
            raise ValueError(f"interval must be a share between 0 and 1, e.g. .9, got {interval!r}")
        rows, idx = self._encode(self.users, users, unknown), self._encode(self.items, items, unknown)
        if len(rows) != len(idx) and 1 not in (len(rows), len(idx)):
            raise ValueError(f"users and items must pair up, got {len(rows)} users and {len(idx)} items")
        rows, idx = np.broadcast_arrays(rows, idx)
        ratings = self._pairs(rows, idx)
        if self.spec["predicts_ratings"]:
            ratings = self._activated(ratings)
        answers = [ratings]
        if interval is not None:
            half = self.calibration.width(self.events.n_known(rows), interval)
            low, high = self.y_range or (-np.inf, np.inf)
            answers += [np.maximum(ratings - half, np.float32(low)), np.minimum(ratings + half, np.float32(high))]
        answers = [values.tolist() for values in answers]
        if is_one(users) and is_one(items):
            answers = [values[0] for values in answers]
        return answers[0] if interval is None else tuple(answers)

    def similar_items(self, item, k: int = 10) -> list[dict]:
        """Return the `k` items most similar to `item` (one id or several); see `Recommender.similar_items`."""
        idx = self._encode(self.items, item, "raise")
        if whole("k", k) > self.n_items - 2:
            say(f"only {self.n_items - 2} others exist, fewer than k={k}")
        k, alike = min(int(k), self.n_items - 2), np.stack([self._alike(int(one)) for one in idx])
        alike[:, 0] = alike[np.arange(len(idx)), idx] = -np.inf
        found, best = top(alike, k)
        found = np.where(best == -np.inf, 0, found)
        asked = {} if is_one(item) else {f"similar_to_{self.items.name}": self.items.decode(idx)}
        return self._table(found, k, asked, "items", {"similarity": best})

    def history(self, user) -> list[dict]:
        """Return the known events of a user, the latest last; see `Recommender.history`."""
        row = int(self._encode(self.users, user, "raise")[0])
        told, names = self.events.told(row), self.config["columns"]
        columns = {self.items.name: [self.items.decode([i])[0] if i else None for i in told["items"].tolist()]}
        if self.spec["rated"]:
            columns[names["rating"]] = told["weight"].tolist()
        if "time" in told:
            columns[names["time"]] = times(told["time"], names.get("ticks") or 1)
        if "count" in told:
            columns[names["count"]] = told["count"].tolist()
        return self._called(columns)

    def why(self, user=None, item=None, *, history=None, by: str = "history", context=None) -> list[dict]:
        """Return what each past item adds to the score of an item; see `Recommender.why`.

        Returns:
            Records of the item column, `part` and `share`, the largest first; their shares sum to the score.
        """
        self._refuse(context=context)
        if by != "history":
            raise ValueError(f"by must be 'history', got {by!r}; CollabInterpretation.why has the parts")
        if item is None or (user is None) == (history is None):
            raise ValueError("why needs item=, and either user= or the history= of a new user")
        self._check_why(True)
        idx = self._encode(self.items, item, "raise")
        one = None if history is None else self._read(history)
        row = np.zeros(1, np.int64) if history is not None else self._encode(self.users, user, "raise")
        if len(row) != 1 or len(idx) != 1:
            raise ValueError(f"why explains one score of one user and one item; got {len(row)} and {len(idx)}")
        score = self._pairs(row, idx) if one is None else self._scores(self._told(one), idx)[0]
        rows, _ = told(self._shares(int(row[0]), one, idx), float(score[0]), self.y_range)
        names = [None if i is None else self.items.decode([i])[0] for i, _, _ in rows]
        parts, shares = [what for _, what, _ in rows], [share for _, _, share in rows]
        return self._called({self.items.name: names, "part": parts, "share": shares})

    def questionnaire(self, n: int = 10, *, by: str = "information", items=None) -> list[dict]:
        """Return items to ask a new user about; see `Recommender.questionnaire`."""
        fold = self._need_fold()
        if by not in BY:
            raise ValueError(f"by must be one of {', '.join(map(repr, BY))}, got {by!r}")
        n, having = whole("n", n), self.arrays["items.having"]
        idx = np.flatnonzero(having)
        if items is not None:
            idx = idx[np.isin(idx, self._encode(self.items, items, "raise"))]
        if n > len(idx):
            raise ValueError(f"n={n} questions need as many items with training rows, but there are {len(idx):,}")
        slope, noise = fold.belief(idx)
        known = (having[idx] / np.float32(self.spec["users_with_rows"])).astype(np.float32)
        chosen, worth, spread = most_telling(slope, known.astype(np.float64), n, noise, by)
        columns = {"known_by": known[chosen].tolist(), "spread": spread.tolist(), "information": worth.tolist()}
        return self._called({self.items.name: self.items.decode(idx[chosen]), **columns})

    def facts(self, item) -> dict[str, object]:
        """Return the known features of an item by name: categories as a list, a number as a float."""
        row, found = int(self._encode(self.items, item, "raise")[0]), {}
        for j, field in enumerate(self.config.get("features", {}).get("items", ())):
            codes, start = (self.arrays.get(f"features.items.{j}.{name}") for name in ("codes", "start"))
            if codes is not None and field.get("categories"):
                own = codes[int(start[row]) : int(start[row + 1])]
                found[field["name"]] = [field["categories"][code - 1] for code in own.tolist() if code > 0]
            elif field["kind"] == "numeric":
                values = self.arrays[f"features.items.{j}.values"][row]
                if len(values) == 1 or not values[1]:
                    found[field["name"]] = float(values[0]) * field["scale"] + field["centre"]
        return {name: value for name, value in found.items() if value != []}

    def popularity(self) -> np.ndarray:
        """Return the number of training rows of each item `(n_items,)`, the unknown item at index 0."""
        return self.arrays["items.rows"]
