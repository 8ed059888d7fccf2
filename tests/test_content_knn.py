"""`ContentKNN`: similarities by tf-idf, BM25 and plain shares, against dense products made by hand."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from collabkit import CollabDataLoaders, ContentKNN, Recommender

N = 40


def dataloaders(n=N, numbers=False, seed=0):
    """Items with tags, and perhaps a vector, of which the last five have no events."""
    rng = np.random.default_rng(seed)
    tags = [[f"t{t}" for t in set((rng.zipf(1.4, rng.integers(0, 6)) % 12).tolist())] for _ in range(n)]
    items = pd.DataFrame(
        {"item": [f"i{j:02}" for j in range(n)], "tags": tags, "vector": list(rng.normal(size=(n, 3)))}
    )
    events = pd.DataFrame({"user": rng.integers(0, 20, 400), "item": items["item"][rng.integers(0, n - 5, 400)].values})
    extra = pd.DataFrame({"user": [0] * 5, "item": items["item"].tail(5)})
    kinds = {"tags": "multi", **({"vector": "dense"} if numbers else {})}
    return CollabDataLoaders.from_dfs(
        events.drop_duplicates(), extra, feedback="implicit", items=items, item_features=kinds
    )


def by_hand(dls, weighting):
    """The similarities of all items `(n, n)` from dense matrices."""
    features, warm = dls.features.items, (dls.data.train.counts("item") > 0).numpy()
    bags, numbers = features.sparse_matrix()
    given, X = features.given.numpy(), bags.toarray().astype(float)
    if weighting is None:
        X = np.c_[X, numbers]
        X = X - X[given].mean(0)
        X /= np.maximum(np.linalg.norm(X, axis=1), 1e-12)[:, None]
        return X @ X.T
    has, met = (X > 0).astype(float), warm & given
    n, n_c, length = met.sum(), has[met].sum(0), has.sum(1)
    if weighting == "tfidf":
        X = has * (np.log((n + 1) / (n_c + 1)) + 1)
        X[:, 0] = 0
        X /= np.maximum(np.linalg.norm(X, axis=1), 1e-12)[:, None]
    else:
        X = has * np.log(1 + (n - n_c + 0.5) / (n_c + 0.5))
        X *= 2.2 / (1 + 1.2 * (0.25 + 0.75 * length / length[met].mean()))[:, None]
        X[:, 0] = 0
    if numbers.shape[1]:
        numbers = (numbers - numbers[given].mean(0)) * given[:, None]
        X = np.c_[X, numbers / np.sqrt((numbers[given] ** 2).sum(1).mean())]
        if weighting == "tfidf":
            X /= np.maximum(np.linalg.norm(X, axis=1), 1e-12)[:, None]
    return X @ X.T


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("weighting", ["tfidf", "bm25", None])
def test_neighbours_are_those_of_dense_products(weighting, numbers):
    dls = dataloaders(numbers=numbers)
    model = ContentKNN(k=4, weighting=weighting).fit(dls)
    similarity, warm = by_hand(dls, weighting), (dls.data.train.counts("item") > 0).numpy()
    assert not warm[-5:].any()
    similarity[:, ~warm] = -np.inf
    np.fill_diagonal(similarity, -np.inf)
    for item, (columns, values) in enumerate(
        zip(model.neighbours, model.neighbours.weight.split(model.neighbours.lengths.tolist()), strict=True)
    ):
        want = np.sort(similarity[item])[::-1][:4]
        if not (numbers or weighting is None):
            want = want[want > 1e-9]
        got = np.sort(values.numpy())[::-1]
        assert (
            np.allclose(got, want[np.abs(want) > 1e-9][: len(got)], atol=1e-5)
            and len(got) >= (np.abs(want) > 1e-6).sum()
        )
        assert np.allclose(similarity[item, columns.numpy()], values, atol=1e-5)


def test_a_rare_tag_counts_for_more():
    events = pd.DataFrame({"user": range(12), "item": [f"i{j}" for j in range(12)]})
    tags = ["common|rare", "rare", "common"] + ["common"] * 9
    items = pd.DataFrame({"item": events["item"], "tags": tags})
    options = {"feedback": "implicit", "items": items, "item_features": {"tags": "multi"}, "valid_pct": 0}
    dls = CollabDataLoaders.from_df(events, **options)
    for weighting in ("tfidf", "bm25"):
        assert ContentKNN(weighting=weighting).fit(dls).similar_items("i0")["item"].iloc[0] == "i1"


def test_no_matrix_of_items_by_tags_is_made_dense(monkeypatch):
    """Nor one of items by items, where there are categories alone."""
    monkeypatch.setattr(sparse.csr_matrix, "toarray", lambda *_, **__: pytest.fail("a sparse matrix was made dense"))
    dls = dataloaders(400)
    tracemalloc.start()
    ContentKNN().fit(dls)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("weighting", ["tfidf", "bm25", None])
def test_an_artefact_answers_the_same_and_keeps_the_weighting(weighting, tmp_path):
    model = ContentKNN(k=7, weighting=weighting).fit(dataloaders())
    model.export(tmp_path / "a")
    again = Recommender.load(tmp_path / "a")
    assert again.model.config() == {"k": 7, "weighting": weighting}
    assert torch.equal(again.model.nearness, model.nearness)


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="weighting must be None, 'tfidf' or 'bm25', got 'idf'"):
        ContentKNN(weighting="idf")
