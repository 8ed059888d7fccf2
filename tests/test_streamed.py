"""Lists and metrics of more users than fit a table: blocks to Parquet, and samples of the evaluated users."""

import errno
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import make_learner

from collabkit import NDCG, HitRate, Recommender, compare
from collabkit.data.notices import CollabWarning
from collabkit.evaluate.candidates import SampledCandidates


@pytest.fixture(scope="module")
def learn():
    learn = make_learner()
    learn.fit_one_cycle(1, 1e-2)
    return learn


def test_blocks_hold_the_lists_of_one_call(learn, tmp_path):
    whole = learn.recommend(k=7)
    for users in (None, whole["user"].unique(), pd.DataFrame({"other": 1, "user": whole["user"].unique()})):
        tables = list(learn.recommend_batches(users, 7, block=33))
        assert len(tables) == -(-200 // 33) and all(len(table) <= 33 * 7 for table in tables)
        pd.testing.assert_frame_equal(pd.concat(tables, ignore_index=True), whole, rtol=1e-5)
    folder = learn.recommend_to(tmp_path / "lists", k=7, block=64)
    assert [file.name for file in sorted(folder.iterdir())] == [f"part-0000{j}.parquet" for j in range(4)]
    pd.testing.assert_frame_equal(pd.read_parquet(folder), whole, rtol=1e-5)


def test_readers_of_files_and_batches(learn, tmp_path):
    ids = learn.recommender.users.ids.to_numpy()
    (tmp_path / "users" / "deep").mkdir(parents=True)
    pq.write_table(pa.table({"x": ids[:90], "user": ids[:90]}), tmp_path / "users" / "a.parquet", row_group_size=7)
    pq.write_table(pa.table({"x": ids[90:], "user": ids[90:]}), tmp_path / "users" / "deep" / "b.parquet")
    (tmp_path / "users" / "_SUCCESS").write_text("")
    whole = learn.recommend(k=3)
    sizes = []
    for table in learn.recommend_batches(str(tmp_path / "users"), 3, block=50):
        sizes.append(table["user"].nunique())
    assert sizes == [50, 50, 50, 50]  # whatever the row groups are
    reader = pq.ParquetFile(tmp_path / "users" / "a.parquet").iter_batches(40)
    found = pd.concat(learn.recommend_batches(reader, 3), ignore_index=True)
    pd.testing.assert_frame_equal(found, whole[: 90 * 3], rtol=1e-5)
    arrays = (part for part in np.array_split(ids, 3))
    assert sum(map(len, learn.recommend_batches(arrays, 3))) == 600


def test_nothing_is_left_of_lists_that_cannot_be_written(learn, tmp_path, monkeypatch):
    calls = []

    def full(table, where, **kwargs):
        calls.append(where)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(table, where, **kwargs)

    write = pq.write_table
    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        learn.recommend_to(tmp_path / "lists", k=2, block=50)
    assert len(calls) == 3 and list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / "lists").mkdir()
    learn.recommend_to(tmp_path / "lists", k=2)
    with pytest.raises(FileExistsError, match="choose another"):
        learn.recommend_to(tmp_path / "lists", k=2)


def test_what_is_wrong_is_said_before_the_first_list(learn, tmp_path):
    ids = learn.recommender.users.ids
    with pytest.raises(KeyError, match="1 unknown 'user' id"):
        learn.recommend_batches([*ids, 999_999], block=20)
    with pytest.raises(FileNotFoundError, match="no such file"):
        learn.recommend_batches(tmp_path / "nothing")
    with pytest.raises(TypeError, match="do not take history"):
        learn.recommend_batches(history=["x"])
    with pytest.raises(ValueError, match="block must be"):
        learn.recommend_batches(block=0)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="not a complete Parquet file"):
        learn.recommend_batches(tmp_path / "cut.parquet")
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "odd.parquet")
    with pytest.raises(KeyError, match="no column 'user'"):
        learn.recommend_batches(tmp_path / "odd.parquet")
    with pytest.raises(ValueError, match="no users"):
        list(learn.recommend_batches(iter([])))


def test_what_blocks_have_in_common_is_said_once(learn):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(learn.recommend_batches(k=149, block=40))
    texts = [str(w.message) for w in caught if issubclass(w.category, CollabWarning)]
    assert len(texts) == 1 and texts[0].startswith("in 5 of 5 blocks of users, the first: fewer than k=149")


def test_a_sample_of_users_is_said_and_is_the_value_of_those_users(learn):
    table = learn.evaluate(n_users=50, seed=3, k=5)
    full = learn.evaluate(k=5)
    assert "HitRate@5 (50 users)" in table.index and "50 of 171 users drawn" in table.columns.name
    assert table.loc["NDCG@5 (50 users)", "n"] == 50 and full.loc["NDCG@5", "n"] == 171
    assert table.loc["RMSE", "value"] == full.loc["RMSE", "value"]  # of all rows
    again, other = (learn.evaluate(n_users=50, seed=seed, k=5)["value"] for seed in (3, 4))
    assert table["value"].equals(again) and not table["value"].equals(other)
    wide, narrow = (t.loc[name, "high"] - t.loc[name, "low"] for t, name in
                    ((table, "NDCG@5 (50 users)"), (full, "NDCG@5")))  # fmt: skip
    assert wide > 1.4 * narrow
    assert learn.evaluate(n_users=10_000, k=5).equals(full)
    labels = learn.evaluate(n_users=50, candidates=SampledCandidates(20), k=5).index
    assert "NDCG@5 (20 negatives) (50 users)" in labels
    with pytest.raises(ValueError, match="n_users must be"):
        learn.evaluate(n_users=0)


def test_means_over_samples_are_the_mean_over_all_users(learn):
    full = learn.evaluate(k=10, metrics="NDCG", n_boot=2)["value"].iloc[0]
    drawn = [learn.evaluate(k=10, metrics="NDCG", n_users=60, seed=j, n_boot=2)["value"].iloc[0] for j in range(40)]
    assert abs(np.mean(drawn) - full) < 4 * np.std(drawn) / 40**0.5
    assert np.std(drawn) > 0


def test_metrics_in_fit_ask_so_many_users(monkeypatch):
    metric, plain, same = NDCG(10, n_users=40, seed=1), NDCG(10), HitRate(5, n_users=40, seed=1)
    learn = make_learner(metrics=[metric, plain, same])
    learn.fit(1, 1e-2)
    assert learn.recorder.metric_names[3:6] == ["NDCG@10 (40 users)", "NDCG@10", "HitRate@5 (40 users)"]
    values = learn.validate()[1:]
    table = learn.evaluate(k=[5, 10], n_users=40, seed=1)
    assert values[0] == pytest.approx(table.loc["NDCG@10 (40 users)", "value"])
    assert values[2] == pytest.approx(table.loc["HitRate@5 (40 users)", "value"])
    assert values[1] == pytest.approx(learn.evaluate(n_boot=2).loc["NDCG@10", "value"]) and values[1] != values[0]
    low, high = metric.interval
    assert low < values[0] < high and high - low > 0.02
    assert NDCG(10).interval is None


def test_compare_asks_the_same_users(learn):
    table = compare([learn, Recommender(learn.model, learn.dls.data)], n_users=30, seed=2, metrics="NDCG")
    assert list(table["n"]) == [30, 30] and (table["difference"].dropna() == 0).all()
    assert table.index[0][0] == "NDCG@10 (30 users)"
