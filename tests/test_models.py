"""The models: hand-computed scores, fastai's models as an oracle, and a contract that every model passes."""

import json

import numpy as np
import pytest
import torch
from helpers import KINDS, checkerboard, make_dls, make_learner, same_weights, trained, weights
from torch import nn

from collabkit import CollFilter, EmbeddingNN, Vocab
from collabkit.models import CollabModel
from collabkit.models.base import check_y_range, embedding, sigmoid_range
from collabkit.models.mlp import emb_sz_rule

N_USERS, N_ITEMS = 5, 7


def make(kind, y_range=(0.5, 5.5), **kwargs):
    torch.manual_seed(3)
    if kind == "dot":
        return CollFilter(N_USERS, N_ITEMS, 4, y_range, **{"init_std": 0.5, **kwargs})
    model = EmbeddingNN([(N_USERS, 3), (N_ITEMS, 2)], **{"layers": [6, 4], "y_range": y_range, **kwargs})
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.ndim == 2):
            nn.init.normal_(weight)
    return model.eval()


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


@pytest.mark.parametrize("n", [2, 3, 10, 100, 944, 1683, 10_000, 1_000_000])
def test_emb_sz_rule_is_fastais(n):
    from fastai.tabular.model import emb_sz_rule as oracle

    assert emb_sz_rule(n) == oracle(n)


# --- fastai's models as an oracle ------------------------------------------------------------------------------------


def test_coll_filter_scores_as_fastais_dot_model():
    from fastai.collab import EmbeddingDotBias

    oracle, model = EmbeddingDotBias(4, N_USERS, N_ITEMS, y_range=(0, 5.5)), make("dot", y_range=(0, 5.5))
    oracle.load_state_dict(model.state_dict())  # the names of the tables are fastai's too
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


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("kind", KINDS)
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
        rated.tables(False)[0][1] *= 30.0
        plain.tables(False)[0][1] *= 30.0
    logits = plain(all_pairs())
    assert logits.abs().max() > 5.5
    assert torch.allclose(rated(all_pairs()), 0.5 + 5.0 * torch.sigmoid(logits))
    assert rated(all_pairs()).min() >= 0.5 and rated(all_pairs()).max() <= 5.5
    assert torch.allclose(rated.score(*all_pairs().unbind(1)), logits)


@pytest.mark.parametrize("kind", KINDS)
def test_config_rebuilds_the_model_through_json(kind):
    model = make(kind, **({"ps": [0.1, 0.2], "embed_p": 0.3} if kind == "nn" else {"sparse": True}))
    again = type(model)(**json.loads(json.dumps(model.config())))
    assert json.dumps(again.config()) == json.dumps(model.config())
    assert str(again) == str(model)
    assert not same_weights(again, model)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(all_pairs()), model.eval()(all_pairs()))


@pytest.mark.parametrize("kind", KINDS)
def test_tables_are_the_rows_in_order(kind):
    model, idx = make(kind), torch.tensor([3, 1])
    for is_item, n, rows in ((False, N_USERS, model.user_rows), (True, N_ITEMS, model.item_rows)):
        tables = model.tables(is_item)
        assert [len(t) for t in tables] == [n] * len(tables)
        assert len(rows(idx)) == len(tables)
        assert all(torch.equal(part, table[idx]) for part, table in zip(rows(idx), tables, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_unknown_row_starts_at_zero(kind):
    torch.manual_seed(0)
    model = CollFilter(4, 4, 3) if kind == "dot" else EmbeddingNN([(4, 3), (4, 3)], [5])
    tables = model.tables(False) + model.tables(True)
    assert all(t[0].abs().sum() == 0 and t[1:].abs().min() > 0 for t in tables)


@pytest.mark.parametrize("kind", KINDS)
def test_training_touches_the_rows_of_the_batch_alone(kind):
    model = make(kind).train()
    model(torch.tensor([[1, 2], [3, 4]])).sum().backward()
    for is_item, seen in ((False, [1, 3]), (True, [2, 4])):
        for table in model.tables(is_item):
            assert table.grad.abs().sum(1).nonzero().flatten().tolist() == seen


def test_dot_vectors_multiply_to_the_logits():
    model = make("dot")
    users, items = torch.arange(N_USERS), torch.arange(N_ITEMS)
    product = model.user_vectors(users) @ model.item_vectors(items).T
    assert product.std() > 0.1
    assert torch.allclose(product, model.score(users[:, None], items), atol=1e-5)
    assert not hasattr(make("nn"), "item_vectors")  # its score is no dot product


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
    model.users, model.items = Vocab(list("abcd")), Vocab(list("ABCDEF"))
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
        (lambda: CollFilter(1, 5), "n_users=1"),
        (lambda: CollFilter(5, 1), "n_items=1"),
        (lambda: CollFilter(5, 5, 0), "n_factors must be at least 1, got 0"),
        (lambda: EmbeddingNN([(1, 2), (5, 2)], [4]), "n_users=1"),
        (lambda: EmbeddingNN([(5, 2), (5, 2)], []), "must be positive"),
        (lambda: EmbeddingNN([(5, 2), (5, 2)], [4, 0]), "must be positive"),
        (lambda: EmbeddingNN([(5, 0), (5, 2)], [4]), "must be positive"),
        (lambda: EmbeddingNN([(5, 2), (5, 2)], [4], ps=[0.1, 0.2]), "one a layer"),
        (lambda: EmbeddingNN([(5, 2), (5, 2)], [4], ps=1.0), "dropouts"),
        (lambda: EmbeddingNN([(5, 2), (5, 2)], [4], embed_p=-0.1), "dropouts"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_base_class_asks_for_its_methods():
    model = CollabModel(3, 3)
    for call in (
        lambda: model.user_rows(torch.tensor([1])),
        lambda: model.item_rows(torch.tensor([1])),
        lambda: model.interact((), ()),
        lambda: model.tables(True),
        lambda: model.config(),
    ):
        with pytest.raises(NotImplementedError):
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
