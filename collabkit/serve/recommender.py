"""`Recommender`: a trained model with its ids, for recommendations; loads an artefact without fastai."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.coldstart.fold_in import FoldIn
from collabkit.coldstart.fold_in.ratings import histories_of
from collabkit.coldstart.histories import read_histories, read_recent
from collabkit.coldstart.new_ids import add_ids, fold_in_users, refold, takes_ratings
from collabkit.coldstart.questionnaire import questionnaire
from collabkit.coldstart.recent import recent_query
from collabkit.coldstart.update import Update, update
from collabkit.data.checks import whole
from collabkit.data.dataset import Dataset, joined
from collabkit.data.interactions import Interactions, encode_times
from collabkit.data.notices import say
from collabkit.data.query import Query
from collabkit.data.runs import Runs
from collabkit.data.tables import new_frame
from collabkit.data.vocab import Vocab, check_ids
from collabkit.evaluate import evaluate, evaluate_fold_in
from collabkit.evaluate.calibration import Intervals, Probabilities, calibrate, judge
from collabkit.evaluate.candidates import known_pairs
from collabkit.evaluate.tables import predict_ratings
from collabkit.evaluate.task import RankingTask, held_out
from collabkit.models.base import Model, answering, say_untrained
from collabkit.models.scorers import DotScorer, ItemTable, Scorer
from collabkit.retrieval.index import Index, judged_index
from collabkit.retrieval.neighbours import check_k, cosines, nearest
from collabkit.retrieval.ranking import Asked, block_size, top_k
from collabkit.retrieval.tilt import Tilt
from collabkit.serve import exchange, hub
from collabkit.serve.artefact import load_artefact, save_artefact
from collabkit.serve.lock import ReadWriteLock, reads, writes

__all__ = ["Recommender"]


class Recommender:
    """Predictions, recommendations, neighbours and evaluation of a trained model, by external ids.

    `learn.recommend` and its kin are this class on the learner's model; `Recommender.load(folder)` is the same from an
    artefact. What was computed from the weights alone (item vectors, unit vectors, the prior of the fold-in) is kept
    until a weight changes. Any number of threads may ask one; `add_items`, `add_users`, `fold_in` and `use_index` wait
    for those who ask and let nobody in meanwhile. Training in one thread while others ask is not for it.
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
        self._index: tuple | None = None  # the arguments of `use_index`

    users = property(attrgetter("data.users"), doc="The users' ids.")
    items = property(attrgetter("data.items"), doc="The items' ids.")
    columns = property(attrgetter("data.columns"), doc="The column names in the caller's tables.")
    train = property(attrgetter("data.train"), doc="The training interactions.")
    valid = property(attrgetter("data.valid"), doc="The validation interactions, or None.")

    @classmethod
    def load(cls, folder: str | Path, models: Sequence[type[Model]] = ()) -> "Recommender":
        """The recommender in an artefact folder written by `learn.export`; see `serve.load_artefact` for errors.

        Args:
            folder: the artefact.
            models: the class of its model, where that is not one of the library's.
        """
        artefact = load_artefact(folder, models)
        return cls(artefact.model, artefact.data, config=artefact.config)

    @reads
    def save(self, folder: str | Path, *, metrics: dict | None = None) -> Path:
        """Write the artefact; see `serve.save_artefact`."""
        return save_artefact(folder, self.model, self.data, metrics=metrics)

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
        if _is_one(self.users, users) and _is_one(self.items, items):
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
        half = self.model.calibration.width(self.data.known.lengths[user_idx], level)
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

    @reads
    def recommend(
        self, users=None, k: int = 10, *, history=None, recent=None, filter_seen: bool = True, items=None, exclude=None,
        unknown: str = "raise", context=None, novelty_weight: float = 0.0, half_life=None,
        freshness_weight: float = 1.0, max_memory: int | str = "512MB",
    ) -> pd.DataFrame:  # fmt: skip
        """The top `k` items of each user.

        Args:
            users: external ids, one or many; None for all users.
            history: in the place of `users`, what somebody has rated or clicked: `{'Alien (1979)': 5, ...}` or, of a
                model without ratings, a list of items, for one; a DataFrame with the model's columns for many. Models
                that look at histories take it as it is; of the others the person is folded in for this call.
            recent: what users whom the model knows did since the training: a DataFrame with the model's columns, a row
                an event. It counts as history for this call, and nothing is trained or kept: models that look at
                histories get them with these events, in the order of the times where there are some, else at the end;
                of the others the rows of these users are solved for again from all that is known of them. Of a pair
                that is known already the recent row counts. Users who are asked without a row in it get their usual
                list, rows of users who are not asked play no part, and `users=None` asks the users that it names.
            k: items a user; where fewer are left a user gets fewer rows, counted in a `CollabWarning`.
            filter_seen: hide the items of the user's training and validation rows, of the history and of `recent`.
            items: allow list: recommend these item ids only.
            exclude: deny list: item ids, or a DataFrame with the user and item columns for pairs to hide.
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
            max_memory: bound of the score block, in bytes or as `'512MB'`; users are scored in blocks under it.

        Returns:
            DataFrame with the user column (not for one history), the item column, `rank` (1 is best), `score`
            (predicted rating) and, after `calibrate`, `probability`. With `novelty_weight` or `half_life` the rank is
            by the sum, and the score still the model's own, so that it may rise from one rank to the next.

        Raises:
            KeyError: unknown users or items.
            ValueError: `k` < 1, no candidate is left, a history is empty, or a rating is out of range; `half_life` for
                data without times, or either of the two with an index (`use_index`).
            TypeError: a history or `recent`, for a model that can neither look at one nor fold it in.

        Example:
            >>> since = pd.DataFrame({'user': ['ann'], 'title': ['Alien']})  # doctest: +SKIP
            >>> rec.recommend(['ann', 'bob'], recent=since)                  # doctest: +SKIP
        """
        candidates = self._candidates(items, exclude)
        offsets = self._offsets(Tilt(novelty_weight, half_life, freshness_weight))
        options = {"max_memory": max_memory, "offsets": offsets}
        if history is not None:
            if users is not None or recent is not None or isinstance(exclude, pd.DataFrame):
                raise ValueError("history= stands for new users: leave users= out, and recent=, and give exclude= as "
                                 "item ids")  # fmt: skip
            query, ids, met = self._new_query(history, context)
            seen = met.unique() if filter_seen else None
        else:
            seen = self._hidden(filter_seen, exclude)
            if recent is not None:
                query, ids, met = self._recent_query(recent, users, unknown, context)
                seen = None if seen is None else seen.of(query.users)
                seen = seen.union(met) if filter_seen else seen
            else:
                ids, chosen = self._asked(users, unknown)
                if context is None:
                    asked = {self.columns.user: ids}
                    return self._lists(asked, chosen, self._asker(), candidates, k, seen, **options)
                query = self.query(chosen, context)  # a moment each, by place: a user may be there twice
                seen = None if seen is None else seen.of(chosen)
        asked, at = {} if ids is None else {self.columns.user: ids}, torch.arange(len(query))
        return self._lists(asked, at, _in_turn(query), candidates, k, seen, **options)

    @reads
    def default_list(self, k: int = 10, *, items=None, exclude=None, context=None) -> pd.DataFrame:
        """The top `k` items of a user of whom nothing is known; arguments as of `recommend`."""
        ask = _at(self.data.asker(self.model.needs), self._moment(context, 1))
        return self._lists({}, torch.zeros(1, dtype=torch.int64), ask, self._candidates(items, exclude), k)

    @reads
    def similar_items(self, item, k: int = 10) -> pd.DataFrame:
        """The `k` items whose factors have the largest cosine with those of `item` (one id or several).

        Returns:
            DataFrame with columns `item` (asked; only for several), the item column, `rank`, `similarity` (-1 to 1).
        """
        return self._similar(item, k, "item")

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
        asked = {} if _is_one(self.items, item) else {f"after_{name}": self.items.decode(rows)}
        candidates, at = self._candidates(None, None), torch.arange(len(query))
        return self._lists(asked, at, _in_turn(query), candidates, k, runs, askers="items")

    @reads
    def similar_users(self, user, k: int = 10) -> pd.DataFrame:
        """The `k` users whose factors have the largest cosine with those of `user` (one id or several)."""
        return self._similar(user, k, "user")

    @writes
    def use_index(
        self, make: Callable[[Tensor], Index] | None, *, k: int = 10, min_recall: float = 0.95, n_queries: int = 1000
    ) -> float:
        """Search with an index rather than exactly, if it finds enough of what exact search finds.

        Args:
            make: function from the items' vectors `(n_items, d)` to an `Index`; None for exact search again. After more
                training it is called, and judged, again.
            k, n_queries: the recall of the top `k` is measured on the vectors of so many users.
            min_recall: below it the index is refused.

        Returns:
            Its recall against exact search on this model's own vectors.

        Raises:
            TypeError: the model's score is no dot product.
            ValueError: the recall is too low.
        """
        self._kept.pop("index", None)
        self._index = None if make is None else (make, k, min_recall, n_queries)
        try:
            return 1.0 if make is None else self._judged_index()[1]
        except BaseException:
            self._index = None
            raise

    @reads
    def evaluate(
        self, on="valid", *, k=10, metrics=None, candidates=None, by: str | None = None, threshold: float | None = None,
        novelty_weight: float = 0.0, half_life=None, freshness_weight: float = 1.0, n_boot: int = 1000, seed: int = 0,
        max_memory: int | str = "512MB",
    ) -> pd.DataFrame:  # fmt: skip
        """Rating errors and ranking metrics on held-out rows, with intervals and baselines.

        Args:
            on: `'valid'`, or a DataFrame with the model's columns (a final test).
            k: cut-off of the ranking metrics, or several: `[5, 10, 20]`.
            metrics: names; default HitRate, Precision, Recall, NDCG, MAP, MRR. Besides there are AUC, and of the lists
                Coverage, Novelty, Diversity, ARP and Gini. A function of ranks, groups and k is one too; see
                `collabkit.metrics`.
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
            novelty_weight, half_life, freshness_weight: as of `recommend`: the ranking metrics are those of its lists.
                Items are as old as is known before the evaluated rows: by training, in a final test by the validation
                part too.
            n_boot, seed: bootstrap over users for the 95 % intervals.
            max_memory: as in `recommend`.

        Returns:
            DataFrame indexed by metric: `value`, `low`, `high`, the baselines (NaN where one has no such metric), the
            paired `difference` to popularity with `diff_low` and `diff_high`, and `n`, the number of ratings or users.
            RMSE and MAE come first where there are ratings, `metrics` is None and `by` is None or `'cold'`. Items seen
            in training are not candidates, nor, in a final test, those of the validation part, unless the test holds
            them: the columns' name says so. Ties count against a model: popularity, which knows nothing of items
            without training rows, has 0 among them, less than a random order.

        Raises:
            KeyError: unknown ids in a list of `candidates`.
            ValueError, TypeError: `on`, `k`, `metrics`, `by` or `candidates` are none of the above, or leave nothing.
        """
        options = {"k": k, "metrics": metrics, "candidates": candidates, "by": by, "threshold": threshold}
        tilt = Tilt(novelty_weight, half_life, freshness_weight)
        common = {"n_boot": n_boot, "seed": seed, "max_memory": max_memory, "tilt": tilt}
        return evaluate(self.model, self.data, on, **options, **common)

    @reads
    def evaluate_fold_in(self, on="valid", *, n_given=(1, 3, 5, 10, 20), k: int = 10, seed: int = 0) -> pd.DataFrame:
        """What is said of new users when the first n of their rows become known; see `new_users.evaluate_fold_in`.

        The first in time where the rows have times, so that nothing given is later than what is to be predicted; else n
        drawn at random.

        Args:
            on: as of `evaluate`; its users without training rows are the new ones, see `splits.cold_users`.
            n_given, k: rows given, and cut-off of the ranking metrics.
            seed: of the draw of rows without times, or of equal ones.

        Returns:
            DataFrame indexed by `n_given`, 0 included: RMSE, or HitRate, NDCG and Recall at `k` without ratings, beside
            baselines.
        """
        return evaluate_fold_in(self.fold, held_out(self.data, on), n_given=n_given, k=k, seed=seed)

    @reads
    def task(self, on="valid", *, candidates=None, threshold: float | None = None) -> RankingTask:
        """The `RankingTask` that `evaluate` with these arguments sets."""
        return RankingTask.make(self.data, on, candidates=candidates, threshold=threshold)

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

    @reads
    def to_qrels(self, on="valid", threshold: float | None = None) -> dict[str, dict[str, int]]:
        """What is relevant, `{user: {item: 1}}`, for ranx, ir_measures or pytrec_eval; arguments as of `evaluate`.

        Example:
            >>> ranx.evaluate(ranx.Qrels(rec.to_qrels()), ranx.Run(rec.to_run()), 'ndcg@10')  # doctest: +SKIP
        """
        return exchange.to_qrels(self, on, threshold)

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

    @writes
    def add_items(self, items: pd.DataFrame) -> "Recommender":
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

    @writes
    def add_users(self, users: pd.DataFrame) -> "Recommender":
        """Take in new users, known by their features alone; see `add_items`, and `fold_in` for users with ratings."""
        return self._take_in(lambda _: add_ids(self.model, self.data, users, "user"))

    @writes
    def fold_in(self, ratings: pd.DataFrame, users: pd.DataFrame | None = None) -> "Recommender":
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

    @writes
    def update(
        self, events: pd.DataFrame, users: pd.DataFrame | None = None, items: pd.DataFrame | None = None
    ) -> "Recommender":
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
            train = joined(self.train, self.data.folded)
            self.model.user_side.write(users, fold.rows(histories_of(train, users)[0], users))
        self._kept["fold"] = (self.model.version(), self.data, fold)

    @writes
    def refold(self) -> None:
        """Solve for the rows of the folded-in users again, e.g. after more training."""
        self._take_in(lambda solver: refold(self.model, self.data, solver) or self.data)

    @property
    def fold(self) -> FoldIn:
        """The fold-in for the model as it is now; kept until a weight changes."""
        return self._keep("fold", lambda: FoldIn(self.model, self.data))

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

    @torch.no_grad()
    def _judged_index(self) -> tuple[Index, float]:
        """The index that `use_index` asked for, on the weights as they are, and its recall."""
        (make, k, min_recall, n_queries), model = self._index, self.model
        every, users = torch.arange(len(self.items), device=model.device), torch.arange(1, len(self.users))[:n_queries]

        def compute() -> tuple[Index, float]:
            vectors = model.item_vectors(every).cpu()
            queries = model.user_vectors(self._asker()(users).to(model.device)).cpu()
            return judged_index(make, vectors, queries, k, self.data.seen.of(users), min_recall)

        with answering(model):
            return self._keep("index", compute)

    def _scorer(self, candidates: Tensor, max_memory: int | str) -> Scorer:
        """A scorer of `candidates` `(c,)`, ascending; the vectors of all items are kept."""
        if not self.model.has_vectors:
            return self.model.scorer(candidates, max_memory)
        every = self.data.every_item
        table = self._keep("items", lambda: ItemTable(self.model.item_vectors(every.to(self.model.device))))
        return DotScorer(self.model, table if len(candidates) == len(every) else table.take(candidates - 1))

    def _new_query(self, history, context) -> tuple[Query, pd.Index | None, Runs]:
        """The query of somebody with a history, their ids, and the histories."""
        looks = "history" in self.model.needs
        fold = None if looks else self.fold
        options = {"rated": takes_ratings(self.model, self.data), "y_range": self.model.y_range}
        new = read_histories(history, self.data, **options, ordered=self.model.ordered)
        query = self._query_of(new.histories, context)
        if not looks:
            query = replace(query, history=None, rows=tuple(fold.rows(new.histories)))
        return query, new.ids, new.histories

    def _query_of(self, histories: Runs, context) -> Query:
        """The query of somebody with each of the `histories` of whom nothing else is known."""
        nobody = torch.zeros(len(histories), dtype=torch.int64)
        ask = self.data.asker([name for name in self.model.needs if name != "history"])
        query = _at(ask, self._moment(context, len(histories)))(nobody)
        query = Query(query) if isinstance(query, Tensor) else query
        return replace(query, history=histories)

    def _recent_query(self, recent, users, unknown: str, context) -> tuple[Query, pd.Index, Runs]:
        """The query of `users` with their `recent` events, their ids, and the items that they met of late."""
        fold = None if "history" in self.model.needs else self.fold
        options = {"rated": takes_ratings(self.model, self.data), "y_range": self.model.y_range}
        named, events = read_recent(recent, self.data, **options, ordered=self.model.ordered)
        if users is None and len(named) == 0:
            raise ValueError("recent= has no rows, so that it names nobody to recommend to; give users=")
        ids, chosen = self._asked(named if users is None else users, unknown)
        query = self.query(chosen, context)
        query = recent_query(query, events, self.data, fold, once=not self.model.ordered)
        return query, ids, events.pairs.of(chosen)

    def _asker(self) -> Callable[[Tensor], Tensor | Query]:
        """A function from users to the query of each as of now, validation rows in their histories too."""
        latest = self.data.latest if "history" in self.model.needs else None
        return self.data.asker(self.model.needs, histories=latest)

    def query(self, user_idx: Tensor, context=None) -> Tensor | Query:
        """The query of the users at `user_idx` `(b,)` as of now; `context` as of `predict`."""
        return _at(self._asker(), self._moment(context, len(user_idx)))(user_idx)

    def _moment(self, context, n: int) -> dict:
        """The parts of a query that a caller says of one moment, or of `n`; none where nothing is said."""
        if context is None or (isinstance(context, Mapping) and not context):
            return {}
        needs, timed = self.model.needs, self.columns.time
        names = [*(self.columns.context if "context" in needs else ()), *([timed] if "time" in needs else ())]
        if not isinstance(context, (Mapping, pd.DataFrame)):
            raise TypeError(f"context= must be a dict from columns to values, or a DataFrame, got {context!r}")
        is_table = isinstance(context, pd.DataFrame)
        fits = names and (not set(names).isdisjoint(context) if is_table else set(context) <= set(names))
        if not fits:
            odd = sorted(map(str, set(context) - set(names)))
            raise ValueError(f"context= names {odd}; the model knows {list(names)}")
        if is_table:
            table = context.reset_index(drop=True)
        else:
            lists = {name: v if pd.api.types.is_list_like(v) else [v] for name, v in context.items()}
            longest = max(map(len, lists.values()), default=1)
            table = pd.DataFrame({name: list(v) * (longest if len(v) == 1 else 1) for name, v in lists.items()})
        if len(table) not in (1, n):
            raise ValueError(f"context= has {len(table):,} rows; give one, or one for each of the {n:,} that are asked")
        found = {"context": self.train.contexts.encode(table, "context=")} if "context" in needs else {}
        if "time" in needs and timed in table:
            found["time"] = encode_times(table[timed])
        return found

    def _candidates(self, items, exclude) -> Tensor:
        chosen = self.data.every_item if items is None else self._encode(self.items, items, "raise").unique()
        if exclude is not None and not isinstance(exclude, pd.DataFrame):
            chosen = chosen[~torch.isin(chosen, self._encode(self.items, exclude, "raise"))]
        if len(chosen) == 0:
            raise ValueError("no item is left to recommend; check items= and exclude=")
        return chosen

    def _offsets(self, tilt: Tilt) -> Tensor | None:
        """What is added to the items' scores `(n_items,)`, if anything."""
        offsets = tilt.offsets(self.data)
        if offsets is not None and self._index is not None:
            raise ValueError("novelty_weight= and half_life= rank all items anew, but an index finds those with the "
                             "best scores alone; search exactly first: use_index(None)")  # fmt: skip
        return offsets

    def _hidden(self, filter_seen: bool, exclude) -> Runs | None:
        if not isinstance(exclude, pd.DataFrame) or len(exclude) == 0:
            return self.data.seen if filter_seen else None
        pairs, unknown = known_pairs(exclude, self.train)
        if unknown:
            say(f"{unknown:,} of {len(exclude):,} pairs in exclude= name unknown ids; they hide nothing")
        return self.data.seen.union(pairs) if filter_seen else pairs

    def _encode(self, vocab: Vocab, ids, unknown: str) -> Tensor:
        if unknown not in ("raise", "default"):
            raise ValueError(f"unknown must be 'raise' or 'default', got {unknown!r}")
        idx = vocab.encode([ids] if _is_one(vocab, ids) else ids, unknown="raise" if unknown == "raise" else "zero")
        return torch.from_numpy(idx)

    def _asked(self, users, unknown: str) -> tuple[pd.Index, Tensor]:
        """The ids that were asked for `(b,)`, and their indices."""
        if users is None:
            return self.users.ids, torch.arange(1, len(self.users))
        if unknown == "raise" and (row := self.users.row(users)):
            return self.users.ids[row - 1 : row], torch.tensor([row])
        ids = check_ids([users] if _is_one(self.users, users) else users, self.columns.user)
        return ids, self._encode(self.users, ids, unknown)

    def _lists(
        self, asked: dict, chosen: Tensor, ask, candidates: Tensor, k: int, hidden: Runs | None = None,
        max_memory: int | str = "512MB", askers: str = "users", offsets: Tensor | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """The lists of the users at `chosen` `(b,)`, of whom `ask` makes queries, beside who `asked`, as a table."""
        k = whole("k", k)
        with answering(self.model), torch.inference_mode():
            if self._index is None:
                block = block_size(len(candidates), max_memory, self.model.device)
                options = {"n_items": len(self.items), "hidden": hidden, "block": block, "offsets": offsets}
                scorer = Asked(self._scorer(candidates, max_memory), ask)
                best, logits = top_k(scorer, chosen, candidates, k, **options)
            else:
                vectors = self.model.user_vectors(ask(chosen).to(self.model.device)).cpu()
                allowed = None if len(candidates) == len(self.items) - 1 else candidates
                seen = None if hidden is None else hidden.of(chosen)
                best, logits = self._judged_index()[0].search(vectors, k, seen, allowed)
            scores = {"score": self.model.activation(logits)}
            if isinstance(self.model.calibration, Probabilities):
                scores["probability"] = torch.from_numpy(self.model.calibration(logits.cpu().numpy()))
        return self._frame("item", best, k, asked, askers, **scores)

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

    def _similar(self, ids, k: int, side: str) -> pd.DataFrame:
        say_untrained(self.model)
        vocab = getattr(self, f"{side}s")
        rows, n = self._encode(vocab, ids, "raise"), len(vocab)
        k, own = check_k(k, n), side == "item" and self.model.has_similarity
        found, best = nearest(self.model.item_similarity if own else self._cosines(side), rows, k, n)
        asked = {} if _is_one(vocab, ids) else {f"similar_to_{vocab.name}": vocab.decode(rows.numpy())}
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


def _at(ask: Callable, moment: dict) -> Callable[[Tensor], Tensor | Query]:
    """`ask` at a moment, or at one for each that is asked; as it is where nothing is known of it."""
    if not moment:
        return ask

    def at(users: Tensor) -> Query:
        each = lambda value: value.expand(len(users), *value.shape[1:])  # noqa: E731
        parts = {
            k: {n: each(v) for n, v in part.items()} if k == "context" else each(part) for k, part in moment.items()
        }
        return replace(ask(users), **parts)

    return at


def _in_turn(query: Query) -> Callable[[Tensor], Query]:
    """A function from positions one after the other, block by block, to the questions of a query there."""
    return lambda at: query[int(at[0]) : int(at[-1]) + 1] if len(at) else query[:0]


def _is_one(vocab: Vocab, ids) -> bool:
    """Whether `ids` is one id rather than several; a tuple or a frozen set is, where the vocabulary holds it."""
    if isinstance(ids, (tuple, frozenset)):
        return ids in vocab
    return isinstance(ids, (str, bytes)) or (not isinstance(ids, list) and np.ndim(ids) == 0)
