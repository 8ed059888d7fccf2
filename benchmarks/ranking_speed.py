"""Training speed on implicit feedback (ML-1M, NCF protocol): BPR against `implicit`'s C++, sampling, plain torch."""

from __future__ import annotations

import statistics
import time
from collections import deque
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback, CancelFitException
from torch import nn

from collabkit import NCF, CollabDataLoaders, collab_learner
from collabkit.train.sampling import UniformNegatives

from .common import data_folder, ncf_parts, write
from .peers import peer
from .ranking_quality import ALS, DOT

FACTORS, BS, LR, WD = 64, 16_384, 5e-3, 0.1
NCF_LAYERS = [64, 32, 16]
THREADS = (1, 2)
REPEATS = 9
WARM_UP = 2  # epochs not counted: first calls start threads and allocate
TARGET = 0.70  # HR@10 against the 99 given negatives

# A request is a number of epochs; the reply is their seconds, taken by the library itself, and HR@10 after them.
_BPR = """
import sys
import numpy as np
import scipy.sparse
from implicit.bpr import BayesianPersonalizedRanking

folder, threads = sys.argv[1], int(sys.argv[2])
rows = np.loadtxt(folder + "/ml-1m.train.rating", dtype=np.int64, usecols=(0, 1))
test = np.loadtxt(folder + "/ml-1m.test.rating", dtype=np.int64, usecols=(0, 1))
given = np.array([line.split("\\t")[1:] for line in open(folder + "/ml-1m.test.negative")], dtype=np.int64)
shown = np.concatenate([test[:, 1:], given], axis=1)
matrix = scipy.sparse.csr_matrix((np.ones(len(rows), np.float32), (rows[:, 0], rows[:, 1])), shape=(6040, 3706))
options = {"learning_rate": 0.05, "regularization": 0.01, "num_threads": threads, "random_state": 0}
model = BayesianPersonalizedRanking(factors=63, **options)
print("ready", flush=True)
for line in sys.stdin:
    model.iterations, seconds = int(line), []
    model.fit(matrix, show_progress=False, callback=lambda epoch, elapsed, *_: seconds.append(elapsed))
    scores = np.einsum("ud,ucd->uc", model.user_factors[test[:, 0]], model.item_factors[shown])
    hit = (scores[:, 1:] >= scores[:, :1]).sum(1) < 10
    print(sum(seconds), hit.mean(), flush=True)
"""


def bpr_speed() -> None:
    """BPR with one exact negative at d=64: samples a second of collabkit, `implicit`'s C++ and a plain torch step.

    `implicit` draws a negative and skips the sample if the user has seen it (a quarter of them on ML-1M); they count.
    The loader draws the negatives, permutes the rows and deals out the batches. Interleaved, medians.
    """
    dls = _dls(n_neg=1)
    n, rows = len(dls.train.dataset), []
    sampler, users = dls.train.batches.sampler, dls.train.dataset.user_idx
    generator = torch.Generator().manual_seed(0)
    for threads in THREADS:
        torch.set_num_threads(threads)
        learn, plain = _learner(dls), _Plain(dls)
        with peer(_BPR, str(data_folder() / "ml-1m-ncf"), threads=threads) as ask:
            functions = {
                "implicit, C++": lambda ask=ask: ask("1")[0],
                "collabkit": lambda learn=learn: epoch_seconds(learn),
                "collabkit, exact negatives alone": lambda: _timed(partial(sampler.draw, users, 1, generator)),
                "collabkit, loader alone": lambda: _timed(lambda: deque(dls.train, maxlen=0)),
                "plain torch step": lambda plain=plain: _timed(plain.epoch),
            }
            runs = {name: [] for name in functions}
            for _ in range(WARM_UP + REPEATS):
                for name, function in functions.items():
                    runs[name].append(function())
        seconds = {name: statistics.median(values[WARM_UP:]) for name, values in runs.items()}
        for name, value in seconds.items():
            rows.append(
                {
                    "threads": threads,
                    "what": name,
                    "epoch_seconds": round(value, 3),
                    "samples_a_second_M": round(n / value / 1e6, 2),
                    "times_implicit": round(value / seconds["implicit, C++"], 2),
                    "share_of_epoch": round(value / seconds["collabkit"], 2) if "alone" in name else "",
                }
            )
    write("bpr_speed", rows)


