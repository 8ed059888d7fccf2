"""`tune`: what it may choose, what it keeps, when it ends, and what a kill costs."""

import re
import signal
import time

import numpy as np
import pandas as pd
import pytest
from elsewhere import elsewhere

from collabkit import EASE, CollabDataLoaders, CollabWarning, ItemKNN, Popularity, Recommender, tune
from collabkit.train import tune as module
from collabkit.train.space import Space

optuna = pytest.importorskip("optuna")

NAMES = {"user_name": "user", "item_name": "title", "feedback": "implicit"}
ALS = {"n_factors": [4, 8], "reg": (1e-3, 1e-1), "unobserved_weight": 0.1, "n_sweeps": 3}


def planted() -> pd.DataFrame:
    rng, n = np.random.default_rng(0), 4000
    user, own = rng.integers(0, 150, n), rng.random(n) < 0.6
    film = np.where(own, user % 5 + 5 * rng.integers(0, 20, n), rng.integers(0, 100, n))
    rating = np.clip(np.round(2.5 + 1.5 * (film % 5 == user % 5) + rng.normal(0, 0.7, n)), 1, 5)
    return pd.DataFrame({"user": user, "title": film, "rating": rating}).drop_duplicates(["user", "title"])


TABLE = planted()


def loaders(**options):
    return CollabDataLoaders.from_df(TABLE, seed=0, **(NAMES | options))


def test_the_best_trial_is_kept_and_reported_on_other_users(tmp_path):
    dls = loaders()
    best, table = tune(dls, ALS, minutes=1, n_trials=4, metric="NDCG@10", show=False)
    assert len(table) == 4 and table["kept"].sum() == 1 and table.columns.name == "NDCG@10"
    complete = table[table["state"] == "complete"]
    assert complete.loc[complete["kept"], "value"].item() == complete["value"].max()
    assert set(table["n_factors"]) <= {4, 8} and table["reg"].between(1e-3, 1e-1).all()
    kept = table[table["kept"]].iloc[0]
    assert kept["low"] <= kept["value"] <= kept["high"] and kept["test_low"] <= kept["test"] <= kept["test_high"]
    whole = best.evaluate(metrics="NDCG@10", n_boot=2)["value"].item()  # on all validation rows again
    assert min(kept["value"], kept["test"]) <= whole <= max(kept["value"], kept["test"])
    assert len(best.dls.data.valid) == len(dls.data.valid) and best.dls.data.train is dls.data.train
    assert best.model.n_factors == kept["n_factors"]
    assert len(Recommender.load(best.export(tmp_path / "best")).recommend(1, k=3)) == 3
    with best.no_bar(), best.no_logging():
        assert len(best.refit_all().dls.train.dataset) == len(TABLE)


def test_one_seed_one_search():
    tables = [tune(loaders(), ALS, minutes=1, n_trials=3, show=False)[1] for _ in range(2)]
    pd.testing.assert_frame_equal(*(table.drop(columns="seconds") for table in tables))


def test_a_closed_form_model_and_a_table():
    space = {"model": EASE, "l2": (10.0, 5000.0)}
    best, table = tune(TABLE, space, minutes=1, n_trials=3, seed=1, show=False, **NAMES)
    assert isinstance(best, EASE) and best.l2 == pytest.approx(table.loc[table["kept"], "l2"].item())
    assert best.evaluate(metrics="NDCG", n_boot=2)["value"].item() > 0


def test_ratings_by_gradient_with_batches_of_a_size():
    space = {"n_factors": [4, 8], "lr": (1e-3, 1e-1), "bs": [256, 512], "n_epoch": 2, "y_range": None}
    options = {"feedback": "explicit", "rating_name": "rating"}
    best, table = tune(loaders(**options), space, minutes=1, n_trials=3, show=False)
    assert table.columns.name == "RMSE" and table.loc[table["kept"], "value"].item() == table["value"].min()
    assert best.dls.train.bs == table.loc[table["kept"], "bs"].item() and best.model.y_range is None


