"""What a user's typed program looks like; `test_types.py` has mypy read it. It is never run."""

from typing import TYPE_CHECKING

import pandas as pd

from collabkit import (
    EASE,
    NDCG,
    CollabDataLoaders,
    CollabInterpretation,
    HitRate,
    Implicit,
    ItemKNN,
    Popularity,
    Recommender,
    SampledCandidates,
    collab_learner,
    compare,
    datasets,
    filters,
    load_learner,
    losses,
    splits,
)  # fmt: skip

if TYPE_CHECKING:
    from typing_extensions import reveal_type

ratings: pd.DataFrame = datasets.synthetic(n_users=100).ratings
ratings = filters.min_count(ratings, users=5)
dls = CollabDataLoaders.from_df(
    ratings,
    user_name="user",
    item_name="title",
    splitter=splits.leave_last_out(1, time_name="time"),
    feedback=Implicit(n_neg=2),
)
reveal_type(dls)  # CollabDataLoaders
learn = collab_learner(dls, n_factors=8, metrics=[HitRate(10), NDCG(10)], loss_func=losses.bpr)
reveal_type(learn)  # CollabLearner
learn.fit_one_cycle(2, 5e-3, checkpoint="run", resume=True)
learn.fit_als(3)
reveal_type(learn.recommend(["ann"], k=3))  # DataFrame
reveal_type(learn.recommend(["ann"], recent=ratings))  # DataFrame
reveal_type(learn.next_items("Alien", k=3))  # DataFrame
reveal_type(learn.recommender)  # Recommender
reveal_type(learn.evaluate(k=[5, 10], candidates=SampledCandidates(99)))  # DataFrame
reveal_type(learn.export("artefact"))  # Path
rec = Recommender.load("artefact")
reveal_type(rec)  # Recommender
reveal_type(rec.similar_items("Alien"))  # DataFrame
reveal_type(load_learner("artefact"))  # CollabLearner
reveal_type(EASE().fit(dls))  # EASE
reveal_type(compare([learn, Popularity(), ItemKNN()]))  # DataFrame
reveal_type(CollabInterpretation.from_learner(learn))  # CollabInterpretation
