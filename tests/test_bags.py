"""`Bag`: values that count by idf or attention, hashed ones, and tables that users and items share."""

import numpy as np
import pandas as pd
import pytest
import torch
from elsewhere import elsewhere

from collabkit import Bag, CollabDataLoaders, CollabInterpretation, Features, Recommender, Vocab, collab_learner
from collabkit.data.features.bags import _code
from collabkit.models import CollFilter
from collabkit.models.feature_rows import FeatureRows

FILMS = pd.DataFrame({"film": range(6), "tags": ["a|b", "a", "a|c", None, "b|c|d", "a|d"]})


def features(kind, films=FILMS):
    return Features.from_df(films, Vocab(range(len(films)), "film"), {"tags": kind})


def people(n=120, n_items=60, seed=0):
    """Users who like one genre, and say so in another order, and items with it and some noise."""
    rng = np.random.default_rng(seed)
    genre, noise = rng.integers(0, 4, n_items), rng.integers(0, 30, n_items)
    items = pd.DataFrame({"item": [f"i{j:02}" for j in range(n_items)]})
    items["tags"] = [[f"g{g}", f"n{z}"] for g, z in zip(genre, noise, strict=True)]
    liked = rng.integers(0, 4, n)
    users = pd.DataFrame({"user": [f"u{j:03}" for j in range(n)], "likes": [f"g{g}|x" for g in liked]})
    rows = [(f"u{u:03}", f"i{i:02}") for u in range(n) for i in rng.choice(np.flatnonzero(genre == liked[u]), 6)]
    return pd.DataFrame(rows, columns=["user", "item"]).drop_duplicates(ignore_index=True), users, items


def loaders(tags, likes=None, **options):
    events, users, items = people()
    side = {} if likes is None else {"users": users, "user_features": {"likes": likes}}
    return CollabDataLoaders.from_df(
        events, feedback="implicit", seed=0, items=items, item_features={"tags": tags}, **side, **options
    )


def fitted(dls, n_epoch=3, **options):
    learn = collab_learner(dls, n_factors=8, loss_func="bpr", seed=0, **options)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(n_epoch, 2e-2)
    return learn


def test_idf_weighs_values_by_how_rare_they_are():
    matrix = features(Bag("idf")).matrix()
    n, counts = 6, {"a": 4, "b": 2, "c": 2, "d": 2}
    weight = {name: np.log((n + 1) / (c + 1)) + 1 for name, c in counts.items()}
    want = np.array([0, *(weight[name] if name in "ab" else 0 for name in "abcd")])
    assert np.allclose(matrix[1], want / want.sum(), atol=1e-6)
    assert matrix[4].tolist() == [1, 0, 0, 0, 0] and torch.allclose(matrix.sum(1), torch.ones(7))
    sparse, _ = features(Bag("idf")).sparse_matrix()
    assert np.allclose(sparse.toarray(), matrix)


@pytest.mark.parametrize("kind", [Bag(), Bag("idf"), Bag("attention"), Bag("idf", buckets=16)])
@pytest.mark.parametrize("few", [True, False])
def test_the_part_of_a_row_is_its_weighted_mean(kind, few):
    many = pd.concat([FILMS] * 8, ignore_index=True).assign(film=range(48))
    rows = FeatureRows(features(kind, many), [4, 1], init_std=1.0)
    idx = torch.tensor([2, 5]) if few else torch.arange(49)
    (field,) = rows.fields
    share = rows.features.matrix()
    if field.attention is not None:
        torch.nn.init.normal_(field.attention)
        share = (share > 0) * field.attention.exp()
        share = share / share.sum(1, keepdim=True)
    weight = torch.cat([*field.weights], dim=1)
    want, got = share[idx] @ weight, torch.cat(rows(idx), dim=-1)
    assert torch.allclose(got, want, atol=1e-5)
    factor = torch.randn_like(got)
    wanted = torch.autograd.grad((want * factor).sum(), list(field.parameters()))
    for mine, other in zip(torch.autograd.grad((got * factor).sum(), list(field.parameters())), wanted, strict=True):
        assert torch.allclose(mine, other, atol=1e-4)


def test_attention_learns_which_values_count():
    learn = fitted(loaders(Bag("attention")), 12, id_dropout=0.5)
    (field,) = learn.model.item_side.features.fields
    names = np.array(field.field.value_names)
    weight = field.attention.detach().numpy()
    of = lambda letter: weight[[name[0] == letter for name in names]].mean()  # noqa: E731
    assert of("g") > of("n") + 0.1


