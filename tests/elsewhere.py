"""Python code in another process, which begins where collabkit has been imported already.

A process of its own takes seconds to import torch and fastai, and dozens of tests ask for one. So all are forked from a
server that has imported them, and that counts with another seed of hashes than the tests. Tests of importing itself
start Python afresh.
"""

import multiprocessing
import os
import sys
import tempfile
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

HERE = Path(__file__).parent


def elsewhere(code: str, *args, check: bool = True, timeout: float = 120) -> SimpleNamespace:
    """Run code to its end, in the current folder: `returncode` (of a signal, negative), `stdout` and `stderr`.

    Args:
        args: `sys.argv[1:]` of the code, as texts.
        check: whether another status than 0 is an error.
        timeout: seconds until it is killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        process, told = started(code, *args, folder=folder)
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
        done = SimpleNamespace(returncode=process.exitcode, **{name: file.read_text() for name, file in told.items()})
    assert done.returncode == 0 or not check, done.stderr
    return done


def collabkit(*words, **kwargs) -> SimpleNamespace:
    """The same of the command `collabkit words...`."""
    return elsewhere("import collabkit.cli\ncollabkit.cli.main()", *words, **kwargs)


def started(code: str, *args, folder) -> tuple[multiprocessing.Process, dict[str, Path]]:
    """The process, and the files in the folder to which it prints."""
    told = {name: Path(folder) / name for name in ("stdout", "stderr")}
    for file in told.values():
        file.touch()
    process = _context().Process(target=_run, args=(code, [str(arg) for arg in args], os.getcwd(), *told.values()))
    with mock.patch.dict(
        sys.modules, {"__main__": ModuleType("__main__")}
    ):  # else the script that runs would run there too
        process.start()
    return process, told


def _context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["collabkit.all", "sklearn", "pytest", "torch._dynamo"])
    if forkserver._forkserver._forkserver_pid is None:
        resource_tracker.ensure_running()
        with mock.patch.dict(os.environ, {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}):
            forkserver.ensure_running()
    return context


def _run(code: str, args: list[str], here: str, stdout: Path, stderr: Path) -> None:
    os.chdir(here)
    for stream, file in ((sys.stdout, stdout), (sys.stderr, stderr)):
        stream.flush()
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    sys.argv, sys.path[:0] = ["-c", *args], [str(HERE), str(HERE.parent)]
    exec(compile(code, "<elsewhere>", "exec"), {"__name__": "__main__"})
