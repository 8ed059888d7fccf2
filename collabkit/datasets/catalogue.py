"""The made-up movies and people of `synthetic`: titles, genres, years, ages, occupations."""

import re

import numpy as np
import pandas as pd

__all__ = ["AXES", "GENRES", "make_items", "make_users"]

AXES = ("dark", "pace", "wonder", "modern")

# genre: how often it is a movie's first genre; its place on the axes dark, pace and wonder, one of its own, so that a
# PCA of item vectors and the neighbours of a movie have a meaning that a reader can check; words for titles.
GENRES: dict[str, tuple[float, tuple[float, float, float], str, str]] = {
    "Action": (0.14, (0.3, 1.0, 0.2), "Burning Final Steel Savage Relentless Broken",
        "Strike Pursuit Mercenary Siege Bridge Convoy"),
    "Animation": (0.05, (-0.9, 0.2, 0.8), "Tiny Flying Paper Magic Painted Curious",
        "Fox Balloon Lantern Toymaker Whale Sparrow"),
    "Children's": (0.05, (-1.0, 0.0, 0.7), "Little Brave Lost Secret Runaway Clever",
        "Bear Treehouse Pony Island Puppy Garden"),
    "Comedy": (0.18, (-0.7, -0.2, -0.3), "Reluctant Perfect Unlucky Second-Hand Borrowed Accidental",
        "Wedding Landlord Dentist Holiday Uncle Bet"),
    "Crime": (0.07, (0.8, 0.3, -0.5), "Crooked Stolen Dirty Quiet Seventh Velvet",
        "Ledger Informer Alibi Heist Debt Precinct"),
    "Documentary": (0.04, (0.1, -1.0, -0.9), "Unseen Open Deep Measured Forgotten Distant",
        "Reef Archive Glacier Orchestra Factory Migration"),
    "Drama": (0.19, (0.3, -0.8, -0.4), "Silent Long Unspoken Winter Fading Ordinary",
        "Harbour Inheritance Letter House Daughter Season"),
    "Fantasy": (0.04, (-0.2, 0.3, 1.0), "Enchanted Golden Ancient Hidden Wandering Silver",
        "Kingdom Dragon Amulet Forest Crown Oracle"),
    "Horror": (0.06, (1.0, 0.4, 0.3), "Haunted Bleeding Hollow Cursed Whispering Sleepless",
        "Cellar Asylum Doll Mirror Graveyard Visitor"),
    "Romance": (0.07, (-0.5, -0.7, -0.1), "Tender Summer Parisian Promised Midnight Gentle",
        "Affair Serenade Proposal Rendezvous Kiss Violin"),
    "Sci-Fi": (0.05, (0.2, 0.6, 0.9), "Orbital Quantum Frozen Electric Infinite Synthetic",
        "Colony Signal Android Station Horizon Voyage"),
    "Thriller": (0.08, (0.8, 0.7, -0.3), "Vanishing Fatal Double Cold Blind Restless",
        "Witness Passenger Motive Hour Cipher Stranger"),
    "War": (0.03, (0.6, 0.4, -0.8), "Fallen Muddy Forgotten Iron Eastern Last",
        "Battalion Trench Squadron Front Retreat Armistice"),
    "Western": (0.03, (0.1, 0.5, -0.7), "Dusty Lonesome Crimson Northern Bitter Wild",
        "Canyon Sheriff Stagecoach Ranch Saddle Frontier"),
}  # fmt: skip
_PLACES = (
    "Lisbon", "Vienna", "Harlem", "Kyoto", "Marrakesh", "Odessa", "Havana", "Dublin", "Calcutta", "Trieste", "Nairobi",
    "Bergen", "Salem", "Tangier", "Quebec", "Naples", "Shanghai", "Cordoba", "Montana", "Prague", "Cairo", "Reykjavik",
    "Buenos Aires", "Bombay",
)  # fmt: skip
_PATTERNS = ("The {a} {n}", "{a} {n}", "The {n} of {p}", "A {a} {n} in {p}", "The {a} {n} of {p}")
_OCCUPATIONS = (
    "student", "engineer", "educator", "administrator", "artist", "programmer", "healthcare", "scientist", "writer",
    "homemaker", "retired", "executive", "salesman", "technician",
)  # fmt: skip


