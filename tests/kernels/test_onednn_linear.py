"""oneDNN layers compute the same and restore their layer bit by bit."""

import pytest
import torch
from torch import nn

from adapterhub.kernels.linear.cpu import OneDnnLinear

BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [1, 3, 32, 100])
def test_onednn_linear_computes_the_same(dtype, bias, tokens):
    torch.manual_seed(1)
    linear = nn.Linear(96, 160, bias=bias, dtype=dtype)
    if not OneDnnLinear.supports(linear):
        pytest.skip("this CPU has no bfloat16 product")
    x = torch.randn(1, tokens, 96, dtype=dtype)
    expected, weight = linear(x), linear.weight.detach().clone()
    packed = OneDnnLinear(linear)
    assert not linear.weight.numel()
    found = packed(x)
    assert found.shape == expected.shape
    assert torch.allclose(found.float(), expected.float(), rtol=BOUND[dtype], atol=BOUND[dtype])
    assert packed.unpack() is linear
    assert torch.equal(linear.weight, weight)


def test_onednn_supports_only_plain_layers():
    assert OneDnnLinear.supports(nn.Linear(8, 8))
    assert not OneDnnLinear.supports(nn.Linear(8, 8, dtype=torch.float64))
    assert not OneDnnLinear.supports(nn.LayerNorm(8))
