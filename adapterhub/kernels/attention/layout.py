"""Sequences of a packed batch, attention masks, and attention by torch's fused kernels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionParams:
    """Parameters of the attention of one layer.

    Args:
        causal: Whether a position sees only itself and earlier positions.
        window: Number of positions that a position sees in one direction, including itself;
            ``None`` for no limit.
    """

    layer: int
    causal: bool
    window: int | None
    scale: float


class PrefixKeyValues(Protocol):
    """Trained keys and values that precede a sequence."""

    @property
    def keys(self) -> tuple[Tensor, ...]:
        """Keys of each layer, ``[num_virtual_tokens, kv_heads, head_dim]``."""

    @property
    def values(self) -> tuple[Tensor, ...]:
        """Values of each layer, shaped as the keys."""


@dataclass(frozen=True, slots=True, eq=False)
class SequenceRun:
    """Consecutive sequences of equal length and with the same prefix."""

    start: int
    count: int
    length: int
    prefix: PrefixKeyValues | None

    @property
    def end(self) -> int:
        """One past the last token."""
        return self.start + self.count * self.length

    def of(self, states: Tensor, offset: int = 0) -> Tensor:
        """View the run's part of ``[heads, offset + num_tokens, dim]`` by sequence.

        Returns:
            ``[count, heads, length, dim]``.
        """
        own = states[:, offset + self.start : offset + self.end]
        return own.unflatten(1, (self.count, self.length)).transpose(0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class PackedSequences:
    """Sequences laid end to end in one batch row; tokens after the last one are padding.

    Args:
        prefixes: Prefix of each sequence, or empty if there are none.
    """

    lengths: tuple[int, ...]
    prefixes: tuple[PrefixKeyValues | None, ...] = ()

    def runs(self) -> Iterator[SequenceRun]:
        """Yield runs of neighbours that can be computed in one call."""
        prefixes = self.prefixes or (None,) * len(self.lengths)
        start = 0
        pairs = zip(self.lengths, prefixes, strict=True)
        for (length, _), members in groupby(pairs, key=lambda pair: (pair[0], id(pair[1]))):
            run = list(members)
            yield SequenceRun(start, len(run), length, run[0][1])
            start += len(run) * length


def prepend(prefix: Tensor, own: Tensor) -> Tensor:
    """Put a prefix ``[heads, n, dim]`` before each of ``[count, heads, length, dim]``."""
    shared = prefix.to(own.device, own.dtype).expand(len(own), -1, -1, -1)
    return torch.cat((shared, own), dim=2)


def visible_keys(
    queries: int, context: int, params: AttentionParams, device: torch.device
) -> Tensor:
    """Return which keys each query sees, bool ``[queries, context]``.

    Args:
        queries: Number of queries, which are the last positions of the context.
    """
    position = torch.arange(context - queries, context, device=device).unsqueeze(1)
    distance = position - torch.arange(context, device=device).unsqueeze(0)
    visible = distance >= 0 if params.causal else torch.ones_like(distance, dtype=torch.bool)
    return visible if params.window is None else visible & (distance.abs() < params.window)


def needs_mask(queries: int, context: int, params: AttentionParams) -> bool:
    """Return whether SDPA needs a mask rather than its ``is_causal`` flag."""
    if params.window is not None and context > params.window:
        return True
    return params.causal and queries not in (1, context)


def attend(
    query: Tensor, key: Tensor, value: Tensor, params: AttentionParams, *, dropout: float = 0.0
) -> Tensor:
    """Attend with torch's SDPA; the queries are the last positions of the context.

    Args:
        query: ``[count, heads, queries, head_dim]``.
        key: ``[count, kv_heads, context, head_dim]``.
        value: Shaped as ``key``.

    Returns:
        ``[count, heads, queries, head_dim]``.
    """
    queries, context, mask = query.shape[2], key.shape[2], None
    if needs_mask(queries, context, params):
        mask = visible_keys(queries, context, params, query.device)
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and query.device.type != "cpu" and (mask is not None or dropout):
        # with grouped heads and a mask, SDPA has no fused kernel on GPUs
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        scale=params.scale,
        is_causal=params.causal and mask is None and queries > 1,
        enable_gqa=key.shape[1] != query.shape[1],
    )
