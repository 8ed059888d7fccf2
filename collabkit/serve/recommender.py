"""`Recommender`: recommendations of a trained model by external ids; loads an artefact without fastai."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from numbers import Real
from operator import attrgetter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.coldstart.fold_in import FoldIn
from collabkit.coldstart.fold_in.ratings import histories_of
from collabkit.coldstart.histories import NewUsers, read_histories, read_recent
from collabkit.coldstart.new_ids import add_ids, fold_in_users, refold, takes_ratings
from collabkit.coldstart.questionnaire import questionnaire
from collabkit.coldstart.recent import recent_query
from collabkit.coldstart.update import Update, update
from collabkit.data.checks import one_of, shown, whole
from collabkit.data.dataset import Dataset
from collabkit.data.frames import Table, gives_tables, takes_tables, to_pandas
from collabkit.data.interactions import Interactions
from collabkit.data.notices import MissingError, say
from collabkit.data.query import Query
from collabkit.data.runs import Runs
from collabkit.data.tables import new_frame
from collabkit.data.vocab import Vocab, check_ids
from collabkit.evaluate import evaluate, evaluate_fold_in, tradeoff
from collabkit.evaluate.calibration import Intervals, Probabilities, calibrate, judge
from collabkit.evaluate.new_users import Reader
from collabkit.evaluate.tables import predict_ratings
from collabkit.evaluate.task import RankingTask, held_out
from collabkit.models.base import Model, answering, as_model, say_untrained
from collabkit.models.scorers import DotScorer, ItemTable, Scorer
from collabkit.retrieval.content import ContentCosines
from collabkit.retrieval.diversity import Diversity, item_likeness
from collabkit.retrieval.index import Index
from collabkit.retrieval.neighbours import check_k, cosines, nearest
from collabkit.retrieval.ranking import Asked, block_size, top_k
from collabkit.retrieval.tilt import Tilt
from collabkit.serve import exchange, exports, hub, indexed, pgvector
from collabkit.serve.artefact import load_all, save_artefact
from collabkit.serve.audience import top_users
from collabkit.serve.choices import is_one, read_choice
from collabkit.serve.light_state import fold_of
from collabkit.serve.lock import ReadWriteLock, reads, writes
from collabkit.serve.moments import at_moment, in_turn, moment_of
from collabkit.serve.streamed import BLOCK, check_folder, list_blocks, write_lists
from collabkit.serve.wanted import Limits, Wanted
from collabkit.serve.why import Explainer, because_of, check_why, equations, why_history

__all__ = ["Recommender", "as_recommender"]


class Recommender:
    """Predictions, recommendations, neighbours and evaluation of a trained model, by external ids.

    `learn.recommend` and similar methods call this class on the learner's model; `Recommender.load(folder)` loads it
    from an artefact. Results computed from the weights alone (item vectors, unit vectors, the prior of the fold-in) are
    cached until a weight changes. Any number of threads may query a recommender; `add_items`, `add_users`, `fold_in`
    and `use_index` wait for running queries and block new ones. Training in one thread while others query is not
    supported.
    Tables and columns of ids may be from pandas, polars, Arrow or any other library that narwhals supports. Lists are
    returned in the library of the first table in the call, or else of the table from which the data was created
    (pandas for an artefact). Metrics, which have an index, are always pandas tables. If the data was created from a
    scipy matrix, a matrix with the same rows and columns is accepted wherever a table of events is (in `history=` its
    rows are new users).
    The number of torch threads does not change the lists; the last digits of scores may differ, because sums are
    computed in another order.

    Args:
        model: a model whose sides are row-aligned with the data's vocabularies.
        data: a `Dataset`, training interactions, or anything else that `Dataset.of` accepts; `recommend` hides the
            training and the validation part.
        valid: the validation interactions, if `data` is the training part.
        config: the artefact's config, if the model came from one.

    Example:
        >>> rec = Recommender.load(folder)                             # doctest: +SKIP
        >>> rec.recommend(['ann', 'bob'], k=5)                         # doctest: +SKIP
    """

    def __init__(self, model: Model, data, valid: Interactions | None = None, *, config: dict | None = None):
        if model is not None and as_model(model) is None:
            raise TypeError(f"a Recommender takes a model and its data, got {shown(model)}: of a learner take "
                            "learn.recommender")  # fmt: skip
        self.model, self.config = model, config or {}
        self.data, self.lock = Dataset.of(data if valid is None else (data, valid)), ReadWriteLock()
        self._kept: dict[str, tuple] = {}  # by name: the model's version, and the value computed from it
        self._search: indexed.Search | None = None  # by an index; None for exact search
        self._picked: indexed.Picked | None = None  # the last measurements

    users = property(attrgetter("data.users"), doc="The users' ids.")
    items = property(attrgetter("data.items"), doc="The items' ids.")
    columns = property(attrgetter("data.columns"), doc="The column names in the caller's tables.")
    train = property(attrgetter("data.train"), doc="The training interactions.")
    valid = property(attrgetter("data.valid"), doc="The validation interactions, or None.")

    @classmethod
    def load(cls, folder: str | Path, models: Sequence[type[Model]] = (), *, index: str = "exact") -> "Recommender":
        """Load a recommender from an artefact folder written by `learn.export`; see `serve.load_artefact` for errors.

        Args:
            folder: the artefact.
            models: the class of its model, if it is not one of the library's.
            index: `'exact'`, or `'auto'` or `'faiss'` as in `use_index`, which load the index stored in the artefact.
                If there is none, indexes are measured and the chosen one is stored, if the folder is writable. faiss
                reads the index file: load indexes only from folders that you trust.

        Raises:
            ValueError: `index` has another value, or the stored index is damaged.
        """
        one_of("index", index, ("exact", *indexed.NAMES))
        artefact, fold = load_all(folder, models)
        found = cls(artefact.model, artefact.data, config=artefact.config)
        found.keep_fold(fold)
        if index != "exact":
            found._take_index(Path(folder).expanduser().resolve(), index)
        return found

    def keep_fold(self, fold: FoldIn | None) -> None:
        """Use the prior from an artefact for the fold-in, if it has one, until a weight or the data changes."""
        if fold is not None:
            self._kept["fold"] = (self.model.version(), self.data, fold)

    def _take_index(self, folder: Path, name: str) -> None:
        """Search with the index stored in a folder; if there is none, measure and store one."""
        found = indexed.stored(folder, self, exact=name == "auto")
        if found is not None:
            self._search, self._picked = found
            return
        self.use_index(name)
        try:
            indexed.write_index(folder, self._picked, indexed.item_vectors(self.model))
        except OSError as error:
            say(f"the index is not stored in {folder} ({error.strerror or error}): it is measured at each load")

    @reads
    def save(
        self, folder: str | Path, *, metrics: dict | None = None, light: bool = True, onnx: bool = False,
        weights: Path | None = None,
    ) -> Path:  # fmt: skip
        """Write the artefact, including the measured index if there is one; see `serve.save_artefact`.

        Args:
            folder, metrics: the folder, and metrics to store with the artefact.
            light: also write the files that `serve.light.Light` needs, and the prior of the fold-in, which is fitted
                now if it has not been needed before.
            weights: as in `serve.save_artefact`.
            onnx: also write the model's network for ONNX Runtime, if `Light` needs one.

        Raises:
            ImportError: `onnx` or `onnxruntime` is missing.
        """
        fold = fold_of(self.model, self.data, lambda: self.fold) if light else None

        def extra(new: Path) -> dict:
            self._write_index(new)
            about = exports.export_onnx(self.model, self.data, new) if onnx else None
            return {"onnx": about} if about else {}

        options = {"metrics": metrics, "light": light, "fold": fold, "extra": extra, "weights": weights}
        return save_artefact(folder, self.model, self.data, **options)

    def _write_index(self, folder: Path) -> None:
        """Write the measured index, if it is for the current item vectors."""
        if self._picked is None:
            return
        vectors = indexed.item_vectors(self.model)
        mine = None if self._search is None else self._search.vectors
        if mine is None or (mine.shape == vectors.shape and torch.equal(mine, vectors)):
            indexed.write_index(folder, self._picked, vectors)

    @takes_tables
    @reads
    def predict(
        self, users, items=None, *, unknown: str = "raise", context=None, interval: float | None = None
    ) -> float | np.ndarray | tuple:
        """Return the predicted rating of each (user, item) pair.

        Args:
            users, items: external ids, scalars or arrays `(n,)`; a scalar is paired with every id of the other.
            unknown: `'raise'` to raise an error for an unknown id, or `'default'` to return the default prediction.
            context: for a model with context, as in `recommend`; one for all pairs or one for each.
            interval: for ratings, after `calibrate`: the share of ratings that should lie within the interval, e.g.
                .9.

        Returns:
            A float for two scalars, else `(n,)` float32. With `interval` three of these: the rating, and the lower and
            the upper end of the interval.

        Raises:
            KeyError: an id is unknown and `unknown='raise'`.
            ValueError: arrays have different lengths; `interval` is outside (0, 1), or used before `calibrate`.
        """
        if items is None:
            raise TypeError("predict takes users and items, e.g. predict(row['user'], row['item']), not a row as in "
                            f"fastai; got {shown(users)} alone")  # fmt: skip
        self._check_interval(interval)
        user_idx, item_idx = self._encode(self.users, users, unknown), self._encode(self.items, items, unknown)
        if len(user_idx) != len(item_idx) and 1 not in (len(user_idx), len(item_idx)):
            raise ValueError(f"users and items must pair up, got {len(user_idx)} users and {len(item_idx)} items")
        user_idx, item_idx = torch.broadcast_tensors(user_idx, item_idx)
        with answering(self.model):
            query = self.query(user_idx, context)
            if self.model.predicts_ratings:
                ratings = predict_ratings(self.model, query, item_idx).numpy()
            else:
                ratings = self.model.score_pairs(query, torch.arange(len(query)), item_idx).numpy()
        answers = [ratings] if interval is None else [ratings, *self._interval(user_idx, ratings, interval)]
        if is_one(self.users, users) and is_one(self.items, items):
            answers = [float(values[0]) for values in answers]
        return answers[0] if interval is None else tuple(answers)

    def _check_interval(self, interval: float | None) -> None:
        if interval is None:
            return
        if not isinstance(self.model.calibration, Intervals):
            raise ValueError("intervals need a model of ratings with known errors: call calibrate() first")
        if not isinstance(interval, Real) or not 0 < interval < 1:
            raise ValueError(f"interval must be a share between 0 and 1, e.g. .9, got {shown(interval)}")

    def _interval(self, user_idx: Tensor, ratings: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The ends `(n,)` of the intervals around ratings, within their range."""
        half = self.model.calibration.width(self.data.known.lengths[user_idx].numpy(), level)
        low, high = self.model.y_range or (-np.inf, np.inf)
        return np.maximum(ratings - half, np.float32(low)), np.minimum(ratings + half, np.float32(high))

    @writes
    def calibrate(self, method: str = "platt", *, n_negatives: int = 100, seed: int = 0) -> pd.DataFrame:
        """Calibrate on the validation part: scores of events to probabilities, or ratings to intervals.

        Half of the validation users serve to fit the calibration, the other half to evaluate it.

        For events it learns the probability that an unseen item is among those that the user interacts with in the
        validation part. It is estimated over all unseen items of users with validation rows, from their positives and a
        sample of the other items, each of which is weighted to represent those not drawn. Lists then have a column
        `probability`: the probability for an average user with this score.

        For ratings it learns absolute errors by user activity; `predict(interval=.9)` returns the interval that holds
        nine of ten ratings (split conformal prediction: Vovk, Gammerman and Shafer, "Algorithmic learning in a random
        world", 2005).

        The calibration is stored with the model and in the artefact, and discarded when the model is trained further.

        Args:
            method: for events `'platt'`, a logistic curve (Platt, "Probabilistic outputs for support vector machines",
                1999), or `'isotonic'`, any increasing function (Zadrozny and Elkan, 2002), for a few thousand
                positives.
            n_negatives: number of unseen items to draw per user.
            seed: seed of the halves and of the draw.

        Returns:
            For events, a DataFrame of bins of increasing probability with equal numbers of expected positives:
            `predicted`, `observed` (95 % interval `low` to `high`), `positives`, `pairs` (that they represent); its
            `attrs` have `ece`, the expected calibration error, `base_rate`, and `relative_ece`, the error as a share of
            the base rate. For ratings, by level and users: `coverage`, the share of ratings within the interval,
            `half_width`, `n`.

        Raises:
            ValueError: there is no validation part, or it has fewer than 2 users; `method` has another value.

        Example:
            >>> learn.calibrate().attrs['ece']                # doctest: +SKIP
            >>> learn.recommend('ann', k=5)['probability']    # doctest: +SKIP
        """
        found = calibrate(self.model, self.data, method, n_negatives, seed)
        table = judge(self.model, self.data, found)
        self.model.calibration = found
        return table

    @reads
    def calibration_table(self) -> pd.DataFrame:
        """Return the calibration on the half of the validation users that it was not fitted to; see `calibrate`.

        Raises:
            ValueError: there is no calibration, or no validation part.
        """
        if self.model.calibration is None:
            raise ValueError("the scores are not calibrated: call calibrate() first")
        return judge(self.model, self.data, self.model.calibration)

    @gives_tables
    @reads
    def recommend(
        self, users=None, k: int = 10, *, history=None, recent=None, filter_seen: bool | str = True, items=None,
        exclude=None, unknown: str = "raise", context=None, novelty_weight: float = 0.0, half_life=None,
        freshness_weight: float = 1.0, diversity: float = 0.0, diversify_by="vectors", pool: int = 100,
        why: bool | int = False, max_memory: int | str = "512MB",
    ) -> pd.DataFrame:  # fmt: skip
        """Return the top `k` items of each user.

        Args:
            users: external ids, one or many; None for all users.
            history: instead of `users`, the items that a new user has rated or clicked. For one user: `{'Alien (1979)':
                5, ...}`, or a list of items if the model has no ratings. For many users: a DataFrame with the model's
                columns (without the user column: for one user). Unknown items are dropped (counted), and so are answers
                of None, as from a questionnaire. Models that read histories use it directly; for other models the user
                is folded in for this call.
            recent: events of known users since training: a DataFrame with the model's columns, one row per event. They
                count as history for this call only; nothing is trained or stored. Models that read histories get these
                events in addition, ordered by time if there are times, else at the end. For other models the rows of
                these users are solved for again from all their events. If a pair is already known, the recent row is
                used. Requested users without a row in it get their usual list; rows of other users are ignored; with
                `users=None` the users in `recent` get lists.
            k: number of items per user. If fewer are left, a user gets fewer rows, with a `CollabWarning`.
            filter_seen: True hides the items of the user's training and validation rows, of the history and of
                `recent`; `'train'` does not hide those of the validation rows; False hides none.
            items: allow list: recommend only these item ids; any iterable. Or one list per user: a dict from users to
                item ids, or a DataFrame with the user and item columns. Users without an entry get no rows, and with
                `users=None` the users with an entry get lists. Unknown ids are dropped (and counted).
            exclude: deny list: item ids, or one list per user as in `items`.
            unknown: `'raise'` to raise an error for an unknown user, or `'default'` to return the default list.
            context: for a model with context: `{column: value}` or a DataFrame with one row, for all users; or lists
                or a DataFrame with one row per user. Missing values count as unknown.
            novelty_weight: how much the ranking favours items that few users have: this many standard deviations of
                the user's scores per standard deviation of an item's self-information, `-log2(users who have it /
                users)`. 0 is the model's own ranking; `evaluate(novelty_weight=, metrics=['NDCG', 'Novelty'])` reports
                the cost and the gain.
            half_life: favour new items: add `freshness_weight` standard deviations of the user's scores to the item
                whose first event is the latest of all, half as much to an item that is `half_life` older, and so on.
                Days, a `pd.Timedelta` or a string like `'30D'`; None turns it off. `retrieval.tilt.Tilt` has the
                formula.
            freshness_weight: number of standard deviations, see `half_life`.
            diversity: how much a list avoids similar items, from 0 (the model's own ranking) to 1, by maximal marginal
                relevance; `retrieval.diversity.Diversity` has the formula. `tradeoff` reports the cost.
            diversify_by: what makes items similar: `'vectors'` (nearby item vectors), the name of an item feature of
                the data, several names, or `Features` of the items.
            pool: a diverse list is chosen from this many best items of each user (from `k`, if that is larger).
            why: add a column `because` with the item of the user's history that contributes most to the row, None if
                none does. A number adds a list of that many items. Items that the user rated below their own mean are
                no reasons. See `why`.
            max_memory: memory limit of the score block, in bytes or as `'512MB'`; users are scored in blocks below it.

        Returns:
            DataFrame with the user column (not for one history), the item column, `rank` (1 is best), `score`
            (predicted rating) and, after `calibrate`, `probability`. `novelty_weight`, `half_life` and `diversity`
            change the rank but not the score, so the score may rise from one rank to the next.

        Raises:
            KeyError: users are unknown, a column is missing, or all items of an allow list or history are unknown.
            ValueError: `k` < 1, no candidate is left, a history is empty, or a rating is out of range; `half_life` is
                used with data without times; `half_life`, `novelty_weight` or an allow list per user is used with an
                index (`use_index`).
            TypeError: `history` or `recent` is used with a model that can neither read a history nor fold it in; ids
                have another type; `why` is used with a model whose users are computed from the training data.

        Example:
            >>> since = pd.DataFrame({'user': ['ann'], 'title': ['Alien']})  # doctest: +SKIP
            >>> rec.recommend(['ann', 'bob'], recent=since)                  # doctest: +SKIP
        """
        lean = self._lean(Tilt(novelty_weight, half_life, freshness_weight), Diversity(diversity, diversify_by, pool))
        lean |= {"k": k, "max_memory": max_memory}
        n_why = check_why(self.model, why)
        seen, told = self.data.hidden(filter_seen), None
        if history is not None:
            if users is not None or recent is not None:
                raise ValueError("history= is for new users: leave out users= and recent=")
            new = self._read_history(history)
            limits = Limits.read(items, exclude, new.vocab(self.columns.user), self.items)
            query, ids, told = self._new_query(new, context), new.ids, new.histories
            rows = torch.arange(len(query)) + 1  # rows of the limits per user
            wanted = self._wanted(limits, rows, None, **lean)
            met = told.unique() if filter_seen else None
        else:
            limits, met = Limits.read(items, exclude, self.users, self.items), None
            users = limits.allow.users if users is None and recent is None else users
            if recent is None:
                ids, rows = self._asked(users, unknown)
                if context is None and not n_why:
                    wanted = self._wanted(limits, rows, seen, **lean)
                    return self._lists({self.columns.user: ids}, rows, self._asker(), wanted)
                query = self.query(rows, context)  # one moment per position, as a user may be repeated
            else:
                query, ids, met, told = self._recent_query(recent, users, unknown, context)
                rows, met = query.users, met if filter_seen else None
            wanted = self._wanted(limits, rows, seen, **lean)
        wanted = wanted.of(rows)
        if met is not None:
            wanted = replace(wanted, hidden=met if wanted.hidden is None else wanted.hidden.union(met))
        asked, at = {} if ids is None else {self.columns.user: ids}, torch.arange(len(query))
        because = (n_why, query, told) if n_why else None
        return self._lists(asked, at, in_turn(query), wanted, because=because)

    def recommend_batches(self, users=None, k: int = 10, *, block: int = BLOCK, **options) -> Iterator[pd.DataFrame]:
        """Yield the lists of any number of users, one table after the other, each of at most `block` users.

        Args:
            users: None for all; ids; a table with the user column; the path of a Parquet file or of a folder of such
                files, with the user column or with a single column; or an iterator of such tables or arrays of ids,
                e.g. `pyarrow.parquet.ParquetFile(...).iter_batches()`.
            k: as in `recommend`.
            block: number of users whose lists are in memory at once, in addition to the score block, which
                `max_memory` limits.
            **options: arguments of `recommend`, except `history`.

        Raises:
            KeyError, TypeError, ValueError: as in `recommend`. Unknown users are detected before the first list, except
                with an iterator, which is read only once.

        Example:
            >>> for table in rec.recommend_batches('users/', k=20):   # doctest: +SKIP
            ...     send(table)
        """
        self._check_options(options)
        return list_blocks(self.recommend, users, self.users, block, {"k": k, **options})

    def recommend_to(self, folder: str | Path, users=None, k: int = 10, *, block: int = BLOCK, **options) -> Path:
        """Write the lists of any number of users to a new folder of Parquet files, one file per block of users.

        The folder appears only when it is complete; nothing is left if the call is interrupted or the disk is full.
        Read it with `pandas.read_parquet(folder)` or any other Parquet reader.

        Args:
            folder: the target; it must not exist, or be an empty folder.
            users, k, block, **options: as in `recommend_batches`.

        Returns:
            The path of the folder.

        Raises:
            FileExistsError: `folder` exists and is not an empty folder.
            OSError: it cannot be written.
            KeyError, TypeError, ValueError: as in `recommend_batches`.

        Example:
            >>> rec.recommend_to('lists/', 'users/', k=20)   # doctest: +SKIP
        """
        check_folder(folder)
        return write_lists(folder, map(to_pandas, self.recommend_batches(users, k, block=block, **options)))

    def _check_options(self, options: dict) -> None:
        """Raise `TypeError` for anything that is not an option of `recommend` for blocks of users."""
        known = [name for name in inspect.signature(self.recommend).parameters if name not in ("users", "history")]
        if odd := sorted(set(options) - set(known)):
            raise TypeError(f"lists in blocks do not take {', '.join(odd)}; they take {', '.join(known)}")

    @gives_tables
    @reads
    def history(self, user) -> pd.DataFrame:
        """Return the known events of a user: training, validation and folded-in rows, the latest last.

        Args:
            user: an external id.

        Returns:
            DataFrame with the item column and, if the data has them, the columns of ratings, times and counts. A time
            is None if the row has none, e.g. for folded-in users.

        Raises:
            KeyError: the user is unknown.

        Example:
            >>> rec.history('ann')['title'].iloc[-1]  # doctest: +SKIP
        """
        return self.data.rows_of(self._encode(self.users, user, "raise")[:1])

    @takes_tables
    @reads
    def why(self, user=None, item=None, *, history=None, by: str = "history", context=None) -> pd.DataFrame:
        """Return what each past item adds to the score of an item ("because you liked").

        The method depends on the model and is returned in `attrs['method']`:

        - `'additive'`: the score is a sum over the history (`EASE`, `ItemKNN`, `ContentKNN`, `NextItem`).
        - `'least squares'`: the user's vector solves the equations of `fit_als`, in which every event has a term:
          section 5 of Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets" (2008).
        - `'fold-in'`: the same for the equations of the fold-in; `prior` is the score for an unknown user. If the
          user's row was trained by gradient descent, the shares explain the part of the score that follows from the
          events, and `rest` is the remaining effect of the training. Networks are linearized around the user's row.
        - `'leave-one-out'`: the drop of the score without the event, for networks that read histories.

        Args:
            user, item: one external id each.
            history: instead of `user`, the history of one new user, as in `recommend`.
            by: `'history'`. `CollabInterpretation.why` also offers the parts of a score.
            context: as in `recommend`.

        Returns:
            DataFrame with the item column (None in the last rows), `part` (`'history'`, then `'prior'`, if the model
            has one, and `'rest'`) and `share`, largest first. The shares sum to the item's score as in `recommend` and
            `predict`. `attrs` holds the `score`, the `method`, and `exact`: whether nothing is left for `rest`.

        Raises:
            KeyError: an id is unknown.
            TypeError: the model's users are computed from the training data as a whole.
            ValueError: neither or both of `user` and `history` are given; the history is of several users.

        Example:
            >>> rec.why('ann', 'Alien (1979)')                                # doctest: +SKIP
            >>> rec.why(history=['Alien (1979)', 'Brazil'], item='Cube')      # doctest: +SKIP
        """
        if by != "history":
            raise ValueError(f"by must be 'history', got {by!r}; CollabInterpretation.why has the parts")
        if item is None or (user is None) == (history is None):
            raise ValueError("why needs item=, and either user= or the history= of a new user")
        check_why(self.model, True)
        chosen, told = self._encode(self.items, item, "raise"), None
        if history is None:
            query = self.query(self._encode(self.users, user, "raise"), context)
        else:
            new = self._read_history(history)
            query, told = self._new_query(new, context), new.histories
        if len(query) != 1 or len(chosen) != 1:
            raise ValueError(f"why explains one score of one user and one item; got {len(query)} and {len(chosen)}")
        return why_history(self._explainer(), query, told, chosen)

    @gives_tables
    @reads
    def recommend_users(
        self, item, k: int = 10, *, users=None, filter_seen: bool | str = True, max_memory: int | str = "512MB"
    ) -> pd.DataFrame:
        """Return the `k` users with the highest scores for `item` (one id or several), e.g. to notify them of it.

        Predicted ratings can be compared between users. A model that was trained to rank the items of each user may
        shift or scale the scores differently for each user: then only their order is meaningful, not their size.

        Args:
            item: external ids.
            k: number of users per item. If fewer are left, an item gets fewer rows, with a `CollabWarning`.
            users: allow list of user ids; unknown ids are dropped (and counted).
            filter_seen: drop users who have interacted with the item; values as in `recommend`.
            max_memory: as in `recommend`.

        Returns:
            DataFrame with the item column (only for several), the user column, `rank` and `score`.

        Raises:
            KeyError: an item is unknown, or all users are.
            ValueError: `k` < 1, or no user is left.

        Example:
            >>> rec.recommend_users('Alien (1979)', k=3)  # doctest: +SKIP
        """
        k, hidden = whole("k", k), self.data.hidden(filter_seen)
        rows = self._encode(self.items, item, "raise")
        among = read_choice(users, "users", "allow", None, self.users).items
        among = torch.arange(1, len(self.users)) if among is None else among
        if len(among) == 0:
            raise ValueError("no user is left; check users=")
        chosen, place = rows.unique(return_inverse=True)
        with answering(self.model), torch.inference_mode():
            scorer = Asked(self._scorer(chosen, max_memory), self._asker())
            block = block_size(max(len(chosen), k), max_memory, self.model.device)
            best, logits = top_users(scorer, among, chosen, k, hidden=hidden, block=block)
            best, scores = best[place], self.model.activation(logits)[place]
        asked = {} if is_one(self.items, item) else {self.columns.item: self.items.decode(rows)}
        return self._frame("user", best, k, asked, "items", score=scores)

    @gives_tables
    @reads
    def default_list(self, k: int = 10, *, items=None, exclude=None, context=None) -> pd.DataFrame:
        """Return the top `k` items for an unknown user; arguments as in `recommend`."""
        ask = at_moment(self.data.asker(self.model.needs), moment_of(context, 1, self.model, self.data))
        wanted = Wanted(k, Limits.read(items, exclude, None, self.items).candidates(self.data))
        return self._lists({}, torch.zeros(1, dtype=torch.int64), ask, wanted)

    @gives_tables
    @reads
    def similar_items(self, item, k: int = 10, *, by: str = "vectors") -> pd.DataFrame:
        """Return the `k` items whose factors have the largest cosine with those of `item` (one id or several).

        Args:
            item: external ids.
            k: number of items; items without any data are never listed.
            by: `'vectors'`: what the model has learned, by the cosine of factors or the model's own measure;
                `'content'`: only the items' features, also for items without interactions. See
                `retrieval.content.ContentCosines`.

        Returns:
            DataFrame with columns `item` (the query; only for several), the item column, `rank`, `similarity` (-1 to
            1).

        Raises:
            KeyError: an item is unknown.
            TypeError: `by='content'` is used with data without item features.
            ValueError: `by` has another value; `by='content'` is used for an item without known features.

        Example:
            >>> rec.similar_items('Alien (1979)', k=3, by='content')  # doctest: +SKIP
        """
        one_of("by", by, ("vectors", "content"))
        content = lambda: self._keep("content", lambda: ContentCosines(self.model, self.data))  # noqa: E731
        return self._similar(item, k, "item", content() if by == "content" else None)

    @gives_tables
    @reads
    def next_items(self, item, k: int = 10) -> pd.DataFrame:
        """Return the `k` items that the model expects right after `item` (one id or several).

        This is the list for a user whose history is this one item. `similar_items` answers another question: an item
        that is similar is not necessarily the one that follows.

        Returns:
            DataFrame with columns `after_item` (named after the item column; only for several), the item column,
            `rank` and `score`. The item itself is not in its list.

        Raises:
            TypeError: the model does not read histories in their order.
            KeyError: an item is unknown.
            ValueError: `k` < 1.

        Example:
            >>> rec.next_items('Alien (1979)', k=3)  # doctest: +SKIP
        """
        if not self.model.ordered:
            raise TypeError(f"{type(self.model).__name__} does not read events in their order and cannot say what "
                            "comes next; ask similar_items, or train NextItem, GRURec or SASRec")  # fmt: skip
        rows = self._encode(self.items, item, "raise")
        runs = Runs(torch.arange(len(rows) + 1), rows, len(self.items))
        query, name = self._query_of(runs, {}), self.columns.item
        asked = {} if is_one(self.items, item) else {f"after_{name}": self.items.decode(rows)}
        wanted, at = Wanted(k, self.data.every_item, runs), torch.arange(len(query))
        return self._lists(asked, at, in_turn(query), wanted, askers="items")

    @gives_tables
    @reads
    def similar_users(self, user, k: int = 10) -> pd.DataFrame:
        """Return the `k` users whose factors have the largest cosine with those of `user` (one id or several)."""
        return self._similar(user, k, "user")

    @writes
    def use_index(
        self, make: Callable[[Tensor], Index] | str | None, *, k: int = 10, min_recall: float = 0.95,
        n_queries: int = 1000, batch: int = 32, seconds: float = 600.0,
    ) -> float:  # fmt: skip
        """Search with an index instead of exactly, if its recall against exact search is high enough.

        Args:
            make: `'auto'`: build suitable faiss indexes, measure each against exact search on this model's users, and
                use the fastest one with enough recall, or exact search if that is fast enough, as with some ten
                thousand items. `'faiss'`: the same, but never exact search. `index_report` returns the measurements,
                and `save` stores the index. Or a function from the items' vectors `(n_items, d)` to an `Index`; None
                returns to exact search. After more training the index is built and checked again.
            k, n_queries: the recall of the top `k` is measured on the vectors of `n_queries` users.
            min_recall: minimum recall; an index below it is rejected.
            batch: for `'auto'` and `'faiss'`: number of queries per call when the time is measured.
            seconds: for `'auto'` and `'faiss'`: maximum build time; slower indexes are skipped.

        Returns:
            The recall against exact search on this model's own vectors.

        Raises:
            ImportError: faiss is missing: `pip install 'collabkit[faiss]'`.
            TypeError: the model's score is not a dot product.
            ValueError: the recall is too low; `make` is an unknown name.

        Example:
            >>> rec.use_index('auto')     # doctest: +SKIP
            >>> rec.index_report()        # doctest: +SKIP
        """
        if make not in indexed.NAMES if isinstance(make, str) else not (make is None or callable(make)):
            raise ValueError(f"an index is 'auto', 'faiss', a function that makes one, or None; got {shown(make)}")
        self._search = self._picked = None
        if make is None:
            return 1.0
        options = {"k": k, "min_recall": min_recall, "n_queries": n_queries}
        if isinstance(make, str):
            self._search, self._picked = indexed.pick(self, make, batch=batch, seconds=seconds, **options)
            return self._picked.recall
        search = indexed.Search(make, **options)
        recall = search.ready(self)[1]
        self._search = search
        return recall

    @reads
    def index_report(self) -> pd.DataFrame:
        """Return the measurements of `use_index('auto')`.

        Returns:
            DataFrame with one row per index: `effort` (cells probed, or candidates kept), `recall` of the exact top k
            of the items that are not hidden, `short`, the share of lists that are too short (these are searched exactly
            instead), `ms` per query in batches and `ms_alone` for single queries, both including exact search for
            short lists, `build_seconds`, and a `note` with the reason for a rejection. `attrs` has what was `chosen`
            and `why`, and the sizes.

        Raises:
            ValueError: nothing was measured.
        """
        if self._picked is None:
            raise ValueError("no index was measured: call use_index('auto'), or load an artefact with index='auto'")
        return self._picked.report.copy()

    @takes_tables
    @reads
    def evaluate(
        self, on="valid", *, k=10, metrics=None, candidates=None, by: str | None = None, threshold: float | None = None,
        filter_seen: bool | str = True, novelty_weight: float = 0.0, half_life=None, freshness_weight: float = 1.0,
        diversity: float = 0.0, diversify_by="vectors", pool: int = 100, n_boot: int = 1000, seed: int = 0,
        max_memory: int | str = "512MB", n_users: int | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """Evaluate rating errors and ranking metrics on held-out rows, with intervals and baselines.

        Args:
            on: `'valid'`, or a DataFrame with the model's columns (a final test).
            k: cut-off of the ranking metrics, or several: `[5, 10, 20]`.
            metrics: names, or names with their own cut-off (`'NDCG@20'`); default HitRate, Precision, Recall, NDCG,
                MAP, MRR, and RMSE and MAE for ratings. Also available are AUC, and for the lists Coverage, Novelty,
                Diversity, ARP and Gini. A function of ranks, groups and k is a metric too; see `collabkit.metrics`.
            candidates: the items among which the relevant ones are ranked: None for all unseen items; item ids to rank
                only these (e.g. new items; relevant pairs with other items are dropped and counted);
                `SampledCandidates(99)`; or a DataFrame of user-item pairs. The metrics' names state any choice but
                None.
            by: `'user_activity'`, `'item_popularity'` or `'item_age'` (age of the item in days at the evaluated row;
                needs times) reports ranking metrics by decile. `'cold'` reports all metrics separately for rows whose
                user and item have training rows (`'warm'`) and whose item, user or both have none (`'cold item'`,
                `'cold user'`, `'cold both'`), indexed by part and metric; see `evaluate.evaluate_ranking`.
            threshold: a held-out item rated at least this is relevant. The default is the median training rating, or,
                if that is the lowest rating, the median of the ratings above it. The name of the columns states it.
                Without ratings all held-out items are relevant.
            filter_seen: which seen items are not ranked, unless they are in the evaluated rows. True: those of the
                training part and, in a final test, of the validation part, as in `recommend`. `'train'`: only those of
                the training part, as in most published protocols, which is harder. False: none. The name of the
                columns states it.
            novelty_weight, half_life, freshness_weight, diversity, diversify_by, pool: as in `recommend`; the ranking
                metrics are those of its lists. The age of an item is based on rows before the evaluated ones: on the
                training part and, in a final test, also on the validation part. Diverse lists are those of the largest
                `k`, chosen from `pool` items or from `k` if that is larger.
            n_boot, seed: bootstrap over users for the 95 % intervals; the seed is also used for `n_users`.
            max_memory: as in `recommend`.
            n_users: rank only for this many users, drawn with `seed` from those with a relevant row (all of them if
                there are fewer). The names of the metrics and of the columns state it, and the intervals reflect the
                smaller sample. Rating errors, which are cheap, use all rows.

        Returns:
            DataFrame indexed by metric: `value`, `low`, `high`, the baselines (NaN if a baseline has no such metric),
            the paired `difference` to popularity, or of errors to the user + item bias (below 0 is better), with
            `diff_low` and `diff_high`, and `n`, the number of ratings or users. RMSE and MAE come first if there are
            ratings and `by` is None or `'cold'`. Items seen in training, and in a final test those of the validation
            part, are not candidates unless they are in the test; the name of the columns states this. Ties count
            against a model: popularity, which knows nothing about items without training rows, scores 0 among them,
            less than a random ranking.

        Raises:
            KeyError: a list of `candidates` has unknown ids.
            ValueError, TypeError: `on`, `k`, `metrics`, `by` or `candidates` are none of the above, or leave nothing.
        """
        options = {"k": k, "metrics": metrics, "candidates": candidates, "by": by, "threshold": threshold}
        lean = {"tilt": Tilt(novelty_weight, half_life, freshness_weight), "filter_seen": filter_seen}
        common = {"n_boot": n_boot, "seed": seed, "max_memory": max_memory, "n_users": n_users}
        lean["diversity"] = Diversity(diversity, diversify_by, pool)
        return evaluate(self.model, self.data, on, **options, **common, **lean)

    @takes_tables
    @reads
    def tradeoff(
        self, knob: str = "diversity", values=None, on="valid", *, k: int = 10, metric: str = "NDCG", half_life=None,
        diversify_by="vectors", pool: int = 100, candidates=None, threshold: float | None = None,
        filter_seen: bool | str = True, n_boot: int = 1000, seed: int = 0, max_memory: int | str = "512MB",
    ) -> pd.DataFrame:  # fmt: skip
        """Return the cost in accuracy and the gain of favouring diverse, less known or new items, value by value.

        Use it to choose a value on the validation part; `evaluate` reports the cost on a test part.

        Args:
            knob: an argument of `recommend`: `'diversity'`, `'novelty_weight'` or `'freshness_weight'`.
            values: values of the knob in addition to 0, the model's own ranking; default a few.
            on, k, candidates, threshold, filter_seen, n_boot, seed, max_memory: as in `evaluate`; a single `k`.
            metric: name of the accuracy metric.
            half_life, diversify_by, pool: as in `recommend`.

        Returns:
            DataFrame indexed by the knob's value: the metric; its `change` from the value at 0, paired by user, with
            `low` and `high` (95 %); the quantity that the knob controls: `unlikeness`, 1 - the mean cosine of the items
            in a list by `diversify_by`, or their mean `age` in days; and Diversity, Novelty and Coverage, as in
            `evaluate`. `attrs['free']` is the largest value up to which there is no visible loss: the interval of the
            change reaches 0.

        Raises:
            ValueError: an unknown knob or metric; `'freshness_weight'` without `half_life`; nothing to evaluate.

        Example:
            >>> learn.tradeoff('diversity', [0.1, 0.3, 0.5])  # doctest: +SKIP
        """
        options = {"half_life": half_life, "diversify_by": diversify_by, "pool": pool, "candidates": candidates}
        options |= {"threshold": threshold, "filter_seen": filter_seen, "n_boot": n_boot, "seed": seed}
        return tradeoff(self.model, self.data, knob, values, on, k=k, metric=metric, max_memory=max_memory, **options)

    @takes_tables
    @reads
    def evaluate_fold_in(
        self, on="valid", *, n_given=(1, 3, 5, 10, 20), k: int = 10, seed: int = 0, filter_seen: bool | str = True
    ) -> pd.DataFrame:
        """Evaluate predictions for new users of whom the first n rows are known; see `new_users.evaluate_fold_in`.

        If the rows have times, the first n in time are given, so that no given row is later than a predicted one;
        otherwise n rows are drawn at random.

        Args:
            on: as in `evaluate`; its users without training rows are the new ones, also those whose ids the model does
                not know. `splits.cold_users` holds such users out.
            n_given, k: numbers of given rows, and cut-off of the ranking metrics.
            seed: seed for drawing rows without times or with equal times.
            filter_seen: whether the rows given at the largest n are excluded from the candidates.

        Returns:
            DataFrame indexed by `n_given`, including 0: RMSE or, without ratings, HitRate, NDCG and Recall at `k`, with
            baselines.
        """
        options = {"n_given": n_given, "k": k, "seed": seed, "filter_seen": filter_seen}
        fold = Reader(self.model, self.data) if "history" in self.model.needs else self.fold
        return evaluate_fold_in(fold, held_out(self.data, on, new_users=True), **options)

    @takes_tables
    @reads
    def task(
        self, on="valid", *, candidates=None, threshold: float | None = None, filter_seen: bool | str = True
    ) -> RankingTask:
        """Return the `RankingTask` that `evaluate` uses with these arguments."""
        options = {"candidates": candidates, "threshold": threshold, "filter_seen": filter_seen}
        return RankingTask.make(self.data, on, **options)

    @reads
    def vectors(self, side: str = "items") -> tuple[pd.Index, np.ndarray]:
        """Return vectors of items or users for use in another tool; their dot products are the scores.

        Biases are folded in, so that the largest products are the model's top k and the tool finds the same items as
        `recommend` (which also hides seen items). For a model with `y_range` the scores are logits; the ratings are
        `low + (high - low) * sigmoid`. Users' vectors are the current ones, with the latest history.

        Args:
            side: `'items'` or `'users'`.

        Returns:
            The ids `(n,)`, and a float32 matrix `(n, d)` with a row for each.

        Raises:
            TypeError: the model's score is not a dot product.

        Example:
            >>> ids, matrix = rec.vectors('items')           # doctest: +SKIP
            >>> index = faiss.IndexFlatIP(matrix.shape[1])   # doctest: +SKIP
            >>> index.add(matrix)                            # doctest: +SKIP
        """
        return exchange.vectors(self, side)

    @reads
    def to_scipy(self, part: str = "known"):
        """Return the events as a sparse matrix, e.g. for `implicit` or scikit-learn.

        Args:
            part: `'known'` for all events; `'train'` or `'valid'` for one part.

        Returns:
            A CSR matrix `(n_users, n_items)` float32 with the ratings (the last one of a repeated pair) or the number
            of occurrences of each pair; the user ids of its rows; the item ids of its columns.

        Raises:
            ValueError: `part` has another value, or the part does not exist.

        Example:
            >>> matrix, users, items = rec.to_scipy()  # doctest: +SKIP
        """
        return exchange.to_scipy(self.data, part)

    @takes_tables
    @reads
    def to_run(
        self, k: int = 100, on="valid", candidates=None, threshold: float | None = None
    ) -> dict[str, dict[str, float]]:
        """Return the lists as a run, `{user: {item: score}}`, for ranx, ir_measures or pytrec_eval.

        These are the lists that `evaluate(on)` evaluates: items seen before are hidden, evaluated items are not, and
        histories end at the time of evaluation. Together with `to_qrels` these tools give the figures of `evaluate`.

        Args:
            k: number of items per user, at least the largest cut-off.
            on: `'valid'`, or a DataFrame with the model's columns (a final test): lists for its users. None: the lists
                of `recommend` for all users.
            candidates: item ids to rank; default all.
            threshold: as in `evaluate`; users without a relevant row get no list.

        Returns:
            The run, with ids as strings, as these tools require.
        """
        return exchange.to_run(self, k, on, candidates, threshold)

    @takes_tables
    @reads
    def to_qrels(self, on="valid", threshold: float | None = None) -> dict[str, dict[str, int]]:
        """Return the relevant items, `{user: {item: 1}}`, for ranx, ir_measures or pytrec_eval.

        Arguments as in `evaluate`.

        Example:
            >>> ranx.evaluate(ranx.Qrels(rec.to_qrels()), ranx.Run(rec.to_run()), 'ndcg@10')  # doctest: +SKIP
        """
        return exchange.to_qrels(self, on, threshold)

    @reads
    def to_onnx(self, file: str | Path, what: str = "score", *, k: int = 10) -> Path:
        """Export the model as an ONNX file, which runs without torch and this library, e.g. in ONNX Runtime.

        Inputs are named tensors with any number `b` of rows. Which ones a model takes depends on what it `needs` and is
        stored in the file: `users` `(b,)` int64 indices; `history` `(b, l)` int64 indices of items, the latest last,
        padded on the right, and `lengths` `(b,)`; `context.NAME` `(b,)` codes or `(b, size)` numbers. An index is the
        row of an id, counted from 1, in the files `NAME.users.parquet` and `NAME.items.parquet` next to it; 0 is
        unknown.

        Before anything is written, the outputs are compared with the model's for inputs of several sizes.

        Args:
            file: path of the file; its folder is created.
            what: `'score'`: the score `(b,)` of pairs, as from `model.forward`; inputs are `users` (or histories) and
                `items` `(b,)`. `'topk'`: `items` `(b, k)`, the best first and 0 if fewer are left, and `scores`, -inf
                for these; it also takes `hidden` `(b, h)`, items to hide, padded with 0. `'encoder'`: `vectors`
                `(b, d)` of users, whose products with `vectors('items')` are the logits; the inputs are histories or,
                for models with user features, `feature.NAME` `(b, size)`, shares of categories or numbers as in
                `Features.matrix`, and the result is what `add_users` would give a new user. `'vectors'`: the same for
                known users. `'logits'`: the logits of all items, `(b, n_items)`, unknown items in column 0.
            k: list length, for `'topk'`.

        Returns:
            The path of the file. Its metadata have, as JSON under `collabkit`: `what`, `k`, `inputs`, `fields`
            (categories and scales of features and context), the numbers of users and items, the names of the files of
            `ids`, the `format`, and a SHA-256 of weights and data as `content`.

        Raises:
            ImportError: `onnx` or `onnxruntime` is missing: `pip install 'collabkit[onnx]'`.
            TypeError: the model has no graph (a closed-form model, a pipeline, `TimeSVD`), or no vectors.
            ValueError: `what` has another value; `k` is out of range; tables are larger than 2 GB.
            RuntimeError: the outputs of the file would differ from the model's.

        Example:
            >>> rec.to_onnx('served/lists.onnx', 'topk', k=20)  # doctest: +SKIP
        """
        return exports.to_onnx(self.model, self.data, file, what, k)

    @reads
    def to_torch_export(self, file: str | Path, what: str = "score", *, k: int = 10) -> Path:
        """Export the model as a torch exported program (`.pt2`), which runs without this library.

        Arguments, inputs, their order and the check are those of `to_onnx`; the metadata are in the extra file
        `collabkit.json`. `GRURec` is unrolled event by event, which takes about a second per event of its `length`.

        Raises:
            TypeError, ValueError, RuntimeError: as in `to_onnx`.

        Example:
            >>> rec.to_torch_export('served/score.pt2')                             # doctest: +SKIP
            >>> torch.export.load('served/score.pt2').module()(users, items)       # doctest: +SKIP
        """
        return exports.to_torch_export(self.model, self.data, file, what, k)

    @reads
    def to_pgvector(
        self, dsn: str, schema: str = "rec", *, index: bool = True, k: int = 10, min_recall: float = 0.95,
        n_queries: int = 100, seed: int = 0,
    ) -> dict:  # fmt: skip
        """Store the vectors in Postgres, with a function `recommend(user_id, k, filter_seen)` that uses pgvector.

        The tables `items`, `users`, `seen` and `facts` (about the model) are filled by COPY under other names and
        renamed at the end of one transaction: readers see the old model, then the new one. Scores are those of
        `recommend`. The search skips what the user has seen (`hnsw.iterative_scan`); if a list is then too short, it is
        searched exactly. Users' vectors are the current ones. Privileges on replaced tables have to be granted again
        (or by `alter default privileges`).

        Args:
            dsn: connection string for psycopg, e.g. `'postgresql://me@host/shop'`.
            schema: target schema, created if it does not exist. Tables with these names that were not written by this
                method are never replaced.
            index: create an HNSW index of vectors of equal lengths, with the smallest `hnsw.ef_search` that reaches
                `min_recall`. If none does, the index is dropped. False: exact search.
            k, min_recall, n_queries, seed: the required recall of the exact top `k`, measured on `n_queries` users.

        Returns:
            `index` (`'hnsw'` or `'exact'`), `effort` (`ef_search`), `recall`, and the sizes, as in the table `facts`.

        Raises:
            ImportError: psycopg or pgvector is missing: `pip install 'collabkit[postgres]'`.
            TypeError: the model's score is not a dot product; ids are neither integers, strings nor UUIDs.
            FileExistsError: the schema has tables with these names that were not written by this method.
            RuntimeError: the server has no pgvector.

        Example:
            >>> rec.to_pgvector('postgresql://me@host/shop')                   # doctest: +SKIP
            >>> # select * from rec.recommend('ann', 10)
        """
        options = {"index": index, "k": whole("k", k), "min_recall": min_recall, "n_queries": n_queries, "seed": seed}
        return pgvector.write(self, dsn, schema, **options)

    @classmethod
    def from_pgvector(cls, dsn: str, schema: str = "rec") -> "Recommender":
        """Load a recommender from the vectors and seen items that `to_pgvector` wrote; scores are dot products.

        Args:
            dsn, schema: as in `to_pgvector`.

        Raises:
            ImportError: as in `to_pgvector`.
            ValueError: the schema does not exist, or has a newer version.
        """
        return cls(*pgvector.read(dsn, schema))

    def to_hub(
        self, repo_id: str, *, private: bool = True, token: str | None = None, commit_message: str | None = None
    ) -> str:
        """Upload the artefact to a repository of the Hugging Face Hub, which is created if it does not exist.

        The artefact contains user ids and the users' events, so the repository is private by default.

        Args:
            repo_id: `'owner/name'`.
            private: whether a new repository is private.
            token, commit_message: passed to `huggingface_hub`.

        Returns:
            The repository's URL.

        Raises:
            ImportError: `huggingface_hub` is missing: `pip install 'collabkit[hub]'`.
        """
        return hub.upload(self, repo_id, private=private, token=token, message=commit_message)

    @classmethod
    def from_hub(
        cls, repo_id: str, *, revision: str | None = None, token: str | None = None, models: Sequence[type[Model]] = ()
    ) -> "Recommender":
        """Load a recommender from a Hugging Face Hub repository written by `to_hub`, with the checks of `load`.

        Args:
            repo_id: `'owner/name'`.
            revision: a branch, tag or commit; default the latest.
            token: token for `huggingface_hub`, for private repositories.
            models: as in `load`.

        Raises:
            ImportError: `huggingface_hub` is missing.
            BundleError: the repository holds no artefact.
        """
        return cls.load(hub.download(repo_id, revision=revision, token=token), models)

    @classmethod
    def from_implicit(cls, model, user_ids, item_ids, events=None) -> "Recommender":
        """Create a recommender from the factors of an `implicit` model; its scores are that model's.

        Args:
            model: a fitted model with `user_factors` and `item_factors` (`AlternatingLeastSquares`,
                `BayesianPersonalizedRanking`, `LogisticMatrixFactorization`; on the CPU or the GPU).
            user_ids, item_ids: external ids, in the order of the rows.
            events: the users' events, which are hidden from their lists: the matrix `(n_users, n_items)` that the model
                was fitted to, or a DataFrame with the columns `user` and `item` (or the names of the ids). Without it
                nothing is hidden, users cannot be folded in, and no artefact can be written.

        Raises:
            TypeError: the model has no factors; `events` has another type.
            ValueError: the number of ids differs from the number of rows; numbers are not finite.

        Example:
            >>> als = implicit.als.AlternatingLeastSquares(factors=64)        # doctest: +SKIP
            >>> als.fit(matrix)                                               # doctest: +SKIP
            >>> rec = Recommender.from_implicit(als, users, items, matrix)    # doctest: +SKIP
        """
        users, items = exchange.implicit_factors(model)
        return cls(*exchange.from_factors(users, items, None, user_ids, item_ids, events))

    @classmethod
    def from_lightfm(
        cls, model, user_ids, item_ids, events=None, *, user_features=None, item_features=None
    ) -> "Recommender":
        """Create a recommender from a LightFM model; its scores are those of the model's `predict`.

        Args:
            model: a fitted model.
            user_ids, item_ids, events: as in `from_implicit`.
            user_features, item_features: the sparse matrices that the model was fitted with, if any.

        Raises:
            TypeError, ValueError: as in `from_implicit`.
        """
        (user_bias, users), (item_bias, items) = exchange.lightfm_factors(model, user_features, item_features)
        return cls(*exchange.from_factors(users, items, (user_bias, item_bias), user_ids, item_ids, events))

    @gives_tables
    @reads
    def questionnaire(self, n: int = 10, *, by: str = "information", items=None) -> pd.DataFrame:
        """Return items to ask a new user about; pass the answers to `recommend(history=...)` or `fold_in`.

        Args:
            n: number of items.
            by: `'information'`: the most informative items, which are popular, divisive and spread over the space of
                tastes; see `coldstart.questionnaire.next_questions`. `'popularity'`: the best known items. `'spread'`:
                the most informative items if everybody knew all items.
            items: ids to choose from; default all with training rows.

        Returns:
            DataFrame with the item column, `known_by` (share of the users with a training row for it), `spread`
            (standard deviation of the answer before anything is known, in ratings or logits) and `information`
            (expected information of the answer in nats, given the answers to the rows above).

        Raises:
            KeyError: an item is unknown.
            ValueError: `n` is below 1 or above the number of items; `by` has an unknown value.
        """
        return questionnaire(self.fold, n, by=by, items=items)

    @takes_tables
    @writes
    def add_items(self, items: Table) -> "Recommender":
        """Add new items by their features; nothing is trained, and the other ids stay unchanged.

        Args:
            items: one row per item: the item column and the columns of the model's item features. Categories that are
                not in the training data count as missing (with a `CollabWarning`).

        Returns:
            This recommender.

        Raises:
            TypeError: the model has no item features.
            KeyError: a column is missing.
            ValueError: an item exists already or has two rows; a vector has another length or contains NaN.
        """
        self.data = add_ids(self.model, self.data, items, "item")
        return self

    @takes_tables
    @writes
    def add_users(self, users: Table) -> "Recommender":
        """Add new users by their features; see `add_items`, and `fold_in` for users with ratings."""
        return self._take_in(lambda _: add_ids(self.model, self.data, users, "user"))

    @takes_tables
    @writes
    def fold_in(self, ratings: Table, users: Table | None = None) -> "Recommender":
        """Add new users by their ratings or clicks, with the items unchanged; nothing is trained.

        Each user gets the row of the user table under which the history is most likely, given the distribution of the
        training users; see `fold_in.FoldIn`. Their histories are hidden from their recommendations and saved with the
        model. Existing users without training rows (added, folded in before, or only in the validation part) may be
        folded in again with more events.

        Args:
            ratings: rows of the new users, with the model's user, item and rating columns. Unknown items are dropped
                (and counted).
            users: features of users who do not exist yet, as for `add_users`.

        Returns:
            This recommender.

        Raises:
            KeyError: a column is missing.
            ValueError: a user has training rows, or no item that the model knows; a rating is out of range.
            TypeError: the model computes its users only from the training data.
        """
        return self._take_in(lambda solver: fold_in_users(self.model, self.data, ratings, users, solver))

    @takes_tables
    @writes
    def update(self, events: Table, users: Table | None = None, items: Table | None = None) -> "Recommender":
        """Add events since training, of known and new users and items; takes seconds and needs no fit.

        From now on the events count as training rows: they are part of the histories, and their items are hidden. Only
        the parts of the model that concern these users and new items are solved for again:

        - After `fit_als` the rows of these users are the exact solution for the current items, and those of new items
          the exact solution for the users.
        - In other models with a user table, each of these users gets the most likely row given all their events, as in
          `fold_in`. A new item is scored by its features, or as an unknown item, until it is trained, as by
          `learn.update`.
        - In models that read histories, the events become part of the histories. New items are treated as above.
        - Closed-form models are fitted again to all rows: their lists are those of a refit.

        Except in closed-form models, the rows of existing items and of all other users, and every other weight, stay
        bit-for-bit the same; so do the lists of users without new events, apart from new items that enter them.

        Args:
            events: one row per event, with the model's columns; only positives if the model has no ratings. A pair that
                is already known is dropped, or its rating is replaced by the newer one; both are counted in a
                `CollabWarning`. If repeats count as separate events, they are kept, except rows whose time is already
                known.
            users, items: features of new users and items, as in `add_users` and `add_items`; rows of known ids are
                dropped (and counted).

        Returns:
            This recommender.

        Raises:
            TypeError: ids have another type than the model's; `events` is not a DataFrame; the model's rows are
                computed from all training data; features are given for a model without features.
            KeyError: a column is missing.
            ValueError: there are no events; an id, rating or time is missing; a rating is out of range.

        Example:
            >>> rec = Recommender.load(folder)          # doctest: +SKIP
            >>> rec.update(events_of_today).save(folder)  # doctest: +SKIP
        """
        self._update(events, users, items)
        return self

    def _update(self, events: pd.DataFrame, users: pd.DataFrame | None, items: pd.DataFrame | None) -> Update:
        """Do the update and return its `Update`."""
        found = []

        def change(solver: Callable[[Dataset], FoldIn]) -> Dataset:
            found.append(update(self.model, self.data, events, users, items, solver))
            return found[0].data

        n_items = self.data.n_items
        self._take_in(change)
        if len(found[0].items) or self.data.n_items > n_items:
            self._resolve(found[0].items[:0])
        return found[0]

    @writes
    def _resolve(self, users: Tensor) -> None:
        """Solve for the rows of `users` `(m,)` again, from all their known events and the current items.

        The distribution of users is not estimated again, if it was before.
        """
        kept = self._kept.get("fold")
        if kept is None and len(users) == 0:
            return
        fold = self.fold if kept is None else kept[2].for_items(self.data)
        if len(users):
            self.model.user_side.write(users, fold.rows(histories_of(self.data.trained, users)[0], users))
        self._kept["fold"] = (self.model.version(), self.data, fold)

    @writes
    def refold(self) -> None:
        """Solve again for the rows of the folded-in users, e.g. after more training."""
        self._take_in(lambda solver: refold(self.model, self.data, solver) or self.data)

    @property
    def fold(self) -> FoldIn:
        """The fold-in for the current model; cached until a weight changes."""
        return self._keep("fold", lambda: FoldIn(self.model, self.data))

    def _explainer(self) -> Explainer:
        """Computes the shares of past items in scores."""
        inner = self.model.explained
        fold = (
            (lambda: self.fold) if inner is self.model else lambda: self._keep("part", lambda: FoldIn(inner, self.data))
        )
        return Explainer(
            self.model, self.data, fold, lambda: self._keep("equations", lambda: equations(inner, self.data))
        )

    def _take_in(self, change: Callable[[Callable[[Dataset], FoldIn]], Dataset]) -> "Recommender":
        """Add users. The distribution of the trained users does not change, so the prior stays."""
        version, data, fold = self._kept.get("fold", (None, None, None))
        folds = [fold] if version == self.model.version() and data is self.data else []

        def solver(data: Dataset) -> FoldIn:
            if not folds:
                folds.append(FoldIn(self.model, data))
            return folds[0]

        self.data = change(solver)
        if folds:
            self._kept["fold"] = (self.model.version(), self.data, folds[0])
        return self

    def _keep(self, name: str, compute: Callable):
        """The result of `compute`, cached as long as weights and data are the same."""
        state = self.model.version(), self.data
        kept = self._kept.get(name)
        if kept is None or kept[0] != state[0] or kept[1] is not state[1]:
            kept = self._kept[name] = (*state, compute())
        return kept[2]

    def _judged_index(self) -> tuple[Index, float]:
        """The index of `use_index` for the current weights, and its recall."""
        return self._keep("index", lambda: self._search.ready(self))

    def _scorer(self, candidates: Tensor, max_memory: int | str) -> Scorer:
        """A scorer of `candidates` `(c,)`, ascending; the vectors of all items are cached."""
        if not self.model.has_vectors:
            return self.model.scorer(candidates, max_memory)
        every = self.data.every_item
        table = self._keep("items", lambda: ItemTable(self.model.item_vectors(every.to(self.model.device))))
        return DotScorer(self.model, table if len(candidates) == len(every) else table.take(candidates - 1))

    def _read_history(self, history) -> NewUsers:
        """Histories, for a model that reads them or folds them in."""
        _ = None if "history" in self.model.needs else self.fold  # raises if there is none
        options = {"rated": takes_ratings(self.model, self.data), "y_range": self.model.y_range}
        return read_histories(history, self.data, **options, ordered=self.model.ordered)

    def _new_query(self, new: NewUsers, context) -> Query:
        """The query of new users."""
        query = self._query_of(new.histories, context)
        if "history" in self.model.needs:
            return query
        return replace(query, history=None, rows=tuple(self.fold.rows(new.histories)))

    def _query_of(self, histories: Runs, context) -> Query:
        """The query of new users with these `histories`, without other data."""
        nobody = torch.zeros(len(histories), dtype=torch.int64)
        ask = self.data.asker([name for name in self.model.needs if name != "history"])
        query = at_moment(ask, moment_of(context, len(histories), self.model, self.data))(nobody)
        query = Query(query) if isinstance(query, Tensor) else query
        return replace(query, history=histories)

    def _recent_query(self, recent, users, unknown: str, context) -> tuple[Query, pd.Index, Runs, Runs | None]:
        """The query of `users` with `recent` events, their ids, the recent items, and what rows were solved from."""
        fold = None if "history" in self.model.needs else self.fold
        options = {"rated": takes_ratings(self.model, self.data), "y_range": self.model.y_range}
        named, events = read_recent(recent, self.data, **options, ordered=self.model.ordered)
        if users is None and len(named) == 0:
            raise ValueError("recent= has no rows and so names no users; give users=")
        ids, chosen = self._asked(named if users is None else users, unknown)
        query = self.query(chosen, context)
        query, told = recent_query(query, events, self.data, fold, once=not self.model.ordered)
        return query, ids, events.pairs.of(chosen), told

    def _asker(self) -> Callable[[Tensor], Tensor | Query]:
        """A function from users to their current queries, with validation rows in the histories."""
        latest = self.data.latest if "history" in self.model.needs else None
        return self.data.asker(self.model.needs, histories=latest)

    def query(self, user_idx: Tensor, context=None) -> Tensor | Query:
        """Return the current query of the users at `user_idx` `(b,)`; `context` as in `predict`."""
        return at_moment(self._asker(), moment_of(context, len(user_idx), self.model, self.data))(user_idx)

    def _lean(self, tilt: Tilt, diversity: Diversity) -> dict:
        """The parts of `Wanted` that change the order of items from that of their scores, if any."""
        offsets = tilt.offsets(self.data)
        if offsets is not None and self._search is not None:
            raise ValueError("novelty_weight= and half_life= rank all items anew, but an index finds only those with "
                             "the best scores; search exactly first: use_index(None)")  # fmt: skip
        return {"offsets": offsets, "rerank": diversity.ranker(lambda: self._likeness(diversity.by))}

    def _likeness(self, by) -> Tensor:
        """Unit vectors of the items, see `item_likeness`; cached if `by` is a name."""
        make = lambda: item_likeness(self.model, self.data, by)  # noqa: E731
        return self._keep(f"likeness by {by}", make) if isinstance(by, str) else make()

    def _wanted(self, limits: Limits, rows: Tensor, seen: Runs | None, **options) -> Wanted:
        """The request of the users at `rows` `(b,)`, with `seen` items hidden."""
        allowed = limits.allow.pairs
        if allowed is not None and self._search is not None:
            raise ValueError("an index cannot take items= per user, only one list for all; search exactly "
                             "first: use_index(None)")  # fmt: skip
        return Wanted(
            candidates=limits.candidates(self.data, rows), hidden=limits.hidden(seen), allowed=allowed, **options
        )

    def _encode(self, vocab: Vocab, ids, unknown: str) -> Tensor:
        one_of("unknown", unknown, ("raise", "default"))
        idx = vocab.encode([ids] if is_one(vocab, ids) else ids, unknown="raise" if unknown == "raise" else "zero")
        return torch.from_numpy(idx)

    def _asked(self, users, unknown: str) -> tuple[pd.Index, Tensor]:
        """The requested ids `(b,)`, and their indices."""
        if users is None:
            return self.users.ids, torch.arange(1, len(self.users))
        if unknown == "raise" and (row := self.users.row(users)):
            return self.users.ids[row - 1 : row], torch.tensor([row])
        ids = check_ids([users] if is_one(self.users, users) else users, self.columns.user)
        try:
            return ids, self._encode(self.users, ids, unknown)
        except MissingError as error:
            hint = "unknown='default' gives them the list of an unknown user, history= a list by what they met"
            raise MissingError(f"{error}; {hint}") from None

    def _lists(
        self, asked: dict, chosen: Tensor, ask, wanted: Wanted, askers: str = "users", because: tuple | None = None
    ) -> pd.DataFrame:
        """The lists of the users at `chosen` `(b,)`, with queries by `ask`, as a table with the ids `asked`."""
        with answering(self.model), torch.inference_mode():
            best, logits = (self._exact if self._search is None else self._found)(chosen, ask, wanted)
            scores = {"score": self.model.activation(logits)}
            if isinstance(self.model.calibration, Probabilities):
                scores["probability"] = torch.from_numpy(self.model.calibration(logits.cpu().numpy()))
        table = self._frame("item", best, wanted.k, asked, askers, **scores)
        return table if because is None else table.assign(because=because_of(self._explainer(), best, *because))

    def _exact(self, chosen: Tensor, ask, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """The items `(b, k)` of the lists, and their logits."""
        candidates, n_items = wanted.candidates, len(self.items)
        options = {name: getattr(wanted, name) for name in ("hidden", "allowed", "offsets", "rerank")}
        options["block"] = block_size(len(candidates), wanted.max_memory, self.model.device)
        scorer = Asked(self._scorer(candidates, wanted.max_memory), ask)
        return top_k(scorer, chosen, candidates, wanted.k, n_items=n_items, **options)

    def _found(self, chosen: Tensor, ask, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """The same with the index."""
        vectors = self.model.user_vectors(ask(chosen).to(self.model.device)).cpu()
        allowed = None if len(wanted.candidates) == len(self.items) - 1 else wanted.candidates
        seen, rerank = None if wanted.hidden is None else wanted.hidden.of(chosen), wanted.rerank
        size = wanted.k if rerank is None else min(rerank.pool_for(wanted.k), len(wanted.candidates))
        best, logits = self._judged_index()[0].search(vectors, size, seen, allowed)
        if rerank is not None:
            every = torch.arange(len(self.items))
            logits, best = rerank.best(logits, every, best, wanted.k)
        return best, logits

    def _frame(self, side: str, best: Tensor, k: int, asked: dict, askers: str, **scores: Tensor) -> pd.DataFrame:
        """The lists `best` `(b, k)` of a side's indices and their `scores`, by name, as a table with `asked`."""
        best, scores = best.numpy(), {name: values.numpy() for name, values in scores.items()}
        left = best > 0  # (b, k)
        counts = left.sum(1)
        short = int((counts < k).sum())
        if short:
            say(
                f"fewer than k={k} {side}s are left for {short:,} of {len(best):,} {askers}, who get fewer rows "
                f"(at least {int(counts.min())})"
            )
        data = {name: ids.take(np.repeat(np.arange(len(best)), counts)) for name, ids in asked.items()}
        data[getattr(self.columns, side)] = getattr(self, f"{side}s").decode(best[left])
        data["rank"] = left.cumsum(1)[left]
        return new_frame(data | {name: values[left] for name, values in scores.items()})

    def _similar(self, ids, k: int, side: str, measure: Callable[[Tensor], Tensor] | None = None) -> pd.DataFrame:
        say_untrained(self.model)
        vocab = getattr(self, f"{side}s")
        rows, n = self._encode(vocab, ids, "raise"), len(vocab)
        k, own = check_k(k, n), side == "item" and self.model.has_similarity
        measure = measure or (self.model.item_similarity if own else self._cosines(side))
        found, best = nearest(measure, rows, k, n)
        asked = {} if is_one(vocab, ids) else {f"similar_to_{vocab.name}": vocab.decode(rows.numpy())}
        return self._frame(side, found, k, asked, f"{side}s", similarity=best)

    def _cosines(self, side: str) -> Callable[[Tensor], Tensor]:
        """The cosines of a side's ids with all others."""

        def compute():
            every = torch.arange(len(getattr(self, f"{side}s")))
            query = self._asker()(every) if side == "user" else every
            return cosines(self.model.factors(side, query.to(self.model.device)))

        return self._keep(f"cosines_{side}", compute)

    def __repr__(self) -> str:
        return (
            f"Recommender: {type(self.model).__name__}, {len(self.users) - 1:,} users, {len(self.items) - 1:,} items, "
            f"{len(self.train):,} training rows"
        )


def as_recommender(what: str, given) -> Recommender:
    """The `Recommender` of a learner, of a fitted closed-form model, or as it was given.

    Raises:
        TypeError: `given` is something else; the message names `what` needs it.
    """
    found = getattr(given, "recommender", given)
    if not isinstance(found, Recommender):
        raise TypeError(f"{what} takes a trained learner or a Recommender, got {type(given).__name__}")
    return found
