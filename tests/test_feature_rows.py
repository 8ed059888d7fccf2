"""Features inside the models: what they add to rows, gradients, id dropout, and the rows that new ids get."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import SchedLin
from helpers import make_dls, make_learner, synthetic
from sklearn.linear_model import RidgeCV

from collabkit import IdDropoutSchedule, Vocab
from collabkit.coldstart import ridge as ridges
from collabkit.coldstart.cold_rows import fit_cold_head, own_rows
from collabkit.coldstart.default_rows import fit_default_rows
from collabkit.coldstart.ridge import Design, ridge
from collabkit.data.dataset import Dataset
from collabkit.data.features import Features
from collabkit.data.interactions import Columns, Interactions
from collabkit.data.runs import Runs
from collabkit.models import GMF, NCF, CollFilter, EmbeddingNN, NeuMF, TwoTower
from collabkit.models.feature_rows import FeatureRows

N = 30


def features(n=N, seed=0):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(
        {
            "id": range(n),
            "genres": ["|".join(rng.choice(list("abcd"), rng.integers(1, 4), replace=False)) for _ in range(n)],
            "kind": rng.choice(["x", "y", None], n),
            "year": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
            "text": list(rng.normal(size=(n, 5))),
        }
    )
    return Features.from_df(df, Vocab(range(n), "id"), {"genres": None, "kind": None, "year": None, "text": None})


MODELS = {
    "dot": lambda **kw: CollFilter(N + 1, N + 1, 4, (0, 5), init_std=0.5, **kw),
    "nn": lambda **kw: EmbeddingNN([(N + 1, 3), (N + 1, 2)], [6], y_range=(0, 5), **kw),
    "ncf": lambda **kw: NCF(N + 1, N + 1, 3, layers=[6], **kw),
    "gmf": lambda **kw: GMF(N + 1, N + 1, 4, init_std=0.5, **kw),
    "neumf": lambda **kw: NeuMF(N + 1, N + 1, 4, mlp_factors=3, layers=[6], init_std=0.5, **kw),
    "towers": lambda **kw: TwoTower(N + 1, N + 1, 4, layers=[5], item_bias=True, init_std=0.5, **kw),
}
BOTH = (features(), features(seed=1))


def make(kind, **kwargs):
    torch.manual_seed(0)
    model = MODELS[kind](**{"features": BOTH, **kwargs})
    for side in model.sides:
        for p in [] if side.features is None else side.features.parameters():
            torch.nn.init.normal_(p)
    return model


# --- the features' part ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "idx",
    [
        torch.arange(N + 1),
        torch.tensor([3]),
        torch.tensor([[1, 2, 2], [30, 0, 7]]),
        torch.tensor([], dtype=torch.int64),
    ],
)
def test_the_part_is_the_design_matrix_times_the_weights(idx):
    rows = FeatureRows(BOTH[0], [4, 1], init_std=1.0)
    weights = torch.cat([torch.cat([*field.weights], dim=1) for field in rows.fields])  # (p, 5)
    want = (BOTH[0].matrix() @ weights)[idx]
    got = torch.cat(rows(idx), dim=-1)
    assert got.shape == (*idx.shape, 5) and torch.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("many", [True, False])
def test_gradients_of_many_and_of_few_rows(many):
    """The sparse products for all rows and the bags for a few have the gradient of the plain product."""
    rows = FeatureRows(BOTH[0], [4], init_std=1.0)
    idx = torch.randint(0, N + 1, (40,)) if many else torch.tensor([5, 5, 9])
    factor = torch.randn(len(idx), 4)
    (rows(idx)[0] * factor).sum().backward()
    weights = [field.weights[0].detach().clone().requires_grad_() for field in rows.fields]
    ((BOTH[0].matrix() @ torch.cat(weights))[idx] * factor).sum().backward()
    for field, want in zip(rows.fields, weights, strict=True):
        assert torch.allclose(field.weights[0].grad, want.grad, atol=1e-4)


def test_concatenated_parts_have_widths_of_their_own():
    model = make("ncf", feature_szs={"genres": 7})
    side, fields = model.item_side, model.item_side.features.fields
    assert [field.width for field in fields] == [7, fields[1].field.by_kind.part_width(fields[1].field), 2, 5]
    assert side.row_widths == [3 + sum(field.width for field in fields)]
    assert model.item_rows(torch.tensor([1, 2]))[0].shape == (2, *side.row_widths)


@pytest.mark.parametrize("kind", MODELS)
def test_models_broadcast_and_copy(kind):
    model = make(kind).eval()
    users, items = torch.tensor([1, 2, 3]), torch.arange(N + 1)
    table = model(users[:, None], items[None])
    assert table.shape == (3, N + 1)
    assert torch.allclose(table[1, 4], model(torch.tensor([[2, 4]]))[0], atol=1e-5)
    assert torch.equal(copy.deepcopy(model)(users[:, None], items[None]), table)
    if model.has_vectors:
        dots = model.user_vectors(users) @ model.item_vectors(items).T
        assert torch.allclose(model.activation(dots), table, atol=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_features_change_the_score_of_their_id_alone(kind):
    model = make(kind, features=(None, BOTH[1])).eval()
    users, items = torch.tensor([1]), torch.arange(N + 1)
    before = model(users, items)
    with torch.no_grad():
        model.item_side.features.fields[0].weights[0][1] += 1.0
    changed = (model(users, items) - before).abs() > 1e-7
    has = BOTH[1].matrix()[:, 1] > 0
    assert not changed[~has].any() and changed[has].float().mean() > 0.8  # a ReLU may hide it


# --- id dropout ------------------------------------------------------------------------------------------------------


def test_id_dropout_leaves_the_features_alone():
    model = make("dot", id_dropout=0.5)
    idx = torch.arange(1, N + 1)
    torch.manual_seed(1)
    rows, part = model.train().item_rows(idx)[0], model.item_side.features(idx)[0]
    dropped = torch.isclose(rows, part).all(1)
    assert 0.2 < dropped.float().mean() < 0.8
    assert torch.allclose(rows[~dropped], (part + model.i_weight(idx))[~dropped])
    assert torch.allclose(model.eval().item_rows(idx)[0], part + model.i_weight(idx))
    with pytest.raises(ValueError, match="are for models with side features"):
        make("dot", features=None, id_dropout=0.5)  # nothing would be left of an id
    one_side = make("dot", features=(BOTH[0], None), id_dropout=0.5).train()
    assert torch.equal(one_side.item_rows(idx)[0], one_side.i_weight(idx))


def test_the_share_follows_a_schedule_and_comes_back():
    dls = make_dls(items=synthetic().items, item_features={"genres": "multi"}, bs=1500)
    learn, seen = make_learner("dot", dls, id_dropout=0.3), []

    class Watch(Callback):
        order = 100

        def before_batch(self):
            if self.training:
                seen.append(self.learn.model.item_side.id_dropout)

    learn.fit(2, 1e-3, cbs=[IdDropoutSchedule(SchedLin(0.8, 0.2)), Watch()])
    steps = len(seen)
    assert steps > 4 and np.allclose(seen, 0.8 - 0.6 * np.arange(steps) / steps)
    assert learn.model.item_side.id_dropout == learn.model.id_dropout == 0.3
    assert learn.model.user_side.id_dropout == 0  # it has no features
    with pytest.raises(ValueError, match="for models with side features, and this has none"):
        make_learner("dot").fit(1, cbs=IdDropoutSchedule(SchedLin(0.5, 0)))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\), the schedule gives 1.125"):
        IdDropoutSchedule(SchedLin(0, 1.5))
    with pytest.raises(TypeError, match="must be a function of the position in a fit, e.g. .* got 0.5"):
        IdDropoutSchedule(0.5)


# --- new ids ---------------------------------------------------------------------------------------------------------


def test_ridge_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for n, p in ((60, 8), (30, 100), (700, 8)):  # the spectrum of rows, and of columns
        X, weight = rng.normal(size=(n, p)), rng.uniform(0.5, 2, n)
        Y = 3 * X[:, :2] @ rng.normal(size=(2, 3)) + rng.normal(size=(n, 3)) + 5
        [(slope, level)] = ridge(Design([torch.from_numpy(X)]), [torch.from_numpy(Y)], torch.from_numpy(weight))
        oracle = RidgeCV(alphas=ridges.PENALTIES).fit(X, Y, sample_weight=weight / weight.mean())
        assert np.allclose(slope, oracle.coef_.T, atol=1e-4) and np.allclose(level, oracle.intercept_, atol=1e-4)


def test_ridge_believes_nothing_of_noise():
    rng = np.random.default_rng(1)
    for n, p in ((40, 30), (30, 60)):
        shrunk = []
        for _ in range(20):
            X, Y = torch.from_numpy(rng.normal(size=(n, p))), torch.from_numpy(rng.normal(size=(n, 1)))
            [(slope, level)] = ridge(Design([X]), [Y], torch.ones(n))
            shrunk.append(float((X @ slope.double()).std()))
            assert float(level) == pytest.approx(float(Y.mean()), abs=0.6)
        assert np.median(shrunk) < 0.3


def tagged(n=1500, n_tags=700, seed=0):
    """Weighted codes of `n` rows beside two numbers, and targets that follow from both: one, twenty, and noise."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(n), 6)
    runs = Runs.pairs(rows, rng.zipf(1.5, len(rows)) % n_tags, n, n_tags)
    codes = Runs(runs.start, runs.values, n_tags, torch.rand(len(runs.values), generator=torch.manual_seed(seed)))
    numbers = torch.randn(n, 2)
    dense = torch.zeros(n, n_tags).index_put_((codes.rows, codes.values), codes.weight)
    X = torch.cat([dense, numbers], dim=1)
    Y = X @ torch.randn(n_tags + 2, 20) + 2 * torch.randn(n, 20)
    return Design([codes, numbers]), X, [Y[:, :1], Y, torch.randn(n, 3)], torch.rand(n) + 0.2


