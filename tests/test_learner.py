"""`collab_learner` and `CollabLearner`: fastai's training methods, reproducibility, arguments and errors."""

import copy
import hashlib
import random

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from elsewhere import elsewhere
from fastai.callback.core import Callback
from fastai.interpret import Interpretation
from fastai.learner import Learner
from fastai.tabular.model import get_emb_sz, tabular_config
from helpers import KINDS, OPTIONS, make_dls, make_learner, ratings, same_weights, silence, synthetic, trained, weights
from torch import nn

from collabkit import CollabLearner, CollFilter, EmbeddingNN, TwoTower, collab_learner, load_learner
from collabkit.losses import FlatLoss
from collabkit.serve.artefact import BundleError


class FastaisOwn(CollabLearner):
    """This library's learner with fastai's own ways to fit."""

    fit_one_cycle, fit_sgdr = Learner.fit_one_cycle, Learner.fit_sgdr


def two_groups(model):
    return [[model.u_weight.weight, model.u_bias.weight], [model.i_weight.weight, model.i_bias.weight]]


def pair_of_learners(**kwargs):
    dls = make_dls(bs=400)  # 12 batches an epoch
    sizes = [len(vocab) for vocab in dls.classes.values()]
    for cls in (CollabLearner, FastaisOwn):
        torch.manual_seed(0)
        yield silence(cls(make_dls(bs=400), CollFilter(*sizes, 4, (0.5, 5.5)), seed=1, **kwargs))


# --- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "args", "options"),
    [
        ("fit_one_cycle", (2, 1e-2), {}),
        ("fit_one_cycle", (3,), {}),
        ("fit_one_cycle", (2, 1e-2), {"div": 10.0, "div_final": 100.0, "pct_start": 0.4, "moms": (0.9, 0.7, 0.8)}),
        ("fit_one_cycle", (2, 1e-2), {"start_epoch": 1}),
        # Cycles whose ends float32 holds exactly; at others fastai is one step late.
        ("fit_sgdr", (2, 2, 1e-2), {"cycle_mult": 3}),
        ("fit_sgdr", (2, 1, 1e-2), {"cycle_mult": 3}),
        ("fit_flat_cos", (2, 1e-2), {"pct_start": 0.5}),
    ],
)
@pytest.mark.parametrize("splitter", [None, two_groups], ids=["one group", "two groups"])
def test_schedules_are_fastais(method, args, options, splitter):
    records = []
    for learn in pair_of_learners(**({} if splitter is None else {"splitter": splitter})):
        rate = args[-1] if len(args) > 1 else None
        slices = (slice(rate / 10, rate),) if splitter is not None and rate is not None else args[-1:]
        getattr(learn, method)(*(args[:-1] + slices), **options)
        records.append((learn.recorder, weights(learn.model)))
    (mine, my_weights), (theirs, their_weights) = records
    assert mine.lrs == pytest.approx(theirs.lrs, rel=1e-5, abs=1e-12)
    assert mine.hps.keys() == theirs.hps.keys() >= {"lr"}
    for name, values in theirs.hps.items():
        assert mine.hps[name] == pytest.approx(values, rel=1e-5, abs=1e-12)
    assert all(torch.allclose(my_weights[name], their_weights[name], atol=2e-4) for name in my_weights)


def test_one_cycle_by_hand():
    learn = make_learner("dot", make_dls(bs=480))  # 10 batches
    learn.fit_one_cycle(4, 1.0, moms=(0.95, 0.85, 0.9))
    rates, moms = learn.recorder.hps["lr"], learn.recorder.hps["mom"]
    assert len(rates) == 40
    assert rates[0] == pytest.approx(1 / 25) and rates[5] == pytest.approx((1 + 1 / 25) / 2)
    assert rates[10] == pytest.approx(1.0) and rates[25] == pytest.approx(0.5, abs=1e-4)
    assert moms[0] == pytest.approx(0.95) and moms[10] == pytest.approx(0.85) and moms[25] == pytest.approx(0.875)


