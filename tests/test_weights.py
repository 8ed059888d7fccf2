"""Weights of training rows: from the table to the batch, the losses by hand, what they do to a model, bad input."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import clicks, make_clicks_dls, make_dls, make_learner, make_ranker, ratings, same_weights, silence
from torch import nn

from collabkit import CollabDataLoaders, collab_learner, load_learner
from collabkit.data.interactions import Columns, Interactions
from collabkit.data.notices import CollabWarning
from collabkit.data.weights import scale_weights
from collabkit.losses import LOSSES, FlatLoss, RankingLoss, bce, bpr, cosine_contrastive, hinge, softmax
from collabkit.train.batches import Pointwise, Ranked
from collabkit.train.sampling import make_sampler

W = torch.tensor([2.0, 0.5, 0.5])
PRED, TARGET = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([2.0, 4.0, 1.0])  # squared errors 1, 4, 16


def scored(bs=6, n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(bs, generator=generator)
    return torch.randn(bs, generator=generator), torch.randn(bs, n, generator=generator), weight / weight.mean()


def quiet(make, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        return make(*args, **kwargs)


def first_all(df):
    """A splitter: the last row of the table is validation, all others are training, in their order."""
    return list(range(len(df) - 1)), [len(df) - 1]


def table(**columns) -> pd.DataFrame:
    """Four training rows of ann and bob, and one for validation."""
    df = pd.DataFrame({"who": ["ann", "ann", "ann", "bob", "bob"], "film": ["A", "B", "C", "A", "C"]})
    return df.assign(stars=[1.0, 2.0, 3.0, 4.0, 5.0], **columns)


def small(df=None, weights=None, **kwargs):
    return CollabDataLoaders.from_df(
        table() if df is None else df, seed=0, splitter=first_all, shuffle=False, weights=weights, bs=8, **kwargs
    )


# --- FlatLoss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("func", [nn.MSELoss(), F.mse_loss, partial(F.huber_loss, delta=100.0)], ids=["m", "f", "p"])
def test_flat_loss_by_hand(func):
    loss, half = FlatLoss(func), 0.5 if isinstance(func, partial) else 1.0  # Huber's is half the square
    for w in (W, W[:, None]):
        assert loss(PRED, TARGET[:, None], w).item() == pytest.approx(half * (2 * 1 + 0.5 * 4 + 0.5 * 16) / 3)
    assert loss(PRED, TARGET, torch.ones(3)).item() == pytest.approx(loss(PRED, TARGET).item())
    assert loss.reduction == "mean" and loss(PRED, TARGET).item() == pytest.approx(half * 7)


def test_flat_loss_divides_by_the_rows_not_by_the_weights():
    """Batches of a heavy and of a light row: their mean is the weighted mean of the data, whatever the batches."""
    loss, w = FlatLoss(nn.MSELoss()), torch.tensor([1.8, 0.6, 0.6])
    parts = [loss(PRED[i : i + 1], TARGET[i : i + 1], w[i : i + 1]) for i in range(3)]
    assert torch.stack(parts).mean().item() == pytest.approx(loss(PRED, TARGET, w).item())
    assert parts[1].item() == pytest.approx(0.6 * 4)


@pytest.mark.parametrize("func", [nn.L1Loss, F.l1_loss])
def test_flat_loss_reductions(func):
    loss = FlatLoss(func() if isinstance(func, type) else func)
    loss.reduction = "none"
    assert loss(PRED, TARGET, W).tolist() == [2 * 1, 0.5 * 2, 0.5 * 4]
    loss.reduction = "sum"
    assert loss(PRED, TARGET, W).item() == 5.0
    assert loss.reduction == "sum" and loss(PRED, TARGET).item() == 7.0


def test_a_weight_of_two_is_a_row_twice():
    w, twice = scale_weights([2, 1, 1], "w"), [0, 0, 1, 2]
    loss = FlatLoss(nn.MSELoss())
    assert loss(PRED, TARGET, w).item() == pytest.approx(loss(PRED[twice], TARGET[twice]).item())
    for name in LOSSES:
        pos, neg, _ = scored(3)
        scores, counts = torch.cat([pos[:, None], neg], 1), torch.zeros(3, 1)
        one = RankingLoss(name)(scores, counts, w)
        assert one.item() == pytest.approx(RankingLoss(name)(scores[twice], counts[twice]).item(), rel=1e-5), name


def test_flat_loss_bad_input():
    with pytest.raises(ValueError, match="cannot weigh rows: weights= needs a loss of each row.*a reduction argument"):
        FlatLoss(lambda p, t: (p - t).abs().max())(PRED, TARGET, W)
    with pytest.raises(ValueError, match=r"predictions \(3,\) and weights \(2,\) differ in number"):
        FlatLoss(nn.MSELoss())(PRED, TARGET, W[:2])
    failing = nn.MSELoss()
    failing.forward = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        FlatLoss(failing)(PRED, TARGET, W)
    assert failing.reduction == "mean"


# --- ranking losses --------------------------------------------------------------------------------------------------


def test_ranking_losses_by_hand():
    pos, neg, w = torch.zeros(2), torch.zeros(2, 3), torch.tensor([1.5, 0.5])
    pos[1] = 1.0
    zero, less, more = np.log(2), np.log1p(np.exp(-1)), np.log1p(np.exp(1))
    assert bpr(pos, neg, w).item() == pytest.approx((1.5 * zero + 0.5 * less) / 2)
    assert bce(pos, neg, w).item() == pytest.approx((1.5 * 4 * zero + 0.5 * (less + 3 * zero)) / 8)
    assert hinge(pos, neg, 1.0, w).item() == pytest.approx(1.5 * 1 / 2)
    assert hinge(pos, neg, weight=w, margin=2.0).item() == pytest.approx((1.5 * 2 + 0.5 * 1) / 2)
    rows = [np.log(4), np.log(np.e + 3) - 1]
    assert softmax(pos, neg, w).item() == pytest.approx((1.5 * rows[0] + 0.5 * rows[1]) / 2)
    cosines = torch.tensor([[0.4, 0.8], [0.0, 0.6]])  # above .4: .2 and .1 on average
    expected = (1.5 * (1 + 10 * 0.2) + 0.5 * (0 + 10 * 0.1)) / 2
    assert cosine_contrastive(pos, cosines, weight=10.0, row_weight=w).item() == pytest.approx(expected)
    assert bce(-pos, neg).item() == pytest.approx((4 * zero + more + 3 * zero) / 8)  # unweighted as ever


@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_multiplies_the_loss_of_its_row(name):
    pos, neg, w = scored()
    counts = torch.rand(6, 4, generator=torch.Generator().manual_seed(3))
    counts[1, 2] = counts[4, 0] = torch.inf
    loss, scores = RankingLoss(name), torch.cat([pos[:, None], neg], 1)
    alone = torch.stack([loss(scores[i : i + 1], counts[i : i + 1]) for i in range(6)])
    assert loss(scores, counts, w).item() == pytest.approx((w * alone).mean().item(), rel=1e-5)
    assert loss(scores, counts, torch.ones(6)).item() == pytest.approx(loss(scores, counts).item(), rel=1e-6)
    assert loss(scores, counts, w).item() != pytest.approx(loss(scores, counts).item(), rel=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_grouped_scores(name):
    pos, _, w = scored()
    neg, group = scored(3, 4, seed=5)[1], torch.tensor([0, 0, 1, 2, 2, 2])
    counts, hits = torch.rand(4), torch.tensor([[0, 2], [3, 1]])

    def loss(rows, *weight):  # masking writes into the scores
        return RankingLoss(name)((pos[rows], neg.clone(), group[rows]), counts, hits, *weight)

    every = torch.arange(6)
    alone = torch.stack([loss(every[i : i + 1]) for i in range(6)])
    assert loss(every, w).item() == pytest.approx((w * alone).mean().item(), rel=1e-5)
    assert loss(every, torch.ones(6)).item() == pytest.approx(loss(every).item(), rel=1e-6)


def test_functions_of_ones_own():
    pos, neg, w = scored()
    scores, counts = torch.cat([pos[:, None], neg], 1), torch.zeros(6, 1)

    def mine(pos, neg, weight=None):
        return (pos if weight is None else weight * pos).sum()

    def scaled(pos, neg, weight=2.0, row_weight=None):
        return (weight * (1 if row_weight is None else row_weight) * pos).sum()

    class Module(nn.Module):
        def forward(self, pos, neg, weight=1.0):
            return (weight * pos).sum()

    for func, factor in ((mine, 1), (scaled, 2), (Module(), 1), (partial(scaled, weight=3.0), 3)):
        assert RankingLoss(func)(scores, counts, w).item() == pytest.approx(factor * (w * pos).sum().item(), abs=1e-5)
        assert RankingLoss(func)(scores, counts).item() == pytest.approx(factor * pos.sum().item(), abs=1e-5)
    heavy = partial(cosine_contrastive, weight=5.0)
    assert RankingLoss(heavy)(scores, counts, w).item() == pytest.approx(heavy(pos, neg, row_weight=w).item())
    for odd in (lambda pos, neg: pos.sum(), torch.dist, partial(mine, weight=2.0)):  # the last one's is taken
        with pytest.raises(ValueError, match=r"loss_func .* takes no weights.*give it a parameter weight, \(bs,\)"):
            RankingLoss(odd)(scores, counts, w)
    for name in LOSSES:
        with pytest.raises(ValueError, match=r"weights must be one per row, \(6,\), got \(6, 1\)"):
            RankingLoss(name)(scores, counts, w[:, None])  # would broadcast


# --- from the table to the batch -------------------------------------------------------------------------------------


def test_weights_by_hand():
    _, y, w = small(weights="inverse_user").one_batch()  # ann has three training rows, bob one
    assert y.flatten().tolist() == [1, 2, 3, 4] and w.shape == (4, 1) and w.dtype == torch.float32
    assert w.flatten().tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    w = small(weights="inverse_item").one_batch()[2]  # A has two, B and C one
    assert w.flatten().tolist() == pytest.approx([2 / 3, 4 / 3, 4 / 3, 2 / 3])
    w = small(table(importance=[1, 0, 2, 5, 99]), weights="importance").one_batch()[2]
    assert w.flatten().tolist() == [0.5, 0.0, 1.0, 2.5]  # the validation row's 99 does not count
    w = small(table(inverse_user=[9.0, 1, 1, 1, 1]), weights="inverse_user").one_batch()[2]
    assert w.flatten().tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])  # the word, not the column
    w = small(table(huge=[1e308, 1e308, 3e307, 1e308, 0]), weights="huge").one_batch()[2]
    assert w.mean().item() == pytest.approx(1) and w[2] == pytest.approx(0.3 * w[0])
    assert small(table(n=pd.array([1, 2, 3, 4, 5], dtype="Int64")), "n").one_batch()[2][3] == 1.6


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("feedback", ["explicit", "implicit"])
def test_inverse_weights_make_all_users_or_items_count_the_same(side, feedback):
    make = make_dls if feedback == "explicit" else make_clicks_dls
    data = make(weights=f"inverse_{side}").train.dataset
    total = torch.bincount(getattr(data, f"{side}_idx"), weights=data.weight.double())
    total = total[total > 0]
    assert torch.allclose(total, total.mean().expand_as(total), rtol=1e-5) and len(total) > 30
    assert total.sum().item() == pytest.approx(len(data)) and data.weight.unique().numel() > (feedback == "explicit")


def key(df, user, item):
    """A weight that tells the row's pair."""
    return 1.0 + pd.factorize(df[user], sort=True)[0] * 100.0 + pd.factorize(df[item], sort=True)[0]


