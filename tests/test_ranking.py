import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collabkit import metrics
from collabkit.data.interactions import Columns, Interactions
from collabkit.data.runs import Runs
from collabkit.data.vocab import Vocab
from collabkit.models import CollFilter, EmbeddingNN
from collabkit.models.scorers import parse_memory
from collabkit.retrieval.ranking import FullCatalogue, block_size, rank_pairs, top_k

N_USERS, N_ITEMS = 8, 13  # rows of the tables, the unknown one included


def exact_ranks(scorer, users, items, candidates, *, n_items, hidden, block):
    return rank_pairs(FullCatalogue(scorer, candidates, n_items, hidden), users, items, block=block)[0]


def interactions(user_idx, item_idx) -> Interactions:
    vocabs = Vocab(range(1, N_USERS), "user"), Vocab(range(1, N_ITEMS), "item")
    return Interactions(
        torch.tensor(user_idx, dtype=torch.int64), torch.tensor(item_idx, dtype=torch.int64), None, None,
        *vocabs, Columns("user", "item"),
    )  # fmt: skip


def table_scorer(table: torch.Tensor, candidates: torch.Tensor):
    """A scorer that reads a table of scores `(N_USERS, N_ITEMS)`."""
    return lambda users: table[users][:, candidates]


@st.composite
def problems(draw):
    """A table of scores with many ties, users, candidates, hidden pairs and a block size."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    table = torch.from_numpy(rng.integers(-3, 4, size=(N_USERS, N_ITEMS))).float()
    candidates = torch.arange(1, N_ITEMS)
    if draw(st.booleans()):
        candidates = candidates[torch.from_numpy(rng.permutation(N_ITEMS - 1))][: draw(st.integers(1, N_ITEMS - 1))]
    hidden = rng.random((N_USERS, N_ITEMS)) < draw(st.sampled_from([0, 0.3, 0.9]))
    users = torch.arange(draw(st.integers(0, 3)), N_USERS)
    if draw(st.booleans()):
        users = torch.from_numpy(rng.integers(0, N_USERS, size=draw(st.integers(1, 12))))
    return table, candidates, hidden, users, draw(st.sampled_from([1, 2, 3, 100]))


def pairs_of(hidden: np.ndarray) -> Runs:
    return interactions(*hidden.nonzero()).pairs


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_pairs_by_hand():
    pairs = interactions([2, 1, 2, 4], [5, 3, 6, 2]).pairs.union(interactions([2, 4], [1, 2]).pairs)
    found = pairs.of(torch.tensor([4, 0, 2, 2]))
    assert found.rows.tolist() == [0, 2, 2, 2, 3, 3, 3]
    assert found.values.tolist() == [2, 1, 5, 6, 1, 5, 6]  # each pair once
    assert [part.tolist() for part in pairs.of(torch.tensor([3, 7]))] == [[], []]
    found = pairs.of(slice(1, 5))  # neighbours in order take a shorter way
    assert found.rows.tolist() == [0, 1, 1, 1, 3] and found.values.tolist() == [3, 1, 5, 6, 2]
    unknown = interactions([0, 0, 2], [0, 3, 0]).pairs
    assert [part.tolist() for part in unknown.of(torch.tensor([2, 0]))] == [[], [3]]  # item 0 is no candidate anyway


@given(st.integers(0, 1000))
def test_pairs_as_sets(seed):
    rng = np.random.default_rng(seed)
    first, second = (rng.random((N_USERS, N_ITEMS)) < share for share in (0.4, 0.2))
    first[:, 0] = second[:, 0] = False
    a, b = pairs_of(first), pairs_of(second)
    assert np.array_equal(a.rows, first.nonzero()[0]) and np.array_equal(a.values, first.nonzero()[1])
    for got, expected in ((a.union(b), first | second), (a.without(b), first & ~second)):
        assert np.array_equal(np.stack([got.rows, got.values]), np.stack(expected.nonzero()))
        assert len(got.values) == len(got.keys) and np.array_equal(got.lengths, expected.sum(1))
    users, items = np.divmod(np.arange(N_USERS * N_ITEMS), N_ITEMS)
    known = items > 0
    assert np.array_equal(a.find(users[known], items[known])[1], first[:, 1:].ravel())


# --- top k -----------------------------------------------------------------------------------------------------------


@given(problems(), st.integers(1, 15))
def test_top_k_against_a_full_sort(problem, k):
    table, candidates, hidden, users, block = problem
    items, scores = top_k(
        table_scorer(table, candidates), users, candidates, k, n_items=N_ITEMS, hidden=pairs_of(hidden), block=block
    )
    assert items.shape == scores.shape == (len(users), min(k, len(candidates)))
    for user, got, got_scores in zip(users.tolist(), items.tolist(), scores.tolist(), strict=True):
        left = [i for i in candidates.tolist() if not hidden[user, i]]
        best = sorted((table[user, i].item() for i in left), reverse=True)[: len(got)]
        n = len(best)
        assert got_scores == best + [-np.inf] * (len(got) - n)  # the best scores, in order; the rest is marked
        assert got[n:] == [0] * (len(got) - n)
        assert len(set(got[:n])) == n and set(got[:n]) <= set(left)
        assert [table[user, i].item() for i in got[:n]] == best  # and they are these items' scores


def test_a_user_who_has_seen_everything_gets_nothing():
    seen = interactions([3] * 12, range(1, 13))
    table = torch.randn(N_USERS, N_ITEMS)
    candidates = torch.arange(1, N_ITEMS)
    items, scores = top_k(
        table_scorer(table, candidates), torch.tensor([3, 1]), candidates, 5,
        n_items=N_ITEMS, hidden=seen.pairs, block=10,
    )  # fmt: skip
    assert items[0].tolist() == [0] * 5 and (scores[0] == -torch.inf).all()
    assert items[1].tolist() == (1 + table[1, 1:].argsort(descending=True)[:5]).tolist()


def test_nothing_hidden_and_no_users():
    candidates = torch.tensor([4, 2, 9])
    table = torch.arange(N_USERS * N_ITEMS).reshape(N_USERS, N_ITEMS).float()
    common = {"n_items": N_ITEMS, "hidden": None, "block": 2}
    items, scores = top_k(table_scorer(table, candidates), torch.tensor([1, 2, 0]), candidates, 2, **common)
    assert items.tolist() == [[9, 4]] * 3 and scores.tolist() == [[22, 17], [35, 30], [9, 4]]
    items, _ = top_k(table_scorer(table, candidates), torch.tensor([], dtype=torch.int64), candidates, 2, **common)
    assert items.shape == (0, 2)


# --- exact ranks -----------------------------------------------------------------------------------------------------


@given(problems())
def test_exact_ranks_against_brute_force(problem):
    table, candidates, hidden, users, block = problem
    items = candidates[torch.randint(len(candidates), (len(users),), generator=torch.Generator().manual_seed(0))]
    hidden[users, items] = False
    ranks = exact_ranks(
        table_scorer(table, candidates), users, items, candidates, n_items=N_ITEMS, hidden=pairs_of(hidden), block=block
    )
    assert ranks.dtype == np.int64
    for user, item, rank in zip(users.tolist(), items.tolist(), ranks.tolist(), strict=True):
        others = [i for i in candidates.tolist() if i != item and not hidden[user, i]]
        better = sum(table[user, i] > table[user, item] for i in others)
        tied = sum(table[user, i] == table[user, item] for i in others)
        assert rank == 1 + better + tied


@given(problems(), st.integers(1, 6), st.booleans())
def test_ranks_cut_at_k_and_lists_against_the_exact_ones(problem, k, one_each):
    """Whatever way is taken (one pair a user, the k best, ties at the k-th), ranks up to k are exact."""
    table, candidates, hidden, users, block = problem
    users = users.unique() if one_each else users
    items = candidates[torch.randint(len(candidates), (len(users),), generator=torch.Generator().manual_seed(1))]
    hidden[users, items] = False
    source = FullCatalogue(table_scorer(table, candidates), candidates, N_ITEMS, pairs_of(hidden))
    exact, none = rank_pairs(source, users, items, block=block)
    ranks, lists = rank_pairs(source, users, items, block=block, k=k, list_k=k)
    assert none is None and np.array_equal(np.minimum(ranks, k + 1), np.minimum(exact, k + 1))
    unique = users.unique()
    best, _ = top_k(
        table_scorer(table, candidates), unique, candidates, k, n_items=N_ITEMS, hidden=pairs_of(hidden), block=block
    )
    assert lists.shape == (len(unique), k) and torch.equal(lists[:, : best.shape[1]], best)


def test_a_long_list_of_ties_at_the_cut():
    """Of 40 items 30 tie at the top: nobody is among the first 3, as for all the exact rank is 30."""
    table = torch.zeros(1, 41)
    table[0, 1:31] = 1.0
    source = FullCatalogue(lambda users: table[users][:, 1:].clone(), torch.arange(1, 41), 41, None)
    ranks, _ = rank_pairs(source, torch.zeros(4, dtype=torch.int64), torch.tensor([1, 30, 31, 40]), block=2, k=3)
    assert ranks[:2].tolist() == [30, 30] and (ranks[2:] > 3).all()


def ranks_of(scorer, users, items, hidden=None):
    return exact_ranks(scorer, users, items, torch.arange(1, N_ITEMS), n_items=N_ITEMS, hidden=hidden, block=3)


def test_a_constant_model_scores_zero_and_an_oracle_one():
    users, items = torch.tensor([1, 2, 3, 5]), torch.tensor([4, 12, 1, 7])
    groups = np.arange(4)
    constant = ranks_of(lambda u: torch.zeros(len(u), N_ITEMS - 1), users, items)
    assert constant.tolist() == [N_ITEMS - 1] * 4
    truth = torch.zeros(N_USERS, N_ITEMS)
    truth[users, items] = 1
    oracle = ranks_of(lambda u: truth[u][:, 1:], users, items)
    assert oracle.tolist() == [1] * 4
    for metric in (metrics.hit_rate, metrics.recall, metrics.ndcg, metrics.reciprocal_rank):
        assert metric(constant, groups, 10).sum() == 0 and metric(oracle, groups, 10).sum() == 4


def test_a_random_model_is_at_chance():
    n_users, n_items = 2000, 51
    table = torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(1))
    items = torch.randint(1, n_items, (n_users,), generator=torch.Generator().manual_seed(2))
    candidates = torch.arange(1, n_items)
    ranks = exact_ranks(
        lambda u: table[u][:, 1:], torch.arange(n_users), items, candidates, n_items=n_items, hidden=None, block=64
    )
    assert ranks.mean() == pytest.approx(25.5, abs=4 * 14.4 / np.sqrt(n_users))
    for k in (1, 5, 10):
        chance = k / 50
        hits = metrics.hit_rate(ranks, np.arange(n_users), k).mean()
        assert abs(hits - chance) < 4 * np.sqrt(chance * (1 - chance) / n_users)


def test_seen_items_are_out_of_the_way():
    table = torch.arange(N_ITEMS).float().repeat(N_USERS, 1)  # item 12 is best, for all
    user, item = torch.tensor([2]), torch.tensor([10])
    assert ranks_of(lambda u: table[u][:, 1:], user, item).tolist() == [3]
    seen = interactions([2, 2, 3], [12, 5, 11]).pairs
    assert ranks_of(lambda u: table[u][:, 1:], user, item, seen).tolist() == [2]


def test_diverged_models_are_refused():
    table = torch.zeros(N_USERS, N_ITEMS)
    table[2, 5] = float("nan")
    candidates = torch.arange(1, N_ITEMS)
    for item in (5, 6):  # the ranked one, and another
        with pytest.raises(ValueError, match="scores are NaN: its training diverged"):
            ranks_of(lambda u: table[u][:, 1:], torch.tensor([1, 2]), torch.tensor([3, item]))
    with pytest.raises(ValueError, match="scores are NaN"):
        top_k(table_scorer(table, candidates), torch.tensor([2]), candidates, 1, n_items=N_ITEMS, block=1)
    assert ranks_of(lambda u: table[u][:, 1:], torch.tensor([1]), torch.tensor([3])).tolist() == [12]


def test_items_that_are_no_candidates_have_no_rank():
    users, items = torch.tensor([1, 1]), torch.tensor([0, 3])
    for candidates, n in ((torch.arange(1, N_ITEMS), 1), (torch.tensor([3, 2]), 1), (torch.tensor([4, 5]), 2)):
        with pytest.raises(ValueError, match=f"{n} of 2 items to rank are not candidates"):
            exact_ranks(None, users, items, candidates, n_items=N_ITEMS, hidden=None, block=3)  # before any scoring


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: CollFilter(N_USERS, N_ITEMS, 4, (0, 5.5)),
        lambda: EmbeddingNN([(N_USERS, 3), (N_ITEMS, 4)], [6], y_range=(0, 5.5)),
    ],
)
def test_scorers_agree_with_the_model(make):
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        candidates, users = torch.tensor([3, 1, 12, 7]), torch.tensor([2, 0, 5])
        scorer = model.scorer(candidates)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert [len(scorer(users[:n])) for n in (1, 2, 1)] == [1, 2, 1]  # blocks of any size
        logits = scorer(users)
        assert logits.shape == (3, 4)
        for row, user in enumerate(users):
            for column, item in enumerate(candidates):
                expected = model(torch.stack([user, item])[None])
                assert model.activation(logits[row, column]).item() == pytest.approx(expected.item(), abs=1e-5)


def test_blocks_fit_the_memory():
    assert block_size(1000, "24MB") == 1000 and block_size(1000, 1) == 1  # half of it, 12 bytes a score
    assert block_size(2000, "24MB", torch.device("cpu")) == 500
    assert block_size(4096, "1GB") == 256  # 4 MB of scores
    assert block_size(10**6, "1GB") == 41  # 64 users if they fit


def test_a_dot_product_that_is_not_finite_is_refused():
    for value, where in ((float("nan"), 2), (float("nan"), 5), (1e30, 2)):
        model = CollFilter(N_USERS, N_ITEMS, 4).eval()
        with torch.no_grad():
            model.i_weight.weight[where] = value
            model.u_weight.weight[3] = torch.tensor([1e30, -1e30, 1e30, -1e30]) if value == 1e30 else 1.0
        with pytest.raises(ValueError, match="scores are NaN"):
            ranks_of(model.scorer(torch.arange(1, N_ITEMS)), torch.tensor([3]), torch.tensor([7]))
    with torch.no_grad():
        model.i_weight.weight[2] = 1e20  # large, but fine
    ranks = ranks_of(model.scorer(torch.arange(1, N_ITEMS)), torch.tensor([1]), torch.tensor([7]))
    assert 1 <= ranks[0] <= N_ITEMS - 1


@pytest.mark.parametrize("layers", [[6], [400, 300]])
def test_a_network_scores_no_more_pairs_at_once_than_fit(layers, monkeypatch):
    network = EmbeddingNN([(N_USERS, 3), (N_ITEMS, 3)], layers).eval()
    seen = []
    score = EmbeddingNN.score
    monkeypatch.setattr(
        EmbeddingNN, "score", lambda self, u, i: seen.append(u.numel() * i.numel()) or score(self, u, i)
    )
    candidates, users = torch.arange(1, N_ITEMS), torch.arange(1, N_USERS)
    memory = 2 * 4 * network.floats_per_pair() * 3 * len(users)  # half of it holds three items for all users
    with torch.no_grad():
        pieces = network.scorer(candidates, memory)(users)
        assert max(seen) == 3 * len(users) and network.floats_per_pair() >= 3 * max(layers)
        torch.testing.assert_close(pieces, network.scorer(candidates)(users))


@pytest.mark.parametrize(
    ("size", "expected"),
    [("512MB", 512e6), ("2 GB", 2e9), (2048, 2048), ("1.5KB", 1500), ("7", 7), ("1t", 1e12), ("3b", 3)],
)
def test_sizes_of_memory(size, expected):
    assert parse_memory(size) == expected


@pytest.mark.parametrize("size", ["lots", "", 0, -5, "0MB", "5XB", None])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="max_memory must be a positive number of bytes or a text like '512MB', got"):
        parse_memory(size)
