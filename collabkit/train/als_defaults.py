"""`pick_als`: chooses regularisation and weight of unobserved pairs for alternating least squares from the data."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from collabkit.data.interactions import Interactions
from collabkit.data.runs import Runs
from collabkit.evaluate.metrics import ndcg
from collabkit.retrieval.ranking import FullCatalogue, rank_pairs
from collabkit.train.als import ALSSolver

__all__ = ["AlsDefaults", "pick_als", "als_rule"]

TIMES_DENSITY = 20.0  # weight of an unobserved pair, in densities
STRENGTH = 0.4  # of the penalty, in units of the noise level
TRIALS = 9  # maximum
STEPS = 3.5, 2.0  # factors of the weight and the strength
SWEEPS = 3  # of a trial
USERS, SHARE = 1500, 0.2  # users in a trial, and the held-out share of their items
FEWEST = 500  # minimum number of held-out pairs for trials
CUT = 20


@dataclass(frozen=True)
class AlsDefaults:
    """The chosen values, and a message about them.

    Args:
        reg, unobserved_weight: of `ALSSolver`.
        why: the message, in one line.
        trials: `(times, strength, NDCG)` of each setting that was tried, in the units of `als_rule`.
    """

    reg: float
    unobserved_weight: float
    why: str
    trials: tuple[tuple[float, float, float], ...] = ()


def als_rule(
    train: Interactions, nu: float = 1.0, *, times: float = TIMES_DENSITY, strength: float = STRENGTH,
    unobserved_weight: float | None = None,
) -> tuple[float, float]:  # fmt: skip
    """`(reg, unobserved_weight)` from the shape of the data.

    With U users, I items and n events the weight is `times` the density `n / (U I)`: whatever the catalogue, all
    unobserved pairs together weigh this many times as much as the observed ones, but each at most as much as an
    observed one. The penalties of the vectors cut off what does not stand out of the matrix of events: if unobserved
    pairs make up most of the loss, a singular value s of the matrix becomes `(s - l) / w`, where l is the geometric
    mean of a user's and an item's penalty. So l is `strength` times `sqrt(n / U) + sqrt(n / I)`, about the largest
    singular value of a random matrix of that density (the edge of Marchenko and Pastur). With larger penalties the
    vectors vanish.

    Args:
        train: the events.
        nu: exponent of the penalty's frequency scaling; see `ALSSolver`.
        times, strength: .4 and 20 were about best on five data sets (benchmarks, `als_defaults`).
        unobserved_weight: the weight, if given.
    """
    n_users, n_items = (max(1, int((train.counts(side) > 0).sum())) for side in ("user", "item"))
    by_user, by_item = len(train) / n_users, len(train) / n_items
    weight = min(1.0, times * by_user / n_items) if unobserved_weight is None else unobserved_weight
    scale = (by_user + weight * (train.n_items - 1)) * (by_item + weight * (train.n_users - 1))
    return strength * (math.sqrt(by_user) + math.sqrt(by_item)) / scale ** (nu / 2), weight


def pick_als(
    train: Interactions, d: int, n_sweeps: int, *, reg: float | None = None, unobserved_weight: float | None = None,
    nu: float = 1.0, n_cg: int = 3, search: bool = True, disliked: Interactions | None = None, seed: int = 0,
    device="cpu",
) -> AlsDefaults:  # fmt: skip
    """Choose `reg` and `unobserved_weight`, if not given, by `als_rule` and a few short fits around it.

    Each of five to nine trials is a fit of three sweeps, evaluated on a fifth of the items of up to 1,500 users, cut
    from `train`. A setting other than the rule's is chosen if NDCG@20 gains more than two standard errors. This takes
    up to 27 sweeps: if these were more than three fits of `n_sweeps`, or fewer than 500 pairs could be held out, only
    the rule is used, as with `search=False`.

    Args:
        train, disliked: as in `ALSSolver`.
        d: length of the vectors; trials take at most 64.
        n_sweeps: of the fit that follows.
        reg, unobserved_weight: the values, if given.
        nu, n_cg: of the fit that follows.
        search: whether to run trials.
        seed: of the held-out part and of the vectors.
        device: for the computation.
    """
    given = {"unobserved_weight": unobserved_weight}
    held, reason = None, "a rule from shape and density"
    if search and 3 * n_sweeps >= TRIALS * SWEEPS:
        held = _held_out(train, seed)
        reason += "" if held is not None else ": too few events for trials"
    times, strength, trials = TIMES_DENSITY, STRENGTH, {}
    if held is not None:
        part, asked = held

        solver, fixed = None, {"nu": nu, "n_cg": n_cg, "disliked": disliked, "device": device}

        def score(times: float, strength: float) -> np.ndarray:
            nonlocal solver
            key = times, strength
            if key not in trials:
                own, weight = als_rule(part, nu, times=times, strength=strength, **given)
                options = {"reg": own if reg is None else reg, "unobserved_weight": weight}
                solver = solver.again(**options) if trials else ALSSolver(part, **options, **fixed)
                trials[key] = _score(solver, part, asked, min(d, 64), seed)
            return trials[key]

        times, strength = _climb(score, free=(unobserved_weight is None, reg is None))
        value, rule = (trials[key].mean() for key in ((times, strength), (TIMES_DENSITY, STRENGTH)))
        reason = f"NDCG@{CUT} {value:.3g} on a part cut from train, the rule's {rule:.3g}; {len(trials)} short fits"
    own, weight = als_rule(train, nu, times=times, strength=strength, **given)
    own = own if reg is None else reg
    why = f"fit_als: reg={own:.3g}, unobserved_weight={weight:.3g} ({reason}); name both to override"
    return AlsDefaults(own, weight, why, tuple((*key, float(value.mean())) for key, value in trials.items()))


def _climb(score: Callable[..., np.ndarray], free: tuple[bool, bool]) -> tuple[float, float]:
    """`(times, strength)`, starting at the rule, one after the other, by steps up and down, twice.

    A step is taken if the users' metrics gain more than two standard errors of their differences; below that, the rule
    is good enough.
    """
    at = [TIMES_DENSITY, STRENGTH]
    for _ in range(2):  # if the first round took no step, the second has nothing left to try
        for axis in (0, 1):
            best, middle = score(*at), at[axis]
            for step in (STEPS[axis], 1 / STEPS[axis]) if free[axis] else ():
                there = [*at[:axis], middle * step, *at[axis + 1 :]]
                gain = score(*there) - best
                if gain.mean() > 2 * gain.std() / len(gain) ** 0.5:
                    at, best = there, score(*there)
    return at[0], at[1]


def _held_out(train: Interactions, seed: int) -> tuple[Interactions, Runs] | None:
    """`train` without a share of the events of some users, and these events; None if they are too few."""
    generator = torch.Generator().manual_seed(seed)
    users = (train.counts("user") >= 2).nonzero().squeeze(1)
    users = users[torch.randperm(len(users), generator=generator)[:USERS]]
    rows = train.by_user.of(users.sort().values)
    place = torch.rand(len(rows.values), generator=generator, dtype=torch.float64) + rows.rows  # shuffled within users
    rank = place.argsort().argsort() - rows.start[rows.rows]
    out = rank < (rows.lengths[rows.rows] * SHARE).long().clamp(min=1)
    if int(out.sum()) < FEWEST:
        return None
    keep = torch.ones(len(train), dtype=torch.bool)
    keep[rows.values[out]] = False
    part, asked = train.take(keep.numpy()), train.take(rows.values[out])
    there = part.counts("item")[asked.item_idx] > 0
    if part.weight is not None:
        part = replace(part, weight=part.weight / part.weight.mean())
    return part, asked.take(there.numpy()).pairs


def _score(solver: ALSSolver, part: Interactions, asked: Runs, d: int, seed: int) -> np.ndarray:
    """NDCG of each evaluated user, after a few sweeps."""
    P, Q = solver.init_tables(d, seed=seed)
    for _ in range(SWEEPS):
        solver.solve_users(P, Q)
        solver.solve_items(P, Q)
    items = (part.counts("item")[1:] > 0).nonzero().squeeze(1) + 1
    scorer = _Dots(P, Q[items.to(Q.device)])
    source = FullCatalogue(scorer, items, part.n_items, part.pairs, None)
    ranks = rank_pairs(source, asked.rows, asked.values, block=max(1, 2**24 // len(items)), k=CUT)[0]
    return ndcg(ranks, torch.unique_consecutive(asked.rows, return_inverse=True)[1].numpy(), CUT)


class _Dots:
    """Scores `(b, c)` of the users `(b,)`."""

    finite = False

    def __init__(self, P: Tensor, Q: Tensor):
        self.users, self.items = P, Q.T.contiguous()

    def __call__(self, users: Tensor) -> Tensor:
        return self.users[users.to(self.users.device)] @ self.items