LOADERS = {
    "ratings": {},
    "uniform": {"feedback": "implicit"},
    "shared": {"feedback": "implicit", "negatives": "shared"},
    "by_user": {"feedback": "implicit", "negatives": "shared", "by_user": True},
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("two_tables", [False, True])
def test_each_row_has_its_own_weight(kind, two_tables):
    df = clicks() if kind != "ratings" else ratings()[["user", "title", "rating"]]
    df = df.assign(w=lambda d: key(d, "user", "title")).sample(frac=1, random_state=0)
    df.index = [7] * len(df)  # an index that says nothing
    common = {"seed": 3, "weights": "w", "bs": 50, **LOADERS[kind]}
    if two_tables:
        cut = len(df) // 5
        dls = CollabDataLoaders.from_dfs(df[cut:], df[:cut].drop(columns="w"), **common)
    else:
        dls = CollabDataLoaders.from_df(df, **common)
    expected, got = df.groupby(["user", "title"])["w"].first(), []
    for batch in dls.train:
        if kind == "ratings":
            x, _, w = batch
            assert w.shape == (len(x), 1)
            users, items, w = x[:, 0], x[:, 1], w.flatten()
        elif kind == "by_user":
            users, items, _, group, _, _, w = batch
            users = users[group]
        else:
            users, items, _, _, w = batch
        assert w.shape == items.shape and w.dtype == torch.float32
        vocabs = dls.classes.values()
        names = [v[idx.numpy()] for v, idx in zip(vocabs, (users, items), strict=True)]
        got += zip(*names, w.tolist(), strict=True)
    assert len(got) == len(dls.train.dataset)
    wanted = np.array([expected[user, item] for user, item, _ in got])
    assert np.allclose(np.array([w for _, _, w in got]), wanted / wanted.mean(), rtol=1e-5)
    plain = {"ratings": 2, "by_user": 6}.get(kind, 4)
    assert all(len(b) == plain for b in dls.valid) and dls.valid.dataset.weight is None


@pytest.mark.parametrize("two_tables", [False, True])
def test_of_a_repeated_pair_the_row_that_stays_has_its_weight(two_tables):
    df = pd.DataFrame(
        [("ann", "A", 3, 5.0), ("bob", "B", 2, 1.0), ("ann", "A", 1, 2.0), ("bob", "A", 4, 1.0), ("ann", "B", 9, 7.0)],
        columns=["who", "film", "time", "w"],
    )  # ann met A first at time 1, in the third row
    options = {"feedback": "implicit", "time_name": "time", "weights": "w", "negatives": "all", "seed": 0}
    if two_tables:
        dls = quiet(CollabDataLoaders.from_dfs, df[:4], df[4:], **options)
    else:
        dls = quiet(CollabDataLoaders.from_df, df, splitter=lambda d: (list(range(3)), [3]), **options)
    data = dls.train.dataset
    rows = data.to_df().assign(w=data.weight).sort_values("time")
    assert rows["time"].tolist() == [1, 2, 4] and rows["w"].tolist() == pytest.approx([1.5, 0.75, 0.75])


def test_inverse_weights_count_the_rows_that_stay():
    df = pd.concat([table()[["who", "film"]].iloc[[0, 0, 0]], table()[["who", "film"]]])
    dls = quiet(small, df, "inverse_user", feedback="implicit", negatives="all")
    assert dls.train.dataset.weight.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])


