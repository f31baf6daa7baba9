"""The benchmark of decoding on a GPU runs to its last line, wherever it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu_decode.py"


def last_line(*options):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[0], json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which takes minutes")
def test_without_a_gpu_it_says_so():
    first, found = last_line()
    assert "no GPU" in first
    assert found == {"gpu": None}


def test_it_runs_on_a_tiny_shape():
    options = ["--tiny", "--rows", "2", "--adapters", "0", "2", "--tokens", "4", "--rounds", "1"]
    _, found = last_line(*options)
    assert set(found["tokens_per_second"]) == {"2 rows, 0 adapters", "2 rows, 2 adapters"}
    assert all(speed["eager"] > 0 for speed in found["tokens_per_second"].values())
    assert len(found["four_bit_us"]) == 4
    assert found["shape"] == "tiny"
