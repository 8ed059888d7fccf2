"""`Ranked` and `Pointwise` batches: each event once an epoch, beside negatives that its user has not seen."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from collabkit.data.interactions import Columns, Interactions
from collabkit.data.notices import CollabWarning
from collabkit.train import loader as loader_module
from collabkit.train.batches import Pointwise, Ranked
from collabkit.train.loader import Loader
from collabkit.train.sampling import SAMPLERS, SharedNegatives, make_sampler

PER_ROW = ("uniform", "popularity")
SHARED = ("shared", "in_batch", "all")


def events(n=60, n_users=9, n_items=12, seed=0) -> Interactions:
    """Events in the order of their users; user 1 has seen every item that has a row."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(n_users * n_items, n, replace=False)
    pairs = pd.DataFrame({"u": cells // n_items + 2, "i": cells % n_items + 1})
    everything = pd.DataFrame({"u": 1, "i": pairs["i"].unique()})
    return Interactions.from_df(pd.concat([pairs, everything]), Columns("u", "i")).sorted_by_user()


def make(data=None, negatives="uniform", n_neg=3, pointwise=False, **kwargs):
    data = events() if data is None else data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        ranked = Ranked(data, make_sampler(negatives, data), n_neg)
    return Loader(Pointwise(ranked) if pointwise else ranked, **{"bs": 16, **kwargs})


def as_lists(loader):
    return [[t.tolist() for t in batch] for batch in loader]


def pairs(data) -> list[tuple[int, int]]:
    return list(zip(data.user_idx.tolist(), data.item_idx.tolist(), strict=True))


# --- one row a positive ----------------------------------------------------------------------------------------------


@given(
    st.integers(6, 80), st.integers(1, 30), st.integers(1, 5), st.booleans(), st.booleans(), st.sampled_from(PER_ROW)
)
def test_each_event_once_beside_unseen_items(n, bs, n_neg, shuffle, chunked, negatives):
    loader = make(events(n), negatives, bs=bs, n_neg=n_neg, shuffle=shuffle)
    data, seen, got = loader.dataset, set(pairs(loader.dataset)), []
    with pytest.MonkeyPatch.context() as patch:
        if chunked:  # as large data is: a few batches are drawn at once
            patch.setattr(loader_module, "DRAWS", 2 * bs * n_neg)
        for users, positives, drawn, log_counts in loader:
            assert users.shape == positives.shape and drawn.shape == (len(users), n_neg)
            assert len(log_counts) == len(users)
            got += zip(users.tolist(), positives.tolist(), strict=True)
            for user, row, counts in zip(users.tolist(), drawn.tolist(), log_counts.tolist(), strict=True):
                assert all((user, item) not in seen for item in row)
                assert (row == [0] * n_neg) == (user == 1 or counts[0] == torch.inf)
    assert sorted(got) == sorted(pairs(data)) and (shuffle or got == pairs(data))
    assert len(loader) == len(as_lists(loader)) == len(Loader(data, bs=bs))


@pytest.mark.parametrize("chunked", [False, True])
def test_negatives_are_uniform_over_what_the_user_has_not_seen(chunked, monkeypatch):
    loader = make(shuffle=True, n_neg=8)
    if chunked:
        monkeypatch.setattr(loader_module, "DRAWS", 20 * 8)
    counts = np.zeros((loader.dataset.n_users, loader.dataset.n_items))
    for _ in range(60):
        for users, _, negatives, _ in loader:
            np.add.at(counts, (users[:, None].numpy(), negatives.numpy()), 1)
    seen = set(pairs(loader.dataset))
    p_values = []
    for user in range(2, loader.dataset.n_users):
        unseen = [item for item in range(1, loader.dataset.n_items) if (user, item) not in seen]
        assert counts[user].sum() == counts[user, unseen].sum()
        p_values.append(chisquare(counts[user, unseen]).pvalue)
    assert min(p_values) > 1e-3


@pytest.mark.parametrize("negatives", SAMPLERS)
def test_an_epoch_depends_on_seed_and_number_alone(negatives):
    first, same, other = (make(negatives=negatives, shuffle=True, seed=seed) for seed in (3, 3, 4))
    epochs = [as_lists(first) for _ in range(3)]
    torch.manual_seed(11)
    state = torch.get_rng_state()
    assert [as_lists(same) for _ in range(3)] == epochs
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator was not touched
    assert epochs[0] != epochs[1] != epochs[2] and as_lists(other) not in epochs


def test_negatives_are_drawn_anew_each_epoch():
    loader = make(shuffle=True, n_neg=5)
    epochs = [
        sorted(zip(*(t.tolist() for t in map(torch.cat, zip(*loader, strict=True))), strict=True)) for _ in range(2)
    ]
    assert [row[:2] for row in epochs[0]] == [row[:2] for row in epochs[1]]
    assert np.mean([a[2] == b[2] for a, b in zip(*epochs, strict=True) if a[0] != 1]) < 0.2


@pytest.mark.parametrize("negatives", SAMPLERS)
def test_without_shuffle_negatives_are_always_the_same(negatives):
    loader = make(negatives=negatives)
    assert as_lists(loader) == as_lists(loader) == as_lists(loader.new())


def test_one_batch_is_the_first_of_the_next_epoch():
    loader = make(shuffle=True)
    for _ in range(2):
        peek = [t.tolist() for t in loader.one_batch()]
        assert [t.tolist() for t in loader.one_batch()] == peek == as_lists(loader)[0]


@pytest.mark.parametrize("negatives", SHARED)
def test_shared_negatives_are_one_row_a_batch(negatives):
    data = events()
    loader, seen = make(data, negatives, shuffle=True, n_neg=6), set(pairs(data))
    rows = []
    for users, positives, drawn, log_counts in loader:
        assert log_counts.shape == (len(users), len(drawn)) and drawn.tolist() == sorted(set(drawn.tolist()))
        for user, positive, counts in zip(users.tolist(), positives.tolist(), log_counts, strict=True):
            out = [i == positive or (negatives != "all" and (user, i) in seen) for i in drawn.tolist()]
            assert (counts == torch.inf).tolist() == out
        if negatives == "in_batch":
            assert set(drawn.tolist()) == set(positives.tolist())
        rows.append(tuple(drawn.tolist()))
    assert (len(set(rows)) > 1) == (negatives != "all")  # drawn anew each batch
    assert max(map(len, rows)) <= {"shared": 6, "in_batch": 12, "all": 12}[negatives]


def test_no_batch_of_one_beside_larger_ones_and_drop_last():
    data = events(40).take(range(41))
    assert [len(batch[0]) for batch in make(data, bs=20)] == [20, 21]
    dropped = make(data, bs=39, drop_last=True)
    assert [len(batch[0]) for batch in dropped] == [39] and len(dropped.new(drop_last=False)) == 2


def test_new_keeps_what_is_not_told():
    loader = make(n_neg=7, shuffle=True, seed=9)
    as_lists(loader)
    same = loader.new()
    assert same.batches is loader.batches and (same.seed, same.epoch, same.bs) == (9, 1, 16)
    assert as_lists(same) == as_lists(loader)
    fewer = loader.new(batches=Ranked(loader.dataset, loader.batches.sampler, 2))
    assert fewer.one_batch()[2].shape == (16, 2)
    assert loader.new(n_neg=3).one_batch()[2].shape == (16, 3) and loader.batches.n_negatives == 7
    assert loader.new(n_neg=3).batches.on(loader.dataset).n_negatives == 3
    assert loader.new(sampler=SharedNegatives(loader.dataset), n_neg=5).one_batch()[2].dim() == 1
    with pytest.raises(ValueError, match="n_neg must be a whole number"):
        loader.new(n_neg=0)
    with pytest.raises(TypeError, match="n_neg"):
        Loader(loader.dataset).new(n_neg=3)  # of ratings
    assert loader.new(batches=Pointwise(loader.batches)).one_batch()[0].shape[1] == 2


@pytest.mark.parametrize("n_neg", [0, -1, 1.5])
def test_n_neg_must_be_a_whole_number(n_neg):
    with pytest.raises(ValueError, match=f"n_neg must be a whole number of at least 1, got {n_neg}"):
        make(n_neg=n_neg)


def test_a_single_event():
    data = Interactions.from_df(pd.DataFrame({"u": [1, 2], "i": ["a", "b"]}), Columns("u", "i"))
    loader = Loader(Ranked(data.take([0]), make_sampler("uniform", data), 3))
    assert as_lists(loader) == [[[1], [1], [[2, 2, 2]], [[pytest.approx(np.log(3))]]]]


# --- shown -----------------------------------------------------------------------------------------------------------


def test_show_batch_has_positives_and_negatives_by_title(capsys):
    df = pd.DataFrame({"who": ["ann", "ann", "bob", "cat"], "film": ["Alien", "Brazil", "Cabaret", "Alien"]})
    data = Interactions.from_df(df, Columns("who", "film"))
    loader = make(data, n_neg=7)
    table = loader.show_batch(show=False)
    assert table.columns.tolist() == ["who", "film", *(f"negative {j} of 7" for j in range(1, 6))]
    assert table[["who", "film"]].equals(df)
    assert set(table.iloc[0, 2:]) == set(table.iloc[1, 2:]) == {"Cabaret"}
    assert set(table.iloc[2, 2:]) == {"Alien", "Brazil"}
    assert len(loader.show_batch(show=False, max_n=2)) == 2
    loader.show_batch()
    assert "negative 1 of 7" in capsys.readouterr().out
    shared = make(data, "all").show_batch(show=False, max_n=1)
    assert shared.iloc[0].tolist() == ["ann", "Alien", "Alien", "Brazil", "Cabaret"]


def test_show_results_has_the_best_negative():
    df = pd.DataFrame({"who": ["ann", "bob", "cat"], "film": ["Alien", "Brazil", "Cabaret"]})
    loader = make(Interactions.from_df(df, Columns("who", "film")), "all")  # negatives: Alien, Brazil, Cabaret
    out = torch.tensor([[0.5, 9.0, 1.0, 2.0], [0.1, 3.0, 9.0, 4.0], [0.2, 6.0, 5.0, 9.0]])
    table = loader.show_results(loader.one_batch(), out, show=False)
    assert table["best negative"].tolist() == ["Cabaret", "Cabaret", "Alien"]  # never the row's own positive
    assert table["its score"].tolist() == [2.0, 4.0, 6.0] and table["score"].tolist() == pytest.approx([0.5, 0.1, 0.2])
    assert table[["who", "film"]].equals(df)


# --- pairs one a row -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negatives", PER_ROW)
def test_pointwise_batches_are_the_same_pairs_one_a_row(negatives):
    ranking = make(negatives=negatives, shuffle=True, seed=5)
    pointwise = ranking.new(batches=Pointwise(ranking.batches))
    assert pointwise.n_inp == 1 and len(pointwise) == len(ranking)
    for (users, positives, drawn, _), (x, y) in zip(ranking, pointwise, strict=True):
        assert x.shape == (len(y), 2) and x.dtype == torch.int64 and y.shape == (len(y), 1) and y.dtype == torch.float32
        expected = []
        for user, positive, row in zip(users.tolist(), positives.tolist(), drawn.tolist(), strict=True):
            expected += [(user, positive, 1.0), *((user, item, 0.0) for item in row if item)]
        got = [(user, item, label) for (user, item), label in zip(x.tolist(), y.flatten().tolist(), strict=True)]
        assert got == expected
    alone = sum(user == 1 for user in ranking.dataset.user_idx.tolist())  # user 1 has no negatives
    n = len(ranking.dataset)
    assert sum(len(y) for _, y in pointwise) == n * 4 - 3 * alone and sum(y.sum() for _, y in pointwise) == n


def test_pointwise_needs_negatives_of_each_row():
    for negatives in SHARED:
        with pytest.raises(ValueError, match="needs negatives of each row's own"):
            make(negatives=negatives, pointwise=True)


def test_pointwise_is_shown_with_labels():
    table = make(pointwise=True).show_batch(show=False, max_n=6)
    assert table.columns.tolist() == ["u", "i", "rating"] and set(table["rating"]) <= {0.0, 1.0}
    loader = make(pointwise=True, shuffle=True)
    peek = [t.tolist() for t in loader.one_batch()]
    assert peek == as_lists(loader)[0] != as_lists(loader)[0]
    assert not hasattr(loader, "get_idxs")  # fastai would cut the predictions to as many as there are events


def test_pointwise_batches_of_other_rows():
    loader = make(pointwise=True)
    rows = loader.dataset.take([0, 5])
    x, y = loader.new(rows).one_batch()
    assert [tuple(pair) for pair in x[y[:, 0] == 1].tolist()] == pairs(rows)