def test_interactions_keep_weights_in_order_and_out_of_the_hash():
    data = Interactions.from_df(table(), Columns("who", "film", "stars"))
    weighted = replace(data, weight=torch.arange(5.0))
    assert data.weight is None and weighted.data_hash() == data.data_hash()
    assert weighted.to_df().equals(data.to_df())
    assert weighted.take([3, 1]).weight.tolist() == [3, 1] and weighted.new_empty().weight.tolist() == []
    shuffled = weighted.take([4, 2, 0, 3, 1]).sorted_by_user()
    assert shuffled.weight.tolist() == [2, 0, 1, 4, 3]
    assert Interactions.concat(weighted, weighted).weight.tolist() == [*range(5), *range(5)]
    assert Interactions.concat(weighted, data).weight is None


def test_from_interactions_uses_the_weights_of_the_training_part():
    data = replace(Interactions.from_df(table(), Columns("who", "film", "stars")), weight=torch.tensor([2.0] * 4 + [9]))
    train, valid = data.take(range(4)), data.take([4])
    dls = CollabDataLoaders.from_interactions(train, valid, shuffle=False)
    assert dls.one_batch()[2].flatten().tolist() == [1.0] * 4 and dls.valid.dataset.weight is None
    assert len(dls.valid.one_batch()) == 2 and "weights: given, 1 to 1 (mean 1)" in repr(dls)
    with pytest.raises(ValueError, match=r"train.weight must be one per row, \(4,\), got \(5,\)"):
        CollabDataLoaders.from_interactions(replace(train, weight=torch.ones(5)), valid)
    with pytest.raises(ValueError, match=r"train.weight has 1 negative weight\(s\) in 4 rows, at row 2"):
        CollabDataLoaders.from_interactions(replace(train, weight=torch.tensor([1.0, 0, -1, 1])), valid)


