"""Data sets of ratings: the MovieLens editions, a generated one for offline use, and a reader of files.

`movielens` and `synthetic` return the same kind of object, `RatingsData`, whose `ratings` start with the columns
`user, title, rating`, as `CollabDataLoaders.from_df(ratings, item_name='title')` expects them.

Example:
    >>> from collabkit import datasets
    >>> data = datasets.synthetic()
    >>> len(data.ratings), len(data.users), len(data.items)
    (60000, 1000, 800)
"""

from .container import RatingsData, Truth
from .content import ContentData, synthetic_content
from .grouplens import movielens, movielens_folds, movielens_name
from .planted import synthetic
from .tables import READERS, read_interactions

__all__ = [
    "movielens", "movielens_folds", "movielens_name", "synthetic", "read_interactions", "READERS",
    "RatingsData", "Truth", "synthetic_content", "ContentData",
]  # fmt: skip
