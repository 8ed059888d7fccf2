"""A log of purchases with quantities and returns: what should each customer be offered?"""

import numpy as np
import pandas as pd

from collabkit import CollabDataLoaders, Implicit, ItemKNN, Recommender, collab_learner

rng, n = np.random.default_rng(0), 12_000
customer = rng.integers(0, 300, n)  # of six kinds, each of which buys a sixth of the products in quantity
own = rng.random(n) < 0.7
product = np.where(own, customer % 6 + 6 * rng.integers(0, 20, n), rng.integers(0, 120, n))
log = pd.DataFrame({"customer": customer, "product": product, "units": np.where(own, rng.geometric(0.2, n), 1)})
log.loc[rng.random(n) < 0.05, "units"] = -1  # returns

dls = CollabDataLoaders.from_df(log, user_name="customer", item_name="product",
                                feedback=Implicit(counts="units", confidence="log", alpha=5), seed=0)  # fmt: skip
learn = collab_learner(dls, n_factors=8)
learn.fit_als()
assert learn.evaluate(metrics="HitRate", k=10)["value"].item() > 0.7
rec = Recommender.load(learn.export("export"))
offers = rec.recommend(history={6: 12, 12: 3, 1: 1}, k=5)["product"]  # of the first kind, but for one unit
assert (offers % 6 == 0).all() and len(ItemKNN().fit(dls).recommend(7, k=5)) == 5
