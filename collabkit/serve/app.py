"""The service of an artefact over HTTP: `collabkit serve ARTEFACT`, or an ASGI application for another server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

try:
    from starlette.applications import Starlette

    from collabkit.serve.web.answerer import ENGINES, open_artefact
    from collabkit.serve.web.api import Api
    from collabkit.serve.web.asked import Limits
    from collabkit.serve.web.guard import Guard
    from collabkit.serve.web.holder import Holder
    from collabkit.serve.web.pages import Pages
    from collabkit.serve.web.service import Service
except ModuleNotFoundError as error:
    if (error.name or "").startswith("collabkit"):
        raise
    raise ImportError(f"the service needs the package {error.name}: pip install 'collabkit[serve]'") from error

__all__ = ["Settings", "create_app", "from_environment"]

DRAIN = 1.0  # seconds
_VARIABLE = "COLLABKIT_SERVE"


@dataclass(frozen=True)
class Settings:
    """How an artefact is served.

    Args:
        artefact: its folder.
        watch: seconds between checks for a new export in the same folder, which then replaces the current one; 0 for no
            checks.
        engine: `'light'`, `'torch'`, or `'auto'`: the light runtime if it supports all requests.
        token_file: a file with the token that requests must send; None for none.
        limits: of a request.
    """

    artefact: str
    watch: float = 0.0
    engine: str = "auto"
    token_file: str | None = None
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def of(
        cls, artefact: str | Path, *, watch: float = 0.0, engine: str = "auto", token_file: str | None = None,
        **limits: float,
    ) -> Settings:  # fmt: skip
        """The settings of an artefact, with some of the `Limits` by name.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: another engine.
        """
        folder = Path(artefact).expanduser().resolve()
        if not folder.is_dir() and not folder.with_name(f".{folder.name}.previous").is_dir():
            raise FileNotFoundError(f"there is no artefact folder {folder}; collabkit train or learn.export writes one")
        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
        return cls(str(folder), watch, engine, token_file, Limits(**limits))

    def token(self) -> str | None:
        """The token.

        Raises:
            ValueError: the file holds none, or a short one.
        """
        if self.token_file is None:
            return None
        found = Path(self.token_file).read_text(encoding="utf-8").strip()
        if len(found) < 16 or not found.isascii() or any(mark.isspace() for mark in found):
            raise ValueError(f"{self.token_file} must hold a token of at least 16 ASCII characters without blanks, "
                             "e.g. from: openssl rand -hex 32")  # fmt: skip
        return found

    def to_environment(self) -> None:
        """Pass the settings to worker processes, for `from_environment`."""
        os.environ[_VARIABLE] = json.dumps(asdict(self))


def create_app(artefact: Any, *, settings: Settings | None = None) -> Starlette:
    """The ASGI application that serves an artefact.

    Args:
        artefact: its folder, or an existing `Answerer`, e.g. a `TorchAnswerer` on a `Recommender`.
        settings: of the service; their folder is ignored.

    Returns:
        An application for uvicorn or another server; `app.state.service` is the service.

    Raises:
        FileNotFoundError, BundleError: as in `load_artefact`.
        ImportError: the extra is missing: `pip install 'collabkit[serve]'`.

    Example:
        >>> from starlette.testclient import TestClient               # doctest: +SKIP
        >>> client = TestClient(create_app('artefact'))               # doctest: +SKIP
        >>> client.get('/v1/users/7/recommendations?k=5').json()      # doctest: +SKIP
    """
    folder = Path(artefact).expanduser().resolve() if isinstance(artefact, (str, os.PathLike)) else None
    settings = replace(settings or Settings(""), artefact=str(folder or ""))
    token = settings.token()
    load = partial(open_artefact, engine=settings.engine)
    holder = Holder(folder, load=load) if folder is not None else Holder(None, artefact)
    service = Service(holder, settings.limits)
    holder.told = service.metrics.artefact
    routes = [*Api(service).routes(), *Pages(service).routes()]
    app = _Guarded(routes=routes, lifespan=lambda _: _running(service, settings.watch if folder else 0.0))
    app.router.redirect_slashes = False
    app.state.service, app.state.token = service, token
    return app


class _Guarded(Starlette):
    """Starlette with `Guard` instead of its own two layers for errors."""

    def build_middleware_stack(self):
        app = Guard(self.router, token=self.state.token, service=self.state.service)
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        return app


def from_environment() -> Starlette:
    """The application with the settings from `Settings.to_environment`, for worker processes."""
    found = json.loads(os.environ[_VARIABLE])
    settings = Settings(**{**found, "limits": Limits(**found["limits"])})
    return create_app(settings.artefact, settings=settings)


@contextlib.asynccontextmanager
async def _running(service: Service, watch: float) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(service.holder.watch(watch))] if watch else []
    end_in_order(service)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        service.close()


def end_in_order(service: Service, seconds: float = DRAIN) -> None:
    """At SIGTERM the service reports that it is ending, and closes connections after their answers, before it stops.

    First it still accepts connections, for clients that do not know yet, unless the socket was passed in, as the next
    process serves it. Then it accepts none, and answers those that it has. Then the server handles the signal as usual,
    or immediately at a second signal. If no server handles the signal, nothing changes.
    """
    server, loop = signal.getsignal(signal.SIGTERM), asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread() or not callable(server):
        return
    uvicorn = getattr(server, "__self__", None)
    handed = getattr(getattr(uvicorn, "config", None), "fd", None) is not None

    def close() -> None:
        for port in getattr(uvicorn, "servers", ()):
            port.close()

    def begin(number, frame) -> None:
        until = 0.0 if handed else seconds
        loop.call_later(until, close)
        loop.call_later(until + seconds, server, number, frame)

    def end(number, frame) -> None:
        if service.draining:
            server(number, frame)
            return
        service.draining = True
        loop.call_soon_threadsafe(begin, number, frame)

    signal.signal(signal.SIGTERM, end)
