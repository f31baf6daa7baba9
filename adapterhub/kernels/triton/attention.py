"""Attention of rows with one new token each, over the paged cache, on NVIDIA GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton

from adapterhub.kernels.triton.code import attention
from adapterhub.kernels.triton.operands import on_device_of, precision, widens

if TYPE_CHECKING:
    from torch import Tensor

    from adapterhub.kernels.paged_attention import Pages

#: Positions looked at at a time.
POSITIONS = 32
#: Ranges that a row is cut into.
RANGES = 8


def attend_pages(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Pages,
    *,
    window: int | None,
    scale: float,
) -> Tensor:
    """Attend by programs for NVIDIA GPUs; see ``PagedAttention``."""
    query = query.contiguous()
    with on_device_of(query):
        ranges = _attend(query, keys, values, pages, window or 0, scale)
        return _join(query, *ranges)


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, pages: Pages, window: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return sums, highest scores and masses of every range; see ``code/attention.py``."""
    (rows, heads, width), shared = query.shape, keys.shape[1]
    shape, device = (rows, heads, RANGES), query.device
    partial = torch.empty(*shape, width, dtype=torch.float32, device=device)
    maxima = torch.empty(shape, dtype=torch.float32, device=device)
    sums = torch.empty(shape, dtype=torch.float32, device=device)
    attention.attend[(rows, shared, RANGES)](
        query,
        keys,
        values,
        pages.numbers,
        pages.firsts,
        pages.contexts,
        partial,
        maxima,
        sums,
        scale,
        window,
        width,
        WIDTH=_padded(width),
        GROUP=heads // shared,
        HEADS=max(16, triton.next_power_of_2(heads // shared)),
        PAGE=pages.size,
        POSITIONS=POSITIONS,
        RANGES=RANGES,
        WIDE=widens(query.dtype),
        PRECISION=precision(query.dtype),
    )
    return partial, maxima, sums


def _join(query: Tensor, partial: Tensor, maxima: Tensor, sums: Tensor) -> Tensor:
    out, (rows, heads, width) = torch.empty_like(query), query.shape
    sizes = {"WIDTH": _padded(width), "RANGES": RANGES}
    attention.join[(rows * heads,)](partial, maxima, sums, out, width, **sizes)
    return out


def _padded(width: int) -> int:
    """Return the power of two that a head's width is filled up to."""
    return int(triton.next_power_of_2(max(width, 16)))
