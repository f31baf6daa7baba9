"""What do adapters cost that come and go while the engine runs?

Physics: a cold adapter in the page cache is mapped, converted (its bytes are read once and
written once) and copied to the device's tables (once more each). The first time in a process its
bytes are hashed and looked at for NaN too. All but the copy is done by threads of low priority,
so running rows should hardly notice; the copy is cut into pieces of ``max_copy_bytes`` a step.

(a) cold to first token, beside the same request with the adapter resident; (b) many registered
adapters under Zipf traffic beside as many as there are slots; (c) steps of running rows while
adapters are brought in beside steps without; (d) memory of the process. Adapters have random
values: rank 16 on all linear layers in float32 for (a), (c) and (d), 19.5 MB each; on q_proj and
v_proj in bfloat16 for (b), 1.8 MB each, so that a thousand fit on a disk.

    python benchmarks/adapter_churn.py [--parts a b c d] [--registered 1000] [--requests 200]

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

from adapterhub.adapters.artifact import write_artifact
from adapterhub.adapters.manifest import BackboneRef, Manifest, Metrics
from adapterhub.adapters.peft_format import config_document, peft_config
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.quantize import default_compute_dtype
from adapterhub.engine.config import EngineConfig
from adapterhub.engine.engine import Engine
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.hub.loader import AdapterLoader
from adapterhub.registry import Registry
from adapterhub.specs import LoraSpec, QuantizationSpec

if TYPE_CHECKING:
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.sequences import Request

BACKBONE = "smollm2-135m-instruct"
RANK, SLOTS, PROMPT = 16, 16, 16
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MEGABYTE = 1e6


class Store:
    """Makes adapters, and keeps them in a registry."""

    def __init__(self, root: Path, backbone: Backbone) -> None:
        self.root, self.backbone = root, backbone
        self.registry = Registry(root / "home")
        self.shapes = {
            path: (module.in_features, module.out_features)
            for path, module in backbone.base_model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        self.made = 0

    def add(self, count: int, targets: tuple[str, ...], dtype: torch.dtype) -> list[str]:
        """Register adapters; return their references."""
        refs = []
        for number in range(count):
            folder = self.root / f"made{self.made}"
            self.made += 1
            write_artifact(folder, **self._parts(number, targets, dtype))
            name = f"{'all' if targets == LINEARS else 'few'}{number}"
            version = self.registry.put(folder, name)
            # checked out, as an adapter is that was used on this machine before
            self.registry.materialize(version)
            for file in folder.iterdir():
                file.unlink()
            refs.append(name)
        return refs

    def _parts(self, seed: int, targets: tuple[str, ...], dtype: torch.dtype) -> dict:
        spec = LoraSpec(rank=RANK, alpha=float(RANK), target_modules=targets)
        draw = torch.Generator().manual_seed(seed)
        tensors = {}
        for path, (wide, out) in self.shapes.items():
            if path.endswith(targets):
                key = f"base_model.model.model.{path}"
                a = torch.randn(RANK, wide, generator=draw) * 0.02
                b = torch.randn(out, RANK, generator=draw) * 0.02
                tensors[f"{key}.lora_A.weight"] = a.to(dtype)
                tensors[f"{key}.lora_B.weight"] = b.to(dtype)
        config = peft_config(
            spec,
            task_type="CAUSAL_LM",
            target_modules=targets,
            base_model=BACKBONE,
            modules_to_save=None,
            revision=None,
        )
        manifest = Manifest(
            task="dialogue",
            labels=(),
            backbone=BackboneRef(name=BACKBONE, fingerprint=self.backbone.fingerprint),
            quantization=self.backbone.quantization,
            adapter=spec,
            trained_parameters=sum(t.numel() for t in tensors.values()),
            backbone_parameters=self.backbone.parameters,
            recipe={"task": {"max_length": 512, "max_new_tokens": 64, "system_prompt": ""}},
            data={},
            metrics=Metrics(),
            seed=seed,
            libraries={},
        )
        return {
            "tensors": tensors,
            "adapter_config": config_document(config),
            "manifest": manifest,
            "card": "# Random\n",
        }


class Bench:
    """An engine on the store's backbone, and requests of random prompts."""

    def __init__(self, store: Store, **sizes: int) -> None:
        self.loader = AdapterLoader(store.registry)
        self.engine = Engine(store.backbone, EngineConfig(**sizes), source=self.loader)
        self.draw = random.Random(1)

    def add(self, ref: str | None, tokens: int) -> Request:
        prompt = [self.draw.randrange(100, 40000) for _ in range(PROMPT)]
        settings = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        return self.engine.add(prompt, ref, settings)

    def first_token(self, ref: str | None) -> float:
        """Return milliseconds from a request to its first token, on an engine at rest."""
        began = time.perf_counter()
        request = self.add(ref, 1)
        while not request.finished:
            self.engine.step()
        took = (time.perf_counter() - began) * 1e3
        error = request.output().error
        if error is not None:
            raise error
        return took

    def close(self) -> None:
        self.engine.close()
        self.loader.close()


