"""`backtest`: every figure by hand, and nothing of the future in what the models are given."""

import warnings

import numpy as np
import pandas as pd
import pytest
from helpers import silence
from hypothesis import given
from hypothesis import strategies as st

from collabkit import EASE, CollabWarning, ItemKNN, NextItem, Popularity, backtest, collab_learner, datasets, metrics

DAY = pd.Timedelta(days=1)
NEW_YEAR = pd.Timestamp("2020-01-01")
# Before day 10: a has 3 rows, b 2 (in the last week), c 1.
# Before day 17: a 4, b 2, c 2; in the last week b 2, a 1, c 1.
ROWS = [
    (1, "a", 0), (2, "a", 0), (3, "a", 1), (3, "c", 1), (4, "b", 8), (5, "b", 9),
    (4, "a", 11), (5, "c", 12),  # the first week: all-time popularity has 4-a first, and a before 5-c
    (3, "b", 18),  # the second: 3 has had a and c, so that both have b first
]  # fmt: skip
CUTS = [NEW_YEAR + 10 * DAY, NEW_YEAR + 17 * DAY]
OPTIONS = {"time_name": "time", "feedback": "implicit", "n_boot": 20}


def events(rows=ROWS):
    df = pd.DataFrame(rows, columns=["user", "item", "day"])
    return df.assign(time=NEW_YEAR + pd.to_timedelta(df.pop("day"), unit="D"))


def test_by_hand():
    table = backtest(lambda dls: EASE(), events(), cuts=CUTS, k=1, **OPTIONS)
    assert table.index.names == ["cut", "metric", "model"]
    assert list(table) == ["value", "low", "high", "difference", "diff_low", "diff_high", "n"]
    assert list(table.index.unique("cut")) == [*CUTS, "mean"]
    assert list(table.index.unique("metric")) == ["HitRate@1", "NDCG@1", "Recall@1", "hits_per_thousand@1"]
    assert list(table.index.unique("model")) == ["popularity (7 days)", "popularity", "EASE"]
    value = table["value"]
    assert value[:, "HitRate@1", "popularity"].tolist() == [0.5, 1, 0.75]
    assert value[:, "HitRate@1", "popularity (7 days)"].tolist() == [0, 1, 0.5]  # a and c tie without rows last week
    assert value[:, "hits_per_thousand@1", "popularity"].tolist() == [500, 1000, 750]
    assert table["n"][:, "HitRate@1", "popularity"].tolist() == [2, 1, 3]
    assert table["difference"][:, "HitRate@1", "popularity"].tolist() == [0.5, 0, 0.25]
    assert table["difference"][:, :, "popularity (7 days)"].isna().all()
    assert backtest(lambda dls: [], events(), cuts=CUTS, k=1, **OPTIONS)["value"].equals(
        value.drop("EASE", level="model")
    )


def test_the_intervals_of_the_mean():
    rng = np.random.default_rng(0)
    rows = zip(rng.integers(0, 80, 900), rng.integers(0, 30, 900), np.sort(rng.uniform(0, 60, 900)), strict=True)
    df = events(list(rows)).drop_duplicates(["user", "item"])
    table = _quietly(lambda: backtest(lambda dls: EASE(), df, n=3, k=5, **OPTIONS))
    one = table.xs(("NDCG@5", "EASE"), level=("metric", "model"))
    mean, cuts = one.loc["mean"], one.drop("mean").astype(float)
    assert len(cuts) == 3 and mean["n"] == cuts["n"].sum() > 100
    for name, low, high in (("value", "low", "high"), ("difference", "diff_low", "diff_high")):
        assert mean[name] == pytest.approx(cuts[name].mean())
        assert mean[name] - mean[low] == pytest.approx(((cuts[name] - cuts[low]) ** 2).sum() ** 0.5 / 3)
        assert mean[high] - mean[name] == pytest.approx(((cuts[high] - cuts[name]) ** 2).sum() ** 0.5 / 3)
    alone = _quietly(lambda: backtest(lambda dls: EASE(), df, cuts=cuts.index[1], k=5, **OPTIONS))
    pd.testing.assert_frame_equal(alone.drop("mean"), table.loc[[cuts.index[1]]])
    pd.testing.assert_frame_equal(alone.loc["mean"], alone.loc[cuts.index[1]])  # of one cut


