"""`Popularity`: the same list for everybody."""

from torch import Tensor

from collabkit.data.dataset import Dataset
from collabkit.data.runs import Runs
from collabkit.models.closed_form import ClosedForm

__all__ = ["Popularity"]


class Popularity(ClosedForm):
    """Every item's score is its number of training rows, the same for all users.

    Example:
        >>> from collabkit import CollabDataLoaders, datasets
        >>> ratings = datasets.synthetic(seed=1).ratings
        >>> dls = CollabDataLoaders.from_df(ratings, user_name='user', item_name='title', seed=42)
        >>> len(Popularity().fit(dls).recommend(k=3)) == 3 * (len(dls.classes['user']) - 1)
        True
    """

    name = "popularity"

    def config(self) -> dict:
        return {}

    def _fit(self, data: Dataset) -> None:
        self.counts = data.train.counts("item").float()

    def scores(self, history: Runs) -> Tensor:
        return self.counts.repeat(len(history), 1)
