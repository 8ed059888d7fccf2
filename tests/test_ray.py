"""Training and lists by Ray's workers are those of one process. `make test-engines` installs Ray."""

import os
import signal
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from engines import K, check_same_lists, write_users
from helpers import make_learner, ratings
from test_cli import run

from collabkit import CollabDataLoaders, collab_learner, load_learner
from collabkit.serve.ray import recommend_on_ray
from collabkit.train.ray import fit_on_ray

pytest.importorskip("ray", reason="an optional engine: ray is not installed")


@contextmanager
def started(n_cores):
    import ray

    ray.init(num_cpus=n_cores, include_dashboard=False, log_to_driver=False)
    try:
        yield ray
    finally:
        ray.shutdown()


@pytest.fixture
def cluster():
    """One a test: what a training that failed holds, the next would wait for."""
    with started(2) as ray:
        yield ray


@pytest.fixture(scope="module")
def learn():
    learn = make_learner()
    learn.fit_one_cycle(1, 1e-2)
    return learn


def test_the_command_on_a_single_core_and_what_it_leaves(learn, tmp_path):
    learn.export(tmp_path / "model")
    ids = np.random.default_rng(0).permutation(learn.recommender.users.ids.to_numpy())
    write_users(tmp_path / "users", ids)
    words = ("recommend", "model", "--users", "users", "-k", K, "--out", "lists", "--engine", "ray")
    with started(1):
        assert "lists written to" in run(*words, cwd=tmp_path)
    check_same_lists(tmp_path / "lists", learn, ids)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lists", "model", "users"]
    assert "choose another" in run(*words, cwd=tmp_path, ok=False)


def test_a_data_set_of_users(cluster, learn, tmp_path):
    artefact = learn.export(tmp_path / "model")
    ids = learn.recommender.users.ids.to_numpy()
    users = cluster.data.from_pandas([pd.DataFrame({"user": part, "x": 1}) for part in (ids[:120], ids[120:])])
    lists = recommend_on_ray(users, artefact, K, n_workers=2, block=70, filter_seen=False)
    lists.write_parquet(str(tmp_path / "lists"))
    check_same_lists(tmp_path / "lists", learn, ids, filter_seen=False)
    with pytest.raises(KeyError, match=r"in the column 'user', the data set has \['x'\]"):
        recommend_on_ray(users.select_columns(["x"]), artefact)
    unknown = recommend_on_ray(cluster.data.from_pandas(pd.DataFrame({"user": [99_999]})), artefact)
    with pytest.raises(Exception, match="1 unknown 'user' id"):
        unknown.take_all()


def test_a_worker_that_is_killed_goes_on_from_its_checkpoint(cluster, tmp_path):
    """With the weights of a training that nobody disturbed; the artefact and its figures come back."""
    from fastai.callback.core import Callback

    (tmp_path / "ratings").mkdir()
    table = ratings()[["user", "title", "rating"]]
    for j, part in enumerate((table[:2500], table[2500:])):
        part.to_parquet(tmp_path / "ratings" / f"{j}.parquet")

    class Die(Callback):
        def before_batch(self):
            if self.epoch == 2 and self.training and os.environ["RANK"] == "1":
                with open(self.path / "killed", "x"):  # the first time alone
                    os.kill(os.getpid(), signal.SIGKILL)

    def train(folder):
        names = {"user_name": "user", "item_name": "title", "rating_name": "rating"}
        dls = CollabDataLoaders.from_parquet(
            folder.parent / "ratings", stream=True, cache=folder / "cache", seed=3, bs=501, **names
        )

        def fit(*cbs, **options):
            learn = collab_learner(dls, n_factors=6, y_range=(0, 5.5), path=folder)
            with learn.distrib_ctx(), learn.no_bar(), learn.no_logging():
                learn.fit_one_cycle(4, 1e-2, cbs=cbs, **options)
            return learn

        again = (folder / "killed").exists()
        learn = fit(*(() if again else (Die(),)), checkpoint="checkpoints", resume=True)
        straight = fit()
        pairs = zip(learn.model.state_dict().values(), straight.model.state_dict().values(), strict=True)
        same = all(torch.equal(*pair) for pair in pairs)  # workers do not see what tests import from each other
        with learn.distrib_ctx():
            return learn.export(folder / "artefact"), learn.evaluate(k=K), same, again, os.environ["WORLD_SIZE"]

    artefact, metrics, same, again, size = fit_on_ray(train, tmp_path / "run", n_workers=2, retries=1)
    assert same and again and size == "2"
    assert artefact == tmp_path / "run" / "artefact"
    assert (tmp_path / "run" / "checkpoints" / "epoch_00004.safetensors").is_file()
    learn = load_learner(artefact)
    assert learn.model.user_side.tables[0].weight.abs().max() > 0
    pd.testing.assert_frame_equal(learn.evaluate(k=K), metrics, rtol=1e-5)


def test_the_error_of_a_worker_comes_back(cluster, tmp_path):
    def train(folder):
        raise ValueError(f"no ratings in {folder.name}")

    with pytest.raises(Exception, match="ValueError: no ratings in run") as raised:
        fit_on_ray(train, tmp_path / "run", n_workers=1)
    assert type(raised.value).__name__ == "WorkerGroupError"
