"""`save_shards`: the artefact of a model whose tables are split over processes, each of which writes its rows.

They write to their positions in one file, so the artefact is the usual one, and one process can map its tables into
memory. Tables in several files would have to be joined first.
"""

import json
import os
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from collabkit.data.processes import processes
from collabkit.models import Model
from collabkit.models.scorers import all_finite
from collabkit.models.sharded import owners
from collabkit.serve.artefact import check_target
from collabkit.serve.recommender import Recommender

__all__ = ["save_shards"]

# safetensors' names of types
TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def save_shards(folder: str | Path, recommender: Recommender, metrics: dict | None = None) -> Path:
    """Write the artefact of a model with tables in shards; called by all its processes, which must see `folder`.

    Raises:
        ValueError: a process has NaN or infinite weights.
        FileExistsError, OSError: see `serve.save_artefact`.
    """
    folder, model, team = Path(folder).expanduser().resolve(), recommender.model, processes()
    team.once(lambda: check_target(folder), "where the artefact is to lie")
    team.each(lambda: _check_finite(model), "its weights")
    file = folder.with_name(f".{folder.name}.weights")
    places = _places(model)
    team.once(lambda: _begin(file, places, model), "the artefact")
    try:
        team.each(lambda: _write_rows(file, places, model), "its rows of the artefact")
        save = partial(recommender.save, folder, metrics=metrics, light=False, weights=file)
        return team.once(save, "the artefact")
    finally:
        if team.first:
            file.unlink(missing_ok=True)


def _check_finite(model: Model) -> None:
    if not all_finite(model.state_dict().values()):
        raise ValueError("the model has NaN or infinite weights: its training diverged; train again before exporting")


def _places(model: Model) -> dict[str, dict]:
    """The header of the file: the type, the shape, and the begin and end of each tensor."""
    places, end, whose = {}, 0, owners(model)
    for name, value in model.state_dict(keep_vars=True).items():
        tables = whose.get(id(value))
        shape = list(value.shape) if tables is None else [tables.n, *value.shape[1:]]
        start, end = end, end + value.element_size() * torch.Size(shape).numel()
        places[name] = {"dtype": TYPES[value.dtype], "shape": shape, "data_offsets": [start, end]}
    return places


def _head(places: dict[str, dict]) -> bytes:
    text = json.dumps(places).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _begin(file: Path, places: dict[str, dict], model: Model) -> None:
    """Create the file in its full size, with its header and the tensors that all processes share."""
    file.parent.mkdir(parents=True, exist_ok=True)
    head, whose = _head(places), owners(model)
    with open(file, "wb") as out:
        out.write(head)
        out.truncate(len(head) + max((place["data_offsets"][1] for place in places.values()), default=0))
        for name, value in model.state_dict(keep_vars=True).items():
            if id(value) not in whose:
                _put(out, len(head) + places[name]["data_offsets"][0], value)


def _write_rows(file: Path, places: dict[str, dict], model: Model) -> None:
    """Write this process's rows at their position."""
    head, whose = len(_head(places)), owners(model)
    with open(file, "r+b") as out:
        for name, value in model.state_dict(keep_vars=True).items():
            if tables := whose.get(id(value)):
                rows = value[: tables.stop - tables.start]
                width = value.element_size() * value.shape[1]
                _put(out, head + places[name]["data_offsets"][0] + tables.start * width, rows)
        out.flush()
        os.fsync(out.fileno())


def _put(out, at: int, value: Tensor) -> None:
    out.seek(at)
    out.write(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
