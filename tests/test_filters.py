import re
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.pandas import column, data_frames, range_indexes

from collabkit.data.filters import (
    drop_duplicates,
    k_core,
    min_count,
    min_rating,
    positive_events,
)
from collabkit.data.filters import sample_users as sample
from collabkit.data.interactions import Columns
from collabkit.data.notices import CollabWarning
from collabkit.data.tables import describe_left_out, name_columns

events = data_frames(
    [column("user", elements=st.integers(0, 6), dtype=int), column("item", elements=st.integers(0, 6), dtype=int)],
    index=range_indexes(min_size=1, max_size=30),
)


def counted(filter_, *args, **kwargs):
    """The filtered table and the counts in its warning: rows, all rows, users, all users, items, all items."""
    with pytest.warns(CollabWarning) as caught:
        result = filter_(*args, **kwargs)
    assert len(caught) == 1 and caught[0].filename == __file__  # the warning points at the caller
    message = str(caught[0].message)
    numbers = re.match(r"left out (\S+) of (\S+) rows, (\S+) of (\S+) users, (\S+) of (\S+) items: (.*)", message)
    return result, tuple(int(n.replace(",", "")) for n in numbers.groups()[:6]), numbers[7]


def test_min_count_counts_once_on_the_input(toy):
    # ann has 4 rows, bob 2, cat 3, dan 1; Alien 3, Brazil 2, Cabaret 2, Dune 2, Eraserhead 1
    kept, counts, reason = counted(min_count, toy, users=3)
    assert kept.index.tolist() == [0, 1, 2, 5, 6, 7, 9] and counts == (3, 10, 2, 4, 1, 5)
    assert reason == "users with fewer than 3 or items with fewer than 1 rows"
    kept, counts, _ = counted(min_count, toy, users=2, items=3)
    assert kept.index.tolist() == [0, 3, 7] and counts == (7, 10, 1, 4, 4, 5)  # ann is left with one row: counted once
    pd.testing.assert_frame_equal(kept, toy.loc[[0, 3, 7]])


def test_k_core_repeats_until_all_have_enough(toy):
    # items >= 2: Eraserhead goes, with it dan; then users >= 3: bob goes; then Dune (1 left) goes
    kept, counts, reason = counted(k_core, toy, (3, 2))
    assert kept.index.tolist() == [0, 1, 2, 5, 6, 7] and counts == (4, 10, 2, 4, 2, 5)
    assert reason == "outside the (3, 2)-core"
    with pytest.raises(ValueError, match=r"no row of 10 is left: outside the \(4, 4\)-core; relax the filter"):
        k_core(toy, 4)


@given(events, st.integers(1, 4), st.integers(1, 4))
def test_k_core_is_the_largest_table_with_enough_rows(df, users, items):
    def sizes(part):
        return part.groupby("user").size(), part.groupby("item").size()

    # oracle: throw out one row at a time while any user or item is below its count
    rest = df
    while len(rest):
        by_user, by_item = sizes(rest)
        bad = (rest["user"].map(by_user) < users) | (rest["item"].map(by_item) < items)
        if not bad.any():
            break
        rest = rest.drop(index=bad.idxmax())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if len(rest) == 0:
            with pytest.raises(ValueError, match="no row of"):
                k_core(df, (users, items))
        else:
            pd.testing.assert_frame_equal(k_core(df, (users, items)), rest)


def test_min_rating(toy):
    kept, counts, reason = counted(min_rating, toy, 4)
    assert kept.index.tolist() == [0, 2, 3, 7] and counts == (6, 10, 1, 4, 3, 5) and reason == "rated below 4"
    reordered = toy[["time", "rating", "title", "user"]]
    same, counts, _ = counted(min_rating, reordered, 4, rating_name="rating", user_name="user", item_name="title")
    assert same.index.tolist() == [0, 2, 3, 7] and counts == (6, 10, 1, 4, 3, 5)


@pytest.mark.parametrize(
    ("ratings", "error", "message"),
    [
        ([np.nan, *range(9)], ValueError, "1 missing"),
        (pd.array([None, *range(9)], dtype="Int64"), ValueError, "1 missing"),
        (list("abcdefghij"), TypeError, "ratings must be numbers"),
    ],
)
def test_min_rating_refuses_what_it_cannot_compare(toy, ratings, error, message):
    with pytest.raises(error, match=message):
        min_rating(toy.assign(rating=ratings), 2)
    with pytest.raises(KeyError, match="stars"):
        min_rating(toy, 2, rating_name="stars")


def test_nullable_ratings_are_compared(toy):
    kept, counts, _ = counted(min_rating, toy.astype({"rating": "Float64"}), 4)
    assert kept.index.tolist() == [0, 2, 3, 7] and counts[0] == 6


