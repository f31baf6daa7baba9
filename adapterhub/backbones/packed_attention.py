"""Attention over rows laid end to end, through transformers' attention interface.

The row lengths travel with the call as the keyword ``row_lengths``, down through the
model's own ``**kwargs``. A call without it is ordinary scaled dot-product attention, so
one loaded model serves packed batches and padded generation alike.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adapterhub.kernels.packed_attention import AttentionLayout
from adapterhub.kernels.packed_attention import packed_attention as packed_attention_cpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

#: The name under which models find this attention.
ATTENTION_NAME = "adapterhub_packed"


def install_packed_attention() -> None:
    """Make the attention known to transformers; calling it again changes nothing."""
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, packed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, sdpa_mask)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    row_lengths: tuple[int, ...] | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each row of a packed batch.

    Args:
        query: ``[1, heads, tokens, head_dim]``.
        key: ``[1, key_heads, prefix + tokens, head_dim]``; positions before the last
            ``tokens`` are a trained prefix that every row sees.
        value: shaped as ``key``.
        row_lengths: tokens of each row, positions after the last one get zeros; ``None``
            hands the call to plain SDPA.
        sliding_window: how far back a position sees, itself included.

    Returns:
        ``[1, tokens, heads, head_dim]`` and ``None`` for the weights.
    """
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    if row_lengths is None:
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **kwargs,
        )
    prefix = key.shape[2] - query.shape[2]
    if query.device.type == "cpu" and not dropout:
        layout = AttentionLayout(
            row_lengths, prefix, causal, sliding_window, scaling or query.shape[-1] ** -0.5
        )
        return packed_attention_cpu(query[0], key[0], value[0], layout).unsqueeze(0), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    pieces = [
        _attend_run(
            query[0, :, start : start + rows * length],
            key[0],
            value[0],
            start=start,
            rows=rows,
            prefix=prefix,
            causal=causal,
            window=sliding_window,
            dropout=dropout,
            scaling=scaling,
        )
        for start, rows, length in _runs(row_lengths)
    ]
    attended = torch.cat(pieces, dim=0)
    fill = query.shape[2] - attended.shape[0]
    return F.pad(attended, (0, 0, 0, 0, 0, fill)).unsqueeze(0), None


def _runs(lengths: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Yield ``(first token, rows, length)`` of each run of neighbours of equal length."""
    start = 0
    for length, members in groupby(lengths):
        rows = len(list(members))
        yield start, rows, length
        start += rows * length


def _attend_run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    start: int,
    rows: int,
    prefix: int,
    causal: bool,
    window: int | None,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """Attend within ``rows`` rows of equal length in one call; returns ``[tokens, heads, dim]``."""
    heads, tokens, dim = query.shape
    length = tokens // rows

    def by_row(states: Tensor) -> Tensor:
        own = states[:, prefix + start : prefix + start + tokens]
        own = own.reshape(heads, rows, length, dim).transpose(0, 1)
        if not prefix:
            return own
        shared = states[:, :prefix].unsqueeze(0).expand(rows, -1, -1, -1)
        return torch.cat((shared, own), dim=2)

    mask = _mask(length, prefix, causal, window, query.device)
    output = F.scaled_dot_product_attention(
        query.reshape(heads, rows, length, dim).transpose(0, 1),
        by_row(key),
        by_row(value),
        attn_mask=mask,
        dropout_p=dropout,
        scale=scaling,
        is_causal=causal and mask is None,
    )
    return output.transpose(1, 2).reshape(tokens, heads, dim)


def _mask(
    length: int, prefix: int, causal: bool, window: int | None, device: torch.device
) -> Tensor | None:
    """Return ``[length, prefix + length]``, or ``None`` where SDPA's causal flag says it all."""
    banded = window is not None and prefix + length > window
    if not causal or (not prefix and not banded):
        return None
    queries = torch.arange(prefix, prefix + length, device=device).unsqueeze(1)
    keys = torch.arange(prefix + length, device=device).unsqueeze(0)
    visible = keys <= queries
    return visible & (queries - keys < window) if banded else visible
