"""Items that nobody has met: ranked among themselves and among all, by what is known of them; and the price.

Settings were picked on items held out of other training parts (seeds from 100 on, `cold_mix` on an inner split); none
on a row that is read here.
"""

from __future__ import annotations

import gc
import json
from functools import lru_cache, partial

import numpy as np
import pandas as pd
import scipy.sparse
import torch

from collabkit import CollabDataLoaders, ContentKNN, HybridKNN, ItemKNN, collab_learner, datasets, splits
from collabkit.data.runs import Runs
from collabkit.models.closed_form import ClosedForm
from collabkit.models.gram import Neighbours, largest
from collabkit.models.hybrid_knn import tfidf
from collabkit.train.sampling import AllItems

from .common import data_folder, write
from .features import COLD_LR, COLD_WD

SEEDS, K = (0, 1, 2), 20
FILES = {
    "beauty": ("s3rec_Beauty.txt", "s3rec_Beauty_attributes.json"),
    "sports": ("s3rec_Sports_and_Outdoors.txt", "s3rec_Sports_attributes.json"),
}


class Profile(ItemKNN):
    """The sum of the cosines by tf-idf to the user's items, all of them or each item's `k` nearest."""

    name = "tf-idf profile"

    def __init__(self, k: int | None = None):
        super().__init__(k or 1)
        self.of_all = k is None

    def _fit(self, data) -> None:
        warm, found = self.counts > 0, Neighbours()
        X = tfidf(data.features.items, warm.numpy())[0]
        if self.of_all:
            self.vectors, self.known = X, scipy.sparse.diags_array(warm.numpy().astype(np.float32)) @ X
            return
        for rows in torch.arange(data.n_items).split(512):
            cosines = torch.from_numpy((X[rows.numpy()] @ X.T).toarray()) * warm
            cosines[torch.arange(len(rows)), rows] = 0
            found.add(*largest(cosines, self.k))
        self._keep(found.runs())

    def scores(self, history: Runs) -> torch.Tensor:
        if not self.of_all:
            return super().scores(history)
        rows = (np.ones(len(history.values)), history.values.numpy(), history.start.numpy())
        met = scipy.sparse.csr_matrix(rows, shape=(len(history), len(self.counts)))
        return torch.from_numpy((met @ self.known @ self.vectors.T).toarray()).float()


@lru_cache
def tables(name: str) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Events, each pair once, the items and the kinds of their features."""
    if name == "ml-1m":
        data = datasets.movielens("1m", data_folder())
        return data.ratings[["user", "item"]], data.items, {"year": "binned", "genres": "multi"}
    events, attributes = (data_folder() / "sequences" / file for file in FILES[name])
    lines = [[int(number) for number in line.split()] for line in events.read_text().splitlines()]
    df = pd.DataFrame([(user, item) for user, *items in lines for item in items], columns=["user", "item"])
    df, tags = df.drop_duplicates(ignore_index=True), json.loads(attributes.read_text())
    items = pd.DataFrame({"item": np.sort(df["item"].unique())})
    items["tags"] = [[str(tag) for tag in tags.get(str(item), [])] for item in items["item"]]
    return df, items, {"tags": "multi"}


def loaders(name: str, splitter, *, features: bool = True, **options) -> CollabDataLoaders:
    """Dataloaders of the events, with the items' features or without."""
    events, items, kinds = tables(name)
    side = {"items": items, "item_features": kinds} if features else {}
    options = {"user_name": "user", "item_name": "item", "feedback": "implicit", "seed": 0, **options}
    return CollabDataLoaders.from_df(events, splitter=splitter, **side, **options)


