"""Vectors of contents by an external encoder: computed once, checked, and cached by content."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["VectorStore", "digest", "evaluated"]

_CLOSE = 1e-2  # by how much of its length a vector may differ when its content is encoded alone


def digest(*parts: bytes) -> bytes:
    """The key of a content."""
    found = blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.digest()


class VectorStore:
    """An encoder with a cache of its vectors, by content, in memory and in a folder.

    Args:
        encode: from `m` contents to `(m, d)` numbers.
        folder: where vectors are kept for other runs, for this encoder only; created if needed.
        module: the encoder's module, if any, which is put into evaluation mode meanwhile.
    """

    def __init__(self, encode: Callable, folder: str | Path | None = None, module=None):
        self.module = module if isinstance(module, nn.Module) else None
        self.encode, self.folder = encode, None if folder is None else Path(folder).expanduser()
        self.known: dict[bytes, np.ndarray] = {}
        self._read = self._compared = folder is None

    def __call__(self, name: str, contents: Sequence, keys: list[bytes], *, probe: bool) -> np.ndarray:
        """The vectors `(m, d)` float32 of `m` contents, identified by `keys` `(m,)`.

        Args:
            name: of the feature.
            probe: encode a few again, each alone, to check that the vectors are the same.

        Raises:
            ValueError: the number of vectors differs from that of contents; NaN; several widths; vectors in another
                order, or that depend on the other contents; a folder of another encoder.
        """
        self._load()
        new = list({key: j for j, key in enumerate(keys) if key not in self.known}.values())
        if new:
            found = self._encoded(name, contents, new)
            if probe:
                for at in sorted({0, len(new) // 2, len(new) - 1}):
                    self._compare(name, found[at], self._encoded(name, contents, [new[at]])[0], "among others")
            self.known |= {keys[j]: vector for j, vector in zip(new, found, strict=True)}
            self._save([keys[j] for j in new], found)
        if not self._compared and (old := next((j for j in range(len(keys)) if j not in set(new)), None)) is not None:
            alone = self._encoded(name, contents, [old])[0]
            self._compare(name, self.known[keys[old]], alone, f"in the folder {self.folder}")
            self._compared = True
        vectors = [self.known[key] for key in keys]
        if odd := {vector.shape[0] for vector in vectors} - {vectors[0].shape[0]}:
            raise ValueError(f"the encoder of {name!r} gives vectors of {vectors[0].shape[0]} numbers and of "
                             f"{sorted(odd)}: all must have one length")  # fmt: skip
        return np.stack(vectors)

    def _encoded(self, name: str, contents: Sequence, at: list[int]) -> np.ndarray:
        given = contents[at] if isinstance(contents, (Tensor, np.ndarray)) else [contents[j] for j in at]
        with torch.no_grad(), evaluated(self.module):
            found = self.encode(given)
        found = found.detach().cpu().float().numpy() if isinstance(found, Tensor) else np.asarray(found)
        if found.dtype.kind not in "fiu" or found.ndim != 2 or found.shape[0] != len(at) or found.shape[1] == 0:
            raise ValueError(f"the encoder of {name!r} must give a row of numbers for each of {len(at)} contents, got "
                             f"{found.dtype} of shape {found.shape}")  # fmt: skip
        if bad := (~np.isfinite(found).all(1)).sum():
            raise ValueError(f"the encoder of {name!r} gives NaN or infinite numbers for {bad:,} of {len(at):,}")
        return found.astype(np.float32)

    def _compare(self, name: str, kept: np.ndarray, alone: np.ndarray, where: str) -> None:
        near = kept.shape == alone.shape and np.linalg.norm(kept - alone) <= _CLOSE * max(np.linalg.norm(alone), 1e-6)
        if not near:
            raise ValueError(f"the encoder of {name!r} gives another vector alone than {where}: it must keep "
                             "the order of the contents, be deterministic, and stay the same encoder")  # fmt: skip

    def _load(self) -> None:
        if self._read:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.glob("vectors-*.npz")):
            with np.load(path, allow_pickle=False) as file:
                keys, vectors = file["keys"], file["vectors"]
            self.known |= {key.tobytes(): vector for key, vector in zip(keys, vectors, strict=True)}
        self._read, self._compared = True, not self.known

    def _save(self, keys: list[bytes], vectors: np.ndarray) -> None:
        if self.folder is None:
            return
        rows = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
            np.savez(file, keys=rows, vectors=vectors)
        os.replace(file.name, self.folder / f"vectors-{digest(*keys).hex()}.npz")


@contextmanager
def evaluated(module: nn.Module | None) -> Iterator[None]:
    """Within it `module` is in evaluation mode."""
    was = module is not None and module.training
    if was:
        module.eval()
    try:
        yield
    finally:
        if was:
            module.train()
