"""collabkit: recommender systems with a Learner API.

This is the table of contents. Names are imported when first used, so that `import collabkit` costs nothing and
`from collabkit import Recommender` does not load fastai.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PAIRS = ["CollFilter", "EmbeddingNN", "NCF", "GMF", "NeuMF", "TwoTower", "FactorizationMachine", "TimeSVD"]
_ORDERED = ["SASRec", "GRURec", "AveragedHistory", "YouTubeNet"]
_CLOSED = ["Popularity", "ItemKNN", "ContentKNN", "HybridKNN", "EASE", "NextItem", "Pipeline"]
_NAMES = {
    "train.dataloaders": ["CollabDataLoaders"],
    "train.learner": ["collab_learner", "CollabLearner", "load_learner"],
    "train.backtest": ["backtest"],
    "train.cross_validation": ["cross_validate"],
    "train.auto": ["auto_fit"],
    "train.tune": ["tune"],
    "train.track": ["Track"],
    "train.callbacks": ["IdDropoutSchedule"],
    "train.fit_metrics": ["HitRate", "NDCG"],
    "data.confidence": ["Confidence"],
    "data.feedback": ["Implicit"],
    "data.features": ["Features", "Bag", "Text", "Picture"],
    "data.vocab": ["Vocab"],
    "data.interactions": ["Interactions"],
    "data.dataset": ["Dataset"],
    "data.query": ["Query"],
    "data.notices": ["CollabWarning"],
    "models": [*_PAIRS, *_ORDERED, *_CLOSED],
    "evaluate.candidates": ["SampledCandidates"],
    "evaluate.compare": ["compare"],
    "serve": ["Recommender", "Light", "BundleError"],
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
    "metrics": "evaluate.metrics",
    "recipes": "train.recipes",
}

__all__ = [*_WHERE, *_MODULES, "__version__"]

if TYPE_CHECKING:  # what a type checker reads in place of `__getattr__`
    from collabkit import datasets as datasets
    from collabkit import losses as losses
    from collabkit.data import filters as filters
    from collabkit.data import splits as splits
    from collabkit.data.dataset import Dataset as Dataset
    from collabkit.data.features import Features as Features
    from collabkit.data.confidence import Confidence as Confidence
    from collabkit.data.features import Picture as Picture
    from collabkit.data.features import Bag as Bag
    from collabkit.data.features import Text as Text
    from collabkit.data.feedback import Implicit as Implicit
    from collabkit.data.interactions import Interactions as Interactions
    from collabkit.data.notices import CollabWarning as CollabWarning
    from collabkit.data.query import Query as Query
    from collabkit.data.vocab import Vocab as Vocab
    from collabkit.evaluate.candidates import SampledCandidates as SampledCandidates
    from collabkit.evaluate.compare import compare as compare
    from collabkit.evaluate import metrics as metrics
    from collabkit.interpret import (
        CollabInterpretation as CollabInterpretation,
        QuestionnaireWidget as QuestionnaireWidget,
    )
    from collabkit.models import (
        CollFilter as CollFilter,
        EmbeddingNN as EmbeddingNN,
        NCF as NCF,
        GMF as GMF,
        NeuMF as NeuMF,
        TwoTower as TwoTower,
        SASRec as SASRec,
        AveragedHistory as AveragedHistory,
        GRURec as GRURec,
        Popularity as Popularity,
        ItemKNN as ItemKNN,
        ContentKNN as ContentKNN,
        HybridKNN as HybridKNN,
        EASE as EASE,
        NextItem as NextItem,
        YouTubeNet as YouTubeNet,
        FactorizationMachine as FactorizationMachine,
        Pipeline as Pipeline,
        TimeSVD as TimeSVD,
    )
    from collabkit.serve import Recommender as Recommender, Light as Light, BundleError as BundleError
    from collabkit.train import recipes as recipes
    from collabkit.train import sampling as sampling
    from collabkit.train.auto import auto_fit as auto_fit
    from collabkit.train.backtest import backtest as backtest
    from collabkit.train.callbacks import IdDropoutSchedule as IdDropoutSchedule
    from collabkit.train.cross_validation import cross_validate as cross_validate
    from collabkit.train.dataloaders import CollabDataLoaders as CollabDataLoaders
    from collabkit.train.fit_metrics import HitRate as HitRate, NDCG as NDCG
    from collabkit.train.track import Track as Track
    from collabkit.train.tune import tune as tune
    from collabkit.train.learner import (
        collab_learner as collab_learner,
        CollabLearner as CollabLearner,
        load_learner as load_learner,
    )


def lazily(package: str, where: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names are imported from its modules when they are first used."""

    def find(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(where)}")
        value = getattr(import_module(f"{package}.{where[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next look-up does not come here
        return value

    return find


_find = lazily(__name__, _WHERE)


def __getattr__(name: str):
    if name in _WHERE:
        return _find(name)
    if name in _MODULES:
        return import_module(f"collabkit.{_MODULES[name]}")
    raise AttributeError(f"module 'collabkit' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _ShortNames:
    """Finds modules such as `collabkit.data.splits` under their short names: one module under two names."""

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
        module.__spec__ = module.__spec__.loader_state  # the import machinery has replaced it with the short name's


sys.meta_path.insert(0, _ShortNames)
