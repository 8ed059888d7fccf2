"""Training that goes on after it was killed, and files of weights that are whole, the older one, or refused."""

import json
import random
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from elsewhere import started
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from helpers import killed, make_dls, silence, synthetic

from collabkit import CollabDataLoaders, CollabWarning, collab_learner
from collabkit.models import GMF, NeuMF, TwoTower
from collabkit.serve.files import DamagedFileError, beside, read_tensors, write_tensors
from collabkit.train.checkpoint import pack, unpack
from collabkit.train.sampling import AllItems

FEATURES = {"items": None, "item_features": {"year": "binned", "genres": "multi"}}


def events(**kwargs):
    df = synthetic().ratings[["user", "title", "timestamp"]]
    names = {"user_name": "user", "item_name": "title", "time_name": "timestamp"}
    return CollabDataLoaders.from_df(df, **names, feedback="implicit", seed=3, bs=128, **kwargs)


def rated(**kwargs):
    return make_dls(**kwargs)


CASES = {  # dataloaders, options of the learner, how it trains
    "CollFilter": (rated, {"n_factors": 5, "y_range": (0.5, 5.5)}, {}),
    "sparse tables": (rated, {"n_factors": 5, "sparse": True}, {"wd": 0.0}),
    "features": (
        lambda: rated(items=synthetic().items, item_features=FEATURES["item_features"]),
        {"n_factors": 5, "y_range": (0.5, 5.5), "id_dropout": 0.2},
        {},
    ),
    "EmbeddingNN with dropout": (rated, {"use_nn": True, "layers": [12, 6], "ps": 0.2, "embed_p": 0.1}, {}),
    "BPR": (events, {"n_factors": 5, "loss_func": "bpr"}, {}),
    "nothing named": (events, {"n_factors": 5}, {}),
    "bce": (events, {"n_factors": 5, "loss_func": "bce"}, {}),
    "sampled softmax": (partial(events, negatives="shared", n_neg=16), {"loss_func": "sampled_softmax"}, {}),
    "softmax by user": (
        partial(events, negatives=partial(AllItems, mask_seen=True), by_user=True),
        {"n_factors": 5, "loss_func": "softmax"},
        {},
    ),
    "NCF": (events, {"use_nn": True, "ps": 0.2}, {}),
    "NeuMF": (events, {"model": NeuMF}, {}),
    "GMF": (events, {"model": GMF}, {}),
    "TwoTower": (events, {"model": TwoTower, "n_factors": 6}, {}),
    "fit_als": (events, {"n_factors": 5}, "fit_als"),
    "fit_sgdr": (rated, {"n_factors": 5}, "fit_sgdr"),
    "bfloat16": (rated, {"n_factors": 5}, "bf16"),
    "float16": (rated, {"n_factors": 5}, "fp16"),
}
N_EPOCH = 4


def make(case):
    dls, options, _ = CASES[case]
    learn = silence(collab_learner(dls(), seed=7, **options))
    if CASES[case][2] in ("bf16", "fp16"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollabWarning)
            getattr(learn, f"to_{CASES[case][2]}")()
    return learn


