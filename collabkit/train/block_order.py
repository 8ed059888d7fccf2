"""`BlockOrder`: the order of an epoch over files, in which neighbouring rows are read together."""

import torch
from torch import Tensor

__all__ = ["BlockOrder"]

BLOCK, PASSES, BUFFER = 1024, 16, 2**20  # rows of a block, a power of two; passes; rows that are mixed


class BlockOrder:
    """Every row once, in passes over the file: each takes a share of every block's rows, blocks in random order.

    `order[start:stop]` are the rows at these places of the order, which depends only on the seed. A permutation would
    read a disk page for each row, and needs eight bytes per row; this reads a page for each share of a block, and needs
    little more than a byte per row. In files sorted by user a block holds few users. If it were read at once, all
    events of a user would come within a few steps, which costs quality; so its rows are split over the passes, and each
    pass contains nearly all users. Shares of many blocks are mixed in a buffer.

    Args:
        n: rows.
        seed: of the order.
        block: neighbouring rows, a power of two.
        passes: number of shares of a block, a power of two of at most `block`.
        buffer: rows that are mixed.

    Example:
        >>> order = BlockOrder(10, seed=0, block=4, passes=2, buffer=4)
        >>> sorted(order[0:10].tolist()) == list(range(10)), order[2:4].tolist() == order[0:10].tolist()[2:4]
        (True, True)
    """

    def __init__(
        self, n: int, seed: int, *, block: int | None = None, passes: int | None = None, buffer: int | None = None
    ):  # fmt: skip
        self.n, self.seed, self.block = n, seed, BLOCK if block is None else block
        self.passes = min(PASSES if passes is None else passes, self.block)
        generator, n_blocks = torch.Generator().manual_seed(seed % 2**63), -(-n // self.block)
        self.keys = torch.randint(2**31, (4, n_blocks), generator=generator)
        blocks = [torch.randperm(n_blocks, generator=generator) for _ in range(self.passes)]
        self.shares = torch.cat([own * self.passes + j for j, own in enumerate(blocks)])  # block * passes + pass
        ends = self._sizes().cumsum(0)
        self.per_buffer = max(1, (BUFFER if buffer is None else buffer) // self._share)
        self.ends = ends[self.per_buffer - 1 :: self.per_buffer].tolist()
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

    @property
    def _share(self) -> int:
        return self.block // self.passes

    def _buffer(self, j: int) -> Tensor:
        """The rows of buffer number `j`; the last one is cached."""
        if self._made is None or self._made[0] != j:
            rows = self._rows(self.shares[j * self.per_buffer : (j + 1) * self.per_buffer])
            generator = torch.Generator().manual_seed((self.seed + (j + 1) * 7_919) % 2**63)
            self._made = j, rows[torch.randperm(len(rows), generator=generator)]
        return self._made[1]

    def _rows(self, shares: Tensor) -> Tensor:
        """The rows of some shares, one after the other."""
        blocks = shares // self.passes
        place = (shares % self.passes * self._share)[:, None] + torch.arange(self._share)
        rows = (blocks * self.block)[:, None] + self._dealt(place, self.keys[:, blocks])
        return rows[rows < self.n]

    def _dealt(self, place: Tensor, keys: Tensor) -> Tensor:
        """A permutation of `0..block - 1` for each block, at `place` `(m, share)`: each of its steps is invertible."""
        mask, half = self.block - 1, max(1, self.block.bit_length() // 2)
        for factor, shift in (keys[:2, :, None], keys[2:, :, None]):
            place = (place * (2 * factor + 1) + shift) & mask
            place = place ^ (place >> half)
        return place

    def _sizes(self) -> Tensor:
        """Rows of each share; the last block may be incomplete."""
        sizes = torch.full((len(self.shares),), self._share)
        last = ((self.shares // self.passes) == (self.n - 1) // self.block).nonzero().squeeze(1)
        sizes[last] = torch.tensor([len(self._rows(self.shares[at : at + 1])) for at in last.tolist()])
        return sizes
