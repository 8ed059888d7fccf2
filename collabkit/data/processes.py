"""`Processes`: several processes working on one problem, each with a copy of data and model; or a single one.

A launcher (torchrun, Ray, a cluster's) starts them and tells each its rank by the environment; `joined` makes one team
of them. Code that loops over users or rows may then do its own share: `processes()` describes the team. All processes
must make the same calls in the same order.
"""

import atexit
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from hashlib import blake2b
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Processes", "ProcessesError", "digest", "joined", "launched", "own_device", "processes"]

T = TypeVar("T")
STEP = "collabkit"  # prefix of the keys under which processes store why they ended
GRACE = 2.0  # seconds to wait for such a message


class ProcessesError(RuntimeError):
    """The processes cannot continue together: one ended, did not answer in time, or has different data."""


class Processes:
    """`size` processes, of which this is number `rank`.

    `what` names the exchanged data in the error message if a process has ended. Every method is called by all
    processes; with a single process, none has an effect.

    Args:
        rank, size: this one's number, from 0, and how many there are.
        timeout: seconds to wait for a process that does not answer.
    """

    def __init__(self, rank: int = 0, size: int = 1, timeout: float = 0.0):
        self.rank, self.size, self.timeout = rank, size, timeout

    alone = property(lambda self: self.size == 1, doc="Whether there is no other process.")
    first = property(lambda self: self.rank == 0, doc="Whether this is the one that writes and speaks.")

    def __repr__(self) -> str:
        return f"process {self.rank} of {self.size}"

    def part(self, n: int) -> tuple[int, int]:
        """Where this process's share of `n` rows begins and ends.

        Example:
            >>> [Processes(rank, 3).part(8) for rank in range(3)]
            [(0, 2), (2, 5), (5, 8)]
        """
        return n * self.rank // self.size, n * (self.rank + 1) // self.size

    def bounds(self, cost: Tensor) -> list[int]:
        """Where the shares of rows begin, and the end, so that each process has about the same total `cost` `(n,)`.

        Example:
            >>> Processes(0, 2).bounds(torch.tensor([1., 1., 1., 5.]))
            [0, 3, 4]
        """
        done = cost.double().cumsum(0)
        aims = torch.arange(1, self.size, device=cost.device) * (float(done[-1]) / self.size if len(done) else 0.0)
        return [0, *torch.searchsorted(done, aims.to(done)).tolist(), len(cost)]

    def sum(self, tensor: Tensor, what: str) -> Tensor:
        """`tensor`, in place, with those of all processes added up: the same bits in each."""
        if not self.alone:
            with self.reaching(what):
                dist.all_reduce(tensor)
        return tensor

    def gather(self, rows: Tensor, what: str) -> Tensor:
        """The `rows` `(n, ...)` of all processes, concatenated; `n` may differ between processes."""
        return torch.cat(self.gather_parts(rows, what))

    def gather_parts(self, rows: Tensor, what: str) -> list[Tensor]:
        """The same as a list, one entry per process."""
        if self.alone:
            return [rows]
        with self.reaching(what):
            n = rows.new_tensor([len(rows)], dtype=torch.int64)
            counts = [torch.empty_like(n) for _ in range(self.size)]
            dist.all_gather(counts, n)
            longest = int(torch.cat(counts).max())
            if longest == 0:
                return [rows] * self.size
            mine = rows.new_zeros(longest, *rows.shape[1:])  # all of equal length, as NCCL requires
            mine[: len(rows)] = rows
            found = [torch.empty_like(mine) for _ in range(self.size)]
            dist.all_gather(found, mine)
        return [part[: int(count)] for part, count in zip(found, counts, strict=True)]

    def fill(self, table: Tensor, bounds: list[int], what: str) -> None:
        """Copy into each `table` `(n, ...)` the rows of the other ranks: `bounds[r]` to `bounds[r + 1]` from rank r."""
        for source in range(self.size if not self.alone else 0):
            if bounds[source] < bounds[source + 1]:
                with self.reaching(what):
                    dist.broadcast(table[bounds[source] : bounds[source + 1]], source)

    def from_first(self, tensors: list[Tensor], what: str) -> None:
        """Copy the first process's values into the `tensors` of all."""
        for tensor in tensors if not self.alone else ():
            with self.reaching(what):
                dist.broadcast(tensor, 0)

    def objects(self, value: T, what: str) -> list[T]:
        """The values of all processes, which must be picklable."""
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.size
        with self.reaching(what):
            dist.all_gather_object(found, value)
        return found

    def same(self, facts: Mapping[str, Any], what: str) -> None:
        """Raise on every process unless the `facts`, by name, are the same on all.

        Raises:
            ProcessesError: it names the facts that differ, and their values on each process.
        """
        found = self.objects(dict(facts), what)
        odd = [name for name in found[0] if any(other.get(name) != found[0][name] for other in found)]
        if odd or any(other.keys() != found[0].keys() for other in found):
            told = "; ".join(f"{name} is {_by_rank([other.get(name) for other in found])}" for name in odd)
            raise ProcessesError(f"the {self.size} processes do not have the same {what}: {told or 'other things'}. "
                                 "Each must read the same rows in the same order and be given the same arguments, "
                                 "including seed=")  # fmt: skip

    def each(self, function: Callable[[], T], what: str) -> T:
        """The result of `function()` here; if it fails on one process, the error is raised on all of them."""
        if self.alone:
            return function()
        result, error = None, None
        try:
            result = function()
        except Exception as raised:  # reported to the others, then raised
            error = raised
        told = self.objects(None if error is None else (type(error), str(error)), what)
        if error is not None:
            raise error
        for rank, failure in enumerate(told):
            if failure is not None:
                raise _again(*failure, f"process {rank} of {self.size}, {what}")
        return result  # type: ignore[return-value]

    def once(self, function: Callable[[], T], what: str) -> T:
        """The result of `function()` on the first process: only it makes the call, and an error is raised on all."""
        if self.alone:
            return function()
        result = None
        with _working(Processes()):  # in it nothing is shared
            try:
                result = (function() if self.first else None), None
            except Exception as raised:  # reported to the others, then raised
                result = None, raised
        value, error = result
        told = self.objects((value, None if error is None else (type(error), str(error))), what)[0]
        if error is not None:
            raise error
        if told[1] is not None:
            raise _again(*told[1], f"process 0 of {self.size}, {what}")
        return told[0]

    def wait(self, what: str) -> None:
        """Continue when all processes have reached this call."""
        self.objects(None, what)

    def leave(self, error: BaseException) -> None:
        """Leave the team: the others see at once that this process has ended, and why."""
        if self.alone:
            return
        with suppress(Exception):
            _store().set(f"{STEP}/{self.rank}", f"{type(error).__name__}: {error}"[:500])
        with suppress(Exception):
            dist.destroy_process_group()

    @contextmanager
    def reaching(self, what: str) -> Iterator[None]:
        """Context that turns an error of torch into one that describes what happened."""
        try:
            yield
        except RuntimeError as error:
            raise ProcessesError(
                f"process {self.rank} of {self.size} could not exchange {what} with the others: {self._why()}. "
                "Nothing more can be trained here; with checkpoint=, a folder, start all processes again with "
                f"resume=True (torch said: {str(error).splitlines()[0][:200]})"
            ) from error

    def _why(self) -> str:
        """Why a process has ended, if known."""
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            with suppress(Exception):
                store = _store()
                for rank in range(self.size):
                    if rank != self.rank and store.check([f"{STEP}/{rank}"]):
                        return f"process {rank} ended with {store.get(f'{STEP}/{rank}').decode()}"
            time.sleep(0.1)
        return (f"another one ended without a message (it was killed, or ran out of memory), did not answer for "
                f"{self.timeout:g} seconds, or was doing something else")  # fmt: skip


