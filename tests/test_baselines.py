import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import data_folder
from helpers import make_dls, trained
from hypothesis import given
from hypothesis import strategies as st
from test_evaluate import interactions

from collabkit import CollabWarning, Recommender, SampledCandidates
from collabkit.data.interactions import Columns, Interactions
from collabkit.models import EASE, ItemKNN, Popularity
from collabkit.models.closed_form import ClosedForm

MAKE = {"popularity": Popularity, "knn": lambda: ItemKNN(k=3), "ease": lambda: EASE(l2=2.0)}


def random_rows(seed, n_users=8, n_items=10, share=0.35):
    rng = np.random.default_rng(seed)
    table = rng.random((n_users, n_items)) < share
    table[0] = table[:, 0] = False
    table[1, 1] = True
    rows = [(int(u), int(i), 1) for u, i in zip(*table.nonzero(), strict=True)]
    return interactions(rows, n_users, n_items, rated=False), table[:, 1:].astype(float)


def scores(baseline, data):
    return baseline.scorer(torch.arange(1, data.n_items))(asked(baseline, torch.arange(data.n_users))).numpy()


def asked(baseline, users):
    """The query of training users."""
    return baseline.data.asker(baseline.needs)(users)


@given(st.integers(0, 1000), st.sampled_from([0.5, 20.0]))
def test_ease_is_steck_s_closed_form(seed, l2):
    data, x = random_rows(seed)
    ease = EASE(l2).fit(data)
    inverse = np.linalg.inv(x.T @ x + l2 * np.eye(x.shape[1]))
    weights = np.eye(x.shape[1]) - inverse / np.diag(inverse)  # I - P diag(1 / diag(P))
    assert ease.weights[1:, 1:].numpy() == pytest.approx(weights, abs=1e-5)
    assert (ease.weights.diagonal() == 0).all()
    assert scores(ease, data) == pytest.approx(x @ weights, abs=1e-4)
    # The constraint's optimum: a column is the ridge regression of its item on all the others.
    others = np.arange(1, x.shape[1])
    ridge = np.linalg.solve(x[:, others].T @ x[:, others] + l2 * np.eye(len(others)), x[:, others].T @ x[:, 0])
    assert ease.weights[1:, 1:][others, 0].numpy() == pytest.approx(ridge, abs=1e-5)


@given(st.integers(0, 1000), st.sampled_from([1, 3, 50]), st.sampled_from([0.0, 2.0]))
def test_item_neighbours_against_brute_force(seed, k, shrink):
    data, x = random_rows(seed)
    knn = ItemKNN(k, shrink).fit(data)
    n = x.sum(0)
    similarity = (x.T @ x) / np.maximum(np.sqrt(np.outer(n, n)) + shrink, 1e-12)
    np.fill_diagonal(similarity, 0)
    got = knn.item_similarity(torch.tensor([3, 1, 3]))[:, 1:].numpy()
    assert got == pytest.approx(np.where(got > -np.inf, similarity[[2, 0, 2]], -np.inf), abs=1e-6)
    assert ((got > -np.inf).sum(1) <= k).all() and ((got > 0) == (got > 0)[[2, 1, 0]]).all()
    kept = knn.item_similarity(torch.arange(data.n_items))[1:, 1:].clamp(min=0).numpy()  # row j: item j's neighbours
    for mine, all_of_it in zip(kept, similarity, strict=True):
        assert np.sort(mine)[::-1][:k] == pytest.approx(np.sort(all_of_it)[::-1][:k], abs=1e-6)
        assert (mine > 0).sum() <= k and mine[mine > 0] == pytest.approx(all_of_it[mine > 0], abs=1e-6)
    assert scores(knn, data) == pytest.approx(x @ kept.T, abs=1e-5)


@given(st.integers(0, 1000), st.sampled_from([0.5, 20.0]))
def test_ease_by_users_is_ease_by_items(seed, l2):
    data, x = random_rows(seed, n_users=6, n_items=30)
    by_users, by_items = EASE(l2).fit(data), EASE(l2)
    assert by_users.inverse.shape == (int((x.sum(1) > 0).sum()),) * 2 and by_users.weights.numel() == 0
    by_items._fit_items(data)
    by_items.counts = by_users.counts
    history = data.pairs
    assert torch.allclose(by_users.scores(history), by_items.scores(history), atol=2e-7)
    idx = torch.tensor([3, 1, 29])
    assert torch.allclose(by_users.item_similarity(idx), by_items.item_similarity(idx), atol=2e-7)


