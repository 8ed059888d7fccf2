"""Files larger than memory: the same data, batches and answers as of the same table in memory."""

import errno
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import silence

from collabkit import CollabDataLoaders, Implicit, collab_learner, splits
from collabkit.data.runs import Runs
from collabkit.data.streaming import cache as cache_module
from collabkit.data.streaming import order
from collabkit.train import block_order
from collabkit.train.block_order import BlockOrder

pytest.importorskip("polars")
NAMES = {"user_name": "who", "item_name": "what", "time_name": "at"}


def table(n=6000, seed=0, texts=True):
    """Events of 150 users and 90 items with ratings and times, some pairs more than once."""
    rng = np.random.default_rng(seed)
    users, items = rng.zipf(1.3, n) % 150, (rng.zipf(1.4, n) * 7) % 90
    df = pd.DataFrame(
        {"at": rng.integers(0, 500, n), "who": users + 10**12, "what": items, "stars": rng.integers(1, 6, n)}
    )
    df["stars"] = df["stars"] / 2
    return df.assign(who=[f"ü{u}" for u in users]) if texts else df


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Buckets and blocks that are smaller than the data of the tests."""
    monkeypatch.setattr(order, "BUCKET", 700)
    monkeypatch.setattr(block_order, "BLOCK", 16)
    monkeypatch.setattr(block_order, "BUFFER", 1024)


def parts_of(df, folder, n=3):
    folder.mkdir(exist_ok=True)
    for j, rows in enumerate(np.array_split(np.arange(len(df)), n)):
        df.iloc[rows].to_parquet(folder / f"part-{j}.parquet", row_group_size=500)
    return folder


def stream(df, tmp_path, **options):
    folder = parts_of(df, tmp_path / "events")
    return CollabDataLoaders.from_parquet(folder, stream=True, cache=tmp_path / "cache", seed=1, **options)


CASES = {
    "ratings": {"rating_name": "stars", "valid_pct": 0},
    "ratings by time": {"rating_name": "stars", "splitter": splits.time_split(0.3)},
    "events": {"feedback": "implicit", "splitter": splits.leave_last_out(1)},
    "liked": {"feedback": "implicit", "rating_name": "stars", "rating_threshold": 1.5, "valid_pct": 0},
    "repeats": {"feedback": Implicit(repeats="keep"), "splitter": splits.leave_last_out(2)},
    "next": {"feedback": Implicit(history=10), "splitter": splits.leave_last_out(1)},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_data_are_those_of_the_table(case, texts, tmp_path):
    df, options = table(texts=texts), {**NAMES, **CASES[case]}
    mine, other = stream(df, tmp_path, **options).data, CollabDataLoaders.from_df(df, seed=1, **options).data
    assert mine.train.stored and mine.users == other.users and mine.items == other.items
    for part, same in ((mine.train, other.train), (mine.valid, other.valid)):
        assert (part is None) == (same is None)
        if part is not None:
            same = same.sorted_by_user()
            part = part.sorted_by_user()
            assert part.data_hash() == same.data_hash()
            assert torch.equal(part.counts("item"), same.counts("item"))
            for name in ("pairs", "histories"):
                ours, theirs = getattr(part, name), getattr(same, name)
                assert torch.equal(ours.start, theirs.start) and torch.equal(ours.values.long(), theirs.values)
    for name in ("known", "seen", "latest"):
        ours, theirs = getattr(mine, name), getattr(other, name)
        assert torch.equal(ours.start, theirs.start) and torch.equal(ours.values.long(), theirs.values)
    known, theirs = mine.train.pairs.transposed(), other.train.pairs.transposed()
    assert torch.equal(known.start, theirs.start) and torch.equal(known.values.long(), theirs.values)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("negatives", ["uniform", "popularity", "shared", "in_batch"])
def test_negatives_are_drawn_as_of_the_table(negatives, tmp_path):
    options = {**NAMES, "feedback": "implicit", "n_neg": 3, "negatives": negatives, "valid_pct": 0, "shuffle": False}
    df = table()
    for ours, theirs in zip(
        stream(df, tmp_path, **options).train, CollabDataLoaders.from_df(df, seed=1, **options).train, strict=True
    ):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b) and a.dtype == b.dtype


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_models_are_trained_asked_and_exported(case, tmp_path):
    dls = stream(table(), tmp_path, **NAMES, **CASES[case], bs=128)
    learn = silence(collab_learner(dls, n_factors=4, start=None if case == "next" else "random"))
    learn.fit(1, 1e-2)
    if case in ("events", "ratings by time"):
        assert len(learn.evaluate(k=5, n_boot=2)) and len(learn.recommender.history(dls.data.users[3]))
    if case == "events":
        learn.fit_als(2)
    lists = learn.recommend(k=3)
    folder = learn.export(tmp_path / "model")
    from collabkit import Recommender

    again = Recommender.load(folder).recommend(k=3)
    assert (again["what"] == lists["what"]).mean() > 0.99


@pytest.mark.filterwarnings("ignore")
def test_whole_users_and_every_row_once_an_epoch(tmp_path):
    options = {**NAMES, "feedback": "implicit", "valid_pct": 0, "bs": 100}
    dls = stream(table(), tmp_path, **options)
    train = dls.train.dataset
    epochs = [torch.cat([torch.stack([b[0], b[1]], 1) for b in dls.train]) for _ in range(2)]
    for epoch in epochs:
        keys = epoch[:, 0] * train.n_items + epoch[:, 1]
        assert torch.equal(keys.sort().values, train.pair_keys().sort().values)
    assert not torch.equal(*epochs)
    by_user = stream(table(), tmp_path, **{**options, "negatives": "shared", "by_user": True, "bs": 10})
    users = torch.cat([b.query[b.group] for b in by_user.train])
    assert torch.equal(users.bincount(minlength=train.n_users), train.counts("user"))


@pytest.mark.parametrize("n, block, buffer", [(1, 4, 8), (10, 4, 8), (1000, 8, 50), (1024, 16, 128), (97, 256, 64)])
def test_block_orders_are_permutations(n, block, buffer):
    order = BlockOrder(n, 3, block=block, buffer=buffer)
    whole = order[0:n]
    assert torch.equal(whole.sort().values, torch.arange(n))
    cut = torch.cat([order[at : at + 13] for at in range(0, n, 13)])
    assert torch.equal(cut, whole) and torch.equal(BlockOrder(n, 3, block=block, buffer=buffer)[0:n], whole)
    if n >= 1000:
        assert not torch.equal(BlockOrder(n, 4, block=block, buffer=buffer)[0:n], whole)
        far = (whole.diff().abs() > block).double().mean()
        assert far > 0.7
        spread = torch.stack([part.double().histc(8, 0, n) for part in whole.chunk(4)])
        assert (spread > 0.5 * n / 32).all()  # each quarter of the epoch has rows of each part of the file


def test_pairs_beyond_32_bits_are_found(tmp_path):
    start, values = torch.tensor([0, 2, 2, 5]), torch.tensor([1, 2**31 - 2, 0, 5, 2**30], dtype=torch.int32)
    mapped, plain = Runs(start, values, 2**31 - 1), Runs(start, values.long(), 2**31 - 1)
    rows, asked = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([2**31 - 2, 3, 5, 0, 2**30, 7])
    for ours, theirs in zip(mapped.find(rows, asked), plain.find(rows, asked), strict=True):
        assert ours.tolist() == theirs.tolist()
    df = pd.DataFrame({"who": np.arange(70_000), "what": np.arange(70_000) ** 2, "at": 0})
    train = stream(df, tmp_path, **NAMES, feedback="implicit", valid_pct=0).data.train
    keys = train.pair_keys()
    assert int(keys.max()) > 2**32 and torch.equal(keys, torch.arange(1, 70_001) * 70_002)
    assert train.pairs.find([70_000], [70_000])[1].all()


@pytest.mark.filterwarnings("ignore")
def test_the_cache_is_found_again_and_made_again_where_it_is_damaged(tmp_path, monkeypatch):
    options = {**NAMES, "feedback": "implicit", "splitter": splits.leave_last_out(1)}
    first = stream(table(), tmp_path, **options)
    calls = []
    monkeypatch.setattr(order, "_stable", lambda users: calls.append(1) or np.argsort(users, kind="stable"))
    sort = np.lexsort
    monkeypatch.setattr(np, "lexsort", lambda keys: calls.append(1) or sort(keys))
    again = CollabDataLoaders.from_parquet(
        tmp_path / "events", stream=True, cache=tmp_path / "cache", seed=1, **options
    )
    assert calls == [] and again.data.train.data_hash() == first.data.train.data_hash()
    (folder,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert not list(folder.glob("raw.*"))
    with open(folder / "item", "r+b") as file:
        file.write(b"\xff\x00\x00\x07")
    with pytest.warns(UserWarning, match="changed since it was written"):
        mended = CollabDataLoaders.from_parquet(tmp_path / "events", stream=True, cache=tmp_path / "cache", **options)
    assert calls and mended.data.train.data_hash() == first.data.train.data_hash()
    other = table(seed=5)  # other files at the same place have a cache of their own
    fresh = stream(other, tmp_path, **options).data
    assert fresh.train.data_hash() != first.data.train.data_hash()
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fails_at", [1, 3, 5, 9])
def test_a_full_disk_loses_nothing_that_was_finished(fails_at, tmp_path, monkeypatch):
    options, calls = {**NAMES, "feedback": "implicit", "valid_pct": 0}, []
    reserve = cache_module.Cache.reserve

    def full(self, file, size):
        calls.append(size)
        if len(calls) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return reserve(self, file, size)

    monkeypatch.setattr(cache_module.Cache, "reserve", full)
    with pytest.raises(OSError, match="the disk of the cache .* is full") as caught:
        stream(table(), tmp_path, **options)
    assert caught.value.errno == errno.ENOSPC
    (folder,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    left = {json.loads(note.read_text())["files"] is not None and note.name for note in folder.glob("*.json")}
    assert left == {1: set(), 3: {"1-ids.json"}, 5: {"1-ids.json"}, 9: {"1-ids.json", "2-rows.json"}}[fails_at]
    monkeypatch.setattr(cache_module.Cache, "reserve", reserve)
    dls = CollabDataLoaders.from_parquet(tmp_path / "events", stream=True, cache=tmp_path / "cache", **options)
    other = CollabDataLoaders.from_df(table(), seed=1, **options).data.train.sorted_by_user()
    assert dls.data.train.data_hash() == other.data_hash()


def test_damaged_and_odd_files_are_errors_that_name_them(tmp_path):
    folder, options = parts_of(table(), tmp_path / "events"), {**NAMES, "feedback": "implicit", "stream": True}

    def read(**more):
        return CollabDataLoaders.from_parquet(folder, cache=tmp_path / "cache", **{**options, **more})

    whole = (folder / "part-1.parquet").read_bytes()
    for damaged in (b"", whole[:1000], whole[:-200]):
        (folder / "part-1.parquet").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"part-1.parquet is not a complete Parquet file"):
            read()
    (folder / "part-1.parquet").unlink()
    (folder / "part-1.parquet").symlink_to(tmp_path / "gone.parquet")
    with pytest.raises(ValueError, match="missing|no whole"):
        read()
    (folder / "part-1.parquet").unlink()
    (folder / "part-1.parquet").write_bytes(whole[:3000] + bytes(2000) + whole[5000:])
    with pytest.raises(ValueError, match="the part .*part-1.parquet is damaged"):
        read()
    table().drop(columns="stars").to_parquet(folder / "part-1.parquet")
    with pytest.raises(ValueError, match=r"part-1.parquet has the columns .* not parts of one table"):
        read()
    table(texts=False).to_parquet(folder / "part-1.parquet")
    with pytest.raises(TypeError, match=r"'who' is .*string in part-0.parquet and int64 in part-1.parquet"):
        read()
    table().astype({"what": "int32"}).to_parquet(folder / "part-1.parquet")  # the wider type holds both
    with pytest.warns(UserWarning, match="left out: they repeat"):
        assert read(valid_pct=0).data.items.ids.dtype == np.int64
    table().assign(who=table()["who"].mask(table().index == 5)).to_parquet(folder / "part-1.parquet")
    with pytest.raises(ValueError, match="'who' has 1 missing value"):
        read()
    table().assign(at=0.5).to_parquet(folder / "part-1.parquet")
    with pytest.raises(TypeError, match="'at' is double in part-1.parquet"):
        read()
    assert list((tmp_path / "cache").glob("*/3-order.json"))  # of the one that could be read


def test_what_a_stream_cannot_do_is_said_early(tmp_path):
    folder = parts_of(table(), tmp_path / "events")
    for more, words in (
        ({"weights": "inverse_user"}, "does not take weights"),
        ({"context_features": ["at"]}, "does not take context_features"),
        ({"feedback": Implicit(counts="stars")}, "does not take counts="),
        ({"feedback": "implicit", "rating_name": "stars"}, "pass rating_threshold="),
        ({"rating_name": "stars", "splitter": table()}, "is one of collabkit.splits"),
        ({"rating_name": "nothing"}, "not found"),
        ({"typo": 1}, "no argument typo"),
    ):
        with pytest.raises((ValueError, TypeError, KeyError), match=words):
            CollabDataLoaders.from_parquet(folder, stream=True, cache=tmp_path / "c", **{**NAMES, **more})
    with pytest.raises(ValueError, match="needs cache="):
        CollabDataLoaders.from_parquet(folder, stream=True)
    with pytest.raises(ValueError, match="cache= is for stream=True"):
        CollabDataLoaders.from_parquet(folder / "part-0.parquet", cache=tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        CollabDataLoaders.from_parquet(tmp_path / "none", stream=True, cache=tmp_path)
    pq.write_table(pa.table({"user": [1], "item": [2]}), tmp_path / "x.csv")


def test_rows_are_held_out_by_chance_and_by_seed(tmp_path):
    options = {**NAMES, "rating_name": "stars"}
    first, again = (stream(table(), tmp_path, valid_pct=0.25, **options).data for _ in range(2))
    assert first.train.data_hash() == again.train.data_hash()
    assert len(first.train) + len(first.valid) == 6000 and abs(len(first.valid) - 1500) < 150
    assert first.seen.values.dtype == torch.int32  # the table of all rows
