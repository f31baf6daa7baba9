"""Attention of single tokens to scattered pages, Triton and reference, against torch's SDPA."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from adapterhub.kernels.attention import reference
from adapterhub.kernels.attention.layout import AttentionParams
from adapterhub.kernels.attention.paged import PageTable

pytest.importorskip("triton", reason="triton is not installed")

from adapterhub.kernels.attention import triton

#: The interpreter truncates the bits of bfloat16 that a GPU rounds.
BOUND = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
KINDS = {"triton": triton.attend_pages, "reference": reference.attend_pages}


def params_of(window, scale):
    return AttentionParams(layer=0, causal=True, window=window, scale=scale)


def expected_of(query, keys, values, slots, window, scale):
    visible = slots[-window:] if window else slots
    found = F.scaled_dot_product_attention(
        query.float().unsqueeze(0).unsqueeze(2),
        keys[visible].float().transpose(0, 1).unsqueeze(0),
        values[visible].float().transpose(0, 1).unsqueeze(0),
        scale=scale,
        enable_gqa=True,
    )
    return found[0, :, 0]


def check(
    attend,
    contexts,
    dtype,
    device,
    *,
    kv_heads=2,
    group=3,
    window=None,
    large=1.0,
    size=4,
    width=20,
):
    draw = torch.Generator().manual_seed(len(contexts))
    blocks = sum(-(-context // size) for context in contexts)
    query = torch.randn(len(contexts), kv_heads * group, width, generator=draw) * large
    query = query.to(device, dtype)
    shape = ((blocks + 1) * size, kv_heads, width)
    keys, values = (torch.randn(shape, generator=draw).to(device, dtype) for _ in range(2))
    indices = torch.randperm(blocks, generator=draw)
    counts = torch.tensor([-(-context // size) for context in contexts])
    offsets = counts.cumsum(0) - counts
    pages = PageTable(
        indices.int().to(device),
        offsets.int().to(device),
        torch.tensor(contexts, dtype=torch.int32, device=device),
        size,
    )
    found = attend(query, keys, values, pages, params_of(window, 0.25))
    assert found.dtype == dtype
    for index, context in enumerate(contexts):
        own = indices[offsets[index] : offsets[index] + counts[index]]
        slots = (own.unsqueeze(1) * size + torch.arange(size)).flatten()[:context].to(device)
        expected = expected_of(query[index], keys, values, slots, window, 0.25)
        assert (found[index].float() - expected).abs().max() <= BOUND[dtype]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", list(BOUND))
@pytest.mark.parametrize("window", [None, 1, 35])
def test_it_is_scaled_dot_product_attention(kind, dtype, window, device):
    check(KINDS[kind], [1, 31, 300, 64], dtype, device, window=window)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    contexts=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    kv_heads=st.sampled_from([1, 2]),
    group=st.sampled_from([1, 3]),
    window=st.sampled_from([None, 7, 64]),
    large=st.sampled_from([1.0, 30.0]),
    size=st.sampled_from([1, 16]),
)
def test_it_is_scaled_dot_product_attention_for_any_batch(
    contexts, kv_heads, group, window, large, size, device
):
    sizes = dict(kv_heads=kv_heads, group=group, window=window, large=large, size=size)
    check(triton.attend_pages, contexts, torch.float32, device, **sizes)


def test_nan_scores_stay_in_their_sequence(device):
    query = torch.zeros(2, 1, 4, device=device)
    query[0] = float("nan")
    keys = torch.ones(8, 1, 4, device=device)
    indices = torch.arange(2, dtype=torch.int32, device=device)
    pages = PageTable(indices, indices, torch.full_like(indices, 4), 4)
    found = triton.attend_pages(query, keys, keys, pages, params_of(None, 1.0))
    assert found[0].isnan().all()
    assert torch.equal(found[1], torch.ones(1, 4, device=device))


def test_slots_beyond_the_context_are_not_read(device):
    query, keys = torch.ones(1, 1, 4, device=device), torch.ones(8, 1, 4, device=device)
    keys[5:] = float("nan")
    indices = torch.arange(2, dtype=torch.int32, device=device)
    pages = PageTable(indices, indices[:1], torch.tensor([5], dtype=torch.int32, device=device), 4)
    found = triton.attend_pages(query, keys, keys, pages, params_of(None, 1.0))
    assert torch.equal(found, torch.ones(1, 1, 4, device=device))
