"""`BlockOrder`: the order of an epoch over files, in which rows that lie beside each other are read together."""

import torch
from torch import Tensor

__all__ = ["BlockOrder"]

BLOCK, BUFFER = 256, 2**20  # rows that lie beside each other; rows that are mixed, those of so many blocks / BLOCK


class BlockOrder:
    """Every row once: blocks of neighbouring rows in random order, and the rows of many blocks mixed.

    `order[start:stop]` are the rows at these places of the order, a function of the seed alone. A permutation would
    read a page of the disk for each row, and takes eight bytes a row; this takes eight a block.

    Args:
        n: rows.
        seed: of the order.
        block: rows that are read together.
        buffer: rows that are mixed.

    Example:
        >>> order = BlockOrder(10, seed=0, block=2, buffer=4)
        >>> sorted(order[0:10].tolist()) == list(range(10)), order[2:4].tolist() == order[0:10].tolist()[2:4]
        (True, True)
    """

    def __init__(self, n: int, seed: int, *, block: int | None = None, buffer: int | None = None):
        self.n, self.seed, self.block = n, seed, BLOCK if block is None else block
        self.per_buffer = max(1, (BUFFER if buffer is None else buffer) // self.block)
        self.blocks = torch.randperm(-(-n // self.block), generator=torch.Generator().manual_seed(seed % 2**63))
        self.ends = self._sizes(self.blocks).cumsum(0)[self.per_buffer - 1 :: self.per_buffer].tolist()
        self.ends += [n] if not self.ends or self.ends[-1] < n else []
        self._made: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, part: slice) -> Tensor:
        start, stop, found = part.start, min(part.stop, self.n), []
        while start < stop:
            j = next(i for i, end in enumerate(self.ends) if end > start)
            first = self.ends[j - 1] if j else 0
            found.append(self._buffer(j)[start - first : stop - first])
            start = self.ends[j]
        return torch.cat(found) if len(found) != 1 else found[0]

    def _buffer(self, j: int) -> Tensor:
        """The rows of the buffer number `j`; the last one is kept."""
        if self._made is None or self._made[0] != j:
            blocks = self.blocks[j * self.per_buffer : (j + 1) * self.per_buffer]
            rows = (blocks[:, None] * self.block + torch.arange(self.block)).reshape(-1)
            rows = rows[rows < self.n] if bool((blocks == len(self.blocks) - 1).any()) else rows
            generator = torch.Generator().manual_seed((self.seed + (j + 1) * 7_919) % 2**63)
            self._made = j, rows[torch.randperm(len(rows), generator=generator)]
        return self._made[1]

    def _sizes(self, blocks: Tensor) -> Tensor:
        last = self.n - (len(blocks) - 1) * self.block
        return torch.where(blocks == len(blocks) - 1, last, self.block)