def test_ease_by_users_where_items_are_too_many(tmp_path):
    data, _ = random_rows(3, n_users=20, n_items=24)
    by_items, by_users = EASE(5.0).fit(data), EASE(5.0, max_items=22).fit(data)
    assert len(by_items.weights) == 24 and len(by_users.weights) == 0
    lists, others = by_items.recommend(k=4), Recommender.load(by_users.export(tmp_path / "out")).recommend(k=4)
    assert lists["item"].equals(others["item"]) and np.allclose(lists["score"], others["score"], atol=1e-6)


def test_neighbours_hold_no_zeros_and_older_artefacts_load():
    data, _ = random_rows(4, n_users=15, n_items=20)
    knn = ItemKNN(5).fit(data)
    assert (knn.nearness > 0).all() and knn.neighbours.lengths.max() <= 5
    assert (knn.neighbours.values != knn.neighbours.rows).all()
    near, nearness = torch.zeros(20, 5, dtype=torch.int64), torch.zeros(20, 5)  # the table of earlier formats
    place = torch.arange(len(knn.near)) - knn.near_start[knn.neighbours.rows]
    near[knn.neighbours.rows, 4 - place], nearness[knn.neighbours.rows, 4 - place] = knn.near, knn.nearness
    old = ItemKNN(5)
    old.restore({"near": near, "nearness": nearness, "counts": knn.counts})
    assert torch.equal(old.near, knn.near) and torch.equal(old.nearness, knn.nearness)
    assert torch.equal(old.near_start, knn.near_start) and len(old.state_dict()) == len(knn.state_dict())


def test_of_equal_neighbours_the_first_are_taken():
    rows = [(u, i, 1) for u in range(1, 4) for i in range(1, 8)]  # everybody has everything: all cosines are 1
    knn = ItemKNN(3).fit(interactions(rows, 4, 8, rated=False))
    assert [run.tolist() for run in knn.neighbours][1:4] == [[2, 3, 4], [1, 3, 4], [1, 2, 4]]


@pytest.mark.parametrize("name", MAKE)
def test_candidates_in_any_order(name):
    data, _ = random_rows(3)
    baseline, chosen = MAKE[name]().fit(data), torch.tensor([7, 2, 5])
    got = baseline.scorer(chosen)(asked(baseline, torch.tensor([4, 1]))).numpy()
    assert got == pytest.approx(scores(baseline, data)[[4, 1]][:, [6, 1, 4]], abs=1e-6)


@pytest.mark.parametrize("name", MAKE)
def test_a_baseline_recommends_and_evaluates_as_a_learner(name):
    learn, dls = trained(), trained().dls
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nor torch's about its sparse tensors
        baseline = MAKE[name]().fit(learn)
        table = baseline.recommend(k=5)
        result = baseline.evaluate(k=5, n_boot=20)
    assert list(table) == ["user", "title", "rank", "score"] and len(table) == 5 * (len(dls.classes["user"]) - 1)
    seen = set(map(tuple, pd.concat([dls.train.items, dls.valid.items])[["user", "title"]].to_numpy()))
    assert not seen & set(map(tuple, table[["user", "title"]].to_numpy()))
    assert (table.groupby("user")["score"].diff().dropna() <= 0).all()
    assert list(result.index) == [f"{m}@5" for m in ("HitRate", "Precision", "Recall", "NDCG", "MAP", "MRR")]
    expected = learn.evaluate(k=5, n_boot=2)["popularity"]
    assert result["popularity"].tolist() == pytest.approx(expected[result.index].tolist())
    if name == "popularity":
        assert (result["value"] == result["popularity"]).all()
    else:
        assert (baseline.similar_items(table["title"][0], 3)["similarity"].diff().dropna() <= 0).all()


