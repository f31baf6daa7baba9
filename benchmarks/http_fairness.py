"""Does a flood on one adapter slow down the first token of another?

A flood of simultaneous requests uses one adapter; meanwhile another adapter gets one request at a
time, as from one user. Each sequence of the batch makes the steps a little longer, so some slowdown
is physics: the step with a full batch over the step with one sequence. What exceeds that is
waiting, which the fair queue of the server prevents.

Against a running server:

    adapterhub serve --backbone smollm2-135m-instruct &
    python benchmarks/http_fairness.py --flood a@prod --other b@prod

The last line is JSON: the median times to the first token alone and during the flood, in
milliseconds, their ratio, and the statuses of the flood's requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections import Counter
from typing import Any

import httpx

PROMPT = "Tell me in a few words how to reset the password of my account, please."
#: Fewest samples during the flood for a median.
MIN_SAMPLES = 5


async def first_token(client: httpx.AsyncClient, model: str, prompt: str, tokens: int) -> float:
    """Return the seconds to the first token of one stream, which is read to its end."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
    }
    started, first = time.perf_counter(), None
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != 200:
            await response.aread()
            raise httpx.HTTPStatusError(response.text, request=response.request, response=response)
        async for line in response.aiter_lines():
            if first is None and line.startswith("data: {"):
                first = time.perf_counter() - started
    if first is None:
        raise RuntimeError("the answer has no tokens")
    return first


async def status_of_one(client: httpx.AsyncClient, model: str, prompt: str, tokens: int) -> int:
    """Return the status of one request of the flood."""
    try:
        await first_token(client, model, prompt, tokens)
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    return 200


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the medians alone and during the flood."""
    headers = (
        {"Authorization": f"Bearer {key}"} if (key := os.environ.get("OPENAI_API_KEY")) else {}
    )
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=options.url, headers=headers, timeout=600, limits=limits
    ) as client:
        for model in (options.flood, options.other):
            await first_token(client, model, options.prompt, 4)
        alone = [await _other(client, options) for _ in range(options.samples)]
        flood = [
            asyncio.create_task(
                status_of_one(client, options.flood, options.prompt, options.flood_tokens)
            )
            for _ in range(options.requests)
        ]
        await asyncio.sleep(options.delay)
        during = []
        while len(during) < options.samples and not all(task.done() for task in flood):
            during.append(await _other(client, options))
        over = all(task.done() for task in flood)
        statuses = Counter(await asyncio.gather(*flood))
    if len(during) < MIN_SAMPLES:
        raise SystemExit(f"the flood was over after {len(during)} samples: give --flood-tokens")
    result = {
        "alone_ms": statistics.median(alone) * 1000,
        "during_ms": statistics.median(during) * 1000,
        "worst_during_ms": max(during) * 1000,
        "samples": len(during),
        "flood_over": over,
        "flood_statuses": {str(status): count for status, count in sorted(statuses.items())},
    }
    return {**result, "ratio": result["during_ms"] / result["alone_ms"]}


async def _other(client: httpx.AsyncClient, options: argparse.Namespace) -> float:
    return await first_token(client, options.other, options.prompt, options.tokens)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--flood", required=True, help="adapter of the flood")
    parser.add_argument("--other", required=True, help="adapter that is timed")
    parser.add_argument("--requests", type=int, default=200, help="requests of the flood")
    parser.add_argument("--flood-tokens", type=int, default=64, help="tokens of its answers")
    parser.add_argument("--tokens", type=int, default=8, help="tokens of the timed answers")
    parser.add_argument("--samples", type=int, default=21)
    parser.add_argument("--delay", type=float, default=1.0, help="seconds before the samples")
    parser.add_argument("--prompt", default=PROMPT)
    result = asyncio.run(measure(parser.parse_args()))
    print(f"alone {result['alone_ms']:.0f} ms, during the flood {result['during_ms']:.0f} ms")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
