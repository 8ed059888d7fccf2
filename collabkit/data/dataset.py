"""`Dataset`: the data of one problem, with one owner for all of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.data.checks import shown
from collabkit.data.features import Features, SideFeatures
from collabkit.data.frames import Source
from collabkit.data.interactions import Interactions
from collabkit.data.query import Query
from collabkit.data.runs import Runs
from collabkit.data.stored import together
from collabkit.data.vocab import Vocab

__all__ = ["Dataset"]

LATEST = torch.iinfo(torch.int64).max  # the time of events without one, if others have times


@dataclass(frozen=True, eq=False)
class Dataset:
    """The training, validation and folded-in interactions of one problem, their ids and side features.

    Dataloaders, learner and recommender share one dataset. It is immutable: adding ids returns a new one.

    Args:
        train: the training rows.
        valid: the validation rows, if any.
        folded: the rows of users who were folded in after training, if any: hidden and saved, never trained on.
        features: side features of users and of items, row-aligned with the vocabularies.
        disliked: pairs that are known negatives, if any: hidden like seen items.
        source: the kind of table that the data was made from, so that results have the same kind; not stored in
            artefacts.

    Example:
        >>> from collabkit.data.tables import name_columns
        >>> df = pd.DataFrame({'user': [1, 1, 2], 'title': ['Alien', 'Brazil', 'Alien']})
        >>> data = Dataset(Interactions.from_df(df, name_columns(df)))
        >>> data.n_users, data.items[1], [run.tolist() for run in data.known]
        (3, 'Alien', [[], [1, 2], [1]])
    """

    train: Interactions
    valid: Interactions | None = None
    folded: Interactions | None = None
    features: SideFeatures = field(default_factory=SideFeatures)
    disliked: Interactions | None = None
    source: Source = field(default_factory=Source)

    def __post_init__(self):
        if not isinstance(self.train, Interactions):
            raise TypeError(f"train must be Interactions, e.g. dls.data.train, got {type(self.train).__name__}")

    @classmethod
    def of(cls, data) -> "Dataset":
        """The dataset of dataloaders, a learner, a recommender, or interactions: a training part or `(train, valid)`.

        Raises:
            TypeError: `data` is something else.
        """
        for owner in (data, getattr(data, "dls", None)):
            if isinstance(found := getattr(owner, "data", None), Dataset):
                return found
        if isinstance(data, Dataset):
            return data
        parts = data if isinstance(data, (tuple, list)) else (data,)
        if len(parts) in (1, 2) and all(isinstance(part, Interactions) for part in parts):
            return cls(*parts)
        how = ": make them with CollabDataLoaders.from_df(df)" if isinstance(data, pd.DataFrame) else ""
        raise TypeError(f"expected CollabDataLoaders, a learner or Interactions, got {type(data).__name__}{how}")

    users = property(attrgetter("train.users"), doc="The users' ids.")
    items = property(attrgetter("train.items"), doc="The items' ids.")
    columns = property(attrgetter("train.columns"), doc="The column names in the caller's tables.")
    n_users = property(attrgetter("train.n_users"), doc="Rows of a user table.")
    n_items = property(attrgetter("train.n_items"), doc="Rows of an item table.")
    rated = property(lambda self: self.train.rating is not None, doc="Whether the events have ratings.")
    parts = property(attrgetter("train", "valid", "folded"), doc="The three, None where there is none.")

    @cached_property
    def every_item(self) -> Tensor:
        """The indices of all items but the unknown one."""
        return torch.arange(1, self.n_items)

    @cached_property
    def now(self) -> int:
        """The latest known time; 0 of events without."""
        return max(
            (int(part.time.max()) for part in self.parts[:2] if part is not None and part.time is not None), default=0
        )

    @cached_property
    def known(self) -> Runs:
        """The items that each user was trained on or folded in by, or dislikes, ascending and each once."""
        others = [part.pairs for part in (self.folded, self.disliked) if part is not None]
        return self.train.pairs.union(*others) if others else self.train.pairs

    @cached_property
    def seen(self) -> Runs:
        """The `known` items, and those of the validation rows."""
        if self._whole is not None and self.folded is None and self.disliked is None:
            return self._whole.pairs
        return self.known if self.valid is None else self.known.union(self.valid.pairs)

    def hidden(self, filter_seen: bool | str = True, *, is_valid: bool = False) -> Runs | None:
        """The items that each user is not shown again, None for nothing.

        Args:
            filter_seen: True: the known items; `'train'`: those that the user was trained on or folded in by; False:
                none.
            is_valid: the validation part is evaluated, so it is not known.

        Raises:
            ValueError: `filter_seen` is none of the three.
        """
        if isinstance(filter_seen, (bool, np.bool_)):
            return None if not filter_seen else self.known if is_valid else self.seen
        if isinstance(filter_seen, str) and filter_seen == "train":
            return self.known
        raise ValueError("filter_seen must be True, False or 'train' (the training part alone), got "
                         f"{shown(filter_seen)}")  # fmt: skip

    def rows_of(self, users: Tensor) -> pd.DataFrame:
        """All known events of `users` `(b,)`, the latest last, without their column and the context; see `to_df`."""
        rows = self._known.take(self._known.by_user.of(users).values)
        table = replace(rows, context={}, contexts=None).to_df().drop(columns=self.columns.user)
        if rows.time is not None and bool((never := rows.time == LATEST).any()):
            table[self.columns.time] = table[self.columns.time].astype(object).mask(never.numpy(), None)
        return table

    @property
    def histories(self) -> Runs:
        """The items that each user was trained on or folded in by, the latest last."""
        return self.trained.histories

    @property
    def latest(self) -> Runs:
        """The `histories` with the items of the validation rows: all known events, the latest last."""
        return self._known.histories

    @cached_property
    def trained(self) -> Interactions:
        """The rows that users were trained on or folded in by."""
        return joined(self.train, self.folded)

    @cached_property
    def _known(self) -> Interactions:
        if self._whole is not None and self.folded is None:
            return self._whole
        return self.trained if self.valid is None else joined(*self.parts)

    @property
    def _whole(self) -> Interactions | None:
        """The training and validation rows as one table, where it is stored."""
        return together(self.train, self.valid)

    @property
    def events(self) -> Interactions:
        """The training and validation rows."""
        if self.valid is None:
            return self.train
        return self._whole if self._whole is not None else self.train.concat(self.train, self.valid)

    def sorted_by_user(self) -> "Dataset":
        """The same with the rows of both parts in the order of users and times."""
        valid = None if self.valid is None else self.valid.sorted_by_user()
        return replace(self, train=self.train.sorted_by_user(), valid=valid)

    def item_ages(self, *, is_valid: bool) -> Tensor:
        """Days `(n_items,)` float64 from each item's first known event to the latest known one.

        An item without an event is as new as can be: 0.

        Args:
            is_valid: the validation part is evaluated; otherwise it counts as known.

        Raises:
            ValueError: the events have no times.
        """
        first = self.first_times(is_valid=is_valid)
        latest = max(int(part.time.max()) for part in self._timed(is_valid))
        return (latest - first.clamp(max=latest)).double() / self.train.day

    def first_times(self, *, is_valid: bool) -> Tensor:
        """The time `(n_items,)` of each item's first known event, the largest number if none; see `item_ages`."""
        return torch.stack([part.first_times for part in self._timed(is_valid)]).amin(0)

    def _timed(self, is_valid: bool) -> list[Interactions]:
        parts = [self.train] if is_valid or self.valid is None else [self.train, self.valid]
        if any(part.time is None for part in parts):
            raise ValueError("the age of items needs the times of the events, which this data lacks: make the "
                             "dataloaders with time_name=")  # fmt: skip
        return [part for part in parts if len(part)]

    def followed_by(self, events: Interactions, *, once: bool) -> Interactions:
        """All known events of the users of `events`, followed by `events`.

        They are in the order of time, known events first among equal times. If the known events have no times, the new
        ones come after them, also without times.

        Args:
            events: what the users did since, in their order.
            once: leave out known pairs that are also in `events`.
        """
        users = events.user_idx.unique()
        known = self._known.take(self._known.by_user.of(users).values)
        if once:
            known = known.take(~torch.isin(known.pair_keys(), events.pair_keys()))
        if known.time is not None and events.time is not None:
            undated = torch.isin(events.user_idx, known.user_idx[known.time == LATEST])
            events = replace(events, time=events.time.masked_fill(undated, LATEST))
        return joined(known, events)

    def histories_before(self, rows: Interactions | None, *, is_valid: bool) -> Runs:
        """What was known of each user at the moment of the first of their evaluated `rows`, the latest last.

        Args:
            rows: the evaluated rows; without times, nothing counts as later.
            is_valid: they are the validation part; otherwise it counts as known.
        """
        events = self.trained if is_valid else self._known
        runs = events.histories
        if rows is None or rows.time is None or events.time is None:
            return runs
        times = events.time[events.by_user.values]
        moment = torch.full((self.n_users,), LATEST)
        moment.scatter_reduce_(0, rows.user_idx, rows.time, "amin")
        known = torch.zeros(self.n_users, dtype=torch.int64).index_add_(
            0, runs.rows, (times <= moment[runs.rows]).long()
        )
        return runs.spans(runs.start[:-1], runs.start[:-1] + known)

    def asker(
        self,
        needs: Sequence[str],
        context: dict[str, Tensor] | None = None,
        histories: Runs | None = None,
        times: Tensor | None = None,
    ) -> Callable[[Tensor], Tensor | Query]:
        """A function from users `(b,)` to a query that has the parts `needs`.

        Args:
            needs: of the model that is asked.
            context: by field, values for each user's moment `(n_users, ...)`, or one for all; default unknown.
            histories: of the users; default the trained and folded-in events.
            times: `(n_users,)` when each is asked; default the latest known time.
        """
        if tuple(needs) == ("users",):
            return lambda users: users
        histories = self.histories if histories is None and "history" in needs else histories
        unknown = self.train.unknown_moments(1) if "context" in needs else {}
        moments = {**unknown, **(context or {})} if unknown else {}

        def ask(users: Tensor) -> Query:
            history = histories.of(users) if "history" in needs else None
            every = {name: part[users if len(part) > 1 else users * 0] for name, part in moments.items()}
            if "time" not in needs:
                return Query(users, history, every)
            return Query(
                users, history, every, time=torch.full_like(users, self.now) if times is None else times[users]
            )

        return ask

    def query_of(self, rows: Interactions, needs: Sequence[str]) -> Tensor | Query:
        """The query of the users of `rows`, each at the moment of its row, with the parts `needs`."""
        if tuple(needs) == ("users",):
            return rows.user_idx
        history = self.histories.of(rows.user_idx) if "history" in needs else None
        if "time" in needs and rows.time is None:
            raise ValueError(f"the model uses the time of each row: the table needs the column {self.columns.time!r}")
        context = dict(rows.context) if "context" in needs else {}
        return Query(rows.user_idx, history, context, time=rows.time if "time" in needs else None)

    def with_ids(self, side: str, vocab: Vocab, features: Features | None = None) -> "Dataset":
        """The same with more ids at the end of one side's vocabulary, and features for all ids."""
        extend = lambda part: None if part is None else replace(part, **{f"{side}s": vocab})  # noqa: E731
        both = self.features if features is None else self.features._replace(**{f"{side}s": features})
        return Dataset(*map(extend, self.parts), both, extend(self.disliked), self.source)

    def all_trained(self) -> "Dataset":
        """The same with the validation rows in the training part, and no validation part.

        Weights are left out, as validation rows have none.
        """
        return self if self.valid is None else replace(self, train=joined(self.train, self.valid), valid=None)

    def with_folded(self, events: Interactions) -> "Dataset":
        """The same with the rows of folded-in users; of a repeated (user, item) pair the last row counts."""
        if self.folded is not None:
            events = Interactions.concat(self.folded, events)
            events = events.take(~pd.Series(events.pair_keys().numpy()).duplicated(keep="last").to_numpy())
        return replace(self, folded=events)


def joined(*parts: Interactions | None) -> Interactions:
    """The rows of all `parts` that there are; if a part has no times but others do, its rows are the latest.

    If rows have counts, the confidence is fitted to all of them.
    """
    parts = [part for part in parts if part is not None]
    if len(parts) == 1:
        return parts[0]
    if parts[0].time is not None:
        parts = [replace(p, time=torch.full((len(p),), LATEST)) if p.time is None else p for p in parts]
    rows = parts[0].concat(*parts)
    return rows if rows.confidence is None or rows.count is None else rows.with_counts(rows.count, rows.confidence)
