"""`synthetic`: ratings generated from planted factors, for demos and tests that have no network."""

import operator
from dataclasses import replace

import numpy as np
import pandas as pd

from collabkit.data.checks import shown

from .catalogue import AXES, make_items, make_users
from .container import SECONDS_A_YEAR, RatingsData, Truth

__all__ = ["synthetic"]

_START = 1_420_070_400  # 2015-01-01T00:00:00Z
_YEARS = 5.0
_DRIFT = -0.06  # stars a year: people get a little stricter, as in the Netflix Prize data
_MEAN = 3.5
_USER_BIAS_SD, _ITEM_BIAS_SD, _TASTE_SD = 0.42, 0.42, 0.76
# Set so that popularity, neighbours, linear models, factors and the latest events compare as on MovieLens.
_SELECTION = 1.6  # how much people choose what they will like, in log-odds per standard deviation of taste
_POPULARITY = 1.0, 15.0  # popularity falls with this power of the rank plus this number
_PHASE_SD = 0.06  # how far an event strays from its place in a round through the tastes, in rounds
_CELLS = 4_000_000  # (user, item) pairs held in memory at once


def synthetic(
    n_users: int = 1000, n_items: int = 800, n_ratings: int | None = None, *, seed: int = 42, n_factors: int = 8, noise:
    float = 0.68, min_events: int = 20, half_stars: bool = False,
) -> RatingsData:  # fmt: skip
    """Generate a movie-rating data set with planted structure; the same arguments always give the same data.

    Ratings come from a biased dot product (see `Truth`) with a slow time drift. The first four factors are tied to
    genres and year ("dark", "pace", "wonder", "modern") and to the age and occupation of users. Popularity has a long
    tail, and activity is log-normal with a minimum. Users tend to watch what they like and go through phases, so the
    next item is similar to the last one. The mean is about 3.5, and no (user, item) pair occurs twice. An item that
    nobody chose has no rating. Rows are in order of time. If each user's last event is held out and ranked among all
    items, the NDCG@10 of `ItemKNN`, `EASE`, `fit_als` and `NextItem` is about 1.4, 1.7, 1.7 and 2.6 times that of
    `Popularity`, as on ML-100k.
    The defaults take 0.15 s; the time grows with `n_users * n_items`, about 20 million per second.

    Args:
        n_users: number of users.
        n_items: number of items.
        n_ratings: number of ratings; None means 60 per user, or half of all pairs if that is less.
        seed: non-negative integer; global generators are never used.
        n_factors: number of planted factors.
        noise: standard deviation of the noise before rounding, in stars.
        min_events: minimum number of ratings per user.
        half_stars: False for integer ratings 1..5 (int64), True for 0.5..5 in halves (float64).

    Returns:
        `RatingsData` with all of `ratings`, `items`, `users` (`user, age, occupation`) and `truth`.

    Raises:
        ValueError: an argument is out of range, or the sizes contradict each other.
        TypeError: a size or the seed is not an integer.

    Example:
        >>> data = synthetic(200, 100, 5000, seed=0)
        >>> len(data.ratings), int(data.ratings.groupby('user').size().min()) >= 20
        (5000, True)
        >>> data.ratings.equals(synthetic(200, 100, 5000, seed=0).ratings)
        True
    """
    sizes = {"n_users": n_users, "n_items": n_items, "n_factors": n_factors, "min_events": min_events}
    n_users, n_items, n_factors, min_events = (_integer(k, v) for k, v in sizes.items())
    if n_ratings is None:
        n_ratings = n_users * min(60, max(1, n_items // 2))
    n_ratings, noise = _integer("n_ratings", n_ratings), float(noise)
    _check(n_users, n_items, n_ratings, min_events, noise)
    # One stream a part, so that the catalogue of a seed stays the same when the number of users changes.
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(_integer("seed", seed)).spawn(5)]
    items, item_axes = make_items(n_items, streams[0])
    users, user_taste = make_users(n_users, streams[1])
    planted, log_popularity = _plant(user_taste, item_axes, n_factors, streams[2])
    counts = _activity(n_users, n_ratings, min_events, int(0.8 * n_items), streams[3])
    user_rows, item_rows = _choose(counts, planted, log_popularity, streams[3])
    time = _timestamps(counts, streams[4])
    order = np.argsort(time, kind="stable")
    user_rows, item_rows, time = user_rows[order], item_rows[order], time[order]
    truth, rating = _rate(planted, (user_rows, item_rows, time), noise, half_stars, streams[4])
    columns = {"user": user_rows + 1, "title": items["title"].array.take(item_rows), "rating": rating}
    ratings = pd.DataFrame({**columns, "timestamp": time, "item": item_rows + 1})
    return RatingsData("synthetic", ratings, items, users, truth)


def _integer(name: str, value: int) -> int:
    """`value` as an int, or an error that names the argument: sizes are at least 1, the seed at least 0."""
    seed = name == "seed"
    try:
        value = operator.index(value)
    except TypeError:
        why = " (the data is reproducible)" if seed else ""
        raise TypeError(f"{name} must be an integer{why}, got {shown(value)}") from None
    if value < (0 if seed else 1):
        raise ValueError(f"{name} must {'not be negative' if seed else 'be at least 1'}, got {value}")
    return value


def _check(n_users: int, n_items: int, n_ratings: int, min_events: int, noise: float) -> None:
    """Raise for sizes that contradict each other, and say which one to change."""
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise must be a standard deviation in stars, 0 or more and finite, got {noise}")
    if 2 * min_events > n_items:
        raise ValueError(
            f"min_events={min_events} is more than half of n_items={n_items}: lower min_events or raise n_items"
        )
    if 2 * n_ratings > n_users * n_items:
        raise ValueError(
            f"n_ratings={n_ratings} is more than half of the {n_users * n_items} (user, item) pairs of "
            f"n_users={n_users}, n_items={n_items}: lower n_ratings or raise n_users or n_items"
        )
    if min_events * n_users > n_ratings:
        raise ValueError(
            f"n_ratings={n_ratings} gives less than min_events={min_events} to each of n_users={n_users}: "
            f"raise n_ratings to at least {min_events * n_users}, or lower min_events or n_users"
        )


def _plant(user_taste: np.ndarray, item_axes: np.ndarray, n_factors: int, rng: np.random.Generator) -> tuple:
    """Biases and factors as arguments of `Truth`, and each item's log popularity.

    The variance of factors falls from the first to the last, so principal axes exist.
    """
    n_users, n_items, k = len(user_taste), len(item_axes), min(n_factors, len(AXES))
    user = rng.normal(size=(n_users, n_factors))
    item = rng.normal(size=(n_items, n_factors))
    user[:, :k] = 0.75 * user[:, :k] + user_taste[:, :k]
    item[:, :k] = 0.5 * item[:, :k] + item_axes[:, :k]
    # Centred columns leave no bias in the product; 1-row tables have no variance to scale.
    user, item = ((m - m.mean(0)) / np.maximum(m.std(0), 1e-9) for m in (user, item))
    spectrum = 0.8 ** np.arange(n_factors)
    scale = np.sqrt(_TASTE_SD * spectrum / np.sqrt((spectrum**2).sum()))
    item_bias = rng.normal(0.0, _ITEM_BIAS_SD, n_items)
    # Good movies are seen more often, loosely.
    appeal = 0.6 * item_bias / _ITEM_BIAS_SD + 0.8 * rng.normal(size=n_items)
    rank = np.argsort(np.argsort(-appeal))
    names = (*AXES, *(f"taste_{j}" for j in range(len(AXES) + 1, n_factors + 1)))[:n_factors]
    biases = {"user_bias": rng.normal(0.0, _USER_BIAS_SD, n_users), "item_bias": item_bias}
    factors = {"user_factors": user * scale, "item_factors": item * scale, "factor_names": names}
    power, offset = _POPULARITY
    return biases | factors, -power * np.log(rank + offset)


def _activity(n_users: int, n_ratings: int, least: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Log-normal numbers of ratings a user, each in [least, most], summing to n_ratings exactly."""
    raw = rng.lognormal(0.0, 1.1, n_users)
    room, extra = float(max(most, least) - least), n_ratings - least * n_users
    # The sum of capped shares grows with the multiplier: bisect it, then hand out what flooring left.
    low, high = 0.0, (room + 1.0) / raw.min()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(middle * raw, room).sum() < extra else (low, middle)
    share = np.minimum(high * raw, room)
    counts = np.floor(share)
    left = int(extra - counts.sum())
    open_users = np.flatnonzero(counts < room)
    first = open_users[np.argsort(-(share - counts)[open_users], kind="stable")]
    counts[first[:left]] += 1
    return least + counts.astype(np.int64)


def _choose(
    counts: np.ndarray, planted: dict, log_popularity: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the users and of the items that they watched, grouped by user, in the order of watching.

    Gumbel top-k (Kool et al. 2019, "Stochastic Beams and Where to Find Them", section 2.3) draws without replacement
    with probability proportional to popularity times exp(selection * taste): no pair twice, no loop over users. The
    order follows the direction of the items in the plane of the first two factors, starting at a random direction for
    each user: a round through the tastes.
    """
    user, item = planted["user_factors"], planted["item_factors"]
    n_users, n_items = len(user), len(item)
    chunk = max(1, _CELLS // n_items)
    chosen = []
    for start in range(0, n_users, chunk):
        part = slice(start, start + chunk)
        keys = log_popularity + (_SELECTION / _TASTE_SD) * (user[part] @ item.T)
        keys += rng.gumbel(size=keys.shape)
        ranked = np.argsort(-keys, axis=1)
        chosen.append(ranked[np.arange(n_items) < counts[part, None]])
    user_rows, item_rows = np.repeat(np.arange(n_users), counts), np.concatenate(chosen)
    x, y = (item[:, min(j, item.shape[1] - 1)] for j in (0, 1))
    direction = np.arctan2(y / max(y.std(), 1e-9), x / max(x.std(), 1e-9)) / (2 * np.pi)  # in rounds
    start, way = rng.random(n_users), rng.choice((-1, 1), n_users)
    place = (way[user_rows] * direction[item_rows] - start[user_rows]) % 1 + rng.normal(0, _PHASE_SD, len(item_rows))
    order = np.lexsort((place, user_rows))
    return user_rows, item_rows[order]


def _timestamps(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Seconds since the epoch, strictly increasing within a user: sessions of minutes, days or weeks apart."""
    n_ratings, window = int(counts.sum()), _YEARS * SECONDS_A_YEAR
    first = np.cumsum(counts) - counts
    gap = rng.exponential(90.0, n_ratings) + 5.0
    new_session = rng.random(n_ratings) < 0.06
    gap = np.where(new_session, rng.exponential(25 * 86_400.0, n_ratings), gap)
    total = np.cumsum(gap)
    elapsed = total - np.repeat(total[first], counts)
    place = np.arange(n_ratings) - np.repeat(first, counts)
    # Nobody rates after the end of the window: a long history is squeezed, then placed at random. The place in the
    # history is added last, so that no two events of a user fall into the same second.
    span = elapsed[first + counts - 1]
    squeeze = np.minimum(1.0, 0.95 * window / np.maximum(span, 1.0))
    start = rng.random(len(counts)) * (0.99 * window - span * squeeze)
    return _START + (np.repeat(start, counts) + elapsed * np.repeat(squeeze, counts)).astype(np.int64) + place


def _rate(planted: dict, events: tuple, noise: float, half_stars: bool, rng: np.random.Generator) -> tuple:
    """The truth behind the events (user rows, item rows, seconds), and the ratings given at them."""
    step, low, high = (0.5, 0.5, 5.0) if half_stars else (1.0, 1.0, 5.0)
    time = {"drift": _DRIFT, "time_origin": int(_START + _YEARS / 2 * SECONDS_A_YEAR)}
    grades = {"noise_sd": noise, "step": step, "low": low, "high": high}
    truth = Truth(global_mean=0.0, **planted, **time, **grades, expected=np.empty(0), rmse=np.nan)
    # People watch what they like, so the mean of what was watched is above the mean of the catalogue: put the former
    # at 3.5, whatever the sizes.
    truth = replace(truth, global_mean=float(_MEAN - truth.latent_score(*events).mean()))
    score = truth.latent_score(*events) + noise * rng.normal(size=len(events[0]))
    rating = np.clip(low + step * np.floor((score - low) / step + 0.5), low, high)
    expected = truth.expected_rating(*events)
    rmse = float(np.sqrt(np.mean((rating - expected) ** 2)))
    return replace(truth, expected=expected, rmse=rmse), rating if half_stars else rating.astype(np.int64)