def test_planted_groups_are_found():
    """Users of two groups, each with items of its own: both item models recommend within the group alone."""
    rng = np.random.default_rng(0)
    rows = [(u, 1 + (u % 2) + 2 * int(i), 1) for u in range(1, 41) for i in rng.choice(10, 6, replace=False)]
    data = interactions(rows, 41, 21, rated=False)
    for baseline in (ItemKNN(20), EASE(50.0)):
        table = baseline.fit(data).recommend(k=4)
        assert ((table["user"] // 10 + table["item"] // 100) % 2 == 1).all()
        assert baseline.similar_items(100, 9)["item"].map(lambda item: (item // 100) % 2).eq(1).all()


def test_what_can_be_fitted_to():
    dls, learn = make_dls(), trained()
    train, valid = dls.train.dataset, dls.valid.dataset
    for data, has_valid in ((dls, True), (learn, True), ((train, valid), True), (Recommender(None, train), False),
                            (train, False)):  # fmt: skip
        baseline = Popularity().fit(data)
        assert torch.equal(baseline.counts, torch.bincount(train.item_idx, minlength=train.n_items).float())
        assert (baseline.recommender.valid is not None) is has_valid
    for data in (dls.train.items, None, (train, valid, train), (train, dls), 3):
        with pytest.raises(TypeError, match="expected CollabDataLoaders, a learner or Interactions, got"):
            Popularity().fit(data)


def test_what_is_refused():
    data, _ = random_rows(1)
    with pytest.raises(ValueError, match="9 items are more than max_items=4, .* users.*filters.min_count.*use ItemKNN"):
        EASE(max_items=4).fit(data)
    for call in (lambda b: b.recommend(), lambda b: b.evaluate(), lambda b: b.similar_items(100, 3)):
        with pytest.raises(ValueError, match=r"this EASE is not fitted; call .fit\(dls\) first"):
            call(EASE())
    for make in (
        lambda: ItemKNN(0),
        lambda: ItemKNN(2.5),
        lambda: ItemKNN(shrink=-1),
        lambda: EASE(0),
        lambda: EASE(-1),
    ):
        with pytest.raises(ValueError, match="must be"):
            make()
    with pytest.raises(TypeError, match="Popularity knows no similar items"):
        Popularity().fit(data).similar_items(100, 3)
    assert issubclass(Popularity, ClosedForm)


def test_ratings_are_events_and_pairs_count_once():
    rated, plain = (interactions([(1, 1, 5), (1, 2, 1), (2, 2, 3), (2, 2, 1)], rated=r) for r in (True, False))
    a, b = (EASE(1.0).fit(data).weights for data in (rated, plain))
    assert torch.equal(a, b)


def test_popularity_counts_rows_as_its_column_does():
    train = interactions([(1, 1, 1), (1, 1, 1), (1, 1, 1), (2, 2, 1), (3, 2, 1)], rated=False)
    valid = interactions([(3, 1, 1), (2, 3, 1)], rated=False)
    table = Popularity().fit((train, valid)).evaluate(k=1, n_boot=2)
    assert table.loc["HitRate@1", ["value", "popularity"]].tolist() == [
        0.5,
        0.5,
    ]  # item 1 leads, with 3 rows of one user


def test_lists_of_candidates_score_each_user_once(monkeypatch):
    data, asked = random_rows(5), []
    ease, scores_of = EASE().fit((data[0], data[0].take([0, 9]))), EASE.scores
    monkeypatch.setattr(EASE, "scores", lambda self, history: asked.append(len(history)) or scores_of(self, history))
    with pytest.warns(CollabWarning):
        table = ease.evaluate(candidates=SampledCandidates(4), metrics="HitRate", n_boot=2)
    assert sum(asked) == table["n"].iloc[0] == 2


# --- published figures -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ncf():
    folder = data_folder() / "ml-1m-ncf"
    if not folder.is_dir():
        pytest.skip(f"no real data: no {folder}")
    train, test = (
        pd.read_csv(folder / f"ml-1m.{part}.rating", sep="\t", header=None, usecols=[0, 1], names=["user", "item"])
        for part in ("train", "test")
    )
    negatives = pd.read_csv(folder / "ml-1m.test.negative", sep="\t", header=None).iloc[:, 1:].to_numpy()
    given = pd.DataFrame({"user": np.repeat(test["user"].to_numpy(), 99), "item": negatives.ravel()})
    data = Interactions.from_df(pd.concat([train, test], ignore_index=True), Columns("user", "item"))
    return (data.take(range(len(train))), data.take(range(len(train), len(data)))), given


@pytest.mark.parametrize(
    ("baseline", "hit_rate", "ndcg"),
    [(Popularity(), 0.4533, 0.2542), pytest.param(EASE(1320), 0.7194, 0.4494, marks=pytest.mark.slow)],
)
def test_published_figures_of_the_ncf_protocol(ncf, baseline, hit_rate, ndcg):
    parts, given = ncf
    table = baseline.fit(parts).evaluate(k=10, metrics=["HitRate", "NDCG"], candidates=given, n_boot=50)
    assert (table["n"] == 6040).all()
    assert table.loc["HitRate@10 (given candidates)", "value"] == pytest.approx(hit_rate, abs=0.002)
    assert table.loc["NDCG@10 (given candidates)", "value"] == pytest.approx(ndcg, abs=0.002)


def test_what_the_recommender_alone_has_is_named():
    model = EASE()
    with pytest.raises(AttributeError, match="'EASE' object has no attribute 'vectors'; its .recommender has"):
        model.vectors("items")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'$"):
        _ = model.nonsense
    assert not hasattr(model, "vectors") and not hasattr(model, "_private")