def test_values_that_training_has_not_met_have_a_row_in_buckets():
    open_set, closed = features(Bag(buckets=64)), features(Bag())
    new = pd.DataFrame({"film": [6, 7], "tags": ["never met", "a|never met"]})
    vocab = Vocab(range(8), "film")
    grown = open_set.extended(new, vocab)
    with pytest.warns(UserWarning, match="unseen in training"):
        bare = closed.extended(new, vocab)
    assert grown.matrix()[7, 0] == 0 and bare.matrix()[7, 0] == 1
    assert grown.matrix()[7, _code("never met", 64)] == 1
    assert "buckets" in repr(open_set) and open_set.fields[0].value_names[_code("a", 64)] == "a"


def test_buckets_are_the_same_in_every_process():
    code = "from collabkit.data.features.bags import _code; print([_code(t, 1000) for t in ('a', 'é', '夜')])"
    assert elsewhere(code).stdout == f"{[_code(t, 1000) for t in ('a', 'é', '夜')]}\n"


@pytest.mark.parametrize("buckets", [None, 64])
@pytest.mark.parametrize("weights", [None, "idf"])
def test_users_and_items_share_one_table(buckets, weights, tmp_path):
    kind = lambda: Bag(weights, buckets=buckets, share="genre")  # noqa: E731
    learn = fitted(loaders(kind(), kind()), 8)
    mine, theirs = (side.features.fields[0] for side in learn.model.sides)
    assert mine.weights[0] is theirs.weights[0] and mine.weights[1] is not theirs.weights[1]
    assert mine.field.categories == theirs.field.categories or buckets
    learn.export(tmp_path / "a")
    again = Recommender.load(tmp_path / "a")
    mine, theirs = (side.features.fields[0] for side in again.model.sides)
    assert mine.weights[0] is theirs.weights[0]
    pd.testing.assert_frame_equal(again.recommend(k=3), learn.recommend(k=3))
    learn.add_users(pd.DataFrame({"user": ["new"], "likes": ["g2"]}))
    best = learn.recommend("new", k=5)["item"]
    tags = people()[2].set_index("item")["tags"]
    assert sum("g2" in tags[item] for item in best) >= 4
    learn.add_items(pd.DataFrame({"item": ["fresh"], "tags": [["g1"]]}))
    assert learn.similar_items("fresh", k=3)["item"].map(lambda item: "g1" in tags[item]).all()


def test_shared_bags_must_fit_together():
    with pytest.raises(ValueError, match="share 'g' need the same weights and buckets"):
        loaders(Bag("idf", share="g"), Bag(share="g"))
    dls = loaders(Bag(share="g"), Bag(share="g"))
    model = CollFilter.for_data(dls.data, n_factors=4)
    copy = torch.nn.Module.state_dict(model)
    model.load_state_dict(copy, assign=True)
    assert model.user_side.features.fields[0].weights[0] is model.item_side.features.fields[0].weights[0]


@pytest.mark.parametrize("bad", [{"weights": "tfidf"}, {"buckets": 0}, {"buckets": 2.5}, {"share": ""}, {"share": 3}])
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Bag(**bad)


def test_bags_are_no_context():
    events, _, _ = people()
    with pytest.raises((TypeError, ValueError)):
        CollabDataLoaders.from_df(events.assign(mood="a|b"), feedback="implicit", context_features={"mood": Bag()})


def test_why_and_effects_name_the_values():
    learn = fitted(loaders(Bag("idf")), 6)
    effects = CollabInterpretation.from_learner(learn).feature_effects()
    assert set(effects["value"]) >= {"g0", "g1", "g2", "g3"}


class NoTable(torch.overrides.TorchFunctionMode):
    """Refuses tensors of `most` numbers or more."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.layout == torch.strided and found.numel() >= self.most:
            raise AssertionError(f"{func} made {tuple(found.shape)}")
        return found


@pytest.mark.parametrize("weights", [None, "idf", "attention"])
def test_no_table_of_items_by_values_is_made(weights):
    """2,000 items by 3,000 values are 6 million numbers; nothing of a quarter of that is made in a fit."""
    rng = np.random.default_rng(0)
    items = pd.DataFrame({"item": range(2000)})
    items["tags"] = [[str(t) for t in rng.integers(0, 3000, 8)] for _ in range(2000)]
    events = pd.DataFrame({"user": rng.integers(0, 200, 6000), "item": rng.integers(0, 1900, 6000)}).drop_duplicates()
    options = {"feedback": "implicit", "items": items, "item_features": {"tags": Bag(weights)}, "bs": 1024, "seed": 0}
    with NoTable(1_500_000):
        learn = fitted(CollabDataLoaders.from_df(events, **options), 1)
        fresh = pd.DataFrame({"item": range(2000, 2040), "tags": [["1", "2"]] * 40})
        learn.add_items(fresh)
        assert len(learn.recommend(0, k=3))
