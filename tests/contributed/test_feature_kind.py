"""Contributed kinds of feature: an hour as a point on a circle, where 23 lies beside 0, and a melody that is heard."""

import numpy as np
import pandas as pd
import pytest
import torch
from contract import equal, planted, same
from torch import nn

from collabkit import CollabDataLoaders, Recommender, collab_learner
from collabkit.data.features import KINDS, Field, Kind
from collabkit.data.runs import Runs


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
    equal(Recommender.load(tmp_path / "artefact").recommend(k=5), learn.recommend(k=5))
    kind = KINDS.pop("hour")
    with pytest.raises(ValueError, match="of the unknown kind 'hour'"):
        Recommender.load(tmp_path / "artefact")
    KINDS["hour"] = kind
    with pytest.raises(ValueError, match="outside 0 to 24"):
        CollabDataLoaders.from_df(table[["user", "item"]], **{**options, "items": items.assign(shown_at=25.0)})


class Heard(nn.Module):
    """What a melody sounds like: the last step of a recurrent network over its notes."""

    def __init__(self, width: int):
        super().__init__()
        self.notes, self.rnn = nn.Embedding(129, 8), nn.GRU(8, width, batch_first=True)

    def forward(self, contents: Runs) -> torch.Tensor:
        table = contents.padded()
        if table.shape[1] == 0:
            return self.notes.weight.new_zeros(len(table), self.rnn.hidden_size)
        steps = self.rnn(self.notes(table))[0]
        last = steps[torch.arange(len(steps)), (contents.lengths - 1).clamp(min=0)]
        return last * (contents.lengths > 0)[:, None]


class Melody(Kind):
    """Notes from 1 to 128 in their order, of which a module makes numbers that is trained with the model."""

    of_moments = False

    def fit(self, name: str, values: pd.Series, columns=()) -> Field:
        return Field(name, "melody", width=16)

    def encode(self, field: Field, values: pd.Series):
        lists = [list(value) if isinstance(value, (list, tuple)) else [] for value in values]
        rows = [row for row, notes in enumerate(lists) for _ in notes]
        return Runs.group(rows, [note for notes in lists for note in notes], len(lists)), sum(not n for n in lists), []

    def has_encoder(self, field: Field) -> bool:
        return True

    def encoder(self, field: Field) -> nn.Module:
        return Heard(field.width)

    def fits(self, field: Field, contents: Runs) -> bool:
        return bool(((contents.values > 0) & (contents.values <= 128)).all())


def test_a_kind_may_bring_a_module_that_is_trained_with_the_model(tmp_path):
    KINDS["melody"] = Melody()
    try:
        table = planted()
        items = pd.DataFrame({"item": sorted(table["item"].unique())})
        tunes = [[60, 64, 67, 72], [72, 67, 64, 60], [60, 67, 64, 72], [72, 64, 67, 60]]  # the same notes
        items["tune"] = [tunes[int(item[1:]) % 4] for item in items["item"]]
        dls = CollabDataLoaders.from_df(table[["user", "item"]], feedback="implicit", items=items, seed=0,
                                        item_features={"tune": "melody"})  # fmt: skip
        learn = collab_learner(dls, 8, loss_func="bpr", seed=1)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(10, 2e-2)
        learn.add_items(pd.DataFrame({"item": ["new"], "tune": [tunes[1]]}))
        near = learn.similar_items("new", k=5)["item"].str[1:].astype(int) % 4
        assert (near == 1).sum() >= 4
        learn.export(tmp_path / "artefact")
        same(Recommender.load(tmp_path / "artefact").recommend(k=5), learn.recommend(k=5))
    finally:
        del KINDS["melody"]
