"""Other libraries in an environment and a process of their own, which answers requests, so that runs interleave."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

IMPLICIT = "implicit==0.7.3"
INSTALL_SECONDS, REPLY_SECONDS = 600, 300


@contextmanager
def peer(script: str, *arguments: str, threads: int) -> Iterator[Callable[[str], list[float]]]:
    """A function that sends a line to `script`, running beside, and returns the numbers in its answer.

    The script prints a line when it is ready, and one with numbers for each line that it reads.
    """
    # implicit advises one BLAS thread: it runs its own threads over the rows
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": str(threads)}
    command = [str(peer_python()), "-c", script, *arguments, str(threads)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=env)

    def reply() -> str:
        if not select.select([process.stdout], [], [], REPLY_SECONDS)[0]:
            raise TimeoutError(f"the peer gave no answer within {REPLY_SECONDS} seconds")
        line = process.stdout.readline().strip()
        if not line:
            raise RuntimeError("the peer's process ended; its error stands above")
        return line

    def ask(line: str) -> list[float]:
        process.stdin.write(f"{line}\n")
        return [float(value) for value in reply().split()]

    try:
        reply()  # its "ready"
        yield ask
    finally:
        process.kill()
        process.wait()


def peer_python() -> Path:
    """The interpreter of an environment with `implicit`, made in the user's cache on the first call."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "collabkit" / "peer-venv"
    python, done = folder / "bin" / "python", folder / "installed.json"
    if not (done.exists() and json.loads(done.read_text()) == [IMPLICIT]):
        print(f"installing {IMPLICIT} in {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, timeout=INSTALL_SECONDS)
        subprocess.run([str(python), "-m", "pip", "install", "-q", IMPLICIT], check=True, timeout=INSTALL_SECONDS)
        done.write_text(json.dumps([IMPLICIT]))
    return python
