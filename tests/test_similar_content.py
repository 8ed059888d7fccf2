"""`similar_items(by='content')`: neighbours by features alone."""

import numpy as np
import pandas as pd
import pytest

from collabkit import (
    CollabDataLoaders,
    ContentKNN,
    HybridKNN,
    ItemKNN,
    Recommender,
    Text,
    collab_learner,
    datasets,
    splits,
)

ITEMS = pd.DataFrame({
    "item": list("abcdefg"),
    "tags": ["x|y", "x", "y|x", "z", "z|x", "", "y"],
    "year": [1990, 1990, 1990, 2000, 2001, 1995, 1991.0],
})  # fmt: skip


def dataloaders(**more):
    rng = np.random.default_rng(0)
    events = pd.DataFrame({"user": np.repeat(np.arange(20), 3), "item": rng.choice(list("abcdef"), 60)})
    options = {"items": ITEMS, "item_features": {"tags": "multi", "year": "numeric"}, "seed": 0, **more}
    return CollabDataLoaders.from_df(events.drop_duplicates(), feedback="implicit", **options)


@pytest.mark.parametrize("kinds", [["tags"], ["year"], ["tags", "year"]])
def test_cosines_by_hand(kinds):
    dls = dataloaders(item_features={name: {"tags": "multi", "year": "numeric"}[name] for name in kinds})
    bags, numbers = dls.data.features.items.sparse_matrix()
    there = (bags.toarray() > 0).astype(float)
    there[:, :1] = 0
    known = dls.data.features.items.given.numpy()
    X = there * (np.log((known.sum() + 1) / (there[known].sum(0) + 1)) + 1)
    X /= np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)
    if numbers.shape[1]:
        numbers = numbers - numbers[known].mean(0)
        X = np.hstack([X, numbers / np.sqrt((numbers[known] ** 2).sum(1).mean())])
    X /= np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)
    cosines = pd.Series((X @ X[dls.data.items.encode(["a"])[0]])[1:], dls.data.items.ids).drop("a")
    table = HybridKNN().fit(dls).similar_items("a", k=len(cosines), by="content")
    assert np.allclose(table["similarity"], cosines.sort_values(ascending=False), atol=1e-5)
    assert np.allclose(table["similarity"], cosines[table["item"]], atol=1e-5)


def test_every_model_with_features_answers_also_for_new_items_and_from_an_artefact(tmp_path):
    learn = collab_learner(dataloaders(), 4, loss_func="bpr", seed=0)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1)
    want = ContentKNN().fit(dataloaders()).similar_items(["a", "d"], k=3, by="content")
    assert learn.similar_items(["a", "d"], k=3, by="content").equals(want)
    learn.add_items(pd.DataFrame({"item": ["new"], "tags": ["x|y"], "year": [1990.0]}))
    assert learn.similar_items("a", k=2, by="content")["item"].isin(["c", "new"]).all()
    back = Recommender.load(learn.export(tmp_path / "model"))
    for asked in ("new", ["a", "new"]):
        assert back.similar_items(asked, k=3, by="content").equals(learn.similar_items(asked, k=3, by="content"))
    assert not back.similar_items("a", k=3).equals(back.similar_items("a", k=3, by="content"))


def test_what_an_encoder_sees_is_content():
    data = datasets.synthetic_content(n_users=60, n_items=40, n_events=8, seed=0)
    columns = {"title": Text("cnn")}
    dls = CollabDataLoaders.from_df(data.events, feedback="implicit", items=data.items, item_features=columns, seed=0,
                                    splitter=splits.cold_items(0.2, seed=0))  # fmt: skip
    learn = collab_learner(dls, 4, loss_func="bpr", seed=0)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1)
    name, item = dls.data.items.name, data.items["item"].iloc[0]
    found = learn.add_items(data.items.iloc[[0]].assign(**{name: "twin"})).similar_items(item, k=1, by="content")
    assert found[name].item() == "twin" and found["similarity"].item() == pytest.approx(1, abs=1e-5)
    with pytest.raises(TypeError, match=r"\['title'\] are texts or pictures"):
        ItemKNN().fit(dls).similar_items(item, by="content")


def test_what_cannot_be_compared_is_refused():
    dls = dataloaders()
    model = HybridKNN().fit(dls)
    with pytest.raises(ValueError, match="by must be 'vectors' or 'content', got 'tags'"):
        model.similar_items("a", by="tags")
    with pytest.raises(KeyError):
        model.similar_items("nothing", by="content")
    plain = dataloaders(items=None, item_features=None)
    with pytest.raises(TypeError, match="by='content' compares item features, and the data has none"):
        collab_learner(plain, 4, loss_func="bpr").similar_items("a", by="content")
    few = dataloaders(items=ITEMS[ITEMS["item"] != "b"])
    with pytest.raises(ValueError, match="1 of the items have no known features"):
        HybridKNN().fit(few).similar_items(["a", "b"], by="content")
    assert "b" not in set(HybridKNN().fit(few).similar_items("a", k=4, by="content")["item"])
