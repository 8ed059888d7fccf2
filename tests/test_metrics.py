import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, mean_absolute_error, mean_squared_error, ndcg_score, roc_auc_score

from collabkit import metrics
from collabkit.metrics import (
    auc,
    average_precision,
    bootstrap_interval,
    coverage,
    gini,
    hit_rate,
    list_mean,
    mae,
    ndcg,
    precision,
    recall,
    reciprocal_rank,
    rmse,
)

RANKING = [hit_rate, precision, recall, ndcg, average_precision, reciprocal_rank]

# Three users: the first's relevant items rank 1, 3 and 12; the second's 4; the third's 6 and 2.
RANKS, GROUPS = np.array([3, 4, 1, 6, 12, 2]), np.array([0, 1, 0, 2, 0, 2])
LOG3 = np.log2(3)


# --- of ratings ------------------------------------------------------------------------------------------------------


def test_errors_by_hand():
    pred, target = np.array([3.0, 5.0, 2.0]), np.array([4.0, 3.0, 2.0])
    assert rmse(pred, target) == pytest.approx(np.sqrt(5 / 3)) and mae(pred, target) == pytest.approx(1.0)
    assert rmse([1], [1]) == mae([1], [1]) == 0


@given(st.lists(st.tuples(st.floats(0, 5, width=32), st.floats(0, 5, width=32)), min_size=1, max_size=30))
def test_errors_against_scikit_learn(pairs):
    pred, target = (np.array(column, dtype=np.float32) for column in zip(*pairs, strict=True))
    exact_pred, exact_target = pred.astype(float), target.astype(float)
    assert rmse(pred, target) == pytest.approx(np.sqrt(mean_squared_error(exact_target, exact_pred)))
    assert mae(pred, target) == pytest.approx(mean_absolute_error(exact_target, exact_pred))
    assert mae(pred, target) <= rmse(pred, target) * (1 + 1e-12)


@pytest.mark.parametrize("metric", [rmse, mae])
def test_shapes_that_would_broadcast_are_refused(metric):
    with pytest.raises(ValueError, match=r"one non-empty shape, got \(3, 1\) and \(3,\)"):
        metric(np.ones((3, 1)), np.ones(3))
    with pytest.raises(ValueError, match="non-empty"):
        metric([], [])


# --- of ranks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "k", "expected"),
    [
        (hit_rate, 1, [1, 0, 0]),
        (hit_rate, 3, [1, 0, 1]),
        (hit_rate, 4, [1, 1, 1]),
        (precision, 3, [2 / 3, 0, 1 / 3]),
        (precision, 10, [0.2, 0.1, 0.2]),
        (recall, 3, [2 / 3, 0, 1 / 2]),
        (recall, 12, [1, 1, 1]),
        (reciprocal_rank, 3, [1, 0, 1 / 2]),
        (average_precision, 1, [1, 0, 0]),
        (average_precision, 3, [(1 + 2 / 3) / 3, 0, (1 / 2) / 2]),
        (average_precision, 12, [(1 + 2 / 3 + 3 / 12) / 3, 1 / 4, (1 / 2 + 2 / 6) / 2]),
        (reciprocal_rank, 10, [1, 1 / 4, 1 / 2]),
        # discounts: rank 1 -> 1, 2 -> 1/log2(3), 3 -> 1/2, 4 -> 1/log2(5), 6 -> 1/log2(7)
        (ndcg, 1, [1, 0, 0]),
        (ndcg, 3, [1.5 / (1.5 + 1 / LOG3), 0, (1 / LOG3) / (1 + 1 / LOG3)]),
        (ndcg, 10, [1.5 / (1.5 + 1 / LOG3), 1 / np.log2(5), (1 / LOG3 + 1 / np.log2(7)) / (1 + 1 / LOG3)]),
    ],
)
def test_tables_by_hand(metric, k, expected):
    values = metric(RANKS, GROUPS, k)
    assert values == pytest.approx(np.array(expected)) and values.dtype == np.float64


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_against_brute_force_and_scikit_learn(seed, k):
    rng = np.random.default_rng(seed)
    n_items, n_users = 12, 4
    scores = rng.permuted(np.tile(np.arange(n_items, dtype=float), (n_users, 1)), axis=1)
    relevant = rng.random((n_users, n_items)) < 0.3
    relevant[:, 0] = True
    users, items = relevant.nonzero()
    ranks = n_items - scores[users, items].astype(int)
    assert ndcg(ranks, users, k) == pytest.approx([ndcg_score(relevant[[u]], scores[[u]], k=k) for u in range(n_users)])
    top = np.argsort(-scores, axis=1)[:, :k]
    hits = np.take_along_axis(relevant, top, axis=1)  # (n_users, k)
    assert hit_rate(ranks, users, k).tolist() == hits.any(1).tolist()
    assert precision(ranks, users, k) == pytest.approx(hits.sum(1) / k)
    assert recall(ranks, users, k) == pytest.approx(hits.sum(1) / relevant.sum(1))
    first = np.array([row.argmax() + 1 if row.any() else np.inf for row in hits])
    assert reciprocal_rank(ranks, users, k) == pytest.approx(1 / first)
    full = [average_precision_score(relevant[u], scores[u]) for u in range(n_users)]
    assert average_precision(ranks, users, n_items) == pytest.approx(full)
    some = ~relevant.all(1)
    expected = [roc_auc_score(relevant[u], scores[u]) for u in np.flatnonzero(some)]
    assert auc(ranks, users, np.full(n_users, n_items))[some] == pytest.approx(expected)