@pytest.mark.parametrize("as_ids", [lambda c: c, lambda c: c.astype(str), lambda c: [(n, "x") for n in c]])
def test_sample_users_keeps_whole_users(planted, as_ids):
    planted["user"] = pd.Series(list(as_ids(planted["user"])))
    kept, counts, reason = counted(sample, planted, 0.3, seed=0)
    assert kept["user"].nunique() == 9 and counts[2:4] == (21, 30) and counts[0] == 400 - len(kept)
    assert reason == "users outside the sample of 30%"
    chosen = set(kept["user"])
    pd.testing.assert_frame_equal(kept, planted[[u in chosen for u in planted["user"]]])
    assert kept.equals(counted(sample, planted, 0.3, seed=0)[0])
    assert set(counted(sample, planted, 0.3, seed=1)[0]["user"]) != chosen


def test_sample_users_is_fair_and_bounded(planted):
    times = pd.Series(0, index=planted["user"].unique())
    for seed in range(200):
        times[counted(sample, planted, 0.5, seed=seed)[0]["user"].unique()] += 1
    assert times.sum() == 200 * 15 and times.min() > 65 and times.max() < 135  # binomial(200, .5): sd 7.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sample(planted, 1.0).equals(planted)
    assert counted(sample, planted, 1e-9, seed=0)[0]["user"].nunique() == 1
    for frac in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match=rf"frac must lie in \(0, 1\], got {frac}"):
            sample(planted, frac)


def test_drop_duplicates_keeps_the_last_or_the_first(toy):
    twice = pd.concat([toy, toy.iloc[[0, 3]].assign(rating=0.5), toy.iloc[[0]].assign(rating=1.5)], ignore_index=True)
    kept, counts, reason = counted(drop_duplicates, twice)
    assert kept.index.tolist() == [1, 2, 4, 5, 6, 7, 8, 9, 11, 12] and counts == (3, 13, 0, 4, 0, 5)
    assert reason == "repeat a (user, item) pair"
    assert kept["rating"].tolist()[-2:] == [0.5, 1.5]
    pd.testing.assert_frame_equal(counted(drop_duplicates, twice, keep="first")[0], toy)
    with pytest.raises(ValueError, match="keep must be 'first' or 'last', got False"):
        drop_duplicates(twice, keep=False)


