"""The lean callbacks record what fastai's record; the others do what they say."""

import math
import warnings
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import CSVLogger
from fastai.callback.schedule import SchedCos, combine_scheds
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.learner import Recorder
from helpers import KINDS, make_dls, make_learner, ratings, same_weights, trained, weights

from collabkit import CollabWarning
from collabkit.metrics import mae
from collabkit.train.callbacks import ColdRows, LeanRecorder, cosine, piecewise
from collabkit.train.checkpoint import load_checkpoint


def mean_absolute(pred, target):
    return (pred - target.flatten()).abs().mean()


# --- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_cosine_is_fastais(position):
    assert cosine(0.3, 0.1)(position) == pytest.approx(float(SchedCos(0.3, 0.1)(position)), abs=1e-9)
    rates = cosine(np.array([0.1, 0.2]), np.array([1.0, 4.0]))(position)
    share = (1 - math.cos(math.pi * position)) / 2
    assert rates == pytest.approx([0.1 + 0.9 * share, 0.2 + 3.8 * share])


@pytest.mark.parametrize("shares", [[0.25, 0.75], [0.2, 0.3, 0.5], [1.0]])
def test_piecewise_is_fastais(shares):
    ends = [(0.1 * j, 1.0 + j) for j in range(len(shares))]
    mine = piecewise(shares, [cosine(*e) for e in ends])
    oracle = combine_scheds(shares, [SchedCos(*e) for e in ends])
    positions = np.linspace(0, 1, 41)
    assert [mine(p) for p in positions] == pytest.approx([float(oracle(p)) for p in positions], abs=1e-6)


def test_piecewise_refuses_shares_that_do_not_add_up():
    for shares, n in (([0.5, 0.4], 2), ([0.5, 0.5], 1), ([], 0)):
        with pytest.raises(ValueError, match="shares must add up to 1"):
            piecewise(shares, [cosine(0, 1)] * n)


# --- the recorder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_lean_recorder_records_what_fastais_does(kind):
    records = []
    for recorder in (LeanRecorder, Recorder):
        learn = make_learner(kind, metrics=mean_absolute)
        learn.remove_cb(learn.recorder)
        learn.add_cb(recorder())
        learn.fit_one_cycle(2, 1e-2)
        records.append(learn.recorder)
    mine, theirs = records
    n = 2 * len(learn.dls.train)
    assert len(mine.losses) == len(mine.lrs) == len(mine.hps["lr"]) == len(mine.hps["mom"]) == n
    assert torch.allclose(torch.stack(mine.losses), torch.stack(theirs.losses), rtol=1e-5)
    assert mine.lrs == pytest.approx(theirs.lrs)
    assert mine.hps["lr"] == pytest.approx(theirs.hps["lr"]) and mine.hps["mom"] == pytest.approx(theirs.hps["mom"])
    assert mine.metric_names == theirs.metric_names and mine.iters == theirs.iters
    assert [list(v) for v in mine.values] == [pytest.approx(list(v), rel=1e-5) for v in theirs.values]


def test_smooth_loss_is_the_debiased_moving_average():
    seen = []

    class Watch(Callback):
        run_valid, order = False, 55  # after the recorder

        def after_batch(self):
            seen.append((self.loss.item(), self.learn.smooth_loss.item()))

    make_learner("dot", cbs=Watch).fit(1, 1e-2)
    average = 0.0
    assert len(seen) == 19
    for n, (loss, smooth) in enumerate(seen, 1):
        average = 0.98 * average + 0.02 * loss
        assert smooth == pytest.approx(average / (1 - 0.98**n), rel=1e-4)


def test_metrics_are_over_the_whole_validation_part():
    learn = make_learner("dot", make_dls(val_bs=100), metrics=mean_absolute)
    learn.fit(1, 1e-2)
    valid, (_, loss, metric) = learn.dls.valid.dataset, learn.recorder.values[-1]
    pred, target = learn.get_preds()
    assert torch.equal(target.flatten(), valid.rating)
    assert metric == pytest.approx(mae(pred.numpy(), valid.rating.numpy()), abs=1e-5)
    assert loss == pytest.approx((pred - valid.rating).square().mean().item(), abs=1e-5)


