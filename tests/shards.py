"""What `test_torchrec.py` has one process do with plain tables, and several with tables in shards; see `several.py`."""

import json
import os
import signal
import sys
from pathlib import Path

import several
import torch
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientClip
from several import At, loaders, play, quiet, resumed_as_straight

from collabkit import (
    GMF,
    NCF,
    NDCG,
    FactorizationMachine,
    HitRate,
    NeuMF,
    TwoTower,
    collab_learner,
)
from collabkit.data.processes import launched, processes

CASES: dict = {}


def case(function):
    CASES[function.__name__] = function
    return function


def make(dls=None, **kwargs):
    options = {"n_factors": 6, "y_range": (0, 5.5)} if dls is None else {"n_factors": 6}
    return quiet(collab_learner(loaders("explicit") if dls is None else dls, **{**options, **kwargs}, sharded=True))


def fitted(learn, *args, n_epoch=2, evaluate=True, **kwargs):
    with learn.distrib_ctx(timeout=100):
        learn.fit_one_cycle(n_epoch, *args, **kwargs)
        return found(learn, evaluate)


def found(learn, evaluate=True):
    """All weights, wherever they are, the losses, the figures of epochs, a table of metrics, and lists."""
    model = learn.model
    result = {name: value.clone() for name, value in model.state_dict().items() if "tables" not in name}
    for side in model.sides:
        rows = side.read(torch.arange(side.n))
        result |= {f"tables of {side.name}s {j}": part for j, part in enumerate(rows)}
    result["losses"] = torch.stack([torch.as_tensor(loss).float() for loss in learn.recorder.losses])
    result["epochs"] = torch.tensor([list(map(float, row)) for row in learn.recorder.values])
    if evaluate:
        table = learn.evaluate(metrics=["HitRate", "NDCG", "AUC"], n_boot=20)
        result["table"] = torch.tensor(table.to_numpy(dtype=float)).nan_to_num()
        result["scores"] = torch.tensor(learn.recommend(several.source().ratings["user"].unique()[:9], 5)["score"])
    return result


@case
def ratings():
    return fitted(make(metrics=[HitRate(5)]), 0.05, wd=0.1)


@case
def bpr():
    return fitted(make(loaders(n_neg=2), loss_func="bpr", metrics=[NDCG(5)]), 0.05)


@case
def shared_negatives():
    learn = make(loaders(negatives="shared", n_neg=20), loss_func="sampled_softmax", sparse=False)
    return fitted(learn, 0.05)


@case
def network():
    return fitted(make(loaders(), model=NCF, layers=[16, 8], ps=0.3), 0.01)


@case
def other_models():
    found_by = {}
    for model in (GMF, NeuMF, TwoTower):
        found_by |= _named(model.__name__, fitted(make(loaders(), model=model), 0.01, n_epoch=1, evaluate=False))
    for name, options in {"machine": {"model": FactorizationMachine}, "network": {"use_nn": True}}.items():
        found_by |= _named(name, fitted(make(**options), 0.01, n_epoch=1, evaluate=False))
    return found_by


def _named(name, values):
    return {f"{key}, {name}": value for key, value in values.items()}


@case
def refitted():
    learn = make()
    with learn.distrib_ctx(timeout=100):
        learn.fit_one_cycle(1, 0.05)
        return found(quiet(learn.refit_all()), evaluate=False)


@case
def one_row_a_batch():
    return fitted(make(loaders("explicit", several.source().ratings.head(30), bs=1)), n_epoch=1, evaluate=False)


@case
def found_rate():
    learn = make()
    with learn.distrib_ctx(timeout=100):
        valley = learn.lr_find(show_plot=False).valley
        learn.fit_one_cycle(1, valley, cbs=[SaveModelCallback(fname=f"best-{launched()[1]}")])
        return found(learn) | {"valley": torch.tensor(valley)}


@case
def resumed():
    return resumed_as_straight(lambda *cbs, **kwargs: fitted(make(), 0.05, n_epoch=4, cbs=cbs, **kwargs))


