import numpy as np
import pytest
import torch
from helpers import make_dls, make_learner, trained
from test_evaluate import interactions, model_of

from collabkit import Recommender
from collabkit.evaluate import SampledCandidates, compare
from collabkit.models import EASE, ItemKNN, Popularity


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