def ncf_speed() -> None:
    """An epoch of NCF, batch 512, 4 negatives, beside a plain torch loop that draws them without looking: CPU seconds.

    ML-1M without each user's last item, d=32, layers 64-32-16, BCE, fused AdamW, one thread. The plain loop permutes
    the rows and draws items with `torch.randint`, seen ones among them, whose scores and gradients cost as much.
    Interleaved, medians.
    """
    torch.set_num_threads(1)
    dls = _dls(n_neg=4, bs=512)
    learn, plain = _quiet(collab_learner(dls, model=NCF, n_factors=32, layers=NCF_LAYERS)), _PlainNCF(dls)
    cpu = time.process_time
    functions = {
        "collabkit": lambda: epoch_seconds(learn, cpu),
        "plain torch loop": lambda: _timed(plain.epoch, cpu),
    }
    runs = {name: [] for name in functions}
    for _ in range(1 + 3):
        for name, function in functions.items():
            runs[name].append(function())
    seconds = {name: statistics.median(values[1:]) for name, values in runs.items()}
    least = seconds["plain torch loop"]
    write("ncf_speed", [{"what": name, "epoch_cpu_seconds": round(value, 2), "ratio": round(value / least, 2)}
                        for name, value in seconds.items()])  # fmt: skip


def sampling_speed() -> None:
    """Exact unseen negatives on ML-1M, millions of draws a second, rows in the order of their users; medians."""
    train = _dls(n_neg=1).train.dataset
    rows = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        sampler, generator = UniformNegatives(train), torch.Generator().manual_seed(0)
        for n_neg in (1, 4, 8):
            draw = partial(sampler.draw, train.user_idx, n_neg, generator)
            seconds = statistics.median(_timed(draw) for _ in range(WARM_UP + REPEATS))
            rate = len(train) * n_neg / seconds / 1e6
            rows.append({"threads": threads, "n_neg": n_neg, "draws_a_second_M": round(rate, 1)})
    write("sampling_speed", rows)


def time_to_hit_rate() -> None:
    """Seconds of training until HR@10 (99 given negatives, ML-1M test items) reaches .70; two threads.

    The test items serve as a clock here, no setting was picked by them. `implicit`'s BPR is stopped after 100 epochs.
    """
    torch.set_num_threads(2)
    rows = []
    with peer(_BPR, str(data_folder() / "ml-1m-ncf"), threads=2) as ask:
        seconds, best = 0.0, 0.0
        for _ in range(20):
            more, hit_rate = ask("5")
            seconds, best = seconds + more, max(best, hit_rate)
            if hit_rate >= TARGET:
                break
        rows.append(_reached("implicit, BPR d=64", seconds, best))
    train, test, negatives = ncf_parts()
    for name, recipe in (("collabkit, gradient", DOT), ("collabkit, fit_als", ALS)):
        clock = _Clock(TARGET, negatives)
        recipe.fit(train, test, cbs=clock)
        rows.append(_reached(name, clock.seconds, clock.best))
    write("time_to_hit_rate", rows)


def _reached(what: str, seconds: float, best: float) -> dict:
    reached = best >= TARGET
    text = f"{seconds:.1f}" if reached else f"not within {seconds:.1f}"
    return {"what": what, f"seconds_to_HR@10_{TARGET:.2f}": text, "best_HR@10": round(best, 4)}


