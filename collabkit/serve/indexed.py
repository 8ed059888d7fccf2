"""The index of a `Recommender`: measured, cached, and stored with the artefact's files."""

import hashlib
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from collabkit.data.runs import Runs
from collabkit.models.base import Model, answering
from collabkit.retrieval.faiss_index import FaissIndex
from collabkit.retrieval.index import Index, judged_index
from collabkit.retrieval.pick_index import Picked, pick_index
from collabkit.serve.files import beside, digest
from collabkit.serve.folder import INDEX

if TYPE_CHECKING:
    from collabkit.serve.recommender import Recommender

__all__ = ["NAMES", "Search", "pick", "stored", "write_index"]

NAMES = ("auto", "faiss")
FORMAT = 1


class Search:
    """Searches with an index of a model's item vectors, which is rebuilt when they change.

    Args:
        make: from vectors `(n_items, d)` to an `Index`.
        k, min_recall, n_queries: the check of its recall, see `Recommender.use_index`.
        seed: of the users for the check; None for the first ones.
    """

    def __init__(self, make: Callable[[Tensor], Index], k: int, min_recall: float, n_queries: int, seed=None):
        self.make, self.k, self.min_recall, self.n_queries, self.seed = make, k, min_recall, n_queries, seed
        self.vectors: Tensor | None = None
        self.judged: tuple[Index, float] | None = None

    def ready(self, recommender: "Recommender") -> tuple[Index, float]:
        """The index of the current model, and its recall.

        Raises:
            ValueError: the recall is too low.
        """
        vectors = item_vectors(recommender.model)
        if self.judged is None or self.vectors.shape != vectors.shape or not torch.equal(self.vectors, vectors):
            queries, hidden = asked(recommender, drawn(recommender, self.n_queries, self.seed))
            self.judged = judged_index(self.make, vectors, queries, self.k, hidden, self.min_recall)
            self.vectors = vectors
        return self.judged


@torch.no_grad()
def item_vectors(model: Model) -> Tensor:
    """The vectors of all items, `(n_items, d)` float32 on the CPU."""
    if not model.has_vectors:
        raise TypeError(
            f"the score of {type(model).__name__} is not a dot product, so no index finds the best: search exactly"
        )
    with answering(model):
        return model.item_vectors(torch.arange(model.n_items, device=model.device)).float().cpu()


def drawn(recommender: "Recommender", n: int, seed: int | None) -> Tensor:
    """The indices of `n` users, ascending, drawn by a seed; None: the first ones."""
    users = torch.arange(1, len(recommender.users))
    if seed is None:
        return users[:n]
    return users[torch.randperm(len(users), generator=torch.Generator().manual_seed(seed))[:n].sort().values]


@torch.no_grad()
def asked(recommender: "Recommender", users: Tensor) -> tuple[Tensor, Runs]:
    """The current vectors of users at indices, and the items hidden from each."""
    model = recommender.model
    with answering(model):
        queries = model.user_vectors(recommender.query(users).to(model.device)).float().cpu()
    return queries, recommender.data.seen.of(users)


def pick(recommender: "Recommender", name: str, **options) -> tuple[Search | None, Picked]:
    """The search of `use_index(name)`, None for exact search; and the measurements."""
    n_queries = options.pop("n_queries")
    vectors = item_vectors(recommender.model)
    queries, hidden = asked(recommender, drawn(recommender, n_queries, 0))
    picked = pick_index(vectors, queries, hidden, exact=name == "auto", **options)
    return _search(picked, vectors, options["k"], options["min_recall"], n_queries), picked


def _search(picked: Picked, vectors: Tensor, k: int, min_recall: float, n_queries: int) -> Search | None:
    if picked.index is None:
        return None
    make = partial(FaissIndex, kind=picked.kind, effort=picked.effort)
    search = Search(make, k, min_recall, n_queries, seed=0)
    search.vectors, search.judged = vectors, (picked.index, picked.recall)
    return search


def write_index(folder: Path, picked: Picked, vectors: Tensor) -> None:
    """Write the chosen index into an artefact's folder, each file complete or not at all, the small one last."""
    content = None if picked.index is None else picked.index.to_bytes()
    table = picked.report.reset_index()
    told = {"format": FORMAT, "kind": picked.kind, "effort": picked.effort, "recall": picked.recall,
            "vectors": digest({"items": vectors}, ""),
            "sha256": None if content is None else hashlib.sha256(content).hexdigest(),
            "report": json.loads(table.to_json(orient="records")), "about": picked.report.attrs}  # fmt: skip
    for name, data in zip(reversed(INDEX), (content, json.dumps(told, indent=2).encode()), strict=True):
        if data is None:
            (folder / name).unlink(missing_ok=True)
            continue
        with beside(folder / name) as new:
            new.write_bytes(data)
            os.replace(new, folder / name)


def stored(folder: Path, recommender: "Recommender", *, exact: bool) -> tuple[Search | None, Picked] | None:
    """The index that `write_index` stored in a folder, if it is for this model's vectors; None if there is none.

    Its recall is checked again on some users.

    Raises:
        ValueError: it is damaged.
    """
    try:
        told = json.loads((folder / INDEX[0]).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{folder / INDEX[0]} is damaged ({error}): remove it, and measure again") from error
    vectors = item_vectors(recommender.model)
    mine = told.get("format") == FORMAT and told["vectors"] == digest({"items": vectors}, "")
    if not mine or (told["kind"] == "exact" and not exact):
        return None
    report, about = pd.DataFrame(told["report"]).set_index("index"), told["about"]
    report.attrs = about
    if told["kind"] == "exact":
        return None, Picked(None, "exact", 0, 1.0, report)
    content = (folder / INDEX[1]).read_bytes() if told["sha256"] else None
    if content is not None and hashlib.sha256(content).hexdigest() != told["sha256"]:
        raise ValueError(f"{folder / INDEX[1]} does not match its checksum: remove it, and measure again")
    index = FaissIndex.from_bytes(vectors, told["kind"], told["effort"], content)
    queries, hidden = asked(recommender, drawn(recommender, 100, 1))
    judged_index(lambda _: index, vectors, queries, about["k"], hidden, about["min_recall"] - 0.05)  # fewer users
    picked = Picked(index, told["kind"], told["effort"], told["recall"], report)
    return _search(picked, vectors, about["k"], about["min_recall"], about["n_queries"]), picked
