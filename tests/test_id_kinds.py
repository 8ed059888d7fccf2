"""Ids of every type that pandas and Arrow have: kept, accepted back, saved and loaded, or refused in words."""

import datetime
import decimal
import uuid
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers import TEXT, silence

from collabkit import CollabDataLoaders, CollabWarning, Popularity, Recommender, collab_learner

N_USERS, N_ITEMS = 12, 9


def events():
    rng = np.random.default_rng(0)
    pairs = [(u, i) for u in range(N_USERS) for i in range(N_ITEMS) if rng.random() < 0.6 or i == u % N_ITEMS]
    return pd.DataFrame(pairs, columns=["user", "item"]).assign(rating=rng.integers(1, 6, len(pairs)).astype(float))


USERS = events()["user"]


def python(make):
    return pd.Series([make(int(x)) for x in USERS], dtype=object)


def arrow(make, kind):
    return pd.Series([make(int(x)) for x in USERS], dtype=pd.ArrowDtype(kind))


def day(x):
    return datetime.date(2020, 1, 1 + x)


def moments(unit):
    return pd.to_datetime(USERS, unit="D").astype(f"datetime64[{unit}]")


KEPT = {  # come back as they are
    "int64": USERS, "int8": USERS.astype("int8"), "uint64": USERS.astype("uint64"), "float64": USERS.astype(float),
    "float32": USERS.astype("float32"), "str": USERS.astype(str), "string[python]": USERS.astype("string[python]"),
    "string[pyarrow]": USERS.astype("string[pyarrow]"), "bool": USERS % 2 == 0,
    "boolean": (USERS % 2 == 0).astype("boolean"), "seconds": moments("s"), "milliseconds": moments("ms"),
    "nanoseconds": moments("ns"), "time zone": moments("us").dt.tz_localize("Europe/Berlin"),
    "timedelta": pd.to_timedelta(USERS, unit="D"), "period": pd.Series(pd.PeriodIndex.from_ordinals(USERS, freq="D")),
    "uuid": python(lambda x: uuid.UUID(int=x)), "date": python(day), "decimal": python(decimal.Decimal),
    "bytes": python(lambda x: b"%d" % x), "arrow bool": (USERS % 2 == 0).astype("bool[pyarrow]"),
    "arrow double": USERS.astype("double[pyarrow]"), "arrow date32": arrow(day, pa.date32()),
    "arrow decimal": arrow(decimal.Decimal, pa.decimal128(10, 2)),
    "arrow binary": arrow(lambda x: b"%d" % x, pa.binary()),
    "arrow timestamp": arrow(lambda x: pd.Timestamp(day(x)), pa.timestamp("us")),
    "arrow time zone": arrow(lambda x: pd.Timestamp(day(x), tz="UTC"), pa.timestamp("us", "UTC")),
    "arrow duration": arrow(lambda x: pd.Timedelta(x, "D"), pa.duration("us")),
}  # fmt: skip
DICTIONARY = pd.arrays.ArrowExtensionArray(pa.array(USERS.astype(str)).dictionary_encode())
AS_VALUES = {  # become their values' plain type
    "Int64": (USERS.astype("Int64"), "int64"), "arrow int": (USERS.astype("int64[pyarrow]"), "int64"),
    "category": (USERS.astype("category"), "int64"), "object": (USERS.astype(str).astype(object), TEXT),
    "unused category": (pd.Series(pd.Categorical(USERS, categories=range(40))), "int64"),
    "object int": (python(int), "int64"), "object float": (python(lambda x: x + 0.5), "float64"),
    "sparse": (pd.Series(pd.arrays.SparseArray(USERS.to_numpy())), "int64"),
    "arrow dictionary": (pd.Series(DICTIONARY), TEXT),
    "arrow large text": (USERS.astype(str).astype(pd.ArrowDtype(pa.large_string())), TEXT),
}  # fmt: skip
NOT_STORED = {
    "tuple": python(lambda x: (x, x)), "nested tuple": python(lambda x: (x, (x, "a"))),
    "frozenset": python(lambda x: frozenset([x])), "complex": USERS.astype(complex),
    "interval": pd.Series(pd.arrays.IntervalArray.from_arrays(USERS.astype(float), USERS + 1.0)),
}  # fmt: skip
REFUSED = {
    "float16": (USERS.astype("float16"), TypeError, "ids are float16"),
    "surrogate": (python(lambda x: f"\ud800{x}"), ValueError, "not valid text"),
    "list": (python(lambda x: [x]), TypeError, "of type list, which cannot be looked up"),
    "mixed": (python(lambda x: x if x % 2 else str(x)), TypeError, "mixes ids of types int, str"),
    "missing": (USERS.astype(float).where(USERS > 0), ValueError, "missing"),
    "infinite": (USERS.astype(float).where(USERS > 0, np.inf), ValueError, "infinite"),
}


