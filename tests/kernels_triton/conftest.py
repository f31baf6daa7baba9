import pytest
import torch


@pytest.fixture
def device():
    """The GPU where there is one, else the CPU and Triton's interpreter."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
