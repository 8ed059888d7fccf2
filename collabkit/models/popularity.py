"""`Popularity`: the same list for everybody."""

from torch import Tensor

from collabkit.data.checks import finite, shown
from collabkit.data.dataset import Dataset
from collabkit.data.runs import Runs
from collabkit.models.closed_form import ClosedForm

__all__ = ["Popularity"]


class Popularity(ClosedForm):
    """Score each item by its number of training rows, the same for all users.

    Args:
        days: count only the training rows of this many days before the last row, i.e. current popularity. Times must be
            timestamps, or numbers since 1970; see `Interactions.day`.

    Raises:
        ValueError: `days` is not positive; in `fit`, `days` for rows without times.

    Example:
        >>> from collabkit import CollabDataLoaders, datasets
        >>> ratings = datasets.synthetic(seed=1).ratings
        >>> dls = CollabDataLoaders.from_df(ratings, user_name='user', item_name='title', seed=42)
        >>> len(Popularity().fit(dls).recommend(k=3)) == 3 * (len(dls.classes['user']) - 1)
        True
    """

    name = "popularity"

    def __init__(self, days: float | None = None):
        super().__init__()
        if days is not None and not finite("days", days) > 0:
            raise ValueError(f"days must be positive, got {shown(days)}")
        self.days = None if days is None else float(days)
        if self.days is not None:
            self.name = f"popularity ({self.days:g} days)"

    def config(self) -> dict:
        return {"days": self.days}

    def _fit(self, data: Dataset) -> None:
        rows = data.train
        if self.days is not None:
            if rows.time is None:
                raise ValueError(f"days={self.days:g} needs times: make dls with time_name=")
            rows = rows.take(rows.time > rows.time.max() - int(self.days * rows.day))
        self.counts = rows.counts("item").float()

    def scores(self, history: Runs) -> Tensor:
        return self.counts.repeat(len(history), 1)
