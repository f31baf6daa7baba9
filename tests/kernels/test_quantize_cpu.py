"""Quantization to 4 bits on CPUs equals that of bitsandbytes bit by bit."""

from __future__ import annotations

import math

import bitsandbytes as bnb
import pytest
import torch

from adapterhub.backbones.quantize import quantize_linears
from adapterhub.kernels.quantize_cpu import quantize_4bit
from adapterhub.specs import QuantizationSpec


def _weight(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.05
    weight[0, :64] = 0
    # a divisor below the smallest one, and a block of one sign
    weight[1, :64] = 0
    weight[1, 3] = 1e-40
    weight[2] = weight[2].abs() + 1e-3
    return weight.to(dtype)


@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(64, 192), (5, 64), (3, 128)])
def test_codes_and_scales_are_those_of_bitsandbytes(
    scheme: str, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    weight = _weight(dtype, *shape)
    expected, state = bnb.functional.quantize_4bit(weight, blocksize=64, quant_type=scheme)
    found = quantize_4bit(weight, state.code, 64)
    assert found is not None
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], state.absmax)


def test_values_on_a_bound_get_the_code_of_bitsandbytes() -> None:
    values = bnb.functional.get_4bit_type("nf4", device="cpu")
    weight = torch.ones(16, 64)
    weight[:, 1:16] = (values[:-1] + values[1:]) / 2
    weight[:, 16:32] = values
    expected, _ = bnb.functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    found = quantize_4bit(weight, values, 64)
    assert found is not None
    assert torch.equal(found[0], expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_left_to_bitsandbytes(value: float) -> None:
    weight = torch.zeros(4, 64)
    weight[2, 7] = value
    assert quantize_4bit(weight, torch.linspace(-1, 1, 16), 64) is None


def test_weights_without_whole_blocks_are_left_to_bitsandbytes() -> None:
    assert quantize_4bit(torch.zeros(3, 10), torch.linspace(-1, 1, 16), 64) is None
    assert quantize_4bit(torch.zeros(4, 64).half(), torch.linspace(-1, 1, 16), 64) is None


@pytest.mark.parametrize("features", [64, 40])
def test_a_quantized_layer_is_that_of_bitsandbytes(features: int) -> None:
    linear = torch.nn.Linear(features, 6).bfloat16()
    own = bnb.nn.Linear4bit(features, 6, compute_dtype=torch.bfloat16, compress_statistics=False)
    own.weight = bnb.nn.Params4bit(
        linear.weight.data.clone(), requires_grad=False, compress_statistics=False, quant_type="nf4"
    )
    own.to("cpu")
    model = torch.nn.Sequential(linear)
    quantize_linears(model, QuantizationSpec("nf4", "bfloat16"), torch.device("cpu"))
    found = model[0].weight
    assert torch.equal(found.data, own.weight.data)
    states = (found.quant_state.as_dict(packed=True), own.weight.quant_state.as_dict(packed=True))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert found.bnb_quantized
    assert model[0].quant_state is found.quant_state
