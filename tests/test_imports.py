"""The order of the layers: each imports from those above it, fastai stays below the line, and importing is light."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import collabkit

ROOT = Path(collabkit.__file__).parent
sys.path.append(str(ROOT.parent / "docs"))

from layers import ABOVE, DEFERRED, ORDER, replaced  # noqa: E402

HEAVY = ["torch", "fastai", "fastcore", "pandas", "scipy", "sklearn", "narwhals"]
FILES = sorted(ROOT.rglob("*.py"))
NAMES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES]


def tree(path: Path) -> ast.Module:
    found = ast.parse(path.read_text(encoding="utf-8"))
    found.body = [node for node in found.body if not ast.unparse(node).startswith("if TYPE_CHECKING")]
    return found


def imports(path: Path):
    """`(module, names)` of each import in a file, functions included, with relative ones made absolute."""
    package = ["collabkit", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])]), [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module":
            yield ast.unparse(node.args[0]).strip("'"), []


def own_imports(path: Path):
    """The collabkit modules that a file imports, as dotted names below `collabkit`."""
    for module, names in imports(path):
        if module == "collabkit":  # from collabkit import metrics
            yield from (collabkit._WHERE.get(name, collabkit._MODULES.get(name, name)) for name in names)
        elif module.startswith("collabkit."):
            yield module.removeprefix("collabkit.")


def test_the_folders_are_the_layers():
    entries = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.name != "__pycache__"}
    assert entries - {"__init__", "py.typed"} == set(ORDER), "docs/layers.py lists the layers"
    assert len(entries) <= 14


def test_the_architecture_page_shows_the_layers():
    page = (ROOT.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert replaced(page) == page, "run: python docs/layers.py"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_layers_import_from_those_above(path):
    own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    if own == "__init__":
        assert list(own_imports(path)) == [], "collabkit/__init__.py must stay light"
        return
    top = own.split(".")[0]
    for name in own_imports(path):
        other = name.split(".")[0]
        if other in (top, "__version__", "lazily") or (own, other) in DEFERRED:
            continue
        assert ORDER.index(other) < ORDER.index(top), f"{own} imports collabkit.{name}, which lies below it"


def module_of(package: str, name: str) -> str:
    """What `from package import name` takes `name` from, or the module that `name` is."""
    return f"{package}.{name}" if f"{package}.{name}".removeprefix("collabkit.") in NAMES else package


def test_no_circle_among_modules():
    graph = {}
    for name, path in zip(NAMES, FILES, strict=True):
        top_level = {node for node in tree(path).body if isinstance(node, (ast.Import, ast.ImportFrom))}
        froms = [node for node in top_level if isinstance(node, ast.ImportFrom) and node.module]
        modules = {module_of(node.module, alias.name) for node in froms for alias in node.names}
        graph[name.removesuffix(".__init__")] = {
            module.removeprefix("collabkit.") for module in modules if module.startswith("collabkit.")
        }
    done, path = set(), []

    def visit(name):
        assert name not in path, f"a circle of imports: {' -> '.join([*path[path.index(name) :], name])}"
        if name in done or name not in graph:
            return
        path.append(name)
        for other in sorted(graph[name]):
            visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_fastai_stays_below_the_line(path):
    top = path.relative_to(ROOT).with_suffix("").parts[0]
    foreign = {module.split(".")[0] for module, _ in imports(path)}
    if top in ABOVE or top == "__init__":
        heavy = {"fastai", "fastcore", "fastprogress", "matplotlib", "IPython"}
        assert not foreign & heavy, f"{path.name} lies above the line and imports {sorted(foreign & heavy)}"
    modules = {module for module, _ in imports(path)}
    assert not any(module.startswith(("fastai.vision", "torchvision")) for module in modules)


@pytest.mark.parametrize("path", [path for path in FILES if "light" in path.parts], ids=lambda path: path.stem)
def test_the_light_runtime_stays_light(path):
    foreign = {module.split(".")[0] for module, _ in imports(path)} - {*sys.stdlib_module_names}
    assert foreign <= {"numpy", "collabkit", "onnxruntime"}, f"{path.name} imports {sorted(foreign)}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_star_imports(path):
    stars = [module for module, names in imports(path) if "*" in names]
    if path != ROOT / "all.py":
        assert stars == []
    assert not any(module.startswith("collabkit") for module in stars)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_kinds_of_models_and_sides_are_asked_of_models_alone(path):
    text = path.read_text(encoding="utf-8")
    if "models" in path.relative_to(ROOT).parts:
        assert "is_item" not in text or {"collab_filter.py", "mlp.py"} & {path.name}  # fastai's own signatures
        return
    assert "is_item" not in text
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "hasattr":
            assert "model" not in ast.unparse(node.args[0]), f"{path.name} asks what a model has: {ast.unparse(node)}"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "all"])
def test_all_is_there_and_true(name):
    module = importlib.import_module(f"collabkit.{name}".removesuffix(".__init__"))
    missing = [public for public in module.__all__ if not hasattr(module, public)]
    assert missing == [] and len(set(module.__all__)) == len(module.__all__)


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


def test_users_import_paths_stay():
    code = (
        "import collabkit.splits, collabkit.sampling, sys\n"
        "from collabkit.filters import k_core\n"
        "from collabkit.splits.rows import random_split\n"
        "import collabkit.data.splits, collabkit.data.filters, collabkit.train.sampling as home\n"
        "assert collabkit.splits is collabkit.data.splits and collabkit.splits.random_split is random_split\n"
        "assert collabkit.sampling is home and home.__spec__.name == 'collabkit.train.sampling'\n"
        "assert k_core is collabkit.data.filters.k_core\n"
        "assert sys.modules['collabkit.splits.rows'] is sys.modules['collabkit.data.splits.rows']\n"
        "from collabkit import datasets, filters, losses, metrics, sampling, splits\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)


@pytest.mark.parametrize(
    ("statement", "absent", "present"),
    [
        ("import collabkit", ["torch", "fastai", "pandas", "numpy", "matplotlib"], ["collabkit"]),
        ("from collabkit.serve.light import Light", [*HEAVY, "matplotlib", "safetensors", "pyarrow"], ["numpy"]),
        ("import collabkit.serve, collabkit.coldstart", [*HEAVY, "numpy"], ["collabkit"]),
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