def cold(store: Store, refs: list[str], rounds: int) -> dict[str, float]:
    """(a): one slot and room for one adapter in host memory, so each request's is cold."""
    bench = Bench(store, rank_slots=RANK, host_cache_bytes=25_000_000, kv_cache_tokens=4096)
    for _ in range(5):
        bench.first_token(None)
    first, again, resident = [], [], []
    for turn in range(rounds + 1):
        for ref in refs:
            (again if turn else first).append(bench.first_token(ref))
            resident.append(bench.first_token(ref))
    bench.close()
    base = statistics.median(resident)
    return {
        "resident_ms": round(base, 1),
        "added_ms": round(statistics.median(again) - base, 1),
        "added_first_in_process_ms": round(statistics.median(first) - base, 1),
        "requests": len(again),
    }


def traffic(store: Store, refs: list[str], requests: int, tokens: int) -> dict[str, float]:
    """(b): as many requests under way as there are slots; each that ends is followed by one."""
    bench = Bench(store, rank_slots=RANK * SLOTS, max_num_seqs=SLOTS)
    for ref in refs[:SLOTS]:
        bench.first_token(ref)
    weights = list(accumulate(1 / (place + 1) for place in range(len(refs))))
    before, held = memory(), bench.engine.stats()
    came: dict[object, float] = {}
    first: list[float] = []
    asked = 0
    began = time.perf_counter()
    while asked < requests or bench.engine.busy:
        under_way = bench.engine.stats()
        for _ in range(SLOTS - under_way.running - under_way.waiting):
            if asked < requests:
                (ref,) = bench.draw.choices(refs, cum_weights=weights)
                now = time.perf_counter()
                came[bench.add(ref, tokens).sequences[0]] = now
                asked += 1
        for row, _ in bench.engine.step():
            if row in came:
                first.append((time.perf_counter() - came.pop(row)) * 1e3)
    seconds = time.perf_counter() - began
    after, stats = memory(), bench.engine.stats()
    bench.close()
    first.sort()
    grown = max(stats.host_adapters - held.host_adapters, 1)
    return {
        "tokens_per_second": round(requests * tokens / seconds, 1),
        "first_token_p50_ms": round(statistics.median(first), 1),
        "first_token_p99_ms": round(first[int(0.99 * len(first))], 1),
        "loads": stats.loads - held.loads,
        "host_adapters": stats.host_adapters,
        "host_mb_per_adapter": round(stats.host_bytes / stats.host_adapters / MEGABYTE, 2),
        "rss_growth_mb_per_adapter": round((after["anon"] - before["anon"]) / grown, 2),
    }


