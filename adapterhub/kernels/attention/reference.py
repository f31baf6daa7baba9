"""Attention of single query tokens to a paged KV cache in plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from adapterhub.kernels.attention.paged import PageTable


def attend_pages(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: PageTable,
    *,
    window: int | None,
    scale: float,
) -> Tensor:
    """Attend sequence by sequence; see ``PagedAttention``."""
    out = torch.empty_like(query)
    contexts = zip(pages.offsets.tolist(), pages.context_lens.tolist(), strict=True)
    for index, (offset, context) in enumerate(contexts):
        start = max(0, context - window) if window else 0
        position = torch.arange(start, context, device=query.device)
        page = pages.indices[offset + position // pages.page_size].long()
        slots = page * pages.page_size + position % pages.page_size
        out[index] = F.scaled_dot_product_attention(
            query[index : index + 1].unsqueeze(2),
            keys[slots].transpose(0, 1).unsqueeze(0),
            values[slots].transpose(0, 1).unsqueeze(0),
            scale=scale,
            enable_gqa=True,
        )[0, :, 0]
    return out
