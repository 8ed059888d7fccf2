"""Models whose figures theory knows, in every protocol: anything else means that the evaluation is wrong."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from test_evaluate import interactions, model_of

from collabkit import CollabWarning, Recommender
from collabkit.evaluate import SampledCandidates
from collabkit.models import Popularity

N_USERS, N_ITEMS, K = 400, 61, 10  # rows of the tables
ZERO_FOR_CONSTANT = ["HitRate", "Precision", "Recall", "NDCG", "MAP", "MRR", "AUC"]


@pytest.fixture(scope="module")
def parts():
    """Each user has 20 training items, popular ones more often, and one test item that is no training item."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, N_ITEMS)
    chosen = [1 + rng.choice(N_ITEMS - 1, size=21, replace=False, p=share / share.sum()) for _ in range(N_USERS - 1)]
    rows = [(1 + u, int(i), 1) for u, items in enumerate(chosen) for i in items]
    data = interactions(rows, N_USERS, N_ITEMS, rated=False)
    last = np.arange(len(data)) % 21 == 20
    return data.take(~last), data.take(last)


def given_candidates(train, test, n=20, seed=5):
    """A table of `n` unseen items a user, as the NCF protocol passes."""
    rng = np.random.default_rng(seed)
    met = torch.zeros(N_USERS, N_ITEMS, dtype=torch.bool)
    for part in (train, test):
        met[part.user_idx, part.item_idx] = True
    rows = [(u, i) for u in range(1, N_USERS) for i in rng.permutation(np.flatnonzero(~met[u, 1:].numpy()) + 1)[:n]]
    users, items = (np.array(column) for column in zip(*rows, strict=True))
    return pd.DataFrame({"user": train.users.decode(users), "item": train.items.decode(items)})


PROTOCOLS = {"full": 40, "sampled": 21, "given": 21}  # candidates a user: 60 - 20 seen, or 20 others and the relevant


def evaluate(model, parts, protocol, **kwargs):
    train, test = parts
    candidates = {
        "full": lambda: None,
        "sampled": lambda: SampledCandidates(20, seed=1),
        "given": lambda: given_candidates(train, test),
    }[protocol]()
    table = Recommender(model, train, test).evaluate(candidates=candidates, n_boot=100, **kwargs)
    label = {"full": "", "sampled": " (20 negatives)", "given": " (given candidates)"}[protocol]
    assert all(name.endswith(label) and name.count("(") == bool(label) for name in table.index)
    return table.set_axis([name.removesuffix(label) for name in table.index])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_constant_model_scores_zero(parts, protocol):
    table = evaluate(model_of(torch.ones(N_USERS, N_ITEMS)), parts, protocol, k=[1, K], metrics=ZERO_FOR_CONSTANT)
    assert (table[["value", "low", "high"]].to_numpy() == 0).all() and (table["n"] == N_USERS - 1).all()
    assert (table["difference"] < 0).all()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_oracle_scores_one(parts, protocol):
    train, test = parts
    scores = torch.rand(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(0))
    scores[test.user_idx, test.item_idx] = 2
    scores[train.user_idx, train.item_idx] = 3  # what a model has learnt by heart is ahead, and no candidate
    table = evaluate(model_of(scores), parts, protocol, k=K, metrics=ZERO_FOR_CONSTANT)
    perfect = table.drop(index=f"Precision@{K}")
    assert (perfect[["value", "low", "high"]].to_numpy() == 1).all()
    assert table.loc[f"Precision@{K}", "value"] == pytest.approx(1 / K)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_leak_of_the_opposite_kind_scores_zero(parts, protocol):
    scores = torch.zeros(N_USERS, N_ITEMS)
    scores[parts[1].user_idx, parts[1].item_idx] = -1
    table = evaluate(model_of(scores), parts, protocol, metrics=ZERO_FOR_CONSTANT)
    assert (table["value"] == 0).all()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("ties", [False, True])
