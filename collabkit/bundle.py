"""The artefact: a folder with weights (safetensors), config.json and tables (Parquet); no pickle, no code run on load.

    model.safetensors     the model's tensors
    users.parquet         one column `id`: the id of row 1, 2, ... of the user table
    items.parquet         likewise
    interactions.parquet  user_idx, item_idx, rating?, time?, part (0 training, 1 validation, 2 of users folded in)
    features.safetensors  the side features of users and items, if the model has any
    config.json           format and version, model class and arguments, column names, data hash, metrics, checksums

It is written to a sibling folder that is renamed at the end, so that an interrupted write leaves the old one intact.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import uuid
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from collabkit._version import __version__
from collabkit.features import Features, SideFeatures
from collabkit.interactions import Columns, Interactions
from collabkit.models import GMF, NCF, CollabModel, CollFilter, EmbeddingNN, NeuMF, TwoTower
from collabkit.vocab import Vocab

__all__ = ["save_bundle", "load_bundle", "Bundle", "BundleError", "FORMAT_VERSION"]

FORMAT_VERSION = 2  # 1 had no side features and no users folded in
MODELS = {cls.__name__: cls for cls in (CollFilter, EmbeddingNN, NCF, GMF, NeuMF, TwoTower)}
FILES = ("model.safetensors", "users.parquet", "items.parquet", "interactions.parquet")
FEATURES = "features.safetensors"


class BundleError(ValueError):
    """A folder is not an artefact that this version can load; the message says why and what to do."""


class Bundle(NamedTuple):
    """What an artefact holds.

    Args:
        model: in evaluation mode on the CPU.
        train: training interactions.
        valid: validation interactions, or None.
        later: those of users folded in after training, or None.
        config: the content of config.json.
    """

    model: CollabModel
    train: Interactions
    valid: Interactions | None
    later: Interactions | None
    config: dict


def save_bundle(
    folder: str | Path,
    model: CollabModel,
    train: Interactions,
    valid: Interactions | None = None,
    later: Interactions | None = None,
    *,
    metrics: dict | None = None,
) -> Path:
    """Write the artefact, replacing an older one at the same place as the very last step.

    Args:
        folder: where; made with its parents. An existing folder must be empty or an artefact.
        model: a model of this library.
        train, valid, later: its interactions, which it will hide from recommendations; the last those of users folded
            in after training.
        metrics: JSON-ready figures to keep with it.

    Returns:
        The folder as an absolute path.

    Raises:
        TypeError: the model's class or the ids' type cannot be stored.
        ValueError: the model has NaN or infinite weights, or other ids than the interactions.
        FileExistsError: the folder holds something else.
        OSError: the place cannot be written to.
    """
    folder = Path(folder).expanduser().resolve()
    if type(model).__name__ not in MODELS:
        raise TypeError(f"only {', '.join(MODELS)} can be exported, got {type(model).__name__}; use learn.save instead")
    check_target(folder)
    rows, ids = (model.n_users, model.n_items), (train.n_users, train.n_items)
    if rows != ids:
        raise ValueError(
            f"the model has tables of {rows} rows, the interactions {ids} ids: they do not belong together"
        )
    if not all(bool(value.isfinite().all()) for value in model.state_dict().values()):
        raise ValueError("the model has NaN or infinite weights: its training diverged; train again before exporting")
    new = folder.with_name(f".{folder.name}.new-{uuid.uuid4().hex[:8]}")
    try:
        new.mkdir(parents=True)
        _write(new, model, (train, valid, later), metrics or {})
        _swap(new, folder)
    except OSError as error:
        why = error.strerror or error
        raise type(error)(error.errno, f"cannot write the artefact to {folder}: {why}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def check_target(folder: Path) -> None:
    """Raise `FileExistsError` where an artefact at `folder` would replace anything but an artefact."""
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or _is_bundle(folder))):
        raise FileExistsError(f"{folder} exists and is no collabkit artefact; choose another folder or remove it")
    extra = {path.name for path in folder.iterdir()} - {*FILES, FEATURES, "config.json"} if folder.is_dir() else set()
    if extra:
        raise FileExistsError(f"{folder} also holds {sorted(extra)}, which replacing it would delete; move them first")


def load_bundle(folder: str | Path) -> Bundle:
    """Read and check an artefact.

    Raises:
        FileNotFoundError: there is no such folder.
        BundleError: it is damaged, written by a newer version, or no artefact at all.
    """
    folder = _find(Path(folder).expanduser().resolve())
    config = _read_config(folder)
    specs = config.get("features", {})
    for name in (*FILES, *([FEATURES] if specs else [])):
        if not (folder / name).is_file():
            raise BundleError(f"artefact {folder} is damaged: {name} is missing; export it again")
        if _sha256(folder / name) != config["sha256"].get(name):
            raise BundleError(f"artefact {folder} is damaged: {name} does not match its checksum; export it again")
    try:
        users, items = (_read_vocab(folder / f"{side}.parquet", config, side) for side in ("users", "items"))
        features = _read_features(folder / FEATURES, specs, users, items) if specs else None
        model = _read_model(folder, config, features)
        if (model.n_users, model.n_items) != (len(users), len(items)):
            raise ValueError(
                f"tables of {model.n_users} and {model.n_items} rows for {len(users)} and {len(items)} ids"
            )
        parts = _read_interactions(folder / "interactions.parquet", users, items, Columns(**config["columns"]))
    except Exception as error:
        raise BundleError(f"artefact {folder} cannot be read: {type(error).__name__}: {error}") from error
    model.users, model.items = users, items
    return Bundle(model.eval(), *parts, config)


def _write(folder: Path, model: CollabModel, parts: tuple[Interactions | None, ...], metrics: dict) -> None:
    train, kinds = parts[0], {}
    _write_tensors(folder / "model.safetensors", model.state_dict())
    features = {name: side for name, side in model.features._asdict().items() if side is not None}
    if features:
        states = {f"{name}.{key}": v for name, side in features.items() for key, v in side.state().items()}
        _write_tensors(folder / FEATURES, states)
    for side, vocab in (("users", train.users), ("items", train.items)):
        kinds[side] = _write_vocab(folder / f"{side}.parquet", vocab)
    frames = [_part_frame(part, number, train) for number, part in enumerate(parts) if part is not None]
    pd.concat(frames, ignore_index=True).to_parquet(folder / "interactions.parquet", index=False)
    config = {
        "format": "collabkit",
        "version": FORMAT_VERSION,
        "written_by": __version__,
        "model": {"class": type(model).__name__, "arguments": model.config()},
        "features": {name: side.spec() for name, side in features.items()},
        "columns": asdict(train.columns),
        "id_kinds": kinds,
        "data_hash": train.data_hash(),
        "metrics": metrics,
        "sha256": {name: _sha256(folder / name) for name in (*FILES, *([FEATURES] if features else []))},
    }
    config["sha256"]["config.json"] = _config_digest(config)
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=_plain) + "\n", encoding="utf-8")


def _write_tensors(path: Path, tensors: dict) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # a full disk, for one
        raise OSError(errno.EIO, str(error)) from error


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; the old one waits under another name until the new one is there."""
    previous = _previous(folder)
    if folder.exists():  # else a crash left the previous one alone: keep it until the new one is there
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    try:
        new.rename(folder)
    except OSError:
        if previous.exists():
            previous.rename(folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _find(folder: Path) -> Path:
    """`folder`, or the previous artefact where a crash fell between the two renames of a swap."""
    if folder.is_dir():
        return folder
    if folder.exists():
        raise BundleError(f"{folder} is a file; an artefact is the folder that learn.export writes")
    if _previous(folder).is_dir():
        return _previous(folder)
    raise FileNotFoundError(f"there is no artefact folder {folder}")


def _is_bundle(folder: Path) -> bool:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("format") == "collabkit"
    except (OSError, ValueError, AttributeError):
        return False


def _read_config(folder: Path) -> dict:
    if not (folder / "config.json").is_file():
        raise BundleError(f"{folder} is no collabkit artefact: it has no config.json")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"artefact {folder} is damaged: config.json is not valid JSON ({error})") from error
    if not isinstance(config, dict) or config.get("format") != "collabkit":
        raise BundleError(f"{folder} is no collabkit artefact: its config.json was written by something else")
    version = config.get("version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise BundleError(
            f"artefact {folder} has format version {version!r}, this collabkit ({__version__}) reads up to "
            f"{FORMAT_VERSION}; update collabkit"
        )
    missing = {"model", "columns", "id_kinds", "sha256"} - set(config)
    if missing or not isinstance(config["sha256"], dict):
        raise BundleError(f"artefact {folder} is damaged: config.json lacks {sorted(missing) or 'checksums'}")
    if config["sha256"].get("config.json") != _config_digest(config):
        raise BundleError(f"artefact {folder} is damaged: config.json does not match its checksum; export it again")
    return config