@pytest.mark.parametrize(("cycle_mult", "starts"), [(1, [0, 10, 20]), (2, [0, 10, 30])])
def test_sgdr_restarts(cycle_mult, starts):
    learn = make_learner("dot", make_dls(bs=480))
    learn.fit_sgdr(3, 1, 0.1, cycle_mult=cycle_mult)
    rates = np.array(learn.recorder.hps["lr"])
    ends = [*starts[1:], len(rates)]
    assert len(rates) == {1: 30, 2: 70}[cycle_mult]
    assert np.flatnonzero(np.isclose(rates, 0.1)).tolist() == starts
    for start, end in zip(starts, ends, strict=True):
        expected = 0.05 * (1 + np.cos(np.pi * np.arange(end - start) / (end - start)))
        assert rates[start:end] == pytest.approx(expected, abs=1e-9)


def test_plain_fit_keeps_the_rate_and_the_defaults():
    learn = make_learner("dot", lr=3e-3, wd=0.25)
    learn.fit(1)
    assert set(learn.recorder.lrs) == {3e-3}
    assert learn.opt.hypers[0]["wd"] == 0.25
    learn.fit(1, lr=1e-3, wd=0.5)
    assert learn.opt.hypers[0]["lr"] == 1e-3 and learn.opt.hypers[0]["wd"] == 0.5


@pytest.mark.parametrize("n_epoch", [0, -1, 1.5])
def test_number_of_epochs_is_checked(n_epoch):
    learn = make_learner("dot")
    for fit in (learn.fit, learn.fit_one_cycle):
        with pytest.raises(ValueError, match="n_epoch must be a whole number of at least 1"):
            fit(n_epoch)


# --- quality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_ratings_are_predicted_better_than_by_the_mean_and_worse_than_by_the_truth(kind):
    rmse = trained(kind).evaluate(n_boot=20).loc["RMSE"]
    assert synthetic().truth.rmse < rmse["value"] < 0.97 * rmse["global mean"]
    if kind == "dot":
        assert rmse["value"] < 1.02 * rmse["user+item bias"]
    assert rmse["low"] < rmse["value"] < rmse["high"]


@pytest.mark.filterwarnings("ignore:the splitter")
@pytest.mark.parametrize("kind", KINDS)
def test_a_left_over_row_does_not_stop_batch_norm(kind):
    df = ratings()
    parts = np.arange(129), np.arange(129, 200)  # 128 + 1
    learn = make_learner(kind, make_dls(df, bs=64, splitter=lambda _: parts))
    learn.fit(1, 1e-2)
    assert np.isfinite(learn.recorder.values[-1]).all()
    assert len(learn.recorder.lrs) == 2


# --- predictions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ds_idx", [0, 1])
def test_get_preds_is_in_the_order_of_the_rows(kind, ds_idx):
    learn = trained(kind)
    data = (learn.dls.train, learn.dls.valid)[ds_idx].dataset
    x, pred, y, loss = learn.get_preds(ds_idx=ds_idx, with_input=True, with_loss=True)
    assert torch.equal(x, torch.stack([data.user_idx, data.item_idx], 1))
    assert torch.equal(y.flatten(), data.rating)
    expected = learn.model.eval()(data.user_idx, data.item_idx).detach()
    assert torch.allclose(pred, expected, atol=1e-5)
    assert torch.allclose(loss.flatten(), (expected - data.rating).square(), atol=1e-4)
    assert learn.loss_func.reduction == "mean"


def test_get_preds_of_a_shuffled_loader_is_put_back_in_order():
    learn = trained("dot")
    pred, y = learn.get_preds(dl=learn.dls.train)
    assert torch.equal(y.flatten(), learn.dls.train.dataset.rating)
    assert torch.equal(pred, learn.get_preds(ds_idx=0)[0])


def test_get_preds_of_a_loader_that_drops_the_last_batch():
    learn = make_learner("dot", make_dls(drop_last=True))
    assert len(learn.get_preds(dl=learn.dls.train)[0]) == len(learn.dls.train.dataset)


