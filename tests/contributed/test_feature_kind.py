"""A contributed kind of feature: an hour of the day as a point on a circle, so that 23 lies beside 0."""

import numpy as np
import pandas as pd
import pytest
import torch
from contract import planted

from collabkit import CollabDataLoaders, Recommender, collab_learner
from collabkit.data.features import KINDS, Field, Kind


class Hour(Kind):
    """`(sin, cos)` of hours 0 to 24; the centre of the circle where none is known."""

    def fit(self, name: str, values: pd.Series, columns=()) -> Field:
        hours = values.astype(float)
        if ((hours < 0) | (hours > 24)).any():
            raise ValueError(f"feature {name!r} holds hours outside 0 to 24: {hours.min():g} to {hours.max():g}")
        return Field(name, "hour", width=2)

    def encode(self, field: Field, values: pd.Series):
        angle = values.astype(float).to_numpy() / 24 * 2 * np.pi
        points = np.nan_to_num(np.stack([np.sin(angle), np.cos(angle)], axis=1))
        return torch.from_numpy(points.astype(np.float32)), int(np.isnan(angle).sum()), []

    def number_names(self, field: Field) -> list[str]:
        return ["sin", "cos"]


@pytest.fixture
def known():
    KINDS["hour"] = Hour()
    yield
    del KINDS["hour"]


def test_it_is_trained_with_exported_and_given_to_new_items(known, tmp_path):
    table = planted()
    items = pd.DataFrame({"item": sorted(table["item"].unique())})
    items["shown_at"] = [6.0 * (int(item[1:]) % 4) for item in items["item"]]
    options = {"feedback": "implicit", "items": items, "item_features": {"shown_at": "hour"}, "seed": 0}
    dls = CollabDataLoaders.from_df(table[["user", "item"]], **options)
    assert "shown_at: hour, 2 numbers" in repr(dls)
    learn = collab_learner(dls, 8, loss_func="bpr", seed=1)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(20, 2e-2)
    learn.add_items(pd.DataFrame({"item": ["new"], "shown_at": [6.0]}))  # at the hour of the second group
    near = learn.similar_items("new", k=5)["item"].str[1:].astype(int) % 4
    assert (near == 1).sum() >= 4
    learn.export(tmp_path / "artefact")
    assert Recommender.load(tmp_path / "artefact").recommend(k=5).equals(learn.recommend(k=5))
    kind = KINDS.pop("hour")
    with pytest.raises(ValueError, match="of kind 'hour', of which nothing is known"):
        Recommender.load(tmp_path / "artefact")
    KINDS["hour"] = kind
    with pytest.raises(ValueError, match="outside 0 to 24"):
        CollabDataLoaders.from_df(table[["user", "item"]], **{**options, "items": items.assign(shown_at=25.0)})
