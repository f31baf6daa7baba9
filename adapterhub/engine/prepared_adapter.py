"""Adapters in the compute type, as host memory holds them and the device copies them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from adapterhub.engine.heads import TaskHead


@dataclass(frozen=True, slots=True, eq=False)
class LoraFactors:
    """Tensors of a LoRA adapter by number of the adapted layer.

    Args:
        rank: Rank of all pairs.
        pairs: Layer to ``A`` and ``B``; the LoRA scale is folded into ``B``.
        magnitude_scales: Layer to DoRA's factor of the layer's own output.
        norms: Layer to the parameters of a norm layer that the adapter replaces, by name.
        head: Head and task of an adapter that labels.
    """

    rank: int
    #: A [rank, in_features] and B [rank, out_features], both in the compute type
    pairs: Mapping[int, tuple[Tensor, Tensor]]
    #: float32 [out_features]
    magnitude_scales: Mapping[int, Tensor] = field(default_factory=dict)
    #: [hidden_size] each
    norms: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    head: TaskHead | None = None

    @property
    def layers(self) -> frozenset[int]:
        """Numbers of the layers that the adapter changes."""
        return frozenset((*self.pairs, *self.norms))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return _head_bytes(self.head) + sum(self.layer_bytes(layer) for layer in self.layers)

    def layer_bytes(self, layer: int) -> int:
        """Return the bytes of the tensors of one layer."""
        tensors = [*self.pairs.get(layer, ()), *self.norms.get(layer, {}).values()]
        if layer in self.magnitude_scales:
            tensors.append(self.magnitude_scales[layer])
        return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True, slots=True, eq=False)
class PrefixStates:
    """Keys and values of a prefix adapter, one tensor per layer of the backbone."""

    #: [num_virtual_tokens, num_kv_heads, head_dim] each
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    head: TaskHead | None = None

    @property
    def length(self) -> int:
        """Number of virtual tokens."""
        return len(self.keys[0])

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return _head_bytes(self.head) + sum(each.nbytes for each in (*self.keys, *self.values))


PreparedAdapter: TypeAlias = LoraFactors | PrefixStates


def _head_bytes(head: TaskHead | None) -> int:
    return 0 if head is None else head.nbytes
