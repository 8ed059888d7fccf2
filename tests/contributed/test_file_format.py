"""A contributed file format: one JSON object a line."""

from pathlib import Path

import pandas as pd
import pytest
from contract import planted

from collabkit.datasets import READERS, read_interactions


def read_json_lines(path: Path) -> pd.DataFrame:
    """A table from a file with one JSON object a line."""
    return pd.read_json(path, lines=True)


@pytest.fixture
def known():
    READERS[".jsonl"] = read_json_lines
    yield
    del READERS[".jsonl"]


def test_it_is_read_by_its_ending(known, tmp_path):
    table = planted()
    table.to_json(tmp_path / "events.jsonl", orient="records", lines=True)
    read = read_interactions(tmp_path / "events.jsonl")
    assert read["user"].tolist() == table["user"].tolist() and list(read.columns) == list(table.columns)


def test_damage_is_told(known, tmp_path):
    (tmp_path / "events.jsonl").write_text('{"user": 1, "item": 2}\n{"user":')
    with pytest.raises(ValueError, match=r"events.jsonl cannot be read as .jsonl"):
        read_interactions(tmp_path / "events.jsonl")
    with pytest.raises(ValueError, match=r"expected one of .*\.jsonl"):
        read_interactions(Path(__file__))
