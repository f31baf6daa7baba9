"""Triton's programs run on the GPU where there is one, else under Triton's interpreter.

The interpreter has to be asked for before triton is imported, which nothing else here does.
"""

import importlib.util
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pytest_ignore_collect(collection_path):
    return None


if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]