def _quietly(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        return function()


@given(st.integers(1, 4), st.integers(2, 9), st.integers(0, 3))
def test_models_are_given_what_was_known_then(n, window, seed):
    rng = np.random.default_rng(seed)
    day = np.sort(rng.uniform(0, 60, 300))
    df = events(list(zip(rng.integers(0, 30, 300), rng.integers(0, 80, 300), day, strict=True)))
    cuts, last, seen = [], df["time"].max(), []

    def fit(dls):
        train, valid = (part.to_df() for part in (dls.data.train, dls.data.valid))
        early, late = pd.to_datetime(train["time"].max()), pd.to_datetime(valid["time"])
        cut = last - (n - len(cuts)) * window * DAY + pd.Timedelta(1)
        assert early < cut <= late.min() and late.max() < cut + window * DAY
        assert not set(zip(train["user"], train["item"], strict=True)) & set(
            zip(valid["user"], valid["item"], strict=True)
        )
        until = df[df["time"] < cut + window * DAY]
        assert set(dls.data.items) - {"#na#"} == set(until["item"])  # no id from later
        assert len(train) == (~until[until["time"] < cut].duplicated(["user", "item"])).sum()
        cuts.append(cut)
        seen.append(len(valid))
        return Popularity()

    table = _quietly(lambda: backtest(fit, df, n=n, window=window, metrics="HitRate", **OPTIONS))
    assert list(table.index.unique("cut")) == [*cuts, "mean"] and len(seen) == n


def test_the_future_changes_nothing():
    df = events()
    later = events([*ROWS, (1, "b", 40), (2, "b", 41), (9, "z", 42)])
    tables = [backtest(lambda dls: [EASE(), NextItem()], rows, cuts=CUTS, k=1, **OPTIONS) for rows in (df, later)]
    pd.testing.assert_frame_equal(*tables)
    leaky = events([*ROWS, (1, "c", 12), (2, "c", 12), (4, "c", 12)])  # within the window: asked about, not learned
    table = _quietly(lambda: backtest(lambda dls: [], leaky, cuts=CUTS[:1], k=1, **OPTIONS))
    assert table["value"][CUTS[0], "HitRate@1", "popularity"] == 0.25  # 4-a alone; c has one training row


def test_new_users_and_items_are_counted():
    df = events([*ROWS, (7, "b", 19), (3, "z", 20)])
    with pytest.warns(CollabWarning) as caught:
        table = backtest(lambda dls: [], df, cuts=CUTS, k=1, **OPTIONS)
    said = [str(w.message) for w in caught]
    assert any(
        text.startswith("1 of the 4 users of the 2 windows have no event before the cut")
        and "1 of the 5 events are of items without one" in text
        for text in said
    )
    # 7 is shown a, the most popular of all; 3 has to find b and z
    assert table["value"][CUTS[1], "Recall@1", "popularity"] == pytest.approx((0.5 + 0) / 2)
    with pytest.warns(CollabWarning, match="left out 2 of 3 rows.*without a training row"):
        table = backtest(lambda dls: [], df, cuts=CUTS, k=1, cold="drop", **OPTIONS)
    assert table["value"][CUTS[1], "Recall@1", "popularity"] == 1


def test_repeated_pairs_are_not_to_be_found_again():
    df = events([*ROWS, (4, "b", 13)])
    with pytest.warns(CollabWarning) as caught:
        table = backtest(lambda dls: NextItem(), df, cuts=CUTS, k=1, history=5, **OPTIONS)
    assert any("1 rows of the window repeat a training pair" in str(w.message) for w in caught)
    assert not any("figures are too good" in str(w.message) for w in caught)
    assert table["n"][CUTS[0], "HitRate@1", "popularity"] == 2


def test_ratings_and_learners():
    ratings = datasets.synthetic(n_users=100, n_items=60, n_ratings=2500, min_events=5, seed=1).ratings

    def fit(dls):
        learn = silence(collab_learner(dls, n_factors=4, y_range=(0, 5.5)))
        learn.fit_one_cycle(1, 1e-2)
        return learn, ItemKNN().fit(dls)

    names = {"user_name": "user", "item_name": "title", "rating_name": "rating", "time_name": "timestamp", "bs": 256}
    table = _quietly(
        lambda: backtest(fit, ratings, n=2, window="200D", **names, threshold=4, metrics=metrics.hits_per_thousand)
    )
    assert list(table.index.unique("model")) == ["popularity (200 days)", "popularity", "CollFilter", "item kNN"]
    assert table.columns.name == "relevant: rating >= 4; seen items hidden" and (table["value"] > 0).all()


def test_what_is_refused():
    def fit(dls):
        return EASE()

    df = events()
    for error, message, args in (
        (
            ValueError,
            "a backtest needs the times of the events: pass time_name=, one of \\['user'",
            {"time_name": None},
        ),
        (KeyError, "column\\(s\\) \\['when'\\] not found; the table has", {"time_name": "when"}),
        (ValueError, "cuts must name at least one moment, got an empty list", {"cuts": []}),
        (ValueError, "9 windows of 7 days.*nothing lies before it to train on", {"cuts": None, "n": 9}),
        (ValueError, "window must be a number of days", {"window": "week"}),
        (
            ValueError,
            "the window at .*2020-01-15.* leaves the validation part empty",
            {"cuts": "2020-01-15", "window": 2},
        ),
        (ValueError, "cut '2019-01-01' does not lie within the data, whose events are from", {"cuts": ["2019-01-01"]}),
        (ValueError, "cut '2021-01-01' does not lie within the data", {"cuts": [CUTS[0], "2021-01-01"]}),
        (TypeError, "date=17 cannot be compared with column 'time'", {"cuts": [17]}),
        (ValueError, "cold must be 'keep' or 'drop', got 'warm'", {"cold": "warm"}),
    ):
        with pytest.raises(error, match=message):
            backtest(fit, df, **{**OPTIONS, "cuts": CUTS, **args})
    with pytest.raises(ValueError, match=r"column 'time' has 1 missing time\(s\)"):
        backtest(fit, df.assign(time=df["time"].where(df["user"] != 2)), cuts=CUTS, **OPTIONS)
    with pytest.raises(TypeError, match="expected learners, Recommenders and closed-form models, got NoneType"):
        backtest(lambda dls: None, df, cuts=CUTS, **OPTIONS)
    with pytest.raises(TypeError, match="expected a pandas DataFrame of interactions, got list"):
        backtest(fit, ROWS, **OPTIONS)
    models = iter([EASE(), ItemKNN()])
    with pytest.raises(
        ValueError, match=r"same models, in one order, at each cut; it returned \['EASE'\] and \['item kNN'\]"
    ):
        backtest(lambda dls: next(models), df, cuts=CUTS, **OPTIONS)
