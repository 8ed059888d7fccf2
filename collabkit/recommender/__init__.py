"""`Recommender`: a trained model with its ids, for predictions, recommendations, evaluation and new ids.

`core` answers questions about known users, `newcomers` takes new users and items in, `histories` reads what a caller
says of new users.
"""

from collabkit.recommender.core import Recommender

__all__ = ["Recommender"]
