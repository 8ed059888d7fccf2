"""A model as a file for another runtime: `to_onnx` for ONNX Runtime, `to_torch_export` for torch without this library.

See the methods of `Recommender` and the learner with the same names. `onnx_models` reads the ONNX files.
"""

import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from collabkit import __version__
from collabkit.data.checks import file_path
from collabkit.data.dataset import Dataset
from collabkit.data.query import Query
from collabkit.models.base import Model, answering, say_untrained
from collabkit.models.sequence import SequenceModel
from collabkit.serve.artefact import write_vocab
from collabkit.serve.files import beside, digest
from collabkit.serve.graphs import WHATS, Graph, check_what, fields_of, make_graph, padded
from collabkit.serve.onnx_models import FORMAT, META, read_meta

__all__ = ["export_onnx", "to_onnx", "to_torch_export"]

MOST = 2_000_000_000  # bytes of an ONNX file, the limit of the format
CLOSE = 1e-5  # largest difference of a file's outputs from the model's, relative to the largest output, at least 1
ASKED = 24  # queries with which a file is checked


def to_onnx(model: Model, data: Dataset, file, what: str, k: int, *, ids: bool = True) -> Path:
    """See `Recommender.to_onnx`; with `ids=False` no files of ids are written."""
    if "time" in model.needs:
        raise TypeError(f"{type(model).__name__} searches the times of ratings, for which ONNX has no operation; "
                        "use to_torch_export")  # fmt: skip
    onnx, runtime = _package("onnx"), _package("onnxruntime")
    file = file_path("the file to write", file).resolve()
    graph, meta = _prepared(model, data, what, k)
    meta["ids"] = _id_files(file) if ids else {name: f"{name}.parquet" for name in ("users", "items")}
    if graph.tables > MOST:
        raise ValueError(f"the tables have {graph.tables:,} bytes, more than an ONNX file holds ({MOST:,}); use export "
                         "or to_torch_export")  # fmt: skip
    proto = onnx.load_from_string(_onnx_bytes(graph, _example(model, data, graph)))
    onnx.helper.set_model_props(proto, {META: json.dumps(meta)})
    onnx.checker.check_model(proto)
    whole = proto.SerializeToString()
    session = runtime.InferenceSession(whole, providers=["CPUExecutionProvider"])
    _check(model, data, graph, lambda given: session.run(None, {n: v.numpy() for n, v in given.items()}))
    return _write(file, whole, data, meta["ids"] if ids else {})


def to_torch_export(model: Model, data: Dataset, file, what: str, k: int) -> Path:
    """See `Recommender.to_torch_export`."""
    file = file_path("the file to write", file).resolve()
    graph, meta = _prepared(model, data, what, k, unrolled=True)
    meta["ids"] = _id_files(file)
    given = _example(model, data, graph)
    sizes = {name: torch.export.Dim(name, min=1) for name in ("b", "hidden")}
    sizes["length"] = torch.export.Dim("length", min=1, max=max(2, graph.length))
    shapes = tuple({axis: sizes[size] for axis, size in axes.items()} for axes in _axes(graph).values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, tuple(given.values()), dynamic_shapes={"inputs": shapes})
    ask, buffer = program.module(), io.BytesIO()

    def answer(given: dict[str, Tensor]) -> list[np.ndarray]:
        with torch.no_grad():
            found = ask(*given.values())
        return [part.numpy() for part in (found if isinstance(found, tuple) else (found,))]

    _check(model, data, graph, answer)
    torch.export.save(program, buffer, extra_files={"collabkit.json": json.dumps(meta)})
    return _write(file, buffer.getvalue(), data, meta["ids"])


def export_onnx(model: Model, data: Dataset, folder: str | Path) -> dict:
    """Write into a folder the part of a model that a runtime without torch cannot compute itself.

    Args:
        model, data: a trained one, and its data.
        folder: of an artefact, whose ids the file uses.

    Returns:
        `{'file': name, 'what': 'vectors' or 'logits', ...}`, the metadata of the file; an empty dict if none is needed,
        because the users' vectors are a table or the model is closed-form, or if ONNX cannot express the model.
    """
    if model.by_fit or model.joined or "time" in model.needs or (model.has_vectors and model.needs == ("users",)):
        return {}
    if "history" in model.needs and not isinstance(model, SequenceModel):
        return {}
    what = "vectors" if model.has_vectors else "logits"
    file = to_onnx(model, data, Path(folder) / f"{what}.onnx", what, 1, ids=False)
    return {"file": file.name, **read_meta(file)}


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"ONNX files need the package {name}: pip install 'collabkit[onnx]'") from error


