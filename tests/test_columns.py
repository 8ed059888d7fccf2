"""Which columns are user, item, rating and time: by name, by place, or asked; fractional times, repeats."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from test_cli import run

from collabkit import CollabDataLoaders, CollabWarning, Recommender, filters, splits
from collabkit.data.guess import guess_columns, likeness
from collabkit.data.interactions import Columns, Interactions, encode_times, ticks_of
from collabkit.models import EASE, Popularity

N = 60
WHAT = {
    "": lambda rng: rng.integers(0, 9, N),
    "text": lambda rng: rng.choice(list("abcdef"), N),
    "dates": lambda rng: pd.date_range("2026-01-01", periods=N),
    "days": lambda rng: [f"2026-01-{j % 28 + 1:02}" for j in range(N)],
    "fraction": lambda rng: rng.random(N),
    "bool": lambda rng: rng.random(N) < 0.5,
    "row": lambda rng: np.arange(N),
    "lists": lambda rng: [[1, 2]] * N,
}


def table(columns):
    """Columns written as `name` or `name=what it holds`."""
    rng = np.random.default_rng(0)
    named = (text.partition("=") for text in columns.split(", "))
    return pd.DataFrame({name: WHAT[what](rng) for name, _, what in named})


def guessed(columns, *, rated=True, timed=False, **given):
    """What was taken, in one text, and what was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = guess_columns(table(columns), given, rated=rated, timed=timed)
    return ", ".join(str(name) for name in found.values() if name is not None), [str(w.message) for w in caught]


@pytest.mark.parametrize(
    "columns",
    ["user, item, rating", "user, title=text, rating, timestamp", "userId, movieId, rating, timestamp, title=text",
     "User-ID, ISBN=text, Book-Rating", "user_id:token, item_id:token, rating:float", "u, i, r", "who, film, stars",
     "customer_id, product_id, score, date=days", "USERID, ITEMID, RATING", "reviewerID, asin=text, overall"],
)  # fmt: skip
def test_fastais_places_with_usual_names_are_taken_without_a_word(columns):
    taken, said = guessed(columns)
    assert taken == ", ".join(text.partition("=")[0] for text in columns.split(", ")[:3]) and said == []


@pytest.mark.parametrize(
    ("columns", "taken"),
    [("item, user, rating", "user, item, rating"),
     ("date=days, CustomerID, sku=text, qty, stars", "CustomerID, sku, stars"),
     ("review_id=row, user_id, business_id, stars, useful, date=days", "user_id, business_id, stars"),
     ("timestamp, rating, movie_id, title=text, visitorid", "visitorid, movie_id, rating"),
     ("Unnamed: 0=row, user, item, rating", "user, item, rating"),
     ("user, item, timestamp, rating", "user, item, rating"),
     ("rating, title=text, asin=text, user_id, timestamp", "user_id, asin, rating"),
     ("rating=text, score, member no, song", "member no, song, score")],
)  # fmt: skip
def test_names_decide_wherever_columns_stand_and_it_is_said(columns, taken):
    found, said = guessed(columns)
    assert found == taken and len(said) == 1
    assert all(repr(name) in said[0] for name in taken.split(", "))


def test_an_id_is_preferred_to_a_title_and_a_place_that_fits_to_both():
    taken, said = guessed("rating, title=text, movieId, user")
    assert taken == "user, movieId, rating" and "'movieId' (rather than 'title')" in said[0]
    taken, said = guessed("user, title=text, rating, timestamp, item")
    assert taken == "user, title, rating" and "'item' could also be meant" in said[0] and "'timestamp' may" in said[0]


def test_places_count_where_names_say_nothing_and_columns_bear_it():
    taken, said = guessed("a, b=text, c=fraction")
    assert taken == "a, b, c" and all(f"{name} (by position)" in said[0] for name in ("'a'", "'b'", "'c'"))
    taken, said = guessed("customer, b, stars, c")
    assert taken == "customer, b, stars" and "'b' (by position)" in said[0]
    plain = pd.DataFrame(np.random.default_rng(0).integers(0, 5, (N, 3)))
    with pytest.warns(CollabWarning, match="by position"):
        assert list(guess_columns(plain, {}, rated=True).values())[:3] == [0, 1, 2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [("user_id, customer_id, item, rating", "'user_id' and 'customer_id' could each be the user"),
     ("user, artist_id, track_id, rating", "'artist_id' and 'track_id' could each be the item"),
     ("session_id, item_id, rating, user_id", "'session_id' and 'user_id' could each be the user"),
     ("user, item, rating, user_rating", "could each be the rating"),
     ("date=days, customer, thing, rating", "like an item, and 'customer', .* is named like a user"),
     ("a=dates, b, c", "'a', at the position of one, holds values like .*user_name=, perhaps one of"),
     ("a=days, b, c", "'a', at the position of one, holds values like '2026-01-01'"),
     ("a=bool, b, c", "'a', at the position of one, holds values like"),
     ("a=fraction, b, c", "'a', at the position of one"),
     ("a=lists, b, c", "'a', at the position of one"), ("a=row, b, c", "'a', .* all different"),
     ("a, b=dates, c", "'b', at the position of one"),
     ("user, item, c=text", "'c', at the position of one.*feedback='implicit'"),
     ("user, item, when=dates", "'when', at the position of one, is named like a time")],
)  # fmt: skip
def test_a_doubtful_guess_asks_for_names(columns, message):
    with pytest.raises(ValueError, match=message):
        guessed(columns)


