"""Attention of single tokens over scattered places, against torch's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from adapterhub.kernels.paged_attention_cpu import attend_single_tokens

PLACES = 200


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=40, deadline=None)
@given(
    contexts=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    shared=st.sampled_from([1, 2]),
    group=st.sampled_from([1, 3]),
    window=st.sampled_from([None, 1, 7, 64]),
    large=st.sampled_from([1.0, 30.0]),
)
def test_it_is_scaled_dot_product_attention(dtype, contexts, shared, group, window, large):
    draw = torch.Generator().manual_seed(len(contexts))
    width, scale = 16, 0.25
    query = (torch.randn(len(contexts), shared * group, width, generator=draw) * large).to(dtype)
    tables = [torch.randn(PLACES, shared, width, generator=draw).to(dtype) for _ in range(2)]
    rows = [torch.randperm(PLACES, generator=draw)[:context] for context in contexts]
    found = attend_single_tokens(
        query,
        *tables,
        torch.cat(rows).numpy(),
        np.cumsum([0, *contexts], dtype=np.int64),
        window=window,
        scale=scale,
    )
    for index, places in enumerate(rows):
        seen = places[-window:] if window else places
        keys, values = (table[seen].float().transpose(0, 1).unsqueeze(0) for table in tables)
        expected = F.scaled_dot_product_attention(
            query[index].float().view(1, -1, 1, width), keys, values, scale=scale, enable_gqa=True
        )
        error = (found[index].float() - expected[0, :, 0]).abs().max()
        assert error <= (2e-5 if dtype == torch.float32 else 2e-2)


def test_a_score_that_is_no_number_stays_in_its_row():
    query = torch.zeros(2, 1, 4)
    query[0] = float("nan")
    keys = torch.ones(8, 1, 4)
    places, firsts = np.arange(8), np.array([0, 4, 8])
    found = attend_single_tokens(query, keys, keys, places, firsts, window=None, scale=1.0)
    assert found[0].isnan().all()
    assert torch.equal(found[1], torch.ones(1, 4))