def _prepared(model: Model, data: Dataset, what: str, k: int, unrolled: bool = False) -> tuple[Graph, dict]:
    check_what(model, what, k)
    say_untrained(model)
    with answering(model):
        graph = make_graph(model, what, k, unrolled)
    return graph, _meta(model, data, graph, what, k)


def _meta(model: Model, data: Dataset, graph: Graph, what: str, k: int) -> dict:
    """The metadata that a reader needs, JSON-ready."""
    fields = {name: {**field.spec(), "size": field.size, "one_code": field.has_one_code}
              for name, field in fields_of(model) if name in graph.inputs}  # fmt: skip
    unknown = {} if model.context is None else model.context.context.unknown(1)
    for name, field in fields.items():
        if name.startswith("context."):
            field["unknown"] = unknown[name.partition(".")[2]][0].tolist()
    return {
        "format": FORMAT, "written_by": __version__, "class": type(model).__name__, "what": what, "answer": WHATS[what],
        "k": k if what == "topk" else None, "inputs": graph.inputs, "outputs": graph.outputs,
        "n_users": data.n_users, "n_items": data.n_items, "length": graph.length or None, "y_range": model.y_range,
        "fields": fields, "content": digest(model.state_dict(), data.train.data_hash()),
    }  # fmt: skip


def _axes(graph: Graph) -> dict[str, dict[int, str]]:
    """By input, the axes of variable size, and the name of the size."""
    longer = {"history": {1: "length"}, "hidden": {1: "hidden"}}
    return {name: {0: "b", **longer.get(name, {})} for name in graph.inputs}


def _onnx_bytes(graph: Graph, given: dict[str, Tensor]) -> bytes:
    """The graph in ONNX format.

    torch's tracing exporter: the one based on `torch.export` took 6 to 37 seconds instead of .3 to 2 for sequence
    models, and does not support recurrent networks of variable length.
    """
    buffer, axes = io.BytesIO(), _axes(graph) | {name: {0: "b"} for name in graph.outputs}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing; wrongly assumed constants show in the check
        torch.onnx.export(graph, tuple(given.values()), buffer, dynamo=False, input_names=graph.inputs,
                          output_names=graph.outputs, dynamic_axes=axes, opset_version=17)  # fmt: skip
    return buffer.getvalue()


def _questions(model: Model, data: Dataset, graph: Graph) -> Iterator[tuple[dict[str, Tensor], Tensor | Query, Tensor]]:
    """Inputs, and the same as a query and its items, in batches of several sizes, the first with several rows."""
    known = data.latest.lengths if "history" in model.needs else None
    rng = np.random.default_rng(0)
    users = torch.from_numpy(rng.permutation(data.n_users)[:ASKED])
    if known is not None:  # a few users with long histories, and one without
        users = torch.cat([known.topk(min(3, len(known))).indices, users, torch.zeros(1, dtype=torch.int64)])
    ask = data.asker(model.needs, histories=data.latest if known is not None else None)
    for part in (users[:5], users[:1], users[-1:], users):
        query = _moments(model, data, ask(part), rng)
        items = torch.from_numpy(rng.integers(1, data.n_items, len(part)))
        yield _inputs(graph, query, items, data, part), query, items


def _moments(model: Model, data: Dataset, query: Tensor | Query, rng: np.random.Generator) -> Tensor | Query:
    """The query at random moments, for a model that uses them."""
    if model.context is None and "time" not in model.needs:
        return query
    context, n, time = {}, len(query), query.time
    for field in () if model.context is None else model.context.context.fields:
        codes = rng.integers(0, field.size, n) if field.has_one_code else rng.random((n, field.size), dtype=np.float32)
        context[field.name] = torch.from_numpy(codes)
    if "time" in model.needs:
        time = data.train.time[torch.from_numpy(rng.integers(0, len(data.train), n))]
    return Query(query.users, query.history, context, query.rows, time=time)


