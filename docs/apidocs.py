"""The API's part of nbs/: a notebook for each page, a `show_doc` for each name, and how an entry looks.

The public names come first: those of `collabkit.__all__` by task, then its modules, a page each. A module whose names
are shown on none of these pages comes last, as an internal one.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import typer
from docstrings import docstring_markdown, format_signature, summary
from typer.cli import get_docs_for_click

import collabkit

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = collabkit.__name__

HEAD = "| Name | What it is |\n|:--|:--|"

# What users call, by task. A name of `collabkit.__all__` that is missing here comes under "More".
TASKS = {
    "Data": "CollabDataLoaders Implicit Confidence Dataset Interactions Features Bag Text Picture Vocab CollabWarning",
    "One call": "auto_fit tune",
    "Training": "Track IdDropoutSchedule",
    "Learner and models": "collab_learner CollabLearner load_learner CollFilter EmbeddingNN NCF GMF NeuMF TwoTower "
    "FactorizationMachine TimeSVD SASRec GRURec AveragedHistory YouTubeNet Pipeline",
    "Evaluation": "compare cross_validate backtest SampledCandidates HitRate NDCG",
    "Closed forms": "Popularity ItemKNN ContentKNN HybridKNN EASE NextItem",
    "Recommending and serving": "Recommender Light Query QuestionnaireWidget BundleError",
    "Interpretation": "CollabInterpretation",
}


@dataclass
class ApiPage:
    """A page of the API: a task or a module; `names` are what it explains, `listed` what its module offers besides."""

    title: str
    kind: str  # "start", "task", "module", "program" or "internal"
    doc: str
    module: ModuleType | None = None  # what the names are imported from
    names: dict[str, object] = field(default_factory=dict)
    listed: dict[str, object] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The page's notebook in the repository."""
        return f"nbs/api/{self.title.lower().replace(' ', '_')}.ipynb"


def api_pages() -> list[ApiPage]:
    """The API's pages in reading order; each name is explained on the first page that offers it."""
    public = {name: getattr(collabkit, name) for name in collabkit.__all__ if not name.startswith("_")}
    modules = {name: obj for name, obj in public.items() if inspect.ismodule(obj)}
    left = {name: obj for name, obj in public.items() if name not in modules}
    pages = []
    for title, listed in TASKS.items():
        names = {name: left.pop(name) for name in listed.split() if name in left}
        pages.append(ApiPage(title, "task", "", collabkit, names))
    if left:
        pages.append(ApiPage("More", "task", "", collabkit, left))
    shown = {id(obj) for page in pages for obj in page.names.values()}
    for name, module in modules.items():
        pages.append(module_page(module, f"{PACKAGE}.{name}", "module", shown))
    for module in sorted(package_modules(), key=lambda m: (m.__name__.count("."), m.__name__)):
        page = module_page(module, module.__name__, "internal", shown)
        if page.names:
            pages.append(page)
    internal = sorted((page for page in pages if page.kind == "internal"), key=lambda page: page.title)
    return [start_page(pages), *(page for page in pages if page.kind != "internal"), *programs(), *internal]


def package_modules() -> list[ModuleType]:
    """Every module of the package that has an `__all__`, imported."""
    found = pkgutil.walk_packages(collabkit.__path__, f"{PACKAGE}.")
    modules = [importlib.import_module(m.name) for m in found if not re.search(r"\._", m.name)]
    return [m for m in modules if hasattr(m, "__all__")]


def module_page(module: ModuleType, title: str, kind: str, shown: set[int]) -> ApiPage:
    """The page of a module: what it defines, itself or in its parts, and no page before has shown."""
    page = ApiPage(title, kind, inspect.cleandoc(module.__doc__ or ""), module)
    for name in module.__all__:
        obj = getattr(module, name)
        if name.startswith("_") or inspect.ismodule(obj):
            continue
        home = obj.__module__ if is_documented_kind(obj) else constant_home(module, name)
        own = bool(home) and f"{home}.".startswith(f"{module.__name__}.")
        (page.names if own and id(obj) not in shown else page.listed)[name] = obj
    shown |= {id(obj) for obj in page.names.values()}
    return page


