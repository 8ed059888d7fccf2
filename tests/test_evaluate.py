import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collabkit.data.dataset import Dataset
from collabkit.data.interactions import Columns, Interactions
from collabkit.data.notices import CollabWarning
from collabkit.data.runs import Runs
from collabkit.data.vocab import Vocab
from collabkit.evaluate import tables
from collabkit.evaluate.lists import ItemFacts
from collabkit.evaluate.references import PopularityRanks, UserItemBias
from collabkit.evaluate.tables import deciles, predict_ratings
from collabkit.evaluate.task import RankingTask, default_threshold
from collabkit.models import CollFilter

METRICS = ["HitRate@10", "Precision@10", "Recall@10", "NDCG@10", "MAP@10", "MRR@10"]
COLUMNS = ["value", "low", "high", "popularity", "difference", "diff_low", "diff_high", "n"]


def evaluate_ranking(model, train, test, *, hidden=None, threshold=None, **kwargs):
    """The metrics of `test`; the pairs `hidden` (default the training ones) are no candidates."""
    task = RankingTask.make(Dataset(train, test), threshold=threshold)
    if hidden is not None:
        task = RankingTask(task.data, task.users, task.items, hidden)
    return tables.evaluate_ranking(model, task, **kwargs)


def evaluate_ratings(model, train, test):
    return tables.evaluate_ratings(model, Dataset(train, test), test)


def interactions(rows, n_users=4, n_items=6, rated=True) -> Interactions:
    """Interactions of rows `(user_idx, item_idx, rating)` with vocabularies of 10, 20, ... and 100, 200, ..."""
    user, item, rating = (torch.tensor(column) for column in zip(*rows, strict=True))
    vocabs = Vocab(10 * np.arange(1, n_users), "user"), Vocab(100 * np.arange(1, n_items), "item")
    columns = Columns("user", "item", "rating" if rated else None)
    return Interactions(user, item, rating.float() if rated else None, None, *vocabs, columns)


