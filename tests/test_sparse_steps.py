"""Sparse gradients: which tables have them, and that a step moves what its batch touched as a dense one would."""

from copy import deepcopy

import pandas as pd
import pytest
import torch
from helpers import make_dls, ratings, silence
from torch import nn

from collabkit import (
    GMF,
    NCF,
    Bag,
    CollabDataLoaders,
    CollFilter,
    EmbeddingNN,
    NeuMF,
    TwoTower,
    collab_learner,
    load_learner,
)
from collabkit.models import table
from collabkit.train.optim import LazyAdamW
from collabkit.train.sampling import InBatchNegatives, SharedNegatives

OPTIONS = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6}


@pytest.mark.parametrize("wd", [0.0, 0.3])
def test_steps_that_touch_all_rows_are_those_of_adamw(wd):
    tables = [nn.Embedding(6, 3, sparse=sparse) for sparse in (True, False)]
    tables[1].weight.data.copy_(tables[0].weight.data)
    optimisers = [LazyAdamW([t.weight], weight_decay=wd, **OPTIONS) for t in tables]
    optimisers[1] = torch.optim.AdamW([tables[1].weight], weight_decay=wd, **OPTIONS)
    for step in range(6):
        idx = torch.cat([torch.arange(6), torch.randint(6, (9,), generator=torch.Generator().manual_seed(step))])
        for own, optimiser in zip(tables, optimisers, strict=True):
            own(idx).square().sum(1).sin().sum().backward()
            optimiser.step()
            optimiser.zero_grad()
    assert torch.allclose(tables[0].weight, tables[1].weight, atol=1e-6)


