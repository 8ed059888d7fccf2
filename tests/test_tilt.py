"""Lists that lean to what few know, or to what is new: every number by hand, or by brute force over all scores."""

import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_ranker, ratings
from hypothesis import given
from hypothesis import strategies as st

from collabkit import EASE, CollabDataLoaders, CollabWarning, Popularity, SampledCandidates, collab_learner, splits
from collabkit.data.checks import in_days
from collabkit.data.dataset import Dataset
from collabkit.data.interactions import Columns, Interactions
from collabkit.retrieval import ExactIndex
from collabkit.retrieval.tilt import Tilt, tilted

DAY = 86_400


def growing(n_users=60, n_items=40, n_events=1200, seed=0):
    """Clicks in the course of 400 days on items of the user's own parity mostly; item j appears on day 9 j.

    Items of the first days are met more often, as there is more time for it.
    """
    rng = np.random.default_rng(seed)
    day = np.sort(rng.uniform(20, 400, n_events))
    user = rng.integers(0, n_users, n_events)
    item = (rng.random(n_events) * np.minimum(day / 9, n_items)).astype(int)
    item -= (item % 2 != user % 2) & (rng.random(n_events) < 0.9) & (item > 0)
    df = pd.DataFrame({"user": user, "item": item, "time": (day * DAY).astype(np.int64)})
    return df.drop_duplicates(["user", "item"], ignore_index=True)


def growing_dls(df=None, **kwargs):
    df = growing() if df is None else df
    splitter = splits.time_split(0.15, cold="drop")
    options = {"time_name": "time", "feedback": "implicit", "splitter": splitter, "seed": 0, "bs": 256, **kwargs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)  # cold rows, counted
        return CollabDataLoaders.from_df(df, **options)


@pytest.fixture(scope="module")
def model():
    return EASE(l2=20).fit(growing_dls())


def of_user(runs, user):
    return runs.of(torch.tensor([user])).values.numpy()


def adjusted(rec, novelty_weight, half_life, candidates=None):
    """Every user's scores `(n_users, c)` as ranked, and as the model gives them, by the formula of `Tilt`."""
    data = rec.data
    items = torch.arange(1, data.n_items) if candidates is None else candidates
    with torch.inference_mode():
        own = rec.model.scorer(items)(rec._asker()(torch.arange(data.n_users))).double().cpu().numpy()
    train = data.train.to_df()
    name = data.columns.item
    ids = data.items.decode(np.arange(1, data.n_items))
    have = train.groupby(name)[data.columns.user].nunique().reindex(ids).fillna(1).clip(lower=1).to_numpy()
    bits = -np.log2(have / train[data.columns.user].nunique())
    z = (bits - bits.mean()) / bits.std()
    every = pd.concat([part.to_df() for part in (data.train, data.valid)])
    first = every.groupby(name)["time"].min().reindex(ids).to_numpy()
    fresh = 0 if half_life is None else 0.5 ** ((every["time"].max() - first) / DAY / half_life)
    term = (novelty_weight * z + fresh)[items.numpy() - 1]
    return own + own.std(axis=1, keepdims=True) * term, own


# --- the terms, by hand ----------------------------------------------------------------------------------------------


def by_hand():
    # a: 4 of 4 users, since day 1; b: two users, one of them twice, since day 3; c: one, since day 5
    rows = [(1, "a", 1), (2, "a", 2), (3, "a", 2), (4, "a", 5), (1, "b", 3), (2, "b", 4), (2, "b", 5), (3, "c", 5)]
    df = pd.DataFrame(rows, columns=["user", "item", "day"])
    return Interactions.from_df(df.assign(time=df["day"] * DAY), Columns("user", "item", time="time"))


