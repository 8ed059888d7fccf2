import datetime

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.transforms import RandomSplitter
from hypothesis import given
from hypothesis import strategies as st

from collabkit import CollabDataLoaders, CollabWarning
from collabkit.data.interactions import Columns
from collabkit.data.splits import (
    Split,
    Splitter,
    cold_items,
    cold_users,
    column_split,
    k_fold,
    leave_last_out,
    random_split,
    rolling_windows,
    time_split,
    window_cuts,
)


def covers(split: Split, n: int) -> bool:
    return np.array_equal(np.sort(np.concatenate([split.train, split.valid])), np.arange(n))


# --- random ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 42, 12345])
@pytest.mark.parametrize("n", [10, 401])
def test_random_split_gives_fastais_rows(seed, n):
    df = pd.DataFrame({"u": range(n), "i": range(n)})
    with torch.random.fork_rng():
        train, valid = RandomSplitter(valid_pct=0.2, seed=seed)(df)
    split = random_split(0.2, seed=seed)(df)
    assert split.train.tolist() == sorted(train) and split.valid.tolist() == sorted(valid)
    assert len(split.valid) == int(0.2 * n) and split.by == f"random_split(valid_pct=0.2, seed={seed})"


@given(st.integers(2, 200), st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_random_split_holds_each_row_once(n, valid_pct, seed):
    df = pd.DataFrame({"u": range(n), "i": range(n)})
    n_valid = int(valid_pct * n)
    if n_valid == 0:
        with pytest.raises(ValueError, match="leaves the validation part empty"):
            random_split(valid_pct, seed=seed)(df)
        return
    split = random_split(valid_pct, seed=seed)(df)
    assert covers(split, n) and len(split.valid) == n_valid and split.valid.dtype == np.int64


def test_random_split_without_a_seed_draws_from_the_global_generator(planted):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first, second = (random_split()(planted).valid.tolist() for _ in range(2))
        torch.manual_seed(5)
        again = random_split()(planted).valid.tolist()
    assert first == again != second


@pytest.mark.parametrize("valid_pct", [0, 1, 0.0, 1.0, -0.2, 1.5, float("nan")])
def test_valid_pct_must_be_a_share(valid_pct):
    with pytest.raises(ValueError, match=f"valid_pct must lie strictly between 0 and 1, got {valid_pct}"):
        random_split(valid_pct)


# --- by time ---------------------------------------------------------------------------------------------------------


def test_leave_last_out_by_hand(toy):
    split = leave_last_out(time_name="time")(toy)
    assert split.valid.tolist() == [1, 4, 7]  # ann/Brazil at 30, bob/Dune at 50, cat/Alien at 80
    assert split.train.tolist() == [0, 2, 3, 5, 6, 8, 9]
    assert split.notes == ("1 of 4 users have no row in valid, as they have 1 or fewer",)
    assert str(split).splitlines() == ["Split: 7 train and 3 valid rows by leave_last_out(n=1)", "  " + split.notes[0]]
    two = leave_last_out(2, time_name="time")(toy)
    assert two.valid.tolist() == [1, 2, 5, 7]
    assert two.notes == ("2 of 4 users have no row in valid, as they have 2 or fewer",)


def test_ties_in_time_fall_to_the_later_row():
    df = pd.DataFrame({"u": ["a", "a", "a", "b", "b", "b"], "i": range(6), "t": [7, 7, 1, 2, 2, 2]})
    assert leave_last_out(time_name="t")(df).valid.tolist() == [1, 5]
    assert leave_last_out(2, time_name="t")(df).valid.tolist() == [0, 1, 4, 5]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=40), st.integers(1, 3))
def test_leave_last_out_against_pandas(rows, n):
    df = pd.DataFrame(rows, columns=["u", "t"])
    df.insert(1, "i", range(len(df)))
    enough = df[df.groupby("u")["u"].transform("size") > n]
    expected = enough.sort_values("t", kind="stable").groupby("u").tail(n).index.sort_values().tolist()
    if not expected:
        with pytest.raises(ValueError, match="validation part empty"):
            leave_last_out(n, time_name="t")(df)
        return
    split = leave_last_out(n, time_name="t")(df)
    assert split.valid.tolist() == expected and covers(split, len(df))


