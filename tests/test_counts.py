"""Counts as confidence: how rows become pairs, what each confidence is, and that every model that takes it uses it."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from collabkit import (
    EASE,
    CollabDataLoaders,
    CollabWarning,
    Implicit,
    ItemKNN,
    Recommender,
    collab_learner,
    load_learner,
    splits,
)
from collabkit.data.confidence import CONFIDENCES, Confidence
from collabkit.data.counts import late_rows
from collabkit.data.interactions import Columns, Interactions
from collabkit.train.als import ALSSolver

LOG = pd.DataFrame(
    [("a", "x", 3), ("a", "y", 1), ("a", "x", 2), ("b", "x", 4), ("b", "x", -4), ("b", "y", 5), ("c", "y", 0),
     ("c", "x", 1)],
    columns=["user", "item", "qty"],
)  # fmt: skip


def make_dls(df=None, valid=None, **kwargs):
    df = LOG if df is None else df
    valid = pd.DataFrame({"user": ["a"], "item": ["z"], "qty": [1]}) if valid is None else valid
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        return CollabDataLoaders.from_dfs(df, valid, "user", "item", seed=0, feedback=Implicit(**kwargs))


def pairs(train) -> dict:
    table = train.to_df()
    return dict(zip(zip(table["user"], table["item"], strict=True), train.count.tolist(), strict=True))


def play_log(seed: int, n_users=200, n_items=150):
    """Plays with a heavy tail: many of what fits the user's taste, one or two of what somebody else put on."""
    rng = np.random.default_rng(seed)
    taste, kind = rng.normal(size=(n_users, 5)), rng.normal(size=(n_items, 5))
    liking = taste @ kind.T / 2 + rng.normal(size=n_items) / 2
    chosen = np.argsort(-liking + rng.gumbel(size=liking.shape), axis=1)[:, :22]  # half by taste, half by chance
    rows = []
    for user, items in enumerate(chosen):
        items = np.append(items[:11], rng.choice(n_items, 14, replace=False))
        plays = np.ceil(np.exp(1.3 * liking[user, items] + rng.normal(size=len(items)) / 2))
        rows += [(user, item, play) for item, play in zip(items, np.minimum(plays, 500), strict=True)]
    df = pd.DataFrame(rows, columns=["user", "item", "qty"]).drop_duplicates(["user", "item"])
    rest = np.argsort(-liking + 0.3 * rng.gumbel(size=liking.shape), axis=1)[:, :12]
    test = pd.DataFrame({"user": np.repeat(np.arange(n_users), 12), "item": rest.ravel()}).merge(
        df[["user", "item"]], how="left", indicator=True
    )
    return df, test.loc[test["_merge"] == "left_only", ["user", "item"]].assign(qty=1)


# --- rows become pairs -----------------------------------------------------------------------------------------------


def test_rows_of_a_pair_are_summed_and_returns_taken_off():
    with pytest.warns(CollabWarning) as said:
        valid = pd.DataFrame({"user": ["a"], "item": ["z"], "qty": [1]})
        dls = CollabDataLoaders.from_dfs(LOG, valid, "user", "item", seed=0, feedback=Implicit(counts="qty"))
    assert pairs(dls.data.train) == {("a", "x"): 5, ("a", "y"): 1, ("b", "y"): 5, ("c", "x"): 1}
    text = " ".join(str(w.message) for w in said)
    assert "1 of 9 counts in 'qty' are below 0 (returns)" in text
    assert (
        "left out 3 of 9 rows, 0 of 3 users, 0 of 3 items: the counts of the (user, item) pair have a sum of 0" in text
    )


def test_repeats_are_counts():
    log = pd.concat([LOG, pd.DataFrame({"user": ["d"], "item": ["w"], "qty": [1]})])
    assert pairs(make_dls(log, counts="repeats").data.train) == {("d", "w"): 1} | {
        ("a", "x"): 2, ("a", "y"): 1, ("b", "x"): 2, ("b", "y"): 1, ("c", "y"): 1, ("c", "x"): 1
    }  # fmt: skip


def test_a_threshold_is_of_sums_where_there_are_no_ratings():
    valid = pd.DataFrame({"user": ["a", "a"], "item": ["z", "y"], "qty": [6, 1]})
    assert pairs(make_dls(valid=valid, counts="qty", threshold=5).data.train) == {("a", "x"): 5, ("b", "y"): 5}


