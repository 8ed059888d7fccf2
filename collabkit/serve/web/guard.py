"""Checks and additions for every route: body size and time, token, headers, metrics, and errors as JSON."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import time

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from collabkit.serve.web.asked import Refused
from collabkit.serve.web.service import Service
from collabkit.serve.web.wire import Json

__all__ = ["Guard", "read_body"]

log = logging.getLogger("collabkit.serve")
_POLICY = "; ".join([
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:", "connect-src 'self'",
    "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'",
])  # fmt: skip
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_FRESH = [*_HEADERS, (b"cache-control", b"no-store")]
_WORDS = {401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_type"}


class Guard:
    """The only ASGI middleware; it replaces those of Starlette that turn errors into answers.

    Args:
        app: the application.
        token: required in requests as `Authorization: Bearer`, or in a browser as the password; None for none.
        service: counts answers; while it is ending, connections are closed after their answers.
    """

    def __init__(self, app, *, token: str | None, service: Service):
        self.app, self.service = app, service
        self._token = None if token is None else token.encode()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, begun, metrics = time.perf_counter(), 500, False, self.service.metrics
        metrics.in_flight.inc()

        async def sent(message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                headers = message["headers"]
                stored = any(name == b"cache-control" for name, _ in headers)
                headers.extend(_HEADERS if stored else _FRESH)
                if self.service.draining:
                    headers.append((b"connection", b"close"))
            await send(message)

        try:
            if self._allowed(scope):
                await self.app(scope, receive, sent)
            else:
                await _denied(scope["path"])(scope, receive, sent)
        except ClientDisconnect:
            status = 499
        except Exception as error:
            known = isinstance(error, (Refused, HTTPException))
            if not known:
                log.exception("%s %r", scope["method"], scope["path"])
            if begun:
                raise
            await (refusal(error) if known else _failed())(scope, receive, sent)
        finally:
            route = scope.get("route")
            metrics.in_flight.dec()
            metrics.observe(getattr(route, "path", "none"), status, time.perf_counter() - started)

    def _allowed(self, scope) -> bool:
        if self._token is None or scope["path"].startswith("/health/"):
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, value = given.partition(b" ")
        if kind.lower() == b"basic":
            try:
                value = base64.b64decode(value, validate=True).partition(b":")[2]
            except binascii.Error:
                value = b""
        elif kind.lower() != b"bearer":
            value = b""
        return hmac.compare_digest(value.strip(), self._token)


def _failed() -> Response:
    return Json({"error": "internal", "message": "the service failed; its log says why"}, 500)


def _denied(path: str) -> Response:
    how = "Bearer" if path.startswith("/v1/") else 'Basic realm="collabkit", charset="UTF-8"'
    body = {"error": "unauthorized", "message": "a token is required: Authorization: Bearer TOKEN"}
    return Json(body, 401, {"WWW-Authenticate": how})


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """The body of a request with the content type JSON.

    Raises:
        Refused: it has another type, or is too large or too slow.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "unsupported_type", "send the body as Content-Type: application/json")
    length = request.headers.get("content-length", "0")
    too_large = Refused(413, "too_large", f"the body has more than {most:,} bytes")
    if len(length) > 12 or not (length.isascii() and length.isdigit()) or int(length) > most:
        raise too_large

    async def whole() -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > most:  # for a body in chunks, without a length
                raise too_large
        return b"".join(parts)

    try:
        return await asyncio.wait_for(whole(), seconds)
    except asyncio.TimeoutError:
        raise Refused(408, "too_slow", f"the body did not come within {seconds:g} s") from None


def refusal(error: Refused | HTTPException) -> Response:
    """An error as JSON."""
    if isinstance(error, Refused):
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        return Json({"error": error.error, "message": error.message}, error.status, headers)
    word = _WORDS.get(error.status_code, "refused")
    return Json({"error": word, "message": error.detail}, error.status_code, error.headers)
