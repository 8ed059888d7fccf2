import warnings

import numpy as np
import pytest
import torch
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from helpers import make_dls, make_learner
from torch import nn

from collabkit import CollabDataLoaders, collab_learner, metrics, splits
from collabkit.datasets import synthetic
from collabkit.evaluate import task
from collabkit.evaluate.candidates import SampledCandidates
from collabkit.train import fit_metrics
from collabkit.train.fit_metrics import MAP, MRR, NDCG, HitRate, Precision, RankingMetric, Recall
from collabkit.train.loop import LeanLearner


@pytest.fixture
def passes(monkeypatch):
    """The number of ranking passes, in a list of one."""
    count, rank = [0], task.RankingTask.rank

    def counted(self, *args, **kwargs):
        count[0] += 1
        return rank(self, *args, **kwargs)

    monkeypatch.setattr(task.RankingTask, "rank", counted)
    return count


@pytest.mark.parametrize("kind", ["dot", "nn"])
def test_values_are_those_of_evaluate_from_one_pass(kind, passes):
    metrics = [HitRate(10), NDCG(5), Recall(20), Precision(10), MRR(10), MAP(10)]
    learn = make_learner(kind, metrics=metrics)
    learn.fit_one_cycle(2, 1e-2)
    assert passes == [2]  # one an epoch
    shown = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1], strict=False))
    assert list(shown) == [
        "train_loss", "valid_loss", "HitRate@10", "NDCG@5", "Recall@20", "Precision@10", "MRR@10", "MAP@10",
    ]  # fmt: skip
    learn.validate()
    table = learn.evaluate(k=[5, 10, 20], n_boot=2)["value"]
    for metric in metrics:
        assert metric.value == pytest.approx(table[f"{metric.metric}@{metric.k}"])
        assert 0 < metric.value < 1
        assert shown[f"{metric.metric}@{metric.k}"] == pytest.approx(metric.value)  # cold rows included


@pytest.mark.parametrize("kind", ["dot", "nn"])
def test_errors_of_new_users_are_those_of_evaluate(kind):
    ratings = synthetic(n_users=200, n_items=80, n_ratings=5000, seed=2).ratings
    names = {"user_name": "user", "item_name": "title", "rating_name": "rating", "time_name": "timestamp"}
    dls = CollabDataLoaders.from_df(ratings, splitter=splits.time_split(0.2), seed=0, **names)
    assert (dls.data.train.counts("user")[dls.data.valid.user_idx] == 0).float().mean() > 0.2
    learn = collab_learner(dls, n_factors=8, use_nn=kind == "nn", y_range=(0.5, 5.5), metrics=["RMSE"])
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 5e-3)
    shown = learn.recorder.values[-1][2]
    assert shown == pytest.approx(learn.evaluate(metrics="RMSE", n_boot=2)["value"].item(), abs=1e-5)
    assert learn.recorder.values[-1][1] == pytest.approx(learn.validate()[0], abs=1e-5)


def test_each_epoch_is_ranked_anew_and_metrics_of_two_learners_do_not_mix():
    metric = HitRate(10)
    first, second = make_learner(metrics=[metric, NDCG(10)]), make_learner(metrics=[metric], seed=3, n_factors=3)
    first.fit(3, 1e-2)
    values = [row[2] for row in first.recorder.values]
    assert len(set(values)) > 1
    second.fit(1, 1e-2)
    assert second.validate()[1] == pytest.approx(second.evaluate(n_boot=2).loc["HitRate@10", "value"])
    assert first.validate()[1] == pytest.approx(first.evaluate(n_boot=2).loc["HitRate@10", "value"])


