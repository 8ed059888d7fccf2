"""Ridge regression of many targets on features, of any number of columns, with penalties that the data picks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from collabkit.data.runs import Runs

__all__ = ["Design", "ridge"]

EXACT = 512  # rows or columns up to which the spectrum of the features is computed
PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(10, -5, -1))  # 1e5 to 1e-2, beside an infinite one
STEPS, CLOSE = 100, 1e-3  # of conjugate gradients at most, and the share of the residual at which they end
PICKED_ON = 10_000  # rows: the best penalty is a ratio of noise to effects, which does not depend on their number
PROBES = 8  # random directions that errors and degrees of freedom are estimated from
WORSE = 1.02  # times the least error: where smaller penalties are no longer tried


class Design:
    """Features `(n, p)` in blocks of columns side by side, each sparse or dense, which are never put into one table.

    Args:
        blocks: `Runs` of codes with their numbers as `weight` and a `width`, or dense numbers `(n, w)`.

    Example:
        >>> codes = Runs.group([0, 1], [2, 0], 2, width=3, weight=torch.ones(2))
        >>> Design([codes, torch.ones(2, 1)]) @ torch.eye(4, dtype=torch.float64)
        tensor([[0., 0., 1., 1.],
                [1., 0., 0., 1.]], dtype=torch.float64)
    """

    def __init__(self, blocks: Sequence[Runs | Tensor]):
        widths = [block.width if isinstance(block, Runs) else block.shape[1] for block in blocks]
        self.widths, self.shape = widths, (len(blocks[0]), sum(widths))
        self.given = blocks
        self.dtype = torch.float64 if min(self.shape) <= EXACT else torch.float32
        self.blocks = [self._pair(block) for block in blocks]

    def _pair(self, block: Runs | Tensor) -> tuple[Tensor, Tensor]:
        """A block and its transpose."""
        if isinstance(block, Tensor):
            block = block.to("cpu", self.dtype)
            return block, block.T
        block = block.to("cpu")
        back = block.transposed()
        return tuple(runs.matrix(runs.weight.to(self.dtype)) for runs in (block, back))

    def of(self, rows: Tensor) -> "Design":
        """The features of `rows` `(m,)`."""
        return Design([block.of(rows) if isinstance(block, Runs) else block[rows] for block in self.given])

    def __matmul__(self, right: Tensor) -> Tensor:
        parts = zip(self.blocks, right.split(self.widths), strict=True)
        return sum(there @ part for (there, _), part in parts)

    def back(self, right: Tensor) -> Tensor:
        """The transpose `(p, n)` times `right` `(n, d)`."""
        return torch.cat([back @ right for _, back in self.blocks])

    def squares(self, weight: Tensor) -> Tensor:
        """The columns' sums of squares `(p,)`, rows weighted by `weight` `(n,)`."""
        return torch.cat([_squared(back) @ weight[:, None] for _, back in self.blocks])[:, 0]


