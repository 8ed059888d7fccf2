"""The artefact: what is written comes back; what is damaged, foreign or hostile is refused; writing is atomic."""

import json
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import uuid
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from elsewhere import elsewhere
from helpers import (
    KINDS,
    Interrupt,
    in_child,
    interrupted_at,
    make_dls,
    make_learner,
    ratings,
    same_weights,
    silence,
    trained,
)
from old_artefacts import write_old

from collabkit import (
    GMF,
    BundleError,
    CollFilter,
    Dataset,
    Interactions,
    NeuMF,
    Recommender,
    TwoTower,
    collab_learner,
)
from collabkit.data.interactions import Columns
from collabkit.serve import artefact as artefacts
from collabkit.serve.artefact import FILES, FORMAT_VERSION, load_artefact, save_artefact


@lru_cache
def tiny():
    rng = np.random.default_rng(0)
    df = pd.DataFrame({"user": rng.integers(0, 5, 30), "item": rng.integers(0, 6, 30), "rating": rng.uniform(1, 5, 30)})
    return Dataset(Interactions.from_df(df, Columns("user", "item", "rating")))


def tiny_model(seed):
    torch.manual_seed(seed)
    return CollFilter(tiny().n_users, tiny().n_items, 2, (0, 6))


OLD, NEW = tiny_model(1), tiny_model(2)


@pytest.fixture
def artefact(tmp_path):
    """An artefact that is there already."""
    return save_artefact(tmp_path / "model", OLD, tiny())


def change(folder, **changes):
    """Edit config.json, with a correct checksum."""
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    config["sha256"] = {**config["sha256"], **{name: artefacts._sha256(folder / name) for name in FILES}}
    config["sha256"]["config.json"] = artefacts._config_digest(config)
    file.write_text(json.dumps(config))


def refused(folder, message="model"):
    with pytest.raises(BundleError, match=message) as caught:
        load_artefact(folder)
    assert str(folder.name) in str(caught.value)
    return str(caught.value)


# --- round trip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_everything_comes_back(kind, tmp_path):
    rec = trained(kind).recommender
    metrics = {"valid_loss": 0.1 + 0.2, "n": np.int64(3), "share": np.float32(0.5)}
    folder = rec.save(tmp_path / "deep" / "model", metrics=metrics)
    assert folder == (tmp_path / "deep" / "model").resolve()
    assert sorted(os.listdir(folder)) == sorted([*FILES, "config.json", "light.safetensors"])
    model, data, config = load_artefact(folder)
    assert type(model) is type(rec.model) and not model.training and model.config() == rec.model.config()
    assert same_weights(model, rec.model)
    assert model.users == rec.users and model.items == rec.items
    assert (model.users.name, model.items.name) == ("user", "title")
    assert data.folded is None
    for part, original in ((data.train, rec.train), (data.valid, rec.valid)):
        for name in ("user_idx", "item_idx", "rating"):
            assert torch.equal(getattr(part, name), getattr(original, name))
        assert part.time is None and part.columns == original.columns
        assert part.users is model.users and part.items is model.items
    assert config["metrics"] == {"valid_loss": 0.30000000000000004, "n": 3, "share": 0.5}
    assert config["data_hash"] == rec.train.data_hash() == data.train.data_hash()
    assert config["version"] == FORMAT_VERSION and config["model"]["class"] == type(rec.model).__name__


def test_time_unrated_and_missing_parts_come_back(tmp_path):
    df = pd.DataFrame(
        {"u": ["a", "b", "a"], "i": [3, 1, 1], "t": pd.to_datetime(["2020-01-03", "2021-01-01", "1969-12-31"])}
    )
    data = Interactions.from_df(df, Columns("u", "i", None, "t"))
    save_artefact(tmp_path / "model", CollFilter(3, 3, 2), Dataset(data))
    found = load_artefact(tmp_path / "model").data
    assert found.valid is None and found.train.rating is None
    assert torch.equal(found.train.time, data.time) and found.columns == Columns("u", "i", None, "t")
    half = Dataset(data.take([0, 1]), data.take([2]))
    save_artefact(tmp_path / "model", CollFilter(3, 3, 2), half)
    found = load_artefact(tmp_path / "model").data
    assert torch.equal(found.train.time, half.train.time) and torch.equal(found.valid.item_idx, half.valid.item_idx)


