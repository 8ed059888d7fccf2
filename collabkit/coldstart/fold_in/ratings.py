"""`RatingSolver`: the most likely row of a user given ratings, under a Gaussian prior fitted to the trained users."""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from collabkit.coldstart.fold_in.histories import Block, blocks
from collabkit.coldstart.fold_in.jackknife import rows_without
from collabkit.coldstart.fold_in.prior import Gaussian, shrunk_covariance
from collabkit.coldstart.fold_in.scores import UserScores
from collabkit.data.interactions import Interactions
from collabkit.data.runs import Runs

__all__ = ["RatingSolver"]

_STEPS = {True: 3, False: 6}  # Gauss-Newton steps where logits are linear in the row, and where not
_CELLS = {True: 5_000, False: 4_000}  # of a block: its arrays stay in a CPU's cache


@dataclass
class _View:
    """A block's logits as a function of `y`, where the rows are `prior.at(y)`."""

    ratings: Tensor  # (b, l)
    mask: Tensor  # (b, l)
    at: Tensor  # (b,) users whose features apply
    lift: Tensor  # (b, d), added to the rows
    item_parts: tuple[Tensor, ...] | None = None  # [(b, l, d), ...], or None for a linear model's items as they are
    base: Tensor | None = None  # (b, l), of the linear model's `base + slope y`
    slope: Tensor | None = None  # (b, l, k)
    gram: Tensor | None = None  # (b, l, l), its `slope slope'`


