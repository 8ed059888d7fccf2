"""Calibration of scores: probabilities from scores of events, intervals around ratings; and how accurate they are.

Fitted on half of the users of the validation part, judged on the other half: see `Recommender.calibrate`.
"""

import math
import warnings

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.data.checks import check_seed, one_of, whole
from collabkit.data.dataset import Dataset
from collabkit.data.meaning import Intervals, Probabilities, from_spec, to_spec
from collabkit.data.notices import CollabWarning, say
from collabkit.data.unique import sorted_unique
from collabkit.evaluate.candidates import SampledCandidates
from collabkit.evaluate.tables import predict_ratings
from collabkit.evaluate.task import RankingTask, held_out
from collabkit.models.base import Model, answering

__all__ = ["Intervals", "Probabilities", "calibrate", "from_spec", "judge", "to_spec"]

BINS = 10
LEVELS = (0.5, 0.8, 0.9, 0.95)
MOST = 500  # order statistics kept of each bin's residuals
LEAST = 100  # minimum residuals in a bin


def calibrate(model: Model, data: Dataset, method: str, n_negatives: int, seed: int) -> Probabilities | Intervals:
    """The calibration fitted on half of the validation users; arguments and errors as in `Recommender.calibrate`."""
    one_of("method", method, ("platt", "isotonic"))
    n_negatives, seed = whole("n_negatives", n_negatives), check_seed(seed)
    with answering(model):
        if data.rated and model.predicts_ratings:
            return _intervals(model, data, seed)
        scores, positive, weight = _pairs(model, data, n_negatives, seed, for_fit=True)
        return _probabilities(scores, positive, weight, method, n_negatives, seed)


def judge(model: Model, data: Dataset, found: Probabilities | Intervals) -> pd.DataFrame:
    """How accurate it is on the other half of the users; see `Recommender.calibrate`."""
    with answering(model):
        if isinstance(found, Intervals):
            return _coverage(model, data, found)
        return _reliability(*_pairs(model, data, found.n_negatives, found.seed, for_fit=False), found)


