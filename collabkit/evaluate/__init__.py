"""Evaluation: held-out rows and candidates -> one ranking pass -> tables with intervals and baselines.

`task` says what is asked (users, relevant items, candidates) and ranks for it, `candidates` the protocols, `metrics`
the metrics as pure functions, `lists` those of whole lists, `references` what every figure stands beside, `tables` puts
the results together; `compare` asks several models the same, `new_users` how good the answers to new users are, `audit`
what is in the data, `tradeoff` what diverse, unknown or new items in lists cost.
"""

from collabkit.evaluate.audit import audit
from collabkit.evaluate.candidates import SampledCandidates
from collabkit.evaluate.compare import compare
from collabkit.evaluate.new_users import evaluate_fold_in
from collabkit.evaluate.tables import evaluate
from collabkit.evaluate.task import RankingTask
from collabkit.evaluate.tradeoff import tradeoff

__all__ = ["SampledCandidates", "RankingTask", "evaluate", "evaluate_fold_in", "compare", "audit", "tradeoff"]
