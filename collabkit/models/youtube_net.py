"""`YouTubeNet`: YouTube's candidate generation: watch history, user features and context through layers."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from collabkit.data.checks import widths
from collabkit.data.query import Query
from collabkit.models.averaged_history import AveragedHistory

__all__ = ["YouTubeNet"]


class YouTubeNet(AveragedHistory):
    """Predict the next item from averaged events, side features of the user and the context, by a perceptron.

    Covington, Adams and Sargin, "Deep neural networks for YouTube recommendations" (2016), section 3: all inputs are
    concatenated and passed through layers. The result is a user vector. Its products with the item vectors give a
    softmax over all items, sampled in training (`loss_func='sampled_softmax'`, the default here); at serving time it is
    used in a nearest-neighbour search. The age of an example, by which the model tells current from past popularity, is
    the context `'age'`, one of the parts of a column of times. Here the layers add to the averaged events, and start by
    adding nothing. The averages are those of `AveragedHistory`; one of them hardly decays, like the paper's.

    Args:
        n_items, n_factors, length, dropout, n_decays, **kwargs: as in `AveragedHistory`.
        layers: widths of the hidden layers.

    Raises:
        ValueError: there are no layers, or widths are below 1.

    Example:
        >>> import torch
        >>> from collabkit import YouTubeNet
        >>> from collabkit.data.runs import Runs
        >>> model = YouTubeNet(50, n_factors=8, layers=[16]).eval()
        >>> query = Query(torch.zeros(2, dtype=torch.int64), Runs.group([0, 0, 1], [3, 4, 5], 2))
        >>> model.user_vectors(query).shape
        torch.Size([2, 9])
    """

    user_joins = "concat"

    def __init__(self, n_items: int, n_factors: int = 64, length: int = 100, dropout: float = 0.2, *,
                 layers: Sequence[int] = (256, 128), n_decays: int = 3, **kwargs):  # fmt: skip
        super().__init__(n_items, n_factors, length, dropout, n_decays=n_decays, **kwargs)
        self.layers = widths("layers", layers)
        if not self.layers:
            raise ValueError("layers must hold at least one width, e.g. [256, 128], got an empty list")
        hidden = [nn.Sequential(nn.Linear(*pair), nn.ReLU(), nn.Dropout(dropout))
                  for pair in pairwise([*self.user_widths, *self.layers])]  # fmt: skip
        self.tower = nn.Sequential(*hidden, nn.Linear(self.layers[-1], n_factors))
        nn.init.zeros_(self.tower[-1].weight), nn.init.zeros_(self.tower[-1].bias)

    def _own_config(self) -> dict:
        return {"n_decays": self.n_decays, "layers": self.layers}

    def user_rows(self, query: Tensor | Query) -> tuple[Tensor, ...]:
        """The users' vectors `(..., d)`."""
        (known,) = super().user_rows(query)
        return (known[..., : self.n_factors] + self.tower(known),)
