"""Batches made from a loader's rows: ratings, positives with negatives, whole users, or single pairs."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from collabkit.data.checks import whole
from collabkit.data.interactions import Interactions
from collabkit.data.query import Query
from collabkit.train.sampling import AllItems, InBatchNegatives

__all__ = ["Batch", "Rated", "Ranked", "ByUser", "Windows", "Pointwise", "on_device"]

HISTORY = 100  # maximum number of past items in a training query
DRAWS = 2**23  # negatives drawn at once


class Batch(tuple):
    """A batch: the tuple for fastai, inputs before targets and without None, whose parts also have names."""

    def __new__(cls, unnamed=(), /, **parts):  # fastai makes a new one of a list
        batch = super().__new__(cls, [*unnamed, *(part for part in parts.values() if part is not None)])
        batch.__dict__.update(parts)
        return batch


def on_device(batch, device) -> tuple:
    """A batch whose parts are on `device`; their names stay."""
    if not isinstance(batch, Batch) or not vars(batch):
        return tuple(part.to(device) for part in batch)
    return Batch(**{name: part if part is None else part.to(device) for name, part in vars(batch).items()})


class _Rows:
    """Rows of interactions on a device, and their queries.

    `before` are the interactions that users had before these rows; None if these are the earlier rows themselves. A
    query has at most `length` past items of a user.
    """

    needs: tuple[str, ...] = ("users",)
    shares_negatives = False  # among the rows of a batch

    def __init__(self, data: Interactions, before: Interactions | None = None, length: int = HISTORY):
        self.data, self.before, self.length = data, before, length
        self.to(None)

    def __len__(self) -> int:
        """Number of rows that a loader puts in an order."""
        return len(self.data)

    def to(self, device) -> None:
        """Move the columns to `device` (None is the CPU)."""
        data = self.data
        self.device = torch.device("cpu" if device is None or data.stored else device)  # files stay where they are
        self.users, self.items = data.user_idx.to(self.device), data.item_idx.to(self.device)
        self.rating = None if data.rating is None else data.rating.to(self.device)
        self.weight = None if data.weight is None else data.weight.to(self.device)

    def on(self, data: Interactions):
        """The same for other interactions."""
        new = copy(self)
        new.data = data
        new.to(self.device)
        return new

    def asking(self, needs: Sequence[str]):
        """The same with queries that have the parts `needs`; `ValueError` if these batches do not support them."""
        new = copy(self)
        new.needs = tuple(needs)
        if "history" in needs:
            (self.data if self.before is None else self.before).histories  # noqa: B018  # made here, not in the first batch
        return new

    def query(self, rows: Tensor) -> Tensor | Query:
        """The query of the users of `rows` `(b,)`, each at the moment of its row."""
        users = self.users[rows].long()
        if self.needs == ("users",):
            return users
        rows, users, history = rows.cpu(), users.cpu(), None
        if "history" in self.needs and self.before is not None:
            history = self.before.histories.of(users).last(self.length)
        elif "history" in self.needs:
            mine = self.data.histories  # rows are in the order of users and times, so a row's place is its number
            history = mine.spans(torch.maximum(mine.start[users], rows - self.length), rows)
        codes = self.data.context if "context" in self.needs else {}
        time = self.data.time[rows] if "time" in self.needs else None
        return Query(users, history, {name: code[rows] for name, code in codes.items()}, time=time).to(self.device)


class Rated(_Rows):
    """Ratings: `(x (bs, 2), y (bs, 1))`, users and items in the columns of `x`; without ratings `(x,)`.

    For a model that needs more than users, `(query, items (bs,), y (bs, 1))`. Weights `(bs, 1)` come last, as a further
    target that a `losses.FlatLoss` takes.
    """

    ragged = False
    n_negatives = 0

    n_inp = property(lambda self: 1 if self.needs == ("users",) else 2, doc="Number of inputs in a batch.")
    n_plain = property(lambda self: self.n_inp + (self.rating is not None), doc="Tensors in a batch without weights.")

    def asking(self, needs: Sequence[str]) -> "Rated":
        if "history" in needs and self.before is None:
            raise ValueError("a model that reads histories learns from events: make dls with feedback='implicit'")
        return super().asking(needs)

    def make(self, rows: Tensor, sizes: list[int], generator: torch.Generator | None) -> Iterator[tuple]:
        """The batches of `rows` `(m,)`, with these `sizes`."""
        targets = [] if self.rating is None else [self.rating[rows][:, None].split(sizes)]
        if targets and self.weight is not None:  # without ratings they would be taken for the target
            targets.append(self.weight[rows][:, None].split(sizes))
        if self.needs == ("users",):
            inputs = [torch.stack([self.users[rows], self.items[rows]], 1).long().split(sizes)]
        else:
            inputs = [map(self.query, rows.split(sizes)), self.items[rows].long().split(sizes)]
        yield from zip(*inputs, *targets, strict=True)

    def decode(self, batch, max_n: int) -> pd.DataFrame:
        """The first `max_n` rows with the caller's ids and column names."""
        columns, n_inp = self.data.columns, self.n_inp
        users, items = batch[0].unbind(1) if n_inp == 1 else (batch[0].users, batch[1])
        users, items = users[:max_n].cpu(), items[:max_n].cpu()
        table = {columns.user: self.data.users[users], columns.item: self.data.items[items]}
        if len(batch) > n_inp:
            table[self._rating_name] = batch[n_inp][:max_n].flatten().cpu().numpy()
        return pd.DataFrame(table)

    @property
    def _rating_name(self) -> str:
        return "rating" if self.data.columns.rating is None else self.data.columns.rating

    def results(self, batch, out, max_n: int) -> pd.DataFrame:
        """The same with the predictions `out` `(bs,)`."""
        table = self.decode(batch, max_n)
        out = out[0] if isinstance(out, (tuple, list)) else out
        table[f"{self._rating_name}_pred"] = out.flatten()[:max_n].float().cpu().numpy()
        return table


