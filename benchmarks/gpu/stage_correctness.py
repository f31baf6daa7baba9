"""Correctness on the device: the tests marked ``gpu``, each recorded as it ends.

With ``--device cpu`` the same tests run on the CPU; ``--tiny`` takes one of each kind.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from stage import StageOptions, stage_options

ROOT = Path(__file__).parents[2]
#: Everything that has a variant on CUDA.
PATHS = (
    "tests/kernels_triton",
    "tests/engine/test_cuda_graphs.py",
    "tests/engine/test_parity.py",
    "tests/engine/test_proof.py",
    "tests/training/test_cuda_training.py",
)
#: Quick tests for rehearsals. Triton programs are compiled for CUDA, which needs no GPU; older
#: interpreters of Triton cannot run them.
TINY = "test_parity or test_triton_compiles or what_has_no_room"
#: Test processes beside each other; each compiles Triton programs on a core of its own.
MAX_WORKERS = 8


class Recorder:
    """pytest plugin that records every test as it ends."""

    def __init__(self, options: StageOptions) -> None:
        self._options = options

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the outcome of a test's call, or of its setup where that did not pass."""
        if report.when != "call" and (report.when != "setup" or report.passed):
            return
        values: dict[str, object] = {
            "outcome": report.outcome,
            "seconds": round(report.duration, 2),
        }
        if report.failed:
            values |= {"passed": False, "error": str(report.longrepr)[-1500:]}
        if report.skipped:
            values["reason"] = str(report.longrepr)[-200:]
        self._options.record(report.nodeid, **values)


def main() -> None:
    """Run the tests; exit with pytest's code."""
    options = stage_options()
    os.environ["ADAPTERHUB_TEST_DEVICE"] = options.device.type
    arguments = [str(ROOT / path) for path in PATHS]
    arguments += ["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    if options.device.type == "cuda":
        workers = min(MAX_WORKERS, (os.cpu_count() or 2) // 2)
        arguments += ["-m", "gpu", "-n", str(workers), "--dist", "worksteal"]
    if options.tiny:
        arguments += ["-k", TINY]
    raise SystemExit(pytest.main(arguments, plugins=[Recorder(options)]))


if __name__ == "__main__":
    main()
