"""Generated titles and posters with planted tastes that only the order of words and the texture reveal."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from collabkit.data.checks import check_seed, whole_within

__all__ = ["ContentData", "synthetic_content"]

_MOODS = (("dark", "cruel", "bitter", "cold"), ("light", "gentle", "sweet", "warm"))
_THINGS = ("harbour", "garden", "letter", "island", "mirror", "season", "witness", "stranger", "voyage", "violin")
_PLACES = ("Lisbon", "Vienna", "Kyoto", "Odessa", "Havana", "Dublin", "Trieste", "Nairobi", "Bergen", "Tangier")


@dataclass(frozen=True, eq=False)
class ContentData:
    """Events, item data, and the planted tastes.

    Args:
        events: DataFrame `user, item`, each pair once.
        items: DataFrame `item, title, poster`, the poster an array `(size, size, 3)` uint8.
        item_mood, item_texture: `(n_items,)`, 1 or -1, the mood of the title and the texture of the poster, in the
            order of `items`.
        user_mood, user_texture: `(n_users,)`, 1 or -1, what each user likes.
    """

    events: pd.DataFrame
    items: pd.DataFrame
    item_mood: np.ndarray
    item_texture: np.ndarray
    user_mood: np.ndarray
    user_texture: np.ndarray


def synthetic_content(
    n_users: int = 400, n_items: int = 300, n_events: int = 20, *, size: int = 32, strength: float = 1.5, seed: int = 0
) -> ContentData:
    """Generate items whose titles and posters determine who likes them, and the events of these users.

    Half of the titles are like "Garden of Kyoto: dark, not light", and half like "light, not dark": the same words in
    another order. Half of the posters have horizontal stripes and half have vertical ones, in uninformative colours and
    widths. So a bag of words and a mean colour do no better than chance, and a model that reads order and texture can
    learn everything. Each user likes one of the two moods and one of the two textures, independently.

    Args:
        n_users, n_items: numbers of users and items.
        n_events: number of items per user; at most half of the items.
        size: height and width of the posters in pixels, at least 8.
        strength: how much a liked title, or a liked poster, adds to the log-odds of an event; a disliked one subtracts
            the same.
        seed: seed of the data.

    Raises:
        ValueError: sizes contradict each other, or are too small.

    Example:
        >>> data = synthetic_content(n_users=50, n_items=40, n_events=10, seed=1)
        >>> data.items['title'][0], data.items['poster'][0].shape, len(data.events)
        ('Stranger of Dublin: cold, not sweet', (32, 32, 3), 500)
    """
    for name, value, least in (("n_users", n_users, 2), ("n_items", n_items, 4), ("n_events", n_events, 1)):
        whole_within(name, value, least, 10**9)
    whole_within("size", size, 8, 1024)
    if 2 * n_events > n_items:
        raise ValueError(f"n_events={n_events} is more than half of n_items={n_items}: lower it, or raise n_items")
    if not 0 <= strength < np.inf:
        raise ValueError(f"strength must be 0 or more and finite, got {strength!r}")
    rng = np.random.default_rng(check_seed(seed))
    planted = [_halves(n, rng) for n in (n_items, n_items, n_users, n_users)]
    item_mood, item_texture, user_mood, user_texture = planted
    items = pd.DataFrame({"item": [f"i{j:04d}" for j in range(n_items)], "title": [_title(m, rng) for m in item_mood]})
    items["poster"] = pd.Series([_poster(t, size, rng) for t in item_texture], dtype=object)
    liking = strength * (np.outer(user_mood, item_mood) + np.outer(user_texture, item_texture))
    # Gumbel top-k: n_events items without replacement, each in proportion to exp(liking)
    keys = liking + 0.5 * rng.normal(size=n_items) + rng.gumbel(size=liking.shape)
    met = np.argsort(-keys, axis=1)[:, :n_events]
    names = {"user": np.repeat([f"u{j:04d}" for j in range(n_users)], n_events)}
    events = pd.DataFrame(names | {"item": items["item"].to_numpy()[met.ravel()]})
    return ContentData(events, items, *planted)


def _halves(n: int, rng: np.random.Generator) -> np.ndarray:
    """1 and -1, as many of each, in random order."""
    return rng.permutation(np.where(np.arange(n) % 2, 1, -1))


def _title(mood: int, rng: np.random.Generator) -> str:
    """A title of a mood, in words that titles of the other have too."""
    first, second = (str(rng.choice(words)) for words in (_MOODS if mood > 0 else _MOODS[::-1]))
    return f"{rng.choice(_THINGS).capitalize()} of {rng.choice(_PLACES)}: {first}, not {second}"


def _poster(texture: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Stripes `(size, size, 3)` uint8 from side to side (1) or up and down (-1), of two colours, with some noise."""
    colours, width = rng.uniform(30, 225, (2, 3)), rng.integers(3, max(4, size // 5) + 1)
    wave = (((np.arange(size) + rng.integers(0, 2 * width)) // width) % 2).astype(float)
    stripes = np.repeat(wave[:, None], size, axis=1) if texture > 0 else np.repeat(wave[None], size, axis=0)
    picture = stripes[..., None] * colours[0] + (1 - stripes[..., None]) * colours[1]
    return np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)