def test_train_metrics_can_be_asked_for():
    errors = []

    class Watch(Callback):
        run_valid = False

        def after_pred(self):
            errors.append((self.pred - self.yb[0].flatten()).abs().detach())

    learn = make_learner("dot", metrics=mean_absolute, cbs=[LeanRecorder(train_metrics=True), Watch])
    learn.fit(1, 1e-2)
    names = ["epoch", "train_loss", "train_mean_absolute", "valid_loss", "valid_mean_absolute", "time"]
    assert list(learn.recorder.metric_names) == names
    assert len(learn.recorder.values[-1]) == 4
    assert learn.recorder.values[-1][1] == pytest.approx(torch.cat(errors).mean().item(), abs=1e-5)


# --- fastai's callbacks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_early_stopping_stops(kind):
    learn = make_learner(kind)
    learn.fit(30, 0.3, cbs=EarlyStoppingCallback(monitor="valid_loss", patience=2))
    losses = [row[1] for row in learn.recorder.values]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 30
    assert torch.isfinite(learn.model(torch.tensor([[0, 0]]))).all()  # cold rows were fitted even so


def test_save_model_restores_the_best_epoch_and_cold_rows_are_fitted_after_it(tmp_path):
    learn = make_learner("dot", path=tmp_path)
    learn.fit(8, 0.3, cbs=SaveModelCallback(monitor="valid_loss", fname="best"))
    losses = [row[1] for row in learn.recorder.values]
    assert losses[-1] > min(losses) + 0.01  # else restoring shows nothing
    assert (tmp_path / "models" / "best.safetensors").is_file()
    saved = load_checkpoint(tmp_path / "models" / "best.safetensors")["model"]
    warm = learn.dls.train.dataset.user_idx.unique()
    assert torch.equal(learn.model.u_weight.weight[warm], saved["user_side.tables.0.weight"][warm])
    assert saved["user_side.tables.1.weight"][0].item() == 0.0 and learn.model.u_bias.weight[0].item() != 0.0
    assert learn.validate()[0] == pytest.approx(min(losses), abs=0.02)


def test_csv_logger(tmp_path):
    learn = make_learner("dot", path=tmp_path, metrics=mean_absolute)
    learn.fit(2, 1e-2, cbs=CSVLogger(fname="log.csv"))
    log = pd.read_csv(tmp_path / "log.csv")
    assert list(log.columns) == ["epoch", "train_loss", "valid_loss", "mean_absolute", "time"]
    assert log["epoch"].tolist() == [0, 1]
    assert log["valid_loss"].tolist() == pytest.approx([float(row[1]) for row in learn.recorder.values], abs=1e-5)


def test_callbacks_added_while_training_are_called():
    calls = []

    class Late(Callback):
        run_valid = False

        def after_pred(self):
            calls.append(self.epoch)

    class Adder(Callback):
        def after_epoch(self):
            if self.epoch == 0:
                self.learn.add_cb(Late())

    learn = make_learner("dot", cbs=Adder)
    learn.fit(3, 1e-2)
    assert calls == [1] * 19 + [2] * 19
    learn.remove_cb(Late)
    calls.clear()
    learn.fit(1, 1e-2, cbs=Late())
    assert len(calls) == 19
    learn.remove_cb(Adder)
    learn.remove_cb(Late)
    calls.clear()
    learn.fit(1, 1e-2)
    assert calls == []


# --- cold rows -------------------------------------------------------------------------------------------------------


def cold_users(learn):
    cold = torch.ones(len(learn.dls.classes["user"]), dtype=torch.bool)
    cold[learn.dls.train.dataset.user_idx] = False
    return cold


def tables(learn, side):
    return [table.weight for table in learn.model.side(side).tables]


def with_cold_user():
    df = ratings()
    last = df["user"] == df["user"].iloc[0]

    def split(table):
        return np.flatnonzero(~last), np.flatnonzero(last)

    return make_dls(df, splitter=split)


