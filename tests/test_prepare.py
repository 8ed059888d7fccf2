"""From tables to a `Dataset`: explicit and implicit rows by hand, vocabularies, context, and what a dataset answers."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from collabkit import CollabDataLoaders, Vocab, splits
from collabkit.data.dataset import Dataset
from collabkit.data.feedback import Implicit, read_feedback
from collabkit.data.interactions import Columns, Interactions
from collabkit.data.notices import CollabWarning
from collabkit.data.prepare import prepare

WHO, DEVICES = ["cat", "ann", "ann", "bob", "ann", "bob"], ["tv", "pc", "tv", "pc", "tv", "pc"]
VALUES = {"stars": [5.0, 5.0, 2.0, 4.0, 4.0, 1.0], "time": [4, 3, 1, 2, 0, 9]}  # ann meets A twice, the second first
TABLE = pd.DataFrame({"who": WHO, "film": list("CABAAC"), **VALUES, "device": DEVICES}, index=[9, 9, 3, 3, 0, 0])
COLUMNS = Columns("who", "film", "stars", "time", ("device",))


def made(*args, **kwargs):
    """The dataset, and what was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = prepare(*args, **kwargs)
    assert all(w.category is CollabWarning and w.filename == __file__ for w in caught)
    return data, [str(w.message) for w in caught]


def rows(part):
    return [*part.to_df().itertuples(index=False, name=None)]


def test_explicit_rows_stay_in_their_order_and_vocabularies_hold_what_is_used():
    data, said = made(TABLE, COLUMNS, splitter=lambda df: ([4, 3, 1], [2]))
    assert rows(data.train) == [("ann", "A", 4, 0, "tv"), ("bob", "A", 4, 2, "pc"), ("ann", "A", 5, 3, "pc")]
    assert rows(data.valid) == [("ann", "B", 2, 1, "tv")] and data.valid.users is data.users is data.train.users
    assert list(data.users.ids) == ["ann", "bob"] and list(data.items.ids) == ["A", "B"]  # neither cat nor C
    assert data.train.counts("user").tolist() == [0, 2, 1] and data.valid.item_idx.tolist() == [2]
    assert len(said) == 1 and "left out 2 of 6 rows, 1 of 3 users, 1 of 3 items: in neither part" in said[0]
    assert data.train.context["device"].tolist() == [2, 1, 1] and data.train.contexts.fields[0].categories == (
        "pc",
        "tv",
    )
    assert data.rated and data.features == (None, None, data.train.contexts) and data.folded is None


def test_implicit_rows_are_the_positives_each_pair_once():
    data, said = made(TABLE, COLUMNS, splitter=lambda df: ([0, 1, 2, 3], [4]), feedback=Implicit(threshold=1.0))
    # of ann's two A the one at time 0 stays; the splitter sees the five rows that do
    assert rows(data.train)[:2] == [("cat", "C", 4, "tv"), ("ann", "B", 1, "tv")]
    assert rows(data.train)[2:] == [("bob", "A", 2, "pc"), ("ann", "A", 0, "tv")]
    assert rows(data.valid) == [("bob", "C", 9, "pc")] and not data.rated and data.columns.rating is None
    assert len(said) == 1 and "repeat a (user, item) pair; the first in time is kept" in said[0]
    data, said = made(TABLE, COLUMNS, splitter=lambda df: ([0, 1], [2]), feedback=Implicit(threshold=4))
    # cat C, bob A and the earlier of ann's A are left, the last of which is held out
    assert rows(data.train) == [("cat", "C", 4, "tv"), ("bob", "A", 2, "pc")]
    assert rows(data.valid) == [("ann", "A", 0, "tv")]
    assert list(data.items.ids) == ["A", "C"] and len(said) == 2
    untimed, _ = made(TABLE, Columns("who", "film"), splitter=lambda df: ([0, 1, 2, 3], [4]), feedback=Implicit())
    assert rows(untimed.train)[:2] == [("cat", "C"), ("ann", "A")] and untimed.train.time is None
    with pytest.raises(ValueError, match=r"rating_threshold=4 needs rating_name=, one of the columns .*'stars'"):
        prepare(TABLE, Columns("who", "film"), splitter=lambda df: ([0], [1]), feedback=Implicit(threshold=4))


def test_the_first_table_keeps_a_pair_that_both_hold():
    first, second = TABLE.iloc[[0, 1, 2]], TABLE.iloc[[4, 5]]
    data, said = made(first, COLUMNS, splitter=second, feedback=Implicit(threshold=1.0), weights="time")
    assert rows(data.train) == [("cat", "C", 4, "tv"), ("ann", "A", 3, "pc"), ("ann", "B", 1, "tv")]  # not at time 0
    assert rows(data.valid) == [("bob", "C", 9, "pc")] and "left out 1 of 5 rows" in said[0]
    assert np.allclose(data.train.weight, np.array([4, 3, 1]) / (8 / 3)) and data.valid.weight is None
    data, said = made(first, COLUMNS, splitter=second)
    assert rows(data.valid) == [("ann", "A", 4, 0, "tv"), ("bob", "C", 1, 9, "pc")] and said == []  # ratings: all stay
    with pytest.warns(CollabWarning), pytest.raises(ValueError, match="no row of the validation table is left"):
        prepare(first, COLUMNS, splitter=first, feedback=Implicit(threshold=1.0))


