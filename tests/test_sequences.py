"""Events with order: windows, what is known at a moment, models that read histories in their order."""

import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from collabkit import (
    EASE,
    AveragedHistory,
    CollabDataLoaders,
    CollabWarning,
    CollFilter,
    GRURec,
    Implicit,
    NextItem,
    Popularity,
    Recommender,
    SASRec,
    collab_learner,
    splits,
)  # fmt: skip
from collabkit.data.runs import Runs
from collabkit.models.next_item import decayed_counts, decayed_gram, sparse_counts
from collabkit.models.sequence import alike

NETWORKS = [GRURec, SASRec, AveragedHistory]


def walks(n_users=80, n_items=30, n_events=25, noise=0.1, seed=0, shuffled=False):
    """Everybody walks up the items, from a start of their own; a share `noise` of the steps is random."""
    rng, rows = np.random.default_rng(seed), []
    for user in range(n_users):
        at = rng.integers(n_items)
        items = []
        for _ in range(n_events):
            at = rng.integers(n_items) if rng.random() < noise else (at + 1) % n_items
            items.append(at)
        items = rng.permutation(items) if shuffled else items
        rows += [(f"u{user}", f"i{item:02d}", time) for time, item in enumerate(items)]
    return pd.DataFrame(rows, columns=["user", "item", "time"])


def dataloaders(df=None, **kwargs):
    options = {"user_name": "user", "item_name": "item", "time_name": "time", "seed": 0, "history": 10}
    options |= {"feedback": "implicit", "splitter": splits.leave_last_out(), **kwargs}
    return CollabDataLoaders.from_df(walks() if df is None else df, **options)


def fitted(model, dls, epochs=15, **options):
    learn = collab_learner(dls, model=model, n_factors=16, seed=0, **options)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, 1e-2)
    return learn


def hit_rate(model, on="valid", k=1):
    return model.evaluate(on, k=k, metrics="HitRate", n_boot=2)["value"].iloc[0]


# --- data ------------------------------------------------------------------------------------------------------------


def test_repeats_stay_in_their_order():
    df = pd.DataFrame({"user": [1] * 6, "item": list("abacab"), "time": [5, 1, 2, 3, 4, 0]})
    dls = dataloaders(df)
    assert [dls.data.items[i] for i in dls.data.histories.of([1]).values] == ["b", "b", "a", "c", "a"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollabWarning)  # they are wanted
        dataloaders(df)
    more = pd.concat([df, pd.DataFrame({"user": [2, 2], "item": ["a", "c"], "time": [1, 2]})], ignore_index=True)
    assert len(dataloaders(more, history=None).data.train) == 3  # each once, the last of each user held out


def test_ties_and_missing_times_are_counted():
    df = pd.DataFrame({"user": [1, 1, 1, 2, 2, 2], "item": list("abcabc"), "time": [1, 1, 2, 1, 1, 1]})
    with pytest.warns(CollabWarning, match="3 of 6 events have the time of their user's previous event"):
        dls = dataloaders(df)
    assert [dls.data.items[i] for i in dls.data.latest.of([2]).values] == ["a", "b", "c"]
    with pytest.warns(CollabWarning, match="the order of the table is taken") as caught:
        dataloaders(df.drop(columns="time"), time_name=None, splitter=splits.random_split(0.4, seed=0))
    assert sum("order of the table" in str(w.message) for w in caught) == 1


@pytest.mark.parametrize("model", NETWORKS)
def test_a_row_a_user_beside_features_of_users(model, tmp_path):
    df = walks(n_users=30, n_events=10)
    users = pd.DataFrame({"user": df["user"].unique()}).assign(age=lambda t: np.arange(len(t)) % 7)
    learn = fitted(model, dataloaders(df, users=users), epochs=1, user_table=True)
    learn.export(tmp_path / "mixed")
    rec = Recommender.load(tmp_path / "mixed")
    pd.testing.assert_frame_equal(rec.recommend(["u1", "u7"], k=5), learn.recommend(["u1", "u7"], k=5))
    assert len(rec.recommend(history=["i01", "i02"], k=3)) == 3
    rec.add_users(pd.DataFrame({"user": ["new"], "age": [3]}))
    assert len(rec.recommend(["new"], k=3)) == 3


