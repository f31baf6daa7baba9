"""Attention of single tokens to scattered KV-cache slots on CPUs, against torch's SDPA."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from adapterhub.kernels.attention.cpu import attend_pages
from adapterhub.kernels.attention.layout import AttentionParams
from adapterhub.kernels.attention.paged import PageTable

SLOTS = 200


def params_of(window, scale):
    return AttentionParams(layer=0, causal=True, window=window, scale=scale)


def page_table(slots):
    lengths = torch.tensor([len(each) for each in slots], dtype=torch.int32)
    offsets = (lengths.cumsum(0) - lengths).int()
    return PageTable(torch.cat(slots).int(), offsets, lengths, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=40, deadline=None)
@given(
    contexts=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    kv_heads=st.sampled_from([1, 2]),
    group=st.sampled_from([1, 3]),
    window=st.sampled_from([None, 1, 7, 64]),
    large=st.sampled_from([1.0, 30.0]),
)
def test_it_is_scaled_dot_product_attention(dtype, contexts, kv_heads, group, window, large):
    draw = torch.Generator().manual_seed(len(contexts))
    width, scale = 16, 0.25
    query = (torch.randn(len(contexts), kv_heads * group, width, generator=draw) * large).to(dtype)
    tables = [torch.randn(SLOTS, kv_heads, width, generator=draw).to(dtype) for _ in range(2)]
    slots = [torch.randperm(SLOTS, generator=draw)[:context] for context in contexts]
    found = attend_pages(query, *tables, page_table(slots), params_of(window, scale))
    for index, own in enumerate(slots):
        visible = own[-window:] if window else own
        keys, values = (table[visible].float().transpose(0, 1).unsqueeze(0) for table in tables)
        expected = F.scaled_dot_product_attention(
            query[index].float().view(1, -1, 1, width), keys, values, scale=scale, enable_gqa=True
        )
        error = (found[index].float() - expected[0, :, 0]).abs().max()
        assert error <= (2e-5 if dtype == torch.float32 else 2e-2)


def test_nan_scores_stay_in_their_sequence():
    query = torch.zeros(2, 1, 4)
    query[0] = float("nan")
    keys = torch.ones(8, 1, 4)
    pages = page_table([torch.arange(4), torch.arange(4, 8)])
    found = attend_pages(query, keys, keys, pages, params_of(None, 1.0))
    assert found[0].isnan().all()
    assert torch.equal(found[1], torch.ones(1, 4))


def test_pages_of_several_slots_are_refused():
    query, keys = torch.ones(1, 1, 4), torch.ones(8, 1, 4)
    pages = page_table([torch.arange(4)])._replace(page_size=4)
    with pytest.raises(ValueError, match="pages of 1 slot, got 4"):
        attend_pages(query, keys, keys, pages, params_of(None, 1.0))