def model_of(table) -> CollFilter:
    """A dot-product model whose logits are `table` `(n_users, n_items)`."""
    table = torch.as_tensor(table, dtype=torch.float32)
    model = CollFilter(*table.shape, n_factors=table.shape[1]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.u_weight.weight.copy_(table)
        model.i_weight.weight.copy_(torch.eye(table.shape[1]))
    model.trained = True  # by hand
    return model


def nothing(data: Interactions) -> Runs:
    return data.take([]).pairs


@pytest.fixture
def train():
    return interactions([(1, 1, 5), (1, 2, 3), (2, 1, 4), (2, 3, 2), (3, 1, 1)])


# --- predictions and rating errors -----------------------------------------------------------------------------------


def test_predictions_in_batches():
    table = torch.randn(4, 6)
    users, items = torch.randint(4, (23,)), torch.randint(6, (23,))
    for batch in (1, 5, 23, 100):
        pred = predict_ratings(model_of(table), users, items, batch=batch)
        assert torch.allclose(pred, table[users, items]) and pred.dtype == torch.float32 and not pred.requires_grad
    assert predict_ratings(model_of(table), users[:0], items[:0]).shape == (0,)


def test_rating_errors_by_hand(train):
    test = interactions([(1, 3, 4), (1, 4, 2), (3, 2, 5)])
    table = torch.zeros(4, 6)
    table[1, 3], table[1, 4], table[3, 2] = 3, 2, 3  # errors 1, 0, 2
    result = evaluate_ratings(model_of(table), train, test)
    assert list(result.index) == ["RMSE", "MAE"] and result.index.name == "metric"
    assert list(result) == ["value", "low", "high", "global mean", "user+item bias", "difference", "diff_low",
                            "diff_high", "n"]  # fmt: skip
    np.testing.assert_allclose(result["difference"], result["value"] - result["user+item bias"])
    assert result["value"].tolist() == pytest.approx([np.sqrt(5 / 3), 1.0])
    # the global mean of the training ratings is 3: errors 1, 1, 2
    assert result["global mean"].tolist() == pytest.approx([np.sqrt(2), 4 / 3])
    assert result["n"].tolist() == [3, 3]
    # of two users, resampled: (1, 0) alone, (2,) alone or both
    assert result.loc["MAE", ["low", "high"]].tolist() == [0.5, 2.0]
    assert result.loc["RMSE", ["low", "high"]].tolist() == pytest.approx([np.sqrt(0.5), 2.0])


def test_a_perfect_model_has_no_error_and_the_mean_has_the_spread(train):
    table = torch.zeros(4, 6)
    table[train.user_idx, train.item_idx] = train.rating
    perfect = evaluate_ratings(model_of(table), train, train)
    assert perfect[["value", "low", "high"]].to_numpy().ravel().tolist() == [0] * 6
    assert perfect.loc["RMSE", "global mean"] == pytest.approx(np.std([5, 3, 4, 2, 1]))


# --- baselines -------------------------------------------------------------------------------------------------------


def test_baselines_by_hand(train):
    users, items = torch.tensor([1, 2, 0]), torch.tensor([1, 5, 0])
    assert UserItemBias(train, n_sweeps=0).predict(users, items).tolist() == [3, 3, 3]
    assert UserItemBias(interactions([(1, 1, 5), (1, 2, 5), (2, 1, 2)]), n_sweeps=0).predict(users, items).tolist() == [
        4,
        4,
        4,
    ]
    once = UserItemBias(train, reg_users=1, reg_items=2, n_sweeps=1)
    # item 1: (2 + 1 - 2) / (3 + 2) = .2; item 2: 0 / 3 = 0; item 3: -1 / 3
    assert once.item.tolist() == pytest.approx([0, 0.2, 0, -1 / 3, 0, 0])
    # user 1: (1.8 + 0) / 3; user 2: (.8 - 2/3) / 3; user 3: -2.2 / 2
    assert once.user.tolist() == pytest.approx([0, 0.6, (0.8 - 2 / 3) / 3, -1.1])
    assert once.predict(users, items).tolist() == pytest.approx([3.8, 3 + (0.8 - 2 / 3) / 3, 3])


@given(st.integers(0, 1000))
def test_biases_solve_their_ridge_regression(seed):
    rng = np.random.default_rng(seed)
    rows = [(rng.integers(1, 4), rng.integers(1, 6), rng.integers(1, 6)) for _ in range(12)]
    data = interactions(rows)
    fitted = UserItemBias(data, reg_users=3, reg_items=2, n_sweeps=500)
    user, item, rating = (column.numpy() for column in (data.user_idx, data.item_idx, data.rating.double()))
    design = np.zeros((12, 10))  # users 0..3, items 0..5
    design[np.arange(12), user] = design[np.arange(12), 4 + item] = 1
    normal = design.T @ design + np.diag([3.0] * 4 + [2.0] * 6)
    solution = np.linalg.solve(normal, design.T @ (rating - rating.mean()))
    assert [*fitted.user.tolist(), *fitted.item.tolist()] == pytest.approx(solution, abs=1e-8)


def test_popularity_counts_training_rows(train):
    scorer = PopularityRanks(train).scorer(torch.tensor([3, 1, 5]))
    scores = scorer(torch.tensor([2, 0]))
    assert scores.tolist() == [[1, 3, 0]] * 2
    scores[0, 0] = -torch.inf  # hiding in place must not leak into the next block
    assert scorer(torch.tensor([1])).tolist() == [[1, 3, 0]]


# --- ranking ---------------------------------------------------------------------------------------------------------


def test_ranking_by_hand(train):
    # Items 1..5 are candidates. User 1 has seen 1 and 2; item 4 is relevant. User 2 has seen 1 and 3; 2 and 5 are.
    test = interactions([(1, 4, 5), (1, 5, 1), (2, 2, 4), (2, 5, 3), (3, 2, 2)])
    table = torch.zeros(4, 6)
    table[1] = torch.tensor([9.0, 9, 9, 3, 2, 1])  # unseen: 3, 4, 5 -> item 4 is second
    table[2] = torch.tensor([9.0, 9, 1, 9, 5, 3])  # unseen: 4, 5, 2 -> item 5 second, item 2 third
    result = evaluate_ranking(model_of(table), train, test, k=2, threshold=3, n_boot=200)
    assert list(result.index) == [name.replace("10", "2") for name in METRICS]
    assert list(result) == COLUMNS and result["n"].tolist() == [2] * 6
    log3 = np.log2(3)
    ndcg = (1 / log3 + (1 / log3) / (1 + 1 / log3)) / 2
    assert result["value"].tolist() == pytest.approx([1, 0.5, 0.75, ndcg, 0.375, 0.5])  # AP: (1/2) / 1 and (1/2) / 2
    # popularity: 3 rows for item 1, 1 for items 2 and 3. User 1: item 3 ahead, items 4 and 5 tied -> rank 3.
    # User 2: item 2 first, items 4 and 5 tied -> rank 3. So user 1 scores 0, user 2 one hit at rank 1.
    assert result["popularity"].tolist() == pytest.approx([0.5, 0.25, 0.25, 0.5 / (1 + 1 / log3), 0.25, 0.5])
    assert result["difference"].tolist() == pytest.approx((result["value"] - result["popularity"]).tolist())
    assert (result["low"] <= result["value"]).all() and (result["value"] <= result["high"]).all()


def test_the_threshold_says_what_is_relevant(train):
    test = interactions([(1, 4, 5), (2, 4, 3), (3, 4, 1)])
    model, hidden = model_of(torch.zeros(4, 6)), nothing(train)
    assert default_threshold(train) == 3
    for threshold, n in ((None, 2), (3, 2), (3.5, 1), (0, 3)):
        assert evaluate_ranking(model, train, test, hidden=hidden, threshold=threshold)["n"].tolist() == [n] * 6
    empty = evaluate_ranking(model, train, test, hidden=hidden, threshold=6)
    assert empty.empty and list(empty) == COLUMNS and empty.index.name == "metric"
    clicks = interactions([(1, 4, 0), (2, 4, 0)], rated=False)
    assert default_threshold(clicks) == -np.inf
    with pytest.warns(CollabWarning, match="2 of the pairs the model was trained or validated on occur"):
        assert evaluate_ranking(model, clicks, clicks, hidden=hidden)["n"].tolist() == [2] * 6


def test_rows_of_unknown_ids_are_left_out_and_counted(train):
    test = interactions([(1, 4, 5), (0, 4, 5), (1, 0, 5), (0, 0, 5), (0, 3, 1)])
    with pytest.warns(CollabWarning, match="leave out 3 relevant rows whose user or item the model does not know"):
        result = evaluate_ranking(model_of(torch.zeros(4, 6)), train, test, hidden=nothing(train))
    assert result["n"].tolist() == [1] * 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate_ranking(model_of(torch.zeros(4, 6)), train, test.take([0, 4]), hidden=nothing(train))


def test_repeated_rows_count_once(train):
    test = interactions([(1, 4, 5), (1, 4, 4), (1, 5, 4)])
    table = torch.zeros(4, 6)
    table[1, 4] = 1
    result = evaluate_ranking(model_of(table), train, test, hidden=nothing(train), k=1)
    assert result.loc["Precision@1", "value"] == 1 and result.loc["Recall@1", "value"] == 0.5


def test_a_user_who_has_seen_everything_else():
    train = interactions([(1, i, 5) for i in range(1, 5)] + [(2, 5, 5)])
    test = interactions([(1, 5, 5), (2, 1, 5)])
    table = torch.arange(6.0).flip(0).repeat(4, 1)  # item 1 is best, item 5 worst
    result = evaluate_ranking(model_of(table), train, test, k=1)
    assert result.loc["HitRate@1", "value"] == 1  # item 5 is the one candidate that is left
    with pytest.warns(CollabWarning, match="5 of the pairs the model was trained or validated on occur"):
        seen = evaluate_ranking(model_of(table), train, train, hidden=train.pairs, k=4)
    assert seen.loc["HitRate@4", "value"] == 0  # a hidden item ranks last: nothing is right


def big(seed=0, n_users=300, n_items=101):
    """Each of 300 users likes 3 of 100 items; none was seen in training."""
    rng = np.random.default_rng(seed)
    liked = np.stack([1 + rng.choice(n_items - 1, size=3, replace=False) for _ in range(n_users)])
    rows = [(1 + u, int(i), 5) for u in range(n_users) for i in liked[u]]
    test = interactions(rows, n_users + 1, n_items)
    return test.take([]), test


def canary(name, test):
    table = torch.zeros(test.n_users, test.n_items)
    if name == "oracle":
        table[test.user_idx, test.item_idx] = 1.0
        table += 0.01 * torch.arange(test.n_items)  # no two alike
    elif name == "tied oracle":
        table[test.user_idx, test.item_idx] = 1.0
    elif name == "random":
        table = torch.rand(table.shape, generator=torch.Generator().manual_seed(3))
    elif name == "opposite":
        table[test.user_idx, test.item_idx] = -1.0
    return model_of(table)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [0, 0, 0, 0, 0, 0]),
        ("opposite", [0, 0, 0, 0, 0, 0]),
        ("oracle", [1, 0.3, 1, 1, 1, 1]),
        ("tied oracle", [1, 0.3, 1, 1.5 / (1 + 1 / np.log2(3) + 0.5), 2 / 3, 1 / 3]),  # its three best tie: all rank 3
    ],
)
def test_canaries(name, expected):
    train, test = big()
    result = evaluate_ranking(canary(name, test), train, test, hidden=nothing(train), threshold=0, n_boot=300)
    for end in ("low", "value", "high"):
        assert result[end].tolist() == pytest.approx(expected)
    assert (result["popularity"] == 0).all()  # without training rows popularity is a constant


