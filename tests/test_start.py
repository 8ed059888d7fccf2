"""What somebody gets who names nothing, by gradient: training begins at least squares, and keeps what it found."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from contract import planted
from helpers import silence

from collabkit import (
    NCF,
    CollabDataLoaders,
    CollabWarning,
    CollFilter,
    Implicit,
    ItemKNN,
    Popularity,
    TwoTower,
    collab_learner,
    load_learner,
)
from collabkit.losses import LOSSES

NAMES = {"user_name": "user", "item_name": "item", "seed": 0}
ITEMS = pd.DataFrame({"item": [f"i{j:02d}" for j in range(60)], "kind": list("abcd") * 15})


def loaders(table=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        table = planted() if table is None else table
        return CollabDataLoaders.from_df(table, **{"feedback": "implicit", **NAMES, **options})


def ndcg(model) -> float:
    return model.evaluate(metrics=["NDCG"], n_boot=1)["value"].iloc[0]


def fitted(learn, n_epoch=1, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        silence(learn).fit_one_cycle(n_epoch, *args, **options)
    return learn


def starts_solved(learn) -> bool:
    return hasattr(learn, "start_solved")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_five_epochs_beat_popularity_and_neighbours(seed):
    dls = loaders(planted(seed=seed), seed=seed)
    baselines = [ndcg(model.fit(dls)) for model in (Popularity(), ItemKNN())]
    at_random = ndcg(fitted(collab_learner(dls, start="random"), 5))
    found = ndcg(fitted(collab_learner(dls), 5))
    assert found > 0.98 * max(baselines) and found > 1.5 * baselines[0] and found > 1.5 * at_random


def test_it_is_said_and_can_be_named_otherwise():
    dls = loaders()
    learn = silence(collab_learner(dls, n_factors=8))
    with pytest.warns(CollabWarning, match=r"begins at 12 sweeps of least squares \(reg=.*start='random'"):
        learn.fit(1)
    before = [p.clone() for p in learn.model.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollabWarning)
        learn.fit(1, 0.0)  # goes on from where it stands
        silence(collab_learner(dls, start="random")).fit(1)
    assert all(torch.equal(a, b) for a, b in zip(before, learn.model.parameters(), strict=True))


WHERE = {
    "nothing": ({}, {}, True),
    "size and rate": ({}, {"n_factors": 7, "lr": 1e-2}, True),
    "the class": ({}, {"model": CollFilter}, True),
    "sparse": ({}, {"sparse": True, "wd": 0.0}, True),
    "shared negatives": ({"negatives": "shared", "n_neg": 20}, {}, True),
    "by user": ({"negatives": "shared", "n_neg": 20, "by_user": True}, {}, True),
    "counts": ({"feedback": Implicit(counts="rating")}, {}, True),
    "dislikes": ({"rating_name": "rating", "feedback": Implicit(threshold=3, dislikes="negatives")}, {}, True),
    "weights": ({"weights": "inverse_item"}, {}, True),
    "named": ({}, {"start": "als", "loss_func": "bpr", "init_std": 0.1}, True),
    "a loss": ({}, {"loss_func": "bce"}, False),
    "spread": ({}, {"init_std": 0.1}, False),
    "random": ({}, {"start": "random"}, False),
    "another model": ({}, {"model": TwoTower}, False),
    "a network": ({}, {"use_nn": True}, False),
    "features": ({"items": ITEMS}, {}, False),
    "order": ({"history": 5, "time_name": "time"}, {"model": CollFilter}, False),
    "ratings": ({"rating_name": "rating", "feedback": "explicit"}, {}, False),
}


@pytest.mark.parametrize("what", WHERE)
def test_where_training_begins(what):
    data, options, solved = WHERE[what]
    learn = silence(collab_learner(loaders(**data), **options))
    assert starts_solved(learn) is solved
    random = [p.detach().clone() for p in learn.model.parameters()]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        learn.fit(1, 0.0)
    assert solved is any("least squares" in str(w.message) for w in said)
    changed = not torch.equal(random[0][5:], next(learn.model.parameters())[5:])
    assert changed is solved and all(bool(p.isfinite().all()) for p in learn.model.parameters())


def test_an_instance_of_the_callers_stays_as_it_is():
    dls = loaders()
    model = CollFilter(dls.data.n_users, dls.data.n_items, n_factors=4)
    assert not starts_solved(collab_learner(dls, model=model))


def test_fit_als_does_not_begin_there():
    models = []
    for options in ({}, {"start": "random"}):
        learn = silence(collab_learner(loaders(), n_factors=8, **options))
        learn.fit_als(2, reg=0.02, unobserved_weight=0.2)
        models.append(learn.model.u_weight.weight.detach().numpy())
    np.testing.assert_array_equal(*models)


@pytest.mark.filterwarnings("ignore::collabkit.CollabWarning")
def test_the_rate_finder_leaves_the_start_to_the_fit():
    with_finder, without = (silence(collab_learner(loaders(), n_factors=8)) for _ in range(2))
    with_finder.lr_find(show_plot=False, num_it=20)
    for learn in (with_finder, without):
        learn.fit(1, 1e-3)
    assert torch.equal(with_finder.model.u_weight.weight, without.model.u_weight.weight)


@pytest.mark.filterwarnings("ignore::collabkit.CollabWarning")
def test_a_refit_begins_there_and_a_loaded_one_goes_on(tmp_path):
    learn = fitted(collab_learner(loaders(), n_factors=8, path=tmp_path))
    again = learn.refit_all()
    assert starts_solved(again) and again.loss_func.func is LOSSES["sampled_softmax"]
    loaded = load_learner(learn.export("it"))
    assert loaded.loss_func.func is LOSSES["sampled_softmax"] and not starts_solved(loaded)


def test_odd_starts_are_refused():
    for options, match in (
        ({"start": "svd"}, "start must be None, 'als' or 'random', got 'svd'"),
        ({"start": "als", "model": NCF}, "start='als' is for CollFilter .* got NCF"),
    ):
        with pytest.raises(ValueError, match=match):
            collab_learner(loaders(), **options)
    with pytest.raises(ValueError, match="start='als' is for CollFilter"):
        collab_learner(loaders(items=ITEMS), start="als")