def test_what_came_after_the_split_is_not_counted():
    df = pd.DataFrame(
        [
            (1, "a", 1, 0),
            (1, "b", 1, 1),
            (2, "a", 1, 1),
            (2, "c", 1, 5),
            (1, "c", 1, 6),
            (1, "a", 9, 7),
            (2, "a", 2, 2),
        ],
        columns=["user", "item", "qty", "time"],
    )

    def last_two(df):
        late = df["time"].to_numpy() > 4
        return np.flatnonzero(~late), np.flatnonzero(late)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        dls = CollabDataLoaders.from_df(df, user_name="user", item_name="item", time_name="time", splitter=last_two,
                                        feedback=Implicit(counts="qty"))  # fmt: skip
    assert pairs(dls.data.train) == {(1, "a"): 1, (1, "b"): 1, (2, "a"): 3}
    events = Interactions.from_df(df, Columns("user", "item", time="time"))
    at_random = late_rows(events, np.array([0, 3, 4]), np.array([1, 2]))
    assert not at_random[[0, 1, 2, 3, 4, 6]].any()  # a split that is not by time has no moment


def test_returns_and_repeats_from_the_moment_on_are_not_known_to_training():
    """Times in whole months: what is dated at the moment of the split is later, too; so is what has no new pair."""
    rows = [(1, "a", 1, 1), (1, "c", 2, 1), (2, "a", 1, 1), (2, "b", 1, 1), (3, "c", 1, 1), (3, "d", 1, 1),
            (1, "d", 1, 2), (2, "c", 1, 3), (3, "c", 9, 2), (1, "c", -2, 2), (2, "b", -1, 1), (3, "a", 1, 3),
            (3, "a", -1, 3), (5, "e", 3, 1)]  # fmt: skip
    df = pd.DataFrame(rows, columns=["user", "item", "qty", "month"])
    df["month"] = pd.to_datetime({"year": 2024, "month": df["month"], "day": 1})
    names = {"user_name": "user", "item_name": "item", "time_name": "month"}
    for splitter in (
        splits.time_split(date="2024-02-01"),
        splits.time_split(0.3),
        splits.time_split(date="2024-01-15"),
    ):
        with pytest.warns(CollabWarning, match="1 of the pairs left out were returned only after the moment"):
            dls = CollabDataLoaders.from_df(df, splitter=splitter, feedback=Implicit(counts="qty"), **names)
        train = pairs(dls.data.train)
        assert train == {(1, "a"): 1, (1, "c"): 2, (2, "a"): 1, (3, "c"): 1, (3, "d"): 1, (5, "e"): 3}
        assert set(pairs(dls.data.valid)) == {(1, "d"), (2, "c")}  # (3, a) was returned at once
    least = Implicit(counts="qty", threshold=2)
    with pytest.warns(CollabWarning, match="1 training pairs have a sum below 2 at the moment"):
        more = pd.concat([df, pd.DataFrame({"user": [4], "item": ["a"], "qty": [5], "month": df["month"].max()})])
        dls = CollabDataLoaders.from_df(more, splitter=splits.time_split(date="2024-02-01"), feedback=least, **names)
    assert pairs(dls.data.train) == {(1, "c"): 2, (5, "e"): 3}


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        ([1, None, 2, 1, 1, 1, 1, 1], ValueError, r"'qty' has 1 missing \(NaN\) count.*row 1"),
        ([1, np.inf, 2, 1, 1, 1, 1, 1], ValueError, "1 infinite count"),
        (list("abcdefgh"), TypeError, "counts must be numbers; column 'qty'"),
        ([True] * 8, TypeError, "counts must be numbers"),
        ([0] * 8, ValueError, "no row of 8 is left: the counts of the .* have a sum of 0 or less; relax"),
        ([-1] * 8, ValueError, "no row of 8 is left"),
    ],
)
def test_bad_counts(column, error, message):
    with warnings.catch_warnings(), pytest.raises(error, match=message):
        warnings.simplefilter("ignore", CollabWarning)
        CollabDataLoaders.from_df(LOG.assign(qty=column), user_name="user", item_name="item",
                                  feedback=Implicit(counts="qty"))  # fmt: skip