def start_page(pages: list[ApiPage]) -> ApiPage:
    """Where a reader of the API starts: each public name with what it is, by task."""
    parts = ["What a program calls, by task. Each name leads to its entry; all can be imported from `collabkit`."]
    for page in pages:
        if page.kind == "task":
            parts += [f"## {page.title}", table(page.names)]
    rows = [f"| [`{p.title}`]({Path(p.path).name}) | {summary(p)} |" for p in pages if p.kind == "module"]
    return ApiPage("Start here", "start", "\n\n".join([*parts, "## Modules", "\n".join([HEAD, *rows])]))


def programs() -> list[ApiPage]:
    """The page on the package's command line, as typer describes it."""
    found = [obj for module in package_modules() for obj in vars(module).values() if isinstance(obj, typer.Typer)]
    pages = []
    for app in {id(app): app for app in found}.values():
        command = typer.main.get_command(app)
        text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name=PACKAGE), name=PACKAGE)
        pages.append(ApiPage("Command line", "program", text.partition("\n\n")[2]))
    return pages


def table(names: dict[str, object]) -> str:
    """Names with the first paragraph of their docstrings; the site links them."""
    rows = (f"| `{name}` | {summary(obj) if is_documented_kind(obj) else 'constant'} |" for name, obj in names.items())
    return "\n".join([HEAD, *rows])


# --- the notebooks


def write_notebooks(pages: list[ApiPage]) -> None:
    """Write the notebooks of nbs/api/ anew."""
    folder = ROOT / "nbs" / "api"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.ipynb"):
        old.unlink()
    for page in pages:
        cells = [{"cell_type": kind, "metadata": {}, "source": source} for kind, source in page_cells(page)]
        code = {"execution_count": None, "outputs": []}
        cells = [cell | (code if cell["cell_type"] == "code" else {}) for cell in cells]
        kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
        notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}
        (ROOT / page.path).write_text(json.dumps(notebook, indent=1), encoding="utf-8")


def page_cells(page: ApiPage) -> Iterator[tuple[str, str]]:
    """(cell type, source) of each cell."""
    lead, _, rest = page.doc.partition("\n\n")
    lead = " ".join(lead.split()) if page.kind != "task" else "From `collabkit`, with " + ", ".join(page.names) + "."
    # The entries are no tests: `nbdev-test` passes over the notebook, as `skip_exec` tells it.
    yield "markdown", f"# {page.title}\n\n> {lead}\n\n- skip_exec: true"
    yield "markdown", rest if page.kind in ("start", "program") else docstring_markdown(rest)
    if page.kind in ("module", "internal"):
        yield "markdown", source_link(Path(page.module.__file__), 1, ".api-source .of-page")
        yield "markdown", table(page.names | page.listed)
    if page.names:
        yield "code", "#| hide\nfrom nbdev.showdoc import show_doc\nfrom apidocs import Entry"
        yield "code", f"#| hide\nfrom {page.module.__name__} import {', '.join(page.names)}"
    for name, obj in page.names.items():
        if is_documented_kind(obj):
            for dotted in (name, *members(name, obj)):
                yield "code", f"show_doc({dotted}, Entry, {dotted!r}, {2 + dotted.count('.')})"
        else:
            yield "markdown", constant_entry(page.module, name)


def is_documented_kind(obj: object) -> bool:
    """Whether an object is a class or a function, which have a docstring of their own."""
    return inspect.isclass(obj) or (callable(obj) and hasattr(obj, "__name__"))


def members(name: str, cls: object) -> list[str]:
    """`Class.member` of each public method and property with a docstring, those of private bases included."""
    if not inspect.isclass(cls):
        return []
    bases = [b for b in cls.__mro__ if b is cls or (b.__module__.startswith(PACKAGE) and b.__name__.startswith("_"))]
    return list(dict.fromkeys(f"{name}.{n}" for b in bases for n, value in vars(b).items() if is_member(n, value)))


def is_member(name: str, value: object) -> bool:
    function = inspect.unwrap(inner_function(value))
    if not inspect.isfunction(function) or not (function.__module__ or "").startswith(PACKAGE):
        return False  # a NamedTuple's methods, for one
    special = name.startswith("__") and name.endswith("__") and name not in ("__init__", "__post_init__", "__repr__")
    return (special or not name.startswith("_")) and (bool(function.__doc__) or name == "forward")


def inner_function(obj: object) -> object:
    """The function in a property, a cached property or a class method, else the object."""
    for attribute in ("fget", "func", "__func__"):
        if not inspect.isclass(obj) and hasattr(obj, attribute):
            return getattr(obj, attribute)
    return obj


