"""What a model answers that nobody has trained is said to be nothing."""

import warnings

import pytest
from fastai.callback.core import Callback
from helpers import KINDS, make_dls, make_learner, trained

from collabkit import CollabInterpretation, CollabWarning, Recommender, collab_learner, compare

ASKED = {
    "recommend": lambda learn: learn.recommend(learn.recommender.users.ids[:2], 3),
    "predict": lambda learn: learn.predict(learn.recommender.users.ids[0], learn.recommender.items.ids[0]),
    "similar_items": lambda learn: learn.similar_items(learn.recommender.items.ids[0], 3),
    "evaluate": lambda learn: learn.evaluate(),
    "compare": lambda learn: compare([learn]),
    "export": lambda learn: learn.export(),
    "interpretation": CollabInterpretation.from_learner,
}


def said(ask) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CollabWarning)
        ask()
    found = [warning for warning in caught if "is not trained" in str(warning.message)]
    assert all(warning.filename == __file__ for warning in found)
    return bool(found)


@pytest.mark.parametrize("ask", ASKED)
def test_every_answer_says_it(ask, tmp_path):
    learn = make_learner("dot", path=tmp_path)
    assert said(lambda: ASKED[ask](learn))
    learn.fit(1, 1e-2)
    assert not said(lambda: ASKED[ask](learn))


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_all_kinds_say_it_and_no_longer_once_loaded(kind, tmp_path):
    learn = make_learner(kind, path=tmp_path)
    assert said(learn.evaluate)
    folder = trained(kind).export(tmp_path / "artefact")
    assert not said(lambda: Recommender.load(folder).evaluate())


class Stop(Callback):
    def after_batch(self):
        raise KeyboardInterrupt


def refused(learn):
    with pytest.raises(ValueError, match="lr"):
        learn.fit(1, -1)


def interrupted(learn):
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, 1e-2, cbs=Stop())


NO_TRAINING = {
    "refused": refused,
    "interrupted": interrupted,
    "lr_find": lambda learn: learn.lr_find(show_plot=False),
    "validate": lambda learn: learn.validate(),
}


@pytest.mark.parametrize("how", NO_TRAINING)
def test_what_is_no_training(how, tmp_path):
    learn = make_learner("dot", path=tmp_path)
    NO_TRAINING[how](learn)
    assert said(learn.evaluate)


def test_what_is_training(tmp_path):
    learn = make_learner("dot", path=tmp_path)
    learn.fit_one_cycle(1, 1e-2)
    learn.save("w")
    other = make_learner("dot", path=tmp_path)
    other.load("w")
    assert not said(other.evaluate)
    third = make_learner("dot", path=tmp_path)
    third.model.load_state_dict(learn.model.state_dict())
    assert not said(third.evaluate)
    learn.lr_find(show_plot=False)
    assert not said(learn.evaluate)
    events = collab_learner(make_dls(feedback="implicit", rating_threshold=4), n_factors=4)
    events.fit_als(1)
    assert not said(events.evaluate)
