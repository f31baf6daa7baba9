"""The compiled output layer: its logits, and the most likely tokens."""

import pytest
import torch
from torch import nn

from adapterhub.engine.compiled_output import CompiledOutput
from adapterhub.kernels.linear.avx512 import Avx512Linear
from adapterhub.kernels.simd import has_avx512_bf16

pytestmark = pytest.mark.skipif(not has_avx512_bf16(), reason="needs AVX-512 BF16")


def output_of(outputs, scale=1.0):
    torch.manual_seed(outputs)
    layer = nn.Linear(64, outputs, bias=False, dtype=torch.bfloat16)
    layer.weight.data.mul_(scale)
    if not Avx512Linear.supports(layer):
        pytest.skip("this CPU has no packed bfloat16 layers")
    return CompiledOutput(Avx512Linear(layer))


@pytest.mark.parametrize("outputs", [16, 512, 528, 1600])
@pytest.mark.parametrize("tokens", [1, 5, 33])
def test_the_best_token_is_the_first_largest_logit(outputs, tokens):
    found = output_of(outputs)(torch.randn(tokens, 64).to(torch.bfloat16))
    assert found.logits.shape == (tokens, outputs)
    assert found.best == found.logits.float().argmax(-1).tolist()


def test_logits_below_zero_are_ordered():
    output = output_of(256)
    hidden = torch.ones(1, 64, dtype=torch.bfloat16)
    for sign in (1, -1):
        found = output(sign * hidden)
        assert found.best == found.logits.float().argmax(-1).tolist()


def test_of_equal_logits_the_first_is_best():
    found = output_of(64, scale=0.0)(torch.ones(2, 64, dtype=torch.bfloat16))
    assert found.best == [0, 0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_no_token_is_best_where_a_logit_is_not_finite(value):
    hidden = torch.ones(3, 64, dtype=torch.bfloat16)
    hidden[1, 0] = value
    assert output_of(64)(hidden).best is None
