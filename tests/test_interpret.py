"""`CollabInterpretation`: biases, components, explanations and worst errors against brute force."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import KINDS, make_dls, make_learner, ratings, trained
from matplotlib.axes import Axes

from collabkit import CollabInterpretation, CollFilter, Interactions, Recommender
from collabkit.data.interactions import Columns


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(params=KINDS)
def interp(request):
    return CollabInterpretation.from_learner(trained(request.param))


@pytest.fixture
def dot():
    return CollabInterpretation.from_learner(trained("dot"))


def with_cold_items():
    """A learner with two items (and a user) that are in the validation part alone; their rows hold no opinion."""
    df = ratings()
    titles, user = df["title"].value_counts().index[:2], df["user"].iloc[0]
    out = df["title"].isin(titles) | (df["user"] == user)
    parts = np.flatnonzero(~out), np.flatnonzero(out)
    learn = make_learner("dot", make_dls(df, splitter=lambda _: parts))
    with torch.no_grad():
        for side in learn.model.sides:
            for table in side.tables:
                table.weight[0] = 99.0
        learn.model.i_bias.weight[torch.from_numpy(learn.dls.classes["title"].encode(titles))] = 99.0
    return CollabInterpretation.from_learner(learn), set(titles)


# --- biases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("side", ["item", "user"])
def test_bias_tables(dot, side, largest):
    name = "title" if side == "item" else "user"
    bias = dot.item_bias if side == "item" else dot.user_bias
    table = bias(7, largest)
    assert list(table.columns) == [name, "bias", "effect", "n_ratings", "mean_rating"]
    learn, train = trained("dot"), trained("dot").dls.train.dataset.to_df()
    trained_ids = train[name].unique()
    every = pd.Series(learn.model.bias(trained_ids, side == "item").numpy(), index=trained_ids)
    expected = every.sort_values(ascending=not largest).head(7)
    assert table["bias"].to_numpy() == pytest.approx(expected.to_numpy())
    assert table["bias"].to_numpy() == pytest.approx(every[table[name]].to_numpy())
    grouped = train.groupby(name)["rating"]
    assert table["n_ratings"].tolist() == grouped.size()[table[name]].tolist()
    assert table["mean_rating"].to_numpy() == pytest.approx(grouped.mean()[table[name]].to_numpy())
    assert len(bias(None)) == len(trained_ids)


def test_effects_are_the_parts_of_why_and_zero_on_average(dot):
    users, items = dot.user_bias(None).set_index("user"), dot.item_bias(None).set_index("title")
    for user, title in zip(users.index[::40], items.index[::30], strict=True):
        parts = dot.why(user, title).set_index("part")["value"]
        assert users.loc[user, "effect"] == pytest.approx(parts["user bias"], abs=1e-5)
        assert items.loc[title, "effect"] == pytest.approx(parts["item bias"], abs=1e-5)
    assert users["effect"].mean() == pytest.approx(0, abs=1e-5) == items["effect"].mean()
    assert items["effect"].corr(items["bias"]) > 0.5 and not np.allclose(items["effect"], items["bias"], atol=0.01)


def test_neighbours_are_the_recommenders(interp):
    user, title = interp.train.users[3], interp.train.items[3]
    pd.testing.assert_frame_equal(interp.similar_items(title, 3), interp.recommender.similar_items(title, 3))
    pd.testing.assert_frame_equal(interp.similar_users(user, 3), interp.recommender.similar_users(user, 3))


def test_biases_are_of_items_with_training_rows_alone():
    interp, cold = with_cold_items()
    every = interp.item_bias(None)
    assert not cold & set(every["title"]) and every["bias"].max() < 9
    assert len(every) == interp.train.item_idx.unique().numel()


def test_plot_bias_shows_both_ends_in_order(dot):
    ax = dot.plot_bias(4)
    assert isinstance(ax, Axes)
    labels = [t.get_text() for t in ax.get_yticklabels()]
    ends = [*dot.item_bias(4)["title"], *dot.item_bias(4, largest=False)["title"][::-1]]
    assert [label.split("…")[0] in title for label, title in zip(labels, ends, strict=True)] == [True] * 8
    values = [bar.get_width() for bar in ax.patches]
    assert values == sorted(values, reverse=True) and values[0] > 0 > values[-1]
    own = plt.subplots()[1]
    assert dot.plot_bias(3, side="user", ax=own) is own and len(own.patches) == 6


def test_plot_bias_shows_no_item_twice():
    rows = [(user, f"film {item}", 1.0 + (user * item) % 5) for user in range(8) for item in range(9)]
    df = pd.DataFrame(rows, columns=["user", "title", "rating"])
    parts = np.flatnonzero(df["title"] < "film 5"), np.flatnonzero(df["title"] >= "film 5")  # 5 of 9 in training
    learn = make_learner("dot", make_dls(df, splitter=lambda _: parts))
    labels = [t.get_text() for t in CollabInterpretation.from_learner(learn).plot_bias(10).get_yticklabels()]
    assert len(labels) == len(set(labels)) == 4


# --- principal components --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["item", "user"])
def test_pca_is_numpys_svd(interp, side):
    learn = trained("dot" if isinstance(interp.model, CollFilter) else "nn")
    name = "title" if side == "item" else "user"
    ids = list(learn.dls.train.dataset.to_df()[name].unique())
    points = interp.pca(4, side=side)
    assert set(points.index) == set(ids) and points.index.name == name
    assert list(points.columns) == ["pc1", "pc2", "pc3", "pc4"]
    factors = learn.model.weight(points.index, side == "item").double().numpy()
    u, s, _ = np.linalg.svd(factors - factors.mean(0), full_matrices=False)
    expected = (u * s)[:, :4]
    expected *= np.sign((expected * points.to_numpy()).sum(0))
    assert points.to_numpy() == pytest.approx(expected, abs=1e-6)
    assert points.attrs["explained_variance"] == pytest.approx(s[:4] ** 2 / (s**2).sum())
    largest = points.to_numpy()[np.abs(points.to_numpy()).argmax(0), range(4)]
    assert (largest > 0).all()


def test_explained_variance_adds_up_and_falls(interp):
    d = interp.model.item_side.widths[0]
    share = interp.pca(d).attrs["explained_variance"]
    assert sum(share) == pytest.approx(1.0) and share == sorted(share, reverse=True)
    assert interp.pca(d).var().to_numpy() / interp.pca(d).var().sum() == pytest.approx(np.array(share))


def test_pca_of_chosen_items_is_fitted_on_them(interp):
    titles = [interp.train.items[j] for j in (9, 3, 70, 4, 20)]
    points = interp.pca(2, titles)
    assert list(points.index) == titles
    assert points.mean().to_numpy() == pytest.approx([0, 0], abs=1e-6)
    factors = interp.model.weight(titles).double().numpy()
    assert points["pc1"].var(ddof=0) * 5 == pytest.approx(np.linalg.svd(factors - factors.mean(0))[1][0] ** 2)


def test_pca_checks_its_arguments(interp):
    d = interp.model.item_side.widths[0]
    for n in (0, -1, d + 1):
        with pytest.raises(ValueError, match=rf"n_components must lie in 1\.\.{d} for .* ids of {d} factors, got {n}"):
            interp.pca(n)
    with pytest.raises(ValueError, match=r"1\.\.2 for 2 ids"):
        interp.pca(3, [interp.train.items[1], interp.train.items[2]])
    with pytest.raises(KeyError, match="no such film"):
        interp.pca(2, ["no such film"])


def test_components_are_of_items_with_training_rows_alone():
    interp, cold = with_cold_items()
    assert not cold & set(interp.pca(2).index)
    assert np.abs(interp.pca(2).to_numpy()).max() < 9


# --- the map ---------------------------------------------------------------------------------------------------------


def map_labels(ax):
    """Titles of the map's labels, which may be cut in the middle; arrows of moved labels are texts without letters."""
    titles, found = ratings()["title"].unique(), []
    for label in filter(None, (t.get_text() for t in ax.texts)):
        head, cut, tail = label.partition("…")
        matching = [t for t in titles if t == label or (cut and t.startswith(head) and t.endswith(tail))]
        assert len(matching) == 1, label
        found += matching
    return found


