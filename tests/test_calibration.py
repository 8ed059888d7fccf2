"""What a score means: probabilities of events, intervals of ratings, judged on users that they were not fitted to."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from contract import planted
from helpers import silence

from collabkit import (
    EASE,
    CollabDataLoaders,
    CollabInterpretation,
    CollabWarning,
    ItemKNN,
    Recommender,
    collab_learner,
    splits,
)
from collabkit.evaluate.calibration import Probabilities, from_spec, to_spec
from collabkit.serve.artefact import _config_digest

NAMES = {"user_name": "user", "item_name": "item", "seed": 0, "bs": 256}


def many(n_users: int = 600, n_items: int = 80, seed: int = 0) -> pd.DataFrame:
    """Events drawn from a known probability: a logistic function of a product of two factors."""
    rng = np.random.default_rng(seed)
    p, q = rng.normal(size=(n_users, 2)), rng.normal(size=(n_items, 2))
    met = rng.random((n_users, n_items)) < 1 / (1 + np.exp(2.2 - 1.2 * p @ q.T))
    user, item = met.nonzero()
    return pd.DataFrame({"user": user, "item": item})


def rated(n_users: int = 300, seed: int = 0) -> pd.DataFrame:
    """Ratings whose noise is larger for users who have few."""
    rng, rows = np.random.default_rng(seed), []
    for user in range(n_users):
        n = 6 if user % 2 else 30
        items = rng.choice(60, n, replace=False)
        rows.append(pd.DataFrame({"user": user, "item": items, "rating": 3 + rng.normal(0, 0.9 if n == 6 else 0.2, n)}))
    table = pd.concat(rows, ignore_index=True)
    return table.assign(rating=table["rating"].clip(0.6, 5.4))


@pytest.fixture(scope="module")
def learn():
    dls = CollabDataLoaders.from_df(many(), feedback="implicit", n_neg=4, **NAMES)
    learn = silence(collab_learner(dls, n_factors=4))
    learn.fit_one_cycle(12, 2e-2)
    return learn


@pytest.fixture(scope="module")
def ratings():
    dls = CollabDataLoaders.from_df(rated(), valid_pct=0.3, **NAMES)
    learn = silence(collab_learner(dls, n_factors=2, y_range=(0.5, 5.5)))
    learn.fit_one_cycle(4, 1e-2, wd=0.3)
    return learn


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_probabilities_are_true_of_users_they_were_not_fitted_to(learn, method):
    table = learn.calibrate(method)
    n_valid = len(learn.dls.data.valid)
    # what is counted over all unseen items of the users who have held-out rows
    data, users = learn.dls.data, learn.dls.data.valid.user_idx.unique()
    rate = n_valid / float((data.n_items - 1 - data.known.lengths[users]).sum())
    assert table.attrs["base_rate"] == pytest.approx(rate, rel=0.1)
    assert (
        table.attrs["ece"] < 0.25 * rate
        and table.attrs["relative_ece"] == table.attrs["ece"] / table.attrs["base_rate"]
    )
    assert (table["predicted"].diff().dropna() > 0).all() and table["positives"].sum() > 0.3 * n_valid
    within = (table["predicted"] >= table["low"]) & (table["predicted"] <= table["high"])
    assert within.mean() >= 0.6
    assert table["predicted"].iloc[-1] > 2 * rate  # and they tell items apart


def test_lists_have_the_probability_and_it_rises_with_the_score(learn):
    learn.model.calibration = None
    assert "probability" not in learn.recommend(1)
    learn.calibrate()
    lists = learn.recommend([1, 2, 3], k=5)
    assert list(lists) == ["user", "item", "rank", "score", "probability"]
    assert lists["probability"].between(0, 1).all() and lists["probability"].dtype == np.float32
    assert (lists.sort_values("score")["probability"].diff().dropna() >= 0).all()
    assert "probability" in learn.recommend(history=[3, 5], k=2)
    # the sum over all unseen items is how many of them are expected to be met, near that of the held-out rows
    learn.calibrate("isotonic")
    everything = learn.recommend(k=80)
    n = everything["probability"].sum()
    assert n == pytest.approx(len(learn.dls.data.valid), rel=0.35)


def test_the_answer_to_a_known_logistic_curve():
    """Scores whose probability is known: Platt's curve is that one."""
    from collabkit.evaluate.calibration import _probabilities

    rng = np.random.default_rng(0)
    scores = rng.normal(size=40_000)
    positive = rng.random(40_000) < 1 / (1 + np.exp(3 - 1.5 * scores))
    kept = positive | (rng.random(40_000) < 0.2)  # a fifth of the others, each of which stands for five
    weight = np.where(positive, 1.0, 5.0)[kept]
    found = _probabilities(scores[kept], positive[kept], weight, "platt", 100, 0)
    assert found.p == pytest.approx((-3, 1.5), abs=0.12)
    at = np.linspace(-2, 2, 9)
    stairs = _probabilities(scores[kept], positive[kept], weight, "isotonic", 100, 0)
    assert np.abs(stairs(at) - 1 / (1 + np.exp(3 - 1.5 * at))).max() < 0.05
    with pytest.warns(CollabWarning, match="do not mean more positives"):
        none = _probabilities(-scores[kept], positive[kept], weight, "platt", 100, 0)
    assert np.allclose(none(at), np.average(positive[kept], weights=weight), rtol=1e-4)


