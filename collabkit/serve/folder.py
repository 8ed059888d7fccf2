"""The folder of an artefact: its place, its files, config.json and checksums; without torch and pandas."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np

from collabkit import __version__

__all__ = ["BundleError", "CONFIG", "FEATURES", "FILES", "FORMAT_VERSION", "INDEX", "LIGHT", "OWN", "config_digest",
           "find", "is_bundle", "opened", "plain", "previous", "read_config", "sha256", "whole_folder"]  # fmt: skip

# 1 had no side features and no folded-in users, 2 other names of tensors and no context, 3 only categorical context, 4
# no counts, no dislikes, and equally many neighbours for every item, 5 nothing for the light runtime
FORMAT_VERSION = 6
CONFIG, FEATURES, LIGHT = "config.json", "features.safetensors", "light.safetensors"
FILES = ("model.safetensors", "users.parquet", "items.parquet", "interactions.parquet")
ONNX = ("vectors.onnx", "logits.onnx")
INDEX = ("index.json", "index.faiss")  # may be added later, with their own checksums
OWN = (*FILES, FEATURES, LIGHT, *ONNX, *INDEX, CONFIG)  # all names that an artefact may contain
TRIES = 100  # to load an artefact that is being replaced

T = TypeVar("T")


class BundleError(ValueError):
    """A folder is not an artefact that this version can load; the message says why and what to do."""


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Path, dict[str, Path]]]:
    """The artefact's place and its open files, all of one version, even if the folder is replaced meanwhile."""
    for _ in range(TRIES):
        with ExitStack() as stack:
            at = find(folder)
            try:
                names = sorted(os.listdir(at), key=lambda name: name != "config.json")  # this one first
                files = {}
                for name in names:
                    with suppress(IsADirectoryError):
                        files[name] = stack.enter_context((at / name).open("rb"))
                whole = sorted(os.listdir(at)) == sorted(names)  # so all files are of one version
                if "config.json" in files:
                    whole &= os.path.samestat(os.fstat(files["config.json"].fileno()), (at / "config.json").stat())
            except FileNotFoundError:
                whole = False
            if whole:
                by_handle = {name: Path(f"/dev/fd/{file.fileno()}") for name, file in files.items()}
                by_name = {name: at / name for name in files}  # if an open file cannot be replaced, as on Windows
                yield at, by_handle if all(path.exists() for path in by_handle.values()) else by_name
                return
    raise BundleError(f"artefact {folder} is replaced faster than it can be opened")


def whole_folder(folder: Path, load: Callable[[Path, dict[str, Path]], T]) -> T:
    """The result of `load` for the artefact's place and open files, retried while it is being replaced.

    Raises:
        FileNotFoundError: there is no such folder.
        BundleError: it is damaged, written by a newer version, or not an artefact.
    """
    for left in reversed(range(TRIES)):
        at = None
        try:
            with opened(folder) as (at, files):
                return load(at, files)
        except (BundleError, FileNotFoundError):
            if left == 0 or at == folder:
                raise
        time.sleep(0.005)  # it is being replaced
    raise AssertionError("unreachable")


def previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def find(folder: Path) -> Path:
    """`folder`, or the previous artefact if a crash occurred between the two renames of a swap."""
    if folder.is_dir():
        return folder
    if folder.exists():
        raise BundleError(f"{folder} is a file; an artefact is the folder that learn.export writes")
    if previous(folder).is_dir():
        return previous(folder)
    raise FileNotFoundError(f"there is no artefact folder {folder}")


def is_bundle(folder: Path) -> bool:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("format") == "collabkit"
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, AttributeError):
        return False


def read_config(folder: Path, files: dict[str, Path]) -> dict:
    if "config.json" not in files:
        raise BundleError(f"{folder} is not a collabkit artefact: it has no config.json")
    try:
        config = json.loads(files["config.json"].read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"artefact {folder} is damaged: config.json is not valid JSON ({error})") from error
    if not isinstance(config, dict) or config.get("format") != "collabkit":
        raise BundleError(f"{folder} is not a collabkit artefact: its config.json was written by something else")
    version = config.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise BundleError(
            f"artefact {folder} has format version {version!r}, this collabkit ({__version__}) reads up to "
            f"{FORMAT_VERSION}; update collabkit"
        )
    missing = {"model", "columns", "id_kinds", "sha256"} - set(config)
    if missing or not isinstance(config["sha256"], dict):
        raise BundleError(f"artefact {folder} is damaged: config.json lacks {sorted(missing) or 'checksums'}")
    if config["sha256"].get("config.json") != config_digest(config):
        raise BundleError(f"artefact {folder} is damaged: config.json does not match its checksum; export it again")
    return config


def config_digest(config: dict) -> str:
    """Checksum of config.json without this checksum."""
    files = {name: value for name, value in config["sha256"].items() if name != "config.json"}
    text = json.dumps({**config, "sha256": files}, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value):
    """A NumPy number (in a column name or a metric) in JSON form."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"config.json cannot hold {value!r}, a {type(value).__name__}")


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