N = 200
ID_KINDS = {
    "int": lambda n: n * 7 - 300,
    "large int": lambda n: n.astype(np.int64) + 2**60,
    "uint8": lambda n: n.astype(np.uint8),
    "float": lambda n: n + 0.5,
    "str": lambda n: [f"u{j}" for j in n],
    "odd str": lambda n: [f"ü\n'\"{j}\t☃ " for j in n],
    "categorical": lambda n: pd.Categorical([f"u{j}" for j in n]),
    "string dtype": lambda n: pd.array([f"u{j}" for j in n], dtype="string"),
    "nullable int": lambda n: pd.array(n, dtype="Int64"),
    "uuid": lambda n: [uuid.UUID(int=int(j) * 10**30) for j in n],
    "timestamp": lambda n: pd.Timestamp("2020-01-01") + pd.to_timedelta(n, "h"),
    "zoned timestamp": lambda n: pd.Timestamp("2020-01-01", tz="Europe/Berlin") + pd.to_timedelta(n, "h"),
    "nanosecond": lambda n: pd.Timestamp("2020-01-01") + pd.to_timedelta(n, "ns"),
}


def with_ids(make):
    df = ratings()
    codes, _ = df["user"].factorize(sort=True)
    table = pd.Series(make(np.arange(N)))
    df["user"] = table.take(codes).array
    return df


@pytest.mark.parametrize("kind", ID_KINDS)
def test_ids_of_every_kind_give_the_same_recommendations_to_the_last_digit(kind, tmp_path):
    df = with_ids(ID_KINDS[kind])
    learn = make_learner("dot", make_dls(df), path=tmp_path)
    learn.fit(1, 1e-2)
    rec = Recommender.load(learn.export("model"))
    users = df["user"].unique()[[0, 5, 9]]
    pd.testing.assert_frame_equal(rec.recommend(users, 5), learn.recommend(users, 5), check_exact=True)
    pd.testing.assert_frame_equal(rec.recommend(k=3), learn.recommend(k=3), check_exact=True)
    pd.testing.assert_frame_equal(rec.similar_users(users[0], 4), learn.similar_users(users[0], 4), check_exact=True)
    assert rec.recommend(k=1)["user"].dtype == learn.recommend(k=1)["user"].dtype
    assert type(rec.users[3]) is type(learn.dls.classes["user"][3])
    assert set(learn.recommend(k=1)["user"]) == set(df["user"])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda n: [("a", int(j)) for j in n], "tuple"),
        (lambda n: n + 1j, "complex"),
    ],
    ids=["tuple", "complex"],
)
def test_ids_that_cannot_be_stored(make, name, tmp_path):
    learn = make_learner("dot", make_dls(with_ids(make)), path=tmp_path)
    with pytest.raises(
        TypeError, match=rf"ids of type {name} \(column 'user'\) cannot be stored; train on df\['user'\]"
    ):
        learn.export("model")
    assert os.listdir(tmp_path) == []


@pytest.mark.filterwarnings("ignore:.*repeat a")
def test_columns_without_text_names(tmp_path):
    df = tiny().train.to_df().set_axis(pd.Index([0, 1, 2]), axis=1)[[0, 1, 2]]
    assert isinstance(df.columns[0], np.integer)
    learn = make_learner("dot", make_dls(df, user_name=0, item_name=1, rating_name=2), y_range=None, path=tmp_path)
    rec = Recommender.load(learn.export("model"))
    assert list(rec.recommend([0], 2, filter_seen=False).columns) == [0, 1, "rank", "score"]


def test_a_model_of_another_class(tmp_path):
    class Other(CollFilter):
        def config(self):
            return {}

    with pytest.raises(TypeError, match="only models of collabkit can be exported, got Linear; use learn.save instead"):
        save_artefact(tmp_path / "model", torch.nn.Linear(3, 3), tiny())
    assert os.listdir(tmp_path) == []
    model = Other(tiny().n_users, tiny().n_items)
    save_artefact(tmp_path / "model", model, tiny())
    refused(
        tmp_path / "model", r"a model class 'Other'; this version knows CollFilter, .*Pass the class: models=\[Other"
    )
    assert same_weights(load_artefact(tmp_path / "model", models=[Other])[0], model)


# --- earlier formats -------------------------------------------------------------------------------------------------

