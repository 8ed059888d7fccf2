"""Implicit feedback from the table to the artefact: dataloaders, learner, least squares, seeds, defaults, bad input."""

import random
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.learner import Learner, Metric
from fastai.optimizer import SGD
from helpers import (
    RANKER_OPTIONS,
    RANKERS,
    auc_of,
    clicks,
    make_clicks_dls,
    make_dls,
    make_learner,
    make_ranker,
    same_weights,
    score_table,
    seen_table,
    silence,
    trained_ranker,
    weights,
)
from torch import nn

from collabkit import EASE, CollabDataLoaders, HitRate, ItemKNN, collab_learner, load_learner, splits
from collabkit.coldstart.default_rows import fill_cold_items, zero_cold_rows
from collabkit.data.notices import CollabWarning
from collabkit.losses import LOSSES, RankingLoss, bpr
from collabkit.models import GMF, NCF, CollFilter, NeuMF, TwoTower
from collabkit.train.als import ALSSolver
from collabkit.train.sampling import SAMPLERS, PopularityNegatives

SHARED = ("shared", "in_batch", "all")


def made(df, **kwargs):
    """Dataloaders, and what was said in making them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dls = CollabDataLoaders.from_df(df, **{"feedback": "implicit", "seed": 0, **kwargs})
    return dls, [str(w.message) for w in caught if w.category is CollabWarning]


def rows(dl):
    return sorted(dl.items.itertuples(index=False, name=None))


class Auc(Metric):
    """How the model ranks the validation items, as a fastai metric."""

    name = "auc"

    def reset(self):
        self.result = None

    def accumulate(self, learn):
        if self.result is None:
            with torch.no_grad():
                self.result = auc_of(score_table(learn.model), learn.dls)

    @property
    def value(self):
        return self.result


# --- from a table ----------------------------------------------------------------------------------------------------


def test_what_is_in_the_parts():
    df = clicks()
    dls = make_clicks_dls(df)
    last = df.sort_values("time").groupby("user").tail(2)
    assert set(rows(dls.valid)) == set(last.itertuples(index=False, name=None)) and len(rows(dls.valid)) == 160
    assert sorted(rows(dls.train) + rows(dls.valid)) == sorted(df.itertuples(index=False, name=None))
    assert dls.feedback == "implicit" and dls.n_inp == 3 and dls.train.dataset.rating is None
    assert dls.train.shuffle and not dls.valid.shuffle and dls.train.bs == 32 and dls.valid.bs == 8192
    assert (dls.train.dataset.user_idx.diff() >= 0).all()  # in the order of the users
    users, positives, negatives, log_counts = dls.one_batch()
    assert users.shape == positives.shape == (32,) and negatives.shape == (32, 4) and len(log_counts) == 32
    assert list(dls.classes) == ["user", "title"] and dls.classes["title"][0] == "#na#"
    assert "train: Interactions: 720 rows, 80 users, 40 items" in repr(dls)


def test_two_columns_are_enough():
    dls, said = made(clicks()[["user", "title"]], n_neg=2, bs=16)
    assert said == [] and len(dls.valid.dataset) == 176 and dls.one_batch()[2].shape == (16, 2)
    with pytest.raises(KeyError, match="pass feedback='implicit'"):
        CollabDataLoaders.from_df(clicks()[["user", "title"]])


def test_negatives_are_new_to_the_user_in_both_parts():
    dls = make_clicks_dls()
    train, valid = (seen_table(dl.dataset) for dl in dls)
    for users, _, negatives, _ in dls.train:
        assert not train[users[:, None], negatives].any()
    some_valid = torch.cat([valid[u[:, None], n].flatten() for u, _, n, _ in dls.train]).double().mean()
    assert 0.02 < some_valid < 0.2  # what is held out is a negative in training, like any unseen item
    for users, _, negatives, _ in dls.valid:  # but not beside itself
        assert not (train | valid)[users[:, None], negatives].any()


def test_ratings_are_binarised_by_the_threshold():
    df = clicks().assign(stars=lambda d: d["time"] % 5 + 1)
    dls, said = made(df, rating_name="stars", rating_threshold=4, time_name="time")
    liked = df[df["stars"] >= 4]
    assert len(said) == 1 and said[0].startswith(f"left out {len(df) - len(liked)} of {len(df)} rows, ")
    assert said[0].endswith("rated below 4, no positive")
    assert sorted(rows(dls.train) + rows(dls.valid)) == sorted(
        liked[["user", "title", "time"]].itertuples(index=False, name=None)
    )
    assert dls.train.dataset.columns.rating is None


def test_ratings_without_a_threshold_all_count_and_that_is_said():
    df = clicks().assign(stars=1.0)
    dls, said = made(df, rating_name="stars")
    assert len(said) == 1 and "every row is a positive, whatever its 'stars'; pass rating_threshold=" in said[0]
    assert len(dls.train.dataset) + len(dls.valid.dataset) == len(df)
    _, said = made(df)  # a column that is not named is not read
    assert said == []


def test_repeats_keep_the_first_in_time_and_are_counted():
    df = clicks()
    again = df.head(30).assign(time=lambda d: d["time"] + 10_000)
    both = pd.concat([again, df], ignore_index=True)
    dls, said = made(both, time_name="time")
    assert len(said) == 1 and said[0].startswith("left out 30 of 910 rows, ") and "the first in time is kept" in said[0]
    assert sorted(rows(dls.train) + rows(dls.valid)) == sorted(df.itertuples(index=False, name=None))
    dls, said = made(both)
    assert "the first in the table is kept" in said[0] and len(dls.train.dataset) + len(dls.valid.dataset) == 880


def test_zero_counts_are_no_events():
    df = clicks().assign(plays=lambda d: d["time"] % 3)
    dls, said = made(df, rating_name="plays")
    n = int((df["plays"] > 0).sum())
    assert f"left out {880 - n} of 880 rows" in said[0] and "count of zero in 'plays'" in said[0]
    assert len(dls.train.dataset) + len(dls.valid.dataset) == n


def test_low_ratings_can_be_kept_from_the_validation_part_alone():
    df = clicks().assign(stars=lambda d: d["time"] % 5 + 1)
    splitter = splits.leave_last_out(2, time_name="time", min_rating=4)
    dls, said = made(df, rating_name="stars", splitter=splitter)
    last = df.sort_values("time").groupby("user").tail(2)
    assert {row[:2] for row in rows(dls.valid)} == set(
        last.loc[last["stars"] >= 4, ["user", "title"]].itertuples(index=False, name=None)
    )
    assert len(dls.train.dataset) == 720 and any("rated below 4" in text for text in said)


def test_from_dfs():
    df = clicks()
    train, valid = df[df["time"] < 700], df[df["time"] >= 700]
    dls = CollabDataLoaders.from_dfs(train, valid, feedback="implicit", time_name="time", seed=0, n_neg=3)
    assert rows(dls.train) == sorted(train.itertuples(index=False, name=None)) and dls.train.batches.n_negatives == 3
    assert rows(dls.valid) == sorted(valid.itertuples(index=False, name=None))
    with pytest.warns(CollabWarning, match="left out 9 of 889 rows, .* repeat a .user, item. pair"):
        dls = CollabDataLoaders.from_dfs(
            train, pd.concat([train.head(9), valid]), feedback="implicit", time_name="time"
        )
    assert rows(dls.train) == sorted(train.itertuples(index=False, name=None))  # training keeps what both hold
    assert rows(dls.valid) == sorted(valid.itertuples(index=False, name=None))


def test_from_dfs_with_a_threshold():
    df = clicks().assign(stars=lambda d: d["time"] % 5 + 1)
    train, valid = df[df["time"] < 700], df[df["time"] >= 700]
    names = {"rating_name": "stars", "feedback": "implicit", "seed": 0}
    with pytest.warns(CollabWarning, match="rated below 3"):
        dls = CollabDataLoaders.from_dfs(train, valid, rating_threshold=3, **names)
    assert (
        len(dls.train.dataset) == (train["stars"] >= 3).sum() and len(dls.valid.dataset) == (valid["stars"] >= 3).sum()
    )
    low = valid.assign(stars=1)
    with pytest.warns(CollabWarning), pytest.raises(ValueError, match="no row of the validation table is left"):
        CollabDataLoaders.from_dfs(train, low, rating_threshold=3, **names)
    with pytest.warns(CollabWarning), pytest.raises(ValueError, match="no row of the training table is left"):
        CollabDataLoaders.from_dfs(low, train, rating_threshold=3, **names)
    with pytest.warns(CollabWarning), pytest.raises(ValueError, match="no row of the validation table is left"):
        CollabDataLoaders.from_dfs(train, train.head(5), feedback="implicit")


def test_encoded_parts():
    parts = [dl.dataset for dl in make_clicks_dls()]
    dls = CollabDataLoaders.from_interactions(*parts, feedback="implicit", seed=42, bs=32)
    assert torch.equal(dls.one_batch()[2], make_clicks_dls().one_batch()[2])
    rated = [dl.dataset for dl in make_dls()]
    with pytest.raises(ValueError, match="implicit feedback has no ratings: from_df and from_dfs make events of them"):
        CollabDataLoaders.from_interactions(*rated, feedback="implicit")


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        (
            {"feedback": "implict"},
            ValueError,
            "feedback must be 'explicit', 'implicit' or an Implicit record, got 'implict'",
        ),
        ({"feedback": "explicit", "rating_threshold": 4}, ValueError, "rating_threshold=4 is for feedback='implicit'"),
        ({"rating_threshold": 4}, ValueError, "rating_threshold=4 needs rating_name=, one of the columns"),
        ({"n_neg": 0}, ValueError, "n_neg must be a whole number of at least 1, got 0"),
        ({"n_neg": 2.5}, ValueError, "n_neg must be a whole number of at least 1, got 2.5"),
        ({"negatives": "hard"}, ValueError, "negatives must be one of 'uniform', .*, got 'hard'"),
        ({"rating_name": "minus"}, ValueError, "'minus' has 880 negative value.s., first at row 0"),
        ({"rating_name": "text"}, TypeError, "ratings must be numbers; column 'text'"),
        (
            {"rating_name": "time", "rating_threshold": 1e6},
            ValueError,
            "no row of 880 is left: rated below 1e.06",
        ),
        ({"n_negs": 3}, TypeError, "n_negs"),
    ],
)
def test_bad_arguments(kwargs, error, message):
    df = clicks().assign(minus=-1.0, text="x")
    with pytest.raises(error, match=message):
        made(df, **kwargs)


def test_one_event_a_user_and_all_events_at_one_time():
    one = clicks().drop_duplicates("user")
    with pytest.raises(ValueError, match="leave_last_out.n=1. leaves the validation part empty"):
        made(one, splitter=splits.leave_last_out(time_name="time"))
    df = pd.concat([one[one["user"] < 5], clicks().query("user >= 5")])
    dls, said = made(df, splitter=splits.leave_last_out(time_name="time"))
    assert said == ["leave_last_out(n=1): 5 of 80 users have no row in valid, as they have 1 or fewer"]
    assert set(dls.train.items["user"]) == set(range(80)) and set(dls.valid.items["user"]) == set(range(5, 80))
    still = clicks().assign(time=7)
    with pytest.raises(ValueError, match="time_split.share=0.2. leaves the training part empty"):
        made(still, splitter=splits.time_split(time_name="time"))
    dls, said = made(still, splitter=splits.leave_last_out(time_name="time"))
    assert said == [
        "leave_last_out(n=1): 80 users have events at one time on both sides of the cut; table order decided"
    ]


def test_a_user_who_has_seen_everything_trains_without_negatives():
    df = pd.concat(
        [clicks(20, 12, 4), pd.DataFrame({"user": 99, "title": sorted(clicks(20, 12, 4)["title"].unique())})]
    )
    train = df.drop_duplicates(["user", "title"])[["user", "title"]]
    valid = pd.DataFrame({"user": [0, 1], "title": ["new", "new"]})
    for negatives, losses in (("uniform", ["bce", "bpr", "softmax"]), ("popularity", ["bce"])):
        with pytest.warns(
            CollabWarning, match="^1 users have seen every item: their rows are trained without negatives"
        ):
            dls = CollabDataLoaders.from_dfs(train, valid, feedback="implicit", negatives=negatives, seed=0)
        full = dls.classes["user"].o2i[99]
        for users, _, drawn, log_counts in dls.train:
            assert (drawn[users == full] == 0).all() and (log_counts[users == full] == torch.inf).all()
            assert (drawn[users != full] > 0).all()
        for loss in losses:
            learn = make_ranker("dot", dls, loss_func=loss)
            learn.fit(1, 1e-2)
            assert np.isfinite(learn.recorder.values[-1]).all()
    every = pd.DataFrame([(u, t) for u in range(3) for t in "abc"], columns=["user", "title"])
    with pytest.raises(ValueError, match="every user has seen every item: there is nothing to draw negatives from"):
        CollabDataLoaders.from_dfs(every, valid, feedback="implicit")


@pytest.mark.parametrize("kind", ["dot", "ncf", "towers"])
def test_more_negatives_than_there_are_items(kind):
    dls = make_clicks_dls(clicks(8, 10, 4), n_neg=50)
    assert dls.one_batch()[2].shape == (16, 50)
    learn = make_ranker(kind, dls)
    learn.fit(1, 1e-2)
    assert np.isfinite(learn.recorder.values[-1]).all()


# --- the learner -----------------------------------------------------------------------------------------------------


def test_models_and_losses_by_name():
    dls = make_clicks_dls()
    for kind, cls in zip(RANKERS, (CollFilter, NCF, GMF, NeuMF, TwoTower, TwoTower), strict=True):
        learn = make_ranker(kind, dls)
        assert type(learn.model) is cls and (learn.model.n_users, learn.model.n_items) == (81, 41)
        assert learn.loss_func.func is LOSSES["bce"]
    assert (
        collab_learner(dls).model.n_factors == 50
        and collab_learner(dls, 7, use_nn=True, layers=[5]).model.n_factors == 7
    )
    assert collab_learner(dls, use_nn=True, layers=[5, 3], ps=0.2).model.config()["ps"] == [0.2, 0.2]
    assert collab_learner(dls, loss_func=bpr).loss_func.func is bpr
    loss = RankingLoss("hinge")
    assert collab_learner(dls, loss_func=loss).loss_func is loss
    made_already = TwoTower(81, 41, 3)
    learn = collab_learner(dls, model=made_already)
    assert learn.model is made_already and learn.model.items is dls.classes["title"]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"loss_func": "bcee"}, ValueError, "loss_func must be one of 'bce', .*got 'bcee'"),
        ({"y_range": (0, 5)}, ValueError, "scores of implicit feedback are logits: leave y_range="),
        ({"config": {"ps": 0.1}}, ValueError, "leave y_range=, config= and emb_szs= out"),
        ({"use_nn": True, "emb_szs": [3, 3]}, ValueError, "leave y_range=, config= and emb_szs= out"),
        ({"layers": [3]}, ValueError, "CollFilter has no option layers; it takes n_factors, y_range"),
        ({"model": TwoTower(80, 41)}, ValueError, r"tables of \(80, 41\) rows, the data needs \(81, 41\)"),
        ({"model": GMF, "similarity": "dot"}, TypeError, "similarity"),
        ({"model": GMF, "layers": [3]}, ValueError, "GMF has no option layers; it takes n_factors, init_std"),
        ({"model": GMF, "use_nn": True}, ValueError, "model=GMF leaves use_nn without effect"),
        ({"model": TwoTower(81, 41), "layers": [3]}, ValueError, "model=TwoTower leaves layers without effect"),
        ({"model": TwoTower(81, 41), "y_range": (0, 5)}, ValueError, "model=TwoTower leaves y_range without effect"),
        ({"wd_onn": "all"}, TypeError, "wd_onn"),
    ],
)
def test_bad_learner_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        collab_learner(make_clicks_dls(), **kwargs)


def test_ranking_losses_are_not_for_ratings():
    for loss in ("bpr", RankingLoss("bpr")):
        with pytest.raises(
            ValueError, match="ranks positives above negatives: make the dataloaders with feedback='impl"
        ):
            collab_learner(make_dls(), loss_func=loss)
    with pytest.raises(ValueError, match="TwoTower has no option y_range"):
        collab_learner(make_dls(), model=TwoTower, y_range=(0, 5))
    rated = silence(collab_learner(make_dls(), model=TwoTower, n_factors=4))
    rated.fit(1, 1e-2)
    assert rated.dls.feedback == "explicit" and np.isfinite(rated.recorder.values[-1]).all()


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "cosine_contrastive"])
def test_every_loss_learns(loss):
    learn = make_ranker("towers", make_clicks_dls(seed=1), loss_func=loss)  # hinge: .71 to .77 over twelve seeds
    learn.fit_one_cycle(8, 5e-2, wd=0.1)
    assert 0.72 < auc_of(score_table(learn.model), learn.dls) < 0.87  # popularity .653, the truth .858


def test_the_cosine_contrastive_loss_learns():
    learn = make_ranker(
        "cosine", temperature=1.0, layers=None, loss_func=partial(LOSSES["cosine_contrastive"], weight=5.0)
    )
    learn.fit_one_cycle(8, 5e-2)
    assert 0.72 < auc_of(score_table(learn.model), learn.dls) < 0.87


@pytest.mark.parametrize("negatives", [*SHARED, "popularity"])
def test_every_kind_of_negatives_learns(negatives):
    dls = make_clicks_dls(negatives=negatives, n_neg=8, val_bs=40, seed=1)
    learn = make_ranker("towers", dls, loss_func="sampled_softmax")
    learn.fit_one_cycle(8, 5e-2, wd=0.1)
    assert 0.72 < auc_of(score_table(learn.model), learn.dls) < 0.87
    assert np.isfinite(learn.recorder.values[-1]).all()
    again = learn.dls.train.new()
    assert type(again.batches.sampler) is SAMPLERS[negatives]


def test_a_loss_of_ones_own_sees_positives_and_negatives():
    shapes = set()

    def mine(pos, neg):
        shapes.add((tuple(pos.shape), tuple(neg.shape)))
        return (neg - pos[:, None]).exp().mean()

    learn = make_ranker("dot", loss_func=mine)
    learn.fit(1, 1e-2)
    assert ((32,), (32, 4)) in shapes and ((160,), (160, 4)) in shapes


# --- fastai's methods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negatives", ["uniform", "all"])
def test_fastais_methods(negatives, capsys):
    dls = make_clicks_dls(negatives=negatives, n_neg=3)
    learn = make_ranker("dot", dls)
    found = learn.lr_find(show_plot=False)
    assert 1e-6 < found.valley < 10
    learn.fit(1, 1e-2)
    n = {"uniform": 3, "all": 40}[negatives]
    preds, counts = learn.get_preds()
    assert preds.shape == (160, 1 + n) and len(counts) == 160
    events = dls.valid.dataset
    with torch.no_grad():
        assert torch.allclose(preds[:, 0], learn.model(events.user_idx, events.item_idx), atol=1e-6)
    dls.show_batch(max_n=3)
    assert f"negative 1 of {n}" in capsys.readouterr().out
    learn.show_results(max_n=4)
    shown = capsys.readouterr().out
    assert "best negative" in shown and len(shown.strip().splitlines()) == 5
    assert learn.validate() == learn.validate()
    asked = clicks().head(7)[["user", "title"]]
    scores = learn.get_preds(dl=dls.test_dl(asked))[0]
    assert scores.shape == (7,) and np.allclose(scores, learn.predict(asked["user"], asked["title"]), atol=1e-5)
    with pytest.warns(CollabWarning, match="1 of 1 rows have 'user' ids that the model does not know"):
        assert learn.get_preds(dl=dls.test_dl(pd.DataFrame({"user": [-5], "title": ["item 03"]})))[0].shape == (1,)


def test_lr_find_changes_nothing():
    one, other = make_ranker("dot"), make_ranker("dot")
    one.lr_find(show_plot=False)
    one.fit(1, 1e-2)
    other.fit(1, 1e-2)
    assert same_weights(one.model, other.model)


class Handwritten(nn.Module):
    """Knows nothing of this library: takes x (m, 2)."""

    def __init__(self, n_users, n_items, d=4):
        super().__init__()
        self.u, self.i = nn.Embedding(n_users, d), nn.Embedding(n_items, d)
        for table in (self.u, self.i):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, x):
        return (self.u(x[:, 0]) * self.i(x[:, 1])).sum(1, keepdim=True)

    def table(self):
        return self.u.weight.detach() @ self.i.weight.detach().T


def test_a_hand_written_module_and_a_plain_learner_train_on_pointwise():
    dls = make_clicks_dls()
    pairs = dls.pointwise()
    torch.manual_seed(0)
    learn = silence(Learner(pairs, Handwritten(81, 41), loss_func=nn.BCEWithLogitsLoss(), path=dls.path))
    learn.fit_one_cycle(8, 5e-2)
    assert 0.72 < auc_of(learn.model.table(), dls) < 0.87
    preds, target = learn.get_preds()
    assert preds.shape == target.shape == (160 * 5, 1)  # of each positive and its four negatives
    assert target.sum() == 160 and preds[target == 1].mean() > preds[target == 0].mean() + 0.5
    assert pairs.n_inp == 1 and pairs.feedback == "implicit" and pairs.seed == dls.seed
    with pytest.raises(ValueError, match="pointwise.. is for implicit"):
        make_dls().pointwise()
    with pytest.raises(ValueError, match="needs negatives of each row's own"):
        make_clicks_dls(negatives="shared").pointwise()


def test_our_learner_on_pointwise_pairs_is_the_bce_on_rows():
    """The same batches in another form: the same loss, the same gradients."""
    dls = make_clicks_dls()
    ranking, pointwise = (
        make_ranker("dot", part, loss_func=loss, opt_func=SGD, init_std=0.1)
        for part, loss in ((dls, "bce"), (dls.pointwise(), None))
    )
    start = weights(ranking.model)
    for learn in (ranking, pointwise):
        learn.fit(2, 1.0)
    assert list(ranking.recorder.values[-1]) == pytest.approx(list(pointwise.recorder.values[-1]), abs=1e-5)
    for (name, p), q in zip(ranking.model.named_parameters(), pointwise.model.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-4) and (p - start[name]).abs().max() > 0.005


@pytest.mark.parametrize("negatives", ["uniform", "all"])
def test_a_plain_learner_trains_our_model_with_a_ranking_loss(negatives):
    dls = make_clicks_dls(negatives=negatives)
    torch.manual_seed(0)
    learn = silence(Learner(dls, TwoTower(81, 41, 4), loss_func=RankingLoss("softmax"), path=dls.path))
    learn.fit_one_cycle(8, 5e-2)
    assert 0.72 < auc_of(score_table(learn.model), dls) < 0.87
    assert learn.get_preds()[0].shape == (160, 41 if negatives == "all" else 5)
    learn.show_results(max_n=2)


# --- seeds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dot", "ncf"])
def test_one_seed_one_result_and_the_global_generators_are_left_alone(kind):
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(results))
        np.random.seed(len(results))  # noqa: NPY002
        random.seed(len(results))
        states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        learn = make_ranker(kind, make_clicks_dls(seed=seed), **({"ps": 0.1} if kind == "ncf" else {}))
        learn.fit(2, 1e-2)
        results.append(weights(learn.model))
        assert torch.equal(torch.get_rng_state(), states[0]) and (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
        assert random.getstate() == states[2]
    assert same_weights(results[0], results[1]) and not same_weights(results[0], results[2])


def test_two_learners_on_one_loader_see_the_same_batches():
    dls = make_clicks_dls()
    one = make_ranker("dot", dls)
    one.fit(3, 1e-2)
    other = make_ranker("dot", dls)
    other.fit(3, 1e-2)
    assert same_weights(one.model, other.model)
    twice = make_ranker("dot", dls)
    twice.fit(1, 1e-2)
    first = weights(twice.model)
    twice.fit(1, 1e-2)
    assert not same_weights(first, twice.model)


# --- strangers -------------------------------------------------------------------------------------------------------


def with_cold_items(n_cold=6):
    """Clicks, and items that occur in the validation part alone."""
    df = clicks()
    last = df.groupby("user")["time"].idxmax()
    df.loc[last.to_numpy()[:18], "title"] = [f"item {90 + j % n_cold}" for j in range(18)]
    return df


@pytest.mark.parametrize("kind", RANKERS)
def test_cold_items_rank_low_in_validation_and_after(kind):
    dls = make_clicks_dls(with_cold_items())
    learn = make_ranker(kind, dls)
    cold = [dls.classes["title"].o2i[f"item {90 + j}"] for j in range(6)]
    places = []

    class Look(Callback):
        order = 100

        def before_validate(self):
            scores = score_table(self.learn.model)[1:, 1:]
            place = scores.argsort(1, descending=True).argsort(1).double() / (scores.shape[1] - 1)
            places.append(place[:, [c - 1 for c in cold]].mean())

    learn.fit(3, 5e-2, cbs=Look())
    assert len(places) == 3 and all(place > 0.6 for place in places[1:])  # 0 the first, 1 the last, chance .5
    table = learn.recommend(None, k=10)
    share = table["title"].isin([f"item {90 + j}" for j in range(6)]).mean()
    assert share < 0.06  # chance: 6 of 46, .13


def test_cold_items_get_the_mean_row_of_the_rarest():
    dls = make_clicks_dls(with_cold_items())
    train = dls.train.dataset
    model = make_ranker("dot", dls).model
    counts = torch.bincount(train.item_idx, minlength=train.n_items)
    warm = (counts > 0).nonzero().squeeze(1)
    cold = sorted({0, *range(train.n_items)} - set(warm.tolist()))
    rarest = warm[counts[warm].argsort(stable=True)[: len(warm) // 10]]
    before = weights(model)
    zero_cold_rows(model, train)
    tables = [table.weight for table in model.item_side.tables]
    assert all((table[cold] == 0).all() for table in tables)
    fill_cold_items(model, train)
    for j, table in enumerate(tables):
        old = before[f"item_side.tables.{j}.weight"]
        assert torch.allclose(table[cold], old[rarest].mean(0).expand(len(cold), -1)) and len(cold) == 7
        assert torch.equal(table[warm], old[warm])


def test_no_other_row_makes_the_training_events_of_a_stranger_likelier():
    learn = trained_ranker("dot")
    model, train = learn.model, learn.dls.train.dataset
    counts = torch.bincount(train.item_idx, minlength=train.n_items)[1:].double()
    items = torch.arange(1, train.n_items)
    tables = [table.weight for table in model.user_side.tables]

    @torch.no_grad()
    def objective(row):
        logits = model.interact(tuple(part.expand(len(items), -1) for part in row), model.item_rows(items)).double()
        value = -(counts * torch.log_softmax(logits, 0)).sum()
        for part, table in zip(row, tables, strict=True):
            value += 30 * ((part - table[1:].mean(0)) / table[1:].std(0, correction=0).mean()).square().sum()
        return value.item()

    row = [table[0].detach() for table in tables]
    generator = torch.Generator().manual_seed(0)
    for scale in (0.05, 0.3):
        for _ in range(20):
            near = [part + scale * part.abs().mean() * torch.randn(part.shape, generator=generator) for part in row]
            assert objective(near) > objective(row) - 0.01
    assert objective([torch.zeros_like(part) for part in row]) > objective(row) + 1


# --- the artefact ----------------------------------------------------------------------------------------------------


def test_the_artefact_goes_on_training(tmp_path):
    learn = make_ranker("neumf", make_clicks_dls(negatives=partial(PopularityNegatives, alpha=0.5)), path=tmp_path)
    learn.fit(1, 1e-2)
    folder = learn.export("it")
    loaded = silence(load_learner(folder, bs=64, n_neg=7, negatives="popularity", loss_func="bpr"))
    train = loaded.dls.train
    assert train.bs == 64 and train.batches.n_negatives == 7 and loaded.loss_func.func is LOSSES["bpr"]
    assert isinstance(train.batches.sampler, PopularityNegatives) and loaded.dls.n_inp == 3
    before = weights(loaded.model)
    loaded.fit(1, 1e-2)
    assert not same_weights(before, loaded.model)
    assert load_learner(folder).loss_func.func is LOSSES["bce"]
    with pytest.raises(ValueError, match="loss_func must be one of"):
        load_learner(folder, loss_func="bprr")


# --- alternating least squares ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dot", "towers"])
def test_als_learns_and_shows_its_progress(kind):
    learn = make_ranker(kind, make_clicks_dls(seed=1), n_factors=8, metrics=[Auc()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn.fit_als(6, reg=0.02, unobserved_weight=0.2)
    assert learn.recorder.metric_names == ["epoch", "train_loss", "valid_loss", "auc", "time"]
    train_loss, valid_loss, auc = zip(*learn.recorder.values, strict=True)
    assert len(auc) == 6 and list(train_loss) == sorted(train_loss, reverse=True)  # the objective falls each sweep
    assert auc[-1] == pytest.approx(auc_of(score_table(learn.model), learn.dls), abs=1e-9)
    assert 0.72 < auc[-1] < 0.87 and np.isfinite(valid_loss).all()
    if kind == "dot":
        assert (learn.model.i_bias.weight == 0).all()
    assert learn.recommend([7], k=3).shape == (3, 4)
    stranger, counts = score_table(learn.model)[0, 1:], torch.bincount(learn.dls.train.dataset.item_idx)[1:]
    assert np.corrcoef(stranger.argsort().argsort(), counts.argsort().argsort())[0, 1] > 0.5


def test_als_shows_its_objective_an_event():
    learn = make_ranker("towers", n_factors=4)
    learn.fit_als(2, reg=0.02, unobserved_weight=0.2)
    train = learn.dls.train.dataset
    tables = [table.clone() for table in learn.model.factor_tables()]
    for table in tables:
        table[0] = 0  # the answer for strangers is no part of the objective
    value = ALSSolver(train, reg=0.02, unobserved_weight=0.2).objective(*tables) / len(train)
    assert learn.recorder.values[-1][0] == pytest.approx(value, rel=1e-4)


def test_als_with_save_model_and_early_stopping(tmp_path):
    learn = make_ranker("towers", n_factors=16, metrics=[Auc()], path=tmp_path)
    save = SaveModelCallback(monitor="auc", comp=np.greater, fname="best")
    stop = EarlyStoppingCallback(monitor="auc", comp=np.greater, patience=2)
    learn.fit_als(30, reg=1e-4, unobserved_weight=0.02, cbs=[save, stop])
    auc = [row[2] for row in learn.recorder.values]
    assert len(auc) < 30 and max(auc) == max(auc[:-2])  # it overfits, and stops two sweeps after the best
    assert auc_of(score_table(learn.model), learn.dls) == pytest.approx(max(auc), abs=1e-6)  # the best is loaded
    assert score_table(learn.model)[0, 1:].std() > 0  # and knows what to tell a stranger


def test_als_can_be_followed_by_gradients_and_repeats():
    one, other = (make_ranker("dot", n_factors=8) for _ in range(2))
    for learn in (one, other):
        learn.fit_als(3, reg=0.02, unobserved_weight=0.2)
    assert same_weights(one.model, other.model)
    before = auc_of(score_table(one.model), one.dls)
    one.fit_one_cycle(2, 1e-2)
    assert not same_weights(one.model, other.model) and auc_of(score_table(one.model), one.dls) > before - 0.05
    assert one.recorder.values[-1][0] > 0 and len(one.recorder.losses) == 2 * len(one.dls.train)


def test_als_of_cold_items():
    learn = make_ranker("towers", make_clicks_dls(with_cold_items()), n_factors=8)
    learn.fit_als(3, reg=0.02, unobserved_weight=0.2)
    table = learn.recommend(None, k=10)
    assert table["title"].isin([f"item {90 + j}" for j in range(6)]).mean() < 0.08


@pytest.mark.parametrize(
    ("learner", "error", "message"),
    [
        (lambda: make_ranker("ncf"), TypeError, "needs the factors of a dot product .*got NCF"),
        (lambda: make_ranker("gmf"), TypeError, "needs the factors of a dot product .*got GMF"),
        (lambda: make_ranker("cosine"), TypeError, "TwoTower without layers and item bias"),
        (
            lambda: make_learner("dot", y_range=None),
            ValueError,
            "least squares is for implicit feedback; these are ratings",
        ),
        (lambda: make_ranker(model=CollFilter(81, 41, 4, (0, 1)), n_factors=50), ValueError, "model without y_range"),
    ],
)
def test_als_needs_a_dot_product_and_events(learner, error, message):
    learn = learner()
    before = weights(learn.model)
    with pytest.raises(error, match=message):
        learn.fit_als(2)
    for name in ("u_weight.weight", "i_weight.weight"):
        if name in before:
            assert torch.equal(learn.model.state_dict()[name][1:], before[name][1:])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"reg": 0}, "reg must be a number above 0, got 0"),
        ({"unobserved_weight": -1}, "unobserved_weight must be a number above 0"),
        ({"n_cg": 0}, "n_cg must be a whole number of at least 1"),
        ({"n_sweeps": 0}, "n_epoch must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_als_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_ranker("towers").fit_als(**{"n_sweeps": 1, **kwargs})


def test_options_of_rankers_are_all_used():
    assert set(RANKER_OPTIONS) == set(RANKERS)


# --- found by a review ------------------------------------------------------------------------------------------------


def quadratic(pos, neg):
    return ((1 - pos) ** 2).mean() + (neg**2).mean()


@pytest.mark.parametrize("options", [{"negatives": "shared"}, {"negatives": "shared", "by_user": True}])
def test_a_loss_that_does_not_bear_masked_negatives_is_refused(options):
    dls = CollabDataLoaders.from_df(clicks(), feedback="implicit", seed=1, n_neg=30, **options)
    with pytest.raises(ValueError, match="quadratic gives (inf|nan).*come as -inf"):
        silence(collab_learner(dls, 8, loss_func=quadratic)).fit(1)


def test_a_threshold_for_events_without_ratings_is_refused():
    dls = CollabDataLoaders.from_df(clicks(), feedback="implicit", seed=1)
    learn = silence(collab_learner(dls, 8))
    with pytest.raises(ValueError, match="threshold=4 needs ratings, and these events have none"):
        learn.evaluate(threshold=4)


@pytest.mark.parametrize("options", [{"negatives": "in_batch"}, {"negatives": "shared", "by_user": True}])
def test_fastais_views_of_shared_negatives(options):
    dls = CollabDataLoaders.from_df(clicks(), feedback="implicit", seed=1, bs=32, **options)
    learn = silence(collab_learner(dls, 8, metrics=[HitRate(10)]))
    learn.fit(1)
    with pytest.raises(ValueError, match="no table of predictions"):
        learn.get_preds()
    learn.show_results()


def test_in_batch_negatives_cannot_go_by_user():
    with pytest.raises(ValueError, match="batches of users need shared negatives"):
        CollabDataLoaders.from_df(clicks(), feedback="implicit", negatives="in_batch", by_user=True)


def test_a_class_without_factors_can_be_the_model():
    class Fixed(CollFilter):
        def __init__(self, n_users, n_items):
            super().__init__(n_users, n_items, 8)

    dls = CollabDataLoaders.from_df(clicks(), feedback="implicit", seed=1)
    assert collab_learner(dls, model=Fixed).model.n_factors == 8
    with pytest.raises(ValueError, match="Fixed has no option n_factors"):
        collab_learner(dls, 12, model=Fixed)


def test_two_tables_keep_the_first_event_in_time():
    train = pd.DataFrame({"user": [1, 1, 2, 2, 3], "item": [1, 1, 1, 2, 2], "time": [9, 1, 2, 3, 4]})
    valid = pd.DataFrame({"user": [3, 1], "item": [1, 1], "time": [5, 6]})
    with pytest.warns(CollabWarning, match="repeat a"):
        dls = CollabDataLoaders.from_dfs(train, valid, feedback="implicit", time_name="time")
    assert dls.train.dataset.time.tolist() == [1, 2, 3, 4] and dls.valid.dataset.time.tolist() == [5]


@pytest.mark.parametrize("baseline", [ItemKNN, EASE])
def test_baselines_break_ties_without_evidence_by_popularity(baseline):
    df = pd.DataFrame([(u, i) for u in "abcd" for i in "xy"] + [("a", "z"), ("e", "q")], columns=["user", "item"])
    valid = pd.DataFrame({"user": ["new"], "item": ["q"]})
    model = baseline().fit(CollabDataLoaders.from_dfs(df, valid, feedback="implicit"))
    assert set(model.recommend("new", 2)["item"]) == {"x", "y"}
