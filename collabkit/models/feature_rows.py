"""`FeatureRows`: what side features give to the rows of a side's tables: a part that is added, or put beside them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from collabkit.data.features import Features, Field, TrainedEncoder
from collabkit.data.features.encoders import encode_blocks
from collabkit.data.runs import Runs
from collabkit.models.table import init_rows, lookup

__all__ = ["FeatureRows", "FieldRows", "combined", "put_together"]

_SHOWN: ContextVar[tuple] = ContextVar("collabkit_shown", default=(None, None))


class FeatureRows(nn.Module):
    """The features' part of the rows of one side: `X W`, the features `X` `(n, p)` by weights `W` `(p, d)`.

    An id's categories have embeddings, of which a multi-valued field takes the mean; numbers and dense vectors go
    through a linear map. With `joins='sum'` every field has a weight for each table of the side and all parts are
    added to the id's own rows: in a dot-product model that is Kula, "Metadata embeddings for user and item cold-start
    recommendations" (2015), section 3. With `'concat'` each field's part has its own width and stands beside the id's
    row.

    Of content (`'text'`, `'image'`) an encoder makes the numbers first, a module that is trained with all else.

    The features are buffers, so that a batch is indices alone.

    Args:
        features: `n` rows.
        widths: width d of each of the side's tables.
        joins: `'sum'` or `'concat'` (one table).
        init_std: standard deviation of the initial weights.
        sizes: with `'concat'`, widths by the fields' names; default `Kind.part_width`.

    Example:
        >>> import pandas as pd
        >>> from collabkit.data.vocab import Vocab
        >>> films = pd.DataFrame({'title': ['Alien', 'Brazil'], 'genre': ['Horror', 'Comedy']})
        >>> rows = FeatureRows(Features.from_df(films, Vocab(['Alien', 'Brazil'], 'title')), [4, 1])
        >>> [part.shape for part in rows(torch.tensor([1, 2, 2]))]
        [torch.Size([3, 4]), torch.Size([3, 1])]
    """

    def __init__(self, features: Features, widths, *, joins: str = "sum", init_std: float = 0.01, sizes=None):
        super().__init__()
        self.features, self.joins, self.widths = features, joins, [int(width) for width in widths]
        per_field = [self.widths] * len(features.fields)
        if joins == "concat":
            sizes = {field.name: field.by_kind.part_width(field) for field in features.fields} | dict(sizes or {})
            per_field = [[int(sizes[field.name])] for field in features.fields]
        pairs = zip(features.fields, features.rows, per_field, strict=True)
        self.fields = nn.ModuleList(FieldRows(field, rows, width, init_std) for field, rows, width in pairs)
        self.register_buffer("cold", torch.zeros(features.n_columns + 1, sum(self.widths)))

    def forward(self, idx: Tensor) -> tuple[Tensor, ...]:
        """The features' part `[(..., d), ...]` for `idx` `(...)`, one for each table; with `'concat'` one for all."""
        return combined(self.field_parts(idx), self.joins, self.widths)

    def field_parts(self, idx: Tensor) -> list[Tensor]:
        """What each field gives, `(..., sum of the widths)`."""
        return [field(idx) for field in self.fields]

    def join(self, idx: Tensor, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """An id's own `rows` and its features' part together."""
        return put_together(rows, self(idx), self.joins)

    @torch.no_grad()
    def matrix(self, idx: Tensor) -> Tensor:
        """The numbers `(m, p)` of ids `idx` `(m,)`: `Features.matrix`, and of content what the encoders see now."""
        return torch.cat([field.numbers(idx.to(self.cold.device)) for field in self.fields], dim=1)

    def cold_rows(self, idx: Tensor) -> tuple[Tensor, ...]:
        """What `cold_rows.fit_cold_head` found for ids `idx` `(m,)` without training rows: `[(m, d), ...]`, else 0."""
        idx = idx.to(self.cold.device)
        slopes = self.cold[:-1].split([field.field.size for field in self.fields])
        parts = [field.mean_of(idx, slope) for field, slope in zip(self.fields, slopes, strict=True)]
        return sum(parts, self.cold[-1].expand(len(idx), -1)).split(self.widths, dim=1)

    def extend(self, features: Features) -> None:
        """Put `features` in the place of the old ones, whose rows they begin with, or the other way round."""
        self.features = features
        for field, rows in zip(self.fields, features.rows, strict=True):
            field.extend(rows)

    def encoder(self, name: str) -> TrainedEncoder:
        """The encoder of the field `name` as it is now; see `Model.encoder`."""
        found = {field.field.name: field for field in self.fields if field.encoder is not None}
        if name not in found:
            raise ValueError(f"there is no feature {name!r} with an encoder that is trained; such are {sorted(found)}")
        return TrainedEncoder(found[name].field, found[name].encoder)


def combined(fields: list[Tensor], joins: str, widths: list[int]) -> tuple[Tensor, ...]:
    """What all fields give, of what each does `(..., d)`: one part side by side, or sums of those widths."""
    if joins == "concat":
        return (torch.cat(fields, dim=-1),)
    return sum(fields[1:], fields[0]).split(widths, dim=-1)


def put_together(rows: tuple[Tensor, ...], parts: tuple[Tensor, ...], joins: str) -> tuple[Tensor, ...]:
    """A side's `rows` with the `parts` beside them, or added to them."""
    if joins == "concat":
        shape = torch.broadcast_shapes(rows[0].shape[:-1], parts[0].shape[:-1])
        return (torch.cat([rows[0].expand(*shape, -1), parts[0].expand(*shape, -1)], dim=-1),)
    return tuple(own + part for own, part in zip(rows, parts, strict=True))


class FieldRows(nn.Module):
    """One field's weights, for parts of `widths` side by side, and the `rows` of its codes or numbers `(n, w)`."""

    def __init__(self, field: Field, rows: Runs | Tensor, widths: list[int], init_std: float):
        super().__init__()
        self.field, self.width = field, sum(widths)
        self.weights = nn.ParameterList(init_rows(field.size, width, init_std, field.is_bag) for width in widths)
        self.encoder = field.by_kind.encoder(field) if field.has_encoder else None
        self.set_rows(rows)

    def set_rows(self, rows: Runs | Tensor) -> None:
        """Hold `rows` as buffers on the weights' device."""
        device = self.weights[0].device
        tensors = {"values": rows} if isinstance(rows, Tensor) else {"start": rows.start, "codes": rows.values}
        for name, value in tensors.items():
            self.register_buffer(name, value.to(device), persistent=False)  # the artefact has them on their own
        self._matrices = self._seen = None

    def extend(self, rows: Runs | Tensor) -> None:
        """Hold `rows` that begin with the present ones, or these with them: what was seen in them stays good."""
        seen, n = self._seen, min(len(rows), len(self))
        self.set_rows(rows)
        self._seen = None if seen is None else (seen[0], seen[1][:n])

    def __len__(self) -> int:
        return len(self.values) if hasattr(self, "values") else len(self.start) - 1

    def forward(self, idx: Tensor) -> Tensor:
        """The field's part `(..., width)` for `idx` `(...)`."""
        weight = torch.cat([*self.weights], dim=1) if len(self.weights) > 1 else self.weights[0]
        if self.encoder is not None and self.training:
            each, at = idx.unique(return_inverse=True)
            return lookup(self.encoder(self._contents(each)).to(weight.dtype) @ weight, at)
        if self.field.is_bag and idx.numel() * 2 >= len(self):  # all rows once, not some of them many times
            return lookup(self._all_rows(weight), idx)
        return self.mean_of(idx.reshape(-1), weight).reshape(*idx.shape, weight.shape[1])

    def mean_of(self, idx: Tensor, weight: Tensor) -> Tensor:
        """For ids `idx` `(m,)`: the mean of their codes' rows of `weight` `(size, d)`, or their numbers by it."""
        if not self.field.is_bag:
            return self.numbers(idx).to(weight.dtype) @ weight
        codes = self._contents(idx)
        return F.embedding_bag(codes.values, weight, codes.start[:-1], mode="mean")

    def numbers(self, idx: Tensor) -> Tensor:
        """The numbers `(m, size)` of ids `idx` `(m,)`: shares of codes; of content, what evaluation sees in it."""
        if self.encoder is not None:
            return self._all_seen()[idx]
        if not self.field.is_bag:
            return self.values[idx]
        return self._contents(idx).shares(self.field.size)

    def _contents(self, idx: Tensor) -> Runs:
        return Runs(self.start, self.codes).of(idx)

    @torch.no_grad()
    def _all_seen(self) -> Tensor:
        """The numbers `(n, size)` of all contents, computed once as long as the encoder is the same."""
        if _SHOWN.get()[0] is self:
            return _SHOWN.get()[1]
        key, (old, numbers) = self._version(), self._seen or (None, None)
        if old != key or len(numbers) < len(self):
            first = len(numbers) if old == key else 0
            contents = Runs(self.start, self.codes).of(slice(first, len(self)))
            parts = [numbers] if first else []
            numbers = torch.cat([*parts, *encode_blocks(self.encoder, contents)])
            if not self.training:  # else the next step changes them
                self._seen = key, numbers
        return numbers

    @contextmanager
    def showing(self, at: int, numbers: Tensor) -> Iterator[None]:
        """Within it this thread sees the id at `at` with other `numbers` `(size,)`, in evaluation."""
        changed = self._all_seen().clone()
        changed[at] = numbers
        token = _SHOWN.set((self, changed))
        try:
            yield
        finally:
            _SHOWN.reset(token)

    def _version(self) -> tuple:
        """What changes when a tensor of the encoder does; a fused optimiser is not noticed, see `train`."""
        return tuple((t.data_ptr(), t._version, t.device) for t in self.encoder.state_dict(keep_vars=True).values())

    def train(self, mode: bool = True) -> "FieldRows":
        """torch's `train`; what training changes is seen anew after it."""
        self._seen = None if mode else self._seen
        return super().train(mode)

    def _all_rows(self, weight: Tensor) -> Tensor:
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            return F.embedding_bag(self.codes, weight, self.start[:-1], mode="mean")
        matrices = self._matrices
        if matrices is None:
            # the (n, size) matrix of the shares of codes, and its transpose, as sparse rows
            rows = Runs(self.start, self.codes, self.field.size)
            share = (1.0 / rows.lengths.float())[rows.rows]
            by_code = rows.transposed().matrix(share[torch.argsort(self.codes, stable=True)])
            matrices = self._matrices = rows.matrix(share), by_code
        return _SparseProduct.apply(weight, *matrices)

    def __getstate__(self):
        return {**self.__dict__, "_matrices": None, "_seen": None}  # sparse tensors cannot be copied

    def _apply(self, fn, *args, **kwargs):
        self._matrices = self._seen = None  # they follow the buffers to another device
        return super()._apply(fn, *args, **kwargs)


class _SparseProduct(torch.autograd.Function):
    """`matrix @ weight` for a constant sparse matrix whose transpose is at hand."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # sparse products know no other type
    def forward(ctx, weight: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ weight

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, grad: Tensor):
        return ctx.transposed @ grad.contiguous(), None, None