@pytest.mark.parametrize("kind", KINDS)
def test_cold_rows_are_zero_while_training_and_fitted_after(kind):
    seen, asked = [], []

    class Watch(Callback):
        order = 100  # after ColdRows

        def before_batch(self):
            rows = seen if self.training else asked
            rows.append([t[cold].abs().max().item() for t in tables(self.learn, "user")])

    learn = make_learner(kind, with_cold_user(), cbs=Watch)
    cold = cold_users(learn)
    assert cold.sum() == 2  # the unknown row and the user who is in the validation part alone
    assert all(t[cold].abs().max() > 0 for t in tables(learn, "user"))
    for _ in range(2):  # rows that were fitted after the first training are zero again in the second
        learn.fit(2, 1e-2)
        assert np.abs(seen).max() == 0 < np.min(asked) and len(seen) == 2 * len(learn.dls.train)
        seen.clear(), asked.clear()
        for table in tables(learn, "user") + tables(learn, "item"):
            assert torch.isfinite(table).all() and table[0].abs().max() > 0
        for table in tables(learn, "user"):
            assert torch.equal(table[0], table[cold][1])


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_fit_and_a_checkpoint_from_its_midst_have_their_defaults(kind, tmp_path):
    class Interrupt(Callback):
        def after_batch(self):
            if self.training and self.epoch == 1:
                self.learn.save("midst")
                raise KeyboardInterrupt

    learn = make_learner(kind, with_cold_user(), path=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(3, 1e-2, cbs=Interrupt())
    saved = load_checkpoint(tmp_path / "models" / "midst.safetensors")["model"]
    names = {id(p): name for name, p in learn.model.named_parameters()}
    for other in (learn, make_learner(kind, with_cold_user(), path=tmp_path, seed=7).load("midst", with_opt=False)):
        for table, mine in zip(tables(other, "user"), tables(learn, "user"), strict=True):
            assert saved[names[id(mine)]][0].abs().max() == 0 < table[0].abs().max()
            assert torch.equal(table, mine)


def test_cold_rows_leave_other_models_alone():
    from fastai.learner import Learner

    model = torch.nn.Sequential(torch.nn.Flatten(0), torch.nn.Embedding(300, 1))
    learn = Learner(make_dls(), model, loss_func=lambda pred, y: pred.mean(), cbs=ColdRows)
    before = weights(model)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 0.0, wd=0.0)
    assert same_weights(before, model)


@pytest.mark.parametrize("fits", [0, 1])
def test_lr_find_leaves_the_model_as_it_was(fits, tmp_path):
    learn = make_learner("dot", path=tmp_path)
    learn.create_opt()
    for _ in range(fits):
        learn.fit(1, 1e-2)
    before, state = weights(learn.model), deepcopy(learn.opt.state_dict()["state"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learn.lr_find(num_it=20, show_plot=False)
    assert same_weights(before, learn.model)
    after = learn.opt.state_dict()["state"]
    assert after.keys() == state.keys() and len(state) == 4 * fits
    assert all(torch.equal(after[j][name], state[j][name]) for j in state for name in state[j])
    assert len(learn.recorder.lrs) == 20 and learn.recorder.lrs[0] < 1e-6 < learn.recorder.lrs[-1]


# --- mixed precision -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:mixed precision on a CPU")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["to_bf16", "to_fp16"])
def test_mixed_precision_on_a_cpu_trains_to_nearly_the_same_loss(kind, precision):
    learn = getattr(make_learner(kind), precision)()
    types = []

    class Watch(Callback):
        order = 20  # after autocast began

        def before_batch(self):
            types.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)

    with pytest.warns(UserWarning, match="saves no time"):
        learn.fit_one_cycle(8, 2e-2, wd=0.2, cbs=Watch())
    assert set(types) == {torch.bfloat16 if precision == "to_bf16" else torch.float16}
    assert not torch.is_autocast_enabled("cpu")
    assert learn.recorder.values[-1][1] == pytest.approx(trained(kind).last_valid_loss, abs=0.05)
    assert learn.get_preds()[0].dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in learn.model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_tensorboard_with_its_defaults(kind, tmp_path):
    """What fastai's callback logs of images is switched off, and said; the rest is there."""
    from fastai.callback.tensorboard import TensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    learn = make_learner(kind)
    with pytest.warns(CollabWarning, match="trace_model, log_preds made for images and switched off"):
        learn.fit(2, 1e-2, cbs=TensorBoardCallback(tmp_path))
    logged = EventAccumulator(str(tmp_path)).Reload()
    assert {"train_loss", "valid_loss", "lr_0"} <= set(logged.Tags()["scalars"])
    assert len(logged.Scalars("valid_loss")) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollabWarning)
        learn.fit(1, 1e-2, cbs=TensorBoardCallback(tmp_path, trace_model=False, log_preds=False))
