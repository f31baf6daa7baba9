import pytest
import torch


def pytest_itemcollected(item):
    """On a machine with a GPU these are tests of the GPU."""
    if torch.cuda.is_available():
        item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device():
    """The GPU where there is one, else the CPU and Triton's interpreter."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
