"""Side information: kinds, encoding by hand, what is refused and what is counted."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from collabkit import CollabWarning, Vocab
from collabkit.data.features import Features, SideFeatures
from collabkit.data.features.fields import KINDS, infer_kind

IDS = ["Alien", "Brazil", "Cube", "Dune"]
VOCAB = Vocab(IDS, "title")


def films(**columns):
    columns = columns or {"genres": ["Horror|Sci-Fi", "Sci-Fi", "Horror", ""], "year": [1979.0, 1985, 1997, 2021]}
    return pd.DataFrame({"title": IDS, **columns})


def one(values, kind=None, **kwargs):
    """The features of one column."""
    return Features.from_df(films(x=values), VOCAB, {"x": kind}, **kwargs)


# --- kinds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", "b", None, "a"], "categorical"),
        (["a|b", "b", None, "a"], "multi"),
        ([["a"], ["a", "b"], [], None], "multi"),
        ([{"a"}, {"b"}, None, None], "multi"),
        ([[1, 2], [3], [1], [2]], "multi"),
        ([[1.0, 2.0], [3.0, 1.0], None, [0.0, 0.0]], "dense"),
        ([np.array([1, 2]), np.array([3, 1]), None, None], "dense"),
        ([1.5, 2.0, None, 3.0], "numeric"),
        ([1, 2, 2, 1], "categorical"),
        ([True, False, True, True], "categorical"),
    ],
)
def test_inferred_kinds(values, kind):
    assert infer_kind(pd.Series(values)) == kind
    assert one(values).fields[0].kind == kind


def test_many_whole_numbers_are_numeric_and_dates_too():
    assert infer_kind(pd.Series(range(1900, 1921))) == "numeric"
    assert infer_kind(pd.Series(range(1900, 1920))) == "categorical"
    dates = one(pd.to_datetime(["1970-01-01", "1980-01-01", "1990-01-01", "2000-01-01"]), "numeric")
    assert dates.fields[0].centre == pytest.approx(15, abs=0.01)


def test_a_kind_can_be_overridden():
    assert one([1, 2, 2, 1], "numeric").fields[0].kind == "numeric"
    assert one(["a|b", "b", "a", "a"], "categorical").fields[0].categories == ("a", "a|b", "b")
    with pytest.raises(ValueError, match="kind must be one of 'categorical', .*, got 'texts'"):
        one([1, 2, 2, 1], "texts")


def test_it_prints_what_it_took_the_columns_for():
    text = repr(Features.from_df(films(), VOCAB))
    assert "genres: multi, 2 categories" in text and "year: numeric, mean 1995.5" in text
    assert "note: 'genres' is missing for 1 of 4 ids" in text


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_the_design_matrix_by_hand():
    features = Features.from_df(films(), VOCAB)
    sd = np.std([1979, 1985, 1997, 2021])
    year = [0.0, *((y - 1995.5) / sd for y in (1979, 1985, 1997, 2021))]
    bags = [[1, 0, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 1, 0], [1, 0, 0]]  # none, Horror, Sci-Fi; row 0 is the unknown
    want = np.column_stack([bags, year])
    assert np.allclose(features.matrix(), want, atol=1e-6)
    some = torch.tensor([3, 1, 1])
    assert features.n_columns == 4 and torch.equal(features.matrix(some), features.matrix()[some])


def test_missing_numbers_become_the_mean_and_are_marked():
    features = one([1.0, 3.0, None, 5.0])
    sd = np.std([1, 3, 5])
    assert np.allclose(features.matrix(), [[0, 1], [-2 / sd, 0], [0, 0], [0, 1], [2 / sd, 0]])
    assert features.notes == ("'x' is missing for 1 of 4 ids, which get the mean",)


def test_bins_hold_equal_shares_of_the_training_ids():
    ids = list(range(100))
    df = pd.DataFrame({"id": ids, "x": np.arange(100.0)})
    features = Features.from_df(df, Vocab(ids, "id"), {"x": "binned"})
    counts = torch.bincount(features.rows[0].values[1:])
    assert len(features.fields[0].categories) == 20 and int(counts[1:].min()) >= 4 and int(counts[1:].max()) <= 6
    assert features.fields[0].categories[0] == "below 5" or features.fields[0].categories[0] == "below 4"
    more = features.extended(
        pd.DataFrame({"id": [100, 101, 102], "x": [-7.0, 1e9, None]}), Vocab([*ids, 100, 101, 102], "id")
    )
    assert more.rows[0].values[-3:].tolist() == [1, 20, 0]


def test_vectors_are_centred_and_scaled_to_a_mean_squared_length_of_one():
    given = np.array([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])
    features = one([*map(list, given), None])
    rows = features.matrix()[1:4]
    assert rows.square().sum(1).mean() == pytest.approx(1) and torch.allclose(rows.mean(0), torch.zeros(2), atol=1e-6)
    assert torch.equal(features.matrix()[4], torch.zeros(2))  # a missing one is the mean
    scale = np.sqrt(np.square(given - given.mean(0)).sum(1).mean())
    assert np.allclose(rows, (given - given.mean(0)) / scale, atol=1e-6)


def test_one_hot_columns_are_one_field():
    df = films(horror=[1, 0, 1, 0], scifi=[1, 1, 0, 0])
    features = Features.from_df(df, VOCAB, {"genre": ["horror", "scifi"]})
    assert features.fields[0].columns == ("horror", "scifi")
    assert features.matrix().tolist() == [[1, 0, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    grown = features.extended(
        pd.DataFrame({"title": ["Eraserhead"], "horror": [1], "scifi": [0]}), VOCAB.extended(["Eraserhead"])
    )
    assert grown.matrix()[-1].tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="'scifi' holds 2 for 'Brazil'"):
        Features.from_df(films(horror=[1, 0, 1, 0], scifi=[1, 2, 0, 0]), VOCAB, {"genre": ["horror", "scifi"]})


def test_a_matrix_with_ids_is_a_dense_field():
    features = Features.from_df(None, VOCAB, {"text": (["Cube", "Alien"], np.array([[3.0, 4.0], [4.0, 3.0]]))})
    half = np.sqrt(0.5)
    assert np.allclose(features.matrix(), [[0, 0], [half, -half], [0, 0], [-half, half], [0, 0]])
    assert features.given.tolist() == [False, True, False, True, False]
    assert any("2 of 4 ids have no feature row" in note for note in features.notes)
    with pytest.raises(ValueError, match="a matrix with one row per id, got 2 ids and \\(3, 2\\)"):
        Features.from_df(None, VOCAB, {"text": (["Cube", "Alien"], np.ones((3, 2)))})


def test_rows_in_any_order_and_categories_of_any_type():
    df = films(x=[1.0, 2.0, None, 1.0]).sample(frac=1, random_state=1)  # whole numbers that NaN made floats
    assert Features.from_df(df, VOCAB, {"x": "categorical"}).fields[0].categories == ("1", "2")
    straight = Features.from_df(films(), VOCAB).matrix()
    assert torch.equal(Features.from_df(films().sample(frac=1, random_state=2), VOCAB).matrix(), straight)


# --- training ids fix what is fitted ---------------------------------------------------------------------------------


def test_statistics_and_categories_are_those_of_the_training_ids():
    trained = torch.tensor([False, True, True, True, False])
    features = Features.from_df(films(genre=["a", "b", "a", "zz"], year=[1.0, 2, 3, 1000]), VOCAB, trained=trained)
    assert features.fields[0].categories == ("a", "b") and features.fields[1].centre == 2
    assert features.rows[0].values[-1] == 0
    assert "1 value(s) of 'genre' are categories unseen in training ('zz'), which count as none" in features.notes


def test_side_features_take_the_training_part():
    from helpers import make_dls, synthetic

    data = synthetic()
    dls = make_dls(items=data.items, users=data.users)
    train = dls.train.dataset
    warm = train.items[train.item_idx.unique().numpy()]
    years = data.items.set_index("title").loc[warm, "year"].astype(float)
    field = next(f for f in dls.features.items.fields if f.name == "year")
    assert field.centre == pytest.approx(years.mean())
    assert isinstance(dls.features, SideFeatures) and dls.features and "Features of 150 'title' ids" in repr(dls)
    assert not make_dls().features


# --- growing and storing ---------------------------------------------------------------------------------------------


def test_new_ids_keep_the_old_rows_and_the_fitted_numbers():
    features = Features.from_df(films(), VOCAB)
    vocab = VOCAB.extended(["Eraserhead", "Fargo"])
    new = pd.DataFrame({"title": ["Fargo"], "genres": ["Crime|Horror"], "year": [1995.5]})
    with pytest.warns(CollabWarning, match=r"unseen in training \('Crime'\).*1 of 2 ids have no feature row") as said:
        grown = features.extended(new, vocab)
    assert said[0].filename == __file__  # it points at the caller
    assert torch.equal(grown.matrix()[:5], features.matrix()) and grown.given.tolist()[-2:] == [False, True]
    assert grown.matrix()[-1].tolist() == [0, 1, 0, 0] and grown.matrix()[-2].tolist() == [1, 0, 0, 0]
    assert torch.equal(features.extended(None, vocab).matrix()[-1], grown.matrix()[-2])
    with pytest.raises(KeyError, match="column\\(s\\) \\['year'\\] not found"):
        features.extended(new.drop(columns="year"), vocab)


def test_they_survive_json_and_tensors():
    vectors = {"v": [[1.0, 2.0], None, [0.5, 0.1], [1.0, 1.0]], "year": [1.0, None, 2.0, 3.0]}
    features = Features.from_df(films(genres=["a|b", "b", "", "c"], **vectors), VOCAB)
    spec = json.loads(json.dumps(features.spec()))
    back = Features.from_state(VOCAB, spec, features.state())
    assert torch.equal(back.matrix(), features.matrix()) and back.fields == features.fields
    assert torch.equal(back.given, features.given)


@pytest.mark.parametrize("name", ["0.codes", "0.start", "1.values", "given"])
def test_damaged_rows_are_refused(name):
    features = Features.from_df(films(), VOCAB)
    state = features.state()
    with pytest.raises((ValueError, IndexError)):
        Features.from_state(VOCAB, features.spec(), {**state, name: state[name][:-2]})
    with pytest.raises(ValueError, match="do not belong"):
        Features.from_state(VOCAB, features.spec(), {**state, "0.codes": state["0.codes"] + 7})


# --- bad input -------------------------------------------------------------------------------------------------------


def test_a_misspelt_column():
    with pytest.raises(KeyError, match="column\\(s\\) \\['genre'\\] not found in the table of 'title' features"):
        Features.from_df(films(), VOCAB, ["genre"])
    with pytest.raises(KeyError, match="column\\(s\\) \\['title'\\] not found"):
        Features.from_df(films().rename(columns={"title": "film"}), VOCAB)


def test_two_rows_of_one_id():
    df = pd.concat([films(), films().head(2)])
    with pytest.raises(ValueError, match="2 id\\(s\\) of 'title' have more than one feature row, e.g. 'Alien'"):
        Features.from_df(df, VOCAB)
    with pytest.raises(ValueError, match="more than one feature row"):
        Features.from_df(None, VOCAB, {"v": (["Cube", "Cube"], np.ones((2, 2)))})


def test_ids_without_a_row_and_rows_without_an_id_are_counted():
    df = pd.concat([films().head(3), pd.DataFrame({"title": ["Zardoz"], "genres": ["Sci-Fi"], "year": [1974.0]})])
    features = Features.from_df(df, VOCAB)
    assert any("1 of 4 feature rows belong to ids without interactions; they are left out" in n for n in features.notes)
    assert any("1 of 4 ids have no feature row" in n for n in features.notes)
    assert features.given.tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([7.0, 7.0, 7.0, 7.0], "all are 7"),
        ([None, None, None, None], "all are missing"),
        (["a", "a", "a", "a"], "the only value is 'a'"),
        ([[0.5, 0.1]] * 4, "all vectors are the same"),
    ],
)
def test_columns_that_tell_nothing(values, why):
    kind = "numeric" if values[0] is None else None
    with pytest.raises(ValueError, match=f"'x' does not distinguish the training ids: {why}"):
        one(values, kind)
    features = Features.from_df(films(x=values, genre=["a", "b", "a", "b"]), VOCAB)  # not named: left out, counted
    assert [field.name for field in features.fields] == ["genre"] and any(
        "'x' does not distinguish" in n for n in features.notes
    )


def test_columns_of_which_each_row_has_its_own_are_left_out_unless_named():
    ids = [f"film {j}" for j in range(40)]
    df = pd.DataFrame(
        {"title": ids, "imdb": range(1000, 1040), "url": [f"u{j}" for j in range(40)], "g": list("ab") * 20}
    )
    features = Features.from_df(df, Vocab(ids, "title"))
    assert [field.name for field in features.fields] == ["g"] and len(features.notes) == 2
    assert [f.name for f in Features.from_df(df, Vocab(ids, "title"), ["url", "g"]).fields] == ["url", "g"]
    with pytest.raises(ValueError, match="no column of 'title' features is left: column 'url' is left out"):
        Features.from_df(df[["title", "url"]], Vocab(ids, "title"))


@pytest.mark.parametrize(
    ("values", "kind", "error", "message"),
    [
        (
            [[1.0, 2.0], [1.0], [1.0, 2.0], [1.0, 2.0]],
            "dense",
            ValueError,
            "vectors of 2 numbers, that of 'Brazil' has 1",
        ),
        ([[1.0, np.nan], [1.0, 1.0], None, None], "dense", ValueError, "NaN or infinite numbers in 1 vector"),
        ([1.0, np.inf, 2.0, 3.0], "numeric", ValueError, "1 infinite value"),
        (["1", "2", "3", "4"], "numeric", TypeError, "is numeric, but holds '1'"),
        ([1, 2, 3, 4], "multi", TypeError, "multi-valued"),
        ([["a"], ["b"], ["c"], ["a"]], "categorical", TypeError, "is categorical, but holds \\['a'\\]"),
    ],
)
def test_values_of_another_kind(values, kind, error, message):
    with pytest.raises(error, match=message):
        one(values, kind)


def test_vectors_of_another_length_later_on():
    features = one([[1.0, 2.0], [2.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    vocab = VOCAB.extended(["Eraserhead"])
    for vector, message in (([1.0], "that of 'Eraserhead' has 1"), ([1.0, np.nan], "NaN")):
        with pytest.raises(ValueError, match=message):
            features.extended(pd.DataFrame({"title": ["Eraserhead"], "x": [vector]}), vocab)


def test_a_table_of_another_kind():
    with pytest.raises(TypeError, match="must be a pandas DataFrame, got list"):
        Features.from_df([1, 2], VOCAB)
    with pytest.raises(ValueError, match="is empty"):
        Features.from_df(films().head(0), VOCAB)
    with pytest.raises(TypeError, match="ids are of type str"):
        Features.from_df(pd.DataFrame({"title": [1, 2], "g": ["a", "b"]}), VOCAB)
    with pytest.raises(ValueError, match="there is no table"):
        Features.from_df(None, VOCAB, ["genre"])


def test_fitting_says_nothing_of_empty_lists():
    with pytest.raises(ValueError, match="all are missing"):
        KINDS["multi"].fit("x", pd.Series([[], [], None], dtype=object))
    late, trained = films().tail(2), torch.tensor([False, True, True, False, False])
    with pytest.raises(ValueError, match="'year' does not distinguish the training ids: none of them has a row"):
        Features.from_df(late, VOCAB, ["year"], trained=trained)
    with pytest.raises(ValueError, match=r"features is left: .*none of them has a row \(it is left out\)"):
        Features.from_df(late, VOCAB, trained=trained)


# --- vocabularies grow -----------------------------------------------------------------------------------------------


def test_extended_vocabularies():
    grown = VOCAB.extended(["Eraserhead"])
    assert list(grown) == ["#na#", *IDS, "Eraserhead"] and grown.index.dtype == VOCAB.index.dtype
    with pytest.raises(ValueError, match="1 of 2 new 'title' id\\(s\\) exist already: 'Cube'"):
        VOCAB.extended(["Fargo", "Cube"])
    with pytest.raises(ValueError, match="more than once"):
        VOCAB.extended(["Fargo", "Fargo"])
    with pytest.raises(TypeError, match="type"):
        VOCAB.extended([5])
    assert list(Vocab(np.array([1, 2], dtype="int8"), "n").extended([300])) == ["#na#", 1, 2, 300]  # wider, not wrapped
    assert list(Vocab([1, 2], "n").extended([5.0])) == ["#na#", 1, 2, 5]
    with pytest.raises(TypeError, match="would be changed by it"):
        Vocab([1, 2], "n").extended([4.7])


# --- what real tables hold -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([np.array(["a", "b"]), np.array(["a"]), None, None], "multi"),  # lists that went through Parquet
        ([[0, 0.5], [1, 0.25], None, [0, 1.0]], "dense"),  # vectors that went through JSON
        ([torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0]), None, None], "dense"),
        (pd.to_datetime(["1970-01-01", None, "1990-01-01", "2000-01-01"]), "numeric"),
        (pd.Series([1.5, None, 3, 2.5], dtype=object), "numeric"),
    ],
)
def test_kinds_of_what_files_give_back(values, kind):
    features = one(values)
    assert features.fields[0].kind == kind and features.matrix().isfinite().all()


def test_a_number_that_hardly_varies_is_not_blown_up():
    features = one([0.1, 0.1, 0.1, None], "numeric")
    new = features.extended(pd.DataFrame({"title": ["E"], "x": [0.2]}), VOCAB.extended(["E"]))
    assert new.matrix().abs().max() < 2


def test_one_hot_columns_may_be_numbers_and_have_gaps():
    df = pd.DataFrame({"title": IDS, 0: [1, 0, 1, 0], 1: [1, 1, 0, 0]})
    features = Features.from_df(df, VOCAB, {"g": [0, 1]})
    back = Features.from_state(VOCAB, json.loads(json.dumps(features.spec())), features.state())
    new = back.extended(pd.DataFrame({"title": ["E"], 0: [0], 1: [1]}), VOCAB.extended(["E"]))
    assert new.matrix()[-1].tolist() == [0, 0, 1]
    gap = df.assign(h=pd.array([1, None, 0, 1], dtype="Int64"))
    with pytest.raises(ValueError, match="'h' holds <NA> for 'Brazil'"):
        Features.from_df(gap, VOCAB, {"g": ["h", 1]})
    assert Features.from_df(df.rename(columns={0: "a", 1: "b"}), VOCAB, {"g": ("a", "b")}).fields[0].kind == "multi"


def test_columns_that_occur_twice():
    df = pd.concat([films(x=[1, 2, 1, 2]), pd.DataFrame({"x": [1, 1, 2, 2]})], axis=1)
    for columns in (["x"], None):
        with pytest.raises(ValueError, match=r"column\(s\) \['x'\] occur more than once"):
            Features.from_df(df, VOCAB, columns)


def test_a_pair_is_asked_for():
    from collabkit.models import CollFilter

    with pytest.raises(TypeError, match=r"must be a pair \(users, items\)"):
        CollFilter(5, 5, features=one([1, 2, 2, 1]))


def test_ids_that_match_nothing():
    df = films().assign(title=["alien", "brazil", "cube", "dune"])
    with pytest.raises(ValueError, match=r"none of the 4 feature rows .* ids like \['alien', .* ids like \['Alien'"):
        Features.from_df(df, VOCAB)
    with pytest.raises(KeyError, match=r"reset_index\(\) makes it a column"):
        Features.from_df(films().set_index("title"), VOCAB)


def test_numbers_that_are_no_vectors_and_vectors_that_are_no_lists():
    with pytest.raises(TypeError, match="is dense and needs vectors of numbers, but holds 1.5"):
        one([1.5, 2.0, 3.0, 1.0], "dense")
    with pytest.raises(TypeError, match="holds vectors of numbers; use kind 'dense'"):
        one([[1.5, 2.0], [3.0, 1.0], [0.5, 1.0], [1.0, 1.0]], "multi")
    with pytest.raises(TypeError, match="use kind 'multi' or 'dense'"):
        one([["a"], ["b"], ["a"], ["c"]], "numeric")
