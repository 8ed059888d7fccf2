"""Build the documentation site: nbdev's processed notebooks, the API, hand-written pages -> Material for MkDocs.

    python docs/build.py [--out site]       # `make docs`

Steps: check that nbs/api/ is fresh; run nbdev's processors (`proc_nbs`) over nbs/; turn every processed notebook into
Markdown; add the hand-written pages and the highlighted sources; run `mkdocs build --strict`; check the HTML.
Everything between lies in docs/_build/ and _proc/, both ignored by git. The site works from the file system, offline.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path[:0] = [str(ROOT)]
sys.path.append(str(DOCS))

import yaml  # noqa: E402
from api_notebooks import COMMAND, stale_notebooks  # noqa: E402
from sitegen import apidoc, modules  # noqa: E402
from sitegen.markdown import normalise  # noqa: E402
from sitegen.site import BuildError, Site  # noqa: E402

BUILD = DOCS / "_build"
# Hand-written pages of the repository, where present; docs/pages/*.md and docs/decisions/*.md come on top.
WRITTEN = {
    "ARCHITECTURE.md": "architecture.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/RESULTS.md": "results.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="folder of the finished site (default: site)")
    out = parser.parse_args().out.resolve()
    start = time.perf_counter()
    try:
        os.chdir(ROOT)  # nbdev looks for its configuration from here
        build(out)
    except BuildError as error:
        print(f"\ndocs: {error}", file=sys.stderr)
        return 1
    print(f"docs: {len(list(out.rglob('*.html')))} pages in {out}, {time.perf_counter() - start:.0f} s")
    return 0


def build(out: Path) -> None:
    """Build the whole site into `out`, or raise `BuildError`."""
    if out.exists() and any(out.iterdir()) and not (out / "assets" / "extra.css").exists():
        raise BuildError(f"{out} holds something else than an earlier site, which would be lost; choose another --out")
    shutil.rmtree(BUILD, ignore_errors=True)
    site = Site(ROOT, BUILD / "pages")
    pages = load_modules()
    notebooks = find_notebooks()
    announce(site, pages, notebooks)
    processed = process(notebooks)
    titles = {path: write_notebook(site, path, processed / Path(path).relative_to("nbs"), pages) for path in notebooks}
    for path in site.pages.keys() - set(notebooks):
        site.write(path, normalise((ROOT / path).read_text(encoding="utf-8")))
        titles[path] = first_heading(path)
    site.write_sources()
    shutil.copytree(DOCS / "assets", site.folder / "assets", dirs_exist_ok=True)
    if site.problems:
        raise BuildError("broken links:\n  " + "\n  ".join(site.problems))
    run_mkdocs(site, titles, pages, out)
    from sitegen.check import check_site

    if problems := check_site(out):
        raise BuildError("the site is not sound:\n  " + "\n  ".join(problems[:40]))


def load_modules() -> list[str]:
    """Names of the modules with an API page, all importable and each with its notebook up to date."""
    try:
        names = modules.module_names(ROOT)
        stale = stale_notebooks(ROOT)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise BuildError(
            f"cannot read the public names: {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        ) from error
    if stale:
        raise BuildError(f"stale API notebooks: {', '.join(stale)}\nrun: {COMMAND}")
    return names


def find_notebooks() -> list[str]:
    """Paths of the notebooks that become pages: the home page, the tutorials in order, the API."""
    nbs = ROOT / "nbs"
    if not (nbs / "index.ipynb").exists():
        raise BuildError("nbs/index.ipynb, the home page, is missing")
    tutorials = sorted(p for p in nbs.glob("*.ipynb") if p.name != "index.ipynb" and p.name[0] not in "_.")
    found = [nbs / "index.ipynb", *tutorials, *sorted((nbs / "api").glob("*.ipynb"))]
    return [p.relative_to(ROOT).as_posix() for p in found]


def announce(site: Site, pages: list[str], notebooks: list[str]) -> None:
    """Tell the site every page and public name before any page is written, so that all links can be made."""
    for path in notebooks:
        name = re.sub(r"^\d+[a-zA-Z0-9]*_", "", Path(path).stem.lower())  # as nbdev names its pages
        site.add(path, f"api/{name}.md" if path.startswith("nbs/api/") else f"{name}.md")
    for path, page in WRITTEN.items():
        if (ROOT / path).exists():
            site.add(path, page)
    for folder, prefix in (("docs/pages", ""), ("docs/decisions", "decisions/")):
        for file in sorted((ROOT / folder).glob("*.md")):
            site.add(f"{folder}/{file.name}", prefix + file.name)
    for module in reversed(pages):
        file = Path(sys.modules[module].__file__).relative_to(ROOT).as_posix()
        site.names[file] = f"source/{file}.md"  # shown by the module's page
        # A name that two modules have is linked to the first in reading order.
        page = site.pages[f"nbs/api/{modules.notebook_name(module)}"]
        site.names[module] = page
        for name in own_names(module, pages):
            site.names |= {n: f"{page}#{apidoc.anchor(n)}" for n in (name.name, *documented_members(name))}
            site.names[f"{module}.{name.name}"] = f"{page}#{name.name}"


def names_of(site: Site, module: str, pages: list[str]) -> dict[str, str]:
    """What each name in a module's `__all__` is linked to on that module's page."""
    names = modules.public_names(sys.modules[module], pages)
    here = site.pages[f"nbs/api/{modules.notebook_name(module)}"]
    own = {n.name: f"{here}#{n.name}" for n in names if n.kind != "import"}
    full = {n.name: n.home if inspect.ismodule(n.obj) else f"{n.home}.{n.name}" for n in names if n.name not in own}
    return own | {name: site.names[where] for name, where in full.items() if where in site.names}


def own_names(module: str, pages: list[str]) -> list[modules.Name]:
    return [n for n in modules.public_names(sys.modules[module], pages) if n.kind != "import"]


def documented_members(name: modules.Name) -> list[str]:
    return [f"{name.name}.{m}" for m in modules.members(name.obj)] if name.kind == "class" else []


def process(notebooks: list[str]) -> Path:
    """Run nbdev's processors over nbs/ and return the folder of the results."""
    from nbdev.serve import proc_nbs

    for path in notebooks:
        check_notebook(path)
    try:
        # `force`: nbdev's cache follows the notebooks' times and would miss a change of the library.
        folder = proc_nbs(force=True)
    except Exception as error:
        raise BuildError(f"nbdev cannot process the notebooks: {error}") from error
    missing = [p for p in notebooks if not (folder / Path(p).relative_to("nbs")).exists()]
    if missing:
        raise BuildError(f"nbdev produced nothing for {', '.join(missing)}; see its message above")
    return folder