# --- the entries


class Entry:
    """How nbdev's `show_doc` shows a name: heading, link to the source, signature, docstring with its sections."""

    def __init__(self, sym: object, name: str, title_level: int = 2):
        self.sym, self.name, self.level = sym, name, title_level

    def _repr_markdown_(self) -> str:
        function = inspect.unwrap(inner_function(self.sym))
        lines, line = inspect.getsourcelines(function)
        line += next(
            i for i, text in enumerate(lines) if re.match(r"\s*(?:async def|class|def) ", text)
        )  # no decorator
        parts = [heading(self.name, self.level), source_link(Path(inspect.getsourcefile(function)), line)]
        parts.append(f"``` {{ .python .api-signature }}\n{self.declaration()}\n```")
        if inspect.isclass(self.sym) and made_here(self.sym) and bases(self.sym):
            parts.append("Based on " + ", ".join(f"`{b}`" for b in bases(self.sym)) + ".\n{ .api-bases }")
        return "\n\n".join([*parts, docstring_markdown(function.__doc__ or "")])

    def declaration(self) -> str:
        if inspect.isclass(self.sym):
            own = made_here(self.sym)  # else the arguments are another library's to explain
            call = format_signature(self.name, self.sym) if own else f"{self.name}({', '.join(bases(self.sym))})"
            return f"class {call}"
        if hasattr(self.sym, "fget") or hasattr(self.sym, "func"):
            _, arrow, kind = format_signature(self.name, inner_function(self.sym)).partition(" -> ")
            return f"@property\n{self.name}{': ' if arrow else ''}{kind}"
        mark = "@classmethod\n" if inspect.isclass(getattr(self.sym, "__self__", None)) else ""
        skip = not mark and next(iter(inspect.signature(self.sym).parameters), "") == "self"
        return mark + format_signature(self.name, self.sym, skip_first=skip)


def heading(name: str, level: int) -> str:
    label = name.rpartition(".")[2].strip("_")
    shown = name.replace("__", r"\_\_")
    return f"{'#' * level} {shown} {{ #{anchor(name)} .api-name data-toc-label='{label}' }}"


def anchor(name: str) -> str:
    """The id of an entry's heading: the name, save that Markdown would read `__getitem__` as bold."""
    return name.replace("__", "")


def source_link(file: Path, line: int, style: str = ".api-source") -> str:
    """A link to a line of the package, as seen from nbs/api/."""
    return f"[source](../../{file.resolve().relative_to(ROOT).as_posix()}#L{line}){{ {style} }}"


def made_here(cls: type) -> bool:
    """Whether the class that takes the arguments is of this package."""
    return next(c for c in cls.__mro__ if {"__init__", "__new__"} & vars(c).keys()).__module__.startswith(PACKAGE)


def bases(cls: type) -> list[str]:
    return [b.__name__ for b in cls.__bases__ if b is not object and not b.__name__.startswith("_")]


def constant_entry(module: ModuleType, name: str) -> str:
    """A constant: its value and the comment above its definition."""
    home = importlib.import_module(constant_home(module, name))
    file, value = Path(home.__file__), repr(getattr(module, name))
    text = file.read_text(encoding="utf-8")
    found = definition(text, name)
    comment = re.sub(r"^#:? ?", "", found[1], flags=re.M).strip()
    shown = f"{name}: {type(getattr(module, name)).__name__}" if " at 0x" in value else f"{name} = {value[:300]}"
    link = source_link(file, text.count("\n", 0, found.start(2)) + 1)
    return f"{heading(name, 2)}\n\n{link}\n\n``` {{ .python .api-signature }}\n{shown}\n```\n\n{comment}"


def constant_home(module: ModuleType, name: str) -> str:
    """The name of the module that assigns a constant: this one or a part of it; '' if none does."""
    parts = pkgutil.walk_packages(getattr(module, "__path__", []), f"{module.__name__}.")
    for home in (module, *(importlib.import_module(part.name) for part in parts)):
        if definition(Path(home.__file__).read_text(encoding="utf-8"), name):
            return home.__name__
    return ""


def definition(text: str, name: str) -> re.Match | None:
    """The comment above an assignment at the top level (group 1) and the assignment (group 2)."""
    return re.search(rf"((?:^#.*\n)*)(^{name}\b(?::[^=\n]+)? = )", text, re.M)
