"""`recommend_on_ray`: lists of the users in a dataset of Ray Data, by actors that load an artefact once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from collabkit.data.checks import whole
from collabkit.data.notices import MissingError
from collabkit.serve.engines import SHARE, Lists

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["recommend_on_ray", "write"]

CORES = 0.5  # reserved for an actor: with one actor per core, reading and writing still get cores and cannot starve


def recommend_on_ray(
    users: Dataset, artefact: str | Path, k: int = 10, *, n_workers: int | None = None, block: int = SHARE, models=(),
    **options,
) -> Dataset:  # fmt: skip
    """The lists of the users in a Ray dataset, as a new dataset, which is computed when it is read or written.

    Args:
        users: with the users' column; others are left out.
        artefact: the folder, which all machines must see.
        n_workers: number of actors, each with the artefact and one thread; the cluster needs at least two cores;
            default up to one per core.
        block: users that an actor takes at once.
        models: the class of the artefact's model, if it is not one of the library's.
        k, **options: as in `Recommender.recommend_batches`.

    Returns:
        A dataset with the columns of `Recommender.recommend`; lists are in any order, each sorted by rank.

    Raises:
        KeyError: there is no user column. Unknown users are found by actors, whose error Ray wraps.
        FileNotFoundError, BundleError, TypeError, ValueError: as in `Recommender.load` and `recommend_batches`.

    Example:
        >>> users = ray.data.read_parquet('s3://bucket/users/')                       # doctest: +SKIP
        >>> lists = recommend_on_ray(users, '/shared/artefact', k=20, n_workers=8)    # doctest: +SKIP
        >>> lists.write_parquet('s3://bucket/lists/')                                 # doctest: +SKIP
    """
    lists = Lists(artefact, k, models=models, **options)
    if lists.column not in (columns := users.columns()):
        raise MissingError(f"the users must be in the column {lists.column!r}; the data set has {columns}")
    return _mapped(users.select_columns([lists.column]), lists, n_workers, block)


def write(lists: Lists, users: Path, folder: Path) -> None:
    """Write the lists of the users in a folder of Parquet, which has no other column, to another folder."""
    try:
        import ray.data
    except ImportError as error:
        raise ImportError(f"lists by Ray need Ray Data ({error}): pip install 'collabkit[ray]'") from error
    # Works on one core too: ids are read before there are actors, and the writer fits next to one.
    ids = ray.data.read_parquet(str(users)).materialize()
    _mapped(ids, lists, None, SHARE).write_parquet(str(folder), ray_remote_args={"num_cpus": 1 - CORES})


def _mapped(users: Dataset, lists: Lists, n_workers: int | None, block: int) -> Dataset:
    from ray import cluster_resources
    from ray.data import ActorPoolStrategy

    if n_workers is None:
        size = {"min_size": 1, "max_size": max(1, int(cluster_resources().get("CPU", 1)))}
    else:
        size = {"size": whole("n_workers", n_workers)}
    return users.map_batches(
        _Actor, fn_constructor_args=(lists,), batch_format="pyarrow", batch_size=whole("block", block),
        compute=ActorPoolStrategy(**size), num_cpus=CORES,
    )  # fmt: skip


class _Actor:
    """`Lists` as a Ray actor: the artefact is loaded with the actor, not with the first batch."""

    def __init__(self, lists: Lists):
        self.lists = lists
        _ = lists.recommender

    def __call__(self, users: pa.Table) -> Iterator[pa.Table]:
        yield pa.Table.from_batches(self.lists([users]), self.lists.schema)
