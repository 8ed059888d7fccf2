"""Queries in batches: the moment of a row, and what its user had met before it; names of a batch's parts."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import clicks

from collabkit import CollabDataLoaders
from collabkit.data.query import Query
from collabkit.train.batches import HISTORY, Batch, Rated
from collabkit.train.loader import Loader

OPTIONS = {"feedback": "implicit", "time_name": "time", "seed": 0, "bs": 32}


def shuffled(**kwargs):
    return clicks(**kwargs).sample(frac=1, random_state=3)


def met_before(df, row):
    """Titles that the row's user had met before it, the latest last."""
    earlier = df[(df["user"] == row.user) & (df["time"] < row.time)]
    return earlier.sort_values("time")["title"].tolist()


def rows_of(loader):
    """`(user, item, titles of the history)` of each row of an epoch."""
    for batch in loader:
        users = loader.dataset.users[batch.query.users]
        titles = (loader.dataset.items[run] for run in batch.query.history)
        yield from zip(users, loader.dataset.items[batch.positives], map(list, titles), strict=True)


@pytest.mark.parametrize("negatives", ["uniform", "shared"])
def test_a_training_history_is_what_the_user_met_before_that_row(negatives):
    dls = CollabDataLoaders.from_df(shuffled(), **OPTIONS, negatives=negatives).asking(("history",))
    train = dls.data.train.to_df()
    expected = {(row.user, row.title): met_before(train, row) for row in train.itertuples()}
    assert {len(titles) for titles in expected.values()} > {0, 1, 5}
    rows = list(rows_of(dls.train))
    assert len(rows) == len(train) and {row[:2]: row[2] for row in rows} == {k: list(v) for k, v in expected.items()}


def test_a_validation_history_is_all_that_the_user_was_trained_on():
    dls = CollabDataLoaders.from_df(shuffled(), **OPTIONS).asking(("users", "history"))
    trained_on = {user: df.sort_values("time")["title"].tolist() for user, df in dls.data.train.to_df().groupby("user")}
    rows = list(rows_of(dls.valid))
    assert len(rows) == len(dls.data.valid)
    assert all(titles == trained_on.get(user, []) for user, _, titles in rows)


def test_histories_look_back_a_bounded_number_of_items():
    n = HISTORY + 20
    df = pd.DataFrame({"user": 1, "title": np.arange(n), "time": np.arange(n)})
    df = pd.concat([df, pd.DataFrame({"user": [2, 3], "title": [n - 1, n], "time": 0})])
    valid = df["title"].between(n - 5, n - 1)
    parts = np.flatnonzero(~valid), np.flatnonzero(valid)
    dls = CollabDataLoaders.from_df(df, **OPTIONS, splitter=lambda _: parts, shuffle=False).asking(("history",))
    histories = [titles for _, _, titles in rows_of(dls.train)]
    assert histories[:3] == [[], [0], [0, 1]] and histories[n - 6] == list(range(n - 6 - HISTORY, n - 6))
    of_valid = {user: titles for user, _, titles in rows_of(dls.valid)}
    assert of_valid == {1: list(range(n - 5 - HISTORY, n - 5)), 2: []}


@pytest.mark.parametrize("negatives", ["uniform", "in_batch"])
def test_a_context_is_that_of_the_row(negatives):
    df = shuffled()
    df["device"] = np.where(df["time"] % 3 == 0, "tv", "phone")
    plain = CollabDataLoaders.from_df(df, **OPTIONS, context_features=["device"], negatives=negatives)
    dls = plain.asking(("users", "context"))
    device = df.set_index(["user", "title"])["device"]
    for loader in dls:
        for batch in loader:
            assert len(batch.query) == len(batch.positives) and batch.query.history is None
            shown = loader.dataset.contexts.decode(batch.query.context)["device"]
            keys = zip(loader.dataset.users[batch.query.users], loader.dataset.items[batch.positives], strict=True)
            assert list(shown) == [device[key] for key in keys]
    # the same rows and negatives as of a model that looks at users alone
    for mine, other in zip(plain.asking(("users", "context")).train, plain.train, strict=True):
        assert torch.equal(mine.query.users, other.query) and torch.equal(mine.negatives, other.negatives)
    assert dls.train.show_batch(show=False).columns[:2].tolist() == ["user", "title"]


def test_ratings_with_a_context_but_no_history():
    df = shuffled().assign(rating=1.0)
    df["device"] = np.where(df["time"] % 3 == 0, "tv", "phone")
    names = {"user_name": "user", "item_name": "title", "rating_name": "rating", "seed": 0}
    names["context_features"] = ["device"]
    dls = CollabDataLoaders.from_df(df, **names)
    query, items, rating = dls.asking(("users", "context")).one_batch()
    assert isinstance(query, Query) and set(query.context["device"].tolist()) == {1, 2}
    assert len(query) == 64 and items.shape == (64,) and rating.shape == (64, 1)
    with pytest.raises(ValueError, match="reads histories learns from events: make dls with feedback='implicit'"):
        dls.asking(("users", "history"))
    with pytest.raises(ValueError, match="reads histories learns from events"):
        Rated(dls.data.train).asking(("history",))


@pytest.mark.parametrize("part", ["context", "history"])
def test_batches_of_whole_users_have_neither(part):
    dls = CollabDataLoaders.from_df(shuffled(), **OPTIONS, negatives="shared", by_user=True)
    assert dls.asking(("users",)) is dls
    with pytest.raises(ValueError, match=f"batches of whole users have no {part}: leave by_user=True out"):
        dls.asking(("users", part))


def test_new_rows_for_a_model_that_looks_at_histories():
    df = shuffled()
    dls = CollabDataLoaders.from_df(df, **OPTIONS).asking(("history",))
    trained_on = {
        user: part.sort_values("time")["title"].tolist() for user, part in dls.data.train.to_df().groupby("user")
    }
    rows = df.head(40)
    query, items = dls.test_dl(rows).one_batch()
    assert list(dls.data.items[items]) == rows["title"].tolist()
    assert [list(dls.data.items[run]) for run in query.history] == [trained_on[user] for user in rows["user"]]


# --- names -----------------------------------------------------------------------------------------------------------


def test_the_parts_of_a_batch_have_names():
    one, two = torch.tensor([1]), torch.tensor([2])
    batch = Batch(query=one, weight=None, positives=two)
    assert isinstance(batch, tuple) and len(batch) == 2 and batch[1] is batch.positives is two and batch.weight is None
    query, positives = batch
    assert query is batch.query is one and positives is two
    with pytest.raises(AttributeError, match="hits"):
        batch.hits  # noqa: B018


@pytest.mark.parametrize("by_user", [False, True])
def test_names_of_batches_of_events_and_of_users(by_user):
    dls = CollabDataLoaders.from_df(clicks().assign(w=2.0), **OPTIONS, negatives="shared", by_user=by_user, weights="w")
    names = ["query", "positives", "negatives", *(["group"] if by_user else []), "log_counts"]
    names += ["hits", "weight"] if by_user else ["weight"]
    batch = dls.one_batch()
    assert list(vars(batch)) == names and all(
        getattr(batch, name) is part for name, part in zip(names, batch, strict=True)
    )
    assert batch.weight.tolist() == [1.0] * len(batch.positives)
    assert dls.valid.one_batch().weight is None
    assert isinstance(Loader(replace(dls.data.train, weight=None)).batches, Rated)
