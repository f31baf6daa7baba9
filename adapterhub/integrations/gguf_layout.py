"""What llama.cpp expects of a model: names, order of rows, and parameters of the architecture.

Sources: ``conversion/llama.py``, ``conversion/qwen.py`` and ``convert_lora_to_gguf.py`` of
llama.cpp b10605, and ``gguf/tensor_mapping.py`` of gguf 0.19.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gguf
import torch

from adapterhub.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

#: transformers' ``model_type`` to llama.cpp's architecture.
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
_ELSEWHERE = (
    "Merge it with adapterhub merge, and convert the checkpoint with llama.cpp's "
    "convert_hf_to_gguf.py"
)


@dataclass(frozen=True, slots=True)
class GgufLayout:
    """Names and order of the tensors of one model.

    Args:
        config: transformers' configuration of the text model.
        arch: llama.cpp's architecture.
        names: gguf's map from the names of transformers to those of llama.cpp.
    """

    config: Any
    arch: gguf.MODEL_ARCH
    names: gguf.TensorNameMap

    @classmethod
    def of(cls, config: Any, place: str) -> GgufLayout:
        """Return the layout of an architecture.

        Raises:
            ArtifactError: If the architecture is not one of those that are exported.
        """
        if config.model_type not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ArtifactError(
                f"the architecture {config.model_type!r} is not exported to GGUF ({known} are)",
                place=place,
                hint=_ELSEWHERE,
            )
        if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
            raise ArtifactError(
                "has layers with a sliding window, which are not exported to GGUF",
                place=place,
                hint=_ELSEWHERE,
            )
        arch = ARCHITECTURES[config.model_type]
        return cls(config, arch, gguf.get_tensor_name_map(arch, config.num_hidden_layers))

    @property
    def arch_name(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(gguf.MODEL_ARCH_NAMES[self.arch])

    @property
    def head_dim(self) -> int:
        """Size of an attention head."""
        given = getattr(self.config, "head_dim", None)
        return int(given or self.config.hidden_size // self.config.num_attention_heads)

    def name_of(self, path: str, place: str) -> str:
        """Return llama.cpp's name of a module or a parameter.

        Args:
            path: Path in transformers' class, such as ``model.layers.0.self_attn.q_proj``.

        Raises:
            ArtifactError: If llama.cpp has no such tensor.
        """
        found = self.names.get_name(path, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ArtifactError(f"llama.cpp has no tensor for {path!r}", place=place)
        return str(found)

    def rows(self, path: str, tensor: Tensor) -> Tensor:
        """Return a tensor with its rows in llama.cpp's order.

        The queries and keys of Llama rotate pairs of neighbouring rows in llama.cpp, and the two
        halves of a head in transformers.

        Args:
            path: Path of its module in transformers' class.
            tensor: Weight ``[out, in]``, bias ``[out]``, or ``B`` of a LoRA ``[out, rank]``.
        """
        heads = {
            "q_proj": self.config.num_attention_heads,
            "k_proj": self.config.num_key_value_heads,
        }.get(path.rpartition(".")[2])
        if self.arch != gguf.MODEL_ARCH.LLAMA or heads is None:
            return tensor
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.transpose(1, 2).reshape(tensor.shape)

    def write_parameters(self, writer: gguf.GGUFWriter, name: str) -> None:
        """Write the parameters of the architecture into a GGUF file."""
        config, theta = self.config, self._rope("rope_theta", 10000.0)
        writer.add_name(name)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_freq_base(theta)
        writer.add_rope_dimension_count(self.head_dim)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)

    def extra_tensors(self, place: str) -> dict[str, Tensor]:
        """Return tensors that llama.cpp has and transformers computes, by llama.cpp's name.

        Raises:
            ArtifactError: For a scaling of positions other than Llama 3's.
        """
        kind = self._rope("rope_type", "default")
        if kind == "default":
            return {}
        if kind != "llama3":
            raise ArtifactError(
                f"the scaling of positions {kind!r} is not exported to GGUF",
                place=place,
                hint=_ELSEWHERE,
            )
        return {"rope_freqs.weight": self._llama3_factors()}

    def _llama3_factors(self) -> Tensor:
        """Return the divisors of the frequencies, ``[head_dim / 2]``.

        Source: ``generate_extra_tensors`` in ``conversion/llama.py``.
        """
        half = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim
        wavelengths = 2 * math.pi * self._rope("rope_theta", 10000.0) ** half
        factor, low, high = (
            self._rope(key, default)
            for key, default in (
                ("factor", 8.0),
                ("low_freq_factor", 1.0),
                ("high_freq_factor", 4.0),
            )
        )
        length = self._rope("original_max_position_embeddings", 8192)
        smooth = (length / wavelengths - low) / (high - low)
        factors = 1 / ((1 - smooth) / factor + smooth)
        factors = torch.where(wavelengths < length / high, 1.0, factors)
        return torch.where(wavelengths > length / low, factor, factors)

    def _rope(self, key: str, default: Any) -> Any:
        parameters = getattr(self.config, "rope_parameters", None) or {}
        return parameters.get(key, default)
