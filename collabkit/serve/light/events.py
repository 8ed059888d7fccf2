"""The known events of each user, in the order of histories, and the items that are not shown again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from collabkit.data.unique import sorted_unique

__all__ = ["Events"]

TRAIN, VALID, FOLDED = range(3)


class Events:
    """The events of an artefact, user by user, the latest last.

    Args:
        arrays: those of `light_state`.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = arrays
        self.start, self.items, self.part = arrays["start"], arrays["items"], arrays["part"]

    def _of(self, user: int) -> slice:
        return slice(int(self.start[user]), int(self.start[user + 1]))

    def trained(self, user: int) -> tuple[np.ndarray, np.ndarray | None]:
        """What a user was trained on or folded in by: items `(l,)`, and ratings or confidences."""
        where = self._of(user)
        keep, weight = self.part[where] != VALID, self.arrays.get("weight")
        return self.items[where][keep].astype(np.int64), None if weight is None else weight[where][keep]

    def solved(self, user: int) -> tuple[np.ndarray, np.ndarray | None]:
        """A user's training events only, as they count in the equations of least squares."""
        where = self._of(user)
        keep, weight = self.part[where] == TRAIN, self.arrays.get("solved")
        return self.items[where][keep].astype(np.int64), None if weight is None else weight[where][keep]

    def latest(self, user: int) -> tuple[np.ndarray, np.ndarray | None]:
        """All known events of a user, in the form that a model of histories reads."""
        where, weight = self._of(user), self.arrays.get("latest")
        return self.items[where].astype(np.int64), None if weight is None else weight[where]

    def seen(self, user: int, filter_seen: bool | str) -> np.ndarray:
        """The items that a user is not shown again."""
        if filter_seen is False:
            return np.zeros(0, np.int64)
        where = self._of(user)
        items = self.items[where]
        items = items if filter_seen is True else items[self.part[where] != VALID]
        if "disliked" in self.arrays:
            items = np.concatenate([items, self.disliked(user)])
        return items[items > 0]

    def disliked(self, user: int) -> np.ndarray:
        """The known negatives of a user."""
        if "disliked" not in self.arrays:
            return np.zeros(0, np.int64)
        start = self.arrays["disliked_start"]
        return self.arrays["disliked"][int(start[user]) : int(start[user + 1])].astype(np.int64)

    def n_known(self, users: np.ndarray) -> np.ndarray:
        """How many different items each of `users` `(m,)` was trained on, folded in by, or dislikes."""
        return np.array([len(sorted_unique(self.seen(int(user), "train"))) for user in users], dtype=np.int64)

    def told(self, user: int) -> dict[str, np.ndarray]:
        """The columns of a user's known events: `items`, and `rating` or `count`, and `time`, where there are any."""
        where = self._of(user)
        found = {name: self.arrays[name][where] for name in ("count", "time") if name in self.arrays}
        return {"items": self.items[where].astype(np.int64), "weight": self._weight(where), **found}

    def _weight(self, where: slice) -> np.ndarray | None:
        weight = self.arrays.get("weight")
        return None if weight is None else weight[where]
