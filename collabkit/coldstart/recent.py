"""Events of known users since training, added to the queries to a model; nothing is trained or stored."""

from dataclasses import replace

import torch
from torch import Tensor

from collabkit.coldstart.fold_in import FoldIn
from collabkit.coldstart.fold_in.ratings import histories_of
from collabkit.data.dataset import Dataset
from collabkit.data.interactions import Interactions
from collabkit.data.query import Query
from collabkit.data.runs import Runs

__all__ = ["recent_query"]


def recent_query(
    query: Tensor | Query, events: Interactions, data: Dataset, fold: FoldIn | None, once: bool
) -> tuple[Query, Runs | None]:
    """The current `query` of `b` users, with the `events` that some had since training, and what rows were solved from.

    A model that reads histories gets them with the events at their end. For other models, the rows of these users are
    solved for again from all their events; the others keep theirs.

    Args:
        query: without these events.
        events: of any users; those of users not in the query are ignored.
        data: of the model.
        fold: the fold-in of a model that does not read histories, else None.
        once: of a pair that is known already, the event alone counts.
    """
    query = Query(query) if isinstance(query, Tensor) else query
    events = events.take(torch.isin(events.user_idx, query.users))
    users, whole = events.user_idx.unique(), data.followed_by(events, once=once)
    again = len(query) + torch.searchsorted(users, query.users)
    place = torch.where(torch.isin(query.users, users), again, torch.arange(len(query)))  # the asked, then `users`
    if fold is None:
        return replace(query, history=query.history.followed_by(whole.histories.of(users)).of(place)), None
    whole = whole.take(whole.item_idx > 0)
    solved = histories_of(whole, users)[0]
    parts = zip(fold.model.user_side.read(query.users), fold.rows(solved, users), strict=True)
    rows = tuple(torch.cat(part)[place.to(part[0].device)] for part in parts)
    return replace(query, rows=rows), histories_of(data.trained, query.users)[0].followed_by(solved).of(place)
