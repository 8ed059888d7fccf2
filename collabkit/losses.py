"""Losses for ratings (`FlatLoss`), and for the scores of positives and negatives.

The ranking losses are pure functions of `pos` `(bs,)` and `neg` `(bs, n)`. A negative of -inf adds nothing to any of
them, but is still counted in means. `RankingLoss` adapts them to the interface of a `Learner`.

All accept row weights. A weighted loss is `(weight * loss of a row).sum() / number of rows`. It is not divided by the
sum of the weights: they have mean 1 over the training rows, so its expectation over batches is the weighted mean of
the data. Dividing by the sum of each batch would give too much weight to rows in batches with small weights.
"""

import inspect
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collabkit.data.checks import one_of, shown

__all__ = [
    "FlatLoss", "RankingLoss", "LOSSES",
    "bce", "bpr", "gbce", "hinge", "sampled_softmax", "softmax", "cosine_contrastive",
]  # fmt: skip


class _Plain:
    """The methods that fastai calls on a loss; the model has already turned predictions into ratings or scores."""

    def activation(self, pred: Tensor) -> Tensor:
        """Predictions as they are."""
        return pred

    decodes = activation


class FlatLoss(_Plain):
    """A loss on flattened predictions and targets, so that `(bs,)` and `(bs, 1)` never broadcast to `(bs, bs)`.

    Replaces fastai's `MSELossFlat` without its tensor subclass, which costs more time than the loss itself.

    Args:
        func: a torch loss with a `reduction` attribute, e.g. `nn.MSELoss()`, or a function of two `(n,)` tensors; it
            needs a `reduction` argument, as `F.l1_loss` has, only for losses per row and for weights.

    Raises:
        ValueError: predictions, targets and weights differ in number; weights with a function without reduction.

    Example:
        >>> loss = FlatLoss(nn.MSELoss())
        >>> loss(torch.tensor([1., 2.]), torch.tensor([[1.], [4.]]))
        tensor(2.)
        >>> loss(torch.tensor([1., 2.]), torch.tensor([[1.], [4.]]), torch.tensor([1.5, 0.5]))  # (1.5 * 0 + .5 * 4) / 2
        tensor(1.)
    """

    def __init__(self, func: Callable[..., Tensor]):
        self.func = func
        self._reduction = "mean"  # of a plain function; a loss object holds its own

    def __call__(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, **kwargs) -> Tensor:
        if pred.numel() != target.numel():
            raise ValueError(f"predictions {tuple(pred.shape)} and targets {tuple(target.shape)} differ in number")
        if weight is not None:
            return self._weighted(pred, target, weight, **kwargs)
        if self._reduction != "mean":
            kwargs.setdefault("reduction", self._reduction)
        return self.func(pred.reshape(-1), target.reshape(-1), **kwargs)

    def _weighted(self, pred: Tensor, target: Tensor, weight: Tensor, reduction: str | None = None, **kwargs) -> Tensor:
        if weight.numel() != pred.numel():
            raise ValueError(f"predictions {tuple(pred.shape)} and weights {tuple(weight.shape)} differ in number")
        if not hasattr(self.func, "reduction") and "reduction" not in _parameters(self.func):
            raise ValueError(
                f"{self!r} cannot weigh rows: weights= needs a loss of each row, from a torch loss or a function with "
                "a reduction argument, as F.l1_loss has"
            )
        before, self.reduction = self.reduction, "none"
        try:
            losses = weight.reshape(-1) * self(pred, target, **kwargs)
        finally:
            self.reduction = before
        # A mean over the rows, whatever their weights add up to in this batch: see the top of the module.
        return {"mean": losses.mean, "sum": losses.sum}.get(reduction or before, lambda: losses)()

    @property
    def reduction(self) -> str:
        """'mean', 'sum' or 'none' (fastai switches to 'none' for losses per row)."""
        return getattr(self.func, "reduction", self._reduction)

    @reduction.setter
    def reduction(self, value: str) -> None:
        if hasattr(self.func, "reduction"):
            self.func.reduction = value
        else:
            self._reduction = value

    def to(self, device) -> "FlatLoss":
        """Move the wrapped loss, where it is a module."""
        if isinstance(self.func, nn.Module):
            self.func.to(device)
        return self

    def __repr__(self) -> str:
        return f"FlatLoss({self.func!r})"


