"""Choose with a validation part, train on everything, and take the events of the next day in without a fit."""

import pandas as pd

from collabkit import CollabDataLoaders, CollabInterpretation, Recommender, collab_learner, datasets

events = datasets.synthetic(n_users=300, n_items=150, n_ratings=9000, seed=1).ratings.sort_values("timestamp")
today, tomorrow = events[:8500], pd.concat([events[8500:], events[-40:].assign(user=10_000)])
names = {"user_name": "user", "item_name": "title", "time_name": "timestamp", "feedback": "implicit", "seed": 0}

learn = collab_learner(CollabDataLoaders.from_df(today, **names), n_factors=16)
learn.fit_als(6)
print(learn.evaluate(metrics="NDCG"), learn.calibrate().attrs["ece"])
CollabInterpretation.from_learner(learn).plot_calibration()
final = learn.refit_all()
assert len(final.dls.train.dataset) == len(today.drop_duplicates(["user", "title"]))

rec = Recommender.load(final.export("artefact"))
rec.update(tomorrow).save("artefact")
assert len(Recommender.load("artefact").recommend(10_000, k=5)) == 5
