"""Attention of one head of one token in the compiled step, against PyTorch."""

import numpy as np
import pytest
import torch

from adapterhub.kernels.decoder_step.attention import attend
from adapterhub.kernels.simd import has_avx512_bf16

pytestmark = pytest.mark.skipif(not has_avx512_bf16(), reason="needs AVX-512 BF16")
SLOTS, HEADS = 80, 2


@pytest.mark.parametrize("width", [32, 64, 96, 128])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 50])
def test_the_context_is_weighted_by_the_softmax_of_its_scores(width, length):
    draw = torch.Generator().manual_seed(length)
    keys, values = torch.randn(2, SLOTS, HEADS, width, generator=draw).bfloat16().unbind()
    query = (3 * torch.randn(width, generator=draw)).bfloat16()
    slots = torch.randperm(SLOTS, generator=draw)
    # what lies in other slots was never written
    keys[slots[length:]], values[slots[length:]] = torch.nan, torch.nan
    found, scores = torch.empty(width, dtype=torch.bfloat16), np.empty(length + 15, np.float32)
    head = 2 * width
    attend(
        query.data_ptr(),
        keys.data_ptr() + head,
        values.data_ptr() + head,
        slots.data_ptr(),
        length,
        width,
        2 * HEADS * width,
        0.25,
        found.data_ptr(),
        scores.ctypes.data,
    )
    own = slots[:length]
    weights = (keys[own, 1].double() @ query.double() * 0.25).softmax(0)
    expected = weights @ values[own, 1].double()
    assert torch.allclose(found.double(), expected, atol=0.02, rtol=0.01)