def test_terms_by_hand():
    data = Dataset(by_hand())
    assert data.train.information[1:].tolist() == [0, 1, 2]  # -log2 of 4/4, 2/4, 1/4
    z = 1.5**0.5  # of the bits 0, 1, 2: mean 1, standard deviation sqrt(2/3)
    assert Tilt(2).offsets(data)[1:].tolist() == pytest.approx([-2 * z, 0, 2 * z])
    assert data.item_ages(is_valid=False)[1:].tolist() == [4, 2, 0]
    assert Tilt(half_life=2).offsets(data)[1:].tolist() == pytest.approx([1 / 4, 1 / 2, 1])
    assert Tilt(-1, "48h").offsets(data)[1:].tolist() == pytest.approx([1 / 4 + z, 1 / 2, 1 - z])
    assert Tilt(half_life=2, freshness_weight=-3).offsets(data)[1:].tolist() == pytest.approx([-3 / 4, -3 / 2, -3])
    assert Tilt().offsets(data) is None


def test_what_is_known_of_the_validation_part():
    data = by_hand()
    split = Dataset(data.take(range(5)), data.take([5, 6, 7]))
    # as of the validation rows: a since day 1, b since 3, the last event at 5; c unheard of, as new as can be
    assert split.item_ages(is_valid=True)[1:].tolist() == [4, 2, 0]
    early = Dataset(data.take([0, 1, 2]), data.take([4, 5, 7]))  # the last training event at day 2
    assert early.item_ages(is_valid=True)[1:].tolist() == [1, 0, 0]
    assert early.item_ages(is_valid=False)[1:].tolist() == [4, 2, 0]
    long_ago = Interactions.from_df(
        pd.DataFrame({"user": [1, 2], "item": ["a", "b"], "time": [-10 * DAY, -DAY]}),
        Columns("user", "item", time="time"),
    )  # before 1970 the largest number lies farther away than an int64 holds
    assert Dataset(long_ago.take([0]), long_ago.take([1])).item_ages(is_valid=True)[1:].tolist() == [0, 0]


def test_items_known_to_equally_many_are_not_told_apart():
    df = pd.DataFrame({"user": [1, 2], "item": ["a", "b"]})
    data = Dataset(Interactions.from_df(df, Columns("user", "item")))
    assert Tilt(3).offsets(data).tolist() == [0, 0, 0]


def test_scores_of_no_candidate_do_not_count():
    got = tilted(torch.tensor([[1.0, 3.0, -torch.inf], [10.0, 30.0, 20.0]]), torch.tensor([0.0, 1.0, 1.0]))
    assert got[0].tolist() == [1, 4, -torch.inf] and got[1].tolist() == pytest.approx([10, 38.164966, 28.164966])


@pytest.mark.parametrize(("span", "days"), [(7, 7), (0.5, 0.5), ("7D", 7), ("12h", 0.5), (pd.Timedelta("1D"), 1)])
def test_spans_of_days(span, days):
    assert in_days("window", span) == days
    assert Tilt(half_life=span).half_life == days


@pytest.mark.parametrize("span", [0, -1, "-7D", "7", "week", np.nan, np.inf, True, None, [7], pd.NaT])
def test_spans_that_are_none(span):
    with pytest.raises(ValueError, match=r"window must be (positive|a number of days, a pd.Timedelta or a text)"):
        in_days("window", span)


# --- recommend -------------------------------------------------------------------------------------------------------


@given(k=st.integers(1, 45), filter_seen=st.booleans(), user=st.integers(0, 59))
def test_without_a_weight_nothing_changes(model, k, filter_seen, user):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)  # fewer items than k
        plain = model.recommend([user], k, filter_seen=filter_seen)
        for zero in (0, 0.0, -0.0):
            again = model.recommend([user], k, filter_seen=filter_seen, novelty_weight=zero, half_life=None)
            pd.testing.assert_frame_equal(plain, again, check_exact=True)


