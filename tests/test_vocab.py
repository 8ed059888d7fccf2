import datetime
import enum
import uuid

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import TEXT
from hypothesis import given
from hypothesis import strategies as st

from collabkit.data.vocab import UNKNOWN, Vocab, check_ids

UUIDS = [uuid.UUID(int=n) for n in (30, 10, 20)]


class Colour(enum.Enum):  # hashable, without an order
    RED = "r"
    BLUE = "b"


# --- the sequence that fastai's dls.classes is -----------------------------------------------------------------------


def test_sorted_unique_and_unknown_first():
    v = Vocab.from_values([30, 10, 30, 20, 10], "user")
    assert list(v) == ["#na#", 10, 20, 30] and len(v) == 4
    assert [v[i] for i in range(4)] == ["#na#", 10, 20, 30] and v[-1] == 30 and v[-4] == "#na#"
    assert v[1:3] == [10, 20] and v[torch.tensor([3, 0])] == [30, "#na#"] and v[[2, 2]] == [20, 20]
    assert type(v[1]) is int
    for i in (4, -5):
        with pytest.raises(IndexError, match="outside vocabulary 'user' of 4 rows"):
            v[i]


def test_given_order_is_kept():
    assert list(Vocab(["b", "a", "c"])) == ["#na#", "b", "a", "c"]
    assert Vocab(["b", "a", "c"]).encode(["a", "b"]).tolist() == [2, 1]


def test_o2i_is_a_mapping_as_in_fastai():
    v = Vocab(["Alien (1979)", "Brazil"], "title")
    assert v.o2i["Alien (1979)"] == 1 and v.o2i["Brazil"] == 2 and v.o2i[UNKNOWN] == 0
    assert dict(v.o2i) == {"#na#": 0, "Alien (1979)": 1, "Brazil": 2}
    assert len(v.o2i) == 3 and v.o2i.get("Cabaret") is None
    with pytest.raises(KeyError):
        v.o2i["Cabaret"]


def test_contains_equality_and_repr():
    v = Vocab([1, 2, 3, 4], "user")
    assert 2 in v and 7 not in v and "2" not in v and [1] not in v
    assert v == Vocab([1, 2, 3, 4], "other") and v != Vocab([1, 2, 4, 3]) and v != [1, 2, 3, 4]
    assert Vocab([1, 2]) != Vocab(["1", "2"]) and Vocab([1, 2]) != Vocab(np.array([1, 2], dtype=np.int32))
    assert repr(v) == "Vocab('user': 4 ids, 1, 2, 3, ...)"
    with pytest.raises(TypeError, match="unhashable"):
        hash(v)


# --- encode and decode -----------------------------------------------------------------------------------------------


def test_encode_and_decode_by_hand():
    v = Vocab(["x", "y", "z"])
    idx = v.encode(["z", "nope", "x", "z"])
    assert idx.tolist() == [3, 0, 1, 3] and idx.dtype == np.int64
    assert v.decode([3, 1]).tolist() == ["z", "x"]
    assert v.encode([]).tolist() == [] and len(v.decode([])) == 0
    assert v.encode("y").tolist() == [2]  # one string is one id, not three letters
    for bad in ([0, 1], [4], [-1]):
        with pytest.raises(IndexError, match=r"1\.\.3"):
            v.decode(bad)


def test_unknown_ids_raise_on_request():
    v = Vocab([1, 2, 3], "user")
    assert v.encode([3, 1], unknown="raise").tolist() == [3, 1]
    with pytest.raises(KeyError, match=r"2 unknown 'user' id\(s\): 9, 8.*knows 3 \(e.g. 1, 2, 3\)"):
        v.encode([9, 1, 8, 9], unknown="raise")
    with pytest.raises(ValueError, match="'zero' or 'raise', got 'skip'"):
        v.encode([1], unknown="skip")


