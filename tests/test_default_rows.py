"""What ids without training rows predict: the fitted row against closed forms, brute force and the item means."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import KINDS, make_dls, make_learner, synthetic, trained, weights

from collabkit import CollFilter, Interactions
from collabkit.coldstart.default_rows import RIDGE, fit_default_rows, zero_cold_rows
from collabkit.data.dataset import Dataset
from collabkit.data.interactions import Columns
from collabkit.metrics import rmse


def interactions(seed=0, n_users=12, n_items=9, n=60):
    """Some ids have no row: the last two users and the last item are in the vocabulary alone."""
    rng = np.random.default_rng(seed)
    every = pd.DataFrame({"user": rng.integers(0, n_users - 2, n), "item": rng.integers(0, n_items - 1, n)})
    every["rating"] = rng.integers(1, 6, n).astype(float)
    ends = pd.DataFrame({"user": [n_users - 2, n_users - 1, 0], "item": [0, 1, n_items - 1], "rating": 3.0})
    data = Interactions.from_df(pd.concat([every, ends], ignore_index=True), Columns("user", "item", "rating"))
    return data.take(range(n))


def random_model(data, y_range=None, std=1.0):
    torch.manual_seed(1)
    return CollFilter(data.n_users, data.n_items, 3, y_range, init_std=std)


def tables(model, side):
    return [table.weight for table in model.side(side).tables]


def cold(idx, n):
    return sorted(set(range(n)) - set(idx.tolist()))


def test_zero_cold_rows():
    data = interactions()
    model = random_model(data)
    with torch.no_grad():
        for p in model.parameters():
            p[0] = 7.0
    before = weights(model)
    zero_cold_rows(model, data)
    users, items = cold(data.user_idx, data.n_users), cold(data.item_idx, data.n_items)
    assert {0, data.n_users - 1, data.n_users - 2} <= set(users) and {0, data.n_items - 1} <= set(items)
    for side, rows in (("user", users), ("item", items)):
        for table in range(2):
            expected = before[f"{side}_side.tables.{table}.weight"].clone()
            expected[rows] = 0.0
            assert torch.equal(model.side(side).tables[table].weight, expected)


def test_row_0_holds_the_default_even_where_training_rows_are_of_unknown_ids():
    data = interactions()
    data = replace(data, user_idx=data.user_idx.where(data.user_idx > 2, 0))
    model = random_model(data)
    zero_cold_rows(model, data)
    assert model.u_weight.weight[0].abs().max() == 0
    fit_default_rows(model, Dataset(data))
    assert torch.equal(model.u_weight.weight[0], model.u_weight.weight[-1])


def test_the_fitted_row_is_ridge_regression_where_the_score_is_linear():
    data = interactions()
    model = random_model(data)
    before = {
        name: getattr(model, name).weight.detach().clone() for name in ("u_weight", "u_bias", "i_weight", "i_bias")
    }
    fit_default_rows(model, Dataset(data))
    users, items, y = data.user_idx.numpy(), data.item_idx.numpy(), data.rating.double().numpy()
    warm_users, warm_items = np.unique(users), np.unique(items)
    # In place of every user: minimise sum (y - q_i . p - b - b_i)^2 + 30 |(p - mean) / sd|^2 + 30 ((b - mean) / sd)^2
    q, b_i = before["i_weight"].numpy()[items], before["i_bias"].numpy()[items, 0]
    got = torch.cat([model.u_weight.weight[0], model.u_bias.weight[0]]).detach().numpy()
    tables = before["u_weight"].numpy()[warm_users], before["u_bias"].numpy()[warm_users]
    assert got == pytest.approx(_ridge(q, y - b_i, tables), abs=2e-3)
    # The user side is fitted first, but the rows of warm users are what the item side is fitted to.
    p, b_u = before["u_weight"].numpy()[users], before["u_bias"].numpy()[users, 0]
    got = torch.cat([model.i_weight.weight[0], model.i_bias.weight[0]]).detach().numpy()
    tables = before["i_weight"].numpy()[warm_items], before["i_bias"].numpy()[warm_items]
    assert got == pytest.approx(_ridge(p, y - b_u, tables), abs=2e-3)


def _ridge(x, y, tables):
    x = np.column_stack([x, np.ones(len(x))])
    centre = np.concatenate([t.mean(0) for t in tables])
    sd = np.concatenate([np.full(t.shape[1], t.std(0).mean()) for t in tables])
    penalty = np.diag(30.0 / sd**2)
    return np.linalg.solve(x.T @ x + penalty, x.T @ y + penalty @ centre)


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_row_fits_the_training_ratings_better(kind):
    learn = trained(kind)
    model, train = learn.model, learn.dls.train.dataset
    model.eval()

    def objective(side, row):
        """Error over all ratings, one by one, with `row` in the place of every user (or item), plus the ridge."""
        own = tuple(part.expand(len(train), -1) for part in row)
        if side == "item":
            logits = model.interact(model.user_rows(train.user_idx), own)
        else:
            logits = model.interact(own, model.item_rows(train.item_idx))
        error = (model.activation(logits) - train.rating).square().sum()
        warm = train.indices(side).unique()
        for part, table in zip(row, tables(model, side), strict=True):
            sd = table[warm].std(0, correction=0).mean()
            error = error + RIDGE * ((part - table[warm].mean(0)) / sd).square().sum()
        return error.item()

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for side in ("user", "item"):
            row = [t[0] for t in tables(model, side)]
            best = objective(side, row)
            for scale in (0.02, 0.2):
                for _ in range(10):
                    near = [r + scale * r.abs().mean() * torch.randn(r.shape, generator=generator) for r in row]
                    assert objective(side, near) > best - 0.02 * scale
            zero = [torch.zeros_like(r) for r in row]
            assert objective(side, zero) > best + 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_warm_rows_layers_and_mode_stay_as_they_were(kind):
    df = synthetic().ratings
    chosen = df["user"].isin(df["user"].unique()[:5]) | df["title"].isin(df["title"].unique()[:3])
    parts = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    learn = make_learner(kind, make_dls(df, splitter=lambda _: parts))
    model, train = learn.model.train(), learn.dls.train.dataset
    before = weights(model)
    fit_default_rows(model, Dataset(train))
    assert model.training and all(p.grad is None for p in model.parameters())
    cold_users, cold_items = cold(train.user_idx, train.n_users), cold(train.item_idx, train.n_items)
    assert len(cold_users) == 6 and len(cold_items) == 4
    named = {id(p): name for name, p in model.named_parameters()}
    touched = {}
    for side, rows in (("user", cold_users), ("item", cold_items)):
        for table in tables(model, side):
            touched[named[id(table)]] = rows
            assert all(torch.equal(table[0], table[row]) for row in rows)
    for name, value in model.state_dict().items():
        expected = before[name].clone()
        if name in touched:
            assert not torch.equal(value[touched[name]], expected[touched[name]])
            expected[touched[name]] = value[touched[name]]
        assert torch.equal(value, expected), name


def test_without_ratings_the_users_row_orders_items_by_popularity_and_trained_rows_stay():
    data = interactions(n=20_000)  # so that the ridge weighs little
    data = data.take(np.flatnonzero(np.random.default_rng(0).random(len(data)) < 1 / data.item_idx.numpy()))
    torch.manual_seed(1)
    model = CollFilter(data.n_users, data.n_items, 12, init_std=1.0)  # enough factors to give each item any score
    before = weights(model)
    events = Interactions(data.user_idx, data.item_idx, None, None, data.users, data.items, data.columns)
    fit_default_rows(model, Dataset(events))
    counts = torch.bincount(events.item_idx, minlength=data.n_items)
    met = (counts > 0).nonzero().squeeze(1)
    with torch.no_grad():
        scores = model(torch.zeros(len(met), dtype=torch.int64), met)
    assert np.corrcoef(scores.numpy(), counts[met].double().log().numpy())[0, 1] > 0.95
    for name, value in model.state_dict().items():
        rows = (events.user_idx if name.startswith("user_") else events.item_idx).unique()
        assert torch.equal(before[name][rows], value[rows])


def test_at_most_max_rows_of_the_most_frequent_ids_are_used():
    data = interactions(n=200)
    counts = torch.bincount(data.item_idx, minlength=data.n_items)
    keep = torch.argsort(counts, descending=True, stable=True)[:3]
    rows = {}
    for name, part, options in (
        ("few", data, {"max_rows": 3}),
        ("the same by hand", data.take(torch.isin(data.item_idx, keep).numpy().nonzero()[0]), {}),
        ("all", data, {}),
    ):
        model = random_model(data)
        fit_default_rows(model, Dataset(part), **options)
        rows[name] = model.u_weight.weight[0].detach()
    assert torch.allclose(rows["few"], rows["the same by hand"], atol=1e-3)
    assert not torch.allclose(rows["few"], rows["all"], atol=1e-2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_diverged_model_is_left_to_itself(value):
    data = interactions()
    model = random_model(data)
    with torch.no_grad():
        model.i_weight.weight[:] = value
    fit_default_rows(model, Dataset(data))  # no error: the learner's user sees the loss, and `recommend` says it
    assert torch.isfinite(model.u_weight.weight[0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_that_diverges_ends_without_an_error(kind):
    learn = make_learner(kind, y_range=None)
    with torch.no_grad():
        learn.model.i_weight.weight[1:] = float("nan")
    learn.fit(1, 1e-3)
    assert np.isnan(learn.recorder.values[-1][0])
    with pytest.raises(ValueError, match="NaN"):
        learn.recommend([learn.dls.classes["user"][1]])


@pytest.mark.parametrize("kind", KINDS)
def test_index_0_never_predicts_what_chance_gave_it(kind):
    """Whatever the rows held before training, they predict the same after it."""
    answers = []
    for junk in (0.0, 5.0):
        learn = make_learner(kind)
        with torch.no_grad():
            for table in tables(learn.model, "user") + tables(learn.model, "item"):
                table[0] = junk
        learn.fit_one_cycle(3, 1e-2)
        titles = list(learn.dls.classes["title"])[1:]
        answers.append(learn.predict(999_999, titles, unknown="default"))
        assert np.isfinite(answers[-1]).all() and answers[-1].std() > 0.03
    assert np.array_equal(*answers)


# --- quality on held-out users and items -----------------------------------------------------------------------------


def held_out_errors(kind, df, seed, by, **fit):
    """RMSE on the rows of 10 % of the users (or items), unknown to the model: its own, and the other side's means."""
    ids = np.random.default_rng(seed).permutation(df[by].unique())
    out = df[by].isin(ids[: len(ids) // 10])
    known = df[~out]
    dls = make_dls(known, seed=seed, valid_pct=0.01, bs=fit.pop("bs"))
    learn = make_learner(kind, dls, seed=seed, **fit.pop("options"))
    learn.fit_one_cycle(**fit)
    data = learn.dls.train.dataset.to_df()
    other = "title" if by == "user" else "user"
    test = df[out & df[other].isin(data[other])]
    means = test[other].map(data.groupby(other)["rating"].mean())
    users, items = test["user"].to_numpy(), test["title"].to_numpy()
    pred = learn.predict(users, items, unknown="default")
    assert pd.Series(pred).groupby(test[other].to_numpy()).std().max() < 1e-5  # what is unknown is all the same
    return rmse(pred, test["rating"].to_numpy()), rmse(means.to_numpy(), test["rating"].to_numpy())


# The model's RMSE may be this many times that of the means. A network squeezed out of 6,000 rows, and users' means (the
# rating of an unknown item depends more on the user than on the item), are harder to meet than item means are.
SLACK = {("dot", "user"): 1.0, ("nn", "user"): 1.01, ("dot", "title"): 1.01, ("nn", "title"): 1.01}


@pytest.mark.parametrize(("kind", "by"), SLACK)
def test_unknown_ids_are_predicted_no_worse_than_by_means(kind, by):
    fit = {"n_epoch": 6, "lr_max": 2e-2, "wd": 0.2, "bs": 256}
    errors = [
        held_out_errors(kind, synthetic(s).ratings, s, by, options={}, **fit)
        for s in range(1, 9 if kind == "dot" else 5)
    ]
    model, mean = np.mean(errors, axis=0)
    assert 0.95 * mean < model <= SLACK[kind, by] * mean, errors


@pytest.mark.parametrize(("kind", "slack"), [("dot", 1.0), ("nn", 1.005)])
def test_unknown_users_of_movielens_are_predicted_no_worse_than_by_item_means(kind, slack, movielens_dir):
    file = movielens_dir / "ml-100k" / "u.data"
    df = pd.read_csv(file, sep="\t", names=["user", "title", "rating", "time"], dtype=np.int64)
    options = {"n_factors": 16} if kind == "dot" else {"layers": [20], "emb_szs": [10, 10], "ps": 0.0}
    fit = {"n_epoch": 3, "lr_max": 1e-2, "wd": 0.4, "bs": 1024, "options": options}
    errors = [held_out_errors(kind, df, seed, "user", **fit) for seed in range(3)]
    model, mean = np.mean(errors, axis=0)
    assert 0.95 * mean < model <= slack * mean, errors


def test_before_any_training_there_is_no_opinion_of_an_unknown_user():
    learn = make_learner("dot")
    for table in tables(learn.model, "user"):
        table.data[1:] += 1.0
    assert learn.predict(999_999, learn.dls.classes["title"][1], unknown="default") == pytest.approx(3.0, abs=0.05)
