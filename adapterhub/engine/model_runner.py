"""The forward pass of a step: rows that generate, each with its adapters and its own positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from adapterhub.engine.adapter_slots import BARE
from adapterhub.engine.cuda_graphs import decode_graphs, replay
from adapterhub.engine.decoder import FastDecoder, can_run
from adapterhub.engine.families import capped
from adapterhub.engine.forward_context import (
    ForwardContext,
    get_forward_context,
    set_forward_context,
)
from adapterhub.errors import EngineError
from adapterhub.kernels.attention.paged import PagedBatch, PagedSequence, paged_batch
from adapterhub.kernels.choice import choose_paged_attention

if TYPE_CHECKING:
    from torch import Tensor

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.adapted_layers import AdaptedLayers
    from adapterhub.engine.adapter_manager import AdapterManager
    from adapterhub.engine.adapter_slots import Blend
    from adapterhub.engine.config import EngineConfig
    from adapterhub.engine.scheduler import ScheduledChunk
    from adapterhub.engine.sequences import Sequence
    from adapterhub.kernels.attention.kv_cache import KeyValueCache
    from adapterhub.kernels.lora.plan import LoraKernel


class ModelRunner:
    """Computes steps of a decoder over a paged cache."""

    def __init__(
        self,
        backbone: Backbone,
        sites: AdaptedLayers,
        cache: KeyValueCache,
        adapter_manager: AdapterManager,
        kernel: LoraKernel,
        settings: EngineConfig,
    ) -> None:
        """Choose how this backbone is computed on its device.

        Args:
            backbone: with its sites in place.
            sites: of the backbone.
            cache: of keys and values.
            adapter_manager: of the adapters.
            kernel: of the sites.
            settings: of the engine.
        """
        self._backbone = backbone
        self._sites = sites
        self.cache = cache
        self._residency = adapter_manager
        self._block_size = settings.block_size
        self._attention = choose_paged_attention(backbone.device.type)
        dtype = cache.keys[0].dtype if cache.keys else torch.float32
        self.fast = (
            FastDecoder(backbone.base_model) if can_run(backbone.base_model, dtype) else None
        )
        self.graphs = decode_graphs(
            backbone.config, cache, len(sites.linear), kernel, self.body, settings
        )

    def __call__(self, pieces: list[ScheduledChunk]) -> Tensor:
        """Return the last hidden states ``[tokens, hidden]`` of all pieces."""
        uses = [(p.end - p.start, p.sequence.blend or BARE) for p in pieces]
        step = ForwardContext(uses)
        # a graph has no hooks of embeddings and norm layers in it
        graphs = None if any(step.plan(site) for site in self._sites.hooked) else self.graphs
        replayed = replay(graphs, pieces, step, self._residency)
        if replayed is not None:
            return replayed
        ids = [id_ for p in pieces for id_ in p.sequence.tokens(p.start, p.end)]
        positions = [position for p in pieces for position in range(p.start, p.end)]
        device = self._backbone.device
        id_row = torch.tensor([ids], device=device)
        position_row = torch.tensor([positions], device=device)
        paged = self._paged(pieces)
        with torch.no_grad(), set_forward_context(step):
            return self.body(id_row, position_row, paged)

    def body(self, ids: Tensor, positions: Tensor, paged: PagedBatch) -> Tensor:
        """Return the last hidden states ``[tokens, hidden]`` for ids ``[1, tokens]``."""
        step = get_forward_context()
        # norm layers of adapters are in transformers' own modules
        if self.fast is not None and not (step is not None and step.norms):
            return self.fast(ids, positions, paged)
        output = self._backbone.base_model(
            input_ids=ids,
            position_ids=positions,
            # a ready mask is passed on as it is; paged attention has its own
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device),
            paged=paged,
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def logits(self, hidden: Tensor, blends: list[Blend]) -> Tensor:
        """Return the vocabulary's logits at positions ``[n, hidden]``, each with its adapters."""
        if self._sites.output is None:
            raise EngineError("does not generate text", place=self._backbone.name)
        with torch.no_grad(), set_forward_context(ForwardContext([(1, blend) for blend in blends])):
            return capped(self._sites.output(hidden), self._backbone.config)

    def fill_prefix(self, sequence: Sequence, start: int, end: int) -> None:
        """Copy positions of a row's trained prefix into the cache, whose blocks are taken."""
        size = self._block_size
        places = torch.tensor(
            [sequence.blocks[p // size] * size + p % size for p in range(start, end)],
            device=self._backbone.device,
        )
        for prefix in self._residency.prefixes(sequence):
            for layer in range(len(prefix.keys)):
                keys, values = prefix.keys[layer][start:end], prefix.values[layer][start:end]
                self.cache.write(layer, places, keys, values)

    def _paged(self, pieces: list[ScheduledChunk]) -> PagedBatch:
        rows, start, size = [], 0, self._block_size
        blocks = torch.tensor([block for piece in pieces for block in piece.sequence.blocks])
        places = blocks.unsqueeze(1) * size + torch.arange(size)
        spans = places.split([len(piece.sequence.blocks) for piece in pieces])
        for piece, span in zip(pieces, spans, strict=True):
            count = piece.end - piece.start
            seen = span.flatten()[: piece.end].to(self._backbone.device)
            rows.append(PagedSequence(start, count, piece.end, seen))
            start += count
        return paged_batch(self.cache, rows, self._attention)
