"""`EASE`: a linear item-item model in closed form."""

import torch
from torch import Tensor

from collabkit.data.checks import positive, whole
from collabkit.data.dataset import Dataset
from collabkit.data.interactions import Interactions
from collabkit.data.runs import Runs
from collabkit.models.closed_form import ClosedForm
from collabkit.models.gram import events_matrix, gram_blocks

__all__ = ["EASE"]

EXACT = 5000  # rows up to which a matrix is inverted in double precision


class EASE(ClosedForm):
    """Linear item-item model in closed form, `score = x_u B` for the 0/1 row x_u of the user's items.

    Steck, "Embarrassingly shallow autoencoders for sparse data" (2019): with `P = (X'X + l2 I)^-1`,
    `B = I - P diag(1 / diag(P))`, so that its diagonal is zero and no item recommends itself. For data with counts, X
    holds the confidences instead of ones; they are also 1 on average.

    If there are fewer users than items, P is not computed: by the Woodbury identity `P = (I - X' K X) / l2` with
    `K = (X X' + l2 I)^-1`, users by users, so that `x B = (x X' K X - x d) / (1 - d)` for d the diagonal of `X' K X`.

    Args:
        l2: ridge penalty; a few hundred to a few thousand for data like MovieLens.
        max_items: the inverse takes `n^2` memory and `n^3` time, where n is the number of items, or of users if that is
            smaller (20,000: some 5 GB and ten minutes on two cores). If both are above this number, `fit` raises an
            error.
        last: score by only this many last events of a history; None uses all. The weights are the same, so recent
            events can be used without a sequential model.

    Raises:
        ValueError: `l2` is not positive; `last` < 1; in `fit`, more items and more users than `max_items`.
    """

    name, additive = "EASE", True

    def __init__(self, l2: float = 500.0, max_items: int = 20_000, last: int | None = None):
        super().__init__()
        self.l2, self.max_items = positive("l2", l2), whole("max_items", max_items)
        self.last = None if last is None else whole("last", last)
        self.ordered = last is not None
        self._forget()

    def _forget(self) -> None:
        self.register_buffer("weights", torch.zeros(0, 0))  # (n_items, n_items), row i what having item i adds
        # or, if that is not computed, K (n, n) of the n users with events, their items, and d (n_items,)
        self.register_buffer("inverse", torch.zeros(0, 0))
        self.register_buffer("user_start", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("user_items", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("user_weight", torch.zeros(0))
        self.register_buffer("own", torch.zeros(0))

    def config(self) -> dict:
        return {"l2": self.l2, "max_items": self.max_items, "last": self.last}

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self._lay_out()

    def _fit(self, data: Dataset) -> None:
        self._forget()
        n_items, n_users = data.n_items - 1, int((data.train.pairs.lengths > 0).sum())
        if min(n_items, n_users) > self.max_items:
            gigabytes = 12 * min(n_items, n_users) ** 2 / 1e9
            raise ValueError(
                f"EASE inverts a matrix of items x items, or of users x users: {n_items:,} items are more than "
                f"max_items={self.max_items:,}, and so are {n_users:,} users; it would take about {gigabytes:,.0f} GB. "
                "Drop rare items first (filters.min_count), raise max_items, or use ItemKNN"
            )
        # A query costs n_users^2 per user, or the rows of the user's items: if both are similar, items are better.
        by_users = 2 * n_users <= n_items or n_items > self.max_items
        self._fit_users(data.train) if by_users else self._fit_items(data.train)

    def _fit_items(self, train: Interactions) -> None:
        inverse = self._inverse_of_gram(events_matrix(train))  # row and column 0 of the Gram matrix are empty
        self.weights = (inverse / -inverse.diagonal()).float()  # column j divided by its diagonal entry
        self.weights.diagonal().zero_()

    def _fit_users(self, train: Interactions) -> None:
        pairs = train.weighted_pairs
        rows = pairs.of((pairs.lengths > 0).nonzero().squeeze(1))
        self.user_start, self.user_items = rows.start, rows.values
        self.user_weight = torch.ones(len(rows.values)) if rows.weight is None else rows.weight
        matrix = events_matrix(train)
        self.inverse = self._inverse_of_gram(matrix[matrix.getnnz(1) > 0].T.tocsr())
        self._lay_out()
        self.own = torch.zeros(train.n_items, dtype=self.inverse.dtype)
        for part in torch.arange(train.n_items).split(max(1, 2**25 // len(rows))):
            mine = self._by_item.of(part)
            product = mine.matrix(mine.weight) @ self.inverse  # (b, n), rows of X' K
            self.own[part] = torch.zeros_like(self.own[part]).index_add_(
                0, mine.rows, mine.weight * product[mine.rows, mine.values]
            )

    def _inverse_of_gram(self, matrix) -> Tensor:
        """`(M'M + l2 I)^-1` of the sparse `matrix` M `(m, n)`."""
        n = matrix.shape[1]
        gram = torch.zeros(n, n, dtype=torch.float64 if n <= EXACT else torch.float32)  # enough for the order
        for first, block in gram_blocks(matrix):
            gram[first : first + block.shape[0]] = torch.from_numpy(block.toarray())
        gram.diagonal().add_(self.l2)
        return torch.cholesky_inverse(torch.linalg.cholesky(gram))

    def _lay_out(self) -> None:
        """The users' items and the items' users, if the users' matrix is inverted."""
        if len(self.inverse):
            weight = self.user_weight.to(self.inverse.dtype)
            self._by_user = Runs(self.user_start, self.user_items, len(self.counts), weight)
            self._by_item = self._by_user.transposed()

    def counted(self, history: Runs) -> Runs:
        return (history if self.last is None else history.last(self.last)).unique()

    def scores(self, history: Runs) -> Tensor:
        history = history if self.last is None else self.counted(history)
        return self._through_users(history) if len(self.inverse) else history.matrix(history.weight) @ self.weights

    def _through_users(self, history: Runs) -> Tensor:
        have = torch.zeros(len(self.counts), len(history), dtype=self.inverse.dtype)
        have[history.values, history.rows] = 1.0 if history.weight is None else history.weight.to(have.dtype)
        alike = self._by_user.matrix(self._by_user.weight) @ have  # (n, b)
        found = self._by_item.matrix(self._by_item.weight) @ (self.inverse @ alike)  # (n_items, b)
        own = self.own[:, None]
        return ((found - have * own) / (1 - own)).T.float().contiguous()

    def item_similarity(self, idx: Tensor) -> Tensor:
        """Return weights `(b, n_items)`: what having each of the items `(b,)` adds to the scores of all items."""
        if len(self.inverse):
            return self._through_users(Runs(torch.arange(len(idx) + 1), idx, len(self.counts)))
        return self.weights[idx].clone()