@pytest.mark.parametrize("loss_func", [F.l1_loss, nn.L1Loss()], ids=["function", "module"])
def test_losses_a_row_of_any_loss(loss_func):
    learn = make_learner("dot", loss_func=loss_func)
    pred, y, loss = learn.get_preds(with_loss=True)
    assert torch.allclose(loss.flatten(), (pred - y.flatten()).abs())
    assert learn.validate()[0] == pytest.approx(loss.mean().item(), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_test_dl_predicts_new_rows(kind):
    learn = trained(kind)
    rows = ratings().head(20)
    dl = learn.dls.test_dl(rows)
    pred, y = learn.get_preds(dl=dl)
    assert y is None and pred.shape == (20,)
    assert np.allclose(pred.numpy(), learn.predict(rows["user"], rows["title"]), atol=1e-5)
    labelled, y = learn.get_preds(dl=learn.dls.test_dl(rows, with_labels=True))
    assert torch.equal(labelled, pred) and y.flatten().tolist() == rows["rating"].tolist()
    one = learn.dls.test_dl(rows.head(1), with_labels=True)
    x, single, y, loss = learn.get_preds(dl=one, with_input=True, with_loss=True)
    assert (x.shape, single.shape, y.shape, loss.shape) == ((1, 2), (1,), (1, 1), (1,))
    assert single.item() == pytest.approx(pred[0].item(), abs=1e-5)
    assert loss.item() == pytest.approx((single - y).square().item(), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_validate_is_the_mean_squared_error(kind):
    learn = trained(kind)
    pred, y = learn.get_preds()
    assert learn.validate()[0] == pytest.approx((pred - y.flatten()).square().mean().item(), abs=1e-5)


def test_show_results_shows_ids_ratings_and_predictions():
    learn = trained("dot")
    shown = learn.dls.valid.show_results(
        learn.dls.valid.one_batch(), learn.get_preds(dl=[learn.dls.valid.one_batch()])[0], show=False
    )
    assert list(shown.columns) == ["user", "title", "rating", "rating_pred"]
    assert set(shown["title"]) <= set(ratings()["title"])
    assert np.allclose(shown["rating_pred"], learn.predict(shown["user"], shown["title"]), atol=1e-5)
    learn.show_results(max_n=2)  # fastai's way


def test_fastais_interpretation_finds_the_largest_losses():
    learn = trained("dot")
    losses, idx, items = Interpretation.from_learner(learn).top_losses(5, items=True)
    pred, y = learn.get_preds()
    expected = (pred - y.flatten()).square().topk(5)
    assert torch.allclose(losses.flatten(), expected.values, atol=1e-4) and torch.equal(idx, expected.indices)
    assert items["title"].tolist() == learn.dls.valid.dataset.to_df()["title"].iloc[idx.numpy()].tolist()


def test_fastais_interpretation_gives_rows():
    interp = Interpretation.from_learner(trained("dot"))
    assert len(interp[[3, 1]][1]) == 2


# --- reproducibility -------------------------------------------------------------------------------------------------


def fingerprint(kind, seed=5, fits=2):
    learn = make_learner(kind, make_dls(seed=seed))
    for _ in range(fits):
        learn.fit_one_cycle(2, 1e-2, wd=0.1)
    digest = hashlib.sha256()
    for value in learn.model.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_one_result_in_this_process(kind):
    first = fingerprint(kind)
    torch.manual_seed(123)
    torch.rand(7)
    assert fingerprint(kind) == first
    assert fingerprint(kind, seed=6) != first


def test_a_misspelt_name_is_found():
    learn = make_learner("dot")
    with pytest.raises(AttributeError, match=r"CollabLearner has no attribute 'recomend' \(did you mean 'recommend'"):
        learn.recomend(1)
    assert learn.i_weight is learn.model.i_weight  # as of fastai's learners
    assert copy.deepcopy(learn).model is not learn.model


def test_one_seed_one_result_in_another_process():
    code = "import test_learner as t; print(*(t.fingerprint(kind) for kind in t.KINDS))"
    out = elsewhere(code)
    assert out.stdout.split()[-2:] == [fingerprint(kind) for kind in KINDS]


def global_states():
    states = torch.get_rng_state().tolist(), np.random.get_state(), random.getstate()  # noqa: NPY002
    return [repr(state[1:] if isinstance(state, tuple) else state) for state in map(_listed, states)]


def _listed(state):
    return tuple(part.tolist() if isinstance(part, np.ndarray) else part for part in state)


@pytest.mark.parametrize("kind", KINDS)
def test_seeded_training_leaves_global_generators_alone(kind):
    dls = make_dls(seed=3)
    torch.manual_seed(11)
    before = global_states()
    learn = make_learner(kind, dls)
    learn.fit_one_cycle(1, 1e-2)
    learn.get_preds()
    learn.recommend(k=3)
    learn.evaluate(n_boot=5)
    assert global_states() == before
    np.random.random(), random.random(), torch.rand(1)  # noqa: NPY002
    assert not any(old == new for old, new in zip(before, global_states(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_is_the_same_after_lr_find_and_after_another_learner(kind, tmp_path):
    dls, results = make_dls(path=tmp_path), []
    for find in (False, True):
        learn = make_learner(kind, dls)  # the same loaders both times
        learn.fit(1, 1e-2)
        if find:
            learn.lr_find(num_it=25, show_plot=False)
        learn.fit_one_cycle(1, 1e-2)
        results.append(weights(learn.model))
    assert same_weights(*results)


def test_each_epoch_has_an_order_of_its_own():
    orders = []

    class Watch(Callback):
        run_valid = False

        def before_batch(self):
            if self.iter == 0:
                orders.append(self.xb[0].tolist())

    learn = make_learner("dot", cbs=Watch)
    learn.fit(2, 1e-2)
    learn.fit(1, 1e-2)
    assert len(orders) == 3 and orders[0] != orders[1] != orders[2] != orders[0]


def test_global_generators_are_restored_after_an_error():
    class Fail(Callback):
        def after_epoch(self):
            raise KeyboardInterrupt

    learn = make_learner("nn", cbs=Fail)
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, 1e-2)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_argument_goes_before_the_dataloaders():
    dls = make_dls(seed=3)
    assert make_learner("dot", dls).seed == 3 and make_learner("dot", dls, seed=4).seed == 4
    assert same_weights(make_learner("dot", dls).model, make_learner("dot", dls, seed=3).model)
    assert not same_weights(make_learner("dot", dls).model, make_learner("dot", dls, seed=4).model)


def test_dropout_masks_go_on_from_one_fit_to_the_next():
    masks = []

    class Watch(Callback):
        run_valid = False

        def after_pred(self):
            if self.iter == 0:
                masks.append(torch.rand(3))

    learn = make_learner("nn", cbs=Watch)
    learn.fit(1, 1e-2)
    learn.fit(1, 1e-2)
    assert not torch.equal(*masks)


# --- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_with_the_optimiser(kind, tmp_path):
    learn = make_learner(kind, path=tmp_path)
    learn.fit(1, 1e-2)
    assert learn.save("half").is_file()
    other = make_learner(kind, path=tmp_path, seed=9)
    other.create_opt()
    other.load("half")
    assert same_weights(learn.model, other.model)
    mine, theirs = (o.opt.state_dict()["state"] for o in (learn, other))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[j]["exp_avg_sq"], theirs[j]["exp_avg_sq"]) for j in mine)
    learn.fit(1, 1e-2)
    assert not same_weights(learn.model, other.model)


@pytest.mark.parametrize("kind", KINDS)
def test_export_and_load_learner_predict_and_train_on(kind, tmp_path):
    learn = make_learner(kind, path=tmp_path)
    learn.fit_one_cycle(2, 1e-2)
    folder = learn.export("model")
    assert folder == tmp_path.resolve() / "model"
    again = silence(load_learner(folder, bs=128, path=tmp_path))
    users, titles = ratings()["user"], ratings()["title"]
    assert np.array_equal(again.predict(users, titles), learn.predict(users, titles))
    pd.testing.assert_frame_equal(again.recommend(k=5), learn.recommend(k=5))
    assert again.dls.train.bs == 128 and again.dls.cat_names == ["user", "title"]
    before = again.validate()[0]
    again.fit_one_cycle(4, 1e-2)
    assert again.validate()[0] < before - 0.01


def test_load_learner_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="no artefact folder"):
        load_learner(tmp_path / "nowhere")
    (tmp_path / "export.pkl").write_bytes(b"pickle")
    with pytest.raises(BundleError, match="is a file"):
        load_learner(tmp_path / "export.pkl")


def test_export_keeps_the_metrics_of_the_last_epoch_also_after_validating(tmp_path):
    def error(pred, target):
        return (pred - target.flatten()).abs().mean()

    learn = make_learner("dot", path=tmp_path, metrics=error)
    learn.fit(2, 1e-2)
    names = "train_loss", "valid_loss", "error"
    expected = {k: pytest.approx(float(v)) for k, v in zip(names, learn.recorder.values[1], strict=True)}
    learn.validate()
    learn.get_preds()
    learn.lr_find(num_it=30, show_plot=False)
    learn.export("model")
    assert load_config(tmp_path / "model")["metrics"] == expected
    assert load_config(make_learner("dot", path=tmp_path).export("untrained"))["metrics"] == {}


def load_config(folder):
    import json

    return json.loads((folder / "config.json").read_text())


# --- what collab_learner builds --------------------------------------------------------------------------------------


def test_defaults_are_fastais():
    dls = make_dls()
    learn = collab_learner(dls)
    assert isinstance(learn.model, CollFilter) and learn.model.n_factors == 50 and learn.model.y_range is None
    assert isinstance(learn.loss_func, FlatLoss) and isinstance(learn.loss_func.func, nn.MSELoss)
    assert learn.model.u_weight.weight.shape == (len(dls.classes["user"]), 50)
    network = collab_learner(dls, n_factors=30, use_nn=True).model
    assert isinstance(network, EmbeddingNN)
    assert network.config()["layers"] == [30]
    assert [tuple(size) for size in network.config()["emb_szs"]] == get_emb_sz(dls)


def sizes(**kwargs):
    return [size for _, size in make_learner("nn", **kwargs).model.config()["emb_szs"]]


def test_embedding_sizes_in_every_form():
    dls = make_dls()
    n_users, n_items = (len(v) for v in dls.classes.values())
    default = [size for _, size in get_emb_sz(dls)]
    assert sizes(emb_szs=[7, 9]) == sizes(emb_szs=(7, 9)) == sizes(emb_szs=np.array([7, 9])) == [7, 9]
    assert sizes(emb_szs=[(n_users, 7), (n_items, 9)]) == [7, 9]
    assert sizes(emb_szs=get_emb_sz(dls, {"user": 7})) == [7, default[1]]
    assert sizes(emb_szs={"user": 7, "title": 9}) == [7, 9]
    assert sizes(emb_szs={"title": 9}) == [default[0], 9]
    assert sizes(emb_szs={}) == sizes(emb_szs=None) == default


@pytest.mark.parametrize(
    ("emb_szs", "message"),
    [
        ({"movie": 5}, r"emb_szs names columns \['movie'\]; the user and item columns are"),
        ([5], "a user and an item entry"),
        ([5, 6, 7], "a user and an item entry"),
        ([(10, 5), (20, 6)], r"tables of \[10, 20\] rows, the data needs"),
        ([0, 5], "an embedding size in emb_szs must be a whole number of at least 1, got 0"),
        (8, "a user and an item entry, e.g. .*, got 8"),
    ],
)
def test_embedding_sizes_that_do_not_fit(emb_szs, message):
    with pytest.raises(ValueError, match=message):
        make_learner("nn", emb_szs=emb_szs)


def test_config_is_used_and_left_as_it_was():
    config = tabular_config(ps=0.3, embed_p=0.2, y_range=(0, 7), use_bn=False)
    copy = dict(config)
    model = collab_learner(make_dls(), use_nn=True, layers=[10, 5], config=config).model
    assert config == copy
    assert model.y_range == (0.0, 7.0)
    assert model.config()["ps"] == [0.3, 0.3] and model.config()["embed_p"] == 0.2 and not model.config()["use_bn"]
    other = collab_learner(make_dls(), use_nn=True, layers=[10], config=config, y_range=(0, 6), ps=0.1).model
    assert other.y_range == (0.0, 6.0) and other.config()["ps"] == [0.1]
    assert config == copy
    assert collab_learner(make_dls(), config=tabular_config()).model.n_factors == 50  # says nothing: no error


def test_options_reach_the_dot_model():
    model = make_learner("dot", init_std=0.3).model
    assert 0.2 < model.u_weight.weight[1:].std().item() < 0.3


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"config": {"ps": 0.1}}, ValueError, r"config= is for use_nn=True; the dot-product model has no \['ps'\]"),
        ({"config": {"bn_cont": True}, "use_nn": True}, ValueError, "config= has no option bn_cont; it takes ps"),
        ({"ps": 0.1}, ValueError, "no option ps; it takes init_std, id_dropout"),
        ({"layers": [10]}, ValueError, "no option layers"),
        ({"emb_szs": [3, 4]}, ValueError, "no option emb_szs"),
        ({"sparse": "always"}, ValueError, "sparse must be True, False or 'auto'"),
        ({"valid_idx": [1]}, TypeError, "valid_idx"),
        ({"n_factor": 10}, TypeError, r"no argument 'n_factor' \(did you mean 'n_factors'\?\)"),
        ({"learning_rate": 1, "model": TwoTower}, TypeError, "Options of TwoTower: n_factors, layers.*lr, splitter"),
        ({"y_range": (2, 5.5)}, ValueError, r"training ratings lie outside y_range=\(2.*run from 1 to 5"),
        ({"y_range": (0, 4.5)}, ValueError, "training ratings lie outside"),
        ({"use_nn": True, "config": {"y_range": (0, 3)}}, ValueError, "training ratings lie outside"),
    ],
)
def test_arguments_that_cannot_be_meant(kwargs, error, message):
    with pytest.raises(error, match=message):
        collab_learner(make_dls(), **kwargs)


