import io
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import TEXT

from collabkit.data.interactions import Columns, Interactions
from collabkit.data.notices import CollabWarning
from collabkit.data.vocab import Vocab

COLUMNS = Columns("user", "title", "rating", "time")


@pytest.fixture
def data(toy):
    return Interactions.from_df(toy, COLUMNS)


# --- encoding --------------------------------------------------------------------------------------------------------


def test_encoded_by_hand(data):
    assert list(data.users) == ["#na#", "ann", "bob", "cat", "dan"]
    assert list(data.items) == ["#na#", "Alien", "Brazil", "Cabaret", "Dune", "Eraserhead"]
    assert data.user_idx.tolist() == [1, 1, 1, 2, 2, 3, 3, 3, 4, 1]
    assert data.item_idx.tolist() == [1, 2, 3, 1, 4, 2, 3, 1, 5, 4]
    assert data.rating.tolist() == [5, 3, 4, 4, 2, 1, 2, 5, 3, 1]
    assert data.time.tolist() == [10, 30, 20, 40, 50, 70, 60, 80, 90, 5]
    dtypes = [column.dtype for column in (data.user_idx, data.item_idx, data.rating, data.time)]
    assert dtypes == [torch.int64, torch.int64, torch.float32, torch.int64]
    assert (len(data), data.n_users, data.n_items, data.n_duplicates()) == (10, 5, 6, 0)
    assert repr(data) == "Interactions: 10 rows, 4 users, 5 items, density 50.0%, rating 1 to 5 (mean 3.000)"


def test_round_trip_of_the_table(toy, data):
    back = data.to_df()
    pd.testing.assert_frame_equal(back, toy, check_dtype=False)
    pairs = Interactions.from_df(toy[["title", "user"]], Columns("user", "title"))
    assert pairs.rating is None and pairs.time is None
    pd.testing.assert_frame_equal(pairs.to_df(), toy[["user", "title"]])


def test_the_table_is_left_as_it_was(toy):
    before = toy.copy()
    Interactions.from_df(toy, COLUMNS).rating.zero_()
    pd.testing.assert_frame_equal(toy, before)


def test_a_strange_index_and_order_of_columns_change_nothing(toy, data):
    other = toy.set_axis([5] * 10)[["time", "rating", "title", "user"]]
    same = Interactions.from_df(other, COLUMNS)
    assert same.data_hash() == data.data_hash()


def test_take_positions_or_a_mask(toy, data):
    part = data.take([8, 0])
    assert part.user_idx.tolist() == [4, 1] and part.rating.tolist() == [3, 5] and part.time.tolist() == [90, 10]
    assert part.users is data.users and part.n_items == 6
    mask = (toy["user"] == "bob").to_numpy()
    assert data.take(mask).item_idx.tolist() == [1, 4]
    assert len(data.take([])) == 0 and "0 rows, 0 users" in repr(data.take([]))


def test_data_hash_depends_on_every_column(data):
    hashes = {data.data_hash()}
    for name in ("user_idx", "item_idx", "rating", "time"):
        changed = data.take(range(10))
        getattr(changed, name)[3] += 1
        hashes.add(changed.data_hash())
    assert len(hashes) == 5 and data.take(range(10)).data_hash() in hashes


def test_duplicates_are_counted(toy):
    twice = pd.concat([toy, toy.iloc[:3], toy.iloc[:1]])
    assert Interactions.from_df(twice, COLUMNS).n_duplicates() == 4


def test_one_row():
    one = Interactions.from_df(pd.DataFrame({"u": [3], "i": ["x"], "r": [2]}), Columns("u", "i", "r"))
    assert (len(one), one.n_users, one.n_items) == (1, 2, 2)
    assert repr(one) == "Interactions: 1 rows, 1 users, 1 items, density 100.0%, rating 2 to 2 (mean 2.000)"


# --- vocabularies from elsewhere -------------------------------------------------------------------------------------


