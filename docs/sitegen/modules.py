"""Which modules and names are public: the one list that the API notebooks, the API pages and their test share."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

__all__ = [
    "GROUPS",
    "PACKAGE",
    "Name",
    "comment_above",
    "definition_lines",
    "import_module",
    "inner_function",
    "members",
    "module_names",
    "notebook_name",
    "page_group",
    "public_names",
    "source_location",
]

PACKAGE = "collabkit"

# The groups of the API's table of contents, in reading order; a module is listed under the first part of its name.
# A notebook's number is its group's, so that a new module renames no other.
GROUPS = {
    "Overview": [PACKAGE, "all"],
    "Data": [
        *("datasets", "vocab", "interactions", "row_weights", "features", "filters", "splits", "parts", "audit"),
        *("sampling", "loader", "ranking_loader", "dataloaders"),
    ],
    "Training": ["learner", "assembly", "training", "recipes", "callbacks", "losses", "optim", "als", "fit_metrics"],
    "Models": ["models", "fold_in", "baselines"],
    "Evaluation": ["evaluate", "comparison", "metrics", "ranking", "pairs", "neighbours"],
    "Interpretation": ["interpret", "contributions", "plots"],
    "Serving": ["recommender", "questionnaire", "widgets", "bundle"],
    "Command line": ["cli", "demo", "console"],
    "More": [],
}

# Packages whose modules have a page each. Any other package is one module that was split under its import path.
PAGE_PER_FILE = {PACKAGE, f"{PACKAGE}.models", f"{PACKAGE}.evaluate"}


@dataclass(frozen=True)
class Name:
    """One name of a module's `__all__`; `kind` is 'class', 'function', 'constant' or 'import' (defined elsewhere)."""

    name: str
    obj: object
    kind: str
    home: str  # module that defines it


def module_names(root: Path) -> list[str]:
    """Dotted names of the modules with a page: those that have an `__all__`; found without importing them."""
    found = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        parents = {".".join(parts[:i]) for i in range(1, len(parts))}
        hidden = any(p.startswith("_") for p in parts) or parents - PAGE_PER_FILE
        if not hidden and "__all__" in definition_lines(path):
            found.append(".".join(parts))
    return sorted(found, key=_order)


def page_group(module: str) -> str:
    """The group of the API's table of contents that `module` belongs to."""
    return next((g for g, heads in GROUPS.items() if _head(module) in heads), "More")


def notebook_name(module: str) -> str:
    """File name under nbs/api/ of a module's page, e.g. `10_vocab.ipynb`."""
    return f"{10 * list(GROUPS).index(page_group(module)):02d}_{_short(module)}.ipynb"


def public_names(module: ModuleType, pages: list[str]) -> list[Name]:
    """What `module.__all__` holds (less `__version__`), in its order; `pages` are the modules with a page."""
    missing = [n for n in module.__all__ if not hasattr(module, n)]
    if missing:
        raise AttributeError(f"{module.__name__}.__all__ lists {missing}, which the module does not define")
    names = [n for n in module.__all__ if not n.startswith("_")]
    return [_classify(n, getattr(module, n), module, pages) for n in names]


def members(cls: type) -> list[str]:
    """Names of the methods and properties to document: public, defined in this package, with their own docstring."""
    names: dict[str, None] = {}
    for base in cls.__mro__:
        private_base = base.__module__.startswith(PACKAGE) and base.__name__.startswith("_")
        if base is cls or private_base:
            names |= dict.fromkeys(n for n, value in vars(base).items() if _is_documented(n, value))
    return list(names)


@functools.lru_cache
def definition_lines(path: Path) -> dict[str, int]:
    """Line numbers of the classes, functions, methods and top-level variables in a source file, by qualified name."""
    lines: dict[str, int] = {}

    def visit(body, prefix=""):
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                lines.setdefault(prefix + node.name, node.lineno)
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name):
                        lines.setdefault(prefix + target.id, node.lineno)
            elif isinstance(node, ast.If | ast.Try):
                visit(node.body, prefix)

    visit(ast.parse(path.read_text(encoding="utf-8")).body)
    return lines


