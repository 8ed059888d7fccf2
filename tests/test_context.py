"""What is known of the moment: columns of a row as fields, in every model, in every question, in the artefact."""

import numpy as np
import pandas as pd
import pytest
import torch
from contract import ModelContract

from collabkit import (
    GMF,
    NCF,
    AveragedHistory,
    CollabDataLoaders,
    CollabInterpretation,
    CollabWarning,
    CollFilter,
    EmbeddingNN,
    FactorizationMachine,
    GRURec,
    NeuMF,
    Recommender,
    SASRec,
    TimeSVD,
    TwoTower,
    YouTubeNet,
    collab_learner,
    splits,
)
from collabkit.data.features import Context
from collabkit.models import DotModel, TableSide

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


def fashions() -> pd.DataFrame:
    """A hundred items, one after the other, each met in the 30 days after it came out and never again."""
    rng = np.random.default_rng(0)
    born, day = np.linspace(0, 270, 100), np.sort(rng.uniform(30, 300, 3000))
    item = [rng.choice(np.flatnonzero((born <= at) & (born > at - 30))) for at in day]
    when = pd.Timestamp("2024-01-01") + pd.to_timedelta(day, "D")
    table = pd.DataFrame({"user": rng.integers(0, 150, len(day)), "item": item, "time": when})
    return table.drop_duplicates(["user", "item"], ignore_index=True)


def fashion_learner(context: bool, splitter, **more):
    more |= {"context_features": {"time": "time"}} if context else {}
    options = {"feedback": "implicit", "negatives": "uniform", "n_neg": 16, "bs": 128, "splitter": splitter}
    dls = CollabDataLoaders.from_df(fashions(), **NAMES, **options, **more)
    learn = collab_learner(dls, seed=1, n_factors=16, loss_func="softmax")
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(15, 1e-2)
    return learn


def test_a_time_finds_the_age_of_the_items():
    hits = [
        fashion_learner(context, splits.random_split(0.1)).evaluate(metrics="HitRate", n_boot=1)["value"].item()
        for context in (True, False)
    ]
    assert hits[0] > 0.8 and hits[1] < 0.4


def test_a_time_finds_the_age_of_items_that_nobody_has_met():
    came_out = fashions().groupby("item", as_index=False)["time"].min().rename(columns={"time": "came_out"})
    more = {"items": came_out, "item_features": {"came_out": "binned"}}
    found = []
    for context in (True, False):
        learn = fashion_learner(context, splits.cold_items(0.2, seed=0), **more)
        cold = learn.dls.valid.items["item"].unique()
        found.append(learn.evaluate(metrics="HitRate", candidates=cold, n_boot=1)["value"].item())
    assert found[0] > 0.98 and found[1] < 0.95


class TestCollFilterWithContext(ModelContract):
    model, options, data = CollFilter, {"n_factors": 8, "loss_func": "bpr"}, {"context_features": ["device"]}


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


class TestTimeSVD(ModelContract):
    model, options, rated = TimeSVD, {"n_factors": 8, "gaps": [1, 5], "n_bins": 4}, True


def moody(n_users=60, n_items=40, seed=0):
    """Each user rates in sessions an hour apart, ten films a session, and every session has a mood of its own."""
    rng, rows = np.random.default_rng(seed), []
    for user in range(n_users):
        for session in range(4):
            mood = rng.normal(0, 1)
            for j, item in enumerate(rng.choice(n_items, 10, replace=False)):
                at = 900_000_000 + user * 7 + session * 3600 * (1 + user % 3) + j * 20
                rows.append((user, item, 3 + mood + rng.normal(0, 0.2), at))
    return pd.DataFrame(rows, columns=["user", "item", "rating", "time"])


def test_sessions_have_a_bias_of_their_own(tmp_path):
    table = moody()
    names = {"user_name": "user", "item_name": "item", "rating_name": "rating", "seed": 0, "bs": 64}
    dls = CollabDataLoaders.from_df(table, time_name="time", **names)
    errors = {}
    for model in (TimeSVD, CollFilter):
        learn = collab_learner(dls, model=model, n_factors=4, y_range=(-2, 8), seed=0)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(30, 3e-2, wd=0.05)
        errors[model] = learn.evaluate().loc["RMSE", "value"]
        if model is TimeSVD:
            mine = learn
    assert errors[TimeSVD] < 0.5 < 0.8 < errors[CollFilter]
    row = table.iloc[5]
    inside = mine.predict(int(row["user"]), 3, context={"time": int(row["time"]) + 5})
    mood = table.loc[(table["user"] == row["user"]) & ((table["time"] - row["time"]).abs() < 300), "rating"].mean()
    assert abs(inside - mood) < 0.5
    far = mine.predict([0, 0], [3, 3], context={"time": [10**10, 10**9 + 10**8]})  # of no session: the drift alone
    assert np.isfinite(far).all()
    mine.export(tmp_path / "model")
    back = Recommender.load(tmp_path / "model")
    again = back.predict(int(row["user"]), 3, context={"time": int(row["time"]) + 5})
    assert again == pytest.approx(inside, abs=1e-5)
    with pytest.raises(ValueError, match="uses the time of each row: the table needs the column 'time'"):
        back.evaluate(table.drop(columns="time"))
    with pytest.raises(ValueError, match="TimeSVD uses the time of a row: make dls with time_name="):
        collab_learner(CollabDataLoaders.from_df(table, **names), model=TimeSVD, y_range=(-2, 8))