@pytest.mark.parametrize("as_time", [lambda t: pd.to_datetime(t, unit="D"), lambda t: -t.astype("int32")])
def test_any_kind_of_time(toy, as_time):
    plain = toy.assign(time=as_time(toy["time"]))
    expected = [1, 4, 7] if plain["time"].dtype.kind == "M" else [3, 6, 9]
    assert leave_last_out(time_name="time")(plain).valid.tolist() == expected


def test_time_zones(toy):
    toy["time"] = pd.to_datetime(toy["time"], unit="D").dt.tz_localize("Europe/Rome")
    assert leave_last_out(time_name="time")(toy).valid.tolist() == [1, 4, 7]
    assert time_split(0.3, time_name="time")(toy).valid.tolist() == [5, 7, 8]
    with pytest.raises(TypeError, match="cannot be compared with column 'time' of datetime64"):
        time_split(date="1970-01-10", time_name="time")(toy)
    march = pd.Timestamp("1970-03-01", tz="Europe/Rome")
    assert time_split(date=march, time_name="time")(toy).valid.tolist() == [5, 6, 7, 8]


def test_time_split_by_share(toy):
    split = time_split(0.3, time_name="time")(toy)
    assert split.valid.tolist() == [5, 7, 8] and split.train.tolist() == [0, 1, 2, 3, 4, 6, 9]
    assert toy["time"].iloc[split.train].max() < toy["time"].iloc[split.valid].min()
    assert len(time_split(time_name="time")(toy).valid) == 2 and split.by == "time_split(share=0.3)"
    tied = toy.assign(time=[1, 2, 3, 4, 5, 5, 5, 5, 6, 6])
    assert time_split(0.3, time_name="time")(tied).valid.tolist() == [4, 5, 6, 7, 8, 9]  # all at the cut go together


def test_time_split_by_date(toy):
    assert time_split(date=50, time_name="time")(toy).valid.tolist() == [4, 5, 6, 7, 8]
    stamps = toy.assign(time=pd.to_datetime("2020-01-01") + pd.to_timedelta(toy["time"], unit="D"))
    for date in ("2020-02-20", pd.Timestamp("2020-02-20"), datetime.date(2020, 2, 20), np.datetime64("2020-02-20")):
        split = time_split(date=date, time_name="time")(stamps)
        assert split.valid.tolist() == [4, 5, 6, 7, 8]  # 50 days after New Year, inclusive
    for df, date in ((toy, "2020-02-20"), (stamps, 2020), (stamps, "no date")):
        with pytest.raises((TypeError, ValueError), match="cannot be compared|no date"):
            time_split(date=date, time_name="time")(df)
    with pytest.raises(ValueError, match="leaves the training part empty .0 training and 10 validation of 10 rows"):
        time_split(date=0, time_name="time")(toy)
    with pytest.raises(ValueError, match="leaves the validation part empty"):
        time_split(date=91, time_name="time")(toy)


def test_arguments_of_the_time_splits(toy):
    with pytest.raises(ValueError, match=r"share= or date=, not both \(got 0.2 and 5\)"):
        time_split(0.2, date=5)
    for share in (0, 1, -1, 2):
        with pytest.raises(ValueError, match="share must lie strictly between 0 and 1"):
            time_split(share)
    for moment in ("2014-01-01", pd.Timestamp("2014-01-01"), datetime.date(2014, 1, 1)):
        with pytest.raises(TypeError, match=r"the share of the rows.*: give a number .* or name a moment, date='2014"):
            time_split(moment)
    for n in (0, "1", 1.5):
        with pytest.raises(ValueError, match=f"n must be a whole number of at least 1, got {n!r}"):
            leave_last_out(n)
    for splitter in (leave_last_out(), time_split()):
        with pytest.raises(ValueError, match=r"needs the times of the events: pass time_name=, one of \['user'"):
            splitter(toy)
    with pytest.raises(KeyError, match="when"):
        leave_last_out(time_name="when")(toy)


@pytest.mark.parametrize(
    ("times", "error", "message"),
    [
        ([None, *range(9)], ValueError, r"column 'time' has 1 missing time\(s\)"),
        ([str(n) for n in range(10)], TypeError, "times must be timestamps or numbers"),  # "10" < "9" as text
    ],
)
@pytest.mark.parametrize("splitter", [leave_last_out(time_name="time"), time_split(time_name="time")])
def test_times_that_are_none(toy, splitter, times, error, message):
    with pytest.raises(error, match=message):
        splitter(toy.assign(time=times))


