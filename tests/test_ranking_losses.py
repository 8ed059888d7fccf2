"""Ranking losses: against hand numbers and torch's own, what does not count, and what sampling them converges to."""

import math

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from collabkit.data.interactions import Columns, Interactions
from collabkit.losses import (
    LOSSES,
    RankingLoss,
    bce,
    bpr,
    cosine_contrastive,
    gbce,
    hinge,
    sampled_softmax,
    softmax,
)
from collabkit.train.sampling import AllItems, InBatchNegatives, PopularityNegatives, SharedNegatives, UniformNegatives

POS, NEG = torch.tensor([2.0, 0.0]), torch.tensor([[1.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
softplus = lambda x: math.log1p(math.exp(x))  # noqa: E731


def scores(bs=7, n=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(bs, generator=generator), torch.randn(bs, n, generator=generator)


def events(counts=(8, 4, 2, 1, 1)) -> Interactions:
    """Items 1.. with these numbers of events, each of a user of its own."""
    items = [j + 1 for j, count in enumerate(counts) for _ in range(count)]
    return Interactions.from_df(pd.DataFrame({"u": range(len(items)), "i": items}), Columns("u", "i"))


# --- values ----------------------------------------------------------------------------------------------------------


def test_by_hand():
    differences = [-1, -3, -1.5, 0, 3, -2]  # negative less positive
    assert bpr(POS, NEG).item() == pytest.approx(sum(map(softplus, differences)) / 6)
    assert hinge(POS, NEG).item() == pytest.approx((0 + 0 + 0 + 1 + 4 + 0) / 6)
    assert hinge(POS, NEG, margin=2.0).item() == pytest.approx((1 + 0 + 0.5 + 2 + 5 + 0) / 6)
    pairs = [softplus(-2), softplus(0), *(softplus(x) for x in (1, -1, 0.5, 0, 3, -2))]
    assert bce(POS, NEG).item() == pytest.approx(sum(pairs) / 8)
    rows = [math.log(sum(map(math.exp, (2, 1, -1, 0.5)))) - 2, math.log(sum(map(math.exp, (0, 0, 3, -2)))) - 0]
    assert softmax(POS, NEG).item() == pytest.approx(sum(rows) / 2)
    corrected = [math.log(math.exp(2) + math.e / 2 + math.exp(-1) / 4 + math.exp(0.5) / 8) - 2]
    log_counts = torch.tensor([[2.0, 4.0, 8.0]]).log()
    assert sampled_softmax(POS[:1], NEG[:1], log_counts).item() == pytest.approx(corrected[0])
    # cosines: (1 - .5) + 10 * mean of (.5, 0) above the margin of .3
    assert cosine_contrastive(torch.tensor([0.5]), torch.tensor([[0.8, 0.1]]), 0.3, 10.0).item() == pytest.approx(3.0)


def test_bce_is_torchs():
    pos, neg = scores()
    logits, target = torch.cat([pos, neg.flatten()]), torch.cat([torch.ones(7), torch.zeros(35)])
    assert bce(pos, neg).item() == pytest.approx(F.binary_cross_entropy_with_logits(logits, target).item(), abs=1e-6)


def test_bpr_hinge_and_softmax_are_torchs():
    pos, neg = scores()
    difference = pos[:, None] - neg
    assert bpr(pos, neg).item() == pytest.approx(-F.logsigmoid(difference).mean().item(), abs=1e-6)
    oracle = F.margin_ranking_loss(pos[:, None].expand(7, 5), neg, torch.ones(7, 5), margin=0.7)
    assert hinge(pos, neg, margin=0.7).item() == pytest.approx(oracle.item(), abs=1e-6)
    logits = torch.cat([pos[:, None], neg], 1)
    oracle = F.cross_entropy(logits, torch.zeros(7, dtype=torch.int64))
    assert softmax(pos, neg).item() == pytest.approx(oracle.item(), abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_huge_scores_stay_finite(name):
    pos, neg = (
        torch.tensor([1e4, -1e4], requires_grad=True),
        torch.tensor([[-1e4, 1e4], [1e4, 1e4]], requires_grad=True),
    )
    value = LOSSES[name](pos, neg)
    value.backward()
    assert value.isfinite() and pos.grad.isfinite().all() and neg.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_better_order_lower_loss(name):
    pos, neg = scores()
    loss = LOSSES[name]
    assert loss(pos + 1, neg) < loss(pos, neg) < loss(pos, neg + 1)
    one = loss(pos[:1], neg[:1])
    assert one.shape == () and one.isfinite()


# --- a negative of -inf counts for nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_a_negative_of_minus_infinity_counts_for_nothing(name):
    """Its term is 0 and it has no gradient; the others' are what they were."""
    pos, neg = (t.clone().requires_grad_() for t in scores())
    out = torch.zeros(7, 5, dtype=torch.bool)
    out[0], out[1, 2], out[6, 4] = True, True, True
    LOSSES[name](pos, neg.masked_fill(out, -torch.inf)).backward()
    assert pos.grad.isfinite().all() and (neg.grad[out] == 0).all() and (neg.grad[~out] != 0).any()
    low = torch.where(out, -1e30, neg.detach())
    assert LOSSES[name](pos, neg.masked_fill(out, -torch.inf)).item() == pytest.approx(LOSSES[name](pos, low).item())
    if name in ("softmax", "sampled_softmax"):  # a row without negatives is no task at all
        assert LOSSES[name](pos[:1], torch.full((1, 5), -torch.inf)).item() == 0
        smaller = LOSSES[name](pos[1:2], neg[1:2][:, [0, 1, 3, 4]])
        assert LOSSES[name](pos[1:2], neg[1:2].masked_fill(out[1:2], -torch.inf)).item() == pytest.approx(
            smaller.item()
        )


@pytest.mark.parametrize("name", LOSSES)
def test_ranking_loss_takes_out_what_has_infinite_counts(name):
    pos, neg = scores()
    all_scores = torch.cat([pos[:, None], neg], 1)
    counts = torch.zeros(7, 5)
    counts[2, 3] = counts[4] = torch.inf
    expected = LOSSES[name](pos, neg.masked_fill(counts == torch.inf, -torch.inf))
    assert RankingLoss(name)(all_scores, counts).item() == pytest.approx(expected.item(), abs=1e-6)
    rows = torch.zeros(7, 1)  # one column for all negatives of a row
    rows[4] = torch.inf
    expected = LOSSES[name](pos, neg.masked_fill(rows == torch.inf, -torch.inf))
    assert RankingLoss(name)(all_scores, rows).item() == pytest.approx(expected.item(), abs=1e-6)
    assert RankingLoss(name)(all_scores, torch.zeros(7, 1)).item() == pytest.approx(
        LOSSES[name](pos, neg).item(), abs=1e-6
    )


# --- the form a Learner calls ----------------------------------------------------------------------------------------


def test_only_losses_that_ask_get_the_counts():
    pos, neg = scores()
    all_scores, counts = torch.cat([pos[:, None], neg], 1), torch.full((7, 1), math.log(2.0))
    assert RankingLoss("softmax")(all_scores, counts).item() == pytest.approx(softmax(pos, neg).item())
    corrected = RankingLoss("sampled_softmax")(all_scores, counts).item()
    assert (
        corrected == pytest.approx(sampled_softmax(pos, neg, counts).item()) != pytest.approx(softmax(pos, neg).item())
    )
    got = {}

    def mine(pos, neg, log_counts):
        got.update(pos=pos, neg=neg, log_counts=log_counts)
        return pos.mean()

    RankingLoss(mine)(all_scores, counts)
    assert torch.equal(got["pos"], pos) and torch.equal(got["neg"], neg) and torch.equal(got["log_counts"], counts)
    assert RankingLoss(lambda pos, neg: pos.sum())(all_scores, counts) == pos.sum()
    assert RankingLoss(torch.dist)(all_scores[:, :2], counts).shape == ()  # a builtin without a signature


def test_names():
    for bad in ("bcee", "", "BPR"):
        with pytest.raises(ValueError, match=f"loss_func must be one of 'bce', 'bpr', .*or a function, got '{bad}'"):
            RankingLoss(bad)
    with pytest.raises(TypeError, match=r"must be a name or a function of pos \(bs,\) and neg \(bs, n\), got 3"):
        RankingLoss(3)
    loss = RankingLoss("hinge")
    assert repr(loss) == "RankingLoss(hinge)" and loss.activation(POS) is POS and loss.decodes(POS) is POS


# --- what the sampled softmax estimates ------------------------------------------------------------------------------

LOGITS = torch.tensor([-torch.inf, 0.3, -0.5, 1.2, 0.0, -1.0])  # of the unknown item and of items 1..5
FULL = (torch.logsumexp(LOGITS, 0) - LOGITS[2]).item()  # the positive is item 2


@pytest.mark.parametrize("alpha", [0.0, 0.75])
def test_corrected_shared_negatives_converge_to_the_full_softmax(alpha):
    data, positive, generator = events(), torch.tensor([2]), torch.Generator().manual_seed(0)
    user = torch.tensor([1])  # has seen item 1
    for mask_seen in (False, True):
        sampler = SharedNegatives(data, alpha, mask_seen=mask_seen)
        wanted = (LOGITS[2:] if mask_seen else LOGITS).logsumexp(0).item() - LOGITS[2].item()
        for n, tolerance in ((100, 0.05), (100_000, 1e-5)):
            negatives = sampler.draw(positive, n, generator)
            log_counts = sampler.log_counts(user, positive, negatives, n)
            all_scores = torch.cat([LOGITS[positive], LOGITS[negatives]])[None]
            value = RankingLoss("sampled_softmax")(all_scores, log_counts)
            assert value.item() == pytest.approx(wanted, abs=tolerance)


@pytest.mark.parametrize("make", [UniformNegatives, PopularityNegatives])
def test_corrected_row_negatives_converge_to_the_softmax_over_the_unseen_items(make):
    data = events()
    user = data.user_idx[data.item_idx == 2][:1]  # has seen item 2 alone: the others and the positive are all items
    sampler = make(data)
    negatives = sampler.draw(user, 200_000, torch.Generator().manual_seed(1))
    all_scores = torch.cat([LOGITS[2].view(1, 1), LOGITS[negatives]], 1)
    value = RankingLoss("sampled_softmax")(all_scores, sampler.log_counts(user, negatives))
    assert value.item() == pytest.approx(FULL, abs=0.01)


def test_all_items_give_the_full_softmax_exactly():
    sampler, users, positive = AllItems(events()), torch.tensor([1, 2]), torch.tensor([2, 5])
    items = sampler.draw(positive, 4)
    all_scores = torch.cat([LOGITS[positive][:, None], LOGITS[items].expand(2, 5)], 1)
    log_counts = sampler.log_counts(users, positive, items, 4)
    oracle = F.cross_entropy(LOGITS[1:].expand(2, 5), positive - 1).item()
    for name in ("softmax", "sampled_softmax"):
        assert RankingLoss(name)(all_scores, log_counts).item() == pytest.approx(oracle, abs=1e-6)


@pytest.mark.parametrize("mask_seen", [True, False])
@pytest.mark.parametrize("draw", ["shared", "in_batch"])
def test_the_corrected_sum_is_unbiased_for_small_samples(draw, mask_seen):
    """Over many small batches, `sum_j exp(neg_j) / count_j` averages to the sum over all items but the positive."""
    data, generator = events(), torch.Generator().manual_seed(4)
    make = (lambda d, **kwargs: SharedNegatives(d, 0.5, **kwargs)) if draw == "shared" else InBatchNegatives
    sampler = make(data, mask_seen=mask_seen)
    users = torch.full((6,), int(data.user_idx[data.item_idx == 3][0]))  # has seen item 3; the positive is item 2
    others = LOGITS.exp()[[1, 4, 5] if mask_seen else [1, 3, 4, 5]]
    sums = []
    for _ in range(4000):
        met = data.item_idx[torch.randint(len(data), (5,), generator=generator)]
        positives = torch.cat([torch.tensor([2]), met])
        negatives = sampler.draw(positives, 6, generator)
        sums.append((LOGITS[negatives] - sampler.log_counts(users, positives, negatives, 6)[0]).exp().sum())
    sums = torch.stack(sums)
    error = (sums.std() / len(sums) ** 0.5).item()
    assert error < 0.03 * others.sum() and abs(sums.mean() - others.sum()).item() < 3.5 * error


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_gbce_by_hand(t):
    """Towards the power beta of Petrov and Macdonald: at t = 0 it is 1, at t = 1 the share of items drawn."""
    pos, neg = torch.tensor([0.3, -1.0]), torch.tensor([[0.5, -0.2, 1.0], [0.0, 0.1, -3.0]])
    share = 3 / 30
    beta = {0.0: 1.0, 1.0: share}.get(t, share * (t * (1 - 1 / share) + 1 / share))
    by_hand = -beta * torch.sigmoid(pos).log() - (1 - torch.sigmoid(neg)).log().sum(1)
    assert torch.allclose(gbce(pos, neg, n_items=31, t=t), by_hand.mean(), atol=1e-6)
    weight = torch.tensor([0.5, 1.5])
    assert torch.allclose(gbce(pos, neg, n_items=31, t=t, weight=weight), (weight * by_hand).mean(), atol=1e-6)


@pytest.mark.parametrize("options", [{"n_items": 31, "t": 1.5}, {"n_items": 31, "t": -0.1}, {"n_items": 3}])
def test_gbce_out_of_range(options):
    with pytest.raises(ValueError, match="t must lie in"):
        gbce(torch.zeros(2), torch.zeros(2, 3), **options)