def _read_features(path: Path, specs: dict, users: Vocab, items: Vocab) -> SideFeatures:
    from safetensors.torch import load_file

    tensors, sides = load_file(path), {}
    for name, vocab in (("users", users), ("items", items)):
        if name in specs:
            state = {key.partition(".")[2]: v for key, v in tensors.items() if key.startswith(f"{name}.")}
            sides[name] = Features.from_state(vocab, specs[name], state)
    return SideFeatures(**sides)


def _read_model(folder: Path, config: dict, features: SideFeatures | None) -> CollabModel:
    from safetensors.torch import load_file

    name = config["model"]["class"]
    if name not in MODELS:
        raise ValueError(f"unknown model class {name!r}; this version knows {', '.join(MODELS)}")
    arguments = config["model"]["arguments"] | ({"features": features} if features else {})
    model = MODELS[name](**arguments)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model


def _write_vocab(path: Path, vocab: Vocab) -> str:
    """Write the ids and return their kind: 'plain' for what Parquet stores, 'uuid' for UUIDs (stored as text)."""
    ids, kind = vocab.ids, "plain"
    if ids.dtype == object:
        first = ids[0]
        if isinstance(first, uuid.UUID):
            ids, kind = pd.Index([str(v) for v in ids], dtype="str"), "uuid"
        elif not isinstance(first, str):
            raise _unstorable(vocab)
    try:
        pd.DataFrame({"id": ids}).to_parquet(path, index=False)
    except NotImplementedError as error:  # pyarrow has no such type
        raise _unstorable(vocab) from error
    return kind


