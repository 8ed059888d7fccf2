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

    The file has a million rows, sorted by user, and is read through a buffer of a sixteenth of them, in blocks of
    1,024 rows, of some six users each: all rows of a block at once, or dealt to sixteen passes.
    """
    train, test, negatives = ncf_parts()
    rows = []
    for seed in seeds:
        for what, passes in (("full permutation", 0), ("1 pass", 1), ("16 passes", 16)):
            dls = CollabDataLoaders.from_dfs(train, test, feedback="implicit", n_neg=1, bs=BS, seed=seed)
            learn = collab_learner(dls, n_factors=32, loss_func="bpr")
            plan = loader.Loader._plan
            try:
                if passes:
                    loader.Loader._plan = lambda self, passes=passes: (_order(self, passes), self._sizes())
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


def _order(self, passes: int):
    if not self.shuffle:
        return torch.arange(self.n)
    return BlockOrder(self.n, self._seed(self.epoch, 0), passes=passes, buffer=self.n // 16)