OLD_KINDS = {
    "CollFilter": {"n_factors": 4, "y_range": (0.5, 5.5)},
    "EmbeddingNN": {"use_nn": True, "layers": [8, 4], "y_range": (0.5, 5.5)},
    "NCF": {"use_nn": True, "n_factors": 4, "layers": [8, 4]},
    "GMF": {"model": GMF, "n_factors": 4},
    "NeuMF": {"model": NeuMF, "n_factors": 4, "layers": [8, 4]},
    "TwoTower": {"model": TwoTower, "n_factors": 4, "layers": [8, 4], "item_bias": True},
}


def recommender_of(kind, *, features, folded):
    rated, df = "y_range" in OLD_KINDS[kind], ratings().query("user < 60")
    options = {"seed": 0}
    if features:
        items, users = df[["title"]].drop_duplicates(), df[["user"]].drop_duplicates()
        options |= {"items": items.assign(letter=items["title"].str[0]), "item_features": ["letter"]}
        options |= {"users": users.assign(age=users["user"] % 7.0), "user_features": ["age"]}
    names = {"rating_name": "rating"} if rated else {"rating_name": None, "feedback": "implicit"}
    dls = make_dls(df[["user", "title", "rating"] if rated else ["user", "title"]], **names, **options)
    learn = silence(collab_learner(dls, **OLD_KINDS[kind]))
    learn.fit(1, 2e-2)
    if folded:
        rows = df.drop_duplicates("title").head(6).assign(user=[901, 901, 901, 902, 902, 902])
        ages = pd.DataFrame({"user": [901, 902], "age": [2.0, 5.0]}) if features else None
        learn.recommender.fold_in(rows[["user", "title", "rating"] if rated else ["user", "title"]], ages)
    return learn.recommender


@pytest.mark.parametrize("kind", OLD_KINDS)
@pytest.mark.parametrize(
    ("version", "features", "folded"),
    [(1, False, False), (2, False, False), (2, True, False), (2, False, True), (2, True, True)],
)
def test_artefacts_of_earlier_versions_recommend_the_same(kind, version, features, folded, tmp_path):
    rec = recommender_of(kind, features=features, folded=folded)
    again = Recommender.load(write_old(rec, tmp_path / "model", version))
    assert again.config["version"] == version and type(again.model).__name__ == kind
    assert same_weights(again.model, rec.model) and (again.data.folded is not None) is folded
    lists = rec.recommend(k=4)
    pd.testing.assert_frame_equal(again.recommend(k=4), lists, check_exact=True)
    assert ({901, 902} <= set(lists["user"])) is folded
    title = rec.items[3]
    pd.testing.assert_frame_equal(again.similar_items(title, 4), rec.similar_items(title, 4), check_exact=True)
    new = Recommender.load(again.save(tmp_path / "new"))
    assert new.config["version"] == FORMAT_VERSION
    pd.testing.assert_frame_equal(new.recommend(k=4), lists, check_exact=True)


# --- the place -------------------------------------------------------------------------------------------------------


def test_an_artefact_or_an_empty_folder_is_replaced(tmp_path, artefact):
    save_artefact(artefact, NEW, tiny())
    assert same_weights(load_artefact(artefact)[0], NEW)
    (tmp_path / "empty").mkdir()
    save_artefact(tmp_path / "empty", NEW, tiny())
    assert sorted(os.listdir(tmp_path)) == ["empty", "model"]


def test_a_link_to_an_artefact_stays_one(tmp_path, artefact):
    (tmp_path / "latest").symlink_to(artefact)
    save_artefact(tmp_path / "latest", NEW, tiny())
    assert (tmp_path / "latest").is_symlink() and same_weights(load_artefact(artefact)[0], NEW)
    assert same_weights(load_artefact(tmp_path / "latest")[0], NEW)