def test_conjugate_gradients_find_what_the_spectrum_does(monkeypatch):
    design, X, targets, weight = tagged()
    found = ridge(design, targets, weight)
    monkeypatch.setattr(ridges, "EXACT", 1000)
    monkeypatch.setattr(ridges, "PENALTIES", ridges.PENALTIES[::2])  # of which they try each other one
    for (slope, level), (want, height) in zip(found, ridge(Design([X]), targets, weight), strict=True):
        error = (X @ slope + level - X @ want - height).norm() / (X @ want - (X @ want).mean(0)).norm().clamp(min=1)
        assert error < 0.05
    assert found[2][0].norm() < 0.2 * found[0][0].norm()  # noise is hardly believed


def planted(n=120, noise=0.1):
    """A model of items whose rows follow from two categories, and interactions of all but the last ten."""
    rng = np.random.default_rng(3)
    df = pd.DataFrame({"item": range(n), "kind": rng.choice(list("abc"), n)})
    side = Features.from_df(df, Vocab(range(n), "item"))
    model = CollFilter(5, n + 1, 2, (0, 5), features=(None, side))
    centre = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [-1.0, -1.0]}
    with torch.no_grad():
        model.i_weight.weight[1:] = torch.tensor([centre[k] for k in df["kind"]]) + noise * torch.randn(n, 2)
        model.u_weight.weight.normal_()
    events = pd.DataFrame({"user": np.tile([1, 2, 3, 4], n - 10), "item": np.repeat(np.arange(n - 10), 4)})
    events["rating"] = rng.integers(1, 6, len(events)).astype(float)
    users = Vocab([1, 2, 3, 4], "user")
    return (
        model,
        Interactions.from_df(events, Columns("user", "item", "rating"), users=users, items=side.vocab),
        df,
        centre,
    )


