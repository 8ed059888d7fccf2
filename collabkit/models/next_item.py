"""`NextItem`: predicts the next item by a linear map from the latest events, in closed form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from collabkit.data.checks import positive, proper_share, shown, whole
from collabkit.data.dataset import Dataset
from collabkit.data.runs import Runs
from collabkit.models.closed_form import ClosedForm

if TYPE_CHECKING:
    import scipy.sparse

__all__ = ["NextItem", "decayed_counts", "decayed_gram"]

RIDGE, COUNTS = (0.5, 0.95), (0.8,)  # decays of the two ways to fit
FROM, TO = 0.5, 0.25  # counts are divided by popularities to these powers; picked on three validation parts
DAMPING = 0.1  # power of popularity for the ridge's results, chosen on the validation part of ML-1M
NOTHING = 1e-17  # an event that decays below it is lost in the rounding of the latest one
DENSE = 2**25  # cells up to which pairs are counted in a dense matrix rather than a sparse one
EVENTS = 512  # events whose lists are added at once: they stay in a CPU's cache
SMALL = 2500  # items up to which the ridge is solved in double precision


class NextItem(ClosedForm):
    """Score an item by the items that it has followed: a linear map from decayed histories to the next event.

    After events `i_1 ... i_t` the state of a decay a is `x_t = sum_s a^(t - s) e(i_s)`. Up to `max_items` items the map
    is a ridge regression from the states of all decays to the next item, solved from counts of pairs. Above that, it
    is the number of times that each item followed each other item, decayed by the distance and divided by powers of
    their popularities. For each item, the `top` weights with the largest absolute values are kept.

    Args:
        decays: numbers in (0, 1); default .5 and .95 for the ridge regression, .8 for counts.
        l2: ridge penalty.
        top: number of items kept for each item and decay.
        max_items: the ridge regression takes `(n_decays * n_items)^3` time and `(n_decays * n_items)^2` memory; above
            this number of items, counts are used.

    Raises:
        ValueError: a decay is outside (0, 1), or repeated; `l2` is not positive; `top` < 1.

    Example:
        >>> import pandas as pd
        >>> from collabkit import CollabDataLoaders, splits
        >>> events = pd.DataFrame({'user': [1, 1, 1, 2, 2, 2], 'item': list('abcabc'), 'time': [1, 2, 3, 1, 2, 3]})
        >>> dls = CollabDataLoaders.from_df(events, feedback='implicit', history=10, time_name='time',
        ...                                 splitter=splits.leave_last_out())
        >>> NextItem(l2=1).fit(dls).recommend(history=['a'], k=1)['item'].tolist()
        ['b']
    """

    name, ordered, additive, by_place = "next item", True, True, True

    def __init__(
        self, decays: Sequence[float] | None = None, l2: float = 300.0, top: int = 200, max_items: int = 10_000
    ):
        super().__init__()
        self.decays = None if decays is None else _decays(decays)
        self.l2, self.top, self.max_items = positive("l2", l2), whole("top", top), whole("max_items", max_items)
        self.register_buffer("rates", torch.zeros(0, dtype=torch.float64))  # the decays that were used
        self.register_buffer("next", torch.zeros(0, 0, 0, dtype=torch.int32))  # (n_decays, n_items, top) items
        self.register_buffer("weight", torch.zeros(0, 0, 0))  # and their weights

    def config(self) -> dict:
        return {"decays": self.decays, "l2": self.l2, "top": self.top, "max_items": self.max_items}

    def _fit(self, data: Dataset) -> None:
        history, ridge = data.train.histories, data.n_items - 1 <= self.max_items
        decays = self.decays or (RIDGE if ridge else COUNTS)
        if not bool((history.lengths > 1).any()):
            raise ValueError("no user has two events in the training part, so there is no next item to learn")
        maps = self._ridge(history, decays) if ridge else [sparse_counts(history, a, FROM, TO) for a in decays]
        kept = [_best(rows, min(self.top, data.n_items - 1)) for rows in maps]
        self.rates = torch.tensor(decays, dtype=torch.float64)
        self.next, self.weight = (torch.stack(part) for part in zip(*kept, strict=True))

    def _ridge(self, history: Runs, decays: Sequence[float]) -> Tensor:
        """The maps `(n_decays, n_items, n_items)`, rows from, columns to."""
        n, counts = history.width, decayed_counts(history, decays)
        if n > SMALL:  # single precision is enough for the order
            counts = [part.float() for part in counts]
        gram = decayed_gram(history, decays, counts)
        gram.diagonal().add_(self.l2)
        solved = torch.cholesky_solve(torch.cat(counts), torch.linalg.cholesky(gram))
        popular = torch.bincount(history.values, minlength=n).clamp(min=1)
        return solved.reshape(len(decays), n, n).float() / popular**DAMPING

    def scores(self, history: Runs) -> Tensor:
        return self._added(history, history.rows, len(history))

    def event_scores(self, history: Runs) -> Tensor:
        return self._added(history, torch.arange(len(history.values)), len(history.values))

    def _added(self, history: Runs, rows: Tensor, n_rows: int) -> Tensor:
        """What the events of histories add to all items, `(n_rows, n_items)`, summed in the row `(m,)` of each."""
        n, age = self.next.shape[1], history.start[1:][history.rows] - 1 - torch.arange(len(history.values))
        found = torch.zeros(n_rows * n)
        for rate, items, weight in zip(self.rates.tolist(), self.next, self.weight, strict=True):
            decayed = rate ** age.double()
            at = (decayed > 1e-6).nonzero().squeeze(1)
            parts = (rows[at] * n, history.values[at], decayed[at].float())
            for row, events, share in zip(*(part.split(EVENTS) for part in parts), strict=True):
                added = weight[events].mul_(share[:, None])
                found.scatter_add_(0, (items[events] + row[:, None]).view(-1), added.view(-1))
        return found.reshape(n_rows, n)

    def item_similarity(self, idx: Tensor) -> Tensor:
        """Return what each of the items `(b,)`, as the last event, adds to the scores `(b, n_items)` of all items."""
        return self.scores(Runs(torch.arange(len(idx) + 1), idx, self.next.shape[1]))


def pairs_by_distance(history: Runs, longest: int, at_once: int = 16) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """All pairs of an event and one before it, at most `longest` apart, block by block.

    Yields:
        The distances `(c,)`, the items `(m, c)` at these distances before `m` events, 0 if there is none, and the items
        `(m,)` of these events. They are sorted by the latter, and neighbours in a history are read together, so that
        the counts stay in the cache.
    """
    items, n = history.values, len(history.values)
    before = torch.cat([items.new_zeros(at_once), items]).flip(0).unfold(0, at_once, 1)  # (n + 1, c), the nearest first
    event = torch.argsort(items, stable=True)
    place = event - history.start[history.rows[event]]
    for distance in range(1, min(longest, int(history.lengths.max()) - 1) + 1, at_once):
        there = place >= distance
        event, place = event[there], place[there]
        distances = torch.arange(distance, distance + at_once)
        for mine, past in zip(event.split(2**17), place.split(2**17), strict=True):
            first = before[n - 1 - (mine - distance)]
            yield distances, first.masked_fill(past[:, None] < distances, 0), items[mine]


def _reach(decay: float, least: float) -> int:
    """The distance of events at which the decay is `least`."""
    return 1 + int(np.log(least) / np.log(decay))


def decayed_counts(history: Runs, decays: Sequence[float], least: float = NOTHING) -> list[Tensor]:
    """`sum_t x_t e(i_(t+1))'` `(n_items, n_items)` of each decay: how often an item has followed another one.

    Pairs whose decay is below `least` are left out.

    Example:
        >>> runs = Runs.group([0, 0, 0], [1, 2, 1], 1, width=3)
        >>> decayed_counts(runs, [.5])[0].tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.5, 1.0], [0.0, 1.0, 0.0]]
    """
    n = history.width
    counts = [torch.zeros(n * n, dtype=torch.float64) for _ in decays]  # column by column
    for distances, first, second in pairs_by_distance(history, _reach(max(decays), least)):
        cells = (first + second[:, None] * n).flatten()
        for a, total in zip(decays, counts, strict=True):
            if a ** int(distances[0] - 1) > least:
                weight = a ** (distances - 1.0).double()
                total.scatter_add_(0, cells, weight.expand(first.shape).reshape(-1))
    counts = [total.reshape(n, n).T for total in counts]
    for total in counts:
        total[0] = 0  # of missing pairs
    return counts


def decayed_gram(history: Runs, decays: Sequence[float], counts: Sequence[Tensor]) -> Tensor:
    """`sum_t x_t x_t'` `(n_decays * n_items, n_decays * n_items)` over the states that have a next event.

    From the decayed counts C of pairs, the number D of events of each item and the last state X of each history:
    `(a C_a + b C_b' + D - X_a' X_b) / (1 - a b)` for the block of the decays a and b.
    """
    n, events = history.width, torch.bincount(history.values, minlength=history.width)
    last = [last_states(history, a) for a in decays]
    gram = counts[0].new_zeros(len(decays) * n, len(decays) * n)
    for j, a in enumerate(decays):
        for k, b in enumerate(decays[: j + 1]):
            block = gram[j * n : (j + 1) * n, k * n : (k + 1) * n]
            block -= torch.from_numpy((last[j].T @ last[k]).toarray()).to(gram.dtype)
            block += a * counts[j] + b * counts[k].T
            block.diagonal().add_(events)
            block /= 1 - a * b
            if k < j:
                gram[k * n : (k + 1) * n, j * n : (j + 1) * n] = block.T
    return gram


def last_states(history: Runs, decay: float) -> scipy.sparse.csr_array:
    """The states `(n_users, n_items)` after the last events."""
    import scipy.sparse  # not above: it is not needed to query a model

    age = (history.start[1:][history.rows] - 1 - torch.arange(len(history.values))).numpy()
    weight = decay ** age.astype(np.float64)
    there = weight > NOTHING
    rows, values = history.rows.numpy()[there], history.values.numpy()[there]
    return scipy.sparse.csr_array((weight[there], (rows, values)), shape=(len(history), history.width))


def sparse_counts(history: Runs, decay: float, power: float, to: float) -> scipy.sparse.csr_array:
    """`decayed_counts` of one decay, divided by powers of the popularities of the earlier and of the later item.

    Pairs whose decay is below 1e-4 are left out.
    """
    import scipy.sparse

    n = history.width
    if n * n <= DENSE:
        counts = scipy.sparse.csr_array(decayed_counts(history, [decay], least=1e-4)[0].numpy())
    else:
        counts = scipy.sparse.csr_array((n, n))
        for distances, first, second in pairs_by_distance(history, _reach(decay, 1e-4)):
            row, column = (first > 0).nonzero(as_tuple=True)
            weight, pair = (
                (decay ** (distances - 1.0)[column]).numpy(),
                (first[row, column].numpy(), second[row].numpy()),
            )
            counts += scipy.sparse.csr_array((weight, pair), shape=(n, n))
    popular = np.maximum(np.bincount(history.values.numpy(), minlength=n), 1.0)
    return scipy.sparse.diags_array(popular**-power) @ counts @ scipy.sparse.diags_array(popular**-to)


def _decays(decays) -> tuple[float, ...]:
    """The decays that were given, as floats, or an error."""
    if isinstance(decays, str) or not isinstance(decays, Iterable):
        raise ValueError(f"decays must be different numbers between 0 and 1, e.g. [0.5, 0.95], got {shown(decays)}")
    found = tuple(proper_share("each of decays", decay) for decay in decays)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"decays must be different numbers between 0 and 1, got {shown(decays)}")
    return found


def _best(rows: Tensor | scipy.sparse.csr_array, top: int) -> tuple[Tensor, Tensor]:
    """The items `(n_items, top)`, int32, with the largest absolute values in each row, and these values."""
    best = []
    for at in range(0, rows.shape[0], 2048):
        part = rows[at : at + 2048]
        part = torch.from_numpy(part.toarray()).float() if not isinstance(part, Tensor) else part
        items = part.abs().topk(top, dim=1).indices
        best.append((items.int(), part.gather(1, items)))
    return tuple(map(torch.cat, zip(*best, strict=True)))
