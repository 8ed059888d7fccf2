"""Files for other runtimes: what ONNX Runtime answers without torch is what the model answers."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_dls, ratings, silence, synthetic

from collabkit import EASE, CollabDataLoaders, Pipeline, Recommender, collab_learner
from collabkit.data.query import Query
from collabkit.models import (
    GMF,
    NCF,
    AveragedHistory,
    CollFilter,
    EmbeddingNN,
    FactorizationMachine,
    GRURec,
    NeuMF,
    SASRec,
    TimeSVD,
    TwoTower,
    YouTubeNet,
)
from collabkit.serve import exports, graphs
from collabkit.serve.onnx_models import OnnxModel, read_meta

pytest.importorskip("onnxruntime")

SEQUENCE = {"n_factors": 8, "length": 12}
TOWER = {"n_factors": 8, "layers": [12, 6], "similarity": "cosine", "temperature": 0.1, "item_bias": True}
MODELS = {
    "CollFilter": (CollFilter, {"n_factors": 8}),
    "GMF": (GMF, {"n_factors": 8}),
    "NCF": (NCF, {"n_factors": 8, "layers": [16, 8]}),
    "NeuMF": (NeuMF, {"n_factors": 8, "layers": [16, 8]}),
    "TwoTower": (TwoTower, TOWER),
    "FactorizationMachine": (FactorizationMachine, {"n_factors": 8}),
    "AveragedHistory": (AveragedHistory, SEQUENCE),
    "GRURec": (GRURec, {**SEQUENCE, "n_layers": 2}),
    "SASRec": (SASRec, SEQUENCE),
    "SASRec of users": (SASRec, {**SEQUENCE, "user_table": True}),
    "YouTubeNet": (YouTubeNet, {**SEQUENCE, "layers": [16]}),
}
NETWORKS = ("NCF", "NeuMF")


def _loaders(sides: bool):
    made = synthetic()
    events = made.ratings.copy()
    rng = np.random.default_rng(0)
    events["device"], events["volume"] = rng.choice(["tv", "phone", "radio"], len(events)), rng.normal(size=len(events))
    extra = {"users": made.users, "items": made.items, "context_features": ["device", "volume"]} if sides else {}
    return CollabDataLoaders.from_df(
        events,
        user_name="user",
        item_name="title",
        time_name="timestamp",
        feedback="implicit",
        history=12,
        seed=0,
        **extra,
    )


@pytest.fixture(scope="module")
def made():
    """A trained learner by the name of a model and whether it has side features and context; made once."""
    loaders, kept = {}, {}

    def make(name, sides=False):
        if (name, sides) not in kept:
            loaders.setdefault(sides, _loaders(sides))
            model, options = MODELS[name]
            learn = silence(collab_learner(loaders[sides], model=model, loss_func="bpr", **options))
            learn.fit(1, 1e-2)
            kept[name, sides] = learn
        return kept[name, sides]

    return make


def _without_torch(code: str, *args) -> dict:
    """What a process that may not import torch, pandas or fastai prints as JSON."""
    start = "import sys\nfor name in ('torch', 'pandas', 'fastai'): sys.modules[name] = None\n"
    command = [sys.executable, "-c", start + textwrap.dedent(code), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


RUN = """
    import json, sys
    import numpy as np, onnxruntime
    def padded(rows):
        table = np.zeros((len(rows), max(1, max(map(len, rows)))), np.int64)
        for row, run in zip(table, rows):
            row[:len(run)] = run
        return table
    asked = json.loads(sys.argv[1])
    session = onnxruntime.InferenceSession(sys.argv[2], providers=['CPUExecutionProvider'])
    meta = json.loads(session.get_modelmeta().custom_metadata_map['collabkit'])
    found = []
    for rows in (range(len(asked['users'])), range(1)):
        some = {name: [values[j] for j in rows] for name, values in asked.items()}
        given = {'users': np.array(some['users']), 'items': np.array(some['items']),
                 'history': padded(some['history']), 'lengths': np.array(list(map(len, some['history']))),
                 'hidden': padded(some['hidden'])}
        answers = session.run(None, {name: given[name] for name in meta['inputs']})
        found.append([part.tolist() for part in answers])
    print(json.dumps({'meta': meta, 'found': found}))
