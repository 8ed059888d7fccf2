"""collabkit: recommender systems with a Learner API.

This is the table of contents. Names are imported when first used, so that `import collabkit` costs nothing and
`from collabkit import Recommender` does not load fastai.
"""

from importlib import import_module

from collabkit._version import __version__

_WHERE = {
    "CollabDataLoaders": "dataloaders",
    "collab_learner": "learner",
    "CollabLearner": "learner",
    "load_learner": "learner",
    "CollabInterpretation": "interpret",
    "QuestionnaireWidget": "widgets",
    "Recommender": "recommender",
    "Popularity": "baselines",
    "ItemKNN": "baselines",
    "ContentKNN": "baselines",
    "EASE": "baselines",
    "compare": "comparison",
    "SampledCandidates": "evaluate",
    "HitRate": "fit_metrics",
    "NDCG": "fit_metrics",
    "CollFilter": "models",
    "EmbeddingNN": "models",
    "NCF": "models",
    "GMF": "models",
    "NeuMF": "models",
    "TwoTower": "models",
    "Features": "features",
    "Vocab": "vocab",
    "Interactions": "interactions",
    "CollabWarning": "interactions",
    "BundleError": "bundle",
}
_MODULES = ("datasets", "filters", "splits", "losses", "sampling", "metrics")

__all__ = [*_WHERE, *_MODULES, "__version__"]


def __getattr__(name: str):
    if name in _WHERE:
        value = getattr(import_module(f"collabkit.{_WHERE[name]}"), name)
        globals()[name] = value  # the next look-up does not come here
        return value
    if name in _MODULES:
        return import_module(f"collabkit.{name}")
    raise AttributeError(f"module 'collabkit' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
