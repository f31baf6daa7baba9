"""What all tests share: how Triton's programs run, and which tests have the machine to themselves.

Triton's programs run on the GPU where there is one, else under Triton's interpreter. It must be
asked for before anything imports triton, and transformers does.
"""

import os
from pathlib import Path

import hypothesis
import pytest
import torch

# tests share the machine, so a deadline would measure the others
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

#: Parameters of tests that run on the CPU and, where there is one, on a GPU.
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
        ],
    ),
]


@pytest.fixture(scope="session", params=DEVICES)
def compute_device(request):
    """The device that a test computes on, by torch's name."""
    return request.param


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Where several processes run tests, hold the others back while one measures time."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock

    shared = Path(item.config.option.basetemp).parent
    mode = LOCK_EX if item.get_closest_marker("alone") else LOCK_SH
    with open(shared / "door", "w") as door, open(shared / "room", "w") as room:
        # who waits to be alone keeps the door, so that nobody slips in
        flock(door, LOCK_EX)
        flock(room, mode)
        flock(door, LOCK_UN)
        return (yield)