@pytest.mark.parametrize(
    "content", [{"thesis.txt": "ten years"}, {"config.json": '{"format": "other"}'}, {"config.json": "["}]
)
def test_a_folder_that_is_no_artefact_is_never_overwritten(content, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    with pytest.raises(FileExistsError, match="mine exists and is not a collabkit artefact; choose another"):
        save_artefact(folder, OLD, tiny())
    assert {name: (folder / name).read_text() for name in os.listdir(folder)} == content
    assert os.listdir(tmp_path) == ["mine"]


def test_an_artefact_with_somebodys_files_in_it_is_not_replaced(artefact):
    (artefact / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"also holds \['notes.txt'\], which replacing it would delete; move"):
        save_artefact(artefact, NEW, tiny())
    assert (artefact / "notes.txt").read_text() == "mine" and same_weights(load_artefact(artefact)[0], OLD)


def test_a_file_in_the_way(tmp_path):
    file = tmp_path / "model"
    file.write_text("precious")
    with pytest.raises(FileExistsError, match="exists and is not a collabkit artefact"):
        save_artefact(file, OLD, tiny())
    with pytest.raises(NotADirectoryError, match=f"cannot write the artefact to .*{re.escape(str(file))}"):
        save_artefact(file / "below", OLD, tiny())
    assert file.read_text() == "precious"


def test_a_place_that_takes_no_files():
    with pytest.raises(OSError, match="cannot write the artefact to /proc/model"):
        save_artefact("/proc/model", OLD, tiny())


def test_a_folder_without_the_right_to_write(tmp_path, artefact, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match=r"cannot write the artefact to .*model: Permission denied"):
        save_artefact(artefact, NEW, tiny())
    assert same_weights(load_artefact(artefact)[0], OLD)


@pytest.mark.parametrize("limit", [100, 800, 2000])
def test_a_full_disk_is_an_oserror_and_leaves_the_old_one(limit, tmp_path, artefact):
    """A bound on the size of a file stands in for the disk's; each one is met by another file."""
    sizes = [(artefact / name).stat().st_size for name in FILES]
    assert limit < max(sizes)

    def save():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(OSError, match="cannot write the artefact to"):
            save_artefact(artefact, NEW, tiny())

    assert in_child(save) == 0
    assert same_weights(load_artefact(artefact)[0], OLD)
    assert os.listdir(tmp_path) == ["model"]


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(name, artefact):
    file = artefact / name
    data = file.read_bytes()
    for place in (0, 1, len(data) // 3, len(data) // 2, len(data) - 5, len(data) - 1):
        flipped = bytearray(data)
        flipped[place] ^= 1
        file.write_bytes(flipped)
        refused(artefact, f"is damaged: {name} does not match its checksum; export it again")
    for end in (0, 1, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:end])
        refused(artefact, f"is damaged: {name} does not match")
    file.write_bytes(data + b"x")
    refused(artefact, f"is damaged: {name} does not match")
    file.unlink()
    refused(artefact, f"is damaged: {name} is missing; export it again")
    file.write_bytes(data)
    assert same_weights(load_artefact(artefact)[0], OLD)


def test_no_byte_of_the_config_can_change_unnoticed(artefact):
    file = artefact / "config.json"
    data = file.read_bytes()
    blank = {place for place, byte in enumerate(data) if chr(byte).isspace()}
    for place in sorted(set(range(len(data))) - blank):
        for bit in (1, 32):  # 32 changes the case of a letter
            flipped = bytearray(data)
            flipped[place] ^= bit
            file.write_bytes(flipped)
            refused(artefact)
    for end in range(0, len(data) - 2, 7):
        file.write_bytes(data[:end])
        refused(artefact)


def test_parts_of_two_artefacts_do_not_mix(tmp_path, artefact):
    other = save_artefact(tmp_path / "other", NEW, tiny())
    shutil.copy(other / "model.safetensors", artefact / "model.safetensors")
    refused(artefact, "does not match its checksum")


# --- foreign, newer, inconsistent ------------------------------------------------------------------------------------


def test_foreign_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="no artefact folder .*nowhere"):
        load_artefact(tmp_path / "nowhere")
    folder = tmp_path / "folder"
    folder.mkdir()
    refused(folder, "is not a collabkit artefact: it has no config.json")
    for text in ("[1]", "3", "null", '{"model_type": "bert"}', '{"format": "other", "version": 1}'):
        (folder / "config.json").write_text(text)
        refused(folder, "is not a collabkit artefact: its config.json was written by something else")
    for data in (b"", b"{", b"\xff\xfe", b'{"format": "collabkit"'):
        (folder / "config.json").write_bytes(data)
        refused(folder, "is damaged: config.json is not valid JSON")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "is a file; an artefact is the folder that learn.export writes")


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99, "2", None, 1.5])
def test_a_newer_artefact(version, artefact):
    change(artefact, version=version)
    refused(artefact, f"format version {version!r}, this collabkit .* reads up to {FORMAT_VERSION}; update collabkit")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"class": "LightGCN", "arguments": {}}}, "a model class 'LightGCN'; this version knows Coll"),
        ({"model": {"class": "CollFilter"}}, "arguments"),
        ({"model": {"class": "CollFilter", "arguments": {"n_users": 6}}}, "n_users"),
        ({"model": {"class": "CollFilter", "arguments": {"n_factors": 3}}}, "size mismatch"),
        ({"model": {"class": "CollFilter", "arguments": {"depth": 3}}}, "depth"),
        ({"model": 3}, "TypeError"),
        ({"columns": 3}, "TypeError"),
        ({"columns": {"user": "user"}}, "item"),
        ({"columns": {"user": "u", "item": "i", "who": 1}}, "who"),
        ({"id_kinds": {"users": "plain"}}, "items"),
        ({"id_kinds": {"users": "uuid", "items": "plain"}}, "cannot be read"),
    ],
)
def test_a_config_that_contradicts_the_files(changes, message, artefact):
    change(artefact, **changes)
    refused(artefact, message)