def offsets(ax):
    return np.asarray(ax.collections[0].get_offsets())


def test_plot_pca_draws_the_most_rated_items(interp):
    ax = interp.plot_pca(n=12)
    assert isinstance(ax, Axes)
    counts = interp.train.to_df()["title"].value_counts()
    labels = map_labels(ax)
    assert len(labels) == len(set(labels)) == 12
    assert counts[labels].min() >= counts.iloc[11]
    points = interp.pca(2)
    drawn = np.sort(offsets(ax)[:, 0])
    assert drawn == pytest.approx(np.sort(points.loc[labels, "pc1"].to_numpy()), abs=1e-6)
    share = points.attrs["explained_variance"]
    assert ax.get_xlabel() == f"component 1 ({share[0]:.0%} of variance)"
    assert ax.get_ylabel() == f"component 2 ({share[1]:.0%} of variance)"


def test_plot_pca_of_other_components_items_and_axes(interp):
    own = plt.subplots()[1]
    titles = [interp.train.items[j] for j in (9, 3, 70, 4, 20)]
    assert interp.plot_pca(dims=(3, 1), items=titles, ax=own) is own
    assert map_labels(own) == titles and own.get_xlabel().startswith("component 3")
    points = interp.pca(3).loc[titles, ["pc3", "pc1"]].to_numpy()
    assert offsets(own) == pytest.approx(points, abs=1e-6)


