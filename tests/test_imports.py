"""The order of the modules: each imports from those above it, fastai stays below the line, and importing is light."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import collabkit

ROOT = Path(collabkit.__file__).parent

# As in ARCHITECTURE.md. A package counts as one place; its own modules are in `PACKAGES`.
ABOVE = [
    "_version", "vocab", "interactions", "row_weights", "features", "datasets", "filters", "splits", "parts", "losses",
    "metrics", "sampling", "models", "als", "recipes", "fold_in", "pairs", "ranking", "evaluate", "bundle",
    "neighbours", "questionnaire", "recommender", "contributions", "baselines", "comparison", "audit",
]  # fmt: skip
BELOW = [
    "loader", "ranking_loader", "dataloaders", "optim", "callbacks", "fit_metrics", "training", "assembly", "learner",
    "plots", "interpret", "widgets", "console", "demo", "cli", "all",
]  # fmt: skip
ORDER = [*ABOVE, *BELOW]
PACKAGES = {
    "features": ["fields", "sources", "table"],
    "models": [
        *("table", "sparse_dot", "feature_rows", "base", "collab_filter", "mlp", "neumf", "two_tower"),
        *("cold_rows", "default_rows", "growing"),
    ],
    "fold_in": ["histories", "prior", "scores", "jackknife", "ratings", "events"],
    "recommender": ["histories", "newcomers", "evaluation", "core"],
    "splits": ["splitter", "rows", "cold"],
    "sampling": ["weights", "rows", "shared"],
    "evaluate": ["candidates", "lists", "references", "task", "tables", "fold_in"],
    "datasets": ["container", "tables", "catalogue", "download", "grouplens", "planted"],
}
WITHOUT_ALL = {"_version", "all"}  # one constant; and the module made for a star import, fastai's names with it
FILES = sorted(ROOT.rglob("*.py"))
NAMES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path):
    """`(module, names)` of each import in a file, functions included, with relative ones made absolute."""
    package = ["collabkit", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])]), [alias.name for alias in node.names]


def own_imports(path: Path):
    """The collabkit modules that a file imports, as dotted names below `collabkit`."""
    for module, names in imports(path):
        if module == "collabkit":  # from collabkit import metrics
            yield from names
        elif module.startswith("collabkit."):
            yield module.removeprefix("collabkit.")


def test_every_module_has_its_place():
    tops = {name.split(".")[0] for name in NAMES} - {"__init__"}
    missing = sorted(tops - set(ORDER))
    assert not missing, f"new modules {missing}: add them to the order in this test and in ARCHITECTURE.md"
    for package, modules in PACKAGES.items():
        inside = {name.split(".")[1] for name in NAMES if name.startswith(f"{package}.")} - {"__init__"}
        assert inside <= set(modules), f"new modules in {package}: {sorted(inside - set(modules))}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_modules_import_from_those_above(path):
    own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    if own == "__init__":
        assert [name for name in own_imports(path) if name != "_version"] == [], "collabkit/__init__.py must stay light"
        return
    top, *inside = own.split(".")
    for name in own_imports(path):
        other, *other_inside = name.split(".")
        if other not in ORDER:  # a name of the table of contents, as in `from collabkit import CollabDataLoaders`
            other = collabkit._WHERE.get(other, "_version").split(".")[0]
        if other != top:
            assert ORDER.index(other) < ORDER.index(top), f"{own} imports collabkit.{name}, which lies below it"
        elif inside != ["__init__"] and other_inside:
            order = PACKAGES[top]
            assert order.index(other_inside[0]) < order.index(inside[0]), f"{own} imports {name}, which lies below it"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_fastai_stays_below_the_line(path):
    top = path.relative_to(ROOT).with_suffix("").parts[0]
    foreign = {module.split(".")[0] for module, _ in imports(path)}
    if top in ABOVE or top == "__init__":
        heavy = {"fastai", "fastcore", "fastprogress", "matplotlib", "IPython"}
        assert not foreign & heavy, f"{path.name} lies above the line and imports {sorted(foreign & heavy)}"
    modules = {module for module, _ in imports(path)}
    assert not any(module.startswith(("fastai.vision", "torchvision")) for module in modules)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_star_imports(path):
    stars = [module for module, names in imports(path) if "*" in names]
    if path != ROOT / "all.py":
        assert stars == []
    assert not any(module.startswith("collabkit") for module in stars)


@pytest.mark.parametrize("name", [name for name in NAMES if name.split(".")[-1] not in WITHOUT_ALL])
def test_all_is_there_and_true(name):
    path = ROOT / f"{name.replace('.', '/')}.py"
    targets = [
        t.id for node in tree(path).body if isinstance(node, ast.Assign) for t in node.targets if hasattr(t, "id")
    ]
    assert targets.count("__all__") == 1, f"{name} has no __all__"
    module = importlib.import_module(f"collabkit.{name}".removesuffix(".__init__"))
    missing = [public for public in module.__all__ if not hasattr(module, public)]
    assert missing == [] and len(set(module.__all__)) == len(module.__all__)
    defined = {
        node.name
        for node in tree(path).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }  # fmt: skip
    assert defined <= set(module.__all__), f"public classes of {name} are not in its __all__"


def test_the_table_of_contents_is_true():
    for name in collabkit.__all__:
        assert getattr(collabkit, name) is not None
    for name, where in collabkit._WHERE.items():
        module = importlib.import_module(f"collabkit.{where}")
        assert getattr(collabkit, name) is getattr(module, name) and name in module.__all__
    assert set(dir(collabkit)) >= {"CollabDataLoaders", "collab_learner", "datasets"}
    with pytest.raises(
        AttributeError, match="module 'collabkit' has no attribute 'CollabDataLoader'; it has .*CollabDat"
    ):
        _ = collabkit.CollabDataLoader


@pytest.mark.parametrize(
    ("statement", "absent", "present"),
    [
        ("import collabkit", ["torch", "fastai", "pandas", "numpy", "matplotlib"], ["collabkit"]),
        ("from collabkit import Recommender", ["fastai", "fastcore", "matplotlib", "IPython"], ["torch", "pandas"]),
    ],
)
def test_what_an_import_loads(statement, absent, present):
    code = f"import sys; {statement}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    ).stdout
    loaded = set(out.split())
    assert set(present) <= loaded and not loaded & set(absent)
