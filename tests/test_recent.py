"""`recommend(recent=)`: what known users did since the training. What all models share is in `contract.py`."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from collabkit import EASE, CollabDataLoaders, CollabWarning, CollFilter, NextItem, Popularity, collab_learner, splits
from collabkit.data.query import Query
from collabkit.data.runs import Runs
from collabkit.models import DotModel, Side, TableSide
from collabkit.retrieval.index import ExactIndex

STEPS = pd.DataFrame(
    [(f"u{user}", f"i{(3 * user + t) % 20:02d}", t) for user in range(40) for t in range(8)],
    columns=["user", "item", "time"],
)  # everybody walks up the items


def dataloaders(df=STEPS, **options):
    options = {"feedback": "implicit", "history": 10, "splitter": splits.leave_last_out(), "seed": 0, **options}
    return CollabDataLoaders.from_df(df, user_name="user", item_name="item", time_name="time", **options)


@pytest.fixture(scope="module")
def walker():
    return NextItem(l2=1.0).fit(dataloaders()).recommender


@pytest.fixture(scope="module")
def rated():
    rng = np.random.default_rng(0)
    df = pd.DataFrame({"user": np.repeat(np.arange(30), 12), "item": rng.integers(0, 25, 360)})
    df = df.drop_duplicates().assign(rating=lambda d: 1.0 + 4 * ((d["user"] + d["item"]) % 2), time=lambda d: d.index)
    names = {"user_name": "user", "item_name": "item", "rating_name": "rating", "time_name": "time"}
    dls = CollabDataLoaders.from_df(df, **names, splitter=splits.random_split(0.2, seed=0), seed=0, bs=32)
    learn = collab_learner(dls, n_factors=4, y_range=(0.5, 5.5), seed=0)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(8, 3e-2)
    return learn


def recent(*rows, columns=("user", "item", "time")):
    return pd.DataFrame(rows, columns=list(columns))


def first(rec, user, events, **options):
    return rec.recommend(user, k=1, recent=events, **options)["item"].iloc[0]


def test_the_latest_event_decides_what_comes_next(walker):
    assert walker.recommend("u0", k=1)["item"].tolist() == ["i08"]
    assert first(walker, "u0", recent(("u0", "i12", 9), ("u0", "i15", 10))) == "i16"


def test_times_decide_where_there_are_some(walker):
    late, early = recent(("u0", "i15", 10), ("u0", "i12", 9)), recent(("u0", "i15", -2), ("u0", "i12", -1))
    assert first(walker, "u0", late) == "i16"
    assert first(walker, "u0", late.drop(columns="time")) == "i13"  # the order of the rows
    assert first(walker, "u0", early) == "i08"  # they came before all that was known
    tied = recent(("u0", "i15", 7), ("u0", "i12", 7))
    assert first(walker, "u0", tied) == "i13"  # after what is known of that moment, as they stand


def test_events_follow_those_of_a_user_who_was_folded_in_without_times(walker):
    walker = NextItem(l2=1.0).fit(dataloaders()).recommender
    walker.fold_in(recent(("new", "i03", 100), ("new", "i04", 101)))
    assert first(walker, "new", recent(("new", "i15", 5), ("new", "i12", 4))) == "i16"
    assert first(walker, "u0", recent(("u0", "i15", -1))) == "i08"


def test_who_is_asked(walker):
    events = recent(("u5", "i12", 9), ("u1", "i02", 9), ("u5", "i15", 10))
    assert walker.recommend(k=1, recent=events)["user"].tolist() == ["u5", "u1"]
    u5 = [f"i{j:02d}" for j in (15, 16, 17, 18, 19, 0, 1, 2, 12, 15)]
    both = walker.recommend(["u2", "u5", "u2"], k=1, recent=events)
    assert both["user"].tolist() == ["u2", "u5", "u2"]
    assert both["item"].tolist() == ["i14", walker.recommend(history=u5, k=1)["item"].iloc[0], "i14"]
    assert len(walker.recommend(["nobody", "u5"], k=1, recent=events, unknown="default")) == 2
    with pytest.raises(KeyError, match="nobody"):
        walker.recommend(["nobody", "u5"], recent=events)


def test_hidden_are_the_seen_ones_and_the_recent_ones(walker):
    events = recent(("u0", "i15", 10), ("u0", "i16", 9))
    seen = {f"i{j:02d}" for j in range(8)}
    assert set(walker.recommend("u0", k=10, recent=events)["item"]).isdisjoint({*seen, "i15", "i16"})
    assert first(walker, "u0", events, filter_seen=False) == "i16"
    assert first(walker, "u0", events, exclude=recent(("u0", "i17", 0))) != "i17"
    assert first(walker, "u0", events, exclude=recent(("u0", "i16", 0)), filter_seen=False) != "i16"
    assert first(walker, "u0", events, items=["i02", "i17", "i16", "i15"]) == "i17"


def test_models_without_order_take_each_pair_once():
    model = EASE(l2=5).fit(dataloaders())
    events = recent(("u0", "i15", 10), ("u0", "i15", 11), ("u0", "i03", 12))
    with pytest.warns(CollabWarning, match="1 repeat a"):
        found = model.recommend("u0", recent=events)
    once = model.recommend(history=[f"i{j:02d}" for j in (*range(8), 15)])
    assert found["item"].tolist() == once["item"].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollabWarning)
        NextItem(l2=1.0).fit(dataloaders()).recommend("u0", k=3, recent=events)


def test_a_rating_given_again_counts_in_the_place_of_the_first(rated):
    known = pd.concat([part.to_df() for part in (rated.dls.data.train, rated.dls.data.valid)])
    mine = known[known["user"] == 3]
    flipped = mine.assign(rating=6 - mine["rating"], time=1000)
    found = rated.recommend(3, k=5, recent=flipped)
    alike = rated.recommend(history=flipped.drop(columns="time"), k=5)
    assert found["item"].tolist() == alike["item"].tolist()
    assert np.allclose(found["score"], alike["score"], atol=1e-5)
    assert found["item"].tolist() != rated.recommend(3, k=5)["item"].tolist()


def test_features_of_the_user_stay():
    users = pd.DataFrame({"user": STEPS["user"].unique()}).assign(side=lambda d: np.arange(len(d)) % 2)
    dls = dataloaders(users=users, user_features={"side": "categorical"}, history=None)
    learn = collab_learner(dls, model=CollFilter, n_factors=4, seed=0)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-2)
    rec, at = learn.recommender, torch.from_numpy(learn.recommender.users.encode(["u0"]))
    whole = Runs.group([0] * 9, [*range(1, 9), 16], 1, width=21)
    own, nobodys = (rec.fold.rows(whole, idx) for idx in (at, None))
    with torch.inference_mode():
        logits = learn.model.scorer(torch.arange(1, 21))(Query(at, rows=tuple(own)))[0]
    found = rec.recommend("u0", k=3, recent=recent(("u0", "i15", 9)), filter_seen=False)
    assert np.allclose(found["score"], logits.topk(3).values, atol=1e-5)
    assert not torch.equal(own[0], nobodys[0])


def test_a_search_index_is_asked_too(walker):
    learn = collab_learner(dataloaders(history=None), model=CollFilter, n_factors=4, seed=0)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-2)
    events = recent(("u0", "i15", 9), ("u3", "i02", 9))
    exact = learn.recommend(["u0", "u1"], k=5, recent=events)
    learn.recommender.use_index(ExactIndex)
    assert learn.recommend(["u0", "u1"], k=5, recent=events)["item"].tolist() == exact["item"].tolist()
    assert len(learn.recommend([], k=5, recent=events)) == 0


# --- what is no good -------------------------------------------------------------------------------------------------


def test_unknown_items_are_left_out_and_counted(walker):
    events = recent(("u0", "i15", 10), ("u0", "nothing", 11), ("u1", "nowhere", 12))
    with pytest.warns(CollabWarning, match="of 3 rows of recent= 2 name items that the model does not know"):
        found = walker.recommend(["u0", "u1"], k=1, recent=events)
    assert found["item"].tolist() == ["i16", walker.recommend("u1", k=1)["item"].iloc[0]]


def test_unknown_users_are_refused(walker):
    with pytest.raises(KeyError, match=r"1 user\(s\) of recent= are unknown to the model, e.g. 'new': .* history="):
        walker.recommend("u0", recent=recent(("u0", "i15", 10), ("new", "i15", 10)))


def test_an_empty_table_changes_nothing(walker, rated):
    for rec, user in ((walker, "u0"), (rated, 3)):
        columns = [*rec.columns.present] if rec is walker else ["user", "item", "rating"]
        empty = pd.DataFrame(columns=columns)
        assert rec.recommend(user, k=3, recent=empty)["item"].tolist() == rec.recommend(user, k=3)["item"].tolist()
        with pytest.raises(ValueError, match="names no users"):
            rec.recommend(recent=empty)
        with pytest.raises(KeyError, match="lacks the column"):
            rec.recommend(user, recent=empty.drop(columns="item"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rating": 9.0}, ValueError, r"1 rating\(s\) of recent= lie outside y_range"),
        ({"rating": np.nan}, ValueError, "missing"), ({"rating": "good"}, TypeError, "ratings must be numbers"),
        ({"time": np.nan}, ValueError, "missing time"), ({"time": 0.5}, ValueError, "fractional"),
        ({"user": np.nan}, ValueError, "missing"), ({"item": "a text"}, TypeError, "convert them"),
    ],
)  # fmt: skip
def test_odd_values(rated, change, error, message):
    rows = pd.DataFrame({"user": [3], "item": [4], "rating": [5.0], "time": [1000]}).assign(**change)
    with pytest.raises(error, match=message):
        rated.recommend(3, recent=rows)


def test_odd_arguments(walker, rated):
    with pytest.raises(KeyError, match=r"recent= lacks the column\(s\) \['rating'\]"):
        rated.recommend(3, recent=pd.DataFrame({"user": [3], "item": [4]}))
    with pytest.raises(TypeError, match="recent= must be a DataFrame"):
        walker.recommend("u0", recent=["i15"])
    with pytest.raises(ValueError, match="history= is for new users"):
        walker.recommend(history=["i01"], recent=recent(("u0", "i15", 10)))


class Averages(DotModel):
    """Users that are computed from the training data alone."""

    def __init__(self, n_users, n_items, n_factors=4):
        super().__init__(Side("user", n_users, [n_factors]), TableSide("item", n_items, [n_factors]))
        self.fixed = torch.nn.Linear(1, n_factors)

    def user_rows(self, query):
        return (self.fixed(query[..., None].float()),)

    def config(self):
        return {}


def test_who_can_neither_look_nor_fold_in_refuses():
    learn = collab_learner(dataloaders(history=None), model=Averages, seed=0)
    for asked in ({"history": ["i01"]}, {"users": "u0", "recent": recent(("u0", "i15", 9))}):
        with pytest.raises(TypeError, match="folding in needs a model with rows for users"):
            learn.recommend(**asked)


def test_popularity_hides_what_was_met():
    model = Popularity().fit(dataloaders())
    best = model.recommend("u0", k=1)["item"].iloc[0]
    assert first(model, "u0", recent(("u0", best, 9))) != best


# --- what follows an item --------------------------------------------------------------------------------------------


def test_what_follows_an_item(walker):
    found = walker.next_items("i07", k=3)
    assert list(found) == ["item", "rank", "score"] and found["item"].iloc[0] == "i08"
    several = walker.next_items(["i07", "i19", "i07"], k=1)
    assert several["after_item"].tolist() == ["i07", "i19", "i07"] and several["item"].tolist() == ["i08", "i00", "i08"]
    with pytest.warns(CollabWarning, match="fewer than k=50 items are left for 1 of 1 items"):
        assert len(walker.next_items("i07", k=50)) == 19
    with pytest.raises(KeyError, match="nowhere"):
        walker.next_items("nowhere")
    with pytest.raises(ValueError, match="k must be"):
        walker.next_items("i07", k=0)
    with pytest.raises(TypeError, match="EASE does not read events in their order .*similar_items"):
        EASE(l2=5).fit(dataloaders()).next_items("i07")
    assert len(EASE(l2=5, last=1).fit(dataloaders()).next_items("i07", k=3)) == 3