def test_plot_pca_fits_on_the_most_rated(dot):
    popular = dot.train.to_df()["title"].value_counts()
    few = popular[popular > popular.iloc[30]].index  # no ties at the end
    ax = dot.plot_pca(n=5, n_fit=len(few))
    expected = dot.pca(2, few).loc[map_labels(ax)].to_numpy()
    assert offsets(ax) == pytest.approx(expected, abs=1e-6)


def test_plot_pca_takes_more_items_than_there_are(dot, monkeypatch):
    monkeypatch.setattr("collabkit.interpret.plots.MOST_LABELS", 10_000)
    monkeypatch.setattr("collabkit.interpret.plots.adjust_text", lambda *args, **kwargs: None)  # 150 take it a minute
    assert sorted(map_labels(dot.plot_pca(n=10_000))) == sorted(dot.pca(1).index)


def test_plot_pca_draws_no_item_without_training_rows(monkeypatch):
    monkeypatch.setattr("collabkit.interpret.plots.MOST_LABELS", 10_000)
    monkeypatch.setattr("collabkit.interpret.plots.adjust_text", lambda *args, **kwargs: None)
    interp, cold = with_cold_items()
    labels = map_labels(interp.plot_pca(n=10_000))
    assert len(labels) == interp.train.item_idx.unique().numel() and not cold & set(labels)
    assert np.abs(offsets(plt.gca())).max() < 9


@pytest.mark.parametrize("dims", [(0, 1), (1,), (1, 2, 3), (-1, 2)])
def test_plot_pca_checks_the_components(dot, dims):
    with pytest.raises(ValueError, match="dims must be two components counted from 1"):
        dot.plot_pca(dims=dims)


def test_factor_examples_are_the_ends_of_a_component(interp):
    for component in (1, 3):
        table = interp.factor_examples(component, 4)
        assert list(table.columns) == ["end", "title", "value", "n_ratings"]
        assert table["end"].tolist() == ["high"] * 4 + ["low"] * 4
        values = interp.pca(component)[f"pc{component}"].sort_values()
        assert table["title"].tolist() == [*values.index[::-1][:4], *values.index[:4]]
        assert table["value"].to_numpy() == pytest.approx(values[table["title"]].to_numpy(), abs=1e-6)
        counts = interp.train.to_df()["title"].value_counts()
        assert table["n_ratings"].tolist() == counts[table["title"]].tolist()
    assert interp.factor_examples(1, 10_000)["title"].is_unique


# --- why -------------------------------------------------------------------------------------------------------------


def test_why_by_hand():
    df = pd.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"], "rating": [5.0, 3.0, 4.0]})
    data = Interactions.from_df(df, Columns("user", "item", "rating"))
    model = CollFilter(3, 3, 1, (0, 6))
    with torch.no_grad():
        model.u_weight.weight[:, 0] = torch.tensor([9.0, 1.0, 3.0])  # mean of a and b: 2
        model.i_weight.weight[:, 0] = torch.tensor([9.0, 4.0, 2.0])  # mean of x and y: 3
        model.u_bias.weight[:, 0] = torch.tensor([9.0, 0.5, -0.1])  # mean 0.2
        model.i_bias.weight[:, 0] = torch.tensor([9.0, -6.0, -8.0])  # mean -7
    table = CollabInterpretation(Recommender(model, data)).why("a", "x")
    assert list(table.columns) == ["part", "value", "rating"]
    assert table["part"].tolist() == ["global", "user bias", "item bias", "factors", "score"]
    # global .2 - 7 + 2 * 3; user .3 - 1 * 3; item 1 + 1 * 2; factors -1 * 1; score 4 + .5 - 6
    values = np.array([-0.8, -2.7, 3.0, -1.0, -1.5])
    assert table["value"].to_numpy() == pytest.approx(values, abs=1e-5)
    so_far = np.array([-0.8, -3.5, -0.5, -1.5, -1.5])
    assert table["rating"].to_numpy() == pytest.approx(6 / (1 + np.exp(-so_far)), abs=1e-5)


