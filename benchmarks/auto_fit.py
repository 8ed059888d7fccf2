"""`auto_fit` on MovieLens: what it keeps, whether a rung was better, and how long it takes."""

from __future__ import annotations

import os

from collabkit import CollabDataLoaders, auto_fit

from .common import NAMES, ratings, timed, write

MINUTES = {"ml-100k": 2, "ml-latest-small": 2, "ml-1m": 2}
SEEDS = (0, 1, 2)


def auto_fit_quality() -> None:
    """`auto_fit(dls, minutes=2)`: the kept model on the half of the users that the choice has not seen.

    A random fifth of the rows is held out, by the seed. `best_there` is the rung that is best on that half, `behind`
    what the kept one is worse there (below 0: noise in its favour); `noise` is half the width of its interval.
    `share` is the time of the call in the minutes that it was given; one thread, on two cores that other work kept
    busy (load 8 to 14), where on ML-1M two minutes were too short for least squares in two of three runs.
    """
    rows = []
    for kind in os.environ.get("COLLABKIT_KINDS", "implicit,explicit").split(","):
        for name, minutes in MINUTES.items():
            for seed in SEEDS:
                names = NAMES if kind == "explicit" else {**NAMES, "rating_name": None}
                dls = CollabDataLoaders.from_df(ratings(name), **names, feedback=kind, seed=seed)
                seconds, (_, table) = timed(lambda dls=dls, minutes=minutes: auto_fit(dls, minutes=minutes, show=False))
                tried = table[table["value"].notna()]
                kept, small = tried[tried["kept"]].iloc[0], table.columns.name == "RMSE"
                there = tried["test"].idxmin() if small else tried["test"].idxmax()
                behind = (kept["test"] - tried.loc[there, "test"]) * (1 if small else -1)
                row = {"data": name, "metric": table.columns.name, "seed": seed, "kept": kept.name}
                row |= {"value": kept["test"], "low": kept["test_low"], "high": kept["test_high"], "best_there": there}
                row |= {"behind": behind, "noise": (kept["test_high"] - kept["test_low"]) / 2}
                row |= {"tried": len(tried), "seconds": round(seconds, 1), "share": round(seconds / 60 / minutes, 2)}
                rows.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
                write("auto_fit", rows)