def test_the_session_of_a_moment_is_that_of_the_nearest_rating_within_the_gap():
    table = pd.DataFrame({"user": [1, 1, 1, 2, 2], "item": list("abcab"), "rating": [1.0, 2, 3, 4, 5]})
    table["time"] = [0, 50, 200, 55, 1000]
    table["time"] += 10**9
    dls = CollabDataLoaders.from_dfs(table, table.tail(1), time_name="time")
    model = TimeSVD.for_data(dls.data, n_factors=2, gaps=[1])  # a minute
    with torch.no_grad():
        model.sessions[0][:, 0] = torch.tensor([0.0, 1, 2, 3, 4])  # none; 1 at 0 and 50; 1 at 200; 2 at 55; 2 at 1000
    users = torch.tensor([1, 1, 1, 1, 1, 1, 2, 2, 2])
    times = torch.tensor([-60, -61, 110, 111, 140, 261, 55, 900, 10**6]) + 10**9
    assert model._mood(users, times)[:, 0].tolist() == [1, 0, 1, 0, 2, 0, 3, 0, 0]


def frame(**columns):
    n = 60
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"user": rng.integers(0, 12, n), "item": rng.integers(0, 10, n), "rating": rng.integers(1, 6, n)}
    )
    return table.assign(rating=lambda df: df["rating"].astype(float), **columns)


DLS = {"user_name": "user", "item_name": "item", "rating_name": "rating", "seed": 0}


def test_a_column_of_times_unfolds():
    at = pd.Series(pd.date_range("1998-01-05 06:00", periods=60, freq="31h"))
    for column in (
        at,
        at.dt.tz_localize("Europe/Paris"),
        at.astype("datetime64[s]").astype("int64"),
        at.dt.strftime("%Y-%m-%dT%H:%M:%S"),
    ):
        dls = CollabDataLoaders.from_df(frame(at=column), **DLS, context_features={"at": "time"})
        shown = pd.concat([part.to_df() for part in dls.data.parts[:2]]).sort_index()
        fields = [field.name for field in dls.data.train.contexts.fields]
        assert fields == ["at hour", "at weekday", "at season", "at age"]
        assert set(shown["at hour"].dropna().astype(int)) <= set(at.dt.hour)
        assert shown["at weekday"].dropna().isin(at.dt.day_name()).all()
        assert set(shown["at season"].dropna()) == {"Dec-Feb", "Mar-May"}
    with pytest.warns(CollabWarning, match="'at season': the only value is 'Dec-Feb' \\(it is left out\\)"):
        short = frame(at=pd.date_range("1998-01-05", periods=60, freq="7h"))
        CollabDataLoaders.from_df(short, **DLS, context_features={"at": "time"})


@pytest.mark.parametrize(
    ("columns", "features", "error", "message"),
    [
        ({"hour": 3}, ["hour"], ValueError, "'hour' does not distinguish the training rows: the only value is '3'"),
        ({"x": 1.5}, {"x": "numeric"}, ValueError, "column 'x' does not distinguish the training rows: all are 1.5"),
        ({"hour": [None] * 60}, ["hour"], ValueError, "does not distinguish the training rows: all are missing"),
        ({"hour": ["a", "b"] * 30}, {"hour": "numeric"}, TypeError, "'hour' is numeric, but holds 'a'"),
        ({"hour": ["a", "b"] * 30}, {"hour": "time"}, TypeError, "column 'hour' holds 'a'; times must be timestamps"),
        ({"hour": [None] * 60}, {"hour": "time"}, ValueError, "context column 'hour' has no time: all are missing"),
        ({"hour": [5] * 60}, {"hour": "time"}, ValueError, "column 'hour' does not distinguish the training rows"),
        ({"hour": [1, 2] * 30}, {"hour": "clock"}, ValueError, "the kind must be one of 'categorical'"),
        ({"hour": [1, 2] * 30}, ["minute"], KeyError, r"column\(s\) \['minute'\] not found"),
        ({"hour": [1, 2] * 30}, ["user"], ValueError, "must be different columns"),
        ({"hour": [1, np.inf] * 30}, {"hour": "numeric"}, ValueError, "infinite"),
    ],
)  # fmt: skip
def test_contexts_that_are_refused(columns, features, error, message):
    with pytest.raises(error, match=message):
        CollabDataLoaders.from_df(frame(**columns), **DLS, context_features=features)