def test_a_random_model_is_at_chance():
    train, test = big()
    result = evaluate_ranking(canary("random", test), train, test, hidden=nothing(train), threshold=0, n_boot=300)
    value = result["value"]
    # 3 relevant of 100: a hit within 10 has chance 1 - C(90, 3) / C(100, 3) = .2735, sd .026 over 300 users
    assert value["HitRate@10"] == pytest.approx(0.2735, abs=0.08)
    assert value["Recall@10"] == pytest.approx(0.1, abs=0.035)
    assert value["Precision@10"] == pytest.approx(0.03, abs=0.01)
    # each rank has chance 1/100: NDCG (sum of the discounts 1 to 10) * 3 / 100 / ideal = 4.54 * .03 / 2.13
    assert value["NDCG@10"] == pytest.approx(0.064, abs=0.025)
    assert 0.04 < value["MRR@10"] < 0.16
    assert (result["low"] < value).all() and (value < result["high"]).all()


def test_intervals_narrow_with_the_number_of_users():
    train, test = big()
    kwargs = {"hidden": nothing(train), "threshold": 0}
    model = canary("random", test)
    wide = evaluate_ranking(model, train, test.take(range(90)), **kwargs)
    narrow = evaluate_ranking(model, train, test, **kwargs)
    width = {name: (r["high"] - r["low"])["HitRate@10"] for name, r in (("wide", wide), ("narrow", narrow))}
    p = narrow.loc["HitRate@10", "value"]
    assert width["narrow"] == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 300), rel=0.15)
    assert 2 < width["wide"] / width["narrow"] < 4.5  # sqrt(10) = 3.2


