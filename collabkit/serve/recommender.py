"""`Recommender`: a trained model with its ids, for recommendations; loads an artefact without fastai."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
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
from collabkit.data.checks import whole
from collabkit.data.dataset import Dataset
from collabkit.data.frames import Table, gives_tables, takes_tables, to_pandas
from collabkit.data.interactions import Interactions
from collabkit.data.notices import say
from collabkit.data.query import Query
from collabkit.data.runs import Runs
from collabkit.data.tables import new_frame
from collabkit.data.vocab import Vocab, check_ids
from collabkit.evaluate import evaluate, evaluate_fold_in, tradeoff
from collabkit.evaluate.calibration import Intervals, Probabilities, calibrate, judge
from collabkit.evaluate.tables import predict_ratings
from collabkit.evaluate.task import RankingTask, held_out
from collabkit.models.base import Model, answering, say_untrained
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

__all__ = ["Recommender"]


class Recommender:
    """Predictions, recommendations, neighbours and evaluation of a trained model, by external ids.

    `learn.recommend` and its kin are this class on the learner's model; `Recommender.load(folder)` is the same from an
    artefact. What was computed from the weights alone (item vectors, unit vectors, the prior of the fold-in) is kept
    until a weight changes. Any number of threads may ask one; `add_items`, `add_users`, `fold_in` and `use_index` wait
    for those who ask and let nobody in meanwhile. Training in one thread while others ask is not for it.
    Tables and columns of ids are pandas', polars', Arrow's, or of whatever library narwhals knows. Lists come back in
    the kind of the first table of the call, else of the table that the data were made from (pandas' from an artefact);
    metrics, which have an index, are always pandas'. Where the data were made from a scipy matrix, another one with the
    same rows and columns is taken wherever a table of events is (in `history=` the rows are new people).
    One or several of torch's own threads give the same lists; the last digits of scores may differ, as sums over many
    numbers are taken in another order.

    Args:
        model: a model whose sides are row-aligned with the data's vocabularies.
        data: a `Dataset`, training interactions, or whatever else `Dataset.of` takes; `recommend` hides the training
            and the validation part.
        valid: the validation interactions, where `data` is the training part.
        config: the artefact's config, where it came from one.

    Example:
        >>> rec = Recommender.load(folder)                             # doctest: +SKIP
        >>> rec.recommend(['ann', 'bob'], k=5)                         # doctest: +SKIP
    """

    def __init__(self, model: Model, data, valid: Interactions | None = None, *, config: dict | None = None):
        self.model, self.config = model, config or {}
        self.data, self.lock = Dataset.of(data if valid is None else (data, valid)), ReadWriteLock()
        self._kept: dict[str, tuple] = {}  # by what it is: the model's version, and what was computed from it
        self._search: indexed.Search | None = None  # by an index; None for exact search
        self._picked: indexed.Picked | None = None  # what was measured last

    users = property(attrgetter("data.users"), doc="The users' ids.")
    items = property(attrgetter("data.items"), doc="The items' ids.")
    columns = property(attrgetter("data.columns"), doc="The column names in the caller's tables.")
    train = property(attrgetter("data.train"), doc="The training interactions.")
    valid = property(attrgetter("data.valid"), doc="The validation interactions, or None.")

    @classmethod
    def load(cls, folder: str | Path, models: Sequence[type[Model]] = (), *, index: str = "exact") -> "Recommender":
        """The recommender in an artefact folder written by `learn.export`; see `serve.load_artefact` for errors.

        Args:
            folder: the artefact.
            models: the class of its model, where that is not one of the library's.
            index: `'exact'`, or as of `use_index`, `'auto'` or `'faiss'`: the index that is stored in the artefact. One
                that has none is measured and stored, where the folder can be written to. faiss reads its file: take
                indexes from folders that you trust.

        Raises:
            ValueError: another `index`, or a damaged one.
        """
        if index != "exact" and index not in indexed.NAMES:
            raise ValueError(f"index must be 'exact', 'auto' or 'faiss', got {index!r}")
        artefact, fold = load_all(folder, models)
        found = cls(artefact.model, artefact.data, config=artefact.config)
        found.keep_fold(fold)
        if index != "exact":
            found._take_index(Path(folder).expanduser().resolve(), index)
        return found

    def keep_fold(self, fold: FoldIn | None) -> None:
        """Fold in by the prior that an artefact had, if it had one, until a weight or the data changes."""
        if fold is not None:
            self._kept["fold"] = (self.model.version(), self.data, fold)

    def _take_index(self, folder: Path, name: str) -> None:
        """Search with the index that a folder has, or measure, and store what was found."""
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
        """Write the artefact, with the index that was measured, if any; see `serve.save_artefact`.

        Args:
            folder, metrics: where, and figures to keep with it.
            light: write what `serve.light.Light` answers from, too, and the prior of the fold-in, which is fitted for
                it if no history was asked about before.
            weights: as of `serve.save_artefact`.
            onnx: and the model's network for ONNX Runtime, where it has one that such answers need.

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
        """Write the index that was measured, if it is of the vectors that the items have now."""
        if self._picked is None:
            return
        vectors = indexed.item_vectors(self.model)
        mine = None if self._search is None else self._search.vectors
        if mine is None or (mine.shape == vectors.shape and torch.equal(mine, vectors)):
            indexed.write_index(folder, self._picked, vectors)

    @takes_tables
    @reads
    def predict(
        self, users, items, *, unknown: str = "raise", context=None, interval: float | None = None
    ) -> float | np.ndarray | tuple:
        """Predicted rating of each (user, item) pair.

        Args:
            users, items: external ids, scalars or arrays `(n,)`; a scalar is paired with every id of the other.
            unknown: `'raise'` for an unknown id, or `'default'` for the no-information answer.
            context: of a model with a context, as of `recommend`, for all pairs or each.
            interval: of ratings, after `calibrate`: the share of them that is to lie within an interval, e.g. .9.

        Returns:
            A float for two scalars, else `(n,)` float32. With `interval` three of these: the rating, and the lower and
            the upper end.

        Raises:
            KeyError: an id is unknown and `unknown='raise'`.
            ValueError: arrays of different lengths; `interval` outside (0, 1), or before `calibrate`.
        """
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
            raise ValueError("intervals are for ratings whose errors are known: call calibrate() first, of a model of "
                             "ratings")  # fmt: skip
        if not 0 < interval < 1:
            raise ValueError(f"interval must be a share between 0 and 1, e.g. .9, got {interval!r}")

    def _interval(self, user_idx: Tensor, ratings: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The ends `(n,)` of the intervals around ratings, within their range."""
        half = self.model.calibration.width(self.data.known.lengths[user_idx].numpy(), level)
        low, high = self.model.y_range or (-np.inf, np.inf)
        return np.maximum(ratings - half, np.float32(low)), np.minimum(ratings + half, np.float32(high))

    @writes
    def calibrate(self, method: str = "platt", *, n_negatives: int = 100, seed: int = 0) -> pd.DataFrame:
        """Learn from the validation part what scores mean: probabilities of events, or intervals around ratings.

        Half of its users teach it, the other half say how true it is.

        Of scores of events: the probability that an item which the user has not met is among those that they meet in
        the validation part. It is counted over all unseen items of users with such a part: their positives stand beside
        a sample of the others, each of which counts for as many as were not drawn. Lists have a column `probability`
        then. It is that of an average user with such a score.

        Of ratings: absolute errors by how active the users are; `predict(interval=.9)` gives the interval that holds
        nine of ten ratings (split conformal prediction: Vovk, Gammerman and Shafer, "Algorithmic learning in a random
        world", 2005).

        It is kept with the model and in the artefact, and forgotten when the model is trained on.

        Args:
            method: for events `'platt'`, a logistic curve (Platt, "Probabilistic outputs for support vector machines",
                1999), or `'isotonic'`, any rising function (Zadrozny and Elkan, 2002), for some thousand positives.
            n_negatives: unseen items a user that are drawn.
            seed: of the halves and the draw.

        Returns:
            For events a DataFrame of bins of rising probability, each with as many expected positives: `predicted`,
            `observed` (95 % interval `low` to `high`), `positives`, `pairs` (that they stand for); its `attrs` have
            `ece`, the expected calibration error, `base_rate`, and `relative_ece`, the error as a share of the base
            rate. For ratings by level and users: `coverage`, the share of ratings within, `half_width`, `n`.

        Raises:
            ValueError: there is no validation part, or one of fewer than 2 users; another `method`.

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
        """How true the calibration is on the half of the validation users that it was not fitted to; see `calibrate`.

        Raises:
            ValueError: there is no calibration, or no validation part.
        """
        if self.model.calibration is None:
            raise ValueError("nothing is known of what scores mean: call calibrate() first")
        return judge(self.model, self.data, self.model.calibration)

    @gives_tables
    @reads
    def recommend(
        self, users=None, k: int = 10, *, history=None, recent=None, filter_seen: bool | str = True, items=None,
        exclude=None, unknown: str = "raise", context=None, novelty_weight: float = 0.0, half_life=None,
        freshness_weight: float = 1.0, diversity: float = 0.0, diversify_by="vectors", pool: int = 100,
        why: bool | int = False, max_memory: int | str = "512MB",
    ) -> pd.DataFrame:  # fmt: skip
        """The top `k` items of each user.

        Args:
            users: external ids, one or many; None for all users.
            history: in the place of `users`, what somebody has rated or clicked: `{'Alien (1979)': 5, ...}` or, of a
                model without ratings, a list of items, for one; a DataFrame with the model's columns for many. Unknown
                items are left out (counted), and so are answers of None, as of a questionnaire. Models that look at
                histories take it as it is; of the others the person is folded in for this call.
            recent: what users whom the model knows did since the training: a DataFrame with the model's columns, a row
                an event. It counts as history for this call, and nothing is trained or kept: models that look at
                histories get them with these events, in the order of the times where there are some, else at the end;
                of the others the rows of these users are solved for again from all that is known of them. Of a pair
                that is known already the recent row counts. Users who are asked without a row in it get their usual
                list, rows of users who are not asked play no part, and `users=None` asks the users that it names.
            k: items a user; where fewer are left a user gets fewer rows, counted in a `CollabWarning`.
            filter_seen: hide the items of the user's training and validation rows, of the history and of `recent`;
                `'train'`: not those of the validation rows; False: none.
            items: allow list: recommend these item ids only; any iterable. Or by user: a dict from users to item ids,
                or a DataFrame with the user and item columns. Users without an entry get no rows, and `users=None` asks
                those who have one. Unknown ids are left out (counted).
            exclude: deny list: item ids, or likewise by user.
            unknown: `'raise'` for an unknown user, or `'default'` for the list of a user of whom nothing is known.
            context: of a model with a context, what is known of the moment: `{column: value}`, or a DataFrame with one
                row, for all; or lists, or as many rows as users are asked, for each. What is not given is unknown.
            novelty_weight: how much the ranking leans to items that few users have: so many standard deviations of the
                user's scores for each standard deviation of an item's self-information, `-log2(users who have it /
                users)`. 0 is the model's own ranking; `evaluate(novelty_weight=, metrics=['NDCG', 'Novelty'])` says
                what it costs and brings.
            half_life: lean to new items: `freshness_weight` standard deviations of the user's scores for an item whose
                first event is the latest of all, half of them for one that is `half_life` older, and so on. Days, a
                `pd.Timedelta` or a text like `'30D'`; None: not at all. `retrieval.tilt.Tilt` has the formula.
            freshness_weight: how many.
            diversity: how much a list avoids items that are alike, from 0, the model's own ranking, to 1, by maximal
                marginal relevance; `retrieval.diversity.Diversity` has the formula. `tradeoff` says what it costs.
            diversify_by: `'vectors'`: alike are items whose vectors are near each other; or the name of an item feature
                of the data, or several names, or `Features` of the items.
            pool: a diverse list is chosen from so many best items of each user (from `k`, where that is more).
            why: add a column `because`: the item of the user's history that speaks most for the row, None where nothing
                does. A number: a list of so many. See `why`.
            max_memory: bound of the score block, in bytes or as `'512MB'`; users are scored in blocks under it.

        Returns:
            DataFrame with the user column (not for one history), the item column, `rank` (1 is best), `score`
            (predicted rating) and, after `calibrate`, `probability`. With `novelty_weight`, `half_life` or `diversity`
            the rank is another one, and the score still the model's own, so that it may rise from one rank to the next.

        Raises:
            KeyError: unknown users, a missing column, or an allow list or a history of unknown items alone.
            ValueError: `k` < 1, no candidate is left, a history is empty, or a rating is out of range; `half_life` for
                data without times, or one of these with an index (`use_index`): `half_life`, `novelty_weight`, an allow
                list by user.
            TypeError: a history or `recent`, for a model that can neither look at one nor fold it in; ids of another
                type; `why`, for a model whose users are computed from the training data.

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
                raise ValueError("history= stands for new users: leave users= out, and recent=")
            new = self._read_history(history)
            limits = Limits.read(items, exclude, new.vocab(self.columns.user), self.items)
            query, ids, told = self._new_query(new, context), new.ids, new.histories
            rows = torch.arange(len(query)) + 1  # of the limits by user
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
                query = self.query(rows, context)  # a moment each, by place: a user may be there twice
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
        """The lists of any number of users, one table after the other, each of at most `block` users.

        Args:
            users: None for all; ids; a table with the users' column; the path of a Parquet file or of a folder of such,
                with that column or no other; or a reader: an iterator of such tables or arrays of ids, as of
                `pyarrow.parquet.ParquetFile(...).iter_batches()`.
            k: as of `recommend`.
            block: users whose lists are in memory at once, beside the block of scores that `max_memory` bounds.
            **options: of `recommend`, but `history`.

        Raises:
            KeyError, TypeError, ValueError: as of `recommend`. Unknown users are found before the first list, but those
                of an iterator, which is read once.

        Example:
            >>> for table in rec.recommend_batches('users/', k=20):   # doctest: +SKIP
            ...     send(table)
        """
        self._check_options(options)
        return list_blocks(self.recommend, users, self.users, block, {"k": k, **options})

    def recommend_to(self, folder: str | Path, users=None, k: int = 10, *, block: int = BLOCK, **options) -> Path:
        """Write the lists of any number of users to a new folder of Parquet, a part for each block of users.

        The folder is there when it is whole: nothing is left of lists that were interrupted, or did not fit the disk.
        Read it with `pandas.read_parquet(folder)`, or with whatever else reads Parquet.

        Args:
            folder: where to, nothing or an empty folder.
            users, k, block, **options: as of `recommend_batches`.

        Returns:
            The path of the folder.

        Raises:
            FileExistsError: there is something at `folder`.
            OSError: it cannot be written.
            KeyError, TypeError, ValueError: as of `recommend_batches`.

        Example:
            >>> rec.recommend_to('lists/', 'users/', k=20)   # doctest: +SKIP
        """
        check_folder(folder)
        return write_lists(folder, map(to_pandas, self.recommend_batches(users, k, block=block, **options)))

    def _check_options(self, options: dict) -> None:
        """Raise `TypeError` for what is no option of `recommend`, or not one for blocks of users."""
        known = [name for name in inspect.signature(self.recommend).parameters if name not in ("users", "history")]
        if odd := sorted(set(options) - set(known)):
            raise TypeError(f"lists in blocks take no {', '.join(odd)}; there are {', '.join(known)}")

    @gives_tables
    @reads
    def history(self, user) -> pd.DataFrame:
        """What is known of a user: the training and validation rows and those folded in by, the latest last.

        Args:
            user: an external id.

        Returns:
            DataFrame with the item column and those of ratings, times and counts, where the data has such; a time is
            None where a row has none, as of users who were folded in.

        Raises:
            KeyError: the user is unknown.

        Example:
            >>> rec.history('ann')['title'].iloc[-1]  # doctest: +SKIP
        """
        return self.data.rows_of(self._encode(self.users, user, "raise")[:1])

    @takes_tables
    @reads
    def why(self, user=None, item=None, *, history=None, by: str = "history", context=None) -> pd.DataFrame:
        """What each past item adds to the score of an item: "because you liked".

        How it is told depends on the model, and stands in `attrs['method']`:

        - `'additive'`: the score is a sum over the history (`EASE`, `ItemKNN`, `ContentKNN`, `NextItem`).
        - `'least squares'`: the user's vector solves the equations of `fit_als`, in which every event has a term:
          section 5 of Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets" (2008).
        - `'fold-in'`: likewise for the equations of the fold-in; `prior` is the score of somebody of whom nothing is
          known. Of a user whose row was trained by gradient they explain what the events say of the user, and `rest` is
          how far the training went beyond it. Networks are taken for linear around the user's row.
        - `'leave-one-out'`: how far the score falls without the event, of networks that read histories.

        Args:
            user, item: one external id each.
            history: in the place of `user`, of somebody new, as of `recommend`; one person's.
            by: `'history'`. `CollabInterpretation.why` has the parts of a score too.
            context: as of `recommend`.

        Returns:
            DataFrame with the item column (None in the last rows), `part` (`'history'`, then `'prior'`, where the model
            has one, and `'rest'`) and `share`, largest first. The shares sum to the item's score, as `recommend` and
            `predict` give it. `attrs` holds the `score`, the `method`, and `exact`: whether nothing is left for `rest`.

        Raises:
            KeyError: an unknown id.
            TypeError: the model's users are computed from the training data as a whole.
            ValueError: neither or both of `user` and `history`; a history of several people.

        Example:
            >>> rec.why('ann', 'Alien (1979)')                                # doctest: +SKIP
            >>> rec.why(history=['Alien (1979)', 'Brazil'], item='Cube')      # doctest: +SKIP
        """
        if by != "history":
            raise ValueError(f"by must be 'history', got {by!r}; CollabInterpretation.why has the parts")
        if item is None or (user is None) == (history is None):
            raise ValueError("why needs an item and whose score it is: user=, or history= of somebody new")
        check_why(self.model, True)
        chosen, told = self._encode(self.items, item, "raise"), None
        if history is None:
            query = self.query(self._encode(self.users, user, "raise"), context)
        else:
            new = self._read_history(history)
            query, told = self._new_query(new, context), new.histories
        if len(query) != 1 or len(chosen) != 1:
            raise ValueError(f"why explains one score, of one person and one item; got {len(query)} and {len(chosen)}")
        return why_history(self._explainer(), query, told, chosen)

    @gives_tables
    @reads
    def recommend_users(
        self, item, k: int = 10, *, users=None, filter_seen: bool | str = True, max_memory: int | str = "512MB"
    ) -> pd.DataFrame:
        """The `k` users whose score of `item` (one id or several) is best: whom to tell of it.

        Scores of ratings can be compared between users. Those of a model that was trained to rank the items of each
        user may be shifted or stretched from one user to the next: then they tell an order, not how much.

        Args:
            item: external ids.
            k: users an item; where fewer are left it gets fewer rows, counted in a `CollabWarning`.
            users: allow list of user ids; unknown ones are left out (counted).
            filter_seen: leave out users who have met the item; as of `recommend`.
            max_memory: likewise.

        Returns:
            DataFrame with the item column (only for several), the user column, `rank` and `score`.

        Raises:
            KeyError: an unknown item, or unknown users alone.
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
        """The top `k` items of a user of whom nothing is known; arguments as of `recommend`."""
        ask = at_moment(self.data.asker(self.model.needs), moment_of(context, 1, self.model, self.data))
        wanted = Wanted(k, Limits.read(items, exclude, None, self.items).candidates(self.data))
        return self._lists({}, torch.zeros(1, dtype=torch.int64), ask, wanted)

    @gives_tables
    @reads
    def similar_items(self, item, k: int = 10, *, by: str = "vectors") -> pd.DataFrame:
        """The `k` items whose factors have the largest cosine with those of `item` (one id or several).

        Args:
            item: external ids.
            k: how many; items that nothing is known of are in no list.
            by: `'vectors'`: what the model has learned, by the cosine of factors or its own measure; `'content'`: the
                items' features alone, also of items that nobody has met. See `retrieval.content.ContentCosines`.

        Returns:
            DataFrame with columns `item` (asked; only for several), the item column, `rank`, `similarity` (-1 to 1).

        Raises:
            KeyError: an unknown item.
            TypeError: `by='content'` of data without item features.
            ValueError: another `by`; `by='content'` of an item of which no features are known.

        Example:
            >>> rec.similar_items('Alien (1979)', k=3, by='content')  # doctest: +SKIP
        """
        if by not in ("vectors", "content"):
            raise ValueError(f"by must be 'vectors' or 'content', got {by!r}")
        content = lambda: self._keep("content", lambda: ContentCosines(self.model, self.data))  # noqa: E731
        return self._similar(item, k, "item", content() if by == "content" else None)

    @gives_tables
    @reads
    def next_items(self, item, k: int = 10) -> pd.DataFrame:
        """The `k` items that the model expects right after `item` (one id or several).

        The list of somebody who has met nothing else. `similar_items` answers another question: what is like an item
        is not what follows it.

        Returns:
            DataFrame with columns `after_item` (by the item column's name; only for several), the item column, `rank`
            and `score`. The item itself is not in its list.

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
        """The `k` users whose factors have the largest cosine with those of `user` (one id or several)."""
        return self._similar(user, k, "user")

    @writes
    def use_index(
        self, make: Callable[[Tensor], Index] | str | None, *, k: int = 10, min_recall: float = 0.95,
        n_queries: int = 1000, batch: int = 32, seconds: float = 600.0,
    ) -> float:  # fmt: skip
        """Search with an index rather than exactly, if it finds enough of what exact search finds.

        Args:
            make: `'auto'`: build the indexes of faiss that may fit, measure each against exact search on this model's
                users, and keep the quickest that finds enough; or exact search, where that costs too little to be
                worth it, as of some ten thousand items. `'faiss'`: likewise, but never exact search. `index_report`
                says what was measured, and `save` stores it. Or a function from the items' vectors `(n_items, d)` to an
                `Index`; None for exact search again. After more training it is made, and judged, again.
            k, n_queries: the recall of the top `k` is measured on the vectors of so many users.
            min_recall: below it the index is refused.
            batch: of `'auto'` and `'faiss'`, how many are asked at once when the time is taken.
            seconds: likewise, how long an index may take to be built; slower ones are left out.

        Returns:
            Its recall against exact search on this model's own vectors.

        Raises:
            ImportError: faiss is missing: `pip install 'collabkit[faiss]'`.
            TypeError: the model's score is no dot product.
            ValueError: the recall is too low; another name.

        Example:
            >>> rec.use_index('auto')     # doctest: +SKIP
            >>> rec.index_report()        # doctest: +SKIP
        """
        if isinstance(make, str) and make not in indexed.NAMES:
            raise ValueError(f"an index is 'auto', 'faiss', a function that makes one, or None; got {make!r}")
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
        """What `use_index('auto')` measured.

        Returns:
            DataFrame by index: `effort` (cells looked at, or candidates kept), `recall` of the exact top k of the items
            that are not hidden, `short`, the share of lists that it leaves too short (and that are searched exactly
            then), `ms` a query in batches and `ms_alone` one at a time, exact search for the short ones included,
            `build_seconds`, and a `note` why it is out. `attrs` has what was `chosen` and `why`, and the sizes.

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
        """Rating errors and ranking metrics on held-out rows, with intervals and baselines.

        Args:
            on: `'valid'`, or a DataFrame with the model's columns (a final test).
            k: cut-off of the ranking metrics, or several: `[5, 10, 20]`.
            metrics: names, or names with a cut-off of their own (`'NDCG@20'`); default HitRate, Precision, Recall,
                NDCG, MAP, MRR, and of ratings RMSE and MAE. Besides there are AUC, and of the lists Coverage, Novelty,
                Diversity, ARP and Gini. A function of ranks, groups and k is one too; see `collabkit.metrics`.
            candidates: what the relevant items compete with: None for all unseen items, item ids for those of them (say
                the new ones; relevant pairs with other items are left out, counted), `SampledCandidates(99)`, or a
                DataFrame of user-item pairs; all but None are said in the metrics' names.
            by: `'user_activity'`, `'item_popularity'` or `'item_age'` (the days that the item had been there at the
                evaluated row; needs times): ranking metrics by decile; `'cold'`: all apart for rows whose user
                and item have training rows (`'warm'`) and whose item, user or both have none (`'cold item'`, `'cold
                user'`, `'cold both'`), indexed by part and metric; see `evaluate.evaluate_ranking`.
            threshold: a held-out item rated at least this is relevant; default the median training rating, or the
                median of those above the lowest, where it is that; the columns' name says it. Without
                ratings all are.
            filter_seen: which seen items do not compete, unless the evaluated rows hold them: True, those of the
                training part and, in a final test, of the validation part, as `recommend` shows them; `'train'`, those
                of the training part alone, as most published protocols have it, which is harder; False, none. The
                columns' name says it.
            novelty_weight, half_life, freshness_weight, diversity, diversify_by, pool: as of `recommend`: the ranking
                metrics are those of its lists. Items are as old as is known before the evaluated rows: by training, in
                a final test by the validation part too. Diverse lists are those of the largest `k`, chosen from `pool`
                or so many.
            n_boot, seed: bootstrap over users for the 95 % intervals; the seed is that of `n_users`, too.
            max_memory: as in `recommend`.
            n_users: rank for so many users alone, drawn by `seed` from those with a relevant row, all of them where
                there are no more; the metrics' names and the columns' name say it, and the intervals are as wide as
                so many users make them. Rating errors, which cost little, are of all rows.

        Returns:
            DataFrame indexed by metric: `value`, `low`, `high`, the baselines (NaN where one has no such metric), the
            paired `difference` to popularity with `diff_low` and `diff_high`, and `n`, the number of ratings or users.
            RMSE and MAE come first where there are ratings and `by` is None or `'cold'`. Items seen
            in training are not candidates, nor, in a final test, those of the validation part, unless the test holds
            them: the columns' name says so. Ties count against a model: popularity, which knows nothing of items
            without training rows, has 0 among them, less than a random order.

        Raises:
            KeyError: unknown ids in a list of `candidates`.
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
        """What leaning to diverse, unknown or new items costs in accuracy, and what it brings, value by value.

        Pick a value by it on the validation part; `evaluate` tells what it costs on a test.

        Args:
            knob: an argument of `recommend`: `'diversity'`, `'novelty_weight'` or `'freshness_weight'`.
            values: of the knob, besides 0, the model's own ranking; default a few.
            on, k, candidates, threshold, filter_seen, n_boot, seed, max_memory: as of `evaluate`; one `k`.
            metric: of accuracy, a name.
            half_life, diversify_by, pool: as of `recommend`.

        Returns:
            DataFrame indexed by the knob's value: the metric; its `change` from the value at 0, by user, with `low` and
            `high` (95 %); what the knob asks for: `unlikeness`, 1 - the mean cosine of the items in a list by
            `diversify_by`, or their mean `age` in days; and Diversity, Novelty and Coverage, as of `evaluate`.
            `attrs['free']` is the farthest value up to which no loss shows: where the interval of the change reaches 0.

        Raises:
            ValueError: another knob or metric; `'freshness_weight'` without `half_life`; nothing to evaluate.

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
        """What is said of new users when the first n of their rows become known; see `new_users.evaluate_fold_in`.

        The first in time where the rows have times, so that nothing given is later than what is to be predicted; else n
        drawn at random.

        Args:
            on: as of `evaluate`; its users without training rows are the new ones, see `splits.cold_users`.
            n_given, k: rows given, and cut-off of the ranking metrics.
            seed: of the draw of rows without times, or of equal ones.
            filter_seen: whether what is given at the largest n does not compete.

        Returns:
            DataFrame indexed by `n_given`, 0 included: RMSE, or HitRate, NDCG and Recall at `k` without ratings, beside
            baselines.
        """
        options = {"n_given": n_given, "k": k, "seed": seed, "filter_seen": filter_seen}
        return evaluate_fold_in(self.fold, held_out(self.data, on), **options)

    @takes_tables
    @reads
    def task(
        self, on="valid", *, candidates=None, threshold: float | None = None, filter_seen: bool | str = True
    ) -> RankingTask:
        """The `RankingTask` that `evaluate` with these arguments sets."""
        options = {"candidates": candidates, "threshold": threshold, "filter_seen": filter_seen}
        return RankingTask.make(self.data, on, **options)

    @reads
    def vectors(self, side: str = "items") -> tuple[pd.Index, np.ndarray]:
        """Vectors of items or of users for another tool: the dot products of both are the scores.

        Biases are folded in, so that the largest products are the model's top k, and what the tool finds is what
        `recommend` finds (which hides seen items). Of a model with `y_range` the scores are logits, of which the
        ratings are `low + (high - low) * sigmoid`. Users' vectors are those of now: with the latest history.

        Args:
            side: `'items'` or `'users'`.

        Returns:
            The ids `(n,)`, and a float32 matrix `(n, d)` with a row for each.

        Raises:
            TypeError: the model's score is no dot product.

        Example:
            >>> ids, matrix = rec.vectors('items')           # doctest: +SKIP
            >>> index = faiss.IndexFlatIP(matrix.shape[1])   # doctest: +SKIP
            >>> index.add(matrix)                            # doctest: +SKIP
        """
        return exchange.vectors(self, side)

    @reads
    def to_scipy(self, part: str = "known"):
        """The events as a sparse matrix, e.g. for `implicit` or scikit-learn.

        Args:
            part: `'known'`, all events there are; `'train'` or `'valid'`, one part.

        Returns:
            A CSR matrix `(n_users, n_items)` float32 with the ratings (of a repeated pair the last), or the number of
            times that each pair is there; the users' ids, row by row, and the items', column by column.

        Raises:
            ValueError: another part, or there is none.

        Example:
            >>> matrix, users, items = rec.to_scipy()  # doctest: +SKIP
        """
        return exchange.to_scipy(self.data, part)

    @takes_tables
    @reads
    def to_run(
        self, k: int = 100, on="valid", candidates=None, threshold: float | None = None
    ) -> dict[str, dict[str, float]]:
        """The lists as a run, `{user: {item: score}}`, for ranx, ir_measures or pytrec_eval.

        They are the lists that `evaluate(on)` judges: what was seen before is hidden, what is evaluated is not, and
        histories end at the moment of evaluation. With `to_qrels` these tools give the figures of `evaluate`.

        Args:
            k: items a user, at least as many as the largest cut-off.
            on: `'valid'`, or a DataFrame with the model's columns (a final test): its users are asked. None: all users,
                the lists of `recommend`.
            candidates: item ids that compete; default all.
            threshold: as of `evaluate`: users without a relevant row are not asked.

        Returns:
            Ids as texts, which these tools need.
        """
        return exchange.to_run(self, k, on, candidates, threshold)

    @takes_tables
    @reads
    def to_qrels(self, on="valid", threshold: float | None = None) -> dict[str, dict[str, int]]:
        """What is relevant, `{user: {item: 1}}`, for ranx, ir_measures or pytrec_eval; arguments as of `evaluate`.

        Example:
            >>> ranx.evaluate(ranx.Qrels(rec.to_qrels()), ranx.Run(rec.to_run()), 'ndcg@10')  # doctest: +SKIP
        """
        return exchange.to_qrels(self, on, threshold)

    @reads
    def to_onnx(self, file: str | Path, what: str = "score", *, k: int = 10) -> Path:
        """Write the model as an ONNX file, which runs without torch and this library, by ONNX Runtime for one.

        Inputs are named tensors with any number `b` of rows; which of these a model asks for, by what it `needs`,
        stands in the file: `users` `(b,)` int64 indices; `history` `(b, l)` int64 indices of items, the latest last,
        filled up at the right, and `lengths` `(b,)`; `context.NAME` `(b,)` codes or `(b, size)` numbers. An index is
        the row of an id in the files beside it, `NAME.users.parquet` and `NAME.items.parquet`, counted from 1; 0 is
        unknown.

        The answers are compared with the model's, for questions of several sizes, before anything is written.

        Args:
            file: where; its folder is made.
            what: `'score'`: of pairs, `users` (or histories) and `items` `(b,)`, the score `(b,)` that `model.forward`
                gives. `'topk'`: `items` `(b, k)`, the best first and 0 where fewer are left, and `scores`, -inf there;
                it also asks for `hidden` `(b, h)`, items that are no answers, filled up with 0. `'encoder'`: `vectors`
                `(b, d)` of users, whose products with `vectors('items')` are the logits: by histories, or of models
                with user features by `feature.NAME` `(b, size)`, shares of categories or numbers as `Features.matrix`
                has them, what `add_users` would give to somebody new. `'vectors'`: likewise of known users. `'logits'`:
                those of all items, `(b, n_items)`, unknown ones in column 0.
            k: of `'topk'`.

        Returns:
            The file. Its meta data have, as JSON under `collabkit`: `what`, `k`, `inputs`, `fields` (categories and
            scales of features and context), the numbers of users and items, the names of the files of `ids`, the
            `format`, and a SHA-256 of weights and data as `content`.

        Raises:
            ImportError: `onnx` or `onnxruntime` is missing: `pip install 'collabkit[onnx]'`.
            TypeError: a model without a graph (a closed-form one, a pipeline, `TimeSVD`), or without vectors.
            ValueError: another `what`; `k` out of range; tables of more than 2 GB.
            RuntimeError: the file's answers would be others than the model's.

        Example:
            >>> rec.to_onnx('served/lists.onnx', 'topk', k=20)  # doctest: +SKIP
        """
        return exports.to_onnx(self.model, self.data, file, what, k)

    @reads
    def to_torch_export(self, file: str | Path, what: str = "score", *, k: int = 10) -> Path:
        """Write the model as torch's own exported program (`.pt2`), which runs without this library.

        Arguments, inputs, their order and the check are those of `to_onnx`; the meta data are the extra file
        `collabkit.json`. `GRURec` is written out event by event, which takes about a second an event of its `length`.

        Raises:
            TypeError, ValueError, RuntimeError: as of `to_onnx`.

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
        """Put the vectors into Postgres, with a function `recommend(user_id, k, filter_seen)` that answers by pgvector.

        Tables `items`, `users` and `seen`, and `facts` of the model, are filled by COPY under other names and renamed
        at the end of one transaction: readers see the old model, then the new one. Scores are those of `recommend`.
        What the user has seen is left out of the search (`hnsw.iterative_scan`), and a list that it leaves short is
        searched exactly. Users' vectors are those of now. Privileges on replaced tables have to be granted again (or by
        `alter default privileges`).

        Args:
            dsn: of psycopg, e.g. `'postgresql://me@host/shop'`.
            schema: where; made if it is not there. Tables of these names that it did not write are never replaced.
            index: make an HNSW index of vectors of equal lengths, with the least `hnsw.ef_search` that finds enough.
                Where none does it is dropped. False: exact search.
            k, min_recall, n_queries, seed: the recall of the exact top `k` of so many users that is enough.

        Returns:
            `index` (`'hnsw'` or `'exact'`), `effort` (`ef_search`), `recall`, and the sizes, as in the table `facts`.

        Raises:
            ImportError: psycopg or pgvector is missing: `pip install 'collabkit[postgres]'`.
            TypeError: the model's score is no dot product; ids that are neither whole numbers, texts nor UUIDs.
            FileExistsError: the schema has tables of somebody else by these names.
            RuntimeError: the server has no pgvector.

        Example:
            >>> rec.to_pgvector('postgresql://me@host/shop')                   # doctest: +SKIP
            >>> # select * from rec.recommend('ann', 10)
        """
        options = {"index": index, "k": whole("k", k), "min_recall": min_recall, "n_queries": n_queries, "seed": seed}
        return pgvector.write(self, dsn, schema, **options)

    @classmethod
    def from_pgvector(cls, dsn: str, schema: str = "rec") -> "Recommender":
        """The recommender on the vectors that `to_pgvector` wrote: a dot product of users and items, and what was seen.

        Args:
            dsn, schema: as of `to_pgvector`.

        Raises:
            ImportError: as of `to_pgvector`.
            ValueError: there is no such schema, or one of a newer version.
        """
        return cls(*pgvector.read(dsn, schema))

    def to_hub(
        self, repo_id: str, *, private: bool = True, token: str | None = None, commit_message: str | None = None
    ) -> str:
        """Put the artefact into a repository of the Hugging Face Hub, which is made if it is not there.

        The artefact has the ids of users and the events that they are known by: the repository is private by default.

        Args:
            repo_id: `'owner/name'`.
            private: of a new repository.
            token, commit_message: of `huggingface_hub`.

        Returns:
            The repository's address.

        Raises:
            ImportError: `huggingface_hub` is missing: `pip install 'collabkit[hub]'`.
        """
        return hub.upload(self, repo_id, private=private, token=token, message=commit_message)

    @classmethod
    def from_hub(
        cls, repo_id: str, *, revision: str | None = None, token: str | None = None, models: Sequence[type[Model]] = ()
    ) -> "Recommender":
        """The recommender in a repository of the Hugging Face Hub that `to_hub` wrote; it is checked as by `load`.

        Args:
            repo_id: `'owner/name'`.
            revision: a branch, tag or commit; default the latest.
            token: of `huggingface_hub`, for private ones.
            models: as of `load`.

        Raises:
            ImportError: `huggingface_hub` is missing.
            BundleError: what is there is no artefact.
        """
        return cls.load(hub.download(repo_id, revision=revision, token=token), models)

    @classmethod
    def from_implicit(cls, model, user_ids, item_ids, events=None) -> "Recommender":
        """A recommender on the factors of a model of `implicit`; its scores are that model's.

        Args:
            model: a fitted one with `user_factors` and `item_factors` (`AlternatingLeastSquares`,
                `BayesianPersonalizedRanking`, `LogisticMatrixFactorization`; of the CPU or the GPU).
            user_ids, item_ids: external ids, in the order of the rows.
            events: what the users are known by, and is hidden from them: the matrix `(n_users, n_items)` that the model
                was fitted to, or a DataFrame with the columns `user` and `item` (or the names of the ids). Without it
                nothing is hidden, nobody can be folded in, and no artefact can be written.

        Raises:
            TypeError: the model has no factors; events of another kind.
            ValueError: as many ids as rows are needed; numbers that are not finite.

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
        """A recommender on the embeddings and biases of a LightFM model; its scores are that model's `predict`.

        Args:
            model: a fitted one.
            user_ids, item_ids, events: as of `from_implicit`.
            user_features, item_features: the sparse matrices that the model was fitted with, if any.

        Raises:
            TypeError, ValueError: as of `from_implicit`.
        """
        (user_bias, users), (item_bias, items) = exchange.lightfm_factors(model, user_features, item_features)
        return cls(*exchange.from_factors(users, items, (user_bias, item_bias), user_ids, item_ids, events))

    @gives_tables
    @reads
    def questionnaire(self, n: int = 10, *, by: str = "information", items=None) -> pd.DataFrame:
        """Items to ask a new user about, whose answers `recommend(history=...)` or `fold_in` takes.

        Args:
            n: how many.
            by: `'information'`: the most telling ones, popular, divisive and spread over the space of tastes; see
                `coldstart.questionnaire.next_questions`. `'popularity'`: the best known; `'spread'`: as if all
                were known.
            items: ids to choose from; default all with training rows.

        Returns:
            DataFrame with the item column, `known_by` (share of the users with a training row of it), `spread`
            (standard deviation of the answer before anything is known, in ratings or logits) and `information` (nats
            that the answer was expected to be worth, after those above it).

        Raises:
            KeyError: an unknown item.
            ValueError: `n` below 1 or above the number of items; an unknown `by`.
        """
        return questionnaire(self.fold, n, by=by, items=items)

    @takes_tables
    @writes
    def add_items(self, items: Table) -> "Recommender":
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
        self.data = add_ids(self.model, self.data, items, "item")
        return self

    @takes_tables
    @writes
    def add_users(self, users: Table) -> "Recommender":
        """Take in new users, known by their features alone; see `add_items`, and `fold_in` for users with ratings."""
        return self._take_in(lambda _: add_ids(self.model, self.data, users, "user"))

    @takes_tables
    @writes
    def fold_in(self, ratings: Table, users: Table | None = None) -> "Recommender":
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
            TypeError: the model's users are computed from the training data alone.
        """
        return self._take_in(lambda solver: fold_in_users(self.model, self.data, ratings, users, solver))

    @takes_tables
    @writes
    def update(self, events: Table, users: Table | None = None, items: Table | None = None) -> "Recommender":
        """Take in what happened since the training, of known and of new users and items; seconds, not a fit.

        The events count as training rows from now on: histories know them, and what was met is hidden. Of the model
        what concerns their users is solved for again, and nothing else moves:

        - After `fit_als` the rows of these users are the exact solution for the items as they are, and those of new
          items the exact solution for the users.
        - Other models with a table of users: each of these users gets the most likely row given all that is known of
          them, as in `fold_in`. A new item has its features' answer, or that of an unknown item, until it is trained:
          `learn.update` does.
        - Models that look at histories: the events are part of them. New items likewise.
        - Closed-form models are fitted again, to all rows: their lists are those of a refit.

        But for closed-form models the rows of items known before, of all other users, and every other weight stay the
        same, to the last bit; so do the lists of users without new events, but for new items that enter them.

        Args:
            events: a row an event, with the model's columns: of positives alone where the model knows no ratings. A
                pair that is known already is left out, and of ratings the newer one counts; both are counted in a
                `CollabWarning`. Where repeats are events of their own they stay, but for rows with a known time.
            users, items: features of new users and items, as of `add_users` and `add_items`; rows of known ids are left
                out (counted).

        Returns:
            This recommender.

        Raises:
            TypeError: ids of another type than the model's; `events` is no DataFrame; a model whose rows are computed
                from all training data; features for a model without.
            KeyError: a column is missing.
            ValueError: there are no events; a missing id, rating or time; a rating out of range.

        Example:
            >>> rec = Recommender.load(folder)          # doctest: +SKIP
            >>> rec.update(events_of_today).save(folder)  # doctest: +SKIP
        """
        self._update(events, users, items)
        return self

    def _update(self, events: pd.DataFrame, users: pd.DataFrame | None, items: pd.DataFrame | None) -> Update:
        """What `update` did."""
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
        """Solve for the rows of `users` `(m,)` again, from all that is known of them, with the items as they are now.

        How users are distributed is not estimated anew, if it was before.
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
        """Solve for the rows of the folded-in users again, e.g. after more training."""
        self._take_in(lambda solver: refold(self.model, self.data, solver) or self.data)

    @property
    def fold(self) -> FoldIn:
        """The fold-in for the model as it is now; kept until a weight changes."""
        return self._keep("fold", lambda: FoldIn(self.model, self.data))

    def _explainer(self) -> Explainer:
        """What tells the shares of past items in scores."""
        inner = self.model.explained
        fold = (
            (lambda: self.fold) if inner is self.model else lambda: self._keep("part", lambda: FoldIn(inner, self.data))
        )
        return Explainer(
            self.model, self.data, fold, lambda: self._keep("equations", lambda: equations(inner, self.data))
        )

    def _take_in(self, change: Callable[[Callable[[Dataset], FoldIn]], Dataset]) -> "Recommender":
        """Take users in. They change nothing of how the trained ones are distributed: the prior stays."""
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
        """What `compute` gives, kept as long as weights and data are the same."""
        state = self.model.version(), self.data
        kept = self._kept.get(name)
        if kept is None or kept[0] != state[0] or kept[1] is not state[1]:
            kept = self._kept[name] = (*state, compute())
        return kept[2]

    def _judged_index(self) -> tuple[Index, float]:
        """The index that `use_index` asked for, on the weights as they are, and its recall."""
        return self._keep("index", lambda: self._search.ready(self))

    def _scorer(self, candidates: Tensor, max_memory: int | str) -> Scorer:
        """A scorer of `candidates` `(c,)`, ascending; the vectors of all items are kept."""
        if not self.model.has_vectors:
            return self.model.scorer(candidates, max_memory)
        every = self.data.every_item
        table = self._keep("items", lambda: ItemTable(self.model.item_vectors(every.to(self.model.device))))
        return DotScorer(self.model, table if len(candidates) == len(every) else table.take(candidates - 1))

    def _read_history(self, history) -> NewUsers:
        """Histories, of a model that can look at them or fold them in."""
        _ = None if "history" in self.model.needs else self.fold  # which may refuse
        options = {"rated": takes_ratings(self.model, self.data), "y_range": self.model.y_range}
        return read_histories(history, self.data, **options, ordered=self.model.ordered)

    def _new_query(self, new: NewUsers, context) -> Query:
        """The query of new users."""
        query = self._query_of(new.histories, context)
        if "history" in self.model.needs:
            return query
        return replace(query, history=None, rows=tuple(self.fold.rows(new.histories)))

    def _query_of(self, histories: Runs, context) -> Query:
        """The query of somebody with each of the `histories` of whom nothing else is known."""
        nobody = torch.zeros(len(histories), dtype=torch.int64)
        ask = self.data.asker([name for name in self.model.needs if name != "history"])
        query = at_moment(ask, moment_of(context, len(histories), self.model, self.data))(nobody)
        query = Query(query) if isinstance(query, Tensor) else query
        return replace(query, history=histories)

    def _recent_query(self, recent, users, unknown: str, context) -> tuple[Query, pd.Index, Runs, Runs | None]:
        """The query of `users` with their `recent` events, their ids, what they met of late, and what rows are of."""
        fold = None if "history" in self.model.needs else self.fold
        options = {"rated": takes_ratings(self.model, self.data), "y_range": self.model.y_range}
        named, events = read_recent(recent, self.data, **options, ordered=self.model.ordered)
        if users is None and len(named) == 0:
            raise ValueError("recent= has no rows, so that it names nobody to recommend to; give users=")
        ids, chosen = self._asked(named if users is None else users, unknown)
        query = self.query(chosen, context)
        query, told = recent_query(query, events, self.data, fold, once=not self.model.ordered)
        return query, ids, events.pairs.of(chosen), told

    def _asker(self) -> Callable[[Tensor], Tensor | Query]:
        """A function from users to the query of each as of now, validation rows in their histories too."""
        latest = self.data.latest if "history" in self.model.needs else None
        return self.data.asker(self.model.needs, histories=latest)

    def query(self, user_idx: Tensor, context=None) -> Tensor | Query:
        """The query of the users at `user_idx` `(b,)` as of now; `context` as of `predict`."""
        return at_moment(self._asker(), moment_of(context, len(user_idx), self.model, self.data))(user_idx)

    def _lean(self, tilt: Tilt, diversity: Diversity) -> dict:
        """What puts items in another order than that of their scores, if anything, as parts of `Wanted`."""
        offsets = tilt.offsets(self.data)
        if offsets is not None and self._search is not None:
            raise ValueError("novelty_weight= and half_life= rank all items anew, but an index finds those with the "
                             "best scores alone; search exactly first: use_index(None)")  # fmt: skip
        return {"offsets": offsets, "rerank": diversity.ranker(lambda: self._likeness(diversity.by))}

    def _likeness(self, by) -> Tensor:
        """Unit vectors of the items, see `item_likeness`; those by a name are kept."""
        make = lambda: item_likeness(self.model, self.data, by)  # noqa: E731
        return self._keep(f"likeness by {by}", make) if isinstance(by, str) else make()

    def _wanted(self, limits: Limits, rows: Tensor, seen: Runs | None, **options) -> Wanted:
        """What the users at `rows` `(b,)` ask for, the `seen` items hidden."""
        allowed = limits.allow.pairs
        if allowed is not None and self._search is not None:
            raise ValueError("items= by user is no question for an index, which knows one list for all; search exactly "
                             "first: use_index(None)")  # fmt: skip
        return Wanted(
            candidates=limits.candidates(self.data, rows), hidden=limits.hidden(seen), allowed=allowed, **options
        )

    def _encode(self, vocab: Vocab, ids, unknown: str) -> Tensor:
        if unknown not in ("raise", "default"):
            raise ValueError(f"unknown must be 'raise' or 'default', got {unknown!r}")
        idx = vocab.encode([ids] if is_one(vocab, ids) else ids, unknown="raise" if unknown == "raise" else "zero")
        return torch.from_numpy(idx)

    def _asked(self, users, unknown: str) -> tuple[pd.Index, Tensor]:
        """The ids that were asked for `(b,)`, and their indices."""
        if users is None:
            return self.users.ids, torch.arange(1, len(self.users))
        if unknown == "raise" and (row := self.users.row(users)):
            return self.users.ids[row - 1 : row], torch.tensor([row])
        ids = check_ids([users] if is_one(self.users, users) else users, self.columns.user)
        return ids, self._encode(self.users, ids, unknown)

    def _lists(
        self, asked: dict, chosen: Tensor, ask, wanted: Wanted, askers: str = "users", because: tuple | None = None
    ) -> pd.DataFrame:
        """The lists of the users at `chosen` `(b,)`, of whom `ask` makes queries, beside who `asked`, as a table."""
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
        """The same by the index."""
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
        """The lists `best` `(b, k)` of a side's indices and their `scores`, by name, beside who `asked`, as a table."""
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
