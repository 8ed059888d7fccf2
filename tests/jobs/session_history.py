"""A log of sessions: which page comes next for somebody who is on the site now?"""

import numpy as np
import pandas as pd

from collabkit import CollabDataLoaders, NextItem, splits

rng = np.random.default_rng(0)
start = rng.integers(0, 30, 600)  # each session walks through six of thirty pages in their order
log = pd.DataFrame({"session": np.repeat(np.arange(600), 6), "page": ((start[:, None] + np.arange(6)) % 30).ravel()})
log["at"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(len(log)), unit="s")

dls = CollabDataLoaders.from_df(log, user_name="session", item_name="page", time_name="at", feedback="implicit",
                                history=20, splitter=splits.leave_last_out(), seed=0)  # fmt: skip
model = NextItem().fit(dls)
assert model.evaluate(metrics="HitRate", k=1)["value"].item() > 0.9
assert model.recommend(history=[7, 8, 9], k=1)["page"].item() == 10