def test_a_record_says_what_the_plain_arguments_say():
    names = {"rating_name": "stars", "time_name": "time", "splitter": lambda df: ([0, 1, 2], [3]), "seed": 3}
    assert read_feedback("implicit", n_neg=1, by_user=False) == Implicit(n_neg=1) and not read_feedback("explicit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        plain = {"rating_threshold": 2, "n_neg": 1, "negatives": "popularity"}
        one = CollabDataLoaders.from_df(TABLE, feedback="implicit", **plain, **names)
        record = Implicit(threshold=2, n_neg=1, negatives="popularity")
        other = CollabDataLoaders.from_df(TABLE, feedback=record, **names)
    assert rows(one.data.train) == [("ann", "B", 1), ("bob", "A", 2), ("cat", "C", 4)]  # sorted
    assert rows(one.data.train) == rows(other.data.train) and rows(one.data.valid) == rows(other.data.valid)
    assert all(torch.equal(a, b) for a, b in zip(one.one_batch(), other.one_batch(), strict=True))
    with pytest.raises(ValueError, match="give n_neg, negatives in the Implicit record or beside it, not both"):
        CollabDataLoaders.from_df(TABLE, feedback=record, n_neg=1, negatives="uniform")
    with pytest.raises(ValueError, match="n_neg=2: only for feedback='implicit'; ratings need no negatives"):
        CollabDataLoaders.from_df(TABLE, n_neg=2)


def test_what_a_dataset_knows_and_how_it_grows():
    events = Interactions.from_df(TABLE, COLUMNS)  # ann, bob, cat: 1, 2, 3; A, B, C: 1, 2, 3
    data = Dataset(events.take([0, 1, 2]), events.take([3]))
    lists = lambda runs: [run.tolist() for run in runs]  # noqa: E731
    assert lists(data.known) == [[], [1, 2], [], [3]] and lists(data.seen) == [[], [1, 2], [1], [3]]
    assert lists(data.histories) == [[], [2, 1], [], [3]]  # B came first
    folded = data.with_folded(events.take([5]))
    assert lists(folded.known) == [[], [1, 2], [3], [3]] and lists(folded.seen) == [[], [1, 2], [1, 3], [3]]
    assert lists(folded.histories) == [[], [2, 1], [3], [3]] and data.folded is None and folded.train is data.train
    again = folded.with_folded(events.take([4, 5]).take([0, 1, 0]))
    assert again.folded.item_idx.tolist() == [3, 1] and again.folded.rating.tolist() == [1, 4]  # the last of each
    bigger = folded.with_ids("item", Vocab(["A", "B", "C", "D"], "film"))
    assert bigger.n_items == 5 and lists(bigger.known) == lists(folded.known) and bigger.known.width == 5
    assert all(part.items is bigger.items for part in bigger.parts) and data.n_items == 4
    users = torch.tensor([2, 1])
    assert folded.asker(["users"])(users) is users and folded.query_of(events, ("users",)) is events.user_idx
    query = folded.asker(["users", "history", "context"], {"device": torch.tensor([2])})(users)
    assert lists(query.history) == [[3], [2, 1]] and query.context["device"].tolist() == [2, 2]
    each = folded.asker(["context"], {"device": torch.tensor([0, 1, 2, 1])})(users)
    assert each.context["device"].tolist() == [2, 1] and each.history is None
    assert folded.asker(["context"])(users).context["device"].tolist() == [0, 0]
    asked = folded.query_of(events.take([3]), ("users", "history", "context"))
    assert asked.users.tolist() == [2] and asked.context["device"].tolist() == [1] and lists(asked.history) == [[3]]
    assert Dataset.of(data) is data and Dataset.of((events, events)).valid is events
    with pytest.raises(TypeError, match="a learner or Interactions, got int"):
        Dataset.of(3)


def noted(df, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CollabDataLoaders.from_df(df, user_name="user", item_name="item", seed=0, **options)
    return " | ".join(str(one.message) for one in caught)


def test_what_is_rarely_meant_is_said():
    rng = np.random.default_rng(0)
    df = pd.DataFrame({"user": np.repeat(range(60), 10), "item": rng.integers(0, 40, 600), "time": range(600)})
    df = df.drop_duplicates(["user", "item"])
    rated, bought = df.assign(rating=rng.integers(1, 6, len(df))), df.assign(Quantity=1)
    bought.iloc[:7, bought.columns.get_loc("Quantity")] = -1
    assert "all ratings are 1" in noted(df.assign(clicked=1), rating_name="clicked")
    returned = noted(bought, feedback="implicit")
    assert "7 of" in returned and "Implicit(counts='Quantity')" in returned
    by_time = {"time_name": "time", "splitter": splits.time_split(0.3)}  # later users are all new
    later = pd.concat([rated, rated[:30].assign(item=99, time=700)])
    assert "have a user or an item without a training row" in noted(later, rating_name="rating", **by_time)
    pairs = [", ".join(sorted({"abcdefgh"[j % 8], "abcdefgh"[j * 3 % 7]})) for j in range(40)]
    films = {"items": pd.DataFrame({"item": range(40), "genre": pairs}), "item_features": ["genre"]}
    assert "separated by ', '" in noted(df, feedback="implicit", **films)
    films["items"] = films["items"].assign(genre=["a|b", "c", "c|b", "a"] * 10)
    quiet = noted(rated, rating_name="rating") + noted(df, feedback="implicit", **films)
    assert not any(text in quiet for text in ("all ratings", "below 0", "without a training row", "separated by"))
