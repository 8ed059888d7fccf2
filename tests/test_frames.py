"""Tables of polars and Arrow, and scipy matrices: the same as pandas through every door, and back in their kind."""

import datetime
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy import sparse

from collabkit import (
    EASE,
    CollabDataLoaders,
    CollabWarning,
    Features,
    Interactions,
    Popularity,
    QuestionnaireWidget,
    Recommender,
    Vocab,
    backtest,
    collab_learner,
    compare,
    filters,
    splits,
)
from collabkit.data.frames import as_kind, to_pandas
from collabkit.data.interactions import Columns
from collabkit.evaluate.task import RankingTask

NAMES = {"user_name": "user", "item_name": "title", "time_name": "at"}
EVENTS = {**NAMES, "feedback": "implicit", "seed": 0}
N = 900


def chunks(make, join):
    return lambda df: make(df) if len(df) < 2 else join([make(df[: len(df) // 2]), make(df[len(df) // 2 :])])


def arrow(df):
    return pa.Table.from_pandas(df, preserve_index=False)


def coded(df):
    """Texts as dictionaries, other ones in each chunk."""
    table = arrow(df)
    for j, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            table = table.set_column(j, field.name, table[j].dictionary_encode())
    return table


KINDS = {  # how pandas' table becomes one of the kind, and what results are
    "polars": (pl.from_pandas, pl.DataFrame),
    "polars in pieces": (chunks(pl.from_pandas, lambda parts: pl.concat(parts, rechunk=False)), pl.DataFrame),
    "polars categories": (
        lambda df: pl.from_pandas(df).with_columns(pl.col(pl.String).cast(pl.Categorical)),
        pl.DataFrame,
    ),
    "arrow": (arrow, pa.Table),
    "arrow in pieces": (chunks(arrow, pa.concat_tables), pa.Table),
    "arrow dictionaries": (
        chunks(coded, lambda parts: pa.concat_tables(parts, promote_options="permissive")),
        pa.Table,
    ),
    "arrow batch": (lambda df: arrow(df).combine_chunks().to_batches()[0], pa.Table),
}


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        yield


def made():
    """Events, and what is known of users and items: numbers with gaps, days, categories, lists, moments, vectors."""
    rng = np.random.default_rng(0)
    df = pd.DataFrame({"user": rng.integers(1, 41, N) * 10**15, "title": rng.integers(0, 30, N)})
    df["title"] = "film " + df["title"].astype("str")
    df["stars"] = (rng.integers(1, 6, N) / 2).astype("float32")
    df["at"] = pd.Timestamp("2026-01-01", tz="Europe/Oslo") + pd.to_timedelta(rng.permutation(N) * 3601, unit="s")
    df["device"], df["weight"] = rng.choice(["tv", "pc"], N), rng.random(N)
    titles = pd.Series(sorted(df["title"].unique()), dtype="str")
    n = len(titles)
    films = pd.DataFrame({"title": titles, "year": rng.integers(1900, 2020, n), "price": rng.random(n)})
    films["price"] = films["price"].where(rng.random(n) < 0.8)
    films["genres"] = [["a", "b"][: 1 + j % 2] for j in range(n)]
    films["look"], films["seen"] = [rng.random(3).tolist() for _ in range(n)], rng.random(n) < 0.5
    people = pd.DataFrame({"user": np.sort(df["user"].unique())})
    people["age"] = rng.integers(10, 80, len(people))
    return df, films, people


DF, FILMS, PEOPLE = made()
FEATURES = {"item_features": {"year": "binned", "price": "numeric", "genres": "multi", "look": "dense", "seen": None}}
NEW = pd.DataFrame({"user": [7, 7, 8], "title": ["film 1", "film 2", "film 3"], "stars": [2.0, 1.0, 2.5]})


def loaders(to, **options):
    given = {**NAMES, "seed": 0, "rating_name": "stars", **options}
    return CollabDataLoaders.from_df(to(DF), **given)


def state(dls):
    """All that a dataset holds, in one list of bytes and ids."""
    data = dls.data
    parts = [part for part in data.parts if part is not None]
    tensors = [getattr(part, name) for part in parts for name in ("user_idx", "item_idx", "rating", "time", "weight")]
    tensors += [part.context[name] for part in parts for name in part.context]
    tensors += [rows for side in data.features[:2] if side is not None for rows in (side.matrix(), side.given)]
    said = [repr(side) for side in data.features if side is not None]
    return [None if t is None else t.numpy().tobytes() for t in tensors], list(data.users), list(data.items), said


TRAINED = {}


def trained():
    """A closed-form model and a learner on pandas' tables."""
    if not TRAINED:
        TRAINED["ease"] = EASE().fit(CollabDataLoaders.from_df(DF, **EVENTS))
        learn = collab_learner(
            loaders(lambda df: df, items=FILMS, **FEATURES, context_features=["device"]), n_factors=4
        )
        learn.fit_one_cycle(1, 1e-2)
        cold = collab_learner(loaders(lambda df: df, splitter=splits.cold_users(0.2, seed=0)), n_factors=4)
        cold.fit_one_cycle(1, 1e-2)
        TRAINED.update(learn=learn, cold=cold)
    return TRAINED["ease"], TRAINED["learn"], TRAINED["cold"]


def fitted(to):
    dls = loaders(to, items=to(FILMS), users=to(PEOPLE), **FEATURES, context_features={"device": None, "at": "time"},
                  weights="weight", bs=128)  # fmt: skip
    learn = collab_learner(dls, n_factors=4)
    learn.fit_one_cycle(1, 1e-2)
    return [p.detach().numpy().tobytes() for p in learn.model.parameters()] + [*state(dls)]


def fresh(to):
    """A copy of the learner's recommender, which may grow."""
    learn = collab_learner(loaders(lambda df: df, items=FILMS, users=PEOPLE, **FEATURES), n_factors=4)
    learn.fit_one_cycle(1, 1e-2)
    return learn


def grown(to):
    learn = fresh(to)
    learn.fold_in(to(NEW), users=to(PEOPLE[:2].assign(user=[7, 8])))
    learn.add_items(to(FILMS[:2].assign(title=["film x", "film y"])))
    learn.add_users(to(PEOPLE[:1].assign(user=[9])))
    return learn.recommend([7, 8, 9], k=5, items=["film x", "film y", "film 4"])


TEST = DF.sample(200, random_state=1).reset_index(drop=True)
PAIRS = pd.concat([DF[["user", "title"]].assign(user=user) for user in DF["user"].unique()[:20]]).drop_duplicates()
PAIRS = PAIRS.reset_index(drop=True)
COLD = DF.iloc[splits.cold_users(0.2, seed=0)(DF, Columns("user", "title")).valid].reset_index(drop=True)
USER, LATE, TITLES = DF["user"][0], DF[700:].reset_index(drop=True), Vocab(FILMS["title"], "title")
COLUMNS = Columns("user", "title", "stars", "at", ("device",))
DOORS = {  # what a call with tables made by `to` answers
    "from_df, fit": fitted,
    "from_df, events": lambda to: state(CollabDataLoaders.from_df(to(DF), **EVENTS, splitter=splits.leave_last_out())),
    "from_dfs": lambda to: state(CollabDataLoaders.from_dfs(to(DF[:700]), to(LATE), **EVENTS)),
    "guessed": lambda to: state(CollabDataLoaders.from_df(to(DF), seed=0)),
    "history": lambda to: state(CollabDataLoaders.from_df(to(DF), seed=0, feedback="implicit", history=5)),
    "fold in, add": grown,
    "Interactions": lambda to: Interactions.from_df(to(DF), COLUMNS).to_df(),
    "encode": lambda to: trained()[0].data.train.encode(to(TEST)).to_df(),
    "Features": lambda to: Features.from_df(to(FILMS), TITLES, FEATURES["item_features"]).matrix(),
    "recommend to users": lambda to: trained()[0].recommend(to(PEOPLE)["user"], 3),
    "recommend history": lambda to: trained()[0].recommend(history=to(NEW), k=3),
    "recommend rated history": lambda to: trained()[1].recommend(history=to(NEW), k=3),
    "recommend recent": lambda to: trained()[0].recommend(recent=to(NEW.assign(user=USER, at=DF["at"].max())), k=3),
    "recommend exclude pairs": lambda to: trained()[0].recommend([USER], 3, exclude=to(PAIRS[:5].assign(user=USER))),
    "recommend exclude items": lambda to: trained()[0].recommend([USER], 3, exclude=to(NEW)["title"]),
    "recommend items": lambda to: trained()[0].recommend([USER], 3, items=to(FILMS)["title"]),
    "recommend context": lambda to: trained()[1].recommend([USER], 3, context=to(pd.DataFrame({"device": ["tv"]}))),
    "default_list": lambda to: trained()[0].recommender.default_list(3, exclude=to(NEW)["title"]),
    "similar_items": lambda to: trained()[0].similar_items(to(NEW)["title"], 3),
    "predict": lambda to: trained()[1].predict(to(DF)["user"], to(DF)["title"]),
    "evaluate": lambda to: trained()[1].evaluate(to(TEST), n_boot=5),
    "evaluate candidates": lambda to: trained()[0].evaluate(candidates=to(PAIRS), metrics=["NDCG"], n_boot=5),
    "evaluate items": lambda to: trained()[0].evaluate(candidates=to(FILMS)["title"], metrics=["NDCG"], n_boot=5),
    "evaluate_fold_in": lambda to: trained()[2].evaluate_fold_in(to(COLD), n_given=1),
    "task": lambda to: trained()[0].recommender.task(to(TEST)).users,
    "RankingTask": lambda to: RankingTask.make(trained()[0].data, to(TEST), candidates=to(PAIRS)).items,
    "compare": lambda to: compare([trained()[0], Popularity()], on=to(TEST), metrics=["NDCG"], n_boot=5),
    "backtest": lambda to: backtest(lambda dls: EASE(), to(DF), n=2, window="3D", n_boot=5, **EVENTS),
    "test_dl": lambda to: torch.cat([batch[0].users for batch in trained()[1].dls.test_dl(to(TEST))]),
    "audit": lambda to: CollabDataLoaders.from_df(to(DF), **EVENTS).audit(),
    "min_count": lambda to: filters.min_count(to(DF), users=20, items=25),
    "k_core": lambda to: filters.k_core(to(DF), 18),
    "min_rating": lambda to: filters.min_rating(to(DF), 2),
    "sample_users": lambda to: filters.sample_users(to(DF), 0.5, seed=0),
    "drop_duplicates": lambda to: filters.drop_duplicates(to(DF)),
    "positive_events": lambda to: filters.positive_events(to(DF), Columns("user", "title", "stars"), 2),
    "split": lambda to: splits.leave_last_out(time_name="at")(to(DF)).valid,
    "split by time": lambda to: splits.time_split(window="5D", time_name="at")(to(DF)).valid,
    "cold items": lambda to: splits.cold_items(0.2, seed=0)(to(DF)).valid,
}  # fmt: skip
ROWS = ("recommend", "default_list", "similar", "min_", "k_core", "sample", "drop", "positive")
EXPECTED = {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", DOORS)
def test_every_kind_is_pandas_to_the_last_digit(door, kind):
    to, result = KINDS[kind]
    torch.manual_seed(0)
    if door not in EXPECTED:
        EXPECTED[door] = DOORS[door](lambda df: df)
        torch.manual_seed(0)
    expected, found = EXPECTED[door], DOORS[door](to)
    if door.startswith(ROWS):
        assert isinstance(found, result)
    assert_same(to_pandas(found), expected)


def assert_same(found, expected):
    if isinstance(expected, pd.DataFrame):
        expected = expected.reset_index(drop=True) if "rank" in expected or "device" in expected else expected
        found = found.astype({n: "str" for n in found if isinstance(found[n].dtype, pd.CategoricalDtype)})
        pd.testing.assert_frame_equal(found, expected, check_exact=True, check_dtype=False)
    elif isinstance(expected, (np.ndarray, torch.Tensor)):
        assert np.array_equal(np.asarray(found), np.asarray(expected))
    else:
        assert found == expected


# --- kinds of columns, and back ------------------------------------------------------------------------------------


def test_no_value_is_changed_on_the_way_in():
    day, at = datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 3, 4, 5, 6)
    columns = {"whole": [2**53 + 1, None], "yes": [True, None], "text": ["a", None], "day": [day, None],
               "at": [at, None], "many": [[1, 2], None], "number": [0.1, None]}  # fmt: skip
    for table in (
        pa.table(columns),
        pl.DataFrame(columns),
        pa.concat_tables([pa.table(columns)[:1], pa.table(columns)[1:]]),
    ):
        frame = to_pandas(table)
        assert (
            frame["whole"].tolist()[0] == 2**53 + 1
            and frame["whole"].dtype == "Int64"
            and frame["yes"].dtype == "boolean"
        )
        assert frame["day"].tolist()[0] == day and frame["at"][0] == pd.Timestamp(at) and frame["many"][0] == [1, 2]
        assert frame.isna().loc[1].all() and list(frame.columns) == list(columns)


def test_numbers_in_one_piece_are_not_copied():
    values = np.arange(1000, dtype=np.int64)
    for table in (pa.table({"a": values, "b": values / 2}), pl.DataFrame({"a": values})):
        held = table["a"].to_numpy()
        assert np.shares_memory(to_pandas(table)["a"].to_numpy(), held)
    frame = pd.DataFrame({"a": [1]})
    assert to_pandas(frame) is frame


@pytest.mark.parametrize("kind", ["polars", "arrow"])
def test_lists_come_back_in_the_kind_of_the_call_else_of_the_data(kind, tmp_path):
    to, result = KINDS[kind]
    model = EASE().fit(CollabDataLoaders.from_df(to(DF), **EVENTS))
    rec = model.recommender
    lists = [rec.recommend([USER], 3), rec.recommend(history=["film 1"], k=2), rec.similar_items("film 1", 2),
             rec.default_list(2), rec.recommend(history=to(NEW), k=2)]  # fmt: skip
    assert all(isinstance(found, result) for found in lists)
    assert isinstance(rec.recommend(history=NEW, k=2), pd.DataFrame)  # what this call was given counts
    assert isinstance(rec.evaluate(metrics=["NDCG"], n_boot=5), pd.DataFrame)  # metrics have an index
    rec.save(tmp_path / "a")
    loaded = Recommender.load(tmp_path / "a")
    assert isinstance(loaded.recommend([USER], 2), pd.DataFrame)
    assert isinstance(loaded.recommend(history=to(NEW), k=2), result)
    assert isinstance(rec.recommend(to(PEOPLE)["user"], 2), result)


def test_what_grew_from_polars_and_the_questionnaire_are_as_from_pandas():
    pytest.importorskip("ipywidgets")
    learn = collab_learner(loaders(pl.from_pandas), n_factors=4)
    learn.fit_one_cycle(1, 1e-2)
    learn.fold_in(pl.from_pandas(NEW))
    assert isinstance(learn.recommend([7], 2), pl.DataFrame) and isinstance(learn.questionnaire(3), pl.DataFrame)
    widget = QuestionnaireWidget(learn, n=3)
    widget.answer(widget.questions["title"][0], 2.0)
    assert isinstance(widget.recommendations, pd.DataFrame)


def test_ids_that_arrow_cannot_hold_say_so():
    mixed = pd.DataFrame({"user": [1 + 2j], "rank": [1]})
    with pytest.raises(TypeError, match="cannot be returned in a"):
        as_kind(mixed, "pyarrow")


@pytest.mark.parametrize("door", ["from_df, events", "recommend history", "evaluate", "k_core", "split", "Features"])
def test_lazy_tables_are_refused(door):
    with pytest.raises(TypeError, match=r"polars LazyFrame is lazy.*collect"):
        DOORS[door](lambda df: pl.from_pandas(df).lazy())


@pytest.mark.parametrize("kind", ["polars", "arrow", "arrow in pieces"])
@pytest.mark.parametrize(
    ("column", "message"),
    [("user", "'user' has 2 missing .* id"), ("title", "'title' has 2 missing"), ("stars", "'stars' has 2 missing"),
     ("at", "'at' has 2 missing time")],
)  # fmt: skip
def test_nulls_are_counted_as_in_pandas(kind, column, message):
    gaps = DF.copy()
    gaps[column] = gaps[column].astype("Int64") if column == "user" else gaps[column]
    gaps.loc[[3, 500], column] = None
    for table in (gaps, KINDS[kind][0](gaps)):
        with pytest.raises(ValueError, match=message):
            CollabDataLoaders.from_df(table, **NAMES, rating_name="stars", seed=0)


@pytest.mark.parametrize("odd", [{"user": [1]}, [1, 2], "table", None, np.zeros((3, 3)), pl.Series([1])])
def test_what_is_no_table_is_refused(odd):
    with pytest.raises(TypeError, match="expected a pandas DataFrame"):
        CollabDataLoaders.from_df(odd, seed=0)


# --- matrices ------------------------------------------------------------------------------------------------------

DENSE = np.random.default_rng(3).integers(0, 6, (50, 20)) * (np.random.default_rng(4).random((50, 20)) < 0.5)
FORMATS = ("csr_matrix", "csc_matrix", "coo_matrix", "csr_array", "csc_array", "coo_array", "lil_array", "dok_array")


def pairs(dense, who=None, what=None):
    """The table of what is stored, by rows."""
    row, column = dense.nonzero()
    users, items = row if who is None else np.asarray(who)[row], column if what is None else np.asarray(what)[column]
    return pd.DataFrame({"user": users, "item": items, "rating": dense[row, column]})


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    "ids", [{}, {"user_ids": [f"u{j:02}" for j in range(50)], "item_ids": pl.Series(range(100, 120))}]
)
def test_a_matrix_is_the_table_of_its_entries(fmt, ids):
    matrix, table = getattr(sparse, fmt)(DENSE), pairs(DENSE, *ids.values())
    for feedback in ("explicit", "implicit"):
        expected = CollabDataLoaders.from_df(table, feedback=feedback, seed=0)
        assert state(CollabDataLoaders.from_scipy(matrix, **ids, feedback=feedback, seed=0)) == state(expected)
    if not ids:
        assert state(CollabDataLoaders.from_df(matrix, seed=0)) == state(CollabDataLoaders.from_df(table, seed=0))
        rated = Interactions.from_df(matrix, Columns("user", "item", "rating"))
        assert rated.data_hash() == Interactions.from_df(table, Columns("user", "item", "rating")).data_hash()


def test_thresholds_of_a_matrix_and_two_of_them():
    liked = {"feedback": "implicit", "rating_threshold": 3, "seed": 0}
    dls = CollabDataLoaders.from_scipy(sparse.csr_array(DENSE), **liked)
    assert state(dls) == state(CollabDataLoaders.from_df(pairs(DENSE), rating_name="rating", **liked))
    first, second = DENSE * (np.arange(20) < 12), DENSE * (np.arange(20) >= 12)
    for feedback in ("explicit", "implicit"):
        options = {"feedback": feedback, "seed": 0}
        expected = CollabDataLoaders.from_dfs(pairs(first), pairs(second), **options)
        dls = CollabDataLoaders.from_dfs(sparse.csr_array(first), sparse.csc_array(second), **options)
        assert state(dls) == state(expected)
    with pytest.raises(ValueError, match=r"has the shape \(50, 19\), but 50 users and 20 items"):
        CollabDataLoaders.from_dfs(sparse.csr_array(first), sparse.csr_array(second[:, :19]))


def test_questions_take_matrices_with_the_same_rows_and_columns():
    names = {"user_ids": [f"u{j:02}" for j in range(50)], "item_ids": list("abcdefghijklmnopqrst")}
    model = EASE().fit(CollabDataLoaders.from_scipy(sparse.csr_array(DENSE), **names, feedback="implicit", seed=0))
    fewer = DENSE * (np.random.default_rng(5).random(DENSE.shape) < 0.1)
    table = pairs(fewer, *names.values())
    matrix, few = sparse.csr_array(fewer), {"metrics": ["NDCG"], "n_boot": 5}
    asked = {
        "evaluate": lambda given: model.evaluate(given, **few),
        "exclude": lambda given: model.recommend(k=3, exclude=given),
        "recent": lambda given: model.recommend(recent=given, k=3),
    }
    for ask in asked.values():
        pd.testing.assert_frame_equal(ask(matrix), ask(table), check_exact=True)
    every, listed = sparse.csr_array(np.ones_like(DENSE)), pairs(np.ones_like(DENSE), *names.values())
    candidates = [model.evaluate(candidates=given, **few) for given in (every, listed)]
    pd.testing.assert_frame_equal(*candidates, check_exact=True)
    new = pairs(DENSE[:3], range(3), names["item_ids"])  # the rows of a history are new people
    pd.testing.assert_frame_equal(
        model.recommend(history=sparse.csr_array(DENSE[:3]), k=3), model.recommend(history=new, k=3), check_exact=True
    )
    with pytest.raises(ValueError, match=r"shape \(50, 19\)"):
        model.evaluate(sparse.csr_array(fewer[:, :19]))
    for refuse in (EASE().fit(CollabDataLoaders.from_df(table, feedback="implicit", seed=0)).evaluate, filters.k_core):
        with pytest.raises(TypeError, match="a scipy matrix has no ids"):
            refuse(matrix)


def coo(rows, columns, values, shape=(6, 5)):
    return sparse.coo_array((np.asarray(values), (rows, columns)), shape=shape)


def said(*args, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dls = CollabDataLoaders.from_scipy(
            *args, seed=0, splitter=lambda df: (range(len(df) - 1), [len(df) - 1]), **kwargs
        )
    return dls, " ".join(str(w.message) for w in caught)


def test_zeros_that_are_stored_are_counted():
    matrix = coo([4, 0, 1, 2, 3], [0, 1, 2, 3, 4], [5, 0, 3, 2, 0])
    dls, text = said(matrix)
    assert (
        len(dls.data.train) == 4 and "2 of 5 stored values of the matrix are zeros; they count as ratings of 0" in text
    )
    assert "1 of 6 rows and 0 of 5 columns of the matrix are empty" in text
    dls, text = said(matrix, feedback="implicit")
    assert len(dls.data.train) == 2 and "left out 2 of 5 stored values of the matrix: zeros" in text
    assert "3 of 6 rows and 2 of 5 columns of the matrix are empty" in text and len(dls.data.users) == 4


def test_entries_that_are_there_twice():
    matrix = coo([4, 0, 4, 2, 4], [0, 1, 0, 3, 0], [5, 1, 1, 2, 1])
    with pytest.raises(ValueError, match="2 of 5 entries of the matrix repeat .*a sum is not a rating"):
        said(matrix)
    dls, text = said(matrix, feedback="implicit")
    assert "2 of 5 entries of the matrix repeat" in text and "their sum counts" in text and len(dls.data.train) == 2
    unsorted = sparse.csr_array(
        (np.array([1, 2, 3]), np.array([4, 0, 2]), np.array([0, 2, 2, 3, 3, 3, 3])), shape=(6, 5)
    )
    assert not unsorted.has_sorted_indices
    assert said(unsorted)[0].data.train.item_idx.tolist() == [1, 3] and not unsorted.has_sorted_indices


@pytest.mark.parametrize(
    ("values", "options", "error", "message"),
    [([1, np.nan, 2], {}, ValueError, "1 missing"), ([1, np.inf, 2], {}, ValueError, "infinite"),
     ([1, -2, 2], {"feedback": "implicit"}, ValueError, "1 negative value"),
     ([1j, 1, 1], {}, TypeError, "must be numbers"),
     ([0, 0, 0], {"feedback": "implicit"}, ValueError, "has no values to use"),
     ([1, 2, 3], {"user_ids": [1]}, ValueError, "user_ids has 1 ids, but the matrix has 6 rows"),
     ([1, 2, 3], {"item_ids": list("abcda")}, ValueError, "unique ids"),
     ([1, 2, 3], {"user_ids": [1, 2, 3, 4, 5, None]}, ValueError, "1 missing")],
)  # fmt: skip
def test_what_a_matrix_cannot_hold(values, options, error, message):
    with pytest.raises(error, match=message):
        said(coo([0, 1, 2], [0, 1, 2], values), **options)


def test_from_scipy_takes_matrices_alone():
    with pytest.raises(TypeError, match="takes a scipy sparse matrix, got ndarray"):
        CollabDataLoaders.from_scipy(DENSE)
    empty = {"user_ids": range(6), "feedback": "implicit"}
    with pytest.raises(ValueError, match="has no values to use"):
        said(sparse.csr_array((6, 5)), **empty)