def test_repr_says_which_weights():
    assert "weights: inverse_item, 0.667 to 1.33 (mean 1)" in repr(small(weights="inverse_item"))
    dls = small()
    assert "weights" not in repr(dls) and dls.weights is None and small(weights="inverse_user").weights


@pytest.mark.parametrize("kind", ["ratings", "uniform"])
def test_batches_are_otherwise_the_same(kind):
    make = make_dls if kind == "ratings" else make_clicks_dls
    for a, b in zip(make().train, make(weights="inverse_item").train, strict=True):
        assert len(b) == len(a) + 1 and all(torch.equal(x, y) for x, y in zip(a, b[:-1], strict=True))


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, np.nan, 1, np.nan, 1], r"column 'w' has 2 missing \(NaN\) weight\(s\) in 5 rows, at row 1, 3; "),
        ([1, 1, np.inf, 1, 1], r"column 'w' has 1 infinite weight\(s\) in 5 rows, at row 2; "),
        ([-1, -1, -1, -2, -3], r"column 'w' has 5 negative weight\(s\) in 5 rows, at row 0, 1, 2, 3, 4; "),
        ([0, 0, 0, 0, 1], "column 'w' has a weight of 0 in all 4 training rows"),
    ],
)
@pytest.mark.parametrize("feedback", ["explicit", "implicit"])
def test_bad_weights(values, message, feedback):
    with pytest.raises(ValueError, match=message):
        small(table(w=values), "w", feedback=feedback)
    if not np.any(np.isin(values, 0)):
        with pytest.raises(ValueError, match=message):
            CollabDataLoaders.from_dfs(table(w=values), table(), weights="w", feedback=feedback)


