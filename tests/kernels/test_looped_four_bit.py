"""4-bit layers in float32 on any CPU: the weights to the bit, the products to rounding."""

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from torch import nn
from torch.nn import functional as F

from adapterhub.backbones.quantize import quantize_linears
from adapterhub.kernels.linear.cpu_four_bit import MAX_TOKENS, CpuLinear4bit
from adapterhub.specs import QuantizationSpec

CPU = torch.device("cpu")


def four_bit(outputs, inputs, *, scheme="nf4", compute="float32", bias=True):
    torch.manual_seed(outputs + inputs)
    body = nn.Sequential(nn.Linear(inputs, outputs, bias=bias))
    quantize_linears(body, QuantizationSpec(scheme, compute), CPU)
    return body[0].eval()


@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", [(48, 64), (33, 192), (1, 128)])
def test_weights_are_to_the_bit_as_bitsandbytes_expands_them(scheme, shape):
    layer = four_bit(*shape, scheme=scheme)
    expected = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert torch.equal(CpuLinear4bit(layer).dense(), expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, MAX_TOKENS, MAX_TOKENS + 1, 40])
def test_products_are_those_of_the_expanded_weights(rows, bias):
    layer = four_bit(96, 192, bias=bias)
    looped = CpuLinear4bit(layer)
    # every other column of a wider tensor, so that rows are not contiguous
    x = torch.randn(rows, 384)[:, ::2]
    with torch.no_grad():
        expected = F.linear(x, looped.dense(), layer.bias)
        assert torch.allclose(looped(x), expected, atol=1e-5)
        assert torch.allclose(looped(x.view(1, rows, 192)), expected.unsqueeze(0), atol=1e-5)


def test_the_layer_is_given_back_as_it_was():
    layer = four_bit(96, 192)
    codes = layer.weight.data.clone()
    looped = CpuLinear4bit(layer)
    with torch.no_grad():
        looped(torch.randn(3, 192))
    assert looped.unpack() is layer
    assert torch.equal(layer.weight.data, codes)


def test_gradients_reach_the_input():
    looped = CpuLinear4bit(four_bit(96, 192))
    x = torch.randn(2, 192, requires_grad=True)
    looped(x).sum().backward()
    assert torch.allclose(x.grad, looped.dense().sum(0).expand(2, -1), atol=1e-4)


def test_what_it_does_not_compute_is_left_alone():
    assert CpuLinear4bit.supports(four_bit(48, 64))
    assert not CpuLinear4bit.supports(four_bit(48, 96))
    assert not CpuLinear4bit.supports(four_bit(48, 64, compute="bfloat16"))
    assert not CpuLinear4bit.supports(nn.Linear(64, 48))