# --- windows ---------------------------------------------------------------------------------------------------------


def daily(*days, kind="stamps"):
    """An event a given day of 2020, of users and items of their own: as timestamps, or as whole numbers of a unit."""
    times = pd.Timestamp("2020-01-01") + pd.to_timedelta(pd.Series(days), unit="D")
    units = {"seconds": 10**9, "milliseconds": 10**6, "microseconds": 1000, "nanoseconds": 1}
    if kind != "stamps":
        times = times.dt.as_unit("ns").astype("int64") // units[kind]
    return pd.DataFrame({"user": range(len(days)), "item": range(len(days)), "time": times})


KINDS_OF_TIME = ["stamps", "seconds", "milliseconds", "microseconds", "nanoseconds"]


@pytest.mark.parametrize("kind", KINDS_OF_TIME)
def test_a_window_after_the_cut(kind):
    df = daily(0, 9.9, 10, 16.9, 17, 30, kind=kind)
    date = df["time"].iloc[2]
    for window in (7, "7D", pd.Timedelta(days=7), "168h"):
        split = time_split(date=date, window=window, time_name="time")(df)
        assert split.train.tolist() == [0, 1] and split.valid.tolist() == [2, 3]
        assert split.notes == ("left out 2 of 6 rows, 2 of 6 users, 2 of 6 items: in neither part",)
    whole = time_split(date=date, window=100, time_name="time")(df)  # longer than what is left
    assert whole.valid.tolist() == [2, 3, 4, 5] and whole.notes == ()
    assert time_split(0.7, window=1, time_name="time")(df).valid.tolist() == [2]
    assert time_split(date=date, window="7D").by == f"time_split(date={date!r}, window='7D')"


@pytest.mark.parametrize("kind", KINDS_OF_TIME)
def test_rolling_windows_by_hand(kind):
    # the last window ends with the event of day 30, and begins after day 23
    df = daily(0, 9, 9.1, 16, 16.1, 23, 23.1, 30, kind=kind)
    first, second, third = (splitter(df) for splitter in rolling_windows(3, "7D", time_name="time"))
    assert (first.train.tolist(), first.valid.tolist()) == ([0, 1], [2, 3])
    assert (second.train.tolist(), second.valid.tolist()) == ([0, 1, 2, 3], [4, 5])
    assert (third.train.tolist(), third.valid.tolist()) == ([0, 1, 2, 3, 4, 5], [6, 7])
    assert third.by == "rolling_windows(3 of 3, window='7D')" and third.notes == ()
    assert first.notes == ("left out 4 of 8 rows, 4 of 8 users, 4 of 8 items: in neither part",)
    cuts = window_cuts(df["time"], 3, 7)
    assert [time_split(date=cut, window=7, time_name="time")(df).valid.tolist() for cut in cuts] == [
        [2, 3],
        [4, 5],
        [6, 7],
    ]


@given(
    st.lists(st.integers(0, 60), min_size=5, max_size=40),
    st.integers(1, 4),
    st.integers(1, 9),
    st.sampled_from(KINDS_OF_TIME),
)
def test_windows_follow_one_another(days, n, window, kind):
    df = daily(*days, kind=kind)
    if max(days) - min(days) < n * window:
        with pytest.raises(ValueError, match="nothing lies before it to train on.*Use fewer or shorter windows"):
            window_cuts(df["time"], n, window)
        return
    end = max(days) - n * window
    for splitter in rolling_windows(n, window, time_name="time"):
        end += window
        expected = [j for j, day in enumerate(days) if end - window < day <= end]
        if not expected:
            with pytest.raises(
                ValueError, match=r"rolling_windows\(. of ., window=.\) leaves the validation part empty"
            ):
                splitter(df)
            continue
        split = splitter(df)
        assert split.valid.tolist() == expected
        assert split.train.tolist() == [j for j, day in enumerate(days) if day <= end - window]


