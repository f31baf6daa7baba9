"""Steps of the engine that the compiled decoder computes."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from adapterhub.backbones.step_inputs import step_adapters, tokens_of_step
from adapterhub.kernels.amx import has_amx
from adapterhub.kernels.linear.avx512 import MAX_TOKENS
from adapterhub.kernels.numba_support import compiled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from adapterhub.backbones.compiled_decoder import CompiledDecoder
    from adapterhub.backbones.step_inputs import StepAdapters, StepTokens
    from adapterhub.engine.adapted_layers import AdaptedLayers
    from adapterhub.engine.forward_context import ForwardContext, Run
    from adapterhub.engine.scheduler import ScheduledChunk


class CompiledSteps:
    """Computes chunks with the compiled decoder where their adapters allow it.

    Args:
        decoder: Compiled decoder.
        layers: Adapted layers of the backbone.
        kv_heads: Number of key-value heads of a layer.
        block_size: KV-cache slots of a block.
    """

    def __init__(
        self, decoder: CompiledDecoder, layers: AdaptedLayers, kv_heads: int, block_size: int
    ) -> None:
        self._decoder, self._layers = decoder, layers
        self._kv_heads, self._block_size = kv_heads, block_size
        #: uses of the last step and their adapters, which decoding repeats
        self._last: tuple[tuple[Run, ...], StepAdapters | None] | None = None

    def __call__(self, chunks: Sequence[ScheduledChunk], context: ForwardContext) -> Tensor | None:
        """Return the last hidden states ``[num_tokens, hidden_size]`` of all chunks.

        ``None`` if an adapter changes more than linear layers by pairs, or where torch computes
        many tokens faster.
        """
        if context.num_tokens > MAX_TOKENS and not has_amx():
            return None
        if self._last is None or self._last[0] != context.uses:
            self._last = (context.uses, self._adapters(context))
        adapters = self._last[1]
        return None if adapters is None else self._decoder(self._tokens(chunks), adapters)

    def _adapters(self, context: ForwardContext) -> StepAdapters | None:
        if any(blend.changes for _, blend in context.uses):
            return None
        if any(context.plan(number) for number in self._layers.hooked):
            return None
        plans = [context.plan(number) for number in range(len(self._layers.linear))]
        return step_adapters(plans, context.num_tokens, tiled=self._decoder.tiled)

    def _tokens(self, chunks: Sequence[ScheduledChunk]) -> StepTokens:
        ids = [token for c in chunks for token in c.sequence.token_ids(c.start, c.end)]
        positions = [position for c in chunks for position in range(c.start, c.end)]
        spans = np.array([(c.num_tokens, c.end) for c in chunks], np.int64)
        blocks = list(chain.from_iterable(c.sequence.blocks for c in chunks))
        counts = np.array([len(c.sequence.blocks) for c in chunks], np.int64)
        context = np.empty(spans[:, 1].sum(), np.int64)
        _fill_slots(np.array(blocks, np.int64), counts, spans[:, 1], self._block_size, context)
        arrays = np.array(ids, np.int64), np.array(positions, np.int64)
        return tokens_of_step(*arrays, context, spans, self._kv_heads)


@compiled()
def _fill_slots(
    blocks: NDArray[np.int64],
    counts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    block_size: int,
    slots: NDArray[np.int64],
) -> None:
    """Write the KV-cache slots of the contexts of all sequences.

    Args:
        blocks: Blocks of all sequences, one after the other.
        counts: Number of blocks of each sequence.
        lengths: Length of each context in tokens.
        block_size: Slots of a block.
        slots: Result ``[sum of lengths]``.
    """
    first, at = 0, 0
    for sequence in range(counts.shape[0]):
        for position in range(lengths[sequence]):
            block = blocks[first + position // block_size]
            slots[at] = block * block_size + position % block_size
            at += 1
        first += counts[sequence]
