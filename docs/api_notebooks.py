"""Write nbs/api/*.ipynb: one small notebook for each public module, a `show_doc` for each public name.

    python docs/api_notebooks.py            # write the notebooks, remove those of modules that are gone
    python docs/api_notebooks.py --check    # only say which are stale; exit 1 if any

The result depends on the modules' `__all__`, their classes' documented members and the modules' docstrings alone.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import sys
import textwrap
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs"))

from sitegen.modules import import_module, members, module_names, notebook_name, public_names  # noqa: E402

COMMAND = "python docs/api_notebooks.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a notebook is stale")
    check = parser.parse_args().check
    folder = ROOT / "nbs" / "api"
    stale = stale_notebooks(ROOT)
    if check:
        for name in stale:
            print(f"nbs/api/{name} is stale", file=sys.stderr)
        return print(f"run: {COMMAND}", file=sys.stderr) or 1 if stale else 0
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in stale.items():
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(text, encoding="utf-8")
        print(("removed " if text is None else "wrote ") + f"nbs/api/{name}")
    return 0


def stale_notebooks(root: Path) -> dict[str, str | None]:
    """File name -> the text that an API notebook should have (None: it should not be there), where it differs."""
    pages = module_names(root)
    modules = [import_module(m, root) for m in pages]
    wanted = {notebook_name(m.__name__): notebook_text(m, pages) for m in modules}
    have = {p.name: p.read_text(encoding="utf-8") for p in (root / "nbs" / "api").glob("*.ipynb")}
    names = sorted(wanted.keys() | have.keys())
    return {n: wanted.get(n) for n in names if wanted.get(n) != have.get(n)}


def notebook_text(module: ModuleType, pages: list[str]) -> str:
    """The API notebook of a module as JSON, in the form in which `nbdev-clean` leaves it."""
    cells = [_cell(module.__name__, kind, source) for kind, source in _cells(module, pages)]
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    nb = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def _cells(module: ModuleType, pages: list[str]):
    """(cell type, source) of each cell."""
    names = public_names(module, pages)
    own = [n for n in names if n.kind != "import"]
    yield "markdown", f"# {module.__name__}\n\n> {_statement(module)}"
    if own:
        imports = f"from {module.__name__} import " + ", ".join(n.name for n in own)
        if len(imports) > 100:
            wrapped = textwrap.fill(", ".join(n.name for n in own) + ",", 96, break_on_hyphens=False)
            imports = f"from {module.__name__} import (\n{textwrap.indent(wrapped, '    ')}\n)"
        yield "code", f"#| hide\nfrom nbdev.showdoc import show_doc\n\n{imports}"
    for n in own:
        if n.kind == "constant":
            yield "markdown", f"## {n.name}"
            yield "code", f"#| exec_doc\n{n.name}"
            continue
        yield "code", f"show_doc({n.name}, title_level=2)"
        for member in members(n.obj) if n.kind == "class" else []:
            yield "code", f"show_doc({n.name}.{member}, title_level=3)"
    if imported := [n for n in names if n.kind == "import"]:
        inner = [n for n in imported if n.home.startswith(module.__name__.split(".")[0])]
        lines = [f"- `{n.name}`" + ("" if n.home.endswith(f".{n.name}") else f" of `{n.home}`") for n in inner]
        if len(lines) < len(imported):
            lines.append("- names of other libraries")
        yield "markdown", "## Importable from here\n\n" + "\n".join(lines)


def _statement(module: ModuleType) -> str:
    """The first paragraph of the module's docstring on one line."""
    doc = inspect.cleandoc(module.__doc__ or "")
    if not doc:
        raise ValueError(f"{module.__name__} has no docstring; its first paragraph is what the API page opens with")
    return " ".join(doc.split("\n\n")[0].split())


def _cell(module: str, kind: str, source: str) -> dict:
    cell = {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True)}
    cell["id"] = hashlib.sha256(f"{module}\n{source}".encode()).hexdigest()[:8]
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


if __name__ == "__main__":
    sys.exit(main())
