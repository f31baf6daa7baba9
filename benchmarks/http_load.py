"""How much of the engine's own throughput is left behind HTTP, and does memory stay flat?

Physics: a step of the engine costs tens of milliseconds on two cores, and gives each row one
token. HTTP adds, for each token, one piece of JSON on a socket, and a hand-over between the
engine's thread and the event loop, under one interpreter lock; for each request, a lookup in the
registry, a chat template and a tokenizer. So what is lost grows with tokens a second.

One process serves a backbone and 32 adapters of rank 16 on loopback; another asks. For each
number of streams the engine is first measured alone, on the same prompts, in the same process:
as many requests as there are streams, through ``AsyncEngine`` and no HTTP. Both take turns;
medians are printed, and the ratio. Then requests follow each other, and the resident memory of
the server is taken every so many. Nothing but 200 and 429 may come back.

    python benchmarks/http_load.py [--streams 1 16 64 256] [--adapters 32] [--tokens 32]
                                   [--rounds 3] [--requests 10000] [--backbone NAME]

The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import torch

from adapterhub.artifact import write_artifact
from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.quantize import default_compute_dtype
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.manifest import BackboneRef, Manifest, Metrics
from adapterhub.peft_format import config_document, peft_config
from adapterhub.registry import Registry
from adapterhub.server.holding import load
from adapterhub.server.serving import listener, open_server
from adapterhub.server.settings import ServerSettings
from adapterhub.specs import LoraSpec, QuantizationSpec
from adapterhub.weights import AdapterWeights

if TYPE_CHECKING:
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.server.context import Server

RANK = 16
PROMPT = 32
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument("--scheme", default="nf4")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--adapters", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--memory-tokens", type=int, default=2)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.client:
        asyncio.run(client(asked.client))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(asked, Path(folder)))))


async def measure(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    spec = QuantizationSpec(asked.scheme, default_compute_dtype(torch.device("cpu")))
    backbone = load_backbone(asked.backbone, spec)
    registry = Registry(folder / "home")
    store_adapters(registry, folder, backbone, asked.adapters)
    rows = min(max(asked.streams), 64)
    settings = ServerSettings(
        port=0,
        max_rows=rows,
        rank_rows=RANK * asked.adapters,
        cache_positions=rows * (PROMPT + asked.tokens + 32),
        queue_seconds=600.0,
    )
    async with open_server(backbone, registry, settings=settings) as server:
        for number in range(asked.adapters):
            await load(server, f"adapter{number}")
        listening = listener(server)
        serving = asyncio.ensure_future(listening.serve())
        while not listening.started:
            await asyncio.sleep(0.01)
        found: dict[str, Any] = {"streams": {}, "statuses": Counter()}
        for streams in asked.streams:
            found["streams"][streams] = await compare(asked, server, listening.url, streams, found)
        if asked.requests:
            found["memory"] = await memory(asked, listening.url, found)
        listening.should_exit = True
        await serving
    return {**found, "backbone": asked.backbone, "adapters": asked.adapters, "rows": rows}


async def compare(
    asked: argparse.Namespace, server: Server, url: str, streams: int, found: dict[str, Any]
) -> dict[str, float]:
    """Return the median tokens a second of the engine alone and of HTTP, in turns."""
    draw = random.Random(streams)
    speeds: dict[str, list[float]] = {"engine": [], "http": []}
    first: list[float] = []
    for turn in range(asked.rounds + 1):
        jobs = [
            (f"adapter{row % asked.adapters}", [draw.randrange(100, 20000) for _ in range(PROMPT)])
            for row in range(streams)
        ]
        alone = await engine_alone(server, jobs, asked.tokens)
        answer = await ask(url, [(name, prompt[::-1]) for name, prompt in jobs], asked.tokens)
        found["statuses"].update(answer["statuses"])
        if turn:  # the first one warms up
            speeds["engine"].append(alone)
            speeds["http"].append(answer["tokens"] / answer["seconds"])
            first.append(answer["first_token_ms"])
    result = {side: round(statistics.median(each), 1) for side, each in speeds.items()}
    ratios = [h / e for h, e in zip(speeds["http"], speeds["engine"], strict=True)]
    result |= {"ratio": round(statistics.median(ratios), 3)}
    result |= {"first_token_ms": round(statistics.median(first), 1)}
    print(f"{streams} streams: {result}", flush=True)
    return result


async def engine_alone(server: Server, jobs: list[tuple[str, list[int]]], tokens: int) -> float:
    """Return tokens a second through the engine and no HTTP."""
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    models = {name: server.models.find(name).adapters for name, _ in jobs}

    async def one(name: str, prompt: list[int]) -> int:
        count = 0
        async with aclosing(server.engine.stream(prompt, models[name], params)) as deltas:
            async for delta in deltas:
                count += delta.token is not None
        return count

    began = time.perf_counter()
    counts = await asyncio.gather(*(one(*job) for job in jobs))
    return sum(counts) / (time.perf_counter() - began)


async def memory(asked: argparse.Namespace, url: str, found: dict[str, Any]) -> dict[str, Any]:
    """Return the resident memory of the server while requests follow each other, in MB."""
    draw = random.Random(0)
    parts = 10
    taken = []
    for part in range(parts + 1):
        count = asked.requests // parts if part else min(asked.requests // parts, 500)
        jobs = [
            (
                f"adapter{draw.randrange(asked.adapters)}",
                [draw.randrange(100, 20000) for _ in range(4)],
            )
            for _ in range(count)
        ]
        answer = await ask(url, jobs, asked.memory_tokens, at_once=64)
        found["statuses"].update(answer["statuses"])
        taken.append(round(resident_mb(), 1))
        print(f"after part {part}: {taken[-1]} MB", flush=True)
    return {"requests": asked.requests, "mb": taken, "grown_mb": round(taken[-1] - taken[1], 1)}


async def ask(
    url: str, jobs: list[tuple[str, list[int]]], tokens: int, *, at_once: int = 0
) -> dict[str, Any]:
    """Let another process ask, so that what it computes is not the server's."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        document = {"url": url, "jobs": jobs, "tokens": tokens, "at_once": at_once or len(jobs)}
        json.dump(document, file)
        file.flush()
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--client", file.name, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
    return json.loads(output)


