"""The models: hand-computed scores, fastai's models as an oracle, and a contract that every model passes."""

import json

import numpy as np
import pytest
import torch
from helpers import (
    KINDS,
    RANKERS,
    auc_of,
    checkerboard,
    clicks,
    make_clicks_dls,
    make_dls,
    make_learner,
    make_ranker,
    same_weights,
    score_table,
    seen_table,
    trained,
    trained_ranker,
    weights,
)
from scipy.stats import spearmanr
from torch import nn

from collabkit import CollFilter, EmbeddingNN, Recommender, Vocab, load_learner
from collabkit.data.dataset import Dataset
from collabkit.data.interactions import Columns, Interactions
from collabkit.data.notices import CollabWarning
from collabkit.models import (
    EASE,
    GMF,
    NCF,
    FactorizationMachine,
    GRURec,
    HybridKNN,
    Model,
    NeuMF,
    NextItem,
    SASRec,
    Side,
    TwoTower,
    YouTubeNet,
)
from collabkit.models.base import check_y_range, sigmoid_range
from collabkit.models.mlp import emb_sz_rule
from collabkit.models.table import embedding

N_USERS, N_ITEMS = 5, 7
MADE = {  # models of implicit feedback, which have no y_range
    "ncf": lambda **kwargs: NCF(N_USERS, N_ITEMS, 3, **{"layers": [6, 4], "init_std": 1.0, **kwargs}),
    "gmf": lambda **kwargs: GMF(N_USERS, N_ITEMS, 4, **{"init_std": 0.5, **kwargs}),
    "neumf": lambda **kwargs: NeuMF(
        N_USERS, N_ITEMS, 3, **{"mlp_factors": 2, "layers": [6], "init_std": 1.0, **kwargs}
    ),
    "towers": lambda **kwargs: TwoTower(N_USERS, N_ITEMS, 4, **{"init_std": 0.5, **kwargs}),
    "cosine": lambda **kwargs: TwoTower(
        N_USERS, N_ITEMS, 4, **{"layers": [6, 3], "similarity": "cosine", "temperature": 0.2, "init_std": 0.5, **kwargs}
    ),
}
ALL = (*KINDS, *MADE)
DOTS = ("dot", "gmf", "towers", "cosine")  # the score is a dot product of vectors


def make(kind, y_range=(0.5, 5.5), **kwargs):
    torch.manual_seed(3)
    if kind in MADE:
        model = MADE[kind](**kwargs)
        with torch.no_grad():  # from its starting values of ones and zeros
            for p in getattr(model, "out", nn.Module()).parameters():
                nn.init.normal_(p)
        return model.eval()
    if kind == "dot":
        return CollFilter(N_USERS, N_ITEMS, 4, y_range, **{"init_std": 0.5, **kwargs})
    model = EmbeddingNN([(N_USERS, 3), (N_ITEMS, 2)], **{"layers": [6, 4], "y_range": y_range, **kwargs})
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.ndim == 2):
            nn.init.normal_(weight)
    return model.eval()


def tables(model, *names):
    """The tables of the sides, default of both."""
    return [table.weight for name in names or ("user", "item") for table in model.side(name).tables]


def rebuilt(model, n_users=N_USERS, n_items=N_ITEMS):
    """A model made again from its config by way of JSON, for data of so many rows."""
    none = torch.zeros(0, dtype=torch.int64)
    vocabs = Vocab(range(n_users - 1), "user"), Vocab(range(n_items - 1), "item")
    data = Dataset(Interactions(none, none, None, None, *vocabs, Columns("user", "item")))
    return type(model).for_data(data, **json.loads(json.dumps(model.config())))


def all_pairs():
    return torch.cartesian_prod(torch.arange(N_USERS), torch.arange(N_ITEMS))  # (35, 2)


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_coll_filter_by_hand():
    model = CollFilter(3, 3, n_factors=2, y_range=(1, 5))
    with torch.no_grad():
        model.u_weight.weight[1] = torch.tensor([1.0, 2.0])
        model.i_weight.weight[2] = torch.tensor([0.5, -1.0])
        model.u_bias.weight[1], model.i_bias.weight[2] = 0.25, 1.5
    user, item = torch.tensor([1]), torch.tensor([2])
    # 1 * 0.5 + 2 * -1 + 0.25 + 1.5 = 0.25; 1 + 4 / (1 + exp(-0.25)) = 3.248708
    assert model.score(user, item).item() == pytest.approx(0.25)
    assert model(user, item).item() == pytest.approx(3.248708, abs=1e-5)
    assert model.user_vectors(user).tolist() == [[1.0, 2.0, 0.25, 1.0]]
    assert model.item_vectors(item).tolist() == [[0.5, -1.0, 1.0, 1.5]]


