"""uvicorn with the settings of the service: processes, and a shutdown that loses no request."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
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
        host, port: address to bind; port 0 for any free one.
        workers: processes, each with the artefact.
        fd: a listening socket, as passed by systemd; then a restart refuses no connection.

    Raises:
        ValueError: the port is in use, or this user may not bind it.
    """
    if fd is None:
        _check_port(host, port)
    if settings.token() is None and not is_loopback(host):
        log.warning("anyone who reaches %s may use the service: no token is required; see --token-file", host)
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


def _check_port(host: str, port: int) -> None:
    """Try to bind as uvicorn will, because for a port in use it shows only an error number."""
    reasons = {errno.EADDRINUSE: "is in use", errno.EACCES: "needs rights that this user does not have"}
    for family, kind, proto, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            with socket.socket(family, kind, proto) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
                if family == socket.AF_INET6:
                    trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
                trial.bind(address)
        except OSError as error:  # uvicorn handles other errors, e.g. an unsupported address family
            if error.errno in reasons:
                raise ValueError(f"port {port} {reasons[error.errno]}: choose another with --port") from error


def is_loopback(host: str) -> bool:
    """Whether a host is reachable only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
