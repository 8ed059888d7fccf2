"""Negatives: never seen, exactly uniform or by popularity (over every number that can be drawn), their probability."""

import math
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from collabkit.data.interactions import Columns, Interactions
from collabkit.data.notices import CollabWarning
from collabkit.data.vocab import Vocab
from collabkit.train.sampling import (
    SAMPLERS,
    AllItems,
    InBatchNegatives,
    PopularityNegatives,
    SharedNegatives,
    UniformNegatives,
    make_sampler,
    rows,
)
from collabkit.train.sampling.weights import item_weights

KINDS = (UniformNegatives, PopularityNegatives)
# user 1 met items 1 2 4, user 2 item 2, user 3 all five, user 4 nothing; item 6 has no training row
HAND = [(1, 1), (1, 2), (1, 4), (2, 2), (2, 2), (3, 1), (3, 2), (3, 3), (3, 4), (3, 5), (3, 1)]
COUNTS = [0, 3, 4, 1, 2, 1, 0]  # of each item


def events(pairs, n_users=4, n_items=6) -> Interactions:
    """Training interactions with these index pairs; the tables have `n_users + 1` and `n_items + 1` rows."""
    users, items = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    vocabs = Vocab(range(1, n_users + 1), "user"), Vocab(range(1, n_items + 1), "item")
    return Interactions(users, items, None, None, *vocabs, Columns("user", "item"))


def quiet(make, data, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        return make(data, **kwargs)


def unseen(pairs, user) -> list[int]:
    met = {i for _, i in pairs}
    return sorted(met - {i for u, i in pairs if u == user} - {0})


def every_draw(sampler, user, monkeypatch) -> list[int]:
    """The items for each number r = 0, 1, ..., left - 1 that the sampler can draw for the user, in order."""
    left = int(sampler.left[user])

    def rand(b, n, **_):
        assert (b, n) == (1, left)
        return (torch.arange(n, dtype=torch.float64)[None, :] + 0.5) / n

    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", rand)
        return sampler.draw(torch.tensor([user]), left)[0].tolist()


def plain_weights(train, alpha):
    """Whole numbers small enough to try all of them: the counts."""
    counts = torch.bincount(train.item_idx, minlength=train.n_items)
    counts[0] = 0
    return (counts > 0).long() if alpha == 0 else counts


pairs_of = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=40)


# --- exactly the unseen items ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_items", [5, 6])  # all items have rows; one has none
def test_by_hand(n_items, monkeypatch):
    sampler = quiet(UniformNegatives, events(HAND, n_items=n_items))
    assert [every_draw(sampler, user, monkeypatch) for user in (0, 1, 2, 4)] == [
        [1, 2, 3, 4, 5],
        [3, 5],
        [1, 3, 4, 5],
        [1, 2, 3, 4, 5],
    ]
    assert sampler.left.tolist() == [5, 2, 4, 0, 5]


@given(pairs_of, st.booleans())
def test_every_number_gives_each_unseen_item_once(pairs, every_item):
    if every_item:  # each has a row: the shorter way through `draw`
        pairs = [*pairs, *((5, item) for item in range(1, 8))]
    with pytest.MonkeyPatch.context() as patch:
        try:
            sampler = quiet(UniformNegatives, events(pairs, 5, 7))
        except ValueError:
            assert all(not unseen(pairs, user) for user, _ in pairs)
            return
        for user in range(6):
            if unseen(pairs, user):
                assert every_draw(sampler, user, patch) == unseen(pairs, user)


@given(pairs_of)
def test_every_number_gives_each_unseen_item_as_often_as_its_weight(pairs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "item_weights", plain_weights)
        try:
            sampler = quiet(PopularityNegatives, events(pairs, 5, 7), alpha=1.0)
        except ValueError:
            assert all(not unseen(pairs, user) for user, _ in pairs)
            return
        counts = np.bincount([i for _, i in pairs], minlength=8)
        for user in range(6):
            wanted = [item for item in unseen(pairs, user) for _ in range(counts[item])]
            assert int(sampler.left[user]) == len(wanted)
            if wanted:
                assert every_draw(sampler, user, patch) == wanted


@pytest.mark.parametrize("alpha", [0.25, 0.75, 1.0, 2.0])
def test_weights_are_counts_to_the_power_of_alpha(alpha):
    counts = np.r_[0, 1, 1, 2, 5, 17, 300, 4000, 0]
    data = events([(1 + j % 3, item) for j, item in enumerate(np.repeat(np.arange(9), counts))], 3, 8)
    weight = item_weights(data, alpha)
    assert weight.dtype == torch.int64 and weight[0] == weight[8] == 0
    share = weight.double() / weight.sum()
    assert share.numpy() == pytest.approx(counts**alpha * (counts > 0) / (counts[1:8] ** alpha).sum(), rel=1e-6)
    assert int(weight.sum()) * data.n_users < 2**63  # the largest key


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_weights_of_many_users_stay_within_int64(alpha):
    """A vocabulary of millions of users leaves fewer bits for each."""
    data = events([(1, 1), (1, 2), (2, 2), (2, 3)] * 500, 3, 3)

    class Many:
        counts, n_users = data.counts, 2**36

    weight = item_weights(Many, alpha)
    assert int(weight.sum()) * Many.n_users < 2**62 and int(weight[2]) / int(weight[1]) == pytest.approx(
        2**alpha, rel=1e-5
    )