@pytest.fixture(scope="module")
def asked():
    rng = np.random.default_rng(1)
    table = frame(hour=rng.integers(0, 24, 60).astype(float), device=rng.choice(["tv", "pc"], 60))
    table.loc[:5, "device"] = None
    with pytest.warns(CollabWarning, match="'device' is missing for"):
        dls = CollabDataLoaders.from_df(table, **DLS, context_features={"hour": "numeric", "device": None})
    learn = collab_learner(dls, n_factors=4, y_range=(0.5, 5.5))
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-2)
    return learn


def test_moments_that_are_unknown_are_counted_or_refused(asked):
    plain = asked.predict(1, 2)
    assert asked.predict(1, 2, context={}) == plain
    with pytest.warns(
        CollabWarning, match=r"context=: 1 value\(s\) of 'device' are categories unseen in training \('watch'\)"
    ):
        odd = asked.predict(1, 2, context={"device": "watch"})
    assert odd == asked.predict(1, 2, context={"hour": None})
    with pytest.raises(TypeError, match="'hour' is numeric, but holds 'evening'"):
        asked.predict(1, 2, context={"hour": "evening"})
    with pytest.raises(ValueError, match=r"context= names \['place'\]; the model knows \['hour', 'device'\]"):
        asked.recommend(1, context={"place": "sofa"})
    with pytest.raises(TypeError, match="context= must be a dict from columns to values, or a DataFrame, got 20"):
        asked.recommend(1, context=20)
    with pytest.raises(ValueError, match="context= has 2 rows; give one, or one for each of the 3 users"):
        asked.recommend([1, 2, 3], context={"hour": [1, 2]})
    with pytest.raises(ValueError, match=r"context= names \['x'\]; the model knows"):
        asked.recommend([1], context=pd.DataFrame({"x": [1]}))
    with pytest.raises(KeyError, match="device"):
        asked.evaluate(frame(hour=1.0))


def test_a_model_without_a_context_refuses_one():
    table = frame(device=["tv", "pc"] * 30)
    plain = collab_learner(CollabDataLoaders.from_df(table, **DLS), y_range=(0.5, 5.5))
    with pytest.raises(ValueError, match=r"context= names \['device'\]; the model knows \[\]"):
        plain.recommend(1, context={"device": "tv"})

    class Bare(DotModel):
        def __init__(self, n_users, n_items):
            super().__init__(TableSide("user", n_users, [2]), TableSide("item", n_items, [2]))

    dls = CollabDataLoaders.from_df(table, **DLS, context_features=["device"])
    with pytest.raises(TypeError, match="Bare takes no side features or context, and the dataloaders have some"):
        collab_learner(dls, model=Bare)


def test_several_categories_are_their_shares_and_an_unknown_moment_is_an_average_one():
    table = frame(mood=["sad|late", "late", "sad", None] * 15)
    with pytest.warns(CollabWarning, match="'mood' is missing"):
        dls = CollabDataLoaders.from_df(table, **DLS, context_features=["mood"])
    context = dls.data.train.contexts
    values = context.encode(pd.DataFrame({"mood": ["sad|late", "late"]}))["mood"]
    assert values.tolist() == [[0, 0.5, 0.5], [0, 1, 0]] and context.unknown(2)["mood"].tolist() == [[1, 0, 0]] * 2
    assert list(context.decode({"mood": values})["mood"]) == ["late | sad", "late"]
    full = frame(device=["tv", "pc", "pc"] * 20)
    dls = CollabDataLoaders.from_df(full, **DLS, context_features=["device"])
    learn = collab_learner(dls, n_factors=4, y_range=(0.5, 5.5))
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-2)
    weight, codes = learn.model.context.weights[0].detach(), dls.data.train.context["device"]
    assert torch.allclose(weight[0], weight[codes].mean(0), atol=1e-6) and weight[0].abs().sum() > 0
    assert isinstance(Context.from_spec(context.spec()), Context)


def test_what_the_moment_adds_to_a_score_is_a_column_a_field(asked):
    interp = CollabInterpretation.from_learner(asked)
    table = interp.feature_parts(1, 2, context={"device": "tv", "hour": 20.0})
    assert list(table.columns) == ["part", "value", "hour", "device"] and list(table["part"]) == [
        "the item itself",
        "sum",
    ]
    model, (user, item) = asked.model, interp._pair(1, 2)
    with torch.no_grad():
        query = asked.recommender.query(user, {"device": "tv", "hour": 20.0})
        warm = interp._trained("item")
        each = model.score(query, torch.cat([item, warm])[None])[0]
    assert table["value"].iloc[-1] == pytest.approx(float(each[0] - each[1:].mean()), abs=1e-5)


def test_recent_events_beside_a_moment_of_numbers(asked):
    since = pd.DataFrame({"user": [1, 1], "item": [2, 3], "rating": [5.0, 1.0]})
    found = asked.recommend([1, 2], k=3, recent=since, context={"hour": 20.0, "device": "tv"})
    assert set(found["user"]) == {1, 2} and not set(found.loc[found["user"] == 1, "item"]) & {2, 3}
