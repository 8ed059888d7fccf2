"""The level of predictions from features for items without events, so that they compete fairly with the others."""

import torch
from torch import Tensor

from collabkit.coldstart.cold_rows import fit_cold_head
from collabkit.data.dataset import Dataset
from collabkit.data.query import Query
from collabkit.models.base import Model, evaluating
from collabkit.models.sides import Side

__all__ = ["level_cold_items"]

SHARE = 0.2  # of the items with training rows, which are predicted to find the level
MOST_ITEMS, MOST_USERS, LEAST = 5_000, 2_000, 20
SOME = 64  # users, and items, whose scores show whether the score is linear


@torch.no_grad()
def level_cold_items(model: Model, data: Dataset, seed: int = 0) -> None:
    """Raise what features predict for items without training rows to the level at which they compete fairly.

    What is predicted is a mean, `E[s]`. The probability that an item is met goes with `exp(s)`, and `E[exp(s)]` is
    larger than `exp(E[s])` (Jensen), so that at equal scores a new item is chosen more often than a known one. How much
    more is measured on a fifth of the items with training rows, which are predicted from the
    features and rows of the others: user u's shift is `log sum exp(s_ui) - log sum exp(s'_ui)` over those that u has
    not met, with the scores s by the items' own rows and s' by those predicted. The one row that gives all users their
    shifts best, by least squares, is added to what is predicted for every item.

    It applies to scores of events that are linear in the item's row (dot products); others stay as they are.

    Args:
        model: trained, with what its features predict fitted; `FeatureRows.cold` of its item side is changed.
        data: events without ratings, what the model was trained on.
        seed: which items are predicted, and which users are asked.
    """
    side, counts, rng = model.item_side, data.train.counts("item"), torch.Generator().manual_seed(seed)
    if data.rated or side.features is None or not side.can_write or side.joins != "sum":
        return
    warm = ((counts > 0) & side.given).nonzero().squeeze(1)
    warm = warm[torch.randperm(len(warm), generator=rng)]
    items = warm[: min(MOST_ITEMS, int(SHARE * len(warm)))]
    users = (data.train.counts("user") > 0).nonzero().squeeze(1)
    users = users[torch.randperm(len(users), generator=rng)[:MOST_USERS]]
    if len(items) < LEAST:
        return
    foretold = _foretold(model, data, side, items)
    with evaluating(model):
        asked = model.user_rows(data.asker(model.needs)(users).to(model.device))
        own, other = (
            model.item_rows(Query(items.to(model.device), rows=rows)) for rows in (side.read(items), foretold)
        )
        effects, level = _effects(model, asked, own)
        scores, guesses = (level + effects @ _flat(rows).T for rows in (own, other))
        some = tuple(part[:SOME] for part in asked)
        for rows, found in ((own, scores), (other, guesses)):
            few = tuple(part[:SOME] for part in rows)
            if not torch.allclose(_scores(model, some, few), found[:SOME, :SOME], rtol=1e-2, atol=1e-3):
                return  # the score is not linear in the row
    met = data.known.of(users)
    column = torch.full((data.n_items,), -1)
    column[items] = torch.arange(len(items))
    there = column[met.values] >= 0
    for part in (scores, guesses):
        part[met.rows[there].to(part.device), column[met.values[there]].to(part.device)] = -torch.inf
    shift = (scores.logsumexp(1) - guesses.logsumexp(1)).nan_to_num(0.0, 0.0, 0.0)
    side.features.cold[-1] += _row_for(effects.double(), shift.double()).to(side.features.cold)


def _foretold(model: Model, data: Dataset, side: Side, items: Tensor) -> list[Tensor]:
    """The rows `[(m, d), ...]` of `items` `(m,)`, predicted from the other items."""
    kept = side.features.cold.clone(), side.features.rarity.clone()
    others = torch.ones(data.n_items, dtype=torch.bool)
    others[items] = False
    try:
        fit_cold_head(model, data.train.take(others[data.train.item_idx].numpy()), side)
        return list(side.features.cold_rows(items))
    finally:
        side.features.cold.copy_(kept[0])
        side.features.rarity.copy_(kept[1])


def _scores(model: Model, asked: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> Tensor:
    """Logits `(b, m)`."""
    return model.interact(tuple(part[:, None] for part in asked), tuple(part[None] for part in rows)).float()


def _effects(model: Model, asked: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """What an increase by 1 in each number of an item's row adds to its logits `(b, d)`, if they are linear in it.

    And the logits `(b, 1)` of a row of zeros.
    """
    first, widths = _flat(rows)[:1], [part.shape[1] for part in rows]
    steps = torch.cat([first, first + torch.eye(first.shape[1], device=first.device)])
    scores = _scores(model, asked, steps.split(widths, dim=1))
    effects = scores[:, 1:] - scores[:, :1]
    return effects, scores[:, :1] - effects @ first.T


def _flat(rows: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([*rows], dim=1)


def _row_for(effects: Tensor, shift: Tensor) -> Tensor:
    """The row `(d,)` that moves the scores of users by `shift` `(b,)`, with a ridge that keeps it short."""
    gram = effects.T @ effects
    gram.diagonal().add_(1e-2 * gram.diagonal().mean().clamp(min=1e-12))
    return torch.linalg.solve(gram, effects.T @ shift)