ids_of_one_type = st.one_of(
    st.lists(st.integers(-(2**40), 2**40), min_size=1),
    st.lists(st.text(max_size=4).filter(lambda s: s != UNKNOWN), min_size=1),
    st.lists(st.uuids(), min_size=1),
    st.lists(st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2100, 1, 1)), min_size=1),
    st.lists(st.tuples(st.integers(0, 9), st.text("ab", max_size=2)), min_size=1),
)


@given(ids_of_one_type)
def test_round_trip_of_any_type(values):
    v = Vocab.from_values(values)
    assert len(v) == 1 + len(set(values))
    idx = v.encode(values)
    assert idx.min() >= 1
    assert v.decode(idx).tolist() == values
    assert v.ids.tolist() == sorted(set(values))
    assert [v[i] for i in idx] == values and [v.o2i[value] for value in values] == idx.tolist()


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (pd.Series([3, 1, 2], dtype="int16"), "int16"),
        (pd.Series([3, 1, 2], dtype="uint64"), "uint64"),
        (pd.Series([3, 1, 2], dtype="Int64"), "int64"),
        (pd.Series([2**63 + 1, 1, 2], dtype="UInt64"), "uint64"),
        (pd.Series([3, 1, 2], dtype=object), "int64"),
        (pd.Series([3.0, 1.0, 2.0]), "float64"),
        (pd.Series(["c", "a", "b"]), TEXT),
        (pd.Series(["c", "a", "b"], dtype=object), TEXT),
        (pd.Series(["c", "a", "b"], dtype="string"), "string"),
        (np.array(["c", "a", "b"]), TEXT),
        (pd.Series(["c", "a", "b"], dtype="category"), TEXT),
        (pd.Series([3, 1, 2], dtype="category"), "int64"),
        (pd.Series(UUIDS), "object"),
        (pd.Series([(2, "b"), (1, "a"), (1, "b")]), "object"),
        (np.array([b"c", b"a", b"b"]), "object"),
        (pd.Series([True, False, True]), "bool"),
        (pd.Series(pd.to_datetime(["2020-03-01", "2020-01-01", "2020-02-01"])), None),
        (pd.Series(pd.to_datetime(["2020-03-01", "2020-01-01", "2020-02-01"]).tz_localize("UTC")), None),
        (pd.Series([datetime.date(2020, 3, 1), datetime.date(2020, 1, 1), datetime.date(2020, 2, 1)]), "object"),
        (torch.tensor([3, 1, 2]), "int64"),
    ],
    ids=lambda value: str(getattr(value, "dtype", value)),
)
def test_every_type_of_id(column, dtype):
    v = Vocab.from_values(column)
    values = list(column.tolist())
    assert dtype is None or v.ids.dtype == dtype
    assert v.ids.tolist() == sorted(set(values))
    assert v.encode(column).tolist() == [1 + sorted(set(values)).index(value) for value in values]
    assert v.encode(values).tolist() == v.encode(column).tolist()  # a list of the same ids, as in recommend([...])
    assert v.encode(values[:1]).tolist() == v.encode(column)[:1].tolist()


def test_categories_that_do_not_occur_are_no_ids():
    column = pd.Series(pd.Categorical(["b", "a", "b"], categories=["z", "b", "a"]))
    assert list(Vocab.from_values(column)) == ["#na#", "a", "b"]
    assert Vocab(["a", "b"]).encode(column).tolist() == [2, 1, 2]


def test_ids_without_an_order_keep_that_of_the_column():
    v = Vocab.from_values([Colour.RED, Colour.BLUE, Colour.RED])
    assert v.ids.tolist() == [Colour.RED, Colour.BLUE] and v.encode([Colour.BLUE]).tolist() == [2]


def test_numbers_match_across_widths():
    v = Vocab.from_values(np.array([1, 2, 3], dtype=np.int32))
    assert v.encode(np.array([3, 9], dtype=np.uint8)).tolist() == [3, 0]
    assert v.encode([2.0, 2.5]).tolist() == [2, 0]
    big = Vocab.from_values([2**53, 2**53 + 1])
    assert big.encode(np.array([2**53 + 1, 2**53], dtype=np.uint64)).tolist() == [2, 1]


