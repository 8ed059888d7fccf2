"""Artefacts as earlier versions wrote them, made from a recommender of today.

Format 2 named the tensors after the model's tables, held the numbers of rows among the arguments, and knew no context;
format 1 had no side features, no options for them, and no users folded in.
"""

import hashlib
import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from collabkit import Recommender

ONE_TABLE = {"user_side.tables.0.": "u_weight.", "item_side.tables.0.": "i_weight."}
BIASED = {**ONE_TABLE, "user_side.tables.1.": "u_bias.", "item_side.tables.1.": "i_bias."}
LAYERED = {"user_side.tables.0.": "embeds.0.", "item_side.tables.0.": "embeds.1."}
NAMES = {
    "CollFilter": BIASED,
    "TwoTower": BIASED,
    "GMF": ONE_TABLE,
    "NeuMF": {**ONE_TABLE, "user_side.tables.1.": "u_mlp.", "item_side.tables.1.": "i_mlp."},
    "EmbeddingNN": LAYERED,
    "NCF": LAYERED,
}
FEATURES = {"user_side.features.": "user_features.", "item_side.features.": "item_features."}


def write_old(recommender: Recommender, folder: Path, version: int) -> Path:
    """The artefact of a recommender in format `version`, 1 or 2."""
    recommender.save(folder)
    config = json.loads((folder / "config.json").read_text())
    name, arguments = config["model"]["class"], config["model"]["arguments"]
    tensors = {}
    for key, value in load_file(folder / "model.safetensors").items():
        for new, old in (NAMES[name] | FEATURES).items():
            key = old + key.removeprefix(new) if key.startswith(new) else key
        tensors[key] = value
    assert not [key for key in tensors if "_side." in key]
    save_file(tensors, folder / "model.safetensors")
    if name == "EmbeddingNN":  # which has them in `emb_szs`
        del arguments["init_std"]
    else:
        arguments |= {"n_users": len(recommender.users), "n_items": len(recommender.items)}
    del config["columns"]["context"]
    config["version"] = version
    if version == 1:
        assert not config.pop("features") and recommender.data.folded is None
        del arguments["id_dropout"]
        arguments.pop("feature_szs", None)
    config["sha256"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != "config.json"
    }
    text = json.dumps(config, sort_keys=True)
    config["sha256"]["config.json"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))
    return folder
