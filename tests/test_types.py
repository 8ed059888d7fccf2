"""`py.typed`: the public names have the types that a checker reports to those who use them."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import collabkit

HERE = Path(__file__).parent
FILE = Path(collabkit.__file__)
# Four fifths of mypy's time, and no part in what is asked; `make test-wheel` reads them too.
UNREAD = ["torch", "fastai", "fastcore", "matplotlib", "sklearn", "scipy", "PIL", "pyarrow", "narwhals", "rich"]


def test_the_checkers_names_are_those_that_python_finds():
    """The block under TYPE_CHECKING says the same as the look-up that Python makes."""
    block = next(node for node in ast.parse(FILE.read_text(encoding="utf-8")).body if isinstance(node, ast.If))
    told = {}
    for node in block.body:
        package = node.module.removeprefix("collabkit").removeprefix(".")
        for alias in node.names:
            name, module = alias.asname, ".".join(filter(None, [package, alias.name]))
            told[name] = module if name in collabkit._MODULES else package
    assert told == collabkit._WHERE | collabkit._MODULES


def test_mypy_knows_the_public_names(tmp_path):
    """A strict check of a program that uses them: no error, and no public result is of an unknown type."""
    program = HERE / "typed_program.py"
    cache = tmp_path / "cache"
    config = tmp_path / "mypy.ini"
    config.write_text(f"[mypy]\n[{','.join(f'mypy-{name}.*' for name in UNREAD)}]\nfollow_imports = skip\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--strict", "--cache-dir", str(cache)]
    command += ["--follow-imports", "silent"]
    # An editable install has hooks that mypy does not follow.
    where = {**os.environ, "MYPYPATH": str(FILE.parents[1])}
    done = subprocess.run(
        [*command, str(program)], capture_output=True, text=True, timeout=280, cwd=tmp_path, env=where
    )
    assert "error" not in done.stdout, done.stdout + done.stderr
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    wanted = re.findall(r"reveal_type\(.*\)  # (.*)", program.read_text(encoding="utf-8"))
    assert [name.rpartition(".")[2] for name in revealed] == wanted
