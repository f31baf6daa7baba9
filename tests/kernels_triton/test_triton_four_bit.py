"""The 4-bit product in Triton against bitsandbytes' own expansion."""

import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit
from torch import nn

from adapterhub.backbones.memory import state_digest
from adapterhub.backbones.quantize import quantize_linears
from adapterhub.engine import lora_linear
from adapterhub.kernels.lora.reference import ReferenceLoraKernel
from adapterhub.specs import QuantizationSpec

pytest.importorskip("triton", reason="triton is not installed")

from adapterhub.kernels.linear import triton_four_bit
from adapterhub.kernels.linear.triton_four_bit import (
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
@pytest.mark.parametrize(("rows", "biased"), [(1, False), (5, True), (32, False)])
def test_it_multiplies_by_what_bitsandbytes_expands(scheme, dtype, rows, biased, device):
    torch.manual_seed(rows)
    weight = torch.randn(100, 192).to(device, dtype)
    codes, state = functional.quantize_4bit(weight, quant_type=scheme, blocksize=64)
    x = torch.randn(rows, 192).to(device, dtype)
    bias = torch.randn(100).to(device, dtype) if biased else None
    expected = nn.functional.linear(x, functional.dequantize_4bit(codes, state), bias)
    found = multiply_four_bit(x, codes, state, bias)
    assert found.dtype == dtype
    assert close(found, expected)


@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
@pytest.mark.parametrize("block", [32, 64, 128])
def test_every_code_is_read_where_it_lies(scheme, block, device):
    torch.manual_seed(block)
    weight = torch.randn(8, 256, device=device)
    codes, state = functional.quantize_4bit(weight, quant_type=scheme, blocksize=block)
    # rows of one value each show single weights
    found = [
        multiply_four_bit(part.contiguous(), codes, state)
        for part in torch.eye(256, device=device).split(32)
    ]
    assert torch.equal(torch.cat(found).t(), functional.dequantize_4bit(codes, state))


def layer_of(width=128, out=96, dtype="float32", device="cpu"):
    torch.manual_seed(1)
    body = nn.Sequential(nn.Linear(width, out))
    quantize_linears(body, QuantizationSpec("nf4", dtype), torch.device(device))
    return body


def test_few_rows_are_fused_and_many_are_left_to_bitsandbytes(monkeypatch, device):
    body, asked = layer_of(device=device), []

    def counted(x, *others):
        asked.append(len(x))
        return multiply_four_bit(x, *others)

    monkeypatch.setattr(triton_four_bit, "multiply_four_bit", counted)
    (layer,) = body
    fused, before = TritonLinear4bit(layer), state_digest(body)
    for rows in (1, 32, 33):
        x = torch.randn(1, rows, 128, device=device)
        with torch.no_grad():
            found, expected = fused(x), layer(x)
        assert found.shape == (1, rows, 96)
        assert close(found, expected)
    assert asked == [1, 32]
    assert torch.equal(
        fused.dense(), functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    )
    assert fused.unpack() is layer
    assert state_digest(body) == before


def test_what_it_cannot_read_is_refused(device):
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


def test_sites_fuse_what_they_can_and_the_log_says_once_what_not(monkeypatch, caplog, device):
    monkeypatch.setattr(lora_linear, "has_triton", lambda kind: True)
    body = nn.Sequential(*layer_of(device=device), *layer_of(96, 64, device=device))
    body.append(*layer_of(device=device))
    nested = body[2]
    weight = functional.dequantize_4bit(nested.weight.data, nested.weight.quant_state)
    nested.weight.data, nested.weight.quant_state = functional.quantize_4bit(
        weight, quant_type="nf4", compress_statistics=True
    )
    before, held = state_digest(body), list(body)
    sites = lora_linear.install_sites(body, torch.float32, ReferenceLoraKernel())
    assert [type(site.base) for site in sites.values()] == [
        TritonLinear4bit,
        Linear4bit,
        Linear4bit,
    ]
    (record,) = caplog.records
    assert record.message.startswith("2 of 3 layers")
    assert torch.equal(lora_linear.dense_weight(sites["0"].base), lora_linear.dense_weight(held[0]))
    lora_linear.remove_sites(body, sites)
    assert list(body) == held
    assert state_digest(body) == before
