"""Compiled parts of a decoder layer equal transformers' functions, forward and backward."""

import pytest
import torch
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from adapterhub.kernels.decoder_layer_autograd import (
    AddAndNormalizeFunction,
    GateFunction,
    RotateFunction,
)

#: Largest relative error of a gradient.
BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 2**-8}
WIDTH = 48


@pytest.fixture(params=BOUNDS, ids=str)
def dtype(request):
    return request.param


def drawn(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


def check_gradients(ours, exact, inputs, dtype):
    """Compare gradients with those of ``exact``, a function of the inputs in float64."""
    wide = [each.detach().double().requires_grad_() for each in inputs]
    outputs = exact(*wide)
    weights = [drawn(*each.shape, seed=3 + n, dtype=dtype) for n, each in enumerate(outputs)]
    found = torch.autograd.grad(ours, inputs, weights)
    slopes = torch.autograd.grad(outputs, wide, [each.double() for each in weights])
    for mine, theirs in zip(found, slopes, strict=True):
        assert (mine.double() - theirs).norm() / theirs.norm() < BOUNDS[dtype]


@pytest.mark.parametrize("adds", [False, True])
def test_norm(dtype, adds):
    norm = LlamaRMSNorm(WIDTH, eps=1e-3).to(dtype).requires_grad_(False)
    norm.weight.copy_(1 + drawn(WIDTH, seed=9) / 4)
    inputs = [drawn(1, 7, WIDTH, seed=n, dtype=dtype).requires_grad_() for n in range(1 + adds)]
    total, normal = ours = AddAndNormalizeFunction.apply(
        inputs[0], inputs[1] if adds else None, norm.weight, 1e-3
    )
    assert torch.equal(total, sum(inputs))
    torch.testing.assert_close(normal, norm(total))

    def exact(*summands):
        added = sum(summands)
        scale = (added.pow(2).mean(-1, keepdim=True) + 1e-3).rsqrt()
        return added, norm.weight.double() * added * scale

    check_gradients(ours, exact, inputs, dtype)


def test_gate(dtype):
    inputs = [drawn(1, 7, WIDTH, seed=n, dtype=dtype).mul(4).requires_grad_() for n in range(2)]
    ours = GateFunction.apply(*inputs)
    torch.testing.assert_close(ours, F.silu(inputs[0]) * inputs[1])
    check_gradients([ours], lambda gates, values: [F.silu(gates) * values], inputs, dtype)


def test_rotation(dtype):
    x = drawn(7, 3, 16, dtype=dtype).requires_grad_()
    angles = drawn(7, 8, seed=1).repeat(1, 2)
    cosine, sine = angles.cos().to(dtype), angles.sin().to(dtype)

    def plain(x, cosine, sine):
        return apply_rotary_pos_emb(x, x, cosine, sine)[0]

    ours = RotateFunction.apply(x, cosine, sine)
    torch.testing.assert_close(ours, plain(x, cosine, sine))
    wide = cosine.double(), sine.double()
    check_gradients([ours], lambda x: [plain(x, *wide)], [x], dtype)