def mixed(name: str, seed: int, inner: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Events to train on and to test: all of a tenth of the items, and a tenth of the others; `inner`: twice over."""
    events = test = tables(name)[0]
    for draw in (seed, seed + 100) if inner else (seed,):
        rng, ids = np.random.default_rng(draw), np.sort(events["item"].unique())
        cold = rng.choice(ids, len(ids) // 10, replace=False)
        out = events["item"].isin(cold).to_numpy() | (rng.random(len(events)) < 0.1)
        events, test = events[~out], events[out]
    return events, test[test["user"].isin(events["user"])]


def recipe(dls: CollabDataLoaders, n_epoch: int):
    """The model of `features.cold_items`, trained by the full softmax."""
    gc.collect()
    learn = collab_learner(dls, n_factors=64, init_std=0.1, loss_func="softmax", seed=0)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(n_epoch, COLD_LR, wd=COLD_WD)
    return learn


def as_written(dls: CollabDataLoaders):
    """What somebody writes who gives no settings: `collab_learner(dls)` and three epochs."""
    gc.collect()
    learn = collab_learner(dls, seed=0)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(3)
    return learn


def cold_ranking(names=("beauty", "sports", "ml-1m"), networks: bool = True, seeds=SEEDS) -> None:
    """A tenth of the items held out entirely: Recall and NDCG @20 (ML-1M @10) among these and among all unseen.

    `x chance` is Recall by that of a random order among the held-out items. `HybridKNN, as foretold` has similarities
    of new items as they are foretold, `HybridKNN` those whose weight is learned. `collab_learner(dls)` is what somebody
    writes without settings, `fit_one_cycle(3)`; the recipe is that of `cold_items` (12 epochs on ML-1M, 6 on the
    others). Models and seeds that are not in the table have not been run.
    """
    rows = []
    for name in names:
        for seed in seeds:
            k, dls = 10 if name == "ml-1m" else K, loaders(name, splits.cold_items(0.1, seed=seed))
            for model, fitted in _models(dls, name, seed, networks):
                rows.append({"data": name, "seed": seed, "k": k, "model": model, **_figures(fitted, k)})
                print(rows[-1], flush=True)
                gc.collect()
    write("cold_ranking", rows)


def _models(dls: CollabDataLoaders, name: str, seed: int, networks: bool):
    yield "tf-idf profile", Profile().fit(dls)
    yield "tf-idf kNN", Profile(100).fit(dls)
    yield "ContentKNN", ContentKNN().fit(dls)
    yield "HybridKNN, as foretold", HybridKNN(cold_weight=1.0).fit(dls)
    yield "HybridKNN", HybridKNN().fit(dls)
    if networks:
        yield "collab_learner(dls)", as_written(dls)
        softmax = {"negatives": partial(AllItems, mask_seen=True), "by_user": True, "bs": 256}
        by_user = loaders(name, splits.cold_items(0.1, seed=seed), **softmax)
        yield "recipe", recipe(by_user, 12 if name == "ml-1m" else 6)


def _figures(model, k: int) -> dict:
    data = model.data if isinstance(model, ClosedForm) else model.dls.data
    held, found = data.items.decode(data.valid.item_idx.unique().numpy()), {}
    for among, candidates in (("held-out", held), ("all", None)):
        table = model.evaluate(k=k, metrics=["Recall", "NDCG"], candidates=candidates, n_boot=1)["value"]
        found |= {f"Recall {among}": round(float(table.iloc[0]), 4), f"NDCG {among}": round(float(table.iloc[1]), 4)}
    return found | {"x chance": round(float(found["Recall held-out"] * len(held) / k), 1)}


def cold_mix(names=("beauty", "sports"), seeds=SEEDS) -> None:
    """All events of a tenth of the items and a tenth of the others' held out: Recall@20 of both among all unseen items.

    `cold_weight` is the factor for similarities of new items.
    """
    rows = []
    for name in names:
        _, items, kinds = tables(name)
        for seed in seeds:
            train, test = mixed(name, seed)
            dls = CollabDataLoaders.from_dfs(train, test, user_name="user", item_name="item", feedback="implicit",
                                             seed=0, items=items, item_features=kinds)  # fmt: skip
            for weight in (1.0, None, 2.0):
                table = HybridKNN(cold_weight=weight).fit(dls).evaluate(k=K, metrics="Recall", by="cold", n_boot=1)
                value = table["value"].xs(table.index[0][1], level=1)
                row = {"data": name, "seed": seed, "cold_weight": weight or "learned", "warm": float(value["warm"])}
                rows.append({**row, "cold": float(value["cold item"])})
                print(rows[-1], flush=True)
    write("cold_mix", [{**row, "warm": round(row["warm"], 4), "cold": round(row["cold"], 4)} for row in rows])


def content_warm(seeds=SEEDS) -> None:
    """Known items of Beauty with their attributes and without: a tenth of the events held out, Recall and NDCG @20."""
    rows = []
    for seed in seeds:
        dls = loaders("beauty", splits.random_split(0.1, seed=seed))
        for model in (ItemKNN(), HybridKNN()):
            table = model.fit(dls).evaluate(k=K, metrics=["Recall", "NDCG"], n_boot=1)["value"].round(4)
            rows.append(
                {
                    "seed": seed,
                    "model": type(model).__name__,
                    "Recall": float(table.iloc[0]),
                    "NDCG": float(table.iloc[1]),
                }
            )
    write("content_warm", rows)


def add_items_speed(n: int = 100_000, width: int = 384) -> None:
    """Items taken in a second by `add_items`, known by a dense vector each (384 numbers), medians of three."""
    import time

    rng, seconds = np.random.default_rng(0), []
    vectors = rng.normal(size=(2_000, width)).astype(np.float32)
    events = pd.DataFrame({"user": rng.integers(0, 1_000, 20_000), "item": rng.integers(0, 2_000, 20_000)})
    dls = CollabDataLoaders.from_df(events.drop_duplicates(), feedback="implicit", seed=0, valid_pct=0,
                                    item_features={"vector": (np.arange(2_000), vectors)})  # fmt: skip
    new = pd.DataFrame({"item": np.arange(n) + 10_000, "vector": [*rng.normal(size=(n, width)).astype(np.float32)]})
    for _ in range(3):
        learn = collab_learner(dls, 32, loss_func="bpr", seed=0)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(1)
        start = time.perf_counter()
        learn.add_items(new)
        seconds.append(time.perf_counter() - start)
    write("add_items_speed", [{"items": n, "numbers": width, "seconds": round(float(np.median(seconds)), 2),
                               "items_per_second": round(n / float(np.median(seconds)))}])  # fmt: skip
