"""What is known of the moment: columns of a row as fields, in every model, in every question, in the artefact."""

import numpy as np
import pandas as pd
import pytest
from contract import ModelContract

from collabkit import (
    GMF,
    NCF,
    AveragedHistory,
    CollabDataLoaders,
    CollFilter,
    EmbeddingNN,
    FactorizationMachine,
    GRURec,
    NeuMF,
    Recommender,
    SASRec,
    TwoTower,
    YouTubeNet,
    collab_learner,
    splits,
)

DEVICES, N_ITEMS, N_USERS, N_EVENTS = ["car", "phone", "tv", "watch"], 40, 150, 12
NAMES = {"user_name": "user", "item_name": "item", "time_name": "time", "seed": 0}


def planted(rated: bool = False) -> pd.DataFrame:
    """Each device has ten items of its own, and on it these alone are met, or rated 5: nothing else tells anything."""
    rng = np.random.default_rng(0)
    n = N_USERS * N_EVENTS
    device = rng.integers(0, 4, n)
    item = rng.integers(0, N_ITEMS, n) if rated else device * 10 + rng.integers(0, 10, n)
    table = pd.DataFrame({"user": np.repeat(np.arange(N_USERS), N_EVENTS), "item": item, "time": np.arange(n)})
    table["device"] = np.array(DEVICES)[device]
    if rated:
        table["rating"] = np.where(item // 10 == device, 5.0, 1.0)
    return table.drop_duplicates(["user", "item"], ignore_index=True)


PAIRS = [
    (CollFilter, {"n_factors": 8, "loss_func": "softmax"}),
    (GMF, {"n_factors": 8, "loss_func": "softmax"}),
    (NCF, {"n_factors": 8, "layers": [32, 16]}),
    (NeuMF, {"n_factors": 8, "layers": [16, 8]}),
    (TwoTower, {"n_factors": 8, "layers": [16, 8], "loss_func": "softmax"}),
    (FactorizationMachine, {"n_factors": 8, "loss_func": "softmax"}),
]
ORDERED = [(model, {"n_factors": 16}) for model in (SASRec, GRURec, AveragedHistory, YouTubeNet)]


def learner(model, options, context, **data):
    table = planted()
    more = {"history": 10, "bs": 64} if (model, options) in ORDERED else {"negatives": "uniform", "n_neg": 8, "bs": 64}
    more |= {"context_features": ["device"] if context else (), **data}
    dls = CollabDataLoaders.from_df(table, feedback="implicit", splitter=splits.leave_last_out(), **NAMES, **more)
    learn = collab_learner(dls, model=model, seed=1, **options)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(12, 2e-2)
    return learn


@pytest.mark.parametrize(("model", "options"), [*PAIRS, *ORDERED], ids=lambda value: getattr(value, "__name__", ""))
def test_a_model_finds_what_the_context_alone_tells(model, options):
    learn = learner(model, options, context=True)
    hit = learn.evaluate(metrics="HitRate", n_boot=1)["value"].item()
    assert hit > 0.9  # ten items are left, of which most are the device's
    assert learner(model, options, context=False).evaluate(metrics="HitRate", n_boot=1)["value"].item() < 0.5
    for j, device in enumerate(DEVICES):
        items = learn.recommend([3], k=5, context={"device": device}, filter_seen=False)["item"]
        assert (items // 10 == j).all()
    each = learn.recommend([3, 5, 3], k=2, context=pd.DataFrame({"device": ["tv", "car", "car"]}), filter_seen=False)
    assert (each["item"] // 10).tolist() == [2, 2, 0, 0, 0, 0] and each["user"].tolist() == [3, 3, 5, 5, 3, 3]


@pytest.mark.parametrize("model", [CollFilter, EmbeddingNN, FactorizationMachine])
def test_ratings_with_a_context(model, tmp_path):
    errors = {}
    for context in (["device"], ()):
        dls = CollabDataLoaders.from_df(planted(True), rating_name="rating", bs=64, **NAMES, context_features=context)
        how = {"use_nn": True} if model is EmbeddingNN else {"model": model} if model is not CollFilter else {}
        learn = collab_learner(dls, n_factors=16, y_range=(0.5, 5.5), **how)
        assert type(learn.model) is model
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(12, 2e-2, wd=0.01)
        errors[context != ()] = learn.evaluate().loc["RMSE", "value"]
        if context:
            mine = learn
    assert errors[True] < 0.6 and errors[False] > 1.5
    high = mine.predict(3, 25, context={"device": "tv"})
    low = mine.predict(3, 25, context={"device": "car"})
    assert high > 4 and low < 2 and low < mine.predict(3, 25) < high  # of an unknown moment something between
    pairs = mine.predict(3, [25, 25, 5], context={"device": ["tv", "car", "car"]})
    assert np.allclose(pairs, [high, low, mine.predict(3, 5, context={"device": "car"})], atol=1e-5)
    rows = mine.dls.valid.items
    preds, targets = mine.get_preds(dl=mine.dls.test_dl(rows, with_labels=True))
    assert float((preds.flatten() - targets.flatten()).square().mean().sqrt()) == pytest.approx(errors[True], abs=1e-4)
    mine.export(tmp_path / "model")
    back = Recommender.load(tmp_path / "model")
    assert np.allclose(back.predict(3, [25, 25, 5], context={"device": ["tv", "car", "car"]}), pairs, atol=1e-6)
    table = back.evaluate(rows)
    assert table.loc["RMSE", "value"] == pytest.approx(errors[True], abs=1e-5)


class TestCollFilterWithContext(ModelContract):
    model, options, data = CollFilter, {"n_factors": 8, "loss_func": "bpr"}, {"context_features": ["device"]}


class TestNCFWithContext(ModelContract):
    model, options, data = NCF, {"n_factors": 16, "layers": [64, 32]}, {"context_features": ["device"]}


class TestFactorizationMachine(ModelContract):
    model, options = FactorizationMachine, {"n_factors": 8, "loss_func": "bpr"}


class TestFactorizationMachineOfRatings(ModelContract):
    model, options, rated = FactorizationMachine, {"n_factors": 8}, True
    data = {"context_features": {"device": None, "time": "time"}}


class TestYouTubeNet(ModelContract):
    model, options = YouTubeNet, {"n_factors": 16, "dropout": 0.1, "layers": [32]}
    data = {"history": 20, "bs": 64, "context_features": ["device"]}
    n_epoch, lr = 20, 2e-2


class TestSASRecWithAUserTable(ModelContract):
    model, options = SASRec, {"n_factors": 16, "dropout": 0.1, "user_table": True}
    data = {"history": 20, "bs": 64}
    n_epoch, lr = 20, 2e-2
