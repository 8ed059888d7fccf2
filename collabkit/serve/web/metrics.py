"""The metrics of the service in Prometheus format."""

from __future__ import annotations

import os
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of one service. With several worker processes each counts, and any of them reports the sum."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._many = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        here: Any = {"registry": CollectorRegistry()}
        self.registry = here["registry"]
        sums: Any = {"multiprocess_mode": "livesum"}
        self.requests = Counter("collabkit_requests", "Answers.", ["route", "status"], **here)
        self.seconds = Histogram("collabkit_request_seconds", "Until an answer.", ["route"], buckets=_SECONDS, **here)
        self.batches = Histogram(
            "collabkit_batch_requests", "Requests answered by one call.", buckets=(1, 2, 4, 8, 16, 32, 64), **here
        )
        self.in_flight = Gauge("collabkit_requests_in_flight", "Requests without an answer yet.", **sums, **here)
        self.artefacts = Counter("collabkit_artefacts", "New artefacts, taken or refused.", ["outcome"], **here)
        self._children: dict = {}

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        key = route, status
        if key not in self._children:
            self._children[key] = self.requests.labels(route, str(status)), self.seconds.labels(route)
        count, histogram = self._children[key]
        count.inc()
        histogram.observe(seconds)

    def artefact(self, outcome: str) -> None:
        """Count a new artefact, `'taken'` or `'refused'`."""
        self.artefacts.labels(outcome).inc()

    def text(self) -> bytes:
        """All metrics."""
        if not self._many:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)