def _unstorable(vocab: Vocab) -> TypeError:
    return TypeError(
        f"ids of type {type(vocab[1]).__name__} (column {vocab.name!r}) cannot be stored; train on "
        f"df[{vocab.name!r}].astype(str)"
    )


def _read_vocab(path: Path, config: dict, side: str) -> Vocab:
    ids = pd.read_parquet(path)["id"]
    if config["id_kinds"][side] == "uuid":
        ids = pd.Series([uuid.UUID(v) for v in ids], dtype=object)
    return Vocab(ids, config["columns"]["user" if side == "users" else "item"])


def _part_frame(part: Interactions, number: int, train: Interactions) -> pd.DataFrame:
    columns = {name: getattr(part, name) for name in ("user_idx", "item_idx", "rating", "time")}
    if part.time is None and train.time is not None:  # histories have no times; a column with gaps would become floats
        columns["time"] = torch.zeros_like(part.user_idx)
    data = {name: value.numpy() for name, value in columns.items() if value is not None}
    return pd.DataFrame({**data, "part": np.full(len(part), number, dtype=np.int8)})


def _read_interactions(
    path: Path, users: Vocab, items: Vocab, columns: Columns
) -> tuple[Interactions, Interactions | None, Interactions | None]:
    """The training part, the validation part and that of users folded in, where there are such."""
    table = pd.read_parquet(path)
    for name, vocab in (("user_idx", users), ("item_idx", items)):
        if len(table) == 0 or table[name].min() < 0 or table[name].max() >= len(vocab):
            raise ValueError(f"interactions.parquet has {name} outside 0..{len(vocab) - 1}")
    tensor = {name: torch.from_numpy(table[name].to_numpy().copy()) for name in table.columns}
    every = Interactions(
        tensor["user_idx"], tensor["item_idx"], tensor.get("rating"), tensor.get("time"), users, items, columns
    )
    parts = [every.take(np.flatnonzero(table["part"] == number)) for number in range(3)]
    parts[2] = replace(parts[2], time=None)
    return parts[0], *(part if len(part) else None for part in parts[1:])


def _config_digest(config: dict) -> str:
    """Checksum of all of config.json but this checksum."""
    files = {name: value for name, value in config["sha256"].items() if name != "config.json"}
    text = json.dumps({**config, "sha256": files}, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value):
    """A NumPy number (in a column name or a metric) as JSON can hold it."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"config.json cannot hold {value!r}, a {type(value).__name__}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file) -> str:
    """`hashlib.file_digest` for Python 3.10."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
