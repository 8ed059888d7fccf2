"""A contributed model with a row context: a factorisation machine over user, item and the columns of the moment."""

import torch
from contract import ModelContract, planted
from torch import Tensor, nn

from collabkit import CollabDataLoaders, Dataset, Query, collab_learner
from collabkit.models import DotModel, TableSide


class FM(DotModel):
    """Second-order factorisation machine (Rendle 2010): every pair of user, item and context values meets.

    `sum of the biases + sum over pairs of v_a . v_b`. Without the item's it is a vector and a number: the user's row.

    Args:
        n_users, n_items: rows of the tables.
        sizes: by column of context, how many values it has, the unknown one included.
        n_factors: length of the vectors.
        y_range: of the ratings, if any.
    """

    needs = ("users", "context")

    def __init__(self, n_users: int, n_items: int, sizes: dict, n_factors: int = 8, y_range=None):
        sides = (("user", n_users), ("item", n_items))
        super().__init__(*(TableSide(*side, [n_factors, 1], std=0.05) for side in sides), y_range)
        self.n_factors = n_factors
        self.moments = nn.ModuleList(TableSide(name, n, [n_factors, 1], std=0.05) for name, n in sizes.items())

    @classmethod
    def for_data(cls, data: Dataset, n_factors: int = 8, y_range=None) -> "FM":
        sizes = {field.name: field.size for field in data.train.contexts.fields}
        return cls(data.n_users, data.n_items, sizes, n_factors, y_range)

    def user_rows(self, query: Query) -> tuple[Tensor, Tensor]:
        vector, number = self.user_side.rows(query)
        for moment in self.moments:
            v, b = moment.rows(query.context[moment.name])
            number = number + b + (vector * v).sum(-1, keepdim=True)  # with all that came before
            vector = vector + v
        return vector, number

    def config(self) -> dict:
        return {"n_factors": self.n_factors, "y_range": self.y_range}


class TestFM(ModelContract):
    model, options, data = FM, {"n_factors": 8}, {"context_features": ["device"]}


class TestFMOfRatings(ModelContract):
    model, options, data, rated = FM, {"n_factors": 8}, {"context_features": ["device"]}, True


def test_it_learns_what_only_the_context_tells():
    table = planted(rated=True)
    table["rating"] = torch.where(torch.tensor(table["device"] == "phone"), 4.5, 1.5).numpy()
    dls = CollabDataLoaders.from_df(table, context_features=["device"], seed=0, bs=64)
    learn = collab_learner(dls, model=FM, y_range=(0.5, 5.5), seed=1)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(8, 2e-2)
    assert learn.evaluate().loc["RMSE", "value"] < 0.5
    phone, desktop = (learn.predict("u1", "i01", context={"device": device}) for device in ("phone", "desktop"))
    assert phone > 4 and desktop < 2
