"""Fold-in of new users: posteriors by hand, planted structure, invariances, every model, errors, and its evaluation."""

import copy
import dataclasses
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from collabkit.coldstart.fold_in import FoldIn, events, jackknife
from collabkit.coldstart.fold_in.histories import blocks
from collabkit.coldstart.fold_in.jackknife import rows_without
from collabkit.coldstart.fold_in.prior import Gaussian, shrunk_covariance
from collabkit.coldstart.fold_in.ratings import histories_of
from collabkit.coldstart.fold_in.scores import UserScores
from collabkit.data.dataset import Dataset
from collabkit.data.features import Features
from collabkit.data.interactions import Columns, Interactions
from collabkit.data.query import Query
from collabkit.data.runs import Runs
from collabkit.data.vocab import Vocab
from collabkit.evaluate.new_users import NewUserRows, evaluate_fold_in
from collabkit.models import GMF, NCF, CollFilter, EmbeddingNN, NeuMF, TwoTower

N_USERS, N_ITEMS, NOISE = 120, 60, 0.3


def interactions(users, items, ratings=None, n_users=N_USERS, n_items=N_ITEMS) -> Interactions:
    users, items = torch.as_tensor(users), torch.as_tensor(items)
    ratings = None if ratings is None else torch.as_tensor(ratings).float()
    vocabs = Vocab(np.arange(n_users), "user"), Vocab(np.arange(n_items), "item")
    columns = Columns("user", "item", None if ratings is None else "rating")
    return Interactions(users, items, ratings, None, *vocabs, columns)


