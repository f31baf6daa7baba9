"""Compiled dequantization returns the weights of bitsandbytes."""

import pytest
import torch
from bitsandbytes import functional as bnb_functional

from adapterhub.kernels.dequantize_cpu import dequantize_4bit
from adapterhub.kernels.simd import has_avx512_bf16

needs_avx512 = pytest.mark.skipif(not has_avx512_bf16(), reason="needs a CPU with AVX-512 BF16")


def quantized(scheme="nf4", dtype=torch.bfloat16, shape=(33, 64), **options):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return bnb_functional.quantize_4bit(weight, quant_type=scheme, **options)


@needs_avx512
@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
@pytest.mark.parametrize("options", [{}, {"blocksize": 128, "shape": (96, 128)}])
def test_weights_are_bit_identical(scheme, options):
    codes, state = quantized(scheme, **options)
    assert torch.equal(dequantize_4bit(codes, state), bnb_functional.dequantize_4bit(codes, state))


@pytest.mark.parametrize(
    "options", [{"dtype": torch.float32}, {"compress_statistics": True}, {"shape": (3, 50)}]
)
def test_other_weights_are_left_to_bitsandbytes(options):
    assert dequantize_4bit(*quantized(**options)) is None