def test_nothing_left_out_is_not_worth_a_word(toy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kept in (min_count(toy), k_core(toy, 1), min_rating(toy, 1), sample(toy, 1.0), drop_duplicates(toy)):
            assert kept.equals(toy)


def test_nothing_left_is_an_error(toy):
    with pytest.raises(ValueError, match="no row of 10 is left: rated below 6; relax the filter"):
        min_rating(toy, 6)
    with pytest.raises(ValueError, match="no row of 10 is left"):
        min_count(toy, users=5)


@pytest.mark.parametrize("name", ["user", "title"])
@pytest.mark.parametrize("filter_", [lambda df: min_count(df, users=2), lambda df: k_core(df, 2)])
def test_missing_ids_are_an_error(toy, name, filter_):
    toy.loc[[2, 5], name] = None
    with pytest.raises(ValueError, match=rf"'{name}' has 2 missing \(NaN\) id\(s\), first at row 2"):
        filter_(toy)


def test_columns_are_found_or_named(toy):
    assert name_columns(toy) == Columns("user", "title")
    assert name_columns(toy, rating_name="rating", item_name="time") == Columns("user", "time", "rating")
    flipped = toy[["title", "user", "rating"]]
    assert counted(min_count, flipped, users=3, user_name="user", item_name="title")[1] == (3, 10, 2, 4, 1, 5)
    with pytest.raises(KeyError, match=r"needs a user and an item column; it has \['user'\]"):
        min_count(toy[["user"]])
    with pytest.raises(KeyError, match="movie"):
        min_count(toy, item_name="movie")
    with pytest.raises(TypeError, match="got dict"):
        min_count({"user": [1]})
    with pytest.raises(ValueError, match="empty"):
        min_count(toy[:0])


def test_the_counts_that_are_said(toy):
    keep = np.array([True, False] * 5)
    users, items = (pd.factorize(toy[name])[0] for name in ("user", "title"))
    # left out: rows 1 3 5 7 9 = ann/Brazil bob/Alien cat/Brazil cat/Alien ann/Dune -> Brazil has no row left
    text = describe_left_out(keep, users, items, "odd")
    assert text == "left out 5 of 10 rows, 0 of 4 users, 1 of 5 items: odd"
    with warnings.catch_warnings():  # nothing left out is not worth a word
        warnings.simplefilter("error")
        assert min_count(toy).equals(toy) and drop_duplicates(toy).equals(toy)


# --- what counts as a positive of implicit feedback -------------------------------------------------------------------

ROWS = pd.DataFrame(
    [("ann", "x", 3.0, 30), ("ann", "y", 0.0, 20), ("ann", "x", 5.0, 10), ("bob", "x", 1.0, 40), ("bob", "x", 2.0, 40)],
    columns=["user", "item", "count", "time"],
)
PLAIN, TIMED = Columns("user", "item"), Columns("user", "item", time="time")
RATED = Columns("user", "item", "count", "time")


def said(columns, threshold=None, df=ROWS):
    """The rows that are left, and what was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept = positive_events(df, columns, threshold)
    assert all(w.category is CollabWarning for w in caught)
    return kept.index.tolist(), [str(w.message) for w in caught]


def test_of_a_repeated_pair_the_first_in_time_stays():
    kept, messages = said(TIMED)
    assert kept == [1, 2, 3]  # ann/x at 10; bob/x twice at 40: the first in the table
    counts = "left out 2 of 5 rows, 0 of 2 users, 0 of 2 items"
    assert messages == [f"{counts}: repeat a (user, item) pair; the first in time is kept"]
    kept, messages = said(PLAIN)
    assert kept == [0, 1, 3] and messages == [f"{counts}: repeat a (user, item) pair; the first in the table is kept"]


def test_the_index_of_the_table_does_not_matter():
    df = ROWS.set_axis([7, 7, 5, 0, 0])
    assert positive_events(df, TIMED)["time"].tolist() == [20, 10, 40]
    assert positive_events(df.iloc[::-1], TIMED)["count"].tolist() == [2.0, 5.0, 0.0]


def test_counts_of_zero_are_left_out_and_values_without_a_threshold_are_said_to_be_ignored():
    kept, messages = said(RATED)
    assert kept == [2, 3]
    assert messages[0] == "left out 1 of 5 rows, 0 of 2 users, 1 of 2 items: count of zero in 'count', no event"
    assert messages[1].startswith("feedback='implicit': every row is a positive, whatever its 'count'; pass rating_thr")
    assert messages[2].startswith("left out 2 of 4 rows, ") and len(messages) == 3


def test_the_threshold_comes_before_the_repeats():
    # the first ann/x in time is rated 5, and bob's first x is below 2
    kept, messages = said(RATED, 2.0)
    assert kept == [2, 4]
    assert messages[0] == "left out 2 of 5 rows, 0 of 2 users, 1 of 2 items: rated below 2, no positive"
    assert messages[1].startswith("left out 1 of 3 rows") and len(messages) == 2
    kept, messages = said(RATED, -5)
    assert kept == [1, 2, 3] and len(messages) == 1
    negative = ROWS.assign(count=[-1.0, 2.0, 3.0, -4.0, 1.0])  # ratings may be negative, if a threshold says so
    assert said(RATED, 0, negative)[0] == [1, 2, 4]


def test_nothing_to_leave_out_is_not_worth_a_word():
    assert said(TIMED, df=ROWS.iloc[[0, 1, 3]]) == ([0, 1, 3], [])


def test_bad_counts_and_thresholds():
    negative = ROWS.assign(count=[1.0, -2.0, 0.0, -1.0, 3.0])
    with pytest.raises(ValueError, match="'count' has 2 negative value.s., first at row 1: a count cannot be negative"):
        positive_events(negative, RATED)
    with pytest.raises(ValueError, match="rating_threshold=4 needs rating_name=, one of the columns .*'count'"):
        positive_events(ROWS, TIMED, 4.0)
    with pytest.raises(ValueError, match="no row of 5 is left: rated below 9, no positive"):
        positive_events(ROWS, RATED, 9)
    with pytest.raises(ValueError, match="no row of 5 is left: count of zero"):
        positive_events(ROWS.assign(count=0), RATED)
    with pytest.raises(ValueError, match="1 missing"):
        positive_events(ROWS.assign(count=[1, 2, np.nan, 4, 5]), RATED, 3)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=25
    ),
    st.none() | st.integers(1, 5),
)
def test_positive_events_against_a_loop(rows, threshold):
    df = pd.DataFrame(rows, columns=["user", "item", "count", "time"])
    first = {}
    for number, (user, item, count, time) in enumerate(rows):
        if count >= (1 if threshold is None else threshold):
            key, place = (user, item), (time, number)
            first[key] = min(first.get(key, place), place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not first:
            with pytest.raises(ValueError, match="no row of"):
                positive_events(df, RATED, threshold)
        else:
            assert positive_events(df, RATED, threshold).index.tolist() == sorted(place[1] for place in first.values())