def test_a_random_model_is_at_chance(parts, protocol, ties):
    """HR@k = k / candidates; with scores of few values ties push it below, to what a count of the ties says."""
    generator, n = torch.Generator().manual_seed(3), PROTOCOLS[protocol]
    scores = torch.rand(N_USERS, N_ITEMS, generator=generator)
    levels = 8
    scores = (scores * levels).floor() if ties else scores
    table = evaluate(model_of(scores), parts, protocol, k=[5, K], metrics=["HitRate", "Recall", "AUC"])
    for k in (5, K):
        # tied: own level l, and of the n - 1 others each is at least l with probability (levels - l) / levels
        others = [np.random.default_rng(0).binomial(n - 1, (levels - lv) / levels, 100_000) < k for lv in range(levels)]
        chance = np.mean(others) if ties else k / n
        sd = np.sqrt(chance * (1 - chance) / (N_USERS - 1))
        assert abs(table.loc[f"HitRate@{k}", "value"] - chance) < 4 * sd + 0.002
        assert table.loc[f"Recall@{k}", "value"] == table.loc[f"HitRate@{k}", "value"]  # one relevant item each
    right = (1 - 1 / levels) / 2 if ties else 0.5
    assert abs(table.loc["AUC", "value"] - right) < 4 * np.sqrt((1 + 1 / n) / 12 / (N_USERS - 1))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_popularity_is_its_own_baseline(parts, protocol):
    """The baseline column, made without scores, is what popularity gets as a model, and by brute force."""
    train, test = parts
    names = [*ZERO_FOR_CONSTANT, "Coverage", "Novelty", "ARP", "Gini"]
    counts = torch.bincount(train.item_idx, minlength=N_ITEMS).float()
    table = evaluate(model_of(counts.repeat(N_USERS, 1)), parts, protocol, k=[3, K], metrics=names)
    ranked = table[~table.index.str.contains("Cov|Nov|ARP|Gini")]
    assert (ranked["value"] == ranked["popularity"]).all() and (ranked["diff_high"] == 0).all()
    assert table["value"].to_numpy() == pytest.approx(table["popularity"].to_numpy(), rel=0.02)  # ties in the lists
    assert 0 < table.loc["HitRate@3", "value"] < table.loc[f"HitRate@{K}", "value"] < 1
    again = evaluate(Popularity().fit(parts), parts, protocol, k=[3, K], metrics=names)
    assert again["value"].to_numpy() == pytest.approx(table["value"].to_numpy(), rel=0.02)
    if protocol == "full":
        hits = []
        for user, item in zip(test.user_idx.tolist(), test.item_idx.tolist(), strict=True):
            mine = counts.clone()
            mine[train.item_idx[train.user_idx == user]] = -1
            hits.append((mine[1:] >= counts[item]).sum() <= 3)
        assert table.loc["HitRate@3", "value"] == pytest.approx(np.mean(hits))


def everything(rated=False):
    """User 1 has seen every item but the test one; user 2 has seen all items, and holds none out; user 3 most."""
    rows = [(1, i, 1) for i in range(1, 6)] + [(2, i, 1) for i in range(1, 7)] + [(3, i, 1) for i in (1, 2)]
    train = interactions(rows, 4, 7, rated=rated)
    return train, interactions([(1, 6, 1), (3, 6, 1)], 4, 7, rated=rated)


@pytest.mark.parametrize("candidates", [None, SampledCandidates(3), SampledCandidates(99)])
def test_a_user_who_has_seen_everything_else(candidates):
    """The one item left is first for any model, also for a constant one: nothing competes with it."""
    rec = Recommender(model_of(torch.zeros(4, 7)), *everything())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        table = rec.evaluate(k=1, candidates=candidates, metrics=["HitRate", "AUC", "NDCG"], n_boot=50)
    assert table["value"].tolist() == [0.5, 0, 0.5]  # user 3: a tie with the three others
    assert table["n"].tolist() == [2, 1, 2]  # AUC has no pair to judge for user 1


def test_users_short_of_unseen_items_are_counted():
    rec = Recommender(model_of(torch.rand(4, 7)), *everything())
    with pytest.warns(CollabWarning, match="2 of 2 users have under 4 unseen items and compete with all of them"):
        sampled = rec.evaluate(k=2, candidates=SampledCandidates(4), n_boot=2)
    exact = rec.evaluate(k=2, n_boot=2)
    assert sampled["value"].tolist() == exact["value"].tolist()  # all of them is the exact ranking
    assert sampled.index[0] == "HitRate@2 (4 negatives)"
