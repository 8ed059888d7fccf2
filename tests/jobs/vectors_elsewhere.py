"""Take what was learned into other tools: vectors for a search engine, a matrix, a run with its judgements."""

import numpy as np

from collabkit import CollabDataLoaders, collab_learner, datasets

events = datasets.synthetic(n_users=300, n_items=150, n_ratings=9000, seed=1).ratings
dls = CollabDataLoaders.from_df(events, user_name="user", item_name="title", feedback="implicit", seed=0)
learn = collab_learner(dls, n_factors=16)
learn.fit_als(6)

(items, Q), (users, P) = learn.vectors("items"), learn.vectors("users")
matrix, rows, columns = learn.recommender.to_scipy()
scores = np.where(matrix.toarray() > 0, -np.inf, P @ Q.T)
best = items.to_numpy()[scores.argsort(1)[:, ::-1][:, :5]]
assert learn.recommend(users[7], k=5)["title"].tolist() == best[7].tolist()

run, qrels = learn.recommender.to_run(k=10), learn.recommender.to_qrels()
hits = np.mean([bool(set(run[user]) & set(relevant)) for user, relevant in qrels.items()])
assert np.isclose(hits, learn.evaluate(metrics="HitRate")["value"].item())
