"""Evaluation: held-out rows and candidates -> one ranking pass -> tables with intervals and baselines.

`task` says what is asked (users, relevant items, candidates) and ranks for it, `candidates` the protocols, `references`
what every figure stands beside, `lists` the metrics of whole lists, `tables` puts the results together;
`fold_in` asks how good the answers to new users are.
"""

from collabkit.evaluate.candidates import SampledCandidates
from collabkit.evaluate.fold_in import evaluate_fold_in
from collabkit.evaluate.tables import (
    cold_parts,
    deciles,
    evaluate_ranking,
    evaluate_ratings,
    interval_columns,
    join_tables,
    predict_ratings,
)
from collabkit.evaluate.task import RankingTask, check_ks, check_metrics, default_threshold

__all__ = [
    "SampledCandidates", "RankingTask", "evaluate_ratings", "evaluate_ranking", "deciles", "cold_parts", "join_tables",
    "predict_ratings", "evaluate_fold_in", "interval_columns", "check_ks", "check_metrics", "default_threshold",
]  # fmt: skip