@pytest.mark.parametrize("alpha", [0.0, 0.75])
def test_draws_have_the_frequencies_that_log_prob_says(alpha):
    rng = np.random.default_rng(0)
    items = (rng.pareto(0.7, 900) * 3).astype(int).clip(0, 19) + 1
    data = events(list(zip(rng.integers(1, 30, 900), items, strict=True)), 30, 20)
    sampler, generator = quiet(PopularityNegatives, data, alpha=alpha), torch.Generator().manual_seed(3)
    seen = {(int(u), int(i)) for u, i in zip(data.user_idx, data.item_idx, strict=True)}
    p_values = []
    for user in range(31):
        drawn = sampler.draw(torch.tensor([user]), 20_000, generator)[0]
        assert all((user, i) not in seen for i in set(drawn.tolist()))
        every = torch.tensor([i for i in range(1, 21) if (user, i) not in seen and (data.item_idx == i).any()])
        expected = sampler.log_prob(torch.tensor([user]), every[None, :])[0].exp()
        counts = torch.bincount(data.item_idx, minlength=21)[every].double() ** alpha
        assert torch.allclose(expected.double(), counts / counts.sum(), rtol=1e-4)
        p_values.append(chisquare(torch.bincount(drawn, minlength=21)[every], 20_000 * counts / counts.sum()).pvalue)
    assert min(p_values) > 1e-4 and 0.2 < np.mean(p_values) < 0.8


@given(pairs_of, st.integers(1, 40), st.integers(0, 5))
def test_draws_are_never_seen_items(pairs, n, seed):
    for make in KINDS:
        try:
            sampler = quiet(make, events(pairs, 5, 7))
        except ValueError:
            continue
        users = torch.tensor([0, 1, 2, 3, 4, 5, 5, 1])
        drawn = sampler.draw(users, n, torch.Generator().manual_seed(seed))
        assert drawn.shape == (8, n) and drawn.dtype == torch.int64
        for user, row in zip(users.tolist(), drawn.tolist(), strict=True):
            assert set(row) <= (set(unseen(pairs, user)) or {0})


def test_more_negatives_than_unseen_items_repeat():
    sampler = quiet(UniformNegatives, events(HAND))
    drawn = sampler.draw(torch.tensor([1]), 1000, torch.Generator().manual_seed(0))[0]
    assert set(drawn.tolist()) == {3, 5} and 430 < (drawn == 3).sum() < 570  # binomial(1000, .5): sd 16


@pytest.mark.parametrize("make", KINDS)
def test_items_without_a_training_row_and_the_unknown_item_are_never_drawn(make):
    data = events([(1, 1), (2, 2), (2, 0), (0, 4), (0, 0)], 4, 6)
    sampler = make(data)
    drawn = sampler.draw(torch.arange(5).repeat(200), 5, torch.Generator().manual_seed(0))
    assert set(drawn.flatten().tolist()) == {1, 2, 4}
    assert set(drawn.view(200, 5, 5)[:, 0].flatten().tolist()) == {1, 2}  # rows of the unknown user count as its own


@pytest.mark.parametrize("make", [UniformNegatives, partial(PopularityNegatives, alpha=0.0)])
def test_a_repeated_pair_counts_once_among_the_seen(make):
    once, twice = (quiet(make, events(pairs)) for pairs in (sorted(set(HAND)), HAND * 2))
    users, generators = torch.arange(5).repeat(50), [torch.Generator().manual_seed(1) for _ in range(2)]
    assert torch.equal(once.draw(users, 3, generators[0]), twice.draw(users, 3, generators[1]))


# --- large tables ----------------------------------------------------------------------------------------------------


def test_keys_beyond_32_bits(monkeypatch):
    n_users, n_items = 70_000, 40_000  # 2.8e9 cells
    rng = np.random.default_rng(0)
    pairs = [(1, item) for item in range(1, n_items)] + [(n_users, n_items), (n_users, 7), (n_users, 8), (35_000, 1)]
    pairs += list(zip(rng.integers(2, n_users, 5000), rng.integers(1, n_items, 5000), strict=True))
    sampler = UniformNegatives(events(pairs, n_users, n_items))
    assert sampler.keys.dtype == torch.int64 and int(sampler.keys[-1]) > 2**31
    assert every_draw(sampler, n_users, monkeypatch) == [i for i in range(1, n_items) if i not in (7, 8)]
    assert every_draw(sampler, 1, monkeypatch) == [n_items]
    assert every_draw(sampler, 35_000, monkeypatch) == unseen(pairs, 35_000)


