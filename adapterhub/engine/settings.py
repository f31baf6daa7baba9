"""Sizes that an engine is built with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Sizes that an engine is built with.

    Args:
        max_rows: most rows that run at once.
        step_tokens: most tokens of a step; longer prompts are read in pieces.
        cache_positions: of the key-value cache, over all rows.
        block_size: positions in a block of the cache.
        rank_rows: of all resident adapters together: 32 adapters of rank 16 have 512.
        pass_tokens: most tokens of rows that are labelled or embedded together.
    """

    max_rows: int = 32
    step_tokens: int = 512
    cache_positions: int = 16384
    block_size: int = 16
    rank_rows: int = 512
    pass_tokens: int = 2048
