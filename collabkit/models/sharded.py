"""`ShardedTables`: tables whose rows are split over several processes, so that together they hold more than one can.

Each process keeps an equal number of neighbouring rows of each table, with the optimiser's moments. A lookup sends ids
to the processes that have their rows, and gets the rows back; gradients go the same way. TorchRec distributes and
exchanges (over gloo and NCCL); the rows themselves are torch parameters, which the learner trains like any others.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from collabkit.data.processes import Processes, ProcessesError, launched, processes
from collabkit.models.table import Embedding, Tables, filled_later, init_rows, made_as

__all__ = ["ShardedTables", "common_tensors", "in_shards", "is_sharded", "owners", "refuse_shards", "shards_of"]

BLOCK = 2**16  # rows that are drawn at once


class ShardedTables(Tables):
    """This process's rows of a side's tables: of `n` rows split over `size` processes, number `start` to `stop`.

    All processes have tensors of the same length; those of the last ones may end with unused rows. The initial rows are
    drawn block by block, so they do not depend on the number of processes. A single process has all rows and exchanges
    nothing.

    All processes call `forward`, `read` and `moments` at the same place; `forward` may get different ids in each.

    Args:
        name, n, widths, std, sparse: as in `TableSide`.

    Raises:
        ImportError: there are several processes, and TorchRec is missing.
    """

    def __init__(self, name: str, n: int, widths, *, std: float = 0.01, sparse: bool = False):
        self.rank, self.size = launched()
        self.name, self.n, self.block = name, n, -(-n // self.size)
        self.start = min(n, self.rank * self.block)
        self.stop = min(n, self.start + self.block)
        if self.size > 1:
            _torchrec()
        seed = int(torch.randint(2**62, ()))
        rows = [self._initial(width, std, seed + j) for j, width in enumerate(widths)]
        kind = Embedding if self.size == 1 else _Rows
        super().__init__(kind(*own.shape, sparse=sparse, _weight=own) for own in rows)
        self._route: _Route | None = None

    def _initial(self, width: int, std: float, seed: int) -> Tensor:
        own = torch.empty(self.block, width)
        if filled_later():
            return own
        own[self.stop - self.start :] = 0.0
        for first in range(self.start - self.start % BLOCK, self.stop, BLOCK):
            with torch.random.fork_rng(devices=[]):
                torch.random.default_generator.manual_seed((seed + first // BLOCK * 1_000_003) % 2**63)
                drawn = init_rows(min(BLOCK, self.n - first), width, std, zero_first=first == 0).detach()
            low, high = max(first, self.start), min(first + BLOCK, self.stop)
            own[low - self.start : high - self.start] = drawn[low - first : high - first]
        return own

    def forward(self, idx: Tensor) -> tuple[Tensor, ...]:
        """The tables' rows `[(..., d), ...]` at `idx` `(...)`, wherever they are."""
        if self.size == 1:
            return super().forward(idx)
        team = self._team()
        if self._route is None or self._route.device != idx.device:
            self._route = _Route(self.n, self.block, idx.device)
        each, at = idx.reshape(-1).unique(return_inverse=True)
        with team.reaching(f"the rows of {self.name}s"):
            rows = self._route(self, each)
        found = rows[at].view(*idx.shape, rows.shape[1])
        return found.split([table.embedding_dim for table in self], dim=-1)

    def read(self, idx: Tensor) -> list[Tensor]:
        if self.size == 1:
            return super().read(idx)
        team, idx = self._team(), idx.to(self[0].weight.device)
        at, mine = self._mine(idx)
        found = []
        for table in self:
            rows = table.weight.new_zeros(len(idx), table.embedding_dim)
            rows[mine] = table.weight.detach()[at]
            found.append(team.sum(rows, f"the rows of {self.name}s"))
        return found

    def write(self, idx: Tensor, rows) -> None:
        at, mine = self._mine(idx.to(self[0].weight.device))
        for table, values in zip(self, rows, strict=True):
            values = values.to(table.weight)
            table.weight[at] = values[mine] if values.ndim > 1 else values

    def moments(self, idx: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Mean and standard deviation `[((d,), (d,)), ...]` of the rows at `idx` `(m,)`, over all processes."""
        team = self._team()
        at, _ = self._mine(idx.to(self[0].weight.device))
        found = []
        for table in self:
            own, n = table.weight.detach()[at].double(), max(1, len(idx))
            mean = team.sum(own.sum(0), f"the means of {self.name}s") / n
            var = team.sum((own - mean).square().sum(0), f"the means of {self.name}s") / n
            found.append((mean.float(), var.sqrt().float()))
        return found

    def grow(self, n: int) -> None:
        raise TypeError(f"the {self.name}s of this model are split over {self.size} processes, which take no new ids: "
                        "export it, load the artefact in one process, and add them there")  # fmt: skip

    def own(self, table: nn.Embedding) -> Tensor:
        """This process's rows `(stop - start, d)` of one of the tables, without unused ones."""
        return table.weight.detach()[: self.stop - self.start]

    def _mine(self, idx: Tensor) -> tuple[Tensor, Tensor]:
        """The local positions of the indices among `idx` `(m,)` that are here, and which `(m,)` these are."""
        mine = (idx >= self.start) & (idx < self.stop)
        return idx[mine] - self.start, mine

    def _team(self) -> Processes:
        team = processes()
        if team.size != self.size:
            raise ProcessesError(f"the rows of {self.name}s are split over {self.size} processes, and here is only "
                                 "this one: call this within learn.distrib_ctx(), and on all of them")  # fmt: skip
        return team


class _Rows(Embedding):
    """A process's rows of a table, which only their side can look up, as it knows which are here."""

    def forward(self, idx: Tensor) -> Tensor:
        raise TypeError("a model with tables in shards looks rows up by its sides: call side.rows(idx)")


class _Route:
    """TorchRec's exchange: ids to the processes that have their rows, and the rows back."""

    def __init__(self, n: int, block: int, device: torch.device):
        torchrec = _torchrec()
        group = dist.group.WORLD
        self.size, self.block, self.device, self.keyed = group.size(), block, device, torchrec.KeyedJaggedTensor
        self.there = torchrec.RwSparseFeaturesDist(group, 1, [n], device=device, is_sequence=True)
        self.back = torchrec.SequenceEmbeddingsAllToAll(group, [1] * self.size, device)
        self.divides = torchrec.get_gradient_division

    def __call__(self, tables: ShardedTables, each: Tensor) -> Tensor:
        """The tables' rows `(m, sum of d)`, side by side, of `each` `(m,)` id, ascending."""
        sent = torch.bincount(each // self.block, minlength=self.size)
        asked = self.keyed(["id"], each, lengths=each.new_tensor([len(each)]))
        here = self.there(asked).wait().wait()  # the others' requests, as positions in this process's rows
        rows = [F.embedding(here.values(), table.weight, sparse=table.sparse) for table in tables]
        found = torch.cat(rows, dim=1)
        if found.requires_grad and self.divides():  # TorchRec takes the mean over processes; the loss is their sum
            found.register_hook(lambda gradient: gradient * self.size)
        got = here.lengths().view(-1, here.stride())
        splits = {"input_splits": sent.tolist(), "output_splits": got.flatten().tolist()}
        order = self.there.unbucketize_permute_tensor
        return self.back(found, lengths=got, unbucketize_permute_tensor=order, **splits).wait()


def _torchrec():
    """The parts of TorchRec that are used."""
    try:
        from types import SimpleNamespace

        from torchrec.distributed.comm_ops import get_gradient_division
        from torchrec.distributed.dist_data import SequenceEmbeddingsAllToAll
        from torchrec.distributed.sharding.rw_sharding import RwSparseFeaturesDist
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
    except ImportError as error:
        raise ImportError("tables in shards need TorchRec: install what requirements-torchrec.txt names, as it says "
                          f"there, or leave sharded= out ({error})") from error  # fmt: skip
    return SimpleNamespace(
        get_gradient_division=get_gradient_division, SequenceEmbeddingsAllToAll=SequenceEmbeddingsAllToAll,
        RwSparseFeaturesDist=RwSparseFeaturesDist, KeyedJaggedTensor=KeyedJaggedTensor,
    )  # fmt: skip


@contextmanager
def in_shards(yes: bool = True) -> Iterator[None]:
    """Context in which new sides have `ShardedTables`, if `yes`."""
    with made_as(ShardedTables if yes else None):
        yield


def shards_of(model) -> list[ShardedTables]:
    """A model's tables that are split over several processes."""
    found = [side.tables for side in getattr(model, "sides", ())]
    return [tables for tables in found if isinstance(tables, ShardedTables) and tables.size > 1]


def owners(model) -> dict[int, ShardedTables]:
    """The tables of each weight that is split over several processes, by the weight's `id`."""
    return {id(table.weight): tables for tables in shards_of(model) for table in tables}


def is_sharded(model) -> bool:
    """Whether no process has all of a model's rows."""
    return bool(shards_of(model))


def refuse_shards(model, what: str) -> None:
    """Raise `TypeError` if `what` would need all of a model's rows in one process."""
    if is_sharded(model):
        raise TypeError(f"{what} needs all rows in one process, and this model's are split over several: export it "
                        "and load the artefact in one process")  # fmt: skip


def common_tensors(model: nn.Module) -> list[Tensor]:
    """A model's parameters and buffers, each once, without the tables that are split over processes."""
    own = owners(model)
    found = {id(tensor): tensor.detach() for tensor in (*model.parameters(), *model.buffers()) if id(tensor) not in own}
    return list(found.values())
