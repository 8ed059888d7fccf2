"""`auto_fit` and `cross_validate`: what they try, what they keep, by what, and when they end."""

import time

import numpy as np
import pandas as pd
import pytest

from collabkit import (
    EASE,
    CollabDataLoaders,
    CollabWarning,
    ItemKNN,
    Popularity,
    Recommender,
    auto_fit,
    collab_learner,
    compare,
    cross_validate,
    splits,
)  # fmt: skip
from collabkit.data.notices import noting
from collabkit.evaluate.by_user import Judge, UserScores
from collabkit.train import auto, ladder
from collabkit.train.auto import Halves
from collabkit.train.budget import Budget, Deadline
from collabkit.train.ladder import Rung

NAMES = {"user_name": "user", "item_name": "title"}


def planted() -> pd.DataFrame:
    """People of five tastes, who meet mostly films of theirs and rate these higher; some films are good for all."""
    rng, n = np.random.default_rng(0), 6000
    user, own = rng.integers(0, 200, n), rng.random(n) < 0.6
    film = np.where(own, user % 5 + 5 * rng.integers(0, 20, n), rng.integers(0, 100, n))
    rating = np.clip(np.round(2.5 + 1.5 * (film % 5 == user % 5) + film / 100 + rng.normal(0, 0.7, n)), 1, 5)
    table = pd.DataFrame({"user": user, "title": film, "rating": rating, "timestamp": np.arange(n)})
    return table.drop_duplicates(["user", "title"]).assign(title=lambda t: "film " + t["title"].astype(str))


RATINGS = planted()


def loaders(feedback="implicit", **options):
    return CollabDataLoaders.from_df(RATINGS, feedback=feedback, seed=0, **NAMES, **options)


@pytest.fixture(scope="module")
def fitted():
    return auto_fit(loaders(), metric="NDCG@10", minutes=1, show=False)


def test_the_best_is_kept_and_one_alone(fitted):
    best, table = fitted
    assert list(table.index[:4]) == ["popularity", "ItemKNN", "ALS 64", "ALS 128"]
    tried = table[table["value"].notna()]
    assert table["kept"].sum() == 1 and table["kept"].idxmax() == tried["value"].idxmax()
    assert (table.loc[tried.index[1:], "gain_low"] <= table.loc[tried.index[1:], "gain_high"]).all()
    assert table.loc[~table.index.isin(tried.index), "note"].str.len().gt(0).all()  # nothing is left out in silence
    assert (tried[["low", "test_low"]].to_numpy() <= tried[["value", "test"]].to_numpy()).all()
    user = RATINGS["user"].iloc[0]
    assert len(best.recommend(user, k=5)) == 5


def test_the_figures_are_those_of_evaluate():
    dls = loaders()
    halves = Halves(dls.data, "NDCG@10", seed=3)
    model = EASE().fit(dls)
    chosen, untouched = halves(model)
    assert not set(chosen.users) & set(untouched.users)
    n = len(chosen.users), len(untouched.users)
    whole = model.evaluate(metrics="NDCG@10", n_boot=2)["value"].item()
    assert np.average([chosen.value, untouched.value], weights=n) == pytest.approx(whole)
    gain, low, high = chosen.gain_over(halves(Popularity().fit(dls))[0])
    assert low < gain < high and abs(n[0] - n[1]) <= 1


def test_errors_of_ratings_and_their_gain():
    dls = loaders("explicit")
    learn = collab_learner(dls, 8, y_range=(0, 5.5))
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-2)
    table = learn.evaluate(n_boot=300)
    for name in ("RMSE", "MAE"):
        scores = Judge(dls.data, name)(learn)
        assert scores.value == pytest.approx(table.loc[name, "value"])
        assert scores.interval(300) == pytest.approx((table.loc[name, "low"], table.loc[name, "high"]))
    worse = UserScores("RMSE", scores.users, 4 * scores.sums, scores.counts)
    better = UserScores("RMSE", scores.users, scores.sums, scores.counts)
    gain, low, high = better.gain_over(worse)
    assert gain == pytest.approx(better.value) and 0 < low < gain < high


def test_ratings_have_a_ladder_of_their_own():
    best, table = auto_fit(loaders("explicit"), minutes=0.2, show=False)
    assert table.columns.name == "RMSE" and table.index[0] == "biases" and table.index[1].startswith("CollFilter")
    tried = table[table["value"].notna()]
    assert table["kept"].idxmax() == tried["value"].idxmin()
    assert best.evaluate(n_boot=2).loc["RMSE", "value"] < 1.5
    assert best.dls.feedback == "explicit"


def test_biases_are_those_of_the_baseline_and_are_refitted():
    dls = loaders("explicit")
    learn = ladder._biases(ladder.Workshop(dls, Budget(1), 0))
    table = learn.evaluate(n_boot=2).loc["RMSE"]
    assert table["value"] == pytest.approx(table["user+item bias"], abs=2e-3)
    with learn.no_bar(), learn.no_logging():
        assert len(learn.refit_all().dls.train.dataset) == len(RATINGS)