def test_rows_that_no_batch_touches_neither_move_nor_decay():
    own, other = nn.Embedding(5, 2, sparse=True), nn.Linear(2, 1)
    optimiser = LazyAdamW([{"params": [own.weight, *other.parameters()]}], lr=0.1, weight_decay=0.5)
    before = [p.detach().clone() for p in (own.weight, other.weight)]
    for idx in ([1, 2], [2, 2]):
        other(own(torch.tensor(idx))).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    moved = (own.weight != before[0]).any(1)
    assert moved.tolist() == [False, True, True, False, False] and (other.weight != before[1]).all()
    state = optimiser.state[own.weight]
    assert float(state["step"]) == 2 and (state["exp_avg"] != 0).any(1).tolist() == moved.tolist()
    wide = nn.Embedding(5, 1, sparse=True)  # a gradient of 0 decays and does nothing else
    start = wide.weight.detach().clone()
    wide(torch.tensor([4])).mul(0).sum().backward()
    LazyAdamW([wide.weight], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(wide.weight, start * torch.tensor([1, 1, 1, 1, 0.95])[:, None])


def test_states_are_saved_and_loaded():
    def fresh():
        torch.manual_seed(0)
        own = nn.Embedding(4, 2, sparse=True)
        return own, LazyAdamW([own.weight], **OPTIONS)

    def go(own, optimiser, n):
        for _ in range(n):
            own(torch.tensor([0, 3])).exp().sum().backward()
            optimiser.step()
            optimiser.zero_grad()

    (first, optimiser), (second, other) = fresh(), fresh()
    go(first, optimiser, 2)
    second.load_state_dict(first.state_dict())
    other.load_state_dict(deepcopy(optimiser.state_dict()))
    go(first, optimiser, 2), go(second, other, 2)
    assert torch.equal(first.weight, second.weight)


MODELS = {
    "dot": (CollFilter, {}), "gmf": (GMF, {}), "ncf": (NCF, {"layers": [8]}), "neumf": (NeuMF, {"layers": [8]}),
    "towers": (TwoTower, {"layers": [8], "item_bias": True}), "cosine": (TwoTower, {"similarity": "cosine"}),
}  # fmt: skip


def events_dls(**options):
    films = ratings()[["title"]].drop_duplicates().reset_index(drop=True)
    films["tags"] = [["abc"[j % 3], f"t{j % 40}"] for j in range(len(films))]
    films["studio"] = [f"s{j % 12}" for j in range(len(films))]
    beside = (
        {"items": films, "item_features": {"tags": Bag(), "studio": None}} if options.pop("features", False) else {}
    )
    return make_dls(ratings(), rating_name=None, feedback="implicit", device="cpu", **beside, **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_sparse_gradients_are_the_dense_ones(name, features):
    cls, options = MODELS[name]
    dls = events_dls(features=features, bs=64)
    query, positives, negatives, _ = dls.one_batch()
    grads = []
    for sparse in (True, False):
        learn = collab_learner(dls, model=cls, n_factors=4, seed=3, sparse=sparse, start="random", **options)
        learn.model.train()
        learn.model(query, positives, negatives).square().mean().backward()
        grads.append({name: p.grad for name, p in learn.model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    tables = [key for key in grads[0] if ".tables." in key or ".fields." in key]
    assert len(tables) >= 2 + 2 * features and all(grads[0][key].is_sparse for key in tables)
    for key, grad in grads[0].items():
        grad = grad.to_dense() if grad.is_sparse else grad
        assert torch.allclose(grad, grads[1][key], atol=1e-5), key


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_they_are_trained_and_saved_with_features_beside(name, tmp_path):
    cls, options = MODELS[name]
    learn = silence(collab_learner(events_dls(features=True), model=cls, n_factors=4, sparse=True, **options))
    before = learn.validate()[0]
    learn.fit_one_cycle(2, 1e-2, wd=0.1, checkpoint=tmp_path / "steps")
    assert learn.validate()[0] < before
    learn.lr_find(num_it=5, show_plot=False, suggest_funcs=())
    learn.save("here"), learn.load("here")
    learn.fit(1, 1e-3)
    load_learner(learn.export(tmp_path / "model"))


def test_large_tables_are_sparse_by_themselves(monkeypatch, tmp_path):
    monkeypatch.setattr(table, "SPARSE_ROWS", 180)  # 201 rows of users, 151 of items
    dls = events_dls()
    model = silence(collab_learner(dls)).model
    assert all(t.sparse for t in model.user_side.tables) and not any(t.sparse for t in model.item_side.tables)
    assert not model.sparse  # of all
    assert not any(t.sparse for t in collab_learner(dls, sparse=False).model.user_side.tables)
    other = collab_learner(dls, opt_func=torch.optim.SGD).model  # which may not take them
    assert not any(t.sparse for t in other.user_side.tables)
    learn = silence(collab_learner(dls, start="random"))
    learn.fit(1, 1e-2)
    again = load_learner(learn.export(tmp_path / "model"))
    assert all(t.sparse for t in again.model.user_side.tables)
    made = CollFilter(201, 151, 4)
    assert not any(t.sparse for t in collab_learner(dls, model=made).model.user_side.tables)
    assert EmbeddingNN([(201, 3), (151, 3)], [4]).set_sparse().user_side.tables[0].sparse


def test_hits_are_found_without_a_table_of_all_items():
    df = pd.DataFrame({"user": [1, 1, 2, 2, 3], "item": list("abacd")})
    train = CollabDataLoaders.from_df(df, feedback="implicit", valid_pct=0, device="cpu").data.train
    users, positives = torch.tensor([1, 2, 3]), torch.tensor([1, 3, 4])
    for sampler in (SharedNegatives(train), InBatchNegatives(train)):
        for items in ([1, 2, 3, 4], [4, 2, 1], [3], []):
            rows, columns = sampler.hits(users, positives, torch.tensor(items, dtype=torch.int64))
            found = {(int(r), items[int(c)]) for r, c in zip(rows, columns, strict=True)}
            seen = {(0, 1), (0, 2), (1, 1), (1, 3), (2, 4)}
            assert found == {pair for pair in seen if pair[1] in items}
