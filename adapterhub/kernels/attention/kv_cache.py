"""Memory of the KV cache: one key and one value table per layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig


class KeyValueCache:
    """Keys and values of all layers in blocks of slots."""

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
        # of each layer [blocks, block_size, kv_heads, head_dim]
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.block_size = block_size

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Write keys and values ``[num_tokens, kv_heads, head_dim]`` to slots, int64."""
        keys, values = self.tables(layer)
        keys.index_copy_(0, slots, key)
        values.index_copy_(0, slots, value)

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values ``[num_tokens, kv_heads, head_dim]`` in slots, int64."""
        keys, values = self.tables(layer)
        return keys.index_select(0, slots), values.index_select(0, slots)

    def tables(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return views of all keys and values of a layer, ``[num_slots, kv_heads, head_dim]``."""
        return self.keys[layer].flatten(0, 1), self.values[layer].flatten(0, 1)

    @property
    def nbytes(self) -> int:
        """Size of all tables in bytes."""
        return sum(table.nbytes for table in (*self.keys, *self.values))


def cache_shape(config: PretrainedConfig) -> tuple[int, int, int]:
    """Return the number of layers and of key-value heads, and the dimension of a head."""
    config = config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_hidden_layers), int(heads), int(width)
