"""Texts and pictures: a taste planted in titles and posters, and what training end to end and in two steps costs."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from collabkit import CollabDataLoaders, Picture, Text, collab_learner, datasets, splits
from collabkit.train.sampling import AllItems

from .common import write

SEEDS = (0, 1, 2)
N_EPOCH, LR = 8, 1e-2  # of all of them alike; not searched for


def planted_content() -> None:
    """Generated titles and posters, a fifth of 400 items held out: Recall@10 among these, 95 % intervals over users.

    Whether a title is liked lies in the order of its words, whether a poster is in its texture. `known` is the recall
    of the planted taste itself where that title or poster is all that is known.
    """
    rows = []
    for seed in SEEDS:
        data = datasets.synthetic_content(n_users=500, n_items=400, n_events=20, size=16, seed=seed)
        for name, (columns, liking) in _columns(data).items():
            learn = _fitted(data, columns, seed)
            valid = learn.dls.valid.dataset
            held = valid.items.decode(valid.item_idx.unique().numpy())
            table = learn.evaluate(k=10, metrics=["Recall"], candidates=held).iloc[0]
            row = {
                "seed": seed,
                "features": name,
                "Recall@10": table["value"],
                "low": table["low"],
                "high": table["high"],
            }
            row |= {
                "high": float(table["high"]),
                "chance": 10 / len(held),
                "known": _known(valid, liking),
                "fit_seconds": learn.seconds,
            }
            rows.append({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()})
            print(rows[-1], flush=True)
    write("planted_content", rows)


def content_steps() -> None:
    """Epochs of one model on generated items: with content end to end, in two steps, and without, medians of three.

    `two steps` trains on the vectors that the model `end to end` has learned to see; the ratio is to no features.
    """
    data, rows = datasets.synthetic_content(n_users=1000, n_items=1000, n_events=20, seed=0), []
    for name, kind in (("title", Text()), ("poster", Picture())):
        ways = {"no features": None, "end to end": {name: kind}}
        learners = {way: _learner(data, columns, 0) for way, columns in ways.items()}
        _timed_epoch(learners["end to end"])
        encoder = type(kind)(learners["end to end"].model.encoder(name), train="frozen")
        learners["two steps"] = _learner(data, {name: encoder}, 0)
        learners["dense vectors"] = _learner(data, {name: "dense"}, 0, vectors=encoder)
        seconds = {way: [] for way in learners}
        for _ in range(3):
            for way, learn in learners.items():
                seconds[way].append(_timed_epoch(learn))
        base = float(np.median(seconds["no features"]))
        for way, times in seconds.items():
            rows.append({"feature": name, "way": way, "epoch_seconds": round(float(np.median(times)), 3),
                         "ratio": round(float(np.median(times)) / base, 2)})  # fmt: skip
    write("content_steps", rows)


def tags_cost() -> None:
    """Epochs on 5,000 users and 17,000 items with 2,000 and 20,000 tags and without, CPU seconds, medians of three.

    A tenth of the items is held out, so that every validation asks what tags foretell. In fits of one epoch, which have
    what comes once a fit too, and of four. `largest` is the largest dense array that torch made, in numbers;
    a table of items by 20,000 tags has 340 million.
    """
    rng, rows = np.random.default_rng(0), []
    events = pd.DataFrame({"user": rng.integers(0, 5_000, 200_000), "item": rng.integers(0, 17_000, 200_000)})
    events = events.drop_duplicates(ignore_index=True)
    ways = {
        "softmax by user": {"negatives": partial(AllItems, mask_seen=True), "by_user": True, "bs": 256},
        "bpr, batches of 2,048": {"bs": 2048},
    }
    for way, options in ways.items():
        learners = {n_tags: _tagged(events, n_tags, options, way) for n_tags in (0, 2_000, 20_000)}
        largest = {}
        for n_tags, learn in learners.items():
            with _Largest() as seen, learn.no_bar(), learn.no_logging():
                learn.fit_one_cycle(1, LR)
            largest[n_tags] = seen.numbers
        for n_epoch in (1, 4):
            seconds = {n_tags: [] for n_tags in learners}
            for _ in range(3):
                for n_tags, learn in learners.items():
                    start = time.process_time()
                    with learn.no_bar(), learn.no_logging():
                        learn.fit_one_cycle(n_epoch, LR)
                    seconds[n_tags].append((time.process_time() - start) / n_epoch)
            base = float(np.median(seconds[0]))
            for n_tags, times in seconds.items():
                found = float(np.median(times))
                row = {"loss": way, "tags": n_tags, "epochs": n_epoch, "epoch_cpu_seconds": round(found, 2)}
                rows.append({**row, "ratio": round(found / base, 2), "largest": largest[n_tags]})
    write("tags_cost", rows)


class _Largest(TorchDispatchMode):
    """Remembers the largest dense tensor that was made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for part in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(part, torch.Tensor) and part.layout == torch.strided:
                self.numbers = max(self.numbers, part.numel())
        return found


