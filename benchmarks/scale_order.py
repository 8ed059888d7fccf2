"""What the order of an epoch over files costs in quality: blocks of neighbouring rows against a full permutation."""

from __future__ import annotations

import torch

from collabkit import CollabDataLoaders, collab_learner
from collabkit.train import loader
from collabkit.train.block_order import BlockOrder

from .common import ncf_parts, write

EPOCHS, BS, LR = 3, 4096, 1e-2


def block_order(seeds=(0, 1, 2)) -> None:
    """BPR, ML-1M in the NCF protocol: the training loss of each epoch, and NDCG@10 among the given negatives.

    The file has a million rows and is read through a buffer of a sixteenth of them, as one of a hundred million would
    through six million, in blocks of 256 and of 1,024 rows, which are of a few users each.
    """
    train, test, negatives = ncf_parts()
    rows = []
    for seed in seeds:
        for what, block in (("full permutation", 0), ("blocks of 256", 256), ("blocks of 1,024", 1024)):
            dls = CollabDataLoaders.from_dfs(train, test, feedback="implicit", n_neg=1, bs=BS, seed=seed)
            learn = collab_learner(dls, n_factors=32, loss_func="bpr")
            plan, n = loader.Loader._plan, len(dls.train.dataset)
            try:
                if block:
                    loader.Loader._plan = lambda self, block=block: (_order(self, block, n), self._sizes())
                with learn.no_bar(), learn.no_logging():
                    learn.fit(EPOCHS, LR, wd=0.1)
            finally:
                loader.Loader._plan = plan
            losses = [round(float(row[0]), 4) for row in learn.recorder.values]
            found = learn.evaluate(k=10, metrics=["NDCG", "HitRate"], candidates=negatives, n_boot=1)["value"]
            valid = round(float(learn.recorder.values[-1][1]), 4)
            rows.append({"seed": seed, "order": what, "train_loss": losses[-1], "valid_loss": valid,
                         "NDCG@10": round(found.iloc[0], 4), "HR@10": round(found.iloc[1], 4)})  # fmt: skip
    write("scale_order", rows)


def _order(self, block: int, n: int):
    if not self.shuffle:
        return torch.arange(self.n)
    return BlockOrder(self.n, self._seed(self.epoch, 0), block=block, buffer=n // 16)
