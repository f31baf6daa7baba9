"""Attention of single passes: whole rows laid end to end, without a key-value cache.

What a pass is about travels with the call as the keyword ``paged``, as a generating step's does.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from adapterhub.engine.prefixes import PrefixStates


@dataclass(frozen=True, slots=True, eq=False)
class PassRow:
    """One row of a pass.

    Args:
        tokens: that it has.
        prefix: trained keys and values before its own, if any.
    """

    tokens: int
    prefix: PrefixStates | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PassBatch:
    """All rows of a pass, in the order of the batch; tokens after the last one are filling.

    Args:
        rows: of the batch.
    """

    rows: tuple[PassRow, ...]


@dataclass(frozen=True, slots=True)
class View:
    """What a position of a layer sees.

    Args:
        layer: number of the layer.
        causal: only itself and what lies before it.
        window: how far it sees, itself included; ``None`` is no limit.
        scale: of the scores.
    """

    layer: int
    causal: bool
    window: int | None
    scale: float


def attend_passes(
    query: Tensor, key: Tensor, value: Tensor, batch: PassBatch, view: View
) -> Tensor:
    """Attend within each row and return ``[tokens, heads, width]``; filling gets zeros.

    Neighbours of equal length with the same prefix are one call.

    Args:
        query: ``[heads, tokens, width]``.
        key: ``[key heads, tokens, width]``.
        value: shaped as ``key``.
        batch: the rows.
        view: of the layer.
    """
    output = query.new_zeros(query.shape[1], query.shape[0], query.shape[2])
    for start, rows, first in _runs(batch):
        own = slice(start, start + rows * first.tokens)
        keys, values = _by_row(key[:, own], rows), _by_row(value[:, own], rows)
        if first.prefix is not None:
            keys = _after(first.prefix.keys[view.layer], keys)
            values = _after(first.prefix.values[view.layer], values)
        mask = _mask(first.tokens, keys.shape[2], view, query.device)
        attended = F.scaled_dot_product_attention(
            _by_row(query[:, own], rows),
            keys,
            values,
            attn_mask=mask,
            scale=view.scale,
            is_causal=view.causal and mask is None,
            enable_gqa=True,
        )
        output[own] = attended.transpose(1, 2).flatten(0, 1)
    return output


def _runs(batch: PassBatch) -> Iterator[tuple[int, int, PassRow]]:
    """Yield ``(first token, rows, first row)`` of each run of like neighbours."""
    start = 0
    for _, members in groupby(batch.rows, key=lambda row: (row.tokens, id(row.prefix))):
        run = list(members)
        yield start, len(run), run[0]
        start += len(run) * run[0].tokens


def _by_row(states: Tensor, rows: int) -> Tensor:
    """View ``[heads, rows * tokens, width]`` as ``[rows, heads, tokens, width]``."""
    return states.unflatten(1, (rows, -1)).transpose(0, 1)


def _after(prefix: Tensor, own: Tensor) -> Tensor:
    """Put ``[virtual, heads, width]`` before each of ``[rows, heads, tokens, width]``."""
    shared = prefix.to(own.device, own.dtype).transpose(0, 1).unsqueeze(0)
    return torch.cat((shared.expand(len(own), -1, -1, -1), own), dim=2)


def _mask(tokens: int, context: int, view: View, device: torch.device) -> Tensor | None:
    """Return ``[tokens, context]``, or ``None`` where SDPA's causal flag says it all."""
    narrow = view.window is not None and context > view.window
    if not narrow and (not view.causal or tokens == context):
        return None
    queries = torch.arange(context - tokens, context, device=device).unsqueeze(1)
    distance = queries - torch.arange(context, device=device).unsqueeze(0)
    visible = distance >= 0 if view.causal else torch.ones_like(distance, dtype=torch.bool)
    return visible & (distance.abs() < view.window) if narrow else visible
