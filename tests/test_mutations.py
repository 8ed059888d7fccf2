"""The lines that `mutations.py` breaks are there; that the suite sees each of them broken is its own, slower, run."""

import pytest
from mutations import MUTATIONS, ROOT


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_line_stands_once(name):
    file, line, other, tests = MUTATIONS[name]
    assert (ROOT / "collabkit" / file).read_text(encoding="utf-8").count(line) == 1 and line != other
    assert all((ROOT / "tests" / f"test_{test}.py").is_file() for test in tests.split())
