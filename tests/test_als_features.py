"""`fit_als` of models with side features: known ids by their events alone, new ones by what these foretell."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_bags import people

from collabkit import CollabDataLoaders, Recommender, Text, TwoTower, collab_learner


def fitted(kind="multi", users=True, model=None, **options):
    events, by_user, items = people(seed=3)
    side = {"users": by_user, "user_features": {"likes": "multi"}} if users else {}
    dls = CollabDataLoaders.from_df(
        events, feedback="implicit", seed=0, valid_pct=0, items=items, item_features={"tags": kind}, **side
    )
    learn = collab_learner(dls, model=model, n_factors=6, **({"loss_func": "bpr"} | options))
    with learn.no_bar(), learn.no_logging():
        learn.fit_als(8, reg=0.01, unobserved_weight=0.1)
    return learn


@pytest.mark.parametrize("model", [None, "towers"])
def test_known_ids_are_those_of_a_fit_without_features(model):
    model = TwoTower if model else None
    learn, events = fitted(model=model), people(seed=3)[0]
    for side in learn.model.sides:
        assert not any(weight.any() for field in side.features.fields for weight in field.weights)
    plain = collab_learner(
        CollabDataLoaders.from_df(events, feedback="implicit", seed=0, valid_pct=0),
        model=model,
        n_factors=6,
        loss_func="bpr",
    )
    with plain.no_bar(), plain.no_logging():
        plain.fit_als(8, reg=0.01, unobserved_weight=0.1)
    met = events["user"].unique()[:20].tolist()
    mine, other = (one.recommend(met, k=5)["score"].to_numpy() for one in (learn, plain))
    assert np.allclose(np.sort(mine), np.sort(other), atol=0.1)  # both solved from other random starts


def test_new_ids_are_foretold(tmp_path):
    learn = fitted()
    tags = people(seed=3)[2].set_index("item")["tags"]
    learn.add_items(pd.DataFrame({"item": ["new"], "tags": [["g2"]]}))
    near = learn.similar_items("new", k=5)["item"]
    assert sum("g2" in tags[item] for item in near) >= 4
    learn.add_users(pd.DataFrame({"user": ["fresh"], "likes": ["g1"]}))
    best = learn.recommend("fresh", k=5)["item"]
    assert sum("g1" in tags[item] for item in best if item != "new") >= 4
    learn.export(tmp_path / "a")
    pd.testing.assert_frame_equal(
        Recommender.load(tmp_path / "a").recommend("fresh", k=5), learn.recommend("fresh", k=5)
    )
    hers = [item for item in tags.index if "g3" in tags[item]][:4]
    folded = learn.recommend(history=hers, k=5)["item"]
    assert sum("g3" in tags[item] for item in folded) >= 4


def test_gradients_may_follow():
    learn = fitted()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-2)
    assert any(weight.any() for field in learn.model.item_side.features.fields for weight in field.weights)
    assert torch.isfinite(learn.model.i_weight.weight).all()


def test_what_would_be_learned_is_refused():
    events, _, items = people(seed=3)
    items["title"] = [" ".join(tags) for tags in items["tags"]]
    dls = CollabDataLoaders.from_df(
        events, feedback="implicit", seed=0, items=items, item_features={"title": Text("bag")}
    )
    with pytest.raises(TypeError, match="nothing would be learned about \\['title'\\]"):
        collab_learner(dls, n_factors=4, loss_func="bpr").fit_als(1)