# --- what is wrong with ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", [[1.0, np.nan], ["a", None], pd.array([1, None], dtype="Int64"), [pd.NaT, pd.NaT]])
def test_missing_ids(column):
    n = int(pd.isna(pd.Series(column)).sum())
    where = int(np.flatnonzero(pd.isna(pd.Series(column)))[0])
    message = rf"'user' has {n} missing \(NaN\) id\(s\), first at row {where}; drop or fill"
    with pytest.raises(ValueError, match=message):
        Vocab.from_values(column, "user")
    with pytest.raises(ValueError, match=message):
        Vocab([1, 2], "user").encode(column)


@pytest.mark.parametrize(("dtype", "limit"), [(np.float32, 2**24), (np.float64, 2**53)])
@pytest.mark.parametrize("sign", [1, -1])
def test_floats_too_coarse_for_ids(dtype, limit, sign):
    fine = np.array([1, sign * (limit - 1)], dtype=dtype)
    assert len(Vocab.from_values(fine)) == 3
    with pytest.raises(TypeError, match=rf"float\d+ up to {limit}; from {limit:,} on .*Read the column as int64"):
        Vocab.from_values(np.array([1, sign * limit], dtype=dtype))
    with pytest.raises(ValueError, match="infinite"):
        Vocab.from_values(np.array([1, sign * np.inf], dtype=dtype))


@pytest.mark.parametrize(
    ("known", "asked", "types"),
    [
        ([1, 2], ["1", "2"], ("number", "str")),
        (["1", "2"], [1, 2], ("str", "number")),
        (["1"], UUIDS, ("str", "UUID")),
        ([True, False], [1, 0], ("bool", "number")),
        ([1, 0], [True], ("number", "bool")),
        (["a"], np.array([b"a"]), ("str", "bytes")),
        (pd.to_datetime(["2020-01-01"]), ["2020-01-01"], ("timestamp", "str")),
        (pd.to_datetime(["2020-01-01"]), [1577836800], ("timestamp", "number")),
        (pd.to_datetime(["2020-01-01"]), pd.to_datetime(["2020-01-01"]).tz_localize("UTC"), ("timestamp", "with time")),
        ([(1, 2)], [12], ("tuple", "number")),
    ],
)
def test_ids_of_another_type_than_the_vocabulary(known, asked, types):
    with pytest.raises(TypeError, match=rf"'title' ids are of type {types[0]}.*received type .*{types[1]}.*convert"):
        Vocab(known, "title").encode(asked)


def test_mixed_repeated_reserved_and_shapeless_ids():
    with pytest.raises(TypeError, match="'id' mixes ids of types int, str; convert"):
        Vocab.from_values([1, "a"])
    with pytest.raises(TypeError, match="mixes ids of types bool, int"):
        Vocab.from_values(pd.Series([True, 2], dtype=object))
    with pytest.raises(ValueError, match=r"unique ids; in 'id' these occur more than once: \[3, 5\]"):
        Vocab([3, 5, 3, 5, 4])
    with pytest.raises(ValueError, match="has an id '#na#', which is reserved"):
        Vocab.from_values(["a", "#na#"])
    with pytest.raises(ValueError, match=r"one-dimensional, got shape \(2, 2\)"):
        Vocab.from_values(np.arange(4).reshape(2, 2))
    with pytest.raises(TypeError, match="type list, which cannot be looked up"):
        Vocab.from_values(pd.Series([[1], [2]]))


def test_check_ids_takes_a_scalar_or_a_generator():
    assert check_ids(7).tolist() == [7]
    assert check_ids(UUIDS[0]).tolist() == UUIDS[:1]
    assert check_ids(i * i for i in range(3)).tolist() == [0, 1, 4]
