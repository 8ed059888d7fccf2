"""What the model says of ids without training data stays said: through predictions, validation, files, interrupts."""

import numpy as np
import pandas as pd
import pytest
from fastai.callback.core import Callback
from fastai.callback.tracker import SaveModelCallback

from collabkit import CollabDataLoaders, Recommender, collab_learner, datasets, load_learner
from collabkit.train.loader import Loader

RATINGS = datasets.synthetic(n_users=200, n_items=150, n_ratings=6000, min_events=10, seed=1).ratings[
    ["user", "title", "rating", "timestamp"]
]
TITLES = sorted(RATINGS["title"].unique())[:20]


class Interrupt(Callback):
    """Ctrl-C in the second epoch."""

    def before_batch(self):
        if self.learn.epoch == 1:
            raise KeyboardInterrupt


@pytest.fixture(params=[False, True], ids=["dot", "nn"])
def learn(request, tmp_path):
    dls = CollabDataLoaders.from_df(RATINGS, seed=3, bs=256, path=tmp_path, time_name="timestamp")
    learn = collab_learner(dls, n_factors=8, y_range=(0, 5.5), use_nn=request.param)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(4, 1e-2)
    return learn


def unknown(learn) -> np.ndarray:
    return learn.predict(999_999, TITLES, unknown="default")


def test_using_the_learner_does_not_change_the_answer(learn):
    before = unknown(learn)
    assert before.std() > 0.05  # items differ, also for somebody unknown
    with learn.no_bar(), learn.no_logging():
        learn.get_preds()
        learn.validate()
        learn.show_results(max_n=2)
        learn.lr_find(show_plot=False)
    np.testing.assert_array_equal(unknown(learn), before)


def test_validate_scores_cold_rows_as_evaluate_does():
    cold = RATINGS["user"].isin(RATINGS["user"].unique()[:20])
    dls = CollabDataLoaders.from_dfs(RATINGS[~cold], RATINGS[cold], seed=0, bs=256)
    learn = collab_learner(dls, n_factors=8, y_range=(0, 5.5))
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(3, 1e-2)
        loss = learn.validate()[0]
    assert loss == pytest.approx(learn.evaluate(n_boot=2).loc["RMSE", "value"] ** 2, rel=1e-4)


def test_a_checkpoint_from_training_gets_its_answer(learn):
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 5e-3, cbs=SaveModelCallback(fname="best", every_epoch=False))
    after_fit = unknown(learn)
    learn.load("best")
    np.testing.assert_allclose(unknown(learn), after_fit, atol=2e-3)


def test_an_interrupted_fit_leaves_an_answer(learn, tmp_path):
    with learn.no_bar(), learn.no_logging(), pytest.raises(KeyboardInterrupt):
        learn.fit_one_cycle(3, 5e-3, cbs=Interrupt())
    assert unknown(learn).std() > 0.05
    folder = learn.export(tmp_path / "art")
    np.testing.assert_array_equal(Recommender.load(folder).predict(999_999, TITLES, unknown="default"), unknown(learn))


def test_intervals_of_unknown_users_are_not_those_of_one_user(learn):
    test = RATINGS.assign(user=RATINGS["user"] + 10_000, rating=RATINGS["rating"]).drop(columns="timestamp")
    with pytest.warns(UserWarning, match="does not know"):
        row = learn.evaluate(test, n_boot=200).loc["RMSE"]
    assert row["low"] < row["value"] < row["high"]
    with pytest.warns(UserWarning, match="does not know"):
        one = learn.evaluate(test[test["user"] == test["user"].iloc[0]], n_boot=20).loc["RMSE"]
    assert np.isnan(one["low"]) and np.isnan(one["high"])  # one user tells nothing of others


def test_a_sparse_model_trains_on_after_loading(tmp_path):
    dls = CollabDataLoaders.from_df(RATINGS, seed=3, bs=256, path=tmp_path)
    learn = collab_learner(dls, n_factors=8, y_range=(0, 5.5), sparse=True)
    loaded = load_learner(learn.export("art"), path=tmp_path)
    with loaded.no_bar(), loaded.no_logging():
        loaded.fit_one_cycle(1, 5e-3)
    assert loaded.recorder.values[-1][1] < 4


def test_one_row_a_batch_and_batch_norm(tmp_path):
    dls = CollabDataLoaders.from_df(RATINGS.head(50), seed=3, bs=1, path=tmp_path)
    learn = collab_learner(dls, n_factors=8, y_range=(0, 5.5), use_nn=True)
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match="batch of one row"):
        learn.fit(1)


def test_numpy_seed_is_a_seed_and_a_text_is_none():
    frame = RATINGS.head(300)
    one, other = (CollabDataLoaders.from_df(frame, seed=seed) for seed in (3, np.int64(3)))
    assert one.valid.items.equals(other.valid.items)
    with pytest.raises(TypeError, match="seed must be a whole number"):
        CollabDataLoaders.from_df(frame, seed="3")


@pytest.mark.parametrize("name", ["rank", "score", "similarity", "n_ratings"])
def test_names_of_result_columns_are_refused(name):
    with pytest.raises(ValueError, match="taken by result tables"):
        CollabDataLoaders.from_df(RATINGS.rename(columns={"title": name}), item_name=name, rating_name="rating")


def test_tuple_and_tensor_ids():
    import torch

    frame = pd.DataFrame({"u": [1, 1, 2, 2, 3, 3], "i": [(1, "a"), (2, "b")] * 3, "r": [1.0, 2, 3, 4, 5, 1]})
    dls = CollabDataLoaders.from_df(frame, seed=0, valid_pct=0.4)
    learn = collab_learner(dls, n_factors=2, y_range=(0, 5.5))
    assert isinstance(learn.predict(1, (1, "a")), float)
    assert len(learn.recommend(torch.tensor([1, 2]), k=1, filter_seen=False)) == 2
    assert isinstance(dls.train, Loader)


def test_a_diverged_model_neither_predicts_nor_is_exported(learn):
    learn.model.i_weight.weight.data[3] = float("nan")
    with pytest.raises(ValueError, match="training diverged"):
        learn.predict(learn.dls.train.dataset.users[1], learn.dls.train.dataset.items[3])
    with pytest.raises(ValueError, match="training diverged"):
        learn.export("diverged")


@pytest.mark.parametrize("time", [np.array([2**63], dtype=np.uint64), np.array([1e300])])
def test_times_outside_int64_are_refused(time):
    with pytest.raises(ValueError, match="outside the range of int64"):
        CollabDataLoaders.from_df(RATINGS.head(300).assign(timestamp=np.repeat(time, 300)), time_name="timestamp")