def test_models_of_order_say_what_order_they_were_given():
    df = walks(n_events=8, noise=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollabWarning)
        windows, plain = dataloaders(df), dataloaders(df, history=None)
        collab_learner(windows, model=SASRec), NextItem().fit(windows), NextItem().fit(plain), EASE().fit(plain)
    assert (windows.history, plain.history) == (10, None)
    with pytest.warns(CollabWarning, match="SASRec predicts what comes next.*without history=.*order of time"):
        collab_learner(plain, model=SASRec)
    untimed = {"time_name": None, "splitter": splits.random_split(0.4, seed=0)}
    plain = dataloaders(df.drop(columns="time"), history=None, **untimed)
    with pytest.warns(CollabWarning, match=r"order of the table \(there is no time_name=\)"):
        collab_learner(plain, model=SASRec)
    with pytest.warns(CollabWarning, match="the order of the table is taken"):
        NextItem().fit(plain)
    windows = dataloaders(df.drop(columns="time"), **untimed)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollabWarning)  # it was said when they were made
        NextItem().fit(windows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history": 0}, "history must be"), ({"history": 2.5}, "history must be"),
        ({"history": "10"}, "history must be"), ({"repeats": "last"}, "repeats must be"),
        ({"history": 5, "by_user": True}, "by_user=True makes batches without order"),
    ],
)  # fmt: skip
def test_records_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Implicit(**options)


def test_nobody_has_two_events():
    df = pd.DataFrame({"user": [1, 1, 2, 2], "item": list("abab"), "time": [1, 2, 1, 2]})
    with pytest.raises(ValueError, match="no user has two events"):
        dataloaders(df)


def test_windows_take_no_weights():
    with pytest.raises(ValueError, match="leave weights= out"):
        dataloaders(weights="inverse_item")


# --- windows ---------------------------------------------------------------------------------------------------------


def events_of(batch):
    """`(user, what came before within the window, the event)` of each target."""
    query, positives = batch[0], batch[1]
    place = torch.arange(len(positives)) - query.history.start[query.history.rows]
    values = query.history.values.tolist()
    starts = query.history.start[query.history.rows].tolist()
    return [
        (int(query.users[row]), tuple(values[start : start + at + 1]), int(target))
        for row, start, at, target in zip(query.history.rows, starts, place.tolist(), positives, strict=True)
    ]


def test_every_event_but_the_first_is_a_target_once_an_epoch():
    dls = dataloaders(history=4)
    history, found = dls.data.histories, []
    for _ in range(3):
        n, epoch = len(dls.train), [row for batch in dls.train for row in events_of(batch)]
        assert len(list(dls.train)) or n  # the next epoch has a plan of its own
        wanted = [(u, int(i)) for u, run in enumerate(history) for i in run[1:]]
        assert sorted((u, i) for u, _, i in epoch) == sorted(wanted)
        assert max(len(before) for _, before, _ in epoch) == 4
        for user, before, item in epoch:
            run = "".join(f"<{j}>" for j in history.of([user]).values.tolist())
            assert "".join(f"<{j}>" for j in (*before, item)) in run
        found.append(sorted(epoch))
    assert found[0] != found[1]  # the cuts fall elsewhere


def test_as_many_batches_as_said_and_one_seed_gives_one_plan():
    for _ in range(2):
        one, two = (dataloaders(history=5, bs=200) for _ in range(2))
        for _ in range(3):
            n = len(one.train)
            first, second = list(one.train), list(two.train)
            assert len(first) == n
            assert all(torch.equal(a[1], b[1]) and torch.equal(a[2], b[2]) for a, b in zip(first, second, strict=True))
    assert all(len(b[0].history) * int(b[0].history.lengths.max()) <= 200 for b in first)


