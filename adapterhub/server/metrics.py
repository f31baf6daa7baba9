"""Counts for Prometheus, and the few that the page shows.

Names of adapters are labels, and whoever sends requests could make up as many as the registry
holds. The first ``MAX_ADAPTERS`` get a label of their own; the rest share ``other``.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from adapterhub.engine.outputs import EngineStats

#: Most adapters with a label of their own.
MAX_ADAPTERS = 100
OTHER = "other"
#: Measurements that medians are taken of.
RECENT = 256
#: Seconds that tokens a second are taken over.
WINDOW_SECONDS = 10.0
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What a server counts, in a collector registry of its own.

    Safe for use from several threads: the engine's thread tells its steps.
    """

    def __init__(self) -> None:
        self.collector = CollectorRegistry()
        self._lock = Lock()
        self._labels: set[str] = set()
        self._steps: deque[float] = deque(maxlen=RECENT)
        self._first: deque[float] = deque(maxlen=RECENT)
        #: time and number of tokens that were sent
        self._sent: deque[tuple[float, int]] = deque(maxlen=65536)
        self.requests_total = 0
        self.tokens_total = 0
        self._make_counters()
        self._make_gauges()

    def _make_counters(self) -> None:
        own, p = self.collector, "adapterhub"
        self._requests = Counter(
            f"{p}_requests", "Requests that were answered.", ("route", "status"), registry=own
        )
        self._seconds = Histogram(
            f"{p}_request_seconds", "Of a request.", ("route",), registry=own, buckets=_SECONDS
        )
        self._tokens = Counter(f"{p}_tokens", "Tokens.", ("kind",), registry=own)
        self._first_token = Histogram(
            f"{p}_time_to_first_token_seconds", "From arrival on.", registry=own, buckets=_SECONDS
        )
        self._step = Histogram(
            f"{p}_step_seconds", "Of a step of the engine.", registry=own, buckets=_SECONDS
        )
        self._fill = Histogram(
            f"{p}_step_rows", "Rows that a step answered.", registry=own, buckets=_ROWS
        )
        each = ("adapter",)
        self._adapter_requests = Counter(
            f"{p}_adapter_requests", "Requests of an adapter.", each, registry=own
        )
        self._adapter_tokens = Counter(
            f"{p}_adapter_tokens", "Tokens of an adapter.", (*each, "kind"), registry=own
        )
        self._adapter_seconds = Histogram(
            f"{p}_adapter_request_seconds",
            "Of a request of an adapter.",
            each,
            registry=own,
            buckets=(0.1, 0.5, 1, 5, 30),
        )
        self._adapter_loads = Counter(
            f"{p}_adapter_loads", "Times it was put on the device.", each, registry=own
        )
        self._adapter_evictions = Counter(
            f"{p}_adapter_evictions", "Times it was taken off for another.", each, registry=own
        )

    def _make_gauges(self) -> None:
        own, p = self.collector, "adapterhub"
        self._place = Gauge(
            f"{p}_adapter_resident",
            "1 where an adapter is on the device or in host memory.",
            ("adapter", "place"),
            registry=own,
        )
        self._gauges = {
            name: Gauge(f"{p}_{name}", text, registry=own)
            for name, text in (
                ("running", "Rows that run."),
                ("waiting", "Rows in the engine that wait."),
                ("queued", "Requests that wait to enter the engine."),
                ("resident_adapters", "Adapters on the device."),
                ("host_adapters", "Adapters in host memory."),
                ("host_bytes", "Bytes of adapters in host memory."),
                ("cache_used", "Positions of the key-value cache in use."),
                ("cache_size", "Positions of the key-value cache."),
            )
        }

    def label(self, adapter: str) -> str:
        """Return the label of an adapter."""
        with self._lock:
            if adapter in self._labels:
                return adapter
            if len(self._labels) >= MAX_ADAPTERS:
                return OTHER
            self._labels.add(adapter)
            return adapter

    def on_step(self, seconds: float, rows: int) -> None:
        """Take note of a step; called on the engine's thread."""
        self._step.observe(seconds)
        if rows:
            self._fill.observe(rows)
            with self._lock:
                self._steps.append(seconds)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Take note of a request that was answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        with self._lock:
            self.requests_total += 1

    def first_token(self, seconds: float) -> None:
        """Take note of how long a client waited for its first token."""
        self._first_token.observe(seconds)
        with self._lock:
            self._first.append(seconds)

    def used(self, adapters: Iterable[str], prompt: int, answer: int, seconds: float) -> None:
        """Take note of a request that a model computed.

        Args:
            adapters: names.
            prompt: tokens that were read.
            answer: tokens that were generated.
            seconds: that it took.
        """
        kinds = {"prompt": prompt, "completion": answer}
        for kind, count in kinds.items():
            self._tokens.labels(kind).inc(count)
        for name in {self.label(adapter) for adapter in adapters}:
            self._adapter_requests.labels(name).inc()
            self._adapter_seconds.labels(name).observe(seconds)
            for kind, count in kinds.items():
                self._adapter_tokens.labels(name, kind).inc(count)
        with self._lock:
            self.tokens_total += answer

    def sent(self, tokens: int = 1) -> None:
        """Take note of tokens that were generated just now."""
        with self._lock:
            self._sent.append((time.monotonic(), tokens))

    def moved(self, moves: Iterable[tuple[str, str]], names: Mapping[str, str]) -> None:
        """Take note of adapters that came to the device or left it.

        Args:
            moves: ``load`` or ``evict``, and a digest.
            names: digest to name of those that are known.
        """
        for kind, digest in moves:
            counter = self._adapter_loads if kind == "load" else self._adapter_evictions
            counter.labels(self.label(names.get(digest, digest[:19]))).inc()

    def observe(
        self, stats: EngineStats, places: Mapping[str, str], *, queued: int, cache_size: int
    ) -> None:
        """Take note of how full the engine is.

        Args:
            stats: of the engine.
            places: adapter to where it is.
            queued: requests that wait outside of the engine.
            cache_size: positions of the cache.
        """
        values = {
            "running": stats.running,
            "waiting": stats.waiting,
            "queued": queued,
            "resident_adapters": stats.resident,
            "host_adapters": stats.host_adapters,
            "host_bytes": stats.host_bytes,
            "cache_size": cache_size,
        }
        for name, value in values.items():
            self._gauges[name].set(value)
        self._place.clear()
        for adapter, place in places.items():
            self._place.labels(self.label(adapter), place).set(1)

    def cache_used(self, positions: int) -> None:
        """Take note of how many positions of the cache are in use."""
        self._gauges["cache_used"].set(positions)

    def tokens_per_second(self) -> float:
        """Return tokens a second over the last seconds."""
        since = time.monotonic() - WINDOW_SECONDS
        with self._lock:
            return sum(count for at, count in self._sent if at >= since) / WINDOW_SECONDS

    def medians(self) -> tuple[float | None, float | None]:
        """Return the medians of the last times to a first token, and of the last steps."""
        with self._lock:
            first, steps = list(self._first), list(self._steps)
        return (
            statistics.median(first) if first else None,
            statistics.median(steps) if steps else None,
        )

    def text(self) -> bytes:
        """Return all of it in Prometheus's text format."""
        return generate_latest(self.collector)
