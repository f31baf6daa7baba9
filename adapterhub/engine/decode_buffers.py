"""Inputs of a decoding step in device buffers with fixed addresses, as CUDA graphs need them.

Each sequence of the step has one token. The batch is padded to one of a few sizes with token 0 at
position 0, a context of one token, and keys and values that go to a block of the KV cache which
no sequence uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adapterhub.engine.forward_context import ForwardContext
from adapterhub.kernels.attention.paged import DecodeTokens, PagedBatch, PageTable
from adapterhub.kernels.lora.plan_buffers import BufferedPlan, PlanBuffers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from adapterhub.kernels.attention.kv_cache import KeyValueCache
    from adapterhub.kernels.attention.paged import PagedAttention
    from adapterhub.kernels.lora.plan import LoraPlan


@dataclass(frozen=True, slots=True)
class DecodeSequence:
    """A sequence with one token in a step."""

    token: int
    position: int
    blocks: Sequence[int]


@dataclass(frozen=True, slots=True)
class DecodeSizes:
    """Capacity of the buffers; a step that exceeds it is computed without them.

    Args:
        batch_sizes: Numbers of sequences that steps are padded to, in rising order.
        max_length: Most tokens of a sequence.
        max_slices: Most rank slices of a layer, over all sequences.
        max_ranks: Most ranks of a sequence.
        max_layer_sets: Most distinct sets of layers that adapters change, over all sequences.
    """

    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    max_length: int = 16384
    max_slices: int = 128
    max_ranks: int = 512
    max_layer_sets: int = 15


@dataclass(frozen=True, slots=True, eq=False)
class DecodeInputs:
    """Inputs of a forward pass of one batch size, as views of the buffers."""

    #: int64 [1, batch_size]
    ids: Tensor
    #: int64 [1, batch_size]
    positions: Tensor
    paged: PagedBatch
    context: ForwardContext


class BufferedForwardContext(ForwardContext):
    """A forward context whose plans are in buffers."""

    def __init__(self, plans: Sequence[BufferedPlan] | None) -> None:
        super().__init__(())
        self._buffered = plans

    def plan(self, layer: int, shape: Sequence[int] | None = None) -> LoraPlan | None:
        """Return the plan of a linear layer; layers that work by hooks have higher numbers."""
        if self._buffered is None or layer >= len(self._buffered):
            return None
        return self._buffered[layer]


class DecodeBuffers:
    """Inputs of one decoding step on the device and their copy on the host."""

    def __init__(
        self,
        cache: KeyValueCache,
        num_layers: int,
        sizes: DecodeSizes,
        kernel: PagedAttention,
    ) -> None:
        self.sizes = sizes
        self._cache, self._kernel = cache, kernel
        device, most, size = cache.keys[0].device, sizes.batch_sizes[-1], cache.block_size
        self._max_blocks = -(-sizes.max_length // size)
        self._plans = PlanBuffers(
            device,
            max_tokens=most,
            max_slices=sizes.max_slices,
            max_ranks=sizes.max_ranks,
            tables=sizes.max_layer_sets + 1,
            layers=num_layers,
        )
        #: token ids, positions and KV-cache slots to write, [3, max_batch_size]
        self._tokens = _Mirror(np.zeros((3, most), np.int64), device)
        #: [max_batch_size]
        self._context_lens = _Mirror(np.zeros(most, np.int32), device)
        #: [max_batch_size, max_blocks]
        self._blocks = _Mirror(np.zeros((most, self._max_blocks), np.int32), device)
        #: [max_batch_size]
        self._offsets = torch.arange(most, dtype=torch.int32, device=device) * self._max_blocks
        spare = len(cache.keys[0]) - 1
        self._padding = spare, spare * size + np.arange(most) % size

    def batch_size(self, num_sequences: int) -> int | None:
        """Return the batch size that a step is padded to, if one is large enough."""
        return next((size for size in self.sizes.batch_sizes if size >= num_sequences), None)

    def fits(self, sequences: Sequence[DecodeSequence], plans: Sequence[LoraPlan | None]) -> bool:
        """Return whether a step fits into the buffers."""
        return (
            self.batch_size(len(sequences)) is not None
            and max((len(each.blocks) for each in sequences), default=0) <= self._max_blocks
            and self._plans.fits(plans)
        )

    def fill(self, sequences: Sequence[DecodeSequence], plans: Sequence[LoraPlan | None]) -> None:
        """Copy a step to the device and pad it to the largest batch size."""
        ids, positions, writes = self._tokens.host
        lengths, blocks = self._context_lens.host, self._blocks.host
        spare, spare_slots = self._padding
        count, size = len(sequences), self._cache.block_size
        ids[count:], positions[count:], writes[count:] = 0, 0, spare_slots[count:]
        lengths[count:], blocks[count:, 0] = 1, spare
        for index, each in enumerate(sequences):
            ids[index], positions[index] = each.token, each.position
            writes[index] = each.blocks[each.position // size] * size + each.position % size
            lengths[index] = each.position + 1
            blocks[index, : len(each.blocks)] = each.blocks
        for mirror in (self._tokens, self._context_lens, self._blocks):
            mirror.send()
        self._plans.fill(plans)

    def inputs(self, batch_size: int, *, adapted: bool) -> DecodeInputs:
        """Return the inputs of a forward pass."""
        ids, positions, writes = self._tokens.device[:, :batch_size]
        pages = PageTable(
            self._blocks.device.flatten(),
            self._offsets[:batch_size],
            self._context_lens.device[:batch_size],
            self._cache.block_size,
        )
        decode = DecodeTokens(self._offsets[:batch_size], pages, self._kernel)
        layers = range(len(self._plans.groups))
        plans = [BufferedPlan(self._plans, layer) for layer in layers] if adapted else None
        return DecodeInputs(
            ids.unsqueeze(0),
            positions.unsqueeze(0),
            PagedBatch(self._cache, (), writes, decode),
            BufferedForwardContext(plans),
        )


class _Mirror:
    """An array on the host and its copy on the device, each at a fixed address."""

    def __init__(self, host: NDArray[Any], device: torch.device) -> None:
        self.host = host
        self.device = torch.from_numpy(host).to(device, copy=True)

    def send(self) -> None:
        """Copy the host's values to the device."""
        self.device.copy_(torch.from_numpy(self.host))
