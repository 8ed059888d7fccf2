"""Using a trained model: the artefact, and the `Recommender`, which works with external ids.

Names are imported when first used, so that `serve.light` and modules based on it do not load torch.
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
