"""Lists for many users by a large catalogue to Parquet: seconds beside the blocked product and top-k, and memory."""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from collabkit import Recommender
from collabkit.data.dataset import Dataset
from collabkit.data.interactions import Columns, Interactions
from collabkit.data.vocab import Vocab
from collabkit.models import CollFilter
from collabkit.retrieval.ranking import block_size

from .common import write

K, D, N_ITEMS, EVENTS = 10, 64, 100_000, 20


def lists_to_parquet(n_users: int = 1_000_000, block: int = 50_000, parts: int = 20) -> None:
    """`recommend_to` of all users in turns with the product and `topk` alone of the same users, part by part."""
    torch.set_num_threads(1)
    rec = _recommender(n_users)
    vectors = rec.vectors("items")  # what both start from
    del vectors
    items = rec.model.item_vectors(torch.arange(1, N_ITEMS + 1)).detach()
    rows, seconds = torch.arange(1, n_users + 1).tensor_split(parts), {"recommend_to": 0.0, "product and top-k": 0.0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for j, users in enumerate(rows):
            ids = rec.users.ids[int(users[0]) - 1 : int(users[-1])]
            start = time.perf_counter()
            rec.recommend_to(Path(folder) / f"{j}", ids, K, block=block)
            middle = time.perf_counter()
            size = block_size(N_ITEMS, "512MB")
            for at in users.split(size):
                (rec.model.user_vectors(at) @ items.T).topk(K, dim=1)
            seconds["recommend_to"] += middle - start
            seconds["product and top-k"] += time.perf_counter() - middle
        n_rows = sum(len(pd.read_parquet(path, columns=["rank"])) for path in Path(folder).iterdir())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = {"users": n_users, "items": N_ITEMS, "d": D, "k": K, "rows": n_rows}
    row |= {f"{name}_s": round(value, 1) for name, value in seconds.items()}
    row |= {"ratio": round(seconds["recommend_to"] / seconds["product and top-k"], 3)}
    row |= {"MB_above_what_was_held": round(peak - before), "peak_MB": round(peak)}
    write("scale_lists", [row])


def _recommender(n_users: int) -> Recommender:
    """Users with texts for ids, and so many events each to hide."""
    generator = torch.Generator().manual_seed(0)
    users = Vocab([f"u{j:08d}" for j in range(n_users)], "user")
    items = Vocab([f"i{j:06d}" for j in range(N_ITEMS)], "item")
    user_idx = torch.arange(1, n_users + 1).repeat_interleave(EVENTS)
    item_idx = torch.randint(1, N_ITEMS + 1, (len(user_idx),), generator=generator)
    events = Interactions(user_idx, item_idx, None, None, users, items, Columns("user", "item"))
    model = CollFilter(n_users + 1, N_ITEMS + 1, D, init_std=0.3)
    model.trained = True
    return Recommender(model.name_rows(users, items), Dataset(events))
