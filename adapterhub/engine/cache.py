"""The memory of the key-value cache: one table of blocks a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig


class KeyValueCache:
    """Keys and values of all layers.

    Args:
        layers: of the backbone.
        heads: key-value heads of a layer.
        width: of a head.
        blocks: of the cache.
        block_size: positions in a block.
        dtype: compute type of the backbone.
        device: of the backbone.
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        width: int,
        blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (blocks, block_size, heads, width)
        #: of each layer, [blocks, block size, heads, width]
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.block_size = block_size

    def write(self, layer: int, places: Tensor, key: Tensor, value: Tensor) -> None:
        """Store keys and values ``[tokens, heads, width]`` at flat places ``[tokens]`` int64."""
        self.keys[layer].flatten(0, 1).index_copy_(0, places, key)
        self.values[layer].flatten(0, 1).index_copy_(0, places, value)

    def read(self, layer: int, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values ``[positions, heads, width]`` at flat places."""
        keys = self.keys[layer].flatten(0, 1).index_select(0, places)
        return keys, self.values[layer].flatten(0, 1).index_select(0, places)

    def tables(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return all keys and values of a layer, each ``[places, heads, width]``."""
        return self.keys[layer].flatten(0, 1), self.values[layer].flatten(0, 1)

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return sum(table.nbytes for table in (*self.keys, *self.values))


def cache_shape(config: PretrainedConfig) -> tuple[int, int, int]:
    """Return layers, key-value heads and width of a head of a decoder."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_hidden_layers), int(heads), int(width)
