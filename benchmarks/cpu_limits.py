"""How far the CPU's products are from the limits of memory and arithmetic of this machine.

Usage: python benchmarks/cpu_limits.py [--tokens 1,8,32,512]

Measures how fast two threads, or one, read memory and add bfloat16 products, and prints for each
shape of SmolLM2-135M, MiniLM and mpnet-base the rate of the products in use, in bfloat16 and NF4,
and its share of the lower limit: the time that reading the weight or computing it takes alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from numba import prange
from torch import nn

from adapterhub.backbones.quantize import quantize_linears
from adapterhub.kernels import amx, simd
from adapterhub.kernels.choice import choose_linears
from adapterhub.kernels.numba_support import compiled
from adapterhub.specs import QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import Callable

#: Outputs and inputs of the layers.
SHAPES = {
    "SmolLM2 q, o": (576, 576),
    "SmolLM2 k, v": (192, 576),
    "SmolLM2 gate, up": (1536, 576),
    "SmolLM2 down": (576, 1536),
    "MiniLM q, k, v, o": (384, 384),
    "MiniLM intermediate": (1536, 384),
    "MiniLM output": (384, 1536),
    "mpnet q, k, v, o": (768, 768),
    "mpnet intermediate": (3072, 768),
    "mpnet output": (768, 3072),
}
#: Bytes of memory that are read, more than the caches of a core.
READ = 256 * 2**20
#: Instructions of a measurement of arithmetic.
ROUNDS = 400_000
#: Bytes of copies of a layer, so that its weight comes from memory as in a decoding step.
COPIES = 64 * 2**20


@compiled()
def _read(address: int, size: int) -> None:
    """Read four ranges at once, which more prefetchers serve than one."""
    first = second = third = fourth = simd.load_f32(address)
    part = size // 4
    for at in range(address, address + part, simd.VECTOR):
        first = simd.add(first, simd.load_f32(at))
        second = simd.add(second, simd.load_f32(at + part))
        third = simd.add(third, simd.load_f32(at + 2 * part))
        fourth = simd.add(fourth, simd.load_f32(at + 3 * part))
    simd.store(address, simd.add(simd.add(first, second), simd.add(third, fourth)))


@compiled(parallel=True)
def read(address: int, size: int, threads: int) -> None:
    """Read memory in as many ranges as threads."""
    for index in prange(threads):
        _read(address + np.int64(index) * size, size)


@compiled()
def _add_vectors(address: int, rounds: int) -> None:
    sums, more = simd.zeros(8), simd.zeros(8)
    weights, others = simd.load_bf16(address), simd.load_bf16(address + simd.VECTOR)
    for _ in range(0, rounds, 16):
        sums = simd.add_products(sums, weights, address, 4)
        more = simd.add_products(more, others, address, 4)
    simd.store_sums(sums, more, simd.zeros(1)[0], address + 2048, simd.VECTOR)


@compiled(parallel=True)
def add_vectors(address: int, rounds: int, threads: int) -> None:
    """Run ``vdpbf16ps`` on registers in each thread."""
    for index in prange(threads):
        _add_vectors(address + 4096 * np.int64(index), rounds)


@compiled()
def _multiply_tiles(address: int, rounds: int) -> None:
    amx.configure_rows(16, 16)
    for _ in range(0, rounds, 4):
        amx.multiply(0, 4, 6)
        amx.multiply(1, 4, 7)
        amx.multiply(2, 5, 6)
        amx.multiply(3, 5, 7)
    amx.release()


@compiled(parallel=True)
def multiply_tiles(address: int, rounds: int, threads: int) -> None:
    """Run ``tdpbf16ps`` on tiles in each thread."""
    for index in prange(threads):
        _multiply_tiles(address + 4096 * np.int64(index), rounds)


def seconds(run: Callable[[], Any], repeats: int = 9) -> float:
    """Return the median duration of a call."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def limits(threads: int) -> tuple[float, float]:
    """Print the limits of a number of threads; return bytes and operations per second."""
    memory = torch.ones(READ // 4)
    size = READ // threads // 256 * 256
    rate = threads * size / seconds(lambda: read(memory.data_ptr(), size, threads))
    print(f"{threads} threads: memory {rate / 1e9:.1f} GB/s", end="")
    work = torch.rand(4096 * threads, dtype=torch.bfloat16)
    taken = seconds(lambda: add_vectors(work.data_ptr(), ROUNDS, threads))
    best = threads * ROUNDS * 64 / taken
    print(f", vdpbf16ps {best / 1e12:.2f} TFLOP/s", end="")
    if amx.has_amx():
        taken = seconds(lambda: multiply_tiles(work.data_ptr(), ROUNDS, threads))
        best = threads * ROUNDS * 2 * 16 * 16 * 32 / taken
        print(f", AMX {best / 1e12:.2f} TFLOP/s", end="")
    print()
    return rate, best


def layers(outputs: int, inputs: int, scheme: str) -> list[nn.Module]:
    """Return as many packed layers of a shape as fill ``COPIES`` bytes in bfloat16."""
    count = max(COPIES // (2 * outputs * inputs), 1)
    model = nn.Sequential(
        *(nn.Linear(inputs, outputs, bias=False, dtype=torch.bfloat16) for _ in range(count))
    )
    quantize_linears(model, QuantizationSpec(scheme, "bfloat16"), torch.device("cpu"))
    return choose_linears(list(model))


def print_products(scheme: str, tokens: list[int], rate: float, best: float) -> None:
    """Print the rates of the products with a weight, each read from memory."""
    weight_bytes = {"none": 2.0, "nf4": 0.5 + 4 / 64}[scheme]
    for name, (outputs, inputs) in SHAPES.items():
        chosen, line = layers(outputs, inputs, scheme), ""
        for count in tokens:
            x = torch.randn(count, inputs, dtype=torch.bfloat16)

            def run(x: torch.Tensor = x, chosen: list[nn.Module] = chosen) -> None:
                for layer in chosen:
                    layer(x)

            taken = seconds(run, 5) / len(chosen)
            read_bytes = weight_bytes * outputs * inputs
            work = 2 * count * outputs * inputs
            share = max(read_bytes / rate, work / best) / taken
            line += f" | {read_bytes / taken / 1e9:5.1f} {work / taken / 1e12:5.2f} {share:4.0%}"
        print(f"{name:20}{outputs:5} x {inputs:<5}{line}")


def main() -> None:
    """Print the limits and the rates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--tokens", default="1,8,32,512")
    tokens = [int(each) for each in parser.parse_args().tokens.split(",")]
    torch.set_grad_enabled(False)
    threads = numba.get_num_threads()
    found = {each: limits(each) for each in sorted({1, threads})}
    for scheme in ("none", "nf4"):
        print(f"\n{scheme}: GB/s of weights, TFLOP/s, share of the limit | for tokens {tokens}")
        print_products(scheme, tokens, *found[threads])


if __name__ == "__main__":
    main()