def test_unknown_ids_are_counted_and_become_zero(toy, data):
    new = pd.DataFrame({"user": ["ann", "eve", "eve"], "title": ["Fargo", "Fargo", "Alien"], "rating": [1, 2, 3]})
    columns = Columns("user", "title", "rating")
    with pytest.warns(CollabWarning) as caught:
        encoded = Interactions.from_df(new, columns, users=data.users, items=data.items)
    assert [str(w.message).split(";")[0] for w in caught] == [
        "2 of 3 rows have 'user' ids that the model does not know",
        "2 of 3 rows have 'title' ids that the model does not know",
    ]
    assert encoded.user_idx.tolist() == [1, 0, 0] and encoded.item_idx.tolist() == [0, 0, 1]
    assert encoded.to_df()["user"].tolist() == ["ann", "#na#", "#na#"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Interactions.from_df(toy, COLUMNS, users=data.users, items=data.items)


def test_ids_of_another_type_than_in_training(data):
    numbered = pd.DataFrame({"user": [1, 2], "title": ["Alien", "Brazil"]})
    with pytest.raises(TypeError, match="'user' ids are of type str.*received type number"):
        Interactions.from_df(numbered, Columns("user", "title"), users=data.users, items=data.items)
    lettered = pd.DataFrame({"user": ["1"], "title": ["Alien"]})
    with pytest.raises(TypeError, match="'user' ids are of type number.*received type str"):
        Interactions.from_df(lettered, Columns("user", "title"), users=Vocab([1, 2], "user"), items=data.items)


# --- what is wrong with a table --------------------------------------------------------------------------------------


def test_tables_of_the_wrong_form(toy):
    with pytest.raises(TypeError, match="expected a pandas DataFrame of interactions, got list"):
        Interactions.from_df([(1, 2, 3)], COLUMNS)
    with pytest.raises(KeyError, match=r"column\(s\) \['movie', 'when'\] not found; the table has \['user', 'title'"):
        Interactions.from_df(toy, Columns("user", "movie", "rating", "when"))
    with pytest.raises(ValueError, match="must be different columns"):
        Interactions.from_df(toy, Columns("user", "user", "rating"))
    with pytest.raises(ValueError, match=r"\['title'\] occur more than once"):
        Interactions.from_df(toy.rename(columns={"time": "title"}), Columns("user", "title"))
    with pytest.raises(ValueError, match=r"empty \(0 rows"):
        Interactions.from_df(toy[:0], COLUMNS)


@pytest.mark.parametrize("name", ["user", "title"])
def test_missing_ids_are_named_with_their_row(toy, name):
    toy.loc[[4, 6], name] = None
    with pytest.raises(ValueError, match=rf"'{name}' has 2 missing \(NaN\) id\(s\), first at row 4"):
        Interactions.from_df(toy, COLUMNS)


@pytest.mark.parametrize("name", ["user", "title"])
def test_float_ids_that_merge(toy, name):
    toy[name] = np.arange(2**24, 2**24 + 10, dtype=np.float32)
    assert toy[name].nunique() < 10  # float32 has already merged some
    with pytest.raises(TypeError, match=f"'{name}' ids are float32 up to"):
        Interactions.from_df(toy, COLUMNS)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.nan, ValueError, r"column 'rating' has 2 missing \(NaN\) rating\(s\), first at row 3"),
        (np.inf, ValueError, r"column 'rating' has 2 infinite rating\(s\), first at row 3"),
        (-np.inf, ValueError, "2 infinite"),
        (1e39, ValueError, "2 infinite"),  # beyond float32
    ],
)
def test_ratings_that_are_no_numbers(toy, value, error, message):
    toy.loc[[3, 8], "rating"] = value
    with pytest.raises(error, match=message):
        Interactions.from_df(toy, COLUMNS)


@pytest.mark.parametrize(
    ("ratings", "dtype"),
    [
        ([str(n) for n in range(10)], str(TEXT)),
        (pd.Series([str(n) for n in range(10)], dtype=object), "object"),
        (pd.Categorical(range(10)), "category"),
    ],
)
def test_ratings_of_the_wrong_type(toy, ratings, dtype):
    toy["rating"] = ratings
    with pytest.raises(TypeError, match=rf"ratings must be numbers; column 'rating' is {dtype}.*pd.to_numeric") as told:
        Interactions.from_df(toy, COLUMNS)
    assert "e.g. np." not in str(told.value)
    toy["rating"] = pd.to_numeric(toy["rating"])  # what the message says works
    assert Interactions.from_df(toy, COLUMNS).rating.tolist() == list(range(10))


@pytest.mark.parametrize(
    ("ratings", "advice"),
    [
        ([True, False] * 5, r"df\['rating'\].astype\(int\), or .* feedback='implicit'"),
        (pd.Series([True, None] * 5, dtype=object), r"df\['rating'\].astype\(int\)"),
        (["3,5", "4"] * 5, r"'3,5' has a decimal comma. .*decimal=','"),
        (["4", "good"] * 5, "5 of 10 values are no numbers: 'good' in row 1 first"),
        (["4", None, "good"] + ["1"] * 7, "1 of 9 values are no numbers: 'good' in row 2 first"),
        (["3,5", "good"] * 5, "10 of 10 values are no numbers: '3,5' in row 0 first"),
        (pd.Series([None] * 10, dtype=object), "all values are missing"),
        (np.arange(10) * 1j, "complex128"),
        (pd.date_range("2020", periods=10), "datetime64"),
    ],
)
def test_ratings_that_to_numeric_does_not_convert(toy, ratings, advice):
    toy["rating"] = ratings
    with pytest.raises(TypeError, match=advice) as told:
        Interactions.from_df(toy, COLUMNS)
    assert "to_numeric" not in str(told.value)


