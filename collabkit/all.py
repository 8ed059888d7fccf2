"""Everything for a notebook: `from collabkit.all import *` gives fastai's basics and collabkit's names.

The only module made for a star import. It may come before or after `from fastai.tabular.all import *`. The one name
that both define is `load_learner`: the one here reads the artefact folder of `learn.export`, and hands a file to
fastai's own.
"""

from pathlib import Path

import fastai.learner
from fastai.callback.all import *
from fastai.tabular.all import *

import collabkit.learner
from collabkit import datasets, filters, splits
from collabkit.baselines import EASE, ContentKNN, ItemKNN, Popularity
from collabkit.bundle import BundleError
from collabkit.evaluate.candidates import SampledCandidates
from collabkit.comparison import compare
from collabkit.dataloaders import CollabDataLoaders
from collabkit.features import Features
from collabkit.fit_metrics import HitRate, NDCG
from collabkit.interactions import CollabWarning, Interactions
from collabkit.interpret import CollabInterpretation
from collabkit.learner import CollabLearner, collab_learner
from collabkit.models import GMF, NCF, CollFilter, EmbeddingNN, NeuMF, TwoTower
from collabkit.recommender import Recommender
from collabkit.vocab import Vocab
from collabkit.widgets import QuestionnaireWidget


def load_learner(fname, *args, **kwargs):
    """The learner in an artefact folder (`collabkit.learner.load_learner`), or in a pickle that fastai exported."""
    module = fastai.learner if Path(fname).is_file() else collabkit.learner
    return module.load_learner(fname, *args, **kwargs)
