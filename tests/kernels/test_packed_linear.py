"""A packed layer computes the same and gives its weight back to the bit."""

import pytest
import torch
from bitsandbytes import functional
from torch import nn

from adapterhub.backbones.memory import state_digest
from adapterhub.backbones.quantize import quantize_linears
from adapterhub.kernels.linear.avx512_four_bit import Avx512Linear4bit
from adapterhub.kernels.linear.onednn import OneDnnLinear
from adapterhub.specs import QuantizationSpec

BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 32, 100])
def test_it_computes_what_the_layer_computes(dtype, bias, rows):
    torch.manual_seed(1)
    linear = nn.Linear(96, 160, bias=bias, dtype=dtype)
    if not OneDnnLinear.supports(linear):
        pytest.skip("this CPU has no product in bfloat16")
    x = torch.randn(1, rows, 96, dtype=dtype)
    expected, weight = linear(x), linear.weight.detach().clone()
    packed = OneDnnLinear(linear)
    assert not linear.weight.numel()
    found = packed(x)
    assert found.shape == expected.shape
    assert torch.allclose(found.float(), expected.float(), rtol=BOUND[dtype], atol=BOUND[dtype])
    assert packed.unpack() is linear
    assert torch.equal(linear.weight, weight)


def test_only_plain_layers_are_packed():
    assert OneDnnLinear.supports(nn.Linear(8, 8))
    assert not OneDnnLinear.supports(nn.Linear(8, 8, dtype=torch.float64))
    assert not OneDnnLinear.supports(nn.LayerNorm(8))


@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
@pytest.mark.parametrize("rows", [1, 5, 32, 70])
def test_a_packed_four_bit_layer_computes_what_the_layer_computes(scheme, rows):
    if not functional.has_avx512bf16():
        pytest.skip("this CPU has no product in bfloat16")
    torch.manual_seed(1)
    body = nn.Sequential(nn.Linear(128, 96, dtype=torch.bfloat16))
    quantize_linears(body, QuantizationSpec(scheme, "bfloat16"), torch.device("cpu"))
    (layer,) = body
    x = torch.randn(1, rows, 128, dtype=torch.bfloat16)
    expected, before = layer(x), state_digest(body)
    assert Avx512Linear4bit.supports(layer)
    packed = Avx512Linear4bit(layer)
    found = packed(x)
    assert found.shape == expected.shape
    bound = 0.02 * expected.float().abs().max()
    assert (found.float() - expected.float()).abs().max() <= bound
    assert packed.unpack() is layer
    assert state_digest(body) == before
    assert torch.equal(layer(x), expected)
