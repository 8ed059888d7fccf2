"""The models, one file each; all are `nn.Module`s that score a query and an item."""

from collabkit.models.averaged_history import AveragedHistory
from collabkit.models.base import DotModel, Model
from collabkit.models.collab_filter import CollFilter
from collabkit.models.content_knn import ContentKNN
from collabkit.models.ease import EASE
from collabkit.models.factorization_machine import FactorizationMachine
from collabkit.models.gru_rec import GRURec
from collabkit.models.hybrid_knn import HybridKNN
from collabkit.models.knn import ItemKNN
from collabkit.models.mlp import NCF, EmbeddingNN
from collabkit.models.neumf import GMF, NeuMF
from collabkit.models.next_item import NextItem
from collabkit.models.pipeline import Pipeline
from collabkit.models.popularity import Popularity
from collabkit.models.sasrec import SASRec
from collabkit.models.sides import HistorySide, Side, TableSide
from collabkit.models.time_svd import TimeSVD
from collabkit.models.two_tower import TwoTower
from collabkit.models.youtube_net import YouTubeNet

__all__ = [
    "CollFilter", "EmbeddingNN", "NCF", "GMF", "NeuMF", "TwoTower", "Popularity", "ItemKNN", "ContentKNN", "EASE",
    "NextItem", "SASRec", "GRURec", "AveragedHistory", "YouTubeNet", "FactorizationMachine", "TimeSVD", "Pipeline",
    "HybridKNN", "Model", "DotModel", "Side", "TableSide", "HistorySide",
]  # fmt: skip

_CLASSES = [globals()[name] for name in __all__]
MODELS = tuple(cls for cls in _CLASSES if issubclass(cls, Model) and cls not in (Model, DotModel))  # in artefacts