def recommender(ids):
    df = events().assign(user=ids.reset_index(drop=True))
    before = df.copy(deep=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)  # of repeated pairs, where several ids are one
        dls = CollabDataLoaders.from_df(df, user_name="user", item_name="item", rating_name="rating", seed=0)
    assert df.equals(before)
    assert len(dls.train.dataset) + len(dls.valid.dataset) == len(df)
    assert len(dls.classes["user"]) - 1 == len({repr(x) for x in df["user"]})
    return silence(collab_learner(dls, 3, y_range=(0, 6))).recommender, df


def check(rec, df):
    """Own ids are accepted, one by one, as a list and as an Index, and name the rows of lists."""
    ids = rec.users.ids
    for asked in (ids, ids.tolist(), df["user"].drop_duplicates()):
        lists = rec.recommend(asked, 2, filter_seen=False)
        assert lists["user"].dtype == (ids.dtype if asked is ids else lists["user"].dtype)
        assert rec.users.encode(lists["user"].drop_duplicates(), unknown="raise").tolist() == [
            *dict.fromkeys(rec.users.encode(asked))
        ]
    one = rec.recommend(ids[1], 2)  # of two users each may have seen everything
    assert one[["item", "score"]].equals(rec.recommend(ids[[1]], 2)[["item", "score"]])
    assert rec.predict(ids[1], 3) == rec.predict(ids[[1]], 3)[0]
    assert len(rec.similar_users(ids[0], 1)) == 1
    assert rec.train.to_df()["user"].isin(df["user"]).all() or ids.dtype == object


def check_saved(rec, folder):
    again = Recommender.load(rec.save(folder))
    assert again.users == rec.users and again.users.ids.dtype == rec.users.ids.dtype
    assert again.recommend(k=3).equals(rec.recommend(k=3))
    assert again.recommend(rec.users.ids[0], 3).equals(rec.recommend(rec.users.ids[0], 3))


@pytest.mark.parametrize("kind", KEPT)
def test_ids_come_back_as_they_are(kind, tmp_path):
    rec, df = recommender(KEPT[kind])
    assert rec.users.ids.dtype == df["user"].dtype
    check(rec, df)
    check_saved(rec, tmp_path / "model")


@pytest.mark.parametrize("kind", AS_VALUES)
def test_ids_become_their_values(kind, tmp_path):
    ids, dtype = AS_VALUES[kind]
    rec, df = recommender(ids)
    assert rec.users.ids.dtype == dtype
    check(rec, df)
    check_saved(rec, tmp_path / "model")


@pytest.mark.parametrize("kind", NOT_STORED)
def test_ids_that_no_artefact_holds_are_said_before_training(kind, tmp_path):
    df = events().assign(user=NOT_STORED[kind])
    dls = CollabDataLoaders.from_df(df, user_name="user", item_name="item", rating_name="rating", seed=0)
    for train in (lambda: collab_learner(dls, 3), lambda: Popularity().fit(dls)):
        with pytest.warns(CollabWarning, match=r"\(column 'user'\) can be trained on but not stored in an artefact"):
            train()
    rec, df = recommender(NOT_STORED[kind])
    if kind not in ("complex", "interval"):
        check(rec, df)
    with pytest.raises(TypeError, match="cannot be stored; train on"):
        rec.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", REFUSED)
def test_ids_that_cannot_be_told_apart_are_refused(kind):
    ids, error, told = REFUSED[kind]
    with pytest.raises(error, match=told):
        recommender(ids)


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("int64", "1"), ("int64", True), ("str", 1), ("bool", 1), ("arrow date32", "2020-01-01"), ("decimal", 1.0),
        ("date", pd.Timestamp(0)), ("arrow decimal", 1), ("seconds", 3), ("time zone", pd.Timestamp("2020-01-01")),
        ("uuid", "x"), ("timedelta", 1), ("bytes", "1"), ("arrow bool", 1),
    ],
)  # fmt: skip
def test_ids_of_another_type_are_refused_in_words(kind, other):
    rec, _ = recommender(KEPT[kind])
    for asked in (other, [other]):
        with pytest.raises(TypeError, match="ids are of type"):
            rec.recommend(asked, 2)


@pytest.mark.parametrize("kind", ["int64", "str", "date", "arrow date32", "arrow decimal", "uuid"])
def test_unknown_ids_of_the_right_type_are_unknown(kind):
    rec, _ = recommender(KEPT[kind])
    new = {"int64": 10**6, "str": "nobody", "date": day(29), "arrow date32": day(29)}
    new |= {"arrow decimal": decimal.Decimal(77), "uuid": uuid.UUID(int=777)}
    with pytest.raises(KeyError, match="1 unknown 'user' id"):
        rec.recommend(new[kind], 2)
    assert len(rec.recommend([new[kind]], 2, unknown="default")) == 2