class Ranked(_Rows):
    """Positives with negatives: `(query, positives (bs,), negatives, log_counts)`.

    The query is the tensor of users `(bs,)` if the model needs no more. The negatives are `(bs, n_neg)` items that each
    row's user has not seen, or `(n,)` shared by the batch, depending on the sampler; `log_counts` is the target that a
    `losses.RankingLoss` takes. Events with weights have a fifth tensor `(bs,)`.

    Args:
        data: the events, in the order of their users.
        sampler: one of `collabkit.train.sampling`.
        n_neg: negatives for each positive, drawn with replacement.
        before, length: as in `_Rows`.

    Raises:
        ValueError: `n_neg` < 1.
    """

    n_inp, n_plain = 3, 4

    def __init__(
        self, data: Interactions, sampler, n_neg: int = 4, before: Interactions | None = None, length: int = HISTORY
    ):
        self._draw(sampler, n_neg)
        super().__init__(data, before, length)

    def _draw(self, sampler, n_neg: int) -> None:
        self.sampler, self.n_negatives, self.shares_negatives = sampler, whole("n_neg", n_neg), sampler.shared

    def on(self, data: Interactions, sampler=None, n_neg: int | None = None):
        """The same for other interactions, or with other negatives."""
        new = copy(self)
        new._draw(self.sampler if sampler is None else sampler, self.n_negatives if n_neg is None else n_neg)
        return super(Ranked, new).on(data)

    @property
    def ragged(self) -> bool:
        """Whether the number of negatives differs between batches, so that their scores do not form a table."""
        return self.sampler.shared and not isinstance(self.sampler, AllItems)

    def to(self, device) -> None:
        super().to(device)
        self.sampler.to(self.device)

    def make(self, rows: Tensor, sizes: list[int], generator: torch.Generator | None) -> Iterator[Batch]:
        """The batches of `rows` `(m,)`, with these `sizes`."""
        sampler, n_neg, per_row = self.sampler, self.n_negatives, not self.sampler.shared
        if per_row and len(rows) == len(self):  # in the order of the users, so that the search stays in the cache
            drawn = sampler.draw(self.users.long(), n_neg, generator)[rows].split(sizes)
        elif per_row:
            drawn = sampler.draw(self.users[rows].long(), n_neg, generator).split(sizes)
        plain = self.needs == ("users",)
        queries = self.users[rows].long().split(sizes) if plain else map(self.query, rows.split(sizes))
        weights = [None] * len(sizes) if self.weight is None else self.weight[rows].split(sizes)
        columns = zip(queries, self.items[rows].long().split(sizes), weights, strict=True)
        for j, (query, positives, weight) in enumerate(columns):
            users = query if plain else query.users
            if per_row:
                negatives = drawn[j]
                log_counts = sampler.log_counts(users, negatives)
            else:
                negatives = sampler.draw(positives, n_neg, generator)
                log_counts = sampler.log_counts(users, positives, negatives, n_neg)
            parts = {"query": query, "positives": positives, "negatives": negatives}
            yield Batch(**parts, log_counts=log_counts, weight=weight)

    def decode(self, batch, max_n: int, max_negatives: int = 5) -> pd.DataFrame:
        """The first rows with the caller's ids: the user, the positive, and up to five of the negatives."""
        users = batch[0] if isinstance(batch[0], Tensor) else batch[0].users
        return self._table(users.cpu(), *(part.cpu() for part in batch[1:3]), max_n, max_negatives)

    def _table(self, users: Tensor, positives: Tensor, negatives: Tensor, max_n: int, most: int) -> pd.DataFrame:
        columns, items = self.data.columns, self.data.items
        users, positives = users[:max_n], positives[:max_n]
        negatives = negatives.expand(len(users), -1) if negatives.ndim == 1 else negatives[:max_n]
        table = {columns.user: self.data.users[users], columns.item: items[positives]}
        n = negatives.shape[1]
        table |= {f"negative {j + 1} of {n}": items[negatives[:, j]] for j in range(min(n, most))}
        return pd.DataFrame(table)

    def results(self, batch, out, max_n: int) -> pd.DataFrame:
        """Users with their positive, the negative that scores best, and both scores `out` `(bs, 1 + n)`."""
        scores = (out[0] if isinstance(out, (tuple, list)) else out)[:max_n].float().cpu()
        out_of_it = batch[3].cpu()[: len(scores)] == torch.inf  # the row's own positive, or padding
        best, at = scores[:, 1:].masked_fill(out_of_it, -torch.inf).max(1)
        negatives = batch[2].cpu().expand(len(batch[0]), -1)[: len(scores)]
        table = self.decode(batch, max_n, max_negatives=0)
        table["score"] = scores[:, 0].numpy()
        table["best negative"] = self.data.items[negatives[torch.arange(len(at)), at]]
        table["its score"] = best.numpy()
        return table


