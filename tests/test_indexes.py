"""Indexes of faiss: what they find, that no list is short, and which one is picked, kept and stored."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_dls, ratings, silence
from hypothesis import given
from hypothesis import strategies as st

from collabkit import EASE, NCF, Recommender, TwoTower, collab_learner
from collabkit.data.runs import Runs
from collabkit.retrieval import ExactIndex
from collabkit.retrieval.faiss_index import EFFORTS, FaissIndex, TooSlowError
from collabkit.retrieval.pick_index import pick_index

faiss = pytest.importorskip("faiss")


def _vectors(n, d=8, seed=0, spread=0.0):
    """`(n, d)` vectors, whose lengths differ by `spread`."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(n, d)) * np.exp(spread * rng.normal(size=(n, 1)))
    return torch.from_numpy(found.astype(np.float32))


def _hidden(b, n, most, seed=0):
    rng = np.random.default_rng(seed)
    runs = [np.sort(rng.permutation(np.arange(1, n))[: rng.integers(0, most + 1)]) for _ in range(b)]
    rows = np.repeat(np.arange(b), [len(run) for run in runs])
    return Runs.group(rows, np.concatenate([*runs, np.zeros(0, int)]), b, width=n)


def _recall(found, true):
    hits = (true[:, :, None] == found[:, None, :]).any(2) & (true > 0)
    return float(hits.sum() / (true > 0).sum())


@given(st.integers(0, 10_000), st.integers(40, 120), st.integers(1, 30), st.sampled_from([0, 3, 38, 119]))
def test_flat_search_is_exact_search_whatever_is_hidden(seed, n, k, most):
    vectors, queries, hidden = _vectors(n, seed=seed), _vectors(9, seed=seed + 1), _hidden(9, n, min(most, n - 1), seed)
    found, true = FaissIndex(vectors).search(queries, k, hidden), ExactIndex(vectors).search(queries, k, hidden)
    assert torch.equal(found[0], true[0]) and torch.allclose(found[1], true[1], atol=1e-5)


@pytest.mark.parametrize("kind", EFFORTS)
@pytest.mark.parametrize("most", [0, 30, 395, 399])
def test_no_list_is_short_and_nothing_hidden_is_in_one(kind, most):
    n, k = 400, 10
    vectors, queries, hidden = _vectors(n, spread=0.5), _vectors(40, seed=1), _hidden(40, n, most)
    items, scores = FaissIndex(vectors, kind, EFFORTS[kind][0]).search(queries, k, hidden)
    left = torch.minimum(n - 1 - hidden.lengths, torch.tensor(k))
    assert torch.equal((items > 0).sum(1), left)
    for row, run in zip(items, hidden, strict=True):
        assert not set(row.tolist()) & set(run.tolist()) and len(set(row[row > 0].tolist())) == int((row > 0).sum())
    assert torch.equal(scores == -torch.inf, items == 0)
    products = torch.einsum("bd,bkd->bk", queries, vectors[items])
    assert torch.allclose(scores[items > 0], products[items > 0], atol=1e-5)
    assert bool((scores[:, 1:] <= scores[:, :-1]).all())
    true = ExactIndex(vectors).search(queries, k, hidden)[0]
    assert _recall(items, true) > 0.6


def test_the_nearest_of_equal_lengths_have_the_largest_products():
    """A tower of cosines with a bias an item: the graph finds them, though one number of all vectors stands out."""
    unit = torch.nn.functional.normalize(_vectors(3000, 16), dim=1)
    vectors = torch.cat([unit, _vectors(3000, 1, seed=2)], dim=1)
    queries = torch.cat([10 * torch.nn.functional.normalize(_vectors(200, 16, seed=1), dim=1), torch.ones(200, 1)], 1)
    true = ExactIndex(vectors).search(queries, 10)[0]
    assert _recall(FaissIndex(vectors, "hnsw of equal lengths", 256).search(queries, 10)[0], true) > 0.95


def test_an_allow_list_is_searched_exactly():
    vectors, queries, hidden = _vectors(300), _vectors(20, seed=1), _hidden(20, 300, 50)
    for size in (3, 100):
        allowed = torch.randperm(299)[:size].sort().values + 1
        found = FaissIndex(vectors, "hnsw", 32).search(queries, 10, hidden, allowed)
        true = ExactIndex(vectors).search(queries, 10, hidden, allowed)
        width = true[0].shape[1]
        assert torch.equal(found[0][:, :width], true[0]) and not bool(found[0][:, width:].any())


def test_what_takes_too_long_to_build_is_left_out():
    with pytest.raises(TooSlowError, match="building takes more than"):
        FaissIndex(_vectors(3000), "hnsw", seconds=0)
    picked = pick_index(_vectors(3000), _vectors(50, seed=1), None, seconds=0)
    assert picked.report.loc["hnsw", "note"].startswith("building takes") and picked.report.loc["exact", "recall"] == 1


def test_the_quickest_that_finds_enough_is_picked(monkeypatch):
    """By the figures alone: times are given here, so that the test does not depend on the machine."""
    from collabkit.retrieval import pick_index as module

    times = {"ExactIndex": 9.0, "flat": 8.0, "ivf": 1.0, "hnsw": 2.0, "hnsw of equal lengths": 3.0}
    name_of = lambda index: getattr(index, "kind", type(index).__name__)  # noqa: E731
    monkeypatch.setattr(module, "_times", lambda index, *_: dict.fromkeys(("ms", "ms_alone"), times[name_of(index)]))
    vectors, queries = _vectors(2000), _vectors(100, seed=1)
    picked = module.pick_index(vectors, queries, None, min_recall=0.9)
    assert picked.kind == "ivf" and picked.recall >= 0.9 and "ivf takes 1 ms" in picked.report.attrs["why"]
    times["ivf"] = 2.5
    assert module.pick_index(vectors, queries, None, min_recall=0.9).kind == "hnsw"
    times["ExactIndex"] = 2.9  # less than half as long again
    picked = module.pick_index(vectors, queries, None, min_recall=0.9)
    assert picked.kind == "exact" and picked.index is None and "is fast enough" in picked.report.attrs["why"]
    assert module.pick_index(vectors, queries, None, min_recall=0.9, exact=False).kind == "hnsw"
    with pytest.raises(ValueError, match="no index finds min_recall=1.1"):
        module.pick_index(vectors, queries, None, min_recall=1.1, exact=False)


