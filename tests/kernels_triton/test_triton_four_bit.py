"""The 4-bit product in Triton against bitsandbytes' dequantized weights."""

import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit
from torch import nn

from adapterhub.backbones.memory import state_digest
from adapterhub.backbones.quantize import quantize_linears
from adapterhub.engine import lora_linear
from adapterhub.kernels import choice
from adapterhub.kernels.lora.reference import ReferenceLoraKernel
from adapterhub.specs import QuantizationSpec

pytest.importorskip("triton", reason="triton is not installed")

from adapterhub.kernels.linear import triton as triton_linear
from adapterhub.kernels.linear.triton import (
    TritonLinear4bit,
    multiply_four_bit,
)

TYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}


def close(found, expected):
    bound = TOLERANCE[expected.dtype] * float(expected.abs().max())
    return float((found.float() - expected.float()).abs().max()) <= bound


@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("tokens", "biased"), [(1, False), (5, True), (32, False)])
def test_it_multiplies_by_the_dequantized_weights(scheme, dtype, tokens, biased, device):
    torch.manual_seed(tokens)
    weight = torch.randn(100, 192).to(device, dtype)
    codes, state = functional.quantize_4bit(weight, quant_type=scheme, blocksize=64)
    x = torch.randn(tokens, 192).to(device, dtype)
    bias = torch.randn(100).to(device, dtype) if biased else None
    expected = nn.functional.linear(x, functional.dequantize_4bit(codes, state), bias)
    found = multiply_four_bit(x, codes, state, bias)
    assert found.dtype == dtype
    assert close(found, expected)


@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
@pytest.mark.parametrize("block", [32, 64, 128])
def test_every_code_is_read_from_its_place(scheme, block, device):
    torch.manual_seed(block)
    weight = torch.randn(8, 256, device=device)
    codes, state = functional.quantize_4bit(weight, quant_type=scheme, blocksize=block)
    # one-hot tokens return single weights
    found = [
        multiply_four_bit(part.contiguous(), codes, state)
        for part in torch.eye(256, device=device).split(32)
    ]
    assert torch.equal(torch.cat(found).t(), functional.dequantize_4bit(codes, state))


def layer_of(width=128, out=96, dtype="float32", device="cpu"):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(width, out))
    quantize_linears(model, QuantizationSpec("nf4", dtype), torch.device(device))
    return model


def test_few_tokens_are_fused_and_many_are_left_to_bitsandbytes(monkeypatch, device):
    model, counts = layer_of(device=device), []

    def counted(x, *others):
        counts.append(len(x))
        return multiply_four_bit(x, *others)

    monkeypatch.setattr(triton_linear, "multiply_four_bit", counted)
    (layer,) = model
    fused, before = TritonLinear4bit(layer), state_digest(model)
    for tokens in (1, 32, 33):
        x = torch.randn(1, tokens, 128, device=device)
        with torch.no_grad():
            found, expected = fused(x), layer(x)
        assert found.shape == (1, tokens, 96)
        assert close(found, expected)
    assert counts == [1, 32]
    assert torch.equal(
        fused.dense(), functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    )
    assert fused.unpack() is layer
    assert state_digest(model) == before


def test_other_layers_are_not_supported(device):
    (layer,) = layer_of(device=device)
    assert TritonLinear4bit.supports(layer)
    assert not TritonLinear4bit.supports(nn.Linear(64, 64))
    (odd,) = layer_of(width=96, device=device)
    assert not TritonLinear4bit.supports(odd)
    _codes, state = functional.quantize_4bit(
        torch.randn(96, 128, device=device), quant_type="nf4", compress_statistics=True
    )
    layer.weight.quant_state = state
    assert not TritonLinear4bit.supports(layer)


def test_unsupported_layers_are_counted_in_one_log_message(monkeypatch, caplog, device):
    monkeypatch.setattr(choice, "has_triton", lambda kind: True)
    model = nn.Sequential(*layer_of(device=device), *layer_of(96, 64, device=device))
    model.append(*layer_of(device=device))
    nested = model[2]
    weight = functional.dequantize_4bit(nested.weight.data, nested.weight.quant_state)
    nested.weight.data, nested.weight.quant_state = functional.quantize_4bit(
        weight, quant_type="nf4", compress_statistics=True
    )
    before, originals = state_digest(model), list(model)
    layers = lora_linear.install_lora_linears(model, torch.float32, ReferenceLoraKernel())
    assert [type(layer.base) for layer in layers.values()] == [
        TritonLinear4bit,
        Linear4bit,
        Linear4bit,
    ]
    (record,) = caplog.records
    assert record.message.startswith("2 of 3 layers")
    assert torch.equal(
        lora_linear.dense_weight(layers["0"].base), lora_linear.dense_weight(originals[0])
    )
    lora_linear.remove_lora_linears(model, layers)
    assert list(model) == originals
    assert state_digest(model) == before
