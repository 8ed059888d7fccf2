"""Everything for a notebook: `from collabkit.all import *` gives fastai's basics and collabkit's names.

The only module made for a star import. It may come before or after `from fastai.tabular.all import *`. The one name
that both define is `load_learner`: the one here reads the artefact folder of `learn.export`, and hands a file to
fastai's own. fastai's `Pipeline` stays as it is; ours is `from collabkit import Pipeline`.
"""

from pathlib import Path
from typing import Any

import fastai.learner
from fastai.callback.all import *
from fastai.tabular.all import *

import collabkit.train.learner
from collabkit import (
    EASE, GMF, NCF, NDCG, AveragedHistory, Bag, BundleError, CollFilter, CollabDataLoaders, CollabInterpretation,
    CollabLearner, CollabWarning, Confidence, ContentKNN, Dataset, EmbeddingNN, FactorizationMachine, Features, GRURec,
    HitRate, HybridKNN, IdDropoutSchedule, Implicit, Interactions, ItemKNN, Light, NeuMF, NextItem, Picture, Popularity,
    Query, QuestionnaireWidget, Recommender, SASRec, SampledCandidates, Text, TimeSVD, Track, TwoTower, Vocab,
    YouTubeNet, auto_fit, backtest, collab_learner, compare, cross_validate, datasets, filters, recipes, splits, tune,
)  # fmt: skip


def load_learner(fname, *args, **kwargs) -> Any:
    """The learner in an artefact folder, or in a pickle that fastai exported."""
    module = fastai.learner if Path(fname).is_file() else collabkit.train.learner
    return module.load_learner(fname, *args, **kwargs)