@pytest.mark.parametrize(("weight", "half_life"), [(0.7, None), (0, 50), (-0.5, 20), (0.3, 100)])
@pytest.mark.parametrize("block", ["512MB", 5000])
def test_ranks_are_those_of_the_sums_and_scores_the_models_own(model, weight, half_life, block):
    rec = model.recommender
    options = {"novelty_weight": weight, "half_life": half_life}
    got = rec.recommend(k=5, max_memory=block, **options)
    sums, own = adjusted(rec, weight, half_life)
    for idx in range(1, rec.data.n_users):
        mine = got[got["user"] == rec.users[idx]]
        hidden = of_user(rec.data.seen, idx) - 1
        row = sums[idx].copy()
        row[hidden] = -np.inf
        items = rec.items.encode(mine["item"]) - 1
        assert mine["rank"].tolist() == [1, 2, 3, 4, 5]
        assert row[items] == pytest.approx(np.sort(row)[::-1][:5], abs=1e-5)
        assert mine["score"].to_numpy() == pytest.approx(own[idx, items], abs=1e-5)


def test_among_chosen_items_and_for_histories(model):
    rec, some = model.recommender, list(range(0, 35, 3))
    got = rec.recommend([5], 4, items=some, filter_seen=False, novelty_weight=1.0, half_life=30)
    sums, _ = adjusted(rec, 1.0, 30, torch.from_numpy(np.sort(rec.items.encode(some))))
    row = sums[rec.users.encode([5])[0]]
    assert [some[j] for j in np.argsort(-row)[:4]] == got["item"].tolist()
    plain = rec.recommend(history=[2, 4, 6], k=5)
    new = rec.recommend(history=[2, 4, 6], k=5, half_life=100, freshness_weight=10)
    assert new["item"].mean() > plain["item"].mean() + 5  # later items have larger numbers


def test_ratings_of_a_network_too():
    df = ratings().rename(columns={"timestamp": "time"})
    learn = make_ranker("ncf", growing_dls(df[["user", "title", "time"]]))
    learn.model.trained = True
    plain, novel = (learn.recommend([1, 2], 20, novelty_weight=w) for w in (0, 1e6))
    bits = pd.Series(learn.dls.data.train.information.numpy()[1:], learn.dls.data.items.ids)
    assert novel["title"].map(bits).mean() > plain["title"].map(bits).mean() + 0.5
    dls = CollabDataLoaders.from_df(df, user_name="user", item_name="title", rating_name="rating", seed=0)
    learn = collab_learner(dls, n_factors=4, y_range=(0, 5.5))
    learn.model.trained = True
    got = learn.recommend([1], 10, novelty_weight=1)
    assert got["score"].tolist() == pytest.approx(learn.predict(1, got["title"]).tolist(), abs=1e-5)


def test_what_is_refused(model):
    rec = model.recommender
    for options, message in (
        ({"novelty_weight": np.nan}, "novelty_weight must be a finite number, got nan"),
        ({"novelty_weight": "high"}, "novelty_weight must be a finite number, got 'high'"),
        ({"freshness_weight": 2}, "freshness_weight=2 needs half_life="),
        ({"half_life": 9, "freshness_weight": np.inf}, "freshness_weight must be a finite number, got inf"),
        ({"half_life": 0}, "half_life must be positive, got 0"),
        ({"half_life": "long"}, "half_life must be a number of days, a pd.Timedelta or a text like '7D', got 'long'"),
    ):
        with pytest.raises(ValueError, match=message):
            rec.recommend(k=2, **options)
        with pytest.raises(ValueError, match=message):
            rec.evaluate(**options)
    bare = Popularity().fit(CollabDataLoaders.from_df(growing(), feedback="implicit", seed=0))
    assert len(bare.recommend([1], 3, novelty_weight=1)) == 3
    for ask in (bare.recommend, bare.evaluate):
        with pytest.raises(ValueError, match="age of items needs the times of the events.*time_name="):
            ask(half_life=30)


def test_an_index_is_no_place_for_it():
    learn = make_ranker("dot", growing_dls())
    learn.model.trained = True
    rec = learn.recommender
    rec.use_index(ExactIndex)
    assert len(rec.recommend([1], 3, novelty_weight=0)) == 3
    for options in ({"novelty_weight": 1}, {"half_life": 3}):
        with pytest.raises(ValueError, match=r"an index finds only those with the best scores.*use_index\(None\)"):
            rec.recommend([1], 3, **options)
    rec.use_index(None)
    assert len(rec.recommend([1], 3, novelty_weight=1)) == 3