def fake(name, model, seconds=0.0, kind="", fail=None):
    def fit(shop):
        if fail:
            raise fail
        time.sleep(seconds)
        return model.fit(shop.dls)

    return Rung(name, fit, kind=kind)


def test_two_steps_in_vain_end_it(monkeypatch):
    rungs = [fake("a", EASE()), fake("b", Popularity(), kind="p"), fake("b2", Popularity(), kind="p"),
             fake("c", EASE(l2=501)), fake("d", ItemKNN())]  # fmt: skip
    monkeypatch.setattr(auto, "rungs_for", lambda dls: rungs)
    best, table = auto_fit(loaders(), minutes=1, show=False)
    assert table["note"].tolist() == ["", "", "not tried: a smaller p gained nothing", "",
                                      "not tried: 2 steps gained nothing"]  # fmt: skip
    assert table["kept"].idxmax() in ("a", "c") and best.name == "EASE"


def test_a_step_that_pays_starts_the_count_anew(monkeypatch):
    rungs = [fake("a", Popularity()), fake("b", Popularity()), fake("c", EASE()), fake("d", Popularity()),
             fake("e", Popularity()), fake("f", Popularity())]  # fmt: skip
    monkeypatch.setattr(auto, "rungs_for", lambda dls: rungs)
    _, table = auto_fit(loaders(), minutes=1, show=False)
    assert table["value"].notna().tolist() == [True] * 5 + [False] and table.loc["c", "gain_low"] > 0


def test_time_ends_it_and_what_is_there_is_kept(monkeypatch):
    rungs = [fake("a", Popularity(), 0.4), fake("b", EASE())]
    monkeypatch.setattr(auto, "rungs_for", lambda dls: rungs)
    best, table = auto_fit(loaders(), minutes=0.3 / 60, show=False)
    assert table["note"].tolist() == ["", "not tried: no time left"] and isinstance(best, Popularity)


def test_a_model_that_this_data_cannot_have_is_noted(monkeypatch):
    monkeypatch.setattr(auto, "rungs_for", lambda dls: [fake("a", EASE()), fake("b", EASE(), fail=ValueError("no"))])
    _, table = auto_fit(loaders(), minutes=1, show=False)
    assert table.loc["b", "note"] == "not tried: no" and table.loc["a", "kept"]


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_a_fit_within_a_short_time(feedback):
    started = time.perf_counter()
    best, table = auto_fit(loaders(feedback), minutes=1.5 / 60, show=False)
    assert time.perf_counter() - started < 8  # the time of a loaded machine, where the first rung is always fitted
    assert table["kept"].sum() == 1 and best.recommend(RATINGS["user"].iloc[0], k=1).shape[0] == 1


def test_a_deadline_ends_a_fit():
    learn = collab_learner(loaders(bs=4096), 8, start="random")
    end = Deadline(4)
    started = time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        learn.fit(10_000, 1e-3, cbs=end)
    assert end.ended and time.perf_counter() - started < 20 and learn.n_epochs_done < 10_000
    with noting() as notes, learn.no_bar(), learn.no_logging():
        again = learn.refit_all()  # without the deadline, which was of that fit
    assert again.n_epochs_done == learn.n_epochs_done and not notes


def test_a_test_table_is_reported_on_and_all_validation_rows_choose():
    rest, test = RATINGS.iloc[:4000], RATINGS.iloc[4000:]
    dls = CollabDataLoaders.from_df(rest, feedback="implicit", seed=0, **NAMES)
    best, table = auto_fit(dls, minutes=1, test=test, show=False)
    figure = best.evaluate(metrics="NDCG@10", n_boot=2)["value"].item()
    assert table.loc[table["kept"], "value"].item() == pytest.approx(figure)
    final = best.evaluate(test, metrics="NDCG@10", n_boot=2)["value"].item()
    assert table.loc[table["kept"], "test"].item() == pytest.approx(final)


def test_events_in_their_order_and_features():
    dls = loaders(history=10, time_name="timestamp", splitter=splits.leave_last_out())
    _, table = auto_fit(dls, "HR@10", minutes=0.1, show=False)
    assert list(table.index[:2]) == ["popularity", "NextItem"] and table.columns.name == "HitRate@10"
    items = RATINGS[["title"]].drop_duplicates().assign(kind=lambda t: t["title"].str.len() % 3)
    dls = loaders("explicit", items=items, item_features={"kind": "categorical"})
    _, table = auto_fit(dls, minutes=0.1, show=False)
    assert np.isfinite(table.loc["biases", "value"])


def test_one_seed_one_choice(fitted):
    _, again = auto_fit(loaders(), metric="NDCG@10", minutes=1, show=False)
    pd.testing.assert_frame_equal(fitted[1].drop(columns="seconds"), again.drop(columns="seconds"))