class ByUser(Ranked):
    """Whole users: `(users (g,), positives (r,), negatives (m,), group (r,), log_counts (m,), hits (2, h))`.

    All events of some users, with negatives shared by the batch. The costly part of a softmax, the sum over the
    negatives, is then computed once per user instead of once per event: with 30 events per user, a thirtieth. `group`
    is the user of each positive, by position in the batch, and `hits` are the places in the `(g, m)` scores where a
    user has seen the item. Events with weights have a seventh tensor `(r,)`.

    Args:
        data: the events, in the order of their users.
        sampler: a sampler of shared negatives that masks what a user has seen.
        n_neg: as in `Ranked`.

    Raises:
        ValueError: another kind of sampler; events not in the order of their users.
    """

    n_inp, n_plain, ragged = 4, 6, True

    def _draw(self, sampler, n_neg: int) -> None:
        if not (sampler.shared and sampler.mask_seen) or isinstance(sampler, InBatchNegatives):
            one = f"negatives='shared' or partial(AllItems, mask_seen=True), got {type(sampler).__name__}"
            raise ValueError(f"batches of users need shared negatives without seen items: {one}")
        super()._draw(sampler, n_neg)

    def __len__(self) -> int:
        return len(self.members)

    def to(self, device) -> None:
        if not self.data.stored and (self.data.user_idx.diff() < 0).any():
            raise ValueError("batches of users need the events in their order: pass data.sorted_by_user()")
        super().to(device)
        self.members = self.data.counts("user").nonzero().squeeze(1).to(self.device)  # (n,) users who have events
        self.events = replace(self.data.histories, weight=self.data.weight).to(self.device)

    def asking(self, needs: Sequence[str]) -> "ByUser":
        if tuple(needs) != ("users",):
            raise ValueError(f"batches of whole users have no {needs[-1]}: leave by_user=True out for this model")
        return self

    def make(self, rows: Tensor, sizes: list[int], generator: torch.Generator | None) -> Iterator[Batch]:
        for chosen in rows.split(sizes):
            users = self.members[chosen]
            mine = self.events.of(users)
            positives = mine.values
            negatives = self.sampler.draw(positives, self.n_negatives, generator)
            parts = {"query": users, "positives": positives, "negatives": negatives, "group": mine.rows}
            log_counts = self.sampler.log_expected(negatives, self.n_negatives)
            hits = torch.stack(self.sampler.hits(users, None, negatives))
            yield Batch(**parts, log_counts=log_counts, hits=hits, weight=mine.weight)

    def decode(self, batch, max_n: int, max_negatives: int = 5) -> pd.DataFrame:
        """As in `Ranked`; a row's negatives are those of the batch, including seen ones."""
        users, positives, negatives, group = (part.cpu() for part in batch[:4])
        return self._table(users[group], positives, negatives, max_n, max_negatives)

    def results(self, batch, out, max_n: int) -> pd.DataFrame:
        """Users with their positives and their scores."""
        table = self.decode(batch, max_n, max_negatives=0)
        table["score"] = out[0][: len(table)].float().cpu().numpy()
        return table


