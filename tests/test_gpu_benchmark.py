"""The benchmark of decoding on a GPU runs to its last line, wherever it is."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu_decode.py"


@pytest.fixture
def last_line(monkeypatch, capsys):
    """Return a function that runs the script and gives its first line, and its last one's JSON."""

    def run(*options):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        lines = capsys.readouterr().out.splitlines()
        return lines[0], json.loads(lines[-1])

    return run


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which takes minutes")
def test_without_a_gpu_it_says_so(last_line):
    first, found = last_line()
    assert "no GPU" in first
    assert found == {"gpu": None}


def test_it_runs_on_a_tiny_shape(last_line):
    options = ["--tiny", "--rows", "2", "--adapters", "0", "2", "--tokens", "4", "--rounds", "1"]
    _, found = last_line(*options)
    assert set(found["tokens_per_second"]) == {"2 rows, 0 adapters", "2 rows, 2 adapters"}
    assert all(speed["eager"] > 0 for speed in found["tokens_per_second"].values())
    assert len(found["four_bit_us"]) == 4
    assert found["shape"] == "tiny"
