"""`OnnxModel`: a model written by `to_onnx`, run with ONNX Runtime and NumPy alone; no torch, no pandas."""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

__all__ = ["OnnxModel", "read_meta"]

META, FORMAT = "collabkit", 1
BLOCK = 64  # queries of similar length that are run at once


class OnnxModel:
    """Scores, lists or vectors from a file of `to_onnx`. Any number of threads may use it.

    Args:
        file: its path, or its bytes.
        item_vectors: `(n_items, d)` float32, the unknown item at 0: with them `logits` works for a file of vectors
            (`'encoder'`, `'vectors'`).
        threads: number of threads of ONNX Runtime per call.

    Raises:
        ImportError: ONNX Runtime is missing.
        ValueError: the file was not written by `to_onnx`, or by a newer version; the number of vectors is wrong.

    Example:
        >>> model = OnnxModel('vectors.onnx', item_vectors)      # doctest: +SKIP
        >>> model.logits(history=[[3, 7, 5], [12]])              # doctest: +SKIP
    """

    def __init__(self, file: str | Path | bytes, item_vectors: np.ndarray | None = None, *, threads: int = 1):
        self.session, self.meta = _open(file, threads)
        if item_vectors is not None and len(item_vectors) != self.meta["n_items"]:
            raise ValueError(f"{len(item_vectors):,} item vectors for a model of {self.meta['n_items']:,} items, the "
                             "unknown one included")  # fmt: skip
        self.item_vectors = item_vectors

    what = property(lambda self: self.meta["what"], doc="What the file answers, see `to_onnx`.")
    inputs = property(lambda self: tuple(self.meta["inputs"]), doc="Names of the tensors that it asks for.")

    def logits(self, users=None, *, history: Sequence | None = None, context: Mapping | None = None) -> np.ndarray:
        """The logits `(b, n_items)` float32 of all items, that of the unknown item in column 0.

        Args:
            users: `(b,)` user indices; default 0, the unknown user.
            history: `b` sequences of item indices, the latest last.
            context: by field, codes `(b,)` or numbers `(b, size)`; missing fields are unknown.

        Raises:
            ValueError: the file holds something else; a required input is missing; an index is out of range.
        """
        if self.what == "logits":
            return self._ask(users, history, context)[0]
        if self.item_vectors is None:
            raise ValueError(f"the file holds {self.what!r}: give item_vectors=, or export 'logits'")
        return self.vectors(users, history=history, context=context) @ self.item_vectors.T

    def vectors(self, users=None, *, history: Sequence | None = None, context: Mapping | None = None) -> np.ndarray:
        """The vectors `(b, d)` float32 of users; arguments as in `logits`."""
        if self.what not in ("encoder", "vectors"):
            raise ValueError(f"the file holds {self.what!r} and no vectors of users")
        return self._ask(users, history, context)[0]

    def run(self, **tensors: np.ndarray) -> list[np.ndarray]:
        """The outputs of the graph for its own inputs, by name with `.` as `__`; see `meta['inputs']`."""
        return self.session.run(None, {name.replace("__", "."): value for name, value in tensors.items()})

    def _ask(self, users, history, context) -> list[np.ndarray]:
        users, history, context, n = self._checked(users, history, context)
        if n == 0:  # the result of one query has the shape that an empty result needs
            return [part[:0] for part in self._ask([0], None, {})]
        order = np.argsort([len(run) for run in history], kind="stable") if history is not None else np.arange(n)
        found = None
        for at in _blocks(order):
            given = {"users": users[at], **{name: values[at] for name, values in context.items()}}
            if history is not None:
                given |= _padded([history[j] for j in at])
            answers = self.session.run(None, {name: given[name] for name in self.inputs})
            if found is None:
                found = [np.empty((n, *part.shape[1:]), part.dtype) for part in answers]
            for target, part in zip(found, answers, strict=True):
                target[at] = part
        return found

    def _checked(self, users, history, context) -> tuple[np.ndarray, list | None, dict, int]:
        """Users `(n,)`, the last events of histories, and moments `(n, ...)`, all of one length."""
        if odd := [name for name in self.inputs if name in ("items", "hidden", "time") or name.startswith("feature.")]:
            raise ValueError(f"the file asks for {odd}: use run()")
        if users is None and history is None:
            raise ValueError("give users= or history=")
        n = len(history) if users is None else len(users)
        users = _indices(np.zeros(n, np.int64) if users is None else users, "user", self.meta["n_users"])
        if "history" not in self.inputs and history is not None:
            raise ValueError("the model reads no histories; give users=")
        if "history" in self.inputs:
            history = [[]] * n if history is None else history
            if len(history) != n:
                raise ValueError(f"{n:,} users with {len(history):,} histories")
            last = self.meta["length"]
            history = [_indices(run, "item", self.meta["n_items"])[-last:] for run in history]
        return users, history, self._moments(context or {}, n), n

    def _moments(self, context: Mapping, n: int) -> dict[str, np.ndarray]:
        """The values of the context's fields by the names of the inputs; unknown if not given."""
        fields = {name.partition(".")[2]: field for name, field in self.meta["fields"].items()
                  if name.startswith("context.")}  # fmt: skip
        if odd := sorted(set(context) - set(fields)):
            raise ValueError(f"there is no context {odd}; the model has {sorted(fields)}")
        found = {}
        for name, field in fields.items():
            kind = np.int64 if field["one_code"] else np.float32
            shape = (n,) if field["one_code"] else (n, field["size"])
            values = np.asarray(context[name] if name in context else field["unknown"], dtype=kind)
            if name in context and values.shape != shape:
                raise ValueError(f"context {name!r} must be of shape {shape}, got {values.shape}")
            if field["one_code"] and values.size and not 0 <= values.min() <= values.max() < field["size"]:
                raise ValueError(f"context {name!r} has codes outside 0..{field['size'] - 1}")
            found[f"context.{name}"] = np.ascontiguousarray(np.broadcast_to(values, shape))
        return found


