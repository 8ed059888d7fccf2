"""The models, one file each; all are plain `nn.Module`s that score a user and an item."""

from collabkit.models.base import CollabModel
from collabkit.models.collab_filter import CollFilter
from collabkit.models.mlp import NCF, EmbeddingNN
from collabkit.models.neumf import GMF, NeuMF
from collabkit.models.two_tower import TwoTower

__all__ = ["CollFilter", "EmbeddingNN", "NCF", "GMF", "NeuMF", "TwoTower", "CollabModel"]
