"""A contributed index: inverted lists of k-means cells, of which a query searches the nearest few."""

import numpy as np
import pytest
import torch
from contract import planted
from torch import Tensor

from collabkit import NCF, CollabDataLoaders, collab_learner, splits
from collabkit.data.runs import Runs
from collabkit.retrieval import ExactIndex


class InvertedLists:
    """Items by the nearest of `n_cells` centres; a query looks at its `n_probe` best cells (Jégou et al. 2011)."""

    def __init__(self, vectors: Tensor, n_cells: int = 8, n_probe: int = 3, seed: int = 0):
        self.vectors, self.n_probe = vectors, n_probe
        order = 1 + torch.randperm(len(vectors) - 1, generator=torch.Generator().manual_seed(seed))
        self.centres = vectors[order[:n_cells]].clone()
        for _ in range(10):
            self.cell = torch.cdist(vectors, self.centres).argmin(1)
            for j in range(n_cells):
                if bool((self.cell == j).any()):
                    self.centres[j] = vectors[self.cell == j].mean(0)

    def search(self, vectors: Tensor, k: int, hidden: Runs | None = None, allowed: Tensor | None = None):
        """The best items of the nearest cells; see `retrieval.Index`."""
        probed = (vectors @ self.centres.T).topk(self.n_probe, dim=1).indices  # (b, n_probe)
        scores = vectors @ self.vectors.T
        scores[~(self.cell[None, :, None] == probed[:, None, :]).any(2)] = -torch.inf
        scores[:, 0] = -torch.inf
        if hidden is not None:
            scores[hidden.rows, hidden.values] = -torch.inf
        if allowed is not None:
            scores[:, ~torch.isin(torch.arange(len(self.vectors)), allowed)] = -torch.inf
        best, items = scores.topk(k, dim=1)
        return items.masked_fill(best == -torch.inf, 0), best


@pytest.fixture(scope="module")
def learn():
    options = {"feedback": "implicit", "time_name": "time", "splitter": splits.leave_last_out(), "seed": 0}
    learn = collab_learner(CollabDataLoaders.from_df(planted(), **options), 8, loss_func="bpr", seed=1)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(20, 2e-2)
    return learn


def test_it_recommends_when_it_finds_enough(learn):
    rec = learn.recommender
    exact = rec.recommend(k=5)
    recall = rec.use_index(InvertedLists, k=5, min_recall=0.5)
    assert 0.5 <= recall <= 1
    found = rec.recommend(k=5)
    merged = found.merge(exact, on=["user", "item"])
    assert len(merged) / len(exact) == pytest.approx(recall, abs=1e-6)  # of the same users
    assert np.allclose(merged["score_x"], merged["score_y"], atol=1e-5)
    some = rec.recommend(["u1", "u2"], k=3, items=[f"i{j:02d}" for j in range(30)])
    assert set(some["item"]) <= {f"i{j:02d}" for j in range(30)}
    rec.use_index(None)
    assert rec.recommend(k=5).equals(exact)


def test_it_is_refused_when_it_finds_too_little(learn):
    with pytest.raises(ValueError, match=r"finds .* less than min_recall=0.99"):
        learn.recommender.use_index(lambda vectors: InvertedLists(vectors, n_probe=1), min_recall=0.99)
    assert learn.recommender.use_index(ExactIndex) == 1.0
    learn.recommender.use_index(None)


def test_a_network_has_no_vectors_to_search(learn):
    network = collab_learner(learn.dls, model=NCF, layers=[8])
    with pytest.raises(TypeError, match="not a dot product"):
        network.recommender.use_index(InvertedLists)
