"""The autograd kernels compute their plain formula, forward and backward."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from adapterhub.kernels.attention.layout import AttentionParams, PackedSequences
from adapterhub.kernels.attention.packed import attend_packed
from adapterhub.kernels.linear_cross_entropy import linear_cross_entropy
from adapterhub.kernels.lora.autograd import LoraLinearFunction


def gradients(value, inputs):
    probe = torch.Generator().manual_seed(1)
    weights = torch.randn(value.shape, generator=probe)
    return torch.autograd.grad((value * weights).sum(), inputs)


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_lora_linear(dropout, bias):
    torch.manual_seed(0)
    x, a, b = (torch.randn(s, requires_grad=True) for s in ((9, 6), (3, 6), (5, 3)))
    weight, offset = torch.randn(5, 6), torch.randn(5) if bias else None
    keep = torch.bernoulli(torch.full((9, 6), 0.5)) * 2 if dropout else None
    fused = LoraLinearFunction.apply(x, a, b, 0.7, lambda: weight, offset, keep)
    plain = F.linear(x, weight, offset) + 0.7 * (x if keep is None else x * keep) @ a.T @ b.T
    torch.testing.assert_close(fused, plain)
    for ours, theirs in zip(gradients(fused, (x, a, b)), gradients(plain, (x, a, b)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("positions", [1, 256, 700])
def test_linear_cross_entropy(positions, smoothing):
    torch.manual_seed(0)
    hidden = torch.randn(positions, 8, requires_grad=True)
    weight, targets = torch.randn(31, 8), torch.randint(0, 31, (positions,))
    fused = linear_cross_entropy(hidden, weight, targets, smoothing)
    plain = F.cross_entropy(hidden @ weight.T, targets, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(fused, plain)
    (ours,) = torch.autograd.grad(3 * fused, hidden)
    (theirs,) = torch.autograd.grad(3 * plain, hidden)
    torch.testing.assert_close(ours, theirs)


def test_linear_cross_entropy_refuses_a_weight_that_learns():
    with pytest.raises(ValueError, match="frozen"):
        linear_cross_entropy(
            torch.randn(2, 4), torch.randn(5, 4, requires_grad=True), torch.tensor([0, 1])
        )


def sequence_by_sequence(query, key, value, lengths, params):
    """Packed attention by torch's SDPA with a mask."""
    groups = query.shape[0] // key.shape[0]
    key, value = (t.repeat_interleave(groups, dim=0) for t in (key, value))
    outputs, start, prefix = [], 0, key.shape[1] - query.shape[1]
    for length in lengths:
        own = slice(prefix + start, prefix + start + length)
        k, v = (torch.cat((t[:, :prefix], t[:, own]), dim=1) for t in (key, value))
        mask = torch.ones(length, prefix + length, dtype=torch.bool)
        if params.causal:
            mask = mask.tril(prefix)
        if params.window is not None:
            far = torch.ones_like(mask).tril(prefix - params.window)
            mask &= ~(far | torch.ones_like(mask).triu(prefix + params.window))
        output = F.scaled_dot_product_attention(
            query[None, :, start : start + length], k[None], v[None], attn_mask=mask
        )
        outputs.append(output[0].transpose(0, 1))
        start += length
    return torch.cat(outputs)


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    kind=st.sampled_from(
        ["causal", "both ways", "prefix", "window", "both ways in a window", "long"]
    ),
    fill=st.integers(0, 5),
)
@example(lengths=[1], kind="prefix", fill=0)
def test_packed_attention(lengths, kind, fill):
    torch.manual_seed(0)
    if kind == "long":
        lengths = [300, *lengths]
    params = AttentionParams(
        layer=0,
        causal="both ways" not in kind,
        window=7 if "window" in kind else None,
        scale=8**-0.5,
    )
    prefix = 3 if kind == "prefix" else 0
    tokens = sum(lengths)
    query = torch.randn(4, tokens + fill, 8, requires_grad=True)
    key, value = (torch.randn(2, prefix + tokens + fill, 8, requires_grad=True) for _ in range(2))
    fused = attend_packed(query, key, value, PackedSequences(tuple(lengths)), params)
    plain = sequence_by_sequence(query, key, value, lengths, params)
    torch.testing.assert_close(fused[:tokens], plain, rtol=1e-4, atol=1e-5)
    assert not fused[tokens:].any()
    inputs = (query, key, value)
    for ours, theirs in zip(
        gradients(fused[:tokens], inputs), gradients(plain, inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_linear_cross_entropy_in_bfloat16(smoothing):
    torch.manual_seed(0)
    hidden = torch.randn(300, 32).bfloat16().requires_grad_()
    weight, targets = torch.randn(101, 32).bfloat16(), torch.randint(0, 101, (300,))
    fused = linear_cross_entropy(hidden, weight, targets, smoothing)
    wide = hidden.detach().float().requires_grad_()
    plain = F.cross_entropy(
        wide @ weight.T.float(), targets, reduction="sum", label_smoothing=smoothing
    )
    torch.testing.assert_close(fused, plain, rtol=1e-3, atol=0)
    (ours,) = torch.autograd.grad(fused, hidden)
    (theirs,) = torch.autograd.grad(plain, wide)
    assert (ours.float() - theirs).norm() < 0.01 * theirs.norm()
