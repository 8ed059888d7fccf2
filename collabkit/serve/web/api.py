"""The routes of the API: from a request to an answer in JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from collabkit.serve.web import asked, openapi
from collabkit.serve.web.answerer import Answers
from collabkit.serve.web.asked import Limits, Refused
from collabkit.serve.web.guard import read_body
from collabkit.serve.web.holder import Held
from collabkit.serve.web.service import Service, alike
from collabkit.serve.web.wire import Answering, Json

__all__ = ["Api"]


class _Id(Convertor):
    """An id in a URL, with any characters, including slashes and line ends."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("id", _Id())


@dataclass(frozen=True)
class _Query:
    """The parsers of query strings, with the limits."""

    limits: Limits

    def lists(self) -> dict[str, Callable[[str], Any]]:
        k, why = asked.whole_text("k", 1, self.limits.k), asked.switch("why")
        steer = {"diversity": asked.number_text("diversity", 0, 1)}
        steer["novelty_weight"] = asked.number_text("novelty_weight", -10, 10)
        return {"k": k, "filter_seen": asked.switch("filter_seen", train="train"), "why": why, **steer}

    def k(self, most: int | None = None) -> dict[str, Callable[[str], Any]]:
        return {"k": asked.whole_text("k", 1, most or self.limits.k)}

    def items(self) -> dict[str, Callable[[str], Any]]:
        return {"q": lambda text: text[:200], **self.k(), "offset": asked.whole_text("offset", 0, 10**9)}