def make_items(n_items: int, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Make up a catalogue of movies, and say where each one stands on `AXES`.

    Returns:
        A DataFrame `item, title, year, genres` with items 1..n_items and unique titles, and an array
        `(n_items, 4)` of zero-mean, unit-variance coordinates on the axes.
    """
    names = np.array(list(GENRES))
    frequency, place = (np.array(column) for column in list(zip(*GENRES.values(), strict=True))[:2])
    # Gumbel top-k: the first genre by frequency, the others also by likeness to the first, as in real catalogues.
    first = rng.choice(len(names), n_items, p=frequency / frequency.sum())
    likeness = 1.5 * place[first] @ place.T + np.log(frequency) + rng.gumbel(size=(n_items, len(names)))
    likeness[np.arange(n_items), first] = np.inf
    ranked = np.argsort(-likeness, axis=1)
    n_genres = rng.choice([1, 2, 3], n_items, p=[0.4, 0.4, 0.2])
    has = np.zeros((n_items, len(names)), dtype=bool)
    for slot in range(3):
        rows = n_genres > slot
        has[rows, ranked[rows, slot]] = True
    age = np.minimum(rng.gamma(1.6, 11.0, n_items), 80.0)  # most movies are recent, a few are very old
    year = (2014 - age).astype(np.int64)
    axes = np.column_stack([(has @ place) / has.sum(1, keepdims=True), year - year.mean()])
    axes = (axes - axes.mean(0)) / np.maximum(axes.std(0), 1e-9)
    items = {"item": np.arange(1, n_items + 1), "title": _titles(names[first], year, rng)}
    items |= {"year": pd.array(year, dtype="Int64"), "genres": ["|".join(names[row]) for row in has]}
    return pd.DataFrame(items), axes


def _titles(genre: np.ndarray, year: np.ndarray, rng: np.random.Generator) -> list[str]:
    """One unique title an item, its words chosen by the first genre; a clash gets a number ("The Lost Bear II")."""
    picks = rng.integers(0, 6, (len(genre), 2))
    pattern = rng.choice(len(_PATTERNS), len(genre), p=[0.4, 0.2, 0.16, 0.12, 0.12])
    where = rng.integers(0, len(_PLACES), len(genre))
    words = {g: (adjectives.split(), nouns.split()) for g, (*_, adjectives, nouns) in GENRES.items()}
    names = [
        _PATTERNS[k].format(a=words[g][0][a], n=words[g][1][n], p=_PLACES[w])
        for g, (a, n), k, w in zip(genre, picks, pattern, where, strict=True)
    ]
    names = [re.sub(r"^A (?=[AEIOU])", "An ", n) for n in names]
    part = pd.DataFrame({"name": names, "year": year}).groupby(["name", "year"]).cumcount()
    numerals = ("", " II", " III", " IV", " V", " VI", " VII", " VIII", " IX", " X")
    return [
        f"{n}{numerals[k] if k < len(numerals) else f' Part {k + 1}'} ({y})"
        for n, k, y in zip(names, part, year, strict=True)
    ]


def make_users(n_users: int, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Make up people, and say how their age and occupation move their taste on `AXES`.

    Returns:
        A DataFrame `user, age, occupation` (age in years, 15 to 80) with users 1..n_users, and an array
        `(n_users, 4)` of taste on the axes, each column with mean 0; a part of a user's taste, not the whole.
    """
    age = np.clip(np.exp(rng.normal(3.45, 0.33, n_users)), 15, 80).astype(np.int64)
    work = rng.integers(0, len(_OCCUPATIONS), n_users)
    students = (age < 23) & (rng.random(n_users) < 0.7)
    work = np.where(students, _OCCUPATIONS.index("student"), work)
    work = np.where(age >= 66, _OCCUPATIONS.index("retired"), work)
    work_taste = rng.normal(0.0, 0.4, (len(_OCCUPATIONS), len(AXES)))
    youth = -(age - age.mean()) / max(age.std(), 1e-9)
    taste = work_taste[work] + youth[:, None] * np.array([0.15, 0.25, 0.15, 0.6])
    occupation = np.array(_OCCUPATIONS)[work]
    users = pd.DataFrame({"user": np.arange(1, n_users + 1), "age": age, "occupation": occupation})
    return users, taste - taste.mean(0)
