"""The README's Python runs as written."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_are_blocks():
    assert len(BLOCKS) >= 2


def test_no_placeholder_is_left():
    assert not re.findall(r"@\w+@|TODO|XXX", README)


def shown(after: str, row: str) -> list[float]:
    """The figures of a row of the printed table that follows a line of the README."""
    text = README[README.index(after) :]
    return [float(word) for word in re.search(rf"^.*\b{row}  +([\d. -]+)$", text, flags=re.MULTILINE)[1].split()]


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the example exports into the working directory
    scope = {}
    exec(compile(BLOCKS[block], f"README block {block}", "exec"), scope)
    plt.close("all")
    if "table" in scope:
        found = scope["table"].loc["RMSE", ["value", "low", "high", "user+item bias"]].tolist()
        assert shown("table.loc", "RMSE") == pytest.approx(found, abs=0.01)
        assert found[0] < 0.96 * found[3]
        assert scope["table"].loc["NDCG@10", "diff_low"] > 0  # ahead of popularity in the first table that one sees
        assert (tmp_path / "my-recommender" / "config.json").is_file()
    elif "events" in scope:
        table = scope["compare"]([scope["learn"], scope["Popularity"]()], metrics=["NDCG"])["value"]
        assert shown("compare([", "CollFilter")[0] == pytest.approx(table.iloc[0], abs=0.01)
        assert table.iloc[0] > 1.5 * table.iloc[1]


def test_it_is_short():
    assert len(README.splitlines()) < 150