def check_notebook(path: str) -> None:
    """Refuse what the site would lose: text in the title's cell, which nbdev makes into front matter; formulas."""
    import nbformat

    try:
        cells = nbformat.read(ROOT / path, as_version=4).cells
    except Exception as error:
        raise BuildError(f"{path} is not a notebook: {error}") from error
    texts = [c.source for c in cells if c.cell_type == "markdown"]
    lines = next((t for t in texts if re.search(r"^# \S", t, re.M)), "").splitlines()
    if not lines:
        raise BuildError(f"{path} has no title: start it with a cell '# Title', a blank line, '> one sentence'")
    lost = [line for line in lines if line.strip() and not re.match(r"^(# |> |- \S+:)", line)]
    if lost or sum(line.startswith("> ") for line in lines) > 1:
        extra = repr(lost[0]) if lost else "the second line of '> '"
        raise BuildError(f"{path}: of the title's cell nbdev keeps '# Title' and one line '> ...'; move {extra}")
    if any("$$" in t or re.search(r"\\(frac|sum|mathbf|\(|\[)", t) for t in texts):
        raise BuildError(f"{path} holds LaTeX, which the site does not render; write formulas in plain text or as code")
    code = [c for c in cells if c.cell_type == "code"]
    if code and not path.startswith("nbs/api/") and not any(c.outputs for c in code):
        print(f"docs: {path} has no saved outputs; run it and save it, the site shows what is saved")


def write_notebook(site: Site, path: str, processed: Path, pages: list[str]) -> str:
    """Write the page of a processed notebook; returns its title."""
    import nbformat
    from sitegen.notebooks import page_markdown, to_page

    page = site.pages[path]
    stem = Path(page).stem
    module = next((m for m in pages if path == f"nbs/api/{modules.notebook_name(m)}"), None)
    nb = nbformat.read(processed, as_version=4)
    if module:
        nb.cells = [c for c in nb.cells if not re.match(r"^## (\w+$|Importable from here)", c.source)]
    try:
        result = to_page(nb, stem, (lambda source: api_entry(module, source)) if module else None)
    except Exception as error:
        raise BuildError(f"{path}: {type(error).__name__}: {error}") from error
    meta, body = result.meta, result.body
    if module:
        body = overview(module, pages) + body
    front = {"hide": ["navigation"]} if path == "nbs/index.ipynb" else {}
    text = page_markdown(meta["title"], meta.get("description", ""), body, **front)
    site.write(path, text, files=result.files, names=names_of(site, module, pages) if module else {})
    for name, content in result.files.items():
        site.put((Path(page).parent / name).as_posix(), content)
    return meta["title"]


