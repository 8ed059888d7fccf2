import numpy as np
import pytest
import torch
from helpers import make_dls, make_learner, trained
from test_evaluate import interactions, model_of

from collabkit import CollabDataLoaders, Recommender, collab_learner
from collabkit.datasets import synthetic
from collabkit.evaluate import SampledCandidates, compare
from collabkit.models import EASE, ItemKNN, Popularity
from collabkit.train.biases import SolveBiases


def test_a_table_by_hand():
    train, test = interactions([(1, 1, 1), (2, 1, 1)], rated=False), interactions([(1, 2, 1), (2, 3, 1)], rated=False)
    first = Recommender(model_of(torch.tensor([0.0, 1, 5, 4, 3, 2]).repeat(4, 1)), train, test)
    second = Recommender(model_of(torch.tensor([0.0, 1, 3, 4, 2, 1]).repeat(4, 1)), train, test)
    table = compare([first, second], names=["a", "b"], k=[1, 2], metrics=["HitRate", "MRR"], n_boot=200)
    assert table.index.names == ["metric", "model"]
    assert list(table.index) == [(m, n) for m in ("HitRate@1", "HitRate@2", "MRR@1", "MRR@2") for n in "ab"]
    assert list(table) == ["value", "low", "high", "difference", "diff_low", "diff_high", "n"]
    assert table["value"].tolist() == [0.5, 0.5, 1, 1, 0.5, 0.5, 0.75, 0.75]  # ranks 1, 2 and 2, 1
    assert table.xs("a", level="model")[["difference", "diff_low", "diff_high"]].isna().all(axis=None)
    assert table.loc[("MRR@2", "b"), ["difference", "diff_low", "diff_high"]].tolist() == [0, -0.5, 0.5]
    assert table.loc[("HitRate@2", "b"), ["difference", "diff_low", "diff_high"]].tolist() == [0, 0, 0]
    assert (table["n"] == 2).all()


@pytest.mark.parametrize("candidates", [None, SampledCandidates(20, seed=3)])
def test_figures_are_those_of_evaluate(candidates):
    learn = trained()
    pop, ease = Popularity(), EASE(20.0)
    options = {"k": [5, 10], "metrics": ["NDCG", "Coverage"], "candidates": candidates, "n_boot": 100, "seed": 2}
    table = compare([learn, pop, ease], **options)
    assert list(table.index.get_level_values("model").unique()) == ["CollFilter", "popularity", "EASE"]
    for name, model in (("CollFilter", learn), ("popularity", pop), ("EASE", ease)):  # now fitted on the learner's data
        alone, mine = model.evaluate(**options), table.xs(name, level="model")
        assert mine["value"].to_numpy() == pytest.approx(alone["value"].to_numpy())
        assert mine["low"].to_numpy() == pytest.approx(alone["low"].to_numpy(), rel=0.05, nan_ok=True)
    ndcg = f"NDCG@10{' (20 negatives)' if candidates else ''}"
    difference = learn.evaluate(**options).loc[ndcg]
    assert table.loc[(ndcg, "popularity"), "difference"] == pytest.approx(-difference["difference"])


def test_models_of_one_name_are_numbered():
    learn = trained()
    table = compare([ItemKNN(5), learn, ItemKNN(20)], metrics="HitRate", n_boot=2)
    assert list(table.index.get_level_values("model")) == ["item kNN 1", "CollFilter", "item kNN 2"]


def test_a_test_table_and_a_threshold():
    learn = trained()
    rows = learn.dls.valid.items.head(300)
    rec = Recommender(learn.model, learn.dls.train.dataset)
    table = compare([rec, Popularity()], on=rows, threshold=5, metrics="Recall", n_boot=2)
    alone = rec.evaluate(rows, threshold=5, metrics="Recall", n_boot=2)
    assert table["value"].to_numpy() == pytest.approx(alone[["value", "popularity"]].to_numpy()[0])
    assert (table["n"] == rows[rows["rating"] >= 5]["user"].nunique()).all()


