"""Data larger than memory: Parquet files, encoded by Polars into a cache of mapped columns, as a `Dataset`."""

from collabkit.data.streaming.dataset import stream_dataset

__all__ = ["stream_dataset"]
