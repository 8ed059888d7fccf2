"""Artefacts that lie: hostile content under valid checksums, bombs, and loads and writers at one time."""

import json
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from elsewhere import elsewhere
from helpers import killed, make_dls, make_learner, silence, synthetic, trained
from safetensors.numpy import load_file, save_file

from collabkit import BundleError, Recommender, collab_learner
from collabkit.serve import artefact as module
from collabkit.serve.files import sha256


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """An artefact of ratings with features and folded-in users."""
    dls = make_dls(items=synthetic().items, item_features={"year": "binned"})
    learn = silence(collab_learner(dls, 4, y_range=(0, 6)))
    learn.fit(1, 1e-2)
    films = dls.classes["title"][1:4]
    learn.fold_in(pd.DataFrame({"user": [9_999] * 3, "title": films, "rating": [5.0, 4.0, 1.0]}))
    return learn.recommender.save(tmp_path_factory.mktemp("plain") / "model")


def copy_of(folder, tmp_path):
    new = tmp_path / "model"
    new.mkdir()
    for file in folder.iterdir():
        (new / file.name).write_bytes(file.read_bytes())
    return new


def sign(folder, change=lambda config: None):
    """Make all checksums valid, as whoever wrote the content can."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    config["sha256"] = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != "config.json"}
    config["sha256"]["config.json"] = module._config_digest(config)
    (folder / "config.json").write_text(json.dumps(config))


def rewrite(name, change, **options):
    """A change of a Parquet file's table."""

    def apply(folder):
        table = pd.read_parquet(folder / name)
        change(table).to_parquet(folder / name, index=False, **options)

    return apply


def tensors(change):
    def apply(folder):
        found = load_file(folder / "model.safetensors")
        save_file(change({name: value.copy() for name, value in found.items()}), folder / "model.safetensors")

    return apply


def with_value(value):
    def change(found):
        found["item_side.tables.0.weight"][3, 1] = value
        return found

    return tensors(change)


def config(**changes):
    def change(found):
        for path, value in changes.items():
            *at, last = path.split("__")
            place = found
            for name in at:
                place = place[name]
            place[last] = value

    return lambda folder: sign(folder, change)


