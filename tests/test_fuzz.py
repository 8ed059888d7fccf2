"""Tables of all types that pandas and Arrow have, against an oracle: nothing is lost, merged or changed in silence.

`pytest tests/test_fuzz.py --rounds 5000` makes so many tables rather than a few.
"""

import datetime
import decimal
import shutil
import tempfile
import traceback
import uuid
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers import silence
from hypothesis import given, settings
from hypothesis import strategies as st

from collabkit import CollabDataLoaders, CollabWarning, Recommender, collab_learner

ARROW = pd.ArrowDtype
DAY = datetime.date(2000, 1, 1)


def arrow(make, kind):
    return lambda codes: pd.Series([make(int(c)) for c in codes], dtype=ARROW(kind))


def encoded(codes):
    return pd.arrays.ArrowExtensionArray(pa.array([f"t{x}" for x in codes]).dictionary_encode())


def python(make):
    return lambda codes: pd.Series([make(int(c)) for c in codes], dtype=object)


def cast(dtype, text=False):
    return lambda codes: pd.Series(codes).astype(str if text else "int64").astype(dtype)


IDS = {  # from codes to ids
    **{name: cast(name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")},
    **{name: cast(name) for name in ("float32", "float64", "Int64", "UInt16", "Float64", "category", "complex128")},
    **{name: cast(name) for name in ("int32[pyarrow]", "uint64[pyarrow]", "float[pyarrow]", "double[pyarrow]")},
    **{name: cast(name, text=True) for name in ("str", "object", "string[python]", "string[pyarrow]")},
    "large text": cast(ARROW(pa.large_string()), text=True), "texts in categories": cast("category", text=True),
    "float16": cast("float16"), "huge": lambda c: pd.Series(c).astype("int64") + 2**62,
    "negative": lambda c: -pd.Series(c), "halves": lambda c: pd.Series(c) / 2,
    "large floats": lambda c: pd.Series(c) + 2.0**53,
    "bool": lambda c: pd.Series(c) % 2 == 0, "boolean": lambda c: (pd.Series(c) % 2 == 0).astype("boolean"),
    "seconds": lambda c: pd.to_datetime(pd.Series(c), unit="D").astype("datetime64[s]"),
    "nanoseconds": lambda c: pd.to_datetime(pd.Series(c), unit="D").astype("datetime64[ns]"),
    "zone": lambda c: pd.to_datetime(pd.Series(c), unit="D").dt.tz_localize("Asia/Tokyo"),
    "timedelta": lambda c: pd.to_timedelta(pd.Series(c), unit="h"),
    "period": lambda c: pd.Series(pd.PeriodIndex.from_ordinals(np.asarray(c), freq="M")),
    "interval": lambda c: pd.Series(pd.arrays.IntervalArray.from_arrays(pd.Series(c) * 1.0, pd.Series(c) + 1.0)),
    "sparse": lambda c: pd.Series(pd.arrays.SparseArray(np.asarray(c))),
    "uuid": python(lambda x: uuid.UUID(int=x)), "date": python(lambda x: DAY + datetime.timedelta(x)),
    "decimal": python(lambda x: decimal.Decimal(x) / 8), "bytes": python(lambda x: b"%d" % x),
    "tuple": python(lambda x: (x, "a")), "nested": python(lambda x: (x, (x,))), "list": python(lambda x: [x]),
    "set": python(lambda x: frozenset([x])), "object int": python(int),
    "mixed": python(lambda x: x if x % 2 else str(x)),
    "unicode": python(lambda x: f"ü{x}\n\t'\"\\"), "surrogate": python(lambda x: f"\ud800{x}"),
    "dict": python(lambda x: {x: 1}), "arrow binary": arrow(lambda x: b"%d" % x, pa.binary()),
    "arrow date": arrow(lambda x: DAY + datetime.timedelta(x), pa.date32()),
    "arrow decimal": arrow(lambda x: decimal.Decimal(x) / 4, pa.decimal128(12, 3)),
    "arrow duration": arrow(lambda x: datetime.timedelta(hours=x), pa.duration("ms")),
    "arrow zone": arrow(lambda x: pd.Timestamp(DAY, tz="UTC") + pd.Timedelta(x, "D"), pa.timestamp("us", "UTC")),
    "arrow time": arrow(lambda x: datetime.time(x % 24, x % 60), pa.time64("us")),
    "arrow list": arrow(lambda x: [x], pa.list_(pa.int64())),
    "arrow dictionary": lambda c: pd.Series(encoded(c)),
}  # fmt: skip
RATINGS = {
    **{name: cast(name) for name in ("int8", "int64", "float32", "float64", "Int64", "Float32", "double[pyarrow]")},
    "bool": cast("bool"),
    "texts": cast("str", text=True), "decimal": python(decimal.Decimal), "big": lambda c: pd.Series(c) + 2.0**25,
    "objects": python(float), "complex": cast("complex128"), "halves": lambda c: pd.Series(c) / 2,
    "category": cast("category"),
}  # fmt: skip
TIMES = {
    **{name: IDS[name] for name in ("int64", "float64", "Int64", "seconds", "nanoseconds", "zone", "arrow date")},
    **{name: IDS[name] for name in ("arrow zone", "date", "str", "timedelta", "period", "halves", "huge", "decimal")},
    "far": lambda c: pd.Series((c * 365 * 200).astype("datetime64[D]").astype("datetime64[s]")),
}  # fmt: skip
GAPS = (None, float("nan"), pd.NA, pd.NaT)
REFUSALS = (ValueError, TypeError, KeyError)


def clear(error):
    """Whether an error is one of the library's own: raised in it, of a kind that callers expect, with words."""
    where = traceback.extract_tb(error.__traceback__)[-1].filename
    return isinstance(error, REFUSALS) and "collabkit" in where and len(str(error)) > 20


def key(value):
    """What tells one id from another, whatever type holds it."""
    value = (
        value.item()
        if isinstance(value, np.generic) and not isinstance(value, (np.datetime64, np.timedelta64))
        else value
    )
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, float)):
        return float(value) if float(value) == value else value
    return value


