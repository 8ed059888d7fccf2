"""Lists by an engine (this process, Ray or Spark): the code of the workers, and the folders they read and write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from collabkit.data.checks import one_of, whole
from collabkit.data.notices import noting
from collabkit.serve.files import beside
from collabkit.serve.folder import CONFIG, find, sha256
from collabkit.serve.recommender import Recommender
from collabkit.serve.streamed import check_folder, new_folder, user_blocks

__all__ = ["ENGINES", "Lists", "lists_to"]

ENGINES = {"local": None, "ray": "ray", "spark": "pyspark"}  # by name, the required package
SHARE = 10_000  # users in a part, which one worker takes at once


class Lists:
    """The code of workers: lists for Arrow batches of users, from an artefact that each process loads once.

    `lists(batches)` is `Recommender.recommend_batches` from Arrow to Arrow. Other processes get only the artefact's
    path and its checksum; a worker that finds a different artefact there raises an error.

    Args:
        artefact: the folder, which all machines must see.
        k, **options: as in `Recommender.recommend_batches`.
        models: the class of its model, if it is not one of the library's.

    Attributes:
        column: the name of the users' column.
        schema: of the returned batches: the columns of `Recommender.recommend`.

    Raises:
        FileNotFoundError, BundleError: as in `Recommender.load`.
        TypeError, ValueError: as in `Recommender.recommend`, for errors that do not depend on the user.
    """

    def __init__(self, artefact: str | Path, k: int = 10, *, models=(), **options):
        self.folder, self.models = Path(artefact).expanduser().resolve(), tuple(models)
        self.k, self.options, self.digest = whole("k", k), options, _digest(self.folder)
        with noting():  # the workers report it, for all users
            some = next(self.recommender.recommend_batches(self.recommender.users.ids[:1], self.k, **options))
        self.schema = pa.Schema.from_pandas(some, preserve_index=False).remove_metadata()
        self.column = self.recommender.users.name

    @property
    def recommender(self) -> Recommender:
        """The artefact's recommender, loaded at its first use in a process."""
        return _loaded(self.folder, self.digest, self.models)

    def __call__(self, batches: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[pa.RecordBatch]:
        """The lists of batches with the users' column, one after the other; no batch without users.

        Raises:
            KeyError, TypeError, ValueError: as in `Recommender.recommend_batches`.
        """
        batches = (batch for batch in batches if batch.num_rows)
        first = next(batches, None)
        if first is None:
            return
        for table in self.recommender.recommend_batches(chain([first], batches), self.k, **self.options):
            yield from pa.Table.from_pandas(table, self.schema, preserve_index=False).cast(self.schema).to_batches()


def lists_to(
    engine: str, artefact: str | Path, folder: str | Path, users=None, k: int = 10, *, unknown: str = "raise",
    models=(), **options,
) -> Path:  # fmt: skip
    """`Recommender.recommend_to` of an artefact, by an engine; the lists do not depend on the engine.

    Ray and Spark write the parts in any order; a user's list stays together. The ids are read and checked in this
    process, and passed to the workers as parts in a folder next to `folder`, which all machines must see.

    Args:
        engine: `'local'`, `'ray'` (the cluster of `ray.init` or `RAY_ADDRESS`, else one on this machine) or `'spark'`
            (the current session, or one by Spark's configuration).
        artefact: the folder, which all machines must see.
        folder, users, k, unknown, **options: as in `Recommender.recommend_to`.
        models: the class of the artefact's model, if it is not one of the library's.

    Returns:
        The path of the folder.

    Raises:
        ImportError: the engine is not installed.
        ValueError: another engine; there are no users.
        FileExistsError, OSError, KeyError, TypeError: as in `Recommender.recommend_to`.

    Example:
        >>> lists_to('ray', 'model/', 'lists/', 'users/', k=20)   # doctest: +SKIP
    """
    one_of("engine", engine, ENGINES)
    check_folder(folder)
    if engine == "local":
        return Recommender.load(artefact, models).recommend_to(folder, users, k, unknown=unknown, **options)
    if find_spec(package := ENGINES[engine]) is None:
        raise ImportError(f"the engine {engine!r} needs the package {package}: pip install 'collabkit[{engine}]'")
    lists = Lists(artefact, k, unknown=unknown, models=models, **options)
    folder = Path(folder).expanduser().resolve()
    with new_folder(folder) as new, beside(folder.with_name(f"{folder.name}.users")) as parts:
        _write_users(parts / "users", users, lists, unknown)
        import_module(f"collabkit.serve.{engine}").write(lists, parts / "users", new)
    return folder


def _write_users(folder: Path, users, lists: Lists, unknown: str) -> None:
    """Write the ids as parts of one type, small enough to spread, or raise an error for invalid ids."""
    vocab, n = lists.recommender.users, 0
    kind = pa.array(vocab.ids[:1]).type
    folder.mkdir(parents=True)
    for ids in user_blocks(users, vocab, SHARE):
        vocab.encode(ids, unknown="raise" if unknown == "raise" else "zero")
        pq.write_table(pa.table({lists.column: pa.array(ids).cast(kind)}), folder / f"part-{n:05d}.parquet")
        n += 1
    if n == 0:
        raise ValueError(f"there are no users to recommend to: {users} has no rows")


def _digest(folder: Path) -> str:
    """The digest of config.json, which has the checksums of all files."""
    return sha256(find(folder) / CONFIG)


@lru_cache(maxsize=1)
def _loaded(folder: Path, digest: str, models: tuple) -> Recommender:
    found = Recommender.load(folder, models)
    if _digest(folder) != digest:
        raise ValueError(f"the artefact {folder} is not the one that was there when the work began: it was replaced, "
                         "or this machine has another at this path; give a folder that all machines see")  # fmt: skip
    return found
