"""Attention with matrix tiles, compared to its formula in float64."""

import pytest
import torch

from adapterhub.kernels import amx
from adapterhub.kernels.attention.layout import AttentionParams, PackedSequences, visible_keys
from adapterhub.kernels.attention.packed import attend_packed
from adapterhub.kernels.attention.tiled import TiledAttention, fits_tiles

pytestmark = pytest.mark.skipif(not amx.has_amx(), reason="needs a CPU with matrix tiles (AMX)")

#: Rounding ``P`` and the result to bfloat16 changes each by 2 ** -9 at most.
TOLERANCE = 2**-8


def by_formula(query, key, value, lengths, params):
    groups, outputs, start = query.shape[0] // key.shape[0], [], 0
    for length in lengths:
        q, k, v = (each[:, start : start + length] for each in (query, key, value))
        k, v = (each.repeat_interleave(groups, dim=0) for each in (k, v))
        hidden = ~visible_keys(length, length, params, q.device)
        scores = (q @ k.transpose(1, 2) * params.scale).masked_fill(hidden, -torch.inf)
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1))
        start += length
    return torch.cat(outputs)


def error(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


def states(heads, kv_heads, tokens, dim, spread=1.0):
    generator = torch.Generator().manual_seed(0)
    shapes = ((tokens, n, dim) for n in (heads, kv_heads, kv_heads))
    drawn = [torch.randn(shape, generator=generator) * spread for shape in shapes]
    return [each.bfloat16().transpose(0, 1).requires_grad_() for each in drawn]


@pytest.mark.parametrize(
    ("lengths", "heads", "dim", "causal", "window"),
    [
        ((5, 70, 33, 1, 32), (6, 2), 64, True, None),
        ((40, 64, 100), (4, 4), 32, False, None),
        ((130, 31), (4, 2), 64, True, 20),
        ((130, 31), (4, 2), 96, False, 40),
        ((300,), (2, 1), 32, True, 64),
    ],
)
@pytest.mark.parametrize("fill", [0, 7])
def test_forward_and_gradients(lengths, heads, dim, causal, window, fill):
    params = AttentionParams(layer=0, causal=causal, window=window, scale=dim**-0.5)
    tokens = sum(lengths)
    inputs = states(*heads, tokens + fill, dim)
    packed = PackedSequences(lengths)
    out = attend_packed(*inputs, packed, params)
    assert isinstance(out.grad_fn, TiledAttention._backward_cls)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = torch.autograd.grad(out, inputs, weights)
    wide = [each.detach().double().requires_grad_() for each in inputs]
    expected = by_formula(*wide, lengths, params)
    slopes = torch.autograd.grad(expected, wide, weights[:tokens].double())
    assert error(out[:tokens].detach(), expected.detach()) < TOLERANCE
    assert not out[tokens:].any()
    for ours, theirs in zip(found, slopes, strict=True):
        assert error(ours, theirs) < TOLERANCE
        assert not ours[:, tokens:].any()


def test_large_scores_stay_finite():
    inputs = states(2, 1, 45, 32, spread=60.0)
    params = AttentionParams(layer=0, causal=True, window=None, scale=1.0)
    out = attend_packed(*inputs, PackedSequences((45,)), params)
    found = torch.autograd.grad(out.float().sum(), inputs)
    assert all(each.isfinite().all() for each in (out, *found))


def test_tiles_alternate_with_those_of_torch():
    params = AttentionParams(layer=0, causal=True, window=None, scale=0.1)
    inputs = states(2, 2, 64, 32)
    matrix = torch.randn(200, 96, generator=torch.Generator().manual_seed(2)).bfloat16()
    product, first = matrix @ matrix.T, attend_packed(*inputs, PackedSequences((64,)), params)
    for _ in range(3):
        assert torch.equal(matrix @ matrix.T, product)
        assert torch.equal(attend_packed(*inputs, PackedSequences((64,)), params), first)


@pytest.mark.parametrize(
    ("dim", "dtype", "prefix"),
    [(8, torch.bfloat16, 0), (32, torch.float32, 0), (32, torch.bfloat16, 3)],
)
def test_other_shapes_are_left_to_torch(dim, dtype, prefix):
    query = torch.zeros(2, 9, dim, dtype=dtype)
    key = torch.zeros(2, prefix + 9, dim, dtype=dtype)
    assert not fits_tiles(query, key, key, PackedSequences((9,)))
