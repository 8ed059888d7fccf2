"""The data for `CollabDataLoaders.from_parquet(stream=True)`."""

from __future__ import annotations

from pathlib import Path

from collabkit.data.dataset import Dataset
from collabkit.data.feedback import Implicit, read_feedback
from collabkit.data.frames import to_pandas
from collabkit.data.prepare import table_columns
from collabkit.data.streaming import stream_dataset
from collabkit.datasets.parquet import head_of, parquet_parts, read_schemas

__all__ = ["streamed"]

_SPLIT = ("valid_pct", "seed", "splitter")
_SIDES = ("users", "items", "user_features", "item_features")
_LOADER = ("path", "seed", "bs", "val_bs", "shuffle", "drop_last", "device")
_FEEDBACK = {"threshold": "rating_threshold", "n_neg": "n_neg", "negatives": "negatives", "by_user": "by_user",
             "history": "history"}  # fmt: skip
_NAMES = ("user_name", "item_name", "rating_name", "time_name")


def streamed(file: str | Path, cache: str | Path, given: dict) -> tuple[Dataset, Implicit | None, dict]:
    """The data, the feedback and the options of `from_dataset`; `given` are the keywords of `from_df`.

    Raises:
        ValueError: an option that a stream does not support.
        TypeError: an unknown argument.
    """
    if odd := [name for name in ("weights", "context_features") if given.get(name)]:
        raise ValueError(f"stream=True does not take {', '.join(odd)}: leave it out, or read the files in memory")
    known = {*_SPLIT, *_SIDES, *_LOADER, *_NAMES, *_FEEDBACK.values(), "feedback", "weights", "context_features"}
    if odd := sorted(set(given) - known):
        raise TypeError(f"from_parquet() has no argument {', '.join(odd)}")
    fields = {name: given.get(word) for name, word in _FEEDBACK.items()}
    feedback = read_feedback(given.get("feedback", "explicit"), **fields)
    if feedback is not None and (feedback.counts or feedback.dislikes):
        raise ValueError("stream=True does not take counts= and dislikes=: leave them out, or read the files in memory")
    parts = parquet_parts(file)
    schemas = read_schemas(parts)
    columns = table_columns(head_of(file), *(given.get(name) for name in _NAMES), (), feedback)
    if feedback is not None and columns.rating is not None and feedback.threshold is None:
        raise ValueError(f"every row is a positive, whatever its {columns.rating!r}: pass rating_threshold=, or leave "
                         "rating_name= out")  # fmt: skip
    options = {name: given[name] for name in (*_SPLIT, *_SIDES) if name in given}
    options |= {name: to_pandas(options[name]) for name in ("users", "items") if name in options}
    data = stream_dataset(parts, schemas, columns, cache, feedback=feedback, **options)
    return data, feedback, {name: given[name] for name in _LOADER if name in given}
