"""The plots: what is drawn where, and labels that can be read."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import trained
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from collabkit import CollabInterpretation, CollabWarning
from collabkit.interpret.plots import plot_bars, plot_losses, plot_map


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def cloud(n, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    points = pd.DataFrame(rng.normal(size=(n, 2)) * spread, columns=["pc1", "pc2"])
    words = ["Alien", "Brazil", "Casablanca", "Dune", "Eraserhead", "Fargo", "Gilda", "Heat", "Ikiru", "Jaws"]
    points["title"] = [f"{words[j % 10]} and the {words[(j * 7 + 3) % 10]} ({1950 + j})" for j in range(n)]
    return points


def labels(ax):
    return [t for t in ax.texts if t.get_text()]


def overlaps(ax, margin=0.5):
    """Pairs of labels whose boxes, as rendered, overlap by more than `margin` pixels in both directions."""
    ax.figure.canvas.draw()
    renderer = ax.figure.canvas.get_renderer()
    # the text itself: an annotation's window extent takes in its arrow
    boxes = [matplotlib.text.Text.get_window_extent(t, renderer) for t in labels(ax)]
    pairs = []
    for a, one in enumerate(boxes):
        for b, other in enumerate(boxes[:a]):
            width = min(one.x1, other.x1) - max(one.x0, other.x0)
            height = min(one.y1, other.y1) - max(one.y0, other.y0)
            if min(width, height) > margin:
                pairs.append((labels(ax)[a].get_text(), labels(ax)[b].get_text()))
    return pairs


# --- the map ---------------------------------------------------------------------------------------------------------


def test_map_draws_points_and_labels():
    points = cloud(8)
    ax = plot_map(points, "pc1", "pc2", "title")
    assert isinstance(ax, Axes)
    assert np.asarray(ax.collections[0].get_offsets()) == pytest.approx(points[["pc1", "pc2"]].to_numpy())
    assert [t.get_text() for t in labels(ax)] == points["title"].tolist()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("pc1", "pc2")
    own = plt.subplots()[1]
    assert plot_map(points, "pc2", "pc1", "title", ax=own) is own and own.get_xlabel() == "pc2"


def test_long_labels_are_cut():
    points = cloud(2).assign(title=["x" * 50, "y" * 32])
    assert [t.get_text() for t in labels(plot_map(points, "pc1", "pc2", "title"))] == ["x" * 31 + "…", "y" * 32]
    short = plot_map(points, "pc1", "pc2", "title", max_chars=5)
    assert [t.get_text() for t in labels(short)] == ["xxxx…", "yyyy…"]


@pytest.mark.parametrize(
    ("text", "max_chars", "shown"),
    [
        ("Dr. Strangelove or: How I Learned to Stop Worrying (1963)", 32, "Dr. Strangelove or: How… (1963)"),
        ("Alien (1979)", 12, "Alien (1979)"),
        ("Aliens (1986)", 12, "Alie… (1986)"),
        ("Aliens (1986)", 5, "Alie…"),
        ("Aliens (a long remark)", 12, "Aliens (a l…"),
        (1234567, 4, "123…"),
    ],
)
def test_a_year_stays_at_the_end_of_a_cut_label(text, max_chars, shown):
    points = pd.DataFrame({"x": [0.0], "y": [0.0], "id": [text]})
    (label,) = labels(plot_map(points, "x", "y", "id", max_chars=max_chars))
    assert label.get_text() == shown and len(shown) <= max_chars


@pytest.mark.parametrize(("n", "seed"), [(30, 0), (50, 2)])
def test_labels_of_a_crowded_map_do_not_overlap(n, seed):
    points = cloud(n, seed)
    raw = plt.subplots(figsize=(12, 9))[1]
    for x, y, title in points.itertuples(index=False):
        raw.text(x, y, title, fontsize=8)
    raw.set(xlim=(-3, 3), ylim=(-3, 3))
    assert len(overlaps(raw)) > 5  # it is crowded: without moving them the labels do collide
    ax = plot_map(points, "pc1", "pc2", "title")
    assert overlaps(ax) == []
    box = ax.get_window_extent()
    for t in labels(ax):
        x, y = t.get_window_extent().get_points().mean(0)
        assert box.x0 <= x <= box.x1 and box.y0 <= y <= box.y1


def test_a_large_map_has_as_many_labels_as_can_be_read():
    with pytest.warns(CollabWarning, match="3,000 points are drawn, the first 50 with labels"):
        ax = plot_map(cloud(3000), "pc1", "pc2", "title")
    assert len(labels(ax)) == 50 and len(ax.collections[0].get_offsets()) == 3000


def test_labels_of_the_map_of_a_trained_model_do_not_overlap():
    assert overlaps(CollabInterpretation.from_learner(trained("dot")).plot_pca(n=50)) == []


def test_the_same_points_give_the_same_picture():
    places = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002
        ax = plot_map(cloud(25), "pc1", "pc2", "title")
        places.append([t.get_position() for t in labels(ax)])
    assert np.array(places[0]) == pytest.approx(np.array(places[1]))


def test_one_point_and_numbers_as_labels():
    ax = plot_map(pd.DataFrame({"x": [1.0], "y": [2.0], "id": [7]}), "x", "y", "id")
    assert [t.get_text() for t in labels(ax)] == ["7"]


# --- bars and losses -------------------------------------------------------------------------------------------------


def test_bars_stand_in_the_order_of_the_table_from_the_top():
    table = pd.DataFrame({"bias": [0.5, -0.25, 0.0], "title": ["a", "b", "c" * 60]})
    ax = plot_bars(table, "bias", "title")
    assert [bar.get_width() for bar in ax.patches] == [0.5, -0.25, 0.0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c" * 39 + "…"]
    low, high = ax.get_ylim()
    assert low > high  # the first row is at the top
    centres = [bar.get_y() + bar.get_height() / 2 for bar in ax.patches]
    assert centres == pytest.approx(list(ax.get_yticks())) == [0, 1, 2]
    colours = [bar.get_facecolor() for bar in ax.patches]
    assert colours[0] == colours[2] == to_rgba("#4c72b0") and colours[1] == to_rgba("#c44e52")
    assert ax.get_xlabel() == "bias"
    own = plt.subplots()[1]
    assert plot_bars(table, "bias", "title", ax=own, max_chars=3) is own
    assert own.get_yticklabels()[2].get_text() == "cc…"


def test_losses_by_epoch():
    history = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [3.0, 2.0, 1.0], "valid_loss": [4.0, 3.5, 3.4]})
    ax = plot_losses(history)
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert lines == {"train loss": [[1, 3], [2, 2], [3, 1]], "valid loss": [[1, 4], [2, 3.5], [3, 3.4]]}
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["train loss", "valid loss"]
    assert all(float(tick).is_integer() for tick in ax.get_xticks())
    own = plt.subplots()[1]
    assert plot_losses(history, ax=own) is own
