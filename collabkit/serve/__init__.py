"""A trained model at work: the artefact, and the `Recommender` that answers by external ids.

Names are imported when they are first used, so that `serve.light` and what stands on it load no torch.
"""

from typing import TYPE_CHECKING

from collabkit import lazily

if TYPE_CHECKING:
    from collabkit.serve.artefact import load_artefact as load_artefact
    from collabkit.serve.artefact import save_artefact as save_artefact
    from collabkit.serve.folder import BundleError as BundleError
    from collabkit.serve.light import Light as Light
    from collabkit.serve.recommender import Recommender as Recommender

_WHERE = {
    "Recommender": "recommender",
    "load_artefact": "artefact",
    "save_artefact": "artefact",
    "BundleError": "folder",
    "Light": "light",
}
__all__ = ["Recommender", "load_artefact", "save_artefact", "BundleError", "Light"]

__getattr__ = lazily(__name__, _WHERE)
