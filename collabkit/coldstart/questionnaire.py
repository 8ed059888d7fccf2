"""`questionnaire`: which items to ask a new user about, so that the answers tell most about the user's taste."""

import pandas as pd
import torch
from torch import Tensor

from collabkit.coldstart.fold_in import FoldIn
from collabkit.coldstart.questions import BY, most_telling
from collabkit.data.checks import one_of, whole

__all__ = ["BY", "questionnaire", "next_questions"]


def next_questions(slope: Tensor, known: Tensor, n: int, *, noise: float, by="information") -> tuple[Tensor, ...]:
    """Items to ask about, one after the other, under a Gaussian belief about the user.

    The user's unknown `y` is standard normal and an answer about item i is `slope[i] . y + N(0, noise)`; i is known to
    the user with probability `known[i]`. An answer is worth `log(1 + v_i / noise) / 2` nats, v_i being what is still
    unknown of the answer: the mutual information, whose greedy choice is within 63 % of the best set (Krause and
    Guestrin, "Near-optimal nonmyopic value of information in graphical models", 2005). The value of a question is
    that times the chance that it is answered; after it the belief narrows by as much as is to be expected. So the
    items are popular, divisive (v_i is large) and spread over the space of tastes (they do not tell the same).

    Args:
        slope, known: `(m, k)`, and `(m,)` chances in [0, 1].
        n, noise: how many, at most m; variance of an answer.
        by: `'information'`, `'popularity'` (the best known) or `'spread'` (as if all were known).

    Returns:
        Positions `(n,)`, the information `(n,)` in nats that each answer was worth when it was chosen, and the standard
        deviations `(n,)` of the answers before the first one.

    Example:
        >>> slope = torch.tensor([[2.0, 0.0], [1.9, 0.0], [0.0, 1.0]])
        >>> next_questions(slope, torch.ones(3), 2, noise=1.0)[0]  # the second one would tell the same as the first
        tensor([0, 2])
    """
    found = most_telling(slope.double().numpy(), known.double().numpy(), n, noise, by)
    return tuple(map(torch.from_numpy, found))


def questionnaire(fold: FoldIn, n: int = 10, *, by: str = "information", items=None) -> pd.DataFrame:
    """Items to ask a new user about, the most telling first; see `Recommender.questionnaire`."""
    one_of("by", by, BY)
    n, train = whole("n", n), fold.data.train
    # Repeated rows count once: it is asked how many users know the item.
    counts = torch.bincount(train.pairs.values, minlength=train.n_items)
    idx = counts.nonzero().squeeze(1)
    if items is not None:
        idx = idx[torch.isin(idx, torch.from_numpy(train.items.encode(items, unknown="raise")))]
    if n > len(idx):
        raise ValueError(f"n={n} questions need as many items with training rows, but there are {len(idx):,}")
    slope, noise = fold.belief(idx)
    known = counts[idx] / (train.counts("user") > 0).sum()
    chosen, worth, spread = next_questions(slope, known, n, noise=noise, by=by)
    table = {train.columns.item: train.items.decode(idx[chosen].numpy()), "known_by": known[chosen].numpy()}
    return pd.DataFrame({**table, "spread": spread.numpy(), "information": worth.numpy()})
