"""`_Newcomers`: the half of `Recommender` that takes new users and items into a trained model."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.features.sources import check_columns, refuse_repeated
from collabkit.fold_in import FoldIn
from collabkit.interactions import Interactions
from collabkit.models import CollabModel
from collabkit.models.growing import undone_on_error
from collabkit.questionnaire import questionnaire
from collabkit.ranking import Scorer
from collabkit.recommender.histories import NewUsers, extend_vocab, read_histories, with_vocab
from collabkit.vocab import Vocab

__all__ = ["_Newcomers"]


class _Newcomers:
    """New ids get rows in the tables, from their features or from what they rated; nothing is trained again.

    A base of `Recommender`, whose `model`, `train`, `valid` and `later` it extends.
    """

    model: CollabModel
    train: Interactions
    valid: Interactions | None
    later: Interactions | None

    def questionnaire(self, n: int = 10, *, by: str = "information", items=None) -> pd.DataFrame:
        """Items to ask a new user about, whose answers `recommend(history=...)` or `fold_in` takes.

        Args:
            n: how many.
            by: `'information'`: the most telling ones, popular, divisive and spread over the space of tastes; see
                `questionnaire.next_questions`. `'popularity'`: the best known; `'spread'`: as if all were known.
            items: ids to choose from; default all with training rows.

        Returns:
            DataFrame with the item column, `known_by` (share of the users with a training row of it), `spread`
            (standard deviation of the answer before anything is known, in ratings or logits) and `information` (nats
            that the answer was expected to be worth, after those above it).

        Raises:
            KeyError: an unknown item.
            ValueError: `n` below 1 or above the number of items; an unknown `by`.
        """
        return questionnaire(self, n, by=by, items=items)

    def add_items(self, items: pd.DataFrame) -> _Newcomers:
        """Take in new items, known by their features alone; nothing is trained, and the other ids stay as they are.

        Args:
            items: a row an item: the item column and the columns of the model's item features. Categories that training
                has not seen count as none (counted in a `CollabWarning`).

        Returns:
            This recommender.

        Raises:
            TypeError: the model has no item features.
            KeyError: a column is missing.
            ValueError: an item exists already or has two rows; a vector of another length, with NaN.
        """
        return self._add(items, is_item=True)

    def add_users(self, users: pd.DataFrame) -> _Newcomers:
        """Take in new users, known by their features alone; see `add_items`, and `fold_in` for users with ratings."""
        return self._add(users, is_item=False)

    def fold_in(self, ratings: pd.DataFrame, users: pd.DataFrame | None = None) -> _Newcomers:
        """Take in new users by what they have rated or clicked, the items as they are; nothing is trained again.

        Each gets the row of the user table under which the history is most likely, given how the training users are
        distributed; see `fold_in.FoldIn`. Their histories are hidden from their recommendations and saved with the
        model. Users who are there without training rows (added, folded in before, or in the validation part alone)
        may come again with more.

        Args:
            ratings: rows of the new users, with the model's user, item and rating columns. Unknown items are left out
                (counted).
            users: features of users who are not there yet, as for `add_users`.

        Returns:
            This recommender.

        Raises:
            KeyError: a column is missing.
            ValueError: a user has training rows, or no item that the model knows; a rating out of range.
        """
        if not isinstance(ratings, pd.DataFrame):
            raise TypeError(
                f"fold_in needs a DataFrame with columns {self.columns.present}, got {type(ratings).__name__}"
            )
        new = read_histories(ratings, self.train, self._with_rows("fold_in").y_range)
        self._check_newcomers(new, users)
        with self._undone_on_error():
            if users is not None:
                self.add_users(users)
            unknown = new.ids[self.users.encode(new.ids) == 0]
            if len(unknown):
                self._extend(self.users.extended(unknown), is_item=False)
            events = new.interactions(self.train, torch.from_numpy(self.users.encode(new.ids)))
            self.later = events if self.later is None else _without_repeated(Interactions.concat(self.later, events))
            self._forget()
            self.refold(events.user_idx.unique())
        return self

    def _check_newcomers(self, new: NewUsers, users: pd.DataFrame | None) -> None:
        """Raise where a user is trained already, or a row of `users` belongs to nobody of the new ones."""
        idx = self.users.encode(new.ids)
        trained = np.isin(idx[idx > 0], self.train.user_idx.cpu().numpy())
        if trained.any():
            who = new.ids[idx > 0][trained].tolist()[0]
            raise ValueError(
                f"{trained.sum():,} user(s) have training rows, e.g. {who!r}: fold_in is for users without; leave them "
                "out"
            )
        if users is not None and self.users.name in getattr(users, "columns", ()):
            others = users[self.users.name][~users[self.users.name].isin(new.ids)]
            if len(others):
                raise ValueError(
                    f"{len(others):,} of {len(users):,} rows of users= are of users without a known rating, e.g. "
                    f"{others.tolist()[0]!r}; add_users takes such users"
                )

    def refold(self, chosen: Tensor | None = None) -> None:
        """Solve for the rows of the folded-in users at `chosen` `(m,)` (None: all) again, e.g. after more training."""
        if self.later is None:
            return
        part = self.later.sorted_by_user()
        part = part if chosen is None else part.take(torch.isin(part.user_idx, chosen).numpy())
        at, counts = torch.unique_consecutive(part.user_idx, return_counts=True)
        start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        fold = self.fold
        self.model.set_rows(False, at, fold.rows(start, part.item_idx, part.rating, at=at))
        self._fold_of = (_state(self.model), fold)  # the trained rows are as they were

    @property
    def fold(self) -> FoldIn:
        """The fold-in for the model as it is now; kept until a weight changes."""
        state = _state(self.model)
        if self._fold_of is None or self._fold_of[0] != state:
            self._fold_of = (state, FoldIn(self.model, self.train))
        return self._fold_of[1]

    _fold_of: tuple | None = None

    def _new_scorer(self, new: NewUsers, candidates: Tensor) -> Scorer:
        """Scores of `candidates` `(c,)` for users who are not in the tables, by their positions."""
        fold = self.fold
        return fold.scorer(fold.rows(new.histories.start, new.histories.items, new.histories.ratings), candidates)

    def _add(self, df: pd.DataFrame, is_item: bool) -> _Newcomers:
        what = "item" if is_item else "user"
        if self._with_rows(f"add_{what}s").features_of(is_item) is None:
            other = "" if is_item else ", or fold_in(ratings) them"
            raise TypeError(
                f"the model has no {what} features, so nothing is known of a new {what}: train with {what}s=features"
                f"{other}"
            )
        vocab = self.items if is_item else self.users
        fields = self.model.features_of(is_item).features.fields
        columns = [vocab.name, *(name for field in fields for name in field.columns or (field.name,))]
        if not isinstance(df, pd.DataFrame):
            raise TypeError(f"new {what}s need a DataFrame with the columns {columns}, got {type(df).__name__}")
        check_columns(df, columns, f"the table of new {what}s")
        refuse_repeated(df[vocab.name])
        with self._undone_on_error():
            self._extend(vocab.extended(df[vocab.name]), is_item=is_item, df=df)
        return self

    @contextmanager
    def _undone_on_error(self):
        """Within it ids may be taken in; where an error leaves it, all is as it was."""
        parts = (self.train, self.valid, self.later, self._fold_of)
        try:
            with undone_on_error(self.model):
                yield
        except BaseException:
            self.train, self.valid, self.later, self._fold_of = parts
            self._forget()
            raise

    def _extend(self, vocab: Vocab, *, is_item: bool, df: pd.DataFrame | None = None) -> None:
        # New users change nothing of how the trained ones are distributed; new items are others to be scored.
        kept = None if is_item or self._fold_of is None else self._fold_of[1]
        extend_vocab(self.model, vocab, is_item=is_item, df=df)
        self.train, self.valid, self.later = (
            with_vocab(part, vocab, is_item) for part in (self.train, self.valid, self.later)
        )
        self._fold_of = None if kept is None else (_state(self.model), kept)
        self._forget()

    def _forget(self) -> None:
        """Drop what was computed from the interactions."""
        for name in ("_known", "_seen", "_popularity"):
            self.__dict__.pop(name, None)

    def _with_rows(self, what: str) -> CollabModel:
        """The model, or an error where it is a baseline, which has no rows to give to new ids."""
        if not isinstance(self.model, CollabModel):
            raise TypeError(f"{what} needs a trained model; {type(self.model).__name__} has no rows for new ids")
        return self.model


def _state(model: CollabModel) -> tuple:
    """What changes when a weight does."""
    return tuple((p.data_ptr(), p._version, p.dtype) for p in model.parameters())


def _without_repeated(part: Interactions) -> Interactions:
    """The last row of each (user, item) pair."""
    keys = pd.Series(part.pair_keys().numpy())
    return part.take(~keys.duplicated(keep="last").to_numpy())
