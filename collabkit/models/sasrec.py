"""`SASRec`: self-attention over a history."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collabkit.data.checks import whole
from collabkit.models.sequence import SequenceModel

__all__ = ["SASRec"]


class SASRec(SequenceModel):
    """Predict the next item by causal self-attention over the history (Kang and McAuley, 2018), with pre-norm blocks.

    The outputs of attention and layers start at zero, so that a new model scores only by the last event. Histories are
    padded on the right, which causal attention ignores, so no mask is needed.

    Args:
        n_items, n_factors, length, dropout, **kwargs: as in `SequenceModel`.
        n_blocks: number of blocks of attention and layers.
        n_heads: number of attention heads; must divide `n_factors`.

    Raises:
        ValueError: `n_heads` does not divide `n_factors`; `n_blocks` < 1.

    Example:
        >>> import torch
        >>> from collabkit import SASRec
        >>> from collabkit.data.runs import Runs
        >>> model = SASRec(50, n_factors=8).eval()
        >>> model.encode(Runs.group([0, 0, 1], [3, 4, 5], 2)).shape
        torch.Size([2, 8])
    """

    def __init__(self, n_items: int, n_factors: int = 64, length: int = 100, dropout: float = 0.2, *,
                 n_blocks: int = 2, n_heads: int = 2, **kwargs):  # fmt: skip
        n_factors, n_blocks, n_heads = (
            whole(name, n) for name, n in (("n_factors", n_factors), ("n_blocks", n_blocks), ("n_heads", n_heads))
        )
        if n_factors % n_heads:
            raise ValueError(f"n_heads={n_heads} must divide n_factors={n_factors}")
        super().__init__(n_items, n_factors, length, dropout, **kwargs)
        self.n_blocks, self.n_heads = n_blocks, n_heads
        self.place = nn.Parameter(torch.zeros(self.length, n_factors))
        self.blocks = nn.ModuleList(_Block(n_factors, n_heads, dropout) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(n_factors)

    def _own_config(self) -> dict:
        return {"n_blocks": self.n_blocks, "n_heads": self.n_heads}

    def states(self, rows: Tensor, lengths: Tensor) -> Tensor:
        x = rows + self.place[: rows.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def last_states(self, rows: Tensor, lengths: Tensor) -> Tensor:
        x = rows + self.place[: rows.shape[1]]
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        return self.norm(last.at_end(x, lengths))


class _Block(nn.Module):
    def __init__(self, d: int, n_heads: int, dropout: float):
        super().__init__()
        self.n_heads, self.norms = n_heads, nn.ModuleList([nn.LayerNorm(d), nn.LayerNorm(d)])
        self.qkv, self.mix = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down, self.drop = nn.Linear(d, 4 * d), nn.Linear(4 * d, d), nn.Dropout(dropout)
        for layer in (self.mix, self.down):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        b, length, d = x.shape
        heads = self.qkv(self.norms[0](x)).reshape(b, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(*heads, is_causal=True)
        return self._layers(x, seen.transpose(1, 2).reshape(b, length, d))

    def at_end(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The result of `forward` at the last places `(b, d)`: the only queries; all places are keys and values."""
        b, length, d = x.shape
        end = x[torch.arange(b, device=x.device), lengths - 1]
        query = F.linear(self.norms[0](end), self.qkv.weight[:d], self.qkv.bias[:d]).view(b, self.n_heads, 1, -1)
        heads = F.linear(self.norms[0](x), self.qkv.weight[d:], self.qkv.bias[d:]).view(b, length, 2, self.n_heads, -1)
        there = (torch.arange(length, device=x.device) < lengths[:, None])[:, None, None]
        seen = F.scaled_dot_product_attention(query, *heads.permute(2, 0, 3, 1, 4), attn_mask=there)
        return self._layers(end, seen.reshape(b, d))

    def _layers(self, x: Tensor, seen: Tensor) -> Tensor:
        x = x + self.drop(self.mix(seen))
        return x + self.drop(self.down(F.gelu(self.up(self.norms[1](x)))))
