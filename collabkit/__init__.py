"""collabkit: recommender systems with a Learner API.

This is the table of contents. Names are imported when first used, so that `import collabkit` costs nothing and
`from collabkit import Recommender` does not load fastai.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec

__version__ = "0.1.0"

_CLOSED = ["Popularity", "ItemKNN", "ContentKNN", "EASE"]
_NAMES = {
    "train.dataloaders": ["CollabDataLoaders"],
    "train.learner": ["collab_learner", "CollabLearner", "load_learner"],
    "train.fit_metrics": ["HitRate", "NDCG"],
    "data.feedback": ["Implicit"],
    "data.features": ["Features"],
    "data.vocab": ["Vocab"],
    "data.interactions": ["Interactions"],
    "data.dataset": ["Dataset"],
    "data.query": ["Query"],
    "data.notices": ["CollabWarning"],
    "models": ["CollFilter", "EmbeddingNN", "NCF", "GMF", "NeuMF", "TwoTower", *_CLOSED],
    "evaluate": ["compare", "SampledCandidates"],
    "serve": ["Recommender", "BundleError"],
    "interpret": ["CollabInterpretation", "QuestionnaireWidget"],
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}
# Modules that users import by a short name, whichever folder they lie in.
_MODULES = {
    "datasets": "datasets",
    "filters": "data.filters",
    "splits": "data.splits",
    "losses": "losses",
    "sampling": "train.sampling",
    "metrics": "metrics",
    "recipes": "train.recipes",
}

__all__ = [*_WHERE, *_MODULES, "__version__"]


def __getattr__(name: str):
    if name in _WHERE:
        value = getattr(import_module(f"collabkit.{_WHERE[name]}"), name)
        globals()[name] = value  # the next look-up does not come here
        return value
    if name in _MODULES:
        return import_module(f"collabkit.{_MODULES[name]}")
    raise AttributeError(f"module 'collabkit' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _ShortNames:
    """Finds `collabkit.data.splits` and its kin where they lie: one module under two names."""

    @staticmethod
    def find_spec(name: str, path=None, target=None) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        short, dot, inner = rest.partition(".")
        if package != __name__ or _MODULES.get(short, short) == short:
            return None
        return ModuleSpec(name, _ShortNames, origin=f"{__name__}.{_MODULES[short]}{dot}{inner}")

    @staticmethod
    def create_module(spec: ModuleSpec):
        module = import_module(spec.origin)
        spec.loader_state = module.__spec__
        return module

    @staticmethod
    def exec_module(module) -> None:
        module.__spec__ = module.__spec__.loader_state  # the import machinery has put the short name's in its place


sys.meta_path.insert(0, _ShortNames)
