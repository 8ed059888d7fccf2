"""What features contribute: parts that add up, effects by hand, and shuffled features."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Y_RANGE, make_dls, silence, synthetic

from collabkit import Bag, CollabInterpretation, collab_learner
from collabkit.data.notices import CollabWarning


@pytest.fixture(scope="module")
def learn():
    films = synthetic().items[["title", "genres"]].assign(noise=np.random.default_rng(0).normal(size=150))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        dls = make_dls(items=films)
    learn = silence(collab_learner(dls, n_factors=6, y_range=Y_RANGE))
    learn.fit_one_cycle(8, 1e-2, wd=0.2)
    return learn


def test_parts_add_up_to_the_difference_from_an_average_item(learn):
    interp, model = CollabInterpretation.from_learner(learn), learn.model
    item = learn.recommender.items[5]
    table = interp.feature_parts(3, item).set_index("part")["value"]
    u, warm = learn.recommender.users.encode([3]), learn.dls.train.dataset.item_idx.unique()
    with torch.no_grad():
        scores = model.eval().score(torch.from_numpy(u), torch.arange(model.n_items))
    assert table["sum"] == pytest.approx(float(scores[5] - scores[warm].mean()), abs=1e-5)
    assert table["sum"] == pytest.approx(table.drop("sum").sum())
    assert list(table.index) == ["genres", "noise", "the item itself", "sum"]


@pytest.mark.parametrize(
    "bag", [Bag("idf"), Bag("attention"), Bag("idf", buckets=64)], ids=["idf", "attention", "hashed"]
)
def test_parts_of_a_bag_add_up_too(bag):
    films = synthetic().items[["title", "genres", "year"]].assign(genres=lambda t: t["genres"].str.split("|"))
    dls = make_dls(items=films, item_features={"genres": bag, "year": "binned"})
    learn = silence(collab_learner(dls, n_factors=6, y_range=Y_RANGE))
    learn.fit_one_cycle(2, 1e-2, wd=0.2)
    model, warm = learn.model.eval(), dls.train.dataset.item_idx.unique()
    user = torch.from_numpy(learn.recommender.users.encode([3]))
    with torch.no_grad():
        scores = model.score(user, torch.arange(model.n_items))
    interp = CollabInterpretation.from_learner(learn)
    for row in (2, 5):
        table = interp.feature_parts(3, learn.recommender.items[row]).set_index("part")["value"]
        assert list(table.index) == ["genres", "year", "the item itself", "sum"] and table["genres"] != 0
        assert table["sum"] == pytest.approx(float(scores[row] - scores[warm].mean()), abs=1e-5)
        assert table["sum"] == pytest.approx(table.drop("sum").sum(), abs=1e-6)


def test_effects_by_hand(learn):
    table = CollabInterpretation.from_learner(learn).feature_effects()
    field = learn.model.item_side.features.fields[0]
    vector, bias = (w.detach() for w in field.weights)
    users = learn.model.factors("user")[learn.dls.train.dataset.user_idx.unique()].mean(0)
    raw = vector @ users + bias[:, 0]
    genres = table[table["feature"] == "genres"].set_index("value")
    a, b = field.field.categories[:2]
    assert genres.loc[a, "effect"] - genres.loc[b, "effect"] == pytest.approx(float(raw[1] - raw[2]), abs=1e-6)
    assert np.average(genres["effect"], weights=genres["n"]) == pytest.approx(0, abs=1e-6)
    counted = synthetic().items.set_index("title").loc[list(learn.dls.train.dataset.items.ids), "genres"]
    assert genres.loc[a, "n"] == counted.str.split("|").map(lambda g: a in g).sum()
    assert table["effect"].is_monotonic_decreasing


def test_the_plot_shows_both_ends(learn):
    interp = CollabInterpretation.from_learner(learn)
    ax, table = interp.plot_feature_effects(2), interp.feature_effects()
    assert [bar.get_width() for bar in ax.patches] == pytest.approx(table["effect"].iloc[[0, 1, -2, -1]].tolist())
    assert ax.get_yticklabels()[0].get_text() == f"{table['feature'][0]}: {table['value'][0]}"


def test_a_planted_feature_matters_and_noise_does_not(learn):
    weights = {k: v.clone() for k, v in learn.model.state_dict().items()}
    table = CollabInterpretation.from_learner(learn).feature_importance(n_repeats=3).set_index("feature")
    assert table.loc["genres", "loss_when_shuffled"] > 5 * abs(table.loc["noise", "loss_when_shuffled"])
    assert table.loc["genres", "loss_when_shuffled"] > 0.002
    again = CollabInterpretation.from_learner(learn).feature_importance(n_repeats=3).set_index("feature")
    pd.testing.assert_frame_equal(table, again)  # shuffles are by seed, and are undone
    assert all(torch.equal(v, weights[k]) for k, v in learn.model.state_dict().items())


def test_models_without_such_parts():
    plain = CollabInterpretation.from_learner(silence(collab_learner(make_dls(), n_factors=2, y_range=Y_RANGE)))
    for call in (plain.feature_effects, plain.feature_importance, lambda: plain.feature_parts(1, plain.train.items[1])):
        with pytest.raises(TypeError, match="has no (item|side) features"):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        dls = make_dls(items=synthetic().items[["title", "genres"]])
    network = CollabInterpretation.from_learner(silence(collab_learner(dls, use_nn=True, y_range=Y_RANGE)))
    with pytest.raises(TypeError, match="CollFilter, this model is EmbeddingNN; feature_importance works"):
        network.feature_effects()
    assert len(network.feature_importance(n_repeats=1)) == 1
