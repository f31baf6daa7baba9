"""4-bit layers in float32 on CPUs: weights bit by bit, products up to rounding."""

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from torch import nn
from torch.nn import functional as F

from adapterhub.backbones.quantize import quantize_linears
from adapterhub.kernels.linear.cpu import MAX_TOKENS, CpuLinear4bit
from adapterhub.specs import QuantizationSpec

CPU = torch.device("cpu")


def four_bit(outputs, inputs, *, scheme="nf4", compute="float32", bias=True):
    torch.manual_seed(outputs + inputs)
    model = nn.Sequential(nn.Linear(inputs, outputs, bias=bias))
    quantize_linears(model, QuantizationSpec(scheme, compute), CPU)
    return model[0].eval()


@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", [(48, 64), (33, 192), (1, 128)])
def test_weights_equal_those_that_bitsandbytes_dequantizes(scheme, shape):
    layer = four_bit(*shape, scheme=scheme)
    expected = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert torch.equal(CpuLinear4bit(layer).dense(), expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [1, 2, MAX_TOKENS, MAX_TOKENS + 1, 40])
def test_products_equal_those_of_the_dequantized_weights(tokens, bias):
    layer = four_bit(96, 192, bias=bias)
    packed = CpuLinear4bit(layer)
    # every other column of a wider tensor, so that tokens are not contiguous
    x = torch.randn(tokens, 384)[:, ::2]
    with torch.no_grad():
        expected = F.linear(x, packed.dense(), layer.bias)
        assert torch.allclose(packed(x), expected, atol=1e-5)
        assert torch.allclose(packed(x.view(1, tokens, 192)), expected.unsqueeze(0), atol=1e-5)


def test_unpack_returns_the_unchanged_layer():
    layer = four_bit(96, 192)
    codes = layer.weight.data.clone()
    packed = CpuLinear4bit(layer)
    with torch.no_grad():
        packed(torch.randn(3, 192))
    assert packed.unpack() is layer
    assert torch.equal(layer.weight.data, codes)


def test_gradients_reach_the_input():
    packed = CpuLinear4bit(four_bit(96, 192))
    x = torch.randn(2, 192, requires_grad=True)
    packed(x).sum().backward()
    assert torch.allclose(x.grad, packed.dense().sum(0).expand(2, -1), atol=1e-4)


def test_other_layers_are_not_supported():
    assert CpuLinear4bit.supports(four_bit(48, 64))
    assert not CpuLinear4bit.supports(four_bit(48, 96))
    assert not CpuLinear4bit.supports(four_bit(48, 64, compute="bfloat16"))
    assert not CpuLinear4bit.supports(nn.Linear(64, 48))