def test_small_tables_are_searched_in_32_bits():
    assert quiet(UniformNegatives, events(HAND)).keys.dtype == torch.int32


# --- users who have seen everything ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", KINDS)
def test_a_user_who_has_seen_everything_is_counted_and_gets_none(make):
    with pytest.warns(CollabWarning, match="^1 users have seen every item: their rows are trained without negatives"):
        sampler = make(events(HAND))
    users = torch.tensor([3, 1])
    drawn = sampler.draw(users, 4)
    assert drawn[0].tolist() == [0] * 4 and (drawn[1] > 0).all()
    counts = sampler.log_counts(users, drawn).expand(2, 4)
    assert counts[0].tolist() == [math.inf] * 4 and counts[1].isfinite().all()


@pytest.mark.parametrize("make", KINDS)
def test_nobody_with_an_unseen_item_is_an_error(make):
    data = events([(1, 1), (1, 2), (2, 1), (2, 2)], n_users=3)  # user 3 has no row: nothing is trained for it
    with pytest.raises(ValueError, match="every user has seen every item: there is nothing to draw negatives from"):
        make(data)


def test_a_user_without_rows_is_not_full():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler = UniformNegatives(events([(1, 1), (2, 2)]))
    assert set(sampler.draw(torch.tensor([4]), 100)[0].tolist()) == {1, 2}


# --- probabilities ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.75, 1.0])
def test_the_probabilities_of_the_unseen_items_sum_to_one(alpha):
    sampler = quiet(PopularityNegatives, events(HAND), alpha=alpha)
    for user in (0, 1, 2, 4):
        log_prob = sampler.log_prob(torch.tensor([user]), torch.tensor([unseen(HAND, user)]))
        assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-5)
    # user 2 has seen item 2: items 1, 3, 4, 5 with 3, 1, 2, 1 events
    log_prob = sampler.log_prob(torch.tensor([2]), torch.tensor([[1, 3, 4, 5]]))[0]
    weights = np.array([3, 1, 2, 1]) ** alpha
    assert log_prob.exp().tolist() == pytest.approx((weights / weights.sum()).tolist(), rel=1e-5)


def test_uniform_counts_are_one_column():
    sampler = quiet(UniformNegatives, events(HAND))
    users = torch.tensor([1, 2, 3])
    counts = sampler.log_counts(users, sampler.draw(users, 8))
    assert counts.shape == (3, 1) and counts.flatten().exp().tolist() == pytest.approx([8 / 2, 8 / 4, math.inf])
    by_popularity = quiet(PopularityNegatives, events(HAND), alpha=0.0)
    same = by_popularity.log_counts(users, by_popularity.draw(users, 8))
    assert same.shape == (3, 8) and torch.allclose(same, counts.expand(3, 8))


@pytest.mark.parametrize("alpha", [0.0, 1.0, 0.5])
def test_shared_negatives_are_drawn_by_their_weights_and_stand_once(alpha):
    sampler = SharedNegatives(events(HAND), alpha)
    weights = np.array([c**alpha if c else 0 for c in COUNTS])
    share = weights / weights.sum()
    assert sampler.log_prob(torch.arange(7)).exp().tolist() == pytest.approx(share.tolist(), rel=1e-5)
    generator, positives = torch.Generator().manual_seed(2), torch.tensor([1, 5])
    ones = torch.cat([sampler.draw(positives, 1, generator) for _ in range(4000)])
    assert chisquare(torch.bincount(ones, minlength=7)[1:6], 4000 * share[1:6]).pvalue > 1e-3
    threes = [sampler.draw(positives, 3, generator).tolist() for _ in range(4000)]
    assert all(row == sorted(set(row)) and 1 <= len(row) <= 3 for row in threes)
    there = np.bincount([item for row in threes for item in row], minlength=7) / 4000
    expected = sampler.log_expected(torch.arange(1, 7), 3).exp().numpy()
    assert expected == pytest.approx(1 - (1 - share[1:]) ** 3, rel=1e-5)
    assert np.abs(there[1:] - expected).max() < 4 * 0.5 / 4000**0.5 and there[6] == 0


