"""What the tests of models, learner, artefact, recommender and interpretation share: data, learners, interruptions."""

import os
import signal
import sys
import tempfile
import time
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from elsewhere import started

from collabkit import CollabDataLoaders, collab_learner, datasets, splits
from collabkit.models import GMF, NeuMF, TwoTower

DATA = Path(os.environ.get("COLLABKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
Y_RANGE = (0.5, 5.5)
KINDS = ("dot", "nn")  # CollFilter and EmbeddingNN: every contract test runs over both
OPTIONS = {"dot": {"n_factors": 8}, "nn": {"use_nn": True, "layers": [16, 8], "emb_szs": [6, 5], "ps": 0.1}}


@lru_cache
def synthetic(seed=1, **kwargs):
    sizes = {"n_users": 200, "n_items": 150, "n_ratings": 6000, "min_events": 10, **kwargs}
    return datasets.synthetic(**sizes, seed=seed)


def ratings(seed=1):
    """6,000 ratings of 200 users and 150 items: `user`, `title`, `rating`, `timestamp`, `item`."""
    return synthetic(seed).ratings.copy()


def make_dls(df=None, **kwargs):
    df = ratings() if df is None else df
    names = {"user_name": "user", "item_name": "title", "rating_name": "rating"}
    return CollabDataLoaders.from_df(df, **{**names, "seed": 42, "bs": 256, **kwargs})


def make_learner(kind="dot", dls=None, **kwargs):
    """A silent, untrained learner of a kind of model."""
    dls = make_dls() if dls is None else dls
    return silence(collab_learner(dls, **{"y_range": Y_RANGE, **OPTIONS[kind], **kwargs}))


def killed(code, seconds):
    """Run Python `code`, which prints a line when it is ready, and kill it so many `seconds` later."""
    with tempfile.TemporaryDirectory() as folder:
        process, told = started(code, folder=folder)
        while not told["stdout"].stat().st_size:
            assert process.is_alive(), told["stderr"].read_text()
            time.sleep(0.002)
        time.sleep(seconds)
        process.kill()
        process.join(30)


TEXT = pd.Index(["a"]).dtype  # of texts: object before pandas 3, str from there on


def silence(learn):
    """No progress bar, no table of losses."""
    if hasattr(learn, "progress"):
        learn.remove_cb(learn.progress)
    learn.logger = lambda *_: None
    return learn


@lru_cache
def trained(kind="dot"):
    """A trained learner that tests share: read it, never change it."""
    learn = make_learner(kind)
    learn.fit_one_cycle(8, 2e-2, wd=0.2)
    learn.last_valid_loss = float(learn.recorder.values[-1][1])  # validating clears the recorder
    return learn


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same_weights(a, b):
    a, b = (x if isinstance(x, dict) else x.state_dict() for x in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def checkerboard(n_users=60, n_items=40, n_ratings=1500, noise=0.4, seed=0):
    """Ratings 2 or 4 by whether user and item belong together, plus noise: no bias can explain them, factors can."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(n_users * n_items, n_ratings, replace=False)
    user, item = np.divmod(cells, n_items)
    rating = 3.0 + np.where(user % 2 == item % 2, 1.0, -1.0) + noise * rng.normal(size=n_ratings)
    title = pd.Series(item).map("item {:02d}".format)
    return pd.DataFrame({"user": user, "title": title, "rating": rating.clip(0.6, 5.4)})


class Interrupt(BaseException):
    """Like KeyboardInterrupt: no `except Exception` stops it."""


class interrupted_at:
    """Context: `action()` runs when the `n`-th line of the file `name` is about to be executed; `lines` counts them.

    With `once`, a line counts the first time only; with `functions`, lines of these functions alone count.
    """

    def __init__(self, name, n=None, action=None, *, once=False, functions=None):
        self.name, self.n, self.action, self.once, self.functions = name, n, action, once, functions
        self.lines, self.where, self.known = 0, None, set()

    def __enter__(self):
        self.old = sys.gettrace()
        sys.settrace(self._enter_frame)
        return self

    def __exit__(self, *_):
        sys.settrace(self.old)

    def _enter_frame(self, frame, event, arg):
        code = frame.f_code
        wanted = code.co_filename.endswith(self.name) and (not self.functions or code.co_name in self.functions)
        return self._line if wanted else None

    def _line(self, frame, event, arg):
        if event == "line" and not (self.once and frame.f_lineno in self.known):
            self.known.add(frame.f_lineno)
            self.lines += 1
            if self.lines == self.n:
                self.where = f"{frame.f_code.co_name}:{frame.f_lineno}"
                self.action()
        return self._line


def in_child(function):
    """Run `function()` in a forked process and return its exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside other threads
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(60)
            function()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- implicit feedback -----------------------------------------------------------------------------------------------

RANKERS = ("dot", "ncf", "gmf", "neumf", "towers", "cosine")  # every kind of model that ranks
RANKER_OPTIONS = {
    "dot": {"n_factors": 4, "loss_func": "bce"},
    "ncf": {"use_nn": True, "n_factors": 4, "layers": [16, 8]},
    "gmf": {"model": GMF, "n_factors": 4},
    "neumf": {"model": NeuMF, "n_factors": 4, "layers": [16, 8]},
    "towers": {"model": TwoTower, "n_factors": 4},
    "cosine": {"model": TwoTower, "n_factors": 8, "layers": [16, 8], "similarity": "cosine", "temperature": 0.2},
}
FIT = {"dot": (15, 5e-2), "ncf": (20, 3e-2), "gmf": (12, 5e-2), "neumf": (12, 3e-2), "towers": (12, 5e-2)}


def clicks(n_users=80, n_items=40, per_user=11, faithful=0.9, seed=0):
    """Clicks on items of the user's own kind (parity) or, one in ten, the other; popular items more; no repeated pair.

    The columns are `user`, `title` and `time`, without ties.
    """
    rng = np.random.default_rng(seed)
    user, item = np.arange(n_users)[:, None], np.arange(n_items)
    weight = np.where(user % 2 == item % 2, faithful, 1 - faithful) / (3 + item // 2)
    chosen = np.argsort(-(np.log(weight) + rng.gumbel(size=weight.shape)), axis=1)[:, :per_user]
    title = pd.Series(chosen.ravel()).map("item {:02d}".format)
    return pd.DataFrame(
        {"user": np.repeat(user.ravel(), per_user), "title": title, "time": rng.permutation(len(title))}
    )


def make_clicks_dls(df=None, **kwargs):
    df = clicks() if df is None else df
    split = splits.leave_last_out(2, time_name="time")
    return CollabDataLoaders.from_df(
        df, **{"feedback": "implicit", "time_name": "time", "splitter": split, "seed": 42, "bs": 32, **kwargs}
    )


def make_ranker(kind="dot", dls=None, **kwargs):
    """A silent, untrained learner of a kind of model that ranks."""
    dls = make_clicks_dls() if dls is None else dls
    return silence(collab_learner(dls, **{**RANKER_OPTIONS[kind], **kwargs}))


@lru_cache
def trained_ranker(kind="dot"):
    """A trained learner that tests share: read it, never change it."""
    learn = make_ranker(kind)
    epochs, lr = FIT.get(kind, (12, 3e-2))
    learn.fit_one_cycle(epochs, lr, wd=0.1)
    return learn


@torch.no_grad()
def score_table(model):
    """Scores `(n_users, n_items)` of every pair, one by one."""
    model.eval()
    pairs = torch.cartesian_prod(torch.arange(model.n_users), torch.arange(model.n_items))
    return model(pairs).view(model.n_users, model.n_items)


def seen_table(data):
    """Which pairs `(n_users, n_items)` the interactions hold."""
    seen = torch.zeros(data.n_users, data.n_items, dtype=torch.bool)
    seen[data.user_idx, data.item_idx] = True
    return seen


def auc_of(scores, dls):
    """Mean over users: how often a validation item scores above an item that is in neither part; a tie is a half."""
    train, valid = (seen_table(dl.dataset) for dl in dls)
    values = []
    for user in valid.any(1).nonzero().flatten().tolist():
        others = ~(train[user] | valid[user])
        others[0] = False
        own, rest = scores[user][valid[user]][:, None], scores[user][others][None, :]
        values.append(((own > rest).double() + 0.5 * (own == rest)).mean().item())
    return float(np.mean(values))
