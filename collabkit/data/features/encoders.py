"""The modules that encode content as numbers: words and pieces of words, words in order, pictures."""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collabkit.data.features.vectors import evaluated
from collabkit.data.runs import Runs

__all__ = ["BagEncoder", "TextCNN", "PictureCNN", "TrainedEncoder", "encode_blocks"]

BLOCK = 512  # contents that are encoded at once, if there are many


class BagEncoder(nn.Module):
    """The mean of the vectors of a text's words and pieces of words (Bojanowski et al., "Enriching word vectors with
    subword information", 2017, on whole texts), whatever their order.

    Args:
        n_codes: codes are 1 to this number.
        width: of the vectors.

    Example:
        >>> encoder = BagEncoder(10, 4)
        >>> encoder(Runs.group([0, 0, 2], [3, 7, 3], n=3)).shape
        torch.Size([3, 4])
    """

    def __init__(self, n_codes: int, width: int):
        super().__init__()
        self.table = _vectors(n_codes, width)

    def forward(self, contents: Runs) -> Tensor:
        return F.embedding_bag(contents.values, self.table.weight, contents.start[:-1], mode="mean")

    def without(self, contents: Runs, places: list[Tensor]) -> Tensor:
        """The numbers `(k, width)` of one text less the share that the codes at each of `k` `places` have in them."""
        vectors, whole = self.table.weight[contents.values], self(contents)
        n = max(1, len(contents.values))
        return torch.cat([whole, *(whole - vectors[at].sum(0, keepdim=True) / n for at in places)])[1:]


class TextCNN(nn.Module):
    """What windows of a few words find anywhere in a text: one layer of convolutions, and the maximum over the text.

    Kim, "Convolutional neural networks for sentence classification" (2014), section 2, with words that are learned from
    scratch. A window may extend past the end of its text. The result for a text does not depend on the other texts of
    the batch.

    Args:
        n_codes: codes of words are 1 to this number; 0 stands for no word.
        width: size of the output, divided among the windows.
        windows: their sizes in words.
        dim: of the words' vectors.

    Example:
        >>> encoder = TextCNN(10, 6)
        >>> encoder(Runs.group([0, 0, 2], [3, 7, 3], n=3)).shape
        torch.Size([3, 6])
    """

    def __init__(self, n_codes: int, width: int, windows: Sequence[int] = (2, 3, 4), dim: int = 32):
        super().__init__()
        self.table = _vectors(n_codes, dim)
        shares = [width // len(windows) + (j < width % len(windows)) for j in range(len(windows))]
        self.convs = nn.ModuleList(nn.Conv1d(dim, n, size) for n, size in zip(shares, windows, strict=True))

    def forward(self, contents: Runs) -> Tensor:
        codes = contents.padded()
        if codes.shape[1] == 0:
            return self.table.weight.new_zeros(len(codes), sum(conv.out_channels for conv in self.convs))
        words = F.embedding(codes, self.table.weight, padding_idx=0).transpose(1, 2)  # (m, dim, longest)
        inside = torch.arange(codes.shape[1], device=codes.device) < contents.lengths[:, None]
        found = [conv(F.pad(words, (0, conv.kernel_size[0] - 1))).relu() for conv in self.convs]
        return torch.cat([(part * inside[:, None]).amax(2) for part in found], dim=1)

    def without(self, contents: Runs, places: list[Tensor]) -> Tensor:
        """The numbers `(k, width)` of one text with no word at each of `k` `places` (occlusion)."""
        texts = contents.values.repeat(len(places), 1)
        for j, at in enumerate(places):
            texts[j, at] = 0
        start = torch.arange(len(places) + 1, device=texts.device) * texts.shape[1]
        return self(Runs(start, texts.reshape(-1)))


class PictureCNN(nn.Module):
    """A small convolutional network: 3 x 3 convolutions that halve the picture each, then the mean and the maximum.

    They are normalised in groups (Wu and He, "Group normalization", 2018), so the result for a picture does not depend
    on the others of the batch. Several pictures of an id count as their mean.

    Args:
        width: size of the output.
        channels: of the convolutions.

    Example:
        >>> encoder = PictureCNN(6)
        >>> pictures = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
        >>> encoder(Runs(torch.tensor([0, 1, 1, 2]), pictures)).shape  # the second id has none
        torch.Size([3, 6])
    """

    def __init__(self, width: int, channels: Sequence[int] = (16, 32, 64)):
        super().__init__()
        blocks: list[nn.Module] = []
        before = 3
        for n in channels:
            blocks += [nn.Conv2d(before, n, 3, stride=2, padding=1, bias=False), nn.GroupNorm(8, n), nn.ReLU()]
            before = n
        self.blocks, self.out = nn.Sequential(*blocks), nn.Linear(2 * before, width)

    def forward(self, contents: Runs) -> Tensor:
        if len(contents.values) == 0:
            return self.out.weight.new_zeros(len(contents), self.out.out_features)
        found = self.blocks(contents.values.to(self.out.weight.dtype) / 127.5 - 1)
        vectors = self.out(torch.cat([found.mean((2, 3)), found.amax((2, 3))], dim=1))
        sums = vectors.new_zeros(len(contents), vectors.shape[1]).index_add(0, contents.rows, vectors)
        return sums / contents.lengths.clamp(min=1)[:, None].to(sums.dtype)

    def without(self, contents: Runs, places: list[tuple[slice, slice]]) -> Tensor:
        """The numbers `(k, width)` of one id's pictures with its mean colour at each of `k` `places` (occlusion)."""
        whole, n = contents.values, len(contents.values)
        colour = whole.float().mean((0, 2, 3)).to(whole.dtype)[:, None, None]
        several = whole.repeat(len(places), 1, 1, 1)
        for j, (rows, columns) in enumerate(places):
            several[j * n : (j + 1) * n, :, rows, columns] = colour
        return self(Runs(torch.arange(len(places) + 1, device=whole.device) * n, several))


class TrainedEncoder:
    """The encoder of a feature, trained by one model, for use in another: `Model.encoder(name)` returns it.

    `Text(encoder=it)` computes the vectors once and trains on them as on dense features (`train='frozen'`, the
    default); `Text(encoder=it, train='end_to_end')` continues to train it. `Picture` works in the same way.

    Args:
        field: what the contents are.
        module: encodes them; copied.
    """

    def __init__(self, field, module: nn.Module):
        self.field = field
        self.module = copy.deepcopy(module).cpu().float().eval().requires_grad_(False)

    def __call__(self, contents: Sequence) -> np.ndarray:
        """The numbers `(n, width)` of `n` texts or pictures, as the column holds them; zeros where there are none."""
        encoded = self.field.by_kind.encode(self.field, pd.Series(list(contents), dtype=object))[0]
        return torch.cat([*encode_blocks(self.module, encoded), torch.zeros(0, self.field.width)]).numpy()

    def __repr__(self) -> str:
        return f"TrainedEncoder({self.field})"


@torch.no_grad()
def encode_blocks(module: nn.Module, contents: Runs) -> Iterator[Tensor]:
    """The output of `module` for `contents`, `(m, width)` per block, without gradients, in evaluation mode."""
    with evaluated(module):
        for first in range(0, len(contents), BLOCK):
            yield module(contents.of(slice(first, min(first + BLOCK, len(contents))))).float()


def _vectors(n: int, width: int) -> nn.Embedding:
    """Vectors of codes 1 to `n`; that of code 0, for none, is zero."""
    table = nn.Embedding(n + 1, width, _weight=torch.empty(n + 1, width).normal_(0, 0.1))
    with torch.no_grad():
        table.weight[0] = 0
    return table