@pytest.mark.parametrize("name", ["model", "columns", "id_kinds", "sha256"])
def test_a_config_without_a_part(name, artefact):
    config = json.loads((artefact / "config.json").read_text())
    del config[name]
    (artefact / "config.json").write_text(json.dumps(config))
    refused(artefact, f"is damaged: config.json lacks .*{name}")


def test_tables_that_do_not_fit_each_other(artefact):
    ids = pd.read_parquet(artefact / "users.parquet")
    for fewer, message in ((ids.head(-1), "user_idx outside 0..4"), (pd.DataFrame({"id": range(6)}), "size mismatch")):
        fewer.to_parquet(artefact / "users.parquet")
        change(artefact)
        refused(artefact, message)


@pytest.mark.parametrize("bad", [-1, 7])
def test_indices_outside_the_tables(bad, artefact):
    rows = pd.read_parquet(artefact / "interactions.parquet")
    rows.loc[3, "item_idx"] = bad
    rows.to_parquet(artefact / "interactions.parquet", index=False)
    change(artefact)
    refused(artefact, "item_idx outside 0..6")


# --- hostile ---------------------------------------------------------------------------------------------------------


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def pickled(path):
    return pickle.dumps(Bomb(path))


def torch_saved(path):
    import io

    file = io.BytesIO()
    torch.save({"u_weight.weight": Bomb(path)}, file)
    return file.getvalue()


@pytest.mark.parametrize("fix_checksum", [False, True])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("make", [pickled, torch_saved])
def test_a_pickle_is_refused_and_never_run(make, name, fix_checksum, artefact, tmp_path):
    (artefact / name).write_bytes(make(tmp_path / "boom"))
    if fix_checksum:
        change(artefact)
    refused(artefact, "cannot be read" if fix_checksum else "does not match its checksum")
    assert not (tmp_path / "boom").exists()


def test_the_bomb_of_the_test_above_works(tmp_path):
    pickle.loads(pickled(tmp_path / "boom"))
    assert (tmp_path / "boom").is_dir()


def test_nothing_in_an_artefact_is_a_pickle(artefact):
    for name in os.listdir(artefact):
        data = (artefact / name).read_bytes()
        assert data[:1] != b"\x80" and b"PK\x03\x04" not in data[:4]
    source = Path(artefacts.__file__).read_text()
    assert not re.search(r"\b(pickle\.|torch\.load|joblib|eval\(|exec\()", source.replace("model.eval()", ""))


def test_loading_an_artefact_needs_no_fastai(artefact):
    code = f"import sys; from collabkit import Recommender; r = Recommender.load({str(artefact)!r}); r.recommend(k=1)"
    code += "; print(sorted(m for m in sys.modules if m.split('.')[0] in ('fastai', 'fastcore', 'matplotlib')))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert out.stdout.strip() == "[]"


# --- interruptions ---------------------------------------------------------------------------------------------------

WHOLE = ("old", "new")


def state(folder):
    """Which model the artefact holds now."""
    model = load_artefact(folder)[0]
    return next(name for name, other in zip(WHOLE, (OLD, NEW), strict=True) if same_weights(model, other))


def lines_of_a_save(folder, **which):
    with interrupted_at("serve/artefact.py", **which) as counted:
        save_artefact(folder, NEW, tiny())
    return counted.lines