def test_embedding_nn_by_hand():
    model = EmbeddingNN([(3, 1), (3, 2)], layers=[2], use_bn=False)
    hidden, final = model.layers[0][0], model.layers[1]
    with torch.no_grad():
        model.embeds[0].weight[1], model.embeds[1].weight[2] = torch.tensor([2.0]), torch.tensor([1.0, -1.0])
        hidden.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 4.0]]))
        hidden.bias.copy_(torch.tensor([0.5, 0.0]))
        final.weight.copy_(torch.tensor([[2.0, 10.0]]))
        final.bias.fill_(-0.5)
    # hidden = relu([2 + 2 - 3 + .5, 2 - 4]) = [1.5, 0]; score = 2 * 1.5 - 0.5 = 2.5
    assert model(torch.tensor([1]), torch.tensor([2])).item() == pytest.approx(2.5)


def test_sigmoid_range_by_hand():
    x = torch.tensor([0.0, float(np.log(3.0)), -100.0, 100.0])
    assert torch.allclose(sigmoid_range(x, 0, 4), torch.tensor([2.0, 3.0, 0.0, 4.0]))


def test_embedding_is_a_normal_truncated_at_two_sd_with_a_zero_row():
    torch.manual_seed(0)
    table = embedding(4001, 20, std=0.05).weight.detach()
    assert torch.equal(table[0], torch.zeros(20))
    assert 0.0995 < table.abs().max() <= 0.1
    # a standard normal cut at +-2 has sd 0.8796
    assert table[1:].std().item() == pytest.approx(0.05 * 0.8796, rel=0.01)
    assert abs(table[1:].mean().item()) < 0.001


@pytest.mark.parametrize("shape", [(5000,), (1000, 5), (3,)])
def test_gradients_of_large_batches_are_those_of_torchs_embedding(shape):
    generator = torch.Generator().manual_seed(0)
    table, oracle = embedding(50, 3), nn.Embedding(50, 3)
    oracle.load_state_dict(table.state_dict())
    idx, upstream = torch.randint(50, shape, generator=generator), torch.randn(*shape, 3, generator=generator)
    for rows in (table(idx), oracle(idx)):
        (rows * upstream).sum().backward()
    assert torch.equal(table(idx), oracle(idx))
    assert torch.allclose(table.weight.grad, oracle.weight.grad, atol=1e-3)
    table.weight.grad = None
    table(idx).sum().backward()  # an upstream gradient that is expanded
    assert torch.equal(table.weight.grad[:, 0], torch.bincount(idx.flatten(), minlength=50).float())


@pytest.mark.parametrize("n", [2, 3, 10, 100, 944, 1683, 10_000, 1_000_000])
def test_emb_sz_rule_is_fastais(n):
    from fastai.tabular.model import emb_sz_rule as oracle

    assert emb_sz_rule(n) == oracle(n)


# --- fastai's models as an oracle ------------------------------------------------------------------------------------


