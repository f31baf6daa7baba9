"""Packed layers compute the same and restore their layer bit by bit."""

import pytest
import torch
from bitsandbytes import functional
from torch import nn

from adapterhub.backbones.memory import state_digest
from adapterhub.backbones.quantize import quantize_linears
from adapterhub.kernels.linear.cpu import MAX_AVX512_TOKENS, Avx512Linear4bit, OneDnnLinear
from adapterhub.specs import QuantizationSpec

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


@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
@pytest.mark.parametrize("tokens", [1, 5, 32, 70])
def test_avx512_linear_4bit_computes_the_same(scheme, tokens):
    if not functional.has_avx512bf16():
        pytest.skip("this CPU has no bfloat16 product")
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(128, 96, dtype=torch.bfloat16))
    quantize_linears(model, QuantizationSpec(scheme, "bfloat16"), torch.device("cpu"))
    (layer,) = model
    x = torch.randn(1, tokens, 128, dtype=torch.bfloat16)
    expected, before = layer(x), state_digest(model)
    assert Avx512Linear4bit.supports(layer)
    packed = Avx512Linear4bit(layer)
    found = packed(x)
    assert found.shape == expected.shape
    bound = 0.02 * expected.float().abs().max()
    assert (found.float() - expected.float()).abs().max() <= bound
    # the state still has its own scales; the layer is without codes until it is restored
    codes = packed.unpack().weight.data.clone()
    own = functional.dequantize_4bit(codes, layer.weight.quant_state)
    assert torch.equal(packed.dense(), own)
    if tokens > MAX_AVX512_TOKENS:
        assert torch.equal(found, nn.functional.linear(x, own, layer.bias))
    assert packed.unpack() is layer
    assert state_digest(model) == before
    assert torch.equal(layer(x), expected)
