"""Every program compiles for NVIDIA GPUs, which needs no GPU."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed")

NAMES = ["shrink", "expand", "multiply", "finish", "attend", "join"]
SCRIPT = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from adapterhub.kernels.triton.code import attention, four_bit, lora

NUMBERS = {"scale": "fp32"}
POINTERS = {
    "codes": "*u8", "scales": "*fp32", "book": "*fp32", "sums": "*fp32", "inner": "*fp32",
    "partial": "*fp32", "maxima": "*fp32", "group": "*i32", "tables": "*i32", "pages": "*i32",
    "firsts": "*i32", "contexts": "*i32",
}
VALUES = {"x", "a", "b", "y", "bias", "query", "keys", "values", "out"}
dtype, architecture = sys.argv[1], int(sys.argv[2])
precision = "ieee" if dtype == "fp32" else "tf32"
PRODUCT = {"WIDE": False, "PRECISION": precision}
PROGRAMS = [
    (lora.shrink, dict(TOKENS=16, RANKS=16, STEP=64, STEPS=16, **PRODUCT)),
    (lora.expand, dict(TOKENS=16, RANKS=16, OUT=128, RANGES=4, PRECISION=precision)),
    (four_bit.multiply, dict(ROWS=32, OUT=64, BLOCK=64, STEP=64, **PRODUCT)),
    (four_bit.finish, dict(SIZE=1024, BIASED=True)),
    (attention.attend, dict(WIDTH=128, GROUP=4, HEADS=16, PAGE=16, POSITIONS=32, RANGES=8,
                            **PRODUCT)),
    (attention.join, dict(WIDTH=128, RANGES=8)),
]
for program, constants in PROGRAMS:
    kinds = {}
    for name in program.arg_names:
        kind = f"*{dtype}" if name in VALUES else POINTERS.get(name, NUMBERS.get(name, "i32"))
        kinds[name] = "constexpr" if name in constants else kind
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(ASTSource(program, kinds, constants), target=target)
    assert compiled.asm["cubin"]
    print(program.__name__, compiled.metadata.shared, "mma" in compiled.asm["ptx"])
"""


@pytest.mark.parametrize(("dtype", "architecture"), [("bf16", 80), ("bf16", 90), ("fp32", 80)])
def test_programs_compile(dtype, architecture, tmp_path):
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
    assert [name for name, *_ in lines] == [
        "shrink",
        "expand",
        "multiply",
        "finish",
        "attend",
        "join",
    ]
    # a block of any NVIDIA GPU since 2020 may have 99 KiB
    assert max(int(shared) for _, shared, _ in lines) <= 99 * 1024
    if dtype == "bf16":
        products = {name for name, _, tensor_cores in lines if tensor_cores == "True"}
        assert products == {"shrink", "expand", "multiply", "attend"}