@pytest.mark.parametrize("model", [EASE(l2=50.0), ItemKNN()])
def test_closed_form_models_have_probabilities(learn, model, tmp_path):
    table = model.fit(learn.dls).calibrate("isotonic")
    assert table.attrs["ece"] < 0.5 * table.attrs["base_rate"]
    assert "probability" in model.recommend(1, k=3)
    loaded = Recommender.load(model.export(tmp_path / "artefact"))
    assert loaded.recommend(1, k=3).equals(model.recommend(1, k=3))
    assert "probability" not in model.fit(learn.dls).recommend(1, k=3)  # of another fit


def test_an_artefact_keeps_it_and_older_ones_have_none(learn, tmp_path):
    learn.calibrate()
    folder = learn.export(tmp_path / "artefact")
    loaded = Recommender.load(folder)
    assert loaded.model.calibration == learn.model.calibration
    assert loaded.recommend([1, 2], k=3).equals(learn.recommend([1, 2], k=3))
    assert loaded.calibration_table().equals(learn.recommender.calibration_table())
    config = json.loads((folder / "config.json").read_text())
    del config["calibration"], config["model"]["als"]
    config["sha256"]["config.json"] = _config_digest(config)
    (folder / "config.json").write_text(json.dumps(config))
    older = Recommender.load(folder)
    assert older.model.calibration is None and "probability" not in older.recommend(1, k=3)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "Other"},
        {"p": [float("nan"), 1.0]},
        {"extra": 1},
        {"method": "isotonic", "x": [2.0, 1.0], "p": [0.1, 0.2]},
    ],
)
def test_a_damaged_calibration_is_refused(change):
    spec = json.loads(json.dumps(to_spec(Probabilities("platt", (), (-3.0, 1.5), 100, 0))))
    assert from_spec(spec) == Probabilities("platt", (), (-3.0, 1.5), 100, 0)
    with pytest.raises(ValueError, match="config.json has a calibration"):
        from_spec(spec | change)


def test_more_training_forgets_it(learn):
    learn.calibrate()
    before = learn.model.calibration
    learn.lr_find(show_plot=False, num_it=3)
    assert learn.model.calibration is before  # the weights are as they were
    state = {name: value.clone() for name, value in learn.model.state_dict().items()}
    learn.fit(1, 1e-4)
    assert learn.model.calibration is None
    learn.model.load_state_dict(state)