def test_scores_that_are_nan_still_say_so():
    learn = make_ranker("dot", growing_dls())
    learn.model.trained = True
    with torch.no_grad():
        learn.model.i_weight.weight[3:] = torch.nan
    for options in ({}, {"novelty_weight": 1}):
        with pytest.raises(ValueError, match="scores are NaN"):
            learn.recommend([1], 3, **options)
        with pytest.raises(ValueError, match="scores are NaN"):
            learn.evaluate(**options)


def test_a_loaded_recommender_answers_the_same(model, tmp_path):
    options = {"k": 5, "novelty_weight": 0.5, "half_life": 40}
    loaded = type(model.recommender).load(model.export(tmp_path / "model"))
    pd.testing.assert_frame_equal(loaded.recommend(**options), model.recommend(**options))


# --- what it does, and that evaluate sees it -------------------------------------------------------------------------


def listed(model, **options):
    """Mean self-information in bits of the listed items, and the share of those that are younger than 100 days."""
    table, data = model.recommend(k=5, **options), model.data
    idx = data.items.encode(table["item"])
    return data.train.information.numpy()[idx].mean(), (data.item_ages(is_valid=False).numpy()[idx] < 100).mean()


def test_weight_buys_novelty_and_half_life_new_items(model):
    novelty = [listed(model, novelty_weight=w)[0] for w in (-1, 0, 0.25, 0.5, 1, 3)]
    assert all(a < b for a, b in pairwise(novelty))
    new = [listed(model)[1], *(listed(model, half_life=30, freshness_weight=w)[1] for w in (1, 3, 10))]
    assert all(a < b for a, b in pairwise(new)) and new[-1] > new[0] + 0.3


def test_evaluate_shows_both_sides_of_it():
    dls = CollabDataLoaders.from_df(ratings(), user_name="user", item_name="title", feedback="implicit", seed=0)
    model = EASE().fit(dls)
    table = {w: model.evaluate(metrics=["NDCG", "Novelty"], n_boot=2, novelty_weight=w)["value"] for w in (0, 1, 2)}
    for less, more in pairwise(table.values()):
        assert more["Novelty@10"] > less["Novelty@10"] + 0.1 and more["NDCG@10"] < less["NDCG@10"] - 0.02


def test_evaluate_measures_the_lists_that_recommend_shows(model):
    rec = model.recommender
    for options in ({"novelty_weight": 1.0}, {"half_life": 30}, {"novelty_weight": -1.0, "half_life": 30}):
        test = growing(seed=5)
        pairs = pd.MultiIndex.from_frame(pd.concat([part.to_df() for part in rec.data.parts[:2]])[["user", "item"]])
        test = test[~pd.MultiIndex.from_frame(test[["user", "item"]]).isin(pairs)]
        got = rec.evaluate(test, k=4, metrics=["HitRate", "Novelty"], n_boot=2, **options)["value"]
        lists = rec.recommend(test["user"].unique(), 4, **options).merge(test, how="left", on=["user", "item"])
        assert got["HitRate@4"] == pytest.approx(lists["time"].notna().groupby(lists["user"]).any().mean())
        bits = rec.data.train.information.numpy()[rec.items.encode(lists["item"])]
        assert got["Novelty@4"] == pytest.approx(bits.mean())  # all lists are full


def test_the_baseline_and_rating_errors_do_not_lean(trained):
    plain, novel = (trained.evaluate(n_boot=2, novelty_weight=w) for w in (0, 2))
    assert plain["popularity"].equals(novel["popularity"])
    assert plain.loc[["RMSE", "MAE"]].equals(novel.loc[["RMSE", "MAE"]])
    assert (plain["value"] != novel["value"]).any()


