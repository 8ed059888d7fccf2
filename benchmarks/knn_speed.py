"""Seconds of closed-form fits against what scipy or dense algebra takes for the same, in one run."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import torch

from collabkit import EASE, ContentKNN, Features, ItemKNN
from collabkit.data.interactions import Columns, Interactions
from collabkit.models.gram import events_matrix

from .common import interleaved, median_seconds, write

REPEATS = int(os.environ.get("COLLABKIT_REPEATS", 3))


def heavy_tailed(n_users: int, n_items: int, n_events: int, seed: int = 0) -> Interactions:
    """Events whose users and items have heavy tails."""
    rng = np.random.default_rng(seed)
    users, items = (
        (n_users * rng.random(n_events) ** 1.5).astype(int),
        (n_items * rng.random(n_events) ** 2).astype(int),
    )
    pairs = {"user": users, "item": items}
    return Interactions.from_df(pd.DataFrame(pairs).drop_duplicates(), Columns("user", "item"))


def knn_speed() -> None:
    """`ItemKNN(100).fit` against the product of the sparse matrices alone in scipy; EASE of few users by users against
    by items; ContentKNN of 3,000 items with three of 15,000 categories each against dense features. Medians."""
    train, few = heavy_tailed(32_000, 38_000, 900_000), heavy_tailed(600, 3_000, 40_000)
    matrix = events_matrix(train)
    rng = np.random.default_rng(0)
    tags = [list(row) for row in rng.integers(0, 15_000, (few.n_items - 1, 3)).astype(str)]
    features = Features.from_df(pd.DataFrame({"item": few.items.ids, "tags": tags}), few.items, {"tags": "multi"})

    def by_items():
        model = EASE()
        model.counts = few.counts("item").float()
        model._fit_items(few)

    def dense():
        rows = features.matrix()
        unit = torch.nn.functional.normalize(rows - rows[features.given].mean(0), dim=1)
        return (unit @ unit.T).topk(100)

    cases = {
        "ItemKNN": ("scipy's product", lambda: matrix.T.tocsr() @ matrix, lambda: ItemKNN().fit(train)),
        "EASE": ("by items", by_items, lambda: EASE().fit(few)),
        "ContentKNN": ("dense features", dense, lambda: ContentKNN(features).fit(few)),
    }
    rows = []
    for name, (other, theirs, ours) in cases.items():
        runs = interleaved({other: theirs, name: ours}, REPEATS)
        seconds = {which: median_seconds(found) for which, found in runs.items()}
        rows.append({"model": name, "seconds": round(seconds[name], 2), "against": other,
                     "its seconds": round(seconds[other], 2),
                     "ratio": round(seconds[name] / seconds[other], 2)})  # fmt: skip
    write("knn_speed", rows)
