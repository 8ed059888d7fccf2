"""`SequenceModel`: base of models that read a history in order: tied item rows, and states after events."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from collabkit.data.checks import dropout_rate, whole
from collabkit.data.dataset import Dataset
from collabkit.data.runs import Runs
from collabkit.models.base import DotModel
from collabkit.models.next_item import DENSE, sparse_counts
from collabkit.models.sides import HistorySide, MixedSide, TableSide
from collabkit.models.table import filled_later

__all__ = ["SequenceModel", "next_vectors"]

CELLS, WASTE = 2**13, 256  # places of padded histories that are read at once, and how many may be padding


class SequenceModel(DotModel):
    """Scores the next item by the dot product of a state, computed from the history, and the item's row, plus its bias.

    The rows that encode a history are also those it is compared with, features included, so new items with features can
    occur in histories and be recommended. There is no user table: any user with a history can be served. A subclass
    defines `states`.

    Args:
        n_items: rows of the item table, the unknown one at 0.
        n_factors: width of rows and states.
        length: maximum number of events for a state; older ones are cut off.
        dropout: dropout rate of the embedded events, and of what the network adds to them.
        n_users: rows of a user table, if each user has a row that is added to the state; default none, so that the size
            does not grow with the users. In `for_data`, `user_table=True` creates it.
        features: side features and context: those of users and moments are added to the state, those of items to their
            rows; see `Model.add_features`.
        id_dropout: see `Model.add_features`.
    """

    needs, ordered = ("history",), True

    def __init__(
        self, n_items: int, n_factors: int = 64, length: int = 100, dropout: float = 0.2, *,
        n_users: int | None = None, features=None, id_dropout: float = 0.0,
    ):  # fmt: skip
        n_factors, length = whole("n_factors", n_factors), whole("length", length)
        dropout = dropout_rate("dropout", dropout)
        items = TableSide("item", n_items, [n_factors, 1], std=n_factors**-0.5 / 2)
        users = HistorySide(n_factors, self.encode, self.encode_steps)
        if n_users is not None:
            users, self.needs = MixedSide(users, n_users), ("users", "history")
        super().__init__(users, items)
        self.n_factors, self.length, self.dropout = n_factors, length, dropout
        self.drop = nn.Dropout(dropout)
        self.add_features(features, id_dropout)

    def config(self) -> dict:
        options = {name: getattr(self, name) for name in ("n_factors", "length", "dropout")}
        options |= {"user_table": True} if self.n_users is not None else {}
        return {**options, **self._own_config(), **({"id_dropout": self.id_dropout} if self.features else {})}

    def _own_config(self) -> dict:
        return {}

    @classmethod
    def for_data(cls, data: Dataset, user_table: bool = False, **options) -> "SequenceModel":
        """A model for a dataset; items with similar successors start with similar rows, see `next_vectors`.

        With `user_table` each user has a row, which is added to the state.
        """
        if user_table:
            options["n_users"] = data.n_users
        if data.features and "features" not in options:
            options["features"] = data.features
        model = cls(data.n_items, **options)
        history = data.train.histories
        if not filled_later() and bool((history.lengths > 1).any()):
            with torch.no_grad():
                model.i_weight.weight[1:] = next_vectors(history, model.n_factors)[1:] / 2
                model.i_weight.weight[0] = 0
        return model

    def states(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """The states `(b, longest, d)` after each of the events whose `rows` `(b, longest, d)` are given.

        Args:
            rows: of `b` histories; rows after the end of a shorter history have no meaning.
            lengths: `(b,)`.
        """
        raise NotImplementedError

    def last_states(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """The states `(b, d)` after the last events of non-empty histories; a subclass may compute them faster."""
        return self.states(rows, lengths)[torch.arange(rows.shape[0], device=rows.device), lengths - 1]

    def encode(self, history: Runs) -> Tensor:
        """The states `(b, d)` after the last events; zeros for an empty history, so that the biases decide."""
        history = history.last(self.length)
        found = self.i_weight.weight.new_zeros(len(history), self.n_factors)
        for rows in alike(history.lengths):
            part = history.of(rows)
            found = found.index_copy(0, rows, self.last_states(self._rows(part), part.lengths))
        return found

    def encode_steps(self, history: Runs) -> Tensor:
        """The states `(m, d)` after each event of histories of at most `length` events."""
        if int(history.lengths.max()) > self.length:
            raise ValueError(f"windows of {int(history.lengths.max())} events are longer than the model's "
                             f"length={self.length}: give it the history= of the dataloaders")  # fmt: skip
        place = torch.arange(len(history.values), device=history.start.device) - history.start[history.rows]
        return self.states(self._rows(history), history.lengths)[history.rows, place]

    def _rows(self, history: Runs) -> Tensor:
        """The rows `(b, longest, d)` of the events."""
        return self.drop(self.item_rows(history.padded())[0])


def alike(lengths: Tensor, cells: int = CELLS, waste: int = WASTE) -> Iterator[Tensor]:
    """The positions in `lengths` `(n,)`, except zeros, in groups of similar length, each padded to its longest.

    A group has one row or at most `cells` places, of which no more than `waste` and a quarter are padding.

    Example:
        >>> [rows.tolist() for rows in alike(torch.tensor([2, 0, 9, 2, 1, 9]), waste=1)]
        [[4, 0, 3], [2, 5]]
    """
    order = lengths.argsort(stable=True)
    sizes = lengths[order].tolist()
    first = sum(size == 0 for size in sizes)
    while first < len(sizes):
        stop, filled = first, 0
        while stop < len(sizes):
            places = sizes[stop] * (stop + 1 - first)
            filled += sizes[stop]
            if stop > first and (places > cells or places - filled > waste + filled // 4):
                break
            stop += 1
        yield order[first:stop]
        first = stop


def next_vectors(history: Runs, width: int, decay: float = 0.7, seed: int = 0) -> Tensor:
    """Vectors `(n_items, width)` of items, near each other where the same items come before and after them.

    The leading left vectors of the counts of pairs, decayed by their distance, symmetric, and divided by the roots of
    both popularities; scaled to a mean square length of 1.
    """
    n = history.width
    counts = sparse_counts(history, decay, 0.5, 0.5)
    counts = (counts + counts.T).tocoo()
    if n * n <= DENSE:
        matrix = torch.from_numpy(counts.toarray()).float()
    else:
        where = torch.stack([torch.from_numpy(axis.astype("int64")) for axis in counts.coords])
        matrix = torch.sparse_coo_tensor(where, torch.from_numpy(counts.data).float(), (n, n)).coalesce()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, size, _ = torch.svd_lowrank(matrix, q=min(width + 8, n), niter=2)
    vectors = torch.zeros(n, width)
    k = min(width, left.shape[1])
    vectors[:, :k] = left[:, :k] * size[:k].sqrt()
    return vectors / vectors.square().sum(1).mean().sqrt().clamp(min=1e-12)