def _inputs(graph: Graph, query, items: Tensor, data: Dataset, users: Tensor) -> dict[str, Tensor]:
    """The input tensors for a query."""
    given = {"users": users, "items": items}
    if not isinstance(query, Tensor):
        given |= {f"context.{name}": part for name, part in query.context.items()} | {"time": query.time}
        if query.history is not None:
            given |= dict(zip(("history", "lengths"), padded(query.history, graph.length), strict=True))
    if graph.by_features:
        side = data.features.users
        numbers = side.matrix(users).split([field.size for field in side.fields], dim=1)
        given |= {f"feature.{field.name}": part for field, part in zip(side.fields, numbers, strict=True)}
    if "hidden" in graph.inputs:
        given["hidden"] = data.known.of(users).padded()
        if given["hidden"].shape[1] == 0:
            given["hidden"] = torch.zeros(len(users), 1, dtype=torch.int64)
    return {name: given[name] for name in graph.inputs}


def _example(model: Model, data: Dataset, graph: Graph) -> dict[str, Tensor]:
    """Inputs for tracing: several queries, without any size of 1."""
    given, *_ = next(_questions(model, data, graph))
    for name in ("history", "hidden"):
        if name in given:
            given[name] = torch.nn.functional.pad(given[name], (0, max(0, 2 - given[name].shape[1])))
    return given


@torch.no_grad()
def _check(model: Model, data: Dataset, graph: Graph, answer: Callable) -> None:
    """Raise `RuntimeError` unless the file's outputs are those of the model, for queries of several sizes."""
    with answering(model):
        for given, query, items in _questions(model, data, graph):
            found = answer(given)
            wanted = _wanted(model, graph, query, items, given)
            if graph.what == "topk":  # the scores of the listed items, which must be the best ones
                listed = wanted.gather(1, torch.from_numpy(found[0]))
                best = wanted.scatter(1, torch.nn.functional.pad(given["hidden"], (1, 0)), -torch.inf).topk(graph.k)[0]
                there = found[1] > -np.inf
                pairs = [(found[1][there], listed.numpy()[there]), (np.where(there, found[1], 0),
                         np.where(best.numpy() > -np.inf, best.numpy(), 0))]  # fmt: skip
            else:
                pairs = [(found[0], wanted.numpy())]
            for mine, theirs in pairs:
                _check_close(mine, theirs, graph.what, type(model).__name__)


def _check_close(found: np.ndarray, wanted: np.ndarray, what: str, name: str) -> None:
    far = float(np.abs(found - wanted).max(initial=0)) if found.shape == wanted.shape else np.inf
    if not far <= CLOSE * max(1.0, float(np.abs(wanted).max(initial=0))):
        raise RuntimeError(f"the file's {what} of {name} are {far:.2g} from the model's, more than {CLOSE:g}, "
                           "so no file was written. Can torch trace the model's own code?")  # fmt: skip


def _wanted(model: Model, graph: Graph, query, items: Tensor, given: dict[str, Tensor]) -> Tensor:
    """The outputs of the model itself."""
    asked = query.to(model.device)
    if graph.what == "score":
        return model(asked, items.to(model.device)).float().cpu()
    if graph.what in ("topk", "logits"):
        logits = model.scorer(torch.arange(model.n_items))(asked).float().clone()
        return (model.activation(logits) if graph.what == "topk" else logits).cpu()
    if graph.by_features:
        users = (asked if isinstance(asked, Tensor) else asked.users).cpu()
        rows = model.user_side.features.cold_rows(users)
        asked = Query(users.to(model.device), None, {} if isinstance(asked, Tensor) else asked.context, tuple(rows))
    return model.user_vectors(asked).float().cpu()


def _id_files(file: Path) -> dict[str, str]:
    """Names of the files with the ids of a file's indices, next to it."""
    return {name: file.with_suffix(f".{name}.parquet").name for name in ("users", "items")}


def _write(file: Path, content: bytes, data: Dataset, ids: dict[str, str]) -> Path:
    """Write the file, and next to it those of its ids: row 1, 2, ... in a column `id`, as in an artefact."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for name, target in ids.items():
        with beside(file.with_name(target)) as new:
            write_vocab(new, getattr(data, name))
            os.replace(new, file.with_name(target))
    with beside(file) as new:
        new.write_bytes(content)
        os.replace(new, file)
    return file