def test_why_adds_up_to_the_prediction(dot):
    users, items = dot.train.users, dot.train.items
    for u, i in ((1, 1), (5, 90), (77, 3), (150, 149)):
        table = dot.why(users[u], items[i]).set_index("part")
        assert table.loc["score", "value"] == pytest.approx(table["value"].iloc[:4].sum(), abs=1e-5)
        prediction = dot.recommender.predict(users[u], items[i])
        assert table.loc[["factors", "score"], "rating"].to_numpy() == pytest.approx(np.full(2, prediction), abs=1e-5)


def test_the_parts_average_out_over_users_and_items(dot):
    df = dot.train.to_df()
    users, items = df["user"].unique(), df["title"].unique()
    by_user = pd.DataFrame([dot.why(u, items[0]).set_index("part")["value"] for u in users])
    assert by_user["user bias"].mean() == pytest.approx(0, abs=1e-4) and by_user["user bias"].std() > 0.1
    assert by_user["factors"].mean() == pytest.approx(0, abs=1e-4) and by_user["factors"].std() > 0.05
    assert by_user["global"].std() == pytest.approx(0, abs=1e-6)
    by_item = pd.DataFrame([dot.why(users[0], i).set_index("part")["value"] for i in items])
    assert by_item["item bias"].mean() == pytest.approx(0, abs=1e-4)
    assert by_item["global"].iloc[0] == pytest.approx(by_user["global"].iloc[0])


def test_why_of_unknown_ids(dot):
    with pytest.raises(KeyError, match="no such film"):
        dot.why(dot.train.users[1], "no such film")
    with pytest.raises(KeyError, match="987654"):
        dot.why(987654, dot.train.items[1])


# --- worst errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["valid", "train"])
@pytest.mark.parametrize("largest", [True, False])
def test_top_losses_are_those_of_brute_force(interp, on, largest):
    table = interp.top_losses(6, largest, on=on)
    assert list(table.columns) == ["user", "title", "rating", "prediction", "loss"]
    data = getattr(interp, on).to_df()
    prediction = interp.recommender.predict(data["user"], data["title"])
    loss = np.sort((prediction - data["rating"].to_numpy()) ** 2)
    assert table["loss"].to_numpy() == pytest.approx(loss[::-1][:6] if largest else loss[:6], abs=1e-4)
    assert table["prediction"].to_numpy() == pytest.approx(
        interp.recommender.predict(table["user"], table["title"]), abs=1e-5
    )
    assert table["loss"].to_numpy() == pytest.approx((table["prediction"] - table["rating"]) ** 2, abs=1e-5)
    found = table.merge(data, on=["user", "title", "rating"])
    assert len(found) == 6
    assert len(interp.top_losses(10**6, on=on)) == len(data)


def test_top_losses_leave_the_mode_alone_and_check_the_part(interp):
    was = interp.model.training
    interp.top_losses(2)
    assert interp.model.training is was
    for on in ("test", None):
        with pytest.raises(ValueError, match=r"on must be one of \['valid', 'train'\]"):
            interp.top_losses(on=on)
    alone = CollabInterpretation(Recommender(interp.model, interp.train))
    with pytest.raises(ValueError, match=r"on must be one of \['train'\], got 'valid'"):
        alone.top_losses()


# --- the network, and artefacts --------------------------------------------------------------------------------------


def test_what_needs_biases_says_so_for_a_network():
    interp = CollabInterpretation.from_learner(trained("nn"))
    user, title = interp.train.users[1], interp.train.items[1]
    calls = {
        "item_bias": interp.item_bias,
        "user_bias": interp.user_bias,
        "item_bias ": interp.plot_bias,
        "why": lambda: interp.why(user, title),
    }
    for name, call in calls.items():
        with pytest.raises(
            TypeError, match=f"^{name.strip()} needs a dot-product model with biases.*EmbeddingNN; pca, plot"
        ):
            call()


def test_from_an_artefact(dot, tmp_path):
    again = CollabInterpretation(Recommender.load(dot.recommender.save(tmp_path / "model")))
    pd.testing.assert_frame_equal(again.item_bias(5), dot.item_bias(5))
    pd.testing.assert_frame_equal(again.pca(2), dot.pca(2))
    user, title = dot.train.users[3], dot.train.items[3]
    pd.testing.assert_frame_equal(again.why(user, title), dot.why(user, title))
    pd.testing.assert_frame_equal(again.top_losses(3), dot.top_losses(3))
