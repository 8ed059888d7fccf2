"""A trained model at work: the artefact, and the `Recommender` that answers by external ids."""

from collabkit.serve.artefact import BundleError, load_artefact, save_artefact
from collabkit.serve.recommender import Recommender

__all__ = ["Recommender", "load_artefact", "save_artefact", "BundleError"]
