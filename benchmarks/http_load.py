"""How much of the engine's own throughput remains behind HTTP, and does memory stay constant?

Physics: a step of the engine takes tens of milliseconds on two cores, and generates one token for
each sequence. HTTP adds, for each token, a chunk of JSON on a socket and a transfer between the
engine's thread and the event loop, under one interpreter lock; for each request, a lookup in the
registry, a chat template and a tokenizer. So the loss grows with the tokens per second.

One process serves a backbone and 32 adapters of rank 16 on loopback; a second, cheap one sends
the requests (``http_streams.py``). For each number of streams the engine is first measured alone,
in the same process, through ``AsyncEngine`` without HTTP: with as many streams, each of which
sends its next request as soon as the last one finished. Then HTTP with as many. Both sides warm
up, then the tokens of a fixed time are counted; the sides alternate, and medians are printed. Of
more streams than ``--max-num-seqs`` the others wait: in the engine's queue there, in the server's
queue here.

Then many short requests follow each other, and the resident memory of the server is recorded at
intervals. Statuses are counted; only 200 and 429 are expected.

A number of streams takes rounds x 2 x (warm + seconds), a minute and a half by default; the short
requests take at most ``--memory-seconds``. Results are printed as soon as they are known.

    python benchmarks/http_load.py [--streams 1 16 64 256] [--adapters 32] [--tokens 32]
                                   [--rounds 3] [--seconds 12] [--requests 10000]
                                   [--backbone NAME]

The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import http_streams
import torch
import uvicorn
from bench_common import RANK, random_adapter, register, resident_memory
from http_streams import Found, Plan, requests_of

from adapterhub.backbones.backbone import load_backbone
from adapterhub.backbones.quantize import default_compute_dtype
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.registry import Registry
from adapterhub.server.access import SETTINGS_CALLER
from adapterhub.server.adapter_lifecycle import load
from adapterhub.server.serving import Listener, open_server
from adapterhub.server.settings import ServerSettings
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from adapterhub.server.context import Server

PROMPT = 32
#: Prompt tokens of the requests of the memory measurement.
MEMORY_PROMPT = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument("--scheme", default="nf4")
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 16, 64, 256])
    parser.add_argument("--adapters", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--max-num-seqs", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", type=float, default=4.0)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--memory-tokens", type=int, default=2)
    parser.add_argument("--memory-seconds", type=float, default=300.0)
    options = parser.parse_args()
    # the event loop of ``adapterhub serve``
    factory = uvicorn.Config("", log_config=None).get_loop_factory()
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=factory) as runner,
    ):
        print(json.dumps(runner.run(measure(options, Path(folder)))))


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return all results."""
    spec = QuantizationSpec(options.scheme, default_compute_dtype(torch.device("cpu")))
    backbone = load_backbone(options.backbone, spec)
    registry = Registry(folder)
    for number in range(options.adapters):
        register(registry, backbone, f"adapter{number}", random_adapter(backbone, number))
    settings = ServerSettings(
        port=0,
        max_num_seqs=options.max_num_seqs,
        rank_slots=RANK * options.adapters,
        queue_timeout=600.0,
    )
    found: dict[str, Any] = {"streams": {}, "statuses": Counter()}
    async with open_server([lambda: backbone], registry, settings=settings) as server:
        with server.calling(SETTINGS_CALLER) as call:
            for number in range(options.adapters):
                await load(call, f"adapter{number}")
        listening = Listener(server)
        serving = asyncio.ensure_future(listening.serve())
        while not listening.started:
            await asyncio.sleep(0.01)
        print(
            f"{options.backbone}, {options.adapters} adapters, {options.max_num_seqs} sequences",
            flush=True,
        )
        for streams in options.streams:
            result = await compare(options, server, listening, streams, found["statuses"])
            found["streams"][streams] = result
        if options.requests:
            found["memory"] = await memory(options, listening, found["statuses"])
        listening.should_exit = True
        await serving
    return {
        **found,
        "backbone": options.backbone,
        "adapters": options.adapters,
        "max_num_seqs": options.max_num_seqs,
    }