class Windows(Ranked):
    """What comes next: `(query, positives (m,), negatives (n,), group (m,), log_counts (n,), hits (2, h))`.

    The query has windows of histories, with a query after each event (`Query.steps`); the positives are the events that
    followed. Every event except a user's first is a positive once per epoch. If a user has more events than a window,
    the cuts differ between epochs. A batch has windows of similar length; negatives are shared, except each row's own
    positive. Inputs and targets as in `ByUser`, with a group for each row.

    Args:
        data: the events, in the order of users and times.
        sampler: a sampler of shared negatives that masks the row's own positive alone.
        n_neg: as in `Ranked`.
        length: of a window, the maximum number of past events in a query.

    Raises:
        ValueError: another kind of sampler; no user has two events; events with weights.
    """

    n_inp, n_plain, ragged = 4, 6, True

    def __init__(self, data: Interactions, sampler, n_neg: int, length: int):
        super().__init__(data, sampler, n_neg, length=length)

    def to(self, device) -> None:
        super().to(device)
        self.history = self.data.histories
        self.n_targets = self.history.lengths - 1
        if not bool((self.n_targets > 0).any()):
            raise ValueError("no user has two events in the training part, so there is no next item to learn")
        if self.weight is not None:
            raise ValueError("windows of histories take no weights: leave weights= out with history=")

    def asking(self, needs: Sequence[str]) -> "Ranked":
        """The same; for a model without histories, the single events with the same negatives."""
        if "history" in needs:
            return super().asking(needs)
        return Ranked(self.data, self.sampler, self.n_negatives).asking(needs)

    def __len__(self) -> int:
        """Number of targets."""
        return int(self.n_targets.clamp(min=0).sum())

    def plan(self, bs: int, generator: torch.Generator | None) -> tuple[Tensor, list[int]]:
        """The windows of an epoch `(w, 2)`, their first event and the one after the last, and their number per batch.

        A batch has about `bs` places at most, including padding. Without a generator the plan is always the same.
        """
        n, length = self.n_targets.clamp(min=0), self.length
        owner = (n > 0).nonzero().squeeze(1)
        n, start = n[owner], self.history.start[owner]
        phase = torch.zeros_like(n)
        if generator is not None:  # for users with more than one window
            phase = torch.where(n > length, torch.randint(length, n.shape, generator=generator), 0)
        pieces = (n + phase + length - 1) // length
        which = torch.repeat_interleave(torch.arange(len(n)), pieces)
        place = torch.arange(len(which)) - (pieces.cumsum(0) - pieces)[which]
        first = (place * length - phase[which]).clamp(min=0)
        stop = torch.minimum((place + 1) * length - phase[which], n[which])
        spans = torch.stack([first, stop], 1) + start[which, None]
        spans = spans[torch.randperm(len(spans), generator=generator)] if generator is not None else spans
        spans = spans[(spans[:, 0] - spans[:, 1]).argsort(stable=True)]  # the longest first
        longest, sizes, at = (spans[:, 1] - spans[:, 0]).tolist(), [], 0
        while at < len(longest):
            sizes.append(min(max(1, bs // longest[at]), len(longest) - at))
            at += sizes[-1]
        if generator is not None:
            order, parts = torch.randperm(len(sizes), generator=generator).tolist(), spans.split(sizes)
            spans, sizes = torch.cat([parts[j] for j in order]), [sizes[j] for j in order]
        return spans, sizes

    def make(self, rows: Tensor, sizes: list[int], generator: torch.Generator | None) -> Iterator[Batch]:
        """The batches of the windows `rows` `(w, 2)`, with these `sizes`."""
        for part in rows.split(sizes):
            history = self.history.spans(part[:, 0], part[:, 1])
            at = torch.repeat_interleave(part[:, 0] - history.start[:-1], history.lengths)
            at += torch.arange(1, len(at) + 1)  # the events that followed
            positives = self.history.values[at].long().to(self.device)
            users = self.data.user_idx[part[:, 0]].long()  # rows are in the order of users and times
            codes = self.data.context if "context" in self.needs else {}
            context = {name: code[at] for name, code in codes.items()}
            query = Query(users, history, context, steps=True).to(self.device)
            negatives = self.sampler.draw(positives, self.n_negatives, generator)
            group = torch.arange(len(positives), device=self.device)
            parts = {"query": query, "positives": positives, "negatives": negatives, "group": group}
            log_counts = self.sampler.log_expected(negatives, self.n_negatives)
            hits = torch.stack(self.sampler.hits(group, positives, negatives))
            yield Batch(**parts, log_counts=log_counts, hits=hits)

    def decode(self, batch, max_n: int, max_negatives: int = 5) -> pd.DataFrame:
        """As in `Ranked`, with the event before each positive."""
        query, positives, negatives = batch[0].to("cpu"), batch[1].cpu(), batch[2].cpu()
        table = self._table(query.users[query.history.rows], positives, negatives, max_n, max_negatives)
        table.insert(1, f"{self.data.columns.item} before", self.data.items[query.history.values[: len(table)]])
        return table

    def results(self, batch, out, max_n: int) -> pd.DataFrame:
        """The positives and their scores."""
        table = self.decode(batch, max_n, max_negatives=0)
        table["score"] = out[0][: len(table)].float().cpu().numpy()
        return table


class Pointwise(Rated):
    """The pairs of `Ranked` batches, one per row: `(x (m, 2), y (m, 1))`, y 1 for a positive and 0 for a negative.

    For a module that takes `x (m, 2)` and a pointwise loss, in a plain fastai `Learner`. A batch has `bs` positives and
    their negatives, `m = bs * (1 + n_neg)` rows, without negatives of users who have seen everything.

    Raises:
        ValueError: a sampler of shared negatives; events with weights.
    """

    n_inp, n_plain = 1, 2

    def __init__(self, ranked: Ranked):
        if ranked.sampler.shared:
            raise ValueError("pointwise() needs negatives of each row's own: negatives='uniform' or 'popularity'")
        if ranked.data.weight is not None:
            raise ValueError("pointwise() has no weights: make the dataloaders without weights=")
        self.ranked, self.n_negatives = ranked, ranked.n_negatives
        super().__init__(ranked.data)

    def on(self, data: Interactions, **negatives) -> "Pointwise":
        return Pointwise(self.ranked.on(data, **negatives))

    def to(self, device) -> None:
        super().to(device)
        self.ranked.to(self.device)

    def make(self, rows: Tensor, sizes: list[int], generator: torch.Generator | None) -> Iterator[tuple]:
        for user, positive, negatives, _ in self.ranked.make(rows, sizes, generator):
            items = torch.cat([positive[:, None], negatives], dim=1)  # (bs, 1 + n_neg)
            x = torch.stack([user[:, None].expand_as(items), items], dim=-1)
            y = torch.zeros(*items.shape, 1, device=items.device)
            y[:, 0] = 1
            yield x[items > 0], y[items > 0]
