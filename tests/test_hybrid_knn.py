"""`HybridKNN`: its similarities by hand, what it knows of items that nobody has met, what it refuses."""

import numpy as np
import pandas as pd
import pytest
import torch

from collabkit import CollabDataLoaders, ContentKNN, Features, HybridKNN, ItemKNN, Recommender, splits

N_ITEMS, N_GROUPS = 60, 4


def table(seed=0) -> pd.DataFrame:
    """Users who stay within one of four groups of items."""
    rng = np.random.default_rng(seed)
    rows = [(user, N_GROUPS * j + user % N_GROUPS) for user in range(80) for j in rng.choice(15, 6, replace=False)]
    return pd.DataFrame(rows, columns=["user", "item"])


def films() -> pd.DataFrame:
    """Each item has the tag of its group and one of five that tell nothing, and a number."""
    rng = np.random.default_rng(1)
    tags = [f"group {j % N_GROUPS}|any {rng.integers(5)}" for j in range(N_ITEMS)]
    return pd.DataFrame({"item": range(N_ITEMS), "tags": tags, "size": rng.normal(size=N_ITEMS)})


def dataloaders(splitter=None, **more):
    options = {"feedback": "implicit", "seed": 0, "items": films(), "item_features": {"tags": "multi"}, **more}
    splitter = splits.random_split(0.2, seed=0) if splitter is None else splitter
    return CollabDataLoaders.from_df(table(), user_name="user", item_name="item", splitter=splitter, **options)


@pytest.mark.parametrize("kinds", [{"tags": "multi"}, {"tags": "multi", "size": "numeric"}, {"size": "numeric"}])
@pytest.mark.parametrize("prior", [0.0, 3.0])
def test_similarities_by_hand(kinds, prior):
    dls = dataloaders(item_features=kinds)
    model, data = HybridKNN(k=1000, prior=prior, l2=0.5).fit(dls), dls.data
    R = torch.zeros(data.n_users, data.n_items).double()
    R[data.train.user_idx, data.train.item_idx] = 1
    n_i, n_u = R.sum(0), R.sum(1).clamp(min=1)
    C = (R / n_u[:, None]).T @ R / (n_i[:, None] * n_i).sqrt().clamp(min=1)
    C.fill_diagonal_(0)
    bags, numbers = data.features.items.sparse_matrix()
    there = (bags.toarray() > 0).astype(float)
    having = there[(n_i > 0).numpy()].sum(0)
    tfidf = there * (np.log((int((n_i > 0).sum()) + 1) / (having + 1)) + 1)
    tfidf[:, :1] = 0  # of nothing
    tfidf /= np.maximum(np.sqrt((tfidf**2).sum(1, keepdims=True)), 1e-9)
    size = np.sqrt((numbers**2).sum(1).mean()) if numbers.size else 1
    X = torch.from_numpy(np.hstack([tfidf, numbers / size, np.ones((data.n_items, 1))])).double()
    known = n_i / (n_i + prior).clamp(min=1e-9)
    slopes = torch.linalg.solve(X.T @ (known[:, None] * X) + 0.5 * torch.eye(X.shape[1]), X.T @ (known[:, None] * C))
    exact = known[:, None] * C + (1 - known[:, None]) * (X @ slopes)
    exact.fill_diagonal_(0)
    exact = exact.clamp(min=0)
    found = model.item_similarity(torch.arange(data.n_items)).clamp(min=0)
    assert torch.allclose(found.double()[1:], exact[1:], atol=1e-6)
    few = HybridKNN(k=3, prior=prior, l2=0.5).fit(dls).neighbours
    assert int(few.lengths.max()) == 3 and bool((few.weight > 0).all())
    assert np.allclose(few.of([5]).weight.sort().values, exact[5].sort().values[-3:], atol=1e-6)


def test_it_knows_items_that_nobody_has_met_and_others_better(tmp_path):
    dls = dataloaders(splits.cold_items(0.2, seed=0))
    cold = dls.valid.items["item"].unique()
    model = HybridKNN().fit(dls)
    ndcg = lambda model: model.evaluate(metrics="NDCG", candidates=cold, n_boot=1)["value"].item()  # noqa: E731
    assert ndcg(model) > 0.7 and ndcg(model) > ndcg(ContentKNN().fit(dls)) > ndcg(ItemKNN().fit(dls))
    warm = dataloaders()
    figures = [kind().fit(warm).evaluate(metrics="NDCG", n_boot=1)["value"].item() for kind in (HybridKNN, ItemKNN)]
    assert figures[0] > figures[1]
    back = Recommender.load(model.export(tmp_path / "model"))
    lists = model.recommend(k=5)
    assert back.recommend(k=5).equals(lists)
    assert model.recommend(history=[1, 5], k=3)["item"].mod(N_GROUPS).eq(1).all()
    why = model.recommender.why(history=[1, 5], item=9)
    assert why.attrs["exact"] and why.loc[why["part"] == "history", "share"].sum() == pytest.approx(why.attrs["score"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": -1}, "prior must be at least 0"),
        ({"l2": 0}, "l2 must be a number above 0, got 0"),
        ({"k": 0}, "k must be"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        HybridKNN(**options)


def test_features_are_needed(monkeypatch):
    plain = CollabDataLoaders.from_df(table(), user_name="user", item_name="item", feedback="implicit", seed=0)
    with pytest.raises(ValueError, match="HybridKNN needs item features"):
        HybridKNN().fit(plain)
    given = Features.from_df(films(), plain.data.items, {"tags": "multi"})
    assert HybridKNN(given).fit(plain).recommend([3], k=1)["item"].item() % N_GROUPS == 3
    monkeypatch.setattr("collabkit.models.hybrid_knn.MAX_COLUMNS", 3)
    with pytest.raises(ValueError, match="10 are more than 3"):
        HybridKNN().fit(dataloaders())
