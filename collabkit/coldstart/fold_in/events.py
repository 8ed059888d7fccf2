"""`EventSolver`: the most likely row of a user given events, in a softmax over the catalogue with a Gaussian prior."""

import math
from copy import copy
from functools import cache, partial

import torch
from torch import Tensor

from collabkit.coldstart.climb import climb
from collabkit.coldstart.fold_in.histories import Block, blocks
from collabkit.coldstart.fold_in.prior import Gaussian
from collabkit.coldstart.fold_in.ratings import histories_of, parts_of, trained_users
from collabkit.coldstart.fold_in.scores import UserScores
from collabkit.data.interactions import Interactions
from collabkit.data.runs import Runs

__all__ = ["EventSolver"]

_STEPS = 8  # Gauss-Newton
_CATALOGUE = {True: 20_000, False: 4_000}  # items that the softmax runs over
_FLOATS = 1_000_000  # of a block's largest array
_CALIBRATION = 300  # users
_SHARPER = 1.4  # see `_temperature`


class EventSolver:
    """Rows of users from events: the mode of the posterior of a multinomial likelihood.

    An event with a weight, its confidence, counts that many times. Each of a user's n events is a draw from
    `softmax(beta * logits(x))` over the items, and `x ~ N(mean, C)` of the trained users' rows. The model may have been
    trained by any loss, least squares included: `beta` turns its logits into log-odds of one item against another, and
    is picked, with the scale of C, by how likely trained users' other events become given a few of them. With the
    curvature at the mean user, the covariance of the items' slopes under the softmax, diagonal together with C by one
    eigendecomposition, Fisher scoring needs no solve for any n; it preconditions a few steps of conjugate gradients
    (Polak and Ribiere) with exact line search. Where the logits are not linear in the row, Gauss-Newton steps do the
    same with the curvature of each user.

    Args:
        scores, train: of the model, and its training interactions.
        max_users: the prior is estimated on as many of the users.
        seed: of the choice of users, and of items where the catalogue is too large to be summed over.
    """

    def __init__(self, scores: UserScores, train: Interactions, *, max_users: int = 20_000, seed: int = 0):
        self.scores, self.seed = scores, seed
        users = trained_users(train, max_users, seed)
        self._choose_items(train, seed)
        self.prior = Gaussian.of_rows(scores.rows(users))
        sample = trained_users(train, _CALIBRATION, seed)
        self.beta = self._temperature(sample, histories_of(train, sample)[0])
        if scores.linear:
            self._reduce()
            self._calibrate(histories_of(train, sample)[0], sample)

    def for_items(self, scores: UserScores, train: Interactions) -> "EventSolver":
        """The same prior for a model whose items have changed or been added; takes milliseconds."""
        new = copy(self)
        new.scores = scores
        new._choose_items(train, self.seed)
        if scores.linear:
            new._reduce()
        return new

    def state(self) -> dict[str, Tensor]:
        """What was fitted, for `restored`; of a linear model the curvature too."""
        found = {"mean": self.prior.mean, "root": self.prior.root, "beta": torch.tensor(self.beta, dtype=torch.float64)}
        return found | ({"curvature": self.curvature} if self.scores.linear else {})

    @classmethod
    def restored(cls, scores: UserScores, train: Interactions, state: dict[str, Tensor], *, seed: int = 0):
        """The solver that gave `state`, of the same model and data; nothing is fitted."""
        new = cls.__new__(cls)
        state = {name: value.to(scores.device) for name, value in state.items()}
        new.scores, new.seed, new.beta = scores, seed, float(state["beta"])
        new._choose_items(train, seed)
        new.prior = Gaussian(state["mean"], state["root"])
        if scores.linear:
            new.curvature = state["curvature"]
            new._lay_out()
        return new

    def answers(self, logits: Tensor, slope: Tensor) -> tuple[Tensor, float]:
        """Slopes `(c, k)` of the log-odds, and 4, the inverse of what a yes or no tells of them at most."""
        return (self.beta * slope).cpu(), 4.0

    def rows(self, histories: Runs, at: Tensor, lift: Tensor) -> Tensor:
        """Rows `(b, d)` float64 for `b` users with the features of users `at` `(b,)`, the prior's mean `lift`ed."""
        found = torch.empty(len(histories), self.scores.d, dtype=torch.float64, device=self.scores.device)
        for block in self._blocks(histories):
            solve = self._climb if self.scores.linear else self._scoring
            own = lift[block.users].to(found.device)
            y = solve(histories, block, at[block.users], own)[0].double()
            found[block.users.to(found.device)] = self.prior.at(y) + own
        return found

    def pieces(self, histories: Runs, at: Tensor, lift: Tensor) -> Tensor:
        """What each event adds to its user's row, `(m, d)` float64; arguments as in `rows`.

        At the mode `y = sum over the n events of (s - mean)`, s being the event's slope and `mean` that of a draw from
        the softmax. With the covariance K of such a draw and `H = I + n K` an event's part of y is
        `y / n + H^-1 (s - mean of s)`: an equal part, and what it says more than the others. Of data with counts it is
        that times its confidence, whose sum is n.
        """
        k = self.prior.root.shape[1]
        found = torch.zeros(len(histories.values), k, dtype=torch.float64, device=self.scores.device)
        for block in self._blocks(histories):
            at_block, own = at[block.users], lift[block.users].to(found.device)
            solve = self._climb if self.scores.linear else self._scoring
            y = solve(histories, block, at_block, own)[0].double()
            slope, spread = self._around(histories, block, at_block.to(found.device), own, y)
            mask = block.mask.to(found.device)
            hessian = mask.sum(1)[:, None, None] * spread + torch.eye(k, dtype=torch.float64, device=found.device)
            parts = parts_of(y, slope, mask, hessian)
            found[block.cells[block.mask > 0].to(found.device)] = parts[mask > 0]
        return found @ self.prior.root.T

    def _around(self, histories: Runs, block: Block, at: Tensor, lift: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """At `y` `(b, k)`: the slopes `(b, l, k)` of events, and the covariance `(b, k, k)` of that of a draw."""
        items, x = histories.values[block.cells].to(self.scores.device), self.prior.at(y) + lift
        if self.scores.linear:
            own, every = self.slope[items], self.slope[self.catalogue].expand(len(y), -1, -1)  # times beta already
            logits = (x + self.scores.shift(at)) @ (self.beta * self.scores.slope[self.catalogue]).T
            logits = logits + self.beta * self.scores.constant[self.catalogue]
        else:
            root = self.beta * self.prior.root
            own = self.scores.gradients(x, at, self.scores.parts_of(items))[1] @ root
            logits, every = self.scores.gradients(x, at, self.scores.parts_of(self.catalogue[None]))
            logits, every = self.beta * logits, every @ root
        share = torch.softmax(logits + self.log_weight, dim=1)
        mean = torch.einsum("bc,bck->bk", share, every)
        square = [(part * weight[:, None]).T @ part for part, weight in zip(every, share, strict=True)]  # one at a time
        return own, torch.stack(square) - mean[:, :, None] * mean[:, None, :]

    def _choose_items(self, train: Interactions, seed: int) -> None:
        """All items; of a large catalogue the most frequent and a sample of the others, weighted by its share."""
        n, most = train.n_items - 1, _CATALOGUE[self.scores.linear]
        self.catalogue, self.log_weight = torch.arange(1, n + 1), torch.zeros(n, dtype=torch.float64)
        if n > most:
            order = train.counts("item")[1:].argsort(descending=True, stable=True) + 1
            rest = order[most // 2 :]
            drawn = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[: most - most // 2]]
            self.catalogue = torch.cat([order[: most // 2], drawn])
            self.log_weight = torch.zeros(most, dtype=torch.float64)
            self.log_weight[most // 2 :] = math.log(len(rest) / len(drawn))
        self.catalogue, self.log_weight = self.catalogue.to(self.scores.device), self.log_weight.to(self.scores.device)

    def _blocks(self, histories: Runs):
        """Blocks of at most `_FLOATS` scores, or gradients of scores; their masks hold the weights of the events."""
        size = max(1, _FLOATS // (len(self.catalogue) * (1 if self.scores.linear else 3 * self.scores.d)))
        for block in blocks(histories, 100_000):
            for part in torch.arange(len(block.users)).split(size):
                cells, mask = block.cells[part], block.mask[part]
                mask = mask if histories.weight is None else mask * histories.weight[cells]
                yield Block(block.users[part], cells, mask)

    def _temperature(self, users: Tensor, histories: Runs) -> float:
        """`beta` under which the trained rows make the events most likely, times `_SHARPER`.

        The trained rows fit their own events too well: other items are not as unlikely as these rows say. Rows of new
            users, which are drawn to the mean, do not have this problem. On ML-100k 1.4 was best for bce, bpr, softmax
            and ALS.
        """
        x, parts, known = self.scores.rows(users), self.scores.parts_of(self.catalogue[None]), []
        betas = torch.linspace(math.log(0.02), math.log(100), 60, dtype=torch.float64).exp().tolist()
        for block in self._blocks(histories):
            who, items, mask = block.users, histories.values[block.cells].to(x.device), block.mask.to(x.device)
            own = self.scores.logits(x[who], users[who], self.scores.parts_of(items))
            known.append((self.scores.logits(x[who], users[who], parts), (own * mask).sum(), mask.sum(1)))

        @cache
        def likelihood(place: int) -> float:  # concave in beta
            log_sums = (torch.logsumexp(betas[place] * logits + self.log_weight, dim=1) for logits, _, _ in known)
            return float(sum(betas[place] * own - n @ log_sum
                             for (_, own, n), log_sum in zip(known, log_sums, strict=True)))  # fmt: skip

        low, high = 0, len(betas) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if likelihood(middle) < likelihood(middle + 1) else (low, middle)
        return _SHARPER * betas[low]

    def _reduce(self) -> None:
        """Slopes and logits, times `beta`, in coordinates `y` in which prior and curvature are diagonal."""
        slope, constant = self.beta * self.scores.slope, self.beta * self.scores.constant
        base = slope[self.catalogue] @ self.prior.mean + constant[self.catalogue] + self.log_weight
        slopes, share = slope[self.catalogue] @ self.prior.root, torch.softmax(base, 0)
        mean = share @ slopes
        curvature = (slopes * share[:, None]).T @ slopes - torch.outer(mean, mean)
        values, vectors = torch.linalg.eigh(curvature)
        self.prior = Gaussian(self.prior.mean, self.prior.root @ vectors)
        self.curvature = values.clamp(min=0)  # (k,)
        self._lay_out()

    def _lay_out(self) -> None:
        slope, constant = self.beta * self.scores.slope, self.beta * self.scores.constant
        base = slope[self.catalogue] @ self.prior.mean + constant[self.catalogue] + self.log_weight
        self.slope = slope @ self.prior.root  # (n_items, k)
        # single precision is enough for steps whose line searches start from where the last one ended
        self.base, self.slopes = base.float(), self.slope[self.catalogue].float().contiguous()

    def _climb(self, histories: Runs, block: Block, at: Tensor, lift: Tensor) -> tuple[Tensor, Tensor]:
        """Conjugate gradients from the prior's mean: `y` `(b, k)` float32 and the logits `(b, c)` there."""
        device = self.scores.device
        mask = block.mask.to(device)
        own = torch.einsum("blk,bl->bk", self.slope[histories.values[block.cells].to(device)], mask).float()
        n = mask.sum(1).float()  # (b,)
        logits = self.base[None]  # (1 or b, c): the same for all users at the first step
        if bool((shift := self.scores.shift(at) + lift).any()):
            logits = logits + (shift @ (self.beta * self.scores.slope[self.catalogue]).T).float()
        softmax = partial(torch.softmax, dim=1)
        return climb(own, n, logits, self.slopes, self.curvature.float(), softmax, torch.linalg.vecdot)

    def _calibrate(self, histories: Runs, users: Tensor) -> None:
        """Pick `beta`, then the prior's scale, by the likelihood of trained users' other events given 3 and 10."""
        parts = [part for n in (3, 10) if (part := _cut(histories, n)) is not None]
        if not parts:
            return
        beta, prior = self.beta, self.prior

        def fit(sharper: float, wider: float) -> float:
            self.beta, self.prior = sharper * beta, Gaussian(prior.mean, prior.root * wider**0.5)
            self._reduce()
            return sum(self._likelihood(*part, users) for part in parts)

        sharper = max((0.7, 1.0, 1.4), key=lambda value: fit(value, 1.0))
        wider = max((0.5, 1.0, 2.0), key=lambda value: fit(sharper, value))
        fit(sharper, wider)

    def _likelihood(self, given: Runs, rest: Runs, who: Tensor, users: Tensor) -> float:
        """Mean log-likelihood of the `rest` of users given some of their events."""
        total = 0.0
        for block in self._blocks(given):
            y, logits = self._climb(given, block, users[who[block.users]], torch.zeros(1, 1, device=self.scores.device))
            norm = torch.logsumexp(logits, dim=1).double()
            other = rest.of(block.users).to(y.device)
            x = (self.prior.at(y.double()) + self.scores.shift(users[who[block.users]]))[other.rows]
            own = self.beta * ((self.scores.slope[other.values] * x).sum(1) + self.scores.constant[other.values])
            sums = torch.zeros(2, len(y), dtype=torch.float64, device=y.device)
            sums.index_add_(1, other.rows, torch.stack([own * other.weight, other.weight]))
            total += float((sums[0] / sums[1] - norm).sum())
        return total / len(given)

    def _scoring(self, histories: Runs, block: Block, at: Tensor, lift: Tensor) -> tuple[Tensor, Tensor]:
        """Gauss-Newton steps for logits that are curved in the row: `y` `(b, k)`, and the log posterior there."""
        device, k = self.scores.device, self.prior.root.shape[1]
        items, mask, at = histories.values[block.cells].to(device), block.mask.to(device), at.to(device)
        own_parts, parts = self.scores.parts_of(items), self.scores.parts_of(self.catalogue[None])
        n, y = mask.sum(1), torch.zeros(len(at), k, dtype=torch.float64, device=device)

        def look(y: Tensor, function):
            x = self.prior.at(y) + lift
            return function(x, at, own_parts), function(x, at, parts)

        def value(y: Tensor) -> Tensor:
            own, logits = look(y, self.scores.logits)
            events = (self.beta * own * mask).sum(1)
            log_sum = torch.logsumexp(self.beta * logits + self.log_weight, dim=1)
            return torch.nan_to_num(events - n * log_sum - y.square().sum(1) / 2, nan=-torch.inf)

        best = value(y)
        for _ in range(_STEPS):
            (_, own_slope), (logits, slope) = look(y, self.scores.gradients)
            share = torch.softmax(self.beta * logits + self.log_weight, dim=1)
            slope = self.beta * slope @ self.prior.root  # (b, c, k)
            mean = torch.einsum("bc,bck->bk", share, slope)
            own = torch.einsum("bl,bld->bd", mask, own_slope) @ (self.beta * self.prior.root)
            spread = (slope * share[..., None]).mT @ slope - mean[:, :, None] * mean[:, None, :]
            hessian = n[:, None, None] * spread + torch.eye(k, dtype=torch.float64, device=device)
            step = torch.linalg.solve(hessian, own - n[:, None] * mean - y)
            for size in (1.0, 0.5, 0.2):
                new = y + size * step
                there = value(new)
                better = there > best
                y, best = torch.where(better[:, None], new, y), torch.where(better, there, best)
                step = torch.where(better[:, None], 0.0, step)  # the first that is better will do
        return y, best


def _cut(histories: Runs, n: int) -> tuple[Runs, Runs, Tensor] | None:
    """`n` events, drawn at random, of each user who has more than twice as many, their others, and who they are."""
    who = (histories.lengths > 2 * n).nonzero().squeeze(1)
    if len(who) == 0:
        return None
    runs = histories.of(who)
    chosen = torch.zeros(len(runs.values), dtype=torch.bool)
    for user, first, length in zip(who.tolist(), runs.start.tolist(), runs.lengths.tolist(), strict=False):
        chosen[first + torch.randperm(length, generator=torch.Generator().manual_seed(user))[:n]] = True
    weight = torch.ones(len(runs.values), dtype=torch.float64) if runs.weight is None else runs.weight
    given, rest = (
        Runs.group(runs.rows[part], runs.values[part], len(who), weight=weight[part]) for part in (chosen, ~chosen)
    )
    return given, rest, who