def randomised(model, std: float = 0.5, seed: int = 0):
    """The model with normal tables and weights."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(std * torch.randn(parameter.shape, generator=rng))
    return model.eval()


@pytest.fixture(scope="module")
def planted():
    """Ratings of rank 3 by trained users 1..100 and new users 101..120, and the model with the true tables."""
    model = randomised(CollFilter(N_USERS + 1, N_ITEMS + 1, n_factors=3), std=0.8)
    rng = torch.Generator().manual_seed(1)
    users = torch.arange(1, N_USERS + 1).repeat_interleave(40)
    items = 1 + torch.cat([torch.randperm(N_ITEMS, generator=rng)[:40] for _ in range(N_USERS)])
    with torch.no_grad():
        ratings = model(users, items) + NOISE * torch.randn(len(users), generator=rng)
        for table in model.user_side.tables:
            table.weight[101:] = 0
    data = interactions(users, items, ratings)
    kept = (users <= 100) & (torch.rand(len(users), generator=rng) < 0.7)  # histories of different lengths
    return model, data.take(kept.numpy()), data.take((users > 100).numpy())


def histories(n_items: int = N_ITEMS, counts=(3, 1, 12, 4, 30), rated: bool = True, seed: int = 3) -> Runs:
    rng = torch.Generator().manual_seed(seed)
    items = [1 + torch.randperm(n_items, generator=rng)[:n] for n in counts]
    start = torch.tensor([0, *counts]).cumsum(0)
    ratings = torch.randint(1, 6, (sum(counts),), generator=rng).float() if rated else None
    return Runs(start, torch.cat(items), weight=ratings)


def one(items, ratings=None) -> Runs:
    """The history of one user."""
    return Runs(torch.tensor([0, len(items)]), torch.as_tensor(items), weight=ratings)


def logits_of(fold_in, rows, items=None, at=None):
    """What the model says of users with `rows`: `(b, n)` logits of `items`, default all."""
    at = torch.zeros(len(rows[0]), dtype=torch.int64) if at is None else at
    items = torch.arange(fold_in.data.n_items) if items is None else items
    with torch.no_grad():
        return fold_in.model.eval().score(Query(at, rows=tuple(rows)), items[None])


def made(name: str, rated: bool):
    """An untrained model of a class, and training data for it."""
    rows = (N_USERS + 1, N_ITEMS + 1)
    y_range = (0, 5.5) if rated else None
    model = {
        "CollFilter": lambda: CollFilter(*rows, n_factors=4, y_range=y_range),
        "EmbeddingNN": lambda: EmbeddingNN([(rows[0], 4), (rows[1], 5)], layers=[8], y_range=y_range),
        "NCF": lambda: NCF(*rows, n_factors=4, layers=[8]),
        "NeuMF": lambda: NeuMF(*rows, n_factors=3, layers=[8, 4]),
        "GMF": lambda: GMF(*rows, n_factors=4),
        "TwoTower": lambda: TwoTower(*rows, n_factors=4, item_bias=True, temperature=0.5),
        "TwoTower, cosine": lambda: TwoTower(*rows, n_factors=4, layers=[6], similarity="cosine", temperature=0.3),
    }[name]()
    model, rng = randomised(model, std=0.5 if rated else 1.0), torch.Generator().manual_seed(5)
    users = torch.arange(1, 101).repeat_interleave(15)
    if rated:
        items = torch.cat([1 + torch.randperm(N_ITEMS, generator=rng)[:15] for _ in range(100)])
        return model, Dataset(interactions(users, items, torch.randint(1, 6, (1500,), generator=rng)))
    with torch.no_grad():
        logits = model.score(torch.arange(1, 101)[:, None], torch.arange(1, N_ITEMS + 1))
    items = 1 + torch.multinomial(torch.softmax(logits, 1), 15, True, generator=rng).flatten()
    return model, Dataset(interactions(users, items))


RATED = ["CollFilter", "EmbeddingNN"]
EVENTS = ["CollFilter", "NCF", "NeuMF", "GMF", "TwoTower", "TwoTower, cosine"]
CASES = [(name, True) for name in RATED] + [(name, False) for name in EVENTS]


@pytest.fixture(scope="module", params=CASES, ids=[f"{n}, {'ratings' if r else 'events'}" for n, r in CASES])
def case(request):
    name, rated = request.param
    model, train = made(name, rated)
    return FoldIn(model, train), histories(rated=rated)


def by_hand(model, train, mean, root, noise):
    """A fold-in whose prior and noise are set."""
    fold_in = FoldIn(model, Dataset(train))
    solver = fold_in.solver
    solver.prior, solver.noise = Gaussian(torch.tensor(mean).double(), torch.tensor(root).double()), noise
    solver._reduce()
    return fold_in


def test_the_posterior_of_one_rating_by_hand(planted):
    model, train, _ = planted
    model = CollFilter(*(len(v) for v in (train.users, train.items)), n_factors=1)
    with torch.no_grad():
        model.i_weight.weight[4], model.i_bias.weight[4] = 2.0, 0.5
    fold_in = by_hand(model, train, [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], 1.0)
    # z = [2, 1]; r - b_i = 3; variance of the rating 2*2 + 1*1 + 1 = 6; x = z * 3 / 6
    p, b = fold_in.rows(one([4], torch.tensor([3.5])))
    assert p.tolist() == [[pytest.approx(1.0)]] and b.tolist() == [[pytest.approx(0.5)]]


@pytest.mark.parametrize("n", [2, 30])
def test_the_posterior_is_ridge_regression_whichever_form_is_solved(planted, n):
    model, train, _ = planted
    root = [[1.0, 0, 0, 0], [0.5, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0.2, 0.3]]
    fold_in = by_hand(model, train, [0.1, 0.2, 0.3, 0.4], root, 0.7)
    items, ratings = torch.arange(1, n + 1), torch.linspace(-2, 2, n)
    rows = torch.cat(fold_in.rows(one(items, ratings)), dim=1)[0].double()
    q, b = (part.detach().double()[items] for part in (table.weight for table in model.item_side.tables))
    z, precision = torch.cat([q, torch.ones_like(b)], 1), torch.linalg.inv(torch.tensor(root).double())
    precision = precision.T @ precision
    mean = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    left, right = z.T @ z / 0.7 + precision, z.T @ (ratings.double() - b[:, 0]) / 0.7 + precision @ mean
    assert torch.allclose(rows, torch.linalg.solve(left, right), atol=1e-5)


def test_the_row_is_the_mode_of_the_posterior_with_a_sigmoid():
    fold_in = FoldIn(*made("CollFilter", True))
    solver, given = fold_in.solver, histories()
    for user in range(len(given)):
        own = given.of([user])
        rows = fold_in.rows(own)
        y = torch.linalg.lstsq(solver.prior.root, torch.cat(rows, 1)[0].double() - solver.prior.mean).solution
        y.requires_grad_()
        logits = solver.slope[own.values] @ y + solver.base[own.values]
        loss = (own.weight - solver.rating(logits)[0]).square().sum() / solver.noise + y.square().sum()
        (gradient,) = torch.autograd.grad(loss, y)
        assert gradient.norm() < 0.02


@pytest.mark.parametrize("name", ["CollFilter", "TwoTower"])
def test_the_row_is_nearly_the_mode_of_the_posterior_with_a_softmax(name):
    fold_in = FoldIn(*made(name, False))
    solver, given = fold_in.solver, histories(rated=False)
    x = torch.cat(fold_in.rows(given), 1).double()
    for user, own in enumerate(given):

        def value(y, own=own):
            logits = solver.base.double() + solver.slope[solver.catalogue] @ y
            # log-probabilities of the events, less the prior's
            return (logits[own - 1] - torch.logsumexp(logits, 0)).sum() - y.square().sum() / 2

        y = torch.linalg.lstsq(solver.prior.root, x[user] - solver.prior.mean).solution
        best = y.clone().requires_grad_()
        optimiser = torch.optim.LBFGS([best], max_iter=100, line_search_fn="strong_wolfe")

        def closure(best=best, optimiser=optimiser, value=value):
            optimiser.zero_grad()
            loss = -value(best)
            loss.backward()
            return loss

        optimiser.step(closure)
        gain = float(value(best.detach()) - value(torch.zeros_like(y)))
        assert float(value(best.detach()) - value(y)) < 3e-3 * gain


@pytest.mark.parametrize("name", ["NeuMF", "TwoTower, cosine"])
def test_curved_models_are_climbed_to_the_top_too(name):
    fold_in = FoldIn(*made(name, False))
    solver, given = fold_in.solver, histories(rated=False)
    x = torch.cat(fold_in.rows(given), 1).double()
    at, everything = torch.zeros(1, dtype=torch.int64), solver.scores.parts_of(solver.catalogue[None])
    for user, own in enumerate(given):
        y = torch.linalg.lstsq(solver.prior.root, x[user] - solver.prior.mean).solution

        def value(y, own=own):
            logits = solver.beta * solver.scores.logits(solver.prior.at(y[None]), at, everything)[0]
            return float((logits[own - 1] - torch.logsumexp(logits, 0)).sum() - y.square().sum() / 2)

        gain = value(y) - value(torch.zeros_like(y))
        assert gain > 0
        assert all(value(size * y) < value(y) + 0.05 * gain for size in (0.8, 0.9, 1.1, 1.25))


def test_planted_ratings_are_recovered_and_not_better_than_the_noise_allows(planted):
    model, train, test = planted
    table = evaluate_fold_in(FoldIn(model, Dataset(train)), test, n_given=(1, 5, 20), seed=0)
    assert (table["RMSE"].iloc[1:].diff().dropna() < 0).all()
    assert 0.95 * NOISE < table.loc[20, "RMSE"] < 1.25 * NOISE < 0.5 * table.loc[20, "item mean"]
    assert table.loc[5, "RMSE"] < 0.75 * table.loc[5, "item mean"]


def test_the_noise_of_planted_ratings_is_found(planted):
    model, train, _ = planted
    solver = FoldIn(model, Dataset(train)).solver
    assert 0.9 * NOISE < solver.noise**0.5 < 1.2 * NOISE


def test_planted_tastes_are_recovered_from_events():
    model = randomised(TwoTower(N_USERS + 1, N_ITEMS + 1, n_factors=3), std=1.3)
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        chance = torch.softmax(model.score(torch.arange(1, N_USERS + 1)[:, None], torch.arange(1, N_ITEMS + 1)), 1)
    items = 1 + torch.multinomial(chance, 25, generator=rng)
    users = torch.arange(1, N_USERS + 1).repeat_interleave(25)
    data = interactions(users, items.flatten())
    train, test = data.take((users <= 100).numpy()), data.take((users > 100).numpy())
    with torch.no_grad():
        model.u_weight.weight[101:] = model.u_weight.weight[1:101].mean(0)
    table = evaluate_fold_in(FoldIn(model, Dataset(train)), test, n_given=(2, 15), seed=0)
    assert table.loc[15, "NDCG@10"] > 1.3 * table.loc[15, "popularity NDCG@10"]
    assert table.loc[15, "NDCG@10"] > table.loc[2, "NDCG@10"] > table.loc[0, "NDCG@10"]


def test_many_users_at_once_are_as_one_by_one(case):
    fold_in, given = case
    together = fold_in.rows(given)
    for user in range(len(given)):
        for part, alone in zip(together, fold_in.rows(given.of([user])), strict=True):
            assert torch.allclose(part[user], alone[0], atol=2e-5)


def test_rows_have_the_tables_shapes_and_are_finite_and_differ(case):
    fold_in, given = case
    rows = fold_in.rows(given)
    for part, table in zip(rows, fold_in.model.user_side.tables, strict=True):
        assert part.shape == (len(given), table.weight.shape[1]) and part.dtype == table.weight.dtype
        assert bool(part.isfinite().all())
    assert not torch.allclose(rows[0][0], rows[0][2])


def test_the_order_of_a_history_does_not_matter(case):
    fold_in, given = case
    order = torch.cat([torch.arange(int(a), int(b)).flip(0) for a, b in pairwise(given.start)])
    weight = None if given.weight is None else given.weight[order]
    turned = fold_in.rows(Runs(given.start, given.values[order], weight=weight))
    for part, other in zip(fold_in.rows(given), turned, strict=True):
        assert torch.allclose(part, other, atol=2e-5)


def test_the_same_again_and_no_trace_left(case):
    fold_in, given = case
    before = [parameter.clone() for parameter in fold_in.model.parameters()]
    state = torch.random.get_rng_state()
    fold_in.model.train()
    with torch.inference_mode():
        again = FoldIn(fold_in.model, fold_in.data).rows(given)
    assert fold_in.model.training and torch.equal(state, torch.random.get_rng_state())
    fold_in.model.eval()
    assert all(torch.equal(a, b) for a, b in zip(again, fold_in.rows(given), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, fold_in.model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in fold_in.model.parameters())


def test_a_query_with_rows_gets_what_rows_in_the_tables_would(case):
    """And the solver's scores are the model's."""
    fold_in, given = case
    rows, items, model = fold_in.rows(given), torch.tensor([7, 1, 30]), copy.deepcopy(fold_in.model)
    logits = logits_of(fold_in, rows, items)
    at = torch.arange(110, 110 + len(given))
    model.user_side.write(at, rows)
    with torch.no_grad():
        assert torch.allclose(logits, model.score(at[:, None], items[None]), atol=1e-5)
        assert torch.allclose(model.scorer(items)(Query(torch.zeros_like(at), rows=tuple(rows))), logits, atol=1e-4)
    scores, parts = fold_in.solver.scores, [part[None] for part in fold_in.solver.scores.parts_of(items)]
    solved = scores.logits(torch.cat(rows, 1).double(), torch.zeros_like(at), parts)
    assert torch.allclose(solved, logits.double(), atol=1e-5)


@pytest.mark.parametrize("name", EVENTS)
def test_a_users_events_become_likelier(name):
    fold_in, own = FoldIn(*made(name, False)), list(histories(rated=False))[2]
    beta = fold_in.solver.beta
    logits = torch.log_softmax(beta * logits_of(fold_in, fold_in.rows(one(own)))[0, 1:], 0)
    mean = [part.mean(0, keepdim=True) for part in fold_in.model.user_side.read(torch.arange(1, 101))]
    before = torch.log_softmax(beta * logits_of(fold_in, mean)[0, 1:], 0)
    assert logits[own - 1].mean() > before[own - 1].mean() + 0.02


@pytest.mark.parametrize("most", [20_000, 30])
@pytest.mark.parametrize("name", ["TwoTower", "NeuMF"])
def test_the_temperature_of_drawn_events_is_found(name, most, monkeypatch):
    """Events drawn at temperature 1, from histories of different lengths; also where items are sampled."""
    monkeypatch.setattr(events, "_CATALOGUE", {True: most, False: most})
    model, data = made(name, False)
    train = data.train
    train = train.take((torch.rand(len(train), generator=torch.Generator().manual_seed(6)) < 0.6).numpy())
    solver, users = FoldIn(model, Dataset(train)).solver, torch.unique(train.user_idx)
    assert len(solver.catalogue) == min(most, N_ITEMS)
    assert float(solver.log_weight.exp().sum()) == pytest.approx(N_ITEMS)
    found = solver._temperature(users, histories_of(train, users)[0])
    assert 0.8 < found / events._SHARPER < 1.25


def test_rows_hardly_change_where_items_are_sampled(monkeypatch):
    model, train = made("CollFilter", False)
    given = histories(rated=False)
    full = FoldIn(model, train).rows(given)[0]
    monkeypatch.setattr(events, "_CATALOGUE", {True: 45, False: 45})
    part = FoldIn(model, train).rows(given)[0]
    assert 0 < (part - full).norm() < 0.25 * (full - full.mean(0)).norm()


def test_which_models_are_linear_in_the_users_row():
    linear = {name: UserScores(*made(name, rated)).linear for name, rated in CASES}
    assert linear == {
        "CollFilter": True, "EmbeddingNN": False, "NCF": False, "NeuMF": False, "GMF": True, "TwoTower": True,
        "TwoTower, cosine": False,
    }  # fmt: skip


def test_a_users_features_move_the_prior():
    frame = pd.DataFrame({"user": np.arange(N_USERS), "group": ["a", "b"] * (N_USERS // 2)}).iloc[:110]
    features = Features.from_df(frame, Vocab(np.arange(N_USERS), "user"))
    rows = (N_USERS + 1, N_ITEMS + 1)
    model = randomised(CollFilter(*rows, n_factors=3, y_range=(0, 5.5), features=(features, None)))
    _, data = made("CollFilter", True)
    fold_in, train = FoldIn(model, data), data.train
    a, b, unknown = 101, 102, 115
    given = Runs(torch.arange(5), torch.full((4,), 9), weight=torch.full((4,), 3.0))
    found = torch.cat(fold_in.rows(given, at=torch.tensor([a, b, unknown, 0])), 1).double()
    shift = fold_in.solver.scores.shift(torch.tensor([a, b, unknown, 0]))
    joined = found + shift
    # one rating moves the rows little from where the features put them
    assert (joined[0] - joined[1]).norm() > 0.5 * (shift[0] - shift[1]).norm()
    assert torch.allclose(joined[2], joined[3], atol=1e-5)  # nothing is known of either
    average = fold_in.solver.prior.mean + fold_in.solver.scores.shift(torch.unique(train.user_idx)).mean(0)
    assert (joined[2] - average).norm() < (joined[2] - fold_in.solver.prior.mean - shift[2]).norm()


def test_the_prior_of_features_with_events():
    frame = pd.DataFrame({"user": np.arange(N_USERS), "group": ["a", "b"] * (N_USERS // 2)})
    features = Features.from_df(frame, Vocab(np.arange(N_USERS), "user"))
    for cls, options in ((CollFilter, {}), (TwoTower, {"layers": [5]}), (NCF, {})):
        model = randomised(cls(N_USERS + 1, N_ITEMS + 1, n_factors=3, features=(features, None), **options))
        fold_in = FoldIn(model, made("CollFilter", False)[1])
        at = torch.tensor([101, 102])
        rows = fold_in.rows(Runs(torch.arange(3), torch.tensor([4, 4])), at=at)
        logits = logits_of(fold_in, rows, at=at)
        assert bool(logits.isfinite().all()) and not torch.allclose(logits[0], logits[1], atol=1e-3)


@pytest.mark.parametrize("n_users", [1, 2, 5])
def test_few_trained_users(n_users):
    for rated in (True, False):
        model, data = made("CollFilter", rated)
        few = data.train.take((data.train.user_idx <= n_users).numpy())
        rows = FoldIn(model, Dataset(few)).rows(histories(rated=rated))
        assert all(bool(part.isfinite().all()) for part in rows)


def test_directions_without_variance_stay_where_they_are():
    model, train = made("CollFilter", False)
    with torch.no_grad():
        model.u_bias.weight.zero_()  # as least squares leaves them
    fold_in = FoldIn(model, train)
    assert fold_in.solver.prior.root.shape == (5, 4)
    assert fold_in.rows(histories(rated=False))[1].abs().max() == 0


def test_the_jackknife_takes_a_rating_out():
    """Against least squares without the rating, solved anew, where each item has all users."""
    n_users, n_items, decay = 60, 5, 3.0
    model = randomised(CollFilter(n_users + 1, n_items + 1, n_factors=3))
    with torch.no_grad():
        model.u_bias.weight.zero_()
    users, items = torch.arange(1, n_users + 1).repeat(n_items), torch.arange(1, n_items + 1).repeat_interleave(n_users)
    ratings = 2 * torch.randn(len(users), generator=torch.Generator().manual_seed(4))
    p = torch.cat([model.u_weight.weight.detach(), torch.ones(n_users + 1, 1)], 1).double()

    def solved(rows):
        a = p[users[rows]]
        return torch.linalg.solve(a.T @ a + decay * torch.eye(4).double(), a.T @ ratings[rows].double())

    for item in range(1, n_items + 1):
        z = solved((items == item).nonzero().squeeze(1))
        with torch.no_grad():
            model.i_weight.weight[item], model.i_bias.weight[item] = z[:3].float(), z[3].float()
    train = interactions(users, items, ratings, n_users, n_items)
    rows = torch.tensor([0, 77, 140, 299])
    found = torch.cat(
        rows_without(UserScores(model, Dataset(train)), train, rows, lambda x: (x, torch.ones_like(x))), 1
    ).double()
    for row, z in zip(rows.tolist(), found, strict=True):
        others = ((items == items[row]) & (torch.arange(len(items)) != row)).nonzero().squeeze(1)
        own = torch.cat(model.item_side.read(items[row])).double()
        change, step = solved(others) - own, z - own
        assert (step - change).norm() < 0.15 * change.norm()


@pytest.mark.parametrize("n_ratings", [1, 2, 3, 8])
def test_the_jackknife_counts_the_other_ratings_of_an_item_alone(n_ratings):
    """With the curvature at its expectation a rating is worth one of n, and what is left are n - 1."""
    model = randomised(CollFilter(41, 6, n_factors=3))
    users = torch.arange(1, 41)
    items = torch.cat([torch.ones(n_ratings), 2 + torch.arange(40 - n_ratings) % 4]).long()
    train = interactions(users, items, torch.randn(40, generator=torch.Generator().manual_seed(1)) / 100, 40, 5)
    scores, straight = UserScores(model, Dataset(train)), lambda x: (x, torch.ones_like(x))
    rows = torch.arange(40)
    moment, decay = jackknife._curvature(scores, train, rows, straight)
    own, error = jackknife._gradients(scores, train, rows, straight)
    found = torch.cat(rows_without(scores, train, rows, straight), 1).double()
    kept = torch.cat(scores.parts_of(items), 1).double()
    for row in range(n_ratings):
        change = torch.linalg.solve((n_ratings - 1) * moment + torch.diag(decay), own[row] * error[row])
        change = change * min(1.0, float(kept[row].norm() / change.norm()))  # at most what there is
        assert torch.allclose(found[row], kept[row] - change, atol=1e-5)


def test_a_prior_that_is_not_honest_finds_less_noise(trained):
    honest, other = (FoldIn(trained.model, trained.dls.data, honest=value).solver.noise for value in (True, False))
    assert 0.75 * honest < other < 0.995 * honest  # over seeds the share runs from .78 to .82


def test_shrinkage_of_covariances():
    covariance = torch.tensor([[4.0, 1.0], [1.0, 2.0]]).double()
    # n = d: half of everything; the diagonal's half is drawn halfway to its mean 3
    assert torch.allclose(shrunk_covariance(covariance, 2), torch.tensor([[3.75, 0.5], [0.5, 2.25]]).double())
    assert torch.allclose(shrunk_covariance(covariance, 10**9), covariance, atol=1e-6)


def test_blocks_hold_every_user_once_within_the_bound():
    counts = torch.tensor([3, 1, 50, 2, 3, 1, 7, 300])
    given = Runs(torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]), torch.ones(367).long())
    found = list(blocks(given, 60))
    assert sorted(torch.cat([block.users for block in found]).tolist()) == list(range(8))
    for block in found:
        assert block.cells.numel() <= 60 or len(block.users) == 1
        assert torch.equal(block.mask.sum(1).long(), counts[block.users])


@pytest.mark.parametrize(
    ("start", "items", "ratings", "message"),
    [
        ([0, 1, 1], [4], [3.0], "1 histories are empty, at \\[1\\]"),
        ([0, 1], [0], [3.0], "items must lie in 1..60, got 0"),
        ([0, 1], [61], [3.0], "items must lie in 1..60"),
        ([0, 1], [4], [np.nan], "finite"),
        ([0, 1], [4], None, "trained on ratings: give them"),
        ([0, 1], [4], [3.0, 4.0], "1 finite numbers"),
    ],
)
def test_what_is_refused(planted, start, items, ratings, message):
    fold_in = FoldIn(planted[0], Dataset(planted[1]))
    ratings = None if ratings is None else torch.tensor(ratings)
    with pytest.raises(ValueError, match=message):
        fold_in.rows(Runs(torch.tensor(start), torch.tensor(items), weight=ratings))


def test_ratings_are_refused_where_there_were_none():
    with pytest.raises(ValueError, match="without ratings: give none"):
        FoldIn(*made("CollFilter", False)).rows(one([4], torch.tensor([3.0])))


def test_a_diverged_model_is_refused():
    model, train = made("CollFilter", True)
    with torch.no_grad():
        model.i_weight.weight[3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        FoldIn(model, train).rows(histories())


def test_no_users_at_all(planted):
    rows = FoldIn(planted[0], Dataset(planted[1])).rows(
        Runs(torch.tensor([0]), torch.zeros(0).long(), weight=torch.zeros(0))
    )
    assert [tuple(part.shape) for part in rows] == [(0, 3), (0, 1)]


def test_new_users_are_those_without_training_rows_and_draws_are_nested(planted):
    _, train, test = planted
    users = NewUserRows(train, Interactions.concat(train, test), 20, seed=0)
    assert users.users.tolist() == list(range(101, 121))
    assert len(users.rest[0]) == 20 * 20
    few, many = (set(zip(users.group[users.place < n].tolist(), users.items[users.place < n].tolist(), strict=True))
                 for n in (3, 10))  # fmt: skip
    assert few < many and len(few) == 60
    other = NewUserRows(train, test, 20, seed=1)
    assert not torch.equal(other.items, users.items)


def test_what_is_given_to_new_users_never_is_later_than_what_is_to_be_predicted(planted):
    model, train, test = planted
    times = torch.randperm(len(test), generator=torch.Generator().manual_seed(3)) // 2  # with ties
    timed = dataclasses.replace(test, time=times)
    users = NewUserRows(train, timed, 20, seed=0)
    when = {pair: int(t) for pair, t in zip(pairs_of(test.user_idx, test.item_idx), times, strict=True)}
    assert len(when) == len(test)
    moment = torch.tensor([when[pair] for pair in pairs_of(users.users[users.group], users.items)])
    steps = moment.diff()[users.group.diff() == 0]
    assert bool((steps >= 0).all()) and bool((steps == 0).any())
    fold_in, options = FoldIn(model, Dataset(train)), {"n_given": (1, 5), "seed": 0}
    table = evaluate_fold_in(fold_in, timed, **options)
    other = times[torch.randperm(len(test), generator=torch.Generator().manual_seed(4))]
    shuffled = evaluate_fold_in(fold_in, dataclasses.replace(test, time=other), **options)
    assert not np.allclose(shuffled["RMSE"], table["RMSE"])
    apart = dataclasses.replace(test, time=torch.arange(len(test)))  # without ties nothing is left to chance
    one, two = (NewUserRows(train, apart, 20, seed=seed) for seed in (0, 1))
    assert torch.equal(one.items, two.items)


def pairs_of(users, items):
    return list(zip(users.tolist(), items.tolist(), strict=True))


def test_the_evaluation_by_hand(planted):
    model, train, test = planted
    table = evaluate_fold_in(FoldIn(model, Dataset(train)), test, n_given=[2], seed=0)
    assert table.index.tolist() == [0, 2]
    users = NewUserRows(train, test, 2, 0)
    group, items, ratings = users.rest
    for n, column, who in ((0, "RMSE", users.users[group]), (2, "no information", torch.zeros_like(items))):
        with torch.no_grad():
            error = model.eval()(who, items) - ratings
        assert table.loc[n, column] == pytest.approx(float(error.square().mean().sqrt()), abs=1e-4)
    means = pd.Series(train.rating.numpy()).groupby(train.item_idx.numpy()).mean()
    expected = np.sqrt(np.mean((means.loc[items.numpy()].to_numpy() - ratings.numpy()) ** 2))
    assert table.loc[2, "item mean"] == pytest.approx(expected, abs=1e-5)
    assert table.loc[2, ["n_users", "n_ratings"]].tolist() == [20, 20 * 38]


def test_what_the_evaluation_refuses(planted):
    model, train, test = planted
    fold_in = FoldIn(model, Dataset(train))
    with pytest.raises(ValueError, match="n_given must hold"):
        evaluate_fold_in(fold_in, test, n_given=[0, 3])
    with pytest.raises(ValueError, match="more than 40 test rows"):
        evaluate_fold_in(fold_in, test, n_given=[40])
    with pytest.raises(ValueError, match="none of the 0 test users"):
        evaluate_fold_in(fold_in, train, n_given=[2])
