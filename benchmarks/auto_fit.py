"""`auto_fit` and `tune` on MovieLens: what they keep, whether something else was better, and how long they take."""

from __future__ import annotations

import os

from collabkit import CollabDataLoaders, auto_fit, tune

from .common import NAMES, ratings, timed, write

DATA = ("ml-100k", "ml-latest-small", "ml-1m")
SEEDS = (0, 1, 2)
SPACE = {"n_factors": [32, 64, 128], "reg": (1e-3, 1e-1), "unobserved_weight": (0.01, 0.5), "n_sweeps": 6}


def auto_fit_quality() -> None:
    """`auto_fit(dls, minutes=2)`: the kept model on the half of the users that the choice has not seen.

    A random fifth of the rows is held out, by the seed. `best_there` is the rung that is best on that half, `behind`
    what the kept one is worse there (below 0: noise in its favour); `noise` is half the width of its interval.
    `share` is the time of the call in the minutes that it was given; one thread of two cores.
    """
    rows = []
    for kind in os.environ.get("COLLABKIT_KINDS", "implicit,explicit").split(","):
        for name in DATA:
            for seed in SEEDS:
                dls = _loaders(name, kind, seed)
                seconds, (_, table) = timed(lambda dls=dls: auto_fit(dls, minutes=2, show=False))
                row = {"data": name, "metric": table.columns.name, "seed": seed}
                rows.append(row | _kept(table, seconds / 120))
                write("auto_fit", rows)


def tune_quality() -> None:
    """`tune(dls, space, minutes=1)` of least squares: what it keeps, on the half of the users unseen by the choice.

    `behind`, `noise` and `share` are as of `auto_fit`, over the trials that ended; 3 numbers of factors, the penalty
    and the weight of what was not observed.
    """
    rows = []
    for name in DATA:
        for seed in SEEDS:
            dls = _loaders(name, "implicit", seed)
            seconds, (_, table) = timed(lambda dls=dls: tune(dls, SPACE, minutes=1, show=False))
            row = {"data": name, "metric": "NDCG@10", "seed": seed, "pruned": int((table["state"] == "pruned").sum())}
            rows.append(row | _kept(table, seconds / 60))
            write("tune", rows)


def _loaders(name: str, kind: str, seed: int) -> CollabDataLoaders:
    names = NAMES if kind == "explicit" else {**NAMES, "rating_name": None}
    return CollabDataLoaders.from_df(ratings(name), **names, feedback=kind, seed=seed)


def _kept(table, share: float) -> dict:
    """What was kept, beside the best of what was tried."""
    tried = table[table["value"].notna() & table["test"].notna()]
    kept, small = tried[tried["kept"]].iloc[0], table.columns.name == "RMSE"
    there = tried["test"].idxmin() if small else tried["test"].idxmax()
    row = {"kept": kept.name, "value": kept["test"], "low": kept["test_low"], "high": kept["test_high"]}
    row |= {"best_there": there, "behind": (kept["test"] - tried.loc[there, "test"]) * (1 if small else -1)}
    row |= {"noise": (kept["test_high"] - kept["test_low"]) / 2, "tried": len(tried), "share": round(share, 2)}
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