async def client(path: str) -> None:
    """Ask for everything at once; runs in a process of its own."""
    asked = json.loads(Path(path).read_text())
    statuses: Counter[str] = Counter()
    first: list[float] = []
    counted = 0
    limit = asyncio.Semaphore(asked["at_once"])

    async def one(http: httpx.AsyncClient, name: str, prompt: list[int]) -> None:
        nonlocal counted
        body = {
            "model": name,
            "prompt": prompt,
            "max_tokens": asked["tokens"],
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with limit:
            began = time.perf_counter()
            async with http.stream("POST", f"{asked['url']}/v1/completions", json=body) as answer:
                statuses[str(answer.status_code)] += 1
                last = ""
                async for line in answer.aiter_lines():
                    if not last and line:
                        first.append(time.perf_counter() - began)
                    if line.startswith("data: {"):
                        last = line
            if answer.status_code == 200:
                counted += json.loads(last[6:])["usage"]["completion_tokens"]

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=asked["at_once"])
    async with httpx.AsyncClient(timeout=600, limits=limits) as http:
        began = time.perf_counter()
        await asyncio.gather(*(one(http, *job) for job in asked["jobs"]))
        seconds = time.perf_counter() - began
    middle = statistics.median(first) * 1000 if first else 0.0
    print(
        json.dumps(
            {
                "seconds": seconds,
                "tokens": counted,
                "statuses": dict(statuses),
                "first_token_ms": middle,
            }
        )
    )


def store_adapters(registry: Registry, folder: Path, backbone: Backbone, count: int) -> None:
    """Put adapters of random values into the registry."""
    linears = {
        path: module
        for path, module in backbone.body.named_modules()
        if path.rpartition(".")[2] in LINEARS
    }
    spec = LoraSpec(rank=RANK, alpha=float(RANK), target_modules=LINEARS)
    for number in range(count):
        draw = torch.Generator().manual_seed(number)
        tensors = {}
        for path, module in linears.items():
            key = f"base_model.model.model.{path}"
            a = torch.randn(RANK, module.in_features, generator=draw) * 0.02
            b = torch.randn(module.out_features, RANK, generator=draw) * 0.02
            tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
        target = folder / f"artifact{number}"
        write(target, AdapterWeights(spec, tensors), backbone)
        registry.put(target, f"adapter{number}")


def write(folder: Path, weights: AdapterWeights, backbone: Backbone) -> None:
    config = peft_config(
        weights.spec,
        task_type="CAUSAL_LM",
        target_modules=LINEARS,
        base_model=backbone.name,
        modules_to_save=None,
        revision=None,
    )
    task = {"name": "dialogue", "max_length": 512, "max_new_tokens": 64, "system_prompt": ""}
    manifest = Manifest(
        task="dialogue",
        labels=(),
        backbone=BackboneRef(name=backbone.name, fingerprint=backbone.fingerprint),
        quantization=backbone.quantization,
        adapter=weights.spec,
        trained_parameters=weights.parameters,
        backbone_parameters=backbone.parameters,
        recipe={"task": task, "backbone": {"name": backbone.name, "revision": None}},
        data={},
        metrics=Metrics(),
        seed=0,
        libraries={},
    )
    write_artifact(
        folder,
        tensors=weights.tensors,
        adapter_config=config_document(config),
        manifest=manifest,
        card="# A card\n",
    )


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


if __name__ == "__main__":
    main()
