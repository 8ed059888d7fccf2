"""What counts as liked: the default threshold of relevance, and a caller's number against ratings kept as float32."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import silence

from collabkit import CollabDataLoaders, CollabWarning, Implicit, collab_learner, compare, filters, splits
from collabkit.cli.console import print_evaluation
from collabkit.data.checks import at_least, finite, whole
from collabkit.data.interactions import Columns, Interactions
from collabkit.evaluate import audit
from collabkit.evaluate.task import default_threshold
from collabkit.models import Popularity


def rated(values, shares, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame([(u, i) for u in range(40) for i in range(20)], columns=["user", "item"])
    return table.assign(rating=rng.choice(values, size=len(table), p=shares).astype(float))


CASES = {  # ratings, their shares, the threshold
    "0/1, few ones": ([0, 1], [0.7, 0.3], 1),
    "0/1, many ones": ([0, 1], [0.3, 0.7], 1),
    "-1/1": ([-1, 1], [0.6, 0.4], 1),
    "-1/0/1": ([-1, 0, 1], [0.6, 0.1, 0.3], 1),
    "one star heavy": ([1, 2, 3, 4, 5], [0.6, 0.1, 0.1, 0.1, 0.1], 4),
    "five stars": ([1, 2, 3, 4, 5], [0.1, 0.1, 0.3, 0.3, 0.2], 4),
    "halves": ([0.5, 1.0], [0.9, 0.1], 1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_default_never_makes_everything_relevant(case):
    values, shares, threshold = CASES[case]
    df = rated(values, shares)
    dls = CollabDataLoaders.from_df(df, seed=0)
    train, valid = dls.train.dataset, dls.valid.dataset
    assert min(values) < default_threshold(train) <= max(values)
    if case != "one star heavy":  # there the median of four equal shares is up to the draw
        assert default_threshold(train) == threshold
    learn = silence(collab_learner(dls, 3, y_range=(min(values) - 0.5, max(values) + 0.5)))
    liked = int((valid.rating >= default_threshold(train)).sum())
    assert 0 < liked < len(valid)
    assert len(learn.recommender.task()) == liked
    table = learn.evaluate(n_boot=10)
    assert table.columns.name == f"relevant: rating >= {default_threshold(train):g}; seen items hidden"
    levels = audit(train, valid).loc["chance level of Recall@10", "meaning"]
    n_users = len(np.unique(valid.user_idx[valid.rating >= default_threshold(train)]))
    assert f"over {n_users:,} users" in levels


def test_tables_name_the_threshold_that_was_given(capsys):
    dls = CollabDataLoaders.from_df(rated([1, 2, 3], [0.4, 0.3, 0.3]), seed=0)
    learn = silence(collab_learner(dls, 3))
    for table in (learn.evaluate(threshold=2, n_boot=10), learn.evaluate(threshold=2, by="cold", n_boot=10)):
        assert table.columns.name == "relevant: rating >= 2; seen items hidden"
    table = compare([learn, Popularity()], threshold=2.5, n_boot=10)
    assert table.columns.name == "relevant: rating >= 2.5; seen items hidden"
    print_evaluation(learn.evaluate(threshold=2, n_boot=10))
    assert "relevant: rating >= 2" in " ".join(capsys.readouterr().out.split())
    liked = Implicit(threshold=2)
    events = CollabDataLoaders.from_df(rated([1, 2], [0.5, 0.5]), rating_name="rating", feedback=liked, seed=0)
    assert silence(collab_learner(events, 3)).evaluate(n_boot=10).columns.name == "seen items hidden"


def test_equal_ratings_say_that_nothing_can_be_told_from_them():
    dls = CollabDataLoaders.from_df(rated([3], [1]), seed=0)
    learn = silence(collab_learner(dls, 3))
    table = learn.evaluate(n_boot=10)
    assert table.columns.name == "relevant: rating >= 3; seen items hidden"
    assert len(learn.recommender.task(threshold=3.5)) == 0


# --- a caller's number and float32 ------------------------------------------------------------------------------------

TENTHS = [j / 10 for j in range(51)]
CASTS = {"float": float, "float64": np.float64, "float32": np.float32}
DTYPES = ["float64", "float32", "Float64", "float32[pyarrow]", "double[pyarrow]"]


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rating_equal_to_the_threshold_is_kept_everywhere(cast, dtype):
    df = pd.DataFrame({"user": range(51), "item": range(51), "rating": pd.Series(TENTHS, dtype=dtype)})
    encoded = Interactions.from_df(df, Columns("user", "item", "rating"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        for j, value in enumerate(TENTHS):
            threshold = CASTS[cast](value)
            assert len(filters.min_rating(df, threshold)) == 51 - j
            assert len(filters.positive_events(df, Columns("user", "item", "rating"), threshold)) == 51 - j
            assert at_least(encoded.rating, threshold).sum() == 51 - j


@pytest.mark.parametrize("dtype", DTYPES)
def test_thresholds_taken_from_the_column_itself(dtype):
    ratings = [0.7, 0.7, 0.7, 4, 0.1, 0.7]
    df = pd.DataFrame(
        {"user": [1, 1, 1, 2, 2, 2], "item": [1, 2, 3, 1, 2, 3], "rating": pd.Series(ratings, dtype=dtype)}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        for threshold in (df["rating"].median(), df["rating"].quantile(0.5), np.float64(0.7), df["rating"].iloc[0]):
            assert len(filters.min_rating(df, threshold)) == 5
            splitter = splits.random_split(0.5, seed=0)
            dls = CollabDataLoaders.from_df(
                df, rating_name="rating", feedback=Implicit(threshold=threshold), splitter=splitter
            )
            assert len(dls.train.dataset) + len(dls.valid.dataset) == 5
            last = splits.leave_last_out(time_name="time", min_rating=threshold)
            parts = last(df.assign(time=range(6)), Columns("user", "item", "rating", "time"))
            assert len(parts.valid) == 2  # both last ones are rated .7


def test_the_evaluations_threshold_is_compared_as_the_ratings_are_kept():
    df = rated([0.1, 0.7], [0.5, 0.5])
    dls = CollabDataLoaders.from_df(df, seed=0)
    learn, valid = silence(collab_learner(dls, 3)), dls.valid.dataset
    n = int((valid.rating > 0.5).sum())
    for threshold in (0.7, np.float64(0.7), np.float32(0.7), df["rating"].max()):
        assert len(learn.recommender.task(threshold=threshold)) == n


def test_ratings_that_float32_cannot_hold_are_said():
    big = [2.0**24 + 1, 2.0**24, 5.0, 2.0**30]
    df = pd.DataFrame({"user": range(4), "item": range(4), "rating": big})
    with pytest.warns(CollabWarning, match=r"1 of 4 ratings in 'rating' are above 2\*\*24 and are rounded"):
        Interactions.from_df(df, Columns("user", "item", "rating"))
    with pytest.warns(CollabWarning, match=r"1 of 4 ratings"):
        Interactions.from_df(df.astype({"rating": "int64"}), Columns("user", "item", "rating"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Interactions.from_df(df.iloc[1:], Columns("user", "item", "rating"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, "4", None, True, [4], 1 + 1j])
def test_thresholds_that_are_no_numbers_are_refused(bad):
    df = rated([1, 2, 3], [0.4, 0.3, 0.3])
    learn = silence(collab_learner(CollabDataLoaders.from_df(df, seed=0), 3))
    with pytest.raises(ValueError, match="threshold must be a finite number, got"):
        filters.min_rating(df, bad)
    if bad is None:  # the default there
        return
    with pytest.raises(ValueError, match="min_rating must be a finite number, got"):
        splits.leave_last_out(min_rating=bad)
    with pytest.raises(ValueError, match="^threshold must be a finite number, got"):
        CollabDataLoaders.from_df(df, rating_name="rating", feedback=Implicit(threshold=bad))
    with pytest.raises(ValueError, match="rating_threshold must be a finite number, got"):
        CollabDataLoaders.from_df(df, rating_name="rating", feedback="implicit", rating_threshold=bad)
    with pytest.raises(ValueError, match="threshold must be a finite number, got"):
        learn.evaluate(threshold=bad)


@pytest.mark.parametrize("bad", [0, -1, 2.5, np.nan, np.inf, 1e400, "3", None, True, [1], torch.tensor([1, 2])])
def test_whole_numbers(bad):
    with pytest.raises(ValueError, match="^k must be a whole number of at least 1, got"):
        whole("k", bad)
    assert [whole("k", good) for good in (1, 3.0, np.int8(4), np.float32(2))] == [1, 3, 4, 2]
    assert finite("x", np.float32(2)) == 2.0
