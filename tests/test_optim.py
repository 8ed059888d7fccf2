"""`TableAdamW` against fastai's Adam, and which tables weight decay touches."""

from copy import deepcopy
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.optimizer import Adam
from helpers import make_learner, same_weights, weights
from torch import nn

from collabkit import CollFilter, EmbeddingNN, Vocab
from collabkit.data.features import Features
from collabkit.train.optim import FEATURE_WD, TableAdamW, decay_groups, feature_weights, undecayed


def names(model, ids):
    return {name for name, p in model.named_parameters() if id(p) in ids}


BIASES = {"user_side.tables.1.weight", "item_side.tables.1.weight"}  # of the dot-product model


def dot_model():
    torch.manual_seed(0)
    return CollFilter(6, 8, 3, (0, 6), init_std=0.5)


def two_groups(model):
    return [[model.u_weight.weight, model.u_bias.weight], [model.i_weight.weight, model.i_bias.weight]]


def steps(model, opt, n=25):
    """`n` steps on a small regression, with hyper-parameters that move as in one-cycle training."""
    generator = torch.Generator().manual_seed(1)
    for step in range(n):
        x = torch.stack([torch.randint(6, (16,), generator=generator), torch.randint(8, (16,), generator=generator)], 1)
        y = 1 + 4 * torch.rand(16, generator=generator)
        opt.set_hypers(lr=0.01 + 0.002 * step, mom=0.95 - 0.004 * step)
        (model(x) - y).square().mean().backward()
        opt.step()
        opt.zero_grad()


@pytest.mark.parametrize("wd", [0.0, 0.3])
def test_equals_fastais_adam_when_everything_decays(wd):
    mine, theirs = dot_model(), dot_model()
    start = weights(mine)
    steps(mine, TableAdamW(list(mine.parameters()), lr=0.01, wd=wd, spared=undecayed(mine, "all")))
    steps(theirs, Adam(list(theirs.parameters()), lr=0.01, wd=wd, decouple_wd=True))
    for name, value in theirs.state_dict().items():
        assert torch.allclose(mine.state_dict()[name], value, atol=1e-5), name
        assert (value - start[name]).abs().max() > 0.1  # it did move


def test_defaults_are_those_of_fastais_adam():
    params = list(dot_model().parameters())
    mine, theirs = TableAdamW(params).hypers[0], Adam(params, lr=1e-3).hypers[0]
    assert mine == {name: theirs[name] for name in ("wd", "lr", "mom", "sqr_mom", "eps")}


@pytest.mark.parametrize(("wd_on", "bias_factor"), [("factors", 1.0), ("all", (1 - 0.1 * 0.5) ** 3)])
def test_decay_multiplies_by_one_minus_lr_wd_and_spares_biases(wd_on, bias_factor):
    model = dot_model()
    opt, before = TableAdamW(list(model.parameters()), spared=undecayed(model, wd_on)), weights(model)
    opt.set_hypers(lr=0.1, wd=0.5)
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        opt.step()
    for name, value in model.state_dict().items():
        factor = bias_factor if name in BIASES else (1 - 0.1 * 0.5) ** 3
        assert torch.allclose(value, before[name] * factor, atol=1e-7), name


def test_undecayed_names():
    model = CollFilter(4, 5, 3)
    assert names(model, undecayed(model)) == BIASES
    assert undecayed(model, "all") == set()
    nn_model = EmbeddingNN([(4, 3), (5, 1)], layers=[6])
    # a table of width 1 too
    expected = {"item_side.tables.0.weight", "layers.0.2.weight", "layers.0.2.bias", "layers.1.bias"}
    assert names(nn_model, undecayed(nn_model)) == expected
    foreign = nn.Sequential(nn.Embedding(5, 1), nn.Linear(1, 1))
    assert names(foreign, undecayed(foreign)) == {"1.bias"}  # of an unknown model a narrow table may be anything
    with pytest.raises(ValueError, match="'factors' or 'all', got 'none'"):
        undecayed(model, "none")


def test_decay_groups_partition_the_parameters():
    model = CollFilter(4, 5, 3)
    for param in (model.u_bias.weight, model.i_weight.weight):
        param.requires_grad_(False)  # frozen parameters stay in the optimiser, to be unfrozen later
    decayed, spared = decay_groups(model.parameters(), undecayed(model))
    assert [id(p) for p in decayed["params"]] == [id(model.u_weight.weight), id(model.i_weight.weight)]
    assert [id(p) for p in spared["params"]] == [id(model.u_bias.weight), id(model.i_bias.weight)]
    assert (decayed["wd_scale"], spared["wd_scale"]) == (1.0, 0.0)
    assert len(decay_groups(model.parameters(), set())) == 1
    assert len(decay_groups([model.u_bias.weight], undecayed(model))) == 1