def _tagged(events: pd.DataFrame, n_tags: int, options: dict, way: str):
    """A learner of items with five to fifteen tags each, few of them of many items."""
    side, rng = {}, np.random.default_rng(n_tags)
    if n_tags:
        tags = [[str(tag) for tag in rng.zipf(1.3, rng.integers(5, 16)) % n_tags] for _ in range(17_000)]
        side = {"items": pd.DataFrame({"item": range(17_000), "tags": tags}), "item_features": {"tags": "multi"}}
    split = splits.cold_items(0.1, seed=0)
    dls = CollabDataLoaders.from_df(events, feedback="implicit", splitter=split, seed=0, **options, **side)
    return collab_learner(dls, 64, loss_func=way.split(",")[0].split()[0])


def _columns(data) -> dict[str, tuple]:
    """What each model knows of the items, by name, and what users like of that `(n_users, n_items)`."""
    mood, texture = (np.outer(*pair) for pair in
                     ((data.user_mood, data.item_mood), (data.user_texture, data.item_texture)))  # fmt: skip
    return {
        "titles, bag of words": ({"title": Text("bag")}, mood),
        "titles, CNN": ({"title": Text("cnn")}, mood),
        "posters, mean colour": ({"colour": "dense"}, texture),
        "posters, CNN": ({"poster": Picture(size=16)}, texture),
        "posters of other items, CNN": ({"shuffled": Picture(size=16)}, texture),
        "titles and posters, CNNs": ({"title": Text("cnn"), "poster": Picture(size=16)}, mood + texture),
    }


def _learner(data, columns: dict | None, seed: int, vectors=None):
    posters = data.items["poster"]
    items = data.items.assign(
        colour=[poster.mean((0, 1)) / 255 for poster in posters],
        shuffled=list(posters.sample(frac=1, random_state=seed)),
    )
    if vectors is not None:
        (name,) = columns
        items[name] = list(vectors.own_encoder(items[name]))
    side = {} if columns is None else {"items": items, "item_features": columns}
    split = splits.cold_items(0.2, seed=seed)
    dls = CollabDataLoaders.from_df(data.events, feedback="implicit", splitter=split, bs=512, seed=seed, **side)
    return collab_learner(dls, 16, loss_func="bpr", seed=seed, **({} if columns is None else {"id_dropout": 0.5}))


def _fitted(data, columns: dict, seed: int):
    learn, start = _learner(data, columns, seed), time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(N_EPOCH, LR)
    learn.seconds = time.perf_counter() - start
    return learn


def _timed_epoch(learn) -> float:
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, LR)
    return time.perf_counter() - start


def _known(valid, liking: np.ndarray, draws: int = 20) -> float:
    """Recall@10 among the held-out items where `liking` is all that is known, ties at random."""
    users, items = (valid.indices(side).numpy() - 1 for side in ("user", "item"))  # ids sort as they are numbered
    rng, met = np.random.default_rng(0), pd.DataFrame({"user": users, "item": items})
    held, per_user = np.unique(items), met.groupby("user")["item"].agg(set)
    recalls = []
    for _ in range(draws):
        noise = 1e-3 * rng.random(liking.shape)
        top = held[np.argsort(-(liking + noise)[:, held], axis=1)[:, :10]]
        recalls += [len(own.intersection(top[user])) / len(own) for user, own in per_user.items()]
    return float(np.mean(recalls))