def comment_above(path: Path, line: int) -> str:
    """The comment lines right above a definition, without their marks."""
    found = []
    for text in reversed(path.read_text(encoding="utf-8").splitlines()[: line - 1]):
        if not text.startswith("#"):
            break
        found.insert(0, text.lstrip("#: "))
    return "\n".join(found)


def import_module(name: str, root: Path) -> ModuleType:
    """Import a module of the working tree."""
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module(name)


def source_location(module: ModuleType, dotted: str) -> tuple[Path, int]:
    """File and line where `module.<dotted>` (`Vocab`, `Vocab.encode`, `UNKNOWN`) is defined."""
    obj = inspect.getattr_static(module, dotted) if "." not in dotted else None
    if "." in dotted:
        owner, name = dotted.split(".")
        obj = inspect.getattr_static(getattr(module, owner), name)
    elif dotted not in vars(module):
        obj = getattr(module, dotted)
    function = inspect.unwrap(inner_function(obj))
    if inspect.isclass(obj) or inspect.isfunction(function):
        path = Path(inspect.getsourcefile(function))
        qualified = getattr(function, "__qualname__", dotted)
        return path, definition_lines(path).get(qualified) or inspect.getsourcelines(function)[1]
    for name in [module.__name__, *(m for m in sys.modules if m.startswith(module.__name__ + "."))]:
        path = Path(sys.modules[name].__file__)
        if dotted in definition_lines(path):
            return path, definition_lines(path)[dotted]
    raise ValueError(f"cannot find where {module.__name__}.{dotted} is defined")


def _classify(name: str, obj, module: ModuleType, pages: list[str]) -> Name:
    if isinstance(obj, ModuleType):
        return Name(name, obj, "import", obj.__name__)
    is_class = inspect.isclass(obj)
    if is_class or (callable(obj) and hasattr(obj, "__name__")):
        home = getattr(obj, "__module__", None) or module.__name__
        kind = "class" if is_class else "function"
    else:
        homes = [m for m in pages if m != module.__name__ and m in sys.modules and _defines(sys.modules[m], name, obj)]
        home = module.__name__ if _defines(module, name, obj) or not homes else homes[0]
        kind = "constant"
    elsewhere = home != module.__name__ and (home in pages or home.split(".")[0] != PACKAGE)
    return Name(name, obj, "import" if elsewhere else kind, home)


def _defines(module: ModuleType, name: str, obj) -> bool:
    return vars(module).get(name) is obj and name in definition_lines(Path(module.__file__))


def inner_function(obj):
    """The function inside a property, cached property or class method, else the object."""
    inner = getattr(obj, "fget", None) or getattr(obj, "__func__", None)
    return inner or (obj.func if isinstance(obj, functools.cached_property) else obj)


def _is_documented(name: str, value) -> bool:
    function = inspect.unwrap(inner_function(value))
    made_elsewhere = not (getattr(function, "__module__", None) or "").startswith(PACKAGE)  # e.g. by NamedTuple
    silent = name in ("__init__", "__post_init__", "__repr__", "__str__")
    if not inspect.isfunction(function) or made_elsewhere or silent:
        return False
    dunder = name.startswith("__") and name.endswith("__")
    return (dunder or not name.startswith("_")) and (bool(function.__doc__) or name == "forward")


def _short(module: str) -> str:
    return module.removeprefix(PACKAGE + ".")


def _head(module: str) -> str:
    return _short(module).split(".")[0]


def _order(module: str) -> tuple:
    heads = GROUPS[page_group(module)]
    position = heads.index(_head(module)) if _head(module) in heads else len(heads)
    return list(GROUPS).index(page_group(module)), position, module
