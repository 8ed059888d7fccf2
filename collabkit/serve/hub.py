"""Artefacts on the Hugging Face Hub: `Recommender.to_hub` and `Recommender.from_hub`."""

from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING

from collabkit.serve.folder import OWN

if TYPE_CHECKING:
    from collabkit.serve.recommender import Recommender

__all__ = ["download", "upload"]

CARD = """---
library_name: collabkit
tags: [recommender-system, collaborative-filtering]
---

# {repo_id}

{recommender}. It has the ids of users and items, and the events that it was trained on: think before making it public.

```python
from collabkit import Recommender

rec = Recommender.from_hub({repo_id!r})
rec.recommend({user!r}, k=5)
```
"""


def _hub() -> ModuleType:
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise ImportError("the Hub needs the package huggingface_hub: pip install 'collabkit[hub]'") from error


def upload(recommender: "Recommender", repo_id: str, *, private: bool, token: str | None, message: str | None) -> str:
    """Write the artefact and a card to a repository, which is created if needed; returns its URL."""
    api = _hub().HfApi(token=token)
    with TemporaryDirectory() as folder:
        where = recommender.save(Path(folder) / "artefact")  # first, so that no repository is created if saving fails
        text = CARD.format(repo_id=repo_id, recommender=recommender, user=recommender.users[1])
        (where / "README.md").write_text(text, encoding="utf-8")
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=where, commit_message=message or "Artefact of collabkit")
    return str(url)


def download(repo_id: str, *, revision: str | None, token: str | None) -> Path:
    """The folder to which the artefact of a repository was downloaded."""
    hub = _hub()
    return Path(hub.snapshot_download(repo_id, revision=revision, token=token, allow_patterns=list(OWN)))
