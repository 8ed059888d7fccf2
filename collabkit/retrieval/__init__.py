"""Finding the best items: exact top k and ranks, indexes, and nearest neighbours."""

from collabkit.retrieval.index import ExactIndex, Index, index_recall
from collabkit.retrieval.ranking import top_k

__all__ = ["Index", "ExactIndex", "index_recall", "top_k"]
