"""Jobs that users have, each a script of at most 20 lines in `tests/jobs/`, run as they stand."""

import runpy
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from elsewhere import collabkit

JOBS = sorted((Path(__file__).parent / "jobs").glob("*.py"))


def run(words, check):
    """`subprocess.run` of `python -m collabkit.cli ...`, which is all that jobs run, without the time to import it."""
    assert check and words[:3] == [sys.executable, "-m", "collabkit.cli"]
    print(collabkit(*words[3:], timeout=240).stdout)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_a_job_is_short_and_runs(job, tmp_path, monkeypatch):
    lines = [line for line in job.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 20
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(job)])
    monkeypatch.setattr("subprocess.run", run)
    with warnings.catch_warnings():  # a job may set filters of its own
        runpy.run_path(str(job), run_name="__main__")
    plt.close("all")
