"""A film that nobody has seen, and a person who has just come: what is said of them, and why?"""

import numpy as np
import pandas as pd

from collabkit import CollabDataLoaders, collab_learner

rng, n = np.random.default_rng(0), 9000
user, own = rng.integers(0, 300, n), rng.random(n) < 0.7
film = np.where(own, user % 5 + 5 * rng.integers(0, 20, n), rng.integers(0, 100, n))
films = pd.DataFrame({"film": range(105), "genre": [f"genre {k % 5}" for k in range(105)]})
events = pd.DataFrame({"user": user, "film": film}).drop_duplicates()
dls = CollabDataLoaders.from_df(events, user_name="user", item_name="film", feedback="implicit", items=films[:100],
                                item_features={"genre": "categorical"}, bs=256, seed=0)  # fmt: skip
learn = collab_learner(dls, 16, loss_func="bpr", id_dropout=0.3)
learn.fit_one_cycle(6, 2e-2)
learn.add_items(films[100:])
scores = np.array([learn.predict(7, k) for k in range(100, 105)])  # the person likes films 2, 7, 12, ...
assert scores.argmax() == 7 % 5
lists = learn.recommend(history=[3, 8, 13], k=5)
assert (lists["film"] % 5 == 3).mean() > 0.5
why = learn.why(history=[3, 8, 13], item=int(lists["film"][0]))
assert set(why["film"].dropna()) == {3, 8, 13}