@case
def exported():
    """The lists of the model that is trained, and of its artefact in one process."""
    learn = make(path=f"work-{launched()[1]}")
    users = several.source().ratings["user"].unique()
    with learn.distrib_ctx(timeout=100):
        learn.fit_one_cycle(2, 0.05)
        lists = learn.recommend(users, 5)
        learn.export("artefact")
        left = {
            "score": torch.tensor(lists["score"]),
            "title": torch.tensor(learn.dls.data.items.encode(lists["title"])),
        }
        return left | {"rows": torch.cat(learn.model.item_side.read(torch.arange(learn.model.n_items)), 1)}


def every_case():
    return {name: case() for name, case in CASES.items()}


def few_cases():
    return {name: CASES[name]() for name in ("ratings", "bpr")}


def bytes_of_shards():
    """What the tables and the moments of this process hold, and those of one that has all rows."""
    learn = make()
    with learn.distrib_ctx(timeout=100):
        learn.fit(1)
        states = [state for p in learn.model.parameters() for state in learn.opt.opt.state[p].values()]
        held = sum(t.untyped_storage().nbytes() for t in (*learn.model.parameters(), *states))
    return {"held": torch.tensor(held)}


def killed():
    cbs = [At(2, lambda: os.kill(os.getpid(), signal.SIGKILL))]
    return fitted(make(), n_epoch=4, cbs=cbs, checkpoint=Path("killed").resolve())


def goes_on():
    again = fitted(make(), n_epoch=4, checkpoint=Path("killed").resolve(), resume=True)
    straight = fitted(make(), n_epoch=4)
    assert all(torch.equal(straight[name], again[name]) for name in straight if name != "losses")
    return again


def goes_on_by_three():
    return fitted(make(), n_epoch=4, checkpoint=Path("killed").resolve(), resume=True)


def raises():
    def fail():
        raise MemoryError("no room for it")

    return fitted(make(), cbs=[At(1, fail)])


def diverges():
    """Weights that are no numbers on one process end the training on both."""

    class Break(At):
        def after_epoch(self):
            if launched()[0] == 1 and self.epoch == 0:
                self.learn.model.user_side.tables[0].weight.data[1] = torch.nan

    learn = make()
    with learn.distrib_ctx(timeout=30):
        learn.fit(3, cbs=[Break(9, None)])
        return {"epochs": torch.tensor(len(learn.recorder.values))}


def outside():
    make().fit(1)


def one_asks_alone():
    learn = make()
    with learn.distrib_ctx(timeout=100):
        processes().once(lambda: learn.recommend(several.source().ratings["user"][0]), "lists")


def clips():
    return fitted(make(), cbs=[GradientClip(0.1)])


def least_squares():
    learn = make(loaders())
    with learn.distrib_ctx(timeout=100):
        learn.fit_als(2)


def folds_in():
    learn = make()
    with learn.distrib_ctx(timeout=100):
        learn.fit(1)
        learn.fold_in(several.source().ratings.head(5).assign(user=99_999))


def updates():
    learn = make()
    with learn.distrib_ctx(timeout=100):
        learn.fit(1)
        learn.update(several.source().ratings.head(5))


def one_has_other_tables():
    learn = quiet(collab_learner(loaders("explicit"), n_factors=6, y_range=(0, 5.5), sharded=launched()[0] == 0))
    return fitted(learn)


def saves_otherwise():
    learn = make()
    with learn.distrib_ctx(timeout=100):
        learn.fit(1)
        learn.recommender.save(Path("otherwise").resolve())


def cannot_write():
    Path("a-file").write_text("")
    learn = make()
    with learn.distrib_ctx(timeout=100):
        learn.fit(1)
        learn.export(Path("a-file").resolve())


BAD = [killed, goes_on, raises, diverges, outside, one_asks_alone, clips, least_squares, folds_in, updates,
       one_has_other_tables, saves_otherwise, cannot_write]  # fmt: skip
SCENARIOS = [(every_case, 1), (every_case, 2), (few_cases, 3), (bytes_of_shards, 1), (bytes_of_shards, 2),
             *((scenario, 2) for scenario in BAD), (goes_on_by_three, 3)]  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    import torchrec  # noqa: F401  # once, before processes are forked

    where = Path(sys.argv[1])
    os.chdir(where)
    wanted = sys.argv[2:]
    ended = {f"{s.__name__}-{n}": play(s, n, where) for s, n in SCENARIOS if not wanted or s.__name__ in wanted}
    (where / "ended.json").write_text(json.dumps(ended))