def test_lists_of_each_users_own_candidates(model):
    """The standard deviation is then that of the user's own candidates."""
    rec = model.recommender
    task = rec.task(candidates=SampledCandidates(9, seed=1))
    assert len(set(task.allowed.lengths[task.unique].tolist())) > 1  # lists of unequal lengths
    answer = task.rank(rec.model, ["MRR"], [20], tilt=Tilt(1.5, 60))
    histories = rec.data.histories
    offsets = Tilt(1.5, 60).offsets(rec.data, is_valid=True).double().numpy()
    with torch.inference_mode():
        every = rec.model.scorer(torch.arange(1, rec.data.n_items))
        own = every(rec.data.asker(rec.model.needs, None, histories)(torch.arange(rec.data.n_users))).double().numpy()
    for pair, rank in enumerate(answer.ranks):
        user, item = int(task.users[pair]), int(task.items[pair])
        mine = of_user(task.allowed, user)
        row = own[user, mine - 1]
        row = row + row.std() * offsets[mine]
        assert rank == (row >= row[mine == item] - 1e-9).sum()


# --- by the age of the item ------------------------------------------------------------------------------------------


def aged(test_time=True):
    """Items a, b, c since days 0, 10 and 20; the model is popularity: a 3 rows, b 2, c 1."""
    rows = [(1, "a", 0), (2, "a", 11), (3, "a", 12), (1, "b", 10), (2, "b", 13), (1, "c", 20)]
    held = [(4, "a", 30), (5, "b", 31), (6, "c", 32), (6, "c", 25)]
    df = pd.DataFrame([*rows, *held], columns=["user", "item", "day"])
    df["time"] = df["day"] * DAY
    data = Interactions.from_df(df, Columns("user", "item", time="time"))
    train, test = data.take(range(6)), data.take(range(6, 10))
    return Popularity().fit(Dataset(train, test)), df.iloc[6:]


def test_by_item_age():
    model, test = aged()
    table = model.evaluate(by="item_age", metrics="MRR", k=3, n_boot=2)
    assert table.index.names == ["decile", "from", "to", "metric"]
    ages = {low: value for (_, low, _, _), value in table["value"].items()}
    assert ages == {5: 1 / 3, 21: 1 / 2, 30: 1}  # c at day 25, its first row; b at 31; a at 30
    assert table["n"].tolist() == [1, 1, 1] and table.index.get_level_values("to").tolist() == [5, 21, 30]
    given_only = model.evaluate(by="item_age", metrics="MRR", k=3, n_boot=2, candidates=["a", "b"])
    assert given_only.index.get_level_values("from").tolist() == [21, 30]
    # in a final test the validation part is known too: c since day 25 at the latest, and it stays day 20
    late = test.assign(user=[4, 5, 6, 6], item=["b", "c", "a", "a"], time=40 * DAY)
    final = model.evaluate(late[["user", "item", "time"]], by="item_age", metrics="MRR", k=3, n_boot=2)
    assert final.index.get_level_values("from").tolist() == [20, 30, 40]


def test_an_item_whose_first_training_row_comes_later_is_new():
    df = pd.DataFrame({"user": [1, 2, 3, 4], "item": ["a", "b", "a", "c"], "time": np.array([5, 1, 2, 4]) * DAY})
    data = Interactions.from_df(df, Columns("user", "item", time="time"))
    model = Popularity().fit(Dataset(data.take([0, 1]), data.take([2, 3])))
    table = model.evaluate(by="item_age", metrics="MRR", n_boot=2)
    assert table.index[0][:3] == (1, 0, 0) and table["n"].tolist() == [2]


def test_age_needs_times():
    model, test = aged()
    with pytest.raises(ValueError, match="age of items is that at the evaluated rows.*the column 'time'"):
        model.evaluate(test[["user", "item"]], by="item_age", metrics="MRR")
    bare = Popularity().fit(CollabDataLoaders.from_df(growing(), feedback="implicit", seed=0))
    with pytest.raises(ValueError, match="age of items needs the times of the events.*time_name="):
        bare.evaluate(by="item_age", metrics="MRR")
    with pytest.raises(ValueError, match="by must be None or one of .*'item_age'"):
        model.evaluate(by="item age")
    with pytest.raises(ValueError, match="Novelty describe.*by='item_age' has none"):
        model.evaluate(by="item_age", metrics="Novelty")
