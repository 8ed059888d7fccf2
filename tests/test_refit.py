"""Training on everything: dataloaders without a validation part, and `refit_all`."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from contract import planted
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import GradientClip
from helpers import silence

from collabkit import (
    EASE,
    NDCG,
    CollabDataLoaders,
    CollabWarning,
    CollFilter,
    ItemKNN,
    Pipeline,
    Popularity,
    Recommender,
    SASRec,
    collab_learner,
    load_learner,
    splits,
)

NAMES = {"user_name": "user", "item_name": "item", "time_name": "time", "seed": 0, "bs": 64}
KINDS = {
    "rated": {"rating_name": "rating"},
    "positives": {"feedback": "implicit"},
    "by_user": {"feedback": "implicit", "negatives": "shared", "by_user": True},
    "windows": {"feedback": "implicit", "history": 8},
}


def loaders(kind: str, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        return CollabDataLoaders.from_df(planted(kind == "rated"), **{**NAMES, **KINDS[kind], **options})


def learner(dls, **options):
    rated = dls.data.rated
    return silence(collab_learner(dls, **{"n_factors": 8, "y_range": (0.5, 5.5) if rated else None, **options}))


def weights(learn) -> dict:
    return learn.model.state_dict()


def equal(a, b) -> bool:
    return all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())


@pytest.mark.parametrize("kind", KINDS)
def test_all_rows_are_trained_on_and_no_validation_figures_are_shown(kind, tmp_path):
    dls = loaders(kind, valid_pct=0)
    assert dls.data.valid is None and len(dls.valid) == 0
    assert len(dls.train.dataset) == len(planted(kind == "rated"))
    learn = learner(dls, path=tmp_path)
    learn.fit_one_cycle(3, 2e-2)
    assert list(learn.recorder.metric_names) == ["epoch", "train_loss", "time"]
    assert [len(row) for row in learn.recorder.values] == [1, 1, 1] and learn.recorder.values[-1][0] > 0
    lists = learn.recommend(["u1", "u2"], k=3)
    assert len(lists) == 6
    folder = learn.export("artefact")
    assert Recommender.load(folder).recommend(["u1", "u2"], k=3).equals(lists)
    again = silence(load_learner(folder))
    assert again.dls.data.valid is None
    again.fit(1)


def test_what_needs_a_validation_part_says_that_there_is_none():
    dls = loaders("positives", valid_pct=0)
    learn = learner(dls)
    learn.fit(1)
    for ask in (learn.evaluate, learn.validate, learn.get_preds, dls.audit, dls.valid.one_batch):
        with pytest.raises(ValueError, match="no validation part|there is none"):
            ask()
    before = {name: value.clone() for name, value in weights(learn).items()}
    with pytest.raises(ValueError, match="monitor='valid_loss'.*there is no validation part"):
        learn.fit(1, cbs=EarlyStoppingCallback())
    with pytest.raises(ValueError, match="metrics .NDCG@10. need a validation part, and there is none"):
        learner(dls, metrics=[NDCG(10)]).fit(1)
    assert all(torch.equal(value, before[name]) for name, value in weights(learn).items())
    learn.fit(1, cbs=EarlyStoppingCallback("train_loss"))  # which there is
    assert len(learn.evaluate(on=planted()[:50], metrics=["NDCG"])) == 1


def test_a_learning_rate_is_found_without_a_validation_part():
    learn = learner(loaders("rated", valid_pct=0))
    assert learn.lr_find(show_plot=False, num_it=20).valley > 0
    learn.fit(1)
    learn.recorder.plot_loss()


def test_no_split_is_the_same_and_other_splits_still_want_two_parts():
    one, two = loaders("positives", valid_pct=0), loaders("positives", splitter=splits.no_split())
    assert torch.equal(one.train.dataset.pair_keys(), two.train.dataset.pair_keys())
    with pytest.raises(ValueError, match="leaves the validation part empty"):
        loaders("positives", splitter=splits.time_split(date=10**9))
    split = splits.no_split()(planted())
    assert len(split.train) == len(planted()) and len(split.valid) == 0


def test_models_of_the_other_kinds_train_without_a_validation_part():
    dls = loaders("positives", valid_pct=0)
    learn = learner(dls)
    learn.fit_als(2)
    assert len(learn.recommend("u1", k=3)) == 3
    for model in (EASE(), ItemKNN(), Popularity()):
        assert len(model.fit(dls).recommend("u1", k=3)) == 3


FITS = {
    "one cycle": lambda learn: learn.fit_one_cycle(2, 1e-2, wd=0.1),
    "fit, by place": lambda learn: learn.fit(2, 1e-2),
    "restarts": lambda learn: learn.fit_sgdr(2, 1, 1e-2),
    "several": lambda learn: (learn.fit_one_cycle(1, 1e-2), learn.fit(1, 1e-3)),
    "flat": lambda learn: learn.fit_flat_cos(2, 1e-2),
    "clipped": lambda learn: learn.fit(2, 1e-2, cbs=GradientClip(0.1)),
}


@pytest.mark.parametrize("fit", FITS)
def test_a_refit_without_a_validation_part_is_the_same_training(fit):
    """The recipe is the whole recipe: model, loss, schedule, callbacks, seed."""
    dls = loaders("positives", valid_pct=0)
    learn = learner(dls, loss_func="bpr", n_factors=6, seed=3)
    FITS[fit](learn)
    again = learn.refit_all()
    assert again is not learn and again.model is not learn.model and equal(again, learn)
    assert repr(again.loss_func) == repr(learn.loss_func)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("rated", {}),
        ("rated", {"use_nn": True, "layers": [8], "ps": 0.1}),
        ("positives", {"model": CollFilter, "init_std": 0.1}),
        ("by_user", {"loss_func": "softmax"}),
        ("windows", {"model": SASRec, "length": 8}),
    ],
)
def test_all_rows_come_into_the_refit(kind, options):
    dls = loaders(kind)
    learn = learner(dls, **options)
    learn.fit_one_cycle(2, 2e-2)
    kept = {name: value.clone() for name, value in weights(learn).items()}
    final = learn.refit_all()
    assert final.dls.data.valid is None
    both = torch.cat([dls.data.train.pair_keys(), dls.data.valid.pair_keys()]).sort().values
    assert torch.equal(final.dls.data.train.pair_keys().sort().values, both)
    assert all(torch.equal(value, kept[name]) for name, value in weights(learn).items())  # the first one stays
    whole = learner(loaders(kind, valid_pct=0), **options)
    whole.fit_one_cycle(2, 2e-2)
    if kind != "rated":  # whose rows stand in the order of the table
        assert equal(final, whole)
    seen = planted(kind == "rated")
    assert len(final.recommend(k=3).merge(seen[["user", "item"]])) == 0


def test_als_is_repeated_too():
    learn = learner(loaders("positives"))
    learn.fit_als(4, reg=0.01, unobserved_weight=0.2)
    whole = learner(loaders("positives", valid_pct=0))
    whole.fit_als(4, reg=0.01, unobserved_weight=0.2)
    assert equal(learn.refit_all(), whole)


def test_early_stopping_gives_the_number_of_epochs():
    learn = learner(loaders("rated"))
    learn.fit_one_cycle(30, 0.2, cbs=EarlyStoppingCallback(patience=1))
    n = len(learn.recorder.values)
    assert 2 <= n < 30
    with pytest.warns(CollabWarning, match=f"EarlyStoppingCallback watch.* {n} epoch"):
        final = learn.refit_all()
    assert len(final.recorder.values) == n
    assert final.recorder.lrs[-1] == pytest.approx(learn.recorder.lrs[-1], rel=0.05)  # the same schedule, cut


def test_the_best_epoch_counts_where_its_weights_were_put_back(tmp_path):
    learn = learner(loaders("rated"), path=tmp_path)
    learn.fit_one_cycle(12, 0.5, cbs=SaveModelCallback())
    best = int(np.argmin([row[1] for row in learn.recorder.values])) + 1
    assert best < 12
    with pytest.warns(CollabWarning, match=f"SaveModelCallback watch.* {best} epoch"):
        final = learn.refit_all()
    assert len(final.recorder.values) == best


def test_a_fit_that_failed_at_once_or_looked_for_a_rate_is_no_part_of_the_recipe():
    learn = learner(loaders("positives", valid_pct=0))
    learn.lr_find(show_plot=False, num_it=5)
    with pytest.raises(ValueError, match="lr must not be negative"):
        learn.fit(1, -1.0)
    with pytest.raises(ValueError, match="nothing was trained yet"):
        learn.refit_all()
    learn.fit(1, 1e-2)
    assert equal(learn.refit_all(), learn)


def test_a_fit_that_was_interrupted_counts_its_epochs_once(tmp_path):
    from fastai.callback.core import Callback

    class Interrupt(Callback):
        def after_epoch(self):
            if self.epoch == 1:
                raise KeyboardInterrupt

    learn = learner(loaders("positives", valid_pct=0), path=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(4, 1e-2, cbs=Interrupt(), checkpoint="points")
    assert [fit.n_epoch for fit in learn.recipe.fits] == [2]
    learn.fit(4, 1e-2, checkpoint="points", resume=True)
    assert [fit.n_epoch for fit in learn.recipe.fits] == [4]
    assert equal(learn.refit_all(), learn)


def test_a_model_that_was_given_is_made_anew():
    dls = loaders("positives")
    model = CollFilter(dls.data.n_users, dls.data.n_items, 5)
    learn = learner(dls, model=model, n_factors=50, y_range=None)
    learn.fit(1)
    final = learn.refit_all()
    assert final.model is not model and final.model.n_factors == 5


def test_what_no_fit_made_is_not_repeated(tmp_path):
    learn = learner(loaders("positives"), path=tmp_path)
    with pytest.raises(ValueError, match="nothing was trained"):
        learn.refit_all()
    learn.fit(1)
    learn.save("kept")
    learn.load("kept")
    with pytest.raises(ValueError, match="its weights come from the file kept"):
        learn.refit_all()
    with pytest.raises(TypeError, match="not made by collab_learner"):
        load_learner(learn.export("artefact")).refit_all()
    with pytest.raises(ValueError, match="which was trained before"):
        other = learner(loaders("positives"), model=learn.model)
        other.fit(1)
        other.refit_all()


def test_weights_of_a_word_are_made_anew_and_of_a_column_refused():
    learn = learner(loaders("positives", weights="inverse_user"))
    learn.fit(1)
    final = learn.refit_all()
    n = final.dls.data.train.counts("user")[final.dls.data.train.user_idx].double()
    assert torch.allclose(final.dls.data.train.weight * n, (final.dls.data.train.weight * n)[0].expand(len(n)))
    table = planted().assign(w=1.0 + np.arange(len(planted())) % 3)
    dls = CollabDataLoaders.from_df(table, feedback="implicit", weights="w", **NAMES)
    learn = learner(dls)
    learn.fit(1)
    with pytest.raises(ValueError, match="known for the training rows alone"):
        learn.refit_all()


def test_folded_in_users_stay():
    learn = learner(loaders("positives"))
    learn.fit(1, 1e-2)
    learn.fold_in(pd.DataFrame({"user": ["new"] * 3, "item": ["i01", "i05", "i09"]}))
    final = learn.refit_all()
    assert not set(final.recommend("new", k=5)["item"]) & {"i01", "i05", "i09"}


@pytest.mark.parametrize("model", [EASE(l2=50.0), ItemKNN(), Popularity()])
def test_closed_form_models_are_refitted(model):
    dls = loaders("positives")
    model.fit(dls)
    lists = model.recommend(k=3)
    final = model.refit_all()
    whole = type(model)(**model.config()).fit(loaders("positives", valid_pct=0))
    assert final.recommend(k=3).equals(whole.recommend(k=3)) and model.recommend(k=3).equals(lists)
    assert final.config() == model.config() and final.data.valid is None
    with pytest.raises(ValueError, match="not fitted"):
        type(model)().refit_all()


def test_a_pipeline_is_made_of_refitted_models():
    dls = loaders("positives")
    with pytest.raises(TypeError, match="trains nothing"):
        Pipeline([ItemKNN().fit(dls)], EASE().fit(dls)).refit_all()
