"""A map of the most popular items: two principal components of their vectors, with labels that do not overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from collabkit.serve.web.holder import Held

__all__ = ["ItemMap", "make_map"]

MOST, LABELS, COLOURS = 400, 40, 6
WIDTH, HEIGHT, EDGE = 1000, 680, 30
LETTERS = 28  # of a label


@dataclass(frozen=True, eq=False)
class ItemMap:
    """Points of items.

    Args:
        places: `(m,)` positions of the items, the most popular first.
        xy: `(m, 2)` in the units of the picture.
        labelled: positions in `places` of the points with room for a label.
        colours: for each point the class of its circle.
        legend: the names of the classes.
        explained: the share of the variance that the map shows.
    """

    places: list[int]
    xy: np.ndarray
    labelled: frozenset[int]
    colours: list[str]
    legend: list[str]
    explained: float


def make_map(held: Held) -> ItemMap | None:
    """The map of an artefact; None if its model has no item vectors."""
    places = held.catalogue.by_count[:MOST]
    vectors = held.answerer.vectors(places) if len(places) > 2 else None
    if vectors is None:
        return None
    vectors = np.asarray(vectors, dtype=np.float64)
    vectors = vectors - vectors.mean(0)
    u, sizes, _ = np.linalg.svd(vectors, full_matrices=False)
    if len(sizes) < 2 or sizes[1] == 0:
        return None
    xy = u[:, :2] * sizes[:2]
    xy *= np.where(np.abs(xy.min(0)) > np.abs(xy.max(0)), -1, 1)  # the sign of a component is arbitrary
    low, high = np.percentile(xy, [1, 99], axis=0)
    xy = np.clip((xy - low) / np.maximum(high - low, 1e-12), 0, 1)
    xy = EDGE + xy * np.array([WIDTH - 2 * EDGE, HEIGHT - 2 * EDGE])
    colours, legend = _colours(held, places)
    explained = float((sizes[:2] ** 2).sum() / (sizes**2).sum())
    return ItemMap(places, xy, _labelled(held, places, xy), colours, legend, explained)


def label(title: str) -> str:
    """A title, shortened to a label."""
    return title if len(title) <= LETTERS else f"{title[: LETTERS - 1].rstrip()}…"


def radius(held: Held, place: int) -> float:
    """The radius of a point: its area grows with the square root of the item's popularity."""
    most = max(1, held.catalogue.counts[held.catalogue.by_count[0]])
    return round(4 + 8 * (held.catalogue.counts[place] / most) ** 0.5, 1)


def label_y(y: float, r: float) -> float:
    """The base line of a label: above its point, or below it at the upper edge."""
    return y - r - 4 if y - r > 20 else y + r + 13


def _labelled(held: Held, places: list[int], xy: np.ndarray) -> frozenset[int]:
    """The points, most popular first, whose labels overlap neither each other nor the edges."""
    taken: list[tuple[float, float, float, float]] = []
    found = set()
    for j, place in enumerate(places):
        half = 3.4 * len(label(held.catalogue.titles[place])) + 4
        x, y = xy[j, 0], label_y(xy[j, 1], radius(held, place))
        box = (x - half, y - 13, x + half, y + 4)
        free = box[0] > 0 and box[2] < WIDTH
        if free and all(box[2] < b[0] or b[2] < box[0] or box[3] < b[1] or b[3] < box[1] for b in taken):
            taken.append(box)
            found.add(j)
        if len(found) == LABELS:
            break
    return frozenset(found)


def _colours(held: Held, places: list[int]) -> tuple[list[str], list[str]]:
    """The class of each point by its rarest category among the frequent ones, and the categories."""
    kinds = held.catalogue.kinds
    if not kinds:
        return ["c0"] * len(places), []
    members = next(iter(kinds.values()))
    shown = list(members)[:COLOURS]
    own = {label: set(members[label]) for label in shown}
    rarest = sorted(shown, key=lambda label: len(own[label]))
    first = (next((label for label in rarest if place in own[label]), None) for place in places)
    return ["other" if label is None else f"c{shown.index(label)}" for label in first], shown
