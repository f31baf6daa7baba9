"""The forward pass of a step: sequences of any adapters over the paged KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from adapterhub.backbones.forward_paths import compiled_decoder, fast_decoder
from adapterhub.engine.compiled_output import StepLogits
from adapterhub.engine.compiled_steps import CompiledSteps
from adapterhub.engine.cuda_graphs import decode_graphs
from adapterhub.engine.decode_buffers import DecodeSequence
from adapterhub.engine.forward_context import (
    ForwardContext,
    get_forward_context,
    set_forward_context,
)
from adapterhub.engine.layer_changes import mask_unknown_tokens
from adapterhub.errors import EngineError
from adapterhub.kernels.attention.paged import PagedBatch, PagedSequence, paged_batch
from adapterhub.kernels.attention.transformers_interface import fast_attention
from adapterhub.kernels.choice import choose_paged_attention

if TYPE_CHECKING:
    from torch import Tensor

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.adapted_layers import AdaptedLayers
    from adapterhub.engine.adapter_manager import AdapterManager
    from adapterhub.engine.adapter_slots import Blend
    from adapterhub.engine.config import EngineConfig
    from adapterhub.engine.output_step import OutputStep
    from adapterhub.engine.scheduler import ScheduledChunk
    from adapterhub.engine.sequences import Sequence
    from adapterhub.kernels.attention.kv_cache import KeyValueCache
    from adapterhub.kernels.lora.plan import LoraKernel


class ModelRunner:
    """Computes the chunks of a step with a decoder."""

    def __init__(
        self,
        backbone: Backbone,
        layers: AdaptedLayers,
        output: OutputStep | None,
        cache: KeyValueCache,
        adapters: AdapterManager,
        kernel: LoraKernel,
        config: EngineConfig,
    ) -> None:
        self._backbone = backbone
        self._layers = layers
        self._output = output
        self.cache = cache
        self._adapters = adapters
        self._block_size = config.block_size
        self._attention = choose_paged_attention(backbone.device.type)
        dtype = cache.keys[0].dtype if cache.keys else torch.float32
        self.fast = fast_decoder(backbone, dtype)
        self.compiled = self._compiled_steps()
        self.graphs = decode_graphs(
            backbone.config, cache, len(layers.linear), kernel, self.forward, config
        )

    def __call__(self, chunks: list[ScheduledChunk]) -> Tensor:
        """Return the last hidden states ``[num_tokens, hidden_size]`` of all chunks."""
        context = ForwardContext([run for c in chunks for run in c.sequence.runs(c.start, c.end)])
        replayed = self._replay(chunks, context)
        if replayed is not None:
            return replayed
        if self.compiled is not None:
            found = self.compiled(chunks, context)
            if found is not None:
                return found
        ids = [token for c in chunks for token in c.sequence.token_ids(c.start, c.end)]
        positions = [position for c in chunks for position in range(c.start, c.end)]
        device = self._backbone.device
        paged = self._paged(chunks)
        with torch.no_grad(), set_forward_context(context):
            return self.forward(
                torch.tensor([ids], device=device), torch.tensor([positions], device=device), paged
            )

    def forward(self, ids: Tensor, positions: Tensor, paged: PagedBatch) -> Tensor:
        """Return the last hidden states ``[num_tokens, hidden_size]``.

        Args:
            ids: Token ids ``[1, num_tokens]``.
            positions: Positions ``[1, num_tokens]``.
            paged: Places of the tokens in the KV cache.
        """
        context = get_forward_context()
        # norm layers of adapters hook transformers' own modules
        if self.fast is not None and not (context is not None and context.norms):
            return self.fast(ids, positions, paged)
        with fast_attention(self._backbone.base_model):
            output = self._backbone.base_model(
                input_ids=ids,
                position_ids=positions,
                # a 4D mask is passed on unchanged, and paged attention needs none
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device),
                paged=paged,
                use_cache=False,
            )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def logits(self, hidden: Tensor, blends: list[Blend]) -> Tensor:
        """Return logits ``[n, vocab_size]`` for hidden states ``[n, hidden_size]``."""
        return self.step_logits(hidden, blends).logits

    def step_logits(self, hidden: Tensor, blends: list[Blend]) -> StepLogits:
        """Return logits as ``logits`` does, and the most likely tokens where they cost nothing."""
        if self._output is None:
            raise EngineError("does not generate text", place=self._backbone.name)
        output = self._layers.output
        context = ForwardContext([(1, blend) for blend in blends])
        with torch.no_grad(), set_forward_context(context):
            if output is not None and context.plan(output.number) is None:
                return self._output.plain(hidden)
            logits: Tensor = self._output(hidden)
        mask_unknown_tokens(logits, blends, self.vocab_size)
        return StepLogits(logits)

    @property
    def vocab_size(self) -> int:
        """Number of outputs of the backbone's own output layer."""
        return 0 if self._layers.output is None else self._layers.output.out_features

    def fill_prefix(self, sequence: Sequence, start: int, end: int) -> None:
        """Copy virtual tokens of a sequence's prefix adapter to its blocks."""
        size = self._block_size
        places = torch.tensor(
            [sequence.blocks[p // size] * size + p % size for p in range(start, end)],
            device=self._backbone.device,
        )
        for prefix in self._adapters.prefixes(sequence):
            for layer in range(len(prefix.keys)):
                keys, values = prefix.keys[layer][start:end], prefix.values[layer][start:end]
                self.cache.write(layer, places, keys, values)

    def _compiled_steps(self) -> CompiledSteps | None:
        decoder = compiled_decoder(self._backbone, self.cache) if self.cache.keys else None
        if decoder is None:
            return None
        kv_heads = self.cache.keys[0].shape[2]
        return CompiledSteps(decoder, self._layers, kv_heads, self._block_size)

    def _replay(self, chunks: list[ScheduledChunk], context: ForwardContext) -> Tensor | None:
        """Return the hidden states by a CUDA graph, or ``None`` where no graph fits the step.

        Graphs contain LoRA pairs and no other changes, and decode one token per sequence.
        """
        if self.graphs is None or any(chunk.num_tokens != 1 for chunk in chunks):
            return None
        if any(blend.changes for _, blend in context.uses):
            return None
        if any(context.plan(layer) for layer in self._layers.hooked):
            return None
        sequences = [
            DecodeSequence(c.sequence.token_ids(c.start, c.end)[0], c.start, c.sequence.blocks)
            for c in chunks
        ]
        return self.graphs(sequences, context)

    def _paged(self, chunks: list[ScheduledChunk]) -> PagedBatch:
        sequences, start, size = [], 0, self._block_size
        blocks = torch.tensor([block for chunk in chunks for block in chunk.sequence.blocks])
        places = blocks.unsqueeze(1) * size + torch.arange(size)
        spans = places.split([len(chunk.sequence.blocks) for chunk in chunks])
        for chunk, span in zip(chunks, spans, strict=True):
            seen = span.flatten()[: chunk.end].to(self._backbone.device)
            sequences.append(PagedSequence(start, chunk.num_tokens, chunk.end, seen))
            start += chunk.num_tokens
        return paged_batch(self.cache, sequences, self._attention)