def test_seeds_and_blocks_change_nothing_they_should_not():
    train, test = big()
    kwargs = {"hidden": nothing(train), "threshold": 0, "n_boot": 100}
    model = canary("random", test)
    first = evaluate_ranking(model, train, test, **kwargs)
    assert first.equals(evaluate_ranking(model, train, test, **kwargs, max_memory=5000))  # blocks of a few users
    other = evaluate_ranking(model, train, test, **kwargs, seed=1)
    assert other["value"].equals(first["value"]) and not other["low"].equals(first["low"])
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        evaluate_ranking(model, train, test, **kwargs, k=0)


# --- a trained model -------------------------------------------------------------------------------------------------


def test_a_trained_model_beats_the_baselines_but_not_the_noise(trained):
    result = trained.evaluate(n_boot=200)
    assert list(result.index) == ["RMSE", "MAE", *METRICS]
    rmse = result.loc["RMSE"]
    assert 0.65 < rmse["value"] < rmse["global mean"]  # the generator's noise, .68 before rounding, is the floor
    assert rmse["low"] < rmse["value"] < rmse["high"] and rmse["n"] == len(trained.dls.valid.dataset) == 1200
    assert 0.02 < result.loc["HitRate@10", "value"] < 0.95
    assert result.loc["Recall@10", "n"] <= 200


def test_a_leak_would_show(trained):
    """The same rows as training and as test: the figures must say so rather than look good in silence."""
    rows = trained.dls.train.items.head(50)
    with pytest.warns(CollabWarning, match="50 of the pairs the model was trained or validated on occur"):
        trained.evaluate(rows, n_boot=50)


def test_unknown_ids_in_evaluated_rows_are_counted(trained):
    rows = trained.dls.valid.items.head(60).assign(rating=5.0)
    rows = pd.concat([rows, rows.head(10).assign(title="nobody knows")])
    with pytest.warns(CollabWarning) as caught:
        result = trained.evaluate(rows, n_boot=50)
    messages = [str(w.message) for w in caught]
    assert any("10 of 70 rows have 'title' ids that the model does not know" in m for m in messages)
    assert any("leave out 10 relevant rows" in m for m in messages)
    assert result.loc["RMSE", "n"] == 70 and result.loc["HitRate@10", "n"] == rows.head(60)["user"].nunique()


