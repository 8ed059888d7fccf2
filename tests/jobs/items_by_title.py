"""A shop with new articles every day: whom is one for, of which there is only a title and a picture yet?"""

import numpy as np

from collabkit import CollabDataLoaders, CollabInterpretation, Picture, collab_learner, datasets

data = datasets.synthetic_content(n_users=200, n_items=150, n_events=15, size=16, strength=2.5, seed=0)
known, new = data.items.head(120), data.items.tail(30)
events = data.events[data.events["item"].isin(known["item"])]
dls = CollabDataLoaders.from_df(events, feedback="implicit", items=known, seed=0, bs=256,
                                item_features={"title": "text", "poster": Picture(size=16)})  # fmt: skip
learn = collab_learner(dls, 16, loss_func="bpr", id_dropout=0.5, seed=0)
learn.fit_one_cycle(6, 2e-2)
learn.add_items(new)
scores = np.stack([learn.predict(f"u{user:04d}", new["item"]) for user in range(200)])
liking = np.outer(data.user_mood, data.item_mood[120:]) + np.outer(data.user_texture, data.item_texture[120:])
assert np.corrcoef(scores.ravel(), liking.ravel())[0, 1] > 0.5  # what people like was never in a table
CollabInterpretation.from_learner(learn).plot_content(new["item"].iloc[0], "poster")