def test_windows_of_cold_ids_and_in_dataloaders():
    df = daily(0, 1, 2, 20, 21, 22).assign(user=[1, 2, 1, 1, 3, 2], item=[1, 1, 2, 3, 1, 2])
    (splitter,) = rolling_windows(1, "7D", cold="drop")
    with pytest.warns(CollabWarning, match="left out 2 of 3 rows.*without a training row"):
        dls = CollabDataLoaders.from_df(df, feedback="implicit", time_name="time", splitter=splitter)
    assert len(dls.data.train) == 3 and dls.data.valid.to_df()["user"].tolist() == [2]


def test_windows_that_are_none(toy):
    df = daily(0, 10, 20)
    for window in (0, "week", "-1D", None):
        with pytest.raises(ValueError, match="window must be"):
            rolling_windows(2, window)
    with pytest.raises(ValueError, match="window must be positive, got 0"):
        time_split(window=0)
    with pytest.raises(ValueError, match="n must be a whole number of at least 1, got 0"):
        rolling_windows(0)
    with pytest.raises(
        ValueError, match="3 windows of 7 days, the last of them ending with the last event .2020-01-21"
    ):
        rolling_windows(3, time_name="time")[0](df)
    with pytest.raises(ValueError, match="needs the times of the events: pass time_name="):
        rolling_windows()[0](toy)
    with pytest.raises(
        ValueError, match=r"window='7D'\) leaves the validation part empty .2 training and 0 validation"
    ):
        time_split(date="2020-01-12", window="7D", time_name="time")(df)
    with pytest.raises(ValueError, match=r"date='2021-01-12', window=7\) leaves the validation part empty"):
        time_split(date="2021-01-12", window=7, time_name="time")(df)
    with pytest.raises(ValueError, match=r"date='2019-01-12', window=7\) leaves the training part empty"):
        time_split(date="2019-01-12", window=7, time_name="time")(df)
    with pytest.raises(ValueError, match=r"column 'time' has 1 missing time\(s\)"):
        rolling_windows(1, time_name="time")[0](df.assign(time=df["time"].where(df["user"] > 0)))
    with pytest.raises(TypeError, match="cannot be compared with column 'time' of datetime64"):
        time_split(date=5, window=7, time_name="time")(df)


def test_the_splitters_own_time_column_counts(toy):
    toy["reverse"] = -toy["time"]
    columns = Columns("user", "title", "rating", "time")
    assert leave_last_out()(toy, columns).valid.tolist() == [1, 4, 7]
    assert leave_last_out(time_name="reverse")(toy, columns).valid.tolist() == [3, 6, 9]


# --- folds and columns -----------------------------------------------------------------------------------------------


@given(st.integers(2, 60), st.integers(2, 7), st.integers(0, 100))
def test_k_fold_covers_each_row_once(n, n_folds, seed):
    df = pd.DataFrame({"u": range(n), "i": range(n)})
    if n < n_folds:
        with pytest.raises(ValueError, match="validation part empty"):
            [splitter(df) for splitter in k_fold(n_folds, seed=seed)]
        return
    splits = [splitter(df) for splitter in k_fold(n_folds, seed=seed)]
    assert np.array_equal(np.sort(np.concatenate([s.valid for s in splits])), np.arange(n))
    assert all(covers(s, n) for s in splits)
    sizes = [len(s.valid) for s in splits]
    assert len(sizes) == n_folds and max(sizes) - min(sizes) <= 1
    assert all(np.array_equal(a.valid, b(df).valid) for a, b in zip(splits, k_fold(n_folds, seed=seed), strict=True))


def test_k_fold_without_a_seed_still_makes_folds(planted):
    valid = np.concatenate([splitter(planted).valid for splitter in k_fold(4)])
    assert np.array_equal(np.sort(valid), np.arange(400))
    other = np.concatenate([splitter(planted).valid for splitter in k_fold(4)])
    assert not np.array_equal(valid, other)
    with pytest.raises(ValueError, match="n_folds must be at least 2, got 1"):
        k_fold(1)