class Api:
    """The API on a service.

    Args:
        service: the service.
    """

    def __init__(self, service: Service):
        self.service, self.limits = service, service.limits
        self.query = _Query(service.limits)
        self.document = openapi.document(service)
        self._options = lru_cache(256)(self._read_options)  # most requests are alike

    def routes(self) -> list[Route]:
        """The routes of Starlette."""
        routes = {  # the most frequent ones first
            "/v1/users/{id:id}/recommendations": ("GET", self.user_list),
            "/v1/recommend": ("POST", self.recommend),
            "/v1/predict": ("POST", self.predict),
            "/v1/users/{id:id}/history": ("GET", self.history),
            "/v1/items/{id:id}/similar": ("GET", self.similar),
            "/v1/items": ("GET", self.items),
            "/v1/questionnaire": ("GET", self.questionnaire),
            "/v1/artefact": ("GET", self.artefact),
            "/health/live": ("GET", self.live),
            "/health/ready": ("GET", self.ready),
            "/metrics": ("GET", self.metrics),
            "/openapi.json": ("GET", self.openapi),
        }
        return [Route(path, Answering(ask), methods=[method]) for path, (method, ask) in routes.items()]

    async def recommend(self, request: Request) -> Response:
        """Lists of known users, or of a new user."""
        held, body = self.service.holder.now, await self._body(request)
        users, options = asked.read_lists(body, held.ids, self.limits)
        if users is None:
            found = await self.service.new_list(held, options)
            return Json({"lists": [{"items": _items(held, found)}], "notes": found.notes})
        answers = await self.service.lists(held, users, options, alike(options))
        lists = [_list(held, user, found) for user, found in zip(users, answers, strict=True)]
        return Json({"lists": lists, "notes": answers[0].notes})

    async def user_list(self, request: Request) -> Response:
        """The list of a known user."""
        held = self.service.holder.now
        user = held.users.find(held.users.parse(request.path_params["id"]))
        found = (await self.service.lists(held, [user], *self._options(request.scope["query_string"])))[0]
        return Json({**_list(held, user, found), "notes": found.notes})

    def _read_options(self, query: bytes) -> tuple[dict, Hashable]:
        """The options of a list from a query string, and the key of equal options."""
        options = {"k": 10, "filter_seen": True, "why": False, "diversity": 0.0, "novelty_weight": 0.0}
        options |= asked.take_query(QueryParams(query), self.query.lists())
        return options, alike(options)

    async def history(self, request: Request) -> Response:
        """The known events of a user."""
        held = self.service.holder.now
        user = held.users.find(held.users.parse(request.path_params["id"]))
        asked.take_query(request.query_params, {})
        records = await self.service.other(lambda: held.answerer.history(user))
        items = [{**one, "item": held.items.json(one["item"])} for one in records]
        return Json({"user": held.users.json(user), "items": items, "notes": []})

    async def similar(self, request: Request) -> Response:
        """Items that are similar to one."""
        held = self.service.holder.now
        item = held.items.find(held.items.parse(request.path_params["id"]))
        k = asked.take_query(request.query_params, self.query.k()).get("k", 10)
        found = await self.service.other(lambda: held.answerer.similar(item, k))
        return Json({"item": held.items.json(item), "items": _items(held, found), "notes": found.notes})

    async def items(self, request: Request) -> Response:
        """Items by words of their titles, the most popular first."""
        held = self.service.holder.now
        given = {"q": "", "k": 10, "offset": 0} | asked.take_query(request.query_params, self.query.items())
        search = held.catalogue.search
        found, total = await self.service.other(lambda: search(given["q"], given["k"], given["offset"]))
        counts, place = held.catalogue.counts, held.items.place
        items = [{"item": held.items.json(one), "title": held.catalogue.title(one), "events": counts[place[one]],
                  "labels": held.catalogue.labels(one)} for one in found]  # fmt: skip
        return Json({"items": items, "total": total, "notes": []})

    async def questionnaire(self, request: Request) -> Response:
        """Items to ask a new user about."""
        held = self.service.holder.now
        n = asked.take_query(request.query_params, {"n": asked.whole_text("n", 1, 100)}).get("n", 10)
        found = await self.service.other(lambda: held.answerer.questionnaire(n))
        return Json({"items": _items(held, found), "notes": found.notes})

    async def predict(self, request: Request) -> Response:
        """Predictions of pairs."""
        held, body = self.service.holder.now, await self._body(request)
        users, items, options = asked.read_pairs(body, held.ids, self.limits)
        for user, item in zip(users, items, strict=True):
            held.users.find(user), held.items.find(item)
        found = await self.service.other(lambda: held.answerer.predict(users, items, **options))
        rows = zip(users, items, found.records, strict=True)
        pairs = [{"user": held.users.json(u), "item": held.items.json(i), **record} for u, i, record in rows]
        return Json({"predictions": pairs, "notes": found.notes})

    async def artefact(self, request: Request) -> Response:
        """Facts about the artefact."""
        asked.take_query(request.query_params, {})
        return Json(facts(self.service.holder.now))

    async def live(self, request: Request) -> Response:
        """The process answers."""
        return Json({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether to send requests here, and which artefact answers."""
        holder, draining = self.service.holder, self.service.draining
        body = {"ready": not draining, "loaded": holder.now.number, "refused": holder.refused}
        return Json(body, 503 if draining else 200, {"Retry-After": "1"} if draining else None)

    async def metrics(self, request: Request) -> Response:
        """The metrics."""
        return Response(self.service.metrics.text(), headers={"Content-Type": self.service.metrics.content_type})

    async def openapi(self, request: Request) -> Response:
        """The description of the API in OpenAPI format."""
        return Json(self.document)

    async def _body(self, request: Request) -> dict:
        if request.query_params:
            raise Refused(422, "invalid", "this route takes a body and no query string")
        return asked.read_json(await read_body(request, self.limits.body, self.limits.seconds))


def facts(held: Held) -> dict:
    """Facts about an artefact, with the metrics stored at its export."""
    config = held.answerer.config
    found = {**held.answerer.facts(), "engine": held.answerer.engine, "loaded": held.number}
    found |= {"loaded_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(held.since))}
    return found | {"written_by": config.get("written_by"), "metrics": config.get("metrics") or {}}


def _list(held: Held, user: Any, found: Answers) -> dict:
    return {"user": held.users.json(user), "items": _items(held, found)}


def _items(held: Held, found: Answers) -> list[dict]:
    """Records of items for an answer. The originals may belong to several requests and are not changed."""
    items = held.items
    if items.kind is not object:
        return found.records

    def shown(value: Any) -> Any:
        if isinstance(value, list):
            return [items.json(one) for one in value]
        return None if value is None else items.json(value)

    return [{key: shown(v) if key in ("item", "because") else v for key, v in one.items()} for one in found.records]
