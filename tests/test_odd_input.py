"""Arguments and tables that are odd: told in words, or treated as what they are."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from helpers import make_dls, make_learner, silence, synthetic, trained

from collabkit import CollabDataLoaders, CollabInterpretation, collab_learner, splits
from collabkit.data.notices import near_match
from collabkit.evaluate import audit

NO_NUMBERS = [None, float("nan"), "3", 2.5, True, 0, -1, [], "x"]


@pytest.mark.parametrize("bad", NO_NUMBERS)
def test_sizes_that_are_no_whole_numbers(bad):
    learn = trained()
    with pytest.raises(ValueError, match="k must be"):
        learn.recommend(1, k=bad)
    with pytest.raises(ValueError, match="k must be"):
        learn.recommender.default_list(k=bad)
    with pytest.raises(ValueError, match="k must be"):
        learn.similar_items(learn.dls.classes["title"][1], k=bad)
    with pytest.raises(ValueError, match="k must be"):
        learn.evaluate(k=bad, n_boot=5)
    if bad is not None:  # the size that suits the data
        with pytest.raises(ValueError, match="bs must be a whole number of at least 1, got"):
            make_dls(bs=bad)


def test_a_k_beyond_any_list_costs_no_memory():
    learn = trained()
    few, many = learn.evaluate(k=150, n_boot=5), learn.evaluate(k=10**9, n_boot=5)
    for name in ("HitRate", "Recall", "NDCG", "MAP", "MRR"):
        assert many.loc[f"{name}@1000000000", "value"] == few.loc[f"{name}@150", "value"]
    assert len(learn.recommend(1, k=10**9)) == len(learn.recommend(1, k=150))
    table = audit(learn.dls.train.dataset, learn.dls.valid.dataset, k=10**9)
    assert table.loc["chance level of Recall@1000000000", "value"] == pytest.approx(1)
    with pytest.raises(ValueError, match="is too large"):
        learn.evaluate(k=1e30)


@pytest.mark.parametrize("bad", [2**64, -(2**63) - 1])
def test_seeds_beyond_64_bits(bad):
    for ask in (lambda: make_dls(seed=bad), lambda: splits.random_split(seed=bad)(synthetic().ratings)):
        with pytest.raises(ValueError, match="seed must be a whole number of 64 bits"):
            ask()


def test_metrics_that_are_not_there_are_refused():
    for bad in ("NDGC", ["NDGC@10"], ["NDCG", "rsme"]):
        with pytest.raises(ValueError, match="unknown metric"):
            make_learner("dot", metrics=bad)


# --- times ------------------------------------------------------------------------------------------------------------


def with_times(times):
    df = synthetic().ratings[["user", "title", "rating"]]
    values = pd.Series(times, index=df.index) if not isinstance(times, pd.Series) else times.set_axis(df.index)
    return CollabDataLoaders.from_df(df.assign(when=values), time_name="when", splitter=splits.time_split(), seed=0)


def test_days_of_arrow_are_times():
    n = len(synthetic().ratings)
    days = pd.Series([datetime.date(2020, 1, 1 + j % 28) for j in range(n)], dtype=pd.ArrowDtype(pa.date32()))
    stamps = pd.to_datetime(days.astype(object))
    ours, theirs = with_times(days).train.dataset.time, with_times(stamps).train.dataset.time
    assert torch.equal(ours, theirs)


def test_times_outside_of_what_can_be_kept():
    with pytest.raises(ValueError, match="times outside the years 1677 to 2262"):
        with_times(np.full(len(synthetic().ratings), "9999-01-01", dtype="datetime64[s]"))


# --- columns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [[True, False, "r"], [("a", "user"), ("a", "item"), ("a", "rating")]])
def test_column_names_that_are_no_names(names):
    df = synthetic().ratings[["user", "title", "rating"]].set_axis(pd.Index(names, tupleize_cols=False), axis=1)
    with pytest.raises(TypeError, match="column names must be texts or whole numbers"):
        CollabDataLoaders.from_df(df)


N = 150
DAYS = [datetime.date(1970, 1, 1) + datetime.timedelta(x) for x in range(N)]
NUMERIC = {  # feature columns, and what they stand for
    "Decimal": ([decimal.Decimal(x) / 4 for x in range(N)], np.arange(N) / 4),
    "timedelta": (pd.to_timedelta(np.arange(N), unit="D"), np.arange(N)),
    "Python timedelta": ([datetime.timedelta(days=x) for x in range(N)], np.arange(N)),
    "Arrow duration": (
        pd.Series(pd.to_timedelta(np.arange(N), unit="D"), dtype=pd.ArrowDtype(pa.duration("us"))), np.arange(N)
    ),
    "date": (DAYS, np.arange(N) / 365.25),
    "ISO day": ([str(day) for day in DAYS], np.arange(N) / 365.25),
    "ISO moment": ([f"1970-01-01T00:{x % 60:02d}:00Z" for x in range(N)], np.arange(N) % 60 / 60 / 24 / 365.25),
    "period": (pd.PeriodIndex.from_ordinals(np.arange(N), freq="D"), np.arange(N) / 365.25),
    "Arrow date": (pd.Series(DAYS, dtype=pd.ArrowDtype(pa.date32())), np.arange(N) / 365.25),
    "Arrow decimal": (
        pd.Series([decimal.Decimal(x) for x in range(N)], dtype=pd.ArrowDtype(pa.decimal128(8, 2))), np.arange(N)
    ),
}  # fmt: skip


def features_of(values, **kwargs):
    items = synthetic().items[["title"]].head(N).assign(f=pd.Series(values, index=range(N)))
    return make_dls(items=items, **kwargs).features.items


@pytest.mark.parametrize("kind", NUMERIC)
@pytest.mark.parametrize("missing", [False, True])
def test_numbers_of_every_kind_are_numeric_features(kind, missing):
    values, numbers = NUMERIC[kind]
    values, numbers = pd.Series(values), np.asarray(numbers, dtype=float)
    if missing:
        values = values.where(np.arange(N) != 5)
    (field,) = features_of(values).fields
    assert field.kind == "numeric"
    known = np.delete(numbers, 5) if missing else numbers
    assert field.centre == pytest.approx(known.mean(), rel=0.2) and field.width == 1 + missing
    assert field.scale > 0


@pytest.mark.parametrize("bad", [{"a": 1}, 1 + 2j])
def test_features_that_are_nothing_of_the_kind(bad):
    with pytest.raises(TypeError, match="which no kind takes; make columns of numbers or texts of it"):
        features_of([bad] * N)


# --- unknown ids ------------------------------------------------------------------------------------------------------


def test_unknown_ids_name_what_was_meant():
    learn = trained()
    title = learn.dls.classes["title"][3]
    for wrong in (title.lower(), title[:-1], title.split(" (")[0], title.replace("e", "", 1)):
        with pytest.raises(KeyError) as caught:
            learn.similar_items(wrong)
        text = str(caught.value)
        assert text.startswith("1 unknown 'title' id(s): ") and "\\" not in text  # no quotes around, no escapes
        assert "did you mean" in text
    with pytest.raises(KeyError) as caught:
        learn.recommend(10**6)
    assert "did you mean" not in str(caught.value)
    assert near_match("x", ["A Flying Fox"]) == near_match("K9999", ["K0199", "K0001"]) == ""  # far-fetched
    assert near_match("ndgc", ["ndcg", "rmse"]) == " (did you mean 'ndcg'?)"
    assert near_match("", ["a"]) == near_match(3, ["a"]) == near_match("zzz", ["a", 3]) == ""


# --- interpretation and NaN -------------------------------------------------------------------------------------------


def test_an_interpretation_knows_who_came_after_it_was_made():
    learn = make_learner("dot")
    learn.fit(1, 1e-2)
    interp = CollabInterpretation.from_learner(learn)
    films = learn.dls.classes["title"][1:4]
    learn.fold_in(pd.DataFrame({"user": [77_777] * 3, "title": films, "rating": [5.0, 4.0, 1.0]}))
    table = interp.why(77_777, films[0])
    assert table["rating"].iloc[-1] == pytest.approx(learn.predict(77_777, films[0]), abs=1e-5)
    other = silence(collab_learner(learn.dls, 4, y_range=(0, 6)))
    interp.recommender.model = other.model
    assert interp.model is other.model


def test_nan_leads_no_list():
    learn = make_learner("dot")
    learn.fit(1, 1e-2)
    interp, title = CollabInterpretation.from_learner(learn), learn.dls.classes["title"][3]
    with torch.no_grad():
        learn.model.i_weight.weight[5] = float("nan")
    asks = [lambda: learn.similar_items(title), lambda: interp.item_bias(3), lambda: interp.why(1, title)]
    asks += [lambda: interp.user_bias(3), lambda: learn.recommend(1), lambda: learn.evaluate(n_boot=5)]
    for ask in asks:
        with pytest.raises(ValueError, match="NaN"):
            ask()
