"""Prometheus metrics, and the medians that the page shows.

Names of adapters are label values, so a registry with many adapters could create any number of
time series. The first ``MAX_ADAPTERS`` adapters get a label of their own; the rest share ``other``.
"""

from __future__ import annotations

import re
import statistics
import time
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from adapterhub.server.models import ResolvedModel

#: Most adapters with a label of their own.
MAX_ADAPTERS = 100
OTHER = "other"
#: Number of recent measurements that medians are taken over.
RECENT = 256
#: Window of the token throughput, in seconds.
WINDOW_SECONDS = 10.0
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ADAPTER_SECONDS = (0.1, 0.5, 1, 5, 30)
_SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_ADAPTER_LABEL = re.compile(rb'[{,]adapter="([^"]*)"')
#: Field of the load to the text of its gauge.
_GAUGES = {
    "running": "Running sequences.",
    "waiting": "Sequences that wait in the engine.",
    "resident": "Adapters on the device.",
    "host_adapters": "Adapters in host memory.",
    "host_bytes": "Bytes of adapters in host memory.",
    "cache_used": "Tokens in the KV cache.",
    "cache_size": "Capacity of the KV cache in tokens.",
}


def _is_visible(line: bytes, visible: Callable[[str], bool]) -> bool:
    """Return whether a line has no label of an adapter that the caller may not use."""
    match = _ADAPTER_LABEL.search(line)
    return match is None or visible(match[1].decode())


