"""The README's Python runs as written."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)


def test_there_are_blocks():
    assert len(BLOCKS) >= 2


def test_no_placeholder_is_left():
    assert not re.findall(r"@\w+@|TODO|XXX", (ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the example exports into the working directory
    scope = {}
    exec(compile(BLOCKS[block], f"README block {block}", "exec"), scope)
    plt.close("all")
    if "bpr" in scope:
        table = scope["compare"]([scope["learn"], scope["Popularity"]()], metrics=["NDCG"])
        assert (table["value"] > 0.05).all() and scope["dls"].feedback == "implicit"
    elif "weeks" in scope:
        plain, novel = (scope["shown"][w]["value"] for w in (0, 1))
        assert novel["Novelty@10"] > plain["Novelty@10"] and novel["NDCG@10"] < plain["NDCG@10"]
        assert scope["weeks"].loc["mean"].loc["HitRate@10", "value"].gt(0.2).all()
    elif "shallow" in scope:
        assert scope["shallow"].evaluate(n_boot=1).loc["HitRate@10", "value"] > 0.05
    elif "film" in scope:
        assert len(scope["learn"].dls.classes["title"]) == scope["data"].ratings["title"].nunique() + 2
        assert scope["learn"].evaluate(n_boot=1).loc["RMSE", "value"] < 0.85
    elif "learn" in scope:
        assert 0.79 < scope["learn"].evaluate(n_boot=1).loc["RMSE", "value"] < 0.85
        assert (tmp_path / "my-recommender" / "config.json").is_file()
