"""Lists by Spark's workers are those of one process. `make test-engines` installs Spark."""

import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engines import K, check_same_lists, write_users
from helpers import make_dls, make_learner, ratings
from test_cli import run

from collabkit import Recommender
from collabkit.serve.engines import lists_to
from collabkit.serve.spark import recommend_on_spark

pytest.importorskip("pyspark", reason="an optional engine: pyspark is not installed")


@pytest.fixture(scope="module")
def spark():
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable

    options = {"spark.ui.enabled": "false", "spark.sql.adaptive.enabled": "false", "spark.driver.host": "127.0.0.1"}
    session = SparkSession.builder.master("local[2]").config(map=options).getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    """Of users and items that are texts."""
    table = ratings()
    table["user"] = table["user"].map("{:04d}".format)
    learn = make_learner(dls=make_dls(table))
    learn.fit_one_cycle(1, 1e-2)
    return learn.export(tmp_path_factory.mktemp("spark") / "model")


def test_a_data_frame_of_users(spark, artefact, tmp_path):
    rec = Recommender.load(artefact)
    ids = rec.users.ids.to_numpy()
    frame = spark.createDataFrame([(user, 1) for user in ids], ["user", "x"]).repartition(2)
    frame = frame.union(frame.filter("x > 1"))  # partitions without rows
    lists = recommend_on_spark(frame, artefact, K, filter_seen=False)
    assert lists.columns == ["user", "title", "rank", "score"] and frame.rdd.getNumPartitions() > 2
    lists.write.parquet(str(tmp_path / "lists"))
    check_same_lists(tmp_path / "lists", rec, ids, filter_seen=False)
    with pytest.raises(KeyError, match=r"in the column 'user', the data frame has \['x'\]"):
        recommend_on_spark(frame.select("x"), artefact)
    unknown = recommend_on_spark(spark.createDataFrame([("nobody",)], ["user"]), artefact)
    with pytest.raises(Exception, match="1 unknown 'user' id") as raised:
        unknown.collect()
    assert type(raised.value).__name__ == "PythonException"
    assert recommend_on_spark(frame.limit(0), artefact).count() == 0


def test_the_command_and_what_it_leaves(spark, tmp_path):
    learn = make_learner()
    learn.fit_one_cycle(1, 1e-2)
    learn.export(tmp_path / "model")
    ids = np.random.default_rng(0).permutation(learn.recommender.users.ids.to_numpy())
    write_users(tmp_path / "users", ids)
    words = ("recommend", "model", "--users", "users", "-k", K, "--out", "lists", "--engine", "spark")
    assert "lists written to" in run(*words, cwd=tmp_path)
    check_same_lists(tmp_path / "lists", learn, ids)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lists", "model", "users"]
    assert "choose another" in run(*words, cwd=tmp_path, ok=False)


def test_nothing_is_left_of_lists_that_a_task_could_not_make(spark, artefact, tmp_path, monkeypatch):
    def unchecked(folder, users, lists, unknown):
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"user": users}), folder / "part-0.parquet")

    monkeypatch.setattr("collabkit.serve.engines._write_users", unchecked)
    with pytest.raises(Exception, match="1 unknown 'user' id"):
        lists_to("spark", artefact, tmp_path / "lists", ["0001", "nobody"], K)
    assert list(tmp_path.iterdir()) == []
