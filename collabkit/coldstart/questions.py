"""The most telling questions, one after the other: arithmetic of NumPy alone, which the light runtime asks by too."""

import numpy as np

__all__ = ["BY", "most_telling"]

BY = ("information", "popularity", "spread")


def most_telling(slope: np.ndarray, known: np.ndarray, n: int, noise: float, by: str) -> tuple[np.ndarray, ...]:
    """Positions `(n,)`, information and spread of the items to ask about; see `questionnaire.next_questions`.

    Args:
        slope, known: `(m, k)`, and `(m,)` chances in [0, 1], float64.
        n, noise, by: how many; variance of an answer; one of `BY`.
    """
    directions = slope.copy()  # (m, k), in coordinates in which the belief is standard normal
    first = (directions * directions).sum(1)
    free = np.ones(len(slope), dtype=bool)
    chosen, worth = [], []
    for _ in range(n):
        gain = np.log1p((directions * directions).sum(1) / noise) / 2
        value = {"information": known * gain, "popularity": known, "spread": gain}[by]
        best = int(np.where(free, value, -np.inf).argmax())
        chosen.append(best)
        worth.append(float(gain[best]))
        free[best] = False
        chance = 1.0 if by == "spread" else float(known[best])
        # The variance along the item's own direction falls from v to v - chance * v^2 / (v + noise).
        own = directions[best].copy()
        variance = float(own @ own)
        if variance > 0:
            shrink = 1 - (1 - chance * variance / (variance + noise)) ** 0.5
            directions -= shrink * (directions @ own)[:, None] * own / variance
    return np.array(chosen, dtype=np.int64), np.array(worth), np.sqrt(first[chosen])
