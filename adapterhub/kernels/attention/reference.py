"""Attention of single query tokens to a paged KV cache in plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from adapterhub.kernels.attention.layout import attend

if TYPE_CHECKING:
    from torch import Tensor

    from adapterhub.kernels.attention.layout import AttentionParams
    from adapterhub.kernels.attention.paged import PageTable


def attend_pages(
    query: Tensor, keys: Tensor, values: Tensor, pages: PageTable, params: AttentionParams
) -> Tensor:
    """Attend sequence by sequence; see ``PagedAttention``."""
    out = torch.empty_like(query)
    contexts = zip(pages.offsets.tolist(), pages.context_lens.tolist(), strict=True)
    for index, (offset, context) in enumerate(contexts):
        position = torch.arange(context, device=query.device)
        page = pages.indices[offset + position // pages.page_size].long()
        slots = page * pages.page_size + position % pages.page_size
        states = (query[index, None], keys[slots], values[slots])
        q, k, v = (each.transpose(0, 1).unsqueeze(0) for each in states)
        out[index] = attend(q, k, v, params)[0, :, 0]
    return out