EVENTS = "interactions.parquet"
HOSTILE = {
    "part 7": rewrite(EVENTS, lambda t: t.assign(part=np.where(t.index % 2, 7, t["part"]).astype("int8"))),
    "no training rows": rewrite(EVENTS, lambda t: t.assign(part=np.int8(1))),
    "float indices": rewrite(EVENTS, lambda t: t.astype({"user_idx": "float64"})),
    "bool indices": rewrite(EVENTS, lambda t: t.assign(item_idx=t["item_idx"] > 3)),
    "int8 indices": rewrite(EVENTS, lambda t: t.assign(user_idx=(t["user_idx"] % 100).astype("int8"))),
    "negative indices": rewrite(EVENTS, lambda t: t.assign(user_idx=-t["user_idx"])),
    "indices beyond": rewrite(EVENTS, lambda t: t.assign(item_idx=t["item_idx"] + 1000)),
    "NaN ratings": rewrite(EVENTS, lambda t: t.assign(rating=np.float32("nan"))),
    "infinite ratings": rewrite(EVENTS, lambda t: t.assign(rating=np.float32("inf"))),
    "texts as ratings": rewrite(EVENTS, lambda t: t.assign(rating="5")),
    "other rows": rewrite(EVENTS, lambda t: t.iloc[::-1]),
    "a rating changed": rewrite(EVENTS, lambda t: t.assign(rating=t["rating"] + np.float32(t.index == 0))),
    "no rows": rewrite(EVENTS, lambda t: t.iloc[:0]),
    "a column less": rewrite(EVENTS, lambda t: t.drop(columns="item_idx")),
    "repeated ids": rewrite("items.parquet", lambda t: t.assign(id=t["id"].iloc[0])),
    "missing ids": rewrite("items.parquet", lambda t: t.assign(id=t["id"].where(t.index != 3))),
    "an id less": rewrite("users.parquet", lambda t: t.iloc[1:]),
    "NaN weights": with_value(np.nan),
    "infinite weights": with_value(np.inf),
    "other shapes": tensors(lambda found: {name: value[:5] for name, value in found.items()}),
    "a tensor less": tensors(lambda found: dict(list(found.items())[1:])),
    "version -5": config(version=-5),
    "version 0": config(version=0),
    "version true": config(version=True),
    "another data hash": config(data_hash="0" * 64),
    "no data hash": config(data_hash=None),
    "a reserved name": config(columns__user="score"),
    "equal names": config(columns__item="user"),
    "a bool for a name": config(columns__user=True),
    "a list for a name": config(columns__user=["user"]),
    "wide factors": config(model__arguments__n_factors=100_000_000),
    "negative factors": config(model__arguments__n_factors=-3),
    "text factors": config(model__arguments__n_factors="4"),
    "another model": config(model__class="NeuMF"),
    "no model": config(model__class="os.system"),
    "features of others": config(features={"users": [], "items": []}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_content_is_refused_whatever_its_checksums(what, plain, tmp_path):
    folder = copy_of(plain, tmp_path)
    HOSTILE[what](folder)
    sign(folder)
    with pytest.raises(BundleError, match=r"artefact .*model (is|has|cannot)"):
        Recommender.load(folder)


def test_the_artefact_itself_loads_after_signing(plain, tmp_path):
    folder = copy_of(plain, tmp_path)
    sign(folder)
    assert len(Recommender.load(folder).recommend([9_999], 5)) == 5


# --- bombs ------------------------------------------------------------------------------------------------------------


def long_ids(folder):
    n = len(pd.read_parquet(folder / "items.parquet"))
    pd.DataFrame({"id": [f"{j:05d}" + "x" * 2_000_000 for j in range(n)]}).to_parquet(folder / "items.parquet")


def equal_long_ids(folder):
    n = len(pd.read_parquet(folder / "items.parquet"))
    pd.DataFrame({"id": ["x" * 10_000_000] * n}).to_parquet(folder / "items.parquet")


def equal_rows(folder):
    table = pd.read_parquet(folder / EVENTS).iloc[[0]]
    table.loc[table.index.repeat(10_000_000)].to_parquet(folder / EVENTS)


def many_ids(folder):
    pd.DataFrame({"id": np.arange(30_000_000)}).to_parquet(
        folder / "users.parquet",
        use_dictionary=False,
        column_encoding={"id": "DELTA_BINARY_PACKED"},
        compression="zstd",
    )


BOMBS = {
    "long ids": long_ids,
    "equal long ids": equal_long_ids,
    "equal rows": equal_rows,
    "many ids": many_ids,
    "wide layers": config(model__arguments={"n_factors": 10**9}),
}

LOADING = """
import resource, sys, time
import collabkit
from collabkit import Recommender, BundleError
import pyarrow.parquet, safetensors.torch, pandas
start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    Recommender.load(sys.argv[1])
    told = "loaded"
except BundleError as error:
    told = "refused"
more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(told, more / 1024, time.perf_counter() - start)
"""


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_before_they_unfold(bomb, plain, tmp_path):
    folder = copy_of(plain, tmp_path)
    BOMBS[bomb](folder)
    sign(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size < 20_000_000
    out = elsewhere(LOADING, folder)
    told, megabytes, seconds = out.stdout.split()
    assert (told, float(megabytes) < 300) == ("refused", True), out.stdout + out.stderr
    assert float(seconds) < 2


# --- loads and writers at one time ------------------------------------------------------------------------------------


def write_and_load(folder, n_loads, n_writers):
    learners = [make_learner("dot", make_dls(seed=j), seed=j) for j in range(n_writers)]
    right = {learn.recommender.train.data_hash(): learn.recommend([1, 2, 3], 5) for learn in learners}
    learners[0].recommender.save(folder)
    done = threading.Event()

    def write(learn):
        n = 0
        while not done.is_set():
            learn.recommender.save(folder)
            n += 1
        return n

    with ThreadPoolExecutor(n_writers) as pool:
        writing = [pool.submit(write, learn) for learn in learners]
        try:
            for _ in range(n_loads):
                rec = Recommender.load(folder)
                assert rec.recommend([1, 2, 3], 5).equals(right[rec.train.data_hash()])
        finally:
            done.set()
        assert all(future.result() > 0 for future in writing)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_loads_beside_writers(tmp_path):
    write_and_load(tmp_path / "model", n_loads=40, n_writers=2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_five_hundred_loads_beside_four_writers(tmp_path):
    write_and_load(tmp_path / "model", n_loads=500, n_writers=4)


EXPORTING = """
import warnings
warnings.simplefilter("ignore")
from helpers import make_learner
rec = make_learner("dot").recommender
print("ready", flush=True)
while True:
    rec.save({folder!r})
"""


@pytest.mark.slow
def test_killed_exports_leave_nothing_behind(tmp_path):
    folder, rng = tmp_path / "model", random.Random(0)
    trained().recommender.save(folder)
    for _ in range(2):
        code = EXPORTING.format(folder=str(folder))
        killed(code, rng.uniform(0.01, 0.1))
        Recommender.load(folder)
    trained().recommender.save(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(os.name != "posix", reason="limits are those of POSIX")
def test_a_full_disk_is_named(tmp_path):
    code = """
import resource, signal, sys, warnings
warnings.simplefilter("ignore")
from helpers import make_learner
learn = make_learner("dot", path=sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for write in (lambda: learn.recommender.save(sys.argv[1] + "/model"), lambda: learn.save("it")):
    try:
        write()
    except OSError as error:
        print(error.errno, error)
"""
    out = elsewhere(code, tmp_path)
    lines = out.stdout.splitlines()
    assert len(lines) == 2 and all(line.startswith("27 ") and "File too large" in line for line in lines), out
    assert not list(tmp_path.glob(".*"))
