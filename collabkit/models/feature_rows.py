"""`FeatureRows`: the contribution of side features to the rows of a side's tables: added to or concatenated."""

from collections.abc import Iterable, Iterator
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

__all__ = ["FeatureRows", "FieldRows", "combined", "put_together", "tie_shared"]

_SHOWN: ContextVar[tuple] = ContextVar("collabkit_shown", default=(None, None))


class FeatureRows(nn.Module):
    """The features' part of the rows of one side: `X W`, the features `X` `(n, p)` by weights `W` `(p, d)`.

    An id's categories have embeddings, and a multi-valued field takes their mean; numbers and dense vectors go
    through a linear map. With `joins='sum'` every field has a weight for each table of the side and all parts are
    added to the id's own rows: in a dot-product model that is Kula, "Metadata embeddings for user and item cold-start
    recommendations" (2015), section 3. With `'concat'` each field's part has its own width and is concatenated to the
    id's row.

    Content (`'text'`, `'image'`) is first turned into numbers by an encoder, a module trained with the rest.

    The features are buffers, so a batch contains only indices.

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
        self.register_buffer("rarity", torch.zeros(features.n_columns))  # of the columns, in `cold_design`; 0: not set

    def forward(self, idx: Tensor) -> tuple[Tensor, ...]:
        """The features' part `[(..., d), ...]` for `idx` `(...)`, one for each table; with `'concat'` one for all."""
        return combined(self.field_parts(idx), self.joins, self.widths)

    def field_parts(self, idx: Tensor) -> list[Tensor]:
        """The output of each field, `(..., sum of the widths)`."""
        return [field(idx) for field in self.fields]

    def join(self, idx: Tensor, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """An id's own `rows` combined with its features' part."""
        return put_together(rows, self(idx), self.joins)

    def cold_design(self, idx: Tensor) -> list[Runs | Tensor]:
        """The inputs from which rows of ids `idx` `(m,)` are predicted, by field: weighted codes, or numbers `(m, w)`.

        An id's codes are weighted by `rarity` and scaled to length 1, as tf-idf vectors are.
        """
        idx, parts = idx.to(self.cold.device), self.rarity.split(self._sizes)
        return [field.weighted(idx, rarity) for field, rarity in zip(self.fields, parts, strict=True)]

    @torch.no_grad()
    def foretell(self, idx: Tensor, slope: Tensor, level: Tensor) -> Tensor:
        """`(m, d)`: the `cold_design` of ids `idx` `(m,)` times `slope` `(p, d)`, plus `level` `(d,)`."""
        blocks = zip(self.cold_design(idx), slope.split(self._sizes), strict=True)
        return sum((_product(block, part) for block, part in blocks), level.expand(len(idx), -1))

    @torch.no_grad()
    def cold_rows(self, idx: Tensor) -> tuple[Tensor, ...]:
        """The rows `[(m, d), ...]` by `cold_rows.fit_cold_head` of ids `idx` `(m,)` without training rows, else 0."""
        idx = idx.to(self.cold.device)
        if not bool(self.rarity.any()):  # never fitted, or by a version that used plain shares
            slopes = zip(self.fields, self.cold[:-1].split(self._sizes), strict=True)
            parts = [field.mean_of(idx, slope) for field, slope in slopes]
            return sum(parts, self.cold[-1].expand(len(idx), -1)).split(self.widths, dim=1)
        rows = self.foretell(idx, self.cold[:-1], self.cold[-1])
        if self.joins == "sum":  # what the features add is added to the row
            rows = rows - sum(field.mean_of(idx, torch.cat([*field.weights], dim=1)) for field in self.fields)
        return rows.split(self.widths, dim=1)

    @property
    def _sizes(self) -> list[int]:
        return [field.field.size for field in self.fields]

    def _load_from_state_dict(self, state: dict, prefix: str, *args) -> None:
        state.setdefault(prefix + "rarity", torch.zeros_like(self.rarity))  # artefacts of older versions lack it
        super()._load_from_state_dict(state, prefix, *args)

    def extend(self, features: Features) -> None:
        """Replace the features by `features`, which begin with the old rows, or the other way round."""
        self.features = features
        for field, rows in zip(self.fields, features.rows, strict=True):
            field.extend(rows)

    def encoder(self, name: str) -> TrainedEncoder:
        """The current encoder of the field `name`; see `Model.encoder`."""
        found = {field.field.name: field for field in self.fields if field.encoder is not None}
        if name not in found:
            raise ValueError(f"there is no feature {name!r} with a trained encoder; these have one: {sorted(found)}")
        return TrainedEncoder(found[name].field, found[name].encoder)


def tie_shared(sides: Iterable[FeatureRows | None]) -> None:
    """Let fields that share their values (`Bag(share=)`) use one table of factors; biases are separate.

    Raises:
        ValueError: their tables have different widths.
    """
    first: dict[str, FieldRows] = {}
    for field in (field for rows in sides if rows is not None for field in rows.fields):
        share = field.field.options.get("share")
        if share is None or first.setdefault(share, field) is field:
            continue
        shapes = [tuple(one.weights[0].shape) for one in (first[share], field)]
        if shapes[0] != shapes[1]:
            what = f"features that share {share!r} need tables of one shape, got {shapes[0]} and {shapes[1]}"
            raise ValueError(f"{what}: take a model that gives both the same width, or leave share= out")
        field.weights[0] = first[share].weights[0]


def combined(fields: list[Tensor], joins: str, widths: list[int]) -> tuple[Tensor, ...]:
    """The fields' outputs `(..., d)` together: concatenated to one part, or summed within those widths."""
    if joins == "concat":
        return (torch.cat(fields, dim=-1),)
    return sum(fields[1:], fields[0]).split(widths, dim=-1)


def put_together(rows: tuple[Tensor, ...], parts: tuple[Tensor, ...], joins: str) -> tuple[Tensor, ...]:
    """A side's `rows` with the `parts` concatenated or added."""
    if joins == "concat":
        shape = torch.broadcast_shapes(rows[0].shape[:-1], parts[0].shape[:-1])
        return (torch.cat([rows[0].expand(*shape, -1), parts[0].expand(*shape, -1)], dim=-1),)
    return tuple(own + part for own, part in zip(rows, parts, strict=True))


def _product(block: Runs | Tensor, slope: Tensor) -> Tensor:
    """Weighted codes of `m` rows, or numbers `(m, w)`, times `slope` `(w, d)`."""
    if isinstance(block, Tensor):
        return block.to(slope) @ slope
    return _sums(block, slope)


class FieldRows(nn.Module):
    """One field's weights, for parts of `widths` side by side, and the `rows` of its codes or numbers `(n, w)`."""

    sparse = False  # whether its weights have sparse gradients, see `Model.set_sparse`

    def __init__(self, field: Field, rows: Runs | Tensor, widths: list[int], init_std: float):
        super().__init__()
        self.field, self.width = field, sum(widths)
        self.weights = nn.ParameterList(init_rows(field.size, width, init_std, field.is_bag) for width in widths)
        self.encoder = field.by_kind.encoder(field) if field.has_encoder else None
        self.attention = nn.Parameter(torch.zeros(field.size)) if field.by_kind.has_attention(field) else None
        weights = field.by_kind.code_weights(field)
        self.register_buffer("code_weights", weights, persistent=False)
        self.set_rows(rows)

    def set_rows(self, rows: Runs | Tensor) -> None:
        """Hold `rows` as buffers on the weights' device."""
        device = self.weights[0].device
        tensors = {"values": rows} if isinstance(rows, Tensor) else {"start": rows.start, "codes": rows.values}
        for name, value in tensors.items():
            self.register_buffer(name, value.to(device), persistent=False)  # the artefact stores them separately
        self._by_code = self._seen = None

    def extend(self, rows: Runs | Tensor) -> None:
        """Hold `rows` that begin with the current ones, or are their beginning, so cached outputs remain valid."""
        seen, n = self._seen, min(len(rows), len(self))
        self.set_rows(rows)
        self._seen = None if seen is None else (seen[0], seen[1][:n])

    def __len__(self) -> int:
        return len(self.values) if hasattr(self, "values") else len(self.start) - 1

    def forward(self, idx: Tensor) -> Tensor:
        """The field's part `(..., width)` for `idx` `(...)`."""
        if self.sparse:
            parts = [self.mean_of(idx.reshape(-1), weight, sparse=True) for weight in self.weights]
            return torch.cat(parts, dim=1).view(*idx.shape, self.width)
        few = self.field.is_bag and idx.numel() * 4 < len(self)
        if few and len(self.weights) > 1 and idx.numel() < self.field.size:  # so that a large table is not copied
            parts = [self.mean_of(idx.reshape(-1), weight) for weight in self.weights]
            return torch.cat(parts, dim=1).view(*idx.shape, self.width)
        weight = torch.cat([*self.weights], dim=1) if len(self.weights) > 1 else self.weights[0]
        if self.encoder is not None and self.training:
            each, at = idx.unique(return_inverse=True)
            return lookup(self.encoder(self._contents(each)).to(weight.dtype) @ weight, at)
        if self.field.is_bag and not few and self.attention is None:  # all rows once instead of some of them many times
            every = idx.shape == (len(self),) and bool((idx == torch.arange(len(self), device=idx.device)).all())
            return self._all_rows(weight) if every else lookup(self._all_rows(weight), idx)
        return self.mean_of(idx.reshape(-1), weight).reshape(*idx.shape, weight.shape[1])

    @property
    def can_be_sparse(self) -> bool:
        """Whether a batch uses only the weights of its ids' categories."""
        return self.field.is_bag and self.attention is None and self.encoder is None

    def mean_of(self, idx: Tensor, weight: Tensor, sparse: bool = False) -> Tensor:
        """For ids `idx` `(m,)`: the mean of their codes' rows of `weight` `(size, d)`, or their numbers times it."""
        if not self.field.is_bag:
            return self.numbers(idx).to(weight.dtype) @ weight
        codes = self._contents(idx)
        share = self.shares(codes)
        if share is None:
            return F.embedding_bag(codes.values, weight, codes.start[:-1], mode="mean", sparse=sparse)
        return _sums(Runs(codes.start, codes.values, self.field.size, share), weight, sparse)

    def shares(self, codes: Runs) -> Tensor | None:
        """The weight `(m,)` of each code in the mean of its row; None if all weights are equal."""
        counting = self.counting()
        return None if counting is None else codes.parts(counting[codes.values])

    def counting(self) -> Tensor | None:
        """The unnormalised weight `(size,)` of each code: exponentials, for attention; None if all are equal."""
        if self.attention is None:
            return self.code_weights
        return (self.attention - self.attention.detach().max()).clamp(min=-60).exp()  # so that no row's sum is 0

    def weighted(self, idx: Tensor, rarity: Tensor) -> Runs | Tensor:
        """For ids `idx` `(m,)`: codes weighted by their `rarity` `(size,)`, in rows of length 1, or their numbers."""
        if not self.field.is_bag:
            return self.numbers(idx)
        codes = self._contents(idx)
        weight = self.rare(rarity)[codes.values]
        length = weight.new_zeros(len(codes)).index_add_(0, codes.rows, weight.square()).sqrt()
        return Runs(codes.start, codes.values, self.field.size, weight / length[codes.rows])

    def rare(self, rarity: Tensor) -> Tensor:
        """The weight `(size,)` of each code where rows are predicted: its `rarity` times the learned attention."""
        return rarity if self.attention is None else rarity * self.counting().detach()

    def having(self, idx: Tensor) -> Tensor | None:
        """How many of the ids `idx` `(m,)` have each code `(size,)`; None for numbers."""
        if not self.field.is_bag:
            return None
        return self._contents(idx.to(self.start.device)).values.bincount(minlength=self.field.size)

    def numbers(self, idx: Tensor) -> Tensor:
        """The numbers `(m, size)` of ids `idx` `(m,)`, if there are no codes; for content, those of evaluation mode."""
        return self.values[idx] if self.encoder is None else self._all_seen()[idx]

    def _contents(self, idx: Tensor) -> Runs:
        return Runs(self.start, self.codes).of(idx)

    @torch.no_grad()
    def _all_seen(self) -> Tensor:
        """The numbers `(n, size)` of all contents, cached as long as the encoder is the same."""
        if _SHOWN.get()[0] is self:
            return _SHOWN.get()[1]
        key, (old, numbers) = self._version(), self._seen or (None, None)
        if old != key or len(numbers) < len(self):
            first = len(numbers) if old == key else 0
            contents = Runs(self.start, self.codes).of(slice(first, len(self)))
            parts = [numbers] if first else []
            numbers = torch.cat([*parts, *encode_blocks(self.encoder, contents)])
            if not self.training:  # otherwise the next step changes them
                self._seen = key, numbers
        return numbers

    @contextmanager
    def showing(self, at: int, numbers: Tensor) -> Iterator[None]:
        """Context in which, for this thread, the id at `at` has other `numbers` `(size,)`, in evaluation mode."""
        changed = self._all_seen().clone()
        changed[at] = numbers
        token = _SHOWN.set((self, changed))
        try:
            yield
        finally:
            _SHOWN.reset(token)

    def _version(self) -> tuple:
        """A value that changes with the encoder's tensors, but not by a fused optimiser's steps, see `train`."""
        return tuple((t.data_ptr(), t._version, t.device) for t in self.encoder.state_dict(keep_vars=True).values())

    def train(self, mode: bool = True) -> "FieldRows":
        """torch's `train`; it also discards the cached outputs."""
        self._seen = None if mode else self._seen
        return super().train(mode)

    def _all_rows(self, weight: Tensor) -> Tensor:
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            return self.mean_of(torch.arange(len(self), device=weight.device), weight)
        if self._by_code is None:
            rows = Runs(self.start, self.codes, self.field.size)
            share = self.shares(rows)
            share = (1.0 / rows.lengths.float())[rows.rows] if share is None else share
            rows = Runs(rows.start, rows.values, rows.width, share)
            self._by_code = rows, rows.transposed()
        return _AllRows.apply(weight, *self._by_code)

    def __getstate__(self):
        return {**self.__dict__, "_by_code": None, "_seen": None}  # not worth storing

    def _apply(self, fn, *args, **kwargs):
        self._by_code = self._seen = None  # they follow the buffers to another device
        return super()._apply(fn, *args, **kwargs)


class _AllRows(torch.autograd.Function):
    """The weighted sums of codes' rows of `weight`, for constant runs of codes by row and the same by code.

    Both passes read from a table, which is twice as fast as products of sparse matrices.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, weight: Tensor, by_row: Runs, by_code: Runs) -> Tensor:
        ctx.by_code = by_code
        return _sums(by_row, weight)

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, grad: Tensor):
        return _sums(ctx.by_code, grad.contiguous()), None, None


def _sums(runs: Runs, table: Tensor, sparse: bool = False) -> Tensor:
    """The weighted sums `(n, d)` of the rows of `table` that runs with weights name."""
    options = {"mode": "sum", "per_sample_weights": runs.weight.to(table), "sparse": sparse}
    return F.embedding_bag(runs.values, table, runs.start[:-1], **options)