def test_validation_ratings_outside_the_range_are_counted():
    df = ratings()
    df.loc[[3, 8], "rating"] = 9
    parts = np.setdiff1d(np.arange(len(df)), [3, 8, 20]), np.array([3, 8, 20])
    with pytest.raises(ValueError, match=r"^2 validation ratings .* to 9\. Widen"):
        make_learner("dot", make_dls(df, splitter=lambda _: parts))


def test_ratings_on_the_ends_of_the_range_are_taken():
    assert collab_learner(make_dls(), y_range=(1, 5)).model.y_range == (1.0, 5.0)


@pytest.mark.parametrize("kind", ["dot", "nn"])
def test_sparse_tables_learn_what_dense_ones_do(kind):
    sparse, dense = (make_learner(kind, sparse=value) for value in (True, False))
    for learn in (sparse, dense):
        learn.fit_one_cycle(5, 2e-2, wd=0.1)
    assert sparse.model.sparse and not dense.model.sparse
    first, second = (learn.evaluate(n_boot=5).loc["RMSE"] for learn in (sparse, dense))
    assert first["value"] < 0.99 * first["global mean"] and abs(first["value"] - second["value"]) < 0.05


# --- models written by hand ------------------------------------------------------------------------------------------


class Hand(nn.Module):
    def __init__(self, n_users, n_items, column):
        super().__init__()
        self.users, self.items, self.column = nn.Embedding(n_users, 1), nn.Embedding(n_items, 1), column
        for table in (self.users, self.items):
            nn.init.constant_(table.weight, 1.5)

    def forward(self, x):
        out = self.users(x[:, 0]) + self.items(x[:, 1])
        return out if self.column else out.squeeze(1)


