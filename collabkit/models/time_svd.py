"""`TimeSVD`: matrix factorisation of ratings whose biases change in time."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collabkit.data.checks import shown, whole
from collabkit.data.dataset import Dataset
from collabkit.data.interactions import Interactions
from collabkit.data.query import Query
from collabkit.models.collab_filter import CollFilter

__all__ = ["TimeSVD"]

NO_TIME = "TimeSVD reads the times of the ratings: make the dataloaders with time_name="


class TimeSVD(CollFilter):
    """`CollFilter` whose biases change in time: `b_u + a_u dev_u(t) + sum_g b_(u, session_g(t)) + b_i + b_(i, bin(t))`.

    The baseline of Koren, "Collaborative filtering with temporal dynamics" (2009), section 4.1, with sessions instead
    of days: a user who rates one page of films after another is in one mood. A session ends when nothing is rated for
    longer than a gap. There is a bias for the sessions of each gap, so that ratings close in time count most. A query
    belongs to the session of the user's nearest training rating if that is within the gap, otherwise to none.
    `dev_u(t) = sign(t - mean_u) |t - mean_u| ** beta` in days, with a slope for each user.

    Session biases help if ratings of the same session are known: in a random split such as ML-100K's folds, where two
    thirds of the held-out ratings were sent on one page with known ones, and when a service learns while a user rates.
    On later days only the drift remains, which did not help there. Terms that are one number per user do not change
    rankings; the items' bins do.

    Args:
        n_users, n_items, n_factors, y_range, **kwargs: as in `CollFilter`.
        train: the training ratings, with times.
        gaps: minutes of silence that end a session.
        beta: exponent in `dev_u`.
        n_bins: number of equal intervals of the training time; an item has its own bias in each. 0: none, which did as
            well on ML-100K.

    Raises:
        ValueError: ratings have no times; gaps are not positive.

    Example:
        >>> dls = CollabDataLoaders.from_df(df, time_name='timestamp')                       # doctest: +SKIP
        >>> learn = collab_learner(dls, model=TimeSVD, n_factors=100, y_range=(0, 5.5))      # doctest: +SKIP
        >>> learn.predict(1, 'Alien (1979)', context={'timestamp': 874965758})               # doctest: +SKIP
    """

    needs = ("users", "time")

    def __init__(
        self, n_users: int, n_items: int, n_factors: int = 50, y_range: tuple[float, float] | None = None, *,
        train: Interactions, gaps: Sequence[float] = (0.2, 1, 5, 30), beta: float = 0.2, n_bins: int = 0, **kwargs,
    ):  # fmt: skip
        if train.time is None:
            raise ValueError(NO_TIME)
        if not all(gap > 0 for gap in gaps):
            raise ValueError(f"gaps must be positive minutes, got {shown(gaps)}")
        super().__init__(n_users, n_items, n_factors, y_range, **kwargs)
        self.n_bins = 0 if n_bins == 0 else whole("n_bins", n_bins)
        self.item_bins = nn.Parameter(torch.zeros(n_items, self.n_bins))
        self.gaps, self.beta = [float(gap) for gap in gaps], float(beta)
        second = train.day // 86_400
        self.first, self.second = int(train.time.min()), second
        self.span = (int(train.time.max()) - self.first) // second + 1
        self.pad = int(60 * max(self.gaps, default=0)) + 1  # between two users' times
        key = self._keys(train.user_idx, train.time).sort().values
        self.register_buffer("key", key, persistent=False)
        far = key.diff(prepend=key[:1] - self.pad)
        codes = [(far > 60 * gap).cumsum(0) for gap in self.gaps]
        codes = torch.stack(codes) if codes else key.new_zeros(0, len(key))
        self.register_buffer("codes", codes, persistent=False)
        self.sessions = nn.ParameterList(nn.Parameter(torch.zeros(int(code[-1]) + 1, 1)) for code in codes)
        self.drift = nn.Parameter(torch.zeros(n_users, 1))
        days = torch.zeros(n_users).index_add_(0, train.user_idx, self._days(train.time))
        self.register_buffer("centre", days / train.counts("user").clamp(min=1), persistent=False)

    @classmethod
    def for_data(cls, data: Dataset, **options) -> "TimeSVD":
        return super().for_data(data, train=data.train, **options)

    def config(self) -> dict:
        own = {name: value for name, value in super().config().items() if name != "sparse"}
        return {**own, "gaps": self.gaps, "beta": self.beta, "n_bins": self.n_bins}

    def user_rows(self, query: Tensor | Query) -> tuple[Tensor, Tensor]:
        """Factors `(..., d)`, with the unit vector of the moment's bin, and biases `(..., 1)` at the query's time."""
        p, bias = super().user_rows(query)
        if isinstance(query, Tensor) or query.time is None:  # without a moment: an average one
            return F.pad(p, (0, self.n_bins)), bias
        if self.n_bins:
            place = (self._days(query.time) * 86_400 / self.span * self.n_bins).long().clamp(0, self.n_bins - 1)
            p = torch.cat([p, F.one_hot(place, self.n_bins).to(p.dtype)], dim=-1)
        return p, bias + self._mood(query.users, query.time)

    def item_rows(self, idx: Tensor | Query) -> tuple[Tensor, Tensor]:
        """Factors `(..., d)`, with the biases of each bin, and biases `(..., 1)`."""
        q, bias = super().item_rows(idx)
        ids = idx if isinstance(idx, Tensor) else idx.users
        own = F.embedding(ids * (ids < len(self.item_bins)), self.item_bins)  # users and items added later have none
        return torch.cat([q, own.expand(*q.shape[:-1], -1)], dim=-1), bias

    def _mood(self, users: Tensor, time: Tensor) -> Tensor:
        """The moment's addition to the users' biases, `(..., 1)`."""
        known = users * (users < len(self.drift))  # users added later have no slope
        away = self._days(time) - self.centre[known]
        total = self.drift[known] * (away.sign() * away.abs() ** self.beta)[..., None] * (known > 0)[..., None]
        key = self._keys(users, time)
        after = torch.searchsorted(self.key, key)
        near = torch.stack([(after - 1).clamp(min=0), after.clamp(max=len(self.key) - 1)])
        far, which = (self.key[near] - key).abs().min(0)
        row = near.gather(0, which[None])[0]
        for gap, code, bias in zip(self.gaps, self.codes, self.sessions, strict=True):
            total = total + bias[code[row] * (far <= 60 * gap)]
        return total

    def _keys(self, users: Tensor, time: Tensor) -> Tensor:
        """One number `(...)` for user and second; users are further apart than the longest gap."""
        seconds = ((time - self.first) // self.second).clamp(-self.pad, self.span + self.pad)
        return users * (self.span + 4 * self.pad) + seconds

    def _days(self, time: Tensor) -> Tensor:
        return ((time - self.first) // self.second).float() / 86_400