def test_ratings_have_the_defaults_of_train():
    dls = loaders(feedback="explicit", rating_name="rating")
    best, table = tune(dls, {"n_factors": [4, 8]}, minutes=1, show=False)
    low, high = best.model.y_range
    assert low < 1 and high > 5 and len(table) == 2 and len(best.recorder.values) == 8  # epochs of the recipe
    errors = best.evaluate(metrics="RMSE").loc["RMSE"]
    assert errors["value"] < errors["global mean"]


def test_hopeless_trials_end_early():
    space = {
        "reg": [0.01, 0.02, 0.03, 0.04, 0.05, 1e6, 2e6, 3e6],
        "n_factors": 8,
        "unobserved_weight": 0.1,
        "n_sweeps": 4,
    }
    _, table = tune(loaders(), space, minutes=2, show=False)
    pruned = table[table["state"] == "pruned"]
    assert (pruned["reg"] >= 1e6).any() and pruned["value"].isna().all()
    assert sorted(table["reg"]) == space["reg"]  # each once, and then it ends


def test_it_ends_in_time_and_makes_one_trial_at_least():
    started = time.perf_counter()
    _, table = tune(loaders(), ALS | {"n_sweeps": 2}, minutes=3 / 60, show=False)
    assert time.perf_counter() - started < 20 and len(table) >= 1
    _, table = tune(loaders(), ALS, minutes=0.001 / 60, show=False)
    assert (table["state"] == "complete").sum() == 1


def test_the_storage_goes_on(tmp_path):
    file = tmp_path / "deep" / "study.log"
    _, first = tune(loaders(), ALS, minutes=1, n_trials=2, storage=file, show=False)
    with pytest.raises(FileExistsError, match="pass resume=True to go on"):
        tune(loaders(), ALS, minutes=1, n_trials=2, storage=file, show=False)
    best, table = tune(loaders(), ALS, minutes=1, n_trials=4, storage=file, resume=True, show=False)
    assert len(table) == 4 and set(first.index) < set(table.index)
    pd.testing.assert_frame_equal(table.loc[first.index].drop(columns="kept"), first.drop(columns="kept"))
    again, same = tune(loaders(), ALS, minutes=1, n_trials=4, storage=file, resume=True, show=False)  # nothing to do
    assert len(same) == 4
    user = TABLE["user"].iloc[0]
    assert again.recommend(user)["title"].tolist() == best.recommend(user)["title"].tolist()  # made again, the same
    for other in ({"metric": "HR@5"}, {"seed": 5}):
        with pytest.raises(ValueError, match="are of another search"):
            tune(loaders(), ALS, minutes=1, storage=file, resume=True, show=False, **other)
    with pytest.raises(ValueError, match="are of another search: it had other training rows; seed was") as told:
        tune(TABLE.head(1500), ALS, minutes=1, storage=file, resume=True, show=False, feedback="implicit", seed=8)
    assert not re.search("[0-9a-f]{10}", str(told.value).replace(str(file), ""))
    with pytest.raises(ValueError, match="n_factors was .*4, 8.* is .*16"):
        tune(loaders(), ALS | {"n_factors": [4, 16]}, minutes=1, storage=file, resume=True, show=False)


