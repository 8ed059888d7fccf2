"""The climb to the most likely row of a user with events: only arithmetic, for torch tensors or NumPy arrays.

The fold-in uses it, and so does the light runtime, which does not load torch.
"""

from collections.abc import Callable

__all__ = ["STEPS", "climb"]

STEPS = 2  # of conjugate gradients
TINY = 1e-30


def climb(own, n, logits, slopes, curvature, softmax: Callable, dots: Callable) -> tuple:
    """Conjugate gradients (Polak and Ribiere) with exact line search, from the prior's mean; see `EventSolver`.

    Args:
        own: `(b, k)`, the summed slopes of each user's events.
        n: `(b,)` how many events, or their summed confidences.
        logits: `(1 or b, c)` of the catalogue at the prior's mean.
        slopes: `(c, k)` of the logits, in coordinates y in which the prior is standard normal.
        curvature: `(k,)` of the log of the softmax's sum there, which is diagonal in these coordinates.
        softmax, dots: functions of the arrays' library: the softmax of each row, and the dot products of rows.

    Returns:
        `y` `(b, k)` and the logits `(b, c)` there.
    """
    scale = 1 / (n[:, None] * curvature + 1)  # (b, k), the preconditioner
    y, direction, last = own * 0, None, None
    for _ in range(STEPS):
        share = softmax(logits)
        gradient = own - n[:, None] * (share @ slopes) - y
        scaled = scale * gradient
        if last is None:
            direction = scaled
        else:
            turn = ((gradient - last[0]) * scaled).sum(1) / (last[0] * last[1]).sum(1).clip(min=TINY)
            direction = scaled + turn.clip(min=0)[:, None] * direction
        change = direction @ slopes.T  # (b, c)
        step = _line(logits, share, change, (direction * gradient).sum(1), direction, n, softmax, dots)
        y, logits = y + step[:, None] * direction, logits + step[:, None] * change
        last = gradient, scaled
    return y, logits


def _line(logits, share, change, rise, direction, n, softmax: Callable, dots: Callable):
    """How far to go `(b,)` along `direction` `(b, k)`: two Newton steps on the log posterior, which is concave."""
    # (b, c): logits, their softmax, what a step of 1 adds to them; (b,): first slope of the log posterior, events
    square = (direction * direction).sum(1)

    def moments(share) -> tuple:
        weighted = share * change
        mean = weighted.sum(1)
        return mean, (dots(weighted, change) - mean * mean).clip(min=0)

    start, variance = moments(share)
    step = rise / (n * variance + square).clip(min=TINY)
    mean, variance = moments(softmax(logits + step[:, None] * change))
    return step + (rise - n * (mean - start) - step * square) / (n * variance + square).clip(min=TINY)