def read_meta(file: str | Path | bytes) -> dict:
    """The metadata in a file of `to_onnx`; errors as in `OnnxModel`."""
    return _open(file, 1)[1]


def _runtime() -> ModuleType:
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise ImportError("this model needs ONNX Runtime: pip install 'collabkit[onnx]'") from error


def _open(file: str | Path | bytes, threads: int):
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source, name = (file, "the file") if isinstance(file, bytes) else (str(file), str(file))
    if not isinstance(file, bytes) and not Path(file).exists():
        raise FileNotFoundError(f"there is no file {name}")
    try:
        session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        meta = json.loads(session.get_modelmeta().custom_metadata_map[META])
    except Exception as error:  # the runtime has many error types
        raise ValueError(f"{name} was not written by collabkit's to_onnx: {error}") from error
    if not isinstance(meta.get("format"), int) or meta["format"] > FORMAT:
        raise ValueError(f"{name} has format {meta.get('format')!r}, this collabkit reads up to {FORMAT}; update it")
    return session, meta


def _indices(values, what: str, n: int) -> np.ndarray:
    found = np.asarray(values, dtype=np.int64).reshape(-1)
    if found.size and not 0 <= found.min() <= found.max() < n:
        raise ValueError(f"{what} indices lie in 0..{n - 1}, got {found.min()} to {found.max()}")
    return found


def _padded(runs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Histories as a table of at least one column, zeros after the end of each, and their lengths."""
    lengths = np.array([len(run) for run in runs], dtype=np.int64)
    items = np.zeros((len(runs), max(1, lengths.max(initial=1))), dtype=np.int64)
    for row, run in zip(items, runs, strict=True):
        row[: len(run)] = run
    return {"history": items, "lengths": lengths}


def _blocks(order: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, max(len(order), 1), BLOCK):
        yield order[start : start + BLOCK]