def test_hypers_of_one_group_hide_the_spared_part():
    model = dot_model()
    opt = TableAdamW(list(model.parameters()), lr=0.1, wd=0.2, spared=undecayed(model))
    assert len(opt.hypers) == len(opt.param_lists) == 1 and len(opt.opt.param_groups) == 2
    assert {id(p) for p in opt.param_lists[0]} == {id(p) for p in model.parameters()}
    for value in (0.5, np.float64(0.5), np.array([0.5]), [0.5], slice(0.5)):
        opt.set_hyper("wd", 0.0)
        opt.set_hyper("wd", value)
        opt.set_hyper("lr", value)
        assert [g["weight_decay"] for g in opt.opt.param_groups] == [0.5, 0.0]
        assert [g["lr"] for g in opt.opt.param_groups] == [0.5, 0.5]
    opt.set_hypers(mom=0.8, sqr_mom=0.95, eps=1e-7)
    assert all(g["betas"] == (0.8, 0.95) and g["eps"] == 1e-7 for g in opt.opt.param_groups)
    assert opt.hypers == [{"wd": 0.5, "lr": 0.5, "mom": 0.8, "sqr_mom": 0.95, "eps": 1e-7}]


def test_discriminative_rates_by_group_as_fastai():
    model = dot_model()
    opt = TableAdamW(two_groups(model), spared=undecayed(model))
    oracle = Adam(two_groups(dot_model()), lr=1e-3)
    for value in (slice(1e-4, 1e-2), slice(1e-2), [0.1, 0.3], np.array([0.1, 0.3]), 0.2):
        opt.set_hyper("lr", value)
        oracle.set_hyper("lr", value)
        assert [h["lr"] for h in opt.hypers] == pytest.approx([h["lr"] for h in oracle.hypers])
    opt.set_hyper("lr", [0.1, 0.3])
    rates = {id(p): g["lr"] for g in opt.opt.param_groups for p in g["params"]}
    assert rates[id(model.u_bias.weight)] == 0.1 and rates[id(model.i_bias.weight)] == 0.3
    with pytest.raises(AssertionError, match="3 values"):
        opt.set_hyper("lr", [0.1, 0.2, 0.3])


def test_state_goes_through_save_and_load():
    first, second = dot_model(), dot_model()
    a, b = (TableAdamW(list(m.parameters()), spared=undecayed(m), wd=0.1) for m in (first, second))
    steps(first, a, 5)
    second.load_state_dict(first.state_dict())
    b.load_state_dict(deepcopy(a.state_dict()))
    steps(first, a, 5)
    steps(second, b, 5)
    assert same_weights(first, second)


def test_freezing_and_unfreezing_groups():
    learn = make_learner("dot", splitter=two_groups)
    learn.freeze()
    before = weights(learn.model)
    learn.fit(1, 1e-2, reset_opt=True)  # a new optimiser while the first group is frozen
    changed = {name for name, value in weights(learn.model).items() if not torch.equal(value, before[name])}
    assert changed == {"item_side.tables.0.weight", "item_side.tables.1.weight"} | _default_rows(before, learn)
    learn.unfreeze()
    before = weights(learn.model)
    learn.fit(1, 1e-2)
    assert all(not torch.equal(value, before[name]) for name, value in weights(learn.model).items())


def _default_rows(before, learn):
    """The user tables, if nothing but the rows that are fitted at the end of training changed."""
    cold = torch.ones(len(learn.dls.classes["user"]), dtype=torch.bool)
    cold[learn.dls.train.dataset.user_idx] = False
    return {
        name
        for name in ("user_side.tables.0.weight", "user_side.tables.1.weight")
        if torch.equal(before[name][~cold], learn.model.state_dict()[name][~cold])
    }


def test_learner_decays_as_asked():
    for wd_on, expected in (("factors", [0.3, 0.0]), ("all", [0.3])):
        learn = make_learner("dot", wd_on=wd_on)
        learn.fit(1, 1e-3, wd=0.3)
        assert [g["weight_decay"] for g in learn.opt.opt.param_groups] == expected
    with pytest.raises(ValueError, match="wd_on must be"):
        make_learner("dot", wd_on="biases")


def test_fastais_own_optimiser_can_be_used():
    losses = {}
    for name, options in {"adam": {"opt_func": partial(Adam, decouple_wd=True)}, "mine": {"wd_on": "all"}}.items():
        learn = make_learner("dot", **options)
        learn.fit_one_cycle(2, 2e-2, wd=0.1)
        losses[name] = float(learn.recorder.values[-1][1])
    assert losses["adam"] == pytest.approx(losses["mine"], abs=2e-3)


def test_weights_of_features_decay_faster():
    films = pd.DataFrame({"title": ["a", "b", "c", "d"], "genre": ["x", "y", "x", "z"]})
    model = CollFilter(4, 5, 3, features=(None, Features.from_df(films, Vocab(["a", "b", "c", "d"], "title"))))
    weights = [p for p in model.parameters() if id(p) in feature_weights(model)]
    assert [tuple(p.shape) for p in weights] == [(4, 3), (4, 1)] and feature_weights(CollFilter(4, 5, 3)) == set()
    opt = TableAdamW(list(model.parameters()), lr=0.1, wd=0.2, spared=undecayed(model), features=feature_weights(model))
    assert opt.hypers[0]["wd"] == 0.2
    before = [p.detach().clone() for p in (model.i_weight.weight, weights[0])]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    opt.step()
    assert torch.allclose(model.i_weight.weight, before[0] * (1 - 0.1 * 0.2), atol=1e-7)
    assert torch.allclose(weights[0], before[1] * (1 - 0.1 * 0.2 * FEATURE_WD), atol=1e-7)
