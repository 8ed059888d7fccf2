"""`Track`: each tracker once, offline; those that are not installed are skipped (`make test-trackers` has them all)."""

import sqlite3

import numpy as np
import pandas as pd
import pytest

from collabkit import CollabDataLoaders, Track, collab_learner
from collabkit.train import track


def optional_engine(name):
    return pytest.importorskip(name, reason=f"an optional engine: `make test-trackers` has {name}")


def learner(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"user": rng.integers(0, 80, 2000), "item": rng.integers(0, 50, 2000)}).drop_duplicates()
    dls = CollabDataLoaders.from_df(table, user_name="user", item_name="item", feedback="implicit", seed=0, bs=256)
    learn = collab_learner(dls, n_factors=4, start="random", metrics=["NDCG@10", "HR@5"], path=tmp_path)
    learn.remove_cb(learn.progress)
    return learn


def fit(learn, cb, n=2):
    with learn.no_logging():
        learn.fit(n, 1e-2, cbs=cb)
    names = list(learn.recorder.metric_names[1:-1])
    return [dict(zip(names, row, strict=True)) for row in learn.recorder.values]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    learn = learner(tmp_path)
    cb = Track("tensorboard", run="one", folder=tmp_path / "logs", config={"note": "a"})
    shown = fit(learn, cb)
    learn.lr_find(show_plot=False, num_it=5)
    shown += fit(learn, cb, n=1)  # the same run goes on
    events = EventAccumulator(str(tmp_path / "logs" / "one"))
    events.Reload()
    assert {"train_loss", "valid_loss", "NDCG@10", "HitRate@5", "lr"} == set(events.Tags()["scalars"])
    for name in ("NDCG@10", "valid_loss", "train_loss"):
        found = events.Scalars(name)
        assert [e.step for e in found] == [1, 2, 3]
        assert [e.value for e in found] == pytest.approx([row[name] for row in shown], rel=1e-5)
    text = events.Tensors("options/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| note | a |" in text and "| model | CollFilter |" in text and "| n_factors | 4 |" in text


def test_it_goes_on_with_a_checkpoint(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first, second = learner(tmp_path), learner(tmp_path)
    with first.no_logging(), second.no_logging():
        first.fit(2, 1e-2, cbs=Track("tensorboard", run="r", folder=tmp_path), checkpoint="c")
        (tmp_path / "c" / "epoch_00002.safetensors").unlink()  # as if it had been killed in the second epoch
        second.fit(2, 1e-2, cbs=Track("tensorboard", run="r", folder=tmp_path), checkpoint="c", resume=True)
    events = EventAccumulator(str(tmp_path / "r"))
    events.Reload()
    assert sorted({e.step for e in events.Scalars("valid_loss")}) == [1, 2]


def test_wandb(tmp_path, monkeypatch):
    optional_engine("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    fit(learner(tmp_path), Track("wandb", run="one", folder=tmp_path))
    files = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    content = b"".join(file.read_bytes() for file in files)
    assert len(files) == 1 and b"NDCG@10" in content and b"HitRate@5" in content and b"n_factors" in content


def test_mlflow(tmp_path):
    mlflow = optional_engine("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    cb = Track("mlflow", run="one", folder=uri)
    learn = learner(tmp_path)
    shown = fit(learn, cb) + fit(learn, cb, n=1)
    client = mlflow.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("collabkit").experiment_id])
    assert len(runs) == 1 and runs[0].data.params["n_factors"] == "4" and runs[0].info.status == "FINISHED"
    history = sorted(client.get_metric_history(runs[0].info.run_id, "NDCG_at_10"), key=lambda m: m.step)
    assert [m.value for m in history] == pytest.approx([row["NDCG@10"] for row in shown])


def test_trackio(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    optional_engine("trackio")
    shown = fit(learner(tmp_path), Track("trackio", run="one", project="p"))
    (file,) = (tmp_path / "trackio").rglob("*.db")
    rows = sqlite3.connect(file).execute("select step, metrics from metrics order by step").fetchall()
    assert [step for step, _ in rows] == [1, 2]
    texts = [text.decode() if isinstance(text, bytes) else text for _, text in rows]
    assert all('"NDCG@10"' in text for text in texts) and str(shown[0]["NDCG@10"])[:6] in texts[0]


def test_what_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="to must be one of 'tensorboard', 'wandb', .*'trackio', got 'neptune'"):
        Track("neptune")
    monkeypatch.setattr(track, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs the package wandb: pip install wandb"):
        Track("wandb")
