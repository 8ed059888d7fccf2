"""Take a model to where there is no torch: lists by ONNX Runtime, the same as those of `recommend`."""

import numpy as np
import onnxruntime

from collabkit import AveragedHistory, CollabDataLoaders, collab_learner, datasets

events = datasets.synthetic(n_users=200, n_items=150, n_ratings=6000, seed=1).ratings
dls = CollabDataLoaders.from_df(events, user_name="user", item_name="title", time_name="timestamp",
                                feedback="implicit", history=20, seed=0)  # fmt: skip
learn = collab_learner(dls, model=AveragedHistory, n_factors=16, length=20)
learn.fit_one_cycle(2, 1e-2)

titles = dls.data.items.ids[[3, 40, 7]]
session = onnxruntime.InferenceSession(learn.to_onnx("served/lists.onnx", "topk", k=5))
history = dls.data.items.encode(titles)[None]
items, scores = session.run(None, {"history": history, "lengths": np.array([3]), "hidden": history})
lists = learn.recommend(history=titles.tolist(), k=5)
assert dls.data.items.decode(items[0]).tolist() == lists["title"].tolist()
assert np.allclose(scores[0], lists["score"], atol=1e-5)