def test_bad_columns():
    message = r"weights='w' is neither 'inverse_user', 'inverse_item' nor a column; the table has \['who', 'film', 's"
    with pytest.raises(KeyError, match=message):
        small(weights="w")
    with pytest.raises(KeyError, match=message):
        CollabDataLoaders.from_dfs(table(), table(w=1.0), weights="w")  # the training table must have it
    with pytest.raises(TypeError, match="weights must be numbers; column 'w' is"):
        small(table(w=["a"] * 5), "w")
    for odd in ([1.0] * 5, pd.Series([1.0] * 5), len):
        with pytest.raises(TypeError, match="weights must be 'inverse_user', 'inverse_item' or the name of a column"):
            small(weights=odd)
    twice = pd.concat([table(w=1.0), table(w=1.0)[["w"]]], axis=1)
    with pytest.raises(ValueError, match="column 'w' occurs more than once"):
        small(twice, "w")


def test_pairs_one_a_row_carry_no_weights():
    dls = make_clicks_dls(weights="inverse_item")
    with pytest.raises(ValueError, match="pointwise\\(\\) has no weights"):
        dls.pointwise()
    data = dls.train.dataset
    with pytest.raises(ValueError, match="pointwise\\(\\) has no weights"):
        Pointwise(Ranked(data, make_sampler("uniform", data)))


def test_least_squares_take_weights():
    def fitted(**kwargs):
        learn = make_ranker("dot", make_clicks_dls(**kwargs))
        learn.fit_als(2, reg=0.02, unobserved_weight=0.2)
        return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

    plain, ones, other = fitted(), fitted(df=clicks().assign(one=3), weights="one"), fitted(weights="inverse_item")
    assert torch.allclose(plain, ones, atol=1e-5) and not torch.allclose(plain, other, atol=1e-3)


