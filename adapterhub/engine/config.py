"""Configuration of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: ``auto`` uses the fast path where it is equal to transformers' own ``forward``.
ForwardPath = Literal["auto", "padded"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes and limits of an engine.

    Args:
        max_num_seqs: Most sequences that run at once.
        max_num_batched_tokens: Most tokens of a step; longer prompts are read in chunks.
        kv_cache_tokens: Capacity of the KV cache in tokens, over all sequences; on the padded path
            of the caches of all groups, with the tokens that they may still generate.
        block_size: Tokens in a block of the KV cache.
        rank_slots: Sum of the ranks of all adapters on the device; 32 adapters of rank 16 take
            512.
        max_pooling_tokens: Most tokens of pooling requests that are computed together.
        host_cache_bytes: Bytes of host memory for adapters in the compute type.
        prefetch_lookahead: Waiting requests, from the head of the queue, whose adapters are
            fetched and which may start before older ones.
        max_overtakes: Most sequences that may start before an older one whose adapters are in
            host memory; then it starts next.
        max_copy_bytes: Bytes of adapters that are copied to the device per step while sequences
            run.
        forward_path: ``auto``, or ``padded`` for transformers' own classes, in generation with
            their own cache, on every backbone.
    """

    max_num_seqs: int = 32
    max_num_batched_tokens: int = 512
    kv_cache_tokens: int = 16384
    block_size: int = 16
    rank_slots: int = 512
    max_pooling_tokens: int = 2048
    host_cache_bytes: int = 2 * 1024**3
    prefetch_lookahead: int = 64
    max_overtakes: int = 32
    max_copy_bytes: int = 4 * 1024**2
    forward_path: ForwardPath = "auto"