@pytest.mark.parametrize(
    "marks",
    [
        [False, True, True, False],
        [0, 1, 1, 0],
        [0.0, 1.0, 1.0, 0.0],
        ["train", "valid", "test", "train"],
        pd.Categorical(["train", "validation", "test", "train"]),
        pd.array([False, True, True, False], dtype="boolean"),
    ],
)
def test_column_split(marks):
    df = pd.DataFrame({"u": range(4), "i": range(4), "part": marks})
    split = column_split("part")(df)
    assert split.train.tolist() == [0, 3] and split.valid.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("marks", "odd"),
    [
        ([0, 1, 2, 0], r"\[2\]"),
        (["train", "dev", "valid", "train"], r"\['dev'\]"),
        ([0, 1, np.nan, 0], r"\[nan\]"),
        (pd.array([True, None, False, True], dtype="boolean"), r"\[<NA>\]"),
    ],
)
def test_column_split_refuses_other_marks(marks, odd):
    df = pd.DataFrame({"u": range(4), "i": range(4), "part": marks})
    with pytest.raises(ValueError, match=f"split column 'part' must hold booleans.*it holds {odd}"):
        column_split("part")(df)
    with pytest.raises(KeyError, match="split column 'fold' not found"):
        column_split("fold")(df)


# --- cold ids, and what is left out ----------------------------------------------------------------------------------


def test_cold_rows_are_kept_or_dropped_and_counted(toy):
    toy["part"] = [0, 0, 1, 0, 0, 0, 1, 0, 1, 1]
    # valid: ann/Cabaret (Cabaret has no training row), cat/Cabaret (same), dan/Eraserhead (both cold), ann/Dune (warm)
    kept = column_split("part")(toy)
    assert kept.valid.tolist() == [2, 6, 8, 9] and kept.notes == ()
    dropped = column_split("part", cold="drop")(toy)
    assert dropped.valid.tolist() == [9] and dropped.train.tolist() == kept.train.tolist()
    counts = "left out 3 of 4 rows, 2 of 3 users, 2 of 3 items"
    assert dropped.notes == (f"valid: {counts}: user or item without a training row (cold)",)
    with pytest.raises(ValueError, match="leaves the validation part empty .6 training and 0 validation of 7 rows"):
        column_split("part", cold="drop")(toy.drop(index=[2, 6, 9]))


def test_a_cold_user_or_a_cold_item_is_enough():
    df = pd.DataFrame({"u": list("aabca"), "i": list("xyxyz")})
    for cold in (2, 4):  # user b is met in row 2 alone, item z in row 4 alone
        part = [int(row in (1, cold)) for row in range(5)]
        assert column_split("part", cold="drop")(df.assign(part=part)).valid.tolist() == [1]


@pytest.mark.parametrize(
    "make",
    [
        random_split,
        leave_last_out,
        time_split,
        lambda cold: next(k_fold(cold=cold)),
        lambda cold: column_split("x", cold=cold),
    ],
)
def test_cold_must_be_a_known_word(make):
    with pytest.raises(ValueError, match="cold must be 'keep' or 'drop', got 'warn'"):
        make(cold="warn")


@pytest.mark.parametrize("name", ["user", "title"])
def test_missing_ids_are_an_error_where_ids_matter(toy, name):
    toy.loc[3, name] = None
    with pytest.raises(ValueError, match=rf"'{name}' has 1 missing \(NaN\) id\(s\), first at row 3"):
        random_split(0.5, seed=0, cold="drop")(toy)
    if name == "user":
        with pytest.raises(ValueError, match="first at row 3"):
            leave_last_out(time_name="time")(toy)


def test_hand_written_splitters_are_checked(toy):
    def split(train, valid):
        return Splitter("mine", lambda df, columns: (train, valid, []))(toy)

    assert split(range(5), np.arange(5, 10)).notes == ()
    part = split([0, 1], [2])
    assert part.notes == ("left out 7 of 10 rows, 3 of 4 users, 2 of 5 items: in neither part",)
    with pytest.raises(TypeError, match="mine must give row positions .*got bool; use np.flatnonzero"):
        split(np.array([True, False] * 5), np.array([False, True] * 5))
    with pytest.raises(ValueError, match="from 8 to 10; the table has 10 rows"):
        split(range(8), [8, 9, 10])
    with pytest.raises(ValueError, match="from -1 to 0"):
        split([-1, 0], [3])
    with pytest.raises(ValueError, match="mine gives 2 row positions twice"):
        split([0, 1, 2, 2], [2, 3])
    for train, valid, which in ((range(10), [], "validation"), ([], range(10), "training")):
        with pytest.raises(ValueError, match=f"mine leaves the {which} part empty"):
            split(train, valid)