# --- the choice of metrics -------------------------------------------------------------------------------------------


def test_several_k_and_metrics_come_from_one_pass(trained, monkeypatch):
    rec, calls = trained.recommender, []
    vectors = type(rec.model).user_vectors
    monkeypatch.setattr(type(rec.model), "user_vectors", lambda self, idx: calls.append(len(idx)) or vectors(self, idx))
    together = rec.evaluate(k=[10, 5], metrics=["NDCG", "Coverage", "AUC"], n_boot=20)
    assert sum(calls) == together["n"].max()  # each user is scored once
    assert list(together.index) == ["NDCG@5", "NDCG@10", "Coverage@5", "Coverage@10", "AUC"]
    for k in (5, 10):
        alone = rec.evaluate(k=k, metrics="NDCG", n_boot=20)
        assert alone.loc[f"NDCG@{k}", "value"] == together.loc[f"NDCG@{k}", "value"]
    assert list(rec.evaluate(n_boot=2).index) == ["RMSE", "MAE", *METRICS]


def test_metrics_and_cut_offs_that_are_none(trained):
    with pytest.raises(ValueError, match=r"unknown metric\(s\) \['NDGC'\]; there are HitRate, Precision, .*ARP, Gini"):
        trained.evaluate(metrics=["NDCG", "NDGC"])
    with pytest.raises(ValueError, match="unknown metric"):
        trained.evaluate(metrics=[])
    for k, message in ((0, "at least 1, got 0"), ([5, -1], "at least 1, got -1"), (2.5, "whole number"), ([], "empty")):
        with pytest.raises(ValueError, match=message):
            trained.evaluate(k=k)
    by = "by must be None or one of 'user_activity', 'item_popularity', 'item_age', 'cold', got 'age'"
    with pytest.raises(ValueError, match=by):
        trained.evaluate(by="age")


@pytest.mark.parametrize("metrics", [None, ["Recall", "AUC", "Coverage", "Novelty", "Diversity", "ARP", "Gini"]])
def test_a_k_beyond_the_catalogue(trained, metrics):
    table = trained.evaluate(k=1000, metrics=metrics, n_boot=2)
    assert table.loc["Recall@1000", "value"] == 1  # all are in the list, however bad
    if metrics:
        assert table.loc["Coverage@1000", "value"] == 1 and not table["value"].isna().any()


def test_metrics_of_lists_by_hand():
    # Training: user 1 has items 1, 2; user 2 has 1, 3; user 3 has 1. Item 4 and 5 nobody.
    train = interactions([(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 3, 1), (3, 1, 1)], rated=False)
    test = interactions([(1, 3, 1), (3, 2, 1)], rated=False)
    scores = torch.zeros(4, 6)
    scores[1] = torch.tensor([0.0, 9, 9, 5, 4, 3])  # list: 3, 4
    scores[3] = torch.tensor([0.0, 9, 5, 4, 1, 1])  # list: 2, 3
    names = ["Coverage", "Novelty", "Diversity", "ARP", "Gini"]
    got = evaluate_ranking(model_of(scores), train, test, k=2, metrics=names, n_boot=50)
    one = np.log2(3)  # one of three users has the item; an item nobody has counts as if one had it
    expected = {
        "Coverage": 3 / 5,
        "Novelty": one,
        "Diversity": 1,  # 2 and 3 share no user, nor do 3 and 4
        "ARP": ((1 + 0) / 2 + (1 + 1) / 2) / 2,
        "Gini": (-4 * 0 - 2 * 0 + 0 * 1 + 2 * 1 + 4 * 2) / (5 * 4),  # items are listed 0, 0, 1, 1 and 2 times
    }
    assert got["value"].tolist() == pytest.approx([expected[name] for name in names])
    assert got.loc[["Coverage@2", "Gini@2"], ["low", "high", "diff_low"]].isna().all(axis=None)
    assert got.loc[["Novelty@2", "ARP@2"], ["low", "high"]].notna().all(axis=None) and (got["n"] == 2).all()
    # popularity: user 1 unseen 3 (1 row), then 4 or 5; user 3 unseen 2 and 3
    assert got.loc["ARP@2", "popularity"] == 0.75