# --- the learner -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dot", "nn"])
def test_fastais_methods_with_weights(kind, capsys):
    learn = make_learner(kind, make_dls(weights="inverse_item"))
    assert 1e-6 < learn.lr_find(show_plot=False).valley < 10
    learn.fit(1, 1e-2)
    data, rows = learn.dls.train.dataset, ratings().head(5)
    expected = learn.model.eval()(data.user_idx, data.item_idx).detach()
    for kwargs in ({"ds_idx": 0}, {"dl": learn.dls.train}):
        pred, y, loss = learn.get_preds(**kwargs, with_loss=True)
        assert torch.equal(y.flatten(), data.rating) and torch.allclose(pred, expected, atol=1e-5)
        assert torch.allclose(loss.flatten(), (expected - data.rating).square(), atol=1e-4)  # no weights
    assert learn.get_preds(dl=learn.dls.test_dl(rows))[0].shape == (5,)
    assert len(learn.dls.test_dl(rows, with_labels=True).one_batch()) == 2
    pred, y = learn.get_preds()
    assert learn.validate()[0] == pytest.approx((pred - y.flatten()).square().mean().item(), abs=1e-5)
    shown = learn.dls.train.show_batch(show=False)
    assert list(shown.columns) == ["user", "title", "rating"]
    learn.dls.show_batch(max_n=2)
    learn.show_results(max_n=2)
    assert "rating_pred" in capsys.readouterr().out


@pytest.mark.parametrize("negatives", ["uniform", "all"])
def test_fastais_methods_with_weights_and_implicit_feedback(negatives, capsys):
    learn = make_ranker("dot", make_clicks_dls(negatives=negatives, n_neg=3, weights="inverse_item"))
    assert 1e-6 < learn.lr_find(show_plot=False).valley < 10
    learn.fit(1, 1e-2)
    pred, counts = learn.get_preds(ds_idx=0)
    assert len(pred) == len(counts) == 720 and learn.validate() == learn.validate()
    learn.dls.show_batch(max_n=3)
    learn.show_results(max_n=4)
    assert "best negative" in capsys.readouterr().out
    scores = learn.get_preds(dl=learn.dls.test_dl(clicks().head(7)[["user", "title"]]))[0]
    assert scores.shape == (7,)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("by_user", [False, True])
def test_ones_train_as_no_weights_and_others_do_not(loss, by_user):
    def train(**kwargs):
        df = clicks().assign(one=3)
        dls = make_clicks_dls(df, negatives="shared" if by_user else "uniform", by_user=by_user, **kwargs)
        learn = make_ranker("towers", dls, loss_func=loss)
        learn.fit(1, 1e-2)
        return torch.cat([p.detach().flatten() for p in learn.model.parameters()]), learn.recorder.values[-1]

    (plain, values), (ones, same), (other, _) = train(), train(weights="one"), train(weights="inverse_item")
    assert torch.allclose(plain, ones, atol=1e-3) and list(same) == pytest.approx(list(values), rel=1e-3)
    assert not torch.allclose(plain, other, atol=1e-3)


def test_the_artefact_keeps_no_weights(tmp_path):
    learn = make_learner("dot", make_dls(weights="inverse_user"), path=tmp_path)
    learn.fit(1, 1e-2)
    again = load_learner(learn.export())
    assert again.dls.train.dataset.weight is None and same_weights(learn.model.cpu(), again.model.cpu())


def skewed(seed=0, n_users=80):
    """Ratings of head items, which all users rate, and of tail items, which few do; one factor cannot serve both."""
    rng = np.random.default_rng(seed)
    user, item = np.divmod(np.arange(n_users * 40), 40)
    head = item < 10
    taste, kind = rng.choice([-1.0, 1.0], (2, n_users)), rng.choice([-1.0, 1.0], 40)
    rating = 3 + kind[item] * np.where(head, taste[0, user], taste[1, user]) + 0.1 * rng.normal(size=len(user))
    df = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return df[head | (rng.random(len(df)) < 0.2)].reset_index(drop=True)


def test_inverse_item_serves_the_tail_at_the_cost_of_the_head():
    def errors(weights):
        dls = CollabDataLoaders.from_df(skewed(), seed=1, bs=64, weights=weights)
        learn = silence(collab_learner(dls, n_factors=1, y_range=(1, 5)))
        learn.fit_one_cycle(25, 3e-2, wd=0.01)
        pred, y = learn.get_preds()
        frame = dls.valid.dataset.to_df().assign(error=(pred - y.flatten()).square().numpy())
        return frame.groupby(frame["item"] < 10)["error"].mean().pow(0.5)

    plain, weighted = errors(None), errors("inverse_item")
    # The noise is 0.1 and the planted ratings have a standard deviation of 1: knowing nothing of them errs by that.
    assert plain[True] < 0.5 < 0.85 < plain[False] and 0.1 < weighted[False] < 0.6 and weighted[True] > 0.7