def beside_loads(store: Store, refs: list[str], rows: int, blocks: int) -> dict[str, float]:
    """(c): blocks of steps with and without adapters coming in, in turns."""
    bench = Bench(
        store,
        rank_slots=RANK * (rows + 1),
        host_cache_bytes=45_000_000,
        max_num_seqs=rows,
        prefetch_lookahead=1,
    )
    engine = bench.engine
    for number in range(rows):
        bench.add(refs[number], 4000 // rows)
    while engine.stats().running < rows or engine.stats().waiting:
        engine.step()
    for _ in range(8):
        engine.step()
    others = [bench.loader.resolve(ref) for ref in refs[rows:]]
    steps: dict[bool, list[float]] = {False: [], True: []}
    before = engine.stats()
    turn = 0
    for block in range(2 * blocks):
        loading = bool(block % 2)
        for _ in range(10):
            began = time.perf_counter()
            if loading:
                turn += bring_in(engine, others[turn % len(others)])
            engine.step()
            steps[loading].append((time.perf_counter() - began) * 1e3)
    after = engine.stats()
    bench.close()
    seconds = sum(steps[True]) / 1e3
    found = {
        f"{kind}_{name}_ms": round(measure(steps[loading]), 1)
        for kind, loading in (("without", False), ("beside_loads", True))
        for name, measure in (("median", statistics.median), ("mean", statistics.mean))
    }
    return found | {
        "median_ratio": round(found["beside_loads_median_ms"] / found["without_median_ms"], 3),
        "mean_ratio": round(found["beside_loads_mean_ms"] / found["without_mean_ms"], 3),
        "loads": after.loads - before.loads,
        "loads_per_second": round((after.loads - before.loads) / seconds, 1),
    }


def bring_in(engine: Engine, key: str) -> bool:
    """Fetch an adapter and copy it to the spare slot; return whether it is resident."""
    if key not in engine.core.host:
        if engine.core.fetcher is not None:
            engine.core.fetcher.fetch(key, 10**6)
        return False
    device = engine.core.adapters.device
    resident = device.acquire([key], 10**6) is not None
    if resident:
        device.release([key])
    return resident


def process_memory(store: Store, refs: list[str]) -> dict[str, float]:
    """(d): after use of no adapter, and of all of them."""
    bench = Bench(store, rank_slots=RANK * len(refs))
    bench.first_token(None)
    none = memory()
    for ref in refs:
        bench.first_token(ref)
    with_all, stats = memory(), bench.engine.stats()
    bench.close()
    return {
        "adapters": len(refs),
        "without_mb": round(none["anon"]),
        "with_mb": round(with_all["anon"]),
        "mapped_files_mb": round(with_all["file"] - none["file"]),
        "per_adapter_mb": round((with_all["anon"] - none["anon"]) / len(refs), 1),
        "host_mb_per_adapter": round(stats.host_bytes / len(refs) / MEGABYTE, 1),
    }


def memory() -> dict[str, float]:
    """Return megabytes of the process that are its own, and of files mapped into it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {
        name: int(fields[field].split()[0]) * 1024 / MEGABYTE
        for name, field in (("anon", "RssAnon"), ("file", "RssFile"))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=["a", "b", "c", "d"])
    parser.add_argument("--registered", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8)
    asked = parser.parse_args()
    compute = default_compute_dtype(torch.device("cpu"))
    backbone = load_backbone(BACKBONE, QuantizationSpec("none", compute))
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), backbone)
        whole = store.add(32 if "d" in asked.parts else 16, LINEARS, torch.float32)
        if "a" in asked.parts:
            results["cold"] = cold(store, whole[:12], asked.rounds)
            print(results["cold"], flush=True)
        if "c" in asked.parts:
            results["beside_loads"] = beside_loads(store, whole[:16], asked.rows, 6)
            print(results["beside_loads"], flush=True)
        if "d" in asked.parts:
            results["memory"] = process_memory(store, whole)
            print(results["memory"], flush=True)
        if "b" in asked.parts:
            small = store.add(asked.registered, ("q_proj", "v_proj"), torch.bfloat16)
            for refs in (small[:SLOTS], small):
                name = f"{len(refs)} registered"
                results[name] = traffic(store, refs, asked.requests, asked.tokens)
                print(name, results[name], flush=True)
    print(json.dumps(results | {"compute": compute}))


if __name__ == "__main__":
    main()
