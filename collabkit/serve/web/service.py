"""`Service`: the requests of the service and their answers, independent of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

from collabkit.serve.web.answerer import Answers
from collabkit.serve.web.asked import Limits, Refused
from collabkit.serve.web.holder import Held, Holder
from collabkit.serve.web.lanes import Lane
from collabkit.serve.web.metrics import Metrics

__all__ = ["Service", "alike"]


class Service:
    """Answers from the current artefact.

    Lists of known users wait in one lane, where equal requests are answered by one call; everything else, which may
    take longer, waits in another.

    Args:
        holder: of the artefact.
        limits: of a request.
    """

    def __init__(self, holder: Holder, limits: Limits):
        self.holder, self.limits, self.metrics = holder, limits, Metrics()
        self.draining = False
        options: dict = {"seconds": limits.seconds, "most": limits.in_flight}
        self._lists = Lane("lists", **options, seen=self.metrics.batches.observe, here=True)
        self._others = Lane("others", **options)

    def close(self) -> None:
        """Stop the threads."""
        self._lists.close()
        self._others.close()

    async def lists(self, held: Held, users: Sequence, options: dict, key: Hashable) -> list[Answers]:
        """The list of each user.

        Args:
            held: the artefact.
            users: known ids.
            options: of `recommend`.
            key: the key of these options, see `alike`.
        """
        for user in users:
            held.users.find(user)
        return await self._lists.ask((held.number, key), users, partial(answer_lists, held, options=options))

    async def new_list(self, held: Held, options: dict) -> Answers:
        """The list of a new user with a history."""
        return await self.other(lambda: held.answerer.recommend(**options))

    async def other(self, ask: Callable[[], Any]) -> Any:
        """The result of `ask`, called in the thread for single requests."""
        return await self._others.ask(None, ask, lambda asks: [attempt(one) for one in asks])


def alike(options: dict) -> Hashable:
    """A key of equal options: a text, because 1 equals True and 0.0 equals False."""
    return repr(options)


def attempt(ask: Callable[[], Any]) -> Any:
    """The result of `ask`, or the error for the caller if the library reports an invalid request."""
    try:
        return ask()
    except Refused as error:
        return error
    except KeyError as error:
        return Refused(404, "unknown_id", str(error.args[0] if error.args else error))
    except (ValueError, TypeError, NotImplementedError) as error:
        return Refused(422, "invalid", str(error))
    except Exception as error:
        return error


def answer_lists(held: Held, asked: Sequence[Sequence], options: dict) -> list:
    """For each request of users, the answers for each user: by one call if there are no notes.

    Notes and errors belong to single requests: then each is answered alone.
    """
    every = list(dict.fromkeys(user for users in asked for user in users))
    found = attempt(lambda: held.answerer.recommend(every, **options))
    if len(asked) > 1 and (isinstance(found, Exception) or found.notes):
        return [answer_lists(held, [users], options)[0] for users in asked]
    if isinstance(found, Exception):
        return [found]
    lists: dict = {user: [] for user in every}
    for record in found.records:
        lists[record.pop("user")].append(record)
    return [[Answers(lists[user], found.notes) for user in users] for users in asked]
