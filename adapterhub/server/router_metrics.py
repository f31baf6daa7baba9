"""Metrics under vLLM's names, by which routers choose a server.

Each has one series for the whole server, because routers read one per server: sums over the
backbones, and the adapters of all of them. ``adapterhub_running`` and others say it by backbone.

Source: vLLM, ``vllm/v1/metrics/loggers.py``; model server protocol of the Gateway API inference
extension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, generate_latest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from adapterhub.engine.config import EngineConfig
    from adapterhub.engine.outputs import EngineStats

#: Most names of adapters in a label.
MAX_NAMES = 100
#: Rank by which rank slots are counted in adapters while there is none on the device.
_TYPICAL_RANK = 16


@dataclass(frozen=True, slots=True)
class RouterLoad:
    """Load of a server, as routers read it.

    Args:
        backbones: Names of the backbones.
        running: Sequences that run.
        waiting: Sequences and requests that wait, in the engines and in the fair queue.
        cache_usage: Used part of the KV caches, between 0 and 1.
        max_adapters: Adapters that fit on the device together.
        running_adapters: Adapters of running requests, as the requests name them.
        waiting_adapters: Adapters of waiting requests.
    """

    backbones: Sequence[str]
    running: int
    waiting: int
    cache_usage: float
    max_adapters: int
    running_adapters: Iterable[str]
    waiting_adapters: Iterable[str]

    def text(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        registry = CollectorRegistry()
        model = ",".join(self.backbones)
        for name, text, value in (
            ("num_requests_running", "Running requests.", self.running),
            ("num_requests_waiting", "Waiting requests.", self.waiting),
            ("kv_cache_usage_perc", "Used part of the KV cache; 1 is all of it.", self.cache_usage),
        ):
            gauge = Gauge(f"vllm:{name}", text, ["model_name"], registry=registry)
            gauge.labels(model).set(value)
        info = Gauge(
            "vllm:lora_requests_info",
            "Adapters of running and of waiting requests; the value is the time.",
            ["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
            registry=registry,
        )
        running, waiting = _joined(self.running_adapters), _joined(self.waiting_adapters)
        info.labels(str(self.max_adapters), running, waiting).set_to_current_time()
        return generate_latest(registry)


def adapters_that_fit(config: EngineConfig, stats: EngineStats) -> int:
    """Return how many adapters of the ranks of those on the device fit there together."""
    used = config.rank_slots - stats.free_rank_slots
    rank = used // stats.resident if stats.resident and used else _TYPICAL_RANK
    return stats.resident + stats.free_rank_slots // max(rank, 1)


def _joined(names: Iterable[str]) -> str:
    return ",".join(sorted(names)[:MAX_NAMES])