@given(st.integers(0, 10_000), st.integers(1, 10))
def test_ranges_and_order(seed, k):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(5), rng.integers(1, 4, size=5))
    ranks = np.concatenate([rng.choice(20, size=n, replace=False) + 1 for n in np.bincount(groups)])
    order = rng.permutation(len(ranks))
    for metric in RANKING:
        values = metric(ranks, groups, k)
        assert values.shape == (5,) and (values >= 0).all() and (values <= 1 + 1e-12).all()
        assert metric(ranks[order], groups[order], k) == pytest.approx(values)  # the order of the pairs does not matter
        assert (metric(np.maximum(ranks - 1, 1), groups, k) >= values - 1e-12).all()  # better ranks are never worse
    wider = {metric: metric(ranks, groups, k + 1) - metric(ranks, groups, k) for metric in RANKING}
    assert all((wider[metric] >= -1e-12).all() for metric in (hit_rate, recall, reciprocal_rank))


def test_the_best_and_the_worst():
    best, groups = np.array([1, 2, 3, 1]), np.array([0, 0, 0, 1])
    for metric in (hit_rate, recall, ndcg, average_precision, reciprocal_rank):
        assert metric(best, groups, 10).tolist() == [1, 1]
    assert precision(best, groups, 10) == pytest.approx([0.3, 0.1])
    assert ndcg(best, groups, 2).tolist() == [1, 1]  # more relevant items than k: the ideal has k hits
    assert recall(best, groups, 2) == pytest.approx([2 / 3, 1])
    for metric in RANKING:
        assert metric(best + 10, groups, 10).tolist() == [0, 0]


@pytest.mark.parametrize("metric", RANKING)
def test_what_is_refused(metric):
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        metric(RANKS, GROUPS, 0)
    for ranks, groups in (([1, 2], [0]), ([], []), ([1, 2], [0, 2])):  # user 1 has no relevant item
        with pytest.raises(ValueError, match="every group at least one relevant item"):
            metric(np.array(ranks, dtype=int), np.array(groups, dtype=int), 5)


def test_auc_by_hand():
    # 6 candidates, 2 relevant: of ranks 1 and 4 the first beats all 4 others, the second 2 of them.
    assert auc(np.array([4, 1]), np.array([0, 0]), np.array([6])) == pytest.approx([6 / 8])
    assert auc(np.array([6, 6]), np.array([0, 0]), np.array([6])).tolist() == [0]  # all tie: nothing is in order
    assert auc(np.array([2, 2]), np.array([0, 0]), np.array([6])).tolist() == [1]  # the relevant tie with each other
    nothing, half = auc(np.array([1, 2, 2]), np.array([0, 0, 1]), np.array([2, 3]))
    assert np.isnan(nothing) and half == 0.5  # only relevant candidates; one of two beaten


@given(st.integers(0, 10_000))
def test_auc_against_all_pairs(seed):
    """With ties, which count against the model."""
    rng = np.random.default_rng(seed)
    scores, relevant = rng.integers(0, 4, size=(3, 8)), rng.random((3, 8)) < 0.4
    relevant[:, 0], relevant[:, 1] = True, False
    users, items = relevant.nonzero()
    ranks = (scores[users] >= scores[users, items][:, None]).sum(1)
    pairs = [(scores[u][relevant[u]][:, None] > scores[u][~relevant[u]]).mean() for u in range(3)]
    assert auc(ranks, users, np.full(3, 8)) == pytest.approx(pairs)


# --- of lists --------------------------------------------------------------------------------------------------------

LISTS = np.array([[1, 2, 3], [1, 2, 0], [0, 0, 0], [4, 1, 5]])