def api_entry(module: str, source: str) -> str:
    """An API notebook's `show_doc(X)` or `X` as our own Markdown: nbdev's has neither source lines nor sections."""
    expression = ast.parse(source).body[-1].value
    call = isinstance(expression, ast.Call)
    dotted = ast.unparse(expression.args[0] if call else expression)
    file, line = modules.source_location(sys.modules[module], dotted)
    link = f"{source_path(file)}#L{line}"
    if call:
        return apidoc.entry(sys.modules[module], dotted, link, level=3 if "." in dotted else 2)
    return apidoc.constant_entry(sys.modules[module], dotted, link, modules.comment_above(file, line))


def overview(module: str, pages: list[str]) -> str:
    """What an API page opens with: the rest of the module's docstring, its source, a table of its names."""
    loaded = sys.modules[module]
    rows = []
    for name in modules.public_names(loaded, pages):
        described = inspect.ismodule(name.obj) or (callable(name.obj) and hasattr(name.obj, "__name__"))
        text = apidoc.summary(name.obj) if described else "constant"
        rows.append(f"| `{name.name}` | {text} |")
    table = "\n".join(["| Name | What it is |", "|:--|:--|", *rows]) if rows else ""
    link = f"[source]({source_path(Path(loaded.__file__))}){{ .api-source .of-page }}"
    rest = inspect.cleandoc(loaded.__doc__).partition("\n\n")[2]
    return "\n\n".join(part for part in (link, apidoc.docstring_markdown(rest), table) if part) + "\n\n"


def source_path(file: Path) -> str:
    """A file of the repository as a link from nbs/api/."""
    return "../../" + file.relative_to(ROOT).as_posix()


def first_heading(path: str) -> str:
    """The title of a hand-written page."""
    heading = re.search(r"^# +(.+?)\s*$", (ROOT / path).read_text(encoding="utf-8"), re.M)
    if not heading:
        raise BuildError(f"{path} has no '# Title'")
    return heading[1].replace("`", "")


def navigation(site: Site, titles: dict[str, str], pages: list[str]) -> list:
    """The site's table of contents as MkDocs wants it."""

    def listed(folder: str, known: tuple[str, ...] = ()) -> list[dict]:
        paths = [p for p in site.pages if p not in known and Path(p).parent.as_posix() == folder]
        return [{titles[p]: site.pages[p]} for p in paths]

    groups: dict[str, list] = {}
    for module in pages:
        path = f"nbs/api/{modules.notebook_name(module)}"
        label = module.removeprefix(modules.PACKAGE + ".")
        groups.setdefault(modules.page_group(module), []).append({label: site.pages[path]})
    tutorials = listed("nbs", ("nbs/index.ipynb",))
    project = [{titles[p]: site.pages[p]} for p in WRITTEN if p in site.pages] + listed("docs/pages")
    if decisions := listed("docs/decisions"):
        project.append({"Decisions": decisions})
    sections = {"Tutorials": tutorials, "API": [{g: entries} for g, entries in groups.items()], "Project": project}
    return [{"Home": "index.md"}, *({name: entries} for name, entries in sections.items() if entries)]


def run_mkdocs(site: Site, titles: dict[str, str], pages: list[str], out: Path) -> None:
    """Render the Markdown with docs/mkdocs.yml."""
    config = {"INHERIT": "../mkdocs.yml", "docs_dir": "pages", "site_dir": str(out)}
    version = modules.import_module(f"{modules.PACKAGE}._version", ROOT).__version__
    config["nav"] = navigation(site, titles, pages)
    config["copyright"] = f"{modules.PACKAGE} {version} · Apache License 2.0"
    file = BUILD / "mkdocs.yml"
    file.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--quiet",
        "--strict",
        "--config-file",
        str(BUILD / "mkdocs.yml"),
    ]
    try:
        result = subprocess.run(command, timeout=600, env={**os.environ, "NO_MKDOCS_2_WARNING": "true"}, check=False)
    except subprocess.TimeoutExpired as error:
        raise BuildError("mkdocs did not finish in ten minutes") from error
    if result.returncode:
        raise BuildError("mkdocs reports the problems above")


if __name__ == "__main__":
    sys.exit(main())
