"""`RatingsData`, the result of every loader of `collabkit.datasets`, and `Truth` for generated data."""

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

__all__ = ["RatingsData", "Truth"]

SECONDS_A_YEAR = 365.25 * 86_400


def _normal_cdf(z: np.ndarray) -> np.ndarray:
    """The standard normal distribution function, elementwise, to about 1e-6 (NumPy itself has no erf)."""
    grid = np.linspace(-8.0, 8.0, 3201)
    table = np.array([0.5 * (1.0 + math.erf(x / math.sqrt(2.0))) for x in grid.tolist()])
    return np.interp(z, grid, table)


@dataclass(frozen=True, eq=False)
class Truth:
    """The planted parameters behind generated ratings: a model that no trained model can beat except by chance.

    A rating is `latent_score + N(0, noise_sd**2)`, rounded to the nearest multiple of `step` and clipped to
    `[low, high]`, where

        latent_score = global_mean + user_bias[u] + item_bias[i] + user_factors[u] @ item_factors[i]
                       + drift * (years since time_origin)

    Args:
        global_mean: `mu`, in stars.
        user_bias: `(n_users,)` stars, row `r` belongs to row `r` of `RatingsData.users`.
        item_bias: `(n_items,)` stars, row-aligned with `RatingsData.items`.
        user_factors: `(n_users, n_factors)`, row-aligned with `users`.
        item_factors: `(n_items, n_factors)`, row-aligned with `items`.
        factor_names: one name per column; the first ones have a meaning, tied to genre or year ("dark", "pace", ...).
        drift: change of every rating with calendar time, in stars per year.
        time_origin: seconds since the epoch at which the drift is zero.
        noise_sd: standard deviation, in stars, of the noise added before rounding.
        step: distance between two grades, in stars.
        low: lowest grade.
        high: highest grade.
        expected: `(n_ratings,)` expected (noise-free) rating of each row of `RatingsData.ratings`.
        rmse: root mean squared error of `expected` against the ratings: the achievable RMSE.

    Example:
        >>> from collabkit.datasets import synthetic
        >>> truth = synthetic(100, 80).truth
        >>> truth.user_factors.shape, truth.item_bias.shape
        ((100, 8), (80,))
        >>> truth.factor_names[:4]
        ('dark', 'pace', 'wonder', 'modern')
    """

    global_mean: float
    user_bias: np.ndarray = field(repr=False)
    item_bias: np.ndarray = field(repr=False)
    user_factors: np.ndarray = field(repr=False)
    item_factors: np.ndarray = field(repr=False)
    factor_names: tuple[str, ...]
    drift: float
    time_origin: int
    noise_sd: float
    step: float
    low: float
    high: float
    expected: np.ndarray = field(repr=False)
    rmse: float

    def latent_score(self, user_rows: np.ndarray, item_rows: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
        """The planted score before noise, rounding and clipping, in stars.

        Args:
            user_rows: integer rows of `RatingsData.users` (not user ids); broadcasts with `item_rows`.
            item_rows: integer rows of `RatingsData.items` (not item ids).
            timestamp: seconds since the epoch; broadcasts with the rows.

        Returns:
            float64 array of the broadcast shape.

        Example:
            >>> from collabkit.datasets import synthetic
            >>> truth = synthetic(100, 80).truth
            >>> truth.latent_score(np.arange(100)[:, None], np.arange(80), truth.time_origin).shape
            (100, 80)
        """
        user_rows, item_rows = np.asarray(user_rows), np.asarray(item_rows)
        years = (np.asarray(timestamp) - self.time_origin) / SECONDS_A_YEAR
        affinity = np.einsum("...k,...k->...", self.user_factors[user_rows], self.item_factors[item_rows])
        return self.global_mean + self.user_bias[user_rows] + self.item_bias[item_rows] + affinity + self.drift * years

    def expected_rating(self, user_rows: np.ndarray, item_rows: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
        """Return the expected rating, including rounding and clipping: the best prediction for squared error.

        The grade is `low + step * #{thresholds below latent_score + noise}`, so its mean is a sum of normal
        probabilities, one per threshold.

        Args:
            user_rows, item_rows, timestamp: as in `latent_score`.

        Returns:
            float64 array of the broadcast shape, in `[low, high]`.
        """
        latent = self.latent_score(user_rows, item_rows, timestamp)
        sd = max(self.noise_sd, 1e-9)  # no noise: the normal becomes a step, without a special case
        expected = np.full(np.shape(latent), self.low)
        for threshold in np.arange(self.low + self.step / 2, self.high, self.step):
            expected = expected + self.step * _normal_cdf((latent - threshold) / sd)
        return expected


@dataclass(frozen=True, eq=False, repr=False)
class RatingsData:
    """A data set of ratings: three tables, and the planted truth where the data is generated.

    Args:
        name: name of the data set, e.g. `'ml-100k'`.
        ratings: one row per rating; columns `user, title, rating`, then `timestamp` (int64 seconds since the epoch;
            absent if the files have none) and `item`. A title stands for exactly one item.
        items: one row per item; columns `item, title, year` (nullable Int64), `genres` (`|`-separated).
        users: one row per user, first column `user`; None if the data set has no data about its users.
        truth: the planted parameters of generated data; None for real data.

    Example:
        >>> from collabkit.datasets import synthetic
        >>> data = synthetic(100, 80, seed=1)
        >>> list(data.ratings.columns)
        ['user', 'title', 'rating', 'timestamp', 'item']
        >>> print(repr(data).splitlines()[0])
        RatingsData 'synthetic': 4,000 ratings of 80 items by 100 users (density 50.00%)
    """

    name: str
    ratings: pd.DataFrame
    items: pd.DataFrame
    users: pd.DataFrame | None = None
    truth: Truth | None = None

    def __repr__(self) -> str:
        """Sizes, range, period and columns; never the tables themselves."""
        ratings, values, period = self.ratings, self.ratings["rating"], ""
        n_users, n_items = ratings["user"].nunique(), ratings["item"].nunique()
        density = len(ratings) / max(1, n_users * n_items)
        if "timestamp" in ratings and len(ratings):
            first, last = pd.to_datetime(ratings["timestamp"].agg(["min", "max"]), unit="s")
            period = f"; {first:%Y-%m-%d} to {last:%Y-%m-%d}"
        lines = [
            f"RatingsData {self.name!r}: {len(ratings):,} ratings of {n_items:,} items by {n_users:,} users "
            f"(density {density:.2%})",
            f"  ratings: {', '.join(ratings.columns)}; {values.min():g} to {values.max():g}, mean {values.mean():.3f}"
            f"{period}",
            f"  items:   {len(self.items):,} rows; {', '.join(self.items.columns)}",
        ]
        if self.users is not None:
            lines.append(f"  users:   {len(self.users):,} rows; {', '.join(self.users.columns)}")
        if self.truth is not None:
            n_factors = self.truth.user_factors.shape[1]
            lines.append(f"  truth:   {n_factors} planted factors, achievable RMSE {self.truth.rmse:.3f}")
        return "\n".join(lines)
