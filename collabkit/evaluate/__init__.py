"""Evaluation: held-out rows and candidates -> one ranking pass -> tables with intervals and baselines.

`task` defines the question (users, relevant items, candidates) and ranks for it, `candidates` has the protocols,
`metrics` the metrics as pure functions, `lists` those of whole lists, `references` the baselines, `tables` the results;
`compare` evaluates several models on one task, `new_users` predictions for new users, `audit` the data, `tradeoff` the
cost of diverse, unknown or new items in lists.
"""

from collabkit.evaluate.audit import audit
from collabkit.evaluate.candidates import SampledCandidates
from collabkit.evaluate.compare import compare
from collabkit.evaluate.new_users import evaluate_fold_in
from collabkit.evaluate.tables import evaluate
from collabkit.evaluate.task import RankingTask
from collabkit.evaluate.tradeoff import tradeoff

__all__ = ["SampledCandidates", "RankingTask", "evaluate", "evaluate_fold_in", "compare", "audit", "tradeoff"]
