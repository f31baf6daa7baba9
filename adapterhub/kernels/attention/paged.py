"""Attention of the sequences of a decoding step to a paged KV cache.

Sequences with one query token are computed together by the kernel of the device; those with more,
as in prefill, one by one with SDPA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from adapterhub.kernels.attention.layout import attend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from adapterhub.kernels.attention.kv_cache import KeyValueCache
    from adapterhub.kernels.attention.layout import AttentionParams


class PageTable(NamedTuple):
    """Pages of KV-cache slots that hold the context of some sequences."""

    # int32, page indices of all sequences, one sequence after the other
    indices: Tensor
    # int32 [num_seqs], position of each sequence's first page in ``indices``
    offsets: Tensor
    # int32 [num_seqs], context length of each sequence in tokens, at least 1
    context_lens: Tensor
    # number of slots in a page
    page_size: int


class PagedAttention(Protocol):
    """Kernel that attends from the newest token of each sequence to its cached context."""

    def __call__(
        self, query: Tensor, keys: Tensor, values: Tensor, pages: PageTable, params: AttentionParams
    ) -> Tensor:
        """Return the output ``[num_seqs, heads, head_dim]``.

        Args:
            query: Queries of the newest tokens ``[num_seqs, heads, head_dim]``.
            keys: Key cache of a layer ``[num_slots, kv_heads, head_dim]``.
            values: Value cache of the layer, shaped as ``keys``.
            pages: Context of each sequence, the newest token last.
            params: Parameters of the layer, causal.
        """


@dataclass(frozen=True, slots=True, eq=False)
class PagedSequence:
    """One sequence of a step.

    Args:
        start: First of its tokens in the batch.
        num_tokens: Number of its tokens in this step.
        context_len: Number of tokens that its last token sees, including itself.
        slots: KV-cache slots of its context.
    """

    start: int
    num_tokens: int
    context_len: int
    # int64 [context_len]
    slots: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class DecodeTokens:
    """Sequences with one token in a step, which are computed together.

    Args:
        tokens: Positions of the tokens in the batch.
    """

    # int64 [num_seqs]
    tokens: Tensor
    pages: PageTable
    kernel: PagedAttention


@dataclass(frozen=True, slots=True, eq=False)
class PagedBatch:
    """All sequences of a step.

    Args:
        slot_mapping: KV-cache slot of each token.
        decode: Sequences with one token, if any.
    """

    cache: KeyValueCache
    sequences: tuple[PagedSequence, ...]
    # int64 [num_tokens]
    slot_mapping: Tensor
    decode: DecodeTokens | None


def paged_batch(
    cache: KeyValueCache, sequences: Sequence[PagedSequence], kernel: PagedAttention
) -> PagedBatch:
    """Return the attention metadata of a step."""
    slot_mapping = torch.cat([each.slots[-each.num_tokens :] for each in sequences])
    single = [each for each in sequences if each.num_tokens == 1]
    decode = _decode_tokens(single, kernel) if single else None
    return PagedBatch(cache, tuple(sequences), slot_mapping, decode)


def _decode_tokens(sequences: Sequence[PagedSequence], kernel: PagedAttention) -> DecodeTokens:
    """Collect sequences with one token; each slot is a page of its own."""
    device = sequences[0].slots.device
    context_lens = torch.tensor([each.context_len for each in sequences], dtype=torch.int32)
    pages = PageTable(
        torch.cat([each.slots for each in sequences]).int(),
        (context_lens.cumsum(0) - context_lens).int().to(device),
        context_lens.to(device),
        1,
    )
    tokens = torch.tensor([each.start for each in sequences], device=device)
    return DecodeTokens(tokens, pages, kernel)


def attend_paged(query: Tensor, batch: PagedBatch, params: AttentionParams) -> Tensor:
    """Attend to the cache, which already holds the keys and values of this step.

    Args:
        query: ``[num_tokens, heads, head_dim]``.

    Returns:
        ``[num_tokens, heads, head_dim]``.
    """
    decode, tables = batch.decode, batch.cache.tables(params.layer)
    if decode is not None and len(decode.tokens) == len(query):
        return decode.kernel(query, *tables, decode.pages, params)
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if decode is not None:
        single = query[decode.tokens]
        output[decode.tokens] = decode.kernel(single, *tables, decode.pages, params)
    for sequence in batch.sequences:
        if sequence.num_tokens > 1:
            tokens = slice(sequence.start, sequence.start + sequence.num_tokens)
            keys, values = batch.cache.read(params.layer, sequence.slots)
            q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query[tokens], keys, values))
            output[tokens] = attend(q, k, v, params)[0].transpose(0, 1)
    return output