def table(draw_seed, kinds, n, gap):
    rng = np.random.default_rng(draw_seed)
    columns = {}
    for name, (makers, kind, most) in kinds.items():
        columns[name] = makers[kind](rng.integers(0, most, n)).reset_index(drop=True)
    df = pd.DataFrame(columns)
    if gap is not None:
        name, value = gap
        if name in df:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                df[name] = df[name].astype(object).where(np.arange(n) != n // 2, GAPS[value])
    return df


@st.composite
def tables(draw):
    kinds = {"user": (IDS, draw(st.sampled_from(sorted(IDS))), draw(st.integers(2, 9)))}
    kinds["item"] = (IDS, draw(st.sampled_from(sorted(IDS))), draw(st.integers(2, 9)))
    if draw(st.booleans()):
        kinds["rating"] = (RATINGS, draw(st.sampled_from(sorted(RATINGS))), 5)
    if draw(st.booleans()):
        kinds["time"] = (TIMES, draw(st.sampled_from(sorted(TIMES))), 30)
    gap = draw(st.none() | st.none() | st.tuples(st.sampled_from(sorted(kinds)), st.integers(0, len(GAPS) - 1)))
    return table(draw(st.integers(0, 2**32)), kinds, draw(st.integers(8, 40)), gap)


def check(df):
    before = {name: (column.dtype, [repr(value) for value in column]) for name, column in df.items()}
    names = {f"{name}_name": name for name in df.columns}
    feedback = {} if "rating" in df else {"feedback": "implicit"}
    said = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CollabWarning)
            dls = CollabDataLoaders.from_df(df, **names, **feedback, seed=0, bs=8)
        said = [str(warning.message) for warning in caught]
    except Exception as error:
        assert clear(error), f"{type(error).__name__}: {error}"
        return
    finally:
        assert before == {name: (column.dtype, [repr(value) for value in column]) for name, column in df.items()}
    assert not df.isna().any().any(), "a gap was taken for a value"
    parts = [dls.train.dataset, dls.valid.dataset]
    pairs = Counter()
    for part in parts:
        users, items = (part.vocab(side).ids[part.indices(side).numpy() - 1] for side in ("user", "item"))
        pairs.update((key(u), key(i)) for u, i in zip(users, items, strict=True))
    given_pairs = Counter((key(u), key(i)) for u, i in zip(df["user"], df["item"], strict=True))
    if feedback:  # of a repeated pair the first stays, counted
        assert set(pairs) == set(given_pairs) and max(pairs.values()) == 1
        lost = len(df) - sum(pairs.values())
        assert not lost or any(f"left out {lost:,} of {len(df):,} rows" in text for text in said)
    else:
        assert pairs == given_pairs
        ratings = np.sort(np.concatenate([part.rating.numpy() for part in parts]))
        exact = np.sort(df["rating"].to_numpy(dtype=np.float64))
        rounded = ratings.astype(np.float64) != exact
        assert not rounded.any() or any("rounded to float32" in text for text in said)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CollabWarning)
        rec = silence(collab_learner(dls, 2)).recommender
    said += [str(warning.message) for warning in caught]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        for side, vocab in (("user", rec.users), ("item", rec.items)):
            ids = vocab.ids
            for asked in (ids, ids.tolist(), df[side].drop_duplicates()):
                assert (vocab.encode(asked, unknown="raise") > 0).all(), side
            assert vocab.encode([ids[0]], unknown="raise").tolist() == [1]
        lists = rec.recommend(rec.users.ids[0], 2, filter_seen=False)
        assert len(lists) == min(2, len(rec.items) - 1)
        folder = tempfile.mkdtemp()
        try:
            rec.save(f"{folder}/model")
            again = Recommender.load(f"{folder}/model")
            assert again.users == rec.users and again.items == rec.items
            assert again.users.ids.dtype == rec.users.ids.dtype and again.items.ids.dtype == rec.items.ids.dtype
            assert again.recommend(k=2).equals(rec.recommend(k=2))
            assert again.recommend(again.users.ids[0], 2).equals(rec.recommend(rec.users.ids[0], 2))
        except TypeError as error:
            assert clear(error) and "cannot be stored" in str(error)
            assert any("not stored in an artefact" in text for text in said)
        finally:
            shutil.rmtree(folder)


