"""What does it cost to load adapters while the engine generates?

Physics: a cold adapter in the page cache is mapped, converted (its bytes are read once and
written once) and copied to the rank slots of the device (read and written once more). The first
load in a process also hashes its bytes and checks them for NaN. All but the copy is done by
threads of low priority, so running sequences should hardly be slowed down; the copy is cut into
parts of ``max_copy_bytes`` per step.

Parts:

- ``cold``: time to first token with a cold adapter, compared to a resident one;
- ``loads``: steps of running sequences while adapters are loaded, compared to steps without loads;
- ``memory``: memory of the process with and without adapters;
- ``traffic``: many registered adapters under Zipf traffic, compared to as many as there are slots.

Adapters have random values: rank 16 on all linear layers in float32, 19.5 MB each, for ``cold``,
``loads`` and ``memory``; on q_proj and v_proj in bfloat16, 1.8 MB each, for ``traffic``, so that a
thousand fit on a disk.

    python benchmarks/adapter_churn.py [--parts cold loads memory traffic] [--registered 1000]
                                       [--requests 200]

The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from bench_common import (
    LINEARS,
    MEGABYTE,
    RANK,
    percentile_99,
    random_adapter,
    register,
    resident_memory,
)

from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.quantize import default_compute_dtype
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.hub.loader import AdapterLoader
from adapterhub.registry import Registry
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.sequences import Request

BACKBONE = "smollm2-135m-instruct"
SLOTS, PROMPT_TOKENS = 16, 16
PARTS = ("cold", "loads", "memory", "traffic")


class AdapterStore:
    """Creates random adapters in a registry.

    Args:
        root: Folder of the registry.
        backbone: Backbone of the adapters.
    """

    def __init__(self, root: Path, backbone: Backbone) -> None:
        self.backbone = backbone
        self.registry = Registry(root)

    def add(
        self,
        count: int,
        prefix: str,
        targets: tuple[str, ...] = LINEARS,
        dtype: torch.dtype = torch.float32,
    ) -> list[str]:
        """Register adapters and return their names, which are the prefix and a number."""
        names = [f"{prefix}{number}" for number in range(count)]
        for seed, name in enumerate(names):
            weights = random_adapter(self.backbone, seed, targets=targets, dtype=dtype)
            version = register(self.registry, self.backbone, name, weights)
            # checked out, like an adapter that was used on this machine before
            self.registry.materialize(version)
        return names


class Bench:
    """An engine on the backbone of a store, and requests with random prompts.

    Args:
        store: Source of the adapters.
        sizes: Settings of ``EngineConfig``.
    """

    def __init__(self, store: AdapterStore, **sizes: int) -> None:
        self.loader = AdapterLoader(store.registry)
        self.engine = Engine(store.backbone, EngineConfig(**sizes), source=self.loader)
        self.random = random.Random(1)

    def add(self, name: str | None, tokens: int) -> Request:
        """Add a request that generates a fixed number of tokens."""
        prompt = [self.random.randrange(100, 40000) for _ in range(PROMPT_TOKENS)]
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        return self.engine.add(prompt, name, params)

    def first_token_ms(self, name: str | None) -> float:
        """Return the time to first token of a request to an idle engine, in milliseconds."""
        started = time.perf_counter()
        request = self.add(name, 1)
        while not request.finished:
            self.engine.step()
        duration = (time.perf_counter() - started) * 1e3
        error = request.output().error
        if error is not None:
            raise error
        return duration

    def close(self) -> None:
        """Close the engine and the loader."""
        self.engine.close()
        self.loader.close()


def measure_cold(store: AdapterStore, names: list[str], rounds: int) -> dict[str, float]:
    """Measure cold adapters, with one slot and host memory for one adapter."""
    bench = Bench(store, rank_slots=RANK, host_cache_bytes=25_000_000, kv_cache_tokens=4096)
    for _ in range(5):
        bench.first_token_ms(None)
    first, again, resident = [], [], []
    for turn in range(rounds + 1):
        for name in names:
            (again if turn else first).append(bench.first_token_ms(name))
            resident.append(bench.first_token_ms(name))
    bench.close()
    base = statistics.median(resident)
    return {
        "resident_ms": round(base, 1),
        "added_ms": round(statistics.median(again) - base, 1),
        "added_first_in_process_ms": round(statistics.median(first) - base, 1),
        "requests": len(again),
    }


def measure_loads(
    store: AdapterStore, names: list[str], sequences: int, blocks: int
) -> dict[str, float]:
    """Measure blocks of ten steps, alternately with and without loads."""
    bench = Bench(
        store,
        rank_slots=RANK * (sequences + 1),
        host_cache_bytes=45_000_000,
        max_num_seqs=sequences,
        prefetch_lookahead=1,
    )
    engine = bench.engine
    for name in names[:sequences]:
        bench.add(name, 4000 // sequences)
    while engine.stats().running < sequences or engine.stats().waiting:
        engine.step()
    for _ in range(8):
        engine.step()
    others = [bench.loader.resolve(name) for name in names[sequences:]]
    steps: dict[bool, list[float]] = {False: [], True: []}
    before = engine.stats()
    turn = 0
    for block in range(2 * blocks):
        loading = bool(block % 2)
        for _ in range(10):
            started = time.perf_counter()
            if loading:
                turn += load_to_device(engine, others[turn % len(others)])
            engine.step()
            steps[loading].append((time.perf_counter() - started) * 1e3)
    loads = engine.stats().loads - before.loads
    bench.close()
    found = {
        f"{kind}_{name}_ms": round(statistic(steps[loading]), 1)
        for kind, loading in (("without", False), ("with_loads", True))
        for name, statistic in (("median", statistics.median), ("mean", statistics.mean))
    }
    return found | {
        "median_ratio": round(found["with_loads_median_ms"] / found["without_median_ms"], 3),
        "mean_ratio": round(found["with_loads_mean_ms"] / found["without_mean_ms"], 3),
        "loads": loads,
        "loads_per_second": round(loads / (sum(steps[True]) / 1e3), 1),
    }


def load_to_device(engine: Engine, key: str) -> bool:
    """Fetch an adapter and copy it to the spare slot; return whether it is resident.

    A request with the adapter would lengthen the steps by its own tokens, so this goes through
    the engine's caches.
    """
    core = engine.core
    if key not in core.host:
        if core.fetcher is not None:
            core.fetcher.fetch(key, 10**6)
        return False
    device = core.adapters.device
    resident = device.acquire([key], 10**6) is not None
    if resident:
        device.release([key])
    return resident


def measure_memory(store: AdapterStore, names: list[str]) -> dict[str, float]:
    """Measure the process before and after all adapters were used."""
    bench = Bench(store, rank_slots=RANK * len(names))
    bench.first_token_ms(None)
    before = resident_memory()
    for name in names:
        bench.first_token_ms(name)
    after, stats = resident_memory(), bench.engine.stats()
    bench.close()
    return {
        "adapters": len(names),
        "without_mb": round(before.anonymous),
        "with_mb": round(after.anonymous),
        "mapped_files_mb": round(after.mapped_files - before.mapped_files),
        "per_adapter_mb": round((after.anonymous - before.anonymous) / len(names), 1),
        "host_mb_per_adapter": round(stats.host_bytes / len(names) / MEGABYTE, 1),
    }


def measure_traffic(
    store: AdapterStore, names: list[str], requests: int, tokens: int
) -> dict[str, float]:
    """Measure Zipf traffic with as many running requests as slots; each that ends is replaced."""
    bench = Bench(store, rank_slots=RANK * SLOTS, max_num_seqs=SLOTS)
    engine = bench.engine
    for name in names[:SLOTS]:
        bench.first_token_ms(name)
    weights = list(accumulate(1 / (place + 1) for place in range(len(names))))
    memory_before, stats_before = resident_memory(), engine.stats()
    added: dict[object, float] = {}
    first_token: list[float] = []
    num_added = 0
    started = time.perf_counter()
    while num_added < requests or engine.busy:
        stats = engine.stats()
        for _ in range(min(SLOTS - stats.running - stats.waiting, requests - num_added)):
            (name,) = bench.random.choices(names, cum_weights=weights)
            now = time.perf_counter()
            added[bench.add(name, tokens).sequences[0]] = now
            num_added += 1
        for sequence, _ in engine.step():
            if sequence in added:
                first_token.append((time.perf_counter() - added.pop(sequence)) * 1e3)
    seconds = time.perf_counter() - started
    memory_after, stats = resident_memory(), engine.stats()
    bench.close()
    growth = max(stats.host_adapters - stats_before.host_adapters, 1)
    rss_growth = memory_after.anonymous - memory_before.anonymous
    return {
        "tokens_per_second": round(requests * tokens / seconds, 1),
        "first_token_p50_ms": round(statistics.median(first_token), 1),
        "first_token_p99_ms": round(percentile_99(first_token), 1),
        "loads": stats.loads - stats_before.loads,
        "host_adapters": stats.host_adapters,
        "host_mb_per_adapter": round(stats.host_bytes / stats.host_adapters / MEGABYTE, 2),
        "rss_growth_mb_per_adapter": round(rss_growth / growth, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--registered", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=8)
    options = parser.parse_args()
    compute = default_compute_dtype(torch.device("cpu"))
    backbone = load_backbone(BACKBONE, QuantizationSpec("none", compute))
    results: dict[str, dict[str, float]] = {}

    def report(name: str, result: dict[str, float]) -> None:
        results[name] = result
        print(name, result, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        store = AdapterStore(Path(folder), backbone)
        large = store.add(32 if "memory" in options.parts else 16, "all-linear")
        if "cold" in options.parts:
            report("cold", measure_cold(store, large[:12], options.rounds))
        if "loads" in options.parts:
            report("with_loads", measure_loads(store, large[:16], options.sequences, 6))
        if "memory" in options.parts:
            report("memory", measure_memory(store, large))
        if "traffic" in options.parts:
            targets = ("q_proj", "v_proj")
            small = store.add(options.registered, "query-value", targets, torch.bfloat16)
            for names in (small[:SLOTS], small):
                result = measure_traffic(store, names, options.requests, options.tokens)
                report(f"{len(names)} registered", result)
    print(json.dumps(results | {"compute": compute}))


if __name__ == "__main__":
    main()