def test_what_is_named_is_taken_and_counts_for_no_other_role():
    assert guessed("user, movie, rating, timestamp, title=text", item="title") == ("user, title, rating", [])
    assert guessed("a=days, b, c, rating", user="b", item="c")[0] == "b, c, rating"
    assert guessed("user_id, customer_id, item, rating", user="customer_id")[0] == "customer_id, item, rating"
    with pytest.raises(ValueError, match="'bar', at the position of one, is already taken"):
        guessed("foo, bar, rating", user="bar")


def test_times_are_used_where_order_is_learned_and_else_said():
    assert guessed("session, page, at=dates", rated=False, timed=True)[0] == "session, page, at"
    assert guessed("user, item, timestamp", rated=False) == ("user, item", [])
    taken, said = guessed("user, item, start_time, end_time", rated=False, timed=True)
    assert taken == "user, item" and "'start_time', 'end_time' may be one" in said[0]
    assert "'day' may be one" in guessed("user, item, day=days", rated=False, timed=True)[1][0]  # texts are no times


def test_words_are_read_whole():
    assert [likeness(name, "item") for name in ("item_price", "product category", "movie_year", "item count")] == [
        None
    ] * 4
    assert [likeness(name, "rating") for name in ("avg_rating", "rating_count", "n_ratings", "mean score")] == [
        None
    ] * 4
    assert [likeness(name, "time") for name in ("runtime", "release_date", "playtime", "watch_time")] == [None] * 4
    assert [likeness(name, "time") for name in ("unixReviewTime", "created_at", "InvoiceDate", "visittime")] == [
        0,
        0,
        1,
        0,
    ]
    assert [likeness(name, "user") for name in (3, "", "::", "user_age", "buyerUserId")] == [None] * 5


def shop(n=3000):
    rng = np.random.default_rng(1)
    days = pd.date_range("2026-01-01", periods=n, freq="h").strftime("%Y-%m-%d")
    return pd.DataFrame({"Date": days, "Customer": rng.integers(0, 150, n), "SKU": rng.integers(0, 40, n), "Qty": 1})


def test_filters_and_splits_take_customers_of_a_table_that_begins_with_a_date():
    with pytest.warns(CollabWarning, match="user 'Customer'; item 'SKU'"):
        assert filters.drop_duplicates(shop()).equals(shop().drop_duplicates(["Customer", "SKU"], keep="last"))
    with pytest.warns(CollabWarning, match="user 'Customer'"):
        assert splits.cold_users(0.2, seed=0)(shop()).valid.size > 0
    unnamed = shop().rename(columns={"Customer": "x", "SKU": "y", "Date": "z"})
    for refuse in (filters.k_core, filters.min_count, filters.drop_duplicates, splits.random_split(0.2, seed=0)):
        with pytest.raises(ValueError, match=r"'z', at the position of one, .* user_name=, perhaps one of \['x', 'y'"):
            refuse(unnamed)
    with pytest.raises(ValueError, match="rating_name="):
        filters.min_rating(shop().drop(columns="Qty"), 3)


def test_python_and_the_command_line_take_the_same(tmp_path):
    rated = shop().assign(Stars=np.random.default_rng(0).integers(1, 6, 3000))
    rated.to_csv(tmp_path / "shop.csv", index=False)
    with pytest.warns(CollabWarning, match="user 'Customer'; item 'SKU'; rating 'Stars'"):
        dls = CollabDataLoaders.from_csv(tmp_path / "shop.csv", time_name="Date", seed=0)
    assert dls.data.columns.present == ["Customer", "SKU", "Stars", "Date"] and dls.data.train.time.min() > 10**18
    printed = run("train", "shop.csv", "--out", "m", "--epochs", 1, "--factors", 2, "--time", "Date", cwd=tmp_path)
    assert "columns: user 'Customer', item 'SKU', rating 'Stars'" in printed
    assert Recommender.load(tmp_path / "m").columns == dls.data.columns
    printed = run("train", "shop.csv", "--out", "m", "--rating", "Qty", "--item", "Custmer", cwd=tmp_path, ok=False)
    assert "'Custmer'] not found" in printed
    with pytest.raises(ValueError, match="'SKU' has times that cannot be read"):
        CollabDataLoaders.from_csv(
            write(tmp_path / "odd.csv", rated.astype({"SKU": "str"}).assign(SKU="x")), time_name="SKU"
        )


