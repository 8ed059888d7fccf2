"""What networks of histories cost: a step, validation, an epoch beside RecTools, one question, ten thousand sessions.

CPU seconds on one thread, SASRec with 64 factors, two blocks and histories of 100 events of ML-1M unless said.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time

import pandas as pd
import torch
from fastai.callback.core import Callback, CancelFitException

from collabkit import AveragedHistory, GRURec, NextItem, Recommender, SASRec, collab_learner

from .common import write
from .sequences import dataloaders, figures

STEPS, ROUNDS = 60, 5
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
MODELS = [SASRec, GRURec, AveragedHistory, NextItem]


def sequence_steps() -> None:
    """A training step of `fit` and of a bare loop over the same batches, network, loss and optimiser; validation."""
    torch.set_num_threads(1)
    dls, _ = dataloaders("ML-1M")
    learn, other = (collab_learner(dls, model=SASRec, seed=0) for _ in range(2))
    rounds = []
    for _ in range(ROUNDS):
        timer = _Steps()
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(1, 1e-3, wd=0.01, cbs=timer)
        rounds.append((timer.seconds / STEPS, _bare_loop(other) / STEPS))
    step, bare = (statistics.median(column) for column in zip(*rounds, strict=True))
    loss, metrics = _cpu(learn.validate), _cpu(figures, learn, "valid")
    epoch = step * len(dls.train)
    rows = [
        {"what": "step, bare loop", "cpu_ms": 1e3 * bare, "ratio": 1.0},
        {"what": "step, fit", "cpu_ms": 1e3 * step, "ratio": statistics.median(ours / least for ours, least in rounds)},
        {"what": "epoch without validation", "cpu_ms": 1e3 * epoch, "ratio": 1.0},
        {"what": "validation: loss", "cpu_ms": 1e3 * loss, "ratio": loss / epoch},
        {"what": "validation: HitRate and NDCG, with intervals", "cpu_ms": 1e3 * metrics, "ratio": metrics / epoch},
    ]
    write("sequence_steps", [{**row, "cpu_ms": f"{row['cpu_ms']:.4g}", "ratio": f"{row['ratio']:.2f}"} for row in rows])


def sequence_peer() -> None:
    """Two epochs of SASRec here and in RecTools, whose Python `COLLABKIT_RECTOOLS` names: the whole fits, in turn.

    RecTools has its full softmax and its own defaults. Figures are those of the validation part.
    """
    if "COLLABKIT_RECTOOLS" not in os.environ:
        print("sequence_peer: left out, COLLABKIT_RECTOOLS does not name the Python of an environment with rectools")
        return
    torch.set_num_threads(1)
    dls, _ = dataloaders("ML-1M")
    train = dls.train.items[["user", "item", "time"]]
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        train.to_csv(file.name, index=False)
        command = [os.environ["COLLABKIT_RECTOOLS"], "-c", RECTOOLS, file.name]
        theirs = subprocess.run(command, env={**os.environ, **THREADS}, capture_output=True, text=True, check=True)
    start = time.process_time()
    learn = collab_learner(dls, model=SASRec, seed=0)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 3e-3, wd=0.01, pct_start=0.15)
    ours, theirs = time.process_time() - start, float(theirs.stdout.split()[-1])
    rows = [
        {"what": "collabkit, 512 negatives", "cpu_seconds": round(ours, 1), "ratio": round(ours / theirs, 2),
         **figures(learn, "valid")},
        {"what": "RecTools, full softmax", "cpu_seconds": round(theirs, 1), "ratio": 1.0},
    ]  # fmt: skip
    write("sequence_peer", rows)


RECTOOLS = """
import sys, time, warnings
warnings.simplefilter('ignore')
import pandas as pd, torch
torch.set_num_threads(1)
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
df = pd.read_csv(sys.argv[1])
df = pd.DataFrame({Columns.User: df.user, Columns.Item: df.item, Columns.Weight: 1.0,
                   Columns.Datetime: pd.Timestamp('2000-01-01') + pd.to_timedelta(df.time, unit='h')})
data = Dataset.construct(df)
start = time.process_time()
SASRecModel(n_factors=64, n_blocks=2, n_heads=2, session_max_len=100, epochs=2, batch_size=128, loss='softmax',
            lr=.001, verbose=0).fit(data)
print(time.process_time() - start)
"""


def sequence_serving() -> None:
    """`Recommender.load(...).recommend(history=)`: one user's whole history, and 10,000 in one call; 10 items each."""
    torch.set_num_threads(1)
    dls, _ = dataloaders("ML-1M")
    histories = [dls.data.items.decode(row.numpy()).tolist() for row in dls.data.latest.last(100) if len(row)]
    rows = []
    for model in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            if model is NextItem:
                model().fit(dls).recommender.save(f"{folder}/model")
            else:
                collab_learner(dls, model=model).export(f"{folder}/model")
            rec = Recommender.load(f"{folder}/model")
        for longest in (100, 10):
            given = [history[-longest:] for history in histories]
            one = _one_by_one(rec, given)
            many = min(_cpu(rec.recommend, history=_table((given * 2)[:10_000]), k=10) for _ in range(2)) / 10_000
            rows.append({"model": model.__name__, "events": f"up to {longest}", "one_cpu_ms": f"{1e3 * one:.2f}",
                         "of_10000_cpu_ms": f"{1e3 * many:.3f}", "times_the_rate": f"{one / many:.1f}"})  # fmt: skip
    write("sequence_serving", rows)


def _table(histories: list) -> pd.DataFrame:
    parts = [pd.DataFrame({"user": j, "item": items, "time": range(len(items))}) for j, items in enumerate(histories)]
    return pd.concat(parts, ignore_index=True)


def _one_by_one(rec: Recommender, histories: list) -> float:
    """The median over blocks of 20 calls of the CPU seconds of one."""
    rec.recommend(history=histories[0], k=10)

    def block(j: int) -> None:
        for history in histories[20 * j : 20 * j + 20]:
            rec.recommend(history=history, k=10)

    return statistics.median(_cpu(block, j) for j in range(20)) / 20


def _bare_loop(learn) -> float:
    """CPU seconds of `STEPS` steps as few lines of torch do them, the making of the batches left out."""
    model, loss_func = learn.model.train(), learn.loss_func
    batches = [batch for batch, _ in zip(learn.dls.train, range(STEPS), strict=False)]
    n_inputs = learn.dls.n_inp
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, fused=True)

    def loop() -> None:
        for batch in batches:
            loss_func(model(*batch[:n_inputs]), *batch[n_inputs:]).backward()
            opt.step()
            opt.zero_grad()

    return _cpu(loop)


class _Steps(Callback):
    """CPU seconds of `STEPS` training steps after the first."""

    def before_fit(self) -> None:
        self.n = 0

    def after_batch(self) -> None:
        self.n += 1
        if self.n == 1:
            self.start = time.process_time()
        elif self.n == STEPS + 1:
            self.seconds = time.process_time() - self.start
            raise CancelFitException


def _cpu(function, *args, **kwargs) -> float:
    start = time.process_time()
    function(*args, **kwargs)
    return time.process_time() - start
