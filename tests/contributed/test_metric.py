"""A contributed metric: a function of the exact ranks of the relevant items."""

import numpy as np
from contract import planted

from collabkit import CollabDataLoaders, Popularity, collab_learner, compare, splits


def rank_biased_precision(ranks: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """Rank-biased precision at k (Moffat and Zobel 2008): `(1 - p) * sum of p ** (rank - 1)` over hits, p = 0.8.

    Args:
        ranks: `(n,)`, 1 is best. groups: `(n,)`, whose each is. Returns one value a user.
    """
    return np.bincount(groups, weights=np.where(ranks <= k, 0.2 * 0.8 ** (ranks - 1.0), 0.0))


def test_it_is_evaluated_compared_and_shown_in_fit():
    split = splits.leave_last_out()
    dls = CollabDataLoaders.from_df(planted(), feedback="implicit", time_name="time", splitter=split, seed=0)
    learn = collab_learner(dls, 8, seed=1, metrics=[rank_biased_precision])
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 1e-2)
    table = learn.evaluate(k=[5, 10], metrics=[rank_biased_precision, "HitRate"])
    assert list(table.index) == [f"{name}@{k}" for name in ("rank_biased_precision", "HitRate") for k in (5, 10)]
    assert 0 < table.iloc[0]["value"] <= table.iloc[1]["value"] <= 0.2  # one relevant item each: at most .2
    assert learn.recorder.metric_names[3] == "rank_biased_precision@10" and learn.recorder.values[-1][2] > 0
    compared = compare([learn, Popularity()], metrics=[rank_biased_precision])
    assert compared["value"].notna().all() and compared["low"].notna().all()


def test_it_is_the_formula():
    values = rank_biased_precision(np.array([1, 3, 20]), np.array([0, 0, 1]), 10)
    assert np.allclose(values, [0.2 * (1 + 0.8**2), 0.0])
