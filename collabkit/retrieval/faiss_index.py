"""`FaissIndex`: faiss as an `Index`, whose lists are complete even if many items are hidden."""

import time
from importlib import import_module
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from collabkit.data.checks import one_of
from collabkit.data.runs import Runs
from collabkit.retrieval.ranking import block_size, top_k

__all__ = ["EFFORTS", "FaissIndex", "TooSlowError", "of_equal_length"]

EFFORTS = {  # by kind, the efforts to try, least first: cells probed, or candidates kept in the graph
    "flat": (0,),
    "ivf": (4, 8, 16, 32, 64, 128, 256),
    "hnsw": (32, 64, 128, 256, 512),
    "hnsw of equal lengths": (32, 64, 128, 256, 512),
}
LINKS, CARE = 32, 80  # edges of a vector in a graph, and candidates kept while it is built
PIECE = 20_000  # vectors added between two looks at the clock
WIDE = 4096  # number of a user's hidden items from which search is exact


class TooSlowError(RuntimeError):
    """An index takes too long to build."""


class FaissIndex:
    """An index of faiss: `flat` (exact), `ivf` (cells), `hnsw` (a graph of inner products), or `hnsw of equal lengths`.

    The last is a graph of distances in which each vector gets one more number, so that all have the same length: then
        the nearest ones have the largest products (Bachrach et al., "Speeding up the Xbox recommender system", 2014).

    As many more items are fetched as a user has hidden ones, and if fewer than `k` of the results are left, the row is
    searched exactly, as are allow lists. Scores are the products with the given vectors.

    Args:
        vectors: `(n_items, d)`, the unknown item at 0.
        kind, effort: of `EFFORTS`.
        built: faiss' own index of these vectors, if it already exists.
        seconds: maximum time to build.

    Raises:
        ImportError: faiss is missing.
        ValueError: another kind; too few items for cells.
        TooSlowError: building takes longer.

    Example:
        >>> index = FaissIndex(torch.randn(500, 8), 'hnsw')            # doctest: +SKIP
        >>> index.search(torch.randn(3, 8), k=10)[0].shape             # doctest: +SKIP
        torch.Size([3, 10])
    """

    def __init__(self, vectors: Tensor, kind: str = "flat", effort: int | None = None, *, built=None,
                 seconds: float = np.inf):  # fmt: skip
        one_of("kind", kind, EFFORTS)
        self.faiss, self.kind = faiss(), kind
        self.effort = EFFORTS[kind][-1] if effort is None else effort
        self.vectors = vectors.detach().float().cpu().contiguous()
        self.equal = kind == "hnsw of equal lengths"
        self.built = self._build(time.perf_counter() + seconds) if built is None else built
        if self.built.ntotal != len(vectors) - 1 or self.built.d != vectors.shape[1] + self.equal:
            raise ValueError(f"the index has {self.built.ntotal:,} vectors of {self.built.d}, made of others")

    def _build(self, until: float):
        rows, library = self.vectors[1:].numpy(), self.faiss
        n, d = rows.shape
        if self.equal:
            rows = of_equal_length(rows)
        if self.kind == "flat":
            index = library.IndexFlatIP(d)
        elif self.kind == "ivf":
            cells = min(int(4 * np.sqrt(n)), n // 39)  # faiss needs 39 vectors per cell for training
            if cells < 2:
                raise ValueError(f"{n} items are too few for cells")
            index = library.index_factory(d, f"IVF{cells},Flat", library.METRIC_INNER_PRODUCT)
            index.cp.niter, index.cp.max_points_per_centroid, index.cp.seed = 8, 64, 0
            index.train(rows)
        else:
            metric = library.METRIC_L2 if self.equal else library.METRIC_INNER_PRODUCT
            index = library.IndexHNSWFlat(d + self.equal, LINKS, metric)
            index.hnsw.efConstruction = CARE
        start = time.perf_counter()
        for first in range(0, n, PIECE):
            index.add(rows[first : first + PIECE])
            spent = time.perf_counter() - start
            if start + spent * n / min(first + PIECE, n) > until:  # an estimate, as a graph gets slower as it grows
                raise TooSlowError(f"building takes more than {spent * n / min(first + PIECE, n):,.0f} s")
        return index

    def search(
        self, vectors: Tensor, k: int, hidden: Runs | None = None, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Index.search`."""
        if allowed is not None:
            return self._exactly(vectors, k, hidden, allowed)
        items, scores, short = self.found(vectors, k, hidden)
        if bool(short.any()):
            rows = short.nonzero().squeeze(1)
            rest = None if hidden is None else hidden.of(rows)
            items[rows], scores[rows] = self._exactly(vectors[rows], k, rest, None)
        return items, scores

    def found(self, vectors: Tensor, k: int, hidden: Runs | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Items and scores as in `search`, and the rows `(b,)` for which the index finds too few."""
        n, b = len(self.vectors) - 1, len(vectors)
        lengths = torch.zeros(b, dtype=torch.int64) if hidden is None else hidden.lengths
        wanted = (lengths + min(k, n)).clamp(max=n)
        items, k = torch.zeros(b, k, dtype=torch.int64), min(k, n)
        size = (wanted - 1).clamp(min=1).log2().floor()  # rows that need similarly many are searched together
        for value in size.unique():
            rows = (size == value).nonzero().squeeze(1)
            if int(wanted[rows].max()) <= WIDE + k or self.kind == "flat":
                seen = None if hidden is None else hidden.of(rows)
                items[rows, :k] = self._listed(vectors[rows], k, int(wanted[rows].max()), seen)
        scores = torch.einsum("bd,bkd->bk", vectors.float(), self.vectors[items])
        scores = scores.masked_fill(items == 0, -torch.inf)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        left = torch.minimum(n - lengths, torch.tensor(k))
        return items.gather(1, order), scores, (items > 0).sum(1) < left

    def _listed(self, vectors: Tensor, k: int, size: int, hidden: Runs | None) -> Tensor:
        """The first `k` of `size` items that faiss finds, except hidden ones; 0 if there are no more."""
        asked = vectors.detach().float().numpy()
        if self.equal:
            asked = np.concatenate([asked, np.zeros((len(asked), 1), np.float32)], axis=1)
        items = self.built.search(np.ascontiguousarray(asked), size, params=self._options(size))[1] + 1
        keep = items > 0
        if hidden is not None and len(hidden.values):
            width = len(self.vectors)
            keys = np.arange(len(items))[:, None] * width + items
            keep &= ~np.isin(keys, (hidden.rows * width + hidden.values).numpy())
        order = np.argsort(~keep, axis=1, kind="stable")[:, :k]
        return torch.from_numpy(np.take_along_axis(items * keep, order, 1))

    def _options(self, size: int):
        if self.kind == "flat":
            return None
        if self.kind == "ivf":
            return self.faiss.SearchParametersIVF(nprobe=min(self.effort, self.built.nlist))
        return self.faiss.SearchParametersHNSW(efSearch=max(self.effort, size))

    def _exactly(self, vectors: Tensor, k: int, hidden: Runs | None, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
        candidates = torch.arange(1, len(self.vectors)) if allowed is None else allowed
        rows = self.vectors[1:] if allowed is None else self.vectors[allowed]
        options = {"n_items": len(self.vectors), "hidden": hidden, "block": block_size(len(candidates), "512MB")}
        best, scores = top_k(
            lambda at: vectors[at].float() @ rows.T, torch.arange(len(vectors)), candidates, k, **options
        )
        short = k - best.shape[1]  # fewer candidates than requested
        pad = torch.nn.functional.pad
        return pad(best, (0, short)), pad(scores, (0, short), value=-torch.inf)

    def to_bytes(self) -> bytes | None:
        """faiss' own index as bytes; None if rebuilding it is as fast."""
        return None if self.kind == "flat" else self.faiss.serialize_index(self.built).tobytes()

    @classmethod
    def from_bytes(cls, vectors: Tensor, kind: str, effort: int, content: bytes | None) -> "FaissIndex":
        """The index of `vectors` from the bytes of `to_bytes`, which must be trusted.

        Raises:
            ValueError: it is damaged, or of other vectors.
        """
        if content is None:
            return cls(vectors, kind, effort)
        try:
            built = faiss().deserialize_index(np.frombuffer(content, np.uint8))
        except RuntimeError as error:
            raise ValueError(f"the index is damaged: {error}") from error
        return cls(vectors, kind, effort, built=built)


def of_equal_length(vectors: np.ndarray) -> np.ndarray:
    """Vectors `(n, d)` with one more number, which gives all the same length: `(n, d + 1)` float32.

    Example:
        >>> of_equal_length(np.array([[3., 4.], [0., 4.]])).tolist()
        [[3.0, 4.0, 0.0], [0.0, 4.0, 3.0]]
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    rest = np.sqrt(np.maximum(lengths.max(initial=0) ** 2 - lengths**2, 0))
    return np.concatenate([vectors, rest[:, None]], axis=1, dtype=np.float32)


def faiss() -> ModuleType:
    """The module `faiss`, or an error that says what to install."""
    try:
        return import_module("faiss")
    except ImportError as error:
        raise ImportError("this index needs faiss: pip install 'collabkit[faiss]'; or search exactly") from error