"""


def _asked(learn, n=7):
    """Questions: users, one of them unknown, with all kinds of histories."""
    data, rng = learn.dls.data, np.random.default_rng(1)
    users = np.append(rng.permutation(np.arange(1, data.n_users))[: n - 1], 0)
    history = [run[-12:].tolist() for run in data.latest.of(torch.from_numpy(users))]
    history[1] = history[1][:1]
    hidden = [run.tolist() for run in data.known.of(torch.from_numpy(users))]
    return {
        "users": users.tolist(),
        "items": rng.integers(1, data.n_items, n).tolist(),
        "history": history,
        "hidden": hidden,
    }


def _query(learn, asked):
    from collabkit.data.runs import Runs

    users = torch.tensor(asked["users"])
    if "history" not in learn.model.needs:
        return users
    rows = [j for j, run in enumerate(asked["history"]) for _ in run]
    items = [item for run in asked["history"] for item in run]
    return Query(users, Runs.group(rows, items, len(users), width=learn.dls.data.n_items))


@pytest.mark.parametrize("name", MODELS)
def test_a_process_without_torch_gives_the_models_scores(made, tmp_path, name):
    learn = made(name)
    asked = _asked(learn)
    told = _without_torch(RUN, json.dumps(asked), learn.to_onnx(tmp_path / "score.onnx"))
    with torch.no_grad():
        wanted = learn.model.eval()(_query(learn, asked), torch.tensor(asked["items"]))
    several, one = (np.array(answers[0], np.float32) for answers in told["found"])
    assert np.abs(several - wanted.numpy()).max() < 1e-5
    assert np.abs(one - wanted.numpy()[:1]).max() < 1e-5
    assert told["meta"]["class"] == type(learn.model).__name__ and told["meta"]["what"] == "score"
    assert told["meta"]["ids"]["items"] == "score.items.parquet"
    ids = pd.read_parquet(tmp_path / "score.items.parquet")["id"]
    assert ids.tolist() == learn.dls.data.items.ids.tolist()


@pytest.mark.parametrize("name", ["CollFilter", "NeuMF", "GRURec"])
def test_a_process_without_torch_gives_the_lists_of_recommend(made, tmp_path, name):
    learn = made(name)
    rec, k = learn.recommender, 5
    users = np.arange(1, 9)
    data = learn.dls.data
    asked = {"users": users.tolist(), "items": users.tolist(), "hidden": [r.tolist() for r in data.seen.of(users)],
             "history": [run[-12:].tolist() for run in data.latest.of(users)]}  # fmt: skip
    told = _without_torch(RUN, json.dumps(asked), learn.to_onnx(tmp_path / "topk.onnx", "topk", k=k))
    lists = rec.recommend(data.users.decode(users), k=k)
    items, scores = told["found"][0]
    assert data.items.decode(np.array(items).ravel()).tolist() == lists["title"].tolist()
    assert np.allclose(np.array(scores).ravel(), lists["score"], atol=1e-5)
    assert told["meta"]["k"] == k
    everything = [list(range(1, data.n_items - 2))] * 8  # two items are left
    told = _without_torch(RUN, json.dumps({**asked, "hidden": everything}), tmp_path / "topk.onnx")
    assert [sum(item > 0 for item in row) for row in told["found"][0][0]] == [2] * 8
    assert all(score == -np.inf for row in told["found"][0][1] for score in row[2:])


@pytest.mark.parametrize("what", ["score", "topk", "encoder", "vectors", "logits"])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "SASRec of users"])
def test_features_and_moments_are_in_the_files(made, tmp_path, name, what):
    """The check at export compares all of them at drawn moments; here, that it compares what it says."""
    learn = made(name, sides=True)
    if name in NETWORKS and what in ("encoder", "vectors"):
        with pytest.raises(TypeError, match="not a dot product"):
            learn.to_onnx(tmp_path / "x.onnx", what)
        return
    meta = read_meta(learn.to_onnx(tmp_path / "x.onnx", what, k=3))
    by_features = what == "encoder" and "history" not in learn.model.needs
    assert {"context.device", "context.volume"} <= set(meta["inputs"])
    assert ("feature.age" in meta["inputs"]) == by_features == ("users" not in meta["inputs"])
    assert meta["fields"]["context.device"]["categories"] == ["phone", "radio", "tv"]


@pytest.mark.parametrize("name", ["CollFilter", "TwoTower", "FactorizationMachine"])
def test_the_encoder_knows_somebody_new_by_features_as_add_users_does(made, tmp_path, name):
    learn = made(name, sides=True)
    model = OnnxModel(learn.to_onnx(tmp_path / "x.onnx", "encoder"))
    rec = Recommender.load(learn.recommender.save(tmp_path / "artefact"))
    people = synthetic().users.iloc[[3, 11, 20]].assign(user=[90_001, 90_002, 90_003])
    rec.add_users(people)
    _, vectors = rec.vectors("users")
    side = rec.data.features.users
    numbers = side.matrix(torch.arange(rec.data.n_users - 3, rec.data.n_users)).split(
        [f.size for f in side.fields], dim=1
    )
    given = {f"feature.{field.name}": part.numpy() for field, part in zip(side.fields, numbers, strict=True)}
    for field_name, field in model.meta["fields"].items():
        if field_name.startswith("context."):
            unknown = np.array(field["unknown"], dtype=np.int64 if field["one_code"] else np.float32)
            given[field_name] = np.repeat(unknown[None], 3, axis=0)
    found = model.run(**given)[0]
    assert np.abs(found - vectors[-3:]).max() < 1e-5


@pytest.mark.parametrize("name", ["SASRec", "AveragedHistory", "SASRec of users"])
def test_the_reader_answers_histories_of_any_length(made, tmp_path, name):
    learn = made(name)
    data, rng = learn.dls.data, np.random.default_rng(0)
    told = exports.export_onnx(learn.model, data, tmp_path)
    assert told["what"] == "vectors" and told["file"] == "vectors.onnx"
    with torch.no_grad():
        items = learn.model.eval().item_vectors(torch.arange(data.n_items)).numpy()
    model = OnnxModel((tmp_path / told["file"]).read_bytes(), items)
    history = [rng.integers(1, data.n_items, n).tolist() for n in (0, 1, 30, 12, 5, *rng.integers(0, 40, 150))]
    users = rng.integers(0, data.n_users, len(history))
    asked = {"users": users.tolist(), "history": history}
    with torch.no_grad():
        wanted = learn.model.scorer(torch.arange(data.n_items))(_query(learn, asked)).numpy()
    assert np.abs(model.logits(users, history=history) - wanted).max() < 1e-5
    if name != "SASRec of users":
        assert model.logits(history=[]).shape == (0, data.n_items)
    with pytest.raises(ValueError, match="item indices"):
        model.logits(history=[[data.n_items]])


def test_a_history_longer_than_the_model_reads_is_no_answer_but_an_error(made, tmp_path):
    model = OnnxModel(made("GRURec").to_onnx(tmp_path / "x.onnx", "encoder"))
    long = {"history": np.ones((2, 13), np.int64), "lengths": np.array([13, 2])}
    with pytest.raises(Exception, match=r"13|broadcast"):
        model.run(**long)


def test_ratings_are_on_their_scale(tmp_path):
    dls = make_dls()
    for options in ({"n_factors": 8}, {"use_nn": True, "layers": [16, 8], "emb_szs": [6, 5]}):
        learn = silence(collab_learner(dls, y_range=(0.5, 5.5), **options))
        learn.fit(1, 1e-2)
        model = OnnxModel(learn.to_onnx(tmp_path / "score.onnx"))
        users, items = np.arange(20), np.arange(20, 40)
        wanted = learn.predict(dls.data.users.decode(users[1:]), dls.data.items.decode(items[1:]))
        assert np.abs(model.run(users=users, items=items)[0][1:] - wanted).max() < 1e-5
        assert exports.export_onnx(learn.model, dls.data, tmp_path).get("what") == (
            None if "n_factors" in options else "logits"
        )
    assert isinstance(learn.model, EmbeddingNN)
    logits = OnnxModel(tmp_path / "logits.onnx").logits([3, 5])
    with torch.no_grad():
        assert (
            np.abs(logits - learn.model.scorer(torch.arange(dls.data.n_items))(torch.tensor([3, 5])).numpy()).max()
            < 1e-5
        )


def test_a_program_of_torch_alone_gives_the_models_scores(made, tmp_path):
    """In a process where collabkit cannot be imported."""
    learners = {name: made(name) for name in ("CollFilter", "NeuMF", "AveragedHistory")}
    asked = {name: _asked(learn) for name, learn in learners.items()}
    for name, learn in learners.items():
        learn.to_torch_export(tmp_path / f"{name}.pt2")
    code = """
        import json, sys, warnings
        warnings.simplefilter('ignore')
        sys.modules['collabkit'] = None
        import torch

        def scores(file, asked):
            extra = {'collabkit.json': ''}
            program = torch.export.load(file, extra_files=extra).module()
            lengths = [len(run) for run in asked['history']]
            longest = max(lengths)
            given = {'users': torch.tensor(asked['users']), 'items': torch.tensor(asked['items']),
                     'history': torch.tensor([run + [0] * (longest - len(run)) for run in asked['history']]),
                     'lengths': torch.tensor(lengths)}
            tensors = [given[name] for name in json.loads(extra['collabkit.json'])['inputs']]
            return [program(*tensors).tolist(), program(*(part[:1] for part in tensors)).tolist()]

        print(json.dumps({name: scores(name + '.pt2', asked) for name, asked in json.loads(sys.argv[1]).items()}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), json.dumps(asked)], cwd=tmp_path,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name, learn in learners.items():
        several, one = found[name]
        with torch.no_grad():
            wanted = learn.model.eval()(_query(learn, asked[name]), torch.tensor(asked[name]["items"])).numpy()
        assert np.abs(np.array(several) - wanted).max() < 1e-5 and abs(one[0] - wanted[0]) < 1e-5, name


