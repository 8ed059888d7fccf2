"""What a GPU could break beside the contract of the models: records, ids, closed forms, new ids, artefacts, content."""

import numpy as np
import pandas as pd
import pytest
import torch
from contract import planted, same

from collabkit import CollabDataLoaders, HybridKNN, Implicit, Recommender, collab_learner, datasets

pytestmark = pytest.mark.cuda
NAMES = {"user_name": "user", "item_name": "item"}


@pytest.fixture(scope="module", autouse=True)
def gpu():
    assert torch.cuda.is_available(), "--cuda asks for a GPU, and torch sees none"


def clicks(**kwargs):
    return CollabDataLoaders.from_df(planted(), **NAMES, feedback="implicit", seed=0, **kwargs)


def trained(dls, *args, n_epoch=5, lr=2e-2, **kwargs):
    learn = collab_learner(dls, *args, seed=1, **kwargs)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(n_epoch, lr)
    assert learn.model.device.type == "cuda"
    return learn


@pytest.fixture(scope="module")
def rated():
    return trained(CollabDataLoaders.from_df(planted(rated=True), **NAMES, rating_name="rating", seed=0), 8)


def test_what_a_fit_recorded_is_on_the_cpu_and_plotted(rated):
    assert all(loss.device.type == "cpu" for loss in rated.recorder.losses)
    rated.recorder.plot_loss()
    with rated.no_bar(), rated.no_logging():
        assert rated.lr_find(num_it=20).valley > 0


def test_ids_of_a_batch(rated):
    batch = rated.dls.one_batch()
    assert batch[0].device.type == "cuda"
    assert len(rated.dls.classes["item"][batch[0][:, 1]]) == len(batch[0])
    rated.dls.show_batch()
    dls = CollabDataLoaders.from_df(planted(), **NAMES, feedback="implicit", context_features=["device"], seed=0)
    contexts = dls.train.dataset.contexts
    batch = dls.asking(("users", "context")).one_batch()
    assert set(contexts.decode(batch.query.context)["device"]) == {"phone", "desktop"}


def test_a_model_answers_on_the_cpu_as_on_the_gpu(rated, tmp_path):
    asked = rated.recommend(k=5)
    same(Recommender.load(rated.export(tmp_path / "artefact")).recommend(k=5), asked)
    predicted = rated.predict(["u1"] * 3, ["i01", "i02", "i03"])
    rated.model.cpu()
    try:
        same(rated.recommend(k=5), asked)
        assert np.allclose(rated.predict(["u1"] * 3, ["i01", "i02", "i03"]), predicted, atol=1e-5)
    finally:
        rated.model.cuda()


def test_people_and_items_who_come_later():
    table = planted()
    dls = clicks()
    learn = trained(dls, 8, loss_func="bpr")
    history = list(table.loc[table["user"] == "u3", "item"])
    assert len(learn.recommend(history=history, k=5)) == 5
    learn.fold_in(table[table["user"] == "u3"].assign(user="new"))
    near = learn.recommend("new", k=5)["item"].str[1:].astype(int) % 4
    assert (near == 3).sum() >= 3
    learn.update(table[table["user"] == "u4"].assign(user="newer"))
    assert len(learn.recommend("newer", k=5)) == 5
    learn.questionnaire()
    assert abs(learn.why("u3", history[0])["share"].sum() - learn.predict("u3", history[0])) < 1e-3


def test_least_squares_and_what_follows():
    learn = collab_learner(clicks(), 8, seed=1)
    with learn.no_bar(), learn.no_logging():
        learn.fit_als()
    on_cpu = collab_learner(CollabDataLoaders.from_df(planted(), **NAMES, feedback="implicit", seed=0, device="cpu"), 8,
                            seed=1)  # fmt: skip
    with on_cpu.no_bar(), on_cpu.no_logging():
        on_cpu.fit_als()
    a, b = (model.evaluate().loc["NDCG@10", "value"] for model in (learn, on_cpu))
    assert abs(a - b) < 0.05
    learn.calibrate()
    assert learn.predict("u3", "i03") <= 1
    learn.refit_all()


def test_known_dislikes_are_drawn():
    table = planted(rated=True)
    feedback = Implicit(threshold=3, dislikes="negatives")
    dls = CollabDataLoaders.from_df(table, **NAMES, rating_name="rating", feedback=feedback, seed=0)
    trained(dls, 8, loss_func="bpr")


def test_neighbours_by_events_and_features():
    table = planted()
    items = pd.DataFrame({"item": sorted(table["item"].unique())})
    items["group"] = [f"g{int(item[1:]) % 4}" for item in items["item"]]
    dls = clicks(items=items, item_features=["group"])
    model = HybridKNN().fit(dls)
    assert len(model.recommend(k=5))
    learn = trained(dls, 8, loss_func="bpr")
    learn.add_items(pd.DataFrame({"item": ["fresh"], "group": ["g1"]}))
    near = learn.similar_items("fresh", k=5)["item"].str[1:].astype(int) % 4
    assert (near == 1).sum() >= 3


@pytest.mark.parametrize("kind", ["text", "image"])
def test_content_is_trained_on_the_gpu(kind, tmp_path):
    made = datasets.synthetic_content(n_users=80, n_items=60, n_events=10, seed=0)
    column = "title" if kind == "text" else "poster"
    dls = CollabDataLoaders.from_df(made.events, **NAMES, feedback="implicit", items=made.items,
                                    item_features={column: kind}, seed=0)  # fmt: skip
    learn = trained(dls, 8, n_epoch=1, loss_func="bpr")
    learn.export(tmp_path / "artefact")
    same(Recommender.load(tmp_path / "artefact").recommend(k=3), learn.recommend(k=3))


def test_mixed_precision():
    learn = collab_learner(clicks(), 8, loss_func="bpr", seed=1).to_bf16()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(5, 2e-2)
    assert learn.evaluate().loc["HitRate@10", "value"] > 0.5