def train(case, learn, **kwargs):
    how = CASES[case][2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        if how == "fit_als":
            learn.fit_als(N_EPOCH, **kwargs)
        elif how == "fit_sgdr":
            learn.fit_sgdr(2, 1, 1e-2, cycle_mult=3, **kwargs)
        else:
            learn.fit_one_cycle(N_EPOCH, 1e-2, **({} if isinstance(how, str) else how), **kwargs)
    return learn


def weights(learn):
    return {name: value.clone() for name, value in learn.model.state_dict().items()}


def assert_equal(learn, other):
    ours, theirs = weights(learn), weights(other)
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    values = [list(row) for row in learn.recorder.values]
    assert values == [list(row) for row in other.recorder.values]
    assert [float(loss) for loss in learn.recorder.losses] == [float(loss) for loss in other.recorder.losses]
    assert learn.recorder.lrs == other.recorder.lrs and learn.recorder.iters == other.recorder.iters
    assert torch.equal(learn._rng, other._rng) and learn._loader_epoch == other._loader_epoch


class Stop(Exception):
    """An interruption."""


def stop_at(epoch, batch):
    """A callback that interrupts the given batch."""
    from fastai.callback.core import Callback

    class Interrupt(Callback):
        def before_batch(self):
            if self.learn.training and (self.learn.epoch, self.learn.iter) == (epoch, batch):
                raise Stop

        def before_train(self):  # least squares has no batches
            if self.learn.epoch == epoch and batch == 0:
                raise Stop

    return Interrupt()


@pytest.mark.parametrize("case", CASES)
def test_a_training_that_goes_on_is_the_one_that_was_never_interrupted(case, tmp_path):
    whole = train(case, make(case))
    kept = train(case, make(case), checkpoint=tmp_path / "whole")
    assert_equal(kept, whole)  # keeping checkpoints changes nothing
    for epoch, batch in ((0, 3), (1, 0), (3, 2)):
        batch = 0 if case == "fit_als" else min(batch, len(whole.dls.train) - 1)
        folder = tmp_path / f"{epoch}"
        with pytest.raises(Stop):
            train(case, make(case), checkpoint=folder, cbs=stop_at(epoch, batch))
        again = train(case, make(case), checkpoint=folder, resume=True)
        assert_equal(again, whole)
        assert len(list(folder.iterdir())) == 2
    done = train(case, make(case), checkpoint=tmp_path / "whole", resume=True)  # nothing is left to do
    assert_equal(done, whole)
    assert whole.recommend(whole.dls.data.users.ids[:3]).equals(done.recommend(done.dls.data.users.ids[:3]))


def test_the_learner_that_was_interrupted_goes_on_itself(tmp_path):
    whole, learn = train("EmbeddingNN with dropout", make("EmbeddingNN with dropout")), make("EmbeddingNN with dropout")
    with pytest.raises(Stop):
        train("EmbeddingNN with dropout", learn, checkpoint=tmp_path, cbs=stop_at(2, 5))
    learn.recommend(1)  # a look in between changes nothing
    assert_equal(train("EmbeddingNN with dropout", learn, checkpoint=tmp_path, resume=True), whole)


@pytest.mark.parametrize("best", ["save", "stop"])
def test_what_callbacks_remember_goes_on_too(best, tmp_path):
    def run(folder, **kwargs):
        learn = make("CollFilter")
        learn.path = folder
        make_cb = {"save": SaveModelCallback, "stop": partial(EarlyStoppingCallback, patience=1, min_delta=0.02)}[best]
        learn.fit(6, 2e-2, cbs=[make_cb(monitor="valid_loss"), *kwargs.pop("cbs", [])], **kwargs)
        return learn

    whole = run(tmp_path / "whole")
    for epoch in (1, 2):
        if epoch >= len(whole.recorder.values):
            break
        folder = tmp_path / str(epoch)
        with pytest.raises(Stop):
            run(folder, checkpoint="run", cbs=[stop_at(epoch, 4)])
        again = run(folder, checkpoint="run", resume=True)
        assert again.recorder.values == whole.recorder.values
        for name, value in weights(again).items():
            assert torch.equal(value, weights(whole)[name])


def test_checkpoints_of_another_training_are_refused(tmp_path):
    train("CollFilter", make("CollFilter"), checkpoint=tmp_path)
    with pytest.raises(FileExistsError, match="holds checkpoints of a training run; pass resume=True"):
        train("CollFilter", make("CollFilter"), checkpoint=tmp_path)
    learn = make("CollFilter")
    for change, told in (
        (lambda: learn.fit_one_cycle(5, 1e-2, checkpoint=tmp_path, resume=True), "epochs was 4, is 5"),
        (lambda: learn.fit_one_cycle(4, 2e-2, checkpoint=tmp_path, resume=True), "param_scheduler was"),
        (lambda: learn.fit_one_cycle(4, 1e-2, wd=0.3, checkpoint=tmp_path, resume=True), "optimiser was"),
        (lambda: train("features", make("features"), checkpoint=tmp_path, resume=True), "size was"),
        (lambda: train("BPR", make("BPR"), checkpoint=tmp_path, resume=True), "training data was"),
    ):
        with pytest.raises(ValueError, match=f"are of another training run: .*{told}"):
            change()
    with pytest.raises(ValueError, match="resume=True needs checkpoint="):
        learn.fit(1, resume=True)
    assert not weights(learn)["user_side.tables.0.weight"].isnan().any()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    whole = train("BPR", make("BPR"))
    with pytest.raises(Stop):
        train("BPR", make("BPR"), checkpoint=tmp_path, cbs=stop_at(3, 1))
    newest = max(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(CollabWarning, match=f"{newest.name} is damaged.*the previous checkpoint is used"):
        learn = make("BPR")
        learn.fit_one_cycle(N_EPOCH, 1e-2, checkpoint=tmp_path, resume=True)
    assert_equal(learn, whole)


# --- killed -----------------------------------------------------------------------------------------------------------

KILLED = """
import warnings
warnings.simplefilter("ignore")
from test_checkpoints import make, train
train({case!r}, make({case!r}), checkpoint={folder!r}, resume=True)
"""


def kill_and_go_on(case, folder, told, n_kills, seed):
    """Kill a training at random moments after it has begun, then let it end."""
    code = KILLED.format(case=case, folder=str(folder))
    rng = random.Random(seed)
    for _ in range(n_kills):
        (process, _), waited = started(code, folder=told), 0
        before = set(folder.glob("epoch_*"))
        while process.is_alive() and waited < 60 and set(folder.glob("epoch_*")) == before:
            time.sleep(0.01)
            waited += 0.01
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        process.join(30)
    return train(case, make(case), checkpoint=folder, resume=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", ["CollFilter", "sparse tables", "EmbeddingNN with dropout", "BPR", "fit_als"])
def test_after_forty_kills(case, tmp_path):
    whole = train(case, make(case))
    for run in range(4):
        assert_equal(kill_and_go_on(case, tmp_path / str(run), tmp_path, n_kills=2, seed=run), whole)


# --- files of weights -------------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path):
    learn = make("CollFilter")
    learn.path = tmp_path
    learn.fit(1, 1e-2)
    file = learn.save("half")
    assert file == tmp_path / "models" / "half.safetensors" and file.is_file()
    kept, moments = weights(learn), learn.opt.opt.state_dict()["state"][0]["exp_avg"].clone()
    learn.fit(1, 1e-2)
    for name in ("half", "half.safetensors", Path("half")):
        learn.load(name)
        assert all(torch.equal(kept[name], value) for name, value in weights(learn).items())
        assert torch.equal(learn.opt.opt.state_dict()["state"][0]["exp_avg"], moments)
    fresh = make("CollFilter")
    fresh.path = tmp_path
    fresh.load("half")
    assert torch.equal(fresh.opt.opt.state_dict()["state"][0]["exp_avg"], moments)
    learn.save("bare", with_opt=False)
    with pytest.warns(CollabWarning, match="saved without an optimiser"):
        learn.load("bare")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint .*nothing.safetensors, nor one of fastai"):
        learn.load("nothing")


def test_fastais_own_checkpoints_load(tmp_path):
    from fastai.learner import save_model

    learn = make("CollFilter")
    learn.path = tmp_path
    learn.fit(1, 1e-2)
    kept = weights(learn)
    (tmp_path / "models").mkdir()
    save_model(tmp_path / "models" / "old.pth", learn.model, learn.opt)
    learn.fit(1, 1e-2)
    learn.load("old")
    assert all(torch.equal(kept[name], value) for name, value in weights(learn).items())


def test_a_flipped_bit_is_not_loaded(tmp_path):
    learn = make("CollFilter")
    learn.path = tmp_path
    learn.fit(1, 1e-2)
    file = learn.save("it")
    good, rng = file.read_bytes(), np.random.default_rng(0)
    header = int.from_bytes(good[:8], "little") + 8
    places = [*rng.integers(0, header * 8, 150), *rng.integers(header * 8, len(good) * 8, 150)]
    before = weights(learn)
    for place in map(int, places):
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        file.write_bytes(bad)
        with pytest.raises(DamagedFileError, match="it.safetensors"):
            learn.load("it")
    for cut in rng.integers(0, len(good), 30):
        file.write_bytes(good[:cut])
        with pytest.raises(DamagedFileError):
            learn.load("it")
    assert all(torch.equal(before[name], value) for name, value in weights(learn).items())


SAVING = """
import warnings
warnings.simplefilter("ignore")
import torch
from collabkit.serve.files import write_tensors
from pathlib import Path
print("ready", flush=True)
for j in range(10**6):
    write_tensors(Path({file!r}), {{"a": torch.full((300_000,), float(j))}}, {{"j": j}})
"""


def kill_while_saving(file, n_kills, seed=0):
    rng = random.Random(seed)
    for _ in range(n_kills):
        code = SAVING.format(file=str(file))
        killed(code, rng.uniform(0.005, 0.1))
        tensors, content = read_tensors(file)
        assert (tensors["a"] == content["j"]).all()
    with beside(file):
        pass
    assert [path.name for path in file.parent.iterdir()] == [file.name]  # nothing is left of those that were killed


def test_a_kill_while_saving_loses_nothing(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(3)}, {"j": 0})
    kill_while_saving(tmp_path / "x.safetensors", 3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_kills_while_saving_lose_nothing(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(3)}, {"j": 0})
    kill_while_saving(tmp_path / "x.safetensors", 100)


def test_tensors_of_all_kinds_come_back(tmp_path):
    table = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "shared": table, "part": table[1:], "transposed": table.T, "scalar": torch.tensor(3), "none": torch.zeros(0, 4),
        "bool": torch.tensor([True, False]), "half": torch.ones(2, dtype=torch.bfloat16),
    }  # fmt: skip
    write_tensors(tmp_path / "deep" / "x.safetensors", tensors, {"text": "ü", "n": [1, None, float("inf")]})
    found, content = read_tensors(tmp_path / "deep" / "x.safetensors")
    assert content == {"text": "ü", "n": [1, None, float("inf")]}
    for name, value in tensors.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype
    with pytest.raises(DamagedFileError, match="not a checkpoint"):
        (tmp_path / "y.safetensors").write_text(json.dumps({}))
        read_tensors(tmp_path / "y.safetensors")


def test_states_of_optimisers_come_back():
    from fastcore.foundation import L

    state = {
        "state": {0: {"step": torch.tensor(3.0), "moments": [torch.ones(2)]}, 7: {}},
        "hypers": L({"lr": 1e-3, "betas": (0.9, 0.99), "fused": True, "none": None}),
        "array": np.arange(3), "number": np.float64(2.5),
    }  # fmt: skip
    tensors = {}
    found = unpack(json.loads(json.dumps(pack(state, tensors))), tensors)
    assert repr(found) == repr(state) and isinstance(found["hypers"], L)
    with pytest.raises(TypeError, match="a checkpoint cannot hold a/b, a set"):
        pack({"a": {"b": {1}}}, {})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"lr": float("nan")}, "lr must be a finite number, got nan"), ({"lr": -1}, "lr must not be negative, got -1"),
        ({"lr": float("inf")}, "lr must be a finite"), ({"wd": -1}, "wd must not be negative, got -1"),
        ({"wd": float("nan")}, "wd must be a finite"), ({"lr": slice(1e-3, -1)}, "lr must not be negative"),
        ({"lr": "1e-3"}, "lr must be a finite number, got '1e-3'"),
    ],
)  # fmt: skip
def test_rates_that_train_nothing_are_refused(options, told):
    learn = make("CollFilter")
    before = weights(learn)
    with pytest.raises(ValueError, match=told):
        learn.fit(1, **options)
    if "lr" in options:
        with pytest.raises(ValueError, match=told.replace("lr", "lr_max", 1)):
            learn.fit_one_cycle(1, options["lr"])
    assert all(torch.equal(before[name], value) for name, value in weights(learn).items())