def test_a_plain_loss_never_broadcasts_whatever_the_model_returns():
    records = []
    for column in (False, True):
        dls = make_dls()
        learn = silence(CollabLearner(dls, Hand(*map(len, dls.classes.values()), column), nn.MSELoss()))
        learn.fit(2, 5e-2)
        records.append([float(v) for row in learn.recorder.values for v in row])
    flat, column = records
    assert flat == pytest.approx(column, rel=1e-6)
    assert flat[-1] < 0.97 * np.var(ratings()["rating"])  # a (bs, bs) loss would learn the mean at best


def test_recommendations_need_one_of_the_librarys_models():
    dls = make_dls()
    learn = silence(CollabLearner(dls, Hand(*map(len, dls.classes.values()), True)))
    for call in (learn.recommend, learn.evaluate, lambda: learn.predict(1, "x"), lambda: learn.export("folder")):
        with pytest.raises(TypeError, match="needs one of collabkit's models, got Hand"):
            call()


def test_the_recommender_follows_the_model_and_the_data():
    learn = make_learner("dot")
    first = learn.recommender
    assert learn.recommender is first
    learn.fit(1, 1e-2)
    assert learn.recommender is first  # its model is the learner's, trained in place
    learn.model = make_learner("dot", seed=8).model
    assert learn.recommender.model is learn.model
    learn.dls = make_dls(seed=9)
    assert learn.recommender.train is learn.dls.train.dataset
    assert learn.recommender.valid is learn.dls.valid.dataset
    for j in (0, 1):
        learn.dls.loaders[j] = make_dls(seed=10 + j).loaders[j]
        assert learn.recommender.train is learn.dls.train.dataset
        assert learn.recommender.valid is learn.dls.valid.dataset


def test_options_of_collab_learner_are_those_of_the_helpers():
    assert set(OPTIONS) == set(KINDS)