def raise_(error):
    raise error


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), Interrupt()], ids=["OSError", "BaseException"]
)
def test_an_error_at_any_line_leaves_a_whole_artefact(error, tmp_path):
    folder = tmp_path / "model"
    n = lines_of_a_save(save_artefact(folder, OLD, tiny()), once=True)
    seen = []
    for line in range(1, n + 1):
        save_artefact(folder, OLD, tiny())
        with (
            pytest.raises(type(error)),
            interrupted_at("serve/artefact.py", line, lambda: raise_(error), once=True) as at,
        ):
            save_artefact(folder, NEW, tiny())
        seen.append(state(folder))
        left = [name for name in os.listdir(tmp_path) if ".new-" in name]
        assert not left or at.where.startswith("save_artefact"), (line, at.where, left)  # in the clearing up itself
        for name in left:
            shutil.rmtree(tmp_path / name)
        save_artefact(folder, NEW, tiny())
        assert state(folder) == "new" and os.listdir(tmp_path) == ["model"], at.where
    assert seen == sorted(seen, reverse=True) and set(seen) == set(WHOLE)  # old, old, ..., new


def states_after_kills(start, which):
    """What the artefact holds after a process died before each line of a save, from the same start each time."""
    folder, seen = start(), []
    for line in range(1, lines_of_a_save(folder, **which) + 1):
        start()

        def save(line=line):
            with interrupted_at("serve/artefact.py", line, lambda: os._exit(9), **which):
                save_artefact(folder, NEW, tiny())

        assert in_child(save) == 9
        seen.append(state(folder))
    return seen


def test_a_hard_kill_at_any_line_leaves_a_whole_artefact(tmp_path):
    def start():
        shutil.rmtree(tmp_path)
        return save_artefact(tmp_path / "model", OLD, tiny())

    seen = states_after_kills(start, {"once": True})
    assert seen == sorted(seen, reverse=True) and set(seen) == set(WHOLE)


def test_two_hard_kills_leave_a_whole_artefact(tmp_path):
    """The first falls between the two renames, when only the previous folder is there; the second anywhere later."""

    def start():
        shutil.rmtree(tmp_path)
        folder = save_artefact(tmp_path / "model", OLD, tiny())
        folder.rename(folder.with_name(".model.previous"))
        assert state(folder) == "old" and not folder.exists()
        return folder

    seen = states_after_kills(start, {"functions": ("save_artefact", "_swap")})
    assert seen == sorted(seen, reverse=True) and set(seen) == set(WHOLE)


def test_the_new_folder_that_cannot_be_put_in_place(artefact, monkeypatch):
    rename = Path.rename

    def fail(self, target):
        if ".new-" in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="cannot write the artefact to .*: Input/output error"):
        save_artefact(artefact, NEW, tiny())
    assert artefact.is_dir() and state(artefact) == "old"
    assert os.listdir(artefact.parent) == ["model"]


KILLED = """
import os, sys, numpy as np, pandas as pd, torch
import collabkit.serve.artefact as artefacts
from collabkit import CollFilter, Dataset, Interactions
from collabkit.data.interactions import Columns
data = pd.DataFrame({"u": [1, 2], "i": [5, 6], "r": [1.0, 2.0]})
data = Dataset(Interactions.from_df(data, Columns("u", "i", "r")))
old = CollFilter(3, 3, 2)
artefacts.save_artefact(sys.argv[1], old, data)
print(old.i_bias.weight.sum().item(), flush=True)
artefacts.write_vocab = lambda *_: os._exit(7)
artefacts.save_artefact(sys.argv[1], CollFilter(3, 3, 2), data)
"""


def test_a_process_killed_in_the_middle_of_an_export(tmp_path):
    run = elsewhere(KILLED, tmp_path / "model", check=False)
    assert run.returncode == 7, run.stderr
    assert any(".new-" in name for name in os.listdir(tmp_path))  # it did die half-way
    rec = Recommender.load(tmp_path / "model")
    assert rec.model.i_bias.weight.sum().item() == float(run.stdout.split()[-1])


def test_a_file_of_the_users_is_not_deleted(artefact):
    (artefact / "NOTES.md").write_text("mine")
    with pytest.raises(FileExistsError, match="NOTES.md"):
        save_artefact(artefact, NEW, tiny())
    assert (artefact / "NOTES.md").read_text() == "mine"
    assert same_weights(load_artefact(artefact)[0], OLD)
