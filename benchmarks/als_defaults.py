"""What `fit_als` picks when nothing is named, against a random search on the validation part, on five sets of data."""

from __future__ import annotations

import os
import time

import numpy as np
import pandas as pd

from collabkit import CollabDataLoaders, ItemKNN, Popularity, collab_learner, splits
from collabkit.train.als_defaults import als_rule

from .common import data_folder, ratings, write

D, SEED = 64, 0
# Random settings that are tried; COLLABKIT_TRIALS is another number for all.
GRADIENT = (("ml-latest-small", 64, (0, 1, 2)), ("beauty", None, (0, 1, 2)), ("sports", None, (0, 1, 2)),
            ("ml-1m", None, (0, 1, 2)), ("gowalla", None, (0,)))  # fmt: skip
SETS = {"ml-latest-small": 60, "beauty": 60, "sports": 60, "ml-1m": 60, "gowalla": 60}


def events(name: str) -> pd.DataFrame:
    """The pairs of a data set, without their order and ratings."""
    if name.startswith("ml-"):
        return ratings(name)[["user", "item"]].drop_duplicates()
    files = {"gowalla": "gowalla/train.txt", "beauty": "sequences/s3rec_Beauty.txt"}
    file = data_folder() / files.get(name, "sequences/s3rec_Sports_and_Outdoors.txt")
    rows = [line.split() for line in file.read_text().splitlines()]
    pairs = pd.DataFrame({"user": [row[0] for row in rows], "item": [row[1:] for row in rows]})
    return pairs.explode("item").dropna().drop_duplicates()


def loaders(name: str, seed: int = SEED, bs: int | None = None) -> CollabDataLoaders:
    """A random fifth of the pairs is validation."""
    return CollabDataLoaders.from_df(events(name), user_name="user", item_name="item", feedback="implicit", seed=seed,
                                     splitter=splits.random_split(0.2, seed=seed), bs=bs)  # fmt: skip


def figures(model) -> dict[str, float]:
    """Recall@20 and NDCG@10 on the validation part."""
    table = model.evaluate(k=[10, 20], metrics=["Recall", "NDCG"], n_boot=1)["value"]
    return {"recall@20": round(table["Recall@20"], 4), "ndcg@10": round(table["NDCG@10"], 4)}


def fit(dls, n_sweeps: int, **options):
    """A learner fitted by least squares, and the seconds it took."""
    learn = collab_learner(dls, n_factors=D, seed=SEED)
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        learn.fit_als(n_sweeps, **options)
    return learn, time.perf_counter() - start


def als_defaults() -> None:
    """`fit_als()` with nothing named, the rule alone, the old settings, and the best of random settings by NDCG@10 of
    the validation part itself (weight 2 to 400 densities, penalty .1 to 1.6 times the rule's unit); d=64, 12 sweeps."""
    chosen = os.environ.get("COLLABKIT_SETS", ",".join(SETS)).split(",")
    rows = []
    for name in chosen:
        dls, rng = loaders(name), np.random.default_rng(SEED)
        n_trials, best, seconds = int(os.environ.get("COLLABKIT_TRIALS", SETS[name])), None, []
        for _ in range(n_trials):
            times, strength = 10 ** rng.uniform(np.log10(2), np.log10(400)), 10 ** rng.uniform(-1, np.log10(1.6))
            reg, weight = als_rule(dls.data.train, times=times, strength=strength)
            learn, took = fit(dls, 12, reg=reg, unobserved_weight=weight)
            seconds.append(took)
            found = {"reg": reg, "unobserved_weight": weight, **figures(learn)}
            best = found if best is None or found["ndcg@10"] > best["ndcg@10"] else best
        row = lambda how, found, took: {"data": name, "how": how, **found, "fits": round(took / np.median(seconds), 2)}  # noqa: B023,E731
        learn, took = fit(dls, 12)
        rows.append(row("nothing named", figures(learn), took))
        rows.append(row("the rule alone", figures(fit(dls, 12, search=False)[0]), np.median(seconds)))
        old = fit(dls, 12, reg=0.007, unobserved_weight=0.3)[0]
        rows.append(row("reg .007, weight .3", figures(old), np.median(seconds)))
        rows.append(row(f"best of {n_trials} random ones", best, sum(seconds)))
        rows.append(row("ItemKNN", figures(ItemKNN().fit(dls)), 0))
        rows.append(row("popularity", figures(Popularity().fit(dls)), 0))
        write("als_defaults", rows)


def gradient_defaults() -> None:
    """`collab_learner(dls)` and `fit_one_cycle(5)`, nothing named, against what least squares and neighbours reach.

    A random fifth of the pairs is held out, by the seed. Batches are of 64, as `from_df` makes them, on
    ML-latest-small, and of `bs=None` on the larger sets.
    """
    rows = []
    for name, bs, seeds in GRADIENT:
        for seed in seeds:
            dls = loaders(name, seed, bs)
            of = {"data": name, "bs": dls.train.bs, "seed": seed}
            begins = {"nothing named": None, **({"start='random'": "random"} if seed == 0 else {})}
            for how, start in begins.items():
                learn = collab_learner(dls, start=start)
                with learn.no_bar(), learn.no_logging():
                    learn.fit_one_cycle(5)
                rows.append({**of, "how": how, **figures(learn)})
            learn = collab_learner(dls)
            with learn.no_bar(), learn.no_logging():
                learn.fit_als()
            others = {"fit_als()": learn, "ItemKNN": ItemKNN().fit(dls), "popularity": Popularity().fit(dls)}
            rows += [{**of, "how": how, **figures(model)} for how, model in others.items()]
            write("gradient_defaults", rows)