async def compare(
    options: argparse.Namespace,
    server: Server,
    listening: Listener,
    streams: int,
    statuses: Counter[str],
) -> dict[str, Any]:
    """Return the median tokens per second of the engine alone and of HTTP, measured alternately."""
    speeds: dict[str, list[float]] = {"engine": [], "http": []}
    first: list[float] = []
    for turn in range(options.rounds):
        plan = plan_of(options, listening, streams, seed=turn)
        alone = await engine_alone(server, plan)
        report = await send(plan_of(options, listening, streams, seed=-1 - turn))
        await wait_until_idle(server)
        statuses.update(report.statuses)
        speeds["engine"].append(alone)
        speeds["http"].append(report.tokens / report.seconds)
        first += [] if report.first_token_ms is None else [report.first_token_ms]
        print(f"  {streams} streams, round {turn + 1}: {speeds} {report.statuses}", flush=True)
    result: dict[str, Any] = {side: round(statistics.median(x), 1) for side, x in speeds.items()}
    ratios = [h / e for h, e in zip(speeds["http"], speeds["engine"], strict=True)]
    result |= {"ratio": round(statistics.median(ratios), 3)}
    # if streams wait, few answers start in the measured time, and those are the fast ones
    fair = first and streams <= options.max_num_seqs
    result |= {"first_token_ms": round(statistics.median(first), 1) if fair else None}
    print(f"{streams} streams: {result}", flush=True)
    return result


def plan_of(options: argparse.Namespace, listening: Listener, streams: int, seed: int) -> Plan:
    host, port = listening.servers[0].sockets[0].getsockname()[:2]
    return Plan(
        host=host,
        port=port,
        streams=streams,
        adapters=options.adapters,
        prompt=PROMPT,
        tokens=options.tokens,
        seed=seed,
        warm=options.warm,
        seconds=options.seconds,
    )


async def engine_alone(server: Server, plan: Plan) -> float:
    """Return the tokens per second of the engine without HTTP."""
    engine = server.backbones.first.loaded.engine
    adapters = {
        name: server.names.resolve(name).adapters
        for name in (f"adapter{number}" for number in range(plan.adapters))
    }
    started = time.perf_counter()
    count = 0

    async def stream(number: int) -> None:
        nonlocal count
        for name, prompt, tokens in requests_of(plan, number):
            params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
            async with aclosing(engine.stream(prompt, adapters[name], params)) as deltas:
                async for delta in deltas:
                    passed = time.perf_counter() - started - plan.warm
                    count += delta.token is not None and 0 <= passed < plan.seconds

    streams = [asyncio.ensure_future(stream(number)) for number in range(plan.streams)]
    await asyncio.sleep(plan.warm + plan.seconds)
    for each in streams:
        each.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    return count / plan.seconds


async def wait_until_idle(server: Server) -> None:
    """Wait until the server has noticed the disconnects."""
    while server.access.running or server.access.queued:
        await asyncio.sleep(0.05)


async def memory(
    options: argparse.Namespace, listening: Listener, statuses: Counter[str]
) -> dict[str, Any]:
    """Return the resident memory of the server during many requests, in MB."""
    parts, made, started = 10, 0, time.perf_counter()
    taken: list[float] = []
    # the first part fills the caches
    for part in range(parts + 1):
        left = options.memory_seconds - (time.perf_counter() - started)
        if left <= 0:
            break
        report = await send(
            Plan(
                **asdict(plan_of(options, listening, 64, seed=1000 + part))
                | {
                    "prompt": MEMORY_PROMPT,
                    "tokens": options.memory_tokens,
                    "warm": 0.0,
                    "seconds": left,
                    "requests": options.requests // parts
                    if part
                    else min(options.requests // parts, 500),
                }
            )
        )
        statuses.update(report.statuses)
        made += report.answers
        taken.append(round(resident_memory().total, 1))
        seconds = time.perf_counter() - started
        print(f"{made} requests in {seconds:.0f} s: {taken[-1]} MB", flush=True)
    return {
        "requests": made,
        "mb": taken,
        "grown_mb": round(taken[-1] - taken[min(1, len(taken) - 1)], 1),
    }


async def send(plan: Plan) -> Found:
    """Send the requests from another process, so that its work is not the server's."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asdict(plan), file)
        file.flush()
        process = await asyncio.create_subprocess_exec(
            sys.executable, http_streams.__file__, file.name, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
    return Found(**json.loads(output))


if __name__ == "__main__":
    main()
