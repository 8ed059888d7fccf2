"""One name of a metric everywhere: in `metrics=`, in `monitor=` and in tables."""

import numpy as np
import pytest
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback

from collabkit import EASE, NDCG, CollabDataLoaders, Popularity, collab_learner, compare, datasets, metrics
from collabkit.evaluate.names import read_metrics, read_name, same_name

RATINGS = datasets.synthetic(n_users=150, n_items=100, n_ratings=4000, seed=1).ratings
NAMES = {"user_name": "user", "item_name": "title", "seed": 0}


def learner(feedback="implicit", **options):
    dls = CollabDataLoaders.from_df(RATINGS, feedback=feedback, **NAMES, bs=256)
    learn = collab_learner(dls, n_factors=8, **options)
    learn.remove_cb(learn.progress)
    return learn


def test_a_text_in_a_fit_is_what_tables_say():
    learn = learner(metrics=["NDCG@10", "HR@5", "MRR", metrics.recall])
    with learn.no_logging():
        learn.fit_als(2, search=False)
    assert list(learn.recorder.metric_names[3:-1]) == ["NDCG@10", "HitRate@5", "MRR@10", "Recall@10"]
    shown = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1], strict=False))
    table = learn.evaluate(metrics=["NDCG@10", "HR@5", "MRR", "Recall"], n_boot=2)["value"]
    assert list(table.index) == ["NDCG@10", "HitRate@5", "MRR@10", "Recall@10"]
    for name, value in table.items():
        assert shown[name] == pytest.approx(value, abs=1e-6)


def test_errors_of_ratings_by_name():
    learn = learner("explicit", y_range=(0, 5.5), metrics=["RMSE", "MAE", "NDCG@5"])
    with learn.no_logging():
        learn.fit_one_cycle(1, 5e-3)
    _, rmse, mae, ndcg = learn.validate()
    table = learn.evaluate(metrics=["RMSE", "MAE", "NDCG@5"], n_boot=2)["value"]
    assert [rmse, mae, ndcg] == pytest.approx(table.tolist(), rel=1e-5)
    assert list(learn.evaluate(metrics="MAE", n_boot=2).index) == ["MAE"]
    assert list(learn.evaluate(metrics=["NDCG", "RMSE"], k=[5, 7], n_boot=2).index) == ["RMSE", "NDCG@5", "NDCG@7"]


@pytest.mark.parametrize("word", ["NDCG@10", "ndcg@10", "HR@10", "hit_rate@10", "HitRate@10"])
def test_a_callback_monitors_any_spelling(word, tmp_path):
    learn = learner(metrics=["NDCG@10", "HR@10"], path=tmp_path)
    best = SaveModelCallback(monitor=word, fname="best")
    with learn.no_logging():
        learn.fit(2, 1e-2, cbs=[best, EarlyStoppingCallback(monitor=word, patience=3)])
    column = list(learn.recorder.metric_names[1:]).index(same_name(word, learn.recorder.metric_names))
    assert best.best == max(row[column] for row in learn.recorder.values)


@pytest.mark.parametrize("kind", [SaveModelCallback, EarlyStoppingCallback, ReduceLROnPlateau])
def test_of_an_error_the_smallest_is_the_best(kind, tmp_path):
    learn = learner("explicit", metrics=["RMSE"], path=tmp_path)
    cb = kind(monitor="RMSE", min_delta=0.001)
    with learn.no_logging():
        learn.fit(2, 1e-2, cbs=cb)
        learn.fit(1, 1e-2, cbs=cb)  # said once
    assert cb.comp is np.less and cb.min_delta == -0.001 and cb.best <= 5


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"unknown metric\(s\) \['NDGC@5'\]; there are HitRate, .*did you mean 'NDCG'"):
        learner(metrics=["NDGC@5"])
    with pytest.raises(ValueError, match="RMSE is an error of predicted ratings, and implicit feedback has none"):
        learner(metrics=["RMSE"])
    with pytest.raises(ValueError, match="AUC is available in evaluate and compare only"):
        learner(metrics="AUC")
    for text, words in (("NDCG@", "whole number"), ("NDCG@0", "at least 1"), ("NDCG@-1", "whole"), ("AUC@5", "no cut")):
        with pytest.raises(ValueError, match=words):
            read_name(text)
    learn = learner(metrics=["NDCG@10"])
    with pytest.raises(ValueError, match="monitor='MRR@10'.: no such figure is recorded.*there are.*NDCG@10"):
        learn.fit(1, cbs=EarlyStoppingCallback(monitor="MRR@10"))
    model = Popularity().fit(learn.dls)
    with pytest.raises(ValueError, match="RMSE: only for predicted ratings"):
        model.evaluate(metrics=["RMSE"])


def test_cut_offs_of_their_own_stay_with_their_metric():
    dls = learner().dls
    table = compare(
        [Popularity().fit(dls), EASE()], metrics=["NDCG@20", "HR"], k=[5, 10], n_boot=2)  # fmt: skip
    assert list(table.index.unique("metric")) == ["NDCG@20", "HitRate@5", "HitRate@10"]
    assert read_metrics(["AUC", "NDCG@5"], 10) == (["AUC", "NDCG"], [5], [("AUC", None), ("NDCG", 5)])
    assert read_metrics([NDCG, "HR"], 3)[0][1] == "HitRate"  # a function stays one
