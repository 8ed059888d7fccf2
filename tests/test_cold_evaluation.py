"""Evaluation of new items and users: `by='cold'`, and items that compete among themselves (`candidates=[...]`)."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_learner
from test_evaluate import interactions, model_of

from collabkit import CollabDataLoaders, CollabWarning, Recommender, collab_learner, splits
from collabkit.evaluate import compare
from collabkit.evaluate.candidates import SampledCandidates
from collabkit.evaluate.references import UserItemBias
from collabkit.models import EASE, Popularity

# --- warm and cold rows apart ----------------------------------------------------------------------------------------


@pytest.fixture
def half_cold():
    """Users 10 and 20 and items 100 and 200 have training rows, user 30 and items 300 to 500 have none."""
    train = interactions([(1, 1, 5), (1, 2, 3), (2, 1, 4)])
    valid = interactions([(3, 5, 5), (1, 3, 4), (2, 2, 5), (2, 4, 3), (3, 1, 4)])
    table = torch.zeros(4, 6)
    table[1] = torch.tensor([0.0, 9, 9, 3, 2, 1])  # unseen 3, 4, 5: item 3 is first
    table[2] = torch.tensor([0.0, 9, 3, 4, 5, 1])  # unseen 2 to 5: item 2 is third, item 4 first
    table[3] = torch.tensor([0.0, 2, 1, 1, 0, 4])  # item 1 is second, item 5 first
    return Recommender(model_of(table), train, valid)


def test_warm_and_cold_parts_by_hand(half_cold):
    got = half_cold.evaluate(by="cold", metrics=["MRR", "Recall"], k=2, threshold=3, n_boot=20)
    parts = ["warm", "cold item", "cold user", "cold both"]
    assert list(got.index) == [(part, name) for part in parts for name in ("MRR@2", "Recall@2")]
    assert got.index.names == ["part", "metric"]
    mrr = got.xs("MRR@2", level="metric")
    assert mrr["value"].tolist() == [0, 1, 0.5, 1]
    # Popularity: items 1, 2 have 2 and 1 rows, the others tie at none: user 1 rank 3, user 2 rank 4, user 3 rank 5.
    assert mrr["popularity"].tolist() == [1, 0, 1, 0]
    assert mrr["n"].tolist() == [1, 2, 1, 1]
    # Of user 2's two relevant items each is all there is in its part.
    assert got.xs("Recall@2", level="metric")["value"].tolist() == [0, 1, 1, 1]


def test_rating_errors_of_the_parts_by_hand(half_cold):
    got = half_cold.evaluate(by="cold", threshold=3, n_boot=20)
    assert [metric for part, metric in got.index if part == "warm"][:3] == ["RMSE", "MAE", "HitRate@10"]
    parts = ["warm", "cold item", "cold user", "cold both"]
    assert got.index.get_level_values("part").tolist() == [part for part in parts for _ in range(8)]
    rmse, mae = got.xs("RMSE", level="metric"), got.xs("MAE", level="metric")
    # errors: warm 3 - 5; cold item 3 - 4 and 5 - 3; cold user 2 - 4; cold both 4 - 5
    assert rmse["value"].tolist() == pytest.approx([2, np.sqrt(2.5), 2, 1])
    assert mae["value"].tolist() == [2, 1.5, 2, 1]
    assert mae["global mean"].tolist() == [1, 0.5, 0, 1]  # which is 4
    assert mae["n"].tolist() == [1, 2, 1, 1]
    assert mae.loc["cold item", ["low", "high"]].tolist() == [1, 2]  # of two users, one error each
    bias = UserItemBias(half_cold.train).predict(torch.tensor([2, 3]), torch.tensor([2, 5]))
    assert mae.loc[["warm", "cold both"], "user+item bias"].tolist() == pytest.approx((5 - bias).abs().tolist())
    assert got.loc[("warm", "MRR@10"), ["value", "popularity"]].tolist() == pytest.approx([1 / 3, 1])


def test_unknown_ids_are_cold(half_cold):
    rows = [(20, 500, 4.0), (99, 100, 2.0), (10, 999, 5.0), (99, 999, 1.0), (30, 999, 1.0)]
    rows = pd.DataFrame(rows, columns=["user", "item", "rating"])
    with pytest.warns(CollabWarning, match="leave out 4 relevant rows"):
        got = half_cold.evaluate(rows, by="cold", threshold=0, n_boot=2)
    assert got.xs("MAE", level="metric")["n"].to_dict() == {"cold item": 2, "cold user": 1, "cold both": 2}
    assert got.xs("MRR@10", level="metric")["n"].to_dict() == {"cold item": 1}


def test_parts_add_up_to_the_whole():
    frame = make_learner().dls.train.items
    dls = CollabDataLoaders.from_df(frame, splitter=splits.cold_items(0.2, seed=1), bs=256, seed=0)
    learn = collab_learner(dls, 4, y_range=(0.5, 5.5), seed=0)
    whole, got = learn.evaluate(n_boot=2), learn.evaluate(by="cold", n_boot=2)
    assert list(got.index.get_level_values("part").unique()) == ["cold item"]  # all of the part's items are new
    pd.testing.assert_frame_equal(got.loc["cold item"], whole)
    rows = pd.concat([dls.valid.items.head(200), dls.train.items.head(300)])
    with pytest.warns(CollabWarning, match="their figures are too good"):
        whole, got = learn.evaluate(rows, n_boot=2), learn.evaluate(rows, by="cold", n_boot=2)
    rmse = got.xs("RMSE", level="metric")
    assert rmse["n"].to_dict() == {"warm": 300, "cold item": 200}
    assert (rmse["value"] ** 2 * rmse["n"]).sum() / 500 == pytest.approx(whole.loc["RMSE", "value"] ** 2)
    assert list(got) == list(whole)


def test_events_without_ratings_and_parts_without_rows():
    train, test = interactions([(1, 1, 1), (2, 2, 1)], rated=False), interactions([(3, 2, 1)], rated=False)
    rec = Recommender(model_of(torch.zeros(4, 6)), train, test)
    got = rec.evaluate(by="cold", n_boot=2)
    assert list(got.index.unique("part")) == ["cold user"] and "RMSE" not in got.index.unique("metric")
    rated = Recommender(model_of(torch.zeros(4, 6)), interactions([(1, 1, 1)]), interactions([(1, 2, 1)]))
    none = rated.evaluate(by="cold", metrics="MRR", threshold=9)  # nothing is relevant
    assert none.empty and none.index.names == ["part", "metric"]
    assert list(rated.evaluate(by="cold", threshold=9).index) == [("cold item", "RMSE"), ("cold item", "MAE")]


def test_metrics_of_lists_have_no_cold_part(half_cold):
    with pytest.raises(ValueError, match="Gini describe.* users' lists; by='cold' has none"):
        half_cold.evaluate(by="cold", metrics=["MRR", "Gini"])


# --- given items compete among themselves ----------------------------------------------------------------------------


@pytest.fixture
def rec():
    """Item 100 is best for all, then 200, ...; user 10 has seen 100, held out 500; user 20 has 200 and 300."""
    train, test = (interactions(rows, 4, 7, rated=False) for rows in ([(1, 1, 1), (2, 2, 1)], [(1, 5, 1), (2, 3, 1)]))
    return Recommender(model_of(torch.arange(7.0).flip(0).repeat(4, 1)), train, test)


def test_items_among_themselves_by_hand(rec):
    names = ["MRR", "AUC", "Coverage", "Gini", "ARP"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = rec.evaluate(candidates=[500, 300, 200, 600], k=[1, 3], metrics=names, n_boot=2)
    assert list(got.index)[:3] == ["MRR@1 (among 4 items)", "MRR@3 (among 4 items)", "AUC (among 4 items)"]
    got = got.set_axis([name.split(" ")[0] for name in got.index])
    # User 1: 200, 300 are ahead of 500. User 2 has seen 200: 300 is first of three.
    assert got.loc[["MRR@1", "MRR@3"], "value"].tolist() == pytest.approx([1 / 2, (1 / 3 + 1) / 2])
    assert got.loc["AUC", "value"] == pytest.approx((1 / 3 + 1) / 2)
    # Popularity: 200 has one row, the others none: user 1's is the last of 4, user 2's of 3.
    assert got.loc[["MRR@1", "MRR@3", "AUC"], "popularity"].tolist() == pytest.approx([0, 1 / 6, 0])
    # The first of the lists are 200 and 300: half of the candidates, listed 0, 0, 1 and 1 times.
    assert got.loc["Coverage@1", ["value", "popularity"]].tolist() == [0.5, 0.5]
    assert got.loc["Gini@1", "value"] == (1 * 1 + 3 * 1) / (4 * 2)
    assert got.loc["ARP@1", ["value", "popularity"]].tolist() == [0.5, 0.5]
    assert got.loc["Coverage@3", "value"] == 1  # 200, 300, 500 and 300, 500, 600
    assert (got["n"] == 2).all()
    assert rec.evaluate(candidates=[500, 300], k=9, metrics="Coverage", n_boot=2)["value"].tolist() == [1]


def test_any_sequence_of_ids(rec):
    ids = [200, 300, 500, 600]
    expected = rec.evaluate(candidates=ids, metrics="MRR", n_boot=2)
    for given in (tuple(ids), np.array(ids), pd.Series(ids, index=list("abcd")), pd.Index(ids), [600, *ids, 200]):
        assert rec.evaluate(candidates=given, metrics="MRR", n_boot=2).equals(expected)
    everything = rec.evaluate(candidates=rec.items.ids, metrics=["MRR", "Gini"], n_boot=2)
    plain = rec.evaluate(metrics=["MRR", "Gini"], n_boot=2)
    assert everything.index.tolist() == [f"{name} (among 6 items)" for name in plain.index]
    np.testing.assert_array_equal(everything, plain)


def test_relevant_pairs_with_other_items_are_left_out_and_counted(rec):
    with pytest.warns(CollabWarning, match="1 of 2 relevant pairs have an item that is none of the 2 candidates") as w:
        got = rec.evaluate(candidates=[300, 600], metrics="MRR", n_boot=2)
    assert got[["value", "n"]].to_numpy().tolist() == [[1, 1]] and w[0].filename == __file__
    with pytest.raises(
        ValueError, match="2 of 2 relevant pairs have an item that is none of the 2 candidates: nothing"
    ):
        rec.evaluate(candidates=[100, 400])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([300, 999], KeyError, r"1 unknown 'item' id\(s\): 999"),
        (["300", "500"], TypeError, "'item' ids are of type number"),
        ([300, 300], ValueError, "must hold at least 2 different items to compete, got 1"),
        ([], ValueError, "must hold at least 2 different items to compete, got 0"),
        ([300, None], ValueError, "missing"),
        ("300", TypeError, "candidates must be None .* list of item ids.*, got str"),
        ({300: 1}, TypeError, "candidates must be None .*, got dict"),
    ],
)
def test_candidates_that_are_none(rec, given, error, message):
    with pytest.raises(error, match=message):
        rec.evaluate(candidates=given)


def test_bad_candidates_are_found_where_nothing_is_relevant():
    rec = Recommender(model_of(torch.zeros(4, 6)), interactions([(1, 1, 1)]), interactions([(1, 2, 1)]))
    with pytest.raises(KeyError, match="unknown"):
        rec.evaluate(candidates=[100, 999], threshold=9)
    got = rec.evaluate(candidates=[100, 200], threshold=9, metrics="MRR")
    assert got.empty and list(rec.evaluate(candidates=SampledCandidates(3), threshold=9).index) == ["RMSE", "MAE"]


@pytest.mark.parametrize("kind", ["dot", "nn"])
def test_figures_are_those_of_a_table_of_all_pairs(kind):
    learn = make_learner(kind)
    rec, valid = learn.recommender, learn.dls.valid.dataset
    ids = rec.items.ids[::3]
    pairs = pd.MultiIndex.from_product([rec.users.ids, ids], names=["user", "title"]).to_frame(index=False)
    among = valid.take(np.isin(valid.item_idx.numpy(), rec.items.encode(ids)))
    options = {"metrics": ["HitRate", "NDCG", "AUC", "Novelty", "ARP"], "k": [5, 60], "n_boot": 20}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        got = learn.evaluate(candidates=ids, **options)
        table = Recommender(learn.model, rec.train, among).evaluate(candidates=pairs, **options)
    np.testing.assert_allclose(got, table, atol=1e-6)
    with pytest.warns(CollabWarning, match="are left out"):
        task = rec.task(candidates=ids)
    assert task.allowed is None and len(task.candidates) == len(ids)  # no pair of each user and item is made


def test_only_the_candidates_are_scored(rec, monkeypatch):
    asked, vectors = [], type(rec.model).item_vectors
    monkeypatch.setattr(type(rec.model), "item_vectors", lambda self, idx: asked.append(idx) or vectors(self, idx))
    rec.evaluate(candidates=[300, 500], metrics="MRR", n_boot=2)
    assert [idx.tolist() for idx in asked] == [[3, 5]]


def test_with_parts_and_in_comparisons(half_cold):
    with pytest.warns(CollabWarning, match="2 of 5 relevant pairs"):  # those with items 100 and 200
        got = half_cold.evaluate(candidates=[300, 400, 500], by="cold", metrics="MRR", threshold=3, n_boot=2)
    # Each is the first of three; for popularity the three tie.
    assert list(got.index.unique("part")) == ["cold item", "cold both"]
    assert got["value"].tolist() == [1, 1] and got["popularity"].tolist() == pytest.approx([1 / 3, 1 / 3])
    learn = make_learner()
    ids = learn.recommender.items.ids[:50]
    with pytest.warns(CollabWarning, match="none of the 50 candidates and are left out"):
        table = compare([learn, Popularity(), EASE(20.0)], candidates=ids, metrics=["NDCG", "Gini"], n_boot=2)
        alone = learn.evaluate(candidates=ids, metrics=["NDCG", "Gini"], n_boot=2)
    name = "NDCG@10 (among 50 items)"
    assert table.loc[(name, "CollFilter"), "value"] == alone.loc[name, "value"]
    assert table.loc[(name, "popularity"), "value"] == pytest.approx(alone.loc[name, "popularity"])
