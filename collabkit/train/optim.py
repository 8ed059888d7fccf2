"""Optimisers for embedding tables behind fastai's interface, and which tables weight decay touches."""

import math
from collections.abc import Iterable
from itertools import groupby

import torch
from fastai.optimizer import OptimWrapper
from fastcore.foundation import L
from torch import Tensor, nn

from collabkit.data.checks import one_of
from collabkit.models.base import as_model

__all__ = ["LazyAdamW", "TableAdamW", "decay_groups", "undecayed", "feature_weights"]

FEATURE_WD = 10.0


def undecayed(model: nn.Module, wd_on: str = "factors") -> set[int]:
    """`id`s of the parameters that weight decay leaves alone.

    Args:
        wd_on: `'factors'` spares tables of width 1 (the biases of `CollFilter`), layer biases and batch norms, which
            gave the best ratings; `'all'` decays every parameter, as fastai does for embeddings.
    """
    one_of("wd_on", wd_on, ("factors", "all"))
    if wd_on == "all":
        return set()
    biases = {id(table.weight) for side in _sides(model) for table in side.tables if table.embedding_dim == 1}
    return {id(p) for p in model.parameters() if p.ndim < 2 or id(p) in biases}


def feature_weights(model: nn.Module) -> set[int]:
    """`id`s of the weights of side features and of context, except those of content encoders."""
    parts = [side.features for side in _sides(model)] + [getattr(as_model(model), "context", None)]
    weights = (item for part in parts if part is not None for item in part.named_parameters())
    return {id(p) for name, p in weights if ".encoder." not in name}


def _sides(model: nn.Module) -> tuple:
    """The sides of a model of this library; empty for another module."""
    return () if as_model(model) is None else model.sides


def decay_groups(params: Iterable[nn.Parameter], spared: set[int], features: set[int] = frozenset()) -> list[dict]:
    """Non-empty torch parameter groups of `params`: with weight decay, with more (features), and without (spared).

    Each has its factor as `wd_scale`: 1, `FEATURE_WD`, 0.
    """
    groups: dict[float, list] = {1.0: [], FEATURE_WD: [], 0.0: []}
    for p in params:  # including frozen ones, which may be unfrozen later
        groups[FEATURE_WD if id(p) in features else 0.0 if id(p) in spared else 1.0].append(p)
    return [{"params": own, "wd_scale": scale, "weight_decay": 0.0} for scale, own in groups.items() if own]


class LazyAdamW(torch.optim.AdamW):
    """torch's AdamW; for parameters with sparse gradients it updates only the rows that a batch touched.

    Moments and weights of the other rows do not change: the cost of a step depends on its batch, not on the number of
        rows, as in torch's SparseAdam. Weight decay is decoupled there too, and applies to a row when a batch touches
        it: `row *= 1 - lr * wd` before its update, so that rare rows decay rarely.

    Example:
        >>> table = nn.Embedding(5, 2, sparse=True)
        >>> before = table.weight.detach().clone()
        >>> table(torch.tensor([1, 3, 3])).sum().backward()
        >>> _ = LazyAdamW([table.weight], lr=0.1, weight_decay=0.5).step()
        >>> (table.weight != before).any(1)
        tensor([False,  True, False,  True, False])
    """

    @torch.no_grad()
    def step(self, closure=None):
        """One step for all parameters that have gradients."""
        every = [(group, p, p.grad) for group in self.param_groups for p in group["params"]]
        sparse = [(group, p, grad) for group, p, grad in every if grad is not None and grad.is_sparse]
        for _, p, _ in sparse:
            p.grad = None  # torch's own step updates the others
        loss = super().step(closure)
        for group, p, grad in sparse:
            p.grad = grad
            self._step_rows(group, p, grad.coalesce())
        return loss

    def _step_rows(self, group: dict, p: nn.Parameter, grad: Tensor) -> None:
        state, (rows,), values = self.state[p], grad.indices(), grad.values().to(p.dtype)
        if not state:
            state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        state["step"] += 1
        (beta1, beta2), lr, n = group["betas"], group["lr"], float(state["step"])
        first = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - beta1)
        second = state["exp_avg_sq"].index_select(0, rows).mul_(beta2).addcmul_(values, values, value=1 - beta2)
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)
        size = second.sqrt_().div_(math.sqrt(1 - beta2**n)).add_(group["eps"])
        new = p.index_select(0, rows).mul_(1 - lr * group["weight_decay"])
        p.index_copy_(0, rows, new.addcdiv_(first, size, value=-lr / (1 - beta1**n)))


class TableAdamW(OptimWrapper):
    """torch's fused AdamW behind fastai's optimiser interface, with fastai's betas and epsilon.

    Weight decay is decoupled, `p *= 1 - lr * wd` per step, and does not apply to the parameters in `spared`; they share
    every other hyper-parameter with their original group. The weights of side features and of context decay
    `FEATURE_WD` times as fast: each has the data of many ids, and overfits what these share by chance. Rows of tables
    with sparse gradients move and decay only when a batch touches them, see `LazyAdamW`.

    Args:
        params: parameters, or lists of them, one per fastai parameter group.
        spared: `id`s of parameters without weight decay, see `undecayed`.
        features: `id`s of weights of features, see `feature_weights`.
        lr, mom, sqr_mom, eps, wd: hyper-parameters; `mom` and `sqr_mom` are Adam's betas.
    """

    def __init__(
        self, params, lr=1e-3, *, spared=frozenset(), features=frozenset(), mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0.01
    ) -> None:
        lists = [list(p) for p in params] if isinstance(params[0], (list, L)) else [list(params)]
        groups = [{**g, "fai_group": i} for i, p in enumerate(lists) for g in decay_groups(p, spared, features)]
        super().__init__(opt=LazyAdamW(groups, lr=lr, betas=(mom, sqr_mom), eps=eps, fused=True))
        self.set_hyper("wd", wd)

    def _groups(self) -> list[list[dict]]:
        """Torch parameter groups by fastai parameter group."""
        return [list(part) for _, part in groupby(self.opt.param_groups, key=lambda g: g["fai_group"])]

    @property
    def hypers(self) -> list[dict]:
        """Hyper-parameters by fastai parameter group, under fastai's names."""
        return [
            {"wd": g["weight_decay"], "lr": g["lr"], "mom": g["betas"][0], "sqr_mom": g["betas"][1], "eps": g["eps"]}
            for g, *_ in self._groups()  # the first has weight decay, if any does
        ]

    @property
    def param_lists(self) -> list[list[nn.Parameter]]:
        """Parameters by fastai parameter group."""
        return [[p for g in part for p in g["params"]] for part in self._groups()]

    def set_hyper(self, k, v):
        """Set a hyper-parameter for all groups (a number), or one value per group (an array, a list or a slice)."""
        if isinstance(v, (int, float)):
            self._set_hyper(k, [v] * len(self._groups()))
        else:
            super().set_hyper(k, v)

    def _set_hyper(self, k, v):
        for group in self.opt.param_groups:
            value = float(v[group["fai_group"]])
            if k == "wd":
                group["weight_decay"] = value * group["wd_scale"]
            elif k in ("mom", "sqr_mom"):
                group["betas"] = (value, group["betas"][1]) if k == "mom" else (group["betas"][0], value)
            else:
                group[k] = value