def test_a_targets_own_item_is_no_negative():
    batch = dataloaders().train.one_batch()
    positives, negatives, hits = batch[1], batch[2], batch[5]
    assert (negatives[hits[1]] == positives[hits[0]]).all()
    assert len(hits[0]) == int((positives[:, None] == negatives).sum()) > 0


@pytest.mark.parametrize("negatives", ["uniform", "popularity", "in_batch", "all"])
def test_negatives_by_name(negatives):
    assert np.isfinite(fitted(GRURec, dataloaders(negatives=negatives), 1).recorder.values[-1]).all()


def test_models_without_histories_take_the_same_batches():
    learn = fitted(CollFilter, dataloaders(), 2)
    assert len(learn.recommend("u1", k=3)) == 3


def test_show_batch_and_results():
    dls = dataloaders()
    table = dls.train.show_batch(show=False)
    assert list(table.columns[:3]) == ["user", "item before", "item"] and len(table) == 9
    walk = table["item before"].str[1:].astype(int) + 1 == table["item"].str[1:].astype(int)
    assert walk.mean() > 0.5


# --- closed form -----------------------------------------------------------------------------------------------------


def brute_force(histories, decays, n):
    gram, target = np.zeros((len(decays) * n,) * 2), np.zeros((len(decays) * n, n))
    for items in histories:
        states = np.zeros((len(decays), n))
        for now, after in pairwise(items):
            states *= np.array(decays)[:, None]
            states[:, now] += 1
            gram += np.outer(states.ravel(), states.ravel())
            target[:, after] += states.ravel()
    return gram, target


@pytest.mark.parametrize("decays", [(0.5,), (0.5, 0.95), (0.1, 0.6, 0.99)])
def test_sums_from_pairs_are_those_of_brute_force(decays, monkeypatch):
    rng = np.random.default_rng(0)
    lists = [rng.integers(1, 9, rng.integers(0, 60)) for _ in range(20)]
    runs = Runs.group(np.repeat(np.arange(20), list(map(len, lists))), np.concatenate(lists), 20, width=9)
    gram, target = brute_force(lists, decays, 9)
    counts = decayed_counts(runs, decays)
    assert np.allclose(torch.cat(counts).numpy(), target, rtol=1e-13, atol=1e-13)
    assert np.allclose(decayed_gram(runs, decays, counts).numpy(), gram, rtol=1e-13, atol=1e-11)
    popular = np.bincount(np.concatenate(lists), minlength=9).clip(1)
    for dense in (2**25, 0):
        monkeypatch.setattr("collabkit.models.next_item.DENSE", dense)
        sparse = sparse_counts(runs, decays[0], 1.0, 0.5).toarray() * popular[:, None] * popular**0.5
        assert np.allclose(sparse, target[:9], rtol=1e-3, atol=1e-3)  # pairs far apart are left out


@pytest.mark.parametrize("max_items", [10_000, 5])
def test_next_item_finds_what_follows(max_items):
    dls = dataloaders()
    model = NextItem(l2=1.0, max_items=max_items).fit(dls)
    assert hit_rate(model) > 0.8
    assert model.recommend(history=["i03", "i04"], k=1)["item"].tolist() == ["i05"]
    if max_items > 30:
        assert model.recommend(history=["i04", "i03"], k=1, filter_seen=False)["item"].tolist() == ["i04"]
    assert model.similar_items("i07", k=1)["item"].tolist() == ["i08"]