def test_lists_by_hand():
    value = np.array([99.0, 10, 20, 30, 40, 50, 60])
    mean = list_mean(LISTS, value)
    assert mean[[0, 1, 3]].tolist() == [20, 15, 100 / 3] and np.isnan(mean[2])
    assert coverage(LISTS, 6) == 5 / 6 and coverage(LISTS[2:3], 6) == 0
    # counts 0 (item 6), 1, 1, 1, 2, 3 in order: (-5 0 -3 1 -1 1 + 1 1 + 3 2 + 5 3) / (6 * 8)
    assert gini(LISTS, 6) == pytest.approx((-3 - 1 + 1 + 6 + 15) / 48)
    assert np.isnan(gini(LISTS[2:3], 6))


@given(st.integers(0, 1000))
def test_gini_is_half_the_relative_mean_difference(seed):
    rng = np.random.default_rng(seed)
    lists = rng.integers(0, 8, size=(5, 4))
    lists[0, 0] = 3
    counts = np.bincount(lists[lists > 0], minlength=8)[1:]
    difference = np.abs(counts[:, None] - counts).mean()
    assert gini(lists, 7) == pytest.approx(difference / (2 * counts.mean()))


# --- the interval ----------------------------------------------------------------------------------------------------


def test_interval_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    low, high = bootstrap_interval(values, np.ones(400), n_boot=4000)
    half = 1.96 * values.std() / 20
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.1 * half)
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)
    narrow = bootstrap_interval(values, np.ones(400), n_boot=4000, level=0.5)
    assert (narrow[1] - narrow[0]) / (high - low) == pytest.approx(0.6745 / 1.96, rel=0.1)


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.exponential(1.0, size=60), np.ones(60), n_boot=300)
        covered += low <= 1.0 <= high
    assert 0.88 < covered / 300 < 0.985  # 95 % less the known shortfall at 60 skewed values


def test_interval_resamples_whole_users():
    # Two kinds of users, 100 ratings each: the mean varies as that of 40 users, not as that of 4,000 ratings.
    sums, counts = np.repeat([0.0, 100.0], 20), np.full(40, 100)
    low, high = bootstrap_interval(sums, counts, n_boot=2000)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.5 / np.sqrt(40), rel=0.12)
    assert low < 0.5 < high


def test_interval_of_a_ratio_weighs_users_by_their_counts():
    sums, counts = np.array([900.0, 0.0] * 30), np.array([900, 100] * 30)
    low, high = bootstrap_interval(sums, counts)
    assert 0.83 < low < 0.9 < high < 0.95  # around .9, not around .5


def test_interval_depends_on_the_seed_alone(monkeypatch):
    values, ones = np.random.default_rng(2).random(50), np.ones(50)
    first = bootstrap_interval(values, ones, seed=3)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert bootstrap_interval(values, ones, seed=3) == first != bootstrap_interval(values, ones, seed=4)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert bootstrap_interval(np.full(9, 2.0), np.full(9, 4)) == (0.5, 0.5)
    assert all(isinstance(end, float) for end in first)


def test_interval_of_few_distinct_rows_is_that_of_all(monkeypatch):
    """Drawing how often each distinct row occurs, or each user: two ways to the same distribution."""
    rng = np.random.default_rng(5)
    values = np.stack([rng.random(900) < 0.3, rng.integers(0, 3, 900)], axis=1).astype(float)
    few = bootstrap_interval(values, np.ones(900), n_boot=4000)
    monkeypatch.setattr(metrics, "_distinct_rows", lambda rows: (np.arange(len(rows)), np.ones(len(rows))))
    every = bootstrap_interval(values, np.ones(900), n_boot=4000)
    for a, b, width in zip(np.ravel(few), np.ravel(every), np.tile(every[1] - every[0], 2), strict=True):
        assert a == pytest.approx(b, abs=0.06 * width)


@given(st.integers(0, 1000))
def test_distinct_rows_are_those_of_numpy(seed):
    rows = np.random.default_rng(seed).integers(0, 3, size=(40, 2)) / 3
    first, times = metrics._distinct_rows(rows)
    expected, counts = np.unique(rows, axis=0, return_counts=True)
    order = np.lexsort(rows[first].T[::-1])
    assert np.array_equal(rows[first][order], expected) and np.array_equal(times[order], counts)
    assert (np.diff(times) <= 0).all()


def test_ratios_with_counts_of_their_own():
    """Users without a value (count 0) take no part in that column's mean."""
    values, there = np.array([[1.0, 5], [0, 0], [3, 9]]), np.array([[1.0, 1], [1, 0], [1, 1]])
    low, high = bootstrap_interval(values, there, n_boot=2000)
    assert low[0] == 0 and high[0] == 3 and high[1] == 9 and low[1] <= 5
