"""The description of the API in OpenAPI format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import collabkit

if TYPE_CHECKING:
    from collabkit.serve.web.service import Service

__all__ = ["document"]

_JSON = {int: {"type": "integer"}, float: {"type": "number"}, bool: {"type": "boolean"}}
_NOTES = {"type": "array", "items": {"type": "string"}}
_ID_OR_NONE = {"description": "an id of an item, a list of some, or null"}
_ERRORS = {
    "400": "The body is not JSON.",
    "401": "A token is required.",
    "404": "An id is not in the artefact.",
    "408": "The body is too slow.",
    "413": "The body is too large.",
    "415": "The body has the wrong type.",
    "422": "The request cannot be answered.",
    "503": "Too many requests.",
}


def document(service: Service) -> dict:
    """The document; the types of ids are those of the artefact."""
    held, limits = service.holder.now, service.limits
    user, item = (_JSON.get(ids.kind, {"type": "string"}) for ids in (held.users, held.items))
    listed = {"item": item, "rank": {"type": "integer"}, "score": {"type": "number"}, "because": _ID_OR_NONE}
    listed = _object({**listed, "probability": {"type": "number"}}, ["item", "rank", "score"])
    k, switch = _param("k", _whole(1, limits.k)), {"type": "boolean"}
    steering = {"diversity": _number(0, 1), "novelty_weight": _number(-10, 10)}
    seen = {"enum": [True, False, "train"]}
    options = {"k": _whole(1, limits.k), "items": _array(item, 1, limits.items)}
    options |= {"exclude": _array(item, 0, limits.items), "filter_seen": seen, **steering}
    options |= {"context": {"type": "object", "additionalProperties": _ONE}, "why": {"oneOf": [switch, _whole(1, 10)]}}
    told = _object({"item": item, "rating": {"type": ["number", "null"]}}, ["item"])
    history = {"oneOf": [_array(item, 1, limits.history, True), _array(told, 1, limits.history)]}
    many = {"users": _array(user, 1, limits.users), **options}
    bodies = {"oneOf": [_object(many, ["users"]), _object({"history": history, **options}, ["history"])]}
    pair = _object({"user": user, "item": item}, ["user", "item"])
    pairs = {"pairs": _array(pair, 1, limits.users), "context": options["context"], "interval": _number(0.01, 0.99)}
    lists = _open({"lists": _array(_open({"items": _array(listed)}, ["items"])), "notes": _NOTES}, ["lists", "notes"])
    items = _open({"items": {"type": "array", "items": {"type": "object"}}, "notes": _NOTES}, ["items", "notes"])
    predictions = _open(
        {"predictions": {"type": "array", "items": {"type": "object"}}, "notes": _NOTES}, ["predictions"]
    )
    query = [k, _param("filter_seen", {"enum": ["true", "false", "train"]}), _param("why", switch),
             *(_param(name, schema) for name, schema in steering.items())]  # fmt: skip
    at = {side: {"name": "id", "in": "path", "required": True, "schema": schema}
          for side, schema in (("user", user), ("item", item))}  # fmt: skip
    search = [_param("q", {"type": "string", "maxLength": 200}), k, _param("offset", _whole(0, 10**9))]
    anything = {"type": "object"}
    paths = {
        "/v1/recommend": {"post": _post("Lists of users, or of a new user with a history.", bodies, lists)},
        "/v1/predict": {"post": _post("Predictions of pairs.", _object(pairs, ["pairs"]), predictions)},
        "/v1/users/{id}/recommendations": {"get": _get("The list of a user.", items, [at["user"], *query])},
        "/v1/users/{id}/history": {"get": _get("The known events of a user.", items, [at["user"]])},
        "/v1/items/{id}/similar": {"get": _get("Items that are similar to one.", items, [at["item"], k])},
        "/v1/items": {"get": _get("Items by words of their titles, the most popular first.", items, search)},
        "/v1/questionnaire": {"get": _get("Items to ask a new user about.", items, [_param("n", _whole(1, 100))])},
        "/v1/artefact": {"get": _get("Facts about the artefact.", anything, [])},
        "/health/live": {"get": _get("Whether the process answers.", anything, [])},
        "/health/ready": {"get": _get("Whether to send requests here.", anything, [])},
    }
    scheme = {"token": {"type": "http", "scheme": "bearer"}}
    return {"openapi": "3.1.0", "info": {"title": "collabkit", "version": collabkit.__version__}, "paths": paths,
            "components": {"securitySchemes": scheme, "schemas": {"Error": _ERROR}}}  # fmt: skip


_ONE = {"oneOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]}
_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "message": {"type": "string"}},
    "required": ["error", "message"],
}


def _post(summary: str, body: dict, answer: dict) -> dict:
    return _get(summary, answer, []) | {"requestBody": {"required": True, "content": _content(body)}}


def _get(summary: str, answer: dict, parameters: list) -> dict:
    error = _content({"$ref": "#/components/schemas/Error"})
    errors = {status: {"description": what, "content": error} for status, what in _ERRORS.items()}
    answers = {"200": {"description": summary, "content": _content(answer)}, **errors}
    return {"summary": summary, "parameters": parameters, "responses": answers}


def _content(schema: dict) -> dict:
    return {"application/json": {"schema": schema}}


def _param(name: str, schema: dict) -> dict:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _object(properties: dict, required: list[str]) -> dict:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _open(properties: dict, required: list[str]) -> dict:
    return {"type": "object", "properties": properties, "required": required}


def _array(items: dict, low: int = 0, high: int | None = None, unique: bool = False) -> dict:
    found: dict[str, Any] = {"type": "array", "items": items, "minItems": low}
    return found | ({} if high is None else {"maxItems": high}) | ({"uniqueItems": True} if unique else {})


def _whole(low: int, high: int) -> dict:
    return {"type": "integer", "minimum": low, "maximum": high}


def _number(low: float, high: float) -> dict:
    return {"type": "number", "minimum": low, "maximum": high}