def test_callbacks_monitor_them(tmp_path):
    learn = make_learner(metrics=[HitRate(10), NDCG(10)], path=tmp_path)
    best = SaveModelCallback(monitor="NDCG@10", fname="best")
    learn.fit(6, 3e-2, cbs=[best, EarlyStoppingCallback(monitor="HitRate@10", patience=2)])
    values = [row[3] for row in learn.recorder.values]
    assert best.best == pytest.approx(max(values)) and len(values) <= 6
    assert (tmp_path / "models" / "best.safetensors").exists()
    assert learn.validate()[2] == pytest.approx(max(values), abs=0.03)  # the best weights are back


def test_sampled_candidates_say_so_and_stay_the_same(passes):
    candidates = SampledCandidates(20, seed=1)
    learn = make_learner(metrics=[HitRate(10, candidates), NDCG(10, candidates), HitRate(10)])
    learn.fit(1, 1e-2)
    assert learn.recorder.metric_names[3:6] == ["HitRate@10 (20 negatives)", "NDCG@10 (20 negatives)", "HitRate@10"]
    assert passes == [2]
    table = learn.evaluate(candidates=candidates, n_boot=2)["value"]
    values = learn.validate()
    assert values == learn.validate()
    assert list(values[1:3]) == pytest.approx(table[["HitRate@10 (20 negatives)", "NDCG@10 (20 negatives)"]].tolist())


def test_a_threshold_and_no_relevant_rows():
    learn = make_learner(metrics=[Recall(10, threshold=5), Recall(10, threshold=99)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        values = learn.validate()
    assert values[1] == pytest.approx(learn.evaluate(threshold=5, n_boot=2).loc["Recall@10", "value"])
    assert np.isnan(values[2])


def test_it_ranks_what_is_validated():
    """Another part than the validation one: the training rows themselves, which are then candidates."""
    learn = make_learner(metrics=[HitRate(10)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, train = learn.validate(0)
        _, valid = learn.validate()
    assert train > valid > 0  # forty relevant rows a user, not four


def test_a_plain_function_of_ranks_groups_and_k(passes):
    def share(ranks, groups, k):
        """Of a user's relevant items, the share in the first k; what recall is where nobody has more than k."""
        return np.array([(ranks[groups == group] <= k).mean() for group in np.unique(groups)])

    def error(pred, target):
        return (pred - target.flatten()).abs().mean()

    learn = make_learner(metrics=[share, Recall(10), RankingMetric(3, function=metrics.precision), error])
    learn.fit(1, 1e-2)
    assert passes == [1] and learn.recorder.metric_names[3:7] == ["share@10", "Recall@10", "Precision@3", "error"]
    _, mine, recall, precision, _ = learn.validate()
    assert 0 < mine == pytest.approx(recall)
    assert precision == pytest.approx(learn.evaluate(k=3, n_boot=2).loc["Precision@3", "value"])
    alone = make_learner(metrics=share)
    assert alone.validate()[1] > 0


def test_the_model_is_put_back_and_training_is_unchanged():
    plain, measured = (make_learner("nn", metrics=metrics) for metrics in ([], [NDCG(10)]))
    for learn in (plain, measured):
        learn.fit(2, 1e-2)
    assert [row[:2] for row in plain.recorder.values] == [row[:2] for row in measured.recorder.values]


def test_what_is_refused():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        HitRate(0)
    with pytest.raises(TypeError, match=r"candidates must be None or SampledCandidates\(99\), got int"):
        HitRate(10, 99)
    dls = make_dls()

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return self.weight.expand(len(x), 1)

    learn = LeanLearner(dls, Plain(), metrics=[HitRate(10)])
    with learn.no_bar(), pytest.raises(TypeError, match="HitRate@10 needs one of collabkit's models .*got Plain"):
        learn.validate()
    assert HitRate(10).value is None
    with pytest.raises(TypeError, match="needs a function of ranks, groups and k; or take HitRate"):
        RankingMetric()
    names = {"RankingMetric", "HitRate", "Precision", "Recall", "NDCG", "MAP", "MRR"}
    assert set(fit_metrics.__all__) == names | {"RatingError", "as_metric"}