@pytest.fixture(scope="module")
def tower():
    df = ratings().drop(columns="rating")
    dls = make_dls(df, rating_name=None, feedback="implicit")
    learn = silence(collab_learner(dls, 8, model=TwoTower, item_bias=True, loss_func="bpr", seed=0))
    learn.fit(3, 1e-2)
    return learn


def _lists(rec):
    return rec.recommend(k=8)


def test_a_recommender_keeps_and_stores_what_it_measured(tower, tmp_path):
    rec = Recommender(tower.model, tower.dls.data)
    with pytest.raises(ValueError, match="no index was measured"):
        rec.index_report()
    exact = _lists(rec)
    recall = rec.use_index("faiss", min_recall=0.9)
    table = rec.index_report()
    assert list(table.index) == ["exact", *EFFORTS] and 0.9 <= recall <= 1
    assert table.attrs["chosen"] in EFFORTS and table.attrs["n_items"] == 150
    assert {"effort", "recall", "short", "ms", "ms_alone", "build_seconds", "note"} == set(table.columns)
    mine = _lists(rec)
    assert len(mine) == len(exact)
    both = mine.merge(exact, on=["user", "title"])
    assert len(both) / len(exact) >= 0.88 and np.allclose(both["score_x"], both["score_y"], atol=1e-5)
    folder = rec.save(tmp_path / "artefact")
    loaded = Recommender.load(folder, index="faiss")
    pd.testing.assert_frame_equal(loaded.index_report(), table, check_dtype=False)
    assert loaded.index_report().attrs == table.attrs
    pd.testing.assert_frame_equal(_lists(loaded), mine)
    pd.testing.assert_frame_equal(_lists(Recommender.load(folder)), exact)  # as asked for
    loaded.save(folder)  # an artefact with an index is replaced by another one
    assert (folder / "index.json").exists()


def test_an_index_is_stored_when_it_is_first_asked_for(tower, tmp_path, monkeypatch):
    folder = Recommender(tower.model, tower.dls.data).save(tmp_path / "artefact")
    first = Recommender.load(folder, index="auto")
    told = json.loads((folder / "index.json").read_text())
    assert told["kind"] == first.index_report().attrs["chosen"]
    from collabkit.serve import indexed

    monkeypatch.setattr(indexed, "pick", lambda *a, **k: pytest.fail("measured again"))
    again = Recommender.load(folder, index="auto")
    assert again.index_report().attrs == first.index_report().attrs
    pd.testing.assert_frame_equal(_lists(again), _lists(first))


@pytest.mark.parametrize("spoil", ["index", "table", "json"])
def test_a_damaged_index_is_refused(tower, tmp_path, spoil, monkeypatch):
    from collabkit.retrieval import pick_index as module

    monkeypatch.setattr(module, "EFFORTS", {"hnsw": (512,)})
    rec = Recommender(tower.model, tower.dls.data)
    rec.use_index("faiss")
    folder = rec.save(tmp_path / "artefact")
    file = folder / ("index.faiss" if spoil == "index" else "index.json")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content) if spoil == "index" else b"{" if spoil == "json" else content)
    if spoil == "table":
        told = json.loads(json.dumps(json.loads((rec.save(tmp_path / "other") / "index.json").read_text())))
        told["sha256"] = "0" * 64
        file.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="remove it, and measure again"):
        Recommender.load(folder, index="faiss")
    assert len(_lists(Recommender.load(folder)))


def test_users_that_are_folded_in_leave_the_index_and_training_does_not(tower):
    made = []

    def make(vectors):
        made.append(vectors)
        return ExactIndex(vectors)

    dls = make_dls(ratings().drop(columns="rating"), rating_name=None, feedback="implicit")
    learn = silence(collab_learner(dls, 8, loss_func="bpr", seed=0))
    learn.fit(1, 1e-2)
    rec = learn.recommender
    rec.use_index(make, k=5)
    titles = dls.data.items.ids[:6]
    learn.fold_in(pd.DataFrame({"user": [90_001] * 6, "title": titles}))
    assert not set(rec.recommend([90_001], k=5)["title"]) & set(titles) and len(made) == 1
    learn.fit(1, 1e-2)
    learn.recommend(k=5)
    assert len(made) == 2


def test_what_cannot_be_searched_is_refused_in_words(tower, tmp_path, monkeypatch):
    dls = tower.dls
    with pytest.raises(ValueError, match="an index is 'auto', 'faiss'"):
        tower.recommender.use_index("annoy")
    network = silence(collab_learner(dls, model=NCF, n_factors=4))
    network.fit(1)
    for model in (network, EASE().fit(dls)):
        with pytest.raises(TypeError, match="not a dot product"):
            model.recommender.use_index("auto")
    folder = Recommender(tower.model, dls.data).save(tmp_path / "artefact")
    with pytest.raises(ValueError, match="index must be one of 'exact', 'auto', 'faiss'"):
        Recommender.load(folder, index="flat")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"collabkit\[faiss\]"):
        Recommender.load(folder, index="auto")