SCRIPT = """
import os, signal, sys
os.chdir(sys.argv[1])
from test_tune import ALS, loaders, tune
from collabkit.train.space import Space
train, done = Space.train, []
def kill(self, *args, **kwargs):
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(1)
    return train(self, *args, **kwargs)
Space.train = kill
tune(loaders(), ALS, minutes=1, n_trials=5, storage='study.log', show=False)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_kill_loses_the_running_trial_at_most(tmp_path):
    run = elsewhere(SCRIPT, tmp_path, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr[-2000:]
    with (tmp_path / "study.log").open("ab") as file:
        file.write(b'{"op_code": 6, "tri')  # what a kill within a write leaves
    _, table = tune(loaders(), ALS, minutes=1, n_trials=4, storage=tmp_path / "study.log", resume=True, show=False)
    assert len(table) == 4 and table["state"].isin(["complete", "pruned"]).all()
    whole = tune(loaders(), ALS, minutes=1, n_trials=3, show=False)[1]
    lost = whole.loc[2, ["n_factors", "reg"]]  # the trial that was killed is made again
    assert ((table["n_factors"] == lost["n_factors"]) & np.isclose(table["reg"], lost["reg"])).any()
    pd.testing.assert_series_equal(table.loc[[0, 1], "value"], whole.loc[[0, 1], "value"])


def test_a_file_of_something_else_and_a_space_that_always_fails(tmp_path, monkeypatch):
    (tmp_path / "a.log").write_text("not a line of trials\n")
    with pytest.raises(ValueError, match=r"a\.log is not a file of trials"):
        tune(loaders(), ALS, minutes=1, storage=tmp_path / "a.log", resume=True, show=False)

    def fail(*_, **__):
        raise ValueError("no such thing")

    monkeypatch.setattr(Space, "train", fail)
    with pytest.warns(CollabWarning, match="failed"), pytest.raises(ValueError, match="none of the 2 trials finished"):
        tune(loaders(), ALS, minutes=1, n_trials=2, show=False)


def test_a_trial_that_fails_is_counted():
    space = {"model": ItemKNN, "k": [10, -1]}
    with pytest.warns(CollabWarning, match=r"trial \d+ .*-1.* failed"):
        _, table = tune(loaders(), space, minutes=1, n_trials=6, show=False)
    assert set(table["state"]) == {"complete", "failed"} and (table.loc[table["state"] == "failed", "k"] == -1).all()


def test_what_is_refused(monkeypatch):
    refused = [
        ({}, TypeError, "space must be a dict"),
        ({"n_factors": 8}, TypeError, "there is nothing to choose"),
        ({"n_factors": []}, ValueError, "an empty list leaves nothing"),
        ({"n_factors": (8, 4)}, ValueError, r"a range is a pair \(low, high\)"),
        ({"n_factors": (1, 2, 3)}, ValueError, "a range is a pair"),
        ({"n_facters": [8, 4]}, TypeError, "n_facters.*did you mean 'n_factors'"),
        ({"model": [EASE, None]}, ValueError, "not of both"),
        ({"model": EASE, "bs": [1, 2]}, TypeError, "space has 'bs'"),
        ({"fit": "fit_sgdr", "lr": (1e-3, 1e-1)}, ValueError, "fit must be None or one of 'fit_one_cycle'"),
        ({"loss_func": ["bqr", "bpr"]}, ValueError, "bqr"),
    ]
    for space, error, words in refused:
        with pytest.raises(error, match=words):
            tune(loaders(), space, minutes=1, show=False)
    with pytest.raises(ValueError, match="minutes must be above 0"):
        tune(loaders(), ALS, minutes=-1)
    with pytest.raises(ValueError, match="resume=True needs storage="):
        tune(loaders(), ALS, resume=True)
    with pytest.raises(TypeError, match="options are for a table"):
        tune(loaders(), ALS, bs=64)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'collabkit\[tune\]'"):
        tune(loaders(), ALS)


def test_a_space_says_what_its_names_mean():
    space = Space({"n_factors": [4, 8], "lr": (1e-3, 1e-1)})
    assert space.fit == "fit_one_cycle" and not space.closed
    assert Space({"reg": (0.1, 0.2)}).fit == "fit_als" and Space({"model": ItemKNN, "k": [5, 10]}).closed
    trial = optuna.trial.FixedTrial({"n_factors": 8, "lr": 0.01})
    assert space.sample(trial) == {"n_factors": 8, "lr": 0.01}
    assert isinstance(Space({"model": [Popularity, EASE]}).models, list)