class Metrics:
    """Metrics of one server, in a Prometheus registry of its own. Thread-safe."""

    def __init__(self) -> None:
        self.collector = CollectorRegistry()
        self._lock = Lock()
        self._labels: set[str] = set()
        self._step_seconds: deque[float] = deque(maxlen=RECENT)
        self._first_token_seconds: deque[float] = deque(maxlen=RECENT)
        #: times at which tokens were generated
        self._token_times: deque[float] = deque(maxlen=65536)
        self.requests_total = 0
        self.tokens_total = 0
        self._requests = self._counter("requests", "Finished requests.", "route", "status")
        self._seconds = self._histogram("request_seconds", "Duration of a request.", "route")
        self._tokens = self._counter("tokens", "Processed tokens.", "backbone", "kind")
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "Time from a request to its first token.", "backbone"
        )
        self._step = self._histogram("step_seconds", "Duration of a step.", "backbone")
        self._step_sequences = self._histogram(
            "step_sequences", "Sequences processed by a step.", "backbone", buckets=_SEQUENCES
        )
        self._adapter_requests = self._counter(
            "adapter_requests", "Requests of an adapter.", "adapter"
        )
        self._adapter_tokens = self._counter(
            "adapter_tokens", "Processed tokens of an adapter.", "adapter", "kind"
        )
        self._adapter_seconds = self._histogram(
            "adapter_request_seconds",
            "Duration of a request of an adapter.",
            "adapter",
            buckets=_ADAPTER_SECONDS,
        )
        self._adapter_loads = self._counter(
            "adapter_loads", "Copies of an adapter to the device.", "adapter"
        )
        self._adapter_evictions = self._counter(
            "adapter_evictions", "Evictions of an adapter from the device.", "adapter"
        )
        self._resident = self._gauge(
            "adapter_resident",
            "1 if an adapter is on the device or in host memory.",
            "adapter",
            "place",
        )
        self._queued = self._gauge("queued", "Requests in the fair queue before the engines.")
        self._gauges = {
            field: self._gauge(
                "resident_adapters" if field == "resident" else field, text, "backbone"
            )
            for field, text in _GAUGES.items()
        }
        self._loaded = self._gauge("backbone_loaded", "1 if a backbone is in memory.", "backbone")
        self._load_seconds = self._gauge(
            "backbone_load_seconds", "Duration of the last load of a backbone.", "backbone"
        )
        self._paths = self._gauge(
            "forward_path",
            "1 if the backbone runs on a fast path, 0 if on transformers' own forward.",
            "backbone",
            "path",
        )

    def set_paths(self, backbone: str, paths: Mapping[str, bool]) -> None:
        """Set which forward paths a backbone runs on."""
        for path, used in paths.items():
            self._paths.labels(backbone, path).set(used)

    def set_loaded(self, backbone: str, loaded: bool, seconds: float) -> None:
        """Set whether a backbone is in memory, and how long its last load took."""
        self._loaded.labels(backbone).set(loaded)
        self._load_seconds.labels(backbone).set(seconds)

    def label(self, adapter: str) -> str:
        """Return the label of an adapter."""
        with self._lock:
            if adapter in self._labels:
                return adapter
            if len(self._labels) >= MAX_ADAPTERS:
                return OTHER
            self._labels.add(adapter)
            return adapter

    def record_step(self, backbone: str, seconds: float, sequences: int) -> None:
        """Record a step of an engine; called on the engine's thread."""
        self._step.labels(backbone).observe(seconds)
        if sequences:
            self._step_sequences.labels(backbone).observe(sequences)
            with self._lock:
                self._step_seconds.append(seconds)

    def record_request(self, route: str, status: int, seconds: float) -> None:
        """Record a finished request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        with self._lock:
            self.requests_total += 1

    def record_first_token(self, model: ResolvedModel, seconds: float) -> None:
        """Record the time to the first token of a request."""
        self._first_token.labels(model.served.name).observe(seconds)
        with self._lock:
            self._first_token_seconds.append(seconds)

    def record_model_use(
        self, model: ResolvedModel, prompt_tokens: int, completion_tokens: int, seconds: float
    ) -> None:
        """Record what a request computed."""
        counts = {"prompt": prompt_tokens, "completion": completion_tokens}
        for kind, count in counts.items():
            self._tokens.labels(model.served.name, kind).inc(count)
        for name in {self.label(adapter) for adapter in model.adapter_names}:
            self._adapter_requests.labels(name).inc()
            self._adapter_seconds.labels(name).observe(seconds)
            for kind, count in counts.items():
                self._adapter_tokens.labels(name, kind).inc(count)
        with self._lock:
            self.tokens_total += completion_tokens

    def record_token(self) -> None:
        """Record a token that was generated just now."""
        with self._lock:
            self._token_times.append(time.monotonic())

    def record_moves(self, moves: Iterable[tuple[str, str]], names: Mapping[str, str]) -> None:
        """Record adapters that were copied to the device or evicted from it."""
        for kind, digest in moves:
            counter = self._adapter_loads if kind == "load" else self._adapter_evictions
            counter.labels(self.label(names.get(digest, digest[:19]))).inc()

    def set_load(
        self, queued: int, loads: Mapping[str, Mapping[str, int]], places: Mapping[str, str]
    ) -> None:
        """Set the gauges.

        Args:
            queued: Requests in the fair queue.
            loads: Current load of each loaded backbone.
            places: Where each adapter is.
        """
        self._queued.set(queued)
        for gauge in self._gauges.values():
            gauge.clear()
        for backbone, load in loads.items():
            for name, value in load.items():
                self._gauges[name].labels(backbone).set(value)
        self._resident.clear()
        for adapter, place in places.items():
            self._resident.labels(self.label(adapter), place).set(1)

    def tokens_per_second(self) -> float:
        """Return the token throughput over the last seconds."""
        since = time.monotonic() - WINDOW_SECONDS
        with self._lock:
            return sum(at >= since for at in self._token_times) / WINDOW_SECONDS

    def medians(self) -> tuple[float | None, float | None]:
        """Return the median of the recent times to first token, and of recent steps."""
        with self._lock:
            first, steps = list(self._first_token_seconds), list(self._step_seconds)
        return (
            statistics.median(first) if first else None,
            statistics.median(steps) if steps else None,
        )

    def text(self, visible: Callable[[str], bool] | None = None) -> bytes:
        """Return all metrics in Prometheus's text format.

        Args:
            visible: Whether a caller may know an adapter; samples of others are left out.
        """
        text = generate_latest(self.collector)
        if visible is None:
            return text
        return b"".join(line for line in text.splitlines(True) if _is_visible(line, visible))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"adapterhub_{name}", text, labels, registry=self.collector)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"adapterhub_{name}", text, labels, registry=self.collector)

    def _histogram(
        self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS
    ) -> Histogram:
        registry = self.collector
        return Histogram(f"adapterhub_{name}", text, labels, registry=registry, buckets=buckets)
