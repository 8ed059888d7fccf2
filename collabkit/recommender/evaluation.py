"""`_Evaluation`: the half of `Recommender` that says how good its answers are."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import pandas as pd

from collabkit.evaluate import (
    evaluate_fold_in,
    evaluate_ranking,
    evaluate_ratings,
    join_tables,
)
from collabkit.evaluate.references import PopularityRanks
from collabkit.evaluate.task import RankingTask
from collabkit.interactions import Interactions, say
from collabkit.models import CollabModel
from collabkit.models.base import evaluating
from collabkit.pairs import Pairs
from collabkit.vocab import Vocab

__all__ = ["_Evaluation"]


class _Evaluation:
    """Metrics of held-out rows; a base of `Recommender`."""

    def evaluate(
        self,
        on="valid",
        *,
        k=10,
        metrics=None,
        candidates=None,
        by: str | None = None,
        threshold: float | None = None,
        n_boot: int = 1000,
        seed: int = 0,
        max_memory: int | str = "512MB",
    ) -> pd.DataFrame:
        """Rating errors and ranking metrics on held-out rows, with intervals and baselines.

        Args:
            on: `'valid'`, or a DataFrame with the model's columns (a final test).
            k: cut-off of the ranking metrics, or several: `[5, 10, 20]`.
            metrics: names; default HitRate, Precision, Recall, NDCG, MAP, MRR. Besides there are AUC, and of the lists
                Coverage, Novelty, Diversity, ARP and Gini.
            candidates: what the relevant items compete with: None for all unseen items, item ids for those of them (say
                the new ones; relevant pairs with other items are left out, counted), `SampledCandidates(99)`, or a
                DataFrame of user-item pairs; all but None are said in the metrics' names.
            by: `'user_activity'` or `'item_popularity'`: ranking metrics by decile; `'cold'`: all apart for rows whose
                user and item have training rows (`'warm'`) and whose item, user or both have none (`'cold item'`,
                `'cold user'`, `'cold both'`), indexed by part and metric; see `evaluate.evaluate_ranking`.
            threshold: a held-out item rated at least this is relevant; default the median training rating. Without
                ratings all are.
            n_boot, seed: bootstrap over users for the 95 % intervals.
            max_memory: as in `recommend`.

        Returns:
            DataFrame indexed by metric: `value`, `low`, `high`, the baselines (NaN where one has no such metric), the
            paired `difference` to popularity with `diff_low` and `diff_high`, and `n`, the number of ratings or users.
            RMSE and MAE come first where there are ratings, `metrics` is None and `by` is None or `'cold'`. Items seen
            in training are not candidates, nor, in a final test, those of the validation part, unless the test holds
            them. Ties count against a model: popularity, which knows nothing of items without training rows, has 0
            among them, less than a random order.

        Raises:
            KeyError: unknown ids in a list of `candidates`.
            ValueError, TypeError: `on`, `k`, `metrics`, `by` or `candidates` are none of the above, or leave nothing.
        """
        test = self._test_part(on)
        common = {"n_boot": n_boot, "seed": seed}
        task = self.task(on, candidates=candidates, threshold=threshold, test=test)
        rated = None not in (test.rating, self.train.rating) and isinstance(self.model, CollabModel)
        with evaluating(self.model):
            options = {"k": k, "metrics": metrics, "by": by, "max_memory": max_memory}
            table = evaluate_ranking(self.model, task, **options, **common)
            if rated and metrics is None and by in (None, "cold"):
                groups = on[self.columns.user].factorize()[0] if isinstance(on, pd.DataFrame) else None
                errors = evaluate_ratings(self.model, self.train, test, groups=groups, by=by, **common)
                table = join_tables(errors, table)
        return table[[c for c in table.columns if c != "n"] + ["n"]].astype({"n": int})

    def evaluate_fold_in(self, on="valid", *, n_given=(1, 3, 5, 10, 20), k: int = 10, seed: int = 0) -> pd.DataFrame:
        """What is said of new users when n of their rows become known; see `evaluate.fold_in.evaluate_fold_in`.

        Args:
            on: as of `evaluate`; its users without training rows are the new ones, see `splits.cold_users`.
            n_given, k, seed: rows given, cut-off of the ranking metrics, and the draw of the rows.

        Returns:
            DataFrame indexed by `n_given`, 0 included: RMSE, or HitRate, NDCG and Recall at `k` without ratings, beside
            baselines.
        """
        self._with_rows("evaluate_fold_in")
        return evaluate_fold_in(self.fold, self._test_part(on), n_given=n_given, k=k, seed=seed)

    def task(self, on="valid", *, candidates=None, threshold: float | None = None, test=None) -> RankingTask:
        """The `RankingTask` that `evaluate` with these arguments sets; `test` is the part `on`, where it is at hand."""
        test = self._test_part(on) if test is None else test
        hidden = self._known if isinstance(on, str) else self._seen
        held_out = Pairs.from_interactions(test)
        repeated = int(hidden.place(held_out.users, held_out.items)[1].sum())
        if repeated:
            hidden = hidden.without(held_out)
            say(
                f"{repeated:,} of the pairs the model was trained or validated on occur in the evaluated rows"
                f"{'' if self.later is None else ' (or users were folded in by them)'}: "
                "the figures are too good for them; drop duplicates before splitting (filters.drop_duplicates)"
            )
        options = {"candidates": candidates, "threshold": threshold, "popularity": self._popularity}
        return RankingTask.make(self.train, test, hidden=hidden, **options)

    def _test_part(self, on) -> Interactions:
        if isinstance(on, pd.DataFrame):
            return Interactions.from_df(on, replace(self.columns, time=None), **self._vocabs)
        if not (isinstance(on, str) and on == "valid"):
            raise ValueError(f"on must be 'valid' or a DataFrame, got {on!r}")
        if self.valid is None:
            raise ValueError("there is no validation part; pass a DataFrame: evaluate(on=test_df)")
        return self.valid

    @cached_property
    def _known(self) -> Pairs:
        """The pairs that the model was trained on, or users were folded in by."""
        return Pairs.from_interactions(*(part for part in (self.train, self.later) if part is not None))

    @cached_property
    def _seen(self) -> Pairs:
        """Those, and the validation pairs."""
        return self._known if self.valid is None else self._known.union(Pairs.from_interactions(self.valid))

    @cached_property
    def _popularity(self) -> PopularityRanks:
        return PopularityRanks(self.train)

    @property
    def _vocabs(self) -> dict[str, Vocab]:
        return {"users": self.users, "items": self.items}