def test_coll_filter_scores_as_fastais_dot_model():
    from fastai.collab import EmbeddingDotBias

    oracle, model = EmbeddingDotBias(4, N_USERS, N_ITEMS, y_range=(0, 5.5)), make("dot", y_range=(0, 5.5))
    with torch.no_grad():
        for name in ("u_weight", "i_weight", "u_bias", "i_bias"):  # the names of the tables are fastai's too
            getattr(oracle, name).weight.copy_(getattr(model, name).weight)
    assert torch.allclose(model(all_pairs()), oracle(all_pairs()), atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", [{}, {"use_bn": False}, {"bn_final": True}], ids=str)
def test_embedding_nn_scores_as_fastais(options, training):
    from fastai.collab import EmbeddingNN as Oracle

    sizes = [(N_USERS, 3), (N_ITEMS, 2)]
    oracle, model = Oracle(sizes, layers=[6, 4], y_range=(0, 5.5), **options), make("nn", (0, 5.5), **options)
    mine, theirs = list(model.parameters()), [p for p in oracle.parameters() if p.numel()]
    assert [p.shape for p in mine] == [p.shape for p in theirs]
    with torch.no_grad():
        for p, q in zip(mine, theirs, strict=True):
            q.copy_(p)
    pred, expected = model.train(training)(all_pairs()), oracle.train(training)(all_pairs()).squeeze(1)
    assert torch.allclose(pred, expected, atol=1e-5)
    assert (pred.max() - pred.min()).item() > 0.1


# --- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_broadcast_pairwise_and_batch_forms_agree(kind):
    model, pairs = make(kind), all_pairs()
    pairwise = model(pairs[:, 0], pairs[:, 1])
    grid = model(torch.arange(N_USERS)[:, None], torch.arange(N_ITEMS))
    assert pairwise.shape == (35,) and grid.shape == (N_USERS, N_ITEMS)
    assert pairwise.std() > 0.05  # else equality says little
    assert torch.allclose(grid.flatten(), pairwise, atol=1e-6)
    assert torch.equal(model(pairs), pairwise)
    assert torch.equal(model(pairs.view(5, 7, 2)), pairwise.view(5, 7))
    deep = model(torch.arange(N_USERS).view(-1, 1, 1), torch.arange(6).view(2, 3))
    assert torch.allclose(deep, grid[:, :6].reshape(N_USERS, 2, 3), atol=1e-6)


@pytest.mark.parametrize("kind", ALL)
def test_a_batch_of_one_and_single_indices(kind):
    model = make(kind)
    expected = model(torch.tensor([[2, 3], [1, 4]]))[0]
    assert model(torch.tensor([[2, 3]])).shape == (1,)
    for one in (model(torch.tensor([[2, 3]])), model(torch.tensor([2, 3])), model(torch.tensor(2), torch.tensor(3))):
        assert one.squeeze().item() == pytest.approx(expected.item(), abs=1e-6)
    assert model(torch.tensor(2), torch.tensor(3)).shape == ()
    assert model(torch.zeros(0, 2, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_y_range_bounds_ratings_and_without_it_logits_come_out(kind):
    rated, plain = make(kind), make(kind, y_range=None)
    plain.load_state_dict(rated.state_dict())
    with torch.no_grad():
        rated.u_weight.weight[1] *= 30.0
        plain.u_weight.weight[1] *= 30.0
    logits = plain(all_pairs())
    assert logits.abs().max() > 5.5
    assert torch.allclose(rated(all_pairs()), 0.5 + 5.0 * torch.sigmoid(logits))
    assert rated(all_pairs()).min() >= 0.5 and rated(all_pairs()).max() <= 5.5
    assert torch.allclose(rated.score(*all_pairs().unbind(1)), logits)


@pytest.mark.parametrize("kind", ALL)
def test_config_rebuilds_the_model_through_json(kind):
    options = {"nn": {"ps": [0.1, 0.2], "embed_p": 0.3}, "ncf": {"ps": [0.1, 0.2], "embed_p": 0.3}}
    options |= {name: {"sparse": True} for name in ("dot", "towers")}
    model = make(kind, **options.get(kind, {"init_std": 0.3}))
    again = rebuilt(model)
    assert json.dumps(again.config()) == json.dumps(model.config())
    assert str(again) == str(model)
    assert not same_weights(again, model)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(all_pairs()), model.eval()(all_pairs()))


@pytest.mark.parametrize("kind", ALL)
def test_tables_are_the_rows_in_order(kind):
    model, idx = make(kind), torch.tensor([3, 1])
    for name, n, rows in (("user", N_USERS, model.user_rows), ("item", N_ITEMS, model.item_rows)):
        own = tables(model, name)
        assert [len(t) for t in own] == [n] * len(own)
        assert len(rows(idx)) == len(own)
        assert all(torch.equal(part, table[idx]) for part, table in zip(rows(idx), own, strict=True))
        assert all(torch.equal(*pair) for pair in zip(rows(idx), model.side(name).read(idx), strict=True))


@pytest.mark.parametrize("kind", ALL)
def test_the_unknown_row_starts_at_zero(kind):
    torch.manual_seed(0)
    plain = {"dot": lambda: CollFilter(4, 4, 3), "nn": lambda: EmbeddingNN([(4, 3), (4, 3)], [5])}
    model = {**plain, **MADE}[kind]()
    assert all(t[0].abs().sum() == 0 and t[1:].abs().min() > 0 for t in tables(model))


@pytest.mark.parametrize("kind", ALL)
def test_training_touches_the_rows_of_the_batch_alone(kind):
    model = make(kind).train()
    model(torch.tensor([[1, 2], [3, 4]])).sum().backward()
    for name, seen in (("user", [1, 3]), ("item", [2, 4])):
        for table in tables(model, name):
            assert table.grad.abs().sum(1).nonzero().flatten().tolist() == seen


@pytest.mark.parametrize("kind", DOTS)
def test_dot_vectors_multiply_to_the_logits(kind):
    model = make(kind)
    users, items = torch.arange(N_USERS), torch.arange(N_ITEMS)
    product = model.user_vectors(users) @ model.item_vectors(items).T
    assert product.std() > 0.1
    assert torch.allclose(product, model.score(users[:, None], items), atol=1e-5)
    assert torch.equal(model.user_vectors(users.view(5, 1)).squeeze(1), model.user_vectors(users))
    for other in set(ALL) - set(DOTS):
        assert not make(other).has_vectors
        with pytest.raises(TypeError, match="is not a dot product"):
            make(other).item_vectors(items)


def test_sparse_tables_have_sparse_gradients():
    model = make("dot", sparse=True)
    model(torch.tensor([[1, 2], [1, 3]])).sum().backward()
    grads = [p.grad for p in model.parameters()]
    assert all(g.is_sparse for g in grads)
    assert model.u_weight.weight.grad.coalesce().indices().tolist() == [[1]]


@pytest.mark.parametrize("kind", KINDS)
def test_learns_planted_structure_neither_too_badly_nor_too_well(kind):
    df = checkerboard()
    options = {"n_factors": 2, "wd_on": "all"} if kind == "dot" else {"layers": [32], "emb_szs": [4, 4], "ps": 0.0}
    learn = make_learner(kind, make_dls(df, bs=64), y_range=(0, 6), **options)
    learn.fit_one_cycle(20 if kind == "dot" else 25, 5e-2, wd=0.1)
    rmse = learn.evaluate(n_boot=10).loc["RMSE"]
    assert rmse["user+item bias"] > 0.9  # the structure is out of reach of biases
    assert 0.36 < rmse["value"] < 0.55  # the noise has sd 0.4: below it validation ratings have leaked


# --- positives and negatives -----------------------------------------------------------------------------------------


def ranked(n, shared=False, seed=0):
    """Users, positives and negatives, with repeats and the unknown id."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high, *shape: torch.randint(high, shape, generator=generator)  # noqa: E731
    return draw(N_USERS, 4), draw(N_ITEMS, 4), draw(N_ITEMS, n) if shared else draw(N_ITEMS, 4, n)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("n", [1, 3, 20])  # more than there are items, too
@pytest.mark.parametrize("kind", ALL)
def test_rank_scores_are_the_logits_pair_by_pair(kind, n, shared):
    model = make(kind)
    users, positives, negatives = ranked(n, shared)
    scores = model.rank_scores(users, positives, negatives)
    assert scores.shape == (4, 1 + n) and torch.equal(scores, model(users, positives, negatives))
    for row in range(4):
        for column, item in enumerate([positives[row], *(negatives if shared else negatives[row])]):
            assert scores[row, column].item() == pytest.approx(model.score(users[row], item).item(), abs=1e-5)
    one = model.rank_scores(users[:1], positives[:1], negatives if shared else negatives[:1])
    assert torch.allclose(one, scores[:1], atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_gradients_of_rank_scores_are_those_of_the_pairs(kind):
    """By sparse products, by gathered rows, and for negatives that are shared."""
    weights = torch.randn(4, 21, generator=torch.Generator().manual_seed(1))
    model = make(kind)

    def gradients(scores, n):
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        grads = torch.autograd.grad((scores * weights[:, : n + 1]).sum(), list(model.parameters()), allow_unused=True)
        return {k: torch.zeros(()) if g is None else g for k, g in zip(names, grads, strict=True)}

    for n, shared in ((1, False), (3, False), (20, False), (3, True)):
        users, positives, negatives = ranked(n, shared)
        items = torch.cat([positives[:, None], negatives.expand(4, n)], 1)
        got = gradients(model(users, positives, negatives), n)
        expected = gradients(model.score(users[:, None], items), n)
        assert sum(g.abs().sum() for g in expected.values()) > 1
        for name, grad in expected.items():
            assert torch.allclose(got[name], grad, atol=1e-4), (n, shared, name)
        rows = gradients(model(users, positives, negatives.expand(4, n)), n)  # each row its own, the same
        assert all(torch.allclose(rows[name], grad, atol=1e-4) for name, grad in got.items())


@pytest.mark.parametrize("kind", ["dot", "towers"])
def test_sparse_tables_have_sparse_gradients_from_rank_scores(kind):
    for n, shared in ((3, False), (20, False), (3, True)):
        sparse, dense = make(kind, sparse=True), make(kind)
        for model in (sparse, dense):
            model(*ranked(n, shared)).square().sum().backward()
        for p, q in zip(sparse.parameters(), dense.parameters(), strict=True):
            assert p.grad.is_sparse and torch.allclose(p.grad.to_dense(), q.grad, atol=1e-4)


def test_an_item_outside_the_table_is_an_error_and_no_number():
    for n in (1, 3, 20):
        users, positives, negatives = ranked(n)
        negatives[0, 0] = N_ITEMS
        with pytest.raises(IndexError):
            make("dot").rank_scores(users, positives, negatives)


def test_gmf_by_hand():
    model = GMF(3, 3, n_factors=2)
    assert model.out.weight.tolist() == [[1.0, 1.0]] and model.out.bias.tolist() == [0.0]
    with torch.no_grad():
        model.u_weight.weight[1], model.i_weight.weight[2] = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0])
        model.out.weight.copy_(torch.tensor([[2.0, 3.0]]))
        model.out.bias.fill_(0.25)
    assert model(torch.tensor([1]), torch.tensor([2])).item() == pytest.approx(2 * 0.5 + 3 * -2 + 0.25)
    assert model.user_vectors(torch.tensor([1])).tolist() == [[2.0, 6.0, 0.25]]
    assert model.item_vectors(torch.tensor([2])).tolist() == [[0.5, -1.0, 1.0]]


def test_two_tower_by_hand():
    model = TwoTower(3, 3, n_factors=2, similarity="cosine", temperature=0.5)
    with torch.no_grad():
        model.u_weight.weight[1], model.i_weight.weight[2] = torch.tensor([3.0, 4.0]), torch.tensor([-8.0, 6.0])
    # (0.6, 0.8) . (-0.8, 0.6) = 0; against (1, 0) it is 0.6, divided by 0.5
    assert model(torch.tensor([1]), torch.tensor([2])).item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        model.i_weight.weight[2] = torch.tensor([9.0, 0.0])
    assert model(torch.tensor([1]), torch.tensor([2])).item() == pytest.approx(1.2)
    assert model.item_vectors(torch.tensor([2])).tolist() == [[1.0, 0.0]]
    dot = TwoTower(3, 3, n_factors=2, layers=[1])
    with torch.no_grad():
        dot.u_weight.weight[1], dot.i_weight.weight[1] = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])
        for tower, weight, bias in ((dot.u_tower, [[1.0, 1.0]], 0.5), (dot.i_tower, [[1.0, 2.0]], -3.0)):
            tower[0].weight.copy_(torch.tensor(weight))
            tower[0].bias.fill_(bias)
    assert dot(torch.tensor([1]), torch.tensor([1])).item() == pytest.approx(3.5 * (1 - 3))  # no ReLU at the end


def test_ncf_is_an_embedding_nn_without_batch_norm():
    ncf = make("ncf")
    plain = EmbeddingNN([(N_USERS, 3), (N_ITEMS, 3)], [6, 4], use_bn=False).eval()
    plain.load_state_dict(ncf.state_dict())
    assert torch.equal(plain(all_pairs()), ncf(all_pairs())) and ncf.out is ncf.layers[-1]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_neumf_from_parts_is_their_weighted_sum(alpha):
    gmf, ncf = make("gmf"), make("ncf", ps=0.1)
    gmf.name_rows(Vocab(["a"]), Vocab(["a"]))
    before = weights(gmf), weights(ncf)
    model = NeuMF.from_parts(gmf, ncf, alpha).eval()
    pairs = all_pairs()
    assert torch.allclose(model(pairs), alpha * gmf(pairs) + (1 - alpha) * ncf(pairs), atol=1e-5)
    assert model(pairs).std() > 0.05 and model.users is gmf.users
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    assert same_weights(gmf, before[0]) and same_weights(ncf, before[1])  # the parts are copied
    again = rebuilt(model)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(pairs), model(pairs))


def test_parts_of_other_data_or_a_weight_out_of_range():
    with pytest.raises(ValueError, match="GMF has 5 x 8 rows, NCF 5 x 7"):
        NeuMF.from_parts(GMF(5, 8), make("ncf"))
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"alpha must lie in .0, 1., got {alpha}"):
            NeuMF.from_parts(make("gmf"), make("ncf"), alpha)


# --- the contract, trained on clicks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RANKERS)
def test_learns_who_clicks_on_what_neither_too_badly_nor_too_well(kind):
    learn = trained_ranker(kind)
    users, titles = (torch.tensor([0, *(int(str(v)[-2:]) for v in vocab.ids)]) for vocab in learn.dls.classes.values())
    truth = torch.where(users[:, None] % 2 == titles % 2, 0.9, 0.1) / (3 + titles // 2)  # how `clicks` drew them
    best = auc_of(truth, learn.dls)
    popular = torch.bincount(learn.dls.train.dataset.item_idx, minlength=len(titles)).expand(len(users), -1)
    assert auc_of(popular, learn.dls) < 0.67 < 0.84 < best  # popularity is beside the point, and noise leaves .14
    assert auc_of(popular, learn.dls) + 0.05 < auc_of(score_table(learn.model), learn.dls) < best + 0.01


@pytest.mark.parametrize("kind", RANKERS)
def test_never_recommends_the_unknown_or_a_seen_item(kind):
    learn = trained_ranker(kind)
    with pytest.warns(CollabWarning, match="fewer than k=40 items are left"):
        table = learn.recommend(None, k=40)
    assert "#na#" not in set(table["title"]) and not table.duplicated(["user", "title"]).any()
    df = clicks()
    seen = set(zip(df["user"], df["title"], strict=True))
    assert not seen & set(zip(table["user"], table["title"], strict=True))
    assert len(table) == 80 * 40 - len(df)  # and all others
    scores = score_table(learn.model)
    first = table[table["user"] == 7].sort_values("rank")
    rows = [learn.dls.classes["title"].o2i[title] for title in first["title"]]
    assert first["score"].is_monotonic_decreasing
    assert scores[learn.dls.classes["user"].o2i[7], rows].tolist() == pytest.approx(first["score"].tolist(), abs=1e-4)


@pytest.mark.parametrize("kind", RANKERS)
def test_an_unknown_user_gets_about_the_popular_items(kind):
    learn = trained_ranker(kind)
    train = learn.dls.train.dataset
    counts = torch.bincount(train.item_idx, minlength=train.n_items)[1:]
    unknown = score_table(learn.model)[0, 1:]
    assert spearmanr(unknown, counts).statistic > 0.7
    known = np.mean([spearmanr(row[1:], counts).statistic for row in score_table(learn.model)[1:]])
    assert spearmanr(unknown, counts).statistic > known + 0.05
    top = set(learn.recommend([-1], k=5, unknown="default")["title"])
    popular = counts.argsort(descending=True)[:10] + 1
    assert len(top & {train.items[int(i)] for i in popular}) >= 3
    with pytest.raises(KeyError, match="-1"):
        learn.recommend([-1])


@pytest.mark.parametrize("kind", RANKERS)
def test_survives_save_and_load(kind, tmp_path):
    learn = trained_ranker(kind)
    scores = score_table(learn.model)
    folder = learn.recommender.save(tmp_path / "it")
    loaded, served = load_learner(folder), Recommender.load(folder)
    for model in (loaded.model, served.model):
        assert type(model) is type(learn.model) and same_weights(model, learn.model)
        assert torch.equal(score_table(model), scores)
    assert loaded.recommend(None, k=3).equals(learn.recommend(None, k=3))
    assert loaded.dls.feedback == "implicit" and loaded.dls.valid.dataset.time is not None
    assert torch.equal(seen_table(loaded.dls.train.dataset), seen_table(learn.dls.train.dataset))


@pytest.mark.parametrize("kind", RANKERS)
def test_trains_on_batches_of_one(kind):
    learn = make_ranker(kind, make_clicks_dls(clicks(6, 10, 3), bs=1))
    before = weights(learn.model)
    learn.fit(1, 1e-2)
    assert not same_weights(before, learn.model)
    assert all(p.isfinite().all() for p in learn.model.parameters())


# --- rows by external id ---------------------------------------------------------------------------------------------


def test_bias_and_weight_look_up_external_ids_in_the_order_asked():
    learn = trained("dot")
    titles = [learn.dls.classes["title"][j] for j in (5, 2, 5)]
    model = learn.model
    before = weights(model)
    assert torch.equal(model.bias(titles, is_item=True), model.i_bias.weight.detach()[[5, 2, 5], 0])
    assert torch.equal(model.weight(np.array(titles)), model.i_weight.weight.detach()[[5, 2, 5]])
    users = [learn.dls.classes["user"][j] for j in (7, 1)]
    assert torch.equal(model.bias(users, is_item=False), model.u_bias.weight.detach()[[7, 1], 0])
    assert torch.equal(model.weight(users, is_item=False), model.u_weight.weight.detach()[[7, 1]])
    one = model.bias(titles[:1])
    assert one.shape == (1,) and not one.requires_grad and one.device.type == "cpu"
    assert same_weights(before, model)


@pytest.mark.parametrize("training", [True, False])
def test_bias_and_weight_leave_the_model_as_it_was(training):
    model = make("dot").train(training)
    model.name_rows(Vocab(list("abcd")), Vocab(list("ABCDEF")))
    got = model.bias(["A", "B"])
    got += 100.0
    got = model.weight(["A", "B"])
    got += 100.0
    assert model.i_bias.weight.abs().max() < 2 and model.i_weight.weight.abs().max() < 2
    assert all(module.training == training for module in model.modules())


def test_embedding_nn_weight_by_id():
    learn = trained("nn")
    title = learn.dls.classes["title"][9]
    assert torch.equal(learn.model.weight([title]), learn.model.embeds[1].weight.detach()[[9]])


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_ids_raise_and_say_which(kind):
    with pytest.raises(KeyError, match="no such film"):
        trained(kind).model.weight(["no such film"])
    with pytest.raises(KeyError, match="987654"):
        trained(kind).model.weight([987654], is_item=False)
    with pytest.raises(TypeError, match="convert"):
        trained(kind).model.weight([3])
    with pytest.raises(ValueError, match="vocabulary"):
        make(kind).weight(["x"])


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [(5.5, 0), (1, 1), (0, float("inf")), (float("nan"), 5), 5, (1,), (0, 1, 2), "ab"])
def test_bad_y_range(bad):
    for build in (
        lambda: check_y_range(bad),
        lambda: CollFilter(3, 3, y_range=bad),
        lambda: EmbeddingNN([(3, 2), (3, 2)], [4], y_range=bad),
        lambda: make_learner("dot", y_range=bad),
    ):
        with pytest.raises(ValueError, match="y_range must be"):
            build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CollFilter(1, 5), "got 1 rows of users"),
        (lambda: CollFilter(5, 1), "got 1 rows of items"),
        (lambda: CollFilter(5, 5, 0), "n_factors must be a whole number of at least 1, got 0"),
        (lambda: CollFilter(5, 5, "50"), "n_factors must be a whole number of at least 1, got '50'"),
        (lambda: CollFilter(5, 5, 5.5), "n_factors must be a whole number of at least 1, got 5.5"),
        (lambda: CollFilter(5, 5, np.int64(0)), "n_factors must be a whole number of at least 1, got 0$"),
        (lambda: CollFilter("5", 5), "n_users must be a whole number of at least 1, got '5'"),
        (lambda: CollFilter(5, 5, init_std="1"), "init_std must be a finite number, got '1'"),
        (lambda: FactorizationMachine(5, 5, "8"), "n_factors must be a whole number .*, got '8'"),
        (lambda: EmbeddingNN([(1, 2), (5, 2)], [4]), "got 1 rows of users"),
        (lambda: EmbeddingNN([(5, 2), (5, 2)], []), "layers must hold at least one width"),
        (lambda: EmbeddingNN([(5, 2), (5, 2)], [4, 0]), "each width in layers must be .* at least 1, got 0"),
        (lambda: EmbeddingNN([(5, 2), (5, 2)], 32), r"layers must be a list of widths, e.g. \[64, 32\], got 32"),
        (lambda: EmbeddingNN([(5, 2), (5, 2)], "64"), "layers must be a list of widths.*, got '64'"),
        (lambda: EmbeddingNN([(5, 0), (5, 2)], [4]), "an embedding size in emb_szs must be .* at least 1, got 0"),
        (lambda: EmbeddingNN(5, [4]), r"emb_szs must be \(\(n_users, d_user\), \(n_items, d_item\)\), got 5"),
        (lambda: EmbeddingNN([(5, 2), (5, 2)], [4], ps=[0.1, 0.2]), "one per layer"),
        (lambda: EmbeddingNN([(5, 2), (5, 2)], [4], ps=1.0), r"ps must lie in \[0, 1\), got 1.0"),
        (lambda: EmbeddingNN([(5, 2), (5, 2)], [4], embed_p="0.1"), r"embed_p must lie in \[0, 1\), got '0.1'"),
        (lambda: NCF(5, 5, 0), "an embedding size in emb_szs must be .* at least 1, got 0"),
        (lambda: NCF(5, 5, 3, layers=[]), "layers must hold at least one width"),
        (lambda: GMF(5, 5, 0), "n_factors must be a whole number of at least 1, got 0"),
        (lambda: GMF(5, 1), "got 1 rows of items"),
        (lambda: NeuMF(5, 5, 0), "n_factors must be a whole number of at least 1, got 0"),
        (lambda: NeuMF(5, 5, 3, mlp_factors=0), "mlp_factors must be a whole number of at least 1, got 0"),
        (lambda: NeuMF(5, 5, 3, layers=[]), "layers must hold at least one width"),
        (lambda: NeuMF(5, 5, 3, layers=8), "layers must be a list of widths"),
        (lambda: TwoTower(5, 5, 0), "n_factors must be a whole number of at least 1, got 0"),
        (lambda: TwoTower(5, 5, 4, layers=[3, 0]), "each width in layers must be .* at least 1, got 0"),
        (lambda: SASRec(5, "8"), "n_factors must be a whole number .*, got '8'"),
        (lambda: SASRec(5, 8, n_heads="2"), "n_heads must be a whole number .*, got '2'"),
        (lambda: GRURec(5, "8"), "n_factors must be a whole number .*, got '8'"),
        (lambda: GRURec(5, 8, dropout="0.1"), r"dropout must lie in \[0, 1\), got '0.1'"),
        (lambda: GRURec(5, 8, n_layers=0), "n_layers must be a whole number"),
        (lambda: YouTubeNet(5, 8, layers=8), "layers must be a list of widths.*, got 8"),
        (lambda: EASE("500"), "l2 must be a number above 0, got '500'"),
        (lambda: NextItem("0.5"), "decays must be different numbers between 0 and 1.*, got '0.5'"),
        (lambda: HybridKNN(prior="1"), "prior must be a finite number, got '1'"),
        (lambda: TwoTower(5, 5, 4, similarity="euclid"), "similarity must be 'dot' or 'cosine', got 'euclid'"),
        (lambda: TwoTower(5, 5, 4, temperature=0), "temperature must be a number above 0, got 0"),
        (lambda: TwoTower(5, 5, 4, temperature=float("nan")), "temperature must be a number above 0, got nan"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_base_class_asks_for_its_methods():
    model, idx = Model(Side("user", 3), Side("item", 3)), torch.tensor([1])
    for call, error, message in (
        (lambda: model.user_rows(idx), TypeError, "the users of this model have no rows of their own"),
        (lambda: model.item_rows(idx), TypeError, "the items of this model have no rows of their own"),
        (lambda: model.interact((), ()), TypeError, "Model does not define interact"),
        (lambda: model.item_side.read(idx), TypeError, r"are computed \(Side\): single rows cannot be read"),
        (lambda: model.item_side.write(idx, []), TypeError, "single rows cannot be written"),
        (lambda: model.item_side.grow(Vocab(["a"])), TypeError, "single rows cannot be added"),
        (lambda: model.config(), NotImplementedError, r"Model needs config\(\)"),
        (lambda: model.side("film"), ValueError, "side must be 'user' or 'item', got 'film'"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_batch_norm_cannot_train_on_one_row():
    with pytest.raises(ValueError, match="cannot train on a batch of one row; use a larger bs, or use_bn=False"):
        make("nn").train()(torch.tensor([[1, 2]]))
    assert make("nn", use_bn=False).train()(torch.tensor([[1, 2]])).shape == (1,)


@pytest.mark.parametrize("options", [{"ps": 0.5}, {"embed_p": 0.5}], ids=str)
def test_dropout_drops_in_training_only(options):
    model = EmbeddingNN([(N_USERS, 30), (N_ITEMS, 30)], [64], use_bn=False, **options)
    pairs = all_pairs()
    assert torch.equal(model.eval()(pairs), model(pairs))
    assert not torch.equal(model.train()(pairs), model(pairs))


def test_two_tower_item_bias_by_hand():
    model = TwoTower(3, 3, n_factors=2, similarity="cosine", temperature=0.5, item_bias=True)
    with torch.no_grad():
        model.u_weight.weight[1], model.i_weight.weight[2] = torch.tensor([3.0, 4.0]), torch.tensor([2.0, 0.0])
        model.i_bias.weight[2] = 0.25
    user, item = torch.tensor([1]), torch.tensor([2])
    assert model(user, item).item() == pytest.approx(0.6 / 0.5 + 0.25)
    assert (model.user_vectors(user) * model.item_vectors(item)).sum().item() == pytest.approx(0.6 / 0.5 + 0.25)
    copy = rebuilt(model, 3, 3)
    copy.load_state_dict(model.state_dict())
    assert copy(user, item).item() == pytest.approx(1.45)
    with pytest.raises(TypeError, match="item_bias"):
        model.factor_tables()
