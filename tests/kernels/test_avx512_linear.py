"""Packed layers for AVX-512 BF16 compute the same and restore their layer bit by bit."""

import numba
import numpy as np
import pytest
import torch
from bitsandbytes import functional
from torch import nn
from torch.nn import functional as F

from adapterhub.backbones.memory import state_digest
from adapterhub.backbones.quantize import quantize_linears
from adapterhub.kernels.amx import has_amx
from adapterhub.kernels.linear import fields, products
from adapterhub.kernels.linear.avx512 import AmxRows, Avx512Linear, Avx512Linear4bit
from adapterhub.kernels.simd import has_avx512_bf16
from adapterhub.specs import QuantizationSpec

needs_avx512 = pytest.mark.skipif(not has_avx512_bf16(), reason="this CPU has no AVX-512 BF16")
needs_tiles = pytest.mark.skipif(not has_amx(), reason="this CPU has no matrix tiles")
TOKENS = [1, 2, 3, 7, 8, 16, 17, 33, 600]
SHAPES = [(16, 64), (48, 192), (96, 1536)]


def packed_layer(scheme, outputs, inputs, bias=True):
    """Return a packed layer and the weight that it stands for."""
    torch.manual_seed(outputs)
    model = nn.Sequential(nn.Linear(inputs, outputs, bias=bias, dtype=torch.bfloat16))
    if scheme == "none":
        weight = model[0].weight.detach().clone()
        return Avx512Linear(model[0]), weight
    quantize_linears(model, QuantizationSpec(scheme, "bfloat16"), torch.device("cpu"))
    (layer,) = model
    weight = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return Avx512Linear4bit(layer), weight


def reference(x, weight, bias):
    return F.linear(x.double(), weight.double(), None if bias is None else bias.double())


def assert_rounded(found, expected):
    """Assert that results are a float32 sum that is rounded once."""
    assert found.shape == expected.shape
    slack = 2.0**-8 * expected.abs() + 1e-5 * expected.abs().max()
    assert bool(((found.double() - expected).abs() <= slack).all())


@needs_avx512
@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("scheme", ["none", "nf4", "fp4"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_computes_the_same(tiles, scheme, bias, outputs, inputs):
    layer, weight = packed_layer(scheme, outputs, inputs, bias)
    layer.description[fields.TILES] &= tiles
    for tokens in TOKENS:
        x = torch.randn(1, tokens, inputs, dtype=torch.bfloat16)
        assert_rounded(layer(x), reference(x, weight, layer.bias))
    assert torch.equal(layer.dense(), weight)


@needs_tiles
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_weight_that_is_not_packed_computes_the_same(bias, outputs, inputs):
    linear = nn.Linear(inputs, outputs, bias=bias, dtype=torch.bfloat16)
    layer = AmxRows(linear)
    for tokens in TOKENS:
        x = torch.randn(tokens, inputs, dtype=torch.bfloat16)
        assert_rounded(layer(x), reference(x, linear.weight, linear.bias))
    assert layer.unpack() is linear
    assert layer.dense().data_ptr() == linear.weight.data_ptr()


@needs_avx512
@pytest.mark.parametrize("scheme", ["none", "nf4"])
def test_a_range_of_groups_writes_its_outputs_alone(scheme):
    layer, weight = packed_layer(scheme, 96, 128)
    x = torch.randn(5, 128, dtype=torch.bfloat16)
    y = torch.full((5, 100), 7.0, dtype=torch.bfloat16)
    products.multiply_groups(x.data_ptr(), 5, layer.description, y.data_ptr(), 100, 2, 5)
    assert_rounded(y[:, 32:80], reference(x, weight, layer.bias)[:, 32:80])
    assert bool((y[:, :32] == 7).all())
    assert bool((y[:, 80:] == 7).all())


@needs_avx512
@pytest.mark.parametrize("scheme", ["none", "nf4", "fp4"])
def test_restores_the_layer_bit_by_bit(scheme):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 96, dtype=torch.bfloat16))
    quantize_linears(model, QuantizationSpec(scheme, "bfloat16"), torch.device("cpu"))
    before = state_digest(model)
    packed = (Avx512Linear if scheme == "none" else Avx512Linear4bit)(model[0])
    assert not model[0].weight.numel()
    assert packed.unpack() is model[0]
    assert state_digest(model) == before
    x = torch.randn(3, 128, dtype=torch.bfloat16)
    assert_rounded(model(x), packed(x).double())


@needs_avx512
def test_passes_gradients():
    layer, weight = packed_layer("nf4", 48, 128)
    x = torch.randn(3, 128, dtype=torch.bfloat16, requires_grad=True)
    layer(x).sum().backward()
    assert torch.allclose(x.grad[0].float(), weight.float().sum(0), rtol=0.02, atol=0.02)


@needs_avx512
def test_supports_whole_groups_of_plain_layers():
    def of(inputs, outputs, dtype=torch.bfloat16):
        return nn.Linear(inputs, outputs, dtype=dtype)

    assert Avx512Linear.supports(of(64, 48))
    assert not Avx512Linear.supports(of(48, 48))
    assert not Avx512Linear.supports(of(64, 40))
    assert not Avx512Linear.supports(of(64, 48, torch.float32))
    assert not Avx512Linear4bit.supports(of(64, 48))


@needs_avx512
def test_a_compiled_function_calls_it_for_a_share_of_the_groups():
    layer, weight = packed_layer("nf4", 64, 128)
    x = torch.randn(2, 128, dtype=torch.bfloat16)
    y = torch.empty(2, 64, dtype=torch.bfloat16)

    @numba.njit
    def two_shares(x, description, y):
        for share in range(2):
            products.multiply_groups(x, 2, description, y, 64, 2 * share, 2 * share + 2)

    two_shares(x.data_ptr(), np.asarray(layer.description), y.data_ptr())
    assert_rounded(y, reference(x, weight, layer.bias))