def test_the_moment_of_a_rating_goes_to_torch_but_not_to_onnx(tmp_path):
    dls = CollabDataLoaders.from_df(ratings(), user_name="user", item_name="title", time_name="timestamp", seed=0)
    learn = silence(collab_learner(dls, model=TimeSVD, n_factors=4, y_range=(0.5, 5.5), n_bins=3))
    learn.fit(1, 1e-2)
    with pytest.raises(TypeError, match="ONNX has no operation"):
        learn.to_onnx(tmp_path / "x.onnx")
    program = torch.export.load(learn.to_torch_export(tmp_path / "x.pt2")).module()
    rows = dls.data.train.take(np.arange(9))
    with torch.no_grad():
        wanted = learn.model.eval()(Query(rows.user_idx, time=rows.time), rows.item_idx)
        found = program(rows.user_idx, rows.time, rows.item_idx)
    assert (found - wanted).abs().max() < 1e-5


def test_what_cannot_be_exported_is_refused_in_words(made, tmp_path):
    learn = made("CollFilter")
    with pytest.raises(ValueError, match="what must be one of 'score', 'topk'"):
        learn.to_onnx(tmp_path / "x.onnx", "scores")
    for k in (0, learn.dls.data.n_items, 2.5):
        with pytest.raises(ValueError, match="k must lie between 1 and"):
            learn.to_onnx(tmp_path / "x.onnx", "topk", k=k)
    ease = EASE().fit(learn.dls)
    for model in (ease, Pipeline(ease, learn)):
        with pytest.raises(TypeError, match="not a network"):
            model.recommender.to_onnx(tmp_path / "x.onnx")
        assert exports.export_onnx(model, learn.dls.data, tmp_path) == {}
    assert exports.export_onnx(learn.model, learn.dls.data, tmp_path) == {}  # its vectors are tables
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="was not written by collabkit"):
        OnnxModel(b"nothing")


def test_a_graph_that_answers_otherwise_is_never_written(made, tmp_path, monkeypatch):
    learn = made("GMF")
    true = graphs.Graph.forward
    for wrong in (2e-5, float("nan")):
        monkeypatch.setattr(graphs.Graph, "forward", lambda self, *given, by=wrong: true(self, *given) + by)
        with pytest.raises(RuntimeError, match="from the model's"):
            learn.to_onnx(tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_a_file_says_of_which_weights_it_is(made, tmp_path):
    learn = made("NCF")
    one, same = (read_meta(learn.to_onnx(tmp_path / f"{j}.onnx"))["content"] for j in range(2))
    assert one == same
    with torch.no_grad():
        learn.model.u_weight.weight[1, 0] += 1
    assert read_meta(learn.to_onnx(tmp_path / "3.onnx"))["content"] != one