def _half(users: np.ndarray, n_users: int, seed: int, for_fit: bool) -> np.ndarray:
    """Which of `users` `(n,)` are in the half for the fit, or in the other."""
    found = sorted_unique(users)
    if len(found) < 2:
        raise ValueError(
            f"calibration needs held-out rows of at least 2 users, one half to fit to, but there are {len(found)}"
        )
    chosen = np.zeros(n_users, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(found)[: len(found) // 2]] = True
    return chosen[users] == for_fit


@torch.no_grad()
def _pairs(model: Model, data: Dataset, n: int, seed: int, for_fit: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, whether they are of positives, and the weight of each pair, `(m,)` each, for one half of the users.

    The positives are the relevant held-out items, the others a sample of the unseen items, each weighted to represent
    those not drawn.
    """
    task = RankingTask.make(data, "valid")
    mine = _half(task.users.numpy(), data.n_users, seed, for_fit) if len(task) else np.zeros(0, dtype=bool)
    if not mine.any():
        raise ValueError("calibration needs relevant held-out rows of at least 2 users")
    users, items = task.users[torch.from_numpy(mine)], task.items[torch.from_numpy(mine)]
    asked = sorted_unique(users.numpy())
    known = task.hidden.union(task.held.pairs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)  # of users with fewer unseen items: all of them are taken
        drawn = SampledCandidates(n, seed).draw(asked, known)
    left = data.n_items - 1 - known.lengths
    other = drawn.of(torch.from_numpy(asked))
    share = (left[torch.from_numpy(asked)] / other.lengths.clamp(min=1))[other.rows]
    place = torch.from_numpy(np.searchsorted(asked, users.numpy()))
    rows, every = torch.cat([place, other.rows]), torch.cat([items, other.values])
    query = task.asker(model)(torch.from_numpy(asked))
    scores = model.score_pairs(query, rows, every).double().numpy()
    positive = np.arange(len(rows)) < len(place)
    weight = np.concatenate([np.ones(len(place)), share.double().numpy()])
    there = np.isfinite(scores)  # a pipeline has no scores for items that it does not show
    return scores[there], positive[there], weight[there]


def _probabilities(scores, positive, weight, method: str, n_negatives: int, seed: int) -> Probabilities:
    options = {"n_negatives": n_negatives, "seed": seed}
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, positive, weight)
        return Probabilities(
            method, *(tuple(map(float, v)) for v in (fitted.X_thresholds_, fitted.y_thresholds_)), **options
        )
    from sklearn.linear_model import LogisticRegression

    centre, spread = float(scores.mean()), float(scores.std()) or 1.0
    fitted = LogisticRegression(C=1e6, max_iter=1000).fit((scores[:, None] - centre) / spread, positive, weight)
    slope = float(fitted.coef_[0, 0]) / spread
    if slope <= 0:
        say("higher scores do not mean more positives on the validation part: the probabilities are the base rate")
        rate = float(np.average(positive, weights=weight))
        return Probabilities(method, (), (math.log(rate / (1 - rate)), 0.0), **options)
    return Probabilities(method, (), (float(fitted.intercept_[0]) - slope * centre, slope), **options)


def _reliability(scores, positive, weight, found: Probabilities) -> pd.DataFrame:
    """Bins of increasing predicted probability, each with equally many expected positives."""
    p = found(scores).astype(np.float64)
    order = np.argsort(p, kind="stable")
    p, positive, weight = p[order], positive[order], weight[order]
    mass = np.cumsum(p * weight)
    place = np.minimum((mass - 0.5 * p * weight) / mass[-1] * BINS, BINS - 1).astype(int)
    new = np.concatenate([[True], p[1:] > p[:-1]])  # equal probabilities are in one bin
    place = place[np.maximum.accumulate(np.where(new, np.arange(len(p)), 0))]
    rows = []
    for one in sorted_unique(place):
        mine = place == one
        w, hits = weight[mine].sum(), int(positive[mine].sum())
        observed, spread = hits / w, 1.96 * math.sqrt(max(hits, 1)) / w
        rows.append({"predicted": (p[mine] * weight[mine]).sum() / w, "observed": observed,
                     "low": max(0.0, observed - spread), "high": min(1.0, observed + spread),
                     "positives": hits, "pairs": round(w)})  # fmt: skip
    table = pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="bin"))
    rate = float(np.average(positive, weights=weight))
    ece = float(np.average((table["predicted"] - table["observed"]).abs(), weights=table["pairs"]))
    table.attrs = {
        "kind": "probabilities",
        "method": found.method,
        "ece": ece,
        "base_rate": rate,
        "relative_ece": ece / rate,
    }
    return table


def _residuals(model: Model, data: Dataset, seed: int, for_fit: bool) -> tuple[Tensor, np.ndarray]:
    """Training rows of the users `(n,)` and absolute errors `(n,)` of one half of the users' held-out ratings."""
    rows = held_out(data, "valid")
    rows = rows.take((rows.user_idx > 0) & (rows.item_idx > 0))
    rows = rows.take(_half(rows.user_idx.numpy(), data.n_users, seed, for_fit))
    predicted = predict_ratings(model, data.query_of(rows, model.needs), rows.item_idx)
    return data.known.lengths[rows.user_idx], (predicted - rows.rating).abs().double().numpy()


def _intervals(model: Model, data: Dataset, seed: int) -> Intervals:
    n_rows, errors = _residuals(model, data, seed, for_fit=True)
    n_bins = max(1, min(4, len(errors) // LEAST))
    edges = np.quantile(n_rows.numpy(), np.arange(1, n_bins) / n_bins, method="inverted_cdf")
    edges = sorted_unique(edges).astype(int)
    place = np.searchsorted(edges, n_rows.numpy(), side="left")
    edges = [edge for j, edge in enumerate(edges) if (place == j).any() and (place > j).any()]
    place, kept = np.searchsorted(edges, n_rows.numpy(), side="left"), []
    for j in range(len(edges) + 1):
        own = np.sort(errors[place == j])
        at = np.ceil(np.arange(1, min(MOST, len(own)) + 1) / min(MOST, len(own)) * len(own)).astype(int) - 1
        kept.append(tuple(own[at].tolist()))
    return Intervals(tuple(map(int, edges)), tuple(kept), tuple(np.bincount(place, minlength=len(kept)).tolist()), seed)


def _coverage(model: Model, data: Dataset, found: Intervals) -> pd.DataFrame:
    """Share of the other half's ratings within the intervals, by level; all together and by bin of activity."""
    n_rows, errors = _residuals(model, data, found.seed, for_fit=False)
    place = np.searchsorted(found.edges, n_rows.numpy(), side="left")
    begins = [0, *(edge + 1 for edge in found.edges)]
    names = [f"{first} to {edge} rows" for first, edge in zip(begins, found.edges, strict=False)]
    names.append(f"{begins[-1]} or more rows")
    parts = {"all": np.ones(len(errors), dtype=bool)}
    parts |= {name: place == j for j, name in enumerate(names) if (place == j).any() and len(names) > 1}
    rows = []
    for level in LEVELS:
        half = found.width(n_rows.numpy(), level)
        for name, mine in parts.items():
            rows.append({"level": level, "users": name, "coverage": float((errors <= half)[mine].mean()),
                         "half_width": float(half[mine].mean()), "n": int(mine.sum())})  # fmt: skip
    table = pd.DataFrame(rows).set_index(["level", "users"])
    table.attrs = {"kind": "intervals"}
    return table