@given(st.integers(0, 1000))
def test_diversity_against_all_pairs(seed):
    rng = np.random.default_rng(seed)
    rows = [(rng.integers(1, 7), rng.integers(1, 9), 1) for _ in range(25)]
    train = interactions(rows, 7, 10, rated=False)  # item 9 has no rows
    lists = np.stack([rng.permutation(np.arange(1, 10))[:4] for _ in range(5)])
    lists[0, 3], lists[1, 1:] = 0, 0
    table = np.zeros((10, 7))
    table[train.item_idx, train.user_idx] = 1
    unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    got = ItemFacts(train).diversity(lists, [2, 4])
    for k, values in zip([2, 4], got, strict=True):
        for row, value in zip(lists[:, :k], values, strict=True):
            items = row[row > 0]
            cosines = [unit[i] @ unit[j] for a, i in enumerate(items) for j in items[:a]]
            assert value == pytest.approx(1 - np.mean(cosines), abs=1e-6) if cosines else np.isnan(value)


# --- by decile -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200))
def test_deciles_share_out_the_values(values):
    values = np.array(values)
    parts = list(deciles(values))
    assert np.array_equal(sum(mask.astype(int) for *_, mask in parts), np.ones(len(values)))
    assert all((values[mask] >= low).all() and (values[mask] <= high).all() for _, low, high, mask in parts)
    assert all(a[2] < b[1] and a[0] < b[0] for a, b in itertools.pairwise(parts))  # no value in two
    if len(set(values)) == len(values) >= 10:
        assert max(mask.sum() for *_, mask in parts) - min(mask.sum() for *_, mask in parts) <= 1


def test_by_user_activity(trained):
    table = trained.evaluate(by="user_activity", metrics=["Recall", "Coverage"], n_boot=20)
    whole = trained.evaluate(metrics=["Recall"]).loc["Recall@10"]
    assert table.index.names == ["decile", "from", "to", "metric"] and list(table) == COLUMNS
    recall = table.xs("Recall@10", level="metric")
    assert recall["n"].sum() == whole["n"]
    assert (recall["value"] * recall["n"]).sum() / whole["n"] == pytest.approx(whole["value"])
    assert (recall["popularity"] * recall["n"]).sum() / whole["n"] == pytest.approx(whole["popularity"])
    rows = trained.dls.train.items["user"].value_counts()
    decile, low, high = recall.index[4]
    liked = trained.dls.valid.items.query(f"rating >= {default_threshold(trained.dls.train.dataset)}")["user"].unique()
    assert recall["n"].iloc[4] == rows[liked].between(low, high).sum() and decile == 5


def test_by_item_popularity():
    # One user each; items 1, 2, 3 have 3, 2, 1 training rows. The model ranks item 1 first for all.
    train = interactions([(1, 1, 1), (2, 1, 1), (3, 1, 1), (1, 2, 1), (2, 2, 1), (1, 3, 1)], 6, 6, rated=False)
    test = interactions([(4, 1, 1), (4, 2, 1), (5, 3, 1)], 6, 6, rated=False)
    model = model_of(torch.tensor([0.0, 5, 4, 1, 3, 2]).repeat(6, 1))
    got = evaluate_ranking(model, train, test, k=2, by="item_popularity", metrics="MRR", n_boot=2)
    values = {low: value for (_, low, _, _), value in got["value"].items()}
    assert values == {1: 0, 2: 0.5, 3: 1}  # items 3, 2, 1: beyond 2, second, first
    assert got["n"].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="Coverage describe.*users' lists; by='item_popularity' has none"):
        evaluate_ranking(model, train, test, hidden=nothing(train), by="item_popularity", metrics=["NDCG", "Coverage"])


def test_test_users_unseen_in_training(trained):
    """Without training rows, but known: ranked, and popularity too; unknown ones: counted and left out."""
    train = interactions([(1, 1, 1), (2, 1, 1)], rated=False)
    got = evaluate_ranking(model_of(torch.zeros(4, 6)), train, interactions([(3, 1, 1)], rated=False))
    assert got.loc["MRR@10", ["value", "popularity"]].tolist() == [0.2, 1]
    rows = trained.dls.valid.items.head(5).assign(user=10**9)
    with pytest.warns(CollabWarning):
        table = trained.evaluate(rows)
    assert list(table.index) == ["RMSE", "MAE"]
