"""Reads an artefact for the light runtime: config.json and the arrays of verified files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from collabkit.data.checks import file_path
from collabkit.serve.folder import FEATURES, LIGHT, BundleError, read_config, sha256, whole_folder
from collabkit.serve.light.arrays import mapped
from collabkit.serve.onnx_models import OnnxModel

__all__ = ["load_arrays"]

MODEL = "model.safetensors"
AGAIN = "load it with Recommender.load"
# Names that occur in two files: in light.safetensors neighbours are transposed.
RENAMED = {"near": "own_near", "nearness": "own_nearness"}


Loaded = tuple[dict, dict[str, np.ndarray], OnnxModel | None]


def load_arrays(folder: str | Path) -> Loaded:
    """The content of config.json, the arrays by name, and the network, if there is one; errors as in `Light.load`."""
    return whole_folder(file_path("an artefact", folder).resolve(), _load)


def _load(folder: Path, files: dict[str, Path]) -> Loaded:
    config = read_config(folder, files)
    spec = config.get("light")
    if not spec:
        raise BundleError(f"artefact {folder} lacks what the light runtime needs, as it was written by an older "
                          f"version or with light=False: {AGAIN} and save it again")  # fmt: skip
    about = config.get("onnx")
    if spec["kind"] is None or (spec["kind"] == "pairs" and not about):
        network = f"the network of {config['model']['class']}, whose scores are not dot products, without its ONNX file"
        again = f"{AGAIN} and save it with onnx=True" if spec["kind"] else AGAIN
        raise BundleError(f"the light runtime does not support {spec.get('refused') or network}: {again} (artefact "
                          f"{folder})")  # fmt: skip
    try:
        arrays, network = _read(folder, files, config, LIGHT), None
        if spec["kind"] not in ("vectors", "pairs"):
            model = _read(folder, files, config, MODEL)
            arrays = {f"model.{RENAMED.get(name, name)}": value for name, value in model.items()} | arrays
        if config.get("features", {}).get("items"):
            features = _read(folder, files, config, FEATURES)
            arrays |= {f"features.{name}": value for name, value in features.items()}
        if about:
            network = OnnxModel(_whole(folder, files, config, about["file"]).read_bytes())
    except (BundleError, ImportError):
        raise
    except Exception as error:
        raise BundleError(f"artefact {folder} cannot be read: {type(error).__name__}: {error}") from error
    return config, arrays, network


def _read(folder: Path, files: dict[str, Path], config: dict, name: str) -> dict[str, np.ndarray]:
    return mapped(_whole(folder, files, config, name))


def _whole(folder: Path, files: dict[str, Path], config: dict, name: str) -> Path:
    """The path of a file, after a check of its checksum."""
    if name not in files:
        raise BundleError(f"artefact {folder} is damaged: {name} is missing; export it again")
    if sha256(files[name]) != config["sha256"].get(name):
        raise BundleError(f"artefact {folder} is damaged: {name} does not match its checksum; export it again")
    return files[name]
