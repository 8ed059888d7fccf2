"""The meaning of scores: probabilities of events, and errors of predicted ratings; as numbers, without torch."""

import math
from dataclasses import asdict, dataclass, fields

import numpy as np

__all__ = ["Intervals", "Probabilities", "from_spec", "to_spec"]


@dataclass(frozen=True)
class Probabilities:
    """An increasing function from scores to probabilities.

    Args:
        method: `'platt'` or `'isotonic'`.
        x, p: for Platt's method, `p` are the intercept and the slope; otherwise the probabilities at the scores `x`,
            with linear interpolation.
        n_negatives, seed: arguments of the fit.
    """

    method: str
    x: tuple[float, ...]
    p: tuple[float, ...]
    n_negatives: int
    seed: int

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities `(n,)` float32 of scores (logits) `(n,)`."""
        scores = np.asarray(scores, dtype=np.float64)
        if self.method == "isotonic":
            return np.interp(scores, self.x, self.p).astype(np.float32)
        with np.errstate(over="ignore"):
            return (1 / (1 + np.exp(-(self.p[0] + self.p[1] * scores)))).astype(np.float32)


@dataclass(frozen=True)
class Intervals:
    """Errors of predicted ratings, by the number of training rows of their users.

    Args:
        edges: the largest number of a user's training rows in each bin but the last.
        errors: for each bin, absolute errors in ascending order, at most `MOST` order statistics.
        counts: for each bin, the number of errors.
        seed: determines the half of the users.
    """

    edges: tuple[int, ...]
    errors: tuple[tuple[float, ...], ...]
    counts: tuple[int, ...]
    seed: int

    def width(self, n_rows: np.ndarray, level: float) -> np.ndarray:
        """Half the width `(n,)` of the intervals of users with `n_rows` `(n,)` training rows."""
        place = np.searchsorted(self.edges, n_rows, side="left")
        half = []
        for errors, n in zip(self.errors, self.counts, strict=True):
            share = min(1.0, math.ceil((n + 1) * level) / n)  # the order statistic of split conformal prediction
            half.append(errors[max(0, math.ceil(share * len(errors)) - 1)])
        return np.asarray(half, dtype=np.float32)[place]


def to_spec(found: Probabilities | Intervals) -> dict:
    """The calibration in JSON form."""
    return {"kind": type(found).__name__, **asdict(found)}


def from_spec(spec: dict) -> Probabilities | Intervals:
    """The calibration from its JSON form.

    Raises:
        ValueError: the kind is unknown, or numbers are not finite or not increasing.
    """
    kinds = {cls.__name__: cls for cls in (Probabilities, Intervals)}
    cls = kinds.get(spec.get("kind"))
    if cls is None or set(spec) != {"kind", *(field.name for field in fields(cls))}:
        raise ValueError(f"config.json has a calibration of an unknown kind: {sorted(spec)}")
    frozen = {k: _frozen(v) for k, v in spec.items() if k != "kind"}
    found = cls(**frozen)
    rows = [found.x, found.p] if cls is Probabilities else [found.edges, *found.errors]
    if not all(np.isfinite(row).all() for row in rows):
        raise ValueError("config.json has a calibration with numbers that are not finite")
    rising = [found.x, found.p] if cls is Probabilities and found.method == "isotonic" else []
    if not all((np.diff(row) >= 0).all() for row in (rising if cls is Probabilities else rows)):
        raise ValueError("config.json has a calibration whose numbers do not rise")
    return found


def _frozen(value):
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