def write(path, df):
    df.to_csv(path, index=False)
    return path


# --- fractional times ---------------------------------------------------------------------------------------------


def timed(unit=1.0):
    rng = np.random.default_rng(0)
    times = rng.permutation(1.7e9 + np.sort(rng.random(500)) * 86_400 * 30)
    return pd.DataFrame({"user": rng.integers(0, 20, 500), "item": rng.integers(0, 30, 500), "at": times * unit})


def test_fractions_of_seconds_since_1970_are_the_moments_that_they_say(tmp_path):
    options = {"time_name": "at", "feedback": "implicit", "splitter": splits.time_split(window="5D"), "seed": 0}
    seconds = CollabDataLoaders.from_df(timed(), **options)
    stamps = CollabDataLoaders.from_df(timed().assign(at=pd.to_datetime(timed()["at"], unit="s")), **options)
    assert seconds.data.columns.ticks == 10**9 and seconds.data.train.day == stamps.data.train.day == 86_400 * 10**9
    assert torch.equal(seconds.data.train.item_idx, stamps.data.train.item_idx)
    assert int((seconds.data.train.time - stamps.data.train.time).abs().max()) < 1000  # nanoseconds
    for ask in (lambda m: m.recommend(k=3, half_life="5D"), lambda m: m.evaluate(by="item_age", n_boot=5)):
        pd.testing.assert_frame_equal(ask(EASE().fit(seconds)), ask(EASE().fit(stamps)))
    week = [Popularity(days=7).fit(dls).recommend(k=3) for dls in (seconds, stamps)]
    pd.testing.assert_frame_equal(*week)
    assert set(seconds.data.train.to_df()["at"]) <= set(timed()["at"])
    EASE().fit(seconds).recommender.save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved")
    assert loaded.columns.ticks == 10**9 and loaded.train.day == seconds.data.train.day
    later = timed().tail(50).assign(at=1_703_000_000)  # whole ones are read as the data were
    assert loaded.task(later)._rows.time.unique().tolist() == [1_703_000_000 * 10**9]


@pytest.mark.parametrize("unit", [1e-9, 1e-3, 1.0, 1e3, 1e6])
def test_fractions_keep_their_order(unit):
    times = timed(unit)["at"]
    encoded = encode_times(times, ticks_of(times)).numpy()
    order = np.argsort(times.to_numpy(), kind="stable")
    assert (np.diff(encoded[order]) >= 0).all()
    if unit >= 1:  # numbers that double precision can tell apart
        assert len(np.unique(encoded)) == times.nunique()
    assert np.allclose(encoded / ticks_of(times), times, rtol=1e-15, atol=1e-9)


def test_a_day_of_small_fractions_is_one_of_seconds():
    early = Interactions.from_df(timed().assign(at=timed()["at"] - 1.7e9), Columns("user", "item", time="at"))
    assert early.day == 86_400 * early.columns.ticks == 86_400 * 10**9


def test_times_that_are_no_times():
    whole = Interactions.from_df(timed().assign(at=range(500)), Columns("user", "item", time="at"))
    assert whole.columns.ticks == 1
    with pytest.raises(ValueError, match="fractional times where the model's data have whole numbers"):
        whole.encode(timed())
    for bad, message in ((np.inf, "infinite"), (np.nan, "1 missing time")):
        with pytest.raises(ValueError, match=message):
            Interactions.from_df(timed().assign(at=[bad, *timed()["at"][1:]]), Columns("user", "item", time="at"))


# --- repeats ------------------------------------------------------------------------------------------------------


def test_repeated_pairs_with_different_ratings_are_counted():
    rows = [(1, "a", 5), (1, "a", 4), (1, "a", 5), (2, "a", 3), (2, "a", 3), (2, "b", 1), (3, "b", 1), (3, "b", 2)]
    df = pd.DataFrame(rows, columns=["user", "item", "rating"])
    with pytest.warns(
        CollabWarning, match=r"4 of 8 rows repeat .* 2 of the 3 pairs that repeat have different ratings"
    ):
        CollabDataLoaders.from_df(df, seed=0, splitter=lambda df: ([0, 3, 5, 6], [1, 2, 4, 7]))
    with pytest.warns(CollabWarning) as caught:
        CollabDataLoaders.from_df(df[3:6], splitter=lambda df: ([0, 2], [1]), seed=0)
    assert not any("different ratings" in str(w.message) for w in caught)
