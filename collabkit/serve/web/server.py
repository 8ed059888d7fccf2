"""uvicorn with the settings of the service: processes, and an end at which no request is lost."""

from __future__ import annotations

import ipaddress
import logging
import os
import tempfile

import uvicorn
from uvicorn.config import LOGGING_CONFIG
from uvicorn.supervisors import Multiprocess

from collabkit.serve.app import Settings

__all__ = ["run"]

log = logging.getLogger("collabkit.serve")


def run(settings: Settings, *, host: str, port: int, workers: int = 1, fd: int | None = None) -> None:
    """Serve until a signal.

    Args:
        settings: of the application.
        host, port: where; 0 as the port for any free one.
        workers: processes, each with the artefact.
        fd: a socket that listens already, as systemd hands one over; then a restart refuses nobody.
    """
    if settings.token() is None and not is_loopback(host):
        log.warning("whoever reaches %s may ask: no token is asked for; see --token-file", host)
    settings.to_environment()
    if workers > 1:
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="collabkit-metrics-"))
    logs = {**LOGGING_CONFIG, "loggers": {**LOGGING_CONFIG["loggers"], "collabkit.serve": {
        "handlers": ["default"], "level": "INFO", "propagate": False}}}  # fmt: skip
    config = uvicorn.Config(
        "collabkit.serve.app:from_environment", factory=True, host=host, port=port, workers=workers, fd=fd,
        access_log=False, server_header=False, date_header=False, timeout_graceful_shutdown=30, backlog=4096,
        timeout_keep_alive=30, proxy_headers=False, ws="none", log_config=logs,
    )  # fmt: skip
    if workers == 1:
        uvicorn.Server(config).run()
    else:
        Multiprocess(config, sockets=[config.bind_socket()]).run()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