@pytest.mark.parametrize(
    "options", [{"decays": ()}, {"decays": (0.5, 0.5)}, {"decays": (1.0,)}, {"decays": (0.0,)}, {"l2": 0}, {"top": 0}]
)
def test_next_item_out_of_range(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must "):
        NextItem(**options)


def test_ease_by_the_last_events_follows_their_order():
    dls = dataloaders()
    whole, late = EASE(l2=5).fit(dls), EASE(l2=5, last=1).fit(dls)
    histories = [["i01", "i02", "i20"], ["i20", "i01", "i02"]]
    of_whole, of_late = (
        [model.recommend(history=h, k=9)["item"].tolist() for h in histories] for model in (whole, late)
    )
    assert of_whole[0] == of_whole[1] and of_late[0] != of_late[1]
    assert late.config()["last"] == 1


def test_popularity_of_the_last_days():
    day = 86_400
    df = pd.DataFrame({"user": [1, 2, 3, 4, 1, 2], "item": list("aaaabb"), "time": [0, 0, 0, 0, 20 * day, 20 * day]})
    more = pd.DataFrame({"user": [5, 5], "item": ["b", "a"], "time": [20 * day, 21 * day]})
    df = pd.concat([df, more], ignore_index=True)
    for times in (df["time"], df["time"] * 1000 + 10**12, pd.to_datetime(df["time"], unit="s")):
        dls = dataloaders(df.assign(time=times), history=None)
        assert Popularity().fit(dls).recommend(history=["b"], k=1)["item"].tolist() == ["a"]
        found = Popularity(days=7).fit(dls).recommend(history=["a"], k=1, filter_seen=False)
        assert found["item"].tolist() == ["b"]
    with pytest.raises(ValueError, match="needs times"):
        Popularity(days=7).fit(dataloaders(df, time_name=None, history=None, splitter=splits.random_split(0.3, seed=0)))
    with pytest.raises(ValueError, match="days must be"):
        Popularity(days=0)


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda cls: cls.__name__)
def learn(request):
    return fitted(request.param, dataloaders())


def test_networks_find_what_follows(learn):
    assert hit_rate(learn) > 0.8
    assert learn.recommend(history=["i03", "i04"], k=1)["item"].tolist() == ["i05"]


@pytest.mark.parametrize("model", NETWORKS, ids=lambda cls: cls.__name__)
def test_without_order_nothing_follows(model):
    rates = [hit_rate(fitted(model, dataloaders(walks(n_items=100, shuffled=shuffled)))) for shuffled in (False, True)]
    assert rates[0] > 0.6 and rates[1] < 0.6 * rates[0]  # who meets what tells something, too


@pytest.mark.parametrize("model", NETWORKS, ids=lambda cls: cls.__name__)
def test_a_state_knows_nothing_of_later_events(model):
    net = model(20, n_factors=8, length=9).eval()
    torch.manual_seed(0)
    for parameter in net.parameters():  # also what starts at zero
        torch.nn.init.normal_(parameter, std=0.5)
    runs = Runs.group([0] * 6, [1, 2, 3, 4, 5, 6], 1)
    other = Runs.group([0] * 6, [1, 2, 3, 9, 9, 9], 1)
    before, after = net.encode_steps(runs), net.encode_steps(other)
    assert torch.allclose(before[:3], after[:3]) and not torch.allclose(before[3:], after[3:])
    # Nor do histories beside it in a batch, or padding.
    both = Runs.group([0] * 6 + [1] * 2, [1, 2, 3, 4, 5, 6, 7, 8], 2)
    assert torch.allclose(net.encode_steps(both)[:6], before, atol=1e-6)
    assert torch.allclose(net.encode(both)[0], before[5], atol=1e-6)
    assert torch.allclose(net.encode(Runs.group([0, 0], [7, 8], 1))[0], net.encode(both)[1], atol=1e-6)
    steps = torch.cat([net.encode(Runs.group([0] * n, range(1, n + 1), 1)) for n in range(1, 7)])
    assert torch.allclose(steps, before, atol=1e-6)