@pytest.mark.parametrize("options", [{"lr": 1e30}, {"wd": 1e30, "lr": 1.0}])
def test_a_training_that_diverges_says_so_and_stops(options):
    learn = make("CollFilter")
    with pytest.warns(CollabWarning, match="training diverged in epoch 0: weights are NaN or infinite"):
        learn.fit(5, **options)
    assert len(learn.recorder.values) == 1
    with pytest.raises(ValueError, match="NaN"):
        learn.recommend(1)


def test_errors_of_callbacks_keep_their_words():
    from fastai.callback.core import Callback

    class Bare(Callback):
        def before_train(self):
            raise AssertionError

    class Batch(Callback):
        def after_loss(self):
            raise LookupError

    learn = make("CollFilter")
    for cb, kind in ((Bare(), AssertionError), (Batch(), LookupError)):
        with pytest.raises(kind):
            learn.fit(1, cbs=cb)
    for wanted in ("NDCG@10", "ndcg", "valid_los"):
        with pytest.raises(ValueError, match=f"monitor='{wanted}'.: no such figure is recorded.*there are train_loss,"):
            learn.fit(1, cbs=SaveModelCallback(monitor=wanted))
    with pytest.raises(ValueError, match="did you mean 'valid_loss'"):
        learn.fit(1, cbs=EarlyStoppingCallback(monitor="valid_los"))
    with pytest.raises(Exception, match="missing no_event_at_all"):
        learn("no_event_at_all")