def ridge(design: Design, targets: Sequence[Tensor], weight: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Slopes `(p, d)` and levels `(d,)` of each of `targets` `[(n, d), ...]` regressed on the features.

    Where the features have few rows or columns their spectrum is computed; otherwise the equations are solved by
    conjugate gradients, all targets together, from products of the sparse features alone. The penalty of each target is
    the one with the least error, by leave-one-out for few rows and by generalised cross-validation for many; an
    infinite one (the mean) is among them: Golub, Heath and Wahba, "Generalized cross-validation" (1979). With conjugate
    gradients the degrees of freedom come from random probes: Girard, "A fast Monte-Carlo cross-validation procedure"
    (1989).

    Args:
        design: features of `n` rows.
        targets: one or more, with as many rows.
        weight: `(n,)`, of the rows; above 0.

    Example:
        >>> x = torch.arange(8.0)[:, None]
        >>> [(slope, level)] = ridge(Design([x]), [2 * x + 1], torch.ones(8))
        >>> round(slope.item(), 1), round(level.item(), 1)
        (2.0, 1.0)
    """
    rows = _Centred(design, weight)
    means = [rows.mean_of(target) for target in targets]
    centred = [target.to(rows.root) - mean for target, mean in zip(targets, means, strict=True)]
    n, p = design.shape
    solve = _by_rows if n <= EXACT else _by_columns if p <= EXACT else _by_gradients
    slopes = solve(rows, [rows.root[:, None] * target for target in centred])
    found = zip(slopes, means, strict=True)
    return [(slope.float(), (mean - rows.mean @ slope).float()) for slope, mean in found]


class _Centred:
    """The features less their weighted mean, times the roots of the rows' weights, whose mean is 1."""

    def __init__(self, design: Design, weight: Tensor):
        self.weight = (weight / weight.double().mean()).to("cpu", design.dtype)
        self.design, self.root, self.n = design, self.weight.sqrt(), len(weight)
        self.mean = design.back(self.weight[:, None])[:, 0] / self.n  # (p,)

    def mean_of(self, target: Tensor) -> Tensor:
        return (self.weight[:, None] * target.to(self.weight)).sum(0) / self.n

    def __matmul__(self, right: Tensor) -> Tensor:
        return self.root[:, None] * (self.design @ right - self.mean @ right)

    def back(self, right: Tensor) -> Tensor:
        right = self.root[:, None] * right
        return self.design.back(right) - self.mean[:, None] * right.sum(0)


def _expected(left: float, freedom: float, n: int) -> float:
    """The error to be expected of other rows, of the sum of squares that is left with so many degrees of freedom."""
    return left / max(1e-6, 1 - freedom / n) ** 2


def _by_rows(rows: _Centred, targets: list[Tensor]) -> list[Tensor]:
    """The slopes by the eigenvalues of the products of the rows; few rows have leverages, which GCV assumes equal."""
    size, vectors = _spectrum(rows @ rows.back(torch.eye(rows.n, dtype=rows.root.dtype)))
    slopes = []
    for target in targets:
        along, errors = vectors.T @ target, {}
        for penalty in (torch.inf, *PENALTIES):
            kept = size / (size + penalty)
            left = target - vectors @ (kept[:, None] * along)
            without = (1 - vectors.square() @ kept - rows.weight / rows.n).clamp(min=1e-6)
            errors[penalty] = float((left / without[:, None]).square().sum())
        slopes.append(rows.back(vectors @ (along / (size + min(errors, key=errors.get))[:, None])))
    return slopes


def _by_columns(rows: _Centred, targets: list[Tensor]) -> list[Tensor]:
    """The slopes by the eigenvalues of the products of the columns."""
    eye = torch.eye(rows.design.shape[1], dtype=rows.root.dtype)
    size, vectors = _spectrum(torch.cat([rows.back(rows @ part) for part in eye.split(64, dim=1)], dim=1))
    slopes = []
    for target in targets:
        along, total = vectors.T @ rows.back(target), float(target.square().sum())
        told, errors = along.square().sum(1) / size, {}  # of the squares, by direction
        for penalty in (torch.inf, *PENALTIES):
            kept = size / (size + penalty)
            left = total - float((told * (1 - (1 - kept).square())).sum())
            errors[penalty] = _expected(left, 1 + float(kept.sum()), rows.n)
        slopes.append(vectors @ (along / (size + min(errors, key=errors.get))[:, None]))
    return slopes


def _spectrum(products: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues that are not zero, and their vectors."""
    size, vectors = torch.linalg.eigh(products)
    there = size > 1e-10 * size[-1:].clamp(min=1e-300)
    return size[there], vectors[:, there]


def _by_gradients(rows: _Centred, targets: list[Tensor]) -> list[Tensor]:
    """The slopes by conjugate gradients, with penalties that are picked on random directions of the targets."""
    pull = [rows.back(target) for target in targets]
    some = torch.randperm(rows.n, generator=torch.Generator().manual_seed(0))[:PICKED_ON]
    few = _Centred(rows.design.of(some), rows.weight[some]) if len(some) < rows.n else rows
    penalties = _picked(few, targets if few is rows else [target[some] for target in targets])
    told = [j for j, penalty in enumerate(penalties) if penalty < torch.inf]
    slopes = [torch.zeros_like(part) for part in pull]
    if told:
        each = torch.cat([torch.full((targets[j].shape[1],), penalties[j]) for j in told])
        solved = _solved(rows, torch.cat([pull[j] for j in told], dim=1), each)
        for j, part in zip(told, solved.split([targets[j].shape[1] for j in told], dim=1), strict=True):
            slopes[j] = part
    return slopes


def _picked(rows: _Centred, targets: list[Tensor]) -> list[float]:
    """The penalty of each target."""
    rng = torch.Generator().manual_seed(0)
    signs = lambda *shape: 2.0 * torch.randint(2, shape, generator=rng) - 1  # noqa: E731
    few = [part if part.shape[1] <= PROBES else part @ signs(part.shape[1], PROBES) / PROBES**0.5 for part in targets]
    probes = signs(rows.n, PROBES)
    asked = torch.cat([*few, probes], dim=1)
    widths = [*(part.shape[1] for part in few), PROBES]
    pull, found = rows.back(asked), None
    errors = [{torch.inf: _expected(float(part.square().sum()), 1.0, rows.n)} for part in few]
    for penalty in PENALTIES[::2]:  # each costs a solution, and the errors between them differ little
        found = _solved(rows, pull, torch.full((asked.shape[1],), penalty), found, close=10 * CLOSE)
        *left, fitted = (rows @ found).split(widths, dim=1)
        freedom = 1 + float((probes * fitted).sum()) / PROBES
        for part, fit, mine in zip(few, left, errors, strict=True):
            mine[penalty] = _expected(float((part - fit).square().sum()), freedom, rows.n)
        if all(mine[penalty] > WORSE * min(mine.values()) for mine in errors):
            break
    return [min(mine, key=mine.get) for mine in errors]


def _solved(rows: _Centred, pull: Tensor, penalty: Tensor, start: Tensor | None = None, close=CLOSE) -> Tensor:
    """The slopes `(p, d)` of equations with right sides `pull` `(p, d)` and penalties `(d,)`, by conjugate gradients.

    Each column takes its own steps; the residual is scaled by the diagonal (Jacobi).
    """
    times: Callable[[Tensor], Tensor] = lambda v: rows.back(rows @ v) + penalty * v  # noqa: E731
    scale = rows.design.squares(rows.weight) - rows.n * rows.mean.square()
    scale = 1 / (scale.clamp(min=0)[:, None] + penalty)
    slope = torch.zeros_like(pull) if start is None else start.clone()
    residual = pull - times(slope) if start is not None else pull.clone()
    step = scale * residual
    size = (residual * step).sum(0)
    enough = close**2 * (pull * scale * pull).sum(0)
    for _ in range(STEPS):
        if bool((size <= enough).all()):
            break
        pushed = times(step)
        rate = torch.where(size > enough, size / (step * pushed).sum(0).clamp(min=1e-30), 0.0)
        slope += rate * step
        residual -= rate * pushed
        scaled = scale * residual
        new = (residual * scaled).sum(0)
        step = torch.where(size > enough, scaled + new / size.clamp(min=1e-30) * step, 0.0)
        size = torch.where(size > enough, new, size)
    return slope


def _squared(matrix: Tensor) -> Tensor:
    if matrix.layout == torch.strided:
        return matrix.square()
    parts = matrix.crow_indices(), matrix.col_indices(), matrix.values().square()
    return torch.sparse_csr_tensor(*parts, matrix.shape, check_invariants=False)