# --- items and users held out entirely -------------------------------------------------------------------------------


def test_all_rows_of_some_items_are_held_out_by_hand(toy):
    # The first of torch.randperm(5) with seed 27 is 4, the fifth title: Eraserhead, all that dan has rated.
    assert torch.randperm(5, generator=torch.Generator().manual_seed(27)).tolist()[:2] == [4, 1]
    split = cold_items(0.2, seed=27)(toy)
    assert split.valid.tolist() == [8] and covers(split, 10) and split.by == "cold_items(frac=0.2, seed=27)"
    assert split.notes == (
        "1 of 5 items are held out, with 1 of 10 rows",
        "1 valid rows belong to 1 users left without a training row, so they are cold too",
    )
    two = cold_items(0.4, seed=27)(toy)  # and Brazil
    assert two.valid.tolist() == [1, 5, 8] and two.notes[0] == "2 of 5 items are held out, with 3 of 10 rows"
    assert cold_items(0.01, seed=27)(toy).valid.tolist() == [8]  # one at least


def test_all_rows_of_some_users_are_held_out_by_hand(toy):
    assert torch.randperm(4, generator=torch.Generator().manual_seed(27))[0] == 3  # dan
    split = cold_users(0.25, seed=27)(toy)
    assert split.valid.tolist() == [8] and covers(split, 10) and split.by == "cold_users(frac=0.25, seed=27)"
    assert split.notes == (
        "1 of 4 users are held out, with 1 of 10 rows",
        "1 valid rows belong to 1 items left without a training row, so they are cold too",
    )


@given(st.integers(0, 1000), st.floats(0.01, 0.9))
def test_the_cold_are_a_share_of_the_ids_whatever_the_order_of_the_rows(seed, frac):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame({"u": rng.integers(0, 15, 60), "i": rng.choice(list("abcdefghijkl"), 60)})
    shuffled = df.sample(frac=1, random_state=seed)
    for make, column in ((cold_items, "i"), (cold_users, "u")):
        split, other = make(frac, seed=seed)(df), make(frac, seed=seed)(shuffled)
        cold = set(df[column].iloc[split.valid])
        assert covers(split, 60) and not cold & set(df[column].iloc[split.train])
        assert len(cold) == max(1, round(frac * df[column].nunique()))
        assert cold == set(shuffled[column].iloc[other.valid])


def test_cold_ids_without_an_order_and_draws_without_a_seed(planted):
    things = [frozenset([1]), frozenset([2]), frozenset([3]), frozenset([1])]  # `<` is no order of sets
    df = pd.DataFrame({"u": range(4), "i": things})
    first = torch.randperm(3, generator=torch.Generator().manual_seed(0))[0]
    assert cold_items(0.3, seed=0)(df).valid.tolist() == [[0, 3], [1], [2]][first]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        one, two = (cold_items(0.3)(planted).valid.tolist() for _ in range(2))
        torch.manual_seed(5)
        assert cold_items(0.3)(planted).valid.tolist() == one != two


def test_low_rated_rows_of_the_cold_are_left_out(toy):
    df, columns = with_ratings(toy)
    split = cold_items(0.4, seed=27, min_rating=3)(df, columns)  # Brazil: rated 3 and 1; Eraserhead: 3
    assert split.valid.tolist() == [1, 8] and split.train.tolist() == [0, 2, 3, 4, 6, 7, 9]
    assert split.notes[-1] == "valid: left out 1 of 3 rows, 1 of 3 users, 0 of 2 items: rated below 3"


@pytest.mark.parametrize("make", [cold_items, cold_users])
def test_bad_shares_of_the_cold(make, toy):
    for frac in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"frac must lie strictly between 0 and 1, got {frac}"):
            make(frac)
    with pytest.raises(ValueError, match="leaves the training part empty"):
        make(0.95, seed=0)(toy)
    with pytest.raises(ValueError, match=r"has 1 missing \(NaN\) id\(s\), first at row 3"):
        make(0.5, seed=0)(toy.assign(user=toy["user"].where(toy.index != 3)))
    with pytest.raises(TypeError, match="seed must be a whole number"):
        make(0.5, seed=0.5)(toy)


