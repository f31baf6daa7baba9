"""Every kernel compiles for NVIDIA GPUs, which needs no GPU."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed")

NAMES = [
    "shrink_kernel",
    "expand_kernel",
    "multiply_kernel",
    "reduce_kernel",
    "attend_kernel",
    "reduce_kernel",
]
SCRIPT = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from adapterhub.kernels.attention import triton as attention
from adapterhub.kernels.linear import triton as four_bit
from adapterhub.kernels.lora import triton as lora

NUMBERS = {"scale": "fp32"}
POINTERS = {
    "codes": "*u8", "scales": "*fp32", "book": "*fp32", "sums": "*fp32", "inner": "*fp32",
    "partial": "*fp32", "maxima": "*fp32", "group": "*i32", "tables": "*i32", "pages": "*i32",
    "offsets": "*i32", "contexts": "*i32",
}
VALUES = {"x", "a", "b", "y", "bias", "query", "keys", "values", "out"}
dtype, architecture = sys.argv[1], int(sys.argv[2])
precision = "ieee" if dtype == "fp32" else "tf32"
PRODUCT = {"WIDE": False, "PRECISION": precision}
KERNELS = [
    (lora.shrink_kernel, dict(TOKENS=16, RANKS=16, STEP=64, STEPS=16, **PRODUCT)),
    (lora.expand_kernel, dict(TOKENS=16, RANKS=16, OUT=128, RANGES=4, PRECISION=precision)),
    (four_bit.multiply_kernel, dict(TOKENS=32, OUT=64, BLOCK=64, STEP=64, **PRODUCT)),
    (four_bit.reduce_kernel, dict(SIZE=1024, BIASED=True)),
    (attention.attend_kernel, dict(WIDTH=128, GROUP=4, HEADS=16, PAGE=16, POSITIONS=32, RANGES=8,
                            **PRODUCT)),
    (attention.reduce_kernel, dict(WIDTH=128, RANGES=8)),
]
for kernel, constants in KERNELS:
    kinds = {}
    for name in kernel.arg_names:
        kind = f"*{dtype}" if name in VALUES else POINTERS.get(name, NUMBERS.get(name, "i32"))
        kinds[name] = "constexpr" if name in constants else kind
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(ASTSource(kernel, kinds, constants), target=target)
    assert compiled.asm["cubin"]
    print(kernel.__name__, compiled.metadata.shared, "mma" in compiled.asm["ptx"])
"""


@pytest.mark.parametrize(("dtype", "architecture"), [("bf16", 80), ("bf16", 90), ("fp32", 80)])
def test_kernels_compile(dtype, architecture, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, dtype, str(architecture)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, *_ in lines] == NAMES
    # a block of any NVIDIA GPU since 2020 may have 99 KiB
    assert max(int(shared) for _, shared, _ in lines) <= 99 * 1024
    if dtype == "bf16":
        products = {name for name, _, tensor_cores in lines if tensor_cores == "True"}
        assert products == set(NAMES) - {"reduce_kernel"}