def test_fractions_are_amounts_and_are_said():
    with pytest.warns(CollabWarning, match="2 of 8 counts in 'qty' are fractions"):
        dls = CollabDataLoaders.from_df(LOG.assign(qty=[0.5, 1, 2, 1, 1, 1.5, 1, 1]), user_name="user",
                                        item_name="item", feedback=Implicit(counts="qty"), seed=0)  # fmt: skip
    assert {2.5, 1.0} <= set(torch.cat([dls.data.train.count, dls.data.valid.count]).tolist())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"confidence": "log"}, ValueError, "give counts="),
        ({"alpha": 2.0}, ValueError, "give counts="),
        ({"counts": "qty", "history": 5}, ValueError, "leave one of them out"),
        ({"counts": "qty", "repeats": "keep"}, ValueError, "leave one of them out"),
        ({"counts": 1.5}, TypeError, "counts must be a column"),
        ({"counts": "qty", "confidence": "square"}, ValueError, "confidence must be one of 'linear', 'log', 'bm25'"),
        ({"counts": "qty", "alpha": -1}, ValueError, "alpha must be a number of at least 0"),
        ({"counts": "qty", "alpha": 2, "confidence": Confidence("log")}, ValueError, "not both"),
        ({"dislikes": "negatives"}, ValueError, "needs threshold="),
        ({"dislikes": "hide", "threshold": 3}, ValueError, "dislikes must be None or 'negatives'"),
        ({"dislikes": "negatives", "threshold": 3, "negatives": "shared"}, ValueError, "draws per row"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        Implicit(**options)


def test_a_missing_column_is_named():
    with pytest.raises(KeyError, match="plays"):
        CollabDataLoaders.from_df(LOG, user_name="user", item_name="item", feedback=Implicit(counts="plays"))


# --- confidence ------------------------------------------------------------------------------------------------------


def test_confidences_by_hand():
    users, items, count = torch.tensor([1, 1, 2]), torch.tensor([1, 2, 1]), torch.tensor([4.0, 1.0, 1.0])
    linear = Confidence("linear", alpha=0.5).fitted(users, items, count)
    assert linear.of(users, items, count).tolist() == pytest.approx([3 / 2, 1.5 / 2, 1.5 / 2])  # of mean 2
    log = Confidence("log", alpha=2, eps=0.5).fitted(users, items, count)
    raw = 1 + 2 * np.log(1 + np.array([4, 1, 1]) / 0.5)
    assert log.of(users, items, count).tolist() == pytest.approx(raw / raw.mean(), rel=1e-6)
    bm25 = Confidence("bm25", k1=2, b=0.5).fitted(users, items, count)
    length = 2 * (0.5 + 0.5 * np.array([5, 5, 1]) / 3)
    idf = np.log(1 + (2 - np.array([2, 1, 2]) + 0.5) / (np.array([2, 1, 2]) + 0.5))
    raw = 1 + idf * np.array([4, 1, 1]) * 3 / (np.array([4, 1, 1]) + length)
    assert bm25.of(users, items, count).tolist() == pytest.approx(raw / raw.mean(), rel=1e-6)


@pytest.mark.parametrize("kind", CONFIDENCES)
def test_confidences_rise_with_the_count_and_are_1_on_average(kind):
    train = make_dls(play_log(0)[0], play_log(0)[1], counts="qty", confidence=kind).data.train
    assert train.confidences.mean() == pytest.approx(1, rel=1e-5) and torch.equal(train.weight, train.confidences)
    assert np.corrcoef(train.count, train.confidences)[0, 1] > 0.5 and train.confidences.min() > 0


# --- least squares ---------------------------------------------------------------------------------------------------


def test_the_optimum_is_that_of_hu_et_al():
    df, valid = play_log(1, 30, 20)
    data = make_dls(df, valid, counts="qty", confidence="linear", alpha=40).data
    train, raw = data.train, Confidence("linear", alpha=40)
    C = torch.ones(train.n_users, train.n_items, dtype=torch.float64)
    C[train.user_idx, train.item_idx] = raw.of(train.user_idx, train.item_idx, train.count).double()  # 1 + 40 r
    C[0], C[:, 0] = 0, 0
    mean = train.confidence.scale
    solver = ALSSolver(train, reg=0.7 / mean, unobserved_weight=1 / mean, nu=0.0, n_cg=40)
    P, Q = (table.double() for table in solver.init_tables(5, seed=0, std=1.0))
    Q[1:] = torch.randn(len(Q) - 1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    solver.solve_users(P, Q)
    liked = (C > 1).double()
    for user in range(1, train.n_users):
        A = Q.T @ (C[user][:, None] * Q) + 0.7 * torch.eye(5, dtype=torch.float64)
        expected = torch.linalg.solve(A, Q.T @ (C[user] * liked[user]))
        assert torch.allclose(P[user], expected, atol=1e-6, rtol=1e-6)
    scores = P @ Q.T
    total = (C * (liked - scores) ** 2).sum() + 0.7 * (P.square().sum() + Q.square().sum())
    assert solver.objective(P, Q) * mean == pytest.approx(float(total), rel=1e-6)


def test_weights_multiply_the_observed_term_and_ones_are_none():
    train = make_dls(*play_log(2, 30, 20)).data.train
    weight = torch.rand(len(train), generator=torch.Generator().manual_seed(0)) + 0.5
    tables = []
    for part in (train, replace(train, weight=torch.ones(len(train))), replace(train, weight=weight)):
        solver = ALSSolver(part, reg=0.05, unobserved_weight=0.2, n_cg=12)
        P, Q = solver.init_tables(4, seed=0, std=1.0)
        solver.solve_users(P, Q)
        tables.append(P)
    assert torch.allclose(tables[0], tables[1], atol=1e-6) and not torch.allclose(tables[0], tables[2], atol=1e-3)
    W = torch.zeros(train.n_users, train.n_items).index_put_((train.user_idx, train.item_idx), weight)
    for user in range(1, train.n_users):
        penalty = 0.05 * (W[user].sum() + 0.2 * (train.n_items - 1)) * torch.eye(4)
        A = 0.2 * Q.T @ Q + Q.T @ (W[user][:, None] * Q) + penalty
        assert torch.allclose(tables[2][user], torch.linalg.solve(A, Q.T @ W[user]), atol=1e-4)


def ndcg(model) -> float:
    return model.evaluate(metrics="NDCG", k=10, n_boot=2)["value"].item()


def fitted_als(dls, **options):
    learn = collab_learner(dls, n_factors=8, seed=0)
    with learn.no_bar(), learn.no_logging():
        learn.fit_als(6, reg=0.02, unobserved_weight=0.1, **options)
    return learn


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_counts_beat_ones_on_a_play_log(seed):
    df, valid = play_log(seed)
    plain = make_dls(df, valid)
    als, knn = ndcg(fitted_als(plain)), ndcg(ItemKNN().fit(plain))
    for kind in CONFIDENCES:
        dls = make_dls(df, valid, counts="qty", confidence=kind)
        assert 1.02 * als < ndcg(fitted_als(dls)) < 0.9, kind
        if kind != "linear":
            assert 1.02 * knn < ndcg(ItemKNN().fit(dls)) < 0.9, kind


# --- what is done with such a model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [fitted_als, lambda dls: ItemKNN(k=20).fit(dls), lambda dls: EASE(50).fit(dls)])
def test_the_artefact_and_histories_know_counts(make, tmp_path):
    df, valid = play_log(0, 80, 60)
    dls = make_dls(df, valid, counts="qty", confidence="bm25")
    learn = make(dls)
    rec = Recommender.load(learn.export(tmp_path / "out"))
    assert torch.equal(rec.train.confidences, dls.data.train.confidences)
    assert rec.train.weight is not None and torch.equal(rec.valid.count, dls.data.valid.count)
    old, new = learn.recommend(k=5), rec.recommend(k=5)
    assert old["item"].equals(new["item"]) and np.allclose(old["score"], new["score"], atol=1e-5)
    own = df[df["user"] == 3]
    by_dict = rec.recommend(history=dict(zip(own["item"], own["qty"], strict=True)), k=5)
    by_table = rec.recommend(history=own.assign(user="new"), k=5)
    twice = pd.concat([own.assign(qty=1), own.assign(qty=own["qty"] - 1)]).assign(user="new")
    by_rows = rec.recommend(history=twice[twice["qty"] > 0], k=5)
    assert by_dict["item"].tolist() == by_table["item"].tolist() == by_rows["item"].tolist()
    ones = rec.recommend(history=own["item"].tolist(), k=5)
    assert not np.allclose(ones["score"], by_dict["score"], atol=1e-4)
    again = rec.recommend([1, 2], recent=pd.DataFrame({"user": [1], "item": [5], "qty": [50]}), k=3)
    assert len(again) == 6
    with pytest.raises(ValueError, match="no item"), pytest.warns(CollabWarning, match="count of 0 or less"):
        rec.recommend(history={1: 0})
    rec.fold_in(own.assign(user=999))
    assert len(rec.recommend(999, k=3)) == 3
    rec.save(tmp_path / "again")
    assert Recommender.load(tmp_path / "again").recommend(999, k=3)["item"].equals(rec.recommend(999, k=3)["item"])


def test_a_loaded_learner_weighs_as_before(tmp_path):
    learn = fitted_als(make_dls(*play_log(0, 80, 60), counts="qty"))
    loaded = load_learner(learn.export(tmp_path / "out"))
    assert torch.equal(loaded.dls.data.train.weight, learn.dls.data.train.weight)
    loaded.fit(1, 1e-3)


def test_losses_are_weighed_by_confidence():
    dls = make_dls(*play_log(0, 80, 60), counts="qty")
    assert len(dls.one_batch()) == 5
    weights = make_dls(*play_log(0, 80, 60), counts="qty").data.train.confidences
    assert torch.equal(dls.data.train.weight, weights)


# --- dislikes --------------------------------------------------------------------------------------------------------


def disliking():
    rng = np.random.default_rng(0)
    df = pd.DataFrame([(u, i, 5 if (u + i) % 2 else 1) for u in range(60) for i in rng.choice(40, 16, replace=False)],
                      columns=["user", "item", "rating"])  # fmt: skip
    options = {"user_name": "user", "item_name": "item", "rating_name": "rating", "seed": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        return [CollabDataLoaders.from_df(df, feedback=Implicit(threshold=4, dislikes=how), **options)
                for how in (None, "negatives")]  # fmt: skip


def test_known_negatives_are_drawn_hidden_and_solved_for(tmp_path):
    plain, dls = disliking()
    disliked = dls.data.disliked.pairs
    assert plain.data.disliked is None and len(disliked.values) > 300
    users = torch.tensor([3, 4, 5])
    drawn = dls.train.batches.sampler.draw(users, 4)
    assert disliked.find(users, drawn[:, 0])[1].all()
    assert not disliked.find(users.repeat_interleave(3), drawn[:, 1:].reshape(-1))[1].any()
    learn = fitted_als(dls)
    listed, hidden = learn.recommend(k=10), dls.data.disliked.to_df()[["user", "item"]]
    assert len(listed.merge(hidden)) == 0 and len(fitted_als(plain).recommend(k=10).merge(hidden)) > 0
    scores = [fitted_als(d).model(torch.stack([disliked.rows, disliked.values], 1)).mean() for d in (plain, dls)]
    assert scores[1] < 0.6 * scores[0]
    again = Recommender.load(learn.export(tmp_path / "out"))
    assert torch.equal(again.data.disliked.pairs.values, disliked.values)
    assert again.recommend(k=10)["item"].equals(listed["item"])
    learn.fit(1, 1e-3)


def test_the_objective_with_dislikes_is_the_dense_sum():
    data = disliking()[1].data
    solver = ALSSolver(data.train, reg=0.05, unobserved_weight=0.3, disliked=data.disliked)
    P, Q = solver.init_tables(4, seed=0, std=1.0)
    X, D = (torch.zeros(data.n_users, data.n_items).index_put_((p.user_idx, p.item_idx), torch.ones(len(p)))
            for p in (data.train, data.disliked))  # fmt: skip
    s = P @ Q.T
    n_users, n_items = data.n_users - 1, data.n_items - 1
    expected = (X * (s - 1) ** 2).sum() + 0.3 * s.square().sum() + (D * s.square()).sum()
    expected += (0.05 * ((X + D).sum(1) + 0.3 * n_items) * P.square().sum(1)).sum()
    expected += (0.05 * ((X + D).sum(0) + 0.3 * n_users) * Q.square().sum(1)).sum()
    assert solver.objective(P, Q) == pytest.approx(float(expected), rel=1e-4)