def _mean(losses: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of the losses per row `(bs,)` or pair `(bs, n)`, those of a row times its weight `(bs,)`."""
    if weight is None:
        return losses.mean()
    if weight.shape != losses.shape[:1]:
        raise ValueError(f"weights must be one per row, ({len(losses)},), got {tuple(weight.shape)}")
    return (weight * (losses if losses.ndim == 1 else losses.mean(1))).mean()


def bce(pos: Tensor, neg: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of each pair on its own: positives towards 1, negatives towards 0, averaged over all pairs.

    The pointwise loss of He et al., "Neural collaborative filtering" (2017), equation 7.

    Args:
        pos: logits `(bs,)` of the positives.
        neg: logits `(bs, n)` of each row's negatives.
        weight: `(bs,)`, of mean 1 over the data, or None; a row's loss is that of its positive and its negatives.

    Example:
        >>> bce(torch.zeros(2), torch.zeros(2, 3))  # log 2
        tensor(0.6931)
        >>> bce(torch.zeros(2), torch.zeros(2, 3), torch.tensor([2., 1.]))  # (2 + 1) / 2 times that
        tensor(1.0397)
    """
    if weight is None:
        return (F.softplus(-pos).sum() + F.softplus(neg).sum()) / (pos.numel() + neg.numel())
    pairs = 1 + neg.shape[1]  # of a row: equally many in all, so that their mean is the one above
    return _mean((F.softplus(-pos) + F.softplus(neg).sum(1)) / pairs, weight)


def bpr(pos: Tensor, neg: Tensor, weight: Tensor | None = None) -> Tensor:
    """Bayesian personalised ranking: `-log sigmoid(pos - neg)`, averaged over `(bs, n)` pairs.

    Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback" (2009), section 4.1. Arguments as in
    `bce`.

    Example:
        >>> bpr(torch.tensor([1.]), torch.tensor([[0., 2.]]))  # (log(1 + e^-1) + log(1 + e)) / 2
        tensor(0.8133)
    """
    return _mean(F.softplus(neg - pos[:, None]), weight)


def hinge(pos: Tensor, neg: Tensor, margin: float = 1.0, weight: Tensor | None = None) -> Tensor:
    """Triplet hinge: `max(0, margin - pos + neg)`, averaged over `(bs, n)` pairs; zero once `pos` leads by the margin.

    Weston et al., "WSABIE" (2011), without its weights; the triplet loss of siamese networks, on scores. Arguments as
    in `bce`.

    Example:
        >>> hinge(torch.tensor([1.]), torch.tensor([[0.5, -3.]]))  # (0.5 + 0) / 2
        tensor(0.2500)
    """
    return _mean(F.relu(neg - pos[:, None] + margin), weight)


def sampled_softmax(pos: Tensor, neg: Tensor, log_counts: Tensor | float = 0.0, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of the positive versus its negatives: `log(e^pos + sum_j e^(neg_j - lc_j)) - pos`.

    With `log_counts` lc, the log of the expected count of each item among the negatives, the sum estimates the sum over
    all items that the sampler can draw (Bengio and Senécal 2008; "logQ correction" in Yi et al. 2019). With 0 it is the
    plain contrastive loss over the sample (InfoNCE), and over all items the full softmax.

    Args:
        pos, neg, weight: as in `bce`.
        log_counts: `(bs, n)`, `(bs, 1)` or a number; `inf` excludes a negative.

    Example:
        >>> sampled_softmax(torch.zeros(1), torch.zeros(1, 3))  # log 4
        tensor(1.3863)
    """
    logits = torch.cat([pos[:, None], neg - log_counts], dim=1)  # (bs, 1 + n)
    return _mean(torch.logsumexp(logits, dim=1) - pos, weight)


def softmax(pos: Tensor, neg: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of the positive versus its negatives, uncorrected; see `sampled_softmax`.

    With `negatives='all'` it is the full softmax; with uniform negatives the sampled softmax of Wu et al., "On the
    effectiveness of sampled softmax loss for item recommendation" (2022).
    """
    return sampled_softmax(pos, neg, weight=weight)


def cosine_contrastive(
    pos: Tensor, neg: Tensor, margin: float = 0.4, weight: float = 150.0, row_weight: Tensor | None = None
) -> Tensor:
    """Cosine contrastive loss: `(1 - pos) + weight * mean_j max(0, neg_j - margin)`, for scores that are cosines.

    Mao et al., "SimpleX: a simple and strong baseline for collaborative filtering" (2021), equation 1.

    Args:
        pos, neg: cosines, as in `bce` (`TwoTower(similarity='cosine', temperature=1)`).
        margin: negatives below it do not count.
        weight: weight of the negatives, as in the paper.
        row_weight: `(bs,)`, the `weight` of the other losses.
    """
    return _mean(1 - pos, row_weight) + weight * _mean(F.relu(neg - margin), row_weight)


def gbce(pos: Tensor, neg: Tensor, n_items: int, t: float = 0.75, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy corrected for the overconfidence from few negatives: positives to a power beta below 1.

    Petrov and Macdonald, "gSASRec: reducing overconfidence in sequential recommendation trained with negative
    sampling" (2023): `beta = a (t (1 - 1/a) + 1/a)` for the share `a = n / (n_items - 1)` of the items that is drawn.

    Args:
        pos, neg, weight: as in `bce`; a row's loss is the sum over its pairs.
        n_items: size of the catalogue; pass it with `partial(gbce, n_items=...)`.
        t: 0 gives `bce`, 1 gives calibrated probabilities.

    Raises:
        ValueError: `t` is outside [0, 1], or there are at least as many negatives as items.

    Example:
        >>> gbce(torch.zeros(1), torch.zeros(1, 2), n_items=5, t=0.)  # 3 log 2
        tensor(2.0794)
        >>> gbce(torch.zeros(1), torch.zeros(1, 2), n_items=5, t=1.)  # beta = a = 1/2: 2.5 log 2
        tensor(1.7329)
    """
    share = neg.shape[1] / (n_items - 1)
    if not 0 <= t <= 1 or not 0 < share <= 1:
        raise ValueError(f"t must lie in [0, 1] and n_neg below n_items, got {t=}, {neg.shape[1]} of {n_items}")
    beta = share * (t * (1 - 1 / share) + 1 / share)
    return _mean(beta * F.softplus(-pos) + F.softplus(neg).sum(1), weight)


LOSSES: dict[str, Callable[..., Tensor]] = {
    loss.__name__: loss for loss in (bce, bpr, hinge, softmax, sampled_softmax, cosine_contrastive)
}


class RankingLoss(_Plain):
    """A loss of positives and negatives with the interface of a fastai `Learner`.

    Args:
        func: one of `LOSSES` by name, or a function of `pos` `(bs,)` and `neg` `(bs, n)` that returns a scalar; it also
            gets `log_counts` if it has such a parameter. Negatives to ignore are -inf. If the data has weights, it gets
            those of the rows `(bs,)` as `row_weight`, or as `weight` if it has no `row_weight`, and must accept one of
            them.

    Raises:
        ValueError: an unknown name; when called, weights that the function does not accept.

    Example:
        >>> scores = torch.tensor([[1., 0., 2.]])  # column 0 is the positive
        >>> RankingLoss('bpr')(scores, torch.zeros(1, 1))
        tensor(0.8133)
    """

    def __init__(self, func: str | Callable[..., Tensor] = "bce"):
        if isinstance(func, str):
            one_of("loss_func", func, LOSSES, "a function")
        self.func = LOSSES[func] if isinstance(func, str) else func
        if not callable(self.func):
            raise TypeError(f"loss_func must be a name or a function of pos (bs,) and neg (bs, n), got {shown(func)}")
        self.name = getattr(self.func, "__name__", repr(self.func))
        # partial(mine, weight=5.): another weight
        inner, fixed = (self.func.func, self.func.keywords) if isinstance(self.func, partial) else (self.func, {})
        takes = _parameters(self.func)
        self._corrected = "log_counts" in takes
        self._weight_name = next((name for name in ("row_weight", "weight") if name in takes - set(fixed)), None)
        self._own = self.func not in LOSSES.values()  # a function of the caller's
        # Whether the loss is unchanged if a number is added to all scores of a row, so that it does not depend on user
        # biases.
        self.of_differences = inner in (bpr, hinge, softmax, sampled_softmax)

    def __call__(self, scores, log_counts: Tensor, *rest: Tensor) -> Tensor:
        """The loss of `scores` `(bs, 1 + n)`, column 0 the positive; where `log_counts` is inf there is no negative.

        Or of the `(positives (r,), negatives (g, m), group (r,))` of `Model.group_scores`, where `log_counts` is
        `(m,)` and the negatives at the places `hits` `(2, h)` do not count. `rest` is `hits`, if so, and the weights
        `(bs,)` or `(r,)` of the rows, if there are any.
        """
        if isinstance(scores, tuple):
            return self._grouped(*scores, log_counts, *rest)
        pos, neg = scores[:, 0], scores[:, 1:]
        out = log_counts == torch.inf
        # A check of (bs, 1) is cheaper than a pass over all negatives; but on a GPU it would have to wait.
        if log_counts.shape[1] > 1 or log_counts.device.type != "cpu" or out.any():
            neg = neg.masked_fill(out, -torch.inf)
        extra = {"log_counts": log_counts} if self._corrected else {}
        loss = self.func(pos, neg, **extra, **self._weigh(*rest))
        return self._checked(loss, bool(out.any()) if self._own else False)

    def _grouped(
        self, pos: Tensor, neg: Tensor, group: Tensor, log_counts: Tensor, hits: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        # Not -inf, so that a user left without negatives has a gradient of 0, not NaN.
        neg[hits[0], hits[1]] = torch.finfo(neg.dtype).min / 4
        if self._corrected:
            neg = neg - log_counts
        if self.func in (softmax, sampled_softmax):  # the sum over the negatives once per user
            return _mean(torch.logaddexp(torch.logsumexp(neg, dim=1)[group], pos) - pos, weight)
        return self._checked(self.func(pos, neg[group], **self._weigh(weight)), hits.numel() > 0)

    def _weigh(self, weight: Tensor | None = None) -> dict[str, Tensor]:
        """The weights as the keyword argument that the function has for them."""
        if weight is None:
            return {}
        if self._weight_name is None:
            raise ValueError(
                f"loss_func {self.name} takes no weights, and the data has some: give it a parameter weight, (bs,), "
                "that multiplies each row's loss, or leave weights= out"
            )
        return {self._weight_name: weight}

    def _checked(self, loss: Tensor, masked: bool) -> Tensor:
        """`loss`, or an error if the caller's function failed on masked negatives."""
        if self._own and masked and not loss.isfinite().all():
            raise ValueError(
                f"loss_func {self.name} gives {loss.detach().mean().item()}: negatives that do not count (the user has "
                "seen the item) come as -inf and must add nothing, as in softplus(neg), relu(neg) or exp(neg)"
            )
        return loss

    def __repr__(self) -> str:
        return f"RankingLoss({self.name})"


def _parameters(func: Callable) -> set[str]:
    try:
        return set(inspect.signature(func.forward if isinstance(func, nn.Module) else func).parameters)
    except (TypeError, ValueError):  # a builtin
        return set()
