"""Recommendations for all users of ML-1M against the bare matrix product, import times, and users held out entirely."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch

from collabkit import CollabDataLoaders
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