def test_tables_of_all_types(request):
    rounds = request.config.getoption("--rounds")

    @settings(max_examples=rounds, derandomize=rounds < 1000, print_blob=True)
    @given(tables())
    def run(df):
        check(df)

    run()


FEATURES = IDS | {
    "lists": python(lambda x: [f"g{x % 3}", f"g{x % 2}"]), "bars": python(lambda x: f"g{x % 3}|h{x % 2}"),
    "vectors": python(lambda x: np.array([x, 1.0])), "constant": lambda c: pd.Series(np.zeros(len(c))),
    "infinite": lambda c: pd.Series(c) / 0.0, "ISO": python(lambda x: str(DAY + datetime.timedelta(x))),
}  # fmt: skip


@st.composite
def featured(draw):
    """The plan of ratings, of a table of items with one feature, and of such a table of items to come."""
    user, item = (draw(st.sampled_from(sorted(IDS))) for _ in range(2))
    return draw(st.integers(0, 2**32)), user, item, draw(st.sampled_from(sorted(FEATURES))), draw(st.integers(0, 4))


def items_of(item, feature, codes, gap):
    table = pd.DataFrame({"item": IDS[item](codes), "f": FEATURES[feature](codes)})
    if gap < len(GAPS):
        table["f"] = table["f"].astype(object).where(np.arange(len(codes)) != 1, GAPS[gap])
    return table


def untouched(tables):
    return [[(column.dtype, [repr(value) for value in column]) for _, column in table.items()] for table in tables]


def attempt(ask):
    """What `ask` gives, or None where it was refused in clear words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ask()
        except Exception as error:
            assert clear(error), f"{type(error).__name__}: {error}"
            return None


def check_features(seed, user, item, feature, gap):
    """Features, histories, evaluation tables and items to come: taken as they are, or refused in clear words."""
    kinds = {"user": (IDS, user, 6), "item": (IDS, item, 6), "rating": (RATINGS, "int64", 5)}
    ratings = table(seed, kinds, 30, None)
    known, coming = (items_of(item, feature, codes, gap) for codes in (np.arange(6), np.arange(20, 26)))
    before = untouched([ratings, known, coming])
    names = {"user_name": "user", "item_name": "item", "rating_name": "rating", "seed": 0, "bs": 8}
    dls = attempt(lambda: CollabDataLoaders.from_df(ratings, items=known, **names))
    if dls is not None:
        rec = attempt(lambda: silence(collab_learner(dls, 2))).recommender
        asked = known["item"].tolist()[:2]
        lists = attempt(
            lambda: rec.recommend(history=pd.DataFrame({"item": known["item"][:2], "rating": [1.0, 4.0]}), k=2)
        )
        if lists is not None:
            assert not {key(i) for i in lists["item"]} & {key(i) for i in asked}
        attempt(lambda: rec.evaluate(ratings.head(9)))
        both = attempt(lambda: rec.add_items(coming))
        if both is not None:
            assert (both.items.encode(coming["item"], unknown="raise") > 0).all()
            rec = both
        with tempfile.TemporaryDirectory() as folder:
            if attempt(lambda: rec.save(f"{folder}/model")) is not None:
                again = Recommender.load(f"{folder}/model")
                users = rec.users.ids[:2]
                assert again.recommend(users, 2).equals(rec.recommend(users, 2))
    assert before == untouched([ratings, known, coming])


def test_features_histories_and_items_to_come(request):
    rounds = request.config.getoption("--rounds")

    @settings(max_examples=rounds, derandomize=rounds < 1000, print_blob=True)
    @given(featured())
    def run(plan):
        check_features(*plan)

    run()


@pytest.mark.parametrize("feature", FEATURES)
def test_every_type_of_feature_alone(feature):
    check_features(0, "int64", "str", feature, len(GAPS))


def test_every_type_of_id_alone():
    for kind in IDS:
        kinds = {"user": (IDS, kind, 6), "item": (IDS, "str", 6), "rating": (RATINGS, "int64", 5)}
        check(table(1, kinds, 30, None))
