"""What engines have in common, without one: users from files, what workers run, and what is said before they start."""

import pickle
import shutil
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from engines import FAULTS, K, check_same_lists, in_order, write_users
from helpers import make_dls, make_learner, ratings
from test_cli import run

from collabkit import Recommender
from collabkit.serve import engines
from collabkit.serve.engines import Lists, lists_to
from collabkit.train.ray import fit_on_ray


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    learn = make_learner()
    learn.fit_one_cycle(1, 1e-2)
    return learn.export(tmp_path_factory.mktemp("engines") / "model")


@pytest.fixture(scope="module")
def rec(artefact):
    return Recommender.load(artefact)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("engine", ["local", "spark"])
def test_users_that_cannot_be_read_are_an_error_before_the_engine_starts(
    artefact, tmp_path, monkeypatch, fault, engine
):
    monkeypatch.setattr(engines, "find_spec", lambda name: True)  # none is needed for this
    (tmp_path / "users").mkdir()
    fault(tmp_path / "users")
    kind, text = FAULTS[fault]
    with pytest.raises(kind, match=text):
        lists_to(engine, artefact, tmp_path / "lists", tmp_path / "users", K)
    assert [path.name for path in tmp_path.iterdir()] == ["users"]


def test_users_from_parquet_and_csv(artefact, rec, tmp_path):
    ids = np.random.default_rng(0).permutation(rec.users.ids.to_numpy())
    write_users(tmp_path / "users", ids)
    lists = lists_to("local", artefact, tmp_path / "lists", tmp_path / "users", K, block=50)
    check_same_lists(lists, rec, ids)
    table = pd.DataFrame({"x": "a", "user": ids})
    (tmp_path / "parts").mkdir()
    table[:70].to_csv(tmp_path / "parts" / "a.csv", index=False)
    table[70:].to_csv(tmp_path / "parts" / "b.csv", index=False)
    table.to_csv(tmp_path / "users.tsv", index=False, sep="\t")
    for name in ("parts", "users.tsv"):
        found = lists_to("local", artefact, tmp_path / f"of-{name}", tmp_path / name, K)
        pd.testing.assert_frame_equal(in_order(found), in_order(lists), rtol=1e-5)


def test_ids_of_texts_stay_texts_in_a_csv(tmp_path):
    table = ratings()
    table["user"] = table["user"].map("{:04d}".format)
    learn = make_learner(dls=make_dls(table))
    (tmp_path / "users.csv").write_text("user\n0007\n0012\n")
    found = pd.concat(learn.recommend_batches(tmp_path / "users.csv", 2))
    assert found["user"].tolist() == ["0007", "0007", "0012", "0012"]


def test_a_folder_that_is_there_and_an_engine_that_is_not(artefact, tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "mine.txt").write_text("mine")
    for engine in ("local", "ray", "spark"):
        with pytest.raises(FileExistsError, match="choose another"):
            lists_to(engine, artefact, tmp_path / "lists")
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    for engine, package in (("ray", "ray"), ("spark", "pyspark")):
        text = rf"needs the package {package}: pip install 'collabkit\[{engine}\]'"
        with pytest.raises(ImportError, match=text):
            lists_to(engine, artefact, tmp_path / "new")
        words = ("recommend", artefact, "--out", "new", "--engine", engine)
        assert f"pip install 'collabkit[{engine}]'" in run(*words, cwd=tmp_path, ok=False)
    with pytest.raises(ValueError, match="engine must be one of 'local', 'ray', 'spark', got 'dask'"):
        lists_to("dask", artefact, tmp_path / "new")
    assert "give --out FOLDER" in run("recommend", artefact, "--engine", "ray", cwd=tmp_path, ok=False)


def test_what_workers_run(artefact, rec):
    lists = pickle.loads(pickle.dumps(Lists(artefact, K, filter_seen=False)))
    assert len(pickle.dumps(lists)) < 2000  # no artefact in it
    ids = rec.users.ids.to_numpy()
    batches = [pa.record_batch({"user": part}) for part in (ids[:0], ids[:7], ids[:0], ids[7:30])]
    found = list(lists(batches))
    assert all(batch.schema == lists.schema for batch in found) and list(lists(batches[:1])) == []
    wanted = rec.recommend(ids[:30], K, filter_seen=False)
    pd.testing.assert_frame_equal(pa.Table.from_batches(found).to_pandas(), wanted, rtol=1e-5)
    with pytest.raises(KeyError, match="unknown 'user' id"):
        list(lists([pa.record_batch({"user": [99_999]})]))
    with pytest.raises(TypeError, match="do not take history"):
        Lists(artefact, K, history=["x"])


def test_another_artefact_at_the_same_place_is_refused(artefact, tmp_path):
    shutil.copytree(artefact, tmp_path / "model")
    lists = Lists(tmp_path / "model")
    engines._loaded.cache_clear()  # as in another process
    make_learner(n_factors=3).export(tmp_path / "model")
    with pytest.raises(ValueError, match="is not the one that was there when the work began"):
        _ = lists.recommender


def test_what_fit_on_ray_refuses_before_ray_is_looked_for(tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="train must be a function of one argument"):
        fit_on_ray(lambda: None, tmp_path)
    for wrong in ({"n_workers": 0}, {"retries": 1.5}, {"timeout": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            fit_on_ray(lambda folder: None, tmp_path, **wrong)
    with pytest.raises(ValueError, match="must be a folder that all machines see, got the address 's3://"):
        fit_on_ray(lambda folder: None, "s3://bucket/run")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'collabkit\[ray\]'"):
        fit_on_ray(lambda folder: None, tmp_path / "new")
    assert not (tmp_path / "new").exists()
