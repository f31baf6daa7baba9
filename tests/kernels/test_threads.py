"""The numba kernels use as many threads as torch and compute the same with several."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(*command, threads):
    own = ("PYTEST_", "NUMBA_NUM_THREADS")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=HERE.parents[1],
        env={**environment, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_numba_uses_as_many_threads_as_torch():
    code = (
        "import adapterhub.kernels.lora.cpu, numba, torch\n"
        "print(numba.config.NUMBA_NUM_THREADS, torch.get_num_threads())\n"
    )
    assert run("-c", code, threads=1).stdout.strip() == "1 1"


@pytest.mark.alone
def test_results_are_the_same_with_several_threads():
    names = ("cpu_linear_4bit", "lora", "paged_attention")
    engine = HERE.parent / "engine" / "test_engine.py"
    tests = [
        *(HERE / f"test_{name}.py" for name in names),
        f"{engine}::test_preempted_sequences_and_evicted_adapters_lose_nothing",
    ]
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, threads=2)
    assert done.returncode == 0, done.stdout
