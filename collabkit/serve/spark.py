"""`recommend_on_spark`: lists of the users in a Spark DataFrame, by Python workers that load an artefact once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from collabkit.data.notices import MissingError
from collabkit.serve.engines import Lists

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["recommend_on_spark", "write"]


def recommend_on_spark(users: DataFrame, artefact: str | Path, k: int = 10, *, models=(), **options) -> DataFrame:
    """The lists of the users in a Spark DataFrame, as a new DataFrame, which is computed when it is read or written.

    Args:
        users: with the users' column; others are left out. Each task works on one of its partitions.
        artefact: the folder, which all machines must see. A Python worker loads it once and keeps it for later tasks.
        models: the class of the artefact's model, if it is not one of the library's.
        k, **options: as in `Recommender.recommend_batches`.

    Returns:
        A DataFrame with the columns of `Recommender.recommend`; lists are in any order, each sorted by rank.

    Raises:
        KeyError: there is no user column. Unknown users are found by tasks, whose error Spark wraps.
        FileNotFoundError, BundleError, TypeError, ValueError: as in `Recommender.load` and `recommend_batches`.

    Example:
        >>> users = spark.table('users').repartition(64)                      # doctest: +SKIP
        >>> lists = recommend_on_spark(users, '/shared/artefact', k=20)       # doctest: +SKIP
        >>> lists.write.parquet('s3a://bucket/lists/')                        # doctest: +SKIP
    """
    return _mapped(users, Lists(artefact, k, models=models, **options))


def write(lists: Lists, users: Path, folder: Path) -> None:
    """Write the lists of the users in a folder of Parquet to another folder."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # for workers, which otherwise use the first python3 found
    session = SparkSession.builder.appName("collabkit recommend").getOrCreate()
    _mapped(session.read.parquet(users.as_uri()), lists).write.parquet(folder.as_uri())


def _mapped(users: DataFrame, lists: Lists) -> DataFrame:
    from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

    if lists.column not in users.columns:
        raise MissingError(f"the users must be in the column {lists.column!r}; the data frame has {users.columns}")
    schema = from_arrow_schema(lists.schema)
    kinds = to_arrow_schema(schema, timezone="UTC")

    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in lists(batches):
            yield batch.cast(kinds)

    return users.select(f"`{lists.column}`").mapInArrow(work, schema)