def test_models_of_other_data_are_refused():
    learn, frame = trained(), trained().dls.train.items
    other_split = make_learner(dls=make_dls(seed=1))
    with pytest.raises(
        ValueError, match=r"model 2 of compare\(\) \(CollabLearner\) has different training rows from the f"
    ):
        compare([learn, other_split])
    fewer = make_learner(dls=make_dls(frame[frame["user"] != frame["user"].iloc[0]]))
    with pytest.raises(ValueError, match="has different users from the first; train all of them on the same"):
        compare([learn, fewer])
    train = learn.dls.train.dataset
    for valid in (None, learn.dls.valid.dataset.take(range(9))):
        with pytest.raises(ValueError, match="has different validation rows"):
            compare([learn, Recommender(learn.model, train, valid)])
    shuffled = train.take(np.random.default_rng(0).permutation(len(train)))
    compare([learn, Recommender(learn.model, shuffled, learn.dls.valid.dataset)], n_boot=2)  # the order is no matter


def test_what_is_refused():
    learn = trained()
    with pytest.raises(ValueError, match="no model is fitted"):
        compare([Popularity(), EASE()])
    with pytest.raises(ValueError, match="at least one model"):
        compare([])
    with pytest.raises(TypeError, match=r"got the class ItemKNN: write ItemKNN\(\)"):
        compare([ItemKNN])
    with pytest.raises(TypeError, match="got the class Recommender$"):
        compare([Recommender])
    with pytest.raises(TypeError, match="expected learners, Recommenders and closed-form models, got str"):
        compare([learn, "popularity"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'thresold'"):
        compare([learn], thresold=3)
    for names in (["a"], ["a", "a"]):
        with pytest.raises(ValueError, match="names must be 2 different texts"):
            compare([learn, Popularity()], names=names)
    with pytest.raises(ValueError, match="no relevant item of a known user"):
        compare([learn], threshold=99)
    with pytest.raises(ValueError, match="unknown metric"):
        compare([learn], metrics=["hitrate"])


def test_errors_of_ratings_are_paired_by_user():
    ratings = synthetic(n_users=200, n_items=80, n_ratings=5000, seed=2).ratings
    dls = CollabDataLoaders.from_df(ratings, user_name="user", item_name="title", rating_name="rating", seed=0)
    learners = [collab_learner(dls, n_factors=n, y_range=(0.5, 5.5)) for n in (4, 16)]
    for learn in learners:
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(3, 5e-3)
    table = compare(learners, names=["small", "large"], metrics=["RMSE", "NDCG@10", "MAE"], n_boot=200)
    for learn, name in zip(learners, ("small", "large"), strict=True):
        alone = learn.evaluate(metrics=["RMSE", "MAE", "NDCG@10"], n_boot=2)["value"]
        for metric in ("RMSE", "MAE", "NDCG@10"):
            assert table.loc[(metric, name), "value"] == pytest.approx(alone[metric])
    of = table.loc[("RMSE", "large")]
    small = table.loc[("RMSE", "small"), "value"]
    assert of["diff_low"] <= of["difference"] <= of["diff_high"] and of["difference"] == pytest.approx(
        of["value"] - small
    )
    assert table.loc[("RMSE", "small"), "difference":"diff_high"].isna().all()
    assert (table.loc["RMSE", "n"] == len(dls.data.valid)).all()
    only = compare(learners, metrics="RMSE", n_boot=200)
    np.testing.assert_allclose(only["value"], table.loc["RMSE", "value"])
    with pytest.raises(ValueError, match="Popularity predicts no ratings, so it has no RMSE"):
        compare([*learners, Popularity()], metrics="RMSE")


def test_errors_have_a_paired_difference_to_the_biases():
    ratings = synthetic(n_users=200, n_items=80, n_ratings=5000, seed=2).ratings
    dls = CollabDataLoaders.from_df(ratings, user_name="user", item_name="title", rating_name="rating", seed=0)
    learn = collab_learner(dls, n_factors=4)
    learn.fit(1, cbs=SolveBiases())
    table = learn.evaluate(metrics=["RMSE", "MAE"])
    np.testing.assert_allclose(table["difference"], table["value"] - table["user+item bias"])
    assert (table["diff_low"] <= table["difference"]).all() and (table["difference"] <= table["diff_high"]).all()
    assert (table["diff_high"] - table["diff_low"] < (table["high"] - table["low"]) / 2).all()  # paired: much narrower