def test_new_items_get_the_rows_that_their_features_foretell():
    model, train, df, centre = planted()
    fit_cold_head(model, train, model.item_side)
    cold = torch.arange(train.n_items - 10, train.n_items)
    total = model.item_side.features.cold_rows(cold)[0] + model.item_side.features(cold)[0]
    want = torch.tensor([centre[k] for k in df["kind"].tail(10)])
    assert (total - want).abs().max() < 0.15


def test_default_rows_serve_ids_without_features_and_the_regression_those_with():
    model, train, *_ = planted()
    bare = train.n_items - 1
    model.item_side.features.features.given[bare] = False
    fit_default_rows(model, Dataset(train))
    rows = model.i_weight.weight.detach()
    assert torch.equal(rows[bare], rows[0])
    cold = torch.arange(train.n_items - 10, bare)
    assert torch.allclose(rows[cold], model.item_side.features.cold_rows(cold)[0])
    spread = own_rows(model.item_side, cold)[0].std(0)
    assert (spread > 0.3).all()
    met = torch.arange(1, train.n_items - 10)
    own = model.item_side.features.cold_rows(met)
    average = own[0].mean(0) + model.item_side.features(met)[0].mean(0)
    unknown = own_rows(model.item_side, torch.tensor([0]))[0][0]
    assert torch.allclose(average, unknown, atol=1e-4)  # of average features, the answer for an unknown id