class RatingSolver:
    """Rows of users from ratings: the mode of the posterior, ratings being normal around the model's predictions.

    `r = f(logit(x)) + noise`, `x ~ N(mean, C)`: the error counts on the scale of the ratings. Gauss-Newton steps, in
    the n ratings or the k directions of the prior, whichever are fewer (Rasmussen and Williams, "Gaussian processes for
    machine learning" (2006), section 2.1). Mean, covariance and noise are estimated by expectation maximisation over
    trained users (empirical Bayes): their own rows are too small, as weight decay shrinks them, so they are solved for
    anew; and with item rows that have not seen the rating at hand, see `rows_without`.

    Args:
        scores, train: of the model, and its training interactions.
        max_users: the prior is fitted to as many of the users.
        n_iter: iterations of expectation maximisation.
        honest: take a user's own ratings out of the item rows.
        seed: of the choice of users.
    """

    def __init__(
        self, scores: UserScores, train: Interactions, *, max_users: int = 1000, n_iter: int = 4, honest: bool = True,
        seed: int = 0,
    ):  # fmt: skip
        self.scores = scores
        users = trained_users(train, max_users, seed)
        histories, rows = histories_of(train, users)
        self._scale(scores.model.y_range)
        self.noise = max(float(histories.weight.var(correction=0)), 1e-6)
        self.prior = Gaussian.of_rows(scores.rows(users))
        if self.prior.root.shape[1]:
            parts = rows_without(scores, train, rows, self.rating) if honest else None
            self._fit(histories, users, parts, n_iter)
        if scores.linear:
            self._reduce()

    def _scale(self, y_range: tuple[float, float] | None) -> None:
        self.low, self.width = (None, None) if y_range is None else (y_range[0], y_range[1] - y_range[0])

    def state(self) -> dict[str, Tensor]:
        """What was fitted, for `restored`."""
        noise = torch.tensor(self.noise, dtype=torch.float64)
        return {"mean": self.prior.mean, "root": self.prior.root, "noise": noise}

    @classmethod
    def restored(cls, scores: UserScores, train: Interactions, state: dict[str, Tensor]) -> "RatingSolver":
        """The solver that gave `state`, of the same model; nothing is fitted."""
        new = cls.__new__(cls)
        state = {name: value.to(scores.device) for name, value in state.items()}
        new.scores, new.noise, new.prior = scores, float(state["noise"]), Gaussian(state["mean"], state["root"])
        new._scale(scores.model.y_range)
        if scores.linear:
            new._reduce()
        return new

    def for_items(self, scores: UserScores, train: Interactions) -> "RatingSolver":
        """The same prior for a model whose items have changed or been added; takes milliseconds."""
        new = copy(self)
        new.scores = scores
        if scores.linear:
            new._reduce()
        return new

    def rating(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Ratings for logits, and their derivative."""
        if self.low is None:
            return logits, torch.ones_like(logits)
        share = torch.sigmoid(logits)
        return self.low + self.width * share, self.width * share * (1 - share)

    def answers(self, logits: Tensor, slope: Tensor) -> tuple[Tensor, float]:
        """Slopes `(c, k)` of the ratings, from those of the logits `(c,)`, and the variance of their noise."""
        return (slope * self.rating(logits)[1][:, None]).cpu(), self.noise

    def rows(self, histories: Runs, at: Tensor, lift: Tensor) -> Tensor:
        """Rows `(b, d)` float64 for `b` users with the features of users `at` `(b,)`, the prior's mean `lift`ed."""
        found = torch.empty(len(histories), self.scores.d, dtype=torch.float64, device=self.scores.device)
        for block, view, y in self._solved(histories, at, lift):
            found[block.users.to(found.device)] = self.prior.at(y) + view.lift
        return found

    def pieces(self, histories: Runs, at: Tensor, lift: Tensor) -> Tensor:
        """What each rating adds to its user's row, `(m, d)` float64; arguments as in `rows`.

        At the mode `noise y = sum over the n ratings of g e`, g being the rating's slope by y and e its error. With
        `H = noise I + sum of g g'` a rating's part of y is `y / n + H^-1 (g e - mean of g e)`: an equal part, and what
        it says more than the others.
        """
        k = self.prior.root.shape[1]
        found = torch.zeros(len(histories.values), k, dtype=torch.float64, device=self.scores.device)
        for block, view, y in self._solved(histories, at, lift):
            logits, slope = self._look(view, y)
            rating, change = self.rating(logits)
            slope = slope * (change * view.mask)[..., None]  # (b, l, k), of the ratings
            matrix = slope.mT @ slope + self.noise * torch.eye(k, dtype=torch.float64, device=found.device)
            parts = parts_of(y, slope * (view.ratings - rating)[..., None], view.mask, matrix)
            found[block.cells[block.mask > 0].to(found.device)] = parts[view.mask > 0]
        return found @ self.prior.root.T

    def _solved(self, histories: Runs, at: Tensor, lift: Tensor) -> Iterator[tuple[Block, _View, Tensor]]:
        """Each block of users with its view and `y` `(b, k)`."""
        for block in blocks(histories, _CELLS[self.scores.linear]):
            view = self._view(histories, block, at[block.users], lift[block.users])
            y = torch.zeros(len(block.users), self.prior.root.shape[1], dtype=torch.float64, device=self.scores.device)
            for _ in range(_STEPS[self.scores.linear]):
                y = self._step(view, y)[0]
            yield block, view, y

    def _reduce(self) -> None:
        """Slopes and logits of all items at the prior's mean, in the prior's own coordinates."""
        self.slope = self.scores.slope @ self.prior.root  # (n_items, k)
        self.base = self.scores.slope @ self.prior.mean + self.scores.constant  # (n_items,)

    def _view(self, histories: Runs, block: Block, at: Tensor, lift: Tensor, parts=None) -> _View:
        """The block's logits; `parts` `[(m, d), ...]` are item parts of the histories' rows, if not the model's own."""
        device, cells = self.scores.device, block.cells
        ratings, mask = histories.weight[cells].to(device).double(), block.mask.to(device)
        at, lift = at.to(device), lift.to(device)
        items = histories.values[cells].to(device)
        if parts is not None or not self.scores.linear:
            own = self.scores.parts_of(items) if parts is None else tuple(part[cells.to(device)] for part in parts)
            return _View(ratings, mask, at, lift, item_parts=own)
        base = self.base[items]
        if bool((shift := self.scores.shift(at) + lift).any()):
            base = base + torch.einsum("bld,bd->bl", self.scores.slope[items], shift)
        return _View(ratings, mask, at, lift, base=base, slope=self.slope[items])

    def _look(self, view: _View, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(b, l)` at `y` and their slopes `(b, l, k)` by it."""
        if view.base is None:
            logits, slope = self.scores.gradients(self.prior.at(y) + view.lift, view.at, view.item_parts)
            slope = slope @ self.prior.root
            if not self.scores.linear:
                return logits, slope
            view.slope = slope
            view.base = logits - torch.einsum("blk,bk->bl", slope, y)
        return view.base + torch.einsum("blk,bk->bl", view.slope, y), view.slope

    def _step(self, view: _View, y: Tensor, moments: bool = False) -> tuple[Tensor, Tensor | None, Tensor]:
        """`y` `(b, k)` after a Gauss-Newton step, or the best part of one; and, summed, as before the step: the
        posterior covariances `(k, k)`, with `moments`, and the expected squared errors of the ratings.
        """
        logits, slope = self._look(view, y)
        rating, change = self.rating(logits)
        change = change * view.mask
        error = (view.ratings - rating) * view.mask
        line = torch.einsum("blk,bk->bl", slope, y) if view.base is None else logits - view.base
        target = error + change * line
        if slope.shape[1] <= slope.shape[2]:
            new, factor = self._by_ratings(view, slope, change, target)
        else:
            new, factor = self._by_directions(slope, change, target)
        spread, covariance = self._moments(slope * change[..., None], factor) if moments else (0.0, None)
        return self._best(view, y, new, logits), covariance, error.square().sum() + spread

    def _by_ratings(self, view: _View, slope: Tensor, change: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The full step's `y`, and the Cholesky factor of the ratings' covariance `(b, l, l)`."""
        gram = slope @ slope.mT if view.gram is None else view.gram
        view.gram = gram if self.scores.linear else None
        matrix = gram * change[:, :, None] * change[:, None, :]
        matrix.diagonal(dim1=1, dim2=2).add_(self.noise)
        factor = torch.linalg.cholesky(matrix)
        weights = torch.cholesky_solve(target[..., None], factor).squeeze(-1) * change
        return torch.einsum("blk,bl->bk", slope, weights), factor

    def _by_directions(self, slope: Tensor, change: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The same from `(b, k, k)`, the posterior's precision times the noise."""
        a = slope * change[..., None]  # (b, l, k), of the ratings by y
        matrix = a.mT @ a
        matrix.diagonal(dim1=1, dim2=2).add_(self.noise)
        factor = torch.linalg.cholesky(matrix)
        return torch.cholesky_solve(torch.einsum("blk,bl->bk", a, target)[..., None], factor).squeeze(-1), factor

    def _moments(self, a: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Summed variances of the ratings under the users' posteriors, and the summed covariances `(k, k)` of `y`."""
        n, k = a.shape[1:]
        if n > k:
            inverse = self.noise * torch.cholesky_inverse(factor)
            return ((a @ inverse) * a).sum(), inverse.sum(0)
        half = torch.linalg.solve_triangular(factor, a, upper=False)  # (b, l, k)
        flat = half.flatten(0, 1)
        covariance = len(a) * torch.eye(k, dtype=a.dtype, device=a.device) - flat.T @ flat
        return a.square().sum() - (half @ a.mT).square().sum(), covariance

    def _best(self, view: _View, y: Tensor, new: Tensor, logits: Tensor) -> Tensor:
        """Of `y`, `new` and points between, each user's most likely: a full step may overshoot where f is curved."""
        if self.low is None and self.scores.linear:
            return new
        end = None if view.base is None else view.base + torch.einsum("blk,bk->bl", view.slope, new)
        best, least = y, self._objective(view, y, logits)
        for share in (0.25, 0.5, 1.0):
            point = y + share * (new - y)
            there = self._objective(view, point, None if end is None else logits + share * (end - logits))
            better = there <= least  # not where it is NaN
            best, least = torch.where(better[:, None], point, best), torch.where(better, there, least)
        return best

    def _objective(self, view: _View, y: Tensor, logits: Tensor | None) -> Tensor:
        """Twice the negative log posterior `(b,)`, but for a constant, at `y`, where the logits may be known."""
        if logits is None:
            logits = self.scores.logits(self.prior.at(y) + view.lift, view.at, view.item_parts)
        error = (view.ratings - self.rating(logits)[0]) * view.mask
        return error.square().sum(1) / self.noise + y.square().sum(1)

    def _fit(self, histories: Runs, users: Tensor, parts: tuple[Tensor, ...] | None, n_iter: int) -> None:
        """Expectation maximisation; a user's estimate goes on from the last iteration's."""
        if self.scores.linear and parts is None:
            parts = self.scores.parts_of(histories.values.to(self.scores.device))
        x = self.scores.rows(users)
        every = list(blocks(histories, _CELLS[False]))
        for _ in range(n_iter):
            prior, noise = self.prior, 0.0
            inverse = torch.linalg.pinv(prior.root)
            covariance = torch.zeros(prior.root.shape[1], prior.root.shape[1], dtype=torch.float64, device=x.device)
            for block in every:
                view = self._view(histories, block, users[block.users], torch.zeros(1, 1), parts)
                y = (x[block.users] - prior.mean) @ inverse.T
                new, spread, errors = self._step(view, y, moments=True)
                covariance, noise = covariance + spread, noise + float(errors)
                x[block.users] = prior.at(new)
            mean = x.mean(0)
            total = (x - mean).T @ (x - mean) + prior.root @ covariance @ prior.root.T
            self.prior = Gaussian.of(mean, shrunk_covariance(total / len(users), len(users)))
            self.noise = max(noise / len(histories.values), 1e-6)


def parts_of(y: Tensor, pulls: Tensor, mask: Tensor, hessian: Tensor) -> Tensor:
    """What each event adds to solutions `y` `(b, k)`: parts `(b, l, k)` whose sum over the events is y.

    Where the pulls add up to `H y` less what is the same for all, these are the terms of `y = H^-1 sum of pulls`; what
    the last steps have left of the equations is spread evenly.

    Args:
        pulls: `(b, l, k)`, towards what each event draws y.
        mask: `(b, l)`, how many times each counts, 0 where there is no event.
        hessian: `(b, k, k)`, H.
    """
    n = mask.sum(1)[:, None]
    mean = torch.einsum("bl,blk->bk", mask, pulls) / n
    return mask[..., None] * ((y / n)[:, None] + torch.linalg.solve(hessian, (pulls - mean[:, None]).mT).mT)


def histories_of(train: Interactions, users: Tensor) -> tuple[Runs, Tensor]:
    """The items of `users` `(b,)`, with their ratings or confidences, and where each row stands in `train` `(m,)`."""
    rows = train.by_user.of(users)
    values = train.confidences if train.rating is None else train.rating
    rating = None if values is None else values[rows.values].double()
    return Runs(rows.start, train.item_idx[rows.values], train.n_items, rating), rows.values


def trained_users(train: Interactions, max_users: int, seed: int) -> Tensor:
    """At most `max_users` of the users with training rows, drawn by `seed`, ascending."""
    users = train.counts("user")[1:].nonzero().squeeze(1) + 1
    if len(users) == 0:
        raise ValueError("there are no training rows to fit the prior to")
    chosen = torch.randperm(len(users), generator=torch.Generator().manual_seed(seed))[:max_users]
    return users[chosen.sort().values]