@pytest.mark.parametrize("mask_seen", [True, False])
def test_what_the_user_has_seen_is_no_shared_negative(mask_seen):
    sampler = SharedNegatives(events(HAND), 1.0, mask_seen=mask_seen)
    users, positives = torch.tensor([1, 2, 3, 4]), torch.tensor([2, 2, 5, 3])
    items = torch.tensor([1, 2, 3, 5])
    counts = sampler.log_counts(users, positives, items, 6).exp()
    free = [1 - (1 - COUNTS[i] / 11) ** 6 for i in (1, 2, 3, 5)]
    seen = {1: (1, 2, 4), 2: (2,), 3: (1, 2, 3, 4, 5), 4: ()} if mask_seen else {}
    for row, (user, positive) in enumerate(zip(users.tolist(), positives.tolist(), strict=True)):
        out = {positive, *seen.get(user, ())}
        expected = [math.inf if item in out else free[j] for j, item in enumerate((1, 2, 3, 5))]
        assert counts[row].tolist() == pytest.approx(expected, rel=1e-5)


@given(pairs_of, st.integers(0, 5))
def test_shared_masks_against_a_loop(pairs, seed):
    data = events(pairs, 5, 7)
    if not (data.item_idx > 0).any():
        return
    sampler = SharedNegatives(data)
    generator = torch.Generator().manual_seed(seed)
    users, positives = (torch.randint(high, (6,), generator=generator) for high in (6, 8))
    items = sampler.draw(positives, 4, generator)
    assert set(items.tolist()) <= {i for _, i in pairs} - {0}
    out = sampler.log_counts(users, positives, items, 4) == torch.inf
    for row, (user, positive) in enumerate(zip(users.tolist(), positives.tolist(), strict=True)):
        assert out[row].tolist() == [item == positive or (user, item) in pairs for item in items.tolist()]


def test_in_batch_negatives_are_the_other_positives():
    sampler = InBatchNegatives(events(HAND))
    users, positives = torch.tensor([4, 4, 4, 2]), torch.tensor([3, 1, 3, 5])
    items = sampler.draw(positives, 99)
    assert items.tolist() == [1, 3, 5]
    counts = sampler.log_counts(users, positives, items, 99).exp()
    one, three, five = (1 - (1 - COUNTS[i] / 11) ** 3 for i in (1, 3, 5))  # of three other rows, drawn by popularity
    assert counts.tolist() == [
        pytest.approx(row, rel=1e-5)
        for row in ([one, math.inf, five], [math.inf, three, five], [one, math.inf, five], [one, three, math.inf])
    ]
    alone = sampler.log_counts(users[:1], positives[:1], sampler.draw(positives[:1], 1), 1)
    assert alone.tolist() == [[math.inf]]  # no other row, no negative


@pytest.mark.parametrize("mask_seen", [True, False])
def test_all_items_are_certain(mask_seen):
    sampler = AllItems(events(HAND), mask_seen=mask_seen)
    items = sampler.draw(torch.tensor([1]), 4)
    assert items.tolist() == [1, 2, 3, 4, 5]
    counts = sampler.log_counts(torch.tensor([1, 4]), torch.tensor([2, 5]), items, 4)
    first = [math.inf, math.inf, 0, math.inf, 0] if mask_seen else [0, math.inf, 0, 0, 0]
    assert counts.tolist() == [first, [0, 0, 0, 0, math.inf]]
    assert not AllItems(events(HAND)).mask_seen and SharedNegatives(events(HAND)).mask_seen


# --- randomness and names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*KINDS, SharedNegatives])
def test_draws_depend_on_the_generator_alone(make):
    sampler = quiet(make, events(HAND))
    users = torch.tensor([1, 2, 4]).repeat(20)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = (sampler.draw(users, 6, torch.Generator().manual_seed(5)) for _ in range(2))
    other = sampler.draw(users, 6, torch.Generator().manual_seed(6))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_make_sampler():
    data = events([(1, 1), (2, 2), (2, 3)])
    for name, kind in SAMPLERS.items():
        assert type(make_sampler(name, data)) is kind
    half = quiet(partial(make_sampler, partial(PopularityNegatives, alpha=0.5)), events(HAND))
    assert int(half.weight[1]) / int(half.weight[3]) == pytest.approx(3**0.5)
    for bad in ("unifrom", None, 3):
        with pytest.raises(ValueError, match=f"negatives must be one of 'uniform', .*partial.*got {bad!r}"):
            make_sampler(bad, data)


@pytest.mark.parametrize("alpha", [-0.1, math.nan, math.inf])
def test_bad_alpha(alpha):
    for make in (PopularityNegatives, SharedNegatives):
        with pytest.raises(ValueError, match=f"alpha must be a number of at least 0, got {alpha}"):
            make(events([(1, 1), (2, 2)]), alpha)


def test_a_dataframe_of_one_user_and_item():
    data = Interactions.from_df(pd.DataFrame({"u": [1], "i": ["a"]}), Columns("u", "i"))
    with pytest.raises(ValueError, match="every user has seen every item"):
        UniformNegatives(data)
