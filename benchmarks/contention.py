"""How much longer does a decoding step take beside a busy process?

Physics: two threads share a step and wait for each other. A neighbour that keeps one of two cores
busy leaves half of that core, so 1.5 cores of 2: a step that shares its work in small parts takes
1.33 times as long, one that gives each thread a fixed half twice. Threads that wait at a barrier
without yielding keep the thread they wait for from running, which costs a time slice of the
kernel's scheduler at every barrier.

The neighbour runs and is stopped in turn; medians of the steps are printed.

    python benchmarks/contention.py [--sequences 1 8 32] [--schemes none nf4] [--tokens 48]
                                    [--rounds 3]

The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from adapterhub.backbones.backbone import load_backbone
from adapterhub.engine.engine import Engine
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKBONE = "smollm2-135m-instruct"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--schemes", nargs="+", default=["none", "nf4"])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    with busy_process() as neighbour:
        for scheme in options.schemes:
            engine = Engine(load_backbone(BACKBONE, QuantizationSpec(scheme)))
            for sequences in options.sequences:
                found = compare(engine, neighbour, sequences, options.tokens, options.rounds)
                results[f"{scheme}, {sequences} sequences"] = found
                print(f"{scheme}, {sequences} sequences: {found}", flush=True)
    print(json.dumps({"milliseconds_per_step": results}))


@contextmanager
def busy_process() -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that computes without end, stopped."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    process.send_signal(signal.SIGSTOP)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def compare(
    engine: Engine, neighbour: subprocess.Popen[bytes], sequences: int, tokens: int, rounds: int
) -> dict[str, float]:
    """Return median milliseconds of a step alone and beside the neighbour, and their ratio."""
    alone: list[float] = []
    beside: list[float] = []
    step_times(engine, sequences, tokens)  # warms up
    for _ in range(rounds):
        alone += step_times(engine, sequences, tokens)
        neighbour.send_signal(signal.SIGCONT)
        beside += step_times(engine, sequences, tokens)
        neighbour.send_signal(signal.SIGSTOP)
    quiet, shared = statistics.median(alone), statistics.median(beside)
    return {
        "alone": round(quiet, 1),
        "beside": round(shared, 1),
        "ratio": round(shared / quiet, 2),
        "ratio of means": round(statistics.mean(beside) / statistics.mean(alone), 2),
    }


def step_times(engine: Engine, sequences: int, tokens: int) -> list[float]:
    """Return milliseconds of each decoding step of new sequences."""
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    for _ in range(sequences):
        prompt = [random.randrange(100, 40000) for _ in range(32)]
        engine.add(prompt, None, params)
    times = []
    while engine.busy:
        started = time.perf_counter()
        engine.step()
        times.append((time.perf_counter() - started) * 1000)
    # the first steps read the prompts
    return times[-(tokens - 4) :]


if __name__ == "__main__":
    main()
