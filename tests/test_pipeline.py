"""Two stages: candidates of one or several models, put in order by another; what is shown, and what it survives."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from contract import planted

from collabkit import (
    EASE,
    NCF,
    CollabDataLoaders,
    CollFilter,
    ItemKNN,
    NextItem,
    Pipeline,
    Popularity,
    Recommender,
    collab_learner,
    compare,
    sampling,
    splits,
)

NAMES = {"user_name": "user", "item_name": "item", "time_name": "time", "seed": 0, "feedback": "implicit"}


def dataloaders(**more):
    return CollabDataLoaders.from_df(planted(), splitter=splits.leave_last_out(), bs=64, **NAMES, **more)


def fitted(model, dls, n=8, **options):
    learn = collab_learner(dls, model=model, n_factors=8, seed=1, **options)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(n, 2e-2)
    return learn


@pytest.fixture(scope="module")
def stages():
    dls = dataloaders()
    return EASE(l2=20.0).fit(dls), ItemKNN().fit(dls), fitted(CollFilter, dls, loss_func="bpr")


def test_the_ranker_orders_what_the_first_stage_shows(stages):
    ease, _, learn = stages
    pipeline = Pipeline(ease, learn, n_candidates=12)
    shown = ease.recommend(k=12)
    mine = pipeline.recommend(k=12)
    for user, group in mine.groupby("user"):
        assert set(group["item"]) == set(shown.loc[shown["user"] == user, "item"])
        assert np.allclose(group["score"], learn.predict(user, group["item"].tolist()), atol=1e-5)
        assert group["score"].is_monotonic_decreasing
    with pytest.warns(UserWarning, match="fewer than k=13 items are left"):
        assert len(pipeline.recommend("u3", k=13)) == 12


def test_of_all_items_the_order_is_the_rankers(stages):
    ease, _, learn = stages
    everything = Pipeline(ease, learn, n_candidates=60)
    pd.testing.assert_frame_equal(everything.recommend(k=10), learn.recommend(k=10), atol=1e-5)
    names = ["HitRate", "NDCG"]
    assert everything.evaluate(metrics=names)["value"].equals(learn.evaluate(metrics=names)["value"])
    first = Pipeline(ease, learn, n_candidates=60, weight=0.0)
    assert first.recommend(k=10)["item"].tolist() == ease.recommend(k=10)["item"].tolist()


def test_several_lists_are_fused_by_their_ranks(stages):
    ease, knn, learn = stages
    both = Pipeline([ease, knn], learn, n_candidates=8).recommend("u5", k=8)["item"]
    worth = {}
    for model in (ease, knn):
        for rank, item in enumerate(model.recommend("u5", k=8)["item"], start=1):
            worth[item] = worth.get(item, 0) + 1 / (60 + rank)
    best = sorted(worth, key=worth.get, reverse=True)[:8]
    assert set(both) == set(best)


def test_negatives_are_what_the_first_stage_shows(stages):
    ease, *_ = stages
    dls = dataloaders(negatives=partial(sampling.ShownNegatives, models=ease, n=10), n_neg=3)
    shown = {user: set(group["item"]) for user, group in ease.recommend(k=10, filter_seen=True).groupby("user")}
    items, users = dls.data.items, dls.data.users
    drawn = {}
    for batch in dls.train:
        for user, negatives in zip(users[batch.query], batch.negatives, strict=True):
            drawn.setdefault(user, set()).update(items[negatives])
    known = dls.data.known
    for user, found in drawn.items():
        assert not found & set(items[known.of([dls.classes["user"].o2i[user]]).values])
    overlap = np.mean([len(drawn[user] & shown[user]) / len(drawn[user]) for user in drawn])
    assert overlap > 0.75  # that list hides the validation item too
    ranker = fitted(NCF, dls, layers=[32, 16])
    pipeline = Pipeline(ease, ranker, n_candidates=20)
    table = compare([pipeline, ranker, ease, Popularity()], metrics="HitRate")["value"]
    assert table.loc["HitRate@10", "pipeline"] > 2 * table.loc["HitRate@10", "popularity"]


def test_a_pipeline_with_order_context_and_features_survives_its_artefact(tmp_path):
    films = pd.DataFrame({"item": [f"i{j:02d}" for j in range(60)], "group": [j % 4 for j in range(60)]})
    dls = dataloaders(context_features=["device"], items=films)
    ordered = CollabDataLoaders.from_df(planted(), splitter=splits.leave_last_out(), history=20, **NAMES)
    ranker = fitted(NCF, dls, layers=[32, 16])
    pipeline = Pipeline([NextItem(l2=5.0).fit(ordered), fitted(CollFilter, dls)], ranker, n_candidates=15, weight=0.7)
    assert pipeline.needs == ("users", "history", "context") and pipeline.ordered
    phone = pipeline.recommend(["u1", "u2"], k=5, context={"device": "phone"})
    pipeline.export(tmp_path / "both")
    back = Recommender.load(tmp_path / "both")
    again = back.recommend(["u1", "u2"], k=5, context={"device": "phone"})
    pd.testing.assert_frame_equal(phone, again, atol=1e-5)
    assert back.evaluate()["value"].round(4).equals(pipeline.evaluate()["value"].round(4))
    assert len(back.recommend(history=["i03", "i07"], k=4)) == 4


def test_clear_errors(stages):
    ease, _, learn = stages
    with pytest.raises(ValueError, match="at least one candidate model and a ranker, all trained"):
        Pipeline([], learn)
    with pytest.raises(ValueError, match="at least one candidate model and a ranker, all trained"):
        Pipeline(EASE(), learn)
    with pytest.raises(ValueError, match=r"weight must lie in \[0, 1\], got 2"):
        Pipeline(ease, learn, weight=2)
    with pytest.raises(TypeError, match="expected learners, Recommenders and closed-form models, got str"):
        Pipeline("ease", learn)
    other = planted().assign(item=lambda df: df["item"] + "x")
    far = CollabDataLoaders.from_df(other, **NAMES)
    with pytest.raises(ValueError, match="EASE has different ids from the ranker; make all from one table"):
        Pipeline(EASE().fit(far), learn)
    with pytest.raises(ValueError, match="EASE is not trained, or on other ids"):
        dataloaders(negatives=partial(sampling.ShownNegatives, models=EASE().fit(far)))
    assert torch.equal(learn.model.user_side.tables[0].weight, learn.model.u_weight.weight)
