"""Tests of collabkit.datasets: generated data, MovieLens from disk and over HTTP, reading of files. All offline."""

import dataclasses
import hashlib
import http.server
import io
import os
import random
import threading
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from elsewhere import elsewhere

from collabkit import (
    EASE,
    CollabDataLoaders,
    ItemKNN,
    NextItem,
    Popularity,
    TwoTower,
    collab_learner,
    datasets,
)
from collabkit.data.splits import leave_last_out
from collabkit.datasets import download, grouplens, movielens, movielens_folds, read_interactions, synthetic

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = Path(os.environ.get("COLLABKIT_DATA") or ROOT.parent / "shared" / "data")


def real_data(folder):
    """A folder of real data: $COLLABKIT_DATA, else ../shared/data beside the repository; skips when absent."""
    if not (REAL_DATA / folder).is_dir():
        pytest.skip(f"no real data: {folder} is not in {REAL_DATA} (set COLLABKIT_DATA to the folder that holds it)")
    return REAL_DATA / folder


@pytest.fixture(autouse=True)
def private_places(monkeypatch, tmp_path_factory):
    """No test reads the caller's data folder by accident, writes into the caller's cache, or reaches the network."""
    monkeypatch.delenv("COLLABKIT_DATA", raising=False)
    monkeypatch.setenv("COLLABKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(download, "BASE_URL", "http://127.0.0.1:9")  # the discard port: refused at once


# --- synthetic ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    return synthetic()


def digest(data):
    """One number for everything in a data set, row order included."""
    total = hashlib.sha256()
    for table in (data.ratings, data.items, data.users):
        total.update(table.to_csv(index=False).encode())
    for array in (data.truth.user_factors, data.truth.item_factors, data.truth.expected):
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def rmse(error):
    return float(np.sqrt(np.mean(np.square(error))))


def as_rows(data):
    """Rows of users and items, and ratings, as arrays; a fixed 80/20 split."""
    user, item = data.ratings["user"].to_numpy() - 1, data.ratings["item"].to_numpy() - 1
    shuffled = np.random.default_rng(0).permutation(len(user))
    return user, item, data.ratings["rating"].to_numpy(float), shuffled[len(user) // 5 :], shuffled[: len(user) // 5]


def fit_biases(user, item, rating, n_users, n_items, shrink=5.0):
    """Global mean + user bias + item bias by alternating shrunken means."""
    mean, by_user, by_item = rating.mean(), np.zeros(n_users), np.zeros(n_items)
    for _ in range(15):
        rest = rating - mean - by_user[user]
        by_item = np.bincount(item, rest, n_items) / (np.bincount(item, minlength=n_items) + shrink)
        rest = rating - mean - by_item[item]
        by_user = np.bincount(user, rest, n_users) / (np.bincount(user, minlength=n_users) + shrink)
    return mean, by_user, by_item


def test_synthetic_shapes_columns_and_ranges(made):
    ratings = made.ratings
    assert list(ratings.columns) == ["user", "title", "rating", "timestamp", "item"]
    assert (len(ratings), len(made.users), len(made.items)) == (60_000, 1000, 800)
    assert all(ratings[c].dtype == np.int64 for c in ("user", "rating", "timestamp", "item"))
    assert not ratings.isna().any().any() and not made.items.isna().any().any() and not made.users.isna().any().any()
    assert set(ratings["rating"]) == {1, 2, 3, 4, 5}
    assert ratings.index.equals(pd.RangeIndex(60_000))
    assert not ratings.duplicated(["user", "item"]).any()
    assert list(made.items.columns) == ["item", "title", "year", "genres"] and str(made.items["year"].dtype) == "Int64"
    assert list(made.users.columns) == ["user", "age", "occupation"]
    assert made.users["age"].between(15, 80).all()


def test_synthetic_titles_are_unique_and_belong_to_their_item(made):
    assert made.items["title"].is_unique
    assert made.items["title"].str.fullmatch(r"[A-Z][\w' -]+ \((19|20)\d\d\)").all()
    assert not made.items["title"].str.contains(r"\bA [AEIOU]").any()
    assert (made.items["title"].str[-5:-1].astype(int) == made.items["year"]).all()
    by_item = made.items.set_index("item")["title"]
    assert (by_item.loc[made.ratings["item"]].to_numpy() == made.ratings["title"].to_numpy()).all()
    genres = made.items["genres"].str.split("|").explode()
    assert set(genres) <= set(datasets.catalogue.GENRES) and genres.nunique() == 14
    many = synthetic(20, 30_000, 4000, seed=3).items["title"]  # far more items than names
    assert many.is_unique


def test_synthetic_has_a_realistic_shape(made):
    ratings = made.ratings
    assert 3.3 < ratings["rating"].mean() < 3.7
    assert 0.95 < ratings["rating"].std() < 1.2
    activity = ratings.groupby("user").size()
    assert activity.min() >= 20 and 30 < activity.median() < 55 and 300 < activity.max() <= 640
    popularity = ratings.groupby("item").size().sort_values(ascending=False)
    assert 0.3 < popularity.iloc[:80].sum() / len(ratings) < 0.6  # a long tail: a tenth of the items
    assert popularity.max() > 6 * popularity.median()
    assert ratings["timestamp"].is_monotonic_increasing
    assert ratings["timestamp"].between(pd.Timestamp("2015").timestamp(), pd.Timestamp("2020").timestamp()).all()
    assert (ratings.groupby("user")["timestamp"].diff().dropna() > 0).all()  # strictly, so "the last one" is defined
    assert (made.items["year"] <= 2014).all()  # nobody rates a movie that is not made yet


@pytest.mark.parametrize("seed", [0, 7, 42])
def test_synthetic_rewards_a_dot_product_model_but_not_beyond_the_truth(seed):
    data = synthetic(seed=seed)
    user, item, rating, train, test = as_rows(data)
    n_users, n_items = len(data.users), len(data.items)
    mean, by_user, by_item = fit_biases(user[train], item[train], rating[train], n_users, n_items)
    base = mean + by_user[user] + by_item[item]
    names = {"user_name": "user", "item_name": "title", "rating_name": "rating"}
    rows = data.ratings.iloc[np.flatnonzero(train) if train.dtype == bool else train]
    dls = CollabDataLoaders.from_df(rows, **names, valid_pct=0, bs=512, seed=0)
    learn = collab_learner(dls, n_factors=64, y_range=(0, 5.5))
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(5, 1e-2, wd=0.7)
    asked = data.ratings.iloc[np.flatnonzero(test) if test.dtype == bool else test]
    of_mean = rmse(rating[test] - mean)
    of_bias = rmse((rating - base)[test])
    of_factors = rmse(asked["rating"].to_numpy() - learn.predict(asked["user"], asked["title"], unknown="default"))
    of_truth = rmse((rating - data.truth.expected)[test])
    assert 1.0 < of_mean < 1.2 and 0.8 < of_bias < 0.95 and 0.65 < of_truth < 0.72
    assert of_truth * 1.08 < of_factors < of_bias * 0.97
    assert of_bias < 0.93 * of_mean


def test_synthetic_puts_models_in_the_order_of_movielens(made):
    """NDCG@10 by that of popularity; on ML-100k: 1.45, 1.69, 1.76, 1.45 and 2.64, where popularity has .044."""
    names = {"user_name": "user", "item_name": "title", "time_name": "timestamp", "feedback": "implicit", "seed": 0}
    side = {"items": made.items, "item_features": {"genres": "multi"}, "splitter": leave_last_out()}
    dls = CollabDataLoaders.from_df(made.ratings, **names, **side)
    als, towers = collab_learner(dls, n_factors=16), collab_learner(dls, model=TwoTower, n_factors=32)
    for learn, fit in ((als, lambda: als.fit_als(reg=0.02)), (towers, lambda: towers.fit_one_cycle(3, 1e-2))):
        with learn.no_bar(), learn.no_logging():
            fit()
    ordered = CollabDataLoaders.from_df(made.ratings, **names, splitter=leave_last_out(), history=50)
    models = [ItemKNN().fit(dls), EASE().fit(dls), als, towers, NextItem().fit(ordered)]
    found = np.array([model.evaluate(k=10, metrics=["NDCG"], n_boot=1)["value"].item() for model in models])
    popular = Popularity().fit(dls).evaluate(k=10, metrics=["NDCG"], n_boot=1)["value"].item()
    assert 0.04 < popular < 0.075
    low, high = np.array([(1.2, 1.6), (1.5, 1.9), (1.5, 2.0), (1.3, 1.8), (2.2, 3.0)]).T
    assert ((low < found / popular) & (found / popular < high)).all(), found / popular


def test_truth_is_what_the_ratings_were_made_from(made):
    truth = made.truth
    user, item, rating, *_ = as_rows(made)
    time = made.ratings["timestamp"].to_numpy()
    assert truth.user_bias.shape == (1000,) and truth.item_bias.shape == (800,)
    assert truth.user_factors.shape == (1000, 8) and truth.item_factors.shape == (800, 8)
    assert len(truth.factor_names) == 8
    one = (
        truth.global_mean + truth.user_bias[user[5]] + truth.item_bias[item[5]]
        + truth.user_factors[user[5]] @ truth.item_factors[item[5]]
        + truth.drift * (time[5] - truth.time_origin) / (365.25 * 86_400)
    )  # fmt: skip
    latent = truth.latent_score(user, item, time)
    assert latent[5] == pytest.approx(one)
    np.testing.assert_allclose(truth.expected_rating(user, item, time), truth.expected)
    assert truth.rmse == pytest.approx(rmse(rating - truth.expected))
    assert abs(np.mean(rating - truth.expected)) < 0.01  # the expectation is unbiased: 3 sigma is 0.008
    middle = np.abs(latent - 3) < 0.3
    assert np.corrcoef(latent[middle], (rating - truth.expected)[middle])[0, 1] == pytest.approx(0, abs=0.03)
    # Monte Carlo, independent of the formula: the mean rounded, clipped grade at one latent score.
    score = 4.3 + truth.noise_sd * np.random.default_rng(0).normal(size=400_000)
    shift = np.full(1, (4.3 - latent[0]) / truth.drift * 365.25 * 86_400 + time[0])
    exact = truth.expected_rating(user[:1], item[:1], shift)[0]
    assert exact == pytest.approx(np.clip(np.round(score), 1, 5).mean(), abs=0.005)


def test_planted_factors_follow_genres_and_year_and_age(made):
    truth, items = made.truth, made.items
    assert truth.factor_names[:4] == ("dark", "pace", "wonder", "modern")
    dark, pace, _, modern = truth.item_factors[:, :4].T
    horror, family = items["genres"].str.contains("Horror"), items["genres"].str.contains("Children's|Animation")
    assert dark[horror].mean() - dark[family].mean() > 1.5 * dark.std()
    action, talk = items["genres"].str.contains("Action"), items["genres"].str.contains("Drama|Documentary")
    assert pace[action].mean() - pace[talk].mean() > 0.8 * pace.std()
    assert 0.75 < np.corrcoef(modern, items["year"].astype(float))[0, 1] < 0.98
    assert -0.85 < np.corrcoef(truth.user_factors[:, 3], made.users["age"])[0, 1] < -0.3
    spread = truth.item_factors.std(0)
    assert (np.diff(spread) < 0).all()  # principal axes exist
    assert np.abs(truth.item_factors.mean(0)).max() < 1e-9 and np.abs(truth.user_factors.mean(0)).max() < 1e-9


def test_drift_shows_in_the_ratings(made):
    years = (made.ratings["timestamp"] - made.truth.time_origin) / (365.25 * 86_400)
    slope = np.polyfit(years, made.ratings["rating"], 1)[0]
    assert made.truth.drift == pytest.approx(-0.06)
    assert -0.1 < slope < -0.03


def test_synthetic_is_the_same_in_another_process_and_differs_by_seed(made):
    other = elsewhere("from test_datasets import digest, synthetic; print(digest(synthetic(150, 90, 4000, seed=5)))")
    assert other.stdout.strip() == digest(synthetic(150, 90, 4000, seed=5))
    assert digest(synthetic(150, 90, 4000, seed=6)) != other.stdout.strip()
    assert digest(synthetic(seed=np.int64(42))) == digest(made)


def test_the_catalogue_does_not_depend_on_the_number_of_users_or_ratings(made):
    assert synthetic(300, 800, 9000).items.equals(made.items)


def test_global_generators_are_untouched():
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    before = np.random.get_state()[1].copy(), np.random.get_state()[2], random.getstate()  # noqa: NPY002
    synthetic(50, 60)
    after = np.random.get_state()[1], np.random.get_state()[2], random.getstate()  # noqa: NPY002
    assert (before[0] == after[0]).all() and before[1:] == after[1:]


@pytest.mark.parametrize(
    ("n_users", "n_items", "n_ratings", "least"),
    [(2, 2, 2, 1), (1, 2, 1, 1), (3, 40, 60, 20), (50, 40, None, 20), (5, 3, 7, 1), (30, 1000, 15_000, 1)],
)
def test_synthetic_keeps_its_promises_at_the_edges(n_users, n_items, n_ratings, least):
    for seed in range(5):
        data = synthetic(n_users, n_items, n_ratings, seed=seed, min_events=least)
        counts = data.ratings.groupby("user").size()
        assert len(data.ratings) == (n_ratings or n_users * 20)
        assert len(counts) == n_users and counts.min() >= least
        assert not data.ratings.duplicated(["user", "item"]).any()
        assert data.ratings["rating"].between(1, 5).all() and np.isfinite(data.truth.expected).all()


def test_a_very_long_history_stays_in_the_window_without_ties():
    ratings = synthetic(2, 30_000, 24_000, min_events=10_000).ratings
    assert (ratings.groupby("user")["timestamp"].diff().dropna() > 0).all()
    assert ratings["timestamp"].between(pd.Timestamp("2015").timestamp(), pd.Timestamp("2020").timestamp()).all()


def test_half_stars_no_noise_and_number_of_factors():
    half = synthetic(100, 80, half_stars=True)
    assert half.ratings["rating"].dtype == np.float64
    assert set(half.ratings["rating"] * 2) == set(range(1, 11))
    assert half.truth.rmse < synthetic(100, 80).truth.rmse  # finer grades, less rounding
    assert synthetic(100, 80, noise=0).truth.rmse == pytest.approx(0, abs=1e-6)
    for k in (1, 3, 20):
        truth = synthetic(100, 80, n_factors=k).truth
        assert truth.item_factors.shape == (80, k) and len(truth.factor_names) == len(set(truth.factor_names)) == k


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_users": 10, "n_items": 100, "n_ratings": 501}, r"n_ratings=501 is more than half of the 1000 .*lower"),
        ({"n_users": 10, "n_items": 100, "n_ratings": 199}, r"n_ratings=199 .*min_events=20.*at least 200"),
        ({"n_users": 10, "n_items": 30}, r"min_events=20 is more than half of n_items=30"),
        ({"n_users": 0}, "n_users must be at least 1, got 0"),
        ({"n_factors": 0}, "n_factors must be at least 1, got 0"),
        ({"n_ratings": -5}, "n_ratings must be at least 1, got -5"),
        ({"noise": -0.1}, "noise must be .* got -0.1"),
        ({"noise": float("nan")}, "noise must be .* got nan"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_synthetic_refuses_bad_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic(**arguments)


def test_synthetic_refuses_bad_types():
    with pytest.raises(TypeError, match="n_users must be an integer, got 10.5"):
        synthetic(10.5)
    with pytest.raises(TypeError, match="seed must be an integer"):
        synthetic(seed=None)


def test_repr_says_what_is_inside(made):
    text = repr(made)
    assert "60,000 ratings of 800 items by 1,000 users" in text and "achievable RMSE 0." in text and len(text) < 600


# --- MovieLens from disk --------------------------------------------------------------------------------------------


def test_movielens_100k():
    folder = real_data("ml-100k")
    data = movielens("100k", folder)
    assert (len(data.ratings), len(data.users), len(data.items)) == (100_000, 943, 1682)
    assert list(data.ratings.columns) == ["user", "title", "rating", "timestamp", "item"]
    assert data.ratings.iloc[0].to_list() == [196, "Kolya (1996)", 3, 881250949, 242]
    assert data.ratings["rating"].mean() == pytest.approx(3.52986)
    assert data.users.iloc[0].to_list() == [1, 24, "M", "technician", "85711"]
    assert data.items.iloc[0].to_list() == [1, "Toy Story (1995)", 1995, "Animation|Children's|Comedy"]
    assert data.items["year"].isna().sum() == 1  # item 267, "unknown"
    assert data.items["title"].is_unique and data.items["title"].str.endswith("]").sum() == 36
    assert "Chasing Amy (1997) [268]" in set(data.ratings["title"]) and data.truth is None
    assert data.ratings["title"].nunique() == data.ratings["item"].nunique() == 1682
    assert "943 users" in repr(data)


def test_movielens_1m():
    data = movielens("1m", real_data("ml-1m").parent)  # the folder above works as well
    assert (len(data.ratings), len(data.users), len(data.items)) == (1_000_209, 6040, 3883)
    assert data.ratings["item"].nunique() == data.ratings["title"].nunique() == 3706
    assert data.ratings["user"].nunique() == 6040 and data.ratings["rating"].dtype == np.int64
    assert data.users.iloc[1].to_list() == [2, 56, "M", "self-employed", "70072"]
    assert "Misérables, Les (1995)" in set(data.items["title"])  # latin-1


def test_movielens_latest_small(monkeypatch):
    monkeypatch.setenv("COLLABKIT_DATA", str(real_data("ml-latest-small").parent))
    data = movielens("latest-small")
    assert (len(data.ratings), data.ratings["user"].nunique(), data.ratings["item"].nunique()) == (100_004, 671, 9066)
    assert data.ratings["title"].nunique() == 9066 and len(data.items) == 9125 and data.users is None
    assert set(data.ratings["rating"] * 2) == set(range(1, 11))


def test_movielens_folds_are_disjoint_and_cover_everything():
    folder = real_data("ml-100k")
    whole = movielens("100k", folder).ratings
    tests = []
    for number, (name, train, test) in enumerate(movielens_folds("100k", folder), start=1):
        assert name == f"u{number}" and (len(train), len(test)) == (80_000, 20_000)
        assert list(train.columns) == list(test.columns) == list(whole.columns)
        both = pd.concat([train, test]).sort_values(["user", "item"], ignore_index=True)
        assert both.equals(whole.sort_values(["user", "item"], ignore_index=True))
        tests.append(test)
    assert len(tests) == 5 and not pd.concat(tests).duplicated(["user", "item"]).any()
    ((name, _, test),) = movielens_folds("100k", folder, folds=["ua"])
    assert name == "ua" and (test.groupby("user").size() == 10).all()


ITEM_100K = "{}|{}|01-Jan-1995||http://x|0|1|0\n"


@pytest.fixture
def tiny(tmp_path):
    """Folders ml-100k, ml-1m, ml-10m and ml-latest of a few rows, with the oddities of the real ones."""
    old = tmp_path / "ml-100k"
    old.mkdir()
    (old / "u.data").write_text("1\t1\t5\t100\n2\t2\t3\t50\n1\t3\t1\t101\n")
    titles = ["Misérables, Les (1995)", "Amy (1997)", "Amy (1997)"]
    (old / "u.item").write_text("".join(ITEM_100K.format(i + 1, t) for i, t in enumerate(titles)), encoding="latin-1")
    (old / "u.user").write_text("1|24|M|writer|85711\n2|30|F|other|T8H1N\n")
    (old / "u.genre").write_text("unknown|0\nAction|1\nDrama|2\n\n")
    for fold in ("u1", "u2"):
        (old / f"{fold}.base").write_text("1\t1\t5\t100\n2\t2\t3\t50\n")
        (old / f"{fold}.test").write_text("1\t3\t1\t101\n")
    for name in ("ml-1m", "ml-10M100K"):
        folder = tmp_path / name
        folder.mkdir()
        half = ".5" if "10M" in name else ""
        (folder / "ratings.dat").write_text(f"1::7::4{half}::978300760\n2::9::3::978302109\n")
        text = "7::2001: A Space Odyssey (1968)::Drama|Sci-Fi\n9::Été (1990)::Drama\n"
        (folder / "movies.dat").write_text(text, encoding="utf-8" if "10M" in name else "latin-1")
        (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    new = tmp_path / "ml-latest"
    new.mkdir()
    (new / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,7,4.5,100\n1,8,3.0,101\n")
    (new / "movies.csv").write_text(
        'movieId,title,genres\n7,"Odd, The (1995) (V)",Drama\n8,NA,(no genres listed)\n9,Rome (2005-2007),War\n'
    )
    return tmp_path


def test_oddities_of_the_files(tiny):
    old = movielens("100k", tiny)
    assert old.items["title"].to_list() == ["Misérables, Les (1995)", "Amy (1997) [2]", "Amy (1997) [3]"]
    assert old.items["genres"].to_list() == ["Action"] * 3
    assert old.ratings["title"].to_list() == ["Misérables, Les (1995)", "Amy (1997) [2]", "Amy (1997) [3]"]
    assert old.users["zip_code"].to_list() == ["85711", "T8H1N"]
    middle = movielens("ml-1m", tiny)
    assert list(middle.ratings.columns) == ["user", "title", "rating", "timestamp", "item"]  # the official file
    assert middle.items["year"].to_list() == [1968, 1990] and middle.items["title"].iloc[1] == "Été (1990)"
    assert middle.ratings["rating"].dtype == np.int64
    assert middle.ratings["timestamp"].to_list() == [978300760, 978302109]
    large = movielens("10m", tiny)
    assert large.ratings["rating"].to_list() == [4.5, 3.0] and large.users is None
    assert large.items["title"].iloc[1] == "Été (1990)"
    new = movielens("latest", tiny)
    assert new.items["year"].isna().to_list() == [False, True, False]
    assert new.items["year"].dropna().to_list() == [1995, 2005] and new.items["title"].iloc[1] == "NA"


def test_a_missing_file_is_named_with_its_folder(tiny):
    (tiny / "ml-100k" / "u.item").unlink()
    with pytest.raises(FileNotFoundError, match=r"u\.item is missing from .*ml-100k: ml-100k needs u\.data, u\.item"):
        movielens("100k", tiny)
    with pytest.raises(FileNotFoundError, match=r"u5\.base is missing from"):
        (tiny / "ml-100k" / "u.item").write_text(ITEM_100K.format(1, "A (1990)"))
        movielens_folds("100k", tiny, folds=["u1", "u5"])
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        movielens("100k", tiny / "nowhere")


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("100k", "u.data", "1\t1\t5\t100\n2\t2\n", "u.data is damaged: column 'rating'"),
        ("100k", "u.data", "1\t1\t5\t100\n2\t2\t3\t4\t5\n", "u.data is damaged"),
        ("100k", "u.data", "1\t1\t5\n2\t2\t3\t4\n", "u.data is damaged"),
        ("100k", "u.data", "1\t1\n", r"u\.data has 2 fields in its first line: expected user item rating"),
        ("100k", "u.data", "1\tone\t5\t100\n", "u.data is damaged: column 'item'"),
        ("100k", "u.data", "1\t99\t5\t100\n", r"1 items have no entry among the movies, e\.g\. \[99\]"),
        ("100k", "u.item", "1|Toy Story (1995)|x\n", "u.item is damaged: expected 8 fields"),
        ("100k", "u.item", ITEM_100K.format("x", "A"), "u.item is damaged: column 'item' must hold whole numbers"),
        ("100k", "u.item", ITEM_100K.format(1, "A") + ITEM_100K.format(1, "B"), "the item 1 occurs twice"),
        ("1m", "users.dat", "", "users.dat is damaged"),
        ("latest", "movies.csv", "id,title,genres\n1,A,B\n", r"movies\.csv lacks the columns \['movieId'\]"),
        ("latest", "ratings.csv", "", "ratings.csv is damaged"),
    ],
)
def test_damaged_files(tiny, name, file, content, message):
    (tiny / f"ml-{name}" / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        movielens(name, tiny)


def test_unknown_names_and_folds(tiny):
    with pytest.raises(ValueError, match=r"unknown MovieLens edition '2m': expected one of '100k', '1m'"):
        movielens("2m")
    with pytest.raises(ValueError, match="only '100k' has official folds, got '1m'"):
        movielens_folds("1m", tiny)
    with pytest.raises(ValueError, match="folds must be a sequence of names"):
        movielens_folds("100k", tiny, folds=["u9"])
    with pytest.raises(ValueError, match="folds must be a sequence of names"):
        movielens_folds("100k", tiny, folds="u1")
    assert [name for name, *_ in movielens_folds("100k", tiny, folds=("u2", "u1"))] == ["u2", "u1"]


# --- download -------------------------------------------------------------------------------------------------------


def zipped(folder, top):
    """A zip of a folder's files below a folder `top`, as bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{top}/{file.name}" if top else file.name)
    return buffer.getvalue()


@pytest.fixture
def publisher(monkeypatch):
    """A local stand-in for files.grouplens.org: fill `files`, read `asked`; `cut` names files sent only by half."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.lstrip("/")
            server.asked.append(name)
            body = server.files.get(name)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if name in server.cut else body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.asked, server.cut = {}, [], set()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setattr(download, "BASE_URL", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def everything_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def with_md5(monkeypatch, name, body):
    """Make the known checksum of an edition that of the body: the real one belongs to the real archive."""
    edition = grouplens._EDITIONS[name]
    md5 = hashlib.md5(body).hexdigest()
    monkeypatch.setitem(grouplens._EDITIONS, name, dataclasses.replace(edition, md5=md5))


def test_download_checks_unpacks_and_is_used_again(tiny, publisher, monkeypatch, capfd):
    publisher.files["ml-100k.zip"] = body = zipped(tiny / "ml-100k", "ml-100k")
    with_md5(monkeypatch, "100k", body)
    first = movielens("100k")
    assert publisher.asked == ["ml-100k.zip"] and "100%" in capfd.readouterr().err
    assert first.ratings.equals(movielens("100k", tiny).ratings)
    assert movielens("100k").ratings.equals(first.ratings) and len(publisher.asked) == 1
    assert [fold for fold, *_ in movielens_folds("100k", folds=["u1"])] == ["u1"] and len(publisher.asked) == 1
    cache = download.cache_folder()
    assert [p.name for p in cache.iterdir()] == ["ml-100k"] and capfd.readouterr().err == ""


def test_download_without_a_progress_bar_is_silent(tiny, publisher, monkeypatch, capfd):
    publisher.files["ml-10m.zip"] = body = zipped(tiny / "ml-10M100K", "ml-10M100K")
    with_md5(monkeypatch, "10m", body)
    assert len(movielens("10m", progress=False).ratings) == 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("line", ["MD5 (ml-latest.zip) = {}\n", "{}  ml-latest.zip\n"])
def test_editions_that_change_are_checked_against_the_publishers_md5(tiny, publisher, line):
    publisher.files["ml-latest.zip"] = body = zipped(tiny / "ml-latest", "ml-latest")
    publisher.files["ml-latest.zip.md5"] = line.format(hashlib.md5(body).hexdigest().upper()).encode()
    assert len(movielens("latest", progress=False).ratings) == 2
    assert publisher.asked == ["ml-latest.zip.md5", "ml-latest.zip"]


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(tiny, publisher):
    publisher.files["ml-100k.zip"] = zipped(tiny / "ml-100k", "ml-100k")  # not the real one
    with pytest.raises(ValueError, match=r"ml-100k\.zip does not have the checksum .*Nothing was kept.*path='FOLDER'"):
        movielens("100k", progress=False)
    publisher.files["ml-latest.zip"] = publisher.files["ml-100k.zip"]
    publisher.files["ml-latest.zip.md5"] = b"<html>sorry</html>"
    with pytest.raises(ValueError, match="holds no MD5 checksum"):
        movielens("latest", progress=False)
    assert everything_in(download.cache_folder()) == []


def test_an_interrupted_or_refused_download_leaves_nothing(tiny, publisher, monkeypatch):
    publisher.files["ml-100k.zip"] = body = zipped(tiny / "ml-100k", "ml-100k")
    with_md5(monkeypatch, "100k", body)
    publisher.cut.add("ml-100k.zip")
    with pytest.raises(ConnectionError, match=r"ml-100k\.zip could not be downloaded.*path='FOLDER'.*URL: http"):
        movielens("100k", progress=False)
    with pytest.raises(ConnectionError, match="404"):
        movielens("1m", progress=False)
    assert everything_in(download.cache_folder()) == []
    publisher.cut.clear()
    assert len(movielens("100k", progress=False).ratings) == 3  # a later try succeeds


def test_no_network_says_what_to_do():
    with pytest.raises(ConnectionError, match="give the folder: movielens"):
        movielens("100k", progress=False)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "ml/../../evil", "..\\evil", "C:evil"])
def test_a_zip_that_points_outside_is_not_unpacked(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("ml/u.data", "1")
        archive.writestr(name, "bad")
    (tmp_path / "cache").mkdir()
    with pytest.raises(ValueError, match="unsafe"):
        download.unpack(tmp_path / "a.zip", "u.data", tmp_path / "cache" / "ml")
    assert everything_in(tmp_path) == ["a.zip", "cache"]


def test_links_broken_zips_and_foreign_zips_are_refused(tmp_path):
    link = zipfile.ZipInfo("ml/u.item")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    (tmp_path / "b.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:40])
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("else/readme", "x")
    for name, message in (("a.zip", "unsafe"), ("b.zip", "not a complete zip"), ("c.zip", "holds no file u.data")):
        with pytest.raises(ValueError, match=message):
            download.unpack(tmp_path / name, "u.data", tmp_path / "ml")
    assert everything_in(tmp_path) == ["a.zip", "b.zip", "c.zip"]


def test_unpack_takes_a_flat_zip_and_keeps_what_another_process_unpacked(tiny, tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(tiny / "ml-latest", ""))
    target = tmp_path / "out"
    assert download.unpack(tmp_path / "a.zip", "ratings.csv", target) == target
    (target / "mark").write_text("first")
    download.unpack(tmp_path / "a.zip", "ratings.csv", target)
    assert everything_in(target) == ["mark", "movies.csv", "ratings.csv"]


def test_the_cache_is_in_the_home_folder_unless_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("COLLABKIT_CACHE")
    assert download.cache_folder() == tmp_path / ".cache" / "collabkit"


# --- reading files --------------------------------------------------------------------------------------------------


def test_read_interactions_by_extension(tmp_path):
    table = pd.DataFrame({"who": ["a", "b"], "what": [1, 2], "rating": [4.5, 3.0]})
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_csv(tmp_path / "t.v2.csv.gz", index=False)
    table.to_csv(tmp_path / "t.TSV", index=False, sep="\t")
    table.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.v2.csv.gz", "t.TSV", "t.parquet"):
        pd.testing.assert_frame_equal(read_interactions(tmp_path / name), table)
    (tmp_path / "r.dat").write_text("1::1193::5::978300760\n1::661::3::978302109\n")
    assert read_interactions(str(tmp_path / "r.dat")).to_dict("list") == {
        "user": [1, 1], "item": [1193, 661], "rating": [5, 3], "timestamp": [978300760, 978302109],
    }  # fmt: skip
    (tmp_path / "u.data").write_text("1\t2\t3\t4\n")
    assert read_interactions(tmp_path / "u.data").to_numpy().tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", b"x", r"ends in \.xlsx: expected one of \.csv, \.tsv, \.parquet"),
        ("ratings", b"x", "ends in no extension"),
        ("a.dat.gz", b"x", r"ends in \.gz"),
        ("a.csv", b"", r"a\.csv cannot be read as \.csv"),
        ("a.csv", b"user,item\n", r"holds no rows \(columns: \['user', 'item'\]\)"),
        ("a.csv", b"user item\n1 2\n", "a single column .*is the file separated as .csv says"),
        ("a.csv", b"user,item\n1,2\n1,2,3,4\n", "cannot be read as .csv"),
        ("a.csv", b"user,item\n\xff\xfe,2\n", "cannot be read as .csv"),
        ("a.parquet", b"nonsense", "cannot be read as .parquet"),
        ("a.csv.gz", b"nonsense", "cannot be read as .csv"),
        ("a.dat", b"1,2,3\n", "1 fields in its first line"),
        ("a.dat", b"1::2::3\n1::2\n", "damaged"),
        ("a.dat", b"", "fields in its first line"),
    ],
)
def test_read_interactions_says_what_is_wrong(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_interactions(tmp_path / name)


def test_read_interactions_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file: .*gone.csv"):
        read_interactions(tmp_path / "gone.csv")
    with pytest.raises(ValueError, match="is a folder"):
        read_interactions(tmp_path)