def test_intervals_hold_as_many_ratings_as_they_say(ratings):
    table = ratings.calibrate()
    assert table.index.names == ["level", "users"]
    for level in (0.5, 0.8, 0.9):
        assert table.loc[(level, "all"), "coverage"] == pytest.approx(level, abs=0.06)
    by = table.loc[0.9].drop(index="all")
    assert len(by) >= 2 and by["half_width"].iloc[0] > 1.5 * by["half_width"].iloc[-1]  # by how active users are
    assert (by["coverage"] - 0.9).abs().max() < 0.1
    found, low, high = ratings.predict([1, 0], [3, 3], interval=0.9)
    assert (low < found).all() and (found < high).all() and found.dtype == low.dtype == np.float32
    assert high[0] - low[0] > 1.5 * (high[1] - low[1])
    one = ratings.predict(0, 3, interval=0.9)
    assert [type(value) for value in one] == [float] * 3 and one[0] == pytest.approx(float(found[1]))
    wide, narrow = (ratings.predict(0, 3, interval=level) for level in (0.95, 0.5))
    assert wide[1] < narrow[1] < narrow[2] < wide[2]
    assert "probability" not in ratings.recommend(0, k=2)


def test_the_ends_lie_within_the_range_and_in_the_artefact(ratings, tmp_path):
    ratings.calibrate()
    _, low, high = ratings.predict(1, list(range(60)), interval=0.95)
    assert low.min() >= 0.5 and high.max() <= 5.5
    loaded = Recommender.load(ratings.export(tmp_path / "artefact"))
    again = loaded.predict(1, list(range(60)), interval=0.95)
    assert np.array_equal(again[1], low) and np.array_equal(again[2], high)


def test_what_is_missing_is_said(learn, ratings):
    learn.model.calibration = ratings.model.calibration = None
    with pytest.raises(ValueError, match="call calibrate"):
        ratings.predict(0, 3, interval=0.9)
    with pytest.raises(ValueError, match="call calibrate"):
        learn.recommender.calibration_table()
    ratings.calibrate()
    with pytest.raises(ValueError, match="between 0 and 1"):
        ratings.predict(0, 3, interval=90)
    learn.calibrate()
    with pytest.raises(ValueError, match="a model of ratings"):
        learn.predict(0, 3, interval=0.9)
    with pytest.raises(ValueError, match="'platt' or 'isotonic'"):
        learn.calibrate("beta")
    with pytest.raises(ValueError, match="n_negatives"):
        learn.calibrate(n_negatives=0)
    alone = EASE().fit(CollabDataLoaders.from_df(many(), feedback="implicit", valid_pct=0, **NAMES))
    with pytest.raises(ValueError, match="no validation part"):
        alone.calibrate()
    table = planted()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        dls = CollabDataLoaders.from_dfs(table[:500], table[500:501], feedback="implicit", **NAMES)
    with pytest.raises(ValueError, match="at least 2 users"):
        EASE().fit(dls).calibrate()


def test_the_diagram_has_titles_and_counts(learn, ratings):
    learn.calibrate()
    ax = CollabInterpretation.from_learner(learn).plot_calibration()
    assert ax.get_xlabel() == "predicted probability" and "ECE" in ax.get_title()
    counts = [int(text.get_text().replace(",", "")) for text in ax.texts]
    assert sum(counts) == int(learn.recommender.calibration_table()["positives"].sum())
    ratings.calibrate()
    ax = CollabInterpretation.from_learner(ratings).plot_calibration()
    assert "share" in ax.get_xlabel() and len(ax.get_legend().get_texts()) >= 2
    learn.model.calibration = None
    with pytest.raises(ValueError, match="call calibrate"):
        CollabInterpretation.from_learner(learn).plot_calibration()


def test_one_seed_gives_one_result_and_models_of_order_are_asked_at_their_moment():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        dls = CollabDataLoaders.from_df(
            planted(), feedback="implicit", history=6, time_name="time", splitter=splits.leave_last_out(), **NAMES
        )
    learn = silence(collab_learner(dls, n_factors=8))
    learn.fit(3, 1e-2)
    state = torch.get_rng_state()
    first, second = learn.calibrate(seed=1), learn.calibrate(seed=1)
    assert first.equals(second) and not first.equals(learn.calibrate(seed=2))
    assert torch.equal(state, torch.get_rng_state())
