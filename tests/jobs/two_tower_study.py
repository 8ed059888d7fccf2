"""A study: do two towers with genres beat popularity and neighbours on what comes after a day, and by how much?"""

import numpy as np
import pandas as pd

from collabkit import CollabDataLoaders, ItemKNN, Popularity, TwoTower, collab_learner, compare, splits

rng, n = np.random.default_rng(0), 9000
user, own = rng.integers(0, 300, n), rng.random(n) < 0.7
film = np.where(own, user % 6 + 6 * rng.integers(0, 25, n), rng.integers(0, 150, n))
views = pd.DataFrame({"user": user, "film": film, "day": pd.date_range("2026-01-01", periods=n, freq="5min")})
films = pd.DataFrame({"film": range(150), "genre": [f"genre {k % 6}" for k in range(150)]})

dls = CollabDataLoaders.from_df(views.drop_duplicates(["user", "film"]), user_name="user", item_name="film",
                                time_name="day", feedback="implicit", splitter=splits.time_split(date="2026-01-26"),
                                items=films, item_features={"genre": "categorical"}, bs=256, seed=0)  # fmt: skip
towers = collab_learner(dls, 16, model=TwoTower, loss_func="sampled_softmax", metrics=["NDCG@10"])
towers.fit_one_cycle(5, 2e-2)
table = compare([Popularity(), ItemKNN(), towers], metrics=["NDCG@10", "HR@10"])
assert table.loc[("NDCG@10", "TwoTower"), "diff_low"] > 0
assert towers.recorder.values[-1][-1] > 0
