"""What comes next: closed forms and networks on events in their true order, all items ranked.

The last event of each user is the test, looked at once; the one before is validation, never trained on and part of
the input at test. Seen items are hidden, as in the published figures.
"""

from __future__ import annotations

import time
import warnings

import pandas as pd

from collabkit import (
    EASE,
    CollabDataLoaders,
    CollabWarning,
    GRURec,
    NextItem,
    Popularity,
    SASRec,
    collab_learner,
    splits,
)

from .common import data_folder, write

FILES = {"ML-1M": "ml-1m_ordered.tsv", "Beauty": "s3rec_Beauty.txt", "Sports": "s3rec_Sports_and_Outdoors.txt"}
CLOSED = {
    "popularity": Popularity, "EASE": EASE, "EASE, last 5": lambda: EASE(last=5), "NextItem": NextItem,
}  # fmt: skip
# Picked on validation.
NETWORKS = [
    ("ML-1M", {}, {"model": GRURec}, {"n_epoch": 13, "lr": 4e-3}),
    ("ML-1M", {}, {"model": SASRec, "n_factors": 128}, {"n_epoch": 18, "lr": 2e-3}),
    ("Beauty", {"history": 50, "n_neg": 2048}, {"model": SASRec, "dropout": 0.5}, {"n_epoch": 12, "lr": 3e-3}),
    ("Sports", {"history": 50, "n_neg": 2048}, {"model": SASRec, "dropout": 0.5}, {"n_epoch": 12, "lr": 3e-3}),
]


def events(name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The events but each user's last, and these."""
    file = data_folder() / "sequences" / FILES[name]
    if file.suffix == ".tsv":
        df = pd.read_csv(file, sep="\t").rename(columns={"movie": "item", "position": "time"})
    else:
        lines = [line.split() for line in file.read_text().splitlines()]
        rows = [(line[0], item, time) for line in lines for time, item in enumerate(line[1:])]
        df = pd.DataFrame(rows, columns=["user", "item", "time"])
    last = df["time"] == df.groupby("user")["time"].transform("max")
    return df[~last].reset_index(drop=True), df[last].reset_index(drop=True)


def dataloaders(name: str, **more) -> tuple[CollabDataLoaders, pd.DataFrame]:
    """Windows of 100 events, the last one but one held out, and the test events."""
    rest, test = events(name)
    names = {"user_name": "user", "item_name": "item", "time_name": "time"}
    options = {"feedback": "implicit", "history": 100, "splitter": splits.leave_last_out(), "seed": 0}
    return CollabDataLoaders.from_df(rest, **names, **{**options, **more}), test


def next_item() -> None:
    """The closed forms on all three data sets: CPU seconds of the fit, and figures of the test."""
    rows = []
    for name in FILES:
        dls, test = dataloaders(name)
        for label, make in CLOSED.items():
            if label.startswith("EASE") and dls.data.n_items > 10_000:
                continue  # minutes for an inverse
            start = time.process_time()
            model = make().fit(dls)
            seconds = time.process_time() - start
            rows.append({"data": name, "model": label, **figures(model, test), "fit_cpu_seconds": round(seconds, 1)})
    write("next_item", rows)


def next_networks() -> None:
    """The networks: CPU seconds of the fit, its validation losses included, and figures of both parts; one seed."""
    rows = []
    for recipe in NETWORKS:
        rows.append(network(*recipe))
        write("next_networks", rows)


def network(name: str, of_data: dict, options: dict, fit: dict) -> dict:
    """The row of one recipe."""
    dls, test = dataloaders(name, **of_data)
    learn = collab_learner(dls, seed=0, **options)
    start = time.process_time()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(fit["n_epoch"], fit["lr"], wd=0.01, pct_start=0.15)
    seconds = time.process_time() - start
    own = {**options, **of_data}
    label = ", ".join([own.pop("model").__name__, *(f"{option} {value}" for option, value in own.items())])
    valid = {f"valid {metric}": value for metric, value in figures(learn, "valid").items()}
    return {"data": name, "model": label, **figures(learn, test), **valid, "fit_cpu_seconds": round(seconds)}


def figures(model, on) -> dict[str, float]:
    """HitRate@10 and NDCG@10 with half the width of their intervals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        table = model.evaluate(on, metrics=["HitRate", "NDCG"])
    half = (table["high"] - table["low"]) / 2
    return {
        name: f"{value:.4f} +- {width:.4f}"
        for name, value, width in zip(table.index, table["value"], half, strict=True)
    }
