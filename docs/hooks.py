"""What MkDocs does not know of itself: the site's pages are nbdev's notebooks and files of the repository.

Every page keeps the path of its file in the repository, so links between files are links between pages, checked by
`mkdocs build --strict`; only the address of the HTML is chosen here.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # for the API's notebooks too, while nbdev runs them

import nbformat  # noqa: E402
from apidocs import PACKAGE, ApiPage, anchor, api_pages, is_documented_kind, members, write_notebooks  # noqa: E402
from mkdocs.exceptions import PluginError  # noqa: E402
from mkdocs.structure.files import File, Files, InclusionLevel  # noqa: E402
from nbdev.serve import proc_nbs  # noqa: E402
from nbpages import link_names, notebook_page, remote_resources  # noqa: E402

WRITTEN = {
    "ARCHITECTURE.md": "architecture.html",
    "benchmarks/README.md": "benchmarks.html",
    "benchmarks/RESULTS.md": "results.html",
    "CHANGELOG.md": "changelog.html",
    "CONTRIBUTING.md": "contributing.html",
}
# In the search. A hit in a title counts a thousandfold there, so it takes small factors to bring the text of a tutorial
# before the titles of the project's pages, and these before internals.
BOOSTS = {"tutorial": 4, "start": 4, "written": 0.002, "internal": 0.0005}

kinds: dict[str, str] = {}  # file -> kind of page
names: dict[str, str] = {}  # public name, module or source file -> file and anchor


class Page(File):
    """A file of the repository, of whatever kind, that is shown as a page."""

    def is_documentation_page(self) -> bool:
        return True


def on_config(config):
    config.copyright = f"{PACKAGE} {sys.modules[PACKAGE].__version__} · Apache License 2.0"
    return config


def on_files(files: Files, config) -> Files:
    """Write the API's notebooks, let nbdev process all of nbs/ and add every page and plot."""
    os.chdir(ROOT)  # nbdev looks for its configuration from here
    pages = api_pages()
    write_notebooks(pages)
    processed = proc_nbs(n_workers=0, force=True)  # its cache would miss a change of the library

    def add(path: str, address: str, content: str, kind: str) -> None:
        level = InclusionLevel.NOT_IN_NAV if kind == "source" else InclusionLevel.INCLUDED
        page = Page.generated(config, path, content=content, inclusion=level)
        page.dest_uri = address
        kinds[path] = kind
        files.append(page)

    tutorials = [f"nbs/{p.name}" for p in sorted((ROOT / "nbs").glob("*.ipynb"), key=lambda p: p.name)]
    for path, kind in {**dict.fromkeys(tutorials, "tutorial"), **{p.path: p.kind for p in pages}}.items():
        stem = re.sub(r"^\d+_", "", Path(path).stem)
        text, plots = notebook_page(nbformat.read(processed / Path(path).relative_to("nbs"), as_version=4), stem)
        add(path, f"{'api/' if path.startswith('nbs/api/') else ''}{stem}.html", text, kind)
        for name, content in plots.items():
            files.append(File.generated(config, f"nbs/{name}", content=content))
    decisions = [f"docs/decisions/{p.name}" for p in sorted((ROOT / "docs/decisions").glob("*.md"))]
    written = WRITTEN | {path: f"decisions/{Path(path).stem}.html" for path in decisions}
    for path, address in written.items():
        add(path, address, (ROOT / path).read_text(encoding="utf-8"), "written")
    for file in sorted((ROOT / PACKAGE).rglob("*.py")):
        path = file.relative_to(ROOT).as_posix()
        add(path, f"source/{path}.html", source_page(path, file.read_text(encoding="utf-8")), "source")
        names[path] = names[path.partition("/")[2]] = path
    remember_names(pages)
    config.nav = navigation(tutorials, pages, decisions)
    return files


def source_page(path: str, text: str) -> str:
    front = f"---\ntitle: {path}\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n\n# {path} {{ .source-title }}\n\n"
    return f'{front}`````` {{ .python linenums="1" .no-select }}\n{text.rstrip()}\n``````\n'


def remember_names(pages: list[ApiPage]) -> None:
    """What each name is linked to: of two with the same name, the first in reading order."""
    names[PACKAGE] = pages[0].path
    for page in pages:
        modules = [PACKAGE]
        if page.kind in ("module", "internal"):
            modules = [page.module.__name__, page.title, page.title.removeprefix(f"{PACKAGE}.")]
            names.update(dict.fromkeys(modules[:2], page.path))
        for name, obj in page.names.items():
            for full in (name, *(members(name, obj) if is_documented_kind(obj) else [])):
                target = f"{page.path}#{anchor(full)}"
                for known in (full, *(f"{module}.{full}" for module in modules)):
                    names.setdefault(known, target)
                names[f"{page.path} {full}"] = target  # on its own page a name means what is explained there


def navigation(tutorials: list[str], pages: list[ApiPage], decisions: list[str]) -> list:
    """The table of contents: internal modules last, by folder."""

    def listed(kind: str) -> list:
        return [p.path if kind != "module" else {p.title: p.path} for p in pages if p.kind == kind]

    folders: dict[str, list] = {}
    for page in (p for p in pages if p.kind == "internal"):
        parts = page.title.split(".")[1:]
        folders.setdefault(parts[0] if len(parts) > 1 else "", []).append({".".join(parts): page.path})
    internals = folders.pop("", []) + [{folder: inside} for folder, inside in folders.items()]
    home = "nbs/index.ipynb"
    api = [*listed("start"), *listed("task"), {"Modules": listed("module")}, *listed("program")]
    return [
        {"Home": home},
        {"Tutorials": [path for path in tutorials if path != home]},
        {"API": [*api, {"Internals": internals}]},
        {"Project": [*WRITTEN, {"Decisions": decisions}]},
    ]


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Link names and files; say how much a page counts in the search."""
    path = page.file.src_uri
    kind = kinds[path]
    if kind == "source":
        return markdown
    if path == "nbs/index.ipynb":
        page.meta["hide"] = ["navigation"]
    if kind in BOOSTS:
        page.meta["search"] = {"boost": BOOSTS[kind]}
    markdown = re.sub(r"(\]\([^)\s]+\.py)#L(\d+)", r"\1#__codelineno-0-\2", markdown)
    return link_names(markdown, partial(target, path))


def target(path: str, name: str) -> str:
    """The address of a name as seen from the page of `path`; '' if there is none."""
    found = names.get(f"{path} {name}") or names.get(name, "")
    file, mark, heading = found.partition("#")
    return found and posixpath.relpath(file, posixpath.dirname(path)) + mark + heading


def on_page_content(html: str, page, config, files) -> None:
    if kinds[page.file.src_uri] == "source":  # MkDocs looks for anchors before the code is highlighted
        page.present_anchor_ids |= set(re.findall(r'id="(__codelineno-[\d-]+)"', html))


def on_post_page(output: str, page, config) -> None:
    if remote := remote_resources(output):
        raise PluginError(f"{page.file.src_uri} loads {', '.join(remote)}: the site is to work offline")
