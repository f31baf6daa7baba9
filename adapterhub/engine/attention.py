"""Attention of rows laid end to end over a paged key-value cache, for transformers' models.

What a step reads and writes travels with the call as the keyword ``paged``, down through the
model's own ``**kwargs``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adapterhub.engine.pass_attention import PassBatch, View, attend_passes
from adapterhub.kernels.choice import choose_attention
from adapterhub.kernels.paged_attention import Pages
from adapterhub.kernels.paged_attention_cpu import attend_single_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence as Rows

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from adapterhub.engine.cache import KeyValueCache
    from adapterhub.kernels.paged_attention import PagedAttention

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
        singles: rows of one token each that are computed together, if any.
    """

    cache: KeyValueCache
    rows: tuple[PagedRow, ...]
    writes: Tensor
    singles: Singles | PagedSingles | None


@dataclass(frozen=True, slots=True, eq=False)
class Singles:
    """Rows that have one token in a step.

    Args:
        tokens: int64 ``[rows]``, which ones in the batch.
        places: int64, where all their positions lie in the cache, row after row.
        firsts: int64 ``[rows + 1]``, where each row's places begin.
    """

    tokens: Tensor
    places: NDArray[np.int64]
    firsts: NDArray[np.int64]

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, window: int | None, scale: float
    ) -> Tensor:
        """Return ``[rows, heads, width]``, by loops for CPUs."""
        tables = (query, keys, values, self.places, self.firsts)
        return attend_single_tokens(*tables, window=window, scale=scale)


@dataclass(frozen=True, slots=True, eq=False)
class PagedSingles:
    """Rows that have one token in a step, on a device that has a kernel for them.

    Args:
        tokens: int64 ``[rows]``, which ones in the batch.
        pages: where all their positions lie in the cache.
        kernel: that attends.
    """

    tokens: Tensor
    pages: Pages
    kernel: PagedAttention

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, window: int | None, scale: float
    ) -> Tensor:
        """Return ``[rows, heads, width]``."""
        return self.kernel(query, keys, values, self.pages, window=window, scale=scale)


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
    paged: PagedBatch | PassBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_others: Any,
) -> tuple[Tensor, None]:
    """Attend within each row; a row that generates stores its new keys and values before.

    Args:
        query: ``[1, heads, tokens, width]``.
        key: ``[1, key heads, tokens, width]``.
        value: shaped as ``key``.
        paged: of the step, or of single passes.
        sliding_window: how far back a position sees, itself included.

    Returns:
        ``[1, tokens, heads, width]`` and ``None`` for the weights.
    """
    layer = int(getattr(module, "layer_idx", None) or 0)
    if isinstance(paged, PassBatch):
        causal = bool(getattr(module, "is_causal", True))
        view = View(layer, causal, sliding_window, scaling or query.shape[-1] ** -0.5)
        return attend_passes(query[0], key[0], value[0], paged, view).unsqueeze(0), None
    paged.cache.write(layer, paged.writes, key[0].transpose(0, 1), value[0].transpose(0, 1))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rows = query[0].transpose(0, 1)
    return attend_rows(rows, layer, paged, window=sliding_window, scale=scale).unsqueeze(0), None


def attend_rows(
    query: Tensor, layer: int, paged: PagedBatch, *, window: int | None, scale: float
) -> Tensor:
    """Attend within each row to what the cache holds of it, and return ``[tokens, heads, width]``.

    Args:
        query: ``[tokens, heads, width]``.
        layer: number of the layer, whose new keys and values are stored.
        paged: of the step.
        window: how far back a position sees, itself included.
        scale: of the scores.
    """
    singles = paged.singles
    tables = paged.cache.tables(layer)
    if singles is not None and len(singles.tokens) == len(query):
        return singles.attend(query, *tables, window, scale)
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if singles is not None:
        output[singles.tokens] = singles.attend(query[singles.tokens], *tables, window, scale)
    for row in paged.rows:
        if singles is None or row.tokens > 1:
            tokens = slice(row.start, row.start + row.tokens)
            keys, values = paged.cache.read(layer, row.places)
            output[tokens] = _attend(query[tokens], keys, values, window, scale)
    return output


def paged_batch(cache: KeyValueCache, rows: Rows[PagedRow]) -> PagedBatch:
    """Return what attention needs of a step; rows of one token are gathered where that is fast."""
    writes = torch.cat([row.places[row.context - row.tokens :] for row in rows])
    alone = [row for row in rows if row.tokens == 1]
    if not alone:
        return PagedBatch(cache, tuple(rows), writes, None)
    if writes.device.type == "cpu":
        return PagedBatch(cache, tuple(rows), writes, _singles(alone))
    kernel = choose_attention(writes.device.type)
    paged = None if kernel is None else _paged_singles(alone, writes.device, kernel)
    return PagedBatch(cache, tuple(rows), writes, paged)


def _singles(rows: Rows[PagedRow]) -> Singles:
    return Singles(
        torch.tensor([row.start for row in rows]),
        torch.cat([row.places for row in rows]).numpy(),
        np.cumsum([0, *(row.context for row in rows)], dtype=np.int64),
    )


def _paged_singles(
    rows: Rows[PagedRow], device: torch.device, kernel: PagedAttention
) -> PagedSingles:
    """Gather rows of one token; each of their places is a page of its own."""
    contexts = torch.tensor([row.context for row in rows], dtype=torch.int32)
    pages = Pages(
        torch.cat([row.places for row in rows]).int(),
        (contexts.cumsum(0) - contexts).int().to(device),
        contexts.to(device),
        1,
    )
    return PagedSingles(torch.tensor([row.start for row in rows], device=device), pages, kernel)


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, window: int | None, scale: float
) -> Tensor:
    """Attend ``[tokens, heads, width]`` to ``[context, key heads, width]``; tokens come last."""
    tokens, context = query.shape[0], keys.shape[0]
    attended = F.scaled_dot_product_attention(
        query.transpose(0, 1).unsqueeze(0),
        keys.transpose(0, 1).unsqueeze(0),
        values.transpose(0, 1).unsqueeze(0),
        attn_mask=_mask(tokens, context, window, query.device),
        scale=scale,
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
