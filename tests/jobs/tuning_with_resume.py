"""A search over night on a machine that may be switched off: nothing but the running trial is lost."""

import numpy as np
import pandas as pd

from collabkit import CollabDataLoaders, Recommender, tune

rng = np.random.default_rng(0)
user, own = rng.integers(0, 200, 5000), rng.random(5000) < 0.6
film = np.where(own, user % 5 + 5 * rng.integers(0, 20, 5000), rng.integers(0, 100, 5000))  # five tastes
events = pd.DataFrame({"user": user, "film": film}).drop_duplicates()
dls = CollabDataLoaders.from_df(events, user_name="user", item_name="film", feedback="implicit", seed=0)

space = {"n_factors": [4, 8, 16], "reg": (1e-3, 1e-1), "unobserved_weight": (0.01, 0.5), "n_sweeps": 4}
_, before = tune(dls, space, metric="NDCG@10", minutes=1, n_trials=3, storage="study.log")
best, after = tune(dls, space, metric="NDCG@10", minutes=1, n_trials=6, storage="study.log", resume=True)
assert set(before.index) < set(after.index) and len(after) == 6
assert after.loc[after["kept"], "value"].item() >= before["value"].max()
final = Recommender.load(best.refit_all().export("artefact"))
assert (final.recommend(7, k=3)["film"] % 5 == 7 % 5).sum() >= 2
