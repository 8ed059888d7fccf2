"""The chapter on collaborative filtering of fastai's book, line by line, with another import at the top."""

from collabkit.all import *

ratings = datasets.synthetic(n_users=200, n_items=150, n_ratings=8000, seed=1).ratings
dls = CollabDataLoaders.from_df(ratings, item_name="title", bs=64, seed=42)

learn = collab_learner(dls, n_factors=50, y_range=(0, 5.5))
learn.fit_one_cycle(3, 5e-3, wd=0.1)
movie_bias = learn.model.i_bias.weight.squeeze()
idxs = movie_bias.argsort(descending=True)[:5]
assert len([dls.classes["title"][i] for i in idxs]) == 5

movie_factors = learn.model.i_weight.weight
idx = dls.classes["title"].o2i[ratings["title"].iloc[0]]
distances = nn.CosineSimilarity(dim=1)(movie_factors, movie_factors[idx][None])
assert distances.argsort(descending=True)[0] == idx

network = collab_learner(dls, use_nn=True, y_range=(0, 5.5), layers=[100, 50])
network.fit_one_cycle(1, 5e-3, wd=0.1)
assert learn.evaluate().loc["RMSE", "value"] < learn.evaluate().loc["RMSE", "global mean"]
