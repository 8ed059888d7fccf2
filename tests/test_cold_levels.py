"""Items that nobody has met among those that are known: the level of their scores, and what it costs the others."""

import numpy as np
import pandas as pd
import pytest
import torch

from collabkit import CollabDataLoaders, CollFilter, HybridKNN, TwoTower, collab_learner, splits
from collabkit.coldstart.cold_levels import level_cold_items
from collabkit.coldstart.cold_rows import fit_cold_head
from collabkit.models.cold_weight import learned_cold_weight

N_ITEMS, N_GROUPS = 120, 4


def dataloaders(n_users=150, **more):
    """Users who mostly stay within a group of items, some of which are met far more often than others."""
    rng = np.random.default_rng(0)
    share = 1 / (1 + np.arange(N_ITEMS // N_GROUPS))
    rows = []
    for user in range(n_users):
        own = rng.choice(N_ITEMS // N_GROUPS, 8, replace=False, p=share / share.sum())
        rows += [(user, N_GROUPS * j + user % N_GROUPS) for j in own]
        rows += [(user, j) for j in rng.choice(N_ITEMS, 2)]
    events = pd.DataFrame(rows, columns=["user", "item"]).drop_duplicates()
    tags = [f"group {j % N_GROUPS}|any {rng.integers(5)}" for j in range(N_ITEMS)]
    films = pd.DataFrame({"item": range(N_ITEMS), "tags": tags})
    options = {"items": films, "item_features": {"tags": "multi"}, "splitter": splits.cold_items(0.15, seed=1), **more}
    return CollabDataLoaders.from_df(events, user_name="user", item_name="item", feedback="implicit", seed=0, **options)


def test_a_weight_is_that_of_items_without_training_rows_alone():
    dls = dataloaders()
    plain, twice = (HybridKNN(cold_weight=weight).fit(dls) for weight in (1.0, 2.0))
    new = plain.counts == 0
    new[0] = False  # who is unknown
    cold = new[plain.neighbours.rows]
    assert torch.equal(twice.near, plain.near) and 0 < int(cold.sum()) < len(cold)
    assert torch.equal(twice.nearness, torch.where(cold, 2 * plain.nearness, plain.nearness))
    assert HybridKNN(cold_weight=2.0).config()["cold_weight"] == 2.0
    for odd in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="cold_weight"):
            HybridKNN(cold_weight=odd)


def test_the_weight_that_is_learned_shows_new_items_more_often_and_hardly_costs_the_others():
    dls = dataloaders(600)
    seen = []

    def fit(part):
        seen.append(part)
        return HybridKNN(cold_weight=1.0).fit(part)

    weight = learned_cold_weight(fit, dls.data)
    (part,) = seen
    held_out = (dls.data.train.counts("item") > 0) & (part.train.counts("item") == 0)
    assert 1 < weight < 16 and 5 < int(held_out.sum()) < 25
    assert len(part.train) < 0.9 * len(dls.data.train)  # a tenth of the others' events too
    assert learned_cold_weight(fit, dls.data) == weight
    plain, learned = HybridKNN(cold_weight=1.0).fit(dls), HybridKNN().fit(dls)
    assert torch.allclose(learned.nearness.max(), HybridKNN(cold_weight=weight).fit(dls).nearness.max())
    figures = [model.evaluate(k=10, metrics="Recall", n_boot=1)["value"].item() for model in (plain, learned)]
    assert figures[1] >= figures[0]
    warm = dataloaders(600, splitter=splits.random_split(0.1, seed=0))  # all items are met: nothing is learned
    assert torch.equal(HybridKNN().fit(warm).nearness, HybridKNN(cold_weight=1.0).fit(warm).nearness)


def test_too_few_events_leave_the_weight_at_one():
    dls = dataloaders(10)
    assert learned_cold_weight(lambda part: pytest.fail("nothing to fit"), dls.data) == 1.0


def planted(make, dls, scale=0.7):
    """A model of random rows, of which features foretell the mean; without biases a mean user gives items a level."""
    torch.manual_seed(0)
    model = make(dls.data).name_rows(dls.data.users, dls.data.items)
    for side in model.sides:
        side.write(torch.arange(side.n), [scale * torch.randn(side.n, width) + 0.7 for width in side.widths])
    fit_cold_head(model, dls.data.train, model.item_side)
    return model.eval()


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_foretold_items_get_the_share_that_known_ones_have(bias):
    dls = dataloaders()
    make = CollFilter.for_data if bias else TwoTower.for_data
    model = planted(lambda data: make(data, n_factors=6), dls)
    features, before = model.item_side.features, model.item_side.features.cold.clone()
    items = ((dls.data.train.counts("item") > 0) & model.item_side.given).nonzero().squeeze(1)
    level_cold_items(model, dls.data)
    row = features.cold[-1] - before[-1]
    assert torch.equal(features.cold[:-1], before[:-1])
    users = torch.arange(1, dls.data.n_users)
    moved = tuple(part[None] for part in row.split(model.item_side.widths))
    nothing = tuple(torch.zeros_like(part) for part in moved)
    asked = tuple(part[:, None] for part in model.user_rows(users))
    shift = model.interact(asked, moved) - model.interact(asked, nothing)
    scores = model.user_vectors(users) @ model.item_vectors(items).T
    gain = scores.logsumexp(1) - scores.mean(1) - np.log(len(items))  # of a head that knows the mean alone
    assert 0.5 * gain.mean() < shift.mean() < 1.5 * gain.mean()
    assert not bias or row[-1] > 0


def test_scores_that_are_no_linear_function_of_rows_stay():
    dls = dataloaders()
    model = planted(lambda data: TwoTower.for_data(data, n_factors=6, layers=[8, 4]), dls)
    before = model.item_side.features.cold.clone()
    level_cold_items(model, dls.data)
    assert torch.equal(model.item_side.features.cold, before)


def test_after_a_fit_new_items_have_the_level_and_so_have_items_that_come_later(monkeypatch):
    raised = []
    for level in (lambda model, data: None, level_cold_items):
        monkeypatch.setattr("collabkit.coldstart.default_rows.level_cold_items", level)
        learn = collab_learner(dataloaders(), 8, loss_func="softmax", seed=0)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(3, 3e-2)
        learn.add_items(pd.DataFrame({"item": [1000], "tags": ["group 1"]}))
        cold = ((learn.dls.data.train.counts("item") == 0) & learn.model.item_side.given).nonzero().squeeze(1)
        raised.append(torch.cat(learn.model.item_side.read(cold), dim=1))
    shift = raised[1] - raised[0]
    assert torch.allclose(shift, shift[:1].expand_as(shift), atol=1e-5) and float(shift.abs().max()) > 1e-3