class _Clock(Callback):
    """Seconds of the training passes until HR@10 among given candidates reaches a target; training ends there."""

    order = 99  # after what validates and records

    def __init__(self, target: float, candidates):
        self.target, self.candidates, self.seconds, self.best = target, candidates, 0.0, 0.0

    def before_train(self):
        self.started = time.perf_counter()

    def after_train(self):
        self.seconds += time.perf_counter() - self.started

    def after_epoch(self):
        table = self.learn.evaluate(k=10, metrics=["HitRate"], candidates=self.candidates, n_boot=1)
        self.best = max(self.best, float(table["value"].iloc[0]))
        if self.best >= self.target:
            raise CancelFitException


class _Seconds(Callback):
    order = -99

    def __init__(self, now):
        self.now = now

    def before_train(self):
        self.started = self.now()

    def after_train(self):
        self.seconds = self.now() - self.started


def epoch_seconds(learn, now=time.perf_counter) -> float:
    """Seconds of the training pass of one epoch."""
    clock = _Seconds(now)
    learn.fit(1, LR, wd=WD, cbs=clock)
    return clock.seconds


def _learner(dls):
    return _quiet(collab_learner(dls, n_factors=FACTORS, loss_func="bpr"))


def _quiet(learn):
    if hasattr(learn, "progress"):
        learn.remove_cb(learn.progress)
    learn.logger = lambda *_: None
    return learn


class _Plain:
    """The same training in a bare loop with autograd through gathered rows, as one would write it at first."""

    def __init__(self, dls):
        self.dls, self.model = dls, collab_learner(dls, n_factors=FACTORS, loss_func="bpr").model
        parameters = {"lr": LR, "betas": (0.9, 0.99), "eps": 1e-5, "weight_decay": WD, "fused": True}
        self.optimiser = torch.optim.AdamW(self.model.parameters(), **parameters)

    def epoch(self) -> None:
        model = self.model
        tables = [t.weight for t in (model.u_weight, model.i_weight, model.i_bias)]
        for users, positives, negatives, _ in self.dls.train:
            p, q, b = tables
            items = torch.cat([positives[:, None], negatives], dim=1)  # (bs, 2)
            scores = (F.embedding(users, p)[:, None] * F.embedding(items, q)).sum(-1) + F.embedding(items, b)[..., 0]
            F.softplus(scores[:, 1] - scores[:, 0]).mean().backward()
            self.optimiser.step()
            self.optimiser.zero_grad()


class _PlainNCF:
    """NCF as one would write it at first: two tables, layers on their rows side by side, a row a negative."""

    def __init__(self, dls):
        data = dls.train.dataset
        self.users, self.items, self.n_items = data.user_idx, data.item_idx, data.n_items
        widths = [64, *NCF_LAYERS]
        layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        self.tables = nn.ModuleList([nn.Embedding(data.n_users, 32), nn.Embedding(data.n_items, 32)])
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        parameters = [*self.tables.parameters(), *self.layers.parameters()]
        options = {"lr": LR, "betas": (0.9, 0.99), "eps": 1e-5, "weight_decay": WD, "fused": True}
        self.optimiser = torch.optim.AdamW(parameters, **options)

    def epoch(self) -> None:
        for rows in torch.randperm(len(self.users)).split(512):
            negatives = torch.randint(1, self.n_items, (len(rows), 4))
            items = torch.cat([self.items[rows][:, None], negatives], 1)  # (bs, 5)
            users = self.users[rows][:, None].expand_as(items)
            target = torch.zeros(items.shape)
            target[:, 0] = 1
            scores = self.layers(torch.cat([self.tables[0](users), self.tables[1](items)], -1))[..., 0]
            F.binary_cross_entropy_with_logits(scores, target).backward()
            self.optimiser.step()
            self.optimiser.zero_grad()


def _dls(n_neg: int, bs: int = BS):
    train, test, _ = ncf_parts()
    return CollabDataLoaders.from_dfs(train, test, feedback="implicit", n_neg=n_neg, bs=bs, seed=0)


def _timed(function, now=time.perf_counter) -> float:
    start = now()
    function()
    return now() - start