@pytest.mark.parametrize("model", NETWORKS, ids=lambda cls: cls.__name__)
def test_the_last_states_are_those_of_all_states(model):
    net = model(20, n_factors=8, length=9).eval()
    torch.manual_seed(0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    lengths = torch.tensor([9, 3, 1, 7])
    rows = net.item_rows(torch.randint(1, 20, (4, 9)))[0]
    last = net.states(rows, lengths)[torch.arange(4), lengths - 1]
    assert torch.allclose(net.last_states(rows, lengths), last, atol=1e-5)


def test_histories_of_like_length_are_read_together():
    lengths = torch.randint(0, 60, (2000,), generator=torch.Generator().manual_seed(0))
    groups = list(alike(lengths, cells=500, waste=20))
    assert torch.equal(torch.cat(groups).sort().values, lengths.nonzero().squeeze(1))
    for rows in groups:
        places, filled = len(rows) * int(lengths[rows].max()), int(lengths[rows].sum())
        assert places <= 500 and places - filled <= 20 + filled / 4
    assert [rows.tolist() for rows in alike(torch.tensor([700, 0, 800]), cells=500)] == [[0], [2]]
    assert not list(alike(torch.zeros(3, dtype=torch.int64)))


@pytest.mark.parametrize("model", NETWORKS, ids=lambda cls: cls.__name__)
def test_longer_histories_are_cut_from_the_left(model):
    net = model(20, n_factors=8, length=3).eval()
    assert torch.equal(
        net.encode(Runs.group([0] * 5, [9, 8, 1, 2, 3], 1)), net.encode(Runs.group([0] * 3, [1, 2, 3], 1))
    )
    with pytest.raises(ValueError, match="longer than the model's length=3"):
        net.encode_steps(Runs.group([0] * 5, [9, 8, 1, 2, 3], 1))


def test_empty_histories_get_the_biases(learn):
    rows = learn.model.encode(Runs.group([1], [3], 3))
    assert not rows[[0, 2]].any() and rows[1].any()
    assert not learn.model.encode(Runs.group([], [], 2)).any()
    assert len(learn.recommender.default_list(k=3)) == 3


def test_sequences_of_one_call_equal_those_one_by_one(learn):
    rng = np.random.default_rng(1)
    rows = [(f"s{j}", f"i{rng.integers(30):02d}", t) for j in range(40) for t in range(rng.integers(1, 9))]
    sessions = pd.DataFrame(rows, columns=["user", "item", "time"])
    together = learn.recommend(history=sessions, k=3)
    for name, part in sessions.groupby("user"):
        alone = learn.recommend(history=part["item"].tolist(), k=3)
        mine = together[together["user"] == name]
        assert mine["item"].tolist() == alone["item"].tolist()
        assert np.allclose(mine["score"], alone["score"], atol=1e-5)


def test_new_items_are_met_and_recommended_by_their_features():
    df = walks()
    items = pd.DataFrame({"item": sorted(df["item"].unique())})
    items["place"] = (items["item"].str[1:].astype(int) // 2).astype(str) + "th"
    learn = fitted(SASRec, dataloaders(df, items=items))
    learn.add_items(pd.DataFrame({"item": ["twin of i05"], "place": ["2th"]}))
    assert "twin of i05" in learn.recommend(history=["i03", "i04"], k=5)["item"].tolist()
    assert len(learn.recommend(history=["twin of i05"], k=5)) == 5


def test_the_model_does_not_grow_with_users(learn):
    assert all(len(parameter) != len(learn.recommender.users) for parameter in learn.model.parameters())


# --- evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda dls: NextItem(l2=1.0).fit(dls), lambda dls: fitted(SASRec, dls)])
def test_the_validation_event_is_part_of_the_input_of_a_test(make):
    df = walks(noise=0.0)
    last = df["time"] == df["time"].max()
    model = make(dataloaders(df[~last]))
    assert hit_rate(model) > 0.9 and hit_rate(model, df[last]) > 0.9  # 0 without the event before
    now = model.recommend("u3", k=1, filter_seen=False)["item"].iloc[0]
    assert now == df[last & (df["user"] == "u3")]["item"].iloc[0]


def test_what_came_later_is_no_part_of_the_input():
    df = walks(noise=0.0)
    dls = dataloaders(df, splitter=splits.random_split(0.1, seed=1))
    model = NextItem(l2=1.0).fit(dls)
    with pytest.warns(CollabWarning, match="events of the evaluated users came after the moment"):
        model.evaluate(n_boot=2)
    data = dls.data
    known = data.histories_before(data.valid, is_valid=True)
    first = torch.full((data.n_users,), 99).scatter_reduce(0, data.valid.user_idx, data.valid.time, "amin")
    for user in range(1, data.n_users):
        mine = data.train.time[data.train.user_idx == user]
        assert int(known.lengths[user]) == int((mine <= first[user]).sum())
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollabWarning)
        EASE(l2=5).fit(dls).evaluate(n_boot=2)  # a set has no order


def test_repeats_that_are_kept_are_no_leak():
    df = walks(n_items=10)  # everybody goes round twice
    dls = dataloaders(df)
    with pytest.warns(CollabWarning, match="as repeats are kept, these items stay candidates") as caught:
        table = NextItem(l2=1.0).fit(dls).evaluate(n_boot=2)
    assert not any("too good" in str(w.message) for w in caught)
    assert table.columns.name == "seen items hidden but those evaluated"
    once = walks(n_events=5, noise=0.0)
    model = NextItem(l2=1.0).fit(dataloaders(once))
    assert model.evaluate(n_boot=2).columns.name == "seen items hidden"
    with pytest.warns(CollabWarning, match="their figures are too good"):
        model.evaluate(once[once["time"] == 1], n_boot=2)


# --- histories that are no good --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["NextItem", "network"])
def test_odd_histories(kind, learn):
    model = NextItem(l2=1.0).fit(learn.dls) if kind == "NextItem" else learn
    with pytest.raises(KeyError, match="nowhere"):
        model.recommend(history=["nowhere"])
    with pytest.raises(ValueError, match="empty"):
        model.recommend(history=[])
    with pytest.raises(TypeError):
        model.recommend(history=1)
    again = model.recommend(history=["i03"] * (2 if kind == "NextItem" else 50) + ["i04"], k=1)
    assert again["item"].tolist() == ["i05"]
    every = [f"i{j:02d}" for j in range(30)]
    with pytest.warns(CollabWarning, match="fewer than k=3"):
        assert len(model.recommend(history=every, k=3)) == 0
    assert len(model.recommend(history=every, k=3, filter_seen=False)) == 3


def test_repeats_and_times_of_given_histories_count(learn):
    scores = {}
    for name, items in {"once": ["i03", "i09"], "again": ["i03", "i09", "i03"]}.items():
        scores[name] = learn.recommend(history=items, k=1, filter_seen=False)["item"].iloc[0]
    assert scores == {"once": "i10", "again": "i04"}
    table = pd.DataFrame({"user": ["a", "a", "b"], "item": ["i09", "i03", "i20"], "time": [2, 1, 5]})
    assert learn.recommend(history=table, k=1)["item"].tolist() == ["i10", "i21"]
    unordered = table.drop(columns="time")
    assert learn.recommend(history=unordered, k=1)["item"].tolist() == ["i04", "i21"]
    with pytest.raises(ValueError, match="missing time"):
        learn.recommend(history=table.assign(time=[2.0, np.nan, 5.0]))


def test_one_event_a_user_trains_nothing_of_theirs():
    df = pd.concat([walks(20), pd.DataFrame({"user": ["once"], "item": ["i03"], "time": [0]})], ignore_index=True)
    learn = fitted(SASRec, dataloaders(df, splitter=splits.random_split(0.1, seed=3)), 1)
    assert len(learn.recommend("once", k=3)) == 3


def test_artefacts_keep_what_is_needed(learn, tmp_path):
    loaded = Recommender.load(learn.export(tmp_path / "artefact"))
    assert loaded.recommend(k=3).equals(learn.recommend(k=3))
    history = ["i03", "i04", "i05"]
    assert loaded.recommend(history=history, k=3).equals(learn.recommend(history=history, k=3))
