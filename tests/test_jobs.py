"""Jobs that users have, each a script of at most 20 lines in `tests/jobs/`, run as they stand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

JOBS = sorted((Path(__file__).parent / "jobs").glob("*.py"))


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_a_job_is_short_and_runs(job, tmp_path):
    lines = [line for line in job.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 20
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "MPLBACKEND": "Agg"}
    run = subprocess.run([sys.executable, str(job)], cwd=tmp_path, env=environment, capture_output=True, text=True,
                         timeout=300, check=False)  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
