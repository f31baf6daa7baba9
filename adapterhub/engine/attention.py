"""Attention of rows laid end to end over a paged key-value cache, for transformers' models.

What a step reads and writes travels with the call as the keyword ``paged``, down through the
model's own ``**kwargs``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from adapterhub.engine.cache import KeyValueCache

#: The name under which models find this attention.
PAGED_NAME = "adapterhub_paged"


@dataclass(frozen=True, slots=True, eq=False)
class PagedRow:
    """One row of a step.

    Args:
        start: first of its tokens in the batch.
        tokens: that it has in this step.
        context: positions that it sees at its last token, itself included.
        places: int64 ``[context]``, where its positions lie in the cache.
    """

    start: int
    tokens: int
    context: int
    places: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PagedBatch:
    """All rows of a step.

    Args:
        cache: that is written to and read.
        rows: in the order of the batch.
        writes: int64 ``[tokens]``, where each token's key and value go.
    """

    cache: KeyValueCache
    rows: tuple[PagedRow, ...]
    writes: Tensor


def install_paged_attention() -> None:
    """Make the attention known to transformers; calling it again changes nothing."""
    ALL_ATTENTION_FUNCTIONS.register(PAGED_NAME, paged_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(PAGED_NAME, sdpa_mask)


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    paged: PagedBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_others: Any,
) -> tuple[Tensor, None]:
    """Store the new keys and values, then attend within each row.

    Args:
        query: ``[1, heads, tokens, width]``.
        key: ``[1, key heads, tokens, width]``.
        value: shaped as ``key``.
        paged: of the step.
        sliding_window: how far back a position sees, itself included.

    Returns:
        ``[1, tokens, heads, width]`` and ``None`` for the weights.
    """
    layer = int(module.layer_idx)
    cache = paged.cache
    cache.write(layer, paged.writes, key[0].transpose(0, 1), value[0].transpose(0, 1))
    output = torch.empty(
        query.shape[2], query.shape[1], query.shape[3], dtype=query.dtype, device=query.device
    )
    for row in paged.rows:
        tokens = slice(row.start, row.start + row.tokens)
        keys, values = cache.read(layer, row.places)
        output[tokens] = _attend(query[0, :, tokens], keys, values, sliding_window, scaling)
    return output.unsqueeze(0), None


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, window: int | None, scaling: float | None
) -> Tensor:
    """Attend ``[heads, tokens, width]`` to ``[context, key heads, width]``; tokens come last."""
    tokens, context = query.shape[1], keys.shape[0]
    attended = F.scaled_dot_product_attention(
        query.unsqueeze(0),
        keys.transpose(0, 1).unsqueeze(0),
        values.transpose(0, 1).unsqueeze(0),
        attn_mask=_mask(tokens, context, window, query.device),
        scale=scaling,
        is_causal=tokens == context and tokens > 1 and _sees_all(context, window),
        enable_gqa=True,
    )
    return attended[0].transpose(0, 1)


def _mask(tokens: int, context: int, window: int | None, device: torch.device) -> Tensor | None:
    """Return ``[tokens, context]``, or ``None`` where SDPA's causal flag says it all."""
    if _sees_all(context, window) and tokens in (1, context):
        return None
    queries = torch.arange(context - tokens, context, device=device).unsqueeze(1)
    keys = torch.arange(context, device=device).unsqueeze(0)
    visible = keys <= queries
    return visible if window is None else visible & (queries - keys < window)


def _sees_all(context: int, window: int | None) -> bool:
    return window is None or context <= window
