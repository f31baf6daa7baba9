"""Sizes that an engine is built with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes that an engine is built with.

    Args:
        max_num_seqs: most rows that run at once.
        max_num_batched_tokens: most tokens of a step; longer prompts are read in pieces.
        kv_cache_tokens: of the key-value cache, over all rows.
        block_size: positions in a block of the cache.
        rank_slots: of all resident adapters together: 32 adapters of rank 16 have 512.
        max_pooling_tokens: most tokens of rows that are labelled or embedded together.
        host_cache_bytes: of host memory for adapters in the compute type.
        prefetch_lookahead: rows from the head of the queue on that are looked at in a step: their
            adapters are brought up, and one of them may start before an older one.
        max_overtakes: most rows that may start before an older one whose adapters are in host
            memory; then it is the next to start.
        max_copy_bytes: bytes of adapters copied to the device before a step of running rows.
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
