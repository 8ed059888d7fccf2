"""`ByUser` batches: whole users, negatives they share, and the same loss and gradient as event by event."""

from functools import partial

import pandas as pd
import pytest
import torch
from helpers import clicks, silence
from test_ranking_loader import events, pairs

from collabkit import CollabDataLoaders, TwoTower, collab_learner
from collabkit.losses import LOSSES, RankingLoss
from collabkit.models import NCF, CollFilter
from collabkit.train.batches import ByUser
from collabkit.train.loader import Loader
from collabkit.train.sampling import AllItems, SharedNegatives, make_sampler


def loader(data=None, sampler=None, **kwargs):
    data = events() if data is None else data
    return Loader(ByUser(data, sampler or SharedNegatives(data), 6), **{"bs": 4, **kwargs})


@pytest.mark.parametrize("shuffle", [True, False])
def test_each_event_once_with_its_user_beside_unseen_items(shuffle):
    dl = loader(shuffle=shuffle)
    seen, got = set(pairs(dl.dataset)), []
    for users, positives, negatives, group, log_counts, hits in dl:
        assert len(users) <= 4 and log_counts.shape == negatives.shape
        got += zip(users[group].tolist(), positives.tolist(), strict=True)
        masked = {(users[g].item(), negatives[m].item()) for g, m in hits.T.tolist()}
        every = {(u, i) for u in users.tolist() for i in negatives.tolist()}
        assert masked == every & seen  # exactly what has been seen does not count
    assert sorted(got) == sorted(seen)
    assert len(dl) == -(-len(set(dl.dataset.user_idx.tolist())) // 4)


def test_seeds_and_epochs():
    first, second = (list(loader(shuffle=True, seed=s)) for s in (3, 3))
    assert all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))
    dl = loader(shuffle=True, seed=3)
    assert [b[0].tolist() for b in dl] != [b[0].tolist() for b in dl]


@pytest.mark.parametrize("name", [n for n in LOSSES if n != "bce"])  # bce has another denominator: see below
@pytest.mark.parametrize("kind", [TwoTower, CollFilter, NCF])
def test_loss_and_gradient_are_those_of_the_events_one_by_one(kind, name):
    data = events()
    torch.manual_seed(0)
    model = kind(data.n_users, data.n_items, 5, init_std=0.5)
    users, positives, negatives, group, log_counts, hits = next(iter(loader(data, bs=100)))
    loss = RankingLoss(name)
    by_user = loss(model(users, positives, negatives, group), log_counts, hits)
    by_user.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    counts = log_counts.expand(len(users), -1).clone()
    counts[hits[0], hits[1]] = torch.inf
    one_by_one = loss(model(users[group], positives, negatives), counts[group])
    one_by_one.backward()
    assert by_user.item() == pytest.approx(one_by_one.item(), rel=1e-5)
    for mine, theirs in zip(gradients, [p.grad for p in model.parameters()], strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_a_user_who_has_seen_all_the_negatives_has_no_gradient_but_a_number():
    data = events()  # user 1 has seen everything
    model = CollFilter(data.n_users, data.n_items, 4, init_std=0.5)
    users, positives, negatives, group, log_counts, hits = next(iter(loader(data, bs=1)))
    assert users.tolist() == [1]
    for name in LOSSES:
        loss = RankingLoss(name)(model(users, positives, negatives, group), log_counts, hits)
        loss.backward()
        assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())
    assert RankingLoss("softmax")(model(users, positives, negatives, group), log_counts, hits).item() == 0


def test_training_by_user_learns_and_shows_batches():
    df = clicks()
    dls = CollabDataLoaders.from_df(df, feedback="implicit", negatives="shared", n_neg=30, by_user=True, bs=32, seed=1)
    learn = silence(collab_learner(dls, model=TwoTower, n_factors=8, loss_func="softmax"))
    learn.fit_one_cycle(30, 2e-2, wd=0.1)
    table = learn.evaluate(metrics=["NDCG"], n_boot=10)
    assert table["difference"].iloc[0] > 0 and table["value"].iloc[0] < 0.95
    shown = dls.train.show_batch(show=False)
    assert isinstance(shown, pd.DataFrame) and shown.columns[2].startswith("negative 1 of")


def test_bad_input():
    data = events()
    with pytest.raises(ValueError, match="batches of users need shared negatives"):
        loader(data, make_sampler("uniform", data))
    with pytest.raises(ValueError, match="without seen items.*got AllItems"):
        loader(data, AllItems(data))
    assert len(loader(data, partial(AllItems, mask_seen=True)(data)))
    shuffled = data.take(torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).numpy())
    with pytest.raises(ValueError, match="sorted_by_user"):
        loader(shuffled, SharedNegatives(data))
    with pytest.raises(ValueError, match="by_user=True: only for feedback='implicit'"):
        CollabDataLoaders.from_df(clicks().assign(rating=1.0), rating_name="rating", by_user=True)