def test_decimal_commas_as_the_message_says(toy):
    toy["rating"] = ["3,5", "4"] * 5
    read = pd.read_csv(io.StringIO(toy.to_csv(index=False, sep=";")), sep=";", decimal=",")
    assert Interactions.from_df(read, COLUMNS).rating.tolist() == [3.5, 4.0] * 5
    toy["rating"] = toy["rating"].str.replace(",", ".").astype(float)
    assert Interactions.from_df(toy, COLUMNS).rating.tolist() == [3.5, 4.0] * 5


@pytest.mark.parametrize("dtype", ["int8", "uint16", "float16", "float64", "Int64", "Float32"])
def test_ratings_of_any_number_type(toy, data, dtype):
    same = Interactions.from_df(toy.astype({"rating": dtype}), COLUMNS)
    assert same.rating.dtype == torch.float32 and torch.equal(same.rating, data.rating)


def test_missing_nullable_ratings(toy):
    toy["rating"] = pd.array([None, *range(9)], dtype="Int64")
    with pytest.raises(ValueError, match="1 missing .*first at row 0"):
        Interactions.from_df(toy, COLUMNS)


def test_times_of_every_kind(toy):
    stamps = pd.to_datetime(toy["time"], unit="s")
    for times, expected in (
        (stamps, [10_000_000_000, 30_000_000_000]),
        (stamps.dt.as_unit("s"), [10_000_000_000, 30_000_000_000]),
        (stamps.dt.tz_localize("UTC"), [10_000_000_000, 30_000_000_000]),
        (toy["time"].astype("Int64"), [10, 30]),
        (toy["time"].astype("float32"), [10, 30]),
    ):
        encoded = Interactions.from_df(toy.assign(time=times), COLUMNS)
        assert encoded.time[:2].tolist() == expected and encoded.time.dtype == torch.int64


@pytest.mark.parametrize(
    ("times", "error", "message"),
    [
        ([str(n) for n in range(10)], TypeError, f"times must be timestamps or numbers; column 'time' is {TEXT}"),
        ([True] * 10, TypeError, "column 'time' is bool"),
        ([None, *range(9)], ValueError, r"column 'time' has 1 missing time\(s\)"),
        (pd.to_datetime([None, None, *["2020-01-01"] * 8]), ValueError, "has 2 missing"),
        ([np.inf, *range(9)], ValueError, "holds infinite times"),
        ([np.inf, 0.5, *range(8)], ValueError, "holds infinite times"),
    ],
)
def test_times_that_are_none(toy, times, error, message):
    with pytest.raises(error, match=message):
        Interactions.from_df(toy.assign(time=times), COLUMNS)


def test_concat_and_sorted_by_user(toy):
    data = Interactions.from_df(toy, Columns("user", "title", "rating", "time"))
    first, second = data.take([0, 3, 5]), data.take([4, 1])
    both = Interactions.concat(first, second)
    assert both.to_df().equals(data.take([0, 3, 5, 4, 1]).to_df()) and both.users is data.users
    assert Interactions.concat(first, replace(second, rating=None)).rating is None
    assert Interactions.concat(first, replace(second, rating=None)).time.tolist() == both.time.tolist()
    by_user = data.sorted_by_user()
    assert by_user.to_df()["user"].tolist() == ["ann"] * 4 + ["bob"] * 2 + ["cat"] * 3 + ["dan"]
    assert by_user.time.tolist() == [5, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert by_user.rating.tolist() == [1.0, 5.0, 4.0, 3.0, 4.0, 2.0, 2.0, 1.0, 5.0, 3.0]
    untimed = replace(data, time=None).sorted_by_user()
    assert untimed.rating.tolist() == [5.0, 3.0, 4.0, 1.0, 4.0, 2.0, 1.0, 2.0, 5.0, 3.0]  # in the order they had
    tied = replace(data, time=torch.zeros(10, dtype=torch.int64)).sorted_by_user()
    assert tied.rating.tolist() == untimed.rating.tolist() and by_user.sorted_by_user() is by_user
