"""Adapter weights: an immutable spec plus named tensors."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from adapterhub.specs import AdapterSpec


@dataclass(frozen=True, slots=True, eq=False)
class AdapterWeights:
    """An adapter as training returns it, an artifact stores it and the engine loads it.

    The mapping is a read-only copy in sorted order. The tensors are shared with the caller and
    must not be written to.

    Args:
        tensors: peft's key in ``adapter_model.safetensors`` to tensor. For LoRA
            ``base_model.model.<module>.lora_A.weight`` is ``[rank, in]`` and ``lora_B.weight``
            ``[out, rank]``, with DoRA ``lora_magnitude_vector`` ``[out]``; a prefix is
            ``prompt_embeddings`` ``[num_virtual_tokens, num_layers * 2 * kv_size]``; heads and
            other trained modules keep their own shapes.
    """

    spec: AdapterSpec
    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        ordered = {key: self.tensors[key] for key in sorted(self.tensors)}
        object.__setattr__(self, "tensors", MappingProxyType(ordered))

    @property
    def num_parameters(self) -> int:
        """Number of scalars in all tensors."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Size of all tensors in memory, in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())
