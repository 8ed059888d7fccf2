"""Recommendations for all users of ML-1M against the bare matrix product, import times, and users held out entirely.

And the light runtime against `Recommender`: from nothing to the first answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from collabkit import CollabDataLoaders, Recommender, collab_learner
from collabkit.retrieval.ranking import block_size
from collabkit.train.recipes import QUALITY_1M, QUALITY_100K

from .common import NAMES, fit, interleaved, median_seconds, ratings, write

REPEATS = 15


def recommend() -> None:
    """`learn.recommend` for all users at k=10, against the blocked matmul + topk alone."""
    dls = CollabDataLoaders.from_df(ratings("1m"), valid_pct=0.1, seed=0, bs=QUALITY_1M.bs, **NAMES)
    learn = fit(dls, QUALITY_1M)
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        functions = {"matmul + topk": lambda: _bare(learn.model), "learn.recommend": lambda: learn.recommend(k=10)}
        runs = interleaved(functions, REPEATS)
        limit = median_seconds(runs["matmul + topk"])
        for name, done in runs.items():
            seconds = median_seconds(done)
            rows.append(
                {
                    "threads": threads,
                    "what": f"{name}, {dls.train.dataset.n_users - 1} users",
                    "milliseconds": round(1000 * seconds, 1),
                    "times_limit": round(seconds / limit, 2),
                }
            )
    write("recommend", rows)


@torch.inference_mode()
def _bare(model) -> list:
    users = model.user_vectors(torch.arange(1, model.n_users))
    items = model.item_vectors(torch.arange(1, model.n_items)).T.contiguous()
    parts = users.split(block_size(model, model.n_items - 1, "512MB"))
    buffer = items.new_empty(len(parts[0]), items.shape[1])  # reused: fresh memory costs more than the product
    return [torch.mm(part, items, out=buffer[: len(part)]).topk(10, dim=1) for part in parts]


def imports() -> None:
    """Seconds of imports in fresh processes, interleaved, the interpreter's own start taken off (medians)."""
    statements = {
        "import collabkit": "import collabkit",
        "torch and pandas alone": "import torch, pandas",
        "from collabkit import Recommender": "from collabkit import Recommender",
    }
    codes = {"python": "pass", **statements}
    runs = interleaved({name: lambda code=code: _start(code) for name, code in codes.items()}, 9)
    seconds = {name: median_seconds(done) for name, done in runs.items()}
    write("imports", [{"what": k, "seconds": round(max(0.0, seconds[k] - seconds["python"]), 3)} for k in statements])


def _start(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# Prints CPU seconds, from the start of the process, and megabytes, all of its own and its share of what it maps.
_FIRST = """
import json, time
from collabkit.serve{module} import {cls}
made = {cls}.load({folder!r})
answers = [made.recommend(user) for user in [{user!r}]]
first = time.process_time()
made.recommend(history={history!r})
told = time.process_time() - first
for user in {users!r}:
    made.recommend(user)
each = (time.process_time() - first - told) / len({users!r})
sizes = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
megabytes = {{name: int(sizes[name].split()[0]) / 1024 for name in ("Rss", "Pss")}}
print(json.dumps({{"first": first, "history": told, "each": each, **megabytes}}))
"""


def _als() -> Recommender:
    """ALS with 64 factors on ML-1M."""
    dls = CollabDataLoaders.from_df(ratings("1m"), user_name="user", item_name="item", feedback="implicit",
                                    valid_pct=0.1, seed=0)  # fmt: skip
    learn = collab_learner(dls, n_factors=64)
    with learn.no_bar(), learn.no_logging():
        learn.fit_als(3)
    return learn.recommender


def light_export() -> None:
    """CPU seconds and MB of an export without and with what the light runtime needs: ALS on ML-1M, d=64."""
    rec, costs = _als(), []
    with tempfile.TemporaryDirectory() as folder:
        steps = {"export without": lambda: rec.save(folder + "/plain", light=False), "prior": lambda: rec.fold.solver,
                 "export": lambda: rec.save(folder + "/model")}  # fmt: skip
        for name, step in steps.items():
            start = time.process_time()
            step()
            costs.append({"what": name, "cpu_seconds": round(time.process_time() - start, 2)})
        for row, name in zip((costs[0], costs[2]), ("plain", "model"), strict=True):
            row["megabytes"] = round(sum(p.stat().st_size for p in Path(folder, name).iterdir()) / 1e6, 1)
    write("light_export", costs)


def light() -> None:
    """CPU seconds from nothing to the first answer, and memory: ALS on ML-1M, fresh processes, interleaved, medians."""
    rec = _als()
    with tempfile.TemporaryDirectory() as folder:
        rec.save(folder + "/model")
        asked = {
            "folder": folder + "/model",
            "user": rec.users[5],
            "users": rec.users[1:201],
            "history": rec.items[1:6],
        }
        codes = {"Light": _FIRST.format(module=".light", cls="Light", **asked),
                 "Recommender": _FIRST.format(module="", cls="Recommender", **asked)}  # fmt: skip
        runs = {name: [] for name in codes}
        for _ in range(5):
            for name, code in codes.items():
                run = subprocess.run(
                    [sys.executable, "-c", code], check=True, timeout=300, capture_output=True, text=True
                )
                runs[name].append(json.loads(run.stdout))
    middle = {
        name: {key: float(np.median([run[key] for run in done])) for key in done[0]} for name, done in runs.items()
    }
    rows = []
    for name, found in middle.items():
        ratio = middle["Recommender"]["first"] / found["first"]
        rows.append({"what": name, "first_answer_cpu_seconds": round(found["first"], 3),
                     "times_faster": round(ratio, 1),
                     "first_history_seconds": round(found["history"], 4), "ms_a_list": round(1000 * found["each"], 3),
                     "rss_mb": round(found["Rss"], 1), "pss_mb": round(found["Pss"], 1)})  # fmt: skip
    write("light", rows)


def unseen_users() -> None:
    """RMSE on the ratings of users held out entirely (a tenth): the no-information answer against the item mean."""
    frame = ratings("100k")
    rows = []
    for seed in range(10):
        users = np.random.default_rng(seed).permutation(frame["user"].unique())
        held = frame["user"].isin(users[: len(users) // 10])
        train, test = frame[~held], frame[held]
        learn = fit(CollabDataLoaders.from_dfs(train, test, seed=seed, bs=QUALITY_100K.bs, **NAMES), QUALITY_100K)
        means = test["item"].map(train.groupby("item")["rating"].mean()).fillna(train["rating"].mean())
        predicted = learn.predict(test["user"], test["item"])
        errors = {"collabkit_rmse": predicted - test["rating"], "item_mean_rmse": means - test["rating"]}
        rows.append({"split_seed": seed, **{k: round(float(np.sqrt((v**2).mean())), 4) for k, v in errors.items()}})
    table = write("unseen_users", rows)
    print(table.mean().round(4).to_string())
