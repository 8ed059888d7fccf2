"""Which items a new user is asked about: information by hand, the table, and the widget on top."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Y_RANGE, make_dls, ratings, silence, trained

from collabkit import CollabDataLoaders, QuestionnaireWidget, collab_learner
from collabkit.coldstart.questionnaire import next_questions


def posterior(slope, chosen, noise):
    """The covariance of a standard normal after answers about `chosen`."""
    s = slope[chosen].double()
    return torch.linalg.inv(torch.eye(slope.shape[1]).double() + s.T @ s / noise)


def test_information_is_that_of_the_posterior():
    slope = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    chosen, worth, spread = next_questions(slope, torch.ones(12), 5, noise=0.7)
    assert len(set(chosen.tolist())) == 5
    for j, item in enumerate(chosen.tolist()):
        before = posterior(slope, chosen[:j], 0.7)
        variances = torch.einsum("md,de,me->m", slope.double(), before, slope.double())
        free = torch.ones(12, dtype=torch.bool)
        free[chosen[:j]] = False
        assert item == int(torch.where(free, variances, -1).argmax())  # greedy: the least known answer
        assert float(worth[j]) == pytest.approx(0.5 * np.log1p(float(variances[item]) / 0.7))
        assert float(spread[j]) == pytest.approx(float(slope[item].norm()), abs=1e-6)
    total = -0.5 * torch.logdet(posterior(slope, chosen, 0.7))
    assert float(worth.sum()) == pytest.approx(float(total))


def test_popular_divisive_and_spread():
    slope = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.1, 0.1]])
    known = torch.tensor([0.9, 0.9, 0.5, 1.0])
    pick = lambda by, n=2: next_questions(slope, known, n, noise=1.0, by=by)[0].tolist()  # noqa: E731
    assert pick("spread") == [0, 2]  # the second is like the first, the fourth divides nobody
    assert pick("popularity") == [3, 0]
    assert pick("information")[0] == 0 and pick("information", 4)[-1] == 3
    assert next_questions(slope, torch.zeros(4), 2, noise=1.0)[0].tolist() == [0, 1]  # nobody knows any: still two


def test_the_table():
    learn = trained("dot")
    table = learn.questionnaire(n=6)
    train = learn.dls.train.dataset
    counts = train.to_df()["title"].value_counts()
    assert list(table.columns) == ["title", "known_by", "spread", "information"] and len(table) == 6
    assert table["known_by"].to_numpy() == pytest.approx(counts[table["title"]].to_numpy() / 200)
    assert (table["information"] > 0).all() and (table["spread"] > 0).all()
    popular = learn.questionnaire(n=6, by="popularity")
    assert popular["known_by"].is_monotonic_decreasing and popular["known_by"][0] == pytest.approx(counts.max() / 200)
    few = counts.index[:4].tolist()
    assert set(learn.questionnaire(n=3, items=few)["title"]) <= set(few)
    pd.testing.assert_frame_equal(table, learn.questionnaire(n=6))


def test_answers_about_the_items_asked_tell_more_than_about_others():
    """Users folded in by the most telling items are predicted better than by the least telling ones."""
    learn = trained("dot")
    frame = ratings()
    asked = learn.questionnaire(n=149, by="spread")["title"].tolist()
    best, worst = set(asked[:30]), set(asked[-30:])
    errors = {"best": [], "worst": []}
    for _, own in list(frame.groupby("user"))[:60]:
        rest = own[~own["title"].isin(best | worst)]
        for name, items in (("best", best), ("worst", worst)):
            given = own[own["title"].isin(items)].head(4)
            if len(given) < 3 or len(rest) == 0:
                continue
            history = dict(zip(given["title"], given["rating"], strict=True))
            scores = learn.recommend(history=history, k=150, filter_seen=False).set_index("title")["score"]
            errors[name].append(float(((scores[rest["title"]].to_numpy() - rest["rating"]) ** 2).mean()))
    assert len(errors["best"]) > 20 and np.mean(errors["best"]) < np.mean(errors["worst"])


def test_networks_and_clicks_have_questions_too():
    assert len(trained("nn").questionnaire(n=3)) == 3
    dls = CollabDataLoaders.from_df(ratings(), user_name="user", item_name="title", feedback="implicit", seed=1, bs=256)
    learn = silence(collab_learner(dls, n_factors=6))
    learn.fit_one_cycle(2, 1e-2)
    assert learn.questionnaire(n=3)["information"].gt(0).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be a whole number of at least 1"),
        ({"n": 2.5}, ValueError, "n must be a whole number"),
        ({"n": 500}, ValueError, "n=500 questions need as many items with training rows, but there are 150"),
        ({"by": "luck"}, ValueError, "by must be one of 'information', 'popularity', 'spread', got 'luck'"),
        ({"items": ["Nowhere"]}, KeyError, "Nowhere"),
    ],
)
def test_bad_questions(options, error, message):
    with pytest.raises(error, match=message):
        trained("dot").questionnaire(**options)


# --- the widget ------------------------------------------------------------------------------------------------------


def test_the_widget_shows_how_the_list_changes():
    learn = trained("dot")
    widget = QuestionnaireWidget(learn, n=4, k=5)
    first = widget.recommendations
    assert "Your list after 0 answers" in widget.shown.value and len(first) == 5
    asked = list(widget.buttons)
    assert not set(first["title"]) & set(asked)  # what is asked about is not recommended before it is answered
    widget.buttons[asked[0]].value = 5.0
    widget.buttons[asked[1]].value = 1.0
    assert widget.answers == {asked[0]: 5.0, asked[1]: 1.0} and "after 2 answers" in widget.shown.value
    want = learn.recommend(history=widget.answers, k=5, exclude=asked[2:])
    pd.testing.assert_frame_equal(widget.recommendations, want)
    assert not first.equals(want) and any(mark in widget.shown.value for mark in ("new", "&uarr;", "&darr;"))
    widget.buttons[asked[0]].value = None
    widget.buttons[asked[1]].value = None
    pd.testing.assert_frame_equal(widget.recommendations, first)  # answers can be taken back


def test_the_widget_for_clicks_and_odd_titles():
    frame = ratings().replace({"title": {ratings()["title"][0]: "<b>&</b>"}})
    options = {"user_name": "user", "item_name": "title", "feedback": "implicit", "seed": 1, "bs": 256}
    learn = silence(collab_learner(CollabDataLoaders.from_df(frame, **options), n_factors=4))
    learn.fit(1, 1e-2)
    widget = QuestionnaireWidget(learn.recommender, n=3, k=100)
    button = next(iter(widget.buttons.values()))
    assert [value for _, value in button.options] == [None, "yes"]
    button.value = "yes"
    assert len(widget.answers) == 1 and len(widget.recommendations) == 100
    assert "<b>&</b>" not in widget.shown.value.replace("<b>Your list", "")


def test_ratings_to_choose_from():
    learn = silence(collab_learner(make_dls(), n_factors=2, y_range=Y_RANGE))
    button = next(iter(QuestionnaireWidget(learn, n=1, choices=[1, 3, 5]).buttons.values()))
    assert [label for label, _ in button.options] == ["not known", "1", "3", "5"]


def test_repeated_rows_count_once():
    frame = ratings()
    often = frame[frame["title"] == frame["title"][0]]
    dls = make_dls(pd.concat([frame, *[often] * 30], ignore_index=True))
    learn = silence(collab_learner(dls, n_factors=2, y_range=Y_RANGE))
    learn.fit(1, 1e-2)
    table = learn.questionnaire(n=150)
    assert table["known_by"].between(0, 1).all() and table["information"].notna().all()
