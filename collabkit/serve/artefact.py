"""The artefact: a folder with weights (safetensors), config.json and tables (Parquet); no pickle, no code run on load.

    model.safetensors     the model's tensors
    users.parquet         one column `id`: the id of row 1, 2, ... of the user table
    items.parquet         likewise
    interactions.parquet  user_idx, item_idx, rating?, time?, count?, part (0 training, 1 validation, 2 of users folded
                          in, 3 disliked), and context_0, ... where the events have a context (of several numbers
                          context_0_0, ...)
    features.safetensors  the side features of users and items, if the model has any
    light.safetensors     what `serve.light` answers from, and the prior of the fold-in; see `light_state`
    config.json           format and version, model class and arguments, column names, data hash, metrics, checksums

It is written to a sibling folder that is renamed at the end, so that an interrupted write leaves the old one intact.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor

from collabkit import __version__
from collabkit.coldstart.fold_in import FoldIn
from collabkit.data.checks import file_path
from collabkit.data.confidence import Confidence
from collabkit.data.dataset import Dataset
from collabkit.data.features import Context, Features, Field, SideFeatures
from collabkit.data.interactions import Columns, Interactions
from collabkit.data.vocab import Vocab
from collabkit.evaluate.calibration import from_spec, to_spec
from collabkit.models import MODELS, Model
from collabkit.models.base import say_untrained
from collabkit.models.scorers import all_finite
from collabkit.models.sharded import in_shards, is_sharded, refuse_shards
from collabkit.models.table import bounded, uninitialised
from collabkit.serve.files import beside, read_table, save_tensors
from collabkit.serve.folder import (
    FEATURES,
    FILES,
    FORMAT_VERSION,
    INDEX,
    LIGHT,
    OWN,
    BundleError,
    is_bundle,
    plain,
    previous,
    read_config,
    whole_folder,
)
from collabkit.serve.folder import config_digest as _config_digest
from collabkit.serve.folder import sha256 as _sha256
from collabkit.serve.light_state import light_state, read_fold

__all__ = ["save_artefact", "load_all", "load_artefact", "write_vocab", "Artefact", "BundleError", "FORMAT_VERSION"]


# Formats 1 and 2: the tables belonged to the model, not to its sides.
_OLD_NAMES = (
    (r"^(u_weight|embeds\.0)\.", "user_side.tables.0."),
    (r"^(u_bias|u_mlp)\.", "user_side.tables.1."),
    (r"^(i_weight|embeds\.1)\.", "item_side.tables.0."),
    (r"^(i_bias|i_mlp)\.", "item_side.tables.1."),
    (r"^(user|item)_features\.", r"\1_side.features."),
)


class Artefact(NamedTuple):
    """The content of an artefact.

    Args:
        model: in evaluation mode on the CPU.
        data: its training, validation and folded-in interactions and features.
        config: the content of config.json.
    """

    model: Model
    data: Dataset
    config: dict


def save_artefact(
    folder: str | Path, model: Model, data: Dataset, *, metrics: dict | None = None, light: bool = True,
    fold: FoldIn | None = None, extra: Callable[[Path], dict] | None = None, weights: Path | None = None,
) -> Path:  # fmt: skip
    """Write the artefact; an older one in the same folder is replaced as the very last step.

    Args:
        folder: where; made with its parents. An existing folder must be empty or an artefact.
        model: a model of this library, or your own `Model`, whose class `load_artefact(models=[...])` then needs.
        data: its data, which is hidden from recommendations.
        metrics: JSON-ready metrics to store with it.
        light: also write the arrays for `serve.light`: vectors, events and ids.
        fold: the fold-in, if its prior is to be stored, so that it need not be fitted at the first history.
        weights: a file with all weights, which is moved there, if the model has only a part of its tables.
        extra: writes more files of `folder.OWN` into a folder, and returns their entries for config.json.

    Returns:
        The folder as an absolute path.

    Raises:
        TypeError: the model is not a `Model`, or the ids' type cannot be stored.
        ValueError: the model has NaN or infinite weights, or other ids than the interactions.
        FileExistsError: the folder holds something else.
        OSError: the place cannot be written to.
    """
    folder = file_path("an artefact", folder).resolve()
    if not isinstance(model, Model):
        raise TypeError(f"only models of collabkit can be exported, got {type(model).__name__}; use learn.save instead")
    if weights is None:
        refuse_shards(model, "an artefact by other ways than learn.export")
    check_target(folder)
    _check_sizes(model, data)
    _check_config(model, data)
    if len(data.train) == 0:
        raise ValueError("an artefact holds the events of its users, and there are none: give events=")
    say_untrained(model)
    if not all_finite(model.state_dict().values()):
        raise ValueError("the model has NaN or infinite weights: its training diverged; train again before exporting")
    try:
        with beside(folder) as new:
            new.mkdir(parents=True)
            _write(new, model, data, metrics or {}, light, fold, extra, weights)
            with _swapping(folder):
                _swap(new, folder)
    except OSError as error:
        why = error.strerror or error
        raise type(error)(error.errno, f"cannot write the artefact to {folder}: {why}") from error
    return folder


def _check_sizes(model: Model, data: Dataset) -> None:
    for side, n in zip(model.sides, (data.n_users, data.n_items), strict=True):
        if side.n not in (None, n):
            raise ValueError(
                f"the model has {side.n} rows of {side.name}s, the interactions {n} ids: they do not belong together"
            )


def _check_config(model: Model, data: Dataset) -> None:
    """Raise `ValueError` unless `config()` recreates a model of the same shapes and scale."""
    name, config = type(model).__name__, model.config()
    if not isinstance(config, dict):
        raise ValueError(f"{name}.config() must give the options that it was made with as a dict, got {config!r}")
    if model.by_fit:
        return
    with uninitialised(), in_shards(is_sharded(model)):
        made = type(model).for_data(replace(data, features=model.features), **config)
    shapes, others = ({key: value.shape for key, value in m.state_dict().items()} for m in (model, made))
    if shapes != others or model.y_range != made.y_range:
        raise ValueError(f"{name}.config() leaves an option out: {config} makes another model than this one")


def check_target(folder: Path) -> None:
    """Raise `FileExistsError` if an artefact at `folder` would replace anything but an artefact."""
    for left in (2, 1, 0):
        with suppress(FileNotFoundError):  # moved away between two checks
            if not folder.exists() or (folder.is_dir() and (not any(folder.iterdir()) or is_bundle(folder))):
                break
        if left == 0:
            raise FileExistsError(f"{folder} exists and is not a collabkit artefact; choose another or remove it")
        time.sleep(0.01)  # another writer may just have moved it away
    names = []
    with suppress(FileNotFoundError):
        names = os.listdir(folder) if folder.is_dir() else []
    if extra := set(names) - set(OWN):
        raise FileExistsError(f"{folder} also holds {sorted(extra)}, which replacing it would delete; move them first")


def load_artefact(folder: str | Path, models: Sequence[type[Model]] = ()) -> Artefact:
    """Read and check an artefact.

    Args:
        folder: where it is.
        models: classes in addition to the library's own; the artefact has the name of its class.

    Raises:
        FileNotFoundError: there is no such folder.
        BundleError: it is damaged, written by a newer version, of an unknown model, or not an artefact.
    """
    return load_all(folder, models)[0]


def load_all(folder: str | Path, models: Sequence[type[Model]] = ()) -> tuple[Artefact, FoldIn | None]:
    """`load_artefact`, and the fold-in with the prior that was saved, if one was."""
    folder = file_path("an artefact", folder).resolve()
    return whole_folder(folder, lambda at, files: _load(at, files, models))


def _load(folder: Path, files: dict[str, Path], models: Sequence[type[Model]]) -> tuple[Artefact, FoldIn | None]:
    config = read_config(folder, files)
    given = [models] if isinstance(models, type) else models
    specs, known = config.get("features", {}), {cls.__name__: cls for cls in (*MODELS, *given)}
    try:
        name = config["model"]["class"]
        if name not in known:
            raise BundleError(
                f"artefact {folder} is of a model class {name!r}; this version knows {', '.join(known)}. Pass the "
                f"class: models=[{name}]"
            )
        for file in (*FILES, *([FEATURES] if specs else []), *([LIGHT] if config.get("light") else [])):
            if file not in files:
                raise BundleError(f"artefact {folder} is damaged: {file} is missing; export it again")
            if _sha256(files[file]) != config["sha256"].get(file):
                raise BundleError(f"artefact {folder} is damaged: {file} does not match its checksum; export it again")
        data = _read_data(files, config)
        if data.train.data_hash() != config.get("data_hash"):
            raise BundleError(f"artefact {folder} is damaged: its interactions do not match its data_hash")
        if specs:
            data = replace(data, features=_read_features(files[FEATURES], specs, data.users, data.items))
        if config["model"].get("context"):
            data = replace(data, features=data.features._replace(context=data.train.contexts))
        model = _read_model(files, known[name], config, data)
        _check_sizes(model, data)
        fold = _read_fold(files, config, model, data)
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(f"artefact {folder} cannot be read: {type(error).__name__}: {error}") from error
    model.name_rows(data.users, data.items)
    return Artefact(model.eval(), data, config), fold


def _write(
    folder: Path, model: Model, data: Dataset, metrics: dict, light: bool, fold: FoldIn | None, extra: Callable | None,
    weights: Path | None,
) -> None:  # fmt: skip
    train, kinds, light_spec = data.train, {}, None
    if weights is None:
        save_tensors(folder / "model.safetensors", model.state_dict())
    else:
        os.replace(weights, folder / "model.safetensors")
    sides = zip(("users", "items"), model.features, strict=False)
    features = {name: side for name, side in sides if side is not None}
    if features:
        states = {f"{name}.{key}": v for name, side in features.items() for key, v in side.state().items()}
        save_tensors(folder / FEATURES, states)
    for name, vocab in (("users", train.users), ("items", train.items)):
        kinds[name] = write_vocab(folder / f"{name}.parquet", vocab)
    parts = enumerate((*data.parts, data.disliked))
    frames = [_part_frame(part, number, train) for number, part in parts if part is not None]
    pd.concat(frames, ignore_index=True).to_parquet(folder / "interactions.parquet", index=False)
    if light:
        arrays, light_spec = light_state(model, data, fold)
        save_tensors(folder / LIGHT, arrays)
    more = {} if extra is None else extra(folder)
    config = {
        "format": "collabkit",
        "version": FORMAT_VERSION,
        "written_by": __version__,
        "model": {
            "class": type(model).__name__,
            "arguments": model.config(),
            "context": model.features.context is not None,
            "als": model.als,
        },
        "features": {name: side.spec() for name, side in features.items()},
        "columns": asdict(train.columns),
        "context": None if train.contexts is None else train.contexts.spec(),
        "confidence": None if train.confidence is None else train.confidence.spec(),
        "id_kinds": kinds,
        "data_hash": train.data_hash(),
        "metrics": metrics,
        "calibration": None if model.calibration is None else to_spec(model.calibration),
        "light": light_spec,
        **more,
        "sha256": {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.name not in INDEX},
    }
    config["sha256"]["config.json"] = _config_digest(config)
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=plain) + "\n", encoding="utf-8")


def _swap(new: Path, folder: Path) -> None:
    """Replace `folder` by `new`; the old one keeps another name until the new one is in place."""
    old = previous(folder)
    if folder.exists():  # otherwise a crash left only the previous one: keep it until the new one is in place
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _swapping(folder: Path) -> Iterator[None]:
    """Context in which no other process of this machine replaces the artefact in `folder`."""
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:2]  # 256 files at most; two folders may share one
    with FileLock(Path(tempfile.gettempdir()) / f"collabkit-{name}.lock", mode=0o666):
        yield


def _read_features(path: Path, specs: dict, users: Vocab, items: Vocab) -> SideFeatures:
    from safetensors.torch import load_file

    tensors, sides = load_file(path), {}
    for name, vocab in (("users", users), ("items", items)):
        if name in specs:
            state = {key.partition(".")[2]: v for key, v in tensors.items() if key.startswith(f"{name}.")}
            sides[name] = Features.from_state(vocab, specs[name], state)
    return SideFeatures(**sides)


def _read_model(files: dict[str, Path], cls: type[Model], config: dict, data: Dataset) -> Model:
    from safetensors.torch import load_file

    arguments, state = dict(config["model"]["arguments"]), load_file(files["model.safetensors"])
    if config["version"] < 3:
        for name in ("n_users", "n_items"):
            arguments.pop(name, None)
        state = {_new_name(name): value for name, value in state.items()}
    if odd := [name for name, value in state.items() if not all_finite([value])]:
        raise ValueError(f"model.safetensors has weights that are NaN or infinite, in {', '.join(odd)}")
    with uninitialised(), bounded(sum(value.numel() for value in state.values())):
        model = cls.for_data(data, **arguments)
    model.restore(state)
    model.als = _als_options(config["model"].get("als"))
    if config.get("calibration") is not None:
        model.calibration = from_spec(config["calibration"])
    return model


def _read_fold(files: dict[str, Path], config: dict, model: Model, data: Dataset) -> FoldIn | None:
    """The fold-in with the prior that the artefact holds, if it does."""
    from safetensors import safe_open

    if not (config.get("light") or {}).get("fold"):
        return None
    with safe_open(files[LIGHT], "pt") as file:  # of a large file, only what is needed
        arrays = {name: file.get_tensor(name).clone() for name in file.keys() if name.startswith("fold.")}  # noqa: SIM118
    if not all_finite(arrays.values()):
        raise ValueError("light.safetensors has a prior that is NaN or infinite")
    return read_fold(model, data, arrays)


def _als_options(options) -> dict | None:
    """The options of least squares that solved for the tables, if any; older artefacts do not have them."""
    needed, number = {"reg", "unobserved_weight", "nu"}, (int, float)
    whole = isinstance(options, dict) and needed <= set(options)
    if options is not None and not (whole and all(isinstance(value, number) for value in options.values())):
        raise ValueError(f"config.json has unknown options of least squares: {options!r}")
    return options


def _new_name(name: str) -> str:
    for old, new in _OLD_NAMES:
        name = re.sub(old, new, name)
    return name


def write_vocab(path: Path, vocab: Vocab) -> str:
    """Write the ids and return how to read them: 'plain', 'uuid' (stored as text), 'arrow', or a dtype."""
    ids = vocab.ids
    if not vocab.storable:
        raise _unstorable(vocab)
    if ids.dtype == object and len(ids) and isinstance(ids[0], uuid.UUID):
        pd.DataFrame({"id": pd.Index([str(v) for v in ids], dtype="str")}).to_parquet(path, index=False)
        return "uuid"
    try:
        pd.DataFrame({"id": ids}).to_parquet(path, index=False)
        if ids.dtype in ("int64", "str"):
            return "plain"
        texts = f"string[{ids.dtype.storage}]" if isinstance(ids.dtype, pd.StringDtype) else str(ids.dtype)
        for kind in ("plain", "arrow", texts):  # Parquet has fewer types than pandas
            with suppress(TypeError, ValueError):
                if _read_vocab(path, kind, vocab.name) == vocab:
                    return kind
    except (NotImplementedError, ValueError, TypeError) as error:  # pyarrow has no such type
        raise _unstorable(vocab) from error
    raise _unstorable(vocab)


def _unstorable(vocab: Vocab) -> TypeError:
    return TypeError(
        f"ids of type {type(vocab[1]).__name__} (column {vocab.name!r}) cannot be stored; train on "
        f"df[{vocab.name!r}].astype(str)"
    )


def _read_vocab(path: Path, kind: str, name: str) -> Vocab:
    ids = read_table(path, unique="id", types_mapper=pd.ArrowDtype if kind == "arrow" else None)["id"]
    if kind == "uuid":
        ids = pd.Series([uuid.UUID(v) for v in ids], dtype=object)
    elif kind not in ("plain", "arrow"):
        ids = ids.astype(kind)
    return Vocab(ids, name)


def _part_frame(part: Interactions, number: int, train: Interactions) -> pd.DataFrame:
    part = part.in_memory() if part.stored else part
    columns = {name: getattr(part, name) for name in ("user_idx", "item_idx", "rating", "time", "count")}
    if part.time is None and train.time is not None:  # histories have no times; a column with gaps would become floats
        columns["time"] = torch.zeros_like(part.user_idx)
    if part.count is None and train.count is not None:  # the same for dislikes
        columns["count"] = torch.ones(len(part))
    for j, values in enumerate(part.context.values()):
        many = values.ndim > 1
        columns |= {f"context_{j}_{c}": v for c, v in enumerate(values.unbind(1))} if many else {f"context_{j}": values}
    data = {name: value.numpy() for name, value in columns.items() if value is not None}
    return pd.DataFrame({**data, "part": np.full(len(part), number, dtype=np.int8)})


def _read_data(files: dict[str, Path], config: dict) -> Dataset:
    """The interactions with their vocabularies, for all parts that exist."""
    columns = Columns(**{"ticks": 1, **config["columns"], "context": tuple(config["columns"].get("context", ()))})
    if columns.ticks is not None and columns.ticks not in {10**power for power in range(10)}:
        raise ValueError(f"config.json says that a unit of time has {columns.ticks!r} parts")
    columns.check_names()
    titles = {"users": columns.user, "items": columns.item}
    users, items = (_read_vocab(files[f"{file}.parquet"], config["id_kinds"][file], titles[file]) for file in titles)
    table = read_table(files["interactions.parquet"])
    contexts = Context.from_spec(config["context"]) if columns.context else None
    fields = {} if contexts is None else {f"context_{j}": field for j, field in enumerate(contexts.fields)}
    codes = {"user_idx": len(users), "item_idx": len(items)}  # and their sizes
    codes |= {name: field.size for name, field in fields.items() if field.has_one_code}
    whole = [name for name in (*codes, "time") if name in table]
    odd = [f"{name} ({table[name].dtype})" for name in whole if table[name].dtype != np.int64]
    if odd or ("rating" in table and table["rating"].dtype != np.float32):
        raise ValueError(f"interactions.parquet has columns of unexpected types: {odd or 'rating'}")
    if not table["part"].isin(range(4)).all() or not (table["part"] == 0).any():
        raise ValueError("interactions.parquet must have rows of the parts 0, 1, 2 and 3 only, and some of part 0")
    if "rating" in table and not np.isfinite(table["rating"]).all():
        raise ValueError("interactions.parquet has ratings that are NaN or infinite")
    if ("count" in table) != (config.get("confidence") is not None):
        raise ValueError("interactions.parquet must have counts exactly if config.json has a confidence")
    if "count" in table and (
        table["count"].dtype != np.float32 or not (np.isfinite(table["count"]) & (table["count"] > 0)).all()
    ):
        raise ValueError("interactions.parquet has counts that are not float32 numbers above 0")
    for name, n in codes.items():
        if table[name].min() < 0 or table[name].max() >= n:
            raise ValueError(f"interactions.parquet has {name} outside 0..{n - 1}")
    tensor: dict[str, Tensor] = {name: torch.from_numpy(table[name].to_numpy().copy()) for name in table.columns}
    every = Interactions(
        tensor["user_idx"], tensor["item_idx"], tensor.get("rating"), tensor.get("time"), users, items, columns,
        context={field.name: _moments(table, name, field) for name, field in fields.items()}, contexts=contexts,
        count=tensor.get("count"),
    )  # fmt: skip
    train, *others = (every.take(np.flatnonzero(table["part"] == number)) for number in range(4))
    if "count" in table:
        train = train.with_counts(train.count, Confidence(**config["confidence"]))
        others = [replace(part, confidence=train.confidence) for part in others]
    valid, folded, disliked = (part if len(part) else None for part in others)
    folded = None if folded is None else replace(folded, time=None)
    return Dataset(train, valid, folded, disliked=disliked)


def _moments(table: pd.DataFrame, name: str, field: Field) -> Tensor:
    """The values of a field of the context: codes `(n,)`, or numbers `(n, width)`."""
    if field.has_one_code:
        return torch.from_numpy(table[name].to_numpy().copy())
    numbers = table[[f"{name}_{c}" for c in range(field.size)]].to_numpy(dtype=np.float32)
    if not np.isfinite(numbers).all():
        raise ValueError(f"interactions.parquet has {name} that is NaN or infinite")
    return torch.from_numpy(numbers)