def test_growing_keeps_rows_and_scores():
    model, train, *_ = planted()
    fit_default_rows(model, Dataset(train))
    model.eval()
    before = model(torch.arange(5)[:, None], torch.arange(train.n_items))
    vocab = train.items.extended([1000, 1001])
    new = model.item_side.features.features.extended(pd.DataFrame({"item": [1001], "kind": ["b"]}), vocab)
    model.item_side.grow(vocab, new)
    assert model.n_items == train.n_items + 2 and model.items is vocab
    assert torch.equal(model(torch.arange(5)[:, None], torch.arange(train.n_items)), before)
    rows = model.i_weight.weight.detach()
    assert torch.equal(rows[-2], torch.zeros(2)) and torch.equal(
        rows[-1], model.item_side.features.cold_rows(torch.tensor([model.n_items - 1]))[0][0]
    )
    assert model.i_weight.num_embeddings == model.n_items and model.i_weight.weight.requires_grad


@pytest.mark.parametrize("exact", [512, 1])
def test_many_columns_are_foretold_from_like_few(exact, monkeypatch):
    """A tag of an item's own beside its kind: more columns than items, by either way to solve."""
    monkeypatch.setattr(ridges, "EXACT", exact)
    model, train, df, centre = planted(n=200)
    df["tags"] = [[kind, f"own {j}"] for j, kind in enumerate(df["kind"])]
    side = Features.from_df(df, model.item_side.features.features.vocab, {"tags": "multi"})
    tagged = CollFilter(5, train.n_items, 2, (0, 5), features=(None, side))
    with torch.no_grad():
        tagged.i_weight.weight.copy_(model.i_weight.weight)
        tagged.item_side.features.fields[0].weights[0].normal_(std=0.1)  # counts once
    fit_cold_head(tagged, train, tagged.item_side)
    cold = torch.arange(train.n_items - 10, train.n_items)
    total = tagged.item_side.features.cold_rows(cold)[0] + tagged.item_side.features(cold)[0]
    want = torch.tensor([centre[k] for k in df["kind"].tail(10)])
    assert ((total - want).norm(dim=1) < 0.5).all()


def test_penalties_are_picked_on_some_of_many_rows(monkeypatch):
    design, X, targets, weight = tagged(n=3000)
    want = ridge(design, targets, weight)
    monkeypatch.setattr(ridges, "PICKED_ON", 1000)
    for (slope, level), (other, height) in zip(ridge(design, targets, weight)[:2], want[:2], strict=True):
        got, full = (X @ one + mean for one, mean in ((slope, level), (other, height)))
        assert np.corrcoef(got.flatten(), full.flatten())[0, 1] > 0.95


def test_rows_of_artefacts_without_rarity_are_foretold_as_they_were():
    rows = FeatureRows(BOTH[0], [4], init_std=1.0)
    state = rows.state_dict()
    del state["rarity"]
    state["cold"] = torch.randn_like(state["cold"])
    rows.load_state_dict(state)
    idx = torch.arange(N + 1)
    want = BOTH[0].matrix() @ state["cold"][:-1] + state["cold"][-1]
    assert torch.allclose(rows.cold_rows(idx)[0], want, atol=1e-5)
