"""`Recommender`: a trained model with its ids, for recommendations; loads an artefact without fastai."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.bundle import load_bundle, save_bundle
from collabkit.evaluate import (
    predict_ratings,
)
from collabkit.evaluate.candidates import known_pairs
from collabkit.interactions import Interactions, say
from collabkit.models import CollabModel
from collabkit.models.base import evaluating
from collabkit.neighbours import similar_rows
from collabkit.pairs import Pairs
from collabkit.ranking import block_size, model_scorer, top_k
from collabkit.recommender.evaluation import _Evaluation
from collabkit.recommender.histories import read_histories
from collabkit.recommender.newcomers import _Newcomers
from collabkit.vocab import Vocab, check_ids

__all__ = ["Recommender"]


class Recommender(_Newcomers, _Evaluation):
    """Predictions, recommendations, neighbours and evaluation of a trained model, by external ids.

    `learn.recommend` and its kin are this class on the learner's model; `Recommender.load(folder)` is the same from an
    artefact.

    Args:
        model: a model whose tables are row-aligned with the interactions' vocabularies.
        train: training interactions.
        valid: validation interactions, if any; `recommend` hides both.
        later: interactions of users folded in after training, if any.
        config: the artefact's config, where it came from one.

    Example:
        >>> rec = Recommender.load(folder)                             # doctest: +SKIP
        >>> rec.recommend(['ann', 'bob'], k=5)                         # doctest: +SKIP
    """

    def __init__(
        self,
        model: CollabModel,
        train: Interactions,
        valid: Interactions | None = None,
        later: Interactions | None = None,
        *,
        config: dict | None = None,
    ):
        self.model, self.train, self.valid, self.later, self.config = model, train, valid, later, config or {}
        self.columns = train.columns

    @property
    def users(self) -> Vocab:
        """The users' ids."""
        return self.train.users

    @property
    def items(self) -> Vocab:
        """The items' ids."""
        return self.train.items

    @classmethod
    def load(cls, folder: str | Path) -> Recommender:
        """The recommender in an artefact folder written by `learn.export`; see `bundle.load_bundle` for errors."""
        bundle = load_bundle(folder)
        return cls(bundle.model, bundle.train, bundle.valid, bundle.later, config=bundle.config)

    def save(self, folder: str | Path, *, metrics: dict | None = None) -> Path:
        """Write the artefact; see `bundle.save_bundle`."""
        return save_bundle(folder, self.model, self.train, self.valid, self.later, metrics=metrics)

    def predict(self, users, items, *, unknown: str = "raise") -> float | np.ndarray:
        """Predicted rating of each (user, item) pair.

        Args:
            users, items: external ids, scalars or arrays `(n,)`; a scalar is paired with every id of the other.
            unknown: `'raise'` for an unknown id, or `'default'` for the no-information answer.

        Returns:
            A float for two scalars, else `(n,)` float32.

        Raises:
            KeyError: an id is unknown and `unknown='raise'`.
            ValueError: arrays of different lengths.
        """
        user_idx, item_idx = self._encode(self.users, users, unknown), self._encode(self.items, items, unknown)
        if len(user_idx) != len(item_idx) and 1 not in (len(user_idx), len(item_idx)):
            raise ValueError(f"users and items must pair up, got {len(user_idx)} users and {len(item_idx)} items")
        user_idx, item_idx = torch.broadcast_tensors(user_idx, item_idx)
        with evaluating(self.model):
            ratings = predict_ratings(self.model, user_idx, item_idx).numpy()
        return float(ratings[0]) if _is_one(self.users, users) and _is_one(self.items, items) else ratings

    def recommend(
        self,
        users=None,
        k: int = 10,
        *,
        history=None,
        filter_seen: bool = True,
        items=None,
        exclude=None,
        unknown: str = "raise",
        max_memory: int | str = "512MB",
    ) -> pd.DataFrame:
        """The top `k` items of each user.

        Args:
            users: external ids, one or many; None for all users.
            history: in the place of `users`, what new users have rated or clicked: `{'Alien (1979)': 5, ...}` or, of a
                model without ratings, a list of items, for one; a DataFrame with the model's columns for many. They are
                folded in for this call; see `fold_in`.
            k: items a user; where fewer are left a user gets fewer rows, counted in a `CollabWarning`.
            filter_seen: hide the items of the user's training and validation rows, or of the history.
            items: allow list: recommend these item ids only.
            exclude: deny list: item ids, or a DataFrame with the user and item columns for pairs to hide.
            unknown: `'raise'` for an unknown user, or `'default'` for the list of a user of whom nothing is known.
            max_memory: bound of the score block, in bytes or as `'512MB'`; users are scored in blocks under it.

        Returns:
            DataFrame with the user column (not for one history), the item column, `rank` (1 is best) and `score`
            (predicted rating).

        Raises:
            KeyError: unknown users or items.
            ValueError: `k` < 1, no candidate is left, or a history is empty or has a rating out of range.
        """
        candidates = self._candidates(items, exclude)
        if history is not None:
            if users is not None or isinstance(exclude, pd.DataFrame):
                raise ValueError("history= stands for new users: leave users= out, and give exclude= as item ids")
            new = read_histories(history, self.train, self._with_rows("history=").y_range)
            hidden = new.pairs(len(self.items)) if filter_seen else None
            options = {"hidden": hidden, "scorer": self._new_scorer(new, candidates), "max_memory": max_memory}
            return self._lists(new.ids, torch.arange(len(new)), candidates, k, **options)
        chosen = torch.arange(1, len(self.users)) if users is None else self._encode(self.users, users, unknown)
        hidden = self._hidden(filter_seen, exclude)
        return self._lists(self._asked(users), chosen, candidates, k, hidden=hidden, max_memory=max_memory)

    def default_list(self, k: int = 10, *, items=None, exclude=None) -> pd.DataFrame:
        """The top `k` items of a user of whom nothing is known; arguments as of `recommend`."""
        return self._lists(None, torch.zeros(1, dtype=torch.int64), self._candidates(items, exclude), k)

    def similar_items(self, item, k: int = 10) -> pd.DataFrame:
        """The `k` items whose factors have the largest cosine with those of `item` (one id or several).

        Returns:
            DataFrame with columns `item` (asked; only for several), the item column, `rank`, `similarity` (-1 to 1).
        """
        return self._similar(item, k, self.items, is_item=True)

    def similar_users(self, user, k: int = 10) -> pd.DataFrame:
        """The `k` users whose factors have the largest cosine with those of `user` (one id or several)."""
        return self._similar(user, k, self.users, is_item=False)

    def _candidates(self, items, exclude) -> Tensor:
        chosen = (
            torch.arange(1, len(self.items)) if items is None else self._encode(self.items, items, "raise").unique()
        )
        if exclude is not None and not isinstance(exclude, pd.DataFrame):
            chosen = chosen[~torch.isin(chosen, self._encode(self.items, exclude, "raise"))]
        if len(chosen) == 0:
            raise ValueError("no item is left to recommend; check items= and exclude=")
        return chosen

    def _hidden(self, filter_seen: bool, exclude) -> Pairs | None:
        if not isinstance(exclude, pd.DataFrame) or len(exclude) == 0:
            return self._seen if filter_seen else None
        pairs, unknown = known_pairs(exclude, self.train)
        if unknown:
            say(f"{unknown:,} of {len(exclude):,} pairs in exclude= name unknown ids; they hide nothing")
        return self._seen.union(pairs) if filter_seen else pairs

    def _encode(self, vocab: Vocab, ids, unknown: str) -> Tensor:
        if unknown not in ("raise", "default"):
            raise ValueError(f"unknown must be 'raise' or 'default', got {unknown!r}")
        idx = vocab.encode([ids] if _is_one(vocab, ids) else ids, unknown="raise" if unknown == "raise" else "zero")
        return torch.from_numpy(idx)

    def _asked(self, users) -> pd.Index:
        """The ids that were asked for, `(b,)`; all for None."""
        one = users is not None and _is_one(self.users, users)
        return self.users.ids if users is None else check_ids([users] if one else users, self.columns.user)

    def _lists(
        self, ids: pd.Index | None, chosen: Tensor, candidates: Tensor, k: int, *, hidden=None, scorer=None,
        max_memory: int | str = "512MB",
    ) -> pd.DataFrame:  # fmt: skip
        """The lists of the users at `chosen` `(b,)`, in the tables or to `scorer`, as a table."""
        if int(k) != k or k < 1:
            raise ValueError(f"k must be a whole number of at least 1, got {k!r}")
        with evaluating(self.model), torch.inference_mode():
            block = block_size(self.model, len(candidates), max_memory)
            scorer = model_scorer(self.model, candidates, max_memory) if scorer is None else scorer
            options = {"n_items": len(self.items), "hidden": hidden, "block": block}
            best, logits = top_k(scorer, chosen, candidates, int(k), **options)
            scores = self.model.activation(logits)
        return self._frame(ids, best, scores, int(k))

    def _frame(self, ids: pd.Index | None, best: Tensor, scores: Tensor, k: int) -> pd.DataFrame:
        """The lists `best` `(b, k)` of the users `ids`, or of one without an id, as a table."""
        left = best > 0  # (b, k)
        counts = left.sum(1)
        short = int((counts < k).sum())
        if short:
            say(
                f"fewer than k={k} items are left for {short:,} of {len(best):,} users, who get fewer rows "
                f"(at least {int(counts.min())})"
            )
        rows = torch.repeat_interleave(torch.arange(len(best)), counts).numpy()
        data = {} if ids is None else {self.columns.user: ids.take(rows)}
        data[self.columns.item] = self.items.decode(best[left].numpy())
        return pd.DataFrame({**data, "rank": left.cumsum(1)[left].numpy(), "score": scores[left].numpy()})

    def _similar(self, ids, k: int, vocab: Vocab, is_item: bool) -> pd.DataFrame:
        rows = self._encode(vocab, ids, "raise")
        found, best = similar_rows(self.model, rows, k, len(vocab), is_item=is_item)
        n, k = found.shape
        data = {} if _is_one(vocab, ids) else {f"similar_to_{vocab.name}": vocab.decode(rows.numpy()).repeat(k)}
        data[vocab.name] = vocab.decode(found.flatten().numpy())
        return pd.DataFrame({**data, "rank": np.tile(np.arange(1, k + 1), n), "similarity": best.flatten().numpy()})

    def __repr__(self) -> str:
        return (
            f"Recommender: {type(self.model).__name__}, {len(self.users) - 1:,} users, {len(self.items) - 1:,} items, "
            f"{len(self.train):,} training rows"
        )


def _is_one(vocab: Vocab, ids) -> bool:
    """Whether `ids` is one id rather than a sequence of them; a tuple is, where the vocabulary holds it."""
    if isinstance(ids, tuple):
        return ids in vocab
    return isinstance(ids, (str, bytes)) or np.ndim(ids) == 0