def test_what_is_refused():
    with pytest.raises(TypeError, match="auto_fit takes CollabDataLoaders, got DataFrame"):
        auto_fit(RATINGS)
    with pytest.raises(ValueError, match="minutes must be above 0, got 0"):
        auto_fit(loaders(), minutes=0)
    with pytest.raises(ValueError, match="no validation part to judge models by"):
        auto_fit(loaders(valid_pct=0))
    with pytest.raises(ValueError, match="RMSE is an error of predicted ratings, and these events have none"):
        auto_fit(loaders(), metric="RMSE")
    with pytest.raises(ValueError, match="unknown metric"):
        auto_fit(loaders(), metric="NDGC@10")
    with pytest.raises(ValueError, match="models are chosen by one of HitRate"):
        auto_fit(loaders(), metric="Coverage@10")
    few = RATINGS[RATINGS["user"].isin(RATINGS["user"].unique()[:3])]
    with pytest.raises(ValueError, match="users with held-out rows are too few"):
        auto_fit(CollabDataLoaders.from_df(few, feedback="implicit", seed=0, **NAMES))


# --- cross_validate


def test_each_row_is_held_out_once_and_figures_agree_with_folds():
    dls = loaders()
    models = {"popular": Popularity(), "ease": EASE, "mine": lambda dls: ItemKNN().fit(dls)}
    table = cross_validate(dls, models, k=3, metrics=["NDCG@10", "HR@5"], n_boot=100)
    assert list(table.index.unique("metric")) == ["NDCG@10", "HitRate@5"]
    assert list(table.loc["NDCG@10"].index) == list(models)
    folds = table.attrs["folds"]
    assert folds.shape == (6, 3) and table["std"].to_numpy() == pytest.approx(folds.std(axis=1).to_numpy())
    assert table["value"].to_numpy() == pytest.approx(folds.mean(axis=1).to_numpy(), abs=0.01)
    row = table.loc[("NDCG@10", "ease")]
    assert row["low"] < row["value"] < row["high"] and row["diff_low"] > 0 and row["n"] <= 200
    assert table.loc[("NDCG@10", "popular"), ["difference", "diff_low"]].isna().all()


def test_folds_part_all_rows():
    from collabkit.train.cross_validation import all_rows, folds_of

    dls = all_rows(loaders("explicit"), {})
    assert len(dls.data.train) == len(RATINGS)
    folds = list(folds_of(dls, 4, seed=0))
    keys = np.concatenate([fold.data.valid.pair_keys().numpy() for fold in folds])
    assert sorted(keys) == sorted(dls.data.train.pair_keys().tolist())
    assert all(len(fold.data.train) + len(fold.data.valid) == len(RATINGS) for fold in folds)


def test_a_table_and_a_trained_learner_of_ratings():
    dls = loaders("explicit", bs=256)
    learn = collab_learner(dls, 8, y_range=(0, 5.5), metrics=["RMSE"])
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-2)
    before = learn.predict(RATINGS["user"].iloc[0], RATINGS["title"].iloc[0])
    table = cross_validate(RATINGS, learn, k=2, seed=1, rating_name="rating", **NAMES)
    assert list(table.index) == [("RMSE", "CollFilter")] and 0.5 < table["value"].item() < 1.5
    assert learn.predict(RATINGS["user"].iloc[0], RATINGS["title"].iloc[0]) == before
    again = cross_validate(RATINGS, [learn], k=2, seed=1, rating_name="rating", **NAMES)
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), again.drop(columns="seconds"))


def test_weights_counts_and_order_in_folds():
    table = RATINGS.assign(n=np.arange(len(RATINGS)) % 3 + 1.0)
    options = {"feedback": "implicit", **NAMES}
    for more in ({"weights": "n"}, {"weights": "inverse_item"}):
        assert cross_validate(table, Popularity(), k=2, seed=0, n_boot=10, **options, **more)["value"].item() > 0
    with pytest.warns(CollabWarning, match="backtest holds out the next events"):
        cross_validate(table, Popularity(), k=2, seed=0, n_boot=10, history=5, time_name="timestamp", **options)


def test_what_cross_validate_refuses():
    dls = loaders()
    for k in (1, 0, 10**6):
        with pytest.raises(ValueError, match="k must be"):
            cross_validate(dls, Popularity(), k=k)
    with pytest.raises(ValueError, match="name at least one model"):
        cross_validate(dls, [])
    with pytest.raises(TypeError, match="expected closed-form models, .* got str"):
        cross_validate(dls, ["EASE"])
    with pytest.raises(TypeError, match="bs: options are for a table"):
        cross_validate(dls, EASE(), bs=64)
    with pytest.raises(TypeError, match="splitter: leave out; the rows are split at random here"):
        cross_validate(RATINGS, EASE(), splitter=splits.random_split(), **NAMES)
    with pytest.raises(TypeError, match="expected CollabDataLoaders or a table, got list"):
        cross_validate([1], EASE())
    with pytest.raises(ValueError, match="nothing was trained yet"):
        cross_validate(dls, collab_learner(dls, 4))


def test_the_kept_model_is_compared_and_exported(fitted, tmp_path):
    best, _ = fitted
    dls = getattr(best, "dls", None) or best.data
    compare([best, Popularity().fit(dls)], metrics="NDCG@10", n_boot=2)
    rec = Recommender.load(best.export(tmp_path / "kept"))
    assert len(rec.recommend(RATINGS["user"].iloc[0], k=3)) == 3
