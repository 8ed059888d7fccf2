"""`ContextRows`: the contribution of a query's moment to the rows of its user side: added to or concatenated."""

import torch
from torch import Tensor, nn

from collabkit.data.features import Context, Field
from collabkit.data.query import Query
from collabkit.models.feature_rows import combined, put_together
from collabkit.models.table import init_rows, lookup

__all__ = ["ContextRows"]


class ContextRows(nn.Module):
    """The part of a moment's fields in the rows of the user side, like `FeatureRows` for the features of an id.

    Each category has an embedding; numbers, and the shares of several categories, go through a linear map. Row 0, for
    unknown values, is zero during training if all training values are known, and afterwards the mean of the others, so
    that an unknown moment is an average one; see `coldstart.default_rows`.

    Args:
        context: the fields.
        widths: width d of each part of the user side's rows.
        joins: `'sum'`: every field has weights for each part, added to the rows; `'concat'`: one part, to which every
            field adds its own columns.
        init_std: standard deviation of the initial weights.
        sizes: with `'concat'`, widths by the fields' names; default `Kind.part_width`.

    Example:
        >>> import pandas as pd
        >>> context = Context.fit(pd.DataFrame({'device': ['phone', 'tv']}), ['device'])
        >>> moments = ContextRows(context, [4, 1])
        >>> query = Query(torch.arange(3), context={'device': torch.tensor([1, 0, 2])})
        >>> [part.shape for part in moments(query)]
        [torch.Size([3, 4]), torch.Size([3, 1])]
    """

    def __init__(self, context: Context, widths, *, joins: str = "sum", init_std: float = 0.01, sizes=None):
        super().__init__()
        self.context, self.joins, self.widths = context, joins, [int(width) for width in widths]
        sizes = {field.name: field.by_kind.part_width(field) for field in context.fields} | dict(sizes or {})
        self.sizes = [int(sizes[field.name]) if joins == "concat" else sum(self.widths) for field in context.fields]
        shapes = zip(context.fields, self.sizes, strict=True)
        self.weights = nn.ParameterList(init_rows(field.size, n, init_std, field.is_bag) for field, n in shapes)

    def forward(self, query: Tensor | Query) -> tuple[Tensor, ...]:
        """The part `[(..., d), ...]` of the moments of a query, or of unknown moments; with `'concat'` one."""
        return combined(self.field_parts(query), self.joins, self.widths)

    def field_parts(self, query: Tensor | Query) -> list[Tensor]:
        """The output of each field, `(..., its size)`."""
        values = {} if isinstance(query, Tensor) else query.context
        if not values:
            values = {name: value.to(query.device) for name, value in self.context.unknown(1).items()}
        return [self._part(j, values[field.name]) for j, field in enumerate(self.context.fields)]

    def _part(self, j: int, values: Tensor) -> Tensor:
        weight = self.weights[j]
        return lookup(weight, values) if self.context.fields[j].has_one_code else values.to(weight.dtype) @ weight

    def join(self, query: Tensor | Query, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The user side's `rows` combined with the part of the moments of `query`."""
        return put_together(rows, self(query), self.joins)

    @property
    def row_widths(self) -> list[int]:
        """Width of each part that `join` gives."""
        return self.widths if self.joins == "sum" else [self.widths[0] + sum(self.sizes)]

    @torch.no_grad()
    def settle(self, seen: dict[str, Tensor], average: bool) -> None:
        """Set row 0 of the fields that no training row uses to the mean of the others, or without `average` to zero.

        Args:
            seen: the values of the training rows, by field.
            average: True after training.
        """
        for field, weight in zip(self.context.fields, self.weights, strict=True):
            n = _uses(field, seen[field.name]).to(weight)
            if field.is_bag and not bool(n[0]):
                weight[0] = (n @ weight) / n.sum() if average else 0


def _uses(field: Field, values: Tensor) -> Tensor:
    """How many rows have each category `(size,)`, in shares where a row has several."""
    return torch.bincount(values, minlength=field.size) if field.has_one_code else values.sum(0)
