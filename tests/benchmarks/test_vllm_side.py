"""The vLLM side of the benchmarks, with a fake ``vllm`` package in the process that it starts."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FAKE = """
import types
print("output of vllm itself")


class SamplingParams(types.SimpleNamespace):
    pass


class LLM:
    def __init__(self, model, **options):
        if model == "broken":
            raise ValueError("no such model")
        self.options = options

    def generate(self, prompts, sampling, use_tqdm, lora_request=None):
        assert sampling.temperature == 0 and sampling.ignore_eos
        assert not self.options["enable_prefix_caching"]
        numbers = [each.number if each else 0 for each in lora_request or [None] * len(prompts)]
        assert sampling.max_tokens == 3
        length = 3 - (prompts[0]["prompt_token_ids"] == [13])
        sequences = [
            [sum(prompt["prompt_token_ids"]), number, self.options.get("max_loras", 0)]
            for prompt, number in zip(prompts, numbers)
        ]
        new = types.SimpleNamespace
        return [new(outputs=[new(token_ids=each[:length])]) for each in sequences]
"""
FAKE_REQUEST = """
class LoRARequest:
    def __init__(self, name, number, folder):
        assert folder and number >= 1
        self.number = number
"""


@pytest.fixture
def vllm_side(tmp_path, monkeypatch):
    package = tmp_path / "vllm"
    (package / "lora").mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE)
    (package / "lora" / "__init__.py").write_text("")
    (package / "lora" / "request.py").write_text(FAKE_REQUEST)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    spec = importlib.util.spec_from_file_location("vllm_side", BENCHMARKS / "vllm_side.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(module, model="model", max_loras=4):
    return module.VllmSide(
        sys.executable,
        model,
        dtype="float32",
        max_num_seqs=4,
        max_model_len=64,
        max_loras=max_loras,
        max_lora_rank=16,
        threads=1,
    )


def state(side):
    """Return the state of the process in Linux: T if it is stopped."""
    for _ in range(100):
        letter = Path(f"/proc/{side._process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if letter == "T":
            break
        time.sleep(0.01)
    return letter


def test_sequences_keep_their_adapters_from_one_run_to_the_next(vllm_side):
    with start(vllm_side) as side:
        seconds, tokens = side.run([[1, 2], [3, 4], [5, 6]], ["/a", None, "/b"], 3)
        assert tokens == [[3, 1, 4], [7, 0, 4], [11, 2, 4]]
        assert 0 < seconds < 10
        _, tokens = side.run([[1], [2]], ["/b", "/a"], 3)
        assert tokens == [[1, 2, 4], [2, 1, 4]]


def test_lora_is_disabled_without_adapters(vllm_side):
    with start(vllm_side, max_loras=0) as side:
        assert side.run([[1, 2]], [None], 3)[1] == [[3, 0, 0]]


def test_the_process_is_stopped_outside_of_run(vllm_side):
    with start(vllm_side) as side:
        assert state(side) == "T"
        side.run([[1]], [None], 3)
        assert state(side) == "T"
    assert side._process.returncode == 0
    side.close()


def test_a_sequence_that_ends_early_is_an_error(vllm_side):
    with (
        start(vllm_side) as side,
        pytest.raises(RuntimeError, match="expected 1 sequences of 3 tokens"),
    ):
        side.run([[13]], [None], 3)


def test_a_process_that_cannot_load_is_an_error(vllm_side):
    with pytest.raises(RuntimeError, match="ended with 1"):
        start(vllm_side, model="broken")


def test_environment_variables_that_are_set_keep_their_values(vllm_side, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    found = vllm_side.environment(1)
    assert found["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert found["OMP_NUM_THREADS"] == "1"