_CURRENT = Processes()


def processes() -> Processes:
    """The current team of processes: only this one, unless within `joined`."""
    return _CURRENT


def launched() -> tuple[int, int]:
    """This process's rank and the number of processes, from the launcher's environment variables; `(0, 1)` without one.

    Raises: ValueError: the environment has one and not the other.
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    size, rank = os.environ.get("WORLD_SIZE"), os.environ.get("RANK")
    if int(size or 1) > 1 and rank is None:
        raise ValueError(f"the environment has WORLD_SIZE={size} and no RANK: start the processes by torchrun")
    return (int(rank or 0), int(size)) if int(size or 1) > 1 else (0, 1)


def own_device() -> torch.device | None:
    """The GPU of a process that a launcher started, by its number on this machine; None without launcher or GPU.

    Raises:
        ProcessesError: there are fewer GPUs than processes.
    """
    place = os.environ.get("LOCAL_RANK")
    if launched()[1] == 1 or place is None or not torch.cuda.is_available():
        return None
    if int(place) >= torch.cuda.device_count():
        raise ProcessesError(f"process {place} of this machine has no GPU of its own: there are "
                             f"{torch.cuda.device_count()}. Start as many processes, or hide the GPUs with "
                             "CUDA_VISIBLE_DEVICES= to train on the CPU")  # fmt: skip
    torch.cuda.set_device(int(place))
    return torch.device("cuda", int(place))


@contextmanager
def joined(timeout: float = 600.0) -> Iterator[Processes]:
    """Context in which all processes of a launcher work together; a single process without a launcher.

    Args:
        timeout: seconds to wait for a process that does not answer.

    Raises:
        ProcessesError: the others do not join, or one of them has ended.
    """
    if not timeout > 0:
        raise ValueError(f"timeout must be seconds, above 0, got {timeout!r}")
    rank, size = launched()
    if size == 1 or not _CURRENT.alone:  # or this is a nested call
        yield _CURRENT
        return
    if not dist.is_initialized():
        _meet(rank, size, timeout)
    team = Processes(rank, size, timeout)
    with _working(team):
        try:
            yield team
            team.wait("that they are done")
        except BaseException as error:
            team.leave(error)
            raise


def _meet(rank: int, size: int, timeout: float) -> None:
    """Create torch's process group, once per process, as a second one would need the same port again."""
    atexit.register(_part)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        raise ProcessesError(
            f"process {rank} of {size} did not meet the others within {timeout:g} seconds: start as many "
            f"processes as WORLD_SIZE says, by torchrun (torch said: {str(error).splitlines()[0][:200]})"
        ) from error


def _part() -> None:
    with suppress(Exception):
        dist.destroy_process_group()


def _store():
    """The store where the processes meet and leave messages."""
    return dist.distributed_c10d._get_default_store()


def digest(tensors: list[Tensor]) -> str:
    """Eight letters that differ if any bit differs."""
    digest = blake2b(digest_size=4)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def _working(team: Processes) -> Iterator[None]:
    global _CURRENT
    before, _CURRENT = _CURRENT, team
    try:
        yield
    finally:
        _CURRENT = before


def _by_rank(values: list) -> str:
    return ", ".join(f"{value!r} on process {rank}" for rank, value in enumerate(values))


def _again(kind: type[BaseException], text: str, where: str) -> BaseException:
    """An error of another process, of the same type if that can be made from a text."""
    try:
        return kind(f"{text} ({where})")
    except Exception:
        return ProcessesError(f"{kind.__name__}: {text} ({where})")