# --- what is to be found was liked; ties -----------------------------------------------------------------------------


def with_ratings(toy):
    return toy, Columns("user", "title", "rating", "time")


def test_min_rating_leaves_low_rows_out_of_the_validation_part_alone(toy):
    df, columns = with_ratings(toy)
    # last rows: ann/Brazil (3), bob/Dune (2), cat/Alien (5)
    split = leave_last_out(min_rating=3)(df, columns)
    assert split.valid.tolist() == [1, 7] and split.train.tolist() == [0, 2, 3, 5, 6, 8, 9]  # row 4 is in neither
    assert split.notes == (
        "1 of 4 users have no row in valid, as they have 1 or fewer",
        "valid: left out 1 of 3 rows, 1 of 3 users, 1 of 3 items: rated below 3",
    )
    assert leave_last_out(min_rating=1)(df, columns).notes == leave_last_out()(df, columns).notes
    assert time_split(0.3, min_rating=3)(df, columns).valid.tolist() == [7, 8]
    random = random_split(0.5, seed=0)(df, columns)
    liked = random_split(0.5, seed=0, min_rating=4)(df, columns)
    assert liked.valid.tolist() == [row for row in random.valid if df["rating"][row] >= 4] != random.valid.tolist()
    assert np.array_equal(liked.train, random.train) and (df["rating"].iloc[liked.train] < 4).any()


def test_min_rating_and_cold_rows_are_counted_one_after_the_other(toy):
    df, columns = with_ratings(toy)
    # at or after 50: bob/Dune 2, cat/Cabaret 2, cat/Brazil 1, cat/Alien 5, dan/Eraserhead 3; cat and dan are cold
    split = time_split(date=50, min_rating=2, cold="drop")(df, columns)
    assert split.valid.tolist() == [4]
    assert split.notes == (
        "valid: left out 1 of 5 rows, 0 of 3 users, 1 of 5 items: rated below 2",
        "valid: left out 3 of 4 rows, 2 of 3 users, 3 of 4 items: user or item without a training row (cold)",
    )


def test_min_rating_needs_ratings_and_leaves_something(toy):
    with pytest.raises(ValueError, match="min_rating=4 needs the ratings: pass rating_name=, one of "):
        leave_last_out(time_name="time", min_rating=4)(toy)
    df, columns = with_ratings(toy)
    with pytest.raises(ValueError, match="leaves the validation part empty .7 training and 0 validation of 10 rows"):
        leave_last_out(min_rating=6)(df, columns)


def test_events_at_the_time_of_the_cut_are_counted():
    # a: 7 on both sides; b: all at 2; c: the tie lies within training; d: no validation row; e: none
    df = pd.DataFrame(
        {"u": list("aaabbbcccdee"), "i": range(12), "t": [7, 7, 1, 2, 2, 2, 3, 3, 4, 5, 8, 9]},
    )
    split = leave_last_out(time_name="t")(df)
    assert split.valid.tolist() == [1, 5, 8, 11]
    assert split.notes == (
        "1 of 5 users have no row in valid, as they have 1 or fewer",
        "2 users have events at one time on both sides of the cut; table order decided",
    )
    two = leave_last_out(2, time_name="t")(df)  # a: 7 7 | 1; b tied; c: 4 3 | 3 tied
    assert two.valid.tolist() == [0, 1, 4, 5, 7, 8]
    assert two.notes[1] == "2 users have events at one time on both sides of the cut; table order decided"
    assert leave_last_out(time_name="t")(df.assign(t=range(12))).notes == split.notes[:1]


def test_all_events_at_one_time(toy):
    still = toy.assign(time=7)
    with pytest.raises(ValueError, match=r"time_split\(share=0.2\) leaves the training part empty"):
        time_split(time_name="time")(still)
    split = leave_last_out(time_name="time")(still)
    assert split.valid.tolist() == [4, 7, 9]  # the last in the table
    assert split.notes[1] == "3 users have events at one time on both sides of the cut; table order decided"


def test_one_event_a_user():
    df = pd.DataFrame({"u": list("abc"), "i": [1, 2, 3], "t": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"leave_last_out\(n=1\) leaves the validation part empty"):
        leave_last_out(time_name="t")(df)
