import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_evaluate import interactions, model_of

from collabkit import CollabWarning, Recommender
from collabkit.data.runs import Runs
from collabkit.evaluate.candidates import Lists, SampledCandidates, _nth_unseen
from collabkit.models import CollFilter, EmbeddingNN
from collabkit.retrieval.ranking import rank_pairs

N_USERS, N_ITEMS = 6, 30


def some_pairs(seed, share):
    rng = np.random.default_rng(seed)
    users, items = np.nonzero((rng.random((N_USERS, N_ITEMS)) < share) & (np.arange(N_ITEMS) > 0))
    return Runs.pairs(users, items, N_USERS, N_ITEMS)


# --- sampled ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.sampled_from([0, 0.2, 0.6, 0.95]), st.integers(1, 40))
def test_samples_are_distinct_unseen_and_as_many_as_asked(seed, share, n):
    seen, users = some_pairs(seed, share), np.array([0, 2, 3, 5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        drawn = SampledCandidates(n, seed).draw(users, seen)
    unseen = N_ITEMS - 1 - seen.lengths.numpy()
    assert np.array_equal(drawn.lengths[users], np.minimum(unseen[users], n))
    assert len(drawn.values) == drawn.lengths[users].sum()  # nobody else gets any; pairs are distinct by nature
    assert not seen.find(drawn.rows, drawn.values)[1].any() and (drawn.values > 0).all()


@given(st.integers(0, 1000))
def test_unseen_items_in_order(seed):
    seen = some_pairs(seed, 0.5)
    for user in range(N_USERS):
        unseen = np.setdiff1d(np.arange(1, N_ITEMS), seen.values[seen.rows == user])
        assert np.array_equal(_nth_unseen(np.full(len(unseen), user), np.arange(len(unseen)), seen), unseen)


@pytest.mark.parametrize("n", [3, 12])  # by drawing again, and by a random order
def test_all_unseen_items_are_equally_likely(n):
    seen = Runs.pairs(np.repeat(np.arange(4000), 3), np.tile([2, 3, 17], 4000), 4000, N_ITEMS)
    drawn = SampledCandidates(n, 0).draw(np.arange(4000), seen)
    counts = np.bincount(drawn.values, minlength=N_ITEMS)
    assert counts[[0, 2, 3, 17]].sum() == 0
    p = n / 26
    others = np.delete(counts, [0, 2, 3, 17])
    assert np.abs(others - 4000 * p).max() < 4.5 * np.sqrt(4000 * p * (1 - p))


def test_the_seed_decides():
    seen, users = some_pairs(0, 0.2), np.arange(N_USERS)
    first, again, other = (SampledCandidates(5, seed).draw(users, seen).keys for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("n", [0, -1, 2.5])
def test_samples_that_are_none(n):
    with pytest.raises(ValueError, match="n must be a whole number of at least 1, got"):
        SampledCandidates(n)


# --- lists -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.sampled_from([1, 2, 10]), st.sampled_from([None, 2]))
def test_ranks_in_lists_against_brute_force(seed, block, k):
    rng = np.random.default_rng(seed)
    table = torch.from_numpy(rng.integers(0, 5, (N_USERS, N_ITEMS))).float()
    allowed = some_pairs(seed, 0.4)
    chosen = rng.random(len(allowed.values)) < 0.3
    users, items = allowed.rows[chosen], allowed.values[chosen]
    source = Lists(lambda users, rows, items: table[users[rows], items], allowed)
    ranks, lists = rank_pairs(source, users, items, block=block, k=k, list_k=3)
    for user, item, rank in zip(users.tolist(), items.tolist(), ranks.tolist(), strict=True):
        mine = table[user, allowed.values[allowed.rows == user]]
        exact = int((mine >= table[user, item]).sum())
        assert rank == exact or (k is not None and min(rank, exact) > k)
    for user, got in zip(users.unique().tolist(), [] if lists is None else lists.tolist(), strict=True):
        mine = allowed.values[allowed.rows == user]
        best = np.sort(table[user, mine].numpy())[::-1][:3]
        assert table[user, [i for i in got if i]].tolist() == best.tolist() and set(got) - {0} <= set(mine.tolist())
    foreign = int(np.setdiff1d(np.arange(1, N_ITEMS), allowed.values[allowed.rows == 1])[0])
    with pytest.raises(ValueError, match="1 of 1 items to rank are not candidates"):
        rank_pairs(source, torch.tensor([1]), torch.tensor([foreign]), block=block)


@pytest.mark.parametrize("make", [lambda: CollFilter(6, 30, 4), lambda: EmbeddingNN([(6, 3), (30, 4)], [6])])
def test_pair_scores_are_those_of_the_matrix(make):
    model = make().eval()
    users, items = torch.randint(6, (50,)), torch.randint(1, 30, (50,))
    with torch.no_grad():
        matrix = model.scorer(torch.arange(1, 30))(torch.arange(6))
        for memory in ("512MB", 2000):
            got = model.score_pairs(torch.arange(6), users, items, memory)
            torch.testing.assert_close(got, matrix[users, items - 1], atol=1e-6, rtol=1e-5)


# --- given -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def rec():
    """Item 1 is best for all, then 2, ...; user 1 has seen 1, held out 5; user 2 has seen 2, held out 3."""
    train, test = (interactions(rows, 4, 7, rated=False) for rows in ([(1, 1, 1), (2, 2, 1)], [(1, 5, 1), (2, 3, 1)]))
    return Recommender(model_of(torch.arange(7.0).flip(0).repeat(4, 1)), train, test)


def table(*rows):
    return pd.DataFrame(rows, columns=["user", "item"])


def test_given_candidates_by_hand(rec):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = rec.evaluate(candidates=table((10, 400), (10, 600), (20, 600), (20, 300)), metrics="MRR", n_boot=2)
    assert list(got.index) == ["MRR@10 (given candidates)"]
    assert got["value"].tolist() == [0.75]  # user 1: item 4 is ahead of 5; user 2: 3 is ahead of 6, and stays once
    assert got["n"].tolist() == [2]


def test_given_pairs_that_are_left_out_are_counted(rec):
    rows = [(10, 400), (10, 100), (10, 999), (77, 400), (20, 600), (20, 200)]
    with pytest.warns(CollabWarning) as caught:
        got = rec.evaluate(candidates=table(*rows), metrics="MRR", n_boot=2)
    messages = " | ".join(str(w.message) for w in caught)
    assert "2 of 6 candidate pairs name unknown ids and are left out" in messages
    assert "2 candidate pairs were seen in training or validation and are left out" in messages
    assert got["value"].tolist() == [0.75]


def test_users_without_given_candidates_are_left_out(rec):
    with pytest.warns(CollabWarning, match="1 users with relevant items have no other candidates given"):
        got = rec.evaluate(candidates=table((10, 400), (20, 300)), metrics="HitRate", n_boot=2)
    assert got["n"].tolist() == [1]


def test_nothing_left_is_an_error(rec):
    rows = table((99, 400), (10, 99), (10, 100))
    with (
        pytest.warns(CollabWarning),
        pytest.raises(
            ValueError, match="no candidate is left .* of 3 pairs given, 1 have known ids and 0 of these are unseen"
        ),
    ):
        rec.evaluate(candidates=rows)
    with pytest.raises(KeyError, match="item"):
        rec.evaluate(candidates=pd.DataFrame({"user": [10], "film": [400]}))
    with pytest.raises(TypeError, match="candidates must be None .*, got int"):
        rec.evaluate(candidates=99)
